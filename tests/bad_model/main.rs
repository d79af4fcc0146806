//! Broken models, adapters and requests: each is refused with a message that names the place, what
//! was wanted and what was found. Nothing panics, and nothing else is lost.

mod adapter_settings;
mod adapters;
#[path = "../common/mod.rs"]
mod common;
mod config;
mod files;
mod folder;
mod heads;
mod numbers;
mod requests;
mod settings;
mod tokenizer;
mod weights;

use std::path::{Path, PathBuf};

use model_maker::ModelSpec;
use ropeway::{Device, Engine};
use serde_json::Value;

use common::{Scratch, Table, set_key};

fn open(path: &Path) -> ropeway::Result<Engine> {
    Engine::builder().device(Device::Cpu).threads(1).open(path)
}

fn engine(path: &Path) -> Engine {
    open(path).unwrap()
}

/// What breaks a copy of a model, and the words that the error must hold.
type Breakage = (&'static str, fn(&Path), &'static [&'static str]);

/// Breaks a copy of the model in every way and opens it.
fn break_model(name: &str, spec: &ModelSpec, cases: &[Breakage]) {
    let mut table = Table::new(name);
    for &(case, damage, words) in cases {
        let scratch = Scratch::model(spec);
        damage(scratch.path());
        table.refused(case, words, || open(scratch.path()));
    }
    table.finish();
}

/// Sets a key in a copy of the model's `config.json`; the error must name file, key and words.
fn bad_keys(spec: &ModelSpec, cases: &[(&str, Value, &[&str])]) {
    let mut table = Table::new("config.json");
    for (key, value, words) in cases {
        let scratch = Scratch::model(spec);
        set_key(&scratch.path().join("config.json"), key, value.clone());
        let words: Vec<&str> = words.iter().copied().chain(["config.json"]).collect();
        table.refused(&format!("{key} = {value}"), &words, || open(scratch.path()));
    }
    table.finish();
}

fn weights(folder: &Path) -> PathBuf {
    folder.join("model.safetensors")
}
