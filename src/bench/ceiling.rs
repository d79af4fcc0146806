//! What a device can do at most.

use serde::Serialize;

use super::report::DeviceFacts;
use crate::error::Result;
use crate::gpu::driver::{DriverError, clocks, version};
use crate::gpu::{Gpu, Lane};
use crate::precision::Precision;

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

/// FLOP per clock and multiprocessor of dense 16-bit matrix products with float32 sums, by compute capability: the
/// data sheets' peaks over their multiprocessors and boost clocks (A100 312 TFLOP/s, 108, 1.41 GHz; L40S 362, 142, 2.52;
/// H100 SXM 989, 132, 1.83; B200 2250, 148, 1.85). GeForce boards have half of it from 8.6 on.
const FLOP_PER_CLOCK: [((u32, u32), u32); 7] = [
    ((8, 0), 2048),
    ((8, 6), 1024),
    ((8, 7), 1024),
    ((8, 9), 1024),
    ((9, 0), 4096),
    ((10, 0), 8192),
    ((12, 0), 1024),
];

/// Bytes of the copy that is measured: far more than any L2.
const COPY: usize = 1 << 30;
/// The same under softcuda, where the time means nothing.
const COPY_SIMULATED: usize = 1 << 16;
const COPIES: usize = 10;

/// What the device of an engine is, what it can do at most, and the precision of the engine.
pub(super) fn of(gpu: &Gpu, lane: &mut Lane) -> Result<(DeviceFacts, Ceilings, Precision)> {
    let facts = gpu.facts();
    let clocks = clocks(facts.index).map_err(|e| e.at("the device's clocks"))?;
    let (major, minor) = facts.capability;
    let device = DeviceFacts {
        name: facts.name.clone(),
        simulated: facts.simulated(),
        uuid: facts.uuid.to_string(),
        capability: format!("{major}.{minor}"),
        multiprocessors: facts.multiprocessors,
        clock_mhz: 1e-3 * f64::from(clocks.multiprocessor),
        memory_clock_mhz: 1e-3 * f64::from(clocks.memory),
        memory_bus_bits: clocks.memory_bus,
        l2_bytes: facts.l2,
        memory_bytes: facts.memory,
        driver: version().unwrap_or_else(|reason| reason.to_string()),
    };
    let (flop, of) = flop_per_clock(facts.capability);
    let bytes = if device.simulated { COPY_SIMULATED } else { COPY };
    let ceilings = Ceilings {
        tflops: 1e-6 * f64::from(flop) * f64::from(facts.multiprocessors) * device.clock_mhz,
        tflops_from: format!(
            "{} multiprocessors × {flop} FLOP per clock{of} × {:.0} MHz",
            facts.multiprocessors, device.clock_mhz
        ),
        gb_per_s: copy(gpu, lane, bytes).map_err(|e| e.at("a copy on the device"))?,
        gb_per_s_from: format!("a copy of {} KiB on this device, read and written", bytes >> 10),
    };
    Ok((device, ceilings, gpu.precision()))
}

/// And for which capability, if it is another one's.
fn flop_per_clock(capability: (u32, u32)) -> (u32, String) {
    let found = FLOP_PER_CLOCK.iter().rev().find(|(of, _)| *of <= capability);
    let &(of, flop) = found.unwrap_or(&FLOP_PER_CLOCK[0]);
    let said = if of == capability {
        String::new()
    } else {
        format!(" (as {}.{})", of.0, of.1)
    };
    (flop, said)
}

/// The best of some copies, in GB/s.
fn copy(gpu: &Gpu, lane: &mut Lane, bytes: usize) -> Result<f64, DriverError> {
    let context = gpu.context();
    let (from, to) = (context.allocate(bytes)?, context.allocate(bytes)?);
    let (start, end) = (context.timed_event()?, context.timed_event()?);
    let stream = &lane.stream;
    // SAFETY: both have this many bytes and live until the stream is drained, here or by the caller's next call.
    unsafe { stream.zero(from.address(), bytes) }?;
    let mut best = f64::INFINITY;
    for _ in 0..COPIES {
        start.record(stream)?;
        // SAFETY: as above.
        unsafe { stream.copy(to.address(), from.address(), bytes) }?;
        end.record(stream)?;
        stream.synchronize()?;
        best = best.min(end.micros_since(&start)?);
    }
    Ok(2e-3 * bytes as f64 / best)
}

#[cfg(test)]
mod tests {
    #[test]
    fn unknown_capabilities_are_taken_for_the_one_before() {
        let of = |capability| super::flop_per_clock(capability);
        assert_eq!(of((9, 0)), (4096, String::new()));
        assert_eq!(of((8, 9)), (1024, String::new()));
        assert_eq!(of((10, 3)), (8192, " (as 10.0)".into()));
        assert_eq!(of((7, 5)), (2048, " (as 8.0)".into()));
    }
}
