//! Times of the steps of a pass on the CPU, and what the CPU can do at most.

use std::time::Duration;

use super::Pass;
use crate::cost::{self, Cost};
pub use crate::cpu::Limits;
use crate::engine::Engine;
use crate::error::Result;
use crate::plan::{Op, Step};

/// Steps of a pass that are alike but for the layer.
#[derive(Clone, Debug)]
pub struct CpuStep {
    /// Steps that belong together: `gemm`, `attention`, `lora_down`, `embed`, `layernorm`, `pool`.
    pub group: &'static str,
    /// The ops, without the layer.
    pub ops: String,
    /// How many of them a pass has.
    pub per_pass: usize,
    /// The lower bound of the work of one.
    pub cost: Cost,
    /// What each took in µs, run by run and layer by layer: within a pass, so that its operands are where the step before
    /// has left them.
    pub micros: Vec<f64>,
}

impl Pass<'_> {
    /// Runs the pass so many times and times its steps.
    ///
    /// # Errors
    /// An engine on a GPU.
    pub fn time_cpu_steps(&self, runs: usize) -> Result<Vec<CpuStep>> {
        let plan = self.plan();
        let (element, weight) = self.engine.number_bytes();
        let lengths = self.lengths();
        let mut kinds: Vec<(usize, CpuStep)> = Vec::new();
        let mut kind_of = Vec::new();
        for (number, step) in plan.steps.iter().enumerate() {
            let kind = kinds
                .iter()
                .position(|&(first, _)| plan.steps[first].is_like(step));
            kind_of.push(kind.unwrap_or(kinds.len()));
            match kind {
                Some(kind) => kinds[kind].1.per_pass += 1,
                None => kinds.push((
                    number,
                    CpuStep {
                        group: group(step),
                        ops: step
                            .outputs
                            .iter()
                            .map(|output| format!("{:?}", output.op))
                            .collect::<Vec<_>>()
                            .join(" + "),
                        per_pass: 1,
                        cost: cost::step(self.engine.config(), &plan, step, &lengths, element, weight),
                        micros: Vec::new(),
                    },
                )),
            }
        }
        // One run that does not count.
        self.engine.time_on_cpu(&plan, &self.batch, &mut |_, _| ())?;
        for _ in 0..runs {
            self.engine
                .time_on_cpu(&plan, &self.batch, &mut |step, time: Duration| {
                    kinds[kind_of[step]].1.micros.push(1e6 * time.as_secs_f64());
                })?;
        }
        Ok(kinds.into_iter().map(|(_, kind)| kind).collect())
    }
}

/// What the CPU of an engine can do at most in its precision, measured.
///
/// # Errors
/// An engine on a GPU.
pub fn cpu_limits(engine: &Engine) -> Result<Limits> {
    engine.cpu_limits()
}

fn group(step: &Step) -> &'static str {
    match step.op() {
        Op::Embed => "embed",
        Op::LoraDown(_) => "lora_down",
        Op::Qkv | Op::OutProj | Op::Fc1 | Op::Fc2 | Op::BaseGemm(_) => "gemm",
        Op::LoraUp(_) => "lora_up",
        Op::Attention => "attention",
        Op::AddLayerNorm(_) => "layernorm",
        Op::Pool => "pool",
    }
}
