//! The GPU side: the kernels of `cuda/`, compiled into this library by `build.rs`, and what the host
//! must know to launch them.
//!
//! | | |
//! |---|---|
//! | `driver` | the CUDA driver: whether there is one, devices, memory, streams, graphs; all that sees cudarc |
//! | `kernels` | the table of compiled kernels, empty where the build had no nvcc; kernels to be launched |
//! | `weights` | a model's base weights on the device |
//! | `adapters` | the loaded adapters on the device, side by side |
//! | `merged` | weights with one adapter added to them |
//! | `upload` | how all these get there |
//! | `numbers` | float32 to 16 bits |
//! | `params` | the kernels' parameter structs and tile constants, made from `cuda/params.h` by `tools/bindgen` |
//!
//! The structs stay plain data, checked against the header when they are compiled, against the kernels' own
//! parameter sizes by the tests, and once more against the module when a kernel is loaded.

#[allow(dead_code)] // As `driver`: what runs a plan will use it.
pub mod adapters;
#[allow(dead_code)] // What runs a plan on the GPU will call all of it; today `devices` and the tests do.
pub mod driver;
#[allow(dead_code)] // As above: launches.
pub mod kernels;
#[allow(dead_code)] // As above.
pub mod merged;
#[allow(dead_code)] // As above.
mod numbers;
#[allow(dead_code)] // What launches kernels will fill them in; the tests measure them.
#[rustfmt::skip] // As bindgen writes it.
mod params;
#[cfg(test)]
mod testing;
#[allow(dead_code)] // As above.
pub mod upload;
#[allow(dead_code)] // As above.
pub mod weights;

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
