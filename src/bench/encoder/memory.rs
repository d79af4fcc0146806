//! Memory of the device.

use super::entries;
use crate::bench::report::{Report, Row};
use crate::engine::{Device, Engine};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::gpu::driver::Context;

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
            Device::Auto => Gpu::choose().ok()?,
            chosen => Gpu::find(chosen).ok()?,
        };
        let context = Context::open(index).ok()?;
        let free = context.free_memory().ok()?;
        Some(MemoryProbe { context, free })
    }

    /// Bytes that were taken since, by this process or another.
    pub(super) fn taken(&self) -> Result<u64> {
        let free = self.context.free_memory();
        let free = free.map_err(|e| e.at("asking for the free memory"))?;
        Ok(self.free.saturating_sub(free))
    }
}

/// What an engine has there, and what the driver says: `opened` is what was taken when it was just open.
pub fn rows(engine: &Engine, driver: Option<(&MemoryProbe, u64)>, report: &mut Report) -> Result<()> {
    let memory = engine.memory();
    let (weights, arena, lanes) = (memory.weights as u64, memory.arena as u64, memory.lanes as u64);
    let adapters = engine.adapter_bytes();
    let tokens = engine.batch_tokens().max(engine.model().max_tokens);
    let mut row = |case: &str, shape: String, bytes: u64| {
        report.rows.push(Row {
            group: "memory",
            case: case.into(),
            shape,
            bytes: Some(bytes),
            parameters: entries([("tokens", tokens.into()), ("lanes", lanes.into())]),
            ..Row::default()
        });
    };
    row("weights", format!("in {}", engine.device_name()), weights);
    row(
        "adapters",
        format!("{} loaded", engine.adapters().len()),
        adapters,
    );
    row("arena", format!("{lanes} × {tokens} tokens"), lanes * arena);
    row(
        "engine",
        "all of these".into(),
        weights + adapters + lanes * arena,
    );
    if let Some((probe, opened)) = driver {
        row("driver: engine opened", "taken since before".into(), opened);
        let now = probe.taken()?;
        row(
            "driver: after all batches",
            "taken since before, graphs included".into(),
            now,
        );
    }
    Ok(())
}
