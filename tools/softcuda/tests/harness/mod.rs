//! Compiles the kernels beside the tests and runs them on softcuda through its Rust interface.
//!
//! nvcc is looked for in `$NVCC`, `$CUDA_HOME`, `PATH`, /usr/local/cuda and the repository's `.cuda` (see tools/setup). Without
//! one the tests say that they are skipped and pass; with `ROPEWAY_CUDA=require` they fail.

//! With `SOFTCUDA_PARITY` each launch also runs on a GPU and the memory of both is compared (see `mirror`);
//! `SOFTCUDA_PTX` is a folder with the sources compiled before, for machines without nvcc (see tools/gpu).

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod engine;
pub mod mirror;
pub mod rule;

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use softcuda::counters::Counters;
use softcuda::machine::{self, Device, Invalid, Launch, LaunchError, Module, Settings};
use softcuda::memory::Kind;
use softcuda::run::check::Finding;
use softcuda::run::profile;

use mirror::Mirror;
pub use rule::Rule;

/// Folder of the kernels' sources.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels")
}

/// nvcc with the text of its version, or `None` after saying that the tests are skipped.
fn nvcc() -> Option<&'static (PathBuf, String)> {
    static NVCC: OnceLock<Option<(PathBuf, String)>> = OnceLock::new();
    NVCC.get_or_init(|| {
        let mode = std::env::var("ROPEWAY_CUDA").unwrap_or_default();
        let found = if mode == "off" { None } else { find_nvcc() };
        if found.is_none() {
            assert!(
                mode != "require",
                "ROPEWAY_CUDA=require, and there is no nvcc in $NVCC, PATH, /usr/local/cuda or .cuda (tools/setup)"
            );
            // Past the test runner's capture, which would keep it from being seen.
            let _ = writeln!(
                std::io::stderr(),
                "skipped: softcuda's whole kernels need nvcc ($NVCC, PATH, /usr/local/cuda, or tools/setup)"
            );
        }
        found
    })
    .as_ref()
}

fn find_nvcc() -> Option<(PathBuf, String)> {
    let mut places: Vec<PathBuf> = Vec::new();
    places.extend(std::env::var_os("NVCC").map(PathBuf::from));
    for home in ["CUDA_HOME", "CUDA_PATH"] {
        places.extend(std::env::var_os(home).map(|home| Path::new(&home).join("bin/nvcc")));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path).map(|folder| folder.join("nvcc")));
    places.push("/usr/local/cuda/bin/nvcc".into());
    places.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cuda/bin/nvcc"));
    places.into_iter().find_map(|place| {
        let output = Command::new(&place).arg("--version").output().ok()?;
        let version = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some((place, version))
    })
}

/// PTX of a source in [`folder`], compiled once and kept in target/. `None`: no nvcc.
pub fn compile(name: &str) -> Option<Arc<Vec<u8>>> {
    type Cells = HashMap<String, Arc<OnceLock<Arc<Vec<u8>>>>>;
    static DONE: OnceLock<Mutex<Cells>> = OnceLock::new();
    if let Some(packed) = std::env::var_os("SOFTCUDA_PTX") {
        let path = Path::new(&packed).join(name.replace('/', "-") + ".ptx");
        if path.exists() {
            let text = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            return Some(Arc::new(text));
        }
    }
    let (nvcc, version) = nvcc()?;
    // Different sources at once, one source once.
    let cell = {
        let mut done = DONE
            .get_or_init(Mutex::default)
            .lock()
            .unwrap_or_else(|e| e.into_inner());
        done.entry(name.to_owned()).or_default().clone()
    };
    Some(
        cell.get_or_init(|| Arc::new(compile_with(nvcc, version, name)))
            .clone(),
    )
}

fn compile_with(nvcc: &Path, version: &str, name: &str) -> Vec<u8> {
    let source = folder().join(name);
    let text = std::fs::read_to_string(&source).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
    let arch = header(&text, "arch").unwrap_or("compute_80".into());
    let mut headers = ["ptx_async.cuh", "ptx_hopper.cuh"]
        .map(|header| folder().join(header))
        .to_vec();
    if let Some(other) = header(&text, "reads") {
        headers.extend(sources(&folder().join(other)));
    }
    let shared: Vec<String> = headers
        .iter()
        .map(|header| std::fs::read_to_string(header).unwrap_or_else(|e| panic!("{}: {e}", header.display())))
        .collect();
    // The path is part of it, for it stands in the line information.
    let mut hasher = DefaultHasher::new();
    (&text, &shared, &source, version, &arch).hash(&mut hasher);
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("softcuda-kernels");
    std::fs::create_dir_all(&cache).expect("a folder in target/");
    let target = cache.join(format!("{}-{:016x}.ptx", name.replace('/', "-"), hasher.finish()));
    if !target.exists() {
        let partial = target.with_extension(format!("{}.partial", std::process::id()));
        let output = Command::new(nvcc)
            .args(["--ptx", "-lineinfo", "-std=c++17"])
            .arg(format!("-arch={arch}"))
            .arg(&source)
            .arg("-o")
            .arg(&partial)
            .output()
            .expect("nvcc ran before");
        assert!(
            output.status.success(),
            "nvcc does not compile {name}:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        std::fs::rename(&partial, &target).expect("the same folder");
    }
    std::fs::read(&target).expect("just made")
}

/// What a source may include from a folder, and the folders in it.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a folder's entry").path())
        .collect();
    paths.sort();
    paths
        .into_iter()
        .flat_map(|path| {
            let source = path
                .extension()
                .is_some_and(|e| e == "cu" || e == "cuh" || e == "h");
            match path.is_dir() {
                true => sources(&path),
                false => Vec::from_iter(source.then_some(path)),
            }
        })
        .collect()
}

/// The line `//! key: …` at the head of a source.
pub fn header(text: &str, key: &str) -> Option<String> {
    text.lines()
        .map_while(|line| line.strip_prefix("//! "))
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
        .map(str::to_owned)
}

/// A plain number, as kernels have it.
pub trait Scalar: Copy {
    fn append(self, bytes: &mut Vec<u8>);
    fn read(bytes: &[u8]) -> Self;
}

macro_rules! scalars {
    ($($ty:ty)*) => {$(
        impl Scalar for $ty {
            fn append(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }
            fn read(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().expect("as many bytes as it has"))
            }
        }
    )*};
}

scalars!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64);

/// The bytes of some numbers.
pub fn bytes<T: Scalar>(values: &[T]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for value in values {
        value.append(&mut bytes);
    }
    bytes
}

/// A kernel's parameters, one after the other with the alignment that C gives them.
#[derive(Default, Clone)]
pub struct Args(pub Vec<u8>);

impl Args {
    pub fn new() -> Self {
        Self::default()
    }

    /// A pointer or number, aligned to its size.
    pub fn with<T: Scalar>(mut self, value: T) -> Self {
        let size = size_of::<T>();
        self.0.resize(self.0.len().next_multiple_of(size), 0);
        value.append(&mut self.0);
        self
    }

    /// A struct's bytes, padding and all.
    pub fn with_bytes(mut self, bytes: &[u8], align: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(align), 0);
        self.0.extend_from_slice(bytes);
        self
    }
}

thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Runs a test whose devices shuffle blocks and warps over three threads.
pub fn shuffled(seed: u64, test: impl FnOnce()) {
    SEED.set(Some(seed));
    test();
    SEED.set(None);
}

/// A device for one test.
pub struct Gpu {
    pub device: Device,
    /// Of the last launch that went well: what looks wrong about it all the same.
    pub hints: Vec<Finding>,
    /// Of the last launch that went well: what was counted.
    pub counters: Counters,
    mirror: Option<Mirror>,
}

/// Grid, block and dynamic shared memory.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    pub cooperative: bool,
    pub cluster: Option<[u32; 3]>,
    /// It may begin before the launch before it has ended.
    pub programmatic: bool,
}

impl Shape {
    pub fn new(grid: u32, block: u32) -> Self {
        Self {
            grid: [grid, 1, 1],
            block: [block, 1, 1],
            shared: 0,
            cooperative: false,
            cluster: None,
            programmatic: false,
        }
    }
}

/// How a launch ended.
#[derive(Debug)]
pub enum Ended {
    Well,
    Refused(Invalid, String),
    Found(Vec<Finding>),
}

impl Gpu {
    /// Runs everything in order, so that a failure can be seen again; but see [`shuffled`].
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(adjust: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            threads: if SEED.get().is_some() { 3 } else { 1 },
            seed: SEED.get(),
            spin_limit: 300_000,
            ..Settings::default()
        };
        adjust(&mut settings);
        Self {
            device: Device::new(&profile::SM_90, settings),
            hints: Vec::new(),
            counters: Counters::default(),
            mirror: Mirror::start(),
        }
    }

    /// The stack that each thread of the kernels here needs on a GPU, in bytes, where the driver's default (1 KiB) is too
    /// small: of recursion the compiler does not know the depth. softcuda's frames have no such limit.
    pub fn stack(&mut self, bytes: usize) {
        if let Some(mirror) = &self.mirror {
            mirror.set_stack(bytes);
        }
    }

    /// `None`: no nvcc.
    pub fn load(&mut self, name: &str) -> Option<Module> {
        let ptx = compile(name)?;
        Some(self.load_text(name, &ptx))
    }

    /// A module from PTX text.
    pub fn load_text(&mut self, name: &str, ptx: &[u8]) -> Module {
        let module =
            Module::load(ptx, &mut self.device).unwrap_or_else(|e| panic!("{name} cannot be loaded: {e}"));
        if let Some(mirror) = &mut self.mirror {
            mirror.load(name, ptx, &module, &self.device.memory);
        }
        module
    }

    /// How `bytes` bytes are compared with those of a GPU; where nothing is said, every bit counts.
    pub fn compare(&mut self, address: u64, bytes: usize, rule: Rule) {
        if let Some(mirror) = &mut self.mirror {
            mirror.rule(address, bytes as u64, rule);
        }
    }

    /// Memory that nobody has written.
    pub fn alloc(&mut self, bytes: usize) -> u64 {
        self.device
            .memory
            .allocate(bytes as u64, Kind::Device, "the test")
            .expect("enough memory")
    }

    pub fn upload<T: Scalar>(&mut self, values: &[T]) -> u64 {
        let bytes = bytes(values);
        let address = self.alloc(bytes.len());
        self.write(address, &bytes);
        address
    }

    pub fn zeros(&mut self, bytes: usize) -> u64 {
        self.upload(&vec![0u8; bytes])
    }

    pub fn write(&mut self, address: u64, bytes: &[u8]) {
        self.device.memory.write(address, bytes).expect("inside");
    }

    pub fn download<T: Scalar>(&self, address: u64, count: usize) -> Vec<T> {
        let mut bytes = vec![0; count * size_of::<T>()];
        self.device.memory.read(address, &mut bytes).expect("inside");
        bytes.chunks_exact(size_of::<T>()).map(T::read).collect()
    }

    pub fn try_launch(&mut self, module: &Module, name: &str, shape: Shape, args: &Args) -> Ended {
        let kernel = module.kernel(name).unwrap_or_else(|| panic!("no kernel {name}"));
        let mut params = args.0.clone();
        // C pads the end of a parameter list; the kernel says how long it is.
        let length = kernel.param_bytes as usize;
        assert!(
            params.len() <= length && length < params.len() + 16,
            "{name} has {length} bytes of parameters, not {}",
            params.len()
        );
        params.resize(length, 0);
        let launch = Launch {
            grid: shape.grid,
            block: shape.block,
            shared: shape.shared,
            params,
            cooperative: shape.cooperative,
            cluster: shape.cluster,
            programmatic: shape.programmatic,
            stream: 0,
        };
        let before = self.mirror.as_ref().map(|m| m.before(&self.device.memory));
        match machine::launch(&mut self.device, module, &kernel, &launch) {
            Ok(done) => {
                self.hints = done.hints;
                self.counters = done.counters;
                if let (Some(mirror), Some(before)) = (&mut self.mirror, before) {
                    mirror.after(&self.device.memory, before, module, &kernel, &launch);
                }
                Ended::Well
            }
            Err(LaunchError::Invalid { kind, message }) => Ended::Refused(kind, message),
            Err(LaunchError::Failed { findings, dropped }) => {
                assert!(!findings.is_empty() || dropped > 0, "{name} failed for no reason");
                Ended::Found(findings)
            }
        }
    }

    /// The last launch went well, and nothing about it looks wrong.
    #[track_caller]
    pub fn assert_no_hints(&self, name: &str) {
        let hints: Vec<String> = self.hints.iter().map(Finding::to_string).collect();
        assert!(hints.is_empty(), "{name} is clean, but:\n{}", hints.join("\n"));
    }

    /// Launches a kernel with which nothing may be wrong.
    #[track_caller]
    pub fn launch(&mut self, module: &Module, name: &str, shape: Shape, args: &Args) {
        match self.try_launch(module, name, shape, args) {
            Ended::Well => self.assert_no_hints(name),
            Ended::Refused(_, message) => panic!("{name} was refused: {message}"),
            Ended::Found(findings) => {
                let text: Vec<String> = findings.iter().map(Finding::to_string).collect();
                panic!("{name} is clean, but:\n{}", text.join("\n"));
            }
        }
    }
}

/// Marsaglia's xorshift64*.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    pub fn below(&mut self, n: u32) -> u32 {
        ((u64::from(self.next()) * u64::from(n)) >> 32) as u32
    }

    /// From -1 to 1.
    pub fn unit(&mut self) -> f32 {
        self.next() as i32 as f32 / 2f32.powi(31)
    }
}
