//! What an engine's GPU is, and its memory.

use crate::device::Device;
use crate::engine::Engine;
use crate::error::Result;
use crate::gpu::driver::{Context, clocks, version};
use crate::gpu::{in_step, select};

/// What an engine's GPU is, as far as it limits a kernel.
#[derive(Clone, Debug)]
pub struct DeviceLimits {
    /// The driver's name for it.
    pub name: String,
    /// It is softcuda, which computes on the CPU: its times mean nothing.
    pub simulated: bool,
    /// `GPU-` and 32 hexadecimal digits in groups, as `nvidia-smi -L` prints it.
    pub uuid: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// The highest clock of the multiprocessors, in kHz.
    pub clock_khz: u32,
    /// The highest clock of the memory, in kHz; it moves data on both edges.
    pub memory_clock_khz: u32,
    /// Width of the memory's bus, in bits.
    pub memory_bus_bits: u32,
    /// L2, in bytes.
    pub l2_bytes: u64,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// The CUDA version that the driver is for, or why it does not tell.
    pub driver: String,
}

impl DeviceLimits {
    /// Of the GPU that an engine computes on.
    ///
    /// # Errors
    /// An engine on the CPU; a call of the driver that failed.
    pub fn of(engine: &Engine) -> Result<DeviceLimits> {
        engine.with_gpu(|gpu, _, _| {
            let facts = gpu.device().facts();
            let clocks = clocks(facts.index).map_err(in_step("the device's clocks"))?;
            Ok(DeviceLimits {
                name: facts.name.clone(),
                simulated: facts.simulated(),
                uuid: facts.uuid_text(),
                capability: facts.capability,
                multiprocessors: facts.multiprocessors,
                clock_khz: clocks.multiprocessor,
                memory_clock_khz: clocks.memory,
                memory_bus_bits: clocks.memory_bus,
                l2_bytes: facts.l2,
                memory_bytes: facts.memory,
                driver: version().map_or_else(
                    |reason| reason.to_string(),
                    |(major, minor)| format!("{major}.{minor}"),
                ),
            })
        })
    }
}

/// The best of `copies` copies of `bytes` within the memory of an engine's GPU, read and written, in bytes per second.
///
/// # Errors
/// An engine on the CPU; a call of the driver that failed.
pub fn copy_bandwidth(engine: &Engine, bytes: usize, copies: usize) -> Result<f64> {
    engine.with_gpu(|gpu, context, _| {
        let bandwidth = gpu.copy_bandwidth(context, bytes, copies);
        Ok(bandwidth.map_err(in_step("a copy on the device"))?)
    })
}

/// Looks at a device's memory from outside an engine.
#[derive(Debug)]
pub struct MemoryProbe {
    context: Context,
    /// Bytes that were free when this was made.
    free: u64,
}

impl MemoryProbe {
    /// To be made before the engine is opened. `None` where no engine can be opened on a GPU either.
    pub fn new(device: Device) -> Option<MemoryProbe> {
        let index = match device {
            Device::Cpu => return None,
            chosen => select::find(chosen).ok()?,
        };
        let context = select::open(index).ok()?;
        let free = context.free_memory().ok()?;
        Some(MemoryProbe { context, free })
    }

    /// Bytes that were taken since, by this process or another.
    ///
    /// # Errors
    /// A call of the driver that failed.
    pub fn taken(&self) -> Result<u64> {
        let free = self.context.free_memory();
        let free = free.map_err(in_step("asking for the free memory"))?;
        Ok(self.free.saturating_sub(free))
    }
}
