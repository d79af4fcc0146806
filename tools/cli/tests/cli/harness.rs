//! Runs the built command line.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use model_maker::{Family, ModelSpec};
use serde_json::Value;

/// The folder of a small jina-embeddings-v3 model with a tokenizer; it is written on the first call.
pub fn test_model() -> PathBuf {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli-model");
        write_model(&folder);
        folder
    };
    MODEL.get_or_init(make).clone()
}

/// Writes that model, for a test that changes it.
pub fn write_model(folder: &Path) {
    let spec = ModelSpec {
        vocab: 600,
        hidden: 64,
        layers: 2,
        heads: 2,
        ffn: 128,
        max_positions: 514,
        force: true,
        ..ModelSpec::new(Family::Jina)
    };
    model_maker::write(&spec, folder).expect("the test model can be written");
}

/// How a run ended.
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ended {
    /// Asserts success and gives the lines of standard output.
    pub fn lines(self) -> Vec<Value> {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{}", self.out);
        self.json()
    }

    pub fn json(&self) -> Vec<Value> {
        self.out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Asserts a failure that is told in one line which holds all of these.
    pub fn fails(self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.err);
        assert_eq!(self.err.lines().count(), 1, "{}", self.err);
        self.says(parts);
    }

    pub fn says(&self, parts: &[&str]) {
        assert!(
            self.err.lines().all(|line| line.starts_with("ropeway: error: ")),
            "{}",
            self.err
        );
        for part in parts {
            assert!(self.err.contains(part), "`{part}` is not in: {}", self.err);
        }
    }
}

pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ropeway"));
    command
        .args(arguments)
        .env("ROPEWAY_MODEL", test_model())
        .env_remove("HF_HUB_OFFLINE")
        .env_remove("ROPEWAY_LOG");
    command.args(["--threads", "2"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

pub fn finish(mut command: Command, stdin: &[u8]) -> Ended {
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // A run that fails early does not read its input.
        scope.spawn(move || drop(pipe.write_all(stdin)));
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ended {
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    })
}

pub fn ropeway(arguments: &[&str], stdin: &[u8]) -> Ended {
    finish(command(arguments), stdin)
}

/// A folder with files, in which a run takes place.
pub struct InputLocation(pub tempfile::TempDir);

impl InputLocation {
    pub fn new(files: &[(&str, &[u8])]) -> InputLocation {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        InputLocation(folder)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn run(&self, arguments: &[&str]) -> Ended {
        let mut command = command(arguments);
        command.current_dir(self.0.path());
        finish(command, b"")
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

pub fn ids(rows: &[Value]) -> Vec<String> {
    rows.iter().map(|row| row["id"].to_string()).collect()
}

pub fn floats(value: &Value) -> Vec<f32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap() as f32)
        .collect()
}

/// What the model is, as `models info --json` says.
pub fn info() -> Value {
    ropeway(&["models", "info", "--json"], b"").lines().remove(0)
}

pub fn hidden() -> usize {
    info()["hidden_size"].as_u64().unwrap() as usize
}
