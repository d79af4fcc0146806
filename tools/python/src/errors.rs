//! The engine's errors as the exceptions of `ropeway/errors.py`, and the package's own.

use std::fmt::{Debug, Display};

use pyo3::prelude::*;
use ropeway::service::ServiceError;
use ropeway::{Error, ParseError};

/// An exception of the class `name`. Without Python's module, which belongs to the package, it is that failure.
pub fn raise(py: Python<'_>, name: &str, message: impl Display) -> PyErr {
    let made = py
        .import("ropeway.errors")
        .and_then(|errors| errors.getattr(name)?.call1((message.to_string(),)));
    match made {
        Ok(exception) => PyErr::from_value(exception),
        Err(failure) => failure,
    }
}

/// The name of an enum's variant.
fn kind(error: &impl Debug) -> String {
    let text = format!("{error:?}");
    text.chars().take_while(|c| c.is_alphanumeric()).collect()
}

/// The exception of an engine's error, with its attributes `kind` and `index`.
pub fn of_engine(py: Python<'_>, error: &Error) -> PyErr {
    let (cause, index) = match error {
        Error::Input { index, source } => (&**source, Some(*index)),
        other => (other, None),
    };
    let (class, kind) = match cause {
        Error::Io { .. } => ("FileError", kind(cause)),
        Error::Model { .. } | Error::Tensor { .. } => ("ModelError", kind(cause)),
        Error::Adapter { problem, .. } => ("AdapterError", kind(problem)),
        Error::Request(problem) => ("RequestError", kind(problem)),
        Error::Setting { .. } => ("SettingError", kind(cause)),
        Error::Hub { .. } => ("HubError", kind(cause)),
        Error::DeviceLost(_) => ("DeviceLostError", kind(cause)),
        Error::Device(_) | Error::Gpu { .. } => ("DeviceError", kind(cause)),
        _ => ("InternalError", kind(cause)),
    };
    let raised = raise(py, class, error);
    let value = raised.value(py);
    let set = value
        .setattr("kind", kind)
        .and_then(|()| value.setattr("index", index));
    set.map_or_else(|failure| failure, |()| raised)
}

/// The exception of a service's error, with `retry_after` in seconds where it says so.
pub fn of_service(py: Python<'_>, error: &ServiceError) -> PyErr {
    match error {
        ServiceError::Engine(error) => of_engine(py, error),
        ServiceError::Overloaded { retry_after } => {
            let raised = raise(py, "OverloadedError", error);
            let set = raised.value(py).setattr("retry_after", retry_after.as_secs_f64());
            set.map_or_else(|failure| failure, |()| raised)
        }
        other => raise(py, "StoppedError", other),
    }
}

/// The exception for a word that is none of those known.
pub fn of_word(py: Python<'_>, setting: &str, error: &ParseError) -> PyErr {
    raise(py, "SettingError", format_args!("{setting}: {error}"))
}
