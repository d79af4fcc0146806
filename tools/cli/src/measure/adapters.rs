//! What adapters cost: passes with them, over the same pass with weights that an adapter is merged into.

mod deviation;
mod table;
#[cfg(test)]
mod tests;

use crate::target::ReportFile;
use anyhow::Result;
use ropeway::inspect::{AdapterLab, Fusion, Pass};
use ropeway::{Cost, Engine, Error};
use serde_json::{Value, json};

use super::batches;
use super::report::{Micros, Report, Row};
use super::{Ceilings, Effort};
use deviation::{Deviation, relative_deviation};
pub use table::table;

/// The ways of an adapter into a linear layer. All others are held against the first, whose adapter is that of slot 0.
const WAYS: [(&str, Fusion); 3] = [
    ("merged", Fusion::Merged(0)),
    ("extended", Fusion::Extended),
    ("separate", Fusion::Separate),
];

/// What a row is called where there was no room for its passes.
const SKIPPED: &str = "skipped";

/// Sequences of a batch, at the least: each of the most adapters has one.
const SEQUENCES: usize = 16;

/// A batch that is large enough has sequences of this length.
const LONGEST: usize = 512;

/// Size of an adapter's ΔW over that of W: enough to see whether it was added, and that merging does not round it away.
const SIZE: f32 = 0.25;

/// What is measured: every combination.
#[derive(Debug)]
struct Grid {
    ranks: &'static [usize],
    /// How many adapters are mixed, ascending: those of one are among those of the next.
    adapters: &'static [usize],
    /// Rows of a batch.
    tokens: &'static [usize],
}

impl Grid {
    /// All of it takes less than three minutes where 16384 tokens take 15 ms.
    fn of(effort: Effort) -> Grid {
        match effort {
            Effort::Full => Grid {
                ranks: &[4, 8, 16, 32, 64],
                adapters: &[1, 2, 4, 8, 16],
                tokens: &[64, 512, 4096, 16384],
            },
            Effort::Quick => Grid {
                ranks: &[4, 16],
                adapters: &[1, 4],
                tokens: &[64],
            },
        }
    }
}

/// How often each way is run before it counts, and how often it counts.
fn repetitions(effort: Effort, tokens: usize) -> (usize, usize) {
    match effort {
        Effort::Full => (2, (10 * 16384 / tokens).clamp(10, 50)),
        Effort::Quick => (0, 1),
    }
}

/// Measures every way of the adapters.
///
/// The adapters are those of an [`AdapterLab`]; the engine's own are left alone. Sequence i uses adapter i mod n, with
/// merged weights adapter 0, which launches what the base weights launch. Times are those of a pass's kernels, the ways
/// in turns, so that all have the same clocks. With jina-embeddings-v3 the largest set of the largest rank takes 0.8 GB
/// of the device and, in float32, 1.6 GB of the host; merged weights 0.6 GB. With `file`, the report is there as JSON after
/// each row.
///
/// # Errors
/// An engine on the CPU; a call of the driver that failed, but for want of memory, which leaves out what did not fit;
/// the ways' vectors deviate further than roundings explain.
pub fn adapters(engine: &Engine, effort: Effort, file: Option<&ReportFile>) -> Result<Report> {
    let mut report = Report::new(engine, "adapters", file)?;
    let grid = Grid::of(effort);
    let cases: Vec<Case<'_>> = grid
        .tokens
        .iter()
        .map(|&tokens| Case::new(engine, tokens))
        .collect::<Result<_>>()?;
    for &rank in grid.ranks {
        let mut lab = fits(AdapterLab::new(engine, rank, SIZE))?;
        for &count in grid.adapters {
            if let Ok(some) = &mut lab
                && let Err(reason) = fits(some.grow(count))?
            {
                lab = Err(reason);
            }
            for case in &cases {
                let point = Point { rank, count, case };
                let rows = match &lab {
                    Ok(_) if case.tokens > engine.batch_tokens().max(engine.config().max_tokens) => {
                        Err("more tokens than this engine takes at once: raise batch_tokens".to_owned())
                    }
                    Ok(lab) => time(engine, lab, case, repetitions(effort, case.tokens))?
                        .map(|measured| point.rows(&measured, &report.ceilings)),
                    Err(reason) => Err(reason.clone()),
                };
                match rows {
                    Ok(rows) => rows.into_iter().for_each(|row| report.push(row)),
                    Err(reason) => report.push(point.skipped(reason)),
                }
            }
        }
    }
    Ok(report)
}

/// Why something did not fit into the device's memory, if it did not.
fn fits<T>(result: ropeway::Result<T>) -> Result<Result<T, String>> {
    match result {
        Err(Error::Gpu { step, source }) if source.is_out_of_memory() => Ok(Err(format!("no room: {step}"))),
        result => Ok(Ok(result?)),
    }
}

/// Sequences that go through all ways.
struct Case<'e> {
    tokens: usize,
    /// Without adapters.
    base: Pass<'e>,
    lengths: Vec<usize>,
    /// Of the base weights: adapters are not what the result needs, or they would be merged.
    cost: Cost,
}

impl<'e> Case<'e> {
    fn new(engine: &'e Engine, tokens: usize) -> Result<Case<'e>> {
        let lengths = lengths(tokens, engine.config().max_tokens);
        let base = batches::pass(engine, &lengths, false)?;
        Ok(Case {
            tokens,
            cost: base.cost(),
            base,
            lengths,
        })
    }
}

/// Lengths of the sequences of a batch of so many tokens.
fn lengths(tokens: usize, most: usize) -> Vec<usize> {
    let length = (tokens / SEQUENCES).clamp(1, LONGEST.min(most));
    let mut lengths = vec![length; tokens / length];
    lengths.extend(Some(tokens % length).filter(|&rest| rest > 0));
    lengths
}

/// What all ways took, and how much their vectors agree.
struct Measured {
    /// By way, in µs.
    micros: [Micros; WAYS.len()],
    deviation: Deviation,
}

/// Runs a case in every way; the reason if the device has no room for it.
fn time(
    engine: &Engine,
    lab: &AdapterLab<'_>,
    case: &Case<'_>,
    (warm, samples): (usize, usize),
) -> Result<Result<Measured, String>> {
    let adapters = lab.adapters();
    let adapted = lab.assign(&case.base, |sequence| vec![(sequence % adapters, 1.0)]);
    let base = lab.assign(&case.base, |_| Vec::new());
    let run = || -> ropeway::Result<_> {
        let (base, _) = lab.run(&base, Fusion::Extended)?;
        let mut vectors = Vec::new();
        for (_, fusion) in WAYS {
            vectors.push(lab.run(&adapted, fusion)?.0);
        }
        let mut micros = WAYS.map(|_| Vec::new());
        for repetition in 0..warm + samples {
            for ((_, fusion), micros) in WAYS.iter().zip(&mut micros) {
                let (_, times) = lab.run(&adapted, *fusion)?;
                micros.extend((repetition >= warm).then_some(times.kernels));
            }
        }
        Ok((base, vectors, micros))
    };
    let (base, vectors, micros) = match fits(run())? {
        Ok(ran) => ran,
        Err(reason) => return Ok(Err(reason)),
    };
    let deviation = Deviation {
        extended: relative_deviation(&vectors[1], &vectors[0], adapters),
        separate: relative_deviation(&vectors[2], &vectors[1], 1),
        base: relative_deviation(&base, &vectors[1], 1),
    };
    deviation.check(engine.precision(), engine.config().num_hidden_layers)?;
    Ok(Ok(Measured {
        micros: micros.map(Micros::of),
        deviation,
    }))
}

/// A combination of the grid.
struct Point<'a> {
    rank: usize,
    count: usize,
    case: &'a Case<'a>,
}

impl Point<'_> {
    /// A row for each way.
    fn rows(&self, measured: &Measured, ceilings: &Ceilings) -> Vec<Row> {
        let Deviation {
            extended,
            separate,
            base,
        } = measured.deviation;
        let note = format!(
            "deviation of vectors: extended {extended:.1e}, separate {separate:.1e}, without adapters {base:.1e}"
        );
        let merged = measured.micros[0].median;
        let row = |((way, _), micros): (&(&str, Fusion), &Micros)| {
            let seconds = 1e-6 * micros.median;
            let row = Row {
                micros: *micros,
                ratio: Some(micros.median / merged).filter(|ratio| ratio.is_finite()),
                tokens_per_s: (seconds > 0.0).then(|| self.case.tokens as f64 / seconds),
                note: Some(note.clone()),
                ..self.row(way)
            };
            row.measured(self.case.cost, ceilings)
        };
        WAYS.iter().zip(&measured.micros).map(row).collect()
    }

    fn skipped(&self, reason: String) -> Row {
        Row {
            note: Some(reason),
            ..self.row(SKIPPED)
        }
    }

    /// Without a time.
    fn row(&self, way: &str) -> Row {
        let (rank, adapters, tokens) = (self.rank, self.count, self.case.tokens);
        let lengths = &self.case.lengths;
        let parameters = json!({
            "rank": rank,
            "adapters": adapters,
            "tokens": tokens,
            "sequences": lengths.len(),
            "way": way,
        });
        let Value::Object(parameters) = parameters else {
            unreachable!("an object was written above")
        };
        Row {
            group: "adapters",
            case: way.to_owned(),
            shape: format!(
                "{} × {} tokens, {adapters} of rank {rank}",
                lengths.len(),
                lengths[0]
            ),
            parameters,
            ..Row::default()
        }
    }
}
