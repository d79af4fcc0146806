//! Adapters that come and go while others embed, and broken ones.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use model_maker::{AdapterSpec, Dtype};
use ropeway::{Embed, Embedding, Engine, Error, Precision, Request};

use super::device::{Gpu, bits, jina, off, on_cpu};
use crate::common::requests::{ids, mixed_options, mixed_requests};
use crate::common::{Scratch, edit_tensors};

fn adapter(model: &Path, rank: usize, targets: &[&str], seed: u64) -> Scratch {
    let scratch = Scratch::empty();
    let spec = AdapterSpec {
        rank,
        targets: targets.iter().map(|&t| t.into()).collect(),
        seed,
        dtype: Dtype::F32,
        force: true,
        ..AdapterSpec::new(model)
    };
    model_maker::write_adapter(&spec, scratch.path()).unwrap();
    scratch
}

fn one(engine: &Engine, request: &Request<'_>) -> Result<Embedding, Error> {
    engine.embed_batch(std::slice::from_ref(request)).remove(0)
}

#[test]
fn adapters_come_and_go_while_others_embed() {
    let Some(gpu) = Gpu::find().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let model = jina(64);
    let engine = gpu.builder().threads(3).concurrency(3).open(&model).unwrap();
    let input = ids(24, 1);
    let task = Embed::task("classification");
    let steady = Request::ids(input.as_slice(), &task);
    let before = bits(&one(&engine, &steady).unwrap());
    let folder = adapter(
        &model,
        8,
        &["q_proj", "v_proj", "fc1", "fc2", "word_embeddings"],
        1,
    );
    let mine = Embed::task("mine");
    let mine = Request::ids(input.as_slice(), &mine);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let embed_until_then = || {
            let mut calls = 0;
            while !stop.load(Ordering::Relaxed) {
                assert!(
                    bits(&one(&engine, &steady).unwrap()) == before,
                    "call {calls} has other bits"
                );
                calls += 1;
            }
            calls
        };
        let others = [scope.spawn(embed_until_then), scope.spawn(embed_until_then)];
        let churn = || {
            let mut first = None;
            for _ in 0..3 {
                engine.add_adapter("mine", folder.path()).unwrap();
                let got = bits(&one(&engine, &mine).unwrap());
                assert!(got != before);
                assert!(
                    first.get_or_insert_with(|| got.clone()) == &got,
                    "added anew it gives other bits"
                );
                engine.remove_adapter("mine").unwrap();
                assert!(matches!(
                    one(&engine, &mine),
                    Err(Error::Request(_) | Error::Adapter { .. })
                ));
            }
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(churn));
        stop.store(true, Ordering::Relaxed);
        for other in others {
            assert!(other.join().unwrap() > 0);
        }
        outcome.unwrap();
    });
}

/// Ranks beyond what the lanes were made for: their memory grows.
#[test]
fn many_large_adapters_find_room() {
    let Some(gpu) = Gpu::find() else { return };
    let model = jina(64);
    let (engine, cpu) = (gpu.open(&model), on_cpu(&model));
    let options = mixed_options();
    let requests = mixed_requests(&options, &[9, 17, 5]);
    let before: Vec<Embedding> = engine
        .embed_batch(&requests)
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let before_memory = engine.memory();
    for (n, name) in ["a", "b", "c"].into_iter().enumerate() {
        let folder = adapter(&model, 40, &["q_proj", "o_proj", "fc1", "fc2"], n as u64);
        engine.add_adapter(name, folder.path()).unwrap();
        cpu.add_adapter(name, folder.path()).unwrap();
    }
    assert!(engine.memory().arena > before_memory.arena);
    let theirs = Embed::mixture([("a", 0.5), ("b", 1.0), ("c", -0.3), ("separation", 1.0)]);
    let theirs = Request::ids(ids(30, 4), &theirs);
    let (got, want) = (one(&engine, &theirs).unwrap(), one(&cpu, &theirs).unwrap());
    assert!(off(got.as_f32().unwrap(), want.as_f32().unwrap(), 128) <= 1e-4);
    for (before, after) in before.iter().zip(engine.embed_batch(&requests)) {
        assert!(bits(before) == bits(&after.unwrap()));
    }
}

/// An adapter whose numbers are no numbers, or too large for the 16-bit type, fails the requests that use it.
/// The others of the same batch do not notice.
#[test]
fn a_broken_adapter_hurts_the_rows_that_use_it_alone() {
    let Some(gpu) = Gpu::find() else { return };
    let model = jina(64);
    let options = mixed_options();
    let good = mixed_requests(&options, &[9, 33, 2, 17]);
    type Break<'a> = (&'a str, Precision, &'a str, f32);
    let breaks: [Break<'_>; 4] = [
        ("A beyond float16", Precision::F16, "q_proj.lora_A", 1e6),
        ("B beyond float16", Precision::F16, "fc2.lora_B", 1e6),
        ("B beyond sums of float32", Precision::Bf16, "fc1.lora_B", 3e38),
        ("A beyond sums of float32", Precision::Bf16, "o_proj.lora_A", 3e38),
    ];
    for (what, precision, tensor, value) in breaks {
        let engine = gpu.builder().precision(precision).open(&model).unwrap();
        let before: Vec<Embedding> = engine
            .embed_batch(&good)
            .into_iter()
            .map(Result::unwrap)
            .collect();
        let folder = adapter(&model, 2, &["q_proj", "o_proj", "fc1", "fc2"], 1);
        edit_tensors(&folder.path().join("adapter_model.safetensors"), |tensors| {
            let mut broken = 0;
            for (name, tensor_of) in tensors.iter_mut().filter(|(name, _)| name.contains(tensor)) {
                let numbers = tensor_of.shape.iter().product();
                assert!(name.contains("lora"));
                for index in 0..numbers {
                    tensor_of.set(index, if index % 2 == 0 { value } else { -value });
                }
                broken += 1;
            }
            assert!(broken > 0, "no tensor {tensor}");
        });
        if let Err(refused) = engine.add_adapter("broken", folder.path()) {
            // To refuse it with a word is as good.
            assert!(
                matches!(refused, Error::Tensor { .. } | Error::Adapter { .. }),
                "{what}: {refused}"
            );
            continue;
        }
        let (broken, mixture) = (
            Embed::task("broken"),
            Embed::mixture([("separation", 1.0), ("broken", 0.5)]),
        );
        let mut requests = good.clone();
        requests.insert(1, Request::ids(ids(21, 5), &broken));
        requests.push(Request::ids(ids(6, 6), &mixture));
        let results = engine.embed_batch(&requests);
        for bad in [&results[1], &results[good.len() + 1]] {
            let text = bad.as_ref().expect_err(what).to_string();
            assert!(text.contains("not finite"), "{what}: {text}");
        }
        let others = [0, 2, 3, 4].map(|index| results[index].as_ref().unwrap());
        for (got, before) in others.into_iter().zip(&before) {
            assert!(
                bits(got) == bits(before),
                "{what}: another request has other bits"
            );
        }
        // And without it, everything as before.
        engine.remove_adapter("broken").unwrap();
        for (before, after) in before.iter().zip(engine.embed_batch(&good)) {
            assert!(bits(before) == bits(&after.unwrap()), "{what}: afterwards");
        }
    }
}
