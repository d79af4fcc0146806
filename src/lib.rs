//! A text-embedding encoder engine.
#![warn(missing_docs)]

mod batch;
mod cpu;
pub mod diff;
mod engine;
mod error;
pub mod model;
mod output;
mod plan;
mod prepare;
mod request;
mod text;

pub use engine::{Device, Engine, EngineBuilder, Memory};
pub use error::{Error, Result};
pub use model::hub;
pub use output::{Chunk, Embedding, Output, Vector};
pub use request::{Chunking, Embed, Encoding, Input, Pooling, Request, Weights, Windows};
