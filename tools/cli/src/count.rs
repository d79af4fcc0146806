//! `ropeway bench count`: what the kernels do, under softcuda.

use std::path::Path;
use std::process::Command;

use crate::measure::{self, COUNTERS};
use ropeway::{Device, devices};

use super::bench;
use super::exit::Exit;
use super::options::RunOptions;

/// Counts, and prints a table.
pub fn run(run: &RunOptions, json: Option<&Path>) -> Result<(), Exit> {
    let simulated = devices()
        .iter()
        .any(|device| device.cuda.as_ref().is_some_and(|cuda| cuda.simulated));
    if !simulated {
        return Err(Exit::usage(
            "launches are counted by softcuda, which is not the driver here: tools/softcuda/run ropeway bench count \
             --model …",
        ));
    }
    if std::env::var_os(COUNTERS).is_none_or(|file| file.is_empty()) {
        return run_counted();
    }
    // `auto` never takes a simulated device, and nothing else is counted.
    let device = match run.device {
        Device::Auto => Device::Cuda(0),
        chosen => chosen,
    };
    let engine = RunOptions {
        device,
        ..run.clone()
    }
    .open()?;
    let file = bench::file(json, run, &engine)?;
    let counts = measure::count(&engine)?;
    bench::finish(file.as_ref(), &counts.json(), &counts.table())
}

/// Runs this command again, in a process whose launches are counted: softcuda reads the variable when it starts.
fn run_counted() -> Result<(), Exit> {
    let failed = |what: &Path, e: std::io::Error| Exit::usage(format!("{}: {e}", what.display()));
    let mut file = tempfile::Builder::new();
    file.prefix("ropeway-counts-").suffix(".jsonl");
    let file = file.tempfile().map_err(|e| failed(&std::env::temp_dir(), e))?;
    let program = std::env::current_exe().map_err(|e| failed(Path::new("this program"), e))?;
    let status = Command::new(&program)
        .args(std::env::args_os().skip(1))
        .env(COUNTERS, file.path())
        .status()
        .map_err(|e| failed(&program, e))?;
    match status.code() {
        Some(0) => Ok(()),
        // It has said why.
        Some(code) => Err(Exit::quietly(code)),
        None => Err(Exit::usage(format!(
            "the process that counts ended with {status}"
        ))),
    }
}
