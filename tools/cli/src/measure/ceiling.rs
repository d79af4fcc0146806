//! What a device can do at most.

use anyhow::Result;
use ropeway::Engine;
use ropeway::inspect::{DeviceLimits, Multiprocessors, copy_bandwidth};
use serde::Serialize;

/// The device that computed.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceFacts {
    /// As the driver calls it.
    pub name: String,
    /// It is softcuda, which computes on the CPU: its times mean nothing.
    pub simulated: bool,
    /// What tells it from every other.
    pub uuid: String,
    /// Compute capability, `9.0`.
    pub capability: String,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// The highest clock of the multiprocessors.
    pub clock_mhz: f64,
    /// The highest clock of the memory, which moves data on both edges.
    pub memory_clock_mhz: f64,
    /// Width of the memory's bus.
    pub memory_bus_bits: u32,
    /// L2.
    pub l2_bytes: u64,
    /// In all.
    pub memory_bytes: u64,
    /// The CUDA version that the driver is for.
    pub driver: String,
}

/// What a device can do at most, and how that is known.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ceilings {
    /// Of dense 16-bit matrix products with float32 sums.
    pub tflops: f64,
    /// Where that is from.
    pub tflops_from: String,
    /// Bytes read and written.
    pub gb_per_s: f64,
    /// Where that is from.
    pub gb_per_s_from: String,
}

/// Bytes of the copy that is measured: far more than any L2.
const COPY: usize = 1 << 30;
/// The same under softcuda, where the time means nothing.
const COPY_SIMULATED: usize = 1 << 16;
const COPIES: usize = 10;

/// What the device of an engine is, and what it can do at most.
pub(super) fn of(engine: &Engine) -> Result<(DeviceFacts, Ceilings)> {
    let limits = DeviceLimits::of(engine)?;
    let (major, minor) = limits.capability;
    let device = DeviceFacts {
        name: limits.name,
        simulated: limits.simulated,
        uuid: limits.uuid,
        capability: format!("{major}.{minor}"),
        multiprocessors: limits.multiprocessors,
        clock_mhz: 1e-3 * f64::from(limits.clock_khz),
        memory_clock_mhz: 1e-3 * f64::from(limits.memory_clock_khz),
        memory_bus_bits: limits.memory_bus_bits,
        l2_bytes: limits.l2_bytes,
        memory_bytes: limits.memory_bytes,
        driver: limits.driver,
    };
    let (flop, of) = flop_per_clock(limits.capability);
    let bytes = copy_bytes(device.simulated);
    let ceilings = Ceilings {
        tflops: 1e-6 * flop * f64::from(limits.multiprocessors) * device.clock_mhz,
        tflops_from: format!(
            "{} multiprocessors × {flop} FLOP per clock{of} × {:.0} MHz",
            limits.multiprocessors, device.clock_mhz
        ),
        gb_per_s: 1e-9 * copy_bandwidth(engine, bytes, COPIES)?,
        gb_per_s_from: format!("a copy of {} KiB on this device, read and written", bytes >> 10),
    };
    Ok((device, ceilings))
}

fn copy_bytes(simulated: bool) -> usize {
    if simulated { COPY_SIMULATED } else { COPY }
}

/// Bytes per second of a copy that is far larger than L2, read and written.
pub(super) fn copied(engine: &Engine, device: &DeviceLimits) -> Result<f64> {
    Ok(copy_bandwidth(engine, copy_bytes(device.simulated), COPIES)?)
}

/// FLOP per clock and multiprocessor of dense 16-bit products with float32 sums, and for which capability, if it is another
/// one's.
fn flop_per_clock(capability: (u32, u32)) -> (f64, String) {
    let (flop, of) = Multiprocessors { capability, count: 1 }.peak_flop();
    let said = if of == capability {
        String::new()
    } else {
        format!(" (as {}.{})", of.0, of.1)
    };
    (flop, said)
}

#[cfg(test)]
mod tests {
    #[test]
    fn unknown_capabilities_are_taken_for_the_one_before() {
        let of = |capability| super::flop_per_clock(capability);
        assert_eq!(of((9, 0)), (4096.0, String::new()));
        assert_eq!(of((8, 9)), (1024.0, String::new()));
        assert_eq!(of((10, 3)), (8192.0, " (as 10.0)".into()));
        assert_eq!(of((7, 5)), (2048.0, " (as 8.0)".into()));
    }
}
