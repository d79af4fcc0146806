//! The GPU side: the kernels of `cuda/`, compiled into this library by `build.rs`, and what the host
//! must know to launch them.
//!
//! | | |
//! |---|---|
//! | `kernels` | the table of compiled kernels, empty where the build had no nvcc |
//! | `params` | the kernels' parameter structs and tile constants, made from `cuda/params.h` by `tools/bindgen` |
//!
//! Nothing here launches anything yet. What will is to be the one place that calls the driver; the
//! structs below it stay plain data, checked against the header when they are compiled and against the
//! kernels' own parameter sizes by the tests.

pub mod kernels;
#[allow(dead_code)] // What launches kernels will fill them in; the tests measure them.
#[rustfmt::skip] // As bindgen writes it.
mod params;

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
