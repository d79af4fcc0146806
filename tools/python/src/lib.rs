//! The Python package's compiled part, the module `ropeway._ropeway`. What users call, and its documentation, is Python:
//! `python/ropeway`. This part takes texts and options, lets go of the GIL, runs the engine and makes numpy arrays.

mod bridge;
mod engine;
mod errors;
mod notices;
mod options;
mod results;

use pyo3::prelude::*;

/// What `ropeway/__init__.py` imports.
#[pymodule]
fn _ropeway(module: &Bound<'_, PyModule>) -> PyResult<()> {
    notices::listen();
    module.add_class::<engine::Engine>()?;
    module.add_class::<bridge::Ticket>()?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
