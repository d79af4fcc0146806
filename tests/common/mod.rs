//! Small models, and the tools to break them.
#![allow(dead_code)] // Every test binary uses a part of it.

pub mod fixture;
pub mod paths;
pub mod requests;

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use model_maker::{AdapterSpec, Dtype, Family, ModelSpec};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A model that is written and opened within milliseconds.
pub fn tiny(family: Family) -> ModelSpec {
    ModelSpec {
        vocab: 160,
        hidden: 64,
        layers: 2,
        heads: 4,
        ffn: 48,
        max_positions: 40,
        rank: 2,
        dtype: Dtype::F32,
        ..ModelSpec::new(family)
    }
}

/// The folder of the model that `spec` describes. Written once; other processes may use it too.
pub fn model(spec: &ModelSpec) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _held = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    // A rebuilt test binary may have been built with another model-maker.
    let built = fs::metadata(std::env::current_exe().unwrap())
        .unwrap()
        .modified()
        .unwrap();
    let mut hash = DefaultHasher::new();
    (format!("{spec:?}"), built).hash(&mut hash);
    let folder = paths::scratch().join(format!("model-{:016x}", hash.finish()));
    if !folder.exists() {
        let half_done = tempfile::tempdir_in(paths::scratch()).unwrap();
        model_maker::write(spec, half_done.path()).unwrap();
        // Another process may have been faster; its copy is the same.
        let _ = fs::rename(half_done.path(), &folder);
    }
    assert!(folder.join("config.json").exists(), "{}", folder.display());
    folder
}

/// A folder that a test may change; removed with this.
pub struct Scratch(TempDir);

impl Scratch {
    /// An empty folder.
    pub fn empty() -> Scratch {
        Scratch(tempfile::tempdir_in(paths::scratch()).unwrap())
    }

    /// A copy of a model.
    pub fn model(spec: &ModelSpec) -> Scratch {
        let scratch = Scratch::empty();
        copy_folder(&model(spec), scratch.path());
        scratch
    }

    /// A PEFT adapter for the model in `base`: rank 2, on these modules.
    pub fn adapter(base: &Path, targets: &[&str]) -> Scratch {
        let scratch = Scratch::empty();
        let spec = AdapterSpec {
            rank: 2,
            targets: targets.iter().map(|&t| t.into()).collect(),
            force: true,
            ..AdapterSpec::new(base)
        };
        model_maker::write_adapter(&spec, scratch.path()).unwrap();
        scratch
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Changes a JSON file.
pub fn edit_json(path: &Path, change: impl FnOnce(&mut Map<String, Value>)) {
    let mut json: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(json.as_object_mut().unwrap());
    fs::write(path, json.to_string()).unwrap();
}

/// Sets one key of a JSON file; `null` takes it out.
pub fn set_key(path: &Path, key: &str, value: Value) {
    edit_json(path, |json| match value {
        Value::Null => drop(json.shift_remove(key)),
        value => drop(json.insert(key.into(), value)),
    });
}

/// Changes a file's bytes.
pub fn edit_bytes(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Changes the header of a safetensors file and nothing else.
pub fn edit_header(path: &Path, change: impl FnOnce(&mut Map<String, Value>)) {
    edit_bytes(path, |bytes| {
        let (mut header, data) = split(bytes);
        change(&mut header);
        *bytes = join(&header, &data, 8);
    });
}

/// A tensor's type, shape and bytes.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub dtype: String,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Tensor {
    pub fn f32(shape: &[usize], values: impl Fn(usize) -> f32) -> Tensor {
        Tensor {
            dtype: "F32".into(),
            shape: shape.to_vec(),
            bytes: (0..shape.iter().product())
                .flat_map(|i| values(i).to_le_bytes())
                .collect(),
        }
    }

    /// Overwrites number `index` of an F32 tensor.
    pub fn set(&mut self, index: usize, value: f32) {
        assert_eq!(self.dtype, "F32");
        self.bytes[4 * index..4 * index + 4].copy_from_slice(&value.to_le_bytes());
    }
}

/// Changes the tensors of a safetensors file; what is written is valid again.
pub fn edit_tensors(path: &Path, change: impl FnOnce(&mut BTreeMap<String, Tensor>)) {
    edit_bytes(path, |bytes| {
        let (header, data) = split(bytes);
        let mut tensors = BTreeMap::new();
        for (name, info) in header.iter().filter(|(name, _)| *name != "__metadata__") {
            let number = |value: &Value| value.as_u64().unwrap() as usize;
            let (begin, end) = (number(&info["data_offsets"][0]), number(&info["data_offsets"][1]));
            let tensor = Tensor {
                dtype: info["dtype"].as_str().unwrap().into(),
                shape: info["shape"].as_array().unwrap().iter().map(number).collect(),
                bytes: data[begin..end].to_vec(),
            };
            tensors.insert(name.clone(), tensor);
        }
        change(&mut tensors);
        let (mut header, mut data) = (Map::new(), Vec::new());
        for (name, tensor) in tensors {
            let offsets = [data.len(), data.len() + tensor.bytes.len()];
            let info = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets});
            header.insert(name, info);
            data.extend(tensor.bytes);
        }
        *bytes = join(&header, &data, 8);
    });
}

/// Header and data of a valid safetensors file.
pub fn split(bytes: &[u8]) -> (Map<String, Value>, Vec<u8>) {
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: Value = serde_json::from_slice(header).unwrap();
    (header.as_object().unwrap().clone(), data.to_vec())
}

/// A safetensors file of this header, padded to a multiple of `align`, and this data.
pub fn join(header: &Map<String, Value>, data: &[u8], align: usize) -> Vec<u8> {
    let mut header = serde_json::to_vec(header).unwrap();
    header.resize(header.len().next_multiple_of(align), b' ');
    let length = (header.len() as u64).to_le_bytes();
    [&length, header.as_slice(), data].concat()
}

/// Runs every case and reports all failures together: `attempt` must return an error, without a
/// panic, whose text holds every one of the case's words.
pub struct Table<'n> {
    name: &'n str,
    problems: Vec<String>,
}

impl<'n> Table<'n> {
    pub fn new(name: &'n str) -> Table<'n> {
        Table {
            name,
            problems: Vec::new(),
        }
    }

    pub fn refused<T, E: std::fmt::Display>(
        &mut self,
        case: &str,
        words: &[&str],
        attempt: impl FnOnce() -> Result<T, E>,
    ) {
        let problem = match catch_unwind(AssertUnwindSafe(attempt)) {
            Err(_) => "panicked".into(),
            Ok(Ok(_)) => "was accepted".into(),
            Ok(Err(error)) => {
                let text = error.to_string();
                let missing: Vec<&&str> = words.iter().filter(|word| !text.contains(**word)).collect();
                if missing.is_empty() && !text.contains('\n') {
                    return;
                }
                format!("does not say {missing:?} in one line: {text}")
            }
        };
        self.problems.push(format!("{case}: {problem}"));
    }

    pub fn finish(self) {
        assert!(
            self.problems.is_empty(),
            "{}:\n  {}",
            self.name,
            self.problems.join("\n  ")
        );
    }
}
