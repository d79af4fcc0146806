//! A persistent, warp-specialised product with every number of stages and of steps in k, and what is noticed when one of its
//! instructions is left out or wrong.

use std::fmt::Write;

use super::all;
use super::harness::{Args, Ended, Gpu, Random, Shape, compile, shuffled};
use softcuda::machine::Module;
use softcuda::memory::{Fill, Swizzle, TensorMap};
use softcuda::run::check::Finding;

/// Tiles of the result in each dimension, and the blocks that share them.
const TILES: [usize; 2] = [2, 2];
const BLOCKS: u32 = 3;

/// The product, or what was found. Numbers are small and whole, so that sums are exact.
fn product(gpu: &mut Gpu, module: &Module, stages: usize, steps: usize) -> Result<(), Vec<Finding>> {
    let [rows, columns] = TILES.map(|n| 64 * n);
    // A tensor has a column at least.
    let k = 64 * steps.max(1);
    let mut random = Random(stages as u64 + 8 * steps as u64 + 1);
    let mut matrix =
        |rows: usize| -> Vec<f32> { (0..rows * k).map(|_| random.below(9) as f32 - 4.0).collect() };
    let (a, b) = (matrix(rows), matrix(columns));
    let mut map = |values: &[f32], rows: usize| {
        let bits: Vec<u16> = values.iter().map(|v| (v.to_bits() >> 16) as u16).collect();
        let map = TensorMap {
            address: gpu.upload(&bits),
            rank: 2,
            element: 2,
            dimensions: [k as u64, rows as u64, 1],
            strides: [2 * k as u64, 0],
            tile: [64, 64, 1],
            swizzle: Swizzle::B128,
            fill: Fill::Zero,
        };
        map.encode()
    };
    let (left, right) = (map(&a, rows), map(&b, columns));
    let out = gpu.alloc(4 * rows * columns);
    let result = TensorMap {
        address: out,
        rank: 2,
        element: 4,
        dimensions: [columns as u64, rows as u64, 1],
        strides: [4 * columns as u64, 0],
        tile: [32, 64, 1],
        swizzle: Swizzle::None,
        fill: Fill::Zero,
    };
    let args = Args::new()
        .with_bytes(&left, 128)
        .with_bytes(&right, 128)
        .with_bytes(&result.encode(), 128)
        .with(TILES[0] as i32)
        .with(TILES[1] as i32)
        .with(steps as i32)
        .with(stages as i32);
    let shape = Shape {
        shared: 16384 * (stages as u32 + 1),
        ..Shape::new(BLOCKS, 256)
    };
    match gpu.try_launch(module, "persistent_product", shape, &args) {
        Ended::Well => {}
        Ended::Refused(_, message) => panic!("refused: {message}"),
        Ended::Found(findings) => return Err(findings),
    }
    let got: Vec<f32> = gpu.download(out, rows * columns);
    let k = 64 * steps;
    let stride = 64 * steps.max(1);
    let right = (0..rows * columns).all(|i| {
        let (a, b) = (&a[i / columns * stride..][..k], &b[i % columns * stride..][..k]);
        got[i] == a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>()
    });
    if right { Ok(()) } else { Err(Vec::new()) }
}

#[test]
fn counters_of_a_pipeline() {
    let mut gpu = Gpu::with(|settings| {
        settings.counters = true;
        settings.threads = 1;
    });
    let Some(module) = gpu.load("hopper_pipeline.cu") else {
        return;
    };
    let (stages, steps) = (3, 5);
    if let Err(findings) = product(&mut gpu, &module, stages, steps) {
        panic!("wrong, or {}", words(&findings));
    }
    let counters = &gpu.counters;
    let blocks = (TILES[0] * TILES[1] * steps) as u64;
    let tiles = (TILES[0] * TILES[1]) as u64;
    let bulk = counters.bulk;
    assert_eq!((bulk.loads, bulk.loaded_bytes), (2 * blocks, 16384 * blocks));
    assert_eq!((bulk.stores, bulk.stored_bytes), (2 * tiles, 16384 * tiles));
    assert_eq!((bulk.saved_bytes, bulk.filled), (0, blocks));
    // The producer goes ahead as far as the stages allow.
    assert_eq!(bulk.most_ahead, stages as u64);
    assert!(
        (blocks..=blocks * stages as u64).contains(&bulk.ahead),
        "{}",
        bulk.ahead
    );
    // Each k16 of a tile reads 64 rows of A and of B, in parts of eight, 32 bytes of each.
    let wgmma = counters.memory.as_ref().expect("counted").shared.wgmma;
    assert_eq!((wgmma.requests, wgmma.conflicts()), (4 * blocks * 32, 0));
    let waits = &counters.barriers.mbarriers;
    assert!(!waits.is_empty());
    for wait in waits {
        assert!(
            wait.in_vain > 0 && wait.kernel_at.file.ends_with("hopper_pipeline.cu"),
            "{wait:?}"
        );
    }
    let path = std::env::temp_dir().join(format!("softcuda-pipeline-{}.jsonl", std::process::id()));
    counters.append(&path).expect("a file");
    let name = path.to_string_lossy().into_owned();
    let text = softcuda::counters::report(&[name, "--launch".into(), "1".into()]);
    std::fs::remove_file(&path).expect("written just now");
    let text = text.expect("a report");
    for line in [
        "bulk copies",
        "20 phases filled",
        "3 at most",
        "waits by mbarrier",
        "wgmma's operands",
    ] {
        assert!(text.contains(line), "{line} is missing:\n{text}");
    }
}

fn words(findings: &[Finding]) -> String {
    findings
        .iter()
        .map(Finding::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn every_number_of_stages_and_steps() {
    let run = |stages: usize, steps: usize| {
        let mut gpu = Gpu::new();
        let Some(module) = gpu.load("hopper_pipeline.cu") else {
            return;
        };
        if let Err(findings) = product(&mut gpu, &module, stages, steps) {
            panic!("{stages} stages, {steps} steps: wrong, or {}", words(&findings));
        }
    };
    for stages in 1..=8 {
        // Below, at and above the number of stages.
        for steps in 0..=9 {
            if all() || [0, 1, stages, stages + 1].contains(&steps) && [1, 2, 3, 8].contains(&stages) {
                run(stages, steps);
            }
        }
    }
    for seed in 1..=if all() { 200 } else { 4 } {
        shuffled(seed, || run(1 + seed as usize % 4, 5));
    }
}

/// An instruction and what is written instead; a number says which of them, where there are several.
const CHANGES: &[(&str, &str)] = &[
    ("mbarrier.init", "//"),
    ("fence.mbarrier_init", "//"),
    ("bar.sync \t0", "//"),
    (
        "mbarrier.try_wait.parity.shared::cta.b64 p,",
        "setp.eq.u32 p, 0, 0; //",
    ),
    ("mbarrier.arrive.expect_tx", "//"),
    ("mbarrier.arrive.shared", "//"),
    ("cp.async.bulk.tensor.2d.shared::cluster", "//"),
    ("wgmma.fence", "//"),
    ("wgmma.commit_group", "//"),
    (
        "wgmma.wait_group.sync.aligned 0",
        "wgmma.wait_group.sync.aligned 1",
    ),
    (
        "cp.async.bulk.wait_group.read 0",
        "cp.async.bulk.wait_group.read 1",
    ),
    ("bar.sync 1, 128", "//"),
    ("fence.proxy.async", "//"),
    ("cp.async.bulk.tensor.2d.global", "//"),
    ("cp.async.bulk.commit_group", "//"),
    ("cp.async.bulk.wait_group 0", "//"),
    ("setmaxnreg.dec", "//"),
    ("setmaxnreg.inc", "//"),
];

/// Changes after which nothing is wrong, and why.
const UNNOTICED: &[(&str, &str)] = &[
    (
        "fence.mbarrier_init 1",
        "the block is alone in its cluster, and the barrier orders the initialisation for its threads; Triton has no such fence",
    ),
    (
        "setmaxnreg.inc 1",
        "that the consumers have fewer registers than their code was compiled for is not seen in PTX",
    ),
];

/// How an operand is changed.
#[derive(Clone, Copy)]
enum Operand {
    Last(fn(&str) -> String),
    /// The first address.
    First(fn(&str) -> String),
    /// The last, exclusive or 1.
    Flipped,
    /// The only one, a number, plus this.
    Plus(u32),
}

/// The source with one place changed: by name and number of the instruction.
fn mutants(source: &str) -> Vec<(String, String)> {
    let mut list = Vec::new();
    for (instruction, instead) in CHANGES {
        let places: Vec<usize> = source.match_indices(instruction).map(|(at, _)| at).collect();
        assert!(!places.is_empty(), "{instruction} is not in the kernel");
        for (number, at) in (1..).zip(places) {
            // To the end of the statement; what stands behind `//` is a comment.
            let mut text = source[..at].to_owned();
            let _ = match instead.strip_suffix("//") {
                Some(before) => {
                    // A predicate stays: `@p instruction` needs one.
                    let end = at + source[at..].find(';').expect("a statement ends");
                    write!(
                        text,
                        "{}{}",
                        if before.is_empty() {
                            "pmevent 0"
                        } else {
                            before.trim_end_matches("; ")
                        },
                        &source[end..]
                    )
                }
                None => write!(text, "{instead}{}", &source[at + instruction.len()..]),
            };
            list.push((format!("{instruction} {number}"), text));
        }
    }
    // Operands: bytes, parity, stage.
    for (what, instruction, operand) in [
        (
            "16 bytes more",
            "mbarrier.arrive.expect_tx",
            Operand::Last(|_| "16400".to_owned()),
        ),
        (
            "16 bytes fewer",
            "mbarrier.arrive.expect_tx",
            Operand::Last(|_| "16368".to_owned()),
        ),
        ("the other parity", "mbarrier.try_wait.parity", Operand::Flipped),
        (
            "the next stage",
            "cp.async.bulk.tensor.2d.shared::cluster",
            Operand::First(|old| format!("{old}+16384")),
        ),
        ("8 registers more", "setmaxnreg.dec", Operand::Plus(8)),
        ("8 registers more", "setmaxnreg.inc", Operand::Plus(8)),
    ] {
        for (number, (at, _)) in (1..).zip(source.match_indices(instruction)) {
            let end = at + source[at..].find(';').expect("a statement ends");
            let statement = &source[at..end];
            let changed = match operand {
                Operand::Last(change) => {
                    let (before, last) = statement.rsplit_once(", ").expect("operands");
                    format!("{before}, {}", change(last))
                }
                Operand::First(change) => {
                    let (before, rest) = statement.split_once('[').expect("an address");
                    let (address, rest) = rest.split_once(']').expect("an address ends");
                    format!("{before}[{}]{rest}", change(address))
                }
                Operand::Plus(more) => {
                    let (before, number) = statement.rsplit_once(' ').expect("a number");
                    let number: u32 = number.parse().expect("a number");
                    format!("{before} {}", number + more)
                }
                Operand::Flipped => {
                    let (before, last) = statement.rsplit_once(", ").expect("operands");
                    format!(".reg .b32 flipped;\nxor.b32 flipped, {last}, 1;\n{before}, flipped")
                }
            };
            let text = format!("{}{changed}{}", &source[..at], &source[end..]);
            list.push((format!("{instruction} {number}: {what}"), text));
        }
    }
    list
}

#[test]
fn whatever_is_left_out_is_noticed() {
    let Some(ptx) = compile("hopper_pipeline.cu") else {
        return;
    };
    let source = String::from_utf8(ptx.to_vec()).expect("PTX is text");
    let mut problems = Vec::new();
    for (name, text) in mutants(&source) {
        let seeds: &[u64] = if all() { &[1, 2, 3] } else { &[] };
        let mut noticed = true;
        let mut run = || {
            let mut gpu = Gpu::new();
            let module = gpu.load_text(&name, text.as_bytes());
            noticed &= product(&mut gpu, &module, 2, 5).is_err();
        };
        run();
        for &seed in seeds {
            shuffled(seed, &mut run);
        }
        let excused = UNNOTICED.iter().any(|(site, _)| name == *site);
        if noticed == excused {
            problems.push(format!(
                "{name}: {}",
                if noticed {
                    "noticed, and excused"
                } else {
                    "not noticed"
                }
            ));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
