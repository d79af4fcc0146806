//! What the threads of a block know of each other's accesses.
//!
//! Every warp has a clock, and every lane a *view*: for each warp of the block the clock up to which that warp's
//! accesses are ordered before whatever the lane does next, and the same for warps of other blocks of which it
//! has learned. Usually all lanes of a warp share one view; a lane gets its own when it acquires alone, until the
//! warp synchronises.
//!
//! A release publishes the view together with the own warp's clock, and the clock goes on: later accesses are
//! not in it. An acquire joins what was published into the view. An access is ordered after an earlier one if it
//! is by the same thread or the view holds the earlier one's clock — for the lanes of one warp too, which only
//! warp and block barriers let know of each other.
//!
//! What a lane does alone and others wait for by its arrival (at an mbarrier, or by an asynchronous operation that it starts)
//! speaks for that lane only: `release_lanes` publishes the own warp's clock for single lanes, beside what the lane knows of
//! its warp by the last warp or block barrier. Of a word in which several lanes touched different bytes, one known lane counts
//! for all.
//!
//! Where views say more than the memory model grants (so races are missed): a lane that releases in another way (a
//! fence, an atomic operation, a block's barrier) is taken to speak for its whole warp; a warp barrier of some lanes is one
//! of all; what more than [`REMOTE_BLOCKS`] other blocks did is not told apart any more.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use crate::ir::{Order, Scope};
use crate::memory::launch::{self, Launch};
use crate::memory::shadow::{Domain, Shadow, Thread};

/// Most warps of a block.
pub(super) const WARPS: usize = 32;
/// Warps and asynchronous agents.
const AGENTS: usize = WARPS + BlockClocks::ASYNC_AGENTS;
/// Bits of a clock; beyond, it stands still, and all later accesses pass for known.
pub(super) const CLOCK_BITS: u32 = 26;
pub(super) const CLOCK_MAX: u32 = (1 << CLOCK_BITS) - 1;
/// Other blocks whose clocks a view holds one by one.
const REMOTE_BLOCKS: usize = 512;

/// Lanes of a warp.
const LANES: usize = 32;

/// What is known of the agents of a block.
#[derive(Clone)]
struct Clocks {
    /// By agent: what all its lanes did up to this clock.
    all: [u32; AGENTS],
    /// Of single threads (32 · warp + lane), ascending: up to a later clock than their warp's.
    lanes: Vec<(u16, u32)>,
}

impl Clocks {
    fn new(clock: u32) -> Self {
        Self {
            all: [clock; AGENTS],
            lanes: Vec::new(),
        }
    }

    #[inline(always)]
    fn knows(&self, agent: u32, lane: u32, clock: u32) -> bool {
        self.all[agent as usize % AGENTS] >= clock
            || !self.lanes.is_empty() && self.of_lane(agent, lane) >= clock
    }

    /// Whether some lane of the agent is known up to a clock.
    fn knows_some(&self, agent: u32, clock: u32) -> bool {
        let is_of = |thread: u16| usize::from(thread) / LANES == agent as usize;
        self.lanes
            .iter()
            .any(|&(thread, known)| is_of(thread) && known >= clock)
    }

    fn of_lane(&self, agent: u32, lane: u32) -> u32 {
        let thread = (agent as usize * LANES + lane as usize) as u16;
        match self.lanes.binary_search_by_key(&thread, |entry| entry.0) {
            Ok(at) => self.lanes[at].1,
            Err(_) => 0,
        }
    }

    fn covers(&self, other: &Clocks) -> bool {
        // No early exit: this way it is a few vector instructions.
        let all = self
            .all
            .iter()
            .zip(&other.all)
            .fold(true, |all, (a, b)| all & (a >= b));
        let known = |&(thread, clock): &(u16, u32)| {
            self.knows(
                u32::from(thread) / LANES as u32,
                u32::from(thread) % LANES as u32,
                clock,
            )
        };
        all && other.lanes.iter().all(known)
    }

    fn raise(&mut self, other: &Clocks) {
        for (a, b) in self.all.iter_mut().zip(&other.all) {
            *a = (*a).max(*b);
        }
        if !self.lanes.is_empty() || !other.lanes.is_empty() {
            self.raise_lanes(&other.lanes);
        }
    }

    #[cold]
    fn raise_lanes(&mut self, other: &[(u16, u32)]) {
        let mut joined = std::mem::take(&mut self.lanes);
        joined.extend_from_slice(other);
        joined.sort_unstable_by_key(|&(thread, clock)| (thread, std::cmp::Reverse(clock)));
        joined.dedup_by_key(|entry| entry.0);
        // All lanes of a warp together are the warp.
        for lanes in joined.chunk_by(|a, b| usize::from(a.0) / LANES == usize::from(b.0) / LANES) {
            if lanes.len() == LANES {
                let warp = &mut self.all[usize::from(lanes[0].0) / LANES];
                *warp = lanes
                    .iter()
                    .map(|entry| entry.1)
                    .fold(u32::MAX, u32::min)
                    .max(*warp);
            }
        }
        joined.retain(|&(thread, clock)| clock > self.all[usize::from(thread) / LANES]);
        self.lanes = joined;
    }
}

/// Clocks of several blocks.
#[derive(Clone, Default)]
struct Remote {
    /// Everything of the blocks below this one is known.
    below: u32,
    /// By block, ascending.
    blocks: Vec<(u32, Arc<Clocks>)>,
}

impl Remote {
    fn get(&self, block: u32) -> Option<&Arc<Clocks>> {
        let at = self.blocks.binary_search_by_key(&block, |entry| entry.0).ok()?;
        Some(&self.blocks[at].1)
    }

    fn knows(&self, thread: Thread, clock: u32) -> bool {
        thread.block < self.below
            || self
                .get(thread.block)
                .is_some_and(|clocks| clocks.knows(thread.warp, thread.lane, clock))
    }

    fn holds(&self, block: u32, clocks: &Arc<Clocks>) -> bool {
        block < self.below || self.get(block).is_some_and(|own| holds(own, clocks))
    }

    fn covers(&self, other: &Remote) -> bool {
        let mut ours = self.blocks.iter();
        self.below >= other.below
            && other.blocks.iter().all(|(block, clocks)| {
                *block < self.below
                    || ours
                        .find(|entry| entry.0 >= *block)
                        .is_some_and(|entry| entry.0 == *block && holds(&entry.1, clocks))
            })
    }

    fn insert(&mut self, block: u32, clocks: &Arc<Clocks>) {
        if block < self.below {
            return;
        }
        match self.blocks.binary_search_by_key(&block, |entry| entry.0) {
            Ok(at) => join_clocks(&mut self.blocks[at].1, clocks),
            Err(at) => self.blocks.insert(at, (block, clocks.clone())),
        }
        self.limit();
    }

    fn join(&mut self, other: &Remote) {
        self.below = self.below.max(other.below);
        let mut joined = Vec::with_capacity(self.blocks.len().max(other.blocks.len()));
        let mut ours = std::mem::take(&mut self.blocks).into_iter().peekable();
        for (block, clocks) in &other.blocks {
            while let Some(entry) = ours.next_if(|entry| entry.0 < *block) {
                joined.push(entry);
            }
            let mut entry = (*block, clocks.clone());
            if let Some((_, own)) = ours.next_if(|entry| entry.0 == *block) {
                join_clocks(&mut entry.1, &own);
            }
            joined.push(entry);
        }
        joined.extend(ours);
        joined.retain(|entry| entry.0 >= self.below);
        self.blocks = joined;
        self.limit();
    }

    fn limit(&mut self) {
        if self.blocks.len() > REMOTE_BLOCKS {
            let half = REMOTE_BLOCKS / 2;
            self.below = self.blocks[half].0;
            self.blocks.drain(..half);
        }
    }
}

fn holds(a: &Arc<Clocks>, b: &Arc<Clocks>) -> bool {
    Arc::ptr_eq(a, b) || a.covers(b)
}

/// Joins into shared clocks, keeping one of the two where it says it all.
fn join_clocks(a: &mut Arc<Clocks>, b: &Arc<Clocks>) {
    if holds(a, b) {
        return;
    }
    if b.covers(a) {
        *a = b.clone();
    } else {
        Arc::make_mut(a).raise(b);
    }
}

fn join_remote(a: &mut Option<Arc<Remote>>, b: &Option<Arc<Remote>>) {
    let Some(b) = b else {
        return;
    };
    match a {
        None => *a = Some(b.clone()),
        Some(a) if Arc::ptr_eq(a, b) || a.covers(b) => {}
        Some(a) if b.covers(a) => *a = b.clone(),
        Some(a) => Arc::make_mut(a).join(b),
    }
}

/// A location that is used to synchronise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Var {
    /// Offset in the block's shared memory.
    Shared(u32),
    /// Device address.
    Global(u64),
}

/// What a releasing thread knew: to be joined into others' knowledge. Cheap to clone.
#[derive(Clone, Default)]
pub struct Published {
    /// The block that `own` is of.
    block: u32,
    own: Option<Arc<Clocks>>,
    rest: Option<Arc<Remote>>,
    /// The publisher's clock.
    clock: u32,
}

impl Published {
    /// Both together (several arrivals at one barrier).
    pub fn join(&mut self, other: &Published) {
        if self.is_empty() {
            *self = other.clone();
            return;
        }
        self.clock = self.clock.max(other.clock);
        join_remote(&mut self.rest, &other.rest);
        let Some(clocks) = &other.own else {
            return;
        };
        match &mut self.own {
            Some(own) if self.block == other.block => join_clocks(own, clocks),
            Some(_) => insert_remote(&mut self.rest, other.block, clocks),
            None => {
                self.block = other.block;
                self.own = Some(clocks.clone());
            }
        }
    }

    /// The publisher's clock.
    pub fn clock(&self) -> u32 {
        self.clock
    }

    /// Nothing was published.
    pub fn is_empty(&self) -> bool {
        self.own.is_none() && self.rest.is_none()
    }

    fn speaks_of(&self, block: u32) -> bool {
        self.own.is_some() && self.block == block
            || self.rest.as_ref().is_some_and(|rest| rest.get(block).is_some())
    }

    fn same(&self, other: &Published) -> bool {
        fn same<T>(a: &Option<Arc<T>>, b: &Option<Arc<T>>) -> bool {
            match (a, b) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (None, None) => true,
                _ => false,
            }
        }
        self.block == other.block && same(&self.own, &other.own) && same(&self.rest, &other.rest)
    }
}

fn insert_remote(remote: &mut Option<Arc<Remote>>, block: u32, clocks: &Arc<Clocks>) {
    let remote = remote.get_or_insert_default();
    if !remote.holds(block, clocks) {
        Arc::make_mut(remote).insert(block, clocks);
    }
}

/// What a lane knows.
#[derive(Clone)]
struct View {
    local: Clocks,
    remote: Option<Arc<Remote>>,
}

impl View {
    fn new(clock: u32) -> Self {
        Self {
            local: Clocks::new(clock),
            remote: None,
        }
    }

    /// Cheap and sure if it says yes; a no may be wrong.
    fn covers(&self, block: u32, published: &Published) -> bool {
        let own = match &published.own {
            None => true,
            Some(clocks) if published.block == block => self.local.covers(clocks),
            Some(clocks) => self
                .remote
                .as_ref()
                .is_some_and(|remote| remote.holds(published.block, clocks)),
        };
        own && match (&published.rest, &self.remote) {
            (None, _) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    fn join(&mut self, other: &View) {
        self.local.raise(&other.local);
        join_remote(&mut self.remote, &other.remote);
    }

    /// For a thread of `block`.
    fn acquire(&mut self, block: u32, published: &Published) {
        if let Some(rest) = &published.rest {
            join_remote(&mut self.remote, &published.rest);
            // What others know of this block has come back.
            if let Some(clocks) = rest.get(block) {
                self.local.raise(clocks);
            }
        }
        match &published.own {
            Some(clocks) if published.block == block => self.local.raise(clocks),
            Some(clocks) => insert_remote(&mut self.remote, published.block, clocks),
            None => {}
        }
    }
}

/// A publication read by a strong load or an atomic operation, which takes effect at the next fence.
struct Pending {
    lanes: u32,
    /// From other blocks: a fence at block scope does not do.
    wide: bool,
    published: Published,
}

/// A warp, or an asynchronous agent (which has no lanes of its own).
struct Warp {
    clock: u32,
    /// Whether accesses may have been made at this clock.
    touched: Cell<bool>,
    /// Number of the present clock in global memory's stamps, 0 until it is needed.
    epoch: Cell<u32>,
    /// An epoch that the view covers, the last one that was looked up.
    known: Cell<u32>,
    /// Lanes that exist and have not exited.
    live: u32,
    view: View,
    /// Lanes with views of their own, in `own`.
    diverged: u32,
    own: Vec<Option<Box<View>>>,
    /// What lanes released at their last fence: at block scope, and at a wider one.
    fenced: [Vec<(u32, Published)>; 2],
    pending: Vec<Pending>,
}

impl Warp {
    fn new(base: u32, live: u32) -> Self {
        Self {
            clock: base + 1,
            touched: Cell::new(false),
            epoch: Cell::new(0),
            known: Cell::new(0),
            live,
            view: View::new(base),
            diverged: 0,
            own: Vec::new(),
            fenced: [Vec::new(), Vec::new()],
            pending: Vec::new(),
        }
    }

    fn set_clock(&mut self, clock: u32) {
        self.clock = clock.min(CLOCK_MAX);
        self.touched.set(false);
        self.epoch.set(0);
    }

    /// The clock up to which everything was done so far; what follows comes later.
    fn close(&mut self) -> u32 {
        if self.touched.get() {
            let clock = self.clock;
            self.set_clock(clock + 1);
            clock
        } else {
            self.clock - 1
        }
    }

    /// The clock goes past `clock`.
    fn pass(&mut self, clock: u32) {
        if clock >= self.clock && self.clock < CLOCK_MAX {
            self.set_clock(clock + 1);
        }
    }

    #[inline(always)]
    fn view(&self, lane: usize) -> &View {
        if self.diverged >> lane & 1 != 0 {
            self.own[lane].as_ref().expect("a view for each diverged lane")
        } else {
            &self.view
        }
    }

    /// The lane's own view, made if it has none.
    fn diverge(&mut self, lane: usize) -> &mut View {
        if self.own.is_empty() {
            self.own.resize_with(32, || None);
        }
        if self.diverged >> lane & 1 == 0 {
            self.diverged |= 1 << lane;
            self.own[lane] = Some(Box::new(self.view.clone()));
        }
        self.own[lane].as_mut().expect("just made")
    }

    /// The views of some lanes together.
    fn joined(&self, mask: u32) -> View {
        let mask = if mask == 0 { u32::MAX } else { mask };
        let apart = self.diverged & mask;
        let mut all = if apart == mask {
            self.view(apart.trailing_zeros() as usize).clone()
        } else {
            self.view.clone()
        };
        for lane in lanes(apart) {
            all.join(self.view(lane));
        }
        all
    }

    /// Gives the lanes of `mask` this view.
    fn replace(&mut self, mask: u32, view: &View) {
        if mask & self.live == self.live {
            self.view = view.clone();
            self.diverged = 0;
        } else {
            for lane in lanes(mask & self.live) {
                *self.diverge(lane) = view.clone();
            }
        }
    }

    fn acquire(&mut self, mask: u32, block: u32, published: &Published) {
        if published.is_empty() {
            return;
        }
        let mut learned = false;
        let all = mask & self.live == self.live;
        if all && !self.view.covers(block, published) {
            self.view.acquire(block, published);
            learned = true;
        }
        for lane in lanes(mask & if all { self.diverged } else { self.live }) {
            if !self.view(lane).covers(block, published) {
                self.diverge(lane).acquire(block, published);
                learned = true;
            }
        }
        if learned {
            self.pass(published.clock);
        }
    }
}

/// Who makes an access: one warp (or asynchronous agent) at its present clock. Made once per warp instruction.
#[derive(Clone, Copy)]
pub struct Who<'a> {
    pub(super) launch: &'a launch::Shared,
    warp: &'a Warp,
    pub(super) block: u32,
    pub(super) agent: u32,
    pub(super) clock: u32,
    /// Stamps of this block up to this clock are from before it began.
    pub(super) base: u32,
}

impl Who<'_> {
    /// The smallest stamp that may count.
    #[inline(always)]
    pub(super) fn floor(&self, domain: Domain) -> u64 {
        match domain {
            Domain::Shared => 1,
            Domain::Global => u64::from(self.launch.first) << 32,
        }
    }

    /// The epoch of this access's stamp.
    #[inline(always)]
    pub(super) fn epoch(&self, domain: Domain) -> u64 {
        let direct = self.agent << CLOCK_BITS | self.clock;
        u64::from(match domain {
            Domain::Shared => direct,
            Domain::Global => match self.warp.epoch.get() {
                0 => {
                    let epoch = self.launch.epochs.take(self.block, direct);
                    self.warp.epoch.set(epoch);
                    epoch
                }
                epoch => epoch,
            },
        })
    }

    /// Whether the access of a stamp is ordered before the next one of whatever lane of the warp, for sure and
    /// cheaply; a no says nothing. The stamp is not below the floor.
    #[inline(always)]
    pub(super) fn surely_knows(&self, domain: Domain, stamp: u64) -> bool {
        let epoch = (stamp >> 32) as u32;
        if self.warp.diverged != 0 {
            return false;
        }
        let local = &self.warp.view.local.all;
        let knows = |direct: u32| local[(direct >> CLOCK_BITS) as usize % AGENTS] >= direct & CLOCK_MAX;
        match domain {
            Domain::Shared => knows(epoch),
            // Views only grow: what was known once stays known.
            Domain::Global if epoch == self.warp.known.get() => true,
            Domain::Global => {
                let (block, direct) = self.launch.epochs.get(epoch);
                let known = block == self.block && knows(direct);
                if known {
                    self.warp.known.set(epoch);
                }
                known
            }
        }
    }

    /// Whether what a thread did up to a clock is ordered before this lane's next access.
    #[inline(always)]
    pub(super) fn knows(&self, lane: usize, thread: Thread, clock: u32) -> bool {
        let view = self.warp.view(lane);
        if thread.block == self.block {
            view.local.knows(thread.warp, thread.lane, clock)
        } else {
            view.remote
                .as_ref()
                .is_some_and(|remote| remote.knows(thread, clock))
        }
    }
}

impl Who<'_> {
    /// The same for some lane of the thread's warp, apart from the others.
    pub(super) fn knows_some(&self, lane: usize, thread: Thread, clock: u32) -> bool {
        let view = self.warp.view(lane);
        if thread.block == self.block {
            view.local.knows_some(thread.warp, clock)
        } else {
            let there = view.remote.as_ref().and_then(|remote| remote.get(thread.block));
            there.is_some_and(|clocks| clocks.knows_some(thread.warp, clock))
        }
    }

    /// Whether the access is by this thread itself.
    pub fn is_of(&self, thread: Thread, lane: usize) -> bool {
        (self.block, self.agent, lane as u32) == (thread.block, thread.warp, thread.lane)
    }

    /// Whether the lane's next access is ordered after what a thread did up to a clock.
    pub fn is_after(&self, lane: usize, thread: Thread, clock: u32) -> bool {
        self.knows(lane, thread, clock)
    }
}

/// An asynchronous agent's state.
struct Agent {
    warp: Warp,
    /// No operation is under way.
    idle: bool,
}

/// A variable in shared memory at which something was published.
struct Variable {
    published: Published,
    /// By whom: lanes of each warp.
    by: [u32; WARPS],
}

/// Clocks and knowledge of one block. One host thread owns it together with the block's shared [`Shadow`] and
/// reuses both for the blocks that it runs one after the other.
pub struct BlockClocks {
    launch: Launch,
    block: u32,
    base: u32,
    warps: Vec<Warp>,
    agents: Vec<Agent>,
    agent_of: HashMap<u64, usize>,
    variables: HashMap<u32, Variable>,
}

impl BlockClocks {
    /// Asynchronous agents that a block has room for, beyond its warps.
    pub const ASYNC_AGENTS: usize = 32;

    /// Call [`BlockClocks::begin_block`] before anything else.
    pub fn new(launch: &Launch) -> Self {
        Self {
            launch: launch.clone(),
            block: 0,
            base: 0,
            warps: Vec::new(),
            agents: Vec::new(),
            agent_of: HashMap::new(),
            variables: HashMap::new(),
        }
    }

    /// A block begins: `threads` threads, `shared_bytes` bytes of shared memory, of which nothing is initialised
    /// and nothing touched. `shared` must be the same one every time, and long enough; nobody else may have used
    /// it.
    ///
    /// # Panics
    /// If there are more than 1024 threads.
    pub fn begin_block(&mut self, block: u32, threads: u32, shared: &Shadow, shared_bytes: u64) {
        assert!(
            threads as usize <= WARPS * 32,
            "{threads} threads are more than a block can have"
        );
        // Stamps of the last block are told by their clocks, so they need not be cleared.
        let warps = self
            .warps
            .iter()
            .chain(self.agents.iter().map(|agent| &agent.warp));
        self.base = warps.map(|warp| warp.clock).max().unwrap_or(self.base);
        if self.base > CLOCK_MAX / 2 {
            shared.clear_stamps();
            self.base = 0;
        }
        shared.set_uninitialised(0, shared_bytes);
        self.block = block;
        self.warps.clear();
        for first in (0..threads).step_by(32) {
            let count = (threads - first).min(32);
            self.warps.push(Warp::new(self.base, u32::MAX >> (32 - count)));
        }
        self.agents.clear();
        self.agent_of.clear();
        self.variables.clear();
    }

    /// For the accesses of one warp instruction.
    #[inline]
    pub fn who(&self, warp: usize) -> Who<'_> {
        self.who_is(&self.warps[warp], warp as u32)
    }

    #[inline]
    fn who_is<'a>(&'a self, warp: &'a Warp, agent: u32) -> Who<'a> {
        warp.touched.set(true);
        Who {
            launch: &self.launch.shared,
            warp,
            block: self.block,
            agent,
            clock: warp.clock,
            base: self.base,
        }
    }

    /// Lanes that have exited take no part in warp-wide knowledge any more.
    pub fn exit(&mut self, warp: usize, lanes: u32) {
        self.warps[warp].live &= !lanes;
    }

    /// A barrier of these warps' lanes completes at once: (warp, lanes). For `bar.sync` of a whole block or with
    /// subsets when all participants wait; with `bar.arrive` use `release` and `acquire`.
    pub fn barrier(&mut self, participants: &[(usize, u32)]) {
        let Some((&(warp, mask), others)) = participants.split_first() else {
            return;
        };
        let mut all = self.warps[warp].joined(mask);
        let mut clock = self.close_into(warp, &mut all);
        for &(warp, mask) in others {
            let state = &self.warps[warp];
            if state.diverged & mask == 0 {
                all.join(&state.view);
            } else {
                all.join(&state.joined(mask));
            }
            clock = clock.max(self.close_into(warp, &mut all));
        }
        for &(warp, mask) in participants {
            let state = &mut self.warps[warp];
            state.replace(mask, &all);
            state.pass(clock);
        }
    }

    /// Ends the warp's present clock, and enters it into a view.
    fn close_into(&mut self, warp: usize, view: &mut View) -> u32 {
        let clock = self.warps[warp].close();
        view.local.all[warp] = view.local.all[warp].max(clock);
        clock
    }

    /// `bar.warp.sync` by the lanes of `mask`, and other instructions that order memory among the lanes of a
    /// warp. `shfl`, `vote`, … do not.
    pub fn warp_sync(&mut self, warp: usize, mask: u32) {
        let state = &mut self.warps[warp];
        let clock = state.close();
        if state.diverged & mask != 0 {
            let mut all = state.joined(mask & state.live);
            all.local.all[warp] = all.local.all[warp].max(clock);
            state.replace(mask, &all);
        } else {
            // Of some lanes only: the others get to know too much.
            state.view.local.all[warp] = state.view.local.all[warp].max(clock);
        }
    }

    /// Ends the warp's present clock and gives it: what the warp did so far has this clock or a smaller one, what follows
    /// a greater one (as long as clocks go on).
    pub fn close(&mut self, warp: usize) -> u32 {
        self.warps[warp].close()
    }

    /// `fence.acq_rel`, `fence.sc`, `membar` by the lanes of `mask`.
    pub fn fence(&mut self, warp: usize, mask: u32, scope: Scope) {
        let block = self.block;
        let wide = scope != Scope::Cta;
        let state = &mut self.warps[warp];
        let mut pending = std::mem::take(&mut state.pending);
        pending.retain_mut(|read| {
            if wide || !read.wide {
                state.acquire(read.lanes & mask, block, &read.published);
                read.lanes &= !mask;
            }
            read.lanes != 0
        });
        state.pending = pending;
        for list in &mut state.fenced[..=usize::from(wide)] {
            list.retain_mut(|(lanes, _)| {
                *lanes &= !mask;
                *lanes != 0
            });
        }
        let shared = mask & !state.diverged;
        let apart = mask & state.diverged;
        if shared != 0 {
            let published = self.release(warp, shared);
            self.warps[warp].fenced[usize::from(wide)].push((shared, published));
        }
        for lane in lanes(apart) {
            let published = self.release(warp, 1 << lane);
            self.warps[warp].fenced[usize::from(wide)].push((1 << lane, published));
        }
    }

    /// The lanes of `mask` release (arrive at a barrier): what they know now. Their later accesses are not in it.
    pub fn release(&mut self, warp: usize, mask: u32) -> Published {
        release(&mut self.warps[warp], mask, self.block, warp)
    }

    /// The same for what single lanes do without their warp: the other lanes' accesses since they last synchronised are
    /// not in it.
    pub fn release_lanes(&mut self, warp: usize, mask: u32) -> Published {
        let block = self.block;
        let state = &mut self.warps[warp];
        if mask & state.live == state.live {
            return release(state, mask, block, warp);
        }
        let clock = state.close();
        let View { mut local, remote } = state.joined(mask);
        let own: Vec<_> = lanes(mask)
            .map(|lane| ((warp * LANES + lane) as u16, clock))
            .collect();
        local.raise_lanes(&own);
        Published {
            block,
            own: Some(Arc::new(local)),
            rest: remote,
            clock,
        }
    }

    /// The lanes of `mask` acquire (wait has ended).
    pub fn acquire(&mut self, warp: usize, mask: u32, published: &Published) {
        self.warps[warp].acquire(mask, self.block, published);
    }

    /// *Before* memory is written by a strong store or an atomic operation (`rmw`) of these lanes at `var`:
    /// publishes what they release there. Once per address (and element of a vector).
    pub fn before_strong_write(
        &mut self,
        warp: usize,
        mask: u32,
        var: Var,
        order: Order,
        scope: Scope,
        rmw: bool,
    ) {
        let publish = self.publications(warp, mask, order, scope);
        match var {
            Var::Shared(offset) => {
                let [mut published, others] = publish;
                published.join(&others);
                self.publish_shared(offset, (warp, mask), published, rmw);
            }
            Var::Global(address) => {
                let [narrow, wide] = publish;
                if narrow.is_empty() && wide.is_empty() {
                    return;
                }
                self.launch.shared.variables.update(address, |variable| {
                    if !wide.is_empty() {
                        variable.wide.join(&wide);
                    }
                    if !narrow.is_empty() {
                        let block = self.block;
                        match variable.narrow.iter_mut().find(|(of, _)| *of == block) {
                            Some((_, published)) => published.join(&narrow),
                            None => variable.narrow.push((block, narrow)),
                        }
                    }
                });
            }
        }
    }

    /// What a strong write by these lanes makes known to the block only, and to everybody.
    fn publications(&mut self, warp: usize, mask: u32, order: Order, scope: Scope) -> [Published; 2] {
        let wide = scope != Scope::Cta;
        let mut publish = [Published::default(), Published::default()];
        if order.releases() {
            publish[usize::from(wide)] = self.release(warp, mask);
        } else {
            for (list, fence_wide) in self.warps[warp].fenced.iter().zip([false, true]) {
                for (_, published) in list.iter().filter(|(lanes, _)| lanes & mask != 0) {
                    publish[usize::from(wide && fence_wide)].join(published);
                }
            }
        }
        publish
    }

    /// [`BlockClocks::before_strong_write`] where the memory is another block's, of the same cluster, which `there` are the
    /// clocks of.
    #[allow(clippy::too_many_arguments)]
    pub fn before_far_write(
        &mut self,
        there: &mut BlockClocks,
        warp: usize,
        mask: u32,
        offset: u32,
        order: Order,
        scope: Scope,
        rmw: bool,
    ) {
        let [_, published] = self.publications(warp, mask, order, scope);
        there.publish_shared(offset, (0, 0), published, rmw);
    }

    /// [`BlockClocks::after_strong_read`] where the memory is another block's.
    pub fn after_far_read(&mut self, there: &BlockClocks, warp: usize, mask: u32, offset: u32, order: Order) {
        if let Some(variable) = there.variables.get(&offset) {
            self.learn(warp, mask, variable.published.clone(), order);
        }
    }

    fn learn(&mut self, warp: usize, mask: u32, published: Published, order: Order) {
        let block = self.block;
        let state = &mut self.warps[warp];
        if order.acquires() {
            state.acquire(mask, block, &published);
        } else {
            let wide = !published.speaks_of(block);
            state.remember(mask, wide, published);
        }
    }

    fn publish_shared(&mut self, offset: u32, by: (usize, u32), published: Published, rmw: bool) {
        if published.is_empty() && (rmw || self.variables.is_empty()) {
            return;
        }
        let (warp, mask) = by;
        match self.variables.get_mut(&offset) {
            // An atomic operation goes on with what was released before it, and so does a thread's own store
            // after its own release.
            Some(variable) if rmw || variable.by[warp] & mask != 0 => {
                variable.published.join(&published);
                if !published.is_empty() {
                    variable.by[warp] |= mask;
                }
            }
            Some(_) if published.is_empty() => {
                self.variables.remove(&offset);
            }
            _ => {
                let mut by = [0; WARPS];
                by[warp] = mask;
                self.variables.insert(offset, Variable { published, by });
            }
        }
    }

    /// *After* memory was read by a strong load or an atomic operation of these lanes at `var`: acquires what was
    /// published there, now or at the next fence.
    pub fn after_strong_read(&mut self, warp: usize, mask: u32, var: Var, order: Order, scope: Scope) {
        let block = self.block;
        let found: [Option<Published>; 2] = match var {
            Var::Shared(offset) => [
                self.variables
                    .get(&offset)
                    .map(|variable| variable.published.clone()),
                None,
            ],
            Var::Global(address) => {
                let look = |variable: &launch::Variable| {
                    let narrow = variable.narrow.iter().find(|(of, _)| *of == block);
                    let everybody = &variable.wide;
                    // At block scope only releases by this block count; what came with them is taken too.
                    let count = !everybody.is_empty() && (scope != Scope::Cta || everybody.speaks_of(block));
                    [
                        narrow.map(|(_, published)| published.clone()),
                        count.then(|| everybody.clone()),
                    ]
                };
                self.launch
                    .shared
                    .variables
                    .look(address, look)
                    .unwrap_or_default()
            }
        };
        for published in found.into_iter().flatten() {
            self.learn(warp, mask, published, order);
        }
    }

    /// An asynchronous agent for operations that complete at `key` (an mbarrier's offset, a group's number): the
    /// same key gives the same agent, of [`BlockClocks::ASYNC_AGENTS`].
    pub fn async_agent(&mut self, key: u64) -> usize {
        let next = self.agent_of.len() % Self::ASYNC_AGENTS;
        let agent = *self.agent_of.entry(key).or_insert(next);
        if agent == self.agents.len() {
            self.agents.push(Agent {
                warp: Warp::new(self.base, u32::MAX),
                idle: true,
            });
        }
        WARPS + agent
    }

    /// The agent starts an operation for a thread: it knows what the thread knows. Nobody knows of the
    /// operation's accesses, the thread included, until they acquire what `async_end` returns.
    ///
    /// Of several operations under way each is taken to know what the others know.
    pub fn async_begin(&mut self, agent: usize, warp: usize, lane: usize) {
        let published = self.release_lanes(warp, 1 << lane);
        self.async_begin_for(agent, &published);
    }

    /// The same for a thread of any block, or for several, by what was released.
    pub fn async_begin_for(&mut self, agent: usize, published: &Published) {
        let (block, base) = (self.block, self.base);
        let agent = &mut self.agents[agent - WARPS];
        if agent.idle {
            agent.idle = false;
            agent.warp.view = View::new(base);
            agent.warp.known.set(0);
        }
        agent.warp.acquire(u32::MAX, block, published);
    }

    /// For the accesses of the agent's operation; the lane is that of the thread that started it.
    pub fn who_async(&self, agent: usize) -> Who<'_> {
        self.who_is(&self.agents[agent - WARPS].warp, agent as u32)
    }

    /// Whether any thread of the block, at its end, knew of what an agent did up to a clock.
    pub fn is_known(&self, agent: usize, clock: u32) -> bool {
        self.warps.iter().any(|warp| {
            let own = warp.own.iter().flatten().map(|view| view.local.all[agent]);
            own.chain([warp.view.local.all[agent]])
                .any(|known| known >= clock)
        })
    }

    /// The agent's operations are complete: what is known to who waits for them.
    pub fn async_end(&mut self, agent: usize) -> Published {
        let block = self.block;
        let state = &mut self.agents[agent - WARPS];
        state.idle = true;
        release(&mut state.warp, u32::MAX, block, agent)
    }

    /// The agent's accesses up to now, without what it knows: for those that another warp's part of an operation completes
    /// for too.
    pub fn async_accesses(&mut self, agent: usize) -> Published {
        let mut local = Clocks::new(self.base);
        let clock = self.agents[agent - WARPS].warp.close();
        local.all[agent] = clock;
        Published {
            block: self.block,
            own: Some(Arc::new(local)),
            clock,
            ..Published::default()
        }
    }
}

impl Warp {
    fn remember(&mut self, mask: u32, wide: bool, published: Published) {
        if let Some(read) = self
            .pending
            .iter_mut()
            .find(|read| read.wide == wide && read.published.same(&published))
        {
            read.lanes |= mask;
            return;
        }
        // Polling: what these lanes read before may be part of this. Many variables are taken together.
        if let Some(read) = self
            .pending
            .iter_mut()
            .filter(|read| read.wide == wide && read.lanes == mask)
            .nth(8)
        {
            read.published.join(&published);
            return;
        }
        self.pending.push(Pending {
            lanes: mask,
            wide,
            published,
        });
    }
}

fn release(state: &mut Warp, mask: u32, block: u32, agent: usize) -> Published {
    let clock = state.close();
    let (mut local, rest) = if state.diverged & mask == 0 {
        (state.view.local.clone(), state.view.remote.clone())
    } else {
        let view = state.joined(mask);
        (view.local, view.remote)
    };
    local.all[agent] = local.all[agent].max(clock);
    Published {
        block,
        own: Some(Arc::new(local)),
        rest,
        clock,
    }
}

/// Lanes of a mask in order.
pub(super) fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (lane < 32).then_some(lane as usize)
    })
}
