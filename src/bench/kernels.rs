//! Every kernel of a pass alone.

use serde_json::{Map, Value, json};

use super::report::{Micros, Report, Row};
use super::{Effort, batches};
use crate::batch::Batch;
use crate::cost::{self, Cost};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::gpu::exec::{Launch, NUMBER, Params};
use crate::gpu::timing::{Rotation, Steps};
use crate::model::ModelConfig;

/// What the kernels are run on.
struct Case {
    /// Lengths of the sequences.
    lengths: Vec<usize>,
    /// Whether each sequence uses one of the loaded adapters, in turn.
    adapted: bool,
    /// The kernels whose time follows from the tokens alone were measured before: attention is what is wanted.
    attention_alone: bool,
}

/// The kernels of an engine, to be measured row by row.
pub struct KernelBench<'e> {
    engine: &'e Engine,
    rotation: Rotation,
    batches: Vec<Batch>,
    /// Not measured yet.
    rows: Vec<Kernel>,
}

/// A row to be measured.
struct Kernel {
    row: Row,
    cost: Cost,
    batch: usize,
    /// Which of the kinds of its steps.
    kind: usize,
}

/// Measures all kernels; `seen` is given each row as soon as it is there.
///
/// # Errors
/// An engine on the CPU; a call of the driver that failed.
pub fn kernels(engine: &Engine, effort: Effort, seen: &mut dyn FnMut(&Row)) -> Result<Report> {
    let mut report = Report::new(engine, "kernels")?;
    let bench = KernelBench::new(engine, effort)?;
    let (warm, samples) = match effort {
        Effort::Full => (3, 50),
        Effort::Quick => (0, 2),
    };
    for (number, batch) in bench.batches.iter().enumerate() {
        bench.with_steps(batch, |steps| {
            for kernel in bench.rows.iter().filter(|kernel| kernel.batch == number) {
                for _ in 0..warm {
                    steps.time(kernel.kind)?;
                }
                let times: Result<Vec<f64>> = (0..samples).map(|_| steps.time(kernel.kind)).collect();
                let row = Row {
                    micros: Micros::of(times?),
                    ..kernel.row.clone()
                };
                let row = row.measured(kernel.cost, &report.ceilings);
                seen(&row);
                report.rows.push(row);
            }
            Ok(())
        })?;
    }
    Ok(report)
}

fn cases(engine: &Engine, effort: Effort) -> Vec<Case> {
    let case = |lengths: &[usize], adapted, attention_alone| Case {
        lengths: lengths.to_vec(),
        adapted,
        attention_alone,
    };
    let mut cases = match effort {
        Effort::Quick => vec![case(&[9], false, false), case(&[30, 41], true, false)],
        Effort::Full => {
            let mut cases: Vec<Case> = Vec::new();
            for lengths in [
                &[16][..],
                &[32],
                &[64],
                &[128],
                &[256],
                &[512; 2],
                &[512; 8],
                &[512; 16],
            ] {
                cases.push(case(lengths, false, false));
            }
            for lengths in [&[16][..], &[64], &[512; 2], &[512; 16]] {
                cases.push(case(lengths, true, false));
            }
            for length in [64, 128, 1024, 2048, 4096, 8192] {
                cases.push(case(&vec![length; 8192 / length], false, true));
            }
            cases.push(case(&batches::log_uniform(16, 512, 8192), false, true));
            cases
        }
    };
    let longest = engine.model().max_tokens;
    cases.retain(|case| {
        case.lengths.iter().all(|&length| length <= longest)
            && case.lengths.iter().sum::<usize>() <= engine.batch_tokens().max(longest)
            && !(case.adapted && engine.adapters().is_empty())
    });
    cases
}

impl<'e> KernelBench<'e> {
    /// Prepares the shapes that the model and the engine's token budget allow.
    ///
    /// # Errors
    /// An engine on the CPU; a call of the driver that failed.
    pub fn new(engine: &'e Engine, effort: Effort) -> Result<KernelBench<'e>> {
        let mut bench = KernelBench {
            engine,
            rotation: match effort {
                Effort::Full => Rotation::FULL,
                Effort::Quick => Rotation::QUICK,
            },
            batches: Vec::new(),
            rows: Vec::new(),
        };
        for (number, case) in cases(engine, effort).into_iter().enumerate() {
            let batch = batches::batch(engine, &case.lengths, case.adapted)?;
            let rows = bench.with_steps(&batch, |steps| {
                let kernel = |kind| {
                    let (row, cost) = describe(engine.model(), &batch, steps, kind);
                    Kernel {
                        row,
                        cost,
                        batch: number,
                        kind,
                    }
                };
                Ok((0..steps.kinds.len()).map(kernel).collect::<Vec<_>>())
            })?;
            let wanted = |kernel: &Kernel| !case.attention_alone || kernel.row.group == "attention";
            bench.rows.extend(rows.into_iter().filter(wanted));
            bench.batches.push(batch);
        }
        Ok(bench)
    }

    /// All rows, not measured yet.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().map(|kernel| &kernel.row)
    }

    /// Times of a row's kernel in µs, so many of them, after one that does not count; `row` counts as in
    /// [`rows`](Self::rows).
    ///
    /// # Errors
    /// A row that there is not; a call of the driver that failed.
    pub fn time(&self, row: usize, samples: usize) -> Result<Vec<f64>> {
        let kernel = self
            .rows
            .get(row)
            .ok_or_else(|| Error::request(format!("there is no row {row}, only {}", self.rows.len())))?;
        self.with_steps(&self.batches[kernel.batch], |steps| {
            steps.time(kernel.kind)?;
            (0..samples).map(|_| steps.time(kernel.kind)).collect()
        })
    }

    fn with_steps<T>(&self, batch: &Batch, work: impl FnOnce(&mut Steps<'_>) -> Result<T>) -> Result<T> {
        self.engine.with_gpu(|gpu, lane, model, resident| {
            let mut steps = gpu.steps(lane, model, batch, resident, self.rotation)?;
            work(&mut steps)
        })
    }
}

/// What a kind of steps is, and what it must cost.
fn describe(config: &ModelConfig, batch: &Batch, steps: &Steps<'_>, kind: usize) -> (Row, Cost) {
    let of = &steps.kinds[kind];
    let launch = &of.launches[0];
    let lengths: Vec<usize> = (0..batch.sequences()).map(|s| batch.rows(s).len()).collect();
    let step = &steps.plan.steps[of.step];
    let mut cost = cost::step(config, &steps.plan, step, &lengths, NUMBER, NUMBER);
    let (group, shape, mut parameters) = shape(config, &lengths, launch);
    parameters.insert("per_pass".into(), of.count.into());
    if let Params::Gemm(_, p) = launch.params {
        let columns = u64::from(p.columns);
        cost.flops += 2 * batch.tokens() as u64 * u64::from(p.n) * columns;
        cost.bytes += NUMBER as u64 * u64::from(p.n) * columns;
    }
    let mut notes = Vec::new();
    if of.launches.len() > 1 {
        notes.push(format!("{} launches", of.launches.len()));
    }
    if !of.cold {
        notes.push("in L2".to_owned());
    }
    let row = Row {
        group,
        case: steps.entry(launch).to_owned(),
        shape,
        parameters,
        note: (!notes.is_empty()).then(|| notes.join(", ")),
        ..Row::default()
    };
    (row, cost)
}

/// A launch's group and shape, for people and for programs.
pub(super) fn shape(
    config: &ModelConfig,
    lengths: &[usize],
    launch: &Launch,
) -> (&'static str, String, Map<String, Value>) {
    let tokens: usize = lengths.iter().sum();
    let (group, shape, parameters) = match &launch.params {
        Params::Gemm(_, p) => {
            let epilogue = match (p.gelu, p.rope.table) {
                (1, _) => "gelu",
                (_, 0) => "bias",
                _ => "rope",
            };
            (
                "gemm",
                format!(
                    "{tokens} tokens, n {}, k {}{}, {epilogue}",
                    p.n,
                    p.k,
                    of_columns(p.columns)
                ),
                json!({"n": p.n, "k": p.k, "columns": p.columns, "epilogue": epilogue}),
            )
        }
        Params::Attention(_, p) => {
            let same = lengths.iter().all(|&length| length == lengths[0]);
            let sequences = match same {
                true => format!("{} × {} tokens", lengths.len(), lengths[0]),
                false => format!("{} of mixed lengths, {tokens} tokens", lengths.len()),
            };
            let (heads, head_dim) = (config.num_attention_heads, config.head_dim);
            (
                "attention",
                format!("{sequences}, {heads} heads of {head_dim}"),
                json!({"lengths": lengths, "heads": heads, "head_dim": head_dim, "rope": p.rope != 0}),
            )
        }
        Params::LoraDown(p) => (
            "lora_down",
            format!("{tokens} tokens, k {}{}", p.k, of_columns(p.columns)),
            json!({"k": p.k, "columns": p.columns}),
        ),
        Params::Embed(p) => (
            "embed",
            format!(
                "{tokens} tokens, hidden {}{}",
                p.hidden_size,
                of_columns(p.lora.columns)
            ),
            json!({"hidden": p.hidden_size, "columns": p.lora.columns}),
        ),
        Params::LayerNorm(p) => (
            "layernorm",
            format!(
                "{tokens} tokens, hidden {}{}",
                p.hidden_size,
                of_columns(p.lora.columns)
            ),
            json!({"hidden": p.hidden_size, "columns": p.lora.columns}),
        ),
        Params::Pool(p) => (
            "pool",
            format!("{tokens} tokens, vectors: {} of {}", lengths.len(), p.hidden_size),
            json!({"vectors": lengths.len(), "hidden": p.hidden_size}),
        ),
    };
    let Value::Object(mut parameters) = parameters else {
        unreachable!("an object was written above")
    };
    parameters.insert("tokens".into(), tokens.into());
    (group, shape, parameters)
}

fn of_columns(columns: u32) -> String {
    match columns {
        0 => String::new(),
        _ => format!(" + {columns}"),
    }
}
