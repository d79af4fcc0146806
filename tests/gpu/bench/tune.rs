//! What predictions depend on, measured and kept.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::bench;
use crate::common::{Scratch, paths};
use crate::engine::device::{Gpu, jina};

/// `ropeway diff --show-plan` with this cache folder: standard output, and standard error.
fn plan(cache: &Path) -> (String, String) {
    let output = Command::new(paths::binary())
        .args([
            "diff",
            "--show-plan",
            "--right",
            "cuda",
            "--length",
            "40",
            "--model",
        ])
        .arg(jina(64))
        .env("ROPEWAY_CACHE", cache)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    assert!(output.status.success(), "{output:?}");
    (text(output.stdout), text(output.stderr))
}

#[test]
fn a_prediction_takes_what_was_measured_and_a_bad_file_is_told() {
    let Some(_) = Gpu::find().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let cache = Scratch::empty();
    let (table, err) = plan(cache.path());
    assert!(!table.contains("bench tune") && err.is_empty(), "{table}{err}");
    for kernel in ["embed", "gemm small", "attention", "layernorm", "pool"] {
        assert!(table.contains(kernel), "no {kernel}: {table}");
    }

    let tune = || {
        let output = bench(&jina(64), "cuda")
            .args(["tune", "--quick"])
            .env("ROPEWAY_CACHE", cache.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let said = tune();
    let files: Vec<_> = std::fs::read_dir(cache.path().join("tune"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    assert!(said.contains(&file.display().to_string()), "{said}");
    let tuned: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(tuned["version"], 1);
    let name = tuned["device"].as_str().unwrap();
    let simulated = name.contains("softcuda");
    assert_eq!(tuned["simulated"], simulated);
    assert_eq!(said.contains("THE FIGURES MEAN NOTHING"), simulated, "{said}");
    assert!(tuned["dram_gb_per_s"].as_f64().unwrap() > 0.0, "{tuned}");

    let (measured, err) = plan(cache.path());
    assert!(
        measured.contains(name) && measured.contains("`ropeway bench tune` measured"),
        "{measured}"
    );
    assert_eq!(measured.contains("FIGURES MEAN NOTHING"), simulated, "{measured}");
    assert!(err.is_empty(), "{err}");

    // Without sense in it a file is told of and left alone, and the next measurement puts one in its place.
    std::fs::write(file, "{\"version\": 1").unwrap();
    let (again, err) = plan(cache.path());
    assert_eq!(again, table);
    assert!(
        err.starts_with("ropeway: warning: ") && err.contains("bench tune") && err.lines().count() == 1,
        "{err}"
    );
    tune();
    assert!(plan(cache.path()).1.is_empty());
}
