//! One plan, two runs, step by step: which step is the first that disagrees?
//!
//! The plan is made for the side on a GPU, or else the right-hand one, and both sides run it. Buffers are
//! compared in the order they are written, so the first that is off names the step that is wrong and not
//! one that inherits it. They are compared in their plain form (queries and keys not rotated, queries not
//! scaled), whatever form the plan gives them on a GPU; the CPU's executors write the plain form alone.

use std::collections::HashMap;
use std::fmt;

use crate::batch::Batch;
use crate::cpu::naive;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::plan::{BufferId, Fusion, Name, Plan, Site};
use crate::precision::Precision;
use crate::request::Request;

/// What runs the plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Executor {
    /// The engine's own, on its device.
    #[default]
    Device,
    /// Every step written plainly in float64: the reference. Slow.
    Naive,
}

/// One side of a comparison.
#[derive(Debug)]
pub struct Side<'a> {
    /// The model, opened.
    pub engine: &'a Engine,
    /// What runs the plan.
    pub executor: Executor,
    /// The inputs; both sides must have the same tokens per sequence.
    pub requests: &'a [Request<'a>],
}

/// One buffer of one step, compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Number of the step in the plan.
    pub step: usize,
    /// The step, as the plan prints it.
    pub name: String,
    /// The buffer, as the plan prints it.
    pub buffer: String,
    /// Largest absolute difference; NaN on one side alone counts as infinite.
    pub max_abs: f64,
    /// Largest absolute value on the right.
    pub scale: f64,
    /// Largest `max_abs / scale` that this variant is allowed.
    pub tolerance: f64,
}

impl Difference {
    /// Whether the two sides agree here.
    pub fn within(&self) -> bool {
        self.max_abs <= self.tolerance * self.scale
    }

    /// `max_abs / scale`, or `max_abs` where all of the right side is zero.
    pub fn relative(&self) -> f64 {
        if self.scale > 0.0 {
            self.max_abs / self.scale
        } else {
            self.max_abs
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.within() { "ok" } else { "DIFFERS" };
        let relative = self.relative();
        write!(
            f,
            "{verdict:7} step {:3} {} -> {}: max |difference| {:.3e}, relative {relative:.3e} (tolerance {:.0e})",
            self.step, self.name, self.buffer, self.max_abs, self.tolerance
        )
    }
}

/// Runs both sides and compares them after every step, in order.
///
/// # Errors
/// A bad request; sides whose tokens, model sizes or loaded adapters differ.
pub fn compare(left: &Side<'_>, right: &Side<'_>) -> Result<Vec<Difference>> {
    compare_with(left, right, None)
}

/// As [`compare`], with a plan whose adapters are applied in a given way, if it is one for a GPU.
///
/// # Errors
/// As [`compare`].
pub fn compare_with(left: &Side<'_>, right: &Side<'_>, fusion: Option<Fusion>) -> Result<Vec<Difference>> {
    let (_, left_batch) = left.engine.plan_of(left.requests)?;
    let (_, right_batch) = right.engine.plan_of(right.requests)?;
    if left_batch.cu_seqlens != right_batch.cu_seqlens
        || left_batch.output_rows() != right_batch.output_rows()
    {
        return Err(Error::request(format!(
            "the two sides do not have the same tokens ({} and {} in all), so their steps cannot be compared; give \
             both the same prompt",
            left_batch.tokens(),
            right_batch.tokens()
        )));
    }
    let sizes = |engine: &Engine| {
        let config = engine.config();
        (
            config.hidden_size,
            config.num_hidden_layers,
            config.intermediate_size,
            config.num_attention_heads,
        )
    };
    if sizes(left.engine) != sizes(right.engine) {
        return Err(Error::request("the two sides' models have different sizes"));
    }
    let (mut shape, left_shape) = (right_batch.shape(), left_batch.shape());
    let columns = |batch: &Batch| Site::ALL.map(|site| batch.adapters.columns(site));
    if columns(&left_batch) != columns(&right_batch) && (shape.adapted || left_shape.adapted) {
        return Err(Error::request(
            "the two sides have different adapters loaded, so their down-projections cannot be compared; load the same \
             ones on both",
        ));
    }
    // Adapters of either side need their steps.
    shape.adapted |= left_shape.adapted;
    let on_gpu = |side: &Side<'_>| side.executor == Executor::Device && side.engine.on_gpu();
    let plan = match (on_gpu(right), on_gpu(left)) {
        (true, _) => right.engine.plan_with(&right_batch, shape, fusion),
        (false, true) => left.engine.plan_with(&left_batch, shape, fusion),
        (false, false) => {
            let columns = columns(&right_batch).map(|(_, total)| total);
            Plan::cpu(right.engine.config(), shape, columns)
        }
    };
    let tolerance = [left, right].map(tolerance).into_iter().fold(0.0, f64::max);
    let mut wanted: HashMap<(usize, BufferId), Vec<f64>> = HashMap::new();
    run(right, &plan, &right_batch, &mut |step, id, data| {
        wanted.insert((step, id), data);
    })?;
    let mut differences = Vec::new();
    run(left, &plan, &left_batch, &mut |step, id, data| {
        let right = &wanted[&(step, id)];
        let gap = |(a, b): (&f64, &f64)| match (a.is_nan(), b.is_nan()) {
            (true, true) => 0.0,
            (false, false) if a == b => 0.0,
            (false, false) => (a - b).abs(),
            _ => f64::INFINITY,
        };
        differences.push(Difference {
            step,
            name: plan.describe(&plan.steps[step]),
            buffer: plan.buffers[id].to_string(),
            max_abs: data.iter().zip(right).map(gap).fold(0.0, f64::max),
            scale: right
                .iter()
                .filter(|x| x.is_finite())
                .fold(0.0, |max, x| max.max(x.abs())),
            tolerance,
        });
    })?;
    Ok(differences)
}

/// Runs one side by itself; `seen` gets every buffer, as the plan prints it, and its contents in the plain form. One of
/// the engine's execution slots is in use meanwhile: `seen` must not call the engine.
pub fn trace(side: &Side<'_>, seen: &mut dyn FnMut(&str, &[f64])) -> Result<()> {
    let (plan, batch) = side.engine.plan_of(side.requests)?;
    run(side, &plan, &batch, &mut |_, id, data| {
        seen(&plan.buffers[id].to_string(), &data)
    })
}

/// How far a side's buffers may be from the reference, relative to the buffer's largest element. A type rounds at
/// 6e-8 (float32), 5e-4 (float16), 4e-3 (bfloat16, and int8 of its row's largest number); the layers before lose one to two digits more, and any
/// real mistake is far above.
fn tolerance(side: &Side<'_>) -> f64 {
    match (side.executor, side.engine.precision()) {
        (Executor::Naive, _) | (_, Precision::F32) => 1e-4,
        (_, Precision::F16) => 1e-2,
        (_, Precision::Bf16 | Precision::Int8) => 5e-2,
    }
}

fn run(
    side: &Side<'_>,
    plan: &Plan,
    batch: &Batch,
    after: &mut dyn FnMut(usize, BufferId, Vec<f64>),
) -> Result<()> {
    let model = side.engine.model();
    match side.executor {
        Executor::Device => {
            let on_gpu = side.engine.on_gpu();
            side.engine.trace(plan, batch, &mut |step, id, data: &[f32]| {
                let mut data: Vec<f64> = data.iter().map(|&x| f64::from(x)).collect();
                let buffer = &plan.buffers[id];
                if on_gpu && buffer.name == Name::Qkv {
                    naive::plain_qkv(model, batch, buffer.form, &mut data);
                }
                after(step, id, data);
            })
        }
        Executor::Naive => {
            naive::run(model, plan, batch, &mut |step, id, data| {
                after(step, id, data.to_vec())
            });
            Ok(())
        }
    }
}
