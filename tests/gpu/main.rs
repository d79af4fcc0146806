//! What needs a GPU: the kernels of `cuda/` one by one, the engine that drives them, and how they
//! are measured.
//!
//! The device is whatever libcuda the loader finds: a GPU's driver, or softcuda, which runs the same
//! kernels on the CPU, reports races, uninitialised reads and accesses out of bounds as well, counts the
//! driver's calls and makes them fail:
//!
//! ```sh
//! cargo test --test gpu                                           # on a GPU
//! SOFTCUDA_DEVICE=sm_90 tools/softcuda/run cargo test --test gpu  # without one
//! cargo test --test gpu kernels::                                 # a part: kernels::, engine:: or bench::
//! ```
//!
//! Without either the tests are skipped, and say so; `ROPEWAY_GPU_TESTS=require` makes that a failure.
//! `ROPEWAY_TEST_ALL=1` takes every fixture, seed, shape and call.
//!
//! It is one program, so that one file taken to a machine with a GPU tests all there is, and a test of the package
//! `ropeway-cli`, since it runs the command line as well.

mod bench;
#[path = "../common/mod.rs"]
mod common;
mod engine;
mod kernels;

/// Whether everything is wanted.
fn exhaustive() -> bool {
    std::env::var_os("ROPEWAY_TEST_ALL").is_some()
}
