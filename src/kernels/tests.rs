//! Gates on what the compiler made of `cuda/`: without a GPU these are what can be known of a kernel.
//! Skipped, and said so, where there was no nvcc; with `ROPEWAY_CUDA=require` that is a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Once;

use super::{KernelModule, Kernels, kernels};
use crate::kernels::params::{
    AttentionParams, AttentionSm90Params, DownGemmParams, EmbedParams, GemmParams, GemmSm90Params,
    HEADER_FNV1A, LayerNormParams, LoraDownParams, NormGemmParams, PoolParams,
};
use gate::Gate;

mod gate;
mod protocol;
mod ring;
mod sass;

/// The size of a parameter struct by its name in the kernel's signature.
fn size_of_params(name: &str) -> usize {
    match name {
        "AttentionParams" => size_of::<AttentionParams>(),
        "AttentionSm90Params" => size_of::<AttentionSm90Params>(),
        "EmbedParams" => size_of::<EmbedParams>(),
        "GemmParams" => size_of::<GemmParams>(),
        "GemmSm90Params" => size_of::<GemmSm90Params>(),
        "LayerNormParams" => size_of::<LayerNormParams>(),
        "LoraDownParams" => size_of::<LoraDownParams>(),
        "NormGemmParams" => size_of::<NormGemmParams>(),
        "DownGemmParams" => size_of::<DownGemmParams>(),
        "PoolParams" => size_of::<PoolParams>(),
        _ => panic!("{name} is not in this test's list of parameter structs"),
    }
}

/// The kernels, unless there are none to test.
fn embedded() -> &'static [KernelModule] {
    if let Err(reason) = kernels().compiler {
        let required = std::env::var("ROPEWAY_CUDA").is_ok_and(|value| value == "require");
        assert!(
            !required,
            "ROPEWAY_CUDA=require, and this build has no kernels: {reason}"
        );
        // Once, and not by eprintln: that is shown for failing tests alone.
        static SAID: Once = Once::new();
        let line = format!("\nSKIPPED: no GPU kernels in this build: {reason}; tools/setup gets nvcc\n");
        SAID.call_once(|| std::io::stderr().write_all(line.as_bytes()).unwrap_or_default());
    }
    kernels().modules
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn source(module: &KernelModule) -> String {
    read(&format!("cuda/{}.cu", module.name))
}

/// The entries of a source: name, and the name of its parameter struct.
fn entries(source: &str) -> Vec<(&str, &str)> {
    let parts = source.split("extern \"C\" __global__").skip(1);
    parts
        .map(|part| {
            let (head, params) = part
                .split_once("(const __grid_constant__ ")
                .expect("an entry takes one struct, `const __grid_constant__`");
            let name = head.rsplit([' ', '\n']).next().unwrap_or_default();
            (name, params.split(' ').next().unwrap_or_default())
        })
        .collect()
}

/// The labels of the comment at the head of a source, in order.
const CONTRACT: [&str; 6] = [
    "computes",
    "grid",
    "block and shared memory",
    "bound by",
    "requires",
    "gates",
];

/// What ptxas says of one kernel on one architecture.
#[derive(Debug, Default)]
struct Figures {
    registers: usize,
    stack: usize,
    spills: usize,
    shared: usize,
}

/// By entry and architecture.
fn figures(log: &str) -> BTreeMap<(&str, &str), Figures> {
    let mut all: BTreeMap<_, Figures> = BTreeMap::new();
    let mut current = None;
    for line in log.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let mut names = rest.split('\'');
            current = Some((names.next().unwrap_or_default(), names.nth(1).unwrap_or_default()));
        }
        let Some(key) = current else { continue };
        let figures = all.entry(key).or_default();
        for part in line.trim_start_matches("ptxas info    : ").trim().split(", ") {
            let part = part.trim_start_matches("Used ");
            let Some((number, what)) = part.split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse::<usize>() else {
                continue;
            };
            match what {
                "registers" => figures.registers = number,
                "bytes stack frame" => figures.stack = number,
                "bytes spill stores" | "bytes spill loads" => figures.spills += number,
                "bytes smem" => figures.shared = number,
                _ => {}
            }
        }
    }
    all
}

/// One image in a fatbin.
struct Image<'a> {
    /// `sm_90a` for machine code, `compute_90a` for PTX.
    architecture: String,
    bytes: &'a [u8],
}

/// The images in a fatbin: a header of 16 bytes, then each with a header of its own.
fn images(fatbin: &[u8]) -> Vec<Image<'_>> {
    let u16_at = |at: usize| usize::from(u16::from_le_bytes(fatbin[at..at + 2].try_into().unwrap()));
    let u32_at = |at: usize| u32::from_le_bytes(fatbin[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(fatbin[at..at + 8].try_into().unwrap());
    assert_eq!(u32_at(0), 0xba55_ed50, "a fatbin begins with its magic number");
    let mut at = u16_at(6);
    assert_eq!(at + u64_at(8) as usize, fatbin.len());
    let mut found = Vec::new();
    while at < fatbin.len() {
        let (kind, header, length) = (u16_at(at), u32_at(at + 4) as usize, u64_at(at + 8) as usize);
        let specific = if u64_at(at + 40) & 0x10_0000 != 0 { "a" } else { "" };
        let kind = match kind {
            1 => "compute",
            2 => "sm",
            other => panic!("an image of the unknown kind {other}"),
        };
        let bytes = &fatbin[at + header..at + header + length];
        assert_eq!(
            bytes.starts_with(b"\x7fELF"),
            kind == "sm",
            "images are not compressed"
        );
        found.push(Image {
            architecture: format!("{kind}_{}{specific}", u32_at(at + 28)),
            bytes,
        });
        at += header + length;
    }
    found
}

/// The PTX of a module, for each architecture that it has PTX for.
fn ptx(module: &KernelModule) -> Vec<&str> {
    let images = images(module.image).into_iter();
    let ptx = images.filter(|image| image.architecture.starts_with("compute"));
    let texts: Vec<_> = ptx
        .map(|image| {
            let bytes = image.bytes;
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            std::str::from_utf8(&bytes[..end]).expect("PTX is text")
        })
        .collect();
    assert!(!texts.is_empty(), "there is PTX in every module");
    texts
}

#[test]
fn every_source_is_embedded() {
    let modules = embedded();
    if modules.is_empty() {
        return;
    }
    let mut wanted = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda")];
    let root = folders[0].clone();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "cu") {
                let name = path.strip_prefix(&root).unwrap().with_extension("");
                wanted.insert(name.to_str().unwrap().to_owned());
            }
        }
    }
    let found: BTreeSet<String> = modules.iter().map(|module| module.name.to_owned()).collect();
    assert_eq!(found, wanted);
}

#[test]
fn every_architecture_holds_every_entry() {
    for module in embedded() {
        assert_eq!(module.image.as_ptr() as usize % 16, 0, "{}", module.name);
        let images = images(module.image);
        let found: Vec<&str> = images.iter().map(|image| image.architecture.as_str()).collect();
        assert_eq!(found, module.architectures, "{}", module.name);
        let source = source(module);
        let entries = entries(&source);
        assert!(!entries.is_empty(), "{} has no entries", module.name);
        for image in &images {
            for (entry, _) in &entries {
                let symbol = match image.architecture.starts_with("sm") {
                    true => format!(".text.{entry}\0"),
                    false => format!(".visible .entry {entry}("),
                };
                let there = image
                    .bytes
                    .windows(symbol.len())
                    .any(|window| window == symbol.as_bytes());
                assert!(
                    there,
                    "{entry} is not in the {} image of {}",
                    image.architecture, module.name
                );
            }
        }
    }
}

#[test]
fn parameter_structs_have_the_size_that_the_ptx_takes() {
    for module in embedded() {
        let source = source(module);
        for ((entry, params), ptx) in entries(&source)
            .into_iter()
            .flat_map(|entry| ptx(module).into_iter().map(move |ptx| (entry, ptx)))
        {
            // Maps are aligned to 64 bytes.
            let wanted = |align| {
                format!(
                    ".param .align {align} .b8 {entry}_param_0[{}]",
                    size_of_params(params)
                )
            };
            assert!(
                [8, 64].iter().any(|align| ptx.contains(&wanted(align))),
                "the PTX of {entry} does not have `{}`",
                wanted(&8)
            );
            let second = format!("{entry}_param_1");
            assert!(!ptx.contains(&second), "{entry} takes more than one parameter");
        }
    }
}

#[test]
fn every_source_opens_with_its_contract() {
    for module in embedded() {
        let source = source(module);
        let head = source.lines().map_while(|line| line.strip_prefix("// "));
        // A line that goes on with the one above it is indented.
        let labelled = head.filter(|line| !line.starts_with(' '));
        let mut labels: Vec<&str> = labelled
            .map(|line| line.split(':').next().unwrap_or_default())
            .map(|label| {
                if label.starts_with("gates ") {
                    "gates"
                } else {
                    label
                }
            })
            .collect();
        labels.dedup();
        assert_eq!(labels, CONTRACT, "{}", module.name);
        for (number, line) in source.lines().enumerate() {
            let columns = line.chars().count();
            assert!(
                columns <= 120,
                "{} line {}: {columns} columns",
                module.name,
                number + 1
            );
        }
    }
}

#[test]
fn kernels_keep_to_their_registers_and_use_no_local_memory() {
    for module in embedded() {
        let source = source(module);
        let gate = Gate::of(&source);
        let figures = figures(module.log);
        for (entry, _) in entries(&source) {
            for architecture in module.architectures.iter().filter(|a| a.starts_with("sm_")) {
                let of = figures.get(&(entry, architecture));
                let of = of.unwrap_or_else(|| panic!("ptxas says nothing of {entry} for {architecture}"));
                let limits = gate.limits(entry, architecture);
                for (name, figure) in [
                    ("registers", of.registers),
                    ("stack", of.stack),
                    ("static shared", of.shared),
                ] {
                    let limit = limits
                        .get(name)
                        .unwrap_or_else(|| panic!("{entry}: no limit on {name}"));
                    assert!(
                        figure as f64 <= *limit,
                        "{entry} on {architecture}: {name} {figure}"
                    );
                }
                // C7510 to C7520: products of warpgroups are serialised.
                assert!(!module.log.contains("(C75"), "{}", module.log);
                assert!(
                    of.registers > 0 && of.spills == 0,
                    "{entry} on {architecture}: {of:?}"
                );
            }
        }
        // `depot` is what PTX calls a kernel's local memory.
        assert!(
            !ptx(module).iter().any(|ptx| ptx.contains(".local")),
            "{} declares local memory",
            module.name
        );
    }
}

#[test]
fn a_log_is_read_as_ptxas_writes_it() {
    let log = "ptxas info    : 0 bytes gmem\n\
               ptxas info    : Compiling entry function 'embed_f16' for 'sm_80'\n\
               ptxas info    : Function properties for embed_f16\n    \
               80 bytes stack frame, 156 bytes spill stores, 100 bytes spill loads\n\
               ptxas info    : Used 64 registers, used 1 barriers, 80 bytes cumulative stack size, 512 bytes smem, 496 bytes cmem[0]\n";
    let figures = figures(log);
    let of = &figures[&("embed_f16", "sm_80")];
    assert_eq!((of.registers, of.stack, of.spills, of.shared), (64, 80, 256, 512));
}

const ANY: &[&str] = &["sm_80", "compute_80", "sm_90", "compute_90"];
const HOPPER: &[&str] = &["sm_90a", "compute_90a"];

fn module(architectures: &'static [&'static str]) -> KernelModule {
    KernelModule {
        name: "some",
        architectures,
        image: &[],
        log: "",
    }
}

#[test]
fn a_device_runs_the_machine_code_or_ptx_that_fits_it() {
    // Compute capability, what it runs of modules for all and for Hopper, of PTX alone, of machine code alone.
    let table = [
        ((7, 0), None, None, None, None),
        ((7, 5), None, None, None, None),
        ((8, 0), Some("sm_80"), None, Some("compute_80"), Some("sm_80")),
        ((8, 6), Some("sm_80"), None, Some("compute_80"), Some("sm_86")),
        ((8, 7), Some("sm_80"), None, Some("compute_80"), Some("sm_86")),
        ((8, 9), Some("sm_80"), None, Some("compute_80"), Some("sm_86")),
        ((9, 0), Some("sm_90"), Some("sm_90a"), Some("compute_90"), None),
        ((10, 0), Some("compute_90"), None, Some("compute_90"), None),
        ((10, 3), Some("compute_90"), None, Some("compute_90"), None),
        ((11, 0), Some("compute_90"), None, Some("compute_90"), None),
        (
            (12, 0),
            Some("compute_90"),
            None,
            Some("compute_90"),
            Some("sm_120"),
        ),
        (
            (12, 1),
            Some("compute_90"),
            None,
            Some("compute_90"),
            Some("sm_120"),
        ),
    ];
    for (capability, any, hopper, ptx, machine_code) in table {
        assert_eq!(module(ANY).fit(capability), any, "{capability:?}");
        assert_eq!(module(HOPPER).fit(capability), hopper, "{capability:?}");
        let ptx_alone = module(&["compute_90", "compute_80"]);
        assert_eq!(ptx_alone.fit(capability), ptx, "{capability:?}");
        let code_alone = module(&["sm_80", "sm_86", "sm_120"]);
        assert_eq!(code_alone.fit(capability), machine_code, "{capability:?}");
    }
    // PTX for one GPU serves where its machine code is left out, and no other GPU.
    assert_eq!(module(&["compute_90a"]).fit((9, 0)), Some("compute_90a"));
    assert_eq!(module(&["compute_90a"]).fit((10, 0)), None);
}

/// What `ROPEWAY_CUDA_ARCHS=sm_100,sm_120` adds is taken by the GPUs of these major versions alone.
#[test]
fn machine_code_for_later_gpus_goes_before_ptx() {
    let more = module(&["sm_80", "compute_80", "sm_90", "sm_100", "sm_120", "compute_90"]);
    for (capability, image) in [
        ((8, 9), "sm_80"),
        ((9, 0), "sm_90"),
        ((10, 0), "sm_100"),
        ((10, 3), "sm_100"),
        ((11, 0), "compute_90"),
        ((12, 0), "sm_120"),
        ((12, 1), "sm_120"),
        ((13, 0), "compute_90"),
    ] {
        assert_eq!(more.fit(capability), Some(image), "{capability:?}");
    }
}

#[test]
fn a_device_is_served_by_all_modules_that_are_not_for_another_alone() {
    static MODULES: [KernelModule; 2] = [
        KernelModule {
            name: "gemm",
            architectures: ANY,
            image: &[],
            log: "",
        },
        KernelModule {
            name: "sm90/gemm",
            architectures: HOPPER,
            image: &[],
            log: "",
        },
    ];
    let build = Kernels {
        compiler: Ok("nvcc 13.0"),
        cuda: (13, 0),
        modules: &MODULES,
    };
    for capability in [(8, 0), (8, 9), (9, 0), (10, 0), (12, 0)] {
        assert_eq!(build.check(capability, (13, 0)), Ok(()));
    }
    assert_eq!(
        build.check((7, 5), (13, 0)).unwrap_err(),
        "compute capability 7.5, and the kernels of this build are for sm_80, compute_80, sm_90, compute_90"
    );
    let none = Kernels {
        compiler: Err("nvcc was not found"),
        cuda: (0, 0),
        modules: &[],
    };
    assert_eq!(
        none.check((9, 0), (13, 0)).unwrap_err(),
        "this build has no GPU kernels: nvcc was not found"
    );

    // Which driver: by the major version for machine code, by the whole of it for PTX.
    let by = |cuda| Kernels { cuda, ..build };
    let (with_machine_code, with_ptx) = ((9, 0), (12, 0));
    for (cuda, capability, oldest) in [
        ((12, 4), with_machine_code, (12, 0)),
        ((12, 4), with_ptx, (12, 4)),
        ((12, 9), with_machine_code, (12, 0)),
        ((13, 0), with_machine_code, (13, 0)),
        ((13, 2), with_machine_code, (13, 0)),
        ((13, 2), with_ptx, (13, 2)),
    ] {
        let check = |driver| by(cuda).check(capability, driver);
        assert_eq!(check(oldest), Ok(()), "{cuda:?} {capability:?}");
        assert_eq!(check((14, 0)), Ok(()));
        let older = if oldest.1 == 0 {
            (oldest.0 - 1, 9)
        } else {
            (oldest.0, oldest.1 - 1)
        };
        let problem = check(older).unwrap_err();
        let wanted = format!("need {}.{}: install NVIDIA's driver ", oldest.0, oldest.1);
        assert!(problem.contains(&wanted), "{problem}");
    }
    let problem = by((13, 0)).check((9, 0), (12, 4)).unwrap_err();
    assert!(
        problem.starts_with("the driver is for CUDA 12.4, and the kernels of this build (sm_90) need 13.0")
            && problem.contains("580"),
        "{problem}"
    );
}

#[test]
fn the_table_says_what_compiled_it() {
    let Ok(compiler) = kernels().compiler else {
        assert_eq!(kernels().cuda, (0, 0));
        return;
    };
    let (major, minor) = kernels().cuda;
    assert!(
        compiler.starts_with(&format!("nvcc {major}.{minor}.")),
        "{compiler}"
    );
}

#[test]
fn params_are_generated_from_this_header() {
    let header = read("cuda/params.h");
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    assert_eq!(
        header.bytes().fold(0xcbf2_9ce4_8422_2325, step),
        HEADER_FNV1A,
        "src/kernels/params.rs is stale: run tools/bindgen/run and commit what it writes"
    );
}
