//! The fixtures of `tests/golden`, and requests for their cases.

use std::fs;
use std::path::PathBuf;

use ropeway::{AdapterSelection, Chunking, Embed, Input, Output, Pooling, Request, Vector};
use safetensors::SafeTensors;
use serde_json::Value;

use super::paths;

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

    pub fn tensor(&self, name: &Value) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.tensors).unwrap();
        let data = tensors.tensor(name.as_str().unwrap()).unwrap().data().to_vec();
        data.chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }
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
