//! Every kernel alone.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use serde_json::Value;

use super::{bench, check_head, report};
use crate::engine::device::{Gpu, jina};

#[test]
fn every_kernel_has_rows_whose_figures_follow_from_their_times() {
    let Some(_) = Gpu::find().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let (report, table) = report(&jina(64), &["kernels", "--quick"]);
    check_head(&report, &table, "kernels");
    let rows = report["rows"].as_array().unwrap();
    let groups: BTreeSet<&str> = rows.iter().map(|row| row["group"].as_str().unwrap()).collect();
    let all = [
        "attention",
        "down_gemm",
        "embed",
        "gemm",
        "layernorm",
        "lora_down",
        "norm_gemm",
        "pool",
    ];
    assert_eq!(groups, BTreeSet::from(all));
    let ceiling = |name: &str| report["ceilings"][name].as_f64().unwrap();
    for row in rows {
        assert!(table.contains(row["shape"].as_str().unwrap()), "{row}");
        let micros = |name: &str| row["micros"][name].as_f64().unwrap();
        assert!(0.0 < micros("min") && micros("min") <= micros("median"), "{row}");
        assert!(
            micros("median") <= micros("max") && micros("samples") == 2.0,
            "{row}"
        );
        let number = |name: &str| row["parameters"][name].as_f64().unwrap();
        let lengths = row["parameters"]["lengths"].as_array();
        let squares = |lengths: &Vec<Value>| -> f64 {
            lengths
                .iter()
                .map(|length| length.as_f64().unwrap().powi(2))
                .sum()
        };
        // The products alone: what they need, not what the tiles round it up to.
        let flops = match row["group"].as_str().unwrap() {
            "gemm" => 2.0 * number("tokens") * number("n") * (number("k") + number("columns")),
            "attention" => 4.0 * number("heads") * number("head_dim") * squares(lengths.unwrap()),
            "lora_down" => 2.0 * number("tokens") * number("k") * number("columns"),
            _ => continue,
        };
        let seconds = 1e-6 * micros("median");
        let near = |got: f64, want: f64| (got / want - 1.0).abs() < 1e-6;
        assert!(
            near(row["tflops"].as_f64().unwrap(), 1e-12 * flops / seconds),
            "{row}"
        );
        let bytes = 1e9 * row["gb_per_s"].as_f64().unwrap() * seconds;
        let least = (1e-12 * flops / ceiling("tflops")).max(1e-9 * bytes / ceiling("gb_per_s"));
        assert!(
            near(row["fraction_of_bound"].as_f64().unwrap(), least / seconds),
            "{row}"
        );
    }
    // With adapters and without.
    let columns = |row: &&Value| row["group"] == "gemm" && row["parameters"]["columns"] != 0;
    assert!(rows.iter().any(|row| columns(&row)) && rows.iter().any(|row| !columns(&row)));
}

/// What `tools/peers/gpu` talks to.
#[test]
fn rows_are_timed_on_demand() {
    let Some(_) = Gpu::find().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let mut child = bench(&jina(64), "cuda")
        .args(["kernels", "--quick", "--serve"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut answer = || -> Value { serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap() };
    let mut ask = child.stdin.take().unwrap();
    let first = answer();
    let rows = first["rows"].as_array().unwrap();
    assert_eq!(first["ready"], true);
    assert!(rows.iter().any(|row| row["group"] == "gemm"), "{first}");
    for (row, count) in [(1, 2), (rows.len() - 1, 1), (0, 3)] {
        writeln!(ask, "{row} {count}").unwrap();
        let times = answer();
        let times = times["micros"].as_array().unwrap();
        assert_eq!(times.len(), count);
        assert!(times.iter().all(|time| time.as_f64().unwrap() > 0.0), "{times:?}");
    }
    writeln!(ask, "{} 1", rows.len()).unwrap();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(
        error.contains(&format!("there is no row {}", rows.len())),
        "{error}"
    );
}
