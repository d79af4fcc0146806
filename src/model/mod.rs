//! What a model is, and checking its files.
//!
//! [`ModelConfig`] is what [`Engine::config`](crate::Engine::config) gives, and is read without opening a model;
//! [`verify`] reads all weights and names what is broken.

pub(crate) mod adapter;
pub(crate) mod config;
mod encoder;
mod explain;
pub(crate) mod file;
pub(crate) mod head;
mod rope;
mod settings;
pub(crate) mod weights;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::error::{Result, list};
#[cfg(not(feature = "inspect"))]
pub(crate) use adapter::Adapter;
/// For the fuzz target of adapter files, which has no weights to open an engine with.
#[cfg(feature = "inspect")]
#[doc(hidden)]
pub use adapter::Adapter;
pub use config::{
    Activation, Decision, Family, HeadModule, ModelConfig, Overruled, Positions, Source, TaskConfig,
};
#[cfg(any(test, feature = "inspect"))]
pub(crate) use encoder::Layer;
pub(crate) use encoder::{Encoder, Linear, Norm};
pub use explain::Explanation;
pub(crate) use rope::RopeTable;
#[cfg(feature = "hub")]
pub(crate) use settings::read_json;
use weights::{Checkpoint, Tensor};

/// A model folder, opened: configuration, mapped weights, its own adapters.
#[derive(Debug)]
pub(crate) struct Model {
    /// The folder.
    pub path: PathBuf,
    /// What the model is.
    pub config: ModelConfig,
    /// Its weights, by their place in the network.
    pub encoder: Encoder,
    /// The modules after pooling.
    pub head: Vec<head::HeadStep>,
    head_tensors: Vec<Tensor>,
    /// The adapters of its tasks, in the order of `config.tasks` (those that have one).
    pub adapters: Vec<Adapter>,
}

impl Model {
    /// Opens the model in `folder`: reads the configuration, maps the weights, checks every
    /// tensor's type and shape, and that the adapters and the small tensors are finite. The matrices are not read.
    pub fn open(folder: &Path) -> Result<Model> {
        let config = ModelConfig::read(folder)?;
        let transformer = config.transformer_folder(folder);
        let checkpoint = Checkpoint::open_folder(&transformer)?;
        let encoder = Encoder::new(&config, &checkpoint)?;
        let surplus = encoder.surplus(&checkpoint);
        if !surplus.is_empty() {
            let tensors = list(&surplus);
            tracing::warn!(folder = %folder.display(), %tensors, "tensors that nothing is computed with, so that the vectors may be others than those of the model that was trained");
        }
        for tensor in encoder.small_tensors() {
            tensor.check_finite()?;
        }
        let adapters: Vec<Adapter> = match config.family {
            Family::JinaV3 => adapter::read_stacked(&config, &checkpoint)?,
            Family::JinaV3Native => {
                let folder_of = |task: &TaskConfig| transformer.join(config::jina_adapter_folder(&task.name));
                let read = |task: &TaskConfig| Adapter::read_peft(&task.name, &folder_of(task), &config);
                config.tasks.iter().map(read).collect::<Result<_>>()?
            }
            Family::Bert | Family::XlmRoberta => Vec::new(),
        };
        adapters
            .par_iter()
            .try_for_each(|adapter| adapter.check_magnitude(&encoder))?;
        let (head, head_tensors) = head::read(folder, &config)?;
        Ok(Model {
            path: folder.to_owned(),
            config,
            encoder,
            head,
            head_tensors,
            adapters,
        })
    }

    /// A changed file among those that a pass on the CPU reads from the map, which are those of the tables of words and
    /// positions: all else was copied when the engine was opened. See [`Tensor::changed_file`].
    pub fn changed_file(&self) -> Option<&Path> {
        let Encoder { word, position, .. } = &self.encoder;
        let position = position.as_ref().filter(|position| !position.shares_file(word));
        word.changed_file().or_else(|| position?.changed_file())
    }

    /// A changed file among all of the model's.
    pub fn any_changed_file(&self) -> Option<&Path> {
        self.encoder.tensors().into_iter().find_map(Tensor::changed_file)
    }
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
/// weights and adapters, and that every number of every tensor in use is finite. Reads all weights once. What the numbers
/// come to, an engine tells: [`Engine::verify_outputs`](crate::Engine::verify_outputs).
///
/// # Errors
/// The first fault: [`Error::Io`](crate::Error::Io), [`Error::Model`](crate::Error::Model),
/// [`Error::Tensor`](crate::Error::Tensor) or [`Error::Adapter`](crate::Error::Adapter), with the file and what was wanted of it.
pub fn verify(folder: impl AsRef<Path>) -> Result<Report> {
    let folder = folder.as_ref();
    let model = Model::open(folder)?;
    let checkpoint = Checkpoint::open_folder(&model.config.transformer_folder(folder))?;
    let mut used: Vec<_> = model.encoder.tensors().into_iter().cloned().collect();
    for name in checkpoint
        .names()
        .filter(|name| name.contains(".lora_") && !name.contains("pooler."))
    {
        used.push(checkpoint.any(name)?);
    }
    used.par_iter().try_for_each(|tensor| tensor.check_finite())?;
    let names: HashSet<String> = used.iter().map(|tensor| tensor.name().to_owned()).collect();
    let unused = checkpoint.names().filter(|name| !names.contains(*name));
    let mut unused: Vec<String> = unused.map(str::to_owned).collect();
    unused.sort();
    // They were read, and found finite, when the model was opened.
    used.extend(model.head_tensors);
    Ok(Report {
        tensors: used.len(),
        parameters: used.iter().map(|t| t.len()).sum(),
        unused,
    })
}
