//! A pass taken apart: its plan as data, every buffer of a run, times and counts of single kernels.
//!
//! For microbenchmarks and for research on adapter fusion; the feature `inspect` enables it, and the command
//! line's `diff` and `bench` are written on it. [`Pass`] packs requests as a call of the engine would:
//!
//! ```no_run
//! use ropeway::inspect::{Pass, Rotation};
//! use ropeway::{Embed, Engine, Request};
//!
//! let engine = Engine::open("models/jina-embeddings-v3")?;
//! let options = Embed::task("retrieval.query");
//! let pass = Pass::new(&engine, &[Request::text("reset password", &options)])?;
//! println!("{}\n{:?}", pass.plan(), pass.cost());
//! // Every buffer, as soon as a step has written it.
//! pass.trace(&mut |step, buffer, values| println!("{step} -> {buffer}: {}", values.len()))?;
//! // On a GPU: each kernel alone, by the device's clock.
//! pass.time_steps(Rotation::FULL, |timer| {
//!     for kind in 0..timer.kinds() {
//!         println!("{}: {} µs", timer.describe(kind).launch.shape, timer.time(kind)?);
//!     }
//!     Ok(())
//! })?;
//! # Ok::<(), ropeway::Error>(())
//! ```
//!
//! | | |
//! |---|---|
//! | [`Pass`] | requests packed into one pass: its plan and cost, a traced run, timed steps, single launches |
//! | [`compare`], [`compare_with`], [`trace`] | one plan on two executors, step by step |
//! | [`AdapterLab`] | random adapters beside the engine's own, applied in each of the ways |
//! | [`time_call`], [`open_phases`] | the parts of a call, and of opening an engine |
//! | [`CpuStep`], [`cpu_limits`] | the steps of a pass on the CPU, timed, and what that CPU can do at most |
//! | [`DeviceRates`] | what a device does per second, and what a plan is predicted to take on it, which need not be there |
//! | [`kernels`] | the GPU kernels that this build embeds |
//! | [`DeviceLimits`], [`copy_bandwidth`], [`MemoryProbe`] | what the engine's GPU is, and its memory |
//!
//! What the plan shows may change with any version: it describes the kernels of this one.

mod adapters;
mod cpu;
mod device;
mod diff;
mod launches;
mod pass;
mod predict;
mod random;

pub use adapters::AdapterLab;
pub use cpu::{CpuStep, Limits, cpu_limits};
pub use device::{DeviceLimits, MemoryProbe, copy_bandwidth};
pub use diff::{Difference, Executor, Side, compare, compare_with, trace};
pub use launches::LaunchInfo;
pub use pass::{CallTimes, Pass, StepInfo, StepTimer, open_phases, time_call};
pub use predict::StepPrediction;
pub use random::Random;

pub use crate::cost::predict::{Bound, Prediction};
pub use crate::cost::rates::{DeviceRates, MeasuredRates, RatesSource};
pub use crate::gpu::measure::time::{PassTimes, Rotation};
pub use crate::kernels::{KernelModule, Kernels, kernels};
pub use crate::model::adapter::Site;
pub use crate::plan::{
    Buffer, BufferId, Form, Fusion, GpuOptions, Name, NormSite, Op, Output, Plan, Step, Variant,
};
pub use crate::tile::{
    AttentionTile, GemmTile, Multiprocessors, ProductTile, SPLIT16, Sm90Attention, Sm90Tile, TileShape,
};
