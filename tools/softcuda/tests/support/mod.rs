//! C programs compiled against the toolkit's cuda.h and run with softcuda in the place of the driver.

#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where the CUDA toolkit is; without one the test says so and ends.
pub fn toolkit() -> Option<PathBuf> {
    let candidates = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(std::env::var_os)
        .map(PathBuf::from)
        .chain([
            PathBuf::from("/usr/local/cuda"),
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cuda"),
        ]);
    let found = candidates
        .into_iter()
        .find(|home| home.join("include/cuda.h").is_file());
    if found.is_none() {
        assert!(
            std::env::var("ROPEWAY_CUDA").as_deref() != Ok("require"),
            "ROPEWAY_CUDA=require, and there is no CUDA toolkit in $CUDA_HOME, /usr/local/cuda or .cuda (tools/setup)"
        );
        // Past the test runner's capture, which would keep it from being seen.
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            b"skipped: this test needs cuda.h ($CUDA_HOME, /usr/local/cuda, or tools/setup)\n",
        );
    }
    found
}

/// The library that cargo built together with this test.
pub fn library() -> PathBuf {
    let test = std::env::current_exe().expect("the test's path");
    // `cargo test` leaves it beside the tests, `cargo build` one folder up; the former is this build's.
    let library = test.parent().expect("a folder").join("libsoftcuda.so");
    assert!(library.is_file(), "{} is missing", library.display());
    library
}

/// A fresh folder for a test's files.
pub fn folder(name: &str) -> PathBuf {
    // One for each call: two tests may run the same program at once.
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}-{call}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a folder");
    path
}

/// A command that runs with softcuda.
pub fn softcuda(program: &Path) -> Command {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/run"));
    for name in ["DEVICE", "FAULTS", "ASYNC", "LOG", "CALLS", "CHECKS", "SEED"] {
        command.env_remove(format!("SOFTCUDA_{name}"));
    }
    command.arg(program).env("SOFTCUDA_LIBRARY", library());
    command
}

/// Compiles a C program of `tests/driver`.
pub fn compile(toolkit: &Path, folder: &Path, source: &str, flags: &[&str]) -> PathBuf {
    // `run` makes the folder with libcuda.so, by which the linker finds it too.
    let made = softcuda(Path::new("true")).status().expect("run starts");
    assert!(made.success());
    let links = library().with_file_name("softcuda-run");
    let out = folder.join(format!("{source}{}", flags.concat().replace(['-', '/'], "_")));
    let mut command = Command::new("cc");
    command
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-I"])
        .arg(toolkit.join("include"))
        .args(flags)
        .arg(format!("{}/tests/driver/{source}.c", env!("CARGO_MANIFEST_DIR")))
        .arg("-o")
        .arg(&out);
    if !flags.contains(&"-DBY_DLOPEN") {
        command.arg("-L").arg(links).arg("-lcuda");
    }
    let output = command.arg("-ldl").output().expect("a C compiler");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    out
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
