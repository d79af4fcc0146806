//! A compute engine for text-embedding encoders: jina-embeddings-v3 above all, and the BERT and
//! XLM-RoBERTa families.
//!
//! ```sh
//! cargo add ropeway --path path/to/the/clone     # not on crates.io yet
//! ```
//!
//! ```no_run
//! use ropeway::{Embed, Engine};
//!
//! // A folder; Engine::from_hub("jinaai/jina-embeddings-v3") takes a model from the hub.
//! let engine = Engine::open("models/jina-embeddings-v3")?;
//! let query = engine.embed(&["How do I reset my password?"], &Embed::task("retrieval.query"))?;
//! let passages = ["Click “Forgot password” on the sign-in page.", "Our office is open from 9 to 5."];
//! for passage in engine.embed(&passages, &Embed::task("retrieval.passage"))? {
//!     let vector: Vec<f32> = passage.into_f32()?;
//!     println!("{vector:?}");
//! }
//! # let _ = query;
//! # Ok::<(), ropeway::Error>(())
//! ```
//!
//! Opened once, an [`Engine`] can be shared between threads. It computes on the CPU in float32, bf16 or int8, or on an NVIDIA
//! GPU in bf16 or f16: [`Device`] and [`Precision`] choose.
//!
//! Requests of any kind go through together: every input of a call may name its own task, a weighted mixture of
//! adapters, a Matryoshka size, a pooling, chunks. Nothing is padded, and no result depends on its batch-mates, bit for
//! bit. A bad request is an [`Error`] of its own, which a server can match on, and does not hurt the others.
//!
//! ```no_run
//! # use ropeway::{Chunking, Embed, Engine, Request};
//! # let engine = Engine::open("models/jina-embeddings-v3")?;
//! let query = Embed::task("retrieval.query").dimensions(256);
//! let blend = Embed::mixture([("separation", 0.7), ("classification", 0.3)]);
//! let document = Embed::task("retrieval.passage").chunks(Chunking::Sentences);
//! let mut results = engine.embed_batch(&[
//!     Request::text("reset password", &query),
//!     Request::text("The package never arrived.", &blend),
//!     Request::text("A long document. It has many sentences. Each becomes a chunk.", &document),
//! ]);
//! for chunk in results.remove(2)?.into_chunks()? {
//!     println!("{}..{}: {:?}", chunk.start, chunk.end, chunk.vector.into_f32()?);
//! }
//! # Ok::<(), ropeway::Error>(())
//! ```
//!
//! A program with many callers puts a [`service::Service`] before the engine, which merges their requests into passes.
//!
//! # Features
//!
//! | feature | default | |
//! |---|---|---|
//! | `hub` | yes | `Engine::from_hub` and the module `hub`: models by their hub id, from the cache or downloaded. Without it there is no network code and no TLS |
//! | `inspect` | no | the module `inspect`: the plan of a batch as data, traced runs, times and counts of single kernels |
//!
//! GPU kernels need no feature: a build that finds nvcc embeds them, and the CUDA driver is loaded when an engine opens.
//!
//! # The way of a batch
//!
//! 1. `text`: a string gets its prompt, is tokenised and cut at the limit; a document gets the spans of its chunks.
//! 2. `prepare`: a request becomes one sequence of token ids, or the windows of a long document.
//! 3. `batch`: the sequences are packed end to end, without padding, up to the token budget.
//! 4. `plan`: the steps of the pass, as plain data, the same whatever runs them.
//! 5. `cpu` or `gpu`: one `match` over the steps, one kernel per arm. A vector leaves the device in its final size and
//!    encoding, unless modules after pooling follow (Dense, LayerNorm), which are computed on the host.
//! 6. `output`: the vectors of each request become its [`Embedding`].
//!
//! The module `inspect` shows the plan, compares two runs of it step by step, and times and counts single kernels.
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
//! | `tile` | the tiles of the kernels that have several: one table of sizes, and the choice by estimated time |
//! | `model` | configuration, weights, adapters |
//! | `hub` | models by their hub id, from the cache or downloaded |
//! | `text` | tokenisation and chunks |
//! | `batch` | sequences packed for one pass |
//! | `prepare` | from requests to sequences and batches, from rows to results |
//! | `plan` | the steps of a pass and the buffers that they use |
//! | `cost` | what a step must compute and move, and how long that should take |
//! | `cpu` | the CPU executor |
//! | `gpu` | the GPU executor |
//! | `devices` | the devices of this machine |
//! | `context_pool` | execution contexts that calls take turns with |
//! | `engine` | a model, opened |
//! | `service` | requests of many callers merged into passes |
//! | `verify` | whether a model's outputs make sense |
//! | `notices` | what the engine says beside its results, as text |
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
#[cfg(feature = "hub")]
pub mod hub;
#[cfg(feature = "inspect")]
pub mod inspect;
mod kernels;
pub mod model;
pub mod notices;
mod output;
#[cfg_attr(not(feature = "inspect"), allow(dead_code))]
mod phases;
#[cfg_attr(not(feature = "inspect"), allow(dead_code))]
mod plan;
mod precision;
mod prepare;
mod request;
pub mod service;
mod text;
mod tile;
mod verify;

/// The crate of [`half::f16`], which [`Vector::F16`] holds.
pub use half;

pub use cost::Cost;
pub use device::{Device, KernelChoice};
pub use devices::{CudaDevice, DeviceInfo, devices, has_cuda_driver};
pub use engine::{Engine, EngineBuilder, Memory};
pub use error::{AdapterError, Error, KnownNames, ParseError, RequestError, Result};
pub use gpu::driver::DriverError;
pub use model::ModelConfig;
pub use output::{Chunk, Embedding, Output, Vector};
pub use precision::{Numerics, Precision};
pub use request::{AdapterSelection, Chunking, Embed, Encoding, Input, Pooling, Request};
pub use text::Token;
