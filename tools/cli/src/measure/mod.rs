//! Measuring: what `ropeway bench` and `cargo bench` run.
//!
//! | | |
//! |---|---|
//! | [`kernels`] | every kernel of a pass alone, over the shapes of the model |
//! | [`kernels_on_cpu`] | every step of a pass on the CPU, within the pass, beside measured ceilings |
//! | [`count`](count()) | what each kernel does, counted under softcuda: no times |
//! | [`adapters`] | what adapters cost: K-extended and separate products over merged weights |
//! | [`encoder`] | whole calls: throughput, latency by its parts, start-up, memory |
//! | [`tune`] | what a prediction needs to know of a device: launch, memory, L2, a large product |
//! | [`load`] | a server under load, beside its peers and the engine without HTTP |
//! | [`Contestant`] | one set of inputs, run whenever it is told to: for `tools/peers` |
//! | `report` | rows with their ceiling: as a table and as JSON |
//! | `ceiling` | what the device can do at most: its matrix units at the highest clock, and a copy that is measured |
//!
//! Every row carries its ceiling: a time says little without it. Times are the device's own, of launches in a CUDA
//! graph, over memory that is not in L2, medians of many; what a row leaves out is said in its note. Those of whole calls
//! are the host's.

mod adapters;
mod batches;
mod ceiling;
mod contestant;
mod count;
mod encoder;
mod host;
mod kernels;
mod kernels_cpu;
mod load;
mod report;
mod tune;

pub use adapters::{adapters, table as adapters_table};
pub use ceiling::Ceilings;
pub use contestant::Contestant;
pub use count::{COUNTERS, count};
pub use encoder::{encoder, encoder_fastest, encoder_on_cpu, encoder_table, first_vector, startup};
pub use kernels::{KernelBench, kernels};
pub use kernels_cpu::kernels_on_cpu;
pub use load::{Load, Serve, load};
pub use report::markdown;
pub use tune::tune;

/// How much is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effort {
    /// All shapes, many repetitions: minutes on a GPU.
    #[default]
    Full,
    /// A few small shapes, few repetitions: to see that everything works, also under softcuda.
    Quick,
}
