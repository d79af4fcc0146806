//! Engines in child processes, under an environment of their own: softcuda reads it once, and tells at a
//! process's end what it counted.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ropeway::{Embed, Embedding, Engine, Error, KernelChoice};
use serde::{Deserialize, Serialize};

use super::device::fingerprint;
use crate::common::Scratch;
use crate::common::requests::mixed_requests;

/// Holds the job of a child; its folder is the value.
const JOB: &str = "ROPEWAY_GPU_JOB";

/// Far above what any job takes, beside others on a machine that is short of cores too.
const PATIENCE: Duration = Duration::from_secs(600);

/// Opens an engine and embeds batches of two kinds in turn: adapted, and of the base weights.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    pub model: PathBuf,
    /// As `--device` takes it.
    pub device: String,
    /// Calls of `embed_batch`.
    pub batches: usize,
    /// Whether [`Engine::warm_up`] comes before them.
    pub warm_up: bool,
    /// Whether batches have some hundred tokens, and run the kernels for compute capability 9.0.
    pub sm90: bool,
    /// If not 0, each call embeds this many sequences, of 12 tokens each: a pass has room for one.
    pub texts: usize,
}

/// What became of opening the engine, or of one batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// The engine's device, and why it is the CPU where it is.
    Opened {
        device: String,
        fallback: Option<String>,
    },
    /// A batch's bits.
    Bits(String),
    Failed {
        kind: Kind,
        message: String,
    },
}

/// Which of the library's errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Gpu,
    DeviceLost,
    Device,
    Other,
}

/// How a child ended.
pub struct Ended {
    /// Opening the engine, then each batch.
    pub outcomes: Vec<Outcome>,
    /// Its standard error.
    pub log: String,
    /// Calls by function.
    pub calls: BTreeMap<String, u64>,
    pub leaked_allocations: u64,
    /// What softcuda says of its device, where launches have a length.
    pub device: Option<DeviceTimes>,
}

/// How long a device with launches of a set length was busy.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct DeviceTimes {
    pub launches: u64,
    pub busy_us: u64,
    /// From the first launch's start to the last one's end.
    pub span_us: u64,
}

impl Job {
    /// Two batches and two more.
    pub fn four_batches(model: PathBuf) -> Job {
        Job {
            model,
            device: "cuda".into(),
            batches: 4,
            warm_up: false,
            sm90: false,
            texts: 0,
        }
    }

    /// Does the job in a child process with these variables set. Panics if the child does, or hangs.
    #[track_caller]
    pub fn run(&self, variables: &[(&str, &str)]) -> Ended {
        let folder = Scratch::empty();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("job"), serde_json::to_vec(self).unwrap()).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args([
                "--exact",
                "engine::child::does_its_job",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(JOB, folder.path())
            .env("SOFTCUDA_CALLS", at("calls"))
            .env_remove("SOFTCUDA_FAULTS")
            .env_remove("SOFTCUDA_LOG")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(File::create(at("out")).unwrap())
            .stderr(File::create(at("log")).unwrap());
        let mut child = command.spawn().unwrap();
        let since = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if since.elapsed() > PATIENCE {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let log = fs::read_to_string(at("log")).unwrap();
        assert!(
            status.is_some_and(|status| status.success()),
            "with {variables:?} the child ended with {status:?} (none: it hung):\n{}\n{log}",
            fs::read_to_string(at("out")).unwrap()
        );
        #[derive(Default, Deserialize)]
        struct Calls {
            calls: BTreeMap<String, u64>,
            leaked_allocations: u64,
            device: Option<DeviceTimes>,
        }
        // Nothing is told where the driver did not start.
        let calls = fs::read(at("calls")).map_or_else(
            |_| Calls::default(),
            |text| serde_json::from_slice(&text).unwrap(),
        );
        Ended {
            outcomes: serde_json::from_slice(&fs::read(at("outcomes")).unwrap()).unwrap(),
            log,
            calls: calls.calls,
            leaked_allocations: calls.leaked_allocations,
            device: calls.device,
        }
    }

    fn run_here(&self) -> Vec<Outcome> {
        let builder = Engine::builder()
            // Those for compute capability 9.0 are launched to be checked first, which is not what is counted.
            .kernels(match self.sm90 {
                true => KernelChoice::Sm90,
                false => KernelChoice::Sm80,
            })
            .device(self.device.parse().unwrap())
            .batch_tokens(match (self.sm90, self.texts) {
                (true, _) => 256,
                (false, 0) => 64,
                (false, _) => 16,
            })
            .threads(1);
        let engine = match builder.open(&self.model) {
            Ok(engine) => engine,
            Err(error) => return vec![failed(&error)],
        };
        let mut outcomes = vec![Outcome::Opened {
            device: engine.device_name(),
            fallback: engine.fallback_reason().map(str::to_owned),
        }];
        if self.warm_up
            && let Err(error) = engine.warm_up()
        {
            outcomes.push(failed(&error));
        }
        outcomes.extend((0..self.batches).map(|number| match self.texts {
            0 => batch(&engine, number, self.sm90),
            texts => outcome(engine.embed_batch(&mixed_requests(&[Embed::default()], &vec![12; texts]))),
        }));
        outcomes
    }
}

fn batch(engine: &Engine, number: usize, many: bool) -> Outcome {
    let adapted = [
        Embed::task("retrieval.query"),
        Embed::default(),
        Embed::mixture([("separation", 0.5), ("text-matching", -0.5)]),
    ];
    let base = [Embed::default(), Embed::default().normalize(false)];
    let requests = match (number % 2, many) {
        (0, false) => mixed_requests(&adapted, &[5, 1, 12]),
        (_, false) => mixed_requests(&base, &[2, 9]),
        (0, true) => mixed_requests(&adapted, &[65, 3, 90]),
        (_, true) => mixed_requests(&base, &[140, 9]),
    };
    outcome(engine.embed_batch(&requests))
}

fn outcome(results: Vec<Result<Embedding, Error>>) -> Outcome {
    match results.into_iter().collect::<Result<Vec<Embedding>, Error>>() {
        Ok(embeddings) => Outcome::Bits(fingerprint(&embeddings)),
        Err(error) => failed(&error),
    }
}

fn failed(error: &Error) -> Outcome {
    let kind = match error {
        Error::Gpu { .. } => Kind::Gpu,
        Error::DeviceLost(_) => Kind::DeviceLost,
        Error::Device(_) => Kind::Device,
        _ => Kind::Other,
    };
    Outcome::Failed {
        kind,
        message: error.to_string(),
    }
}

/// The child's side; nothing where there is no parent.
#[test]
fn does_its_job() {
    let Some(folder) = std::env::var_os(JOB) else {
        return;
    };
    let at = |name: &str| Path::new(&folder).join(name);
    let job: Job = serde_json::from_slice(&fs::read(at("job")).unwrap()).unwrap();
    fs::write(at("outcomes"), serde_json::to_vec(&job.run_here()).unwrap()).unwrap();
}
