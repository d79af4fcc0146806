//! `ropeway bench adapters`: what it measures, and that its parts fit together.

use std::process::Command;

use serde_json::Value;

use crate::common::{Scratch, paths};
use crate::engine::device::{Gpu, jina};

const WAYS: [&str; 3] = ["merged", "extended", "separate"];

#[test]
fn the_adapters_bench_measures_all_ways_alike() {
    let Some(_) = Gpu::find().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let folder = Scratch::empty();
    let json = folder.path().join("a.json");
    let output = Command::new(paths::binary())
        .args(["bench", "adapters", "--device", "cuda", "--quick", "--json"])
        .arg(&json)
        .env("ROPEWAY_MODEL", jina(64))
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert_eq!((output.status.code(), err.as_str()), (Some(0), ""), "{out}");

    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(
        (&report["bench"], &report["precision"]),
        (&"adapters".into(), &"bf16".into())
    );
    let simulated = report["device"]["simulated"].as_bool().unwrap();
    assert_eq!(out.contains("TIMES MEAN NOTHING"), simulated, "{out}");

    // Three rows a point, in this order, of the same sequences.
    let rows = report["rows"].as_array().unwrap();
    let parameter = |row: &Value, name: &str| row["parameters"][name].as_u64().unwrap();
    let mut points = Vec::new();
    for point in rows.chunks(WAYS.len()) {
        let ways: Vec<&str> = point.iter().map(|row| row["case"].as_str().unwrap()).collect();
        assert_eq!(ways, WAYS);
        let of = |row| ["rank", "adapters", "tokens", "sequences"].map(|name| parameter(row, name));
        points.push(of(&point[0]));
        let median = |row: &Value| row["micros"]["median"].as_f64().unwrap();
        for (row, way) in point.iter().zip(WAYS) {
            assert_eq!((of(row), &row["parameters"]["way"]), (of(&point[0]), &way.into()));
            assert_eq!(row["group"], "adapters");
            assert!(median(row) > 0.0, "{row}");
            let ratio = row["ratio"].as_f64().unwrap();
            let want = median(row) / median(&point[0]);
            assert!((ratio / want - 1.0).abs() < 1e-9, "{ratio}, not {want}");
            let per_second = row["tokens_per_s"].as_f64().unwrap();
            let want = 1e6 * parameter(row, "tokens") as f64 / median(row);
            assert!((per_second / want - 1.0).abs() < 1e-9, "{per_second}, not {want}");
        }
        // The adapters count for far more than the roundings that tell the ways apart; and these are not nothing,
        // which they would be if one way were another.
        let note = point[0]["note"].as_str().unwrap();
        let words = note.split_whitespace().map(|word| word.trim_end_matches(','));
        let apart: Vec<f64> = words.filter_map(|word| word.parse().ok()).collect();
        let [extended, separate, without] = apart[..] else {
            panic!("{note}")
        };
        for roundings in [extended, separate] {
            assert!(0.0 < roundings && 8.0 * roundings < without, "{note}");
        }
        let [rank, adapters, tokens, _] = points[points.len() - 1];
        let line = |line: &str| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let numbers = [tokens, rank, adapters].map(|number| number.to_string());
            (cells.len() > 7 && cells[1..4] == numbers).then(|| cells[6].to_owned())
        };
        let shown: Vec<String> = out.lines().filter_map(line).collect();
        assert_eq!(
            shown,
            [format!("{:.3} ×", point[1]["ratio"].as_f64().unwrap())],
            "{out}"
        );
    }
    assert_eq!(
        points,
        [[4, 1, 64, 16], [4, 4, 64, 16], [16, 1, 64, 16], [16, 4, 64, 16]]
    );
}
