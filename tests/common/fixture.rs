//! The fixtures of `tests/golden`, and requests for their cases.

use std::fs;
use std::path::{Path, PathBuf};

use ropeway::{AdapterSelection, Chunking, Embed, Input, Output, Pooling, Request, Vector};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use serde_json::{Map, Value};

use super::{Scratch, copy_folder, paths, set_key};

/// Where they are.
pub fn folder() -> PathBuf {
    paths::root().join("tests/golden")
}

/// A manifest and its tensors.
pub struct Fixture {
    pub manifest: Value,
    tensors: Vec<u8>,
}

impl Fixture {
    pub fn open(name: &str) -> Fixture {
        let read = |end: &str| fs::read(folder().join(format!("{name}.{end}"))).unwrap();
        Fixture {
            manifest: serde_json::from_slice(&read("json")).unwrap(),
            tensors: read("safetensors"),
        }
    }

    pub fn cases(&self) -> &[Value] {
        self.manifest["cases"].as_array().unwrap()
    }

    /// A file of weights: tensors of the fixture under other names.
    fn weights(&self, names: &Map<String, Value>) -> Vec<u8> {
        let tensors = SafeTensors::deserialize(&self.tensors).unwrap();
        let view = |(name, source): (&String, &Value)| {
            let tensor = tensors.tensor(source.as_str().unwrap()).unwrap();
            let view = TensorView::new(Dtype::F32, tensor.shape().to_vec(), tensor.data()).unwrap();
            (name.clone(), view)
        };
        serialize(names.iter().map(view), None).unwrap()
    }

    pub fn tensor(&self, name: &Value) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.tensors).unwrap();
        let data = tensors.tensor(name.as_str().unwrap()).unwrap().data().to_vec();
        data.chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }
}

/// The folder of a case of `folders`: its base with other files, and with the transformer's in a folder of their own where
/// it says so.
pub fn folder_of(fixture: &Fixture, case: &Value) -> Scratch {
    let scratch = Scratch::empty();
    copy_folder(&folder().join(case["base"].as_str().unwrap()), scratch.path());
    for (name, content) in case["files"].as_object().unwrap() {
        let path = scratch.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match content {
            Value::Null => fs::remove_file(path).unwrap(),
            Value::Object(keys) if ["config.json", "tokenizer_config.json"].contains(&name.as_str()) => {
                keys.iter()
                    .for_each(|(key, value)| set_key(&path, key, value.clone()));
            }
            Value::Object(tensors) if name.ends_with(".safetensors") => {
                fs::write(path, fixture.weights(tensors)).unwrap();
            }
            content => fs::write(path, content.to_string()).unwrap(),
        }
    }
    if let Some(subfolder) = case["transformer"].as_str() {
        move_transformer(scratch.path(), subfolder);
    }
    scratch
}

fn move_transformer(folder: &Path, subfolder: &str) {
    fs::create_dir(folder.join(subfolder)).unwrap();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let of_all = ["modules.json", "config_sentence_transformers.json"];
        if entry.file_type().unwrap().is_file() && !of_all.iter().any(|name| entry.file_name() == *name) {
            fs::rename(entry.path(), folder.join(subfolder).join(entry.file_name())).unwrap();
        }
    }
    let path = folder.join("modules.json");
    let mut modules: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    modules[0]["path"] = subfolder.into();
    fs::write(path, modules.to_string()).unwrap();
}

pub fn numbers(value: &Value) -> Vec<usize> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n.as_u64().unwrap() as usize)
        .collect()
}

pub fn pairs(value: &Value) -> Vec<(usize, usize)> {
    let pair = |pair: &Value| (numbers(pair)[0], numbers(pair)[1]);
    value.as_array().unwrap().iter().map(pair).collect()
}

/// The request of a case; `by_text` sends its text and not its ids.
pub fn request(case: &Value, by_text: bool) -> Request<'static> {
    let adapters = match (&case["task"], &case["adapters"]) {
        (Value::String(task), _) => AdapterSelection::Task(task.clone()),
        (_, Value::Array(parts)) => {
            let part = |p: &Value| {
                (
                    p["name"].as_str().unwrap().to_owned(),
                    p["weight"].as_f64().unwrap() as f32,
                )
            };
            AdapterSelection::Mixture(parts.iter().map(part).collect())
        }
        _ => AdapterSelection::Base,
    };
    let pooling = match case["pooling"].as_str().unwrap() {
        "cls" => Pooling::Cls,
        "tokens" => Pooling::None,
        _ => Pooling::Mean,
    };
    let mut options = Embed::default()
        .adapters(adapters)
        .pooling(pooling)
        .normalize(case["normalize"].as_bool())
        .dimensions(case["dimensions"].as_u64().map(|n| n as usize))
        .truncate(false);
    let chunks = &case["chunks"];
    if !chunks.is_null() {
        let spans = if by_text {
            &chunks["byte_ranges"]
        } else {
            &chunks["spans"]
        };
        options = options.chunks(Chunking::Spans(pairs(spans)));
        if let Some(size) = chunks["window"]["size"].as_u64() {
            let overlap = chunks["window"]["overlap"].as_u64().unwrap() as usize;
            options = options.window(size as usize).overlap(overlap);
        }
    }
    let input = if by_text {
        Input::Text(case["text"].as_str().unwrap().to_owned().into())
    } else {
        Input::Ids(numbers(&case["ids"]).into_iter().map(|id| id as u32).collect())
    };
    Request::new(input, options)
}

/// The f32 numbers of an output, end to end.
pub fn values(output: &Output) -> Vec<f32> {
    let f32s = |vector: &Vector| vector.as_f32().unwrap().to_vec();
    match output {
        Output::Vector(vector) => f32s(vector),
        Output::Tokens(vectors) => vectors.iter().flat_map(f32s).collect(),
        Output::Chunks(chunks) => chunks.iter().flat_map(|chunk| f32s(&chunk.vector)).collect(),
        other => panic!("{other:?}"),
    }
}
