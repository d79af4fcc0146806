//! Folders as people have them, read as sentence-transformers reads them: the same tokens and vectors, or a refusal.

use std::fs;

use ropeway::{Device, Embed, Engine, Error, ModelConfig, Request, Result};
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

fn case<'a>(fixture: &'a Fixture, name: &str) -> &'a Value {
    let found = fixture.cases().iter().find(|case| case["name"] == name);
    found.unwrap_or_else(|| panic!("{name} is no folder"))
}

/// A line per decision of the name: value, source, the sources that agree, and what was overruled.
fn explained(fixture: &Fixture, folder: &str, name: &str) -> Vec<String> {
    let folder = folder_of(fixture, case(fixture, folder));
    let explanation = ModelConfig::explain(folder.path()).unwrap();
    let decisions = explanation.decisions.iter();
    decisions
        .filter(|decision| decision.name == name)
        .map(|decision| {
            let source = decision
                .source
                .as_ref()
                .map_or("-".to_owned(), |source| source.to_string());
            let agreeing = decision.agreeing.iter();
            let agreeing: String = agreeing.map(|other| format!(" & {other}")).collect();
            let overruled = decision.overruled.iter();
            let overruled: String = overruled
                .map(|other| format!(" | {} = {}", other.source, other.value))
                .collect();
            format!("{} <- {source}{agreeing}{overruled}", decision.value)
        })
        .collect()
}

#[test]
fn decisions_are_explained_by_file_and_key() {
    let fixture = Fixture::open("folders");
    let pooling = "1_Pooling/config.json";
    let table = "config.json: max_position_embeddings = 130";
    for (folder, name, wanted) in [
        (
            "limit of both",
            "longest input",
            format!(
                "40 <- sentence_bert_config.json: max_seq_length | tokenizer_config.json: model_max_length = 20 | {table}"
            ),
        ),
        (
            "limit of the tokenizer, past the positions",
            "longest input",
            "130 <- config.json: max_position_embeddings | tokenizer_config.json: model_max_length = 1000"
                .into(),
        ),
        (
            "limits of two files",
            "longest input",
            format!(
                "50 <- sentence_bert_config.json: max_seq_length | tokenizer_config.json: model_max_length = 128 | {table}"
            ),
        ),
        (
            "two poolings, old",
            "pooling",
            format!("cls + mean <- {pooling}: pooling_mode_cls_token"),
        ),
        (
            "pooling named and old",
            "pooling",
            format!("cls <- {pooling}: pooling_mode | {pooling}: pooling_mode_mean_tokens = true"),
        ),
        ("no pooling mode", "pooling", "mean <- -".into()),
        ("dense", "normalisation", "no <- modules.json: type".into()),
        (
            "dense",
            "after pooling",
            "Dense 64 → 32, Tanh <- 2_Dense/config.json: activation_function".into(),
        ),
        (
            "dense",
            "dimensions",
            "32; it was not trained to be cut <- 2_Dense/config.json: out_features".into(),
        ),
        (
            "lower case",
            "letter case",
            "made lower <- sentence_bert_config.json: do_lower_case".into(),
        ),
        (
            "prompt",
            "default prompt",
            "\"Find the answer: \" (query) <- config_sentence_transformers.json: default_prompt_name".into(),
        ),
        (
            "prompt not pooled, mean, bert",
            "prompt is pooled",
            format!("no <- {pooling}: include_prompt"),
        ),
        (
            "pad token 0",
            "positions",
            "learned, 130 rows from 1; token 0 is not counted <- config.json: pad_token_id".into(),
        ),
        (
            "transformer in a folder",
            "positions",
            "learned, 130 rows from 0 <- 0_Transformer/config.json: max_position_embeddings".into(),
        ),
    ] {
        assert_eq!(explained(&fixture, folder, name), [wanted], "{name} of {folder}");
    }
}

#[test]
fn a_setting_said_twice_agrees() {
    let fixture = Fixture::open("folders");
    let folder = folder_of(&fixture, case(&fixture, "limit of both"));
    let file = folder.path().join("tokenizer_config.json");
    let mut settings: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    settings["model_max_length"] = 40.into();
    fs::write(&file, settings.to_string()).unwrap();
    let explanation = ModelConfig::explain(folder.path()).unwrap();
    let limit = explanation
        .decisions
        .iter()
        .find(|decision| decision.name == "longest input");
    let limit = limit.unwrap();
    let sources: Vec<String> = limit.agreeing.iter().map(|source| source.to_string()).collect();
    assert_eq!(sources, ["tokenizer_config.json: model_max_length"]);
    let overruled: Vec<&str> = limit
        .overruled
        .iter()
        .map(|other| other.source.file.as_str())
        .collect();
    assert_eq!(overruled, ["config.json"]);
}

#[test]
fn files_that_nothing_is_read_from_are_named() {
    let fixture = Fixture::open("folders");
    let unread = |name: &str| {
        let folder = folder_of(&fixture, case(&fixture, name));
        fs::write(folder.path().join("README.md"), "").unwrap();
        ModelConfig::explain(folder.path()).unwrap().unread
    };
    let adapter = ["user/adapter_config.json", "user/adapter_model.safetensors"];
    let of = |more: &[&str]| {
        let mut all: Vec<String> = more.iter().chain(&adapter).map(|name| name.to_string()).collect();
        all.push("README.md".to_owned());
        all.sort();
        all
    };
    assert_eq!(unread("dense after two poolings"), of(&[]));
    assert_eq!(
        unread("limits of two files"),
        of(&["sentence_xlm-roberta_config.json"])
    );
    let moved = unread("transformer in a folder, in shards");
    assert!(moved.contains(&"README.md".to_owned()), "{moved:?}");
    assert!(
        !moved
            .iter()
            .any(|name| name.contains("model-0") || name.contains("tokens_map")),
        "{moved:?}"
    );
}

#[test]
fn the_engine_counts_inputs_that_were_cut() {
    let fixture = Fixture::open("folders");
    let engine = open(&fixture, case(&fixture, "limit of both")).unwrap();
    let long = "rope way ".repeat(40);
    let results = engine.embed(&["short", &long, &long], &Embed::default()).unwrap();
    assert_eq!(results.iter().filter(|result| result.truncated).count(), 2);
    assert_eq!(engine.truncated(), 2);
    assert!(engine.embed(&[&long], &Embed::default().truncate(false)).is_err());
    assert_eq!(engine.truncated(), 2);
}
