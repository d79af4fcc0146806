//! A device's context, and the code that is loaded into it.

use std::cell::Cell;
use std::ffi::CString;
use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::sys::{CUcontext, CUdevice, CUfunction, CUfunction_attribute, CUmodule, CUresult};

use super::{DeviceFacts, DriverError, Handle, call, device, library, log};

/// A device's primary context, which it shares with the CUDA runtime API. It lives as long as one of its
/// clones or anything made in it.
#[derive(Clone, Debug)]
pub struct Context(Arc<Primary>);

#[derive(Debug)]
struct Primary {
    handle: Handle<CUcontext>,
    device: CUdevice,
    facts: DeviceFacts,
}

impl Context {
    /// Opens a device, one of [`devices`](super::devices).
    pub fn open(facts: DeviceFacts) -> Result<Context, DriverError> {
        let device = device::ordinal(facts.index)?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the device is the driver's; the place for the result is good.
        unsafe { call!(cuDevicePrimaryCtxRetain(&mut handle, device)) }?;
        Ok(Context(Arc::new(Primary {
            handle: Handle(handle),
            device,
            facts,
        })))
    }

    pub fn facts(&self) -> &DeviceFacts {
        &self.0.facts
    }

    /// Makes this context the thread's, until the guard is dropped. Within a guard of the same context, a further one
    /// costs no call of the driver.
    pub fn enter(&self) -> Result<Entered<'_>, DriverError> {
        let outer = ENTERED.get();
        let pushed = outer != self.0.handle.0;
        if pushed {
            // SAFETY: the context is retained as long as `self`.
            unsafe { call!(cuCtxPushCurrent_v2(self.0.handle.0)) }?;
            ENTERED.set(self.0.handle.0);
        }
        Ok(Entered {
            outer: pushed.then_some(outer),
            context: PhantomData,
            thread: PhantomData,
        })
    }

    /// Bytes of the device's memory that no process has allocated.
    #[cfg(feature = "inspect")]
    pub fn free_memory(&self) -> Result<u64, DriverError> {
        let _entered = self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: the places for the results are good.
        unsafe { call!(cuMemGetInfo_v2(&mut free, &mut total)) }?;
        Ok(free as u64)
    }

    /// Loads a fatbin, which has to be whole: it says its own length. `name` is for messages.
    ///
    /// # Safety
    /// `image` is a fatbin that nvcc made, aligned to 8 bytes. The driver believes all that it says.
    pub unsafe fn load(&self, name: &str, image: &[u8]) -> Result<Module, DriverError> {
        let _entered = self.enter()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the caller's; the place for the result is good.
        unsafe { call!(cuModuleLoadData(&mut handle, image.as_ptr().cast())) }
            .map_err(|e| e.with_detail(name))?;
        Ok(Module(Arc::new(Loaded {
            handle: Handle(handle),
            context: self.clone(),
        })))
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        // SAFETY: retained once by `open`. All that was made in it held it, and is gone.
        log(unsafe { call!(cuDevicePrimaryCtxRelease_v2(self.device)) });
    }
}

thread_local! {
    /// The context of the thread's innermost guard; null without one.
    static ENTERED: Cell<CUcontext> = const { Cell::new(std::ptr::null_mut()) };
}

/// Keeps a context current on its thread; when it is dropped, the previous one is current again.
#[must_use]
pub struct Entered<'a> {
    /// What [`ENTERED`] was, if this guard has pushed its context.
    outer: Option<CUcontext>,
    context: PhantomData<&'a Context>,
    // It is of the thread that entered.
    thread: PhantomData<*const ()>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let Some(outer) = self.outer else { return };
        ENTERED.set(outer);
        let mut popped = std::ptr::null_mut();
        // SAFETY: this thread pushed it, and guards are dropped in the order opposite to their making.
        log(unsafe { call!(cuCtxPopCurrent_v2(&mut popped)) });
    }
}

/// Code in a context, unloaded when this and all of its functions are dropped.
#[derive(Clone, Debug)]
pub struct Module(Arc<Loaded>);

#[derive(Debug)]
struct Loaded {
    handle: Handle<CUmodule>,
    context: Context,
}

impl Module {
    /// An entry of the module.
    pub fn function(&self, entry: &str) -> Result<Function, DriverError> {
        let get = "cuModuleGetFunction";
        let name = CString::new(entry).map_err(|_| DriverError::new(get, CUresult::CUDA_ERROR_NOT_FOUND))?;
        let _entered = self.0.context.enter()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the module is loaded; the name ends with NUL; the place for the result is good.
        unsafe { call!(cuModuleGetFunction(&mut handle, self.0.handle.0, name.as_ptr())) }?;
        Ok(Function {
            handle: Handle(handle),
            entry: entry.to_owned(),
            params: match library::has("cuFuncGetParamInfo") {
                true => Some(params(handle)?),
                false => None,
            },
            module: self.clone(),
        })
    }
}

/// The size of each parameter of a kernel, whose context is current.
fn params(function: CUfunction) -> Result<Vec<usize>, DriverError> {
    let mut params = Vec::new();
    loop {
        let (mut offset, mut size) = (0, 0);
        // SAFETY: the function's module is loaded; the places for the results are good.
        match unsafe { call!(cuFuncGetParamInfo(function, params.len(), &mut offset, &mut size)) } {
            Ok(()) => params.push(size),
            // There is no such parameter.
            Err(error) if !params.is_empty() && error.code == CUresult::CUDA_ERROR_INVALID_VALUE => {
                return Ok(params);
            }
            Err(error) => return Err(error),
        }
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        log(self.context.enter().and_then(|_entered| {
            // SAFETY: loaded by `load`, unloaded once; its functions held it.
            unsafe { call!(cuModuleUnload(self.handle.0)) }
        }));
    }
}

/// A kernel.
#[derive(Clone, Debug)]
pub struct Function {
    handle: Handle<CUfunction>,
    entry: String,
    /// The size of each parameter, where the driver tells it.
    params: Option<Vec<usize>>,
    module: Module,
}

impl Function {
    pub fn entry(&self) -> &str {
        &self.entry
    }

    /// The size of each parameter in bytes; `None` before CUDA 12.4, whose driver does not tell it.
    pub fn params(&self) -> Option<&[usize]> {
        self.params.as_deref()
    }

    /// Allows launches this much dynamic shared memory; the default limit is 48 KB. The limit is the kernel's, for all
    /// users of the context, and the last call decides.
    pub fn allow_shared(&self, bytes: u32) -> Result<(), DriverError> {
        let _entered = self.module.0.context.enter()?;
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
        // SAFETY: the function's module is loaded.
        unsafe { call!(cuFuncSetAttribute(self.handle.0, attribute, bytes)) }
            .map_err(|e| e.with_detail(format!("{} to {bytes} bytes of shared memory", self.entry)))
    }

    pub(super) fn handle(&self) -> CUfunction {
        self.handle.0
    }
}
