//! The command line on a GPU: text in, vectors out.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::device::{Gpu, jina, off, tiny};
use crate::common::{Scratch, paths};

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

/// `auto` that leaves a GPU unused says why, each time, in one line; so does `devices`.
#[test]
fn auto_says_why_it_computes_on_the_cpu() {
    let Some(_) = Gpu::find_simulated().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let run = |faults: &str, arguments: &[&str]| {
        let output = Command::new(paths::binary())
            .args(arguments)
            .env("ROPEWAY_MODEL", jina(64))
            .env("SOFTCUDA_FAULTS", faults)
            .output()
            .unwrap();
        assert!(output.status.success(), "{faults}: {output:?}");
        let text = |bytes| String::from_utf8(bytes).unwrap();
        // softcuda's own lines are its user's.
        let err = text(output.stderr);
        let own = err.lines().filter(|line| line.starts_with("ropeway: "));
        (text(output.stdout), own.map(str::to_owned).collect::<Vec<_>>())
    };
    for (faults, why) in [
        ("", "a simulation on the CPU"),
        ("driver=11.8", "the driver is for CUDA 11.8"),
        (
            "driver=12.0",
            "the driver is for CUDA 12.0, and the kernels of this build",
        ),
        ("cuInit:*=CUDA_ERROR_UNKNOWN", "modprobe nvidia_uvm"),
        ("cuInit:*=CUDA_ERROR_SYSTEM_NOT_READY", "fabric manager"),
        ("cuInit:*=CUDA_ERROR_NO_DEVICE", "the CUDA driver finds no GPU"),
    ] {
        for _ in 0..2 {
            let (_, said) = run(faults, &["embed", "a warm coat", "--device", "auto"]);
            let [line] = &said[..] else {
                panic!("{faults}: {said:?}")
            };
            assert!(
                line.starts_with("ropeway: no GPU is used: ") && line.contains(why),
                "{line}"
            );
        }
        assert_eq!(run(faults, &["embed", "a", "--device", "cpu"]).1, [""; 0]);
        assert_eq!(run(faults, &["embed", "a", "--quiet"]).1, [""; 0]);
        let (table, _) = run(faults, &["devices"]);
        assert!(table.contains(why) || faults.is_empty(), "{faults}: {table}");
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

/// Texts of a file, a line each, that make several passes of 16 tokens.
const LINES: usize = 24;

fn lines_of_text() -> String {
    (0..LINES)
        .map(|n| format!("a warm coat and {n} cold beers\n"))
        .collect()
}

/// Runs it in a folder, under faults of softcuda.
fn faulty(folder: &Path, faults: &str, arguments: &[&str]) -> (Option<i32>, String, Vec<String>) {
    let output = Command::new(paths::binary())
        .args(arguments)
        .args(["--device", "cuda", "--batch-tokens", "16", "--quiet"])
        .current_dir(folder)
        .env("ROPEWAY_MODEL", tiny())
        .env("SOFTCUDA_FAULTS", faults)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    // softcuda says which call it makes fail.
    let own = |line: &&str| !line.starts_with("softcuda: ");
    let err = text(output.stderr)
        .lines()
        .filter(own)
        .map(String::from)
        .collect();
    (output.status.code(), text(output.stdout), err)
}

const LOST: &str = "sticky:cuGraphLaunch:17=CUDA_ERROR_ILLEGAL_ADDRESS";

/// A lost device says nothing about the inputs after it: none of them gets a row, and --resume embeds them.
#[test]
fn a_lost_device_ends_the_run_and_resume_does_the_rest() {
    let Some(_) = Gpu::find_simulated().filter(|gpu| gpu.is_first()) else {
        return;
    };
    for format in ["jsonl", "npy"] {
        let folder = Scratch::empty();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("in.txt"), lines_of_text()).unwrap();
        let embed = |out, faults, more: &[&str]| {
            let arguments = ["embed", "in.txt", "--format", format, "-o", out];
            faulty(folder.path(), faults, &[&arguments[..], more].concat())
        };
        let done = (Some(0), String::new(), Vec::new());
        assert_eq!(embed("whole", "", &[]), done);
        let whole = fs::read(at("whole")).unwrap();

        let (code, out, err) = embed("out", LOST, &[]);
        assert_eq!((code, out.as_str(), err.len()), (Some(4), "", 1), "{err:?}");
        // Batches in flight are lost with it, and one of those may be the first to say so.
        assert!(
            err[0].contains("CUDA_ERROR_ILLEGAL_ADDRESS") && err[0].contains("--resume"),
            "{err:?}"
        );
        assert!(
            !at("out").exists(),
            "{format}: an unfinished file has the whole one's name"
        );
        let partial = fs::read(at("out.partial")).unwrap();
        assert!(partial.len() > whole.len() / LINES && partial.len() < whole.len());
        if format == "jsonl" {
            assert!(
                whole.starts_with(&partial),
                "rows of inputs that were not embedded"
            );
        }

        // Lost again while the last row is looked at: that is no sign of other inputs.
        let again = "sticky:cuGraphLaunch:1=CUDA_ERROR_ILLEGAL_ADDRESS";
        let (code, _, err) = embed("out", again, &["--resume"]);
        assert_eq!(code, Some(4), "{err:?}");
        assert!(fs::read(at("out.partial")).unwrap() == partial);

        assert_eq!(embed("out", "", &["--resume"]), done);
        assert!(
            fs::read(at("out")).unwrap() == whole,
            "{format}: other rows than in one run"
        );
        assert!(!at("out.partial").exists());
    }
}

/// A call that fails once is no input's fault either.
#[test]
fn a_batch_that_fails_once_is_tried_again() {
    let Some(_) = Gpu::find_simulated().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let folder = Scratch::empty();
    fs::write(folder.path().join("in.txt"), lines_of_text()).unwrap();
    let run = |faults| faulty(folder.path(), faults, &["embed", "in.txt"]);
    let (code, whole, err) = run("");
    assert_eq!((code, whole.lines().count(), err.len()), (Some(0), LINES, 0));
    let (code, again, err) = run("cuGraphLaunch:5=CUDA_ERROR_OUT_OF_MEMORY");
    assert_eq!((code, err.len()), (Some(0), 0), "{err:?}");
    assert!(again == whole, "other rows than without the failure");
}

#[test]
fn a_lost_device_leaves_no_ranking_without_some_passages() {
    let Some(_) = Gpu::find_simulated().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let folder = Scratch::empty();
    fs::write(folder.path().join("in.txt"), lines_of_text()).unwrap();
    let (code, out, err) = faulty(folder.path(), LOST, &["rank", "what is cold?", "in.txt"]);
    assert_eq!((code, out.as_str(), err.len()), (Some(4), "", 1), "{err:?}");
    assert!(err[0].contains("cuGraphLaunch"), "{err:?}");
    // So do the chunks of a document.
    let first = "sticky:cuGraphLaunch:1=CUDA_ERROR_ILLEGAL_ADDRESS";
    let (code, out, err) = faulty(folder.path(), first, &["chunks", "in.txt"]);
    assert_eq!((code, out.as_str(), err.len()), (Some(4), "", 1), "{err:?}");
}
