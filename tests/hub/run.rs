//! Fetches in processes of their own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ropeway::{Device, Embed, Engine, EngineBuilder};
use serde_json::Value;

use crate::common::Scratch;

/// What the child fetches, whether it opens it and embeds a text or else insists on a whole copy, and where it writes the
/// result.
pub const MODEL: &str = "ROPEWAY_TEST_HUB_MODEL";
pub const EMBEDS: &str = "ROPEWAY_TEST_HUB_EMBEDS";
pub const WHOLE: &str = "ROPEWAY_TEST_HUB_WHOLE";
pub const RESULT: &str = "ROPEWAY_TEST_HUB_RESULT";

/// Variables with which a machine's owner could change what is tested.
const SETTINGS: &[&str] = &[
    "ALL_PROXY",
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN",
    "HF_HUB_DISABLE_SYMLINKS",
    "HF_HUB_DOWNLOAD_TIMEOUT",
    "HF_HUB_ETAG_TIMEOUT",
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "HF_TOKEN_PATH",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "HUGGINGFACE_HUB_CACHE",
    "HUGGING_FACE_HUB_TOKEN",
    "NO_PROXY",
    "TRANSFORMERS_CACHE",
    "TRANSFORMERS_OFFLINE",
    "XDG_CACHE_HOME",
];

pub fn builder() -> EngineBuilder {
    Engine::builder().device(Device::Cpu).threads(1)
}

/// The bits of one embedding by the model in a folder.
pub fn embed(folder: impl AsRef<Path>) -> ropeway::Result<Vec<u32>> {
    bits(builder().open(folder)?)
}

/// The bits of one embedding.
pub fn bits(engine: Engine) -> ropeway::Result<Vec<u32>> {
    let task = engine
        .config()
        .task_names()
        .first()
        .map_or(Embed::default(), |&task| Embed::task(task));
    let embedding = engine.embed(&["A text to embed."], &task)?.remove(0);
    Ok(embedding.into_f32()?.into_iter().map(f32::to_bits).collect())
}

/// A fetch in another process.
pub struct Running {
    child: Child,
    folder: Scratch,
    start: Instant,
}

/// What came of a fetch.
#[derive(Debug)]
pub struct Fetched {
    pub folder: PathBuf,
    /// Empty unless the model was opened.
    pub bits: Vec<u32>,
    /// The progress that was reported: file, bytes that are here, bytes in all.
    pub reports: Vec<(String, u64, u64)>,
}

impl Fetched {
    /// The files of which the download was reported to its end, in order.
    pub fn downloaded(&self) -> Vec<&str> {
        let ends = self.reports.iter().filter(|(_, done, total)| done == total);
        let mut files: Vec<&str> = ends.map(|(file, ..)| file.as_str()).collect();
        files.dedup();
        files
    }
}

/// Starts to fetch `model` with these variables and no others of the hub's.
pub fn start(model: &str, variables: &[(&str, &str)]) -> Running {
    let folder = Scratch::empty();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--test-threads=1"])
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    for name in SETTINGS {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command
        .env(MODEL, model)
        .env(RESULT, folder.path().join("result.json"))
        .envs(variables.iter().copied());
    let child = command.spawn().unwrap();
    Running {
        child,
        folder,
        start: Instant::now(),
    }
}

impl Running {
    /// Waits for the end.
    pub fn end(mut self) -> Result<Fetched, String> {
        while self.child.try_wait().unwrap().is_none() {
            if self.start.elapsed() > Duration::from_secs(60) {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                panic!("the child hangs");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let text = std::fs::read(self.folder.path().join("result.json")).expect("the child panicked");
        let answer: Value = serde_json::from_slice(&text).unwrap();
        if let Some(error) = answer["error"].as_str() {
            return Err(error.to_owned());
        }
        Ok(Fetched {
            folder: answer["folder"].as_str().unwrap_or_default().into(),
            bits: serde_json::from_value(answer["bits"].clone()).unwrap_or_default(),
            reports: serde_json::from_value(answer["reports"].clone()).unwrap(),
        })
    }

    /// Ends it by a signal, as Ctrl-C does; the signal of Ctrl-C itself is ignored below a shell's background job.
    #[cfg(target_os = "linux")]
    pub fn interrupt(mut self) {
        let signal = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status();
        assert!(signal.unwrap().success());
        let status = self.child.wait().unwrap();
        assert!(!status.success());
    }
}

/// Asserts that a fetch failed and that its message, of one line, has these words.
#[track_caller]
pub fn refused(result: Result<Fetched, String>, words: &[&str]) -> String {
    let error = result.unwrap_err();
    for word in words {
        assert!(error.contains(word), "no {word:?} in: {error}");
    }
    assert!(error.contains("`owner/name`"), "{error}");
    assert!(
        error.len() < 1000 && !error.chars().any(char::is_control),
        "{error:?}"
    );
    error
}
