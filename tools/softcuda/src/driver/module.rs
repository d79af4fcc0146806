//! Modules: PTX text and fat binaries become kernels and variables. Functions and their attributes.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};

use super::fatbin;
use super::handle::Handle;
use super::result::{Answer, CUresult};
use super::state::{Function, Module};
use super::types::{CUdeviceptr, CUfunction};
use super::{Call, exports, list, present, put, put_if, string};
use crate::machine;

/// Registers per thread of a kernel that came without machine code. PTX does not say, and occupancy needs a number:
/// with 64 a block of 1024 threads just fits, as it does for kernels compiled without bounds.
const ASSUMED_REGISTERS: u32 = 64;

/// Code as the program gave it.
pub enum Image {
    Ptx(Vec<u8>),
    Fatbin(Vec<u8>),
}

/// Why an image cannot be loaded.
pub struct LoadFailure {
    pub error: CUresult,
    pub log: String,
}

impl LoadFailure {
    fn new(error: CUresult, log: impl Into<String>) -> Self {
        Self {
            error,
            log: log.into(),
        }
    }
}

impl Image {
    /// Copies an image out of the program's memory; its kind is told by its first bytes.
    ///
    /// # Safety
    /// `image` is null or the start of a fat binary, of the structure around one, of an ELF file, or of a text that
    /// ends with a NUL.
    pub unsafe fn read(image: *const c_void) -> Result<Self, LoadFailure> {
        let bytes = image.cast::<u8>();
        if bytes.is_null() {
            return Err(LoadFailure::new(CUresult::INVALID_VALUE, "the image is null"));
        }
        // Byte by byte: a text may be shorter than a word.
        // SAFETY: each byte is read only when those before it are not a NUL, which would end a text.
        let starts = |magic: [u8; 4]| (0..4).all(|at| unsafe { bytes.add(at).read() } == magic[at]);
        if starts(fatbin::WRAPPER_MAGIC.to_le_bytes()) {
            // SAFETY: the structure holds the container's address behind two words.
            let inner = unsafe { bytes.add(8).cast::<*const c_void>().read_unaligned() };
            // SAFETY: as this function asks of its caller.
            return unsafe { Self::read(inner) };
        }
        if starts(fatbin::MAGIC.to_le_bytes()) {
            // SAFETY: a container has at least its header.
            let header = unsafe { bytes.cast::<[u8; 16]>().read_unaligned() };
            let length = fatbin::length(&header)
                .ok_or_else(|| LoadFailure::new(CUresult::INVALID_IMAGE, "damaged fat binary"))?;
            // SAFETY: the header says how long the container is.
            let all = unsafe { std::slice::from_raw_parts(bytes, length) };
            return Ok(Image::Fatbin(all.to_vec()));
        }
        if starts(*b"\x7fELF") {
            return Err(cubin());
        }
        // SAFETY: what is none of these is a text.
        let text = unsafe { CStr::from_ptr(bytes.cast()) };
        Ok(Image::Ptx(text.to_bytes().to_vec()))
    }

    /// From a file's bytes.
    pub fn from_file(path: &CStr) -> Result<Self, LoadFailure> {
        let path = path.to_string_lossy();
        let bytes = std::fs::read(&*path).map_err(|error| {
            let kind = match error.kind() {
                std::io::ErrorKind::NotFound => CUresult::FILE_NOT_FOUND,
                _ => CUresult::INVALID_SOURCE,
            };
            LoadFailure::new(kind, format!("{path}: {error}"))
        })?;
        if bytes.starts_with(&fatbin::MAGIC.to_le_bytes()) {
            return Ok(Image::Fatbin(bytes));
        }
        if bytes.starts_with(b"\x7fELF") {
            return Err(cubin());
        }
        Ok(Image::Ptx(bytes))
    }
}

fn cubin() -> LoadFailure {
    LoadFailure::new(
        CUresult::NO_BINARY_FOR_GPU,
        format!(
            "the image is machine code (a cubin); softcuda runs PTX only. Compile with `nvcc --ptx`, or with \
             `nvcc --fatbin` and `{}`",
            fatbin::flag_to_add(80)
        ),
    )
}

impl Call {
    /// Loads an image into the current context.
    pub fn load(&mut self, image: &Image) -> Result<Handle<Module>, LoadFailure> {
        let plain = |error| LoadFailure::new(error, "");
        let context = self.current().map_err(plain)?;
        let device = self.current_device().map_err(plain)?;
        let capability = self.devices[device].profile().capability();
        let (ptx, target, registers) = match image {
            Image::Ptx(text) => {
                let target = fatbin::target(text);
                let number = target.map_or(0, |target| target.0);
                (text.clone(), number, HashMap::new())
            }
            Image::Fatbin(bytes) => {
                let loaded = fatbin::load(bytes, capability).map_err(|error| {
                    let result = match error {
                        fatbin::FatbinError::Damaged(_) => CUresult::INVALID_IMAGE,
                        fatbin::FatbinError::NoPtx(_) => CUresult::NO_BINARY_FOR_GPU,
                    };
                    LoadFailure::new(result, error.to_string())
                })?;
                (loaded.ptx, loaded.capability, loaded.registers)
            }
        };
        let machine = machine::Module::load(&ptx, &mut self.devices[device].machine).map_err(|error| {
            let result = match error {
                machine::LoadError::Memory(_) => CUresult::OUT_OF_MEMORY,
                _ => CUresult::INVALID_PTX,
            };
            LoadFailure::new(result, error.to_string())
        })?;
        Ok(self.modules.insert(Module {
            context,
            machine: Some(machine),
            functions: HashMap::new(),
            registers,
            ptx: target,
        }))
    }

    /// Loads, and says on stderr why that failed.
    pub fn load_or_say(&mut self, image: Result<Image, LoadFailure>) -> Answer<Handle<Module>> {
        image.and_then(|image| self.load(&image)).or_else(|failure| {
            if failure.log.is_empty() {
                return Err(failure.error);
            }
            self.refuse(failure.error, failure.log)
        })
    }

    /// A module's function, made when it is first asked for.
    pub fn function(&mut self, module: Handle<Module>, name: &CStr) -> Answer<Handle<Function>> {
        let text = name.to_str().map_err(|_| CUresult::NOT_FOUND)?;
        let found = self.modules.get(module)?;
        if let Some(&function) = found.functions.get(text) {
            return Ok(function);
        }
        let kernel = found
            .machine
            .as_ref()
            .and_then(|machine| machine.kernel(text))
            .ok_or(CUresult::NOT_FOUND)?;
        let limits = &kernel.limits;
        let assumed = || {
            let threads = limits
                .required_threads
                .or(limits.max_threads)
                .map(|n| n.iter().product());
            let blocks = limits.min_blocks_per_sm.unwrap_or(1);
            let bound = threads.map_or(ASSUMED_REGISTERS, |threads: u32| {
                65536 / (threads * blocks).max(1) / 8 * 8
            });
            ASSUMED_REGISTERS
                .min(bound)
                .min(limits.max_registers.unwrap_or(255))
                .max(16)
        };
        let registers = found.registers.get(text).copied().unwrap_or_else(assumed);
        let context = found.context;
        let most = self.devices[self.contexts.get(context)?.device]
            .profile()
            .shared_per_block;
        let cluster = limits.required_cluster.unwrap_or([0; 3]).map(|n| n as i32);
        let function = self.functions.insert(Function {
            module,
            context,
            name: name.to_owned(),
            registers,
            max_dynamic_shared: most.saturating_sub(kernel.static_shared),
            carveout: -1,
            non_portable_cluster: false,
            cluster_policy: 0,
            required_cluster: cluster,
            kernel,
        });
        self.modules
            .get_mut(module)?
            .functions
            .insert(text.to_owned(), function);
        Ok(function)
    }

    pub fn kernel_names(&self, module: Handle<Module>) -> Answer<Vec<CString>> {
        let module = self.modules.get(module)?;
        let kernels = module.machine.iter().flat_map(machine::Module::kernels);
        Ok(kernels.filter_map(|name| CString::new(&**name).ok()).collect())
    }

    /// Address and size of a module's variable.
    pub fn global(&self, module: Handle<Module>, name: &CStr) -> Answer<(u64, u64)> {
        let text = name.to_str().map_err(|_| CUresult::NOT_FOUND)?;
        let module = self.modules.get(module)?;
        let machine = module.machine.as_ref();
        machine
            .and_then(|machine| machine.global(text))
            .ok_or(CUresult::NOT_FOUND)
    }

    /// `CUfunction_attribute`
    pub fn function_attribute(&self, handle: Handle<Function>, attribute: c_uint) -> Answer<c_int> {
        let function = self.functions.get(handle)?;
        let device = self.contexts.get(function.context)?.device;
        let profile = self.devices[device].profile();
        let kernel = &function.kernel;
        let value = match attribute {
            0 => super::occupancy::most_threads(profile, &function.into()) as c_int,
            1 => kernel.static_shared as c_int,
            // Constant and local memory, as machine code would use them, are not known.
            2 | 3 => 0,
            4 => function.registers as c_int,
            5 => self.modules.get(function.module)?.ptx as c_int,
            6 => profile.capability() as c_int,
            7 => 0,
            8 => function.max_dynamic_shared as c_int,
            9 => function.carveout,
            10 => c_int::from(kernel.limits.explicit_cluster && kernel.limits.required_cluster.is_none()),
            11..=13 => function.required_cluster[attribute as usize - 11],
            14 => c_int::from(function.non_portable_cluster),
            15 => function.cluster_policy,
            _ => return Err(CUresult::INVALID_VALUE),
        };
        Ok(value)
    }

    pub fn set_function_attribute(
        &mut self,
        handle: Handle<Function>,
        attribute: c_uint,
        value: c_int,
    ) -> Answer {
        let function = self.functions.get(handle)?;
        let profile = self.devices[self.contexts.get(function.context)?.device].profile();
        match attribute {
            8 => {
                let fixed = function.kernel.static_shared;
                let most = profile.shared_per_block_optin.saturating_sub(fixed);
                match u32::try_from(value) {
                    Ok(value) if value <= most => self.functions.get_mut(handle)?.max_dynamic_shared = value,
                    _ => {
                        let text = format!(
                            "{value} bytes of dynamic shared memory for {:?}, which has {fixed} static ones; \
                             the device has {} per block",
                            function.name, profile.shared_per_block_optin
                        );
                        return self.refuse(CUresult::INVALID_VALUE, text);
                    }
                }
            }
            9 if (-1..=100).contains(&value) => self.functions.get_mut(handle)?.carveout = value,
            11..=13 if value >= 0 => {
                // Set by the compiler or by the program, not by both.
                if function.kernel.limits.required_cluster.is_some() {
                    return Err(CUresult::NOT_PERMITTED);
                }
                self.functions.get_mut(handle)?.required_cluster[attribute as usize - 11] = value;
            }
            14 => self.functions.get_mut(handle)?.non_portable_cluster = value != 0,
            15 if (0..=2).contains(&value) => self.functions.get_mut(handle)?.cluster_policy = value,
            _ => return Err(CUresult::INVALID_VALUE),
        }
        Ok(())
    }

    /// Offset and size of a parameter.
    ///
    /// # Safety
    /// The pointers are null or may be written.
    pub unsafe fn param_info(
        &self,
        function: Handle<Function>,
        index: usize,
        offset: *mut usize,
        size: *mut usize,
    ) -> Answer {
        let kernel = &self.functions.get(function)?.kernel;
        let param = kernel.params.get(index).ok_or(CUresult::INVALID_VALUE)?;
        // SAFETY: the caller vouches for them.
        unsafe {
            put(offset, param.offset as usize)?;
            put_if(size, param.size as usize);
        }
        Ok(())
    }
}

/// `CUjit_option`s that say where logs go.
struct Logs {
    error: *mut c_char,
    /// Place of the size in the list of values: in, the room; out, what was used.
    error_size: Option<usize>,
    info_size: Option<usize>,
    info: *mut c_char,
}

unsafe fn logs(options: &[c_uint], values: &[*mut c_void]) -> Logs {
    let mut logs = Logs {
        error: std::ptr::null_mut(),
        error_size: None,
        info: std::ptr::null_mut(),
        info_size: None,
    };
    for (place, (&option, &value)) in options.iter().zip(values).enumerate() {
        match option {
            3 => logs.info = value.cast(),
            4 => logs.info_size = Some(place),
            5 => logs.error = value.cast(),
            6 => logs.error_size = Some(place),
            _ => {}
        }
    }
    logs
}

/// Writes a log into the program's buffer and its length into the options.
unsafe fn write_log(buffer: *mut c_char, size: Option<usize>, values: *mut *mut c_void, text: &str) {
    let Some(place) = size else { return };
    // SAFETY: the option's value lies in the program's list; its buffer has the size that the value says.
    unsafe {
        let value = values.add(place);
        let room = *value as usize;
        let used = if text.is_empty() || buffer.is_null() || room == 0 {
            0
        } else {
            let _ = super::put_text(buffer, room, text);
            (text.len() + 1).min(room)
        };
        value.write(used as *mut c_void);
    }
}

/// Loads an image and fills in the logs that the options ask for.
///
/// # Safety
/// As `cuModuleLoadDataEx`'s.
pub unsafe fn load_with_options(
    call: &mut Call,
    image: *const c_void,
    options: &[c_uint],
    values: *mut *mut c_void,
) -> Answer<Handle<Module>> {
    // SAFETY: the caller vouches for the image and the options.
    unsafe {
        let logs = logs(options, list(values.cast_const(), options.len())?);
        let result = Image::read(image).and_then(|image| call.load(&image));
        let log = result.as_ref().err().map_or("", |failure| failure.log.as_str());
        write_log(logs.error, logs.error_size, values, log);
        write_log(logs.info, logs.info_size, values, "");
        result.or_else(|failure| {
            if failure.log.is_empty() {
                return Err(failure.error);
            }
            call.refuse(failure.error, failure.log)
        })
    }
}

exports! {
    fn cuModuleLoad(call, module: *mut Handle<Module>, path: *const c_char) {
        present(module)?;
        let image = Image::from_file(string(path)?);
        put(module, call.load_or_say(image)?)
    }
    fn cuModuleLoadData(call, module: *mut Handle<Module>, image: *const c_void) {
        present(module)?;
        call.current()?;
        put(module, call.load_or_say(Image::read(image))?)
    }
    fn cuModuleLoadDataEx(
        call, module: *mut Handle<Module>, image: *const c_void, number: c_uint, options: *const c_uint,
        values: *mut *mut c_void
    ) {
        present(module)?;
        call.current()?;
        let options = list(options, number as usize)?;
        put(module, load_with_options(call, image, options, values)?)
    }
    fn cuModuleLoadFatBinary(call, module: *mut Handle<Module>, image: *const c_void) {
        present(module)?;
        call.current()?;
        put(module, call.load_or_say(Image::read(image))?)
    }
    fn cuModuleUnload(call, module: Handle<Module>) {
        let context = call.modules.get(module)?.context;
        // Its kernels may still be waiting.
        call.run_context(context);
        call.check_unload(module);
        call.unload(module);
        Ok(())
    }
    fn cuModuleGetLoadingMode(_call, mode: *mut c_uint) {
        // Eager
        put(mode, 1)
    }
    fn cuModuleGetFunction(
        call, function: *mut CUfunction, module: Handle<Module>, name: *const c_char
    ) {
        present(function)?;
        put(function, call.function(module, string(name)?)?)
    }
    fn cuModuleGetFunctionCount(call, count: *mut c_uint, module: Handle<Module>) {
        put(count, call.kernel_names(module)?.len() as c_uint)
    }
    fn cuModuleEnumerateFunctions(
        call, functions: *mut CUfunction, number: c_uint, module: Handle<Module>
    ) {
        let names = call.kernel_names(module)?;
        if number > 0 {
            present(functions)?;
        }
        for (place, name) in names.iter().take(number as usize).enumerate() {
            put(functions.add(place), call.function(module, name)?)?;
        }
        Ok(())
    }
    fn cuModuleGetGlobal_v2(
        call, pointer: *mut CUdeviceptr, bytes: *mut usize, module: Handle<Module>, name: *const c_char
    ) {
        let (address, size) = call.global(module, string(name)?)?;
        put_if(pointer, address);
        put_if(bytes, size as usize);
        Ok(())
    }
    fn cuModuleGetTexRef(call, _reference: *mut *mut c_void, module: Handle<Module>, _name: *const c_char) {
        call.modules.get(module)?;
        Err(CUresult::NOT_FOUND)
    }
    fn cuModuleGetSurfRef(call, _reference: *mut *mut c_void, module: Handle<Module>, _name: *const c_char) {
        call.modules.get(module)?;
        Err(CUresult::NOT_FOUND)
    }

    fn cuFuncGetAttribute(call, value: *mut c_int, attribute: c_uint, function: CUfunction) {
        let function = call.resolve(function)?;
        put(value, call.function_attribute(function, attribute)?)
    }
    fn cuFuncSetAttribute(call, function: CUfunction, attribute: c_uint, value: c_int) {
        let function = call.resolve(function)?;
        call.set_function_attribute(function, attribute, value)
    }
    fn cuFuncSetCacheConfig(call, function: CUfunction, config: c_uint) {
        call.resolve(function)?;
        if config > 3 {
            return Err(CUresult::INVALID_VALUE);
        }
        Ok(())
    }
    fn cuFuncSetSharedMemConfig(call, function: CUfunction, config: c_uint) {
        call.resolve(function)?;
        if config > 2 {
            return Err(CUresult::INVALID_VALUE);
        }
        Ok(())
    }
    fn cuFuncGetModule(call, module: *mut Handle<Module>, function: CUfunction) {
        let function = call.resolve(function)?;
        put(module, call.functions.get(function)?.module)
    }
    fn cuFuncGetName(call, name: *mut *const c_char, function: CUfunction) {
        let function = call.resolve(function)?;
        put(name, call.functions.get(function)?.name.as_ptr())
    }
    fn cuFuncGetParamInfo(
        call, function: CUfunction, index: usize, offset: *mut usize, size: *mut usize
    ) {
        let function = call.resolve(function)?;
        call.param_info(function, index, offset, size)
    }
    fn cuFuncIsLoaded(call, state: *mut c_uint, function: CUfunction) {
        call.resolve(function)?;
        put(state, 1)
    }
    fn cuFuncLoad(call, function: CUfunction) {
        call.resolve(function).map(|_| ())
    }
}
