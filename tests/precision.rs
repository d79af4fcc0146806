//! The CPU's narrow precisions: as near to the references as their rounding allows, and as independent of everything but
//! their own input as float32 is.

use std::path::{Path, PathBuf};

use model_maker::{Family, ModelSpec};
use ropeway::inspect::{Executor, Side, compare};
use ropeway::{Device, Embed, Embedding, Engine, Output, Precision, Request};
use serde_json::Value;

mod common;

use common::fixture::{Fixture, folder, request, values};
use common::requests::{mixed_options, mixed_requests};

/// Each with the 1 − cosine that is allowed.
const PRECISIONS: [(Precision, f64); 2] = [(Precision::Bf16, 1e-4), (Precision::Int8, 1e-3)];

fn open(path: &Path, precision: Precision) -> Engine {
    let builder = Engine::builder().device(Device::Cpu).precision(precision);
    let engine = builder.open(path).unwrap();
    assert_eq!(engine.precision(), precision);
    println!("{}", engine.device_name());
    engine
}

/// A small model, written once per name.
fn model(name: &str, change: impl FnOnce(&mut ModelSpec)) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("precision-{name}"));
    let mut spec = ModelSpec {
        vocab: 700,
        hidden: 128,
        layers: 3,
        heads: 2,
        ffn: 256,
        max_positions: 600,
        force: true,
        ..ModelSpec::new(Family::Jina)
    };
    change(&mut spec);
    model_maker::write(&spec, &folder).unwrap();
    folder
}

/// One minus the cosine of the rows that are furthest apart, from their difference: that keeps its digits.
fn off(got: &[f32], want: &[f32], width: usize) -> f64 {
    assert_eq!(got.len(), want.len());
    let length = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let row = |(got, want): (&[f32], &[f32])| {
        let numbers = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| x.into()).collect() };
        let (got, want) = (numbers(got), numbers(want));
        let (a, b) = (
            length(&mut got.iter().copied()),
            length(&mut want.iter().copied()),
        );
        let apart = length(&mut got.iter().zip(&want).map(|(x, y)| x / a - y / b));
        let off = apart * apart / 2.0;
        if off.is_nan() { f64::INFINITY } else { off }
    };
    got.chunks(width)
        .zip(want.chunks(width))
        .map(row)
        .fold(0.0, f64::max)
}

fn width(output: &Output) -> usize {
    match output {
        Output::Vector(vector) => vector.as_f32().unwrap().len(),
        Output::Tokens(rows) => rows[0].as_f32().unwrap().len(),
        Output::Chunks(chunks) => chunks[0].vector.as_f32().unwrap().len(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn golden_fixtures() {
    for (name, fixture) in [
        ("jina-hub", "jina"),
        ("jina-native", "jina"),
        ("bert", "bert"),
        ("xlm-roberta", "xlm-roberta"),
    ] {
        let fixture = Fixture::open(fixture);
        for (precision, allowed) in PRECISIONS {
            let engine = open(&folder().join(name), precision);
            if let "bert" | "xlm-roberta" = name {
                let adapter = folder().join(name).join("user");
                engine.add_adapter("user", adapter).unwrap();
            }
            let requests: Vec<Request<'_>> =
                fixture.cases().iter().map(|case| request(case, false)).collect();
            let mut worst = 0f64;
            for (case, result) in fixture.cases().iter().zip(engine.embed_batch(&requests)) {
                let output = result.unwrap().output;
                let off = off(
                    &values(&output),
                    &fixture.tensor(&case["expected"]),
                    width(&output),
                );
                assert!(
                    off <= allowed,
                    "{name} in {precision}, {}: off by {off:.1e}",
                    case["name"]
                );
                worst = worst.max(off);
            }
            println!("{name} in {precision}: 1 - cosine is {worst:.1e} at most, allowed {allowed:.0e}");
        }
    }
}

/// The folder of all-MiniLM-L6-v2; a word where there is none.
fn minilm_folder() -> Option<PathBuf> {
    let path = std::env::var_os("ROPEWAY_MINILM").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("models/all-MiniLM-L6-v2"),
        PathBuf::from,
    );
    if !path.exists() {
        println!(
            "SKIPPED: there is no {}; tools/fetch-model minilm gets it",
            path.display()
        );
        return None;
    }
    Some(path)
}

#[test]
fn minilm() {
    let Some(path) = minilm_folder() else { return };
    let fixture = Fixture::open("minilm");
    let rows = fixture.tensor(&fixture.manifest["expected"]);
    let text = |case: &Value| case["text"].as_str().unwrap().to_owned();
    let texts: Vec<String> = fixture.cases().iter().map(text).collect();
    for (precision, allowed) in PRECISIONS {
        let engine = open(&path, precision);
        let mut worst = 0f64;
        for (case, result) in fixture
            .cases()
            .iter()
            .zip(engine.embed(&texts, &Embed::default()).unwrap())
        {
            let row = case["row"].as_u64().unwrap() as usize;
            let off = off(result.as_f32().unwrap(), &rows[row * 384..][..384], 384);
            assert!(off <= allowed, "{}: off by {off:.1e}", case["name"]);
            worst = worst.max(off);
        }
        println!("MiniLM in {precision}: 1 - cosine is {worst:.1e} at most, allowed {allowed:.0e}");
    }
}

/// Lines of this repository's documents: texts that somebody wrote.
fn passages(count: usize) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"]
        .map(|file| std::fs::read_to_string(root.join(file)).unwrap())
        .concat();
    let prose = text.lines().filter(|line| line.len() > 80);
    let passages: Vec<String> = prose.take(count).map(str::to_owned).collect();
    assert_eq!(passages.len(), count, "the documents have too few lines");
    passages
}

/// The place of each in the order of the numbers.
fn ranks(numbers: &[f32]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by(|&a, &b| numbers[a].total_cmp(&numbers[b]));
    let mut ranks = vec![0.0; numbers.len()];
    for (rank, i) in order.into_iter().enumerate() {
        ranks[i] = rank as f64;
    }
    ranks
}

/// Spearman's coefficient of two rankings without ties.
fn spearman(a: &[f32], b: &[f32]) -> f64 {
    let n = a.len() as f64;
    let apart = ranks(a).into_iter().zip(ranks(b));
    let sum: f64 = apart.map(|(a, b)| (a - b) * (a - b)).sum();
    1.0 - 6.0 * sum / (n * (n * n - 1.0))
}

#[test]
fn the_order_of_a_ranked_list_is_kept() {
    assert_eq!(spearman(&[1.0, 2.0, 3.0], &[5.0, 6.0, 7.0]), 1.0);
    assert_eq!(spearman(&[1.0, 2.0, 3.0], &[7.0, 6.0, 5.0]), -1.0);
    let Some(path) = minilm_folder() else { return };
    let mut texts = passages(200);
    texts.push("how do I run the tests on a machine with a GPU?".into());
    let scores = |precision| -> Vec<f32> {
        let vectors = open(&path, precision).embed(&texts, &Embed::default()).unwrap();
        let rows: Vec<&[f32]> = vectors.iter().map(|vector| vector.as_f32().unwrap()).collect();
        let (query, rows) = rows.split_last().unwrap();
        let score = |row: &&[f32]| row.iter().zip(*query).map(|(x, y)| x * y).sum();
        rows.iter().map(score).collect()
    };
    let exact = scores(Precision::F32);
    for (precision, _) in PRECISIONS {
        let kept = spearman(&exact, &scores(precision));
        println!("the order of 200 passages in {precision}: Spearman's coefficient to f32 is {kept:.5}");
        assert!(kept >= 0.99, "{precision}: {kept}");
    }
}

/// Every buffer, as the executor leaves it: a step that reads the wrong rounded copy shows in its own result.
#[test]
fn every_step_agrees_with_float64() {
    let options = mixed_options();
    let bert = model("bert", |spec| {
        (spec.family, spec.max_positions) = (Family::Bert, 300)
    });
    let jina = model("steps", |_| {});
    let odd = model("odd", |spec| {
        (spec.hidden, spec.heads, spec.ffn, spec.layers, spec.rank) = (90, 3, 77, 2, 3);
    });
    let fits = |o: &&Embed| o.get_dimensions().is_none();
    let some: Vec<Embed> = options.iter().filter(fits).cloned().collect();
    for (path, options, lengths) in [
        (&jina, &options, &[1, 7, 63, 64, 65, 129, 2, 300, 33][..]),
        (&bert, &vec![Embed::default()], &[1, 5, 31, 100]),
        (&odd, &some, &[1, 9, 40, 3, 17]),
    ] {
        let requests = mixed_requests(options, lengths);
        for (precision, _) in PRECISIONS {
            let engine = open(path, precision);
            let side = |executor| Side {
                engine: &engine,
                executor,
                requests: &requests,
            };
            let mut worst = 0f64;
            for difference in compare(&side(Executor::Device), &side(Executor::Naive)).unwrap() {
                assert!(difference.within(), "{difference}");
                worst = worst.max(difference.relative());
            }
            println!("{precision}: off by {worst:.1e} of the largest number at most");
        }
    }
}

#[test]
fn a_result_depends_on_its_own_input_alone() {
    let path = model("invariance", |_| {});
    for (precision, _) in PRECISIONS {
        let engine = open(&path, precision);
        let options = mixed_options();
        let lengths = [1, 64, 7, 200, 63, 16, 65, 2, 130, 31, 5, 599];
        let requests = mixed_requests(&options, &lengths);
        let all = |engine: &Engine, requests: &[Request<'_>]| -> Vec<Embedding> {
            engine
                .embed_batch(requests)
                .into_iter()
                .map(Result::unwrap)
                .collect()
        };
        let together = all(&engine, &requests);
        let f32 = open(&path, Precision::F32);
        assert_ne!(all(&f32, &requests), together, "{precision} is float32");
        for (request, together) in requests.iter().zip(&together) {
            assert_eq!(&all(&engine, std::slice::from_ref(request))[0], together, "alone");
        }
        let mut reversed = requests.clone();
        reversed.reverse();
        let mut back = all(&engine, &reversed);
        back.reverse();
        assert_eq!(back, together, "in another order");
        for (threads, batch_tokens, lanes) in [(1, 64, 1), (2, 300, 2), (3, 10_000, 1), (5, 1, 3)] {
            let builder = Engine::builder()
                .precision(precision)
                .threads(threads)
                .batch_tokens(batch_tokens)
                .concurrency(lanes);
            let other = builder.device(Device::Cpu).open(&path).unwrap();
            assert_eq!(
                all(&other, &requests),
                together,
                "{threads} threads, {batch_tokens} tokens"
            );
        }
    }
}

/// An adapter is selected, not multiplied by zero: one that makes infinities leaves rows that do not use it alone.
#[test]
fn a_poisoned_adapter_hurts_its_own_rows_alone() {
    let path = model("poisoned", |_| {});
    for (precision, _) in PRECISIONS {
        let engine = open(&path, precision);
        let options = [
            Embed::default(),
            Embed::task("separation"),
            Embed::mixture([("separation", 3e38)]),
        ];
        let requests = mixed_requests(&options, &[40, 9, 77]);
        let results = engine.embed_batch(&requests);
        assert!(results[2].is_err(), "a weight of 3e38 does no harm");
        for (request, result) in requests.iter().zip(results).take(2) {
            let alone = engine
                .embed_batch(std::slice::from_ref(request))
                .remove(0)
                .unwrap();
            assert_eq!(alone, result.unwrap(), "{precision}");
        }
    }
}

#[test]
fn what_the_cpu_has_not_is_refused_with_what_it_has() {
    let path = model("refused", |_| {});
    let builder = || Engine::builder().device(Device::Cpu);
    let error = builder()
        .precision(Precision::F16)
        .open(&path)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("f32, bf16 or int8") && error.contains("not in f16"),
        "{error}"
    );
    let default = builder().open(&path).unwrap();
    assert_eq!(default.precision(), Precision::F32);
    // float32 is the CPU's: who asks for it does not get a GPU's 16 bits.
    let auto = Engine::builder().precision(Precision::F32).open(&path).unwrap();
    assert!(!auto.on_gpu());
    let text = ["the same text"];
    let embed = |engine: &Engine| engine.embed(&text, &Embed::default()).unwrap();
    assert_eq!(embed(&auto), embed(&default));
    let cuda = Engine::builder()
        .device(Device::Cuda(0))
        .precision(Precision::F32);
    let error = cuda.open(&path).unwrap_err().to_string();
    assert!(error.contains("bf16 or f16, not in f32"), "{error}");
    let cuda = Engine::builder()
        .device(Device::Cuda(0))
        .precision(Precision::Int8);
    let error = cuda.open(&path).unwrap_err().to_string();
    assert!(error.contains("bf16 or f16, not in int8"), "{error}");
}
