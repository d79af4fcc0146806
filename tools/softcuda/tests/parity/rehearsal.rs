//! tools/gpu/softcuda-parity with softcuda's own library in the place of the GPU.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::{compile, mirror};
use crate::support;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../gpu/softcuda-parity");

/// Runs some tests as a GPU's machine would; exit status, report and its text.
fn run(flip: bool, tests: &[&str]) -> (i32, Value, String) {
    let folder = support::folder("parity");
    std::fs::create_dir(folder.join("ptx")).unwrap();
    for name in ["transpose.cu", "functions.cu", "histogram.cu"] {
        if let Some(text) = compile(name) {
            std::fs::write(folder.join("ptx").join(name.to_owned() + ".ptx"), &*text).unwrap();
        }
    }
    symlink(std::env::current_exe().unwrap(), folder.join("kernels")).unwrap();
    let report: PathBuf = env!("CARGO_BIN_EXE_softcuda-parity-report").into();
    symlink(report, folder.join("softcuda-parity-report")).unwrap();
    let mut command: Command = support::softcuda(Path::new(SCRIPT));
    command
        .arg("run")
        .arg(&folder)
        .args(["--out".as_ref(), folder.as_os_str()])
        .args(tests);
    // No compiler on that machine.
    command.env("ROPEWAY_CUDA", "off");
    command.env_remove("SOFTCUDA_PARITY_FLIP");
    if flip {
        command.env("SOFTCUDA_PARITY_FLIP", "1");
    }
    let output = command.output().expect("bash");
    let shown = support::stdout(&output) + &support::stderr(&output);
    let text =
        std::fs::read_to_string(folder.join("softcuda-parity.md")).unwrap_or_else(|e| panic!("{e}: {shown}"));
    let json = std::fs::read_to_string(folder.join("softcuda-parity.json")).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    (
        output.status.code().unwrap(),
        serde_json::from_str(&json).unwrap(),
        text,
    )
}

#[test]
fn softcuda_agrees_with_itself_through_the_driver() {
    // The tests that a run starts start no further runs.
    if mirror::records().is_some() {
        return;
    }
    let kernels = compile("transpose.cu").is_some();
    let mut tests = vec![
        "parity::one_ulp",
        "parity::bfloat_functions",
        "parity::zero_products::zero_products_beside_huge_factors",
    ];
    if kernels {
        tests.extend([
            "transposes",
            "recursion_and_function_pointers",
            "atomics_of_every_kind",
        ]);
    }
    let (status, report, text) = run(false, &tests);
    assert_eq!(status, 0, "{text}");
    assert!(report["device"]["name"].as_str().unwrap().contains("softcuda"));
    let programs = report["programs"].as_array().unwrap();
    let verdict = |name: &str| {
        programs
            .iter()
            .find(|p| p["program"] == name)
            .map(|p| p["verdict"].as_str().unwrap())
    };
    assert_eq!(verdict("approximations to 1 ulp: rcp.approx.f32"), Some("exact"));
    if kernels {
        for name in [
            "transpose.cu: transpose_padded",
            "functions.cu: function_pointers",
        ] {
            assert_eq!(verdict(name), Some("exact"), "{name}: {text}");
        }
    }
    // Blocks run side by side, so that their atomics may come in another order.
    let ordered = |program: &&Value| program["program"] != "histogram.cu: atomics";
    assert!(
        programs.iter().filter(ordered).all(|p| p["verdict"] == "exact"),
        "{text}"
    );
    let atomics = verdict("histogram.cu: atomics");
    assert_eq!(kernels, atomics.is_some(), "{text}");
    assert!(
        atomics.is_none_or(|verdict| ["exact", "within"].contains(&verdict)),
        "{text}"
    );
    assert!(text.contains("| agree in every bit |"), "{text}");
}

#[test]
fn a_wrong_bit_is_a_disagreement() {
    if mirror::records().is_some() {
        return;
    }
    let (status, report, text) = run(true, &["parity::one_ulp", "parity::no_such_test"]);
    assert_eq!(status, 1, "{text}");
    let programs = report["programs"].as_array().unwrap();
    assert_eq!(programs.len(), 2, "{text}");
    for program in programs {
        assert_eq!(program["verdict"], "differs", "{text}");
        // The first word of the operands, +0, with the top bit of four bytes set.
        assert!(
            program["first"]
                .as_str()
                .unwrap()
                .contains("byte 0: softcuda 0x00000000, the device 0x80000000"),
            "{text}"
        );
    }
    // A name that is no test does not pass for one that ran.
    assert!(text.contains("parity::no_such_test"), "{text}");
}
