//! Compiles the kernels under `cuda/` with nvcc, where there is one, and writes the table of them that
//! `src/kernels/mod.rs` includes. Also notes what the build is for, which `ropeway devices` prints.
//!
//! `ROPEWAY_CUDA` decides: `auto` (the default) embeds an empty table without nvcc and says so,
//! `require` fails, `off` does not look. Each `.cu` becomes one fatbin, cached in
//! `target/ropeway-cuda/` by a hash of all that goes into it: `OUT_DIR` is another one for every profile.

use std::env;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::sync::Mutex;
use std::thread;

/// Where `tools/setup` puts its compiler.
const SETUP_FOLDER: &str = ".cuda";

/// Version of CUDA whose PTX the oldest driver that is supported can load.
const WANTED: (u32, u32) = (13, 0);

/// 8.x and 9.0 have their own code, later GPUs compile the PTX when it is loaded.
const ANY: Target = Target {
    gencode: "arch=compute_80,code=[sm_80,sm_90,compute_80]",
    architectures: &["sm_80", "sm_90", "compute_80"],
};

/// Under `cuda/sm90/`: wgmma and TMA. This PTX runs on no other GPU.
const SM90: Target = Target {
    gencode: "arch=compute_90a,code=[sm_90a,compute_90a]",
    architectures: &["sm_90a", "compute_90a"],
};

/// Not compressed, so that tests and software devices read the PTX where it lies.
const FLAGS: [&str; 8] = [
    "--fatbin",
    "-no-compress",
    "-std=c++17",
    "-lineinfo",
    "-Xptxas",
    "-v,-warn-spills,-warn-lmem-usage",
    "-I",
    "cuda",
];

struct Target {
    gencode: &'static str,
    architectures: &'static [&'static str],
}

/// A compiler that can be used.
struct Nvcc {
    path: PathBuf,
    /// All that `--version` prints.
    text: String,
    /// For people: `13.0.88`.
    version: String,
}

/// A `.cu` file.
struct Source {
    /// From the package's root, as nvcc gets it: `cuda/sm90/gemm.cu`.
    path: PathBuf,
    /// `sm90/gemm`.
    name: String,
}

/// What nvcc made of a source.
struct Kernel {
    fatbin: Vec<u8>,
    /// What nvcc and ptxas said: registers, shared memory, spills.
    log: String,
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!(
        "cargo::rustc-env=ROPEWAY_TARGET={}",
        variable("TARGET").unwrap_or_default()
    );
    // The folder too: sources that come and go.
    println!("cargo::rerun-if-changed=cuda");
    let table = match watched("ROPEWAY_CUDA").as_deref() {
        None | Some("auto") => match find_nvcc() {
            Ok(nvcc) => compile_all(&nvcc),
            Err(problem) => {
                println!("cargo::warning=built without GPU kernels: {problem}");
                empty("no nvcc when built")
            }
        },
        Some("require") => match find_nvcc() {
            Ok(nvcc) => compile_all(&nvcc),
            Err(problem) => fail(&format!("ROPEWAY_CUDA=require, and {problem}")),
        },
        Some("off") => empty("ROPEWAY_CUDA was off when built"),
        Some(other) => fail(&format!(
            "ROPEWAY_CUDA is `{other}`; it can be auto, require or off"
        )),
    };
    write(&out_dir().join("kernels.rs"), table.as_bytes());
}

// ---- The compiler ----

/// The first nvcc that will do, or where it was looked for and what to do about it.
fn find_nvcc() -> Result<Nvcc, String> {
    let mut places = Vec::new();
    if let Some(nvcc) = watched("NVCC") {
        places.push(("$NVCC".to_owned(), programs(&nvcc)));
    }
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        if let Some(folder) = watched(name) {
            places.push((format!("${name}"), vec![Path::new(&folder).join("bin/nvcc")]));
        }
    }
    let mut looked = Vec::new();
    for (label, paths) in places {
        match first_usable(&label, &paths) {
            Ok(nvcc) => return Ok(nvcc),
            Err(problem) => looked.push(problem),
        }
    }
    // PATH matters only if the search comes this far: it is another in every other terminal.
    watched("PATH");
    let last = [
        ("PATH", programs("nvcc")),
        ("/usr/local/cuda", vec![PathBuf::from("/usr/local/cuda/bin/nvcc")]),
        (SETUP_FOLDER, vec![root().join(SETUP_FOLDER).join("bin/nvcc")]),
    ];
    for (label, paths) in last {
        match first_usable(label, &paths) {
            Ok(nvcc) => return Ok(nvcc),
            Err(problem) => looked.push(problem),
        }
    }
    Err(format!(
        "no nvcc of CUDA {}.{} was found: {}. tools/setup in the repository gets one without root; $NVCC names one that is \
         elsewhere; ROPEWAY_CUDA=off builds without and says nothing",
        WANTED.0,
        WANTED.1,
        looked.join("; ")
    ))
}

fn first_usable(label: &str, paths: &[PathBuf]) -> Result<Nvcc, String> {
    let mut problems = Vec::new();
    for path in paths.iter().filter(|path| path.is_file()) {
        // An upgrade in place is noticed.
        println!("cargo::rerun-if-changed={}", path.display());
        match check(path) {
            Ok(nvcc) => return Ok(nvcc),
            Err(problem) => problems.push(format!("{} {problem}", path.display())),
        }
    }
    if problems.is_empty() {
        return Err(format!("{label} has none"));
    }
    Err(format!("{label}: {}", problems.join(", ")))
}

/// Runs `nvcc --version`, and sees to the host compiler that nvcc preprocesses with.
fn check(path: &Path) -> Result<Nvcc, String> {
    let output = Command::new(path).arg("--version").output();
    let output = output.map_err(|e| format!("does not run ({e})"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // "Cuda compilation tools, release 13.0, V13.0.88"
    let version = text
        .split_once(", V")
        .and_then(|(_, rest)| rest.split_whitespace().next());
    let version = version.ok_or("does not tell its version")?.to_owned();
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
    let (major, minor) = match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor),
        _ => return Err(format!("has the version {version}, which is not understood")),
    };
    if (major, minor) < WANTED || major > WANTED.0 {
        return Err(format!("is {version}, and 13.x is wanted, best 13.0"));
    }
    if watched("NVCC_CCBIN").is_none() && programs("g++").is_empty() {
        return Err(
            "needs g++, which is not on PATH (apt-get install g++; $NVCC_CCBIN names another)".into(),
        );
    }
    if (major, minor) > WANTED {
        println!(
            "cargo::warning={} is {version}: GPUs other than 8.x and 9.0 then need a driver newer than CUDA 13.0's",
            path.display()
        );
    }
    Ok(Nvcc {
        path: path.to_owned(),
        text,
        version,
    })
}

/// The program's own path, or all of that name on PATH.
fn programs(name: &str) -> Vec<PathBuf> {
    if name.contains('/') {
        return vec![PathBuf::from(name)];
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join(name));
    found.filter(|path| path.is_file()).collect()
}

// ---- Compiling ----

/// The table of all kernels. Ends the build if one does not compile.
fn compile_all(nvcc: &Nvcc) -> String {
    // For the tests: what disassembles the kernels lies beside it.
    println!("cargo::rustc-env=ROPEWAY_NVCC={}", nvcc.path.display());
    let sources = sources();
    // Line information holds the sources' full paths.
    let mut common = vec![nvcc.text.clone(), root().display().to_string()];
    // nvcc reads flags from these as well.
    for name in ["NVCC_CCBIN", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"] {
        common.push(watched(name).unwrap_or_default());
    }
    for header in files(Path::new("cuda"), &["h", "cuh"]) {
        common.push(header.display().to_string());
        common.push(read(&header));
    }
    let cache = target_folder().join("ropeway-cuda");

    let queue = Mutex::new(sources.iter().enumerate());
    let results = Mutex::new(Vec::new());
    let jobs = variable("NUM_JOBS").and_then(|n| n.parse().ok()).unwrap_or(1);
    thread::scope(|scope| {
        for _ in 0..jobs.min(sources.len()) {
            scope.spawn(|| {
                while let Some((index, source)) = next(&queue) {
                    let kernel = compile(nvcc, source, &common, &cache);
                    results.lock().expect("no thread panics").push((index, kernel));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("no thread panics");
    results.sort_by_key(|(index, _)| *index);

    let mut modules = String::new();
    let mut failed = Vec::new();
    for (index, kernel) in results {
        let source = &sources[index];
        match kernel {
            Ok(kernel) => modules += &module(source, &kernel),
            Err(problem) => failed.push(problem),
        }
    }
    if !failed.is_empty() {
        fail(&failed.join("\n"));
    }
    format!(
        "Kernels {{\n    compiler: Ok({:?}),\n    modules: &[\n{modules}    ],\n}}\n",
        format!("nvcc {}", nvcc.version)
    )
}

/// The lock is held no longer than this call.
fn next<T>(queue: &Mutex<impl Iterator<Item = T>>) -> Option<T> {
    queue.lock().expect("no thread panics").next()
}

/// From the cache, or from nvcc.
fn compile(nvcc: &Nvcc, source: &Source, common: &[String], cache: &Path) -> Result<Kernel, String> {
    let mut arguments: Vec<&OsStr> = FLAGS.iter().map(OsStr::new).collect();
    arguments.extend(["-gencode", source.target().gencode].map(OsStr::new));
    arguments.push(source.path.as_os_str());

    let mut key = Fnv::new();
    arguments
        .iter()
        .for_each(|argument| key.add(argument.as_encoded_bytes()));
    common.iter().for_each(|part| key.add(part.as_bytes()));
    key.add(read(&source.path).as_bytes());
    let folder = cache.join(format!("{:032x}", key.0));
    let (fatbin, log) = (folder.join("fatbin"), folder.join("log"));
    if let (Ok(fatbin), Ok(log)) = (fs::read(&fatbin), fs::read_to_string(&log)) {
        return Ok(Kernel { fatbin, log });
    }

    // Made aside, so that what has the name is whole; another build may be at the same kernel.
    let aside = cache.join(format!("{:032x}.{}", key.0, std::process::id()));
    fs::create_dir_all(&aside).unwrap_or_else(|e| fail(&format!("{}: {e}", aside.display())));
    let mut command = Command::new(&nvcc.path);
    command.args(&arguments).arg("-o").arg(aside.join("fatbin"));
    let shown = format!("{command:?}").replace('"', "");
    let result = run(&mut command).and_then(|log| match spills(&log) {
        Some(spilled) => Err(format!("{log}\n{spilled}")),
        None => Ok(log),
    });
    let kernel = result.and_then(|log| {
        write(&aside.join("log"), log.as_bytes());
        let fatbin = fs::read(aside.join("fatbin")).map_err(|e| format!("nvcc wrote no fatbin: {e}"))?;
        // It fails where another build was faster; that one's is the same.
        let _ = fs::rename(&aside, &folder);
        Ok(Kernel { fatbin, log })
    });
    let _ = fs::remove_dir_all(&aside);
    kernel.map_err(|problem| {
        format!(
            "{} does not compile\n{problem}\nthe command was: {shown}",
            source.path.display()
        )
    })
}

/// What the command printed, as `Err` if it failed.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.current_dir(root()).output().map_err(|e| e.to_string())?;
    let mut log = String::new();
    for stream in [&output.stdout, &output.stderr] {
        for line in String::from_utf8_lossy(stream).lines() {
            // The one line that is another each time.
            if !line.contains("Compile time") {
                log += line;
                log.push('\n');
            }
        }
    }
    if output.status.success() {
        Ok(log)
    } else {
        Err(log)
    }
}

/// What is wrong if ptxas put registers into memory.
fn spills(log: &str) -> Option<String> {
    let mut function = "";
    for line in log.lines() {
        if let Some(entry) = line.split("Compiling entry function ").nth(1) {
            function = entry;
        }
        // "80 bytes stack frame, 156 bytes spill stores, 100 bytes spill loads"
        let properties = line.trim().split(", ").skip(1);
        let spilled = line.contains("bytes stack frame")
            && properties
                .filter(|part| part.contains("spill"))
                .any(|part| !part.starts_with("0 "));
        if spilled {
            return Some(format!(
                "{function}: registers are spilled to memory, which no kernel here may do"
            ));
        }
    }
    None
}

/// One entry of the table, with its files in `OUT_DIR`: what the cache holds may go at any time.
fn module(source: &Source, kernel: &Kernel) -> String {
    for warning in kernel.log.lines().filter(|line| line.contains("warning")) {
        println!("cargo::warning={}: {warning}", source.path.display());
    }
    let file = source.name.replace('/', "-");
    write(&out_dir().join(format!("{file}.fatbin")), &kernel.fatbin);
    write(&out_dir().join(format!("{file}.log")), kernel.log.as_bytes());
    let mut text = String::new();
    let name = &source.name;
    let architectures = source.target().architectures;
    writeln!(
        text,
        "        KernelModule {{\n            name: {name:?},\n            architectures: &{architectures:?},\n            \
         image: &Aligned(*include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{file}.fatbin\"))).0,\n            \
         log: include_str!(concat!(env!(\"OUT_DIR\"), \"/{file}.log\")),\n        }},"
    )
    .expect("a string takes all");
    text
}

fn empty(reason: &str) -> String {
    format!("Kernels {{\n    compiler: Err({reason:?}),\n    modules: &[],\n}}\n")
}

impl Source {
    fn target(&self) -> &'static Target {
        if self.name.starts_with("sm90/") {
            &SM90
        } else {
            &ANY
        }
    }
}

// ---- Files ----

fn sources() -> Vec<Source> {
    let name = |path: &Path| {
        let name = path.strip_prefix("cuda").unwrap_or(path).with_extension("");
        name.to_str()
            .map(str::to_owned)
            .unwrap_or_else(|| fail(&format!("{} is not UTF-8", path.display())))
    };
    files(Path::new("cuda"), &["cu"])
        .into_iter()
        .map(|path| Source {
            name: name(&path),
            path,
        })
        .collect()
}

/// All files under a folder with one of these extensions, in order.
fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let list =
        || -> io::Result<Vec<PathBuf>> { fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect() };
    let mut paths = list().unwrap_or_else(|e| fail(&format!("{}: {e}", folder.display())));
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            found.extend(files(&path, extensions));
        } else if path
            .extension()
            .is_some_and(|e| extensions.iter().any(|wanted| e == *wanted))
        {
            found.push(path);
        }
    }
    found
}

/// The target folder, which all profiles share: cargo marks it. Without a mark (a folder that was
/// there before cargo) what holds the profile's folder: `OUT_DIR` is `PROFILE/build/ropeway-HASH/out`.
fn target_folder() -> PathBuf {
    let out = out_dir();
    let marked = out
        .ancestors()
        .skip(3)
        .take(4)
        .find(|folder| folder.join("CACHEDIR.TAG").is_file());
    marked.or(out.ancestors().nth(4)).unwrap_or(&out).to_owned()
}

fn out_dir() -> PathBuf {
    PathBuf::from(variable("OUT_DIR").expect("cargo sets OUT_DIR"))
}

fn root() -> PathBuf {
    PathBuf::from(variable("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| fail(&format!("{}: {e}", path.display())))
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap_or_else(|e| fail(&format!("{}: {e}", path.display())));
}

/// A variable that is set to something.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The same, and the build is made anew when it changes.
fn watched(name: &str) -> Option<String> {
    println!("cargo::rerun-if-env-changed={name}");
    variable(name)
}

fn fail(problem: &str) -> ! {
    problem.lines().for_each(|line| println!("cargo::error={line}"));
    exit(1)
}

/// FNV-1a over 128 bits. The cache is the developer's own and nobody gains by a collision in it, so
/// chance is all there is to guard against, and 128 bits are plenty; std's hasher has 64.
struct Fnv(u128);

impl Fnv {
    fn new() -> Fnv {
        Fnv(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    /// A part, ended by its length, so that parts do not run into each other.
    fn add(&mut self, part: &[u8]) {
        for &byte in part.iter().chain(&(part.len() as u64).to_le_bytes()) {
            self.0 = (self.0 ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
}
