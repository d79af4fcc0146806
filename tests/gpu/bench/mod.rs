//! `ropeway bench`, with few repetitions of small shapes: that every row is there and says what it should. How long
//! things take is no test's business.

mod adapters;
mod counts;
mod encoder;
mod kernels;
mod tune;

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{Scratch, paths};

/// `ropeway bench` with a model on a device.
fn bench(model: &Path, device: &str) -> Command {
    let mut command = Command::new(paths::binary());
    command.args(["bench", "--device", device, "--model"]).arg(model);
    command.stdin(Stdio::null());
    command
}

/// The report and the table of a bench that is to succeed.
fn report(model: &Path, arguments: &[&str]) -> (Value, String) {
    let folder = Scratch::empty();
    let json = folder.path().join("report.json");
    let output = bench(model, "cuda")
        .args(arguments)
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    let report = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    (report, String::from_utf8(output.stdout).unwrap())
}

/// What every report says of itself.
#[track_caller]
fn check_head(report: &Value, table: &str, bench: &str) {
    assert_eq!(report["bench"], bench);
    assert_eq!(report["precision"], "bf16");
    let name = report["device"]["name"].as_str().unwrap();
    assert!(table.contains(name), "{table}");
    let simulated = name.contains("softcuda");
    assert_eq!(report["device"]["simulated"], simulated);
    assert_eq!(table.contains("THE TIMES MEAN NOTHING"), simulated, "{table}");
    for ceiling in ["tflops", "gb_per_s"] {
        assert!(report["ceilings"][ceiling].as_f64().unwrap() > 0.0, "{report}");
    }
}
