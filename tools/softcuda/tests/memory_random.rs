//! Random programs of a few threads, watched by the race detector and by a slow exact one: a vector clock for
//! every thread and a list of every access. Nothing may be reported that the exact one does not report.

use softcuda::ir::{Order, Scope};
use softcuda::memory::{BlockClocks, DeviceMemory, Domain, Hazard, How, Published, Shadow, Var};

const BYTES: usize = 64;

/// A small generator (PCG), so that programs are the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % end
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// For each thread (and each asynchronous operation) the time up to which its accesses are known.
type Times = Vec<u32>;

fn join(a: &mut Times, b: &Times) {
    if a.len() < b.len() {
        a.resize(b.len(), 0);
    }
    for (a, b) in a.iter_mut().zip(b) {
        *a = (*a).max(*b);
    }
}

#[derive(Clone)]
struct Release {
    times: Times,
    by: usize,
    block: usize,
    wide: bool,
}

struct Access {
    thread: usize,
    block: usize,
    time: u32,
    write: bool,
    strong: Option<Scope>,
    shared: bool,
    from: usize,
    to: usize,
}

/// The exact detector.
struct Exact {
    warps: usize,
    threads: Vec<Times>,
    /// Released at the last fence, at block scope and wider.
    fenced: Vec<[Option<Times>; 2]>,
    pending: Vec<Vec<Release>>,
    accesses: Vec<Access>,
    /// By block (or once for global memory) and address.
    variables: std::collections::HashMap<(usize, usize), Vec<Release>>,
}

impl Exact {
    fn new(blocks: usize, warps: usize) -> Self {
        let count = blocks * warps * 32;
        let mut threads = vec![vec![0; count]; count];
        for (index, times) in threads.iter_mut().enumerate() {
            times[index] = 1;
        }
        Self {
            warps,
            threads,
            fenced: vec![[None, None]; count],
            pending: vec![Vec::new(); count],
            accesses: Vec::new(),
            variables: Default::default(),
        }
    }

    fn thread(&self, block: usize, warp: usize, lane: usize) -> usize {
        (block * self.warps + warp) * 32 + lane
    }

    fn release(&mut self, thread: usize) -> Times {
        let times = self.threads[thread].clone();
        self.threads[thread][thread] += 1;
        times
    }

    fn barrier(&mut self, threads: &[usize]) {
        let mut all = Times::new();
        for &thread in threads {
            let times = self.release(thread);
            join(&mut all, &times);
        }
        for &thread in threads {
            join(&mut self.threads[thread], &all);
        }
    }

    fn fence(&mut self, thread: usize, block: usize, wide: bool) {
        let (taken, kept) = std::mem::take(&mut self.pending[thread])
            .into_iter()
            .partition(|read| read.block == block || read.wide && wide);
        self.pending[thread] = kept;
        let taken: Vec<Release> = taken;
        for read in taken {
            join(&mut self.threads[thread], &read.times);
        }
        let times = self.release(thread);
        self.fenced[thread][0] = Some(times.clone());
        if wide {
            self.fenced[thread][1] = Some(times);
        }
    }

    fn strong_write(
        &mut self,
        thread: usize,
        block: usize,
        key: (usize, usize),
        order: Order,
        wide: bool,
        rmw: bool,
    ) {
        let mut heads = Vec::new();
        let mut add = |times: Times, wide| {
            heads.push(Release {
                times,
                by: thread,
                block,
                wide,
            });
        };
        for (fence_wide, times) in [false, true].into_iter().zip(self.fenced[thread].clone()) {
            if let Some(times) = times {
                add(times, wide && fence_wide);
            }
        }
        if order.releases() {
            let times = self.release(thread);
            add(times, wide);
        }
        let variable = self.variables.entry(key).or_default();
        if !rmw {
            variable.retain(|head| head.by == thread);
        }
        variable.extend(heads);
    }

    fn strong_read(&mut self, thread: usize, block: usize, key: (usize, usize), order: Order, wide: bool) {
        for head in self.variables.get(&key).cloned().unwrap_or_default() {
            if head.block != block && !(head.wide && wide) {
                continue;
            }
            if order.acquires() {
                join(&mut self.threads[thread], &head.times);
            } else {
                self.pending[thread].push(Release {
                    wide: head.wide && wide,
                    ..head
                });
            }
        }
    }

    /// Whether the access races with an earlier one.
    fn access(&mut self, access: Access) -> bool {
        let times = &self.threads[access.thread];
        let races = self.accesses.iter().any(|earlier| {
            let place = earlier.shared == access.shared && (!access.shared || earlier.block == access.block);
            let apart = earlier.to <= access.from || access.to <= earlier.from;
            let strong = match (earlier.strong, access.strong) {
                (Some(a), Some(b)) => earlier.block == access.block || a != Scope::Cta && b != Scope::Cta,
                _ => false,
            };
            let known = times
                .get(earlier.thread)
                .is_some_and(|time| *time >= earlier.time);
            place
                && !apart
                && (earlier.write || access.write)
                && !strong
                && earlier.thread != access.thread
                && !known
        });
        self.accesses.push(access);
        races
    }
}

#[derive(Default, Debug)]
struct Counts {
    accesses: usize,
    racy: usize,
    found: usize,
    racy_programs: usize,
    found_programs: usize,
}

/// An asynchronous operation under way.
struct Operation {
    block: usize,
    agent: usize,
    thread: usize,
}

fn run(seed: u64, blocks: usize, warps: usize, counts: &mut Counts) {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    for _ in 0..4 {
        random.below(2);
    }
    let launch = DeviceMemory::new(1 << 20).begin_launch();
    let global = Shadow::new(BYTES as u64, Domain::Global);
    global.set_initialised(0, BYTES as u64);
    let shared: Vec<_> = (0..blocks)
        .map(|_| Shadow::new(BYTES as u64, Domain::Shared))
        .collect();
    let mut clocks: Vec<_> = (0..blocks)
        .map(|block| {
            let mut clocks = BlockClocks::new(&launch);
            clocks.begin_block(block as u32, warps as u32 * 32, &shared[block], BYTES as u64);
            shared[block].set_initialised(0, BYTES as u64);
            clocks
        })
        .collect();
    let mut exact = Exact::new(blocks, warps);
    // Barriers with separate arrival, as mbarriers: what has arrived, for both.
    let mut barriers: Vec<(Published, Times)> = vec![Default::default(); blocks];
    let mut operations: Vec<Operation> = Vec::new();
    // Some programs hardly synchronise, others hardly race.
    let synchronise = random.of(&[20, 50, 80, 95]);
    let apart = random.chance(60);
    let few = random.chance(50);
    let (mut racy, mut found) = (false, false);
    for step in 0..random.of(&[20, 60, 200]) {
        let block = random.below(blocks);
        let warp = random.below(warps);
        let lane = random.of(if few { &[0, 1] } else { &[0, 1, 2, 31] });
        let thread = exact.thread(block, warp, lane);
        let mask: u32 = random.of(&[u32::MAX, u32::MAX, 1 << lane, 0x8000_0003]);
        let lanes: Vec<usize> = (0..32).filter(|lane| mask >> lane & 1 != 0).collect();
        let threads = |exact: &Exact| -> Vec<usize> {
            lanes
                .iter()
                .map(|&lane| exact.thread(block, warp, lane))
                .collect()
        };
        if random.chance(synchronise) {
            let wide = random.chance(70);
            let scope = if wide {
                random.of(&[Scope::Gpu, Scope::Sys])
            } else {
                Scope::Cta
            };
            match random.below(10) {
                0 => {
                    let participants: Vec<(usize, u32)> = (0..warps)
                        .filter(|_| random.chance(80))
                        .map(|warp| (warp, mask))
                        .collect();
                    clocks[block].barrier(&participants);
                    let all: Vec<usize> = participants
                        .iter()
                        .flat_map(|&(warp, _)| lanes.iter().map(move |&lane| (warp, lane)))
                        .map(|(warp, lane)| exact.thread(block, warp, lane))
                        .collect();
                    exact.barrier(&all);
                }
                1 => {
                    clocks[block].warp_sync(warp, mask);
                    let all = threads(&exact);
                    exact.barrier(&all);
                }
                2 | 3 => {
                    clocks[block].fence(warp, mask, scope);
                    for thread in threads(&exact) {
                        exact.fence(thread, block, wide);
                    }
                }
                4 => {
                    // For the whole warp, or for these lanes alone.
                    let published = match random.chance(50) {
                        true => clocks[block].release(warp, mask),
                        false => clocks[block].release_lanes(warp, mask),
                    };
                    barriers[block].0.join(&published);
                    for thread in threads(&exact) {
                        let times = exact.release(thread);
                        join(&mut barriers[block].1, &times);
                    }
                }
                5 => {
                    clocks[block].acquire(warp, mask, &barriers[block].0);
                    for thread in threads(&exact) {
                        join(&mut exact.threads[thread], &barriers[block].1);
                    }
                }
                _ => {
                    // Strong accesses to one of two variables.
                    let in_shared = random.chance(if blocks == 1 { 50 } else { 15 });
                    let at = if apart { 48 } else { 0 } + 4 * random.below(2);
                    let (var, key) = if in_shared {
                        (Var::Shared(at as u32), (block, at))
                    } else {
                        (Var::Global(at as u64), (usize::MAX, at))
                    };
                    let shadow = if in_shared { &shared[block] } else { &global };
                    let order = random.of(&[Order::Relaxed, Order::Acquire, Order::Release, Order::AcqRel]);
                    let access = |exact: &Exact, write| Access {
                        thread,
                        block,
                        time: exact.threads[thread][thread],
                        write,
                        strong: Some(scope),
                        shared: in_shared,
                        from: at,
                        to: at + 4,
                    };
                    let kind = random.below(3);
                    let lanes = 1 << lane;
                    if kind != 0 {
                        clocks[block].before_strong_write(warp, lanes, var, order, scope, kind == 2);
                        exact.strong_write(thread, block, key, order, wide, kind == 2);
                    }
                    let races = exact.access(access(&exact, kind != 0));
                    let who = clocks[block].who(warp);
                    let result = match kind {
                        0 => shadow.read(at as u64, 4, &who, lane, How::Strong(scope), step),
                        1 => shadow.write(at as u64, 4, &who, lane, How::Strong(scope), false, step),
                        _ => shadow.atomic(at as u64, 4, &who, lane, scope, step),
                    };
                    judge(seed, step, result, races, false, counts, &mut racy, &mut found);
                    if kind != 1 {
                        clocks[block].after_strong_read(warp, lanes, var, order, scope);
                        exact.strong_read(thread, block, key, order, wide);
                    }
                }
            }
            continue;
        }
        // A weak access, by the thread or by an asynchronous operation of it.
        let in_shared = random.chance(50);
        let bytes = random.of(&[1, 2, 4, 4, 4, 8, 16]);
        let from = random.below((if apart { 48 } else { BYTES }) - bytes + 1);
        let from = if random.chance(80) {
            from / bytes * bytes
        } else {
            from
        };
        let shadow = if in_shared { &shared[block] } else { &global };
        let asynchronous = random.chance(10);
        let write = asynchronous || random.chance(50);
        let same_value = write && random.chance(5);
        let mut access = Access {
            thread,
            block,
            time: 0,
            write,
            strong: None,
            shared: in_shared,
            from,
            to: from + bytes,
        };
        let result;
        if asynchronous {
            let agent = clocks[block].async_agent(random.below(3) as u64);
            clocks[block].async_begin(agent, warp, lane);
            let mut times = exact.release(thread);
            access.thread = exact.threads.len();
            times.resize(access.thread, 0);
            times.push(1);
            exact.threads.push(times);
            operations.push(Operation {
                block,
                agent,
                thread: access.thread,
            });
            access.time = 1;
            let who = clocks[block].who_async(agent);
            result = shadow.write(from as u64, bytes, &who, lane, How::Weak, same_value, step);
        } else {
            access.time = exact.threads[thread][thread];
            let who = clocks[block].who(warp);
            result = if write {
                shadow.write(from as u64, bytes, &who, lane, How::Weak, same_value, step)
            } else {
                shadow.read(from as u64, bytes, &who, lane, How::Weak, step)
            };
        }
        let races = exact.access(access);
        judge(
            seed, step, result, races, same_value, counts, &mut racy, &mut found,
        );
        // Sometimes all operations of an agent are complete, and some lanes have waited for them.
        if !operations.is_empty() && random.chance(20) {
            let at = random.below(operations.len());
            let (block, agent) = (operations[at].block, operations[at].agent);
            let published = clocks[block].async_end(agent);
            clocks[block].acquire(warp, mask, &published);
            let (done, rest) = operations
                .into_iter()
                .partition(|operation| operation.block == block && operation.agent == agent);
            operations = rest;
            let done: Vec<Operation> = done;
            for operation in done {
                let times = exact.threads[operation.thread].clone();
                for &lane in &lanes {
                    let waiter = exact.thread(block, warp, lane);
                    join(&mut exact.threads[waiter], &times);
                }
            }
        }
    }
    counts.racy_programs += usize::from(racy);
    counts.found_programs += usize::from(found);
}

#[allow(clippy::too_many_arguments)]
fn judge(
    seed: u64,
    step: u32,
    result: Result<(), Hazard>,
    races: bool,
    same_value: bool,
    counts: &mut Counts,
    racy: &mut bool,
    found: &mut bool,
) {
    assert!(
        races || result.is_ok(),
        "program {seed}, step {step}: {result:?} is a false alarm"
    );
    counts.accesses += 1;
    if races && !same_value {
        counts.racy += 1;
        *racy = true;
    }
    if result.is_err() {
        *found = true;
        counts.found += usize::from(!same_value);
    }
}

#[test]
fn random_programs_raise_no_false_alarm() {
    let programs = std::env::var("SOFTCUDA_RANDOM_PROGRAMS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(1000);
    for (blocks, warps) in [(1, 4), (2, 2), (1, 1), (3, 1)] {
        let mut counts = Counts::default();
        for seed in 0..programs {
            run(seed, blocks, warps, &mut counts);
        }
        let share = |found: usize, all: usize| 100.0 * found as f64 / all as f64;
        println!(
            "{blocks} blocks of {warps} warps: {} accesses; {:.1} % of {} racy accesses found, {:.1} % of {} racy programs",
            counts.accesses,
            share(counts.found, counts.racy),
            counts.racy,
            share(counts.found_programs, counts.racy_programs),
            counts.racy_programs,
        );
        assert!(counts.racy * 20 > counts.accesses && counts.racy * 20 < counts.accesses * 19);
        assert!(share(counts.found, counts.racy) > 60.0);
        assert!(share(counts.found_programs, counts.racy_programs) > 95.0);
    }
}
