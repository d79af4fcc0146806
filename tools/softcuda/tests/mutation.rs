//! What would be noticed if a kernel's author forgot something: every barrier, wait, commit and fence of some kernels
//! is left out in turn (in the PTX text, so that lines stay where they are), and the kernel runs with all checks on.
//!
//! A *site* is such an instruction in the source, with all the copies that the compiler made of it. It is
//! - left out altogether; an acquire or release becomes relaxed, a test of an mbarrier always says yes;
//! - left out once: only in the first turn of its loop, in the second, and so on, for instructions that are not polled;
//! - for `wait_group N`, made to wait for one group less;
//! - for barriers of the large kernels, moved before the site before it or behind the site after it.
//!
//! Each of these must be found by a check, in order and with every seed, or stand in [`UNNOTICED`] with the reason why
//! nothing is wrong with the kernel then. tests/kernels/MUTATIONS.md is the table of what is found by what;
//! `SOFTCUDA_WRITE_MUTATIONS=1 cargo test -p softcuda --test mutation` writes it. `ROPEWAY_TEST_ALL=1` runs larger
//! shapes and more seeds too.

mod harness;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use half::bf16;
use harness::{Args, Ended, Gpu, Random, Shape, compile, folder};
use softcuda::machine::Module;
use softcuda::ptx;
use softcuda::run::check::{Check, places};

/// Changes after which nothing is wrong: kernel, site and change as the table names them, and why.
const UNNOTICED: &[(&str, &str, &str, &str)] = &[
    (
        "gemm_bf16",
        "cp.async.commit_group 2",
        "left out in turn 5",
        LAST_COMMIT,
    ),
    (
        "flash_attention",
        "cp.async.commit_group 2",
        "left out in turn 3",
        LAST_COMMIT,
    ),
    (
        "pipeline_groups",
        "cp.async.commit_group 2",
        "left out in turn 6",
        LAST_COMMIT,
    ),
    ("pipeline_mbarrier", "bar.sync 2", "left out in turn 4", LAST_READ),
    ("pipeline_mbarrier", "bar.sync 2", "left out in turn 5", LAST_READ),
    (
        "warp_specialised_ring",
        "mbarrier.arrive.shared.b64 1",
        "left out in turn 5",
        LAST_EMPTY,
    ),
    (
        "warp_specialised_ring",
        "mbarrier.arrive.shared.b64 1",
        "left out in turn 6",
        LAST_EMPTY,
    ),
    (
        "warp_specialised_ring",
        "mbarrier.arrive.shared.b64 1",
        "left out in turn 7",
        LAST_EMPTY,
    ),
    ("grid_barrier", "bar.sync 1", "left out in turn 4", LAST_ROUND),
    ("grid_barrier", "membar.gl 1", "left out in turn 4", LAST_ROUND),
    ("grid_barrier", "bar.sync 2", "left out in turn 4", LAST_ROUND),
    (
        "scan_lookback",
        "ld.acquire.gpu.global.u64 1",
        "left out",
        STATE_IS_ALL,
    ),
    (
        "scan_lookback",
        "st.release.gpu.global.u64 1",
        "left out",
        STATE_IS_ALL,
    ),
    (
        "scan_lookback",
        "st.release.gpu.global.u64 2",
        "left out",
        STATE_IS_ALL,
    ),
];

const LAST_COMMIT: &str = "the last turn of the loop: there is nothing left to load, so the group is empty, and no wait \
    follows that would count it.";
const LAST_READ: &str = "the barrier keeps a stage from being loaded before all have read it; with five tiles and two \
    stages the stages that turns 4 and 5 read are not loaded again.";
const LAST_EMPTY: &str = "the arrival lets the loading warp fill the stage again; with seven tiles and three stages those \
    that turns 5 to 7 empty are not filled again, and nobody waits for that phase.";
const LAST_ROUND: &str =
    "the last round: nothing is read or written after it, and the kernel's end orders its writes.";
const STATE_IS_ALL: &str = "what a block tells the others is all in the 64-bit word that it stores, flag and sum, and a \
    word is read in one piece; no other memory is handed over with it (`out` has one writer per element and no reader, \
    `before` stays within the block and has a barrier). Relaxed accesses do.";

/// Seeds of the schedules beside the one in order.
const SEEDS: [u64; 3] = [1, 2, 3];
/// Turns that are looked at for one site.
const TURNS: u32 = 8;

/// A kernel with a launch of it.
struct Case {
    file: &'static str,
    kernel: &'static str,
    /// Whether barriers are moved too.
    moves: bool,
    /// Runs it on a small shape, or on a larger one, and gives the bytes of its result.
    run: fn(&mut Gpu, &Module, bool) -> (Ended, Vec<u8>),
}

const CASES: &[Case] = &[
    Case {
        file: "gemm_bf16.cu",
        kernel: "gemm_bf16",
        moves: true,
        run: gemm,
    },
    Case {
        file: "flash_attention.cu",
        kernel: "flash_attention",
        moves: true,
        run: attention,
    },
    Case {
        file: "async_copy.cu",
        kernel: "pipeline_groups",
        moves: false,
        run: |gpu, module, large| {
            let tiles = if large { 11 } else { 6 };
            one_block(
                gpu,
                module,
                "pipeline_groups",
                64,
                tiles,
                tiles * 256,
                tiles * 256,
            )
        },
    },
    Case {
        file: "async_copy.cu",
        kernel: "pipeline_mbarrier",
        moves: false,
        run: |gpu, module, large| {
            let tiles = if large { 9 } else { 5 };
            one_block(
                gpu,
                module,
                "pipeline_mbarrier",
                128,
                tiles,
                tiles * 128,
                tiles * 128,
            )
        },
    },
    Case {
        file: "async_copy.cu",
        kernel: "warp_specialised_ring",
        moves: false,
        run: |gpu, module, large| {
            let tiles = if large { 13 } else { 7 };
            one_block(gpu, module, "warp_specialised_ring", 128, tiles, tiles * 96, 96)
        },
    },
    Case {
        file: "named_barriers.cu",
        kernel: "producer_consumer",
        moves: false,
        run: |gpu, module, large| {
            let rounds = if large { 9 } else { 5 };
            one_block(
                gpu,
                module,
                "producer_consumer",
                128,
                rounds,
                rounds * 64,
                rounds * 64,
            )
        },
    },
    Case {
        file: "grid_barrier.cu",
        kernel: "grid_barrier",
        moves: false,
        run: grid_barrier,
    },
    Case {
        file: "scan.cu",
        kernel: "scan_lookback",
        moves: false,
        run: look_back,
    },
];

fn bf16s(gpu: &mut Gpu, random: &mut Random, count: usize) -> u64 {
    let bits: Vec<u16> = (0..count)
        .map(|_| bf16::from_f32(random.unit()).to_bits())
        .collect();
    gpu.upload(&bits)
}

/// Five steps through three stages, and a tile of which most rows do not exist.
fn gemm(gpu: &mut Gpu, module: &Module, large: bool) -> (Ended, Vec<u8>) {
    let (m, n, k) = if large { (200, 256, 288) } else { (140, 128, 160) };
    let mut random = Random(1);
    let (a, b) = (bf16s(gpu, &mut random, m * k), bf16s(gpu, &mut random, n * k));
    let out = gpu.alloc(m * n * 4);
    let args = Args::new()
        .with(a)
        .with(b)
        .with(out)
        .with(m as i32)
        .with(n as i32)
        .with(k as i32);
    let mut shape = Shape::new((n / 128) as u32, 256);
    shape.grid[1] = m.div_ceil(128) as u32;
    shape.shared = 49152;
    let ended = gpu.try_launch(module, "gemm_bf16", shape, &args);
    (ended, gpu.download(out, m * n * 4))
}

/// Three tiles of keys through two buffers, the last one mostly missing, and a sequence within one tile.
fn attention(gpu: &mut Gpu, module: &Module, large: bool) -> (Ended, Vec<u8>) {
    let lengths: &[i32] = if large { &[70, 300, 1, 64] } else { &[5, 140] };
    let heads = if large { 2 } else { 1 };
    let mut cu_seqlens = vec![0];
    for length in lengths {
        cu_seqlens.push(cu_seqlens.last().expect("the first") + length);
    }
    let count = cu_seqlens[lengths.len()] as usize * heads * 64;
    let mut random = Random(2);
    let [q, k, v] = [(); 3].map(|()| bf16s(gpu, &mut random, count));
    let (cu_seqlens, out) = (gpu.upload(&cu_seqlens), gpu.alloc(count * 2));
    let args = Args::new()
        .with(q)
        .with(k)
        .with(v)
        .with(out)
        .with(cu_seqlens)
        .with(heads as i32);
    let longest = *lengths.iter().max().expect("a sequence") as u32;
    let mut shape = Shape::new(longest.div_ceil(64), 128);
    shape.grid = [shape.grid[0], heads as u32, lengths.len() as u32];
    let ended = gpu.try_launch(module, "flash_attention", shape, &args);
    (ended, gpu.download(out, count * 2))
}

/// A kernel of one block with the parameters in, out, tiles.
fn one_block(
    gpu: &mut Gpu,
    module: &Module,
    kernel: &str,
    block: u32,
    tiles: usize,
    input: usize,
    output: usize,
) -> (Ended, Vec<u8>) {
    let mut random = Random(3);
    let input: Vec<u32> = (0..input).map(|_| random.next()).collect();
    let (input, out) = (gpu.upload(&input), gpu.alloc(output * 4));
    let args = Args::new().with(input).with(out).with(tiles as i32);
    let ended = gpu.try_launch(module, kernel, Shape::new(1, block), &args);
    (ended, gpu.download(out, output * 4))
}

fn grid_barrier(gpu: &mut Gpu, module: &Module, large: bool) -> (Ended, Vec<u8>) {
    let (grid, block, rounds) = if large { (6, 96, 6) } else { (3, 64, 4) };
    let n = (grid * block) as usize;
    let values: Vec<u32> = (0..n as u32).map(|i| i * i).collect();
    let (memory, arrived) = (gpu.alloc(8 * n), gpu.zeros(4));
    gpu.write(memory, &harness::bytes(&values));
    let mut shape = Shape::new(grid, block);
    shape.cooperative = true;
    let args = Args::new().with(memory).with(arrived).with(rounds);
    let ended = gpu.try_launch(module, "grid_barrier", shape, &args);
    (ended, gpu.download(memory, 8 * n))
}

fn look_back(gpu: &mut Gpu, module: &Module, large: bool) -> (Ended, Vec<u8>) {
    let n: usize = if large { 1500 } else { 600 };
    let blocks = n.div_ceil(128);
    let values: Vec<i32> = (0..n as i32).map(|i| i % 17 - 5).collect();
    let (input, out) = (gpu.upload(&values), gpu.alloc(4 * n));
    let (states, ticket) = (gpu.zeros(8 * blocks), gpu.zeros(4));
    let args = Args::new()
        .with(input)
        .with(out)
        .with(n as i32)
        .with(states)
        .with(ticket);
    let ended = gpu.try_launch(module, "scan_lookback", Shape::new(blocks as u32, 128), &args);
    (ended, gpu.download(out, 4 * n))
}

/// An instruction of the source that orders something.
struct Site {
    /// As in the PTX, and which one of that name in the kernel: `bar.sync 2`.
    name: String,
    opcode: String,
    /// Lines in the kernel's source: the call first, where it is in a function.
    source: Vec<u32>,
    /// Lines of its copies in the PTX, from 0.
    lines: Vec<usize>,
}

/// What is done to a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    LeftOut,
    /// In this turn only, from 1.
    LeftOutOnce(u32),
    OneGroupLess,
    Earlier,
    Later,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Change::LeftOut => f.write_str("left out"),
            Change::LeftOutOnce(turn) => write!(f, "left out in turn {turn}"),
            Change::OneGroupLess => f.write_str("N + 1"),
            Change::Earlier => f.write_str("earlier"),
            Change::Later => f.write_str("later"),
        }
    }
}

impl Site {
    fn source_text(&self) -> String {
        let lines: Vec<String> = self.source.iter().map(u32::to_string).collect();
        lines.join(" → ")
    }

    fn polled(&self) -> bool {
        self.opcode.contains("_wait.") || self.opcode.starts_with("ld.")
    }

    /// Whether leaving it out means to leave out the order only, not the access.
    fn ordered(&self) -> bool {
        self.opcode.contains(".acquire")
            || self.opcode.contains(".release")
            || self.opcode.contains(".acq_rel")
    }
}

/// Instructions that order something, and do nothing else that their threads need. (bar.red is none: its result is.)
fn orders(name: &str) -> bool {
    let one_of = |names: &[&str]| {
        names.iter().any(|prefix| {
            name.strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    };
    one_of(&[
        "bar.sync",
        "bar.arrive",
        "bar.warp.sync",
        "barrier.sync",
        "barrier.arrive",
        "barrier.cluster",
        "cp.async.commit_group",
        "cp.async.wait_group",
        "cp.async.wait_all",
        "cp.async.mbarrier.arrive",
        "mbarrier.arrive",
        "mbarrier.test_wait",
        "mbarrier.try_wait",
        "membar",
        "fence",
        "ld.acquire",
        "st.release",
        "atom.acquire",
        "atom.release",
        "atom.acq_rel",
        "red.release",
    ])
}

/// File, line, column.
type Position = (String, u32, u32);

/// The kernel's sites in the order of its source, with the index of the line that opens its body.
fn sites(case: &Case, text: &[u8]) -> (Vec<Site>, usize) {
    let module = ptx::parse_bytes(text).expect("nvcc's own text");
    let lines: Vec<&str> = std::str::from_utf8(text).expect("ASCII").lines().collect();
    let function = module
        .functions
        .iter()
        .find(|function| &*function.name == case.kernel)
        .expect("the kernel");
    let mut found: Vec<(Vec<Position>, Site)> = Vec::new();
    for instruction in &function.body.as_ref().expect("a kernel has a body").instructions {
        let opcode = instruction.name();
        if !orders(&opcode) {
            continue;
        }
        let line = instruction.line as usize - 1;
        // What stands alone on its line can be changed by line.
        let statement = lines[line].trim();
        assert!(
            instruction.guard.is_none() && statement.starts_with(&opcode) && statement.ends_with(';'),
            "{}, PTX line {}: `{statement}`",
            case.kernel,
            line + 1
        );
        let places: Vec<Position> = places(&module, instruction.loc)
            .iter()
            .map(|place| (place.file.to_string(), place.line, place.column))
            .collect();
        let own = places
            .iter()
            .rev()
            .filter(|place| place.0.ends_with(&format!("/{}", case.file)));
        let source: Vec<u32> = own.map(|place| place.1).collect();
        assert!(!source.is_empty(), "compiled with -lineinfo");
        match found
            .iter_mut()
            .find(|(other, site)| *other == places && site.opcode == opcode)
        {
            Some((_, site)) => site.lines.push(line),
            None => found.push((
                places,
                Site {
                    name: String::new(),
                    opcode,
                    source,
                    lines: vec![line],
                },
            )),
        }
    }
    let mut sites: Vec<Site> = found.into_iter().map(|(_, site)| site).collect();
    sites.sort_by_key(|site| (site.source.clone(), site.lines[0]));
    for i in 0..sites.len() {
        let number = sites[..=i]
            .iter()
            .filter(|site| site.opcode == sites[i].opcode)
            .count();
        sites[i].name = format!("{} {number}", sites[i].opcode);
    }
    let open = (function.line as usize - 1..lines.len())
        .find(|&line| lines[line].trim() == "{")
        .expect("a body");
    (sites, open)
}

/// The text with one change; `None` where it makes no sense.
fn mutate(
    case: &Case,
    text: &str,
    sites: &[Site],
    open: usize,
    index: usize,
    change: Change,
) -> Option<String> {
    let site = &sites[index];
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    match change {
        Change::LeftOut => {
            for &line in &site.lines {
                let old = lines[line].trim().to_owned();
                lines[line] = without(site, &old);
            }
        }
        Change::LeftOutOnce(_) if site.polled() || site.ordered() => return None,
        Change::LeftOutOnce(turn) => {
            for &line in &site.lines {
                let old = lines[line].trim().to_owned();
                lines[line] = counted(turn, &format!("@%other {old}"));
            }
            lines[open].push_str(COUNTER);
        }
        Change::OneGroupLess => {
            if !site.opcode.starts_with("cp.async.wait_group") {
                return None;
            }
            for &line in &site.lines {
                let old = lines[line].trim().trim_end_matches(';');
                let number: u32 = old.rsplit(' ').next()?.parse().expect("a number of groups");
                lines[line] = format!("{} {};", site.opcode, number + 1);
            }
        }
        Change::Earlier | Change::Later => {
            let [line] = site.lines[..] else { return None };
            if !case.moves || !site.opcode.starts_with("bar.") {
                return None;
            }
            let others = sites.iter().flat_map(|site| &site.lines).copied();
            let barrier = std::mem::take(&mut lines[line]);
            if change == Change::Earlier {
                let other = others.filter(|&other| other < line).max()?;
                lines[other].insert_str(0, &barrier);
            } else {
                let other = others.filter(|&other| other > line).min()?;
                lines[other].push_str(&barrier);
            }
        }
    }
    Some(lines.join("\n") + "\n")
}

/// Declares the number of turns that a thread has had.
const COUNTER: &str = " .reg .u32 %turns; mov.u32 %turns, 0;";

/// A statement that runs in its turn, where `%other` says that this is another one.
fn counted(turn: u32, statement: &str) -> String {
    format!(
        "{{ .reg .pred %other; add.u32 %turns, %turns, 1; setp.ne.u32 %other, %turns, {turn}; {statement} }}"
    )
}

/// What stands for an instruction that is left out.
fn without(site: &Site, statement: &str) -> String {
    if site.ordered() {
        return [".acquire", ".release", ".acq_rel"]
            .iter()
            .fold(statement.to_owned(), |text, order| {
                text.replacen(order, ".relaxed", 1)
            });
    }
    if site.polled() {
        let operands = statement[site.opcode.len()..].trim();
        let (result, _) = operands.split_once(',').expect("the predicate comes first");
        return format!("setp.eq.u32 {result}, 0, 0;");
    }
    String::new()
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Found(BTreeSet<&'static str>),
    WrongResult,
    Nothing,
}

/// How warps take turns.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    seed: Option<u64>,
    large: bool,
}

fn run(case: &Case, text: &str, schedule: Schedule) -> (Ended, Vec<u8>) {
    let mut gpu = Gpu::with(|settings| {
        settings.seed = schedule.seed;
        // One thread, so that the table is the same every time; and no block is taken for stuck because the host does
        // not let another one's thread run.
        settings.threads = 1;
        settings.spin_limit = 50_000;
    });
    let module = Module::load(text.as_bytes(), &mut gpu.device)
        .unwrap_or_else(|error| panic!("{}: not PTX any more: {error}", case.kernel));
    (case.run)(&mut gpu, &module, schedule.large)
}

fn outcome(case: &Case, text: &str, schedule: Schedule, want: &[u8]) -> Outcome {
    match run(case, text, schedule) {
        (Ended::Found(findings), _) => {
            Outcome::Found(findings.iter().map(|finding| finding.check.name()).collect())
        }
        (Ended::Refused(_, message), _) => panic!("{} was refused: {message}", case.kernel),
        (Ended::Well, got) if got != want => Outcome::WrongResult,
        (Ended::Well, _) => Outcome::Nothing,
    }
}

/// How often each thread, or the busiest, comes by a site: a trap in a turn says that there is one.
fn turns(case: &Case, text: &str, site: &Site, open: usize) -> u32 {
    let mut turn = 0;
    while turn < TURNS {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for &line in &site.lines {
            let old = lines[line].trim().to_owned();
            lines[line] = counted(turn + 1, &format!("@!%other trap; {old}"));
        }
        lines[open].push_str(COUNTER);
        let schedule = Schedule {
            seed: None,
            large: false,
        };
        match run(case, &(lines.join("\n") + "\n"), schedule).0 {
            Ended::Found(findings) if findings.iter().all(|f| f.check == Check::Trap) => turn += 1,
            Ended::Well => break,
            other => panic!("{}, {}: {other:?}", case.kernel, site.name),
        }
    }
    turn
}

/// One row of the table.
struct Row {
    case: usize,
    site: usize,
    name: String,
    source: String,
    change: Change,
    /// In order, then with each of the seeds.
    outcomes: Vec<Outcome>,
    /// Under further schedules, when all tests run.
    further: Vec<(Schedule, Outcome)>,
}

impl Row {
    /// What is found, and by how many of the schedules where not by all.
    fn verdict(&self) -> String {
        let mut checks = BTreeSet::new();
        let (mut found, mut wrong) = (0, 0);
        for outcome in &self.outcomes {
            match outcome {
                Outcome::Found(names) => {
                    checks.extend(names.iter().copied());
                    found += 1;
                }
                Outcome::WrongResult => wrong += 1,
                Outcome::Nothing => {}
            }
        }
        let count = self.outcomes.len();
        let part = |text: String, n: usize| match n {
            n if n == count => text,
            n => format!("{text} ({n} of {count} schedules)"),
        };
        let mut parts = Vec::new();
        if found > 0 {
            let names: Vec<&str> = checks.into_iter().collect();
            parts.push(part(names.join(", "), found));
        }
        if wrong > 0 {
            parts.push(part("wrong result only".into(), wrong));
        }
        if parts.is_empty() {
            parts.push("nothing".into());
        }
        parts.join("; ")
    }

    fn is(&self, entry: &(&str, &str, &str, &str)) -> bool {
        CASES[self.case].kernel == entry.0 && self.name == entry.1 && self.change.to_string() == entry.2
    }
}

/// All changes of all kernels, run. `None`: no nvcc.
fn rows() -> Option<Vec<Row>> {
    let all = std::env::var_os("ROPEWAY_TEST_ALL").is_some();
    let mut schedules: Vec<Schedule> = [None]
        .into_iter()
        .chain(SEEDS.map(Some))
        .map(|seed| Schedule { seed, large: false })
        .collect();
    let own = schedules.len();
    if all {
        schedules.extend((4..=12).map(|seed| Schedule {
            seed: Some(seed),
            large: seed % 2 == 0,
        }));
    }
    // One job for each change; large kernels come first, so the end is short.
    let mut jobs: Vec<(usize, usize, Change, String)> = Vec::new();
    let mut named: Vec<Vec<Site>> = Vec::new();
    let mut texts = Vec::new();
    for (number, case) in CASES.iter().enumerate() {
        let text = Arc::unwrap_or_clone(compile(case.file)?);
        let (sites, open) = sites(case, &text);
        let text = String::from_utf8(text).expect("ASCII");
        assert!(!sites.is_empty(), "{} has sites", case.kernel);
        for (index, site) in sites.iter().enumerate() {
            let mut changes = vec![Change::LeftOut];
            if !site.polled() && !site.ordered() {
                let turns = turns(case, &text, site, open);
                assert!(turns > 0, "{}, {} runs", case.kernel, site.name);
                // Once of one is altogether.
                changes.extend((1..=turns).filter(|_| turns > 1).map(Change::LeftOutOnce));
            }
            changes.extend([Change::OneGroupLess, Change::Earlier, Change::Later]);
            for change in changes {
                if let Some(text) = mutate(case, &text, &sites, open, index, change) {
                    jobs.push((number, index, change, text));
                }
            }
        }
        named.push(sites);
        texts.push(text);
    }
    // What the kernels compute as they are; that it is right, tests/kernels.rs says.
    let wants: Vec<[Vec<u8>; 2]> = CASES
        .iter()
        .zip(&texts)
        .map(|(case, text)| {
            [false, true].map(|large| {
                if large && !all {
                    return Vec::new();
                }
                let schedule = Schedule { seed: None, large };
                match run(case, text, schedule) {
                    (Ended::Well, result) => result,
                    (other, _) => panic!("{} is clean, but: {other:?}", case.kernel),
                }
            })
        })
        .collect();
    let next = AtomicUsize::new(0);
    let rows: Mutex<Vec<(usize, Row)>> = Mutex::default();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let job = next.fetch_add(1, Ordering::Relaxed);
                    let Some((case, site, change, text)) = jobs.get(job) else {
                        return;
                    };
                    let mut outcomes: Vec<Outcome> = schedules
                        .iter()
                        .map(|&schedule| {
                            let want = &wants[*case][usize::from(schedule.large)];
                            outcome(&CASES[*case], text, schedule, want)
                        })
                        .collect();
                    let further = outcomes.split_off(own);
                    let further = schedules[own..].iter().copied().zip(further).collect();
                    let row = Row {
                        case: *case,
                        site: *site,
                        name: named[*case][*site].name.clone(),
                        source: named[*case][*site].source_text(),
                        change: *change,
                        outcomes,
                        further,
                    };
                    rows.lock().expect("no panic").push((job, row));
                }
            });
        }
    });
    let mut rows = rows.into_inner().expect("no panic");
    rows.sort_by_key(|(job, _)| *job);
    Some(rows.into_iter().map(|(_, row)| row).collect())
}

/// A run of turns with the same end as one: `1–4: race`.
fn once(rows: &[&Row]) -> String {
    let mut spans: Vec<(u32, u32, String)> = Vec::new();
    for row in rows {
        let Change::LeftOutOnce(turn) = row.change else {
            continue;
        };
        let verdict = row.verdict();
        match spans.last_mut() {
            Some((_, last, text)) if *text == verdict => *last = turn,
            _ => spans.push((turn, turn, verdict)),
        }
    }
    let spans: Vec<String> = spans
        .into_iter()
        .map(|(first, last, text)| match first == last {
            true => format!("{first}: {text}"),
            false => format!("{first}–{last}: {text}"),
        })
        .collect();
    spans.join("; ")
}

/// The compiler that the PTX is from, as it says itself.
fn compiler() -> String {
    let text = compile(CASES[0].file).expect("compiled before");
    let text = String::from_utf8_lossy(&text);
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("// Cuda compilation tools, "));
    line.expect("nvcc signs its text").to_owned()
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "# What is noticed when an instruction that orders something is left out\n\n\
         Written by tests/mutation.rs with SOFTCUDA_WRITE_MUTATIONS=1; it says what a site is and what is done to \
         each.\nA cell names the checks that find it, in order and with three seeds, or says so where that is not \
         with all four.\n\n",
    );
    writeln!(text, "Compiler: {}", compiler()).expect("a string");
    for (number, case) in CASES.iter().enumerate() {
        write!(
            text,
            "\n## {} ({})\n\n| line | site | left out | left out once, by turn | changed |\n|---|---|---|---|---|\n",
            case.kernel, case.file
        )
        .expect("a string");
        let own: Vec<&Row> = rows.iter().filter(|row| row.case == number).collect();
        for group in own.chunk_by(|a, b| a.site == b.site) {
            let first = group[0];
            let changed: Vec<String> = group
                .iter()
                .filter(|row| !matches!(row.change, Change::LeftOut | Change::LeftOutOnce(_)))
                .map(|row| format!("{}: {}", row.change, row.verdict()))
                .collect();
            writeln!(
                text,
                "| {} | `{}` | {} | {} | {} |",
                first.source,
                first.name,
                first.verdict(),
                once(group),
                changed.join("; ")
            )
            .expect("a string");
        }
        let excused: Vec<_> = UNNOTICED.iter().filter(|entry| entry.0 == case.kernel).collect();
        if !excused.is_empty() {
            text.push_str("\nNothing is wrong with these changes:\n\n");
            for (_, site, change, reason) in excused {
                writeln!(text, "- `{site}`, {change}: {reason}").expect("a string");
            }
        }
    }
    text
}

#[test]
fn whatever_is_left_out_is_found() {
    let Some(rows) = rows() else { return };
    let text = table(&rows);
    println!("{text}");

    let mut problems = Vec::new();
    for row in &rows {
        let here = format!("{}, {}, {}", CASES[row.case].kernel, row.name, row.change);
        let excused = UNNOTICED.iter().any(|entry| row.is(entry));
        let fits = |outcome: &Outcome| match outcome {
            Outcome::Found(_) => !excused,
            Outcome::WrongResult => false,
            Outcome::Nothing => excused,
        };
        if !row.outcomes.iter().all(fits) {
            let list = if excused {
                "not wrong by the list, but "
            } else {
                ""
            };
            problems.push(format!("{here}: {list}{}", row.verdict()));
        }
        for (schedule, outcome) in &row.further {
            // A turn that is the last one of a small shape is none of the last of a large one.
            let other = excused && schedule.large && matches!(row.change, Change::LeftOutOnce(_));
            if !other && !fits(outcome) {
                problems.push(format!("{here}: {outcome:?} with {schedule:?}"));
            }
        }
    }
    for entry in UNNOTICED {
        if !rows.iter().any(|row| row.is(entry)) {
            problems.push(format!("{entry:?}: there is no such change"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));

    let path = folder().join("MUTATIONS.md");
    if std::env::var_os("SOFTCUDA_WRITE_MUTATIONS").is_some() {
        std::fs::write(&path, &text).expect("a file beside the kernels");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    // Another compiler may order the same instructions otherwise; what must be found is the same.
    if kept.is_empty() || kept.contains(&format!("Compiler: {}\n", compiler())) {
        assert!(
            kept == text,
            "{} is stale: SOFTCUDA_WRITE_MUTATIONS=1 cargo test -p softcuda --test mutation",
            path.display()
        );
    }
}
