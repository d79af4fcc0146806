//! What adapters cost: passes with them, over the same pass with weights that an adapter is merged into.

mod apart;
mod shown;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rayon::prelude::*;
use serde_json::{Value, json};

use super::batches::{self, Random};
use super::report::{Micros, Report, Row};
use super::{Ceilings, Effort};
use crate::batch::Batch;
use crate::cost::{self, Cost};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::gpu::adapters::Resident;
use crate::gpu::exec::NUMBER;
use crate::gpu::merged::Merged;
use crate::gpu::{Gpu, Lane};
use crate::model::adapter::{AdapterTable, LoraPart, Site};
use crate::model::{Adapter, Model};
use crate::plan::Fusion;
use apart::{Apart, apart};
pub(super) use shown::{chart, table};

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

/// Measures every way of the adapters; `seen` is given each row as soon as it is there.
///
/// The adapters are random ones of all linear layers, made for this; the engine's own are left alone. (Factors of
/// the embedding tables would cost the same in every way.) Sequence i uses adapter i mod n, with merged weights
/// adapter 0, which launches what the base weights launch. Times are those of a pass's kernels, the ways in turns, so
/// that all have the same clocks. With jina-embeddings-v3 the most adapters of the largest rank take 0.8 GB of the
/// device and, in float32, 1.6 GB of the host; merged weights 0.6 GB.
///
/// # Errors
/// An engine on the CPU; a call of the driver that failed, but for want of memory, which leaves out what did not fit;
/// [`Error::Internal`] if the ways' vectors are further apart than roundings explain.
pub fn adapters(engine: &Engine, effort: Effort, seen: &mut dyn FnMut(&Row)) -> Result<Report> {
    let mut report = Report::new(engine, "adapters")?;
    let grid = Grid::of(effort);
    let cases: Vec<Case> = grid
        .tokens
        .iter()
        .map(|&tokens| Case::new(engine, tokens))
        .collect::<Result<_>>()?;
    let ceilings = report.ceilings.clone();
    let mut found = |row: Row| {
        seen(&row);
        report.rows.push(row);
    };
    engine.with_gpu(|gpu, lane, model, _| {
        for &rank in grid.ranks {
            let mut table = AdapterTable::new(vec![random(model, rank, 0)]);
            let merged = Merged::upload(gpu.context(), model, table.get(0), gpu.precision());
            let merged = fits(merged.map(Arc::new))?;
            for &count in grid.adapters {
                while table.slots() < count {
                    table.add(random(model, rank, table.slots()))?;
                }
                let resident = match &merged {
                    Ok(merged) => fits(resident(gpu, model, &table, merged))?,
                    Err(reason) => Err(reason.clone()),
                };
                for case in &cases {
                    let point = Point { rank, count, case };
                    let rows = match &resident {
                        Ok(_) if case.tokens > engine.batch_tokens().max(engine.model().max_tokens) => {
                            Err("more tokens than this engine takes at once: raise batch_tokens".to_owned())
                        }
                        Ok(resident) => {
                            let batch = case.batch(&table);
                            let runs = Runs {
                                gpu,
                                model,
                                batch: &batch,
                                resident,
                            };
                            fits(runs.time(lane, repetitions(effort, case.tokens)))?
                                .map(|measured| point.rows(&measured, &ceilings))
                        }
                        Err(reason) => Err(reason.clone()),
                    };
                    match rows {
                        Ok(rows) => rows.into_iter().for_each(&mut found),
                        Err(reason) => found(point.skipped(reason)),
                    }
                }
            }
        }
        Ok(())
    })?;
    Ok(report)
}

/// Why something did not fit into the device's memory, if it did not.
fn fits<T>(result: Result<T>) -> Result<Result<T, String>> {
    match result {
        Err(Error::Gpu { step, source }) if source.out_of_memory() => Ok(Err(format!("no room: {step}"))),
        result => result.map(Ok),
    }
}

/// The adapters on the device, together with weights that the first is merged into.
fn resident(gpu: &Gpu, model: &Model, table: &AdapterTable, merged: &Arc<Merged>) -> Result<Arc<Resident>> {
    let resident = Resident::new(gpu.context(), &model.config, gpu.precision(), table, None)?;
    Ok(Arc::new(resident.with_merged(0, merged.clone())))
}

/// An adapter of this rank for all linear layers, with random factors; another for each `number`.
fn random(model: &Model, rank: usize, number: usize) -> Adapter {
    let config = &model.config;
    let layers = config.num_hidden_layers;
    let layer = |layer: usize| {
        let seed = (number * layers + layer + 1) as u64;
        let mut random = Random::new(seed);
        let mut numbers =
            |count: usize| -> Vec<f32> { (0..count).map(|_| 2.0 * random.unit() as f32 - 1.0).collect() };
        Site::ALL.map(|site| {
            let (out_features, in_features) = site.shape(config);
            let mut row = vec![0.0; in_features];
            model.encoder.layers[layer].linear(site).read_row(0, &mut row);
            let squares: f32 = row.iter().map(|x| x * x).sum();
            // A number of B·A is a sum of `rank` products of two numbers whose squares are 1/3 in the mean.
            let (w, product) = ((squares / in_features as f32).sqrt(), (rank as f32).sqrt() / 3.0);
            vec![LoraPart {
                rank,
                scale: SIZE * w / product,
                a: numbers(rank * in_features),
                bt: numbers(rank * out_features),
                column: 0,
                width: out_features,
            }]
        })
    };
    Adapter {
        name: format!("random {number}"),
        word: None,
        token_type: None,
        layers: (0..layers).into_par_iter().map(layer).collect(),
    }
}

/// Sequences that go through all ways.
struct Case {
    tokens: usize,
    /// Without adapters.
    base: Batch,
    lengths: Vec<usize>,
    /// Of the base weights: adapters are not what the result needs, or they would be merged.
    cost: Cost,
}

impl Case {
    fn new(engine: &Engine, tokens: usize) -> Result<Case> {
        let lengths = lengths(tokens, engine.model().max_tokens);
        let base = batches::batch(engine, &lengths, false)?;
        let plan = engine.plan(&base, base.shape());
        Ok(Case {
            tokens,
            cost: cost::plan(engine.model(), &plan, &lengths, NUMBER, NUMBER),
            base,
            lengths,
        })
    }

    /// The same sequences, each with one of the adapters of the table, in turn.
    fn batch(&self, table: &AdapterTable) -> Batch {
        let adapters = table.slots();
        Batch {
            mixtures: (0..self.lengths.len())
                .map(|sequence| vec![(sequence % adapters, 1.0)])
                .collect(),
            adapters: table.clone(),
            ..self.base.clone()
        }
    }
}

/// Lengths of the sequences of a batch of so many tokens.
fn lengths(tokens: usize, most: usize) -> Vec<usize> {
    let length = (tokens / SEQUENCES).clamp(1, LONGEST.min(most));
    let mut lengths = vec![length; tokens / length];
    lengths.extend(Some(tokens % length).filter(|&rest| rest > 0));
    lengths
}

/// A batch whose sequences use adapters, to be run in every way.
struct Runs<'a> {
    gpu: &'a Gpu,
    model: &'a Model,
    batch: &'a Batch,
    resident: &'a Arc<Resident>,
}

/// What all ways took, and how much their vectors agree.
struct Measured {
    /// By way, in µs.
    micros: [Micros; WAYS.len()],
    apart: Apart,
}

impl Runs<'_> {
    fn time(&self, lane: &mut Lane, (warm, samples): (usize, usize)) -> Result<Measured> {
        let mut run = |batch: &Batch, fusion| {
            self.gpu
                .run_timed(lane, self.model, batch, self.resident, Some(fusion))
        };
        let base = Batch {
            mixtures: vec![Vec::new(); self.batch.sequences()],
            ..self.batch.clone()
        };
        let (base, _) = run(&base, Fusion::Extended)?;
        let mut vectors = Vec::new();
        for (_, fusion) in WAYS {
            vectors.push(run(self.batch, fusion)?.0);
        }
        let adapters = self.batch.adapters.slots();
        let apart = Apart {
            extended: apart(&vectors[1], &vectors[0], adapters),
            separate: apart(&vectors[2], &vectors[1], 1),
            base: apart(&base, &vectors[1], 1),
        };
        apart.check(self.gpu.precision(), self.model.config.num_hidden_layers)?;
        let mut micros = WAYS.map(|_| Vec::new());
        for repetition in 0..warm + samples {
            for ((_, fusion), micros) in WAYS.iter().zip(&mut micros) {
                let (_, parts) = run(self.batch, *fusion)?;
                micros.extend((repetition >= warm).then_some(parts.kernels));
            }
        }
        Ok(Measured {
            micros: micros.map(Micros::of),
            apart,
        })
    }
}

/// A combination of the grid.
struct Point<'a> {
    rank: usize,
    count: usize,
    case: &'a Case,
}

impl Point<'_> {
    /// A row for each way.
    fn rows(&self, measured: &Measured, ceilings: &Ceilings) -> Vec<Row> {
        let Apart {
            extended,
            separate,
            base,
        } = measured.apart;
        let note = format!(
            "vectors apart: extended {extended:.1e}, separate {separate:.1e}, without adapters {base:.1e}"
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
