//! Every step of a pass on the CPU, within the pass.

use std::fmt::Write as _;

use anyhow::Result;
use ropeway::Engine;
use ropeway::inspect::cpu_limits;
use serde::Serialize;

use super::ceiling::Ceilings;
use super::report::{Bound, Micros, Row, rows_table};
use super::{Effort, batches};

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct CpuKernels {
    /// Version of this library.
    pub ropeway: &'static str,
    /// `kernels`.
    pub bench: &'static str,
    /// Where the model is.
    pub model: String,
    /// Of weights and of what products read.
    pub precision: String,
    /// Instruction sets and threads.
    pub device: String,
    /// What this machine can do at most.
    pub ceilings: Ceilings,
    /// In the order in which they were measured.
    pub rows: Vec<Row>,
}

/// Measures the steps of passes of several sizes.
///
/// # Errors
/// An engine on a GPU.
pub fn kernels_on_cpu(engine: &Engine, effort: Effort) -> Result<CpuKernels> {
    let limits = cpu_limits(engine)?;
    let mut report = CpuKernels {
        ropeway: env!("CARGO_PKG_VERSION"),
        bench: "kernels",
        model: engine.path().display().to_string(),
        precision: engine.precision().to_string(),
        device: engine.device_name(),
        ceilings: Ceilings {
            tflops: 1e-12 * limits.flops_per_s,
            tflops_from: "the products' instruction on registers alone, all threads, measured".into(),
            gb_per_s: 1e-9 * limits.bytes_per_s,
            gb_per_s_from: "a copy, all threads, measured".into(),
        },
        rows: Vec::new(),
    };
    let (cases, runs): (&[(&[usize], bool)], _) = match effort {
        Effort::Quick => (&[(&[9], false), (&[30, 41], true)], 2),
        Effort::Full => (
            &[
                (&[8], false),
                (&[16], false),
                (&[128], false),
                (&[128], true),
                (&[512], false),
                (&[512], true),
                (&[2048], false),
                (&[64; 16], false),
            ],
            10,
        ),
    };
    for &(lengths, adapted) in cases {
        let fits = lengths.iter().all(|&length| length <= engine.config().max_tokens);
        if !fits || adapted && engine.adapters().is_empty() {
            continue;
        }
        let tokens: usize = lengths.iter().sum();
        let shape = match lengths {
            [one] => format!("{one} tokens"),
            many => format!("{} × {} tokens", many.len(), tokens / many.len()),
        };
        for step in batches::pass(engine, lengths, adapted)?.time_cpu_steps(runs)? {
            let mut row = Row {
                group: step.group,
                case: step.ops,
                shape: format!("{shape}{}", if adapted { ", adapted" } else { "" }),
                micros: Micros::of(step.micros),
                ..Row::default()
            };
            row.parameters.insert("tokens".into(), tokens.into());
            row.parameters.insert("per_pass".into(), step.per_pass.into());
            let mut row = row.measured(step.cost, &report.ceilings);
            if row.bound == Some(Bound::TensorCores) {
                row.bound = Some(Bound::Arithmetic);
            }
            report.rows.push(row);
        }
    }
    Ok(report)
}

impl CpuKernels {
    /// For programs.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a report has no keys but strings");
        text.push('\n');
        text
    }

    /// For people: the head, and the rows as a Markdown table.
    pub fn table(&self) -> String {
        let mut text = format!(
            "ropeway {} bench {}: {} in {} on {}\n",
            self.ropeway, self.bench, self.model, self.precision, self.device
        );
        let ceilings = &self.ceilings;
        let _ = writeln!(
            text,
            "ceilings: {:.2} TFLOP/s ({}); {:.1} GB/s ({})\n\
             A step's weights and what it reads may come from a cache: more than all of the memory's bound is one that does.\n",
            ceilings.tflops, ceilings.tflops_from, ceilings.gb_per_s, ceilings.gb_per_s_from
        );
        text + &rows_table(&self.rows)
    }
}
