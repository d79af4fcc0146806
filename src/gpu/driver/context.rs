//! A device, opened; and the code that is loaded into it.

use std::ffi::CString;
use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::sys::{CUcontext, CUdevice, CUfunction, CUfunction_attribute, CUmodule, CUresult};

use super::{DeviceFacts, DriverError, Handle, call, device, devices, log};
use crate::error::{Error, Result};

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
    /// # Errors
    /// [`Error::Device`] if there is no CUDA or no such device, [`Error::Gpu`] if it cannot be opened.
    pub fn open(index: usize) -> Result<Context> {
        let facts = devices().map_err(|reason| Error::Device(reason.to_string()))?;
        let facts = facts.into_iter().nth(index);
        let facts = facts.ok_or_else(|| Error::Device(format!("there is no cuda:{index}")))?;
        let step = || format!("opening cuda:{index}");
        let device = device::ordinal(index).map_err(|e| e.at(step()))?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the device is the driver's; the place for the result is good.
        unsafe { call!(cuDevicePrimaryCtxRetain(&mut handle, device)) }.map_err(|e| e.at(step()))?;
        Ok(Context(Arc::new(Primary {
            handle: Handle(handle),
            device,
            facts,
        })))
    }

    pub fn facts(&self) -> &DeviceFacts {
        &self.0.facts
    }

    /// Makes this context the thread's, until the guard is dropped.
    pub fn enter(&self) -> Result<Entered<'_>, DriverError> {
        // SAFETY: the context is retained as long as `self`.
        unsafe { call!(cuCtxPushCurrent_v2(self.0.handle.0)) }?;
        Ok(Entered {
            context: PhantomData,
            thread: PhantomData,
        })
    }

    /// Bytes of the device's memory that nobody has, in this process or another.
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
    pub unsafe fn load(&self, name: &'static str, image: &[u8]) -> Result<Module, DriverError> {
        let _entered = self.enter()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the caller's; the place for the result is good.
        unsafe { call!(cuModuleLoadData(&mut handle, image.as_ptr().cast())) }.map_err(|e| e.of(name))?;
        Ok(Module(Arc::new(Loaded {
            handle: Handle(handle),
            name,
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

/// While this is there its context is the thread's current one; then the one before is again.
#[must_use]
pub struct Entered<'a> {
    context: PhantomData<&'a Context>,
    // It is of the thread that entered.
    thread: PhantomData<*const ()>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut popped = std::ptr::null_mut();
        // SAFETY: this thread pushed it, and guards are dropped in the order opposite to their making.
        log(unsafe { call!(cuCtxPopCurrent_v2(&mut popped)) });
    }
}

/// Code in a context, for as long as this or a function of it is there.
#[derive(Clone, Debug)]
pub struct Module(Arc<Loaded>);

#[derive(Debug)]
struct Loaded {
    handle: Handle<CUmodule>,
    name: &'static str,
    context: Context,
}

impl Module {
    /// An entry that takes one struct of `params_size` bytes.
    ///
    /// # Errors
    /// [`Error::Gpu`] if there is no such entry, [`Error::Internal`] if it takes something else.
    pub fn function(&self, entry: &'static str, params_size: usize) -> Result<Function> {
        let step = || format!("module {}, kernel {entry}", self.0.name);
        let name = CString::new(entry).map_err(|_| Error::Internal(format!("{} has a NUL", step())))?;
        let _entered = self.0.context.enter().map_err(|e| e.at(step()))?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the module is loaded; the name ends with NUL; the place for the result is good.
        unsafe { call!(cuModuleGetFunction(&mut handle, self.0.handle.0, name.as_ptr())) }
            .map_err(|e| e.at(step()))?;
        let parameter = |number| {
            let (mut offset, mut size) = (0, 0);
            // SAFETY: the function is the module's; the places for the results are good.
            unsafe { call!(cuFuncGetParamInfo(handle, number, &mut offset, &mut size)) }.map(|()| size)
        };
        let found = parameter(0).map_err(|e| e.at(step()))?;
        if found != params_size {
            return Err(Error::Internal(format!(
                "{} takes {found} bytes of parameters, the host has {params_size}: is src/gpu/params.rs stale?",
                step()
            )));
        }
        match parameter(1) {
            // There is none: what the driver says past the last.
            Err(error) if error.code == CUresult::CUDA_ERROR_INVALID_VALUE => {}
            Err(error) => return Err(error.at(step())),
            Ok(_) => {
                let problem = format!("{} takes more than one parameter", step());
                return Err(Error::Internal(problem));
            }
        }
        Ok(Function {
            handle: Handle(handle),
            entry,
            params_size,
            module: self.clone(),
        })
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
    entry: &'static str,
    params_size: usize,
    module: Module,
}

impl Function {
    pub fn entry(&self) -> &'static str {
        self.entry
    }

    /// Lets launches ask for this much shared memory; without, 48 KB is the most. It is the kernel's, for all
    /// who use this context: the largest has to be said last, so call it once.
    pub fn allow_shared(&self, bytes: u32) -> Result<(), DriverError> {
        let _entered = self.module.0.context.enter()?;
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
        // SAFETY: the function's module is loaded.
        unsafe { call!(cuFuncSetAttribute(self.handle.0, attribute, bytes)) }
            .map_err(|e| e.of(format!("{} to {bytes} bytes of shared memory", self.entry)))
    }

    pub(super) fn handle(&self) -> CUfunction {
        self.handle.0
    }

    pub(super) fn params_size(&self) -> usize {
        self.params_size
    }
}
