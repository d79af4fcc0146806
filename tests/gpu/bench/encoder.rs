//! Whole calls.

use ropeway::Engine;
use serde_json::Value;

use super::{check_head, report};
use crate::engine::device::{Gpu, TARGET, jina};

const BATCH_TOKENS: usize = 128;

fn group<'a>(report: &'a Value, group: &str) -> Vec<&'a Value> {
    let rows = report["rows"].as_array().unwrap();
    rows.iter().filter(|row| row["group"] == group).collect()
}

/// The case of each row, with what it was run on.
fn cases<'a>(rows: &[&'a Value]) -> Vec<(&'a str, &'a str)> {
    let text = |value: &'a Value| value.as_str().unwrap();
    rows.iter()
        .map(|row| (text(&row["case"]), text(&row["shape"])))
        .collect()
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is not a number"))
}

/// The names of a row's parts, and their sum. None is negative.
fn parts(row: &Value) -> (Vec<&str>, f64) {
    let parts = row["parts"].as_object().unwrap_or_else(|| panic!("{row}"));
    assert!(parts.values().all(|time| number(time) >= 0.0), "{row}");
    (
        parts.keys().map(String::as_str).collect(),
        parts.values().map(number).sum(),
    )
}

#[test]
fn the_encoders_report_is_whole() {
    let Some(_) = Gpu::find().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let tokens = BATCH_TOKENS.to_string();
    let (report, table) = report(&jina(64), &["encoder", "--quick", "--batch-tokens", &tokens]);
    check_head(&report, &table, "encoder");
    let simulated = report["device"]["simulated"] == true;

    let calls = group(&report, "encoder");
    let (one, four) = ("1 × 9 tokens", "4 of 1…17 tokens, 32 in all");
    assert_eq!(
        cases(&calls),
        [
            ("base", one),
            ("base", four),
            ("adapters mixed", one),
            ("adapters mixed", four)
        ]
    );
    let documents = group(&report, "documents");
    assert_eq!(
        cases(&documents),
        [
            ("late chunking", "1 × 32 tokens, chunks of 8"),
            (
                "late chunking, windows",
                "1 × 48 tokens, 3 windows of 24, 6 shared, chunks of 8"
            )
        ]
    );
    for row in calls.iter().chain(&documents) {
        let per_second = 1e6 * number(&row["parameters"]["tokens"]) / number(&row["micros"]["median"]);
        let off = number(&row["tokens_per_s"]) / per_second - 1.0;
        assert!(off.abs() < 1e-9, "{row}");
        assert!(
            number(&row["tflops"]) > 0.0 && number(&row["fraction_of_bound"]) > 0.0,
            "{row}"
        );
    }

    let latency = group(&report, "latency");
    let (short, long) = ("8 tokens, text in", "16 tokens, text in");
    let (task, merged) = ("retrieval.query, invariant", "retrieval.query merged, fastest");
    assert_eq!(
        cases(&latency),
        [
            ("base, invariant", short),
            (task, short),
            ("base, invariant", long),
            (task, long),
            ("base, fastest", short),
            (merged, short),
            ("base, fastest", long),
            (merged, long),
        ]
    );
    for row in calls.iter().chain(&documents).chain(&latency) {
        let (names, sum) = parts(row);
        assert_eq!(names, ["tokenise", "upload", "device", "download", "rest"]);
        // They are of a call of their own, so that this is about units: one that is wrong is so by a thousand. On a GPU the
        // least may be a first call, with its capture and cold kernels, and so 10 to 40 times as long as a later one.
        let (least, most) = (number(&row["micros"]["min"]), number(&row["micros"]["max"]));
        assert!(sum > least / 300.0 && sum < 30.0 * most, "{row}");
    }

    let startup = group(&report, "startup");
    let [start] = startup[..] else {
        panic!("{startup:?}")
    };
    let (names, sum) = parts(start);
    let order = [
        "process",
        "driver",
        "model",
        "tokenizer",
        "context",
        "kernels",
        "weights",
        "adapters",
        "contexts",
        "first batch",
        "other",
    ];
    assert_eq!(names, order);
    assert!(
        (1e6 * sum - number(&start["micros"]["median"])).abs() < 1.0,
        "{start}"
    );

    let memory = group(&report, "memory");
    let bytes = |case: &str| {
        let row = memory.iter().find(|row| row["case"] == case);
        row.unwrap_or_else(|| panic!("no {case} in {memory:?}"))["bytes"]
            .as_u64()
            .unwrap()
    };
    let builder = Engine::builder().device(TARGET).batch_tokens(BATCH_TOKENS);
    let said = builder.open(jina(64)).unwrap().memory();
    assert_eq!(bytes("weights"), said.weights as u64);
    assert_eq!(bytes("arena"), (said.concurrency * said.arena) as u64);
    assert!(bytes("adapters") > 0);
    let all = bytes("weights") + bytes("arena") + bytes("adapters");
    assert_eq!(bytes("engine"), all);
    let opened = bytes("driver: engine opened");
    // Elsewhere other processes take and free memory too.
    assert!(!simulated || opened >= all, "{memory:?}");
    // What is left beside them is little.
    assert!(!simulated || opened < all + (1 << 20), "{memory:?}");
}
