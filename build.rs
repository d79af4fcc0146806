//! Compiles the kernels under `cuda/` with nvcc and writes the kernel table that `src/kernels/mod.rs` includes. Also
//! passes on the target triple, which `ropeway devices` prints.
//!
//! `ROPEWAY_CUDA` decides what happens without nvcc: `auto` (the default) warns and writes an empty table, `require`
//! fails, `off` does not look for nvcc. `ROPEWAY_CUDA_ARCHS` names more architectures to make machine code for. Each `.cu`
//! file becomes one fatbin. Fatbins are cached in `target/ropeway-cuda/` by a hash of all their inputs, because every
//! profile has an `OUT_DIR` of its own.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

/// Where nvcc is searched, in this order. `tools/setup` installs it in `.cuda`, which comes before PATH: it was made for
/// this folder, and a build that depends on PATH is stale wherever PATH differs.
const PLACES: [&str; 6] = [
    "$NVCC",
    "$CUDA_HOME",
    "$CUDA_PATH",
    ".cuda",
    "PATH",
    "/usr/local/cuda",
];

/// The oldest CUDA whose compiler is taken. What driver a build needs follows from the compiler (`Kernels::check` in
/// `src/kernels/mod.rs`): an older one makes kernels for older drivers, and slower ones.
const OLDEST: (u32, u32) = (12, 4);

/// The last major version that is known. The next may drop what the kernels need.
const LAST_MAJOR: u32 = 13;

/// GPUs of compute capability 8.x and 9.0 have machine code; the driver compiles the PTX for later GPUs at load time.
/// From 9.0 on kernels have instructions for programmatic dependent launch, and so PTX of their own.
const ANY: &[Target] = &[
    Target {
        machine_code: &["sm_80"],
        ptx: "compute_80",
    },
    Target {
        machine_code: &["sm_90"],
        ptx: "compute_90",
    },
];

/// Names later architectures than those of [`ANY`], as `sm_100`, whose drivers then compile nothing when they load a kernel. Not the
/// default, for the time and the size that it takes. For `sm_120` lora_down spills registers, and so is refused.
const MORE: &str = "ROPEWAY_CUDA_ARCHS";

/// Kernels under `cuda/sm90/`, which use wgmma and TMA. This PTX runs on no other GPU.
const SM90: &[Target] = &[Target {
    machine_code: &["sm_90a"],
    ptx: "compute_90a",
}];

/// Without compression, so that tests and software devices can read the PTX in place.
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
    machine_code: &'static [&'static str],
    /// What the machine code is made from, too: compiled from PTX for later GPUs, some kernels spill registers there.
    ptx: &'static str,
}

/// A usable compiler.
struct Nvcc {
    path: PathBuf,
    /// Output of `--version`.
    text: String,
    /// Short form of the version: `13.0.88`.
    version: String,
    /// Its major and minor part.
    cuda: (u32, u32),
    /// Arguments that name the host compiler and its flags.
    host: Vec<OsString>,
}

/// A `.cu` file.
struct Source {
    /// Relative to the package's root, as nvcc gets it: `cuda/sm90/gemm.cu`.
    path: PathBuf,
    /// Module name: `sm90/gemm`.
    name: String,
}

/// The result of compiling a source.
struct Kernel {
    fatbin: Vec<u8>,
    /// Output of nvcc and ptxas: registers, shared memory, spills.
    log: String,
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!(
        "cargo::rustc-env=ROPEWAY_TARGET={}",
        variable("TARGET").unwrap_or_default()
    );
    // Watch the folder, so that added and removed sources are noticed.
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

// ---- The compilers ----

/// The first usable nvcc; otherwise the places that were searched and what to do about it.
fn find_nvcc() -> Result<Nvcc, String> {
    let mut searched = Vec::new();
    for label in PLACES {
        let paths = match (label, label.strip_prefix('$')) {
            ("$NVCC", _) => watched("NVCC").map(|nvcc| programs(&nvcc)),
            // PATH differs between terminals, so it is watched only if the search comes this far.
            ("PATH", _) => watched("PATH").map(|_| programs("nvcc")),
            (_, Some(variable)) => watched(variable).map(|folder| vec![Path::new(&folder).join("bin/nvcc")]),
            (folder, None) => Some(vec![root().join(folder).join("bin/nvcc")]),
        };
        // A variable that is not set is no place.
        let Some(paths) = paths else { continue };
        match first_usable(label, &paths) {
            Ok(nvcc) => return Ok(nvcc),
            Err(problem) => searched.push(problem),
        }
    }
    Err(format!(
        "no nvcc of CUDA {}.{} to {LAST_MAJOR}.x was found: {}. tools/setup in the repository gets one without root; $NVCC names one that is \
         elsewhere; ROPEWAY_CUDA=off builds without and says nothing",
        OLDEST.0,
        OLDEST.1,
        searched.join("; ")
    ))
}

fn first_usable(label: &str, paths: &[PathBuf]) -> Result<Nvcc, String> {
    let mut problems = Vec::new();
    for path in paths.iter().filter(|path| path.is_file()) {
        // Notice an upgrade in place.
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

/// Checks the version that `nvcc --version` prints, and finds the host compiler.
fn check(path: &Path) -> Result<Nvcc, String> {
    let output = Command::new(path).arg("--version").output();
    let output = output.map_err(|e| format!("does not run ({e})"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // "Cuda compilation tools, release 13.0, V13.0.88"
    let version = text
        .split_once(", V")
        .and_then(|(_, rest)| rest.split_whitespace().next());
    let version = version.ok_or("does not tell its version")?.to_owned();
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        return Err(format!("has the version {version}, which is not understood"));
    };
    let cuda = (major, minor);
    if cuda < OLDEST || major > LAST_MAJOR {
        return Err(format!(
            "is {version}, and {}.{} to {LAST_MAJOR}.x is wanted, best 13.0",
            OLDEST.0, OLDEST.1
        ));
    }
    Ok(Nvcc {
        cuda,
        path: path.to_owned(),
        text,
        version,
        host: host_compiler()?,
    })
}

/// nvcc's arguments for the C++ compiler that it preprocesses with. `cc` chooses it for the target, whose data types the
/// device code shares, and takes its flags from `CXXFLAGS`.
fn host_compiler() -> Result<Vec<OsString>, String> {
    // nvcc reads this variable itself.
    if watched("NVCC_CCBIN").is_some() {
        return Ok(Vec::new());
    }
    let mut build = cc::Build::new();
    // No flags but the user's: the others are for code generation, and nvcc has warnings of its own.
    build.cpp(true).no_default_flags(true).inherit_rustflags(false);
    build.warnings(false).extra_warnings(false).cargo_warnings(false);
    let tool = build
        .try_get_compiler()
        .map_err(|e| format!("needs a C++ compiler: {e}"))?;
    let path = tool.path();
    // `cc` names a compiler even if there is none.
    Command::new(path).arg("--version").output().map_err(|e| {
        format!(
            "needs a C++ compiler, and {} does not run: {e} (apt-get install g++; $CXX or $NVCC_CCBIN names another)",
            path.display()
        )
    })?;
    let mut arguments = vec!["-ccbin".into(), path.into()];
    let command = tool.to_command();
    // With a wrapper such as ccache, the compiler's path is the first argument.
    let flags = command.get_args().skip_while(|argument| *argument == path);
    for flag in flags {
        // nvcc splits the value at commas.
        let flag = flag.to_string_lossy().replace(',', "\\,");
        arguments.extend(["-Xcompiler".into(), flag.into()]);
    }
    Ok(arguments)
}

/// The path itself if `name` is one; otherwise every program of this name on PATH.
fn programs(name: &str) -> Vec<PathBuf> {
    if name.contains('/') {
        return vec![PathBuf::from(name)];
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join(name));
    found.filter(|path| path.is_file()).collect()
}

/// The architectures that [`MORE`] names, in ascending order.
fn more_architectures(nvcc: &Nvcc) -> Vec<String> {
    let Some(list) = watched(MORE) else {
        return Vec::new();
    };
    let output = Command::new(&nvcc.path).arg("--list-gpu-code").output();
    let known = output
        .map_err(|e| e.to_string())
        .unwrap_or_else(|e| fail(&format!("{}: {e}", nvcc.path.display())));
    let known = String::from_utf8_lossy(&known.stdout).into_owned();
    let mut more: Vec<(u32, String)> = Vec::new();
    for name in list
        .split(',')
        .map(str::trim)
        .filter(|name| !ANY.iter().any(|target| target.machine_code.contains(name)))
    {
        let number = name.strip_prefix("sm_").and_then(|number| number.parse().ok());
        match number.filter(|_| known.lines().any(|code| code == name)) {
            Some(number) => more.push((number, name.to_owned())),
            None => fail(&format!(
                "{MORE} names `{name}`, and nvcc {} compiles for {}",
                nvcc.version,
                known.split_whitespace().collect::<Vec<_>>().join(", ")
            )),
        }
    }
    more.sort();
    more.dedup();
    more.into_iter().map(|(_, name)| name).collect()
}

// ---- Compiling ----

/// The table of all kernels. Fails the build if one does not compile.
fn compile_all(nvcc: &Nvcc) -> String {
    // For the tests, which run the disassembler in the same folder.
    println!("cargo::rustc-env=ROPEWAY_NVCC={}", nvcc.path.display());
    let sources = sources();
    // The root, because line information holds the sources' full paths.
    let mut common = vec![nvcc.text.clone(), root().display().to_string()];
    // nvcc reads arguments from these variables.
    for name in ["NVCC_CCBIN", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"] {
        common.push(watched(name).unwrap_or_default());
    }
    for header in files(Path::new("cuda"), &["h", "cuh"]) {
        common.push(header.display().to_string());
        common.push(read(&header));
    }
    let cache = target_folder().join("ropeway-cuda");
    let more = more_architectures(nvcc);

    let jobs: usize = variable("NUM_JOBS").and_then(|n| n.parse().ok()).unwrap_or(1);
    let next = AtomicUsize::new(0);
    let compile_until_done = || {
        let mut results = Vec::new();
        while let Some(source) = sources.get(next.fetch_add(1, Relaxed)) {
            results.push((source, compile(nvcc, source, &more, &common, &cache)));
        }
        results
    };
    let mut results: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.min(sources.len()))
            .map(|_| scope.spawn(compile_until_done))
            .collect();
        let results = workers
            .into_iter()
            .map(|worker| worker.join().expect("no thread panics"));
        results.flatten().collect()
    });
    results.sort_by_key(|(source, _)| &source.path);

    let mut modules = String::new();
    let mut failed = Vec::new();
    for (source, kernel) in results {
        match kernel {
            Ok(kernel) => modules += &module(source, &more, &kernel),
            Err(problem) => failed.push(problem),
        }
    }
    if !failed.is_empty() {
        fail(&failed.join("\n"));
    }
    format!(
        "Kernels {{\n    compiler: Ok({:?}),\n    cuda: {:?},\n    modules: &[\n{modules}    ],\n}}\n",
        format!("nvcc {}", nvcc.version),
        nvcc.cuda
    )
}

/// Takes the kernel from the cache, or compiles it.
fn compile(
    nvcc: &Nvcc,
    source: &Source,
    more: &[String],
    common: &[String],
    cache: &Path,
) -> Result<Kernel, String> {
    let mut arguments: Vec<&OsStr> = FLAGS.iter().map(OsStr::new).collect();
    arguments.extend(nvcc.host.iter().map(OsString::as_os_str));
    let gencode = source.gencode(more);
    arguments.extend(gencode.iter().flat_map(|code| ["-gencode", code].map(OsStr::new)));
    arguments.push(source.path.as_os_str());

    let mut key = DefaultHasher::new();
    (&arguments, common, read(&source.path)).hash(&mut key);
    let key = key.finish();
    let folder = cache.join(format!("{key:016x}"));
    let (fatbin, log) = (folder.join("fatbin"), folder.join("log"));
    if let (Ok(fatbin), Ok(log)) = (fs::read(&fatbin), fs::read_to_string(&log)) {
        return Ok(Kernel { fatbin, log });
    }

    // Written to a temporary folder and renamed, so that the cache holds only complete entries; another build may compile
    // the same kernel at the same time.
    let temporary = cache.join(format!("{key:016x}.{}", std::process::id()));
    fs::create_dir_all(&temporary).unwrap_or_else(|e| fail(&format!("{}: {e}", temporary.display())));
    let mut command = Command::new(&nvcc.path);
    command.args(&arguments).arg("-o").arg(temporary.join("fatbin"));
    let shown = format!("{command:?}").replace('"', "");
    let result = run(&mut command).and_then(|log| match spills(&log) {
        Some(spilled) => Err(format!("{log}\n{spilled}")),
        None => Ok(log),
    });
    let kernel = result.and_then(|log| {
        write(&temporary.join("log"), log.as_bytes());
        let fatbin = fs::read(temporary.join("fatbin")).map_err(|e| format!("nvcc wrote no fatbin: {e}"))?;
        // Fails if another build was faster; its entry is identical.
        let _ = fs::rename(&temporary, &folder);
        Ok(Kernel { fatbin, log })
    });
    let _ = fs::remove_dir_all(&temporary);
    kernel.map_err(|problem| {
        format!(
            "{} does not compile\n{problem}\nthe command was: {shown}",
            source.path.display()
        )
    })
}

/// Output of the command; `Err` if the command failed.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.current_dir(root()).output().map_err(|e| e.to_string())?;
    let mut log = String::new();
    for stream in [&output.stdout, &output.stderr] {
        for line in String::from_utf8_lossy(stream).lines() {
            // The only line that differs between runs.
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

/// An error message if ptxas spilled registers.
fn spills(log: &str) -> Option<String> {
    let mut function = "";
    for line in log.lines() {
        if let Some(entry) = line.split("Compiling entry function ").nth(1) {
            function = entry;
        }
        // "80 bytes stack frame, 156 bytes spill stores, 100 bytes spill loads"
        if line.contains("bytes stack frame") && !line.contains(", 0 bytes spill stores, 0 bytes spill loads")
        {
            return Some(format!(
                "{function}: registers are spilled to memory, which no kernel here may do"
            ));
        }
    }
    None
}

/// One entry of the table. Its files are copied to `OUT_DIR`, because the cache may be removed at any time.
fn module(source: &Source, more: &[String], kernel: &Kernel) -> String {
    for warning in kernel.log.lines().filter(|line| line.contains("warning")) {
        println!("cargo::warning={}: {warning}", source.path.display());
    }
    let file = source.name.replace('/', "-");
    write(&out_dir().join(format!("{file}.fatbin")), &kernel.fatbin);
    write(&out_dir().join(format!("{file}.log")), kernel.log.as_bytes());
    let mut text = String::new();
    let name = &source.name;
    let architectures = source.architectures(more);
    writeln!(
        text,
        "        KernelModule {{\n            name: {name:?},\n            architectures: &{architectures:?},\n            \
         image: &Aligned(*include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{file}.fatbin\"))).0,\n            \
         log: include_str!(concat!(env!(\"OUT_DIR\"), \"/{file}.log\")),\n        }},"
    )
    .expect("writing to a string does not fail");
    text
}

fn empty(reason: &str) -> String {
    format!("Kernels {{\n    compiler: Err({reason:?}),\n    cuda: (0, 0),\n    modules: &[],\n}}\n")
}

impl Source {
    /// The architectures of its image by the PTX that is among them, in their order there. `more` is machine code from the
    /// last, and none of the business of a kernel for one GPU.
    fn targets<'a>(&self, more: &'a [String]) -> Vec<Vec<&'a str>> {
        let (targets, more) = match self.name.starts_with("sm90/") {
            true => (SM90, &[][..]),
            false => (ANY, more),
        };
        let last = targets.len() - 1;
        let codes = targets.iter().enumerate().map(|(i, target)| {
            let more = if i == last { more } else { &[] };
            let own = target.machine_code.iter().copied();
            let all = own.chain(more.iter().map(String::as_str));
            all.chain([target.ptx]).collect()
        });
        codes.collect()
    }

    /// All of them.
    fn architectures<'a>(&self, more: &'a [String]) -> Vec<&'a str> {
        self.targets(more).concat()
    }

    /// The same for nvcc.
    fn gencode(&self, more: &[String]) -> Vec<String> {
        let targets = self.targets(more);
        let gencode = targets.iter().map(|codes| {
            let ptx = codes[codes.len() - 1];
            format!("arch={ptx},code=[{}]", codes.join(","))
        });
        gencode.collect()
    }
}

// ---- Files ----

fn sources() -> Vec<Source> {
    let source = |path: PathBuf| {
        let name = path.strip_prefix("cuda").unwrap_or(&path).with_extension("");
        let name = name.to_str().map(str::to_owned);
        let name = name.unwrap_or_else(|| fail(&format!("{} is not UTF-8", path.display())));
        Source { path, name }
    };
    files(Path::new("cuda"), &["cu"])
        .into_iter()
        .map(source)
        .collect()
}

/// All files under a folder with one of these extensions, sorted.
fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let list =
        || -> io::Result<Vec<PathBuf>> { fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect() };
    let mut paths = list().unwrap_or_else(|e| fail(&format!("{}: {e}", folder.display())));
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            found.extend(files(&path, extensions));
        } else if extensions
            .iter()
            .any(|wanted| path.extension() == Some(OsStr::new(wanted)))
        {
            found.push(path);
        }
    }
    found
}

/// The target folder, which all profiles share. Cargo marks it with `CACHEDIR.TAG`, unless the folder existed before; then
/// it is the parent of the profile's folder: `OUT_DIR` is `PROFILE/build/ropeway-HASH/out`.
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

/// An environment variable that is set and not empty.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Same as [`variable`]; the build script runs again when the variable changes.
fn watched(name: &str) -> Option<String> {
    println!("cargo::rerun-if-env-changed={name}");
    variable(name)
}

fn fail(problem: &str) -> ! {
    problem.lines().for_each(|line| println!("cargo::error={line}"));
    exit(1)
}
