//! The device under test.

use std::hash::{DefaultHasher, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use model_maker::{Family, ModelSpec};
use ropeway::inspect::kernels;
use ropeway::{Device, Embedding, Engine, EngineBuilder, Error, Output, Vector};

use crate::common;

/// What is tested.
pub const TARGET: Device = Device::Cuda(0);

/// A device that engines can be opened on.
#[derive(Clone, Copy)]
pub struct Gpu {
    simulated: bool,
}

impl Gpu {
    /// `None`, and a line that says so, where there is none; with `ROPEWAY_GPU_TESTS=require` that is a
    /// failure.
    pub fn find() -> Option<Gpu> {
        static FOUND: OnceLock<Result<Gpu, String>> = OnceLock::new();
        let found = FOUND.get_or_init(|| {
            let found = Gpu::look();
            match &found {
                Ok((_, name)) => say(&format!("engines compute on {name}")),
                Err(reason) => say(&format!("SKIPPED: {reason}")),
            }
            found.map(|(gpu, _)| gpu)
        });
        match found {
            Ok(gpu) => Some(*gpu),
            Err(reason) => {
                let required = std::env::var("ROPEWAY_GPU_TESTS").is_ok_and(|value| value == "require");
                assert!(!required, "ROPEWAY_GPU_TESTS=require, and {reason}");
                None
            }
        }
    }

    fn look() -> Result<(Gpu, String), String> {
        kernels()
            .compiler
            .map_err(|reason| format!("no GPU kernels in this build: {reason}; tools/setup gets nvcc"))?;
        let engine = Engine::builder().device(TARGET).batch_tokens(64).open(jina(64));
        match engine {
            Ok(engine) => {
                let name = engine.device_name();
                let simulated = name.contains("softcuda");
                Ok((Gpu { simulated }, name))
            }
            Err(Error::Device(reason)) => Err(format!(
                "{reason}; without a GPU: tools/softcuda/run cargo test --test gpu"
            )),
            Err(error) => panic!("there is a device, and it cannot be used: {error}"),
        }
    }

    /// As [`find`](Self::find), and only if it is softcuda: the driver's calls can be counted and made to fail.
    pub fn find_simulated() -> Option<Gpu> {
        let gpu = Gpu::find()?;
        if !gpu.simulated {
            say("SKIPPED: calls are counted and made to fail by softcuda alone");
        }
        Some(gpu).filter(|gpu| gpu.simulated)
    }

    /// Whether what is alike on all devices is to be tested on this one: on a GPU, and on softcuda's default.
    pub fn is_first(self) -> bool {
        let device = std::env::var("SOFTCUDA_DEVICE");
        crate::exhaustive() || !self.simulated || device.is_err() || device.is_ok_and(|name| name == "sm_90")
    }

    /// Settings for an engine on it, with little memory.
    pub fn builder(self) -> EngineBuilder {
        Engine::builder()
            .device(TARGET)
            .batch_tokens(1024)
            .dependent_launch(true)
    }

    /// An engine on it.
    pub fn open(self, model: &Path) -> Engine {
        self.builder().open(model).unwrap()
    }
}

/// The same model on the CPU, in float32.
pub fn on_cpu(model: &Path) -> Engine {
    Engine::builder().device(Device::Cpu).open(model).unwrap()
}

/// Not by eprintln: that is shown for failing tests alone.
fn say(line: &str) {
    let _ = std::io::stderr().write_all(format!("\n{line}\n").as_bytes());
}

/// A random model with the layout of jina-embeddings-v3, 128 numbers wide, and heads of this size.
pub fn spec(head_dim: usize) -> ModelSpec {
    let hidden = head_dim.max(64) * 2;
    ModelSpec {
        vocab: 700,
        hidden,
        layers: 2,
        heads: hidden / head_dim,
        ffn: 256,
        max_positions: 600,
        ..ModelSpec::new(Family::Jina)
    }
}

/// As little as a model can be, where it is not about what is computed.
pub fn tiny() -> PathBuf {
    common::model(&ModelSpec {
        hidden: 64,
        layers: 1,
        heads: 1,
        ffn: 64,
        ..spec(64)
    })
}

/// Its folder.
pub fn jina(head_dim: usize) -> PathBuf {
    common::model(&spec(head_dim))
}

/// All numbers of a result as they lie in memory, so that −0 is not 0.
pub fn bits(embedding: &Embedding) -> Vec<u32> {
    let vector = |vector: &Vector| -> Vec<u32> {
        match vector {
            Vector::F32(values) => values.iter().map(|x| x.to_bits()).collect(),
            Vector::F16(values) => values.iter().map(|x| x.to_bits().into()).collect(),
            Vector::Int8 { values, scale } => {
                let values = values.iter().map(|&x| x as u32);
                values.chain([scale.to_bits()]).collect()
            }
            Vector::Binary(bytes) => bytes.iter().map(|&x| x.into()).collect(),
            Vector::Base64(text) => text.bytes().map(u32::from).collect(),
            other => panic!("{other:?}"),
        }
    };
    match &embedding.output {
        Output::Vector(one) => vector(one),
        Output::Tokens(rows) => rows.iter().flat_map(vector).collect(),
        Output::Chunks(chunks) => chunks.iter().flat_map(|chunk| vector(&chunk.vector)).collect(),
        other => panic!("{other:?}"),
    }
}

/// A short name for the bits of results.
pub fn fingerprint<'a>(embeddings: impl IntoIterator<Item = &'a Embedding>) -> String {
    let mut hash = DefaultHasher::new();
    for embedding in embeddings {
        for word in bits(embedding) {
            hash.write_u32(word);
        }
        hash.write_u8(0xff);
    }
    format!("{:016x}", hash.finish())
}

/// How far rows of numbers are from what they should be: the most that `|got − want|² / 2|want|²` is for a row
/// of `width` numbers. For unit vectors that is one minus their cosine. NaN is infinitely far off.
#[track_caller]
pub fn off(got: &[f32], want: &[f32], width: usize) -> f64 {
    assert_eq!(got.len(), want.len());
    let row = |(got, want): (&[f32], &[f32])| {
        let square = |x: f64| x * x;
        let apart: f64 = got
            .iter()
            .zip(want)
            .map(|(&a, &b)| square(f64::from(a) - f64::from(b)))
            .sum();
        let size: f64 = want.iter().map(|&b| square(b.into())).sum();
        let off = apart / (2.0 * size);
        if off.is_nan() { f64::INFINITY } else { off }
    };
    got.chunks(width)
        .zip(want.chunks(width))
        .map(row)
        .fold(0.0, f64::max)
}
