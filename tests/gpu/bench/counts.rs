//! What each kernel does for the real model's shapes, cut to two layers and one row of tiles, against what it must do and
//! against `benches/counts.json`: `ropeway bench count` of a random model of full width.
//!
//! Counts follow from the kernels' PTX and the shapes alone, whatever the order of blocks and warps, so they must be the
//! same: a worse one is a regression, and a better one must be written down, or the next change could lose it unseen.
//! Another compiler makes other PTX of the same source; then they may be a little worse ([`OTHER_COMPILER`]).
//!
//! ```sh
//! ROPEWAY_WRITE_COUNTS=1 tools/softcuda/run cargo test --test gpu bench::counts # writes the file
//! ```

use std::path::PathBuf;
use std::process::Command;

use model_maker::{Family, ModelSpec};
use serde_json::{Map, Value, json};

use crate::common::{self, Scratch, paths};
use crate::engine::device::Gpu;
use ropeway::inspect::{GemmTile, SPLIT16, Sm90Tile, TileShape};

/// The most that a launch may do beyond its least; cuda/NOTES.md has the reasons where it is more than one.
const BYTES: f64 = 1.02;
/// Of products of whole tiles, and of attention.
const FLOPS: f64 = 1.03;

/// By what part a count may be worse with kernels by another compiler than the kept ones: moves and address arithmetic
/// are its own affair, an access or a product more is not.
const OTHER_COMPILER: f64 = 0.02;

fn kept_file() -> PathBuf {
    paths::root().join("benches/counts.json")
}

/// The shape of jina-embeddings-v3, but for what changes no kernel: two layers, since QKV of the second begins with the
/// LayerNorm of the first; few words, few positions.
fn model() -> PathBuf {
    common::model(&ModelSpec {
        vocab: 700,
        layers: 2,
        max_positions: 256,
        ..ModelSpec::new(Family::Jina)
    })
}

/// The report of the command.
fn count() -> Value {
    let folder = Scratch::empty();
    let file = folder.path().join("counts");
    let output = Command::new(paths::binary())
        .args(["bench", "count", "--kernels", "sm90"])
        .args(["--batch-tokens", "128", "--json"])
        .arg(&file)
        .env("ROPEWAY_MODEL", model())
        // How many blocks a grid has depends on it.
        .env("SOFTCUDA_DEVICE", "sm_90")
        // And on the order of warps how often one looks at a barrier before it is let through.
        .env_remove("SOFTCUDA_SEED")
        .env_remove("SOFTCUDA_COUNTERS")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}", text(&output.stderr));
    println!("{}", text(&output.stdout));
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// What is kept of a report: a row of it a line.
fn write(report: &Value) -> String {
    let rows = report["rows"].as_array().unwrap().iter().map(|row| {
        let of = |key: &str| &row[key];
        let kept =
            json!({"case": of("case"), "shape": of("shape"), "least": of("least"), "counts": of("counts")});
        format!("    {kept}")
    });
    format!(
        "{{\n  \"model\": \"jina-embeddings-v3, two layers, random weights\",\n  \"written by\": \"tests/gpu/bench/counts.rs\",\n  \
         \"compiler\": {},\n  \"rows\": [\n{}\n  ]\n}}\n",
        report["compiler"],
        rows.collect::<Vec<_>>().join(",\n")
    )
}

fn name(row: &Value) -> String {
    let of = |key: &str| row[key].as_str().unwrap_or_default();
    format!("{}, {}", of("case"), of("shape"))
}

fn rows(report: &Value) -> impl Iterator<Item = &Value> {
    report["rows"].as_array().into_iter().flatten()
}

/// How the counts differ from those that are kept.
fn differences(kept: &Value, now: &Value) -> Vec<String> {
    let same = kept["compiler"] == now["compiler"];
    let mut differences = Vec::new();
    for row in rows(kept) {
        if !rows(now).any(|other| name(other) == name(row)) {
            differences.push(format!("{}: is not counted any more", name(row)));
        }
    }
    for row in rows(now) {
        let Some(before) = rows(kept).find(|other| name(other) == name(row)) else {
            differences.push(format!("{}: is new", name(row)));
            continue;
        };
        let none = Map::new();
        for (what, is) in row["counts"].as_object().unwrap_or(&none) {
            let number = |of: &Value| of.as_u64().map_or(f64::NAN, |count| count as f64);
            let (was, is) = (number(&before["counts"][what]), number(is));
            let allowed = if same { was } else { was * (1.0 + OTHER_COMPILER) };
            let verdict = if is <= allowed { "better: keep it" } else { "worse" };
            let differs = if same { is != was } else { is > allowed };
            if differs || is.is_nan() || was.is_nan() {
                differences.push(format!("{}: {what} was {was}, is {is}: {verdict}", name(row)));
            }
        }
    }
    differences
}

/// Whether the row is a launch of whole tiles: for the others products are rounded up, or are those of a down-projection,
/// which every block of down_gemm makes.
fn whole_tiles(row: &Value) -> bool {
    let case = row["case"].as_str().unwrap();
    let rows = |name: &str| {
        let of = |(tile, shape): (&str, TileShape)| (tile == name).then_some(u64::from(shape.rows));
        let all = GemmTile::ALL.map(|tile| of((tile.name(), tile.shape())));
        let sm90 = Sm90Tile::ALL.map(|tile| of((tile.name(), tile.shape())));
        let split = of(("split16", SPLIT16));
        all.into_iter().chain(sm90).chain([split]).flatten().next()
    };
    let parameters = &row["parameters"];
    let rows = match case.split('_').next() {
        Some("gemm") => rows(case.rsplit('_').next().unwrap()),
        Some("norm") => rows(GemmTile::Small16.name()),
        Some("attention") => {
            let whole = |length: &Value| length.as_u64().unwrap().is_multiple_of(128);
            return parameters["lengths"].as_array().unwrap().iter().all(whole);
        }
        _ => return false,
    };
    let rows = rows.unwrap_or_else(|| panic!("{case} has none of the known tiles"));
    parameters["tokens"].as_u64().unwrap().is_multiple_of(rows)
}

/// What a launch does beyond what it may.
fn over_the_bars(row: &Value) -> Vec<String> {
    let number = |of: &Value| of.as_u64().unwrap() as f64;
    let (case, counts, least) = (row["case"].as_str().unwrap(), &row["counts"], &row["least"]);
    let mut over = Vec::new();
    let bytes = number(&counts["dram_bytes"]) / number(&least["bytes"]);
    // Less than the least is no good news: one of the two is wrong.
    if !(0.98..=BYTES).contains(&bytes) {
        over.push(format!("{}: {bytes:.3} of the least bytes", name(row)));
    }
    let (mma, useful) = (number(&counts["mma_flops"]), number(&least["flops"]));
    if mma > 0.0 && (mma < useful || whole_tiles(row) && mma > FLOPS * useful) {
        over.push(format!("{}: {:.3} of the useful FLOP", name(row), mma / useful));
    }
    // Pool has some where it writes, outside of its loop.
    let conflicts = number(&counts["bank_conflicts"]);
    if conflicts > 0.0 && !case.starts_with("pool") {
        over.push(format!("{}: {conflicts} bank conflicts", name(row)));
    }
    over
}

#[test]
fn a_launch_over_a_bar_is_found() {
    let row = |case: &str, tokens: u64, columns: u64, [bytes, flops, conflicts]: [u64; 3]| {
        over_the_bars(&json!({
            "case": case,
            "shape": "some",
            "least": {"bytes": 1000, "flops": 1000},
            "counts": {"dram_bytes": bytes, "mma_flops": flops, "bank_conflicts": conflicts},
            "parameters": {"tokens": tokens, "columns": columns, "lengths": [tokens]},
        }))
    };
    let none: [&str; 0] = [];
    for case in ["gemm_bf16_wide", "gemm_bf16_large", "attention_bf16_hd64_wgmma64"] {
        assert_eq!(row(case, 128, 0, [1020, 1030, 0]), none);
        assert_eq!(
            row(case, 128, 0, [1021, 1030, 0]),
            [format!("{case}, some: 1.021 of the least bytes")]
        );
        assert_eq!(
            row(case, 128, 0, [970, 1030, 0]),
            [format!("{case}, some: 0.970 of the least bytes")]
        );
        assert_eq!(
            row(case, 128, 0, [1020, 1031, 0]),
            [format!("{case}, some: 1.031 of the useful FLOP")]
        );
        assert_eq!(
            row(case, 128, 0, [1020, 999, 0]),
            [format!("{case}, some: 0.999 of the useful FLOP")]
        );
        assert_eq!(
            row(case, 128, 0, [1020, 1030, 1]),
            [format!("{case}, some: 1 bank conflicts")]
        );
        assert_eq!(row(case, 72, 0, [1020, 1800, 0]), none);
    }
    assert_eq!(row("gemm_bf16_quarter", 64, 32, [1000, 1031, 0]).len(), 1);
    assert_eq!(row("gemm_bf16_medium", 64, 32, [1000, 1031, 0]).len(), 1);
    assert_eq!(row("lora_down_bf16", 64, 32, [1021, 8000, 0]).len(), 1);
    assert_eq!(row("lora_down_bf16", 64, 32, [1020, 8000, 0]), none);
    assert_eq!(row("down_gemm_bf16", 16, 32, [1020, 3000, 0]), none);
    assert_eq!(row("down_gemm_bf16", 16, 32, [1021, 3000, 0]).len(), 1);
    assert_eq!(row("pool_bf16", 64, 0, [1000, 0, 32]), none);
}

#[test]
fn kernels_do_no_more_than_they_did() {
    let Some(_) = Gpu::find_simulated().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let now = count();
    let over: Vec<String> = rows(&now).flat_map(over_the_bars).collect();
    assert!(over.is_empty(), "{}", over.join("\n"));
    if std::env::var_os("ROPEWAY_WRITE_COUNTS").is_some() {
        std::fs::write(kept_file(), write(&now)).unwrap();
    }
    let kept = std::fs::read_to_string(kept_file()).unwrap_or_default();
    let kept = serde_json::from_str(&kept).unwrap_or_default();
    let differences = differences(&kept, &now);
    assert!(
        differences.is_empty(),
        "{}\nif this is meant, say why and write benches/counts.json anew: \
         ROPEWAY_WRITE_COUNTS=1 tools/softcuda/run cargo test --test gpu bench::counts",
        differences.join("\n")
    );
}

#[test]
fn a_count_that_differs_is_found() {
    let report = |compiler: &str, instructions: u64| {
        let counts = json!({"instructions": instructions, "bank_conflicts": 0});
        json!({"compiler": compiler, "rows": [{"case": "gemm", "shape": "16 tokens", "counts": counts}]})
    };
    let kept = report("nvcc 13.0", 1000);
    let found = |now: &Value| differences(&kept, now);
    assert_eq!(found(&kept), [""; 0]);
    let worse = "gemm, 16 tokens: instructions was 1000, is 1001: worse";
    assert_eq!(found(&report("nvcc 13.0", 1001)), [worse]);
    let better = "gemm, 16 tokens: instructions was 1000, is 999: better: keep it";
    assert_eq!(found(&report("nvcc 13.0", 999)), [better]);
    assert_eq!(found(&report("nvcc 13.1", 1020)), [""; 0]);
    let worse = "gemm, 16 tokens: instructions was 1000, is 1021: worse";
    assert_eq!(found(&report("nvcc 13.1", 1021)), [worse]);

    let gone = json!({"compiler": "nvcc 13.0", "rows": []});
    assert_eq!(found(&gone), ["gemm, 16 tokens: is not counted any more"]);
    assert_eq!(differences(&gone, &kept), ["gemm, 16 tokens: is new"]);
    let mut conflicts = kept.clone();
    conflicts["rows"][0]["counts"]["bank_conflicts"] = json!(1);
    assert_eq!(
        found(&conflicts),
        ["gemm, 16 tokens: bank_conflicts was 0, is 1: worse"]
    );
    assert!(
        !differences(&Value::Null, &kept).is_empty(),
        "no file is no excuse"
    );
}

#[test]
fn without_softcuda_the_command_says_how_to_get_it() {
    let output = Command::new(paths::binary())
        .args(["bench", "count", "--model", "none"])
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(
        error.contains("tools/softcuda/run ropeway bench count"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
}
