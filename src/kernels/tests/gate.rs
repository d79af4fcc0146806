//! What the heads of the sources promise, and how many blocks a multiprocessor then has.

use std::collections::BTreeMap;

use super::{KernelModule, embedded, entries, figures, ptx, source};
use crate::kernels::params::*;
use crate::tile::{AttentionTile, GemmTile, Sm90Tile};

/// The lines of a source's contract that begin with `// gates`: `// gates: registers <= 96, stack = 0` for all of its
/// entries; `// gates large sm_89: blocks >= 1` for those that have these words in their names, on that architecture.
/// The last line that fits decides.
pub struct Gate<'a>(Vec<Line<'a>>);

/// Words of an entry's name, and limits.
type Line<'a> = (Vec<&'a str>, Vec<(&'a str, f64)>);

impl<'a> Gate<'a> {
    pub fn of(source: &'a str) -> Gate<'a> {
        let contract = source.lines().take_while(|line| line.starts_with("//"));
        let lines = contract.filter_map(|line| line.strip_prefix("// gates"));
        let lines: Vec<_> = lines.map(Gate::line).collect();
        assert!(
            lines.first().is_some_and(|(words, _)| words.is_empty()),
            "the first of the contract's gates begins with `// gates: `"
        );
        Gate(lines)
    }

    fn line(line: &str) -> (Vec<&str>, Vec<(&str, f64)>) {
        let (words, limits) = line.split_once(": ").expect("a gate is `// gates WORDS: LIMITS`");
        let limits = limits.split(", ").map(|limit| {
            let parts = limit.split_once(" <= ").or(limit.split_once(" >= "));
            let parts = parts.or(limit.split_once(" = "));
            let (name, number) = parts.expect("a limit is `name <= N`, `name >= N` or `name = N`");
            (name, number.parse().expect("a limit is a number"))
        });
        (words.split_whitespace().collect(), limits.collect())
    }

    pub fn limits(&self, entry: &str, architecture: &str) -> BTreeMap<&'a str, f64> {
        let fits = |word: &str| word == architecture || entry.split('_').any(|part| part == word);
        let lines = self
            .0
            .iter()
            .filter(|(words, _)| words.iter().all(|word| fits(word)));
        lines.flat_map(|(_, limits)| limits).copied().collect()
    }
}

/// A multiprocessor.
struct Multiprocessor {
    name: &'static str,
    /// The one whose gates hold for it.
    gates: &'static str,
    /// The machine code that runs there.
    code: &'static str,
    shared_bytes: u32,
    threads: u32,
}

/// Those of the architectures in every build, and of those that `ROPEWAY_CUDA_ARCHS` may add.
const MULTIPROCESSORS: [Multiprocessor; 6] = [
    Multiprocessor {
        name: "sm_80",
        gates: "sm_80",
        code: "sm_80",
        shared_bytes: 164 << 10,
        threads: 2048,
    },
    Multiprocessor {
        name: "sm_89",
        gates: "sm_89",
        code: "sm_80",
        shared_bytes: 100 << 10,
        threads: 1536,
    },
    Multiprocessor {
        name: "sm_90",
        gates: "sm_90",
        code: "sm_90",
        shared_bytes: 228 << 10,
        threads: 2048,
    },
    Multiprocessor {
        name: "sm_90",
        gates: "sm_90",
        code: "sm_90a",
        shared_bytes: 228 << 10,
        threads: 2048,
    },
    Multiprocessor {
        name: "sm_100",
        gates: "sm_90",
        code: "sm_100",
        shared_bytes: 228 << 10,
        threads: 2048,
    },
    Multiprocessor {
        name: "sm_120",
        gates: "sm_89",
        code: "sm_120",
        shared_bytes: 100 << 10,
        threads: 1536,
    },
];

impl Multiprocessor {
    /// Blocks that it has at a time.
    fn blocks(&self, threads: u32, registers: u32, shared_bytes: u32) -> u32 {
        // Each quarter has 16384 registers, given to whole warps by 256; a block takes 1 KB more than it asks for.
        let warps = 4 * (16384 / (registers * 32).next_multiple_of(256));
        let by_registers = warps / threads.div_ceil(32);
        by_registers
            .min(self.threads / threads)
            .min(self.shared_bytes / (shared_bytes + 1024))
    }
}

/// Dynamic shared memory that an entry is launched with, at most.
fn shared_bytes(entry: &str) -> u32 {
    match entry.split('_').collect::<Vec<_>>()[..] {
        ["embed" | "layernorm", _] => ROW_SHARED_BYTES,
        ["pool", _] => POOL_SHARED_BYTES,
        ["lora", "down", _] => LORA_DOWN_SHARED_BYTES,
        ["norm", "gemm", _] => NORM_GEMM_SHARED,
        ["down", "gemm", _] => DOWN_GEMM_SHARED,
        ["gemm", _, "split16"] => GEMM_SPLIT16_SHARED,
        ["gemm", _, name] => {
            let tiles = GemmTile::ALL.map(|tile| (tile.name(), tile.shape()));
            let sm90 = Sm90Tile::ALL.map(|tile| (tile.name(), tile.shape()));
            let tile = tiles.into_iter().chain(sm90).find(|tile| tile.0 == name);
            tile.expect("a tile of the tables").1.shared_bytes
        }
        ["attention", _, _, "wgmma64"] => ATTENTION_WGMMA64_SHARED,
        ["attention", _, _, "wgmma128"] => ATTENTION_WGMMA128_SHARED,
        ["attention", _, head_dim, name] => {
            let head_dim = head_dim.trim_start_matches("hd").parse().expect("a number");
            let tile = AttentionTile::ALL.into_iter().find(|tile| tile.name() == name);
            tile.expect("a tile of the table").shape(head_dim).shared_bytes
        }
        _ => panic!("{entry} is not in this test's list of shared memory"),
    }
}

/// Threads of a block at most: its launch bounds.
fn threads(module: &KernelModule, entry: &str) -> u32 {
    let text = ptx(module)[0].split(&format!(".visible .entry {entry}(")).nth(1);
    let head = text.and_then(|text| text.split('{').next()).unwrap_or_default();
    let bound = head
        .split(".maxntid ")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    let bound = bound.unwrap_or_else(|| panic!("{entry} has no launch bounds"));
    bound.trim_end_matches(',').parse().expect("a number of threads")
}

#[test]
fn multiprocessors_have_the_blocks_that_were_planned() {
    println!(
        "{:30} threads  shared  blocks on sm_80, sm_89, sm_90 and those that were added",
        "entry"
    );
    let mut fewer = Vec::new();
    for module in embedded() {
        let source = source(module);
        let gate = Gate::of(&source);
        let figures = figures(module.log);
        for (entry, _) in entries(&source) {
            let (threads, shared) = (threads(module, entry), shared_bytes(entry));
            let mut row = format!("{entry:30} {threads:7} {shared:7} ");
            let built = |on: &Multiprocessor| module.architectures.contains(&on.code);
            for on in MULTIPROCESSORS.iter().filter(|on| built(on)) {
                let registers = figures[&(entry, on.code)].registers as u32;
                let blocks = on.blocks(threads, registers, shared);
                row += &format!(" {blocks:3}");
                let wanted = gate.limits(entry, on.gates).get("blocks").copied();
                let wanted = wanted.unwrap_or_else(|| panic!("{entry}: no limit on blocks"));
                if f64::from(blocks) < wanted {
                    fewer.push(format!(
                        "{entry} on {}: {blocks} blocks of {threads} threads, {registers} registers and {shared} bytes, \
                         and not {wanted}",
                        on.name
                    ));
                }
            }
            println!("{row}");
        }
    }
    assert!(fewer.is_empty(), "{}", fewer.join("\n"));
}

#[test]
fn a_gate_holds_for_the_entries_with_its_words() {
    let source = "// requires: x\n//     y\n// gates: registers <= 96, blocks >= 2\n// gates large sm_89: blocks >= 1\n\n";
    let gate = Gate::of(source);
    assert_eq!(gate.limits("gemm_f16_large", "sm_80")["blocks"], 2.0);
    assert_eq!(gate.limits("gemm_f16_large", "sm_89")["blocks"], 1.0);
    assert_eq!(gate.limits("gemm_f16_small", "sm_89")["blocks"], 2.0);
    assert_eq!(gate.limits("gemm_f16_large", "sm_89")["registers"], 96.0);
}

#[test]
fn blocks_are_limited_by_registers_threads_and_shared_memory() {
    let [large, small, ..] = MULTIPROCESSORS;
    assert_eq!(large.blocks(128, 255, 0), 2);
    assert_eq!(large.blocks(128, 168, 0), 3);
    assert_eq!(large.blocks(512, 32, 0), 4);
    assert_eq!(small.blocks(512, 32, 0), 3);
    assert_eq!(small.blocks(128, 32, 99 << 10), 1);
    assert_eq!(small.blocks(128, 32, (99 << 10) + 1), 0);
    assert_eq!(large.blocks(128, 32, 81 << 10), 2);
}
