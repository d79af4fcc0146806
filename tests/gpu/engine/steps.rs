//! Every step of a pass against the CPU's float32, and a planted difference, which is found where it begins.

use std::path::Path;

use model_maker::{Dtype, Family, ModelSpec};
use ropeway::inspect::{
    Buffer, Difference, Executor, Fusion, Name, Pass, Rotation, Side, Step, compare, compare_with,
};
use ropeway::{Embed, Engine, Numerics, Precision, Request, Vector};

use super::device::{Gpu, jina, off, on_cpu, spec};
use crate::common::requests::{ids, mixed_options, mixed_requests};
use crate::common::{self, Scratch, edit_tensors};

fn side<'a>(engine: &'a Engine, requests: &'a [Request<'a>]) -> Side<'a> {
    Side {
        engine,
        executor: Executor::Device,
        requests,
    }
}

/// Every step of both, and that all ops are among them. Prints the worst.
#[track_caller]
fn agree(what: &str, cpu: &Engine, gpu: &Engine, requests: &[Request<'_>]) {
    let differences = compare(&side(cpu, requests), &side(gpu, requests)).unwrap();
    check(what, &differences, ["Qkv", "OutProj", "Fc1", "Fc2"]);
}

#[track_caller]
fn check<const N: usize>(what: &str, differences: &[Difference], linear: [&str; N]) {
    let others = [
        "Embed",
        "Attention",
        "AddLayerNorm(Attention)",
        "AddLayerNorm(Mlp)",
        "Pool",
    ];
    for op in others.into_iter().chain(linear) {
        assert!(
            differences.iter().any(|d| d.name.contains(op)),
            "{what}: no step does {op}"
        );
    }
    for difference in differences {
        assert!(difference.within(), "{what}: {difference}");
    }
    let worst = differences
        .iter()
        .max_by(|a, b| a.relative().total_cmp(&b.relative()))
        .unwrap();
    println!("{what}: {} buffers; {worst}", differences.len());
}

#[test]
fn every_step_agrees_with_float32() {
    let Some(gpu) = Gpu::find() else { return };
    let options = mixed_options();
    let requests = mixed_requests(&options, &[1, 7, 33, 65, 2, 16, 12, 130]);
    for (head_dim, precision) in [
        (64, Precision::Bf16),
        (32, Precision::F16),
        (128, Precision::Bf16),
    ] {
        let model = jina(head_dim);
        let engine = gpu.builder().precision(precision).open(&model).unwrap();
        agree(
            &format!("heads of {head_dim}, {precision}"),
            &on_cpu(&model),
            &engine,
            &requests,
        );
    }
}

/// XLM-RoBERTa's padding token.
const PAD: u32 = 1;

#[test]
fn every_step_of_bert_and_xlm_roberta_agrees_with_float32() {
    let Some(gpu) = Gpu::find() else { return };
    let plain = [Embed::default()];
    let mut requests = mixed_requests(&plain, &[1, 9, 64, 100]);
    // The pad token, which XLM-RoBERTa does not count: first, last and in a row.
    let pads = [PAD, 7, PAD, PAD, 8, 9, PAD];
    requests.push(Request::ids(pads.to_vec(), &plain[0]));
    for family in [Family::Bert, Family::XlmRoberta] {
        let model = common::model(&ModelSpec { family, ..spec(64) });
        agree(
            &format!("{family:?}"),
            &on_cpu(&model),
            &gpu.open(&model),
            &requests,
        );
    }
}

/// The sizes of jina-embeddings-v3, one layer of them, all five adapters.
#[test]
fn a_full_size_layer_agrees_with_float32() {
    let Some(gpu) = Gpu::find().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let model = common::model(&ModelSpec {
        vocab: 700,
        layers: 1,
        max_positions: 64,
        ..ModelSpec::new(Family::Jina)
    });
    let names = [
        "retrieval.query",
        "retrieval.passage",
        "separation",
        "classification",
        "text-matching",
    ];
    let mut options: Vec<Embed> = names.into_iter().map(Embed::task).collect();
    options.push(Embed::mixture([("separation", 0.6), ("text-matching", 0.4)]));
    options.push(Embed::default());
    let requests = mixed_requests(&options, &[20, 13, 11, 9, 6, 4, 1]);
    let engine = gpu.builder().batch_tokens(64).open(&model).unwrap();
    agree(
        "a layer of jina-embeddings-v3",
        &on_cpu(&model),
        &engine,
        &requests,
    );
}

/// Adapters by products of their own, and merged into the weights: other arithmetic, the same vectors.
#[test]
fn other_ways_of_the_adapters_agree_with_float32() {
    let Some(gpu) = Gpu::find() else { return };
    let model = jina(64);
    let cpu = on_cpu(&model);
    let usual = gpu.open(&model);
    let options = mixed_options();
    let requests = mixed_requests(&options, &[9, 20, 33, 2]);
    let (left, right) = (side(&cpu, &requests), side(&usual, &requests));
    let differences = compare_with(&left, &right, Some(Fusion::Separate)).unwrap();
    let linear = [
        "BaseGemm(Qkv)",
        "LoraUp(Qkv)",
        "BaseGemm(OutProj)",
        "LoraUp(OutProj)",
        "BaseGemm(Fc1)",
        "LoraUp(Fc1)",
        "BaseGemm(Fc2)",
        "LoraUp(Fc2)",
    ];
    check("separate adapters", &differences, linear);

    let merging = gpu.builder().merge("separation").numerics(Numerics::Fastest);
    let merged = merging.open(&model).unwrap();
    assert!(merged.memory().weights > usual.memory().weights);
    let task = Embed::task("separation");
    let input = ids(50, 3);
    let alone = [Request::ids(input.as_slice(), &task)];
    let plain = Embed::default();
    let mixed = [
        Request::ids(input.as_slice(), &task),
        Request::ids([5, 6, 7].as_slice(), &plain),
    ];
    let vector = |engine: &Engine, requests: &[Request<'_>]| {
        let result = engine.embed_batch(requests).remove(0).unwrap();
        result.as_f32().unwrap().to_vec()
    };
    let want = vector(&cpu, &alone);
    let merged_alone = vector(&merged, &alone);
    assert!(off(&merged_alone, &want, want.len()) <= 1e-4);
    let (separate, _) = Pass::new(&usual, &alone).unwrap().run(Fusion::Separate).unwrap();
    let [Some(Vector::F32(separate))] = separate.as_slice() else {
        panic!("{separate:?}")
    };
    assert!(off(separate, &want, want.len()) <= 1e-4);
    // The merged copy serves batches of the task alone, and no others.
    assert_ne!(merged_alone, vector(&usual, &alone));
    assert_eq!(vector(&merged, &mixed), vector(&usual, &mixed));
}

/// The buffers of a pass: name, layer and contents.
fn buffers(engine: &Engine, requests: &[Request<'_>]) -> (usize, Vec<(Name, usize, Vec<u32>)>) {
    let pass = Pass::new(engine, requests).unwrap();
    let mut all = Vec::new();
    let mut after = |_: &Step, buffer: &Buffer, values: &[f32]| {
        let bits = values.iter().map(|x| x.to_bits()).collect();
        all.push((buffer.name, buffer.layer, bits));
    };
    pass.trace(&mut after).unwrap();
    (pass.plan().steps.len(), all)
}

/// With up to 16 tokens a LayerNorm and the product that reads it are one launch, and so are a down-projection and its
/// product. Every buffer has the bits that it has beside more tokens, where they are two.
#[test]
fn few_tokens_take_five_launches_a_layer_and_have_the_same_bits() {
    let Some(gpu) = Gpu::find() else { return };
    let plain = [Embed::default()];
    let adapted = [
        Embed::task("retrieval.query"),
        Embed::mixture([("retrieval.query", 0.7), ("separation", 0.3)]),
        Embed::default(),
    ];
    let filler = ids(17, 99);
    let lengths: [&[&[usize]]; 3] = [&[&[1], &[2, 1], &[16]], &[&[7, 5, 4]], &[&[3], &[16]]];
    for (family, hidden, head_dim, precision, lengths) in [
        (Family::Jina, 128, 64, Precision::Bf16, lengths[0]),
        (Family::Jina, 1024, 64, Precision::Bf16, lengths[1]),
        (Family::Bert, 384, 32, Precision::F16, lengths[2]),
        (Family::XlmRoberta, 160, 32, Precision::Bf16, lengths[2]),
    ] {
        let layers = 2;
        let model = common::model(&ModelSpec {
            family,
            hidden,
            heads: hidden / head_dim,
            ffn: 136,
            layers,
            ..spec(64)
        });
        let engine = gpu.builder().precision(precision).open(&model).unwrap();
        for lengths in lengths {
            let ways: &[&[Embed]] = match family {
                Family::Jina => &[&plain, &adapted],
                _ => &[&plain],
            };
            for options in ways {
                let what = format!("{family:?} of {hidden}, {lengths:?}, {} options", options.len());
                let requests = mixed_requests(options, lengths);
                let mut more = requests.clone();
                more.push(Request::ids(filler.as_slice(), &plain[0]));
                let ((few_launches, few), (many_launches, many)) =
                    (buffers(&engine, &requests), buffers(&engine, &more));
                let down = if options.len() > 1 { 2 } else { 0 };
                assert_eq!(few_launches, 1 + 5 * layers + 2, "{what}");
                assert_eq!(many_launches, 1 + (7 + down) * layers + 1, "{what}");
                assert_eq!(few.len(), many.len(), "{what}");
                for (name, layer, bits) in &few {
                    let (.., wanted) = many
                        .iter()
                        .find(|other| (other.0, other.1) == (*name, *layer))
                        .unwrap();
                    let same = bits.iter().zip(wanted).position(|(a, b)| a != b);
                    assert!(
                        bits.len() < wanted.len() && same.is_none(),
                        "{what}: {name:?} of layer {layer} differs at {same:?}"
                    );
                }
            }
        }
    }
}

/// In the fastest class products of up to 16 tokens split a long k, unless they are part of a step: here fc2.
#[test]
fn few_tokens_split_their_sums_in_the_fastest_class_alone() {
    let Some(gpu) = Gpu::find() else { return };
    let (layers, ffn) = (2, 520);
    let model = common::model(&ModelSpec {
        ffn,
        layers,
        ..spec(64)
    });
    let cpu = on_cpu(&model);
    let usual = gpu.open(&model);
    let engine = gpu.builder().numerics(Numerics::Fastest).open(&model).unwrap();
    let plain = [Embed::default()];
    for (lengths, splits) in [
        (&[16][..], true),
        (&[1], true),
        (&[3, 9, 2], true),
        (&[17], false),
    ] {
        let what = format!("{lengths:?}");
        let requests = mixed_requests(&plain, lengths);
        agree(&what, &cpu, &engine, &requests);
        let kernels = |engine: &Engine| -> Vec<(String, usize)> {
            let pass = Pass::new(engine, &requests).unwrap();
            let kinds = pass.time_steps(Rotation::QUICK, |timer| {
                let kinds = (0..timer.kinds()).map(|kind| timer.describe(kind));
                Ok(kinds.map(|info| (info.launch.kernel, info.per_pass)).collect())
            });
            kinds.unwrap()
        };
        let split = ("gemm_bf16_split16".to_owned(), layers);
        assert_eq!(kernels(&engine).contains(&split), splits, "{what}");
        assert!(
            !kernels(&usual).iter().any(|kernel| kernel.0 == split.0),
            "{what}"
        );
    }
}

/// The first buffer that is off.
fn first(differences: &[Difference]) -> &Difference {
    differences
        .iter()
        .find(|d| !d.within())
        .expect("something was planted")
}

#[test]
fn a_planted_difference_is_found_where_it_begins() {
    let Some(gpu) = Gpu::find() else { return };
    let float32 = ModelSpec {
        dtype: Dtype::F32,
        ..spec(64)
    };
    let model = common::model(&float32);
    let cpu = on_cpu(&model);
    let plain = [Embed::default()];
    let requests = mixed_requests(&plain, &[20, 5]);

    // Another task: its adapter begins at the word embeddings.
    let task = [Embed::task("separation")];
    let of_task = mixed_requests(&task, &[20, 5]);
    let engine = gpu.open(&model);
    for (left, right) in [(&requests, &of_task), (&of_task, &requests)] {
        let differences = compare(&side(&cpu, left), &side(&engine, right)).unwrap();
        assert_eq!(first(&differences).step, 0, "{}", first(&differences));
    }

    // Another copy of the model.
    let plant = |tensor: &str, value: f32| {
        let copy = Scratch::model(&float32);
        edit_tensors(&copy.path().join("model.safetensors"), |tensors| {
            let found = tensors.iter_mut().find(|(name, _)| name.ends_with(tensor));
            let (_, tensor) = found.unwrap_or_else(|| panic!("no tensor {tensor}"));
            tensor.set(3, value);
        });
        let engine = gpu.open(copy.path());
        let differences = compare(&side(&cpu, &requests), &side(&engine, &requests)).unwrap();
        first(&differences).clone()
    };
    for (tensor, value, step, buffer) in [
        ("emb_ln.bias", 9.0, "Embed", "layer0.hidden"),
        ("layers.0.mixer.Wqkv.bias", 9.0, "layer 0 Qkv", "layer0.qkv"),
        (
            "layers.0.mixer.out_proj.bias",
            9.0,
            "layer 0 OutProj",
            "layer0.attn_out",
        ),
        (
            "layers.0.norm1.weight",
            9.0,
            "layer 0 AddLayerNorm(Attention)",
            "layer0.attn_residual",
        ),
        ("layers.1.mlp.fc1.bias", 9.0, "layer 1 Fc1", "layer1.activated"),
        ("layers.1.mlp.fc2.bias", 9.0, "layer 1 Fc2", "layer1.mlp_out"),
        (
            "layers.1.norm2.bias",
            9.0,
            "layer 1 AddLayerNorm(Mlp)",
            "layer2.hidden",
        ),
    ] {
        let found = plant(tensor, value);
        assert!(
            found.name.starts_with(step) && found.buffer.starts_with(buffer),
            "{tensor}: {found}"
        );
    }
}

/// An adapter of the queries alone leaves the embeddings as they are: the first difference is its own.
#[test]
fn a_difference_in_an_adapter_is_found_at_its_down_projection() {
    let Some(gpu) = Gpu::find() else { return };
    let model = jina(64);
    let adapter = Scratch::adapter(&model, &["q_proj"]);
    let (cpu, engine) = (on_cpu(&model), gpu.open(&model));
    let add = |engine: &Engine, folder: &Path| engine.add_adapter("mine", folder).unwrap();
    add(&cpu, adapter.path());
    add(&engine, adapter.path());
    let (plain, mine) = ([Embed::default()], [Embed::task("mine")]);
    let (plain, mine) = (mixed_requests(&plain, &[20]), mixed_requests(&mine, &[20]));
    for (left, right) in [(&plain, &mine), (&mine, &plain)] {
        let differences = compare(&side(&cpu, left), &side(&engine, right)).unwrap();
        let found = first(&differences);
        assert!(found.buffer.starts_with("layer0.lora_qkv"), "{found}");
    }
}
