//! What the unit tests of `gpu` share: a device, models, and reading device memory.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Once;

use crate::model::Model;
use crate::precision::Half;

use super::driver::Context;
use super::select;

/// A GPU, or `tools/softcuda/run` in its place. `None`, and a line that says so, where there is neither; with
/// `ROPEWAY_GPU_TESTS=require` that is a failure.
pub fn context() -> Option<Context> {
    match select::open(0) {
        Ok(context) => Some(context),
        Err(reason) => {
            let required = std::env::var("ROPEWAY_GPU_TESTS").is_ok_and(|value| value == "require");
            assert!(!required, "ROPEWAY_GPU_TESTS=require, and {reason}");
            static SAID: Once = Once::new();
            SAID.call_once(|| {
                // Not by eprintln: that is shown for failing tests alone.
                let line = format!(
                    "\nSKIPPED: {reason}; without a GPU: tools/softcuda/run cargo test --lib gpu::\n"
                );
                let _ = std::io::stderr().write_all(line.as_bytes());
            });
            None
        }
    }
}

/// What the device holds there.
pub fn download(context: &Context, address: u64, bytes: usize) -> Vec<u8> {
    let stream = context.stream().unwrap();
    let mut host = context.pinned(bytes).unwrap();
    // SAFETY: the tests ask for what their allocations have; both live until the copy is done, below.
    unsafe { stream.download(&mut host, 0..bytes, address) }.unwrap();
    stream.synchronize().unwrap();
    host.to_vec()
}

/// The bytes of little-endian 16-bit numbers as such.
pub fn numbers(bytes: &[u8]) -> Vec<u16> {
    bytes
        .chunks_exact(2)
        .map(|b| u16::from_le_bytes([b[0], b[1]]))
        .collect()
}

/// Numbers rounded one by one.
pub fn rounded(precision: Half, x: &[f32]) -> Vec<u16> {
    x.iter().map(|&x| precision.round(x)).collect()
}

/// A fixture; `ROPEWAY_TEST_ROOT` is the repository, or what was packed of it, where this is not the machine that built.
pub fn golden(path: &str) -> PathBuf {
    let root = std::env::var_os("ROPEWAY_TEST_ROOT").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&root).join("tests/golden").join(path)
}

pub fn model(name: &str) -> Model {
    Model::open(&golden(name)).unwrap()
}

/// Names an entry to a test that was started with [`in_a_child`]: it has to run without its `griddepcontrol.wait`.
pub const WITHOUT_WAIT: &str = "ROPEWAY_TEST_WITHOUT_WAIT";

/// A module without the wait of the entry that [`WITHOUT_WAIT`] names, if that is one of the module's.
pub fn without_wait(image: &[u8]) -> Option<Vec<u8>> {
    let find = |text: &str, from: usize| {
        let mut places = image[from..].windows(text.len());
        places
            .position(|place| place == text.as_bytes())
            .map(|at| from + at)
    };
    let head = format!(".visible .entry {}(", std::env::var(WITHOUT_WAIT).ok()?);
    let wait = "griddepcontrol.wait;";
    let (mut altered, mut from) = (None, 0);
    // In each PTX of the module, as far as it has one.
    while let Some(entry) = find(&head, from) {
        from = entry + head.len();
        let end = find(".visible .entry ", from).unwrap_or(image.len());
        if let Some(at) = find(wait, from).filter(|&at| at < end) {
            let image = altered.get_or_insert_with(|| image.to_vec());
            image[at..at + wait.len()].fill(b' ');
        }
    }
    altered
}

/// Says to a test that it is the one that a test has started.
const CHILD: &str = "ROPEWAY_TEST_CHILD";

pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs a test of this library once more, alone in a process with these settings of softcuda. Panics if it fails.
pub fn in_a_child(test: &str, settings: &[(&str, &str)]) -> Output {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .envs(settings.iter().copied())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success() && text(&output.stdout).contains("1 passed"),
        "{settings:?}:\n{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}
