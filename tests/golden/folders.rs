//! Folders as people have them, read as sentence-transformers reads them: the same tokens and vectors, or a refusal.

use ropeway::{Device, Embed, Engine, Error, Request, Result};
use serde_json::Value;

use super::common::fixture::{Fixture, folder_of, numbers, values};
use super::max_abs;

/// What the library computes and this engine refuses, with the words of the refusal.
const REFUSED: &[(&str, &str)] = &[(
    "activation of others",
    "activation_function is \"own.activations.Swish\"",
)];

/// Where the refusal is one of each text, which a model's other prompts may do without.
const REFUSED_TEXTS: &[(&str, &str)] = &[(
    "prompt not pooled, weightedmean, bert",
    "behind a prompt that the model leaves out",
)];

fn open(fixture: &Fixture, case: &Value) -> Result<Engine> {
    let folder = folder_of(fixture, case);
    Engine::builder().device(Device::Cpu).open(folder.path())
}

/// The number of tokens of each text, and the vectors, one behind the other.
fn embed(engine: &Engine, case: &Value) -> Result<(Vec<usize>, Vec<f32>)> {
    let options = Embed::default().normalize(true);
    let texts: Vec<&str> = case["texts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t.as_str().unwrap())
        .collect();
    let requests: Vec<Request<'_>> = texts.iter().map(|text| Request::text(*text, &options)).collect();
    let results = engine.embed_batch(&requests);
    let results: Vec<_> = results.into_iter().collect::<Result<_>>()?;
    Ok((
        results.iter().map(|embedding| embedding.tokens).collect(),
        results
            .iter()
            .flat_map(|embedding| values(&embedding.output))
            .collect(),
    ))
}

#[test]
fn folders_are_read_as_sentence_transformers_reads_them() {
    let fixture = Fixture::open("folders");
    let tolerance = fixture.manifest["tolerance"].as_f64().unwrap();
    let mut problems = Vec::new();
    for case in fixture.cases() {
        let name = case["name"].as_str().unwrap();
        let named = |list: &[(&str, &'static str)]| {
            let found = list.iter().find(|(refused, _)| *refused == name);
            found.map(|(_, words)| *words)
        };
        let opened = open(&fixture, case);
        let result = opened.as_ref().ok().map(|engine| embed(engine, case));
        match (opened, result, named(REFUSED), named(REFUSED_TEXTS)) {
            (Err(Error::Model { problem, .. }), _, Some(words), _) if problem.contains(words) => {}
            (_, Some(Err(error @ Error::Request(_))), _, Some(words))
                if error.to_string().contains(words) => {}
            (Ok(_), Some(Ok((tokens, vectors))), None, None) => {
                let error = max_abs(&vectors, &fixture.tensor(&case["expected"]));
                if tokens != numbers(&case["tokens"]) || error > tolerance {
                    problems.push(format!("{name}: {tokens:?} tokens, vectors off by {error:.1e}"));
                }
            }
            (_, Some(Err(error)), ..) | (Err(error), ..) => problems.push(format!("{name}: {error}")),
            (Ok(_), ..) => problems.push(format!("{name}: is not refused")),
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
