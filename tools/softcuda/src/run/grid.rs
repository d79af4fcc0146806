//! One launch: its blocks distributed over host threads.

use std::collections::{HashSet, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::block::{Block, Slice};
use super::check::{Check, Finding, Site};
use super::cluster;
use super::meter::{Meter, Touched};
use super::profile::Profile;
use super::settings::Settings;
use super::warp::Aligned;
use crate::ir::{Kernel, Op, Sync};
use crate::memory::{Allocation, DeviceMemory, Launch as MemoryLaunch};
use crate::ptx::ast::Module;
use std::sync::Arc;

/// What all blocks of a launch share.
pub struct Run<'l> {
    pub kernel: &'l Kernel,
    pub module: &'l Arc<Module>,
    pub memory: &'l DeviceMemory,
    pub profile: &'l Profile,
    pub settings: &'l Settings,
    pub launch: MemoryLaunch,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Blocks of a cluster in each dimension; the grid is made of whole clusters.
    pub cluster: [u32; 3],
    /// Bytes of dynamic shared memory, and of all shared memory as laid out.
    pub dynamic_shared: u32,
    pub shared_bytes: u32,
    /// The parameter block: aligned, and its length.
    pub params: Aligned,
    pub param_bytes: u32,
    pub constants: Aligned,
    /// Allocations of `.const` variables.
    pub constant_memory: &'l [u64],
    pub grid_id: u64,
    /// What `%globaltimer` reads at the beginning.
    pub began: u64,
    /// Device address of a cooperative launch's workspace (its barrier), 0 for other launches.
    pub workspace: u64,
    /// The launches before this one in the stream that may not have ended when this one begins, the last at the end.
    pub previous: Vec<u64>,
    /// [`Launch::first_epoch_of`](crate::memory::Launch::first_epoch_of) those.
    pub previous_from: u32,
    /// Blocks in which a thread has let the next launch begin before it has waited for those before this one.
    pub early: AtomicU64,
    pub findings: Mutex<Findings>,
    pub stop: AtomicBool,
    /// Number of events that a thread may wait for: changed memory, arrivals, exits.
    pub events: AtomicU64,
    /// What `printf` wrote.
    pub output: Mutex<Vec<u8>>,
    /// What of global memory was touched, where that is counted.
    pub touched: Arc<Touched>,
}

// SAFETY: `constants` and `params` are only read during a run.
unsafe impl std::marker::Sync for Run<'_> {}

/// Findings so far, each place once.
#[derive(Default)]
pub struct Findings {
    pub list: Vec<Finding>,
    /// Of the checks that are hints.
    pub hints: Vec<Finding>,
    seen: HashSet<(Check, u32, Option<u32>)>,
    pub dropped: usize,
}

/// How far `%globaltimer` goes, in nanoseconds, with each warp instruction of a block. It is no clock of the host: a kernel
/// that gives up after so long a wait shall do so in every run or in none, whatever else the host is at.
const INSTRUCTION_NS: u64 = 250;

/// The latest that any thread has read from `%globaltimer`.
static LATEST: AtomicU64 = AtomicU64::new(0);

/// What `%globaltimer` reads at the beginning of a launch: not less than anybody has read before it.
pub fn timer() -> u64 {
    LATEST.load(Ordering::Relaxed)
}

/// Findings kept of one launch.
const MOST_FINDINGS: usize = 32;

impl Run<'_> {
    /// Records a finding. One after which the kernel cannot go on stops the launch.
    pub fn report(&self, finding: Finding) {
        if self.settings.without.contains(&finding.check) {
            return;
        }
        let mut findings = self.findings.lock().unwrap_or_else(|e| e.into_inner());
        let key = (
            finding.check,
            finding.site.pc,
            finding.others.first().map(|o| o.pc),
        );
        if !finding.check.continues() {
            self.stop.store(true, Ordering::Relaxed);
        }
        if !findings.seen.insert(key) {
            return;
        }
        let list = match finding.check.is_hint() {
            true => &mut findings.hints,
            false => &mut findings.list,
        };
        if list.len() < MOST_FINDINGS {
            list.push(finding);
        } else {
            findings.dropped += 1;
        }
    }

    /// What `%globaltimer` reads after so many warp instructions of a block.
    pub fn timer(&self, executed: u64) -> u64 {
        let now = self.began + executed * INSTRUCTION_NS;
        LATEST.fetch_max(now, Ordering::Relaxed);
        now
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether an allocation is a `.const` variable's.
    pub fn memory_is_constant(&self, allocation: &Allocation) -> bool {
        self.constant_memory.contains(&allocation.address())
    }

    /// Blocks in the grid.
    pub fn blocks(&self) -> u64 {
        self.grid.iter().map(|&n| u64::from(n)).product()
    }

    /// Blocks of a cluster.
    pub fn cluster_blocks(&self) -> u32 {
        self.cluster.iter().product()
    }

    /// Coordinates of block number `linear`.
    pub fn block_id(&self, linear: u64) -> [u32; 3] {
        let [x, y, _] = self.grid.map(u64::from);
        [
            (linear % x) as u32,
            (linear / x % y) as u32,
            (linear / x / y) as u32,
        ]
    }
}

/// Warp instructions that a block of a cooperative grid runs before another has its turn.
const TURN: u64 = 20_000;

/// The same for a block that changed nothing in its last turn: most likely it waits for another block.
const GLANCE: u64 = 500;

/// Rounds in which no block of a cluster has changed anything, and all wait for each other.
const PARKED: u32 = 64;

/// Blocks among which a seed shuffles the order.
const GROUP: u64 = 64;

/// Runs clusters one after the other, the blocks of each in turn.
fn run_clusters(run: &Run<'_>, next: &AtomicU64, order: &Order, meter: &Mutex<Meter>) {
    let turn = TURN.min(run.settings.spin_limit / 4).max(1);
    let mut blocks: Vec<Box<Block>> = (0..run.cluster_blocks())
        .map(|_| Box::new(Block::new(run)))
        .collect();
    while !run.stopped() {
        let i = next.fetch_add(1, Ordering::Relaxed);
        if i >= order.blocks {
            break;
        }
        cluster::begin(run, &mut blocks, order.at(i));
        let mut running: Vec<usize> = (0..blocks.len()).collect();
        let mut parked = 0;
        while !running.is_empty() && !run.stopped() {
            running.retain(|&rank| blocks[rank].advance(turn) == Slice::More);
            parked = match running.iter().all(|&rank| blocks[rank].is_parked()) {
                true => parked + 1,
                false => 0,
            };
            if let Some(&first) = running.first()
                && parked > PARKED
            {
                run.report(*blocks[first].stuck(None));
            }
        }
    }
    let mut meter = meter.lock().unwrap_or_else(|e| e.into_inner());
    blocks.iter().for_each(|block| meter.add(&block.meter));
}

/// A dependent launch whose threads all exit before `griddepcontrol.wait` may end before the launch before it does, and then
/// the launch after it, which waits for this one alone, begins too early. One thread that waits is enough.
fn check_dependency(run: &Run<'_>, meter: &Meter) {
    if run.previous.is_empty() || run.stopped() {
        return;
    }
    let waits = || {
        (0u32..)
            .zip(&run.kernel.insts)
            .filter(|(_, inst)| is_dependency_wait(&inst.op))
    };
    if waits().any(|(pc, _)| meter.counts[pc as usize].lanes != 0) {
        return;
    }
    // The one that nobody came by, or where there is none the kernel's first instruction.
    let Some((pc, inst)) = waits().next().or_else(|| (0..).zip(&run.kernel.insts).next()) else {
        return;
    };
    run.report(Finding {
        check: Check::Race,
        kernel: run.kernel.name.clone(),
        message: "no thread of the launch has executed griddepcontrol.wait: its end says nothing of the launch before it, on \
                  which the next one may rely; let threads wait before they exit"
            .to_owned(),
        address: None,
        site: Site {
            block: None,
            thread: None,
            pc,
            line: inst.line,
            loc: inst.loc,
            what: String::new(),
        },
        others: Vec::new(),
        module: run.module.clone(),
    });
}

fn is_dependency_wait(op: &Op) -> bool {
    matches!(op, Op::Sync(sync) if **sync == Sync::GridDependencyWait)
}

/// Runs every block and returns what was counted.
pub fn run(run: &Run<'_>, cooperative: bool) -> Meter {
    let meter = run_blocks(run, cooperative);
    check_dependency(run, &meter);
    meter
}

fn run_blocks(run: &Run<'_>, cooperative: bool) -> Meter {
    if run.cluster_blocks() > 1 {
        let clusters = run.blocks() / u64::from(run.cluster_blocks());
        let order = Order::new(clusters, run.settings.seed);
        let (next, meter) = (AtomicU64::new(0), Mutex::new(Meter::new(run)));
        std::thread::scope(|scope| {
            for _ in 0..run.settings.threads.min(clusters as usize).max(1) {
                scope.spawn(|| run_clusters(run, &next, &order, &meter));
            }
        });
        return meter.into_inner().unwrap_or_else(|e| e.into_inner());
    }
    let blocks = run.blocks();
    let workers = run.settings.threads.min(blocks as usize).max(1);
    let order = Order::new(blocks, run.settings.seed);
    let meter = Mutex::new(Meter::new(run));
    let next = AtomicU64::new(0);
    let queue = Mutex::new(VecDeque::new());
    let at_work = AtomicU64::new(0);
    if cooperative {
        let mut queue = queue.lock().unwrap_or_else(|e| e.into_inner());
        for i in 0..blocks {
            let mut block = Box::new(Block::new(run));
            block.begin(order.at(i));
            queue.push_back(block);
        }
    }
    let work = || {
        if cooperative {
            // Blocks in turn, so that all make progress.
            loop {
                let block = {
                    let mut queue = queue.lock().unwrap_or_else(|e| e.into_inner());
                    let block = queue.pop_front();
                    at_work.fetch_add(u64::from(block.is_some()), Ordering::Relaxed);
                    block
                };
                let Some(mut block) = block else {
                    if at_work.load(Ordering::Relaxed) == 0 || run.stopped() {
                        break;
                    }
                    std::thread::yield_now();
                    continue;
                };
                let slice = block.advance(if block.is_idle() { GLANCE } else { TURN });
                let mut queue = queue.lock().unwrap_or_else(|e| e.into_inner());
                if slice == Slice::Done || run.stopped() {
                    meter.lock().unwrap_or_else(|e| e.into_inner()).add(&block.meter);
                } else {
                    queue.push_back(block);
                }
                at_work.fetch_sub(1, Ordering::Relaxed);
            }
        } else {
            // In order, a block runs to its end before the next one begins, for it can count on those before it
            // alone. Shuffled, it may have to wait for one that begins later: blocks of a group take turns.
            let (turn, most) = match run.settings.seed {
                Some(_) => (TURN.min(run.settings.spin_limit / 4).max(1), GROUP as usize),
                None => (u64::MAX, 1),
            };
            let mut resident: VecDeque<Box<Block>> = VecDeque::new();
            let mut ended: Vec<Box<Block>> = Vec::new();
            let mut more = true;
            while !run.stopped() {
                if more && resident.len() < most {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    more = i < blocks;
                    if more {
                        let mut block = ended.pop().unwrap_or_else(|| Box::new(Block::new(run)));
                        block.begin(order.at(i));
                        resident.push_front(block);
                    }
                }
                let Some(mut block) = resident.pop_front() else {
                    break;
                };
                let turn = if block.is_idle() { turn.min(GLANCE) } else { turn };
                match block.advance(turn) {
                    Slice::Done => ended.push(block),
                    Slice::More => resident.push_back(block),
                }
            }
            let mut meter = meter.lock().unwrap_or_else(|e| e.into_inner());
            for block in ended.iter().chain(&resident) {
                meter.add(&block.meter);
            }
        }
    };
    if workers == 1 {
        work();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(work);
            }
        });
    }
    meter.into_inner().unwrap_or_else(|e| e.into_inner())
}

/// The order in which blocks begin: 0, 1, 2, … or, to shake out races, shuffled within a window.
struct Order {
    blocks: u64,
    seed: Option<u64>,
}

impl Order {
    fn new(blocks: u64, seed: Option<u64>) -> Self {
        Self { blocks, seed }
    }

    /// The i-th block to begin. A seed permutes within groups of [`GROUP`]: block k may wait for blocks before it in
    /// programs that count on blocks beginning in order, so the groups themselves stay in order.
    fn at(&self, i: u64) -> u64 {
        let Some(seed) = self.seed else { return i };
        let group = i / GROUP * GROUP;
        let size = (self.blocks - group).min(GROUP);
        // i·step + shift is a permutation of the group when step and size have no common divisor.
        let hash = mix(seed ^ group);
        let mut step = (hash % size.max(1)) | 1;
        while gcd(step, size) != 1 {
            step += 2;
        }
        group + ((i - group) * step + hash / 64) % size
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// SplitMix64's finaliser (Steele, Lea, Flood 2014).
pub fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffled_order_is_a_permutation() {
        for blocks in [1, 2, 63, 64, 65, 130, 1000] {
            for seed in 0..20 {
                let order = Order::new(blocks, Some(seed));
                let mut seen: Vec<u64> = (0..blocks).map(|i| order.at(i)).collect();
                seen.sort_unstable();
                assert!(seen.iter().copied().eq(0..blocks), "{blocks} blocks, seed {seed}");
            }
        }
    }
}
