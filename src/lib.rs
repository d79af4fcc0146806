//! A compute engine for text-embedding encoders: jina-embeddings-v3 above all, and the BERT and
//! XLM-RoBERTa families.
//!
//! ```no_run
//! use ropeway::{Embed, Engine};
//!
//! let engine = Engine::open("jinaai/jina-embeddings-v3")?;
//! let query = engine.embed(&["How do I reset my password?"], &Embed::task("retrieval.query"))?;
//! let passages = ["Click “Forgot password” on the sign-in page.", "Our office is open from 9 to 5."];
//! let passages = engine.embed(&passages, &Embed::task("retrieval.passage"))?;
//! # let (query, passages) = (query, passages);
//! # Ok::<(), ropeway::Error>(())
//! ```
//!
//! Requests of any kind go through together: every input of a call may name its own task, a
//! weighted mixture of adapters, a Matryoshka size, a pooling, chunks. Nothing is padded, and no
//! result depends on its batch-mates, bit for bit.
//!
//! ```no_run
//! # use ropeway::{Chunking, Embed, Engine, Request};
//! # let engine = Engine::open("jinaai/jina-embeddings-v3")?;
//! let query = Embed::task("retrieval.query").dimensions(256);
//! let blend = Embed::mixture([("separation", 0.7), ("classification", 0.3)]);
//! let document = Embed::task("retrieval.passage").chunks(Chunking::Sentences);
//! let results = engine.embed_batch(&[
//!     Request::text("reset password", &query),
//!     Request::text("The package never arrived.", &blend),
//!     Request::text("A long document. It has many sentences. Each becomes a chunk.", &document),
//! ]);
//! for chunk in results[2].as_ref().expect("a good request").chunks().unwrap_or_default() {
//!     println!("{}..{}: {:?}", chunk.start, chunk.end, chunk.embedding);
//! }
//! # Ok::<(), ropeway::Error>(())
//! ```
//!
//! # The way of a batch
//!
//! strings → `text` (prefix, tokenise, cut at the limit, chunk spans) → `prepare` (a request becomes
//! sequences) → `batch` (packed end to end, no padding) → `plan` (the steps, as plain data) → `cpu` or
//! `gpu` (one `match`, one arm per step, each arm one kernel) → `output` (the encoding asked for). Both executors run
//! the same kind of plan. The module `inspect` (a feature of its own) shows it, compares two runs of it step by step,
//! and times and counts single kernels.
//!
//! # Layers
//!
//! No module imports from one below it in this table; a test reads the table and the imports.
//!
//! | layer | |
//! |---|---|
//! | `gpu::driver` | the CUDA driver; imports nothing of the crate |
//! | `error` | the errors, which may hold one of the driver's |
//! | `precision` | number types and numerics classes |
//! | `device` | where an engine computes |
//! | `request` | inputs and their options |
//! | `output` | vectors in their encodings |
//! | `phases` | times of the phases of opening an engine |
//! | `kernels` | the kernels' parameters and constants, and the embedded table of compiled kernels: data, no driver |
//! | `tile` | the tiles of the kernels that have several: one table of sizes, and the choice by shape |
//! | `model` | configuration, weights, adapters |
//! | `text` | tokenisation and chunks |
//! | `batch` | sequences packed for one pass |
//! | `prepare` | from requests to sequences and batches, from rows to results |
//! | `plan` | the steps of a pass and the buffers that they use |
//! | `cost` | what a step must compute and move |
//! | `cpu` | the CPU executor |
//! | `gpu` | the GPU executor |
//! | `devices` | the devices of this machine |
//! | `context_pool` | execution contexts that calls take turns with |
//! | `engine` | a model, opened |
//! | `inspect` | a pass taken apart |
#![warn(missing_docs)]

// The README's example is compiled with the doc-tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod batch;
mod context_pool;
mod cost;
mod cpu;
mod device;
mod devices;
mod engine;
mod error;
mod gpu;
#[cfg(feature = "inspect")]
pub mod inspect;
mod kernels;
pub mod model;
mod output;
#[cfg_attr(not(feature = "inspect"), allow(dead_code))]
mod phases;
#[cfg_attr(not(feature = "inspect"), allow(dead_code))]
mod plan;
mod precision;
mod prepare;
mod request;
mod text;
mod tile;

pub use cost::Cost;
pub use device::{Device, Uuid, UuidPrefix};
pub use devices::{CudaInfo, DeviceInfo, devices};
pub use engine::{Engine, EngineBuilder, Memory};
pub use error::{Error, Result};
pub use gpu::driver::DriverError;
pub use kernels::{KernelModule, Kernels, kernels};
pub use model::ModelConfig;
#[cfg(feature = "hub")]
pub use model::hub;
pub use output::{Chunk, Embedding, Output, Vector};
pub use precision::{Numerics, Precision};
pub use request::{Chunking, Embed, Encoding, Input, Pooling, Request, Weights, Windows};
