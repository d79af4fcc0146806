//! The kernels of `cuda/` on a device, against what they compute written plainly in float64.
//!
//! | | |
//! |---|---|
//! | `device` | the driver API: modules, launches, buffers, guards around outputs |
//! | `numbers` | 16-bit types, random numbers, the tolerance |
//! | `rows` | what the row kernels have in common: shapes, adapters, LayerNorm and down-projection written plainly |
//! | `counts` | what the launches of each kernel cost, as softcuda counts it |
//! | `attention`, `embed`, `gemm`, `layernorm`, `lora_down`, `pool` | a kernel each: its reference, its table of cases, its tests |

use crate::exhaustive;

mod attention;
mod counts;
mod device;
mod embed;
mod gemm;
mod layernorm;
mod lora_down;
mod numbers;
#[allow(dead_code)] // The build's hash of the header is another test's.
#[path = "../../../src/kernels/params.rs"]
#[rustfmt::skip] // As bindgen writes it.
mod params;
mod pool;
mod rows;

/// Says which case a failed assertion is of.
struct Case<'a>(&'a dyn std::fmt::Debug);

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in the case {:?}", self.0);
        }
    }
}
