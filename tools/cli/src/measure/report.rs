//! Rows of measurements, each with its ceiling.

use std::fmt::Write as _;

use serde::Serialize;

use super::ceiling::{self, Ceilings, DeviceFacts};
use crate::target::ReportFile;
use anyhow::Result;
use ropeway::Cost;
use ropeway::Engine;

/// What was measured, where.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this library.
    pub ropeway: &'static str,
    /// Which bench: `kernels`, `encoder`, `adapters`.
    pub bench: &'static str,
    /// Where the model is.
    pub model: String,
    /// The 16-bit type of weights and activations.
    pub precision: String,
    /// What computed.
    pub device: DeviceFacts,
    /// What the device can do at most.
    pub ceilings: Ceilings,
    /// In the order in which they were measured.
    rows: Vec<Row>,
    /// Where the report is as JSON after each row, so that a run that is ended in the middle leaves what it had.
    #[serde(skip)]
    file: Option<ReportFile>,
}

/// One measurement.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    /// Rows that belong together: `gemm`, `attention`, `latency`.
    pub group: &'static str,
    /// What was run: a kernel, a way of doing things.
    pub case: String,
    /// On what.
    pub shape: String,
    /// How long it took.
    #[serde(skip_serializing_if = "Micros::is_empty")]
    pub micros: Micros,
    /// Floating-point operations that the result needs, per time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tflops: Option<f64>,
    /// Bytes that must be moved, per time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gb_per_s: Option<f64>,
    /// What limits it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<Bound>,
    /// The least time that the ceilings allow, over the time it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fraction_of_bound: Option<f64>,
    /// Throughput.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_s: Option<f64>,
    /// Its time over that of the row it is to be compared with, measured in turns with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// Bytes, where they are what was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// What it consists of, in µs; a start-up, in s.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub parts: serde_json::Map<String, serde_json::Value>,
    /// The numbers behind `shape`.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub parameters: serde_json::Map<String, serde_json::Value>,
    /// What a reader must know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What limits a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Bound {
    /// The matrix units.
    #[serde(rename = "tensor cores")]
    TensorCores,
    /// A CPU's instructions.
    #[serde(rename = "arithmetic")]
    Arithmetic,
    /// The device's memory.
    #[serde(rename = "memory")]
    Memory,
}

impl Bound {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Bound::TensorCores => "tensor cores",
            Bound::Arithmetic => "arithmetic",
            Bound::Memory => "memory",
        }
    }
}

/// Times of one thing that was run several times, in µs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Micros {
    /// The middle one.
    pub median: f64,
    /// The shortest.
    pub min: f64,
    /// The longest.
    pub max: f64,
    /// 99 of 100 were not longer; of fewer than 100 it says nothing and is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
    /// How many.
    pub samples: usize,
}

impl Micros {
    fn is_empty(&self) -> bool {
        self.samples == 0
    }

    /// Of these samples. All zero if there are none.
    pub fn of(mut samples: Vec<f64>) -> Micros {
        samples.sort_by(f64::total_cmp);
        let count = samples.len();
        let at = |part: f64| samples[((count as f64 * part).ceil() as usize).clamp(1, count) - 1];
        if count == 0 {
            return Micros::default();
        }
        Micros {
            median: (samples[(count - 1) / 2] + samples[count / 2]) / 2.0,
            min: samples[0],
            max: samples[count - 1],
            p99: (count >= 100).then(|| at(0.99)),
            samples: count,
        }
    }
}

impl Row {
    /// A row with what its cost and the ceilings say about its time.
    pub fn measured(mut self, cost: Cost, ceilings: &Ceilings) -> Row {
        let seconds = 1e-6 * self.micros.median;
        let (compute, memory) = (
            cost.flops as f64 / (1e12 * ceilings.tflops),
            cost.bytes as f64 / (1e9 * ceilings.gb_per_s),
        );
        if seconds > 0.0 {
            self.tflops = (cost.flops > 0).then_some(1e-12 * cost.flops as f64 / seconds);
            self.gb_per_s = (cost.bytes > 0).then_some(1e-9 * cost.bytes as f64 / seconds);
            self.fraction_of_bound = Some(compute.max(memory) / seconds);
        }
        self.bound = Some(if compute > memory {
            Bound::TensorCores
        } else {
            Bound::Memory
        });
        self
    }
}

impl Report {
    /// An empty report of an engine on a GPU; measures the ceilings. With `file`, it is kept there.
    ///
    /// # Errors
    /// An engine on the CPU; a call of the driver that failed.
    pub fn new(engine: &Engine, bench: &'static str, file: Option<&ReportFile>) -> Result<Report> {
        let (device, ceilings) = ceiling::of(engine)?;
        Ok(Report {
            ropeway: env!("CARGO_PKG_VERSION"),
            bench,
            model: engine.path().display().to_string(),
            precision: engine.precision().to_string(),
            device,
            ceilings,
            rows: Vec::new(),
            file: file.cloned(),
        })
    }

    /// In the order in which they were measured.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Adds a row.
    pub fn push(&mut self, row: Row) {
        self.rows.push(row);
        if let Some(file) = &self.file {
            file.update(&self.json());
        }
    }

    /// For programs.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a report has no keys but strings");
        text.push('\n');
        text
    }

    /// What stands above the rows.
    pub fn head(&self) -> String {
        let (device, ceilings) = (&self.device, &self.ceilings);
        let mut text = format!(
            "ropeway {} bench {}: {} in {} on {}, driver for CUDA {}\n",
            self.ropeway, self.bench, self.model, self.precision, device.name, device.driver
        );
        let _ = writeln!(
            text,
            "ceilings: {:.0} TFLOP/s ({}); {:.0} GB/s ({})",
            ceilings.tflops, ceilings.tflops_from, ceilings.gb_per_s, ceilings.gb_per_s_from
        );
        if device.simulated {
            text += "This is softcuda, which computes on the CPU: THE TIMES MEAN NOTHING, and no more does what follows \
                     from them.\n";
        }
        text
    }

    /// For people: the head, and the rows as a Markdown table.
    pub fn table(&self) -> String {
        self.head() + "\n" + &rows_table(&self.rows)
    }
}

/// Rows as a Markdown table.
pub fn rows_table(measured: &[Row]) -> String {
    let number = |x: Option<f64>, digits: usize| x.map_or("–".into(), |x| format!("{x:.digits$}"));
    let mut rows = vec![
        [
            "case",
            "shape",
            "µs: median",
            "min–max",
            "TFLOP/s",
            "GB/s",
            "bound",
            "of bound",
            "note",
        ]
        .map(String::from),
    ];
    for row in measured {
        let Micros { median, min, max, .. } = row.micros;
        rows.push([
            row.case.clone(),
            row.shape.clone(),
            format!("{median:.1}"),
            format!("{min:.1}–{max:.1}"),
            number(row.tflops, 1),
            number(row.gb_per_s, 0),
            row.bound.map_or("–", Bound::name).into(),
            row.fraction_of_bound
                .map_or("–".into(), |x| format!("{:.0} %", 100.0 * x)),
            row.note.clone().unwrap_or_default(),
        ]);
    }
    markdown(&rows)
}

/// A Markdown table whose columns stand below one another; the first row is the heads.
pub fn markdown<R: AsRef<[String]>>(rows: &[R]) -> String {
    let columns = rows.first().map_or(0, |row| row.as_ref().len());
    let width = |column: usize| rows.iter().map(|row| row.as_ref()[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (cell, &width) in row.as_ref().iter().zip(&widths) {
            let _ = write!(text, "| {cell:width$} ");
        }
        text += "|\n";
        if number == 0 {
            widths.iter().for_each(|&width| {
                let _ = write!(text, "|{:-<1$}", "", width + 2);
            });
            text += "|\n";
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn micros_are_the_middle_and_the_ends() {
        let of = |samples: &[f64]| {
            let micros = Micros::of(samples.to_vec());
            (micros.median, micros.min, micros.max, micros.p99)
        };
        assert_eq!(of(&[3.0, 1.0, 2.0]), (2.0, 1.0, 3.0, None));
        assert_eq!(of(&[4.0, 1.0, 2.0, 3.0]), (2.5, 1.0, 4.0, None));
        let many: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(of(&many), (100.5, 1.0, 200.0, Some(198.0)));
        assert_eq!(Micros::of(Vec::new()).samples, 0);
    }

    #[test]
    fn a_row_is_held_against_the_nearer_ceiling() {
        let ceilings = Ceilings {
            tflops: 100.0,
            tflops_from: String::new(),
            gb_per_s: 1000.0,
            gb_per_s_from: String::new(),
        };
        let row = |flops, bytes| {
            let micros = Micros::of(vec![10.0]);
            let row = Row {
                micros,
                ..Row::default()
            };
            let mut cost = Cost::default();
            (cost.flops, cost.bytes) = (flops, bytes);
            row.measured(cost, &ceilings)
        };
        // 5 µs of products, 2 µs of bytes.
        let products = row(500_000_000, 2_000_000);
        assert_eq!(products.bound, Some(Bound::TensorCores));
        assert!((products.fraction_of_bound.unwrap() - 0.5).abs() < 1e-12);
        assert!((products.tflops.unwrap() - 50.0).abs() < 1e-9);
        let bytes = row(0, 8_000_000);
        assert_eq!((bytes.bound, bytes.tflops), (Some(Bound::Memory), None));
        assert!((bytes.fraction_of_bound.unwrap() - 0.8).abs() < 1e-12);
        assert!((bytes.gb_per_s.unwrap() - 800.0).abs() < 1e-9);
    }

    #[test]
    fn tables_stand_straight() {
        let rows = [["case", "µs"], ["gemm", "1"], ["a", "12.5"]].map(|row| row.map(String::from));
        let want = "| case | µs   |\n|------|------|\n| gemm | 1    |\n| a    | 12.5 |\n";
        assert_eq!(markdown(&rows), want);
    }
}
