//! Fat binaries as nvcc writes them.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{compile, folder, softcuda, stderr, stdout, toolkit};

const SOURCE: &str = r#"
__device__ int counter = 7;
extern "C" __global__ void add(const float* a, float* b, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) b[i] += a[i];
    if (i == 0) atomicAdd(&counter, 1);
}
"#;

/// Compiles the source; `None` without nvcc.
fn nvcc(toolkit: &Path, folder: &Path, name: &str, flags: &[&str]) -> Option<PathBuf> {
    let compiler = toolkit.join("bin/nvcc");
    if !compiler.is_file() {
        eprintln!("skipped: no nvcc in {}", toolkit.display());
        return None;
    }
    let source = folder.join("kernel.cu");
    std::fs::write(&source, SOURCE).unwrap();
    let out = folder.join(name);
    let output = Command::new(compiler)
        .args(flags)
        .arg(&source)
        .arg("-o")
        .arg(&out)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    Some(out)
}

#[test]
fn every_compression_of_nvcc_is_read() {
    let Some(toolkit) = toolkit() else { return };
    let folder = folder("fatbin");
    let program = compile(&toolkit, &folder, "small", &[]);
    let code = "arch=compute_80,code=[sm_80,compute_80]";
    let mut sizes = Vec::new();
    // None, Zstandard (the default), Zstandard for the machine code too, LZ4.
    for mode in ["none", "default", "size", "speed"] {
        let mode = format!("--compress-mode={mode}");
        let Some(image) = nvcc(
            &toolkit,
            &folder,
            "kernel.fatbin",
            &["--fatbin", "-gencode", code, &mode],
        ) else {
            return;
        };
        sizes.push(std::fs::metadata(&image).unwrap().len());
        let registers = registers(&toolkit, &folder);
        let output = softcuda(&program).arg("load").arg(&image).output().unwrap();
        let expected = format!("0 {registers} 4 7");
        assert_eq!(stdout(&output), expected, "{mode}: {}", stderr(&output));
    }
    // The modes did something.
    sizes.sort_unstable();
    sizes.dedup();
    assert_eq!(sizes.len(), 4, "{sizes:?}");
}

/// What ptxas says of the kernel's registers.
fn registers(toolkit: &Path, folder: &Path) -> u32 {
    let mut command = Command::new(toolkit.join("bin/nvcc"));
    command
        .args(["-cubin", "-arch=sm_80", "--resource-usage", "-o"])
        .arg(folder.join("kernel.cubin"));
    let output = command.arg(folder.join("kernel.cu")).output().unwrap();
    let text = stdout(&output) + &stderr(&output);
    let used = text.split("Used ").nth(1).unwrap_or_else(|| panic!("{text}"));
    used.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn machine_code_alone_is_refused_with_the_flag_to_add() {
    let Some(toolkit) = toolkit() else { return };
    let folder = folder("cubin");
    let program = compile(&toolkit, &folder, "small", &[]);
    let code = "arch=compute_80,code=sm_80";
    for (name, flags) in [
        ("code.fatbin", ["--fatbin", "-gencode", code]),
        ("code.cubin", ["--cubin", "-gencode", code]),
    ] {
        let Some(image) = nvcc(&toolkit, &folder, name, &flags) else {
            return;
        };
        let output = softcuda(&program).arg("load").arg(&image).output().unwrap();
        assert_eq!(stdout(&output), "209", "{}", stderr(&output));
        let text = stderr(&output);
        assert!(
            text.contains("-gencode arch=compute_80,code=compute_80"),
            "{text}"
        );
    }
}

#[test]
fn ptx_for_a_newer_device_is_refused() {
    let Some(toolkit) = toolkit() else { return };
    let folder = folder("newer");
    let program = compile(&toolkit, &folder, "small", &[]);
    let flags = ["--fatbin", "-gencode", "arch=compute_90,code=compute_90"];
    let Some(image) = nvcc(&toolkit, &folder, "newer.fatbin", &flags) else {
        return;
    };
    let run = |device: &str| {
        let output = softcuda(&program)
            .arg("load")
            .arg(&image)
            .env("SOFTCUDA_DEVICE", device)
            .output()
            .unwrap();
        (stdout(&output), stderr(&output))
    };
    // Without machine code the registers are assumed.
    assert_eq!(run("sm_90").0, "0 64 4 7");
    let (out, err) = run("sm_89");
    assert_eq!(out, "209", "{err}");
    assert!(err.contains("PTX for compute_90"), "{err}");
}
