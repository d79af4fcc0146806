//! The devices that the driver has.

use std::ffi::CStr;

use cudarc::driver::sys::{CUdevice, CUdevice_attribute};

use super::{DriverError, Unavailable, call, library};

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Its index, from 0, among the devices that `CUDA_VISIBLE_DEVICES` leaves.
    pub index: usize,
    pub name: String,
    pub uuid: [u8; 16],
    /// Compute capability: (9, 0).
    pub capability: (u32, u32),
    pub multiprocessors: u32,
    /// Bytes.
    pub memory: u64,
    /// Bytes of shared memory that a block can have, if its kernel asks for it.
    pub shared_per_block: u32,
    /// Bytes of shared memory that the blocks of one multiprocessor share.
    pub shared_per_multiprocessor: u32,
    /// Bytes of L2.
    pub l2: u64,
}

impl DeviceFacts {
    /// The UUID as `nvidia-smi -L` prints it: `GPU-`, or `MIG-` for a part of a GPU, and 32 hexadecimal digits in groups.
    pub fn uuid_text(&self) -> String {
        // The driver gives a MIG device its own UUID, and its profile in the name: "NVIDIA A100-SXM4-40GB MIG 1g.5gb".
        let mut text = if self.name.contains(" MIG ") {
            "MIG-"
        } else {
            "GPU-"
        }
        .to_owned();
        for (index, byte) in self.uuid.iter().enumerate() {
            if [4, 6, 8, 10].contains(&index) {
                text.push('-');
            }
            text += &format!("{byte:02x}");
        }
        text
    }

    /// Whether this is softcuda, which executes kernels on the CPU, for tests.
    pub fn simulated(&self) -> bool {
        self.name.starts_with("softcuda")
    }
}

/// The highest clocks of a device, as the driver reports them.
#[cfg(feature = "inspect")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// Of the multiprocessors, in kHz.
    pub multiprocessor: u32,
    /// Of the memory, in kHz; it moves data on both edges.
    pub memory: u32,
    /// Width of the memory's bus, in bits.
    pub memory_bus: u32,
}

/// The clocks of the device with this index.
#[cfg(feature = "inspect")]
pub fn clocks(index: usize) -> Result<Clocks, DriverError> {
    use CUdevice_attribute::*;
    let device = ordinal(index)?;
    Ok(Clocks {
        multiprocessor: attribute(device, CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?,
        memory: attribute(device, CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?,
        memory_bus: attribute(device, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?,
    })
}

/// All devices, at least one.
pub fn devices() -> Result<Vec<DeviceFacts>, Unavailable> {
    library::start()?;
    let mut count = 0;
    // SAFETY: the driver is started; the place for the result is good.
    unsafe { call!(cuDeviceGetCount(&mut count)) }.map_err(Unavailable::Failed)?;
    if count == 0 {
        return Err(library::no_device());
    }
    let facts = (0..count as usize).map(|index| facts(index, ordinal(index)?));
    facts.collect::<Result<_, _>>().map_err(Unavailable::Failed)
}

/// The driver's handle of a device.
pub(super) fn ordinal(index: usize) -> Result<CUdevice, DriverError> {
    let mut device = 0;
    // SAFETY: the place for the result is good; the driver refuses an index without a device.
    unsafe { call!(cuDeviceGet(&mut device, index.try_into().unwrap_or(i32::MAX))) }
        .map_err(|e| e.with_detail(format!("cuda:{index}")))?;
    Ok(device)
}

fn attribute(device: CUdevice, which: CUdevice_attribute) -> Result<u32, DriverError> {
    let mut value = 0;
    // SAFETY: the device is the driver's; the place for the result is good.
    unsafe { call!(cuDeviceGetAttribute(&mut value, which, device)) }?;
    Ok(u32::try_from(value).unwrap_or(0))
}

fn facts(index: usize, device: CUdevice) -> Result<DeviceFacts, DriverError> {
    use CUdevice_attribute::*;
    let attribute = |which| attribute(device, which);
    let mut name = [0; 256];
    // SAFETY: the place for the name has the length that is said.
    unsafe { call!(cuDeviceGetName(name.as_mut_ptr(), name.len() as i32, device)) }?;
    // SAFETY: the driver ends the name with NUL.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) };
    let mut uuid = cudarc::driver::sys::CUuuid { bytes: [0; 16] };
    // SAFETY: the place for the result is good.
    unsafe { call!(cuDeviceGetUuid_v2(&mut uuid, device)) }?;
    let mut memory = 0;
    // SAFETY: the place for the result is good.
    unsafe { call!(cuDeviceTotalMem_v2(&mut memory, device)) }?;
    Ok(DeviceFacts {
        index,
        name: name.to_string_lossy().into_owned(),
        uuid: uuid.bytes.map(|byte| byte as u8),
        capability: (
            attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        memory: memory as u64,
        shared_per_block: attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        shared_per_multiprocessor: attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?,
        l2: attribute(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.into(),
    })
}
