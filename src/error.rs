//! The library's one error type. Every message says what went wrong, where, and the way out.

use std::path::{Path, PathBuf};

use crate::gpu::driver::DriverError;

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in the library. It never panics on input.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened, mapped or read.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A model folder's file has wrong contents (configuration, index, header, tokenizer).
    #[error("{path}: {problem}", path = path.display())]
    Model {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// A tensor is missing or has the wrong type, shape or values.
    #[error("{path}: tensor `{tensor}`: {problem}", path = path.display())]
    Tensor {
        /// The file (or folder) it was looked for in.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// What was wanted and what was found.
        problem: String,
    },
    /// A LoRA adapter cannot be added, dropped or used.
    #[error("adapter `{name}`: {problem}")]
    Adapter {
        /// The adapter's name.
        name: String,
        /// What is wrong and the way out.
        problem: String,
    },
    /// An input or its options are not acceptable. The other inputs of the call are not affected.
    #[error("{0}")]
    Request(String),
    /// One of several inputs failed.
    #[error("input {index}: {source}")]
    Input {
        /// Its number, from 0.
        index: usize,
        /// Why.
        source: Box<Error>,
    },
    /// A model could not be had from the hub.
    #[error("model `{id}`: {problem}")]
    Hub {
        /// The hub id (`owner/name`).
        id: String,
        /// What is wrong and the way out.
        problem: String,
    },
    /// The requested device cannot be used.
    #[error("device: {0}")]
    Device(String),
    /// The GPU failed.
    #[error("{step}: {source}")]
    Gpu {
        /// What was being done: a step of the plan, or of opening the engine.
        step: String,
        /// The driver's call and what it said.
        source: DriverError,
    },
    /// The GPU failed earlier in a way that this engine does not survive.
    #[error(
        "the device failed earlier ({0}): open the engine anew; if that fails too, start the process anew"
    )]
    DeviceLost(String),
    /// A bug in ropeway: a worker panicked. The engine stays usable.
    #[error("internal error, please report it: {0}")]
    Internal(String),
}

impl Error {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Error {
        Error::Io {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn model(path: &Path, problem: impl Into<String>) -> Error {
        Error::Model {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }

    pub(crate) fn request(problem: impl Into<String>) -> Error {
        Error::Request(problem.into())
    }

    /// This error as that of input number `index`, from 0.
    pub fn at_input(self, index: usize) -> Error {
        Error::Input {
            index,
            source: Box::new(self),
        }
    }

    pub(crate) fn adapter(name: &str, problem: impl Into<String>) -> Error {
        Error::Adapter {
            name: name.to_owned(),
            problem: problem.into(),
        }
    }
}
