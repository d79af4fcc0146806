//! Lower bounds of a launch's time on a GPU, by resource. A model, not a measurement.

use serde::Serialize;

use super::Counters;
use super::gpu::{Gpu, ISSUE, SPECIAL_LANES, WAVEFRONTS};

/// Said of every estimate.
pub const WHAT: &str = "model, not a measurement";

/// Time that one resource needs at its ceiling.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bound {
    pub resource: String,
    /// How much of it the launch uses, and its unit: bytes, FLOP, wavefronts, instructions, lanes.
    pub amount: u64,
    pub unit: &'static str,
    /// Per second, with the multiprocessors that have blocks.
    pub rate: f64,
    pub source: String,
    pub seconds: f64,
}

/// All bounds of a launch; its time is at least the greatest.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Roofline {
    pub what: &'static str,
    pub gpu: &'static str,
    /// Multiprocessors that have a block, and all.
    pub used: u64,
    pub multiprocessors: u32,
    pub bounds: Vec<Bound>,
    /// What could not be estimated, and why.
    pub missing: Vec<String>,
}

impl Roofline {
    /// The bound that takes longest.
    pub fn binding(&self) -> Option<&Bound> {
        self.bounds.iter().max_by(|a, b| a.seconds.total_cmp(&b.seconds))
    }
}

/// Estimates a launch on a GPU. Resources of multiprocessors count for those that get a block; launch overhead, the
/// last wave, latencies and dependences are not in it.
pub fn roofline(counters: &Counters, gpu: &'static Gpu) -> Roofline {
    let used = counters.blocks.clamp(1, gpu.multiprocessors.into());
    let share = used as f64 / f64::from(gpu.multiprocessors);
    let mut bounds = Vec::new();
    let mut missing = Vec::new();
    let mut add = |resource: String, amount: u64, unit, rate: f64, source: &str| {
        if amount > 0 {
            bounds.push(Bound {
                resource,
                amount,
                unit,
                rate,
                source: source.to_owned(),
                seconds: amount as f64 / rate,
            });
        }
    };
    let clocks = |per_clock: u32| f64::from(per_clock) * gpu.clock_hz * used as f64;
    let clock = format!("per clock and SM, {:.2} GHz × {used} SMs", gpu.clock_hz / 1e9);
    match &counters.memory {
        Some(memory) => {
            let bytes = memory.dram.read_bytes + memory.dram.written_bytes;
            add("DRAM".to_owned(), bytes, "B", gpu.dram.rate, gpu.dram.source);
            match &gpu.l2 {
                Some(l2) => add(
                    "L2".to_owned(),
                    memory.global.total().bytes(),
                    "B",
                    l2.rate,
                    l2.source,
                ),
                None => missing.push(format!("L2: no public figure for the {}", gpu.name)),
            }
        }
        None => missing.push("DRAM, L2, shared memory: their traffic was not counted".to_owned()),
    }
    for matrix in &counters.matrix {
        match gpu.matrix.iter().find(|(ty, _)| *ty == matrix.ty) {
            Some((_, peak)) => add(
                format!("matrix {}", matrix.ty),
                matrix.flops,
                "FLOP",
                peak.rate * share,
                peak.source,
            ),
            None => missing.push(format!(
                "matrix {}: the {} has no such matrix units, or no public figure",
                matrix.ty, gpu.name
            )),
        }
    }
    if let Some(memory) = &counters.memory {
        add(
            "shared memory".to_owned(),
            memory.shared.total().wavefronts,
            "wavefronts",
            clocks(WAVEFRONTS),
            &format!("{WAVEFRONTS} {clock}"),
        );
    }
    add(
        "issue slots".to_owned(),
        counters.instructions.warps,
        "instructions",
        clocks(ISSUE),
        &format!("{ISSUE} {clock}"),
    );
    add(
        "float32".to_owned(),
        counters.class("float32").lanes,
        "lanes",
        clocks(gpu.float32_lanes),
        &format!("{} {clock}", gpu.float32_lanes),
    );
    add(
        "special functions".to_owned(),
        counters.class("special").lanes,
        "lanes",
        clocks(SPECIAL_LANES),
        &format!("{SPECIAL_LANES} {clock}"),
    );
    Roofline {
        what: WHAT,
        gpu: gpu.name,
        used,
        multiprocessors: gpu.multiprocessors,
        bounds,
        missing,
    }
}
