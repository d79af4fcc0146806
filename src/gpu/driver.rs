//! The CUDA driver: this module and those below it are all of the library that sees it.
//!
//! | | |
//! |---|---|
//! | `library` | whether the driver can be used at all; why not, and the way out |
//! | `device` | what devices there are; which one is meant |
//! | `context` | a device, opened; modules and functions in it |
//! | `memory` | memory of the device, page-locked memory of the host |
//! | `stream` | work in order: launches, copies, graphs, events |
//!
//! Everything holds its context and makes it current for the length of a call, so that any of it can be
//! used and dropped on any thread, and another user of CUDA on that thread finds its own context again.
//! A failure while something is dropped is logged, never a panic.

mod context;
mod device;
mod library;
mod memory;
mod stream;

use std::ffi::CStr;
use std::fmt;

use cudarc::driver::sys::{self, CUresult};

use crate::error::Error;

pub use context::{Context, Function, Module};
#[allow(unused_imports)] // `find` is what opening an engine on a GPU begins with.
pub use device::{Clocks, DeviceFacts, clocks, devices, find};
pub use library::{Unavailable, version};
#[allow(unused_imports)] // As above: its types.
pub use memory::{DeviceMemory, Pinned};
#[allow(unused_imports)] // As above.
pub use stream::{Event, Graph, Stream};

/// A call of the driver that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverError {
    call: &'static str,
    of: String,
    code: CUresult,
    meaning: String,
}

impl DriverError {
    fn new(call: &'static str, code: CUresult) -> DriverError {
        DriverError {
            call,
            of: String::new(),
            code,
            meaning: meaning(code),
        }
    }

    /// What the call was for: a kernel, a number of bytes.
    fn of(mut self, what: impl Into<String>) -> DriverError {
        self.of = what.into();
        self
    }

    /// The driver's function, as the CUDA documentation names it: `cuMemAlloc`.
    pub fn call(&self) -> &'static str {
        self.call.trim_end_matches("_v2")
    }

    /// The driver's code for the failure, a `CUresult`: 2.
    pub fn code(&self) -> u32 {
        self.code as u32
    }

    /// The name of that code: `CUDA_ERROR_OUT_OF_MEMORY`.
    pub fn name(&self) -> String {
        format!("{:?}", self.code)
    }

    /// What the driver says of that code: `out of memory`.
    pub fn message(&self) -> &str {
        &self.meaning
    }

    /// Whether the context is lost with this: every later call in it fails as well.
    pub fn is_sticky(&self) -> bool {
        use CUresult::*;
        matches!(
            self.code,
            CUDA_ERROR_DEINITIALIZED
                | CUDA_ERROR_ECC_UNCORRECTABLE
                | CUDA_ERROR_NVLINK_UNCORRECTABLE
                | CUDA_ERROR_CONTAINED
                | CUDA_ERROR_ILLEGAL_ADDRESS
                | CUDA_ERROR_LAUNCH_TIMEOUT
                | CUDA_ERROR_CONTEXT_IS_DESTROYED
                | CUDA_ERROR_ASSERT
                | CUDA_ERROR_HARDWARE_STACK_ERROR
                | CUDA_ERROR_ILLEGAL_INSTRUCTION
                | CUDA_ERROR_MISALIGNED_ADDRESS
                | CUDA_ERROR_INVALID_ADDRESS_SPACE
                | CUDA_ERROR_INVALID_PC
                | CUDA_ERROR_LAUNCH_FAILED
                | CUDA_ERROR_TENSOR_MEMORY_LEAK
                | CUDA_ERROR_MPS_CLIENT_TERMINATED
                | CUDA_ERROR_EXTERNAL_DEVICE
                // Nobody knows what is left; an engine opened anew is the safe side.
                | CUDA_ERROR_UNKNOWN
        )
    }

    /// Whether the device's memory, or the page-locked, did not suffice.
    pub fn is_out_of_memory(&self) -> bool {
        self.code == CUresult::CUDA_ERROR_OUT_OF_MEMORY
    }

    /// The library's error, `step` being what failed: "upload of the weights", "layer 3, fc1".
    pub(crate) fn at(self, step: impl Into<String>) -> Error {
        Error::Gpu {
            step: step.into(),
            source: self,
        }
    }

    fn way_out(&self) -> &'static str {
        use CUresult::*;
        match self.code {
            CUDA_ERROR_OUT_OF_MEMORY => {
                "; use fewer batch_tokens or less concurrency, or another device (nvidia-smi shows who uses its memory)"
            }
            CUDA_ERROR_DEVICE_UNAVAILABLE => {
                "; another process has the device for itself: nvidia-smi shows it"
            }
            CUDA_ERROR_NO_BINARY_FOR_GPU
            | CUDA_ERROR_UNSUPPORTED_PTX_VERSION
            | CUDA_ERROR_JIT_COMPILER_NOT_FOUND
            | CUDA_ERROR_JIT_COMPILATION_DISABLED => {
                "; this driver cannot compile the embedded PTX for its device: update it, or build ropeway for the device"
            }
            CUDA_ERROR_ECC_UNCORRECTABLE | CUDA_ERROR_NVLINK_UNCORRECTABLE => {
                "; the hardware failed: see nvidia-smi -q and the system's log"
            }
            _ if self.is_sticky() => {
                "; the device's context is lost. Kernels fail late: CUDA_LAUNCH_BLOCKING=1 shows which one it was"
            }
            _ => "",
        }
    }
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let call = self.call();
        let of = if self.of.is_empty() { "" } else { " of " };
        let (what, code, meaning, way_out) = (&self.of, self.code, &self.meaning, self.way_out());
        write!(f, "{call}{of}{what} failed: {code:?} ({meaning}){way_out}")
    }
}

impl std::error::Error for DriverError {}

/// In the driver's words.
fn meaning(code: CUresult) -> String {
    let mut text = std::ptr::null();
    // SAFETY: the place for the result is good.
    let found = unsafe { sys::cuGetErrorString(code, &mut text) };
    if found != CUresult::CUDA_SUCCESS || text.is_null() {
        return "the driver does not say what that is".into();
    }
    // SAFETY: the driver's strings end with NUL and live as long as the process.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// A call of the driver and its outcome: `call!(cuMemFree_v2(address))`. Unsafe, as the call is.
macro_rules! call {
    ($function:ident($($argument:expr),* $(,)?)) => {
        match cudarc::driver::sys::$function($($argument),*) {
            cudarc::driver::sys::CUresult::CUDA_SUCCESS => Ok(()),
            code => Err($crate::gpu::driver::DriverError::new(stringify!($function), code)),
        }
    };
}
use call;

/// A name that the driver gave: a context, a stream, a function.
#[derive(Clone, Copy, Debug)]
struct Handle<T>(T);

// SAFETY: the driver's functions may be called from any thread, also at the same time; nobody but the driver
// follows the pointer.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Handle<T> {}

/// Says what went wrong where nobody can be told.
fn log(outcome: Result<(), DriverError>) {
    if let Err(error) = outcome {
        tracing::debug!(%error, "while something was freed");
    }
}

#[cfg(test)]
mod tests;
