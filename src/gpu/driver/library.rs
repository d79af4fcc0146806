//! The driver's library. cudarc panics if it or one of its functions is missing, so both are checked once, before
//! anything is called.

use std::fmt;
use std::sync::OnceLock;

use cudarc::driver::sys::{self, CUresult};

use super::{DriverError, call};

/// The oldest version of CUDA whose driver has all of [`FUNCTIONS`]. (What kernels need is their build's to say.)
const OLDEST: i32 = 12000;
/// NVIDIA's first driver for it.
const OLDEST_RELEASE: &str = "525";

/// Functions that came after [`OLDEST`], with the version of CUDA since when. Each has another way around it: see [`has`].
pub(super) const NEWER: &[(&str, i32)] = &[("cuFuncGetParamInfo", 12040)];

/// Every other function that is called, by the name it has in the library. (A test compares both with the calls.)
pub(super) const FUNCTIONS: &[&str] = &[
    "cuCtxPopCurrent_v2",
    "cuCtxPushCurrent_v2",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceGetUuid_v2",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncSetAttribute",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuInit",
    "cuLaunchKernelEx",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
    "cuTensorMapEncodeTiled",
];

/// Why CUDA cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// The loader finds no libcuda.
    NoLibrary,
    /// The toolkit's stub library, which serves linking alone.
    Stub,
    /// The library lacks these functions.
    Missing(Vec<&'static str>),
    /// The driver is for this version of CUDA, older than [`OLDEST`].
    Old(i32),
    /// The driver works, but finds no device.
    NoDevice {
        /// `CUDA_VISIBLE_DEVICES`, where it is set.
        visible: Option<String>,
    },
    /// The driver does not start, or does not list its devices.
    Failed(DriverError),
    /// The driver was started, and then the process forked: CUDA does not work in the child.
    Forked,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let oldest = shown(OLDEST);
        match self {
            Unavailable::NoLibrary => write!(
                f,
                "no CUDA driver: the loader finds neither libcuda.so nor libcuda.so.1; install NVIDIA's driver (in a \
                 container: run it with the GPU, as by --gpus all)"
            ),
            Unavailable::Stub => write!(
                f,
                "the libcuda found is the CUDA toolkit's stub, which only serves linking; take its folder off \
                 LD_LIBRARY_PATH"
            ),
            Unavailable::Missing(functions) => {
                let (named, more) = functions.split_at(functions.len().min(3));
                let more = match more.len() {
                    0 => String::new(),
                    more => format!(" and {more} functions more"),
                };
                write!(
                    f,
                    "the libcuda found lacks {}{more}; is it NVIDIA's, for CUDA {oldest} or later?",
                    named.join(", ")
                )
            }
            Unavailable::Old(found) => write!(
                f,
                "the driver is for CUDA {}; {oldest} or later is needed: install driver {OLDEST_RELEASE} or newer",
                shown(*found)
            ),
            Unavailable::NoDevice { visible: None } => write!(f, "the CUDA driver finds no GPU"),
            Unavailable::NoDevice { visible: Some(list) } => {
                write!(
                    f,
                    "the CUDA driver finds no GPU, with CUDA_VISIBLE_DEVICES={list}"
                )
            }
            Unavailable::Failed(error) => write!(f, "the CUDA driver does not work: {error}"),
            Unavailable::Forked => write!(
                f,
                "the process was forked after it had started the CUDA driver, which does not work in the child: fork before \
                 an engine is opened, or start the child as a new program (in Python: the start method `spawn`)"
            ),
        }
    }
}

/// Major and minor version: 12040 is 12.4.
fn numbers(version: i32) -> (u32, u32) {
    let version = u32::try_from(version).unwrap_or(0);
    (version / 1000, version % 1000 / 10)
}

fn shown(version: i32) -> String {
    let (major, minor) = numbers(version);
    format!("{major}.{minor}")
}

/// The version of CUDA that the driver is for: `(13, 0)`.
pub fn version() -> Result<(u32, u32), Unavailable> {
    start().map(numbers)
}

/// Whether the loader finds a library of the driver's name, whatever it is worth.
pub fn found() -> bool {
    // SAFETY: loads the library, whose initialisers are the driver's own.
    unsafe { sys::is_culib_present() }
}

/// Whether the driver has one of the functions that came later.
pub(super) fn has(function: &str) -> bool {
    let since = NEWER.iter().find(|(name, _)| *name == function);
    since.is_some_and(|(_, since)| start().is_ok_and(|version| version >= *since))
}

/// A function that has another name in cudarc's bindings, which are those of the newest CUDA, or none.
///
/// # Safety
/// `F` is the function's type, and it is one of [`FUNCTIONS`].
#[cfg(feature = "inspect")]
pub(super) unsafe fn symbol<F: Copy>(name: &str) -> F {
    // SAFETY: the caller's; the driver was started, so that all of them are there, and it is never unloaded.
    unsafe {
        *sys::culib()
            .get::<F>(name.as_bytes())
            .expect("it was looked for at the start")
    }
}

/// Starts the driver, once. No other function may be called before this has succeeded.
pub(super) fn start() -> Result<i32, Unavailable> {
    /// With the process that started it.
    static STARTED: OnceLock<(u32, Result<i32, Unavailable>)> = OnceLock::new();
    let process = std::process::id();
    let (by, outcome) = STARTED.get_or_init(|| (process, try_start()));
    match outcome {
        Ok(_) if *by != process => Err(Unavailable::Forked),
        outcome => outcome.clone(),
    }
}

fn try_start() -> Result<i32, Unavailable> {
    // SAFETY: what the loader finds under this name is the driver; what it does when loaded is on it.
    if !unsafe { sys::is_culib_present() } {
        return Err(Unavailable::NoLibrary);
    }
    // These, since there is CUDA; the rest only after the version, which says more than a missing name does.
    require(&["cuInit", "cuDriverGetVersion", "cuGetErrorString"])?;
    // SAFETY: the functions are there.
    let started = unsafe { sys::cuInit(0) };
    let mut version = 0;
    // SAFETY: the place for the result is good.
    unsafe { call!(cuDriverGetVersion(&mut version)) }.map_err(Unavailable::Failed)?;
    judge(started, version)?;
    require(FUNCTIONS)?;
    let newer = NEWER.iter().filter(|(_, since)| version >= *since);
    require(&newer.map(|(name, _)| *name).collect::<Vec<_>>())?;
    Ok(version)
}

/// Whether a driver can be used, by the result of `cuInit` and its version of CUDA.
pub(super) fn judge(started: CUresult, version: i32) -> Result<(), Unavailable> {
    match started {
        CUresult::CUDA_ERROR_STUB_LIBRARY => Err(Unavailable::Stub),
        // First, since an old driver may fail in other ways for being old.
        _ if version < OLDEST => Err(Unavailable::Old(version)),
        CUresult::CUDA_SUCCESS => Ok(()),
        CUresult::CUDA_ERROR_NO_DEVICE => Err(no_device()),
        code => Err(Unavailable::Failed(DriverError::new("cuInit", code))),
    }
}

pub(super) fn no_device() -> Unavailable {
    Unavailable::NoDevice {
        visible: std::env::var("CUDA_VISIBLE_DEVICES").ok(),
    }
}

/// Checks that the library has all of these functions.
fn require(functions: &[&'static str]) -> Result<(), Unavailable> {
    // SAFETY: the library is there, so that this does not panic; no function is called through the type.
    let there = |name: &str| unsafe { sys::culib().get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_ok();
    let missing: Vec<_> = functions.iter().copied().filter(|name| !there(name)).collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Unavailable::Missing(missing))
    }
}
