//! The command line on a GPU: text in, vectors out.

use std::process::Command;

use serde_json::Value;

use super::device::{Gpu, jina, off};
use crate::common::paths;

/// Runs it with the test's model. Gives the exit code, standard output and standard error.
fn ropeway(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(paths::binary())
        .args(arguments)
        .env("ROPEWAY_MODEL", jina(64))
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn vectors(arguments: &[&str]) -> Vec<Vec<f32>> {
    let (code, out, err) = ropeway(arguments);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{arguments:?}");
    let vector = |line: &str| -> Vec<f32> {
        let row: Value = serde_json::from_str(line).unwrap();
        let numbers = row["embedding"].as_array().unwrap();
        numbers.iter().map(|x| x.as_f64().unwrap() as f32).collect()
    };
    out.lines().map(vector).collect()
}

#[test]
fn embed_gives_the_cpus_vectors() {
    let Some(_) = Gpu::find() else { return };
    let texts = [
        "embed",
        "a warm coat",
        "a cold beer",
        "--task",
        "retrieval.query",
        "--dimensions",
        "64",
    ];
    let on = |device: &[&str]| vectors(&[&texts[..], device].concat());
    let (cpu, gpu) = (on(&["--device", "cpu"]), on(&["--device", "cuda"]));
    assert_eq!((cpu.len(), gpu.len()), (2, 2));
    assert_ne!(cpu, gpu, "both are the CPU's");
    for (precision, allowed) in [("bf16", 1e-4), ("f16", 2e-6)] {
        for (got, want) in on(&["--device", "cuda:0", "--precision", precision])
            .iter()
            .zip(&cpu)
        {
            let off = off(got, want, 64);
            assert!(off <= allowed, "{precision}: off by {off:.1e}");
        }
    }
}

/// A copy with the adapter merged in computes other bits of the same vector, and only if the class allows it.
#[test]
fn merged_weights_serve_the_fastest_class() {
    let Some(_) = Gpu::find().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let on = |flags: &[&str]| {
        vectors(&[&["embed", "a warm coat", "--task", "separation"][..], flags].concat()).remove(0)
    };
    let gpu = ["--device", "cuda", "--merge", "separation"];
    let (cpu, invariant) = (on(&["--device", "cpu"]), on(&gpu));
    let fastest = on(&[&gpu[..], &["--numerics", "fastest"]].concat());
    assert_eq!(invariant, on(&["--device", "cuda"]));
    assert_ne!(fastest, invariant);
    assert!(off(&fastest, &cpu, cpu.len()) <= 1e-4);

    let (code, _, err) = ropeway(&["embed", "a", "--device", "cuda", "--merge", "sepration"]);
    assert_eq!(code, Some(2), "{err}");
    assert!(
        err.contains("sepration") && err.contains("retrieval.query"),
        "{err}"
    );
}

#[test]
fn diff_compares_the_cpu_with_the_gpu() {
    let Some(_) = Gpu::find().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let diff = ["diff", "--left", "cpu", "--right", "cuda", "--length", "20"];
    let run = |more: &[&str]| ropeway(&[&diff[..], more].concat());
    let (code, out, err) = run(&["--task", "separation"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    // A difference is found, whichever side it is on.
    for side in ["--left-task", "--right-task"] {
        let (code, out, err) = run(&[side, "separation"]);
        assert_eq!(code, Some(1), "{out}{err}");
        assert!(out.contains("DIFFERS step   0 Embed"), "{out}");
    }
}

#[test]
fn devices_shows_the_gpu() {
    let Some(_) = Gpu::find() else { return };
    let (code, out, err) = ropeway(&["devices", "--json"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let rows: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let found = rows
        .iter()
        .find(|row| row["kind"] == "cuda:0")
        .unwrap_or_else(|| panic!("{out}"));
    assert!(!found["name"].as_str().unwrap().is_empty(), "{out}");
    assert!(found["kernels"]["modules"].is_object(), "{out}");
    assert_eq!(found["usable"], true, "{out}");
    let (code, text, _) = ropeway(&["devices"]);
    assert!(
        code == Some(0) && text.contains(found["name"].as_str().unwrap()),
        "{text}"
    );
}
