//! Why work on the GPU failed.

use super::driver::DriverError;
use crate::error::Error;

/// Why a batch failed.
#[derive(Clone, Debug)]
pub enum Failure {
    /// A call of the driver, with the step that it was made for.
    Call(String, DriverError),
    /// The device was lost, in this call or an earlier one.
    Lost(DriverError),
}

impl From<DriverError> for Failure {
    fn from(error: DriverError) -> Failure {
        Failure::Call("a batch".into(), error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Call(step, source) => Error::Gpu { step, source },
            Failure::Lost(source) => Error::DeviceLost(source.to_string()),
        }
    }
}

/// Names the step in which a call of the driver failed: "upload of the weights", "layer 3 Fc1".
pub fn in_step(step: impl Into<String>) -> impl FnOnce(DriverError) -> Failure {
    |error| Failure::Call(step.into(), error)
}
