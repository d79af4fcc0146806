//! The engine on a GPU, through its public interface: text or ids in, vectors out.
//!
//! The device is whatever libcuda the loader finds: a GPU's driver, or softcuda, which runs the same
//! kernels on the CPU, checks them, counts the driver's calls and makes them fail:
//!
//! ```sh
//! cargo test --test gpu                                           # on a GPU
//! SOFTCUDA_DEVICE=sm_80 tools/softcuda/run cargo test --test gpu  # without one
//! ```
//!
//! Without either the tests are skipped, and say so; `ROPEWAY_GPU_TESTS=require` makes that a failure.
//! `ROPEWAY_TEST_ALL=1` takes every fixture, seed, shape and call. What does not depend on the device runs on
//! one of softcuda's alone ([`device::Gpu::is_first`]).
//!
//! | | |
//! |---|---|
//! | `golden` | the vectors of reference implementations: tasks, sizes, poolings, chunks, encodings, families |
//! | `steps` | every step against the CPU's float32, and which step a planted difference is found at |
//! | `invariance` | a result depends on its own input alone, bit for bit |
//! | `adapters` | adapters that come and go, and broken ones |
//! | `calls` | the driver's calls in steady state |
//! | `faults` | each of the driver's calls fails once |
//! | `schedules` | other orders of blocks and warps |
//! | `counts` | what each kernel does, against what is kept in `benches/` |
//! | `cli` | the command line |
//! | `device`, `child` | the device under test; child processes, for what softcuda is told by the environment |

mod adapters;
mod calls;
mod child;
mod cli;
#[path = "../common/mod.rs"]
mod common;
mod counts;
mod device;
mod faults;
mod golden;
mod invariance;
mod schedules;
mod steps;

/// Whether everything is wanted.
fn exhaustive() -> bool {
    std::env::var_os("ROPEWAY_TEST_ALL").is_some()
}
