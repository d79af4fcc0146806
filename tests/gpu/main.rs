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
//! `ROPEWAY_TEST_ALL=1` takes every fixture, seed, shape and call. `ROPEWAY_TEST_SEED=N` lets random cases begin with the
//! seed N: a failure names the one that brings it back.
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

/// Tests `few` random cases, or `all` of them if everything is wanted, each from a seed of its own: the same ones unless
/// `ROPEWAY_TEST_SEED` says otherwise. Prints the seed of one that fails.
fn for_each_seed(few: u64, all: u64, test: impl Fn(u64)) {
    struct Seed(u64);
    impl Drop for Seed {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("with ROPEWAY_TEST_SEED={}", self.0);
            }
        }
    }
    let first =
        std::env::var("ROPEWAY_TEST_SEED").map_or(1, |seed| seed.parse().expect("the seed is a number"));
    for turn in 0..if exhaustive() { all } else { few } {
        let seed = Seed(u64::wrapping_add(first, turn));
        test(seed.0);
    }
}
