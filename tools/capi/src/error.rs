//! From failures to status codes and messages, and the fence that no panic crosses.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use ropeway::{Error, ParseError, RequestError};

use crate::types::ropeway_status::{self, *};

/// `Result` with [`Failure`].
pub type Result<T> = std::result::Result<T, Failure>;

/// A status and the message that goes with it.
#[derive(Clone, Debug)]
pub struct Failure {
    pub status: ropeway_status,
    pub message: String,
}

impl Failure {
    /// A wrong argument; the message names it.
    pub fn argument(message: impl Into<String>) -> Failure {
        Failure {
            status: ROPEWAY_ERROR_ARGUMENT,
            message: message.into(),
        }
    }

    /// With the number of the input before the message.
    pub fn at_input(self, index: usize) -> Failure {
        Failure {
            message: format!("input {index}: {}", self.message),
            ..self
        }
    }

    fn panic(panic: &(dyn Any + Send)) -> Failure {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("a panic");
        Error::Internal(text.to_owned()).into()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure {
            status: status(&error),
            message: error.to_string(),
        }
    }
}

impl From<ParseError> for Failure {
    fn from(error: ParseError) -> Failure {
        Failure::argument(error.to_string())
    }
}

fn status(error: &Error) -> ropeway_status {
    match error {
        Error::Io { .. } => ROPEWAY_ERROR_IO,
        Error::Model { .. } => ROPEWAY_ERROR_MODEL,
        Error::Tensor { .. } => ROPEWAY_ERROR_TENSOR,
        Error::Adapter { .. } => ROPEWAY_ERROR_ADAPTER,
        Error::Request(problem) => request_status(problem),
        Error::Setting { .. } => ROPEWAY_ERROR_ARGUMENT,
        // It says which input; the status says what is wrong with it.
        Error::Input { source, .. } => status(source),
        Error::Hub { .. } => ROPEWAY_ERROR_HUB,
        Error::Device(_) => ROPEWAY_ERROR_DEVICE,
        Error::Gpu { .. } => ROPEWAY_ERROR_GPU,
        Error::DeviceLost(_) => ROPEWAY_ERROR_DEVICE_LOST,
        Error::Internal(_) => ROPEWAY_ERROR_INTERNAL,
        _ => ROPEWAY_ERROR_OTHER,
    }
}

fn request_status(problem: &RequestError) -> ropeway_status {
    match problem {
        RequestError::UnknownTask { .. } | RequestError::UnknownAdapter { .. } => ROPEWAY_ERROR_UNKNOWN_TASK,
        RequestError::TooLong { .. } => ROPEWAY_ERROR_TOO_LONG,
        RequestError::Dimensions { .. }
        | RequestError::UntrainedDimensions { .. }
        | RequestError::BinaryDimensions { .. } => ROPEWAY_ERROR_DIMENSIONS,
        RequestError::NoIds | RequestError::IdOutOfRange { .. } => ROPEWAY_ERROR_IDS,
        _ => ROPEWAY_ERROR_REQUEST,
    }
}

/// For C: a NUL inside would end the string early.
pub fn c_string(text: impl Into<String>) -> CString {
    CString::new(text.into().replace('\0', "\u{fffd}")).unwrap_or_default()
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Runs a call. A failure becomes its status and this thread's last error; a panic becomes a failure.
pub fn guard(call: impl FnOnce() -> Result<()>) -> ropeway_status {
    // Nothing that a panic could leave half done is used afterwards: the engine has fences of its own,
    // and what a call builds is dropped.
    let result = catch_unwind(AssertUnwindSafe(call));
    match result.unwrap_or_else(|panic| Err(Failure::panic(&*panic))) {
        Ok(()) => ROPEWAY_OK,
        Err(failure) => {
            let status = failure.status;
            remember(failure.message);
            status
        }
    }
}

/// Makes a message this thread's last error. On a thread that is ending there is nobody to read it.
fn remember(message: String) {
    let _ = LAST.try_with(|last| *last.borrow_mut() = c_string(message));
}

/// As [`guard`], for what hands back a pointer: NULL is a failure.
pub fn guard_pointer<T>(call: impl FnOnce() -> Result<*const T>) -> *const T {
    let mut pointer = std::ptr::null();
    guard(|| {
        pointer = call()?;
        Ok(())
    });
    pointer
}

/// What went wrong in the last call on this thread that failed, and the way out; "" if none has. It holds
/// until the next failing call on this thread.
#[unsafe(no_mangle)]
pub extern "C" fn ropeway_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr())
        .unwrap_or(c"".as_ptr())
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    /// The variants of `ropeway::Error`, as its source has them: one that is added there must get a
    /// status here.
    #[test]
    fn every_error_has_a_status() {
        let source = include_str!("../../../src/error.rs");
        let body = source.split_once("pub enum Error {").unwrap().1;
        let body = body.split_once("\n}").unwrap().0;
        let variants = body
            .lines()
            .filter_map(|line| line.strip_prefix("    "))
            .filter(|line| line.starts_with(char::is_uppercase))
            .map(|line| line.split([' ', '(', ',']).next().unwrap());
        let here = include_str!("error.rs");
        let mut count = 0;
        for variant in variants {
            assert!(
                here.contains(&format!("Error::{variant} {{ .. }} =>"))
                    || here.contains(&format!("Error::{variant} {{ source, .. }} =>"))
                    || here.contains(&format!("Error::{variant}(_) =>"))
                    || here.contains(&format!("Error::{variant}(problem) =>")),
                "Error::{variant} has no status"
            );
            count += 1;
        }
        assert!(count >= 9, "found {count} variants alone");
    }

    #[test]
    fn a_panic_is_an_internal_error() {
        let status = guard(|| panic!("row {} of none", 7));
        assert_eq!(status, ROPEWAY_ERROR_INTERNAL);
        // SAFETY: it points to this thread's last error, which nothing changes meanwhile.
        let message = unsafe { CStr::from_ptr(ropeway_last_error()) };
        assert_eq!(message, c"internal error, please report it: row 7 of none");
    }

    #[test]
    fn a_nul_inside_a_message_does_not_end_it() {
        assert_eq!(c_string("a\0b").as_c_str(), c"a\u{fffd}b");
    }
}
