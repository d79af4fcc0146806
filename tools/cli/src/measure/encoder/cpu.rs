//! Whole calls where the CPU computes: its ceilings are not known, so that times stand alone.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Pace, call, entries};
use crate::measure::Effort;
use crate::measure::batches::ids;
use crate::measure::host::peak_rss;
use crate::measure::report::Row;
use anyhow::Result;
use ropeway::Engine;
use ropeway::{Embed, Request};

/// The most tokens of a batch.
const MOST: usize = 16384;

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct CpuReport {
    /// Version of this library.
    pub ropeway: &'static str,
    /// `encoder`.
    pub bench: &'static str,
    /// Where the model is.
    pub model: String,
    /// What computed.
    pub device: CpuFacts,
    /// What the opening of the engine took, in s.
    pub opened_s: f64,
    /// In the order in which they were measured.
    pub rows: Vec<Row>,
    /// The most memory that the process ever had resident, where the system tells.
    pub peak_rss_bytes: Option<u64>,
}

/// What computed.
#[derive(Clone, Debug, Serialize)]
pub struct CpuFacts {
    /// Instruction set and threads.
    pub name: String,
}

/// Tokens per second by input length and batch, and how many of the plan's operations per second that is. `line` is
/// given the table, line by line, as soon as each is there.
///
/// # Errors
/// A call that failed.
pub fn encoder_on_cpu(
    engine: &Engine,
    opened_s: f64,
    effort: Effort,
    line: &mut dyn FnMut(&str),
) -> Result<CpuReport> {
    let model = engine.config();
    let (lengths, batches, pace): (&[usize], &[usize], _) = match effort {
        Effort::Quick => (&[8, 16], &[1, 8], Pace::QUICK),
        Effort::Full => (
            &[8, 16, 64, 128, 512, 2048, 8192],
            &[1, 8, 64],
            Pace {
                warm: 1,
                least: 5,
                most: 200,
                seconds: 1.0,
            },
        ),
    };
    line(&format!(
        "{}: {} layers, hidden {}; {}; opened in {opened_s:.2} s\n\
         | batch | tokens each | ms (median, min–max) | tokens/s | GFLOP/s |\n|---|---|---|---|---|",
        model.family,
        model.num_hidden_layers,
        model.hidden_size,
        engine.device_name()
    ));
    let mut rows = Vec::new();
    for &length in lengths.iter().filter(|&&length| length <= model.max_tokens) {
        for &batch in batches.iter().filter(|&&batch| batch * length <= MOST) {
            let row = row(engine, length, batch, &pace)?;
            line(&cells(&row, length, batch));
            rows.push(row);
        }
    }
    let peak_rss_bytes = peak_rss();
    if let Some(bytes) = peak_rss_bytes {
        line(&format!("peak memory (VmHWM): {:.2} GB", bytes as f64 / 1e9));
    }
    Ok(CpuReport {
        ropeway: env!("CARGO_PKG_VERSION"),
        bench: "encoder",
        model: engine.path().display().to_string(),
        device: CpuFacts {
            name: engine.device_name(),
        },
        opened_s,
        rows,
        peak_rss_bytes,
    })
}

fn row(engine: &Engine, length: usize, batch: usize, pace: &Pace) -> Result<Row> {
    let options = Embed::default();
    let requests: Vec<Request<'_>> = (0..batch)
        .map(|n| Request::ids(ids(engine, length, n as u64 + 1), &options))
        .collect();
    let micros = pace.time(|| call(engine, &requests))?;
    let per_second = 1e6 / micros.median;
    let cost = engine.cost(&requests)?;
    Ok(Row {
        group: if batch == 1 { "latency" } else { "encoder" },
        case: "base".into(),
        shape: format!("{batch} × {length} tokens"),
        micros,
        tflops: Some(1e-12 * cost.flops as f64 * per_second),
        tokens_per_s: Some((batch * length) as f64 * per_second),
        parameters: entries([("tokens", (batch * length).into()), ("sequences", batch.into())]),
        ..Row::default()
    })
}

fn cells(row: &Row, length: usize, batch: usize) -> String {
    let mut text = String::new();
    let micros = row.micros;
    let _ = write!(
        text,
        "| {batch} | {length} | {:.2} ({:.2}–{:.2}) | {:.0} | {:.0} |",
        1e-3 * micros.median,
        1e-3 * micros.min,
        1e-3 * micros.max,
        row.tokens_per_s.unwrap_or_default(),
        1e3 * row.tflops.unwrap_or_default()
    );
    text
}

impl CpuReport {
    /// For programs.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a report has no keys but strings");
        text.push('\n');
        text
    }
}
