//! The kernels for compute capability 9.0: the same bits as those for all GPUs, and what an engine says where it cannot
//! run them.

use std::path::{Path, PathBuf};

use model_maker::{Family, ModelSpec};
use ropeway::{Embed, Embedding, Error, KernelChoice, Precision};

use super::device::{Gpu, fingerprint, jina};
use crate::common;
use crate::common::requests::{mixed_options, mixed_requests};

/// Results of mixed requests whose pass has more tokens than the smallest tile has rows, and the plan of the kernels.
fn embed(
    gpu: Gpu,
    model: &Path,
    options: &[Embed],
    precision: Precision,
    kernels: KernelChoice,
) -> Vec<Embedding> {
    let builder = gpu.builder().precision(precision).kernels(kernels);
    let engine = builder.open(model).unwrap();
    // Many short texts; texts that fill large tiles of attention.
    let batches = [&[3, 60, 71, 1][..], &[100, 90]].map(|lengths| mixed_requests(options, lengths));
    let results = batches.iter().flat_map(|requests| engine.embed_batch(requests));
    results.map(Result::unwrap).collect()
}

/// Whether the device has compute capability 9.0; else what an engine says is checked.
fn has_sm90(gpu: Gpu) -> bool {
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
    for (model, options, precision) in models {
        let [sm80, sm90] = [KernelChoice::Sm80, KernelChoice::Sm90]
            .map(|kernels| fingerprint(&embed(gpu, &model, &options, precision, kernels)));
        assert_eq!(sm90, sm80, "{} in {precision}", model.display());
    }
}
