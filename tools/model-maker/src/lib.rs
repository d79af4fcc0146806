//! Random embedding models in the exact file layouts of jina-embeddings-v3, BERT and XLM-RoBERTa.
//!
//! A model is fully determined by its [`ModelSpec`]: the same spec gives the same bytes on every machine. Both layouts of a jina
//! model with the same seed hold the same numbers.

mod adapter;
mod config;
mod file;
mod tensors;
mod tokenizer;
mod values;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

pub use adapter::{AdapterSpec, write_adapter};

/// The adapters of a jina model, in index order.
pub const TASKS: [&str; 5] = [
    "retrieval.query",
    "retrieval.passage",
    "separation",
    "classification",
    "text-matching",
];

/// The sub-folder of a task's PEFT adapter in the native layout: `retrieval_query` for `retrieval.query`.
pub fn task_folder(task: &str) -> String {
    task.replace(['.', '-'], "_")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Family {
    /// jina-embeddings-v3: rotary positions, five task adapters
    Jina,
    /// BERT: learned positions, WordPiece, lower case
    Bert,
    /// XLM-RoBERTa: learned positions from pad + 1, Unigram
    XlmRoberta,
}

impl Family {
    /// Rows of the token type table.
    pub fn token_types(self) -> usize {
        if self == Self::Bert { 2 } else { 1 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// as jinaai/jina-embeddings-v3: stacked adapters inside the model file
    Hub,
    /// as transformers and PEFT: base weights, and one adapter folder per task
    Native,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Dtype {
    Bf16,
    F16,
    F32,
}

impl Dtype {
    /// Bytes of one value.
    pub fn size(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }

    fn safetensors_name(self) -> &'static str {
        match self {
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
            Self::F32 => "F32",
        }
    }

    fn torch_name(self) -> &'static str {
        match self {
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
            Self::F32 => "float32",
        }
    }
}

/// Everything that decides a model's bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    pub family: Family,
    /// Only for [`Family::Jina`]; ignored otherwise.
    pub layout: Layout,
    pub vocab: usize,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub ffn: usize,
    /// Longest sequence in tokens; for BERT and XLM-RoBERTa the rows of the position table.
    pub max_positions: usize,
    /// Rank and alpha of the task adapters (jina only).
    pub rank: usize,
    pub alpha: f64,
    /// Frobenius norm of `alpha/rank · B·A` relative to that of its weight (jina only).
    pub adapter_strength: f64,
    pub dtype: Dtype,
    pub seed: u64,
    /// Files over which the tensors of the model are spread.
    pub shards: usize,
    /// Write `tokenizer.json` and its companions.
    pub tokenizer: bool,
    /// Write into a folder that is not empty; files of an earlier model there are replaced.
    pub force: bool,
}

impl Default for ModelSpec {
    fn default() -> Self {
        Self::new(Family::Jina)
    }
}

impl ModelSpec {
    /// The full shape of the family's best-known model: jina-embeddings-v3, bert-base-uncased or xlm-roberta-large.
    pub fn new(family: Family) -> Self {
        let large = Self {
            family,
            layout: Layout::Hub,
            vocab: 250_002,
            hidden: 1024,
            layers: 24,
            heads: 16,
            ffn: 4096,
            max_positions: 8194,
            rank: 4,
            alpha: 1.0,
            adapter_strength: 0.3,
            dtype: Dtype::Bf16,
            seed: 0,
            shards: 1,
            tokenizer: true,
            force: false,
        };
        match family {
            Family::Jina => large,
            Family::XlmRoberta => Self {
                max_positions: 514,
                ..large
            },
            Family::Bert => Self {
                vocab: 30_522,
                hidden: 768,
                layers: 12,
                heads: 12,
                ffn: 3072,
                max_positions: 512,
                ..large
            },
        }
    }

    /// Tokens that a text may have, with the special ones.
    pub fn max_tokens(&self) -> usize {
        // XLM-RoBERTa's positions start at pad + 1 = 2.
        if self.family == Family::XlmRoberta {
            self.max_positions - 2
        } else {
            self.max_positions
        }
    }

    /// Checks that the spec describes a model that can exist.
    ///
    /// # Errors
    /// Names the option, what is wrong with it and what would do.
    pub fn validate(&self) -> Result<()> {
        for (option, value, most) in [
            ("--vocab", self.vocab, 1 << 24),
            ("--hidden", self.hidden, 1 << 16),
            ("--layers", self.layers, 1 << 12),
            ("--heads", self.heads, 1 << 16),
            ("--ffn", self.ffn, 1 << 20),
            ("--max-positions", self.max_positions, 1 << 24),
            ("--rank", self.rank, 1 << 12),
            ("--shards", self.shards, 99_999),
        ] {
            ensure!(
                (1..=most).contains(&value),
                "{option} {value}: must be from 1 to {most}"
            );
        }
        if !self.hidden.is_multiple_of(self.heads) {
            bail!(
                "--hidden {} is not divisible by --heads {}; change one of them",
                self.hidden,
                self.heads
            );
        }
        let head_dim = self.hidden / self.heads;
        if self.family == Family::Jina && !head_dim.is_multiple_of(2) {
            bail!(
                "--hidden {} / --heads {} gives a head dimension of {head_dim}, which is odd; \
                 rotary positions turn pairs and need an even one",
                self.hidden,
                self.heads
            );
        }
        ensure!(
            self.max_positions >= 8,
            "--max-positions {}: must be at least 8",
            self.max_positions
        );
        ensure!(
            self.vocab >= 8,
            "--vocab {}: must be at least 8, to hold the special tokens",
            self.vocab
        );
        if self.tokenizer && self.vocab < tokenizer::MIN_VOCAB {
            bail!(
                "--vocab {} is too small for a tokenizer; use {} or more, or --no-tokenizer",
                self.vocab,
                tokenizer::MIN_VOCAB
            );
        }
        ensure!(
            self.alpha.is_finite() && self.alpha > 0.0,
            "--alpha {}: must be above 0",
            self.alpha
        );
        let strength = self.adapter_strength;
        ensure!(
            strength.is_finite() && strength >= 0.0,
            "--adapter-strength {strength}: must be 0 or above"
        );
        ensure!(
            self.layout == Layout::Hub || self.family == Family::Jina,
            "--layout native is for --family jina; the other families have one layout, leave the option out"
        );
        Ok(())
    }
}

/// Writes the model that `spec` describes into the folder `path`, which is created where it does not exist.
///
/// Memory stays at a few MB, whatever the size of the model.
///
/// # Errors
/// A spec that describes no model, a folder that is not empty (without `force`), and failures of the file system.
pub fn write(spec: &ModelSpec, path: &Path) -> Result<()> {
    spec.validate()?;
    let tensors = tensors::model_tensors(spec);
    ensure!(
        spec.shards <= tensors.len(),
        "--shards {}: the model has {} tensors; ask for at most that many shards",
        spec.shards,
        tensors.len()
    );
    prepare_folder(path, spec.force)?;

    write_json(&path.join("config.json"), &config::model_config(spec))?;
    if spec.family != Family::Jina {
        config::write_sentence_transformers(spec, path)?;
    }
    if spec.tokenizer {
        tokenizer::write(spec, path)?;
    }
    file::write_model(path, tensors, spec.dtype, spec.shards)?;
    if spec.family == Family::Jina && spec.layout == Layout::Native {
        for (index, task) in TASKS.iter().enumerate() {
            let folder = path.join(task_folder(task));
            create_folder(&folder)?;
            write_json(
                &folder.join("adapter_config.json"),
                &config::task_adapter_config(spec),
            )?;
            let tensors = tensors::task_adapter_tensors(spec, index);
            file::write_file(&folder.join("adapter_model.safetensors"), tensors, spec.dtype)?;
        }
    }
    Ok(())
}

/// The JSON files that a model of any family and layout has at its top.
const JSON_FILES: [&str; 7] = [
    "config.json",
    "model.safetensors.index.json",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// Creates the folder; with `force`, takes away what an earlier model left in it and nothing else.
fn prepare_folder(path: &Path, force: bool) -> Result<()> {
    create_folder(path)?;
    let mut empty = true;
    for entry in fs::read_dir(path).with_context(|| format!("could not list {}", path.display()))? {
        let entry = entry.with_context(|| format!("could not list {}", path.display()))?;
        empty = false;
        if !force {
            break;
        }
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let weights =
            name == "model.safetensors" || (name.starts_with("model-") && name.ends_with(".safetensors"));
        if weights || JSON_FILES.contains(&&*name) {
            remove_file(&entry.path())?;
        } else if TASKS.iter().any(|task| task_folder(task) == name) {
            for file in ["adapter_config.json", "adapter_model.safetensors"] {
                remove_file(&entry.path().join(file))?;
            }
            // Stays where it holds anything else.
            let _ = fs::remove_dir(entry.path());
        } else if name == "1_Pooling" {
            remove_file(&entry.path().join("config.json"))?;
            let _ = fs::remove_dir(entry.path());
        }
    }
    ensure!(
        empty || force,
        "{} is not empty; give another folder, or --force to replace the model in it",
        path.display()
    );
    Ok(())
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("could not create the folder {}", path.display()))
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}
