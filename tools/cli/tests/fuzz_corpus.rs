//! The fuzz target `jsonl`: its committed corpus, and mutations of it.

#[path = "../../../tests/common/mod.rs"]
mod common;
#[path = "fuzz_bodies/jsonl.rs"]
mod jsonl;
#[path = "../../../tests/fuzz_bodies/replay.rs"]
mod replay;

use std::fs;

use replay::{corpus, mutate, replay_and_mutate};

#[test]
fn lines() {
    replay_and_mutate("jsonl", jsonl::body, mutate);
}

/// Writes the corpus anew; inputs that a fuzzer found are left as they are.
#[test]
#[ignore = "writes tools/fuzz/corpus; run it by name"]
fn write_corpus() {
    fs::create_dir_all(corpus("jsonl")).unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(corpus("jsonl").join(name), bytes).unwrap();
    for (name, lines) in [
        (
            "text",
            r#"{"id": "q1", "text": "warm coats", "task": "retrieval.query", "dimensions": 256}"#,
        ),
        (
            "ids",
            r#"{"input_ids": [0, 5, 2], "pooling": "none", "normalize": false, "encoding": "int8"}"#,
        ),
        (
            "mixture",
            r#"{"id": 7, "text": "a", "adapters": {"a": 0.7, "b": 0.3}, "prompt": "p: ", "any_dimensions": true}"#,
        ),
        (
            "spans",
            r#"{"text": "one two", "spans": [[0, 3], [4, 7]], "window": 16, "overlap": 4, "truncate": false}"#,
        ),
        (
            "nulls",
            r#"{"id": null, "text": "x", "task": null, "adapters": null, "spans": null, "dimensions": null}"#,
        ),
        (
            "two",
            "{\"text\": \"caf\\u00e9 \\ud83d\\ude00\"}\n{\"text\": \"b\", \"chunk_tokens\": 5}\n",
        ),
        (
            "output",
            r#"{"id":"a","embedding":[0.5,-1e-3],"tokens":3,"truncated":false}"#,
        ),
        ("failed", r#"{"id":1,"error":"no"}"#),
        ("surrogate", r#"{"text": "\ud800"}"#),
        ("absurd", r#"{"text": "x", "dimensions": 1e18, "id": 1e999}"#),
        ("twice", r#"{"text": "x", "text": "y"}"#),
        ("both", r#"{"text": "x", "input_ids": [1]}"#),
        ("weights", r#"{"text": "x", "adapters": {"a": 1e999, "a": -1}}"#),
        ("unknown", r#"{"text": "x", "colour": "red"}"#),
        ("plain", "not JSON"),
        ("cut", r#"{"text": "x"#),
        ("list", r#"["text", "x"]"#),
        ("empty", ""),
    ] {
        put(name, lines.as_bytes());
    }
    put("deep", "[".repeat(3000).as_bytes());
    put(
        "deep-value",
        format!(r#"{{"text": {}"#, "[".repeat(3000)).as_bytes(),
    );
    put("not-utf8", b"{\"text\": \"\xff\xfe\"}");
}
