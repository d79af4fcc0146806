//! The kernels of `cuda/` on a device, against what they compute written plainly in float64.
//!
//! The device is whatever libcuda the loader finds: a GPU's driver, or softcuda, which runs the same
//! kernels on the CPU and reports races, uninitialised reads and accesses out of bounds as well:
//!
//! ```sh
//! cargo test --test kernels                                          # on a GPU
//! SOFTCUDA_DEVICE=sm_90 tools/softcuda/run cargo test --test kernels # without one
//! ```
//!
//! Without either the tests are skipped, and say so; `ROPEWAY_GPU_TESTS=require` makes that a failure.
//! `ROPEWAY_TEST_ALL=1` takes all shapes and more seeds.
//!
//! | | |
//! |---|---|
//! | `device` | the driver API: modules, launches, buffers, guards around outputs |
//! | `numbers` | 16-bit types, random numbers, the tolerance |
//! | `rows` | what the row kernels have in common: shapes, adapters, LayerNorm and down-projection written plainly |
//! | `counts` | what the launches of each kernel cost, as softcuda counts it |
//! | `attention`, `embed`, `gemm`, `layernorm`, `lora_down`, `pool` | a kernel each: its reference, its table of cases, its tests |

mod attention;
mod counts;
mod device;
mod embed;
mod gemm;
mod layernorm;
mod lora_down;
mod numbers;
#[allow(dead_code)] // The build's hash of the header is another test's.
#[path = "../../src/gpu/params.rs"]
#[rustfmt::skip] // As bindgen writes it.
mod params;
mod pool;
mod rows;

/// Whether every shape and more seeds are wanted.
fn exhaustive() -> bool {
    std::env::var_os("ROPEWAY_TEST_ALL").is_some()
}

/// Says which case a failed assertion is of.
struct Case<'a>(&'a dyn std::fmt::Debug);

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in the case {:?}", self.0);
        }
    }
}
