//! The device under test, through the CUDA driver API: a GPU, or `tools/softcuda/run` in its place.
//!
//! Inputs are allocations of exactly their size: softcuda and compute-sanitizer report every access past
//! them. Outputs lie between guards, and every element begins as a NaN with bits that no kernel writes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::io::Write as _;
use std::marker::PhantomData;
use std::sync::{Condvar, Mutex, Once, PoisonError};

use bytemuck::Pod;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use ropeway::inspect::kernels;

use super::numbers::Number;

/// An address outside of every allocation, for pointers that a kernel must not dereference.
pub const WILD: u64 = 0xdead_0000;

/// Two of these bytes mark an unwritten element: a NaN as bfloat16, float16 and float32.
pub const SENTINEL: [u8; 2] = 0x7fa5_u16.to_le_bytes();

/// Bytes on both sides of an output.
const GUARD: usize = 512;

/// A context on the first device. Each test has its own, on its own thread, so that a failing kernel breaks no other
/// test.
pub struct Device {
    context: sys::CUcontext,
    modules: RefCell<HashMap<&'static str, sys::CUmodule>>,
    _place: Place,
}

/// Contexts at the same time: each takes some 0.5 GB of a GPU, and there may be a test for every core.
const CONTEXTS: usize = 4;
static CONTEXTS_LEFT: (Mutex<usize>, Condvar) = (Mutex::new(CONTEXTS), Condvar::new());

/// One of the [`CONTEXTS`]; waits for it, and gives it back when dropped.
struct Place(());

impl Place {
    fn take() -> Place {
        let (left, freed) = &CONTEXTS_LEFT;
        let left = left.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = freed
            .wait_while(left, |left| *left == 0)
            .unwrap_or_else(PoisonError::into_inner);
        *left -= 1;
        Place(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (left, freed) = &CONTEXTS_LEFT;
        *left.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        freed.notify_one();
    }
}

impl Device {
    /// `None`, after printing a line that says so, where kernels cannot run; a failure with
    /// `ROPEWAY_GPU_TESTS=require`.
    pub fn open() -> Option<Device> {
        match Device::try_open() {
            Ok(device) => Some(device),
            Err(reason) => {
                skip(&reason);
                None
            }
        }
    }

    fn try_open() -> Result<Device, String> {
        kernels()
            .compiler
            .map_err(|reason| format!("no GPU kernels in this build: {reason}; tools/setup gets nvcc"))?;
        // cudarc panics where it finds no library.
        // SAFETY: libcuda may be loaded; nothing is called yet.
        if !unsafe { sys::is_culib_present() } {
            return Err(
                "no libcuda on the loader's path; without a GPU: tools/softcuda/run cargo test --test gpu"
                    .into(),
            );
        }
        match result::init() {
            Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => {
                return Err(
                    "the CUDA driver finds no GPU; without one: tools/softcuda/run cargo test --test gpu"
                        .into(),
                );
            }
            started => started.expect("the driver starts"),
        }
        let ordinal = result::device::get(0).expect("there is a device");
        let place = Place::take();
        let mut context = std::ptr::null_mut();
        // SAFETY: `context` is valid for the write; no parameters means no affinity and no graphics.
        unsafe { sys::cuCtxCreate_v4(&mut context, std::ptr::null_mut(), 0, ordinal) }
            .result()
            .expect("a context can be made");
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            let name = result::device::get_name(ordinal).expect("the device has a name");
            say(&format!("kernels run on {name}"));
        });
        Ok(Device {
            context,
            modules: RefCell::default(),
            _place: place,
        })
    }

    /// An entry of an embedded module.
    pub fn kernel<Params: Pod>(&self, module: &'static str, entry: &str) -> Kernel<'_, Params> {
        let mut modules = self.modules.borrow_mut();
        let loaded = modules.entry(module).or_insert_with(|| {
            let found = kernels().modules.iter().find(|found| found.name == module);
            let image = found.unwrap_or_else(|| panic!("no module {module}")).image;
            // SAFETY: the image is a whole fatbin, aligned, and its header holds its length.
            let loaded = unsafe { result::module::load_data(image.as_ptr().cast()) };
            loaded.unwrap_or_else(|e| panic!("{module} cannot be loaded: {e:?}"))
        });
        let name = CString::new(entry).expect("no NUL in a name");
        // SAFETY: the module is loaded as long as the context lives.
        let function = unsafe { result::module::get_function(*loaded, name) };
        let function = function.unwrap_or_else(|e| panic!("{module} has no {entry}: {e:?}"));
        let (mut offset, mut size) = (0, 0);
        // SAFETY: the function belongs to the loaded module, and the results are valid for the writes.
        unsafe { sys::cuFuncGetParamInfo(function, 0, &mut offset, &mut size) }
            .result()
            .unwrap_or_else(|e| panic!("{entry} takes no parameter: {e:?}"));
        assert_eq!(
            size,
            size_of::<Params>(),
            "{entry} takes another struct: is src/kernels/params.rs stale?"
        );
        Kernel {
            function,
            entry: entry.to_owned(),
            of: PhantomData,
        }
    }

    /// The compute capability, major and minor.
    pub fn capability(&self) -> (u32, u32) {
        use sys::CUdevice_attribute::*;
        let ordinal = result::device::get(0).expect("there is a device");
        // SAFETY: the device is the driver's.
        let get = |attribute| unsafe { result::device::get_attribute(ordinal, attribute) };
        let [major, minor] = [
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        ]
        .map(|attribute| get(attribute).expect("a device has a compute capability") as u32);
        (major, minor)
    }

    /// The map of a matrix of [rows, columns] elements, rows `stride` apart, in boxes of 64 columns with the swizzle of
    /// 128 bytes: the words of a CUtensorMap.
    pub fn tensor_map<T: Number>(
        &self,
        address: u64,
        [rows, columns, stride]: [u64; 3],
        box_rows: u32,
    ) -> [u64; 16] {
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        // SAFETY: the arrays are as long as the rank says; the driver does not access the matrix.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                match T::NAME {
                    "bf16" => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                    _ => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                },
                2,
                address as *mut c_void,
                [columns, rows].as_ptr(),
                [2 * stride].as_ptr(),
                [64, box_rows].as_ptr(),
                [1, 1].as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
        .result()
        .unwrap_or_else(|e| panic!("no map of {rows} × {columns}, {stride}, at {address:#x}: {e:?}"));
        map.opaque
    }

    /// Bytes for a kernel to read, in an allocation of their size.
    pub fn upload<N: Pod>(&self, numbers: &[N]) -> Buffer<'_> {
        let buffer = self.allocate(size_of_val(numbers));
        buffer.write(numbers);
        buffer
    }

    /// `length` elements for a kernel to write, all SENTINEL.
    pub fn output<N: Pod>(&self, length: usize) -> Output<'_, N> {
        let bytes = length * size_of::<N>();
        let whole = self.allocate(bytes + 2 * GUARD);
        whole.write(&SENTINEL.repeat((bytes + 2 * GUARD).div_ceil(2))[..bytes + 2 * GUARD]);
        Output {
            whole,
            length,
            of: PhantomData,
        }
    }

    fn allocate(&self, bytes: usize) -> Buffer<'_> {
        // The driver refuses an allocation of 0 bytes, and an empty buffer still needs an address.
        // SAFETY: this context is the thread's.
        let address = unsafe { result::malloc_sync(bytes.max(1)) };
        Buffer {
            address: address.unwrap_or_else(|e| panic!("{bytes} bytes cannot be allocated: {e:?}")),
            device: PhantomData,
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: buffers and kernels borrow the device, so that nothing of the context is in use.
        let ended = unsafe { sys::cuCtxDestroy_v2(self.context) }.result();
        // This may fail too, if a kernel has failed.
        if !std::thread::panicking() {
            ended.expect("the context can be destroyed");
        }
    }
}

/// A kernel that takes one `Params`.
pub struct Kernel<'d, Params> {
    function: sys::CUfunction,
    entry: String,
    of: PhantomData<(&'d Device, Params)>,
}

impl<Params: Pod> Kernel<'_, Params> {
    /// Launches it and waits for its end. Panics if the device reports an error.
    pub fn launch(&self, blocks: u32, threads: u32, shared_bytes: u32, params: &Params) {
        self.launch_grid((blocks, 1), threads, shared_bytes, params);
    }

    /// As `launch`, on a grid of two dimensions.
    pub fn launch_grid(&self, blocks: (u32, u32), threads: u32, shared_bytes: u32, params: &Params) {
        // More than 48 KB needs an attribute.
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function belongs to the loaded module; the driver refuses more than the device has.
        unsafe { sys::cuFuncSetAttribute(self.function, attribute, shared_bytes as i32) }
            .result()
            .unwrap_or_else(|e| panic!("{} with {shared_bytes} bytes of shared memory: {e:?}", self.entry));
        let mut params = *params;
        let mut arguments = [(&raw mut params).cast::<c_void>()];
        // SAFETY: the one argument has the size that the kernel takes (see `Device::kernel`). Whether the kernel keeps
        // to its pointers' allocations is what the tests check.
        let launched = unsafe {
            result::launch_kernel(
                self.function,
                (blocks.0, blocks.1, 1),
                (threads, 1, 1),
                shared_bytes,
                result::stream::null(),
                &mut arguments,
            )
        };
        launched
            .and_then(|()| result::ctx::synchronize())
            .unwrap_or_else(|e| panic!("{}, {blocks:?} blocks of {threads} threads: {e:?}", self.entry));
    }
}

/// Memory of the device.
pub struct Buffer<'d> {
    address: sys::CUdeviceptr,
    device: PhantomData<&'d Device>,
}

impl Buffer<'_> {
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Overwrites the beginning.
    pub fn write<N: Pod>(&self, numbers: &[N]) {
        if numbers.is_empty() {
            return;
        }
        // SAFETY: the driver refuses more bytes than the allocation has; no kernel is running.
        unsafe { result::memcpy_htod_sync(self.address, numbers) }.expect("numbers go to the device");
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        // SAFETY: allocated by this, and freed once.
        let freed = unsafe { result::free_sync(self.address) };
        if !std::thread::panicking() {
            freed.expect("memory can be freed");
        }
    }
}

/// Memory between guards.
pub struct Output<'d, N> {
    whole: Buffer<'d>,
    length: usize,
    of: PhantomData<N>,
}

impl<N: Pod> Output<'_, N> {
    pub fn address(&self) -> u64 {
        self.whole.address + GUARD as u64
    }

    /// Overwrites elements from `start` on: for a kernel that works in place.
    pub fn write(&self, start: usize, numbers: &[N]) {
        assert!(start + numbers.len() <= self.length);
        if numbers.is_empty() {
            return;
        }
        let address = self.address() + (start * size_of::<N>()) as u64;
        // SAFETY: within the allocation, as just checked; no kernel is running.
        unsafe { result::memcpy_htod_sync(address, numbers) }.expect("numbers go to the device");
    }

    /// All elements. Panics if anything was written around them.
    pub fn download(&self) -> Vec<N> {
        let bytes = self.length * size_of::<N>();
        let mut whole = vec![0_u8; bytes + 2 * GUARD];
        // SAFETY: the allocation has this size; no kernel is running.
        unsafe { result::memcpy_dtoh_sync(&mut whole, self.whole.address) }.expect("numbers come back");
        let (before, rest) = whole.split_at(GUARD);
        let (inside, behind) = rest.split_at(bytes);
        // A guard has an even number of bytes, but what comes before the second guard may not.
        let broken =
            |bytes: &[u8], phase: usize| (0..bytes.len()).find(|&at| bytes[at] != SENTINEL[(at + phase) % 2]);
        if let Some(at) = broken(before, 0) {
            panic!("written {} bytes before the output", GUARD - at);
        }
        if let Some(at) = broken(behind, bytes) {
            panic!("written {at} bytes behind the output");
        }
        let mut numbers = vec![N::zeroed(); self.length];
        bytemuck::cast_slice_mut(&mut numbers).copy_from_slice(inside);
        numbers
    }
}

/// Prints once that the tests are skipped, or fails if they must not be.
fn skip(reason: &str) {
    let required = std::env::var("ROPEWAY_GPU_TESTS").is_ok_and(|value| value == "require");
    assert!(!required, "ROPEWAY_GPU_TESTS=require, and {reason}");
    static SAID: Once = Once::new();
    SAID.call_once(|| say(&format!("SKIPPED: {reason}")));
}

/// Not by eprintln!, whose output cargo test shows for failing tests only.
fn say(line: &str) {
    let _ = std::io::stderr().write_all(format!("\n{line}\n").as_bytes());
}
