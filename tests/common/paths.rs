//! Where a test program finds what it needs.
//!
//! Cargo told it when it was built. On another machine (`tools/gpu/run`) the environment tells:
//!
//! | variable | instead of |
//! |---|---|
//! | `ROPEWAY_TEST_ROOT` | the repository, of which `tests/golden` and `models` are read |
//! | `ROPEWAY_TEST_BINARY` | the `ropeway` that was built with the tests |
//! | `ROPEWAY_TEST_SCRATCH` | the folder for the models and other files that tests write |

use std::path::PathBuf;

pub fn root() -> PathBuf {
    told("ROPEWAY_TEST_ROOT", env!("CARGO_MANIFEST_DIR"))
}

pub fn binary() -> PathBuf {
    told("ROPEWAY_TEST_BINARY", env!("CARGO_BIN_EXE_ropeway"))
}

pub fn scratch() -> PathBuf {
    told("ROPEWAY_TEST_SCRATCH", env!("CARGO_TARGET_TMPDIR"))
}

fn told(variable: &str, built: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| built.into(), PathBuf::from)
}
