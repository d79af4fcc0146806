//! The kernels for compute capability 9.0: the same bits as those for all GPUs, and what an engine says where it cannot
//! run them.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use model_maker::{Family, ModelSpec};
use ropeway::{Embed, Embedding, Error, KernelChoice, Precision};

use super::device::{Gpu, fingerprint, jina};
use crate::common;
use crate::common::requests::{Random, mixed_options, mixed_requests};
use crate::for_each_seed;

/// Results of batches of mixed requests, which have these lengths.
fn embed(
    gpu: Gpu,
    model: &Path,
    options: &[Embed],
    batches: &[&[usize]],
    precision: Precision,
    kernels: KernelChoice,
) -> Vec<Embedding> {
    let builder = gpu.builder().precision(precision).kernels(kernels);
    let engine = builder.open(model).unwrap();
    let results = batches
        .iter()
        .flat_map(|lengths| engine.embed_batch(&mixed_requests(options, lengths)));
    results.map(Result::unwrap).collect()
}

/// Panics unless both kinds of kernels give the same bits.
fn same(gpu: Gpu, model: &Path, options: &[Embed], batches: &[&[usize]], precision: Precision) {
    let [sm80, sm90] = [KernelChoice::Sm80, KernelChoice::Sm90]
        .map(|kernels| fingerprint(&embed(gpu, model, options, batches, precision, kernels)));
    assert_eq!(sm90, sm80, "{} in {precision}: {batches:?}", model.display());
}

/// Whether the device has compute capability 9.0; else what an engine says is checked.
pub fn has_sm90(gpu: Gpu) -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| find_sm90(gpu))
}

fn find_sm90(gpu: Gpu) -> bool {
    match gpu.builder().kernels(KernelChoice::Sm90).open(jina(64)) {
        Ok(_) => true,
        Err(Error::Device(reason)) => {
            let wanted = "the kernels sm90 are for compute capability 9.0, and the device has 8.";
            assert!(
                reason.contains(wanted) && reason.ends_with("choose auto or sm80"),
                "{reason}"
            );
            false
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn kernels_for_sm90_give_the_bits_of_those_for_all_gpus() {
    let Some(gpu) = Gpu::find() else { return };
    if !has_sm90(gpu) {
        return;
    }
    // Learned positions and heads of 32; RoPE with heads of 64, and of 128.
    let bert = common::model(&ModelSpec {
        vocab: 700,
        hidden: 384,
        layers: 1,
        heads: 12,
        ffn: 136,
        max_positions: 128,
        ..ModelSpec::new(Family::Bert)
    });
    let models: [(PathBuf, Vec<Embed>, Precision); 3] = [
        (jina(64), mixed_options(), Precision::Bf16),
        (jina(128), mixed_options(), Precision::F16),
        (bert, vec![Embed::default()], Precision::Bf16),
    ];
    // More tokens than the smallest tile has rows: many short texts; texts that fill large tiles of attention.
    for (model, options, precision) in models {
        same(gpu, &model, &options, &[&[3, 60, 71, 1], &[100, 90]], precision);
    }
}

/// Any mixture of adapters, in any company.
#[test]
fn random_batches_have_the_bits_of_the_kernels_for_all_gpus() {
    let Some(gpu) = Gpu::find() else { return };
    if !has_sm90(gpu) {
        return;
    }
    for_each_seed(1, 20, |seed| {
        let mut random = Random(seed);
        let head_dim = [32, 64, 128][random.below(3)];
        let precision = [Precision::Bf16, Precision::F16][random.below(2)];
        let mut options = mixed_options();
        let first = random.below(options.len());
        options.rotate_left(first);
        let lengths: Vec<usize> = (0..2 + random.below(6)).map(|_| 40 + random.below(90)).collect();
        same(gpu, &jina(head_dim), &options, &[&lengths], precision);
    });
}
