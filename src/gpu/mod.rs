//! The GPU side: the kernels of `cuda/`, compiled into this library by `build.rs`, and the runtime that
//! launches them. [`Gpu::run`] is the way of one batch.
//!
//! | | |
//! |---|---|
//! | `backend` | a model on a device: open, run a batch, trace a plan |
//! | `lane` | a stream, the memory of a pass, the CUDA graphs made so far |
//! | `packed` | what a batch sends up, and the output vectors that come back |
//! | `exec` | from a plan's steps to launches: one arm per op, as data |
//! | `entries` | the kernels of one model, and their launch |
//! | `weights`, `adapters`, `merged`, `upload` | a model's numbers on the device |
//! | `once` | each kernel of a pass launched once, to be counted |
//! | `timing` | what passes and steps take, by the device's clock |
//! | `kernels` | the table of compiled kernels, empty where the build had no nvcc; which of them a device runs |
//! | `params` | the kernels' parameter structs and tile constants, made from `cuda/params.h` by `tools/bindgen` |
//! | `numbers` | float32 to the 16-bit types |
//! | `driver` | the CUDA driver; nothing else calls it |

pub(crate) mod adapters;
mod backend;
pub(crate) mod driver;
mod entries;
pub(crate) mod exec;
pub mod kernels;
mod lane;
pub(crate) mod merged;
mod numbers;
#[cfg(feature = "inspect")]
mod once;
mod packed;
#[allow(dead_code)] // Some constants are for the kernels alone.
#[rustfmt::skip] // As bindgen writes it.
pub(crate) mod params;
#[cfg(test)]
mod testing;
#[cfg(feature = "inspect")]
pub(crate) mod timing;
mod upload;
mod weights;

pub(crate) use backend::{Failure, Gpu, Options};
pub(crate) use entries::check;
pub(crate) use lane::Lane;

/// What stands ahead of a record of an output vector, in units of 16 bits.
pub(crate) const RECORD_HEAD: usize = params::POOL_HEAD_BYTES as usize / 2;

#[cfg(test)]
mod tests {
    use super::params::HEADER_FNV1A;

    #[test]
    fn params_are_made_from_this_header() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda/params.h");
        let header = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        assert_eq!(
            header.iter().fold(0xcbf2_9ce4_8422_2325, step),
            HEADER_FNV1A,
            "src/gpu/params.rs is stale: run tools/bindgen/run and commit what it writes"
        );
    }
}
