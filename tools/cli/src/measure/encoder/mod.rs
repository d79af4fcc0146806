//! Whole calls: text or token ids in, vectors out.
//!
//! | | |
//! |---|---|
//! | `calls` | tokens per second by lengths and batch; long documents with late chunking |
//! | `latency` | one input, part by part |
//! | `startup` | from the start of a process to its first vector |
//! | `memory` | what the engine has on the device, and what the driver says |
//! | `cpu` | the same calls where the CPU computes |
//! | `table` | a report's rows for people |
//! | `texts` | texts of so many tokens |

mod calls;
mod cpu;
mod latency;
mod memory;
mod startup;
mod table;
pub(super) mod texts;

use std::time::{Duration, Instant};

use serde_json::{Map, Value};

pub use cpu::encoder_on_cpu;
pub use startup::{first_vector, startup};
pub use table::encoder_table;

use super::Effort;
use super::report::{Micros, Report};
use crate::target::ReportFile;
use anyhow::Result;
use ropeway::inspect::{CallTimes, MemoryProbe, time_call};
use ropeway::{Engine, Numerics, Request};

/// Whole calls of an engine on a GPU that computes in the default numerics class: throughput, latency, documents,
/// memory. `probe` was made before the engine was opened. With `file`, the report is there as JSON after each row.
///
/// # Errors
/// An engine on the CPU; a call that failed.
pub fn encoder(
    engine: &Engine,
    effort: Effort,
    probe: Option<&MemoryProbe>,
    file: Option<&ReportFile>,
) -> Result<Report> {
    let mut report = Report::new(engine, "encoder", file)?;
    let opened = probe.map(MemoryProbe::taken).transpose()?;
    calls::throughput(engine, effort, &mut report)?;
    calls::documents(engine, effort, &mut report)?;
    latency::of_one_input(engine, Numerics::Invariant, None, effort, &mut report)?;
    memory::rows(engine, probe.zip(opened), &mut report)?;
    Ok(report)
}

/// Adds the latency of an engine that was opened for [`Numerics::Fastest`], with `merged` as its merged adapter.
///
/// # Errors
/// As [`encoder`].
pub fn encoder_fastest(engine: &Engine, merged: &str, effort: Effort, report: &mut Report) -> Result<()> {
    latency::of_one_input(engine, Numerics::Fastest, Some(merged), effort, report)
}

/// How often something is run.
struct Pace {
    /// Runs that do not count.
    warm: usize,
    /// Runs that count: so many at the least, then more for a while.
    least: usize,
    most: usize,
    seconds: f64,
}

impl Pace {
    const QUICK: Pace = Pace {
        warm: 0,
        least: 1,
        most: 1,
        seconds: 0.0,
    };

    /// Runs it and times each run, by the host's clock.
    fn time(&self, mut run: impl FnMut() -> Result<()>) -> Result<Micros> {
        for _ in 0..self.warm {
            run()?;
        }
        let start = Instant::now();
        let mut samples = Vec::new();
        while samples.len() < self.least
            || (samples.len() < self.most && start.elapsed().as_secs_f64() < self.seconds)
        {
            let once = Instant::now();
            run()?;
            samples.push(micros(once.elapsed()));
        }
        Ok(Micros::of(samples))
    }
}

/// One call.
fn call(engine: &Engine, requests: &[Request<'_>]) -> Result<()> {
    engine
        .embed_batch(requests)
        .into_iter()
        .try_for_each(|result| Ok(result.map(drop)?))
}

/// What one call consists of, in µs: the one of several whose whole is in the middle. Events lie between the device's
/// parts, so that the whole is a little longer than without; where the host is late with a part, it begins with that.
fn parts(engine: &Engine, requests: &[Request<'_>], runs: usize) -> Result<Map<String, Value>> {
    let mut timed = (0..runs)
        .map(|_| time_call(engine, requests))
        .collect::<Result<Vec<CallTimes>, _>>()?;
    timed.sort_by_key(|timed| timed.whole);
    let middle = &timed[(runs - 1) / 2];
    let (whole, tokenise, device) = (micros(middle.whole), micros(middle.tokenise), middle.device);
    let rest = whole - tokenise - device.upload - device.kernels - device.download;
    let parts = [
        ("tokenise", tokenise),
        ("upload", device.upload),
        ("device", device.kernels),
        ("download", device.download),
        // Two clocks: where nothing is left, their difference is.
        ("rest", rest.max(0.0)),
    ];
    Ok(parts
        .into_iter()
        .map(|(name, micros)| (name.to_owned(), micros.into()))
        .collect())
}

fn micros(time: Duration) -> f64 {
    1e6 * time.as_secs_f64()
}

/// An object's entries.
fn entries<const N: usize>(entries: [(&str, Value); N]) -> Map<String, Value> {
    entries
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_between_the_least_and_the_most() {
        let runs = |seconds, least, most| {
            let mut count = 0;
            let pace = Pace {
                warm: 3,
                least,
                most,
                seconds,
            };
            let micros = pace.time(|| {
                count += 1;
                Ok(())
            });
            (count, micros.unwrap().samples)
        };
        assert_eq!(runs(0.0, 5, 9), (8, 5));
        assert_eq!(runs(f64::INFINITY, 5, 9), (12, 9));
    }
}
