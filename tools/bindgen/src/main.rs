//! Writes `src/kernels/params.rs` from `cuda/params.h`; with `--check`, fails if the two do not agree.
//! Run by `tools/bindgen/run`, in the repository's root.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use bindgen::callbacks::{DeriveInfo, ParseCallbacks};

const HEADER: &str = "cuda/params.h";
const BINDINGS: &str = "src/kernels/params.rs";

/// Plain data throughout: bytemuck's derive fails to compile for a struct with implicit padding.
#[derive(Debug)]
struct Pod;

impl ParseCallbacks for Pod {
    fn add_derives(&self, _: &DeriveInfo<'_>) -> Vec<String> {
        vec!["bytemuck::Pod".into(), "bytemuck::Zeroable".into()]
    }
}

fn bindings() -> Result<String> {
    let header = fs::read(HEADER).context(HEADER)?;
    let generated = bindgen::Builder::default()
        .header(HEADER)
        .clang_args(["-x", "c", "-std=c11"])
        .allowlist_file(HEADER)
        .blocklist_item("ROPEWAY_PARAMS_H")
        .parse_callbacks(Box::new(Pod))
        .use_core()
        // Sizes and offsets, as constants that fail to compile where they differ.
        .layout_tests(true)
        .disable_header_comment()
        .generate()
        .context("bindgen")?;
    // The tests compare the header with this number, which needs no libclang.
    Ok(format!(
        "// Made from {HEADER} by tools/bindgen/run. Do not edit: change the header and run it again.\n\
         \n\
         /// The header that this was made from, as FNV-1a of its bytes.\n\
         pub const HEADER_FNV1A: u64 = {:#018x};\n\n{generated}",
        fnv1a(&header)
    ))
}

fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

fn run() -> Result<()> {
    let check = match &std::env::args().skip(1).collect::<Vec<_>>()[..] {
        [] => false,
        [flag] if flag == "--check" => true,
        other => bail!("unknown arguments {other:?}"),
    };
    let wanted = bindings()?;
    let found = fs::read_to_string(BINDINGS).unwrap_or_default();
    if wanted == found {
        println!("bindgen: {BINDINGS} is what {HEADER} says");
    } else if check {
        bail!("{BINDINGS} is stale: run tools/bindgen/run and commit what it writes");
    } else {
        fs::write(BINDINGS, wanted).context(BINDINGS)?;
        println!("bindgen: wrote {BINDINGS}");
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("bindgen: {problem:#}");
            ExitCode::FAILURE
        }
    }
}
