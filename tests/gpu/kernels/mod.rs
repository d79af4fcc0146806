//! The kernels of `cuda/` on a device, against straightforward references in float64.
//!
//! | | |
//! |---|---|
//! | `device` | the driver API: modules, launches, buffers, guards around outputs |
//! | `numbers` | 16-bit types, random numbers, the tolerance |
//! | `rows` | what the row kernels share: shapes, adapters, references of LayerNorm and down-projection |
//! | `counts` | what the launches of each kernel do, as softcuda counts it |
//! | `gelu` | the polynomial of GELU over all of float32 |
//! | `attention`, `down_gemm`, `embed`, `gemm`, `layernorm`, `lora_down`, `norm_gemm`, `pool` | one kernel each: its reference, its table of cases, its tests |

use crate::{exhaustive, for_each_seed};

mod attention;
mod counts;
mod device;
mod down_gemm;
mod embed;
mod gelu;
mod gemm;
mod layernorm;
mod lora_down;
mod norm_gemm;
mod numbers;
#[allow(dead_code)] // The build's hash of the header is another test's.
#[path = "../../../src/kernels/params.rs"]
#[rustfmt::skip] // As bindgen writes it.
mod params;
mod pool;
mod rows;

/// Prints the case of a failed assertion.
struct Case<'a>(&'a dyn std::fmt::Debug);

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in the case {:?}", self.0);
        }
    }
}
