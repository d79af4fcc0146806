//! Libraries and kernels: code that is loaded once and used from every context.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use super::handle::Handle;
use super::module::{Image, LoadFailure, load_with_options};
use super::result::{Answer, CUresult};
use super::state::{Function, Kernel, Library, Module};
use super::types::{CUdevice, CUdeviceptr, CUfunction, CUkernel};
use super::{Call, exports, list, present, put, put_if, string};

impl Call {
    fn add_library(&mut self, image: Result<Image, LoadFailure>) -> Answer<Handle<Library>> {
        let image = match image {
            Ok(image) => image,
            Err(failure) => return self.refuse(failure.error, failure.log),
        };
        let library = self.libraries.insert(Library {
            image: Arc::new(image),
            modules: HashMap::new(),
            kernels: HashMap::new(),
        });
        // What is wrong with it is said now where that is possible.
        if self.current().is_ok()
            && let Err(error) = self.library_module(library)
        {
            self.libraries.remove(library)?;
            return Err(error);
        }
        Ok(library)
    }

    /// The library's module in the current context.
    fn library_module(&mut self, handle: Handle<Library>) -> Answer<Handle<Module>> {
        let context = self.current()?;
        let library = self.libraries.get(handle)?;
        if let Some(&module) = library.modules.get(&context) {
            return Ok(module);
        }
        let image = library.image.clone();
        let module = match self.load(&image) {
            Ok(module) => module,
            Err(failure) => return self.refuse(failure.error, failure.log),
        };
        self.libraries.get_mut(handle)?.modules.insert(context, module);
        Ok(module)
    }

    /// A `CUfunction` argument, which may be a `CUkernel`: that means its function in the current context.
    pub fn resolve(&mut self, function: CUfunction) -> Answer<Handle<Function>> {
        if self.functions.contains(function) {
            return Ok(function);
        }
        let kernel = Handle::<Kernel>::from_bits(function.bits());
        self.kernel_function(kernel)
    }

    fn kernel_function(&mut self, kernel: Handle<Kernel>) -> Answer<Handle<Function>> {
        let found = self.kernels.get(kernel)?;
        let (library, name) = (found.library, found.name.clone());
        let module = self.library_module(library)?;
        self.function(module, &name)
    }

    fn library_kernel(&mut self, handle: Handle<Library>, name: &CStr) -> Answer<Handle<Kernel>> {
        let text = name.to_str().map_err(|_| CUresult::NOT_FOUND)?;
        if let Some(&kernel) = self.libraries.get(handle)?.kernels.get(text) {
            return Ok(kernel);
        }
        let module = self.library_module(handle)?;
        self.function(module, name)?;
        let kernel = self.kernels.insert(Kernel {
            library: handle,
            name: name.to_owned(),
        });
        let kernels = &mut self.libraries.get_mut(handle)?.kernels;
        kernels.insert(text.to_owned(), kernel);
        Ok(kernel)
    }

    /// A kernel's function on a device: in the current context, or in the device's primary one.
    fn on_device(&mut self, kernel: Handle<Kernel>, device: CUdevice) -> Answer<Handle<Function>> {
        if self.current_device()? as CUdevice != self.device(device).map(|_| device)? {
            return self.refuse(
                CUresult::INVALID_DEVICE,
                "a kernel's attributes are kept per context; make one of that device current",
            );
        }
        self.kernel_function(kernel)
    }
}

exports! {
    fn cuLibraryLoadData(
        call, library: *mut Handle<Library>, code: *const c_void, jit_options: *const c_uint,
        jit_values: *mut *mut c_void, number: c_uint, _options: *const c_uint, _values: *mut *mut c_void,
        _number_of_options: c_uint
    ) {
        present(library)?;
        let jit_options = list(jit_options, number as usize)?;
        if !jit_options.is_empty() && call.current().is_ok() {
            // Loaded once for the logs.
            let module = load_with_options(call, code, jit_options, jit_values)?;
            call.unload(module);
        }
        put(library, call.add_library(Image::read(code))?)
    }
    fn cuLibraryLoadFromFile(
        call, library: *mut Handle<Library>, path: *const c_char, _jit_options: *const c_uint,
        _jit_values: *mut *mut c_void, _number: c_uint, _options: *const c_uint, _values: *mut *mut c_void,
        _number_of_options: c_uint
    ) {
        present(library)?;
        let image = Image::from_file(string(path)?);
        put(library, call.add_library(image)?)
    }
    fn cuLibraryUnload(call, library: Handle<Library>) {
        let context = call.current();
        if let Ok(context) = context {
            call.run_context(context);
        }
        let removed = call.libraries.remove(library)?;
        for module in removed.modules.into_values() {
            call.check_unload(module);
            call.unload(module);
        }
        for kernel in removed.kernels.into_values() {
            call.kernels.remove(kernel)?;
        }
        Ok(())
    }
    fn cuLibraryGetKernel(
        call, kernel: *mut CUkernel, library: Handle<Library>, name: *const c_char
    ) {
        present(kernel)?;
        put(kernel, call.library_kernel(library, string(name)?)?)
    }
    fn cuLibraryGetKernelCount(call, count: *mut c_uint, library: Handle<Library>) {
        let module = call.library_module(library)?;
        put(count, call.kernel_names(module)?.len() as c_uint)
    }
    fn cuLibraryEnumerateKernels(
        call, kernels: *mut CUkernel, number: c_uint, library: Handle<Library>
    ) {
        let module = call.library_module(library)?;
        let names = call.kernel_names(module)?;
        if number > 0 {
            present(kernels)?;
        }
        for (place, name) in names.iter().take(number as usize).enumerate() {
            put(kernels.add(place), call.library_kernel(library, name)?)?;
        }
        Ok(())
    }
    fn cuLibraryGetModule(call, module: *mut Handle<Module>, library: Handle<Library>) {
        put(module, call.library_module(library)?)
    }
    fn cuLibraryGetGlobal(
        call, pointer: *mut CUdeviceptr, bytes: *mut usize, library: Handle<Library>, name: *const c_char
    ) {
        let module = call.library_module(library)?;
        let (address, size) = call.global(module, string(name)?)?;
        put_if(pointer, address);
        put_if(bytes, size as usize);
        Ok(())
    }
    fn cuLibraryGetManaged(
        call, _pointer: *mut CUdeviceptr, _bytes: *mut usize, library: Handle<Library>, _name: *const c_char
    ) {
        call.libraries.get(library)?;
        Err(CUresult::NOT_FOUND)
    }
    fn cuKernelGetFunction(call, function: *mut CUfunction, kernel: CUkernel) {
        put(function, call.kernel_function(kernel)?)
    }
    fn cuKernelGetLibrary(call, library: *mut Handle<Library>, kernel: CUkernel) {
        put(library, call.kernels.get(kernel)?.library)
    }
    fn cuKernelGetName(call, name: *mut *const c_char, kernel: CUkernel) {
        put(name, call.kernels.get(kernel)?.name.as_ptr())
    }
    fn cuKernelGetParamInfo(
        call, kernel: CUkernel, index: usize, offset: *mut usize, size: *mut usize
    ) {
        let function = call.kernel_function(kernel)?;
        call.param_info(function, index, offset, size)
    }
    fn cuKernelGetAttribute(
        call, value: *mut c_int, attribute: c_uint, kernel: CUkernel, device: CUdevice
    ) {
        let function = call.on_device(kernel, device)?;
        put(value, call.function_attribute(function, attribute)?)
    }
    fn cuKernelSetAttribute(
        call, attribute: c_uint, value: c_int, kernel: CUkernel, device: CUdevice
    ) {
        let function = call.on_device(kernel, device)?;
        call.set_function_attribute(function, attribute, value)
    }
    fn cuKernelSetCacheConfig(call, kernel: CUkernel, config: c_uint, device: CUdevice) {
        call.on_device(kernel, device)?;
        if config > 3 {
            return Err(CUresult::INVALID_VALUE);
        }
        Ok(())
    }
}
