//! Agreement with reference implementations, on the fixtures of `tests/golden`: what
//! `tests/golden.rs` checks on the CPU to float32's rounding, to that of 16-bit numbers.

use std::path::PathBuf;

use ropeway::{AdapterSelection, Embed, Encoding, Engine, Output, Precision, Request, Vector};
use serde_json::Value;

use super::device::{Gpu, off};
use crate::common::fixture::{Fixture, folder, folder_of, numbers, request, values};
use crate::common::paths;
use crate::exhaustive;

/// One minus the cosine that is allowed. float16 has three bits more: an eighth of the rounding, and so a
/// 64th of this.
fn bar(precision: Precision) -> f64 {
    match precision {
        Precision::Bf16 => 1e-4,
        Precision::F16 => 1e-4 / 64.0,
        other => panic!("{other} has no bar"),
    }
}

/// Without everything wanted, the cases that take long stay out, but for one of each kind on one device.
fn wanted(gpu: Gpu, case: &Value) -> bool {
    let name = case["name"].as_str().unwrap();
    let long = [
        "retrieval.query/512",
        "classification/1030",
        "chunks/700/windows",
        "chunks/300/dimensions-64",
    ];
    let short = if gpu.is_first() { 66 } else { 33 };
    exhaustive() || numbers(&case["ids"]).len() <= short || gpu.is_first() && long.contains(&name)
}

/// How far a result is from a case's expected numbers.
fn off_case(fixture: &Fixture, case: &Value, output: &Output) -> f64 {
    let width = match output {
        Output::Vector(vector) => vector.as_f32().unwrap().len(),
        Output::Tokens(rows) => rows[0].as_f32().unwrap().len(),
        Output::Chunks(chunks) => chunks[0].vector.as_f32().unwrap().len(),
        other => panic!("{other:?}"),
    };
    off(&values(output), &fixture.tensor(&case["expected"]), width)
}

/// Runs the wanted cases in one call, by their ids or their texts.
fn check(name: &str, fixture: &Fixture, engine: &Engine, cases: &[&Value], by_text: bool, bar: f64) {
    assert!(!cases.is_empty());
    let requests: Vec<Request<'_>> = cases.iter().map(|case| request(case, by_text)).collect();
    let mut worst = 0f64;
    for (case, result) in cases.iter().zip(engine.embed_batch(&requests)) {
        let result = result.unwrap_or_else(|e| panic!("{name} {}: {e}", case["name"]));
        if by_text {
            assert_eq!(
                result.tokens,
                numbers(&case["ids"]).len(),
                "{name} {}",
                case["name"]
            );
        }
        let off = off_case(fixture, case, &result.output);
        assert!(
            off <= bar,
            "{name} {}: off by {off:.1e}, allowed {bar:.1e}",
            case["name"]
        );
        worst = worst.max(off);
    }
    println!(
        "{name}: {} cases, 1 - cosine is {worst:.1e} at most, allowed {bar:.1e}",
        cases.len()
    );
}

fn open(gpu: Gpu, name: &str, precision: Precision) -> Engine {
    let engine = gpu
        .builder()
        .precision(precision)
        .open(folder().join(name))
        .unwrap();
    if let "bert" | "xlm-roberta" = name {
        engine
            .add_adapter("user", folder().join(name).join("user"))
            .unwrap();
    }
    engine
}

fn check_fixture(model: &str, fixture: &str, precision: Precision, wanted: impl Fn(Gpu, &Value) -> bool) {
    let Some(gpu) = Gpu::find() else { return };
    let engine = open(gpu, model, precision);
    let fixture = Fixture::open(fixture);
    let cases: Vec<&Value> = fixture.cases().iter().filter(|case| wanted(gpu, case)).collect();
    check(
        &format!("{model} in {precision}"),
        &fixture,
        &engine,
        &cases,
        false,
        bar(precision),
    );
}

#[test]
fn jina_in_the_hub_layout() {
    check_fixture("jina-hub", "jina", Precision::Bf16, wanted);
}

#[test]
fn jina_in_the_transformers_layout_in_f16() {
    // The weights are the other layout's: a length for each task and mixture will do.
    let some = |gpu: Gpu, case: &Value| {
        let name = case["name"].as_str().unwrap();
        wanted(gpu, case)
            && (exhaustive() || name.ends_with("/65") || !name.contains('.') && name.ends_with("/7"))
    };
    check_fixture("jina-native", "jina", Precision::F16, some);
}

#[test]
fn bert_and_xlm_roberta_with_a_users_adapter() {
    for name in ["bert", "xlm-roberta"] {
        check_fixture(name, name, Precision::Bf16, wanted);
        check_fixture(name, name, Precision::F16, wanted);
    }
}

#[test]
fn texts_give_the_reference_vectors() {
    let Some(gpu) = Gpu::find().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let fixture = Fixture::open("jina");
    let cases: Vec<&Value> = fixture
        .cases()
        .iter()
        .filter(|case| case["text"].is_string())
        .collect();
    let some = if exhaustive() { cases.len() } else { 6 };
    for (layout, precision) in [("jina-hub", Precision::F16), ("jina-native", Precision::Bf16)] {
        let engine = open(gpu, layout, precision);
        check(layout, &fixture, &engine, &cases[..some], true, bar(precision));
    }
}

/// What is allowed would not hide a mistake: the least that each moves a result by is a hundred times as much.
#[test]
fn mistakes_made_on_purpose_are_seen() {
    let Some(gpu) = Gpu::find() else { return };
    let fixture = Fixture::open("jina");
    let engine = open(gpu, "jina-hub", Precision::Bf16);
    let tasks: Vec<String> = engine
        .config()
        .task_names()
        .into_iter()
        .map(str::to_owned)
        .collect();
    let next = |task: &str| tasks[(tasks.iter().position(|t| t == task).unwrap() + 1) % tasks.len()].clone();
    let cases: Vec<&Value> = fixture
        .cases()
        .iter()
        .filter(|case| {
            case["task"].is_string()
                && case["pooling"] == "mean"
                && case["name"].as_str().unwrap().ends_with("/7")
        })
        .collect();
    assert_eq!(cases.len(), 5);
    type Mistake<'a> = (&'a str, &'a dyn Fn(&str) -> AdapterSelection);
    let mistakes: [Mistake<'_>; 2] = [
        ("the next task", &|task| AdapterSelection::Task(next(task))),
        ("no adapter", &|_| AdapterSelection::Base),
    ];
    for (mistake, make) in mistakes {
        let wrong = |case: &&Value| {
            let Request { input, options, .. } = request(case, false);
            let adapters = make(case["task"].as_str().unwrap());
            Request::new(input, options.into_owned().adapters(adapters))
        };
        let requests: Vec<Request<'_>> = cases.iter().map(wrong).collect();
        for (case, result) in cases.iter().zip(engine.embed_batch(&requests)) {
            let off = off_case(&fixture, case, &result.unwrap().output);
            assert!(
                off > 100.0 * bar(Precision::Bf16),
                "{mistake} for {}: {off:.1e}",
                case["name"]
            );
        }
    }
}

/// Poolings that the kernel computes, and modules after pooling, which the host does.
#[test]
fn folders_are_read_as_sentence_transformers_reads_them() {
    let Some(gpu) = Gpu::find().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let fixture = Fixture::open("folders");
    let some = [
        "pooling max",
        "pooling mean_sqrt_len_tokens",
        "pooling weightedmean",
        "pooling lasttoken",
        "two poolings, old",
        "dense after two poolings",
        "normalised, dense, layer norm",
        "lower case",
        "prompt not pooled, mean, bert",
        "transformer in a folder, in shards",
    ];
    let wanted = |case: &&Value| exhaustive() || some.iter().any(|name| case["name"] == *name);
    let cases: Vec<&Value> = fixture.cases().iter().filter(wanted).collect();
    assert!(cases.len() >= some.len());
    for case in cases {
        let Ok(engine) = gpu.builder().open(folder_of(&fixture, case).path()) else {
            continue; // What is refused is so on the CPU.
        };
        let texts: Vec<&str> = case["texts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|text| text.as_str().unwrap())
            .filter(|text| exhaustive() || text.len() < 100)
            .collect();
        let Ok(results) = engine.embed(&texts, &Embed::default().normalize(true)) else {
            continue;
        };
        let expected = fixture.tensor(&case["expected"]);
        let width = engine.config().embedding_size();
        // Weights and activations of 16 bits, and sums of unlike signs in a dense layer, which lose more.
        let bar = bar(Precision::Bf16) * if engine.config().head.is_empty() { 1.0 } else { 4.0 };
        for ((text, result), row) in
            case["texts"]
                .as_array()
                .unwrap()
                .iter()
                .zip(0..)
                .filter_map(|(text, row)| {
                    let at = texts.iter().position(|wanted| text == *wanted)?;
                    Some(((text, &results[at]), row))
                })
        {
            let off = off(
                result.as_f32().unwrap(),
                &expected[row * width..(row + 1) * width],
                width,
            );
            assert!(off <= bar, "{} of {text}: off by {off:.1e}", case["name"]);
        }
    }
}

/// The device encodes; the same as the host makes of the device's float32.
#[test]
fn every_encoding_is_that_of_the_float32_numbers() {
    let Some(gpu) = Gpu::find().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let engine = open(gpu, "jina-hub", Precision::Bf16);
    let encodings = [Encoding::F16, Encoding::Int8, Encoding::Binary, Encoding::Base64];
    let ids: Vec<u32> = (0..40).map(|i| 5 + 17 * i % 900).collect();
    for dimensions in [32, 64, 128] {
        let plain = Embed::task("separation").dimensions(dimensions);
        let options: Vec<Embed> = [Encoding::F32]
            .into_iter()
            .chain(encodings)
            .map(|encoding| plain.clone().encoding(encoding))
            .collect();
        let requests: Vec<Request<'_>> = options.iter().map(|o| Request::ids(ids.as_slice(), o)).collect();
        let results: Vec<_> = engine
            .embed_batch(&requests)
            .into_iter()
            .map(Result::unwrap)
            .collect();
        let f32s = results[0].as_f32().unwrap();
        assert_eq!(f32s.len(), dimensions);
        for (encoding, result) in encodings.into_iter().zip(&results[1..]) {
            let want = Output::Vector(Vector::encode(f32s, encoding));
            assert_eq!(result.output, want, "{encoding:?}, {dimensions} dimensions");
        }
    }
}

#[test]
fn minilm_agrees_with_sentence_transformers() {
    let Some(gpu) = Gpu::find().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let required = std::env::var_os("ROPEWAY_MINILM").map(PathBuf::from);
    let default = paths::root().join("models/all-MiniLM-L6-v2");
    let path = required.clone().unwrap_or(default);
    if required.is_none() && !path.exists() {
        eprintln!(
            "SKIPPED: there is no {}; tools/fetch-model minilm gets it",
            path.display()
        );
        return;
    }
    let fixture = Fixture::open("minilm");
    let rows = fixture.tensor(&fixture.manifest["expected"]);
    // A real model's 20 MFLOP per token: short texts, unless all are wanted.
    let short = |case: &&Value| exhaustive() || numbers(&case["ids"]).len() <= 12;
    let cases: Vec<&Value> = fixture.cases().iter().filter(short).collect();
    assert!(cases.len() >= 3);
    let texts: Vec<&str> = cases.iter().map(|case| case["text"].as_str().unwrap()).collect();
    let precisions = [Precision::Bf16, Precision::F16];
    for precision in &precisions[..if exhaustive() { 2 } else { 1 }] {
        let engine = gpu.builder().precision(*precision).open(&path).unwrap();
        let mut worst = 0f64;
        for (case, result) in cases.iter().zip(engine.embed(&texts, &Embed::default()).unwrap()) {
            assert_eq!(result.tokens, numbers(&case["ids"]).len(), "{}", case["name"]);
            let row = case["row"].as_u64().unwrap() as usize;
            let off = off(result.as_f32().unwrap(), &rows[row * 384..(row + 1) * 384], 384);
            assert!(
                off <= bar(*precision),
                "{} in {precision}: off by {off:.1e}",
                case["name"]
            );
            worst = worst.max(off);
        }
        println!("MiniLM in {precision}: 1 - cosine is {worst:.1e} at most");
    }
}
