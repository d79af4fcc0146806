//! Folders as people have them, read as sentence-transformers reads them: the same tokens and vectors, or a refusal.

use std::fs;

use ropeway::{Device, Embed, Engine, Error, Request, Result};
use serde_json::Value;

use super::common::fixture::{Fixture, folder, numbers, values};
use super::common::{Scratch, copy_folder, set_key};
use super::max_abs;

/// What the library computes and this engine refuses, with the words of the refusal.
const REFUSED: &[(&str, &str)] = &[
    ("pooling max, old", "pooling mode max is"),
    (
        "pooling mean_sqrt_len_tokens, old",
        "pooling mode mean_sqrt_len_tokens is",
    ),
    ("pooling weightedmean, old", "pooling mode weightedmean is"),
    ("pooling max", "pooling mode max is"),
    (
        "pooling mean_sqrt_len_tokens",
        "pooling mode mean_sqrt_len_tokens is",
    ),
    ("pooling weightedmean", "pooling mode weightedmean is"),
    ("two poolings, old", "mean and cls together"),
    ("two poolings", "mean and cls together"),
];

/// The folder of a case: its base with other files.
fn folder_of(case: &Value) -> Scratch {
    let scratch = Scratch::empty();
    copy_folder(&folder().join(case["base"].as_str().unwrap()), scratch.path());
    for (name, content) in case["files"].as_object().unwrap() {
        let path = scratch.path().join(name);
        match content {
            Value::Null => fs::remove_file(path).unwrap(),
            Value::Object(keys) if ["config.json", "tokenizer_config.json"].contains(&name.as_str()) => {
                keys.iter()
                    .for_each(|(key, value)| set_key(&path, key, value.clone()));
            }
            content => fs::write(path, content.to_string()).unwrap(),
        }
    }
    scratch
}

fn open(case: &Value, device: Device) -> Result<Engine> {
    Engine::builder().device(device).open(folder_of(case).path())
}

/// The number of tokens of each text, and the vectors, one behind the other.
fn embed(engine: &Engine, case: &Value) -> (Vec<usize>, Vec<f32>) {
    let options = Embed::default().normalize(true);
    let texts: Vec<&str> = case["texts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t.as_str().unwrap())
        .collect();
    let requests: Vec<Request<'_>> = texts.iter().map(|text| Request::text(*text, &options)).collect();
    let results = engine.embed_batch(&requests);
    let results: Vec<_> = results.into_iter().map(Result::unwrap).collect();
    (
        results.iter().map(|embedding| embedding.tokens).collect(),
        results
            .iter()
            .flat_map(|embedding| values(&embedding.output))
            .collect(),
    )
}

#[test]
fn folders_are_read_as_sentence_transformers_reads_them() {
    let fixture = Fixture::open("folders");
    let tolerance = fixture.manifest["tolerance"].as_f64().unwrap();
    let mut problems = Vec::new();
    for case in fixture.cases() {
        let name = case["name"].as_str().unwrap();
        let refusal = REFUSED.iter().find(|(refused, _)| *refused == name);
        match (open(case, Device::Cpu), refusal) {
            (Err(Error::Model { problem, .. }), Some((_, words))) if problem.contains(words) => {}
            (Ok(engine), None) => {
                let (tokens, vectors) = embed(&engine, case);
                let error = max_abs(&vectors, &fixture.tensor(&case["expected"]));
                if tokens != numbers(&case["tokens"]) || error > tolerance {
                    problems.push(format!("{name}: {tokens:?} tokens, vectors off by {error:.1e}"));
                }
            }
            (Ok(_), Some(_)) => problems.push(format!("{name}: is not refused")),
            (Err(error), _) => problems.push(format!("{name}: {error}")),
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
