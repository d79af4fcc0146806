//! The CUDA driver. Nothing outside of this module calls it, and this module imports nothing of the crate.
//!
//! | | |
//! |---|---|
//! | `library` | whether the driver can be used; the reason and the remedy if not |
//! | `device` | the devices and their properties |
//! | `context` | a device's context, with modules and functions in it |
//! | `memory` | memory of the device, page-locked memory of the host |
//! | `stream` | work in order: launches, copies, graphs, events |
//! | `tensor_map` | how bulk tensor copies see a matrix |
//!
//! Every object holds its context and makes it current for the length of a call. So it can be used and dropped on
//! any thread, and another user of CUDA on that thread finds its own context again afterwards.
//! A failure while something is dropped is logged, never a panic.

mod context;
mod device;
mod library;
mod memory;
mod stream;
mod tensor_map;

use std::ffi::CStr;
use std::fmt;

use cudarc::driver::sys::{self, CUresult};

pub use context::{Context, Function, Module};
#[cfg(feature = "inspect")]
pub use device::clocks;
pub use device::{DeviceFacts, devices};
pub use library::{Unavailable, found, version};
pub use memory::{DeviceMemory, Pinned};
pub use stream::{Event, Graph, Serialization, Stream};
pub use tensor_map::{BOX_COLUMNS, Element, Matrix, tensor_map};

/// A call of the driver that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverError {
    call: &'static str,
    /// What the call was for: a kernel, a number of bytes.
    detail: String,
    code: CUresult,
    meaning: String,
}

impl DriverError {
    fn new(call: &'static str, code: CUresult) -> DriverError {
        DriverError {
            call,
            detail: String::new(),
            code,
            meaning: meaning(code),
        }
    }

    /// The same, with what the call was for.
    pub fn with_detail(mut self, detail: impl Into<String>) -> DriverError {
        self.detail = detail.into();
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
                // The state of the context is unknown; opening a new engine is the safe choice.
                | CUDA_ERROR_UNKNOWN
        )
    }

    /// Whether the device's memory, or the page-locked, did not suffice.
    pub fn is_out_of_memory(&self) -> bool {
        self.code == CUresult::CUDA_ERROR_OUT_OF_MEMORY
    }

    /// What the user can do about it.
    fn hint(&self) -> &'static str {
        use CUresult::*;
        if self.call == "cuInit" {
            return start_hint(self.code);
        }
        match self.code {
            CUDA_ERROR_OUT_OF_MEMORY => {
                "; use fewer batch_tokens, a lower concurrency or another device (nvidia-smi shows who uses its memory)"
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
            CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED | CUDA_ERROR_STREAM_CAPTURE_IMPLICIT => {
                "; another thread of this process captures a CUDA graph in global mode, which forbids this to all threads: \
                 let it capture in thread-local mode, or at another time"
            }
            _ if self.is_sticky() => {
                "; the device's context is lost. Kernels fail late: CUDA_LAUNCH_BLOCKING=1 shows which one it was"
            }
            _ => "",
        }
    }
}

/// What the user can do where `cuInit` fails. Nothing is lost then: the machine or the container is not set up.
fn start_hint(code: CUresult) -> &'static str {
    use CUresult::*;
    match code {
        CUDA_ERROR_UNKNOWN => {
            "; most often /dev/nvidia-uvm is missing or out of order: run `modprobe nvidia_uvm` or `nvidia-smi` on the host as \
             root, then start the container anew (after a suspend: reload the module nvidia_uvm)"
        }
        CUDA_ERROR_SYSTEM_NOT_READY => {
            "; the driver's services do not run: on a board with NVSwitch start the fabric manager of the driver's own \
             version (systemctl start nvidia-fabricmanager); nvidia-smi -q shows the fabric's state"
        }
        CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
            "; libcuda and the kernel's module are of different versions: reboot after an update of the driver; in a \
             container, take the host's libcuda, as by --gpus all, and not one of the image"
        }
        CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            "; the libcuda found is that of the package for forward compatibility (cuda-compat), which this GPU does not \
             support: take its folder off LD_LIBRARY_PATH, or update the driver"
        }
        CUDA_ERROR_OPERATING_SYSTEM => "; may this user read and write /dev/nvidiactl and /dev/nvidia0?",
        _ => "",
    }
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let call = self.call();
        let of = if self.detail.is_empty() { "" } else { " of " };
        let (detail, code, meaning, hint) = (&self.detail, self.code, &self.meaning, self.hint());
        write!(f, "{call}{of}{detail} failed: {code:?} ({meaning}){hint}")
    }
}

impl std::error::Error for DriverError {}

/// The driver's description of a code.
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

/// A handle of the driver: of a context, a stream, a function.
#[derive(Clone, Copy, Debug)]
struct Handle<T>(T);

// SAFETY: the driver's functions may be called from any thread; only the driver dereferences the pointer.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: shared handles are only passed to the driver, whose functions may be called from several threads at once.
unsafe impl<T> Sync for Handle<T> {}

/// Logs a failure that cannot be returned, because it happened in a `drop`.
fn log(outcome: Result<(), DriverError>) {
    if let Err(error) = outcome {
        tracing::debug!(%error, "while something was freed");
    }
}

#[cfg(test)]
mod tests;
