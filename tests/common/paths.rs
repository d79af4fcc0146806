//! Where a test program finds what it needs.
//!
//! Cargo told it when it was built. On another machine (`tools/gpu/run`) the environment tells:
//!
//! | variable | instead of |
//! |---|---|
//! | `ROPEWAY_TEST_ROOT` | the repository, of which `tests/golden` and `models` are read |
//! | `ROPEWAY_TEST_BINARY` | the `ropeway` that was built with the tests |
//! | `ROPEWAY_TEST_SCRATCH` | the folder for the models and other files that tests write |

use std::path::{Path, PathBuf};

/// The repository: the package's own folder, or one above it.
pub fn root() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = built
        .ancestors()
        .find(|folder| folder.join("tests/golden").is_dir());
    told("ROPEWAY_TEST_ROOT", root.unwrap_or(built))
}

/// The command line; only its own package's tests can ask for it.
pub fn binary() -> PathBuf {
    told(
        "ROPEWAY_TEST_BINARY",
        option_env!("CARGO_BIN_EXE_ropeway").unwrap_or("ropeway"),
    )
}

pub fn scratch() -> PathBuf {
    told("ROPEWAY_TEST_SCRATCH", env!("CARGO_TARGET_TMPDIR"))
}

fn told(variable: &str, built: impl AsRef<Path>) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| built.as_ref().to_owned(), PathBuf::from)
}
