//! Every kernel of a pass alone.

use crate::target::ReportFile;
use anyhow::{Context as _, Result};
use ropeway::inspect::{LaunchInfo, Pass, Rotation, StepInfo, StepTimer};
use ropeway::{Cost, Engine};

use super::report::{Micros, Report, Row};
use super::{Effort, batches};

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
    rotation: Rotation,
    passes: Vec<Pass<'e>>,
    /// Not measured yet.
    rows: Vec<Kernel>,
}

/// A row to be measured.
struct Kernel {
    row: Row,
    cost: Cost,
    pass: usize,
    /// Which of the kinds of its steps.
    kind: usize,
}

/// Measures all kernels. With `file`, the report is there as JSON after each row.
///
/// # Errors
/// An engine on the CPU; a call of the driver that failed.
pub fn kernels(engine: &Engine, effort: Effort, file: Option<&ReportFile>) -> Result<Report> {
    let mut report = Report::new(engine, "kernels", file)?;
    let bench = KernelBench::new(engine, effort)?;
    let (warm, samples) = match effort {
        Effort::Full => (3, 50),
        Effort::Quick => (0, 2),
    };
    for (number, pass) in bench.passes.iter().enumerate() {
        pass.time_steps(bench.rotation, |steps| {
            for kernel in bench.rows.iter().filter(|kernel| kernel.pass == number) {
                for _ in 0..warm {
                    steps.time(kernel.kind)?;
                }
                let row = Row {
                    micros: Micros::of(times(steps, kernel.kind, samples)?),
                    ..kernel.row.clone()
                };
                report.push(row.measured(kernel.cost, &report.ceilings));
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
        Effort::Quick => vec![
            case(&[9], false, false),
            case(&[9], true, false),
            case(&[30, 41], true, false),
        ],
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
    let longest = engine.config().max_tokens;
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
            rotation: match effort {
                Effort::Full => Rotation::FULL,
                Effort::Quick => Rotation::QUICK,
            },
            passes: Vec::new(),
            rows: Vec::new(),
        };
        for (number, case) in cases(engine, effort).into_iter().enumerate() {
            let pass = batches::pass(engine, &case.lengths, case.adapted)?;
            let rows = pass.time_steps(bench.rotation, |steps| {
                let kernel = |kind| {
                    let step = steps.describe(kind);
                    Kernel {
                        cost: step.launch.cost,
                        row: describe(step),
                        pass: number,
                        kind,
                    }
                };
                Ok((0..steps.kinds()).map(kernel).collect::<Vec<_>>())
            })?;
            let wanted = |kernel: &Kernel| !case.attention_alone || kernel.row.group == "attention";
            bench.rows.extend(rows.into_iter().filter(wanted));
            bench.passes.push(pass);
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
            .with_context(|| format!("there is no row {row}, only {}", self.rows.len()))?;
        Ok(self.passes[kernel.pass].time_steps(self.rotation, |steps| {
            steps.time(kernel.kind)?;
            times(steps, kernel.kind, samples)
        })?)
    }
}

fn times(steps: &mut StepTimer<'_>, kind: usize, samples: usize) -> ropeway::Result<Vec<f64>> {
    (0..samples).map(|_| steps.time(kind)).collect()
}

/// What a kind of steps is.
fn describe(step: StepInfo) -> Row {
    let LaunchInfo {
        group,
        kernel,
        shape,
        mut parameters,
        ..
    } = step.launch;
    parameters.insert("per_pass".into(), step.per_pass.into());
    let mut notes = Vec::new();
    if !step.cold {
        notes.push("in L2".to_owned());
    }
    Row {
        group,
        case: kernel,
        shape,
        parameters,
        note: (!notes.is_empty()).then(|| notes.join(", ")),
        ..Row::default()
    }
}
