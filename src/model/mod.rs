//! What a model is, and checking its files.
//!
//! [`ModelConfig`] is what [`Engine::config`](crate::Engine::config) gives, and is read without opening a model;
//! [`verify`] reads all weights and names what is broken.

pub(crate) mod adapter;
pub(crate) mod config;
mod encoder;
mod rope;
pub(crate) mod weights;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
#[cfg(not(feature = "inspect"))]
pub(crate) use adapter::Adapter;
/// For the fuzz target of adapter files, which has no weights to open an engine with.
#[cfg(feature = "inspect")]
#[doc(hidden)]
pub use adapter::Adapter;
pub use config::{Family, ModelConfig, Positions, TaskConfig};
#[cfg(any(test, feature = "inspect"))]
pub(crate) use encoder::Layer;
pub(crate) use encoder::{Encoder, Linear, Norm};
pub(crate) use rope::RopeTable;
use weights::Checkpoint;

/// A model folder, opened: configuration, mapped weights, its own adapters.
#[derive(Debug)]
pub(crate) struct Model {
    /// The folder.
    pub path: PathBuf,
    /// What the model is.
    pub config: ModelConfig,
    /// Its weights, by their place in the network.
    pub encoder: Encoder,
    /// The adapters of its tasks, in the order of `config.tasks` (those that have one).
    pub adapters: Vec<Adapter>,
}

impl Model {
    /// Opens the model in `folder`: reads the configuration, maps the weights, checks every
    /// tensor's type and shape. Base weights are not read.
    pub fn open(folder: &Path) -> Result<Model> {
        let config = ModelConfig::read(folder)?;
        let checkpoint = Checkpoint::open_folder(folder)?;
        let encoder = Encoder::new(&config, &checkpoint)?;
        let adapters = match config.family {
            Family::JinaV3 => adapter::read_stacked(&config, &checkpoint)?,
            Family::JinaV3Native => {
                let folder_of = |task: &TaskConfig| folder.join(config::jina_adapter_folder(&task.name));
                let read = |task: &TaskConfig| Adapter::read_peft(&task.name, &folder_of(task), &config);
                config.tasks.iter().map(read).collect::<Result<_>>()?
            }
            Family::Bert | Family::XlmRoberta => Vec::new(),
        };
        Ok(Model {
            path: folder.to_owned(),
            config,
            encoder,
            adapters,
        })
    }
}

/// Reads a JSON file of a model; the error names the file, and the line and column in it.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    // Far above any real configuration or index; a sparse or endless file is not read to its end.
    const LIMIT: u64 = 64 << 20;
    let length = fs::metadata(path).map_err(|e| Error::io(path, e))?.len();
    if length > LIMIT {
        return Err(Error::model(
            path,
            format!("is {length} bytes long; a JSON file of at most {LIMIT} is read"),
        ));
    }
    let text = fs::read(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_slice(&text).map_err(|e| Error::model(path, format!("is not valid JSON: {e}")))
}

/// What [`verify`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Tensors that the engine uses.
    pub tensors: usize,
    /// Numbers in them.
    pub parameters: usize,
    /// Tensors of the file that the engine does not use.
    pub unused: Vec<String>,
}

/// Checks a model folder thoroughly: everything that [`Engine::open`](crate::Engine::open) checks of its configuration,
/// weights and adapters, and that every number of every tensor in use is finite. Reads all weights once.
///
/// # Errors
/// The first fault: [`Error::Io`], [`Error::Model`] or [`Error::Tensor`], with the file and what was wanted of it.
pub fn verify(folder: impl AsRef<Path>) -> Result<Report> {
    let folder = folder.as_ref();
    let model = Model::open(folder)?;
    let checkpoint = Checkpoint::open_folder(folder)?;
    let mut used: Vec<_> = model.encoder.tensors().into_iter().cloned().collect();
    for name in checkpoint
        .names()
        .filter(|name| name.contains(".lora_") && !name.contains("pooler."))
    {
        used.push(checkpoint.any(name)?);
    }
    use rayon::prelude::*;
    used.par_iter().try_for_each(|tensor| tensor.check_finite())?;
    let mut unused: Vec<String> = checkpoint
        .names()
        .filter(|name| !used.iter().any(|t| t.name() == *name))
        .map(str::to_owned)
        .collect();
    unused.sort();
    Ok(Report {
        tensors: used.len(),
        parameters: used.iter().map(|t| t.len()).sum(),
        unused,
    })
}
