//! Memory of the device.

use anyhow::Result;
use ropeway::Engine;
use ropeway::inspect::MemoryProbe;

use super::entries;
use crate::measure::report::{Report, Row};

/// What an engine has there, and what the driver says: `opened` is what was taken when it was just open.
pub fn rows(engine: &Engine, driver: Option<(&MemoryProbe, u64)>, report: &mut Report) -> Result<()> {
    let memory = engine.memory();
    let (weights, arena, lanes) = (
        memory.weights as u64,
        memory.arena as u64,
        memory.concurrency as u64,
    );
    let adapters = memory.adapters as u64;
    let tokens = engine.batch_tokens().max(engine.config().max_tokens);
    let mut row = |case: &str, shape: String, bytes: u64| {
        report.push(Row {
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
