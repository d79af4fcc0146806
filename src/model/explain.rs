//! Where everything that makes a model's vectors comes from.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::config::jina_adapter_folder;
use super::weights::Checkpoint;
use super::{Decision, Family, HeadModule, ModelConfig, Positions, Source};
use crate::error::{Error, Result};

/// What makes the vectors of a model: every decision with the file and key that it comes from, and what else was found.
/// [`explain`](ModelConfig::explain) gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// The decisions, in the order of a text's way.
    pub decisions: Vec<Decision>,
    /// See [`ModelConfig::unknown_settings`].
    pub unknown_settings: Vec<String>,
    /// Files of the folder, and of the folders in it, that nothing is read from.
    pub unread: Vec<String>,
}

impl ModelConfig {
    /// Says for every decision that makes a vector of the model in `folder` what it is and where it comes from. Reads the
    /// configuration and the names and types of the weights.
    ///
    /// # Errors
    /// As [`read`](Self::read), and for weights that cannot be opened.
    pub fn explain(folder: impl AsRef<Path>) -> Result<Explanation> {
        let folder = folder.as_ref();
        let config = ModelConfig::read(folder)?;
        let checkpoint = Checkpoint::open_folder(&config.transformer_folder(folder))?;
        let mut decisions = vec![family(&config), specials(&config, folder)];
        decisions.extend(config.decisions().iter().cloned());
        decisions.push(positions(&config));
        decisions.push(precision(folder, &checkpoint)?);
        // A setting in a folder of the transformer's own is named with it.
        if !config.transformer.is_empty() {
            decisions
                .iter_mut()
                .for_each(|decision| in_folder(decision, &config.transformer));
        }
        Ok(Explanation {
            decisions,
            unknown_settings: config.unknown_settings().to_vec(),
            unread: unread(&config, folder, &checkpoint)?,
        })
    }
}

fn family(config: &ModelConfig) -> Decision {
    Decision {
        source: Some(Source::new("config.json", "model_type")),
        ..Decision::new("architecture", config.family.to_string())
    }
}

/// The tokens around a text.
fn specials(config: &ModelConfig, folder: &Path) -> Decision {
    let there = config.transformer_folder(folder).join("tokenizer.json").is_file();
    match there {
        true => Decision {
            source: Some(Source::new("tokenizer.json", "post_processor")),
            ..Decision::new("special tokens", "those that the tokenizer puts around a text")
        },
        false => Decision {
            note: "there is no tokenizer.json",
            ..Decision::new("special tokens", "the model takes token ids alone")
        },
    }
}

fn positions(config: &ModelConfig) -> Decision {
    let (value, key) = match config.positions {
        Positions::Rotary { base } if config.family == Family::JinaV3 => {
            (format!("rotary, base {base}"), "rotary_emb_base")
        }
        Positions::Rotary { base } => (format!("rotary, base {base}"), "rope_parameters"),
        Positions::Learned { pad: None, rows } => {
            (format!("learned, {rows} rows from 0"), "max_position_embeddings")
        }
        Positions::Learned { pad: Some(pad), rows } => (
            format!(
                "learned, {rows} rows from {}; token {pad} is not counted",
                pad + 1
            ),
            "pad_token_id",
        ),
    };
    Decision {
        source: Some(Source::new("config.json", key)),
        ..Decision::new("positions", value)
    }
}

/// The types of the weights, and what they are computed in.
fn precision(folder: &Path, checkpoint: &Checkpoint) -> Result<Decision> {
    let mut types = BTreeSet::new();
    for name in checkpoint.names() {
        // Some files hold whole numbers beside the weights, which are not read.
        if let Ok(tensor) = checkpoint.any(name) {
            types.insert(tensor.dtype().to_string());
        }
    }
    let types: Vec<String> = types.into_iter().collect();
    let file = checkpoint.files().next().unwrap_or(folder);
    let file = relative(folder, file);
    Ok(Decision {
        source: Some(Source::new(&file, "dtype")),
        note: "computed in float32 or bf16 on a CPU, in bf16 or f16 on a GPU",
        ..Decision::new("weights", types.join(", "))
    })
}

/// Puts the transformer's folder before the names of its files.
fn in_folder(decision: &mut Decision, transformer: &str) {
    let of_all = ["modules.json", "config_sentence_transformers.json"];
    let sources = decision
        .overruled
        .iter_mut()
        .map(|overruled| &mut overruled.source);
    let sources = sources.chain(&mut decision.agreeing);
    for source in sources.chain(&mut decision.source) {
        if !source.file.contains('/') && !of_all.contains(&source.file.as_str()) {
            source.file = format!("{transformer}/{}", source.file);
        }
    }
}

/// A path in the model's folder, with slashes.
fn relative(folder: &Path, path: &Path) -> String {
    let parts = path.strip_prefix(folder).unwrap_or(path).components();
    let parts: Vec<_> = parts.map(|part| part.as_os_str().to_string_lossy()).collect();
    parts.join("/")
}

/// The files that nothing is read from.
fn unread(config: &ModelConfig, folder: &Path, checkpoint: &Checkpoint) -> Result<Vec<String>> {
    let transformer = config.transformer_folder(folder);
    let mut read: BTreeSet<PathBuf> = checkpoint.files().map(Path::to_owned).collect();
    for name in ["modules.json", "config_sentence_transformers.json"] {
        read.insert(folder.join(name));
    }
    let of_transformer = ["config.json", "tokenizer.json"];
    let of_tokenizer = config.tokenizer.files.iter().copied();
    for name in of_transformer
        .into_iter()
        .chain(of_tokenizer)
        .chain(config.transformer_file)
    {
        read.insert(transformer.join(name));
    }
    if !transformer.join("model.safetensors").is_file() {
        read.insert(transformer.join("model.safetensors.index.json"));
    }
    for task in config
        .tasks
        .iter()
        .filter(|_| config.family == Family::JinaV3Native)
    {
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            read.insert(transformer.join(jina_adapter_folder(&task.name)).join(name));
        }
    }
    for module in &config.modules {
        read.insert(folder.join(module).join("config.json"));
    }
    for module in &config.head {
        if let HeadModule::Dense { folder: sub, .. } | HeadModule::LayerNorm { folder: sub, .. } = module {
            read.insert(folder.join(sub).join("model.safetensors"));
        }
    }
    let mut unread: Vec<String> = Vec::new();
    for path in files(folder)? {
        if !read.contains(&path) {
            unread.push(relative(folder, &path));
        }
    }
    unread.sort();
    Ok(unread)
}

/// The files of a folder and of the folders in it; nothing is read from deeper.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = |folder: &Path| -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
        entries
            .map(|entry| Ok(entry.map_err(|e| Error::io(folder, e))?.path()))
            .collect()
    };
    let mut files = Vec::new();
    for path in list(folder)? {
        match path.is_dir() {
            true => files.extend(list(&path)?.into_iter().filter(|path| !path.is_dir())),
            false => files.push(path),
        }
    }
    Ok(files)
}
