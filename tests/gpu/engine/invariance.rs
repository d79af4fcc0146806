//! A result depends on its own input alone, bit for bit: not on the other inputs, their order, the token
//! budget, the lane, nor what else is loaded.

use std::path::Path;

use model_maker::{Family, ModelSpec};
use ropeway::{Embed, Embedding, Encoding, Engine, Precision, Request};

use super::device::{Gpu, bits, jina, spec};
use crate::common::requests::{Random, mixed_options, mixed_requests};
use crate::common::{self, Scratch};
use crate::{exhaustive, for_each_seed};

/// As others mix them, and two encodings.
fn options() -> Vec<Embed> {
    let mut options = mixed_options();
    options.push(Embed::task("retrieval.passage").encoding(Encoding::Int8));
    options.push(Embed::mixture([("text-matching", 0.25)]).encoding(Encoding::F16));
    options
}

fn embed(engine: &Engine, requests: &[Request<'_>]) -> Vec<Embedding> {
    engine
        .embed_batch(requests)
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

/// Panics with the number of the first request whose bits are others.
#[track_caller]
fn same(got: &[Embedding], want: &[Embedding], what: &str) {
    assert_eq!(got.len(), want.len());
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(bits(got) == bits(want), "{what}: input {index} has other bits");
    }
}

/// Every request alone, and all of them in every other company.
fn check(gpu: Gpu, model: &Path, precision: Precision, lengths: &[usize]) {
    let engine = gpu.builder().precision(precision).open(model).unwrap();
    let options = options();
    let requests = mixed_requests(&options, lengths);
    let alone: Vec<Embedding> = requests
        .iter()
        .flat_map(|r| embed(&engine, std::slice::from_ref(r)))
        .collect();
    same(&embed(&engine, &requests), &alone, "together");

    let reversed: Vec<Request<'_>> = requests.iter().rev().cloned().collect();
    let mut turned = embed(&engine, &reversed);
    turned.reverse();
    same(&turned, &alone, "in the other order");

    // Cut into passes of other sizes, and each on the lane that is free.
    for batch_tokens in if exhaustive() { &[48, 1, 100][..] } else { &[48] } {
        let builder = gpu.builder().precision(precision).batch_tokens(*batch_tokens);
        let other = builder.threads(2).concurrency(2).open(model).unwrap();
        let (straight, mut turned) = std::thread::scope(|scope| {
            let turned = scope.spawn(|| embed(&other, &reversed));
            (embed(&other, &requests), turned.join().unwrap())
        });
        turned.reverse();
        same(&straight, &alone, &format!("{batch_tokens} tokens at a time"));
        same(
            &turned,
            &alone,
            &format!("{batch_tokens} tokens at a time, at the same time in the other order"),
        );
    }

    // Adapters that were added, used and dropped, so that columns of the down-projections are others'.
    let folders = [
        &["q_proj", "fc1"][..],
        &["v_proj", "fc2", "word_embeddings"],
        &["o_proj", "k_proj"],
    ]
    .map(|targets| Scratch::adapter(model, targets));
    for (folder, name) in folders.iter().zip(["a", "b", "c"]) {
        engine.add_adapter(name, folder.path()).unwrap();
    }
    let theirs = [Embed::task("b"), Embed::mixture([("a", 1.0), ("c", -2.0)])];
    let theirs = mixed_requests(&theirs, &[12, 40]);
    let theirs_alone: Vec<Embedding> = theirs
        .iter()
        .flat_map(|r| embed(&engine, std::slice::from_ref(r)))
        .collect();
    let everything: Vec<Request<'_>> = theirs.iter().chain(&requests).cloned().collect();
    let results = embed(&engine, &everything);
    same(&results[..2], &theirs_alone, "of the added adapters, in company");
    same(&results[2..], &alone, "in company of the added adapters");
    engine.remove_adapter("a").unwrap();
    same(
        &embed(&engine, &theirs[..1]),
        &theirs_alone[..1],
        "after another adapter was dropped",
    );
    engine.remove_adapter("b").unwrap();
    engine.remove_adapter("c").unwrap();
    same(
        &embed(&engine, &requests),
        &alone,
        "after the adapters were dropped",
    );
}

/// Both of attention's tiles, three of the products', two buckets and more.
const LENGTHS: [usize; 10] = [1, 33, 7, 70, 16, 65, 2, 5, 9, 17];

#[test]
fn heads_of_64() {
    let Some(gpu) = Gpu::find() else { return };
    let lengths = if gpu.is_first() {
        &LENGTHS[..]
    } else {
        &[1, 33, 7, 70, 16]
    };
    check(gpu, &jina(64), Precision::Bf16, lengths);
}

#[test]
fn heads_of_32() {
    let Some(gpu) = Gpu::find().filter(|gpu| gpu.is_first()) else {
        return;
    };
    check(gpu, &jina(32), Precision::F16, &LENGTHS);
}

#[test]
fn heads_of_128() {
    let Some(gpu) = Gpu::find().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let model = common::model(&ModelSpec {
        layers: 1,
        ..spec(128)
    });
    check(gpu, &model, Precision::Bf16, &LENGTHS);
}

/// So many rows and columns that the products take their largest tiles, which no input alone does.
#[test]
fn the_largest_tiles() {
    let Some(gpu) = Gpu::find().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let model = common::model(&ModelSpec {
        hidden: 64,
        heads: 1,
        ffn: 4096,
        layers: 1,
        ..spec(64)
    });
    let engine = gpu.open(&model);
    let options = [
        Embed::task("separation"),
        Embed::default(),
        Embed::task("retrieval.query"),
    ];
    let requests = mixed_requests(&options, &[300, 20, 250, 64, 1, 9]);
    let together = embed(&engine, &requests);
    for index in [0, 1, 4] {
        let alone = embed(&engine, std::slice::from_ref(&requests[index]));
        same(&alone, &together[index..=index], "alone");
    }
}

/// Random lengths and options, of all families.
#[test]
fn random_batches() {
    let Some(gpu) = Gpu::find() else { return };
    for_each_seed(2, 40, |seed| {
        let mut random = Random(seed);
        let family = [Family::Bert, Family::XlmRoberta, Family::Jina][seed as usize % 3];
        let head_dim = [32, 64, 128][random.below(3)];
        let precision = [Precision::Bf16, Precision::F16][random.below(2)];
        let model = common::model(&ModelSpec {
            family,
            seed,
            layers: 1,
            ..spec(head_dim)
        });
        let engine = gpu.builder().precision(precision).open(&model).unwrap();
        let options = match family {
            Family::Jina => options(),
            _ => vec![
                Embed::default(),
                Embed::default()
                    .normalize(false)
                    .dimensions(40)
                    .any_dimensions(true),
            ],
        };
        let lengths: Vec<usize> = (0..2 + random.below(8)).map(|_| 1 + random.below(120)).collect();
        let requests = mixed_requests(&options, &lengths);
        let together = embed(&engine, &requests);
        let some = random.below(requests.len());
        let alone = embed(&engine, std::slice::from_ref(&requests[some]));
        same(
            &alone,
            &together[some..=some],
            &format!("seed {seed}, input {some} alone"),
        );
    });
}
