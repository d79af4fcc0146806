//! One block: schedules its warps until all have ended or none can go on.

use std::sync::atomic::Ordering;

use super::asynchronous::Mbarriers;
use super::bulk::Bulks;
use super::check::{Check, Finding, Site};
use super::cluster::Member;
use super::grid::{Run, mix};
use super::meter::Meter;
use super::sync::Barrier;
use super::warp::{Aligned, Meet, Split, Wait, Warp};
use super::wgmma::Groups;
use crate::ir::{Op, Sync};
use crate::memory::{BlockClocks, Domain, Shadow};

/// What a turn ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slice {
    Done,
    /// There is more to do.
    More,
}

/// Barriers that a block has: sixteen of its own, and its cluster's.
pub const BARRIERS: usize = 17;

pub struct Block<'l> {
    pub run: &'l Run<'l>,
    /// Linear index and coordinates in the grid.
    pub linear: u64,
    pub id: [u32; 3],
    /// `None` while the warp is running (it is held apart from the block then).
    pub(super) warps: Vec<Option<Box<Warp>>>,
    pub shared: Aligned,
    pub shadow: Shadow,
    pub clocks: BlockClocks,
    pub(super) barriers: [Barrier; BARRIERS],
    pub(super) mbarriers: Mbarriers,
    pub(super) bulks: Bulks,
    /// What warpgroups multiply.
    pub(super) groups: Groups,
    pub(super) member: Member<'l>,
    pub meter: Meter,
    /// Cache of the last allocations found.
    pub(super) hints: [usize; 2],
    /// Warp instructions run, and their number when something last changed.
    pub(super) executed: u64,
    last_change: (u64, u64),
    /// The spin limit was reached once since something changed.
    second_chance: bool,
    /// Changes by this block that are not yet in the launch's `events`.
    pub(super) changes: u64,
    /// Whether it has changed anything since its last slice began.
    changed: bool,
    /// Rounds in which no warp did more than poll an mbarrier.
    idle_rounds: u32,
    /// The last slice ended because all wait for mbarriers or the cluster's barrier.
    parked: bool,
    /// The kernel's dependence on the launch before it has been waited for, by warp (lanes).
    pub(super) waited_for_previous: Vec<u32>,
    /// Whether a thread has let the next launch begin, and has not waited itself.
    pub(super) early: bool,
    random: u64,
}

impl<'l> Block<'l> {
    pub fn new(run: &'l Run<'l>) -> Self {
        let [x, y, z] = run.block;
        let threads = x * y * z;
        let warps = threads.div_ceil(32) as usize;
        Self {
            run,
            linear: 0,
            id: [0; 3],
            warps: (0..warps).map(|_| Some(Box::default())).collect(),
            shared: Aligned::new(run.shared_bytes as usize),
            shadow: Shadow::new(u64::from(run.shared_bytes).max(1), Domain::Shared),
            clocks: BlockClocks::new(&run.launch),
            barriers: Default::default(),
            mbarriers: Mbarriers::default(),
            bulks: Bulks::default(),
            groups: Groups::default(),
            member: Member::default(),
            meter: Meter::new(run),
            hints: [0; 2],
            executed: 0,
            last_change: (0, 0),
            second_chance: false,
            changes: 0,
            changed: true,
            idle_rounds: 0,
            parked: false,
            waited_for_previous: vec![0; warps],
            early: false,
            random: 0,
        }
    }

    /// Begins block number `linear`.
    pub fn begin(&mut self, linear: u64) {
        let run = self.run;
        self.linear = linear;
        self.id = run.block_id(linear);
        let [x, y, z] = run.block;
        self.clocks.begin_block(
            linear as u32,
            x * y * z,
            &self.shadow,
            u64::from(run.shared_bytes),
        );
        // The system's part counts as initialised: programs clear bits in it that no instruction has set.
        if run.kernel.reserved_shared != 0 {
            self.shadow.set_initialised(0, run.kernel.reserved_shared.into());
        }
        // NaN in every float type, so that uninitialised values show.
        self.shared.as_mut()[..run.shared_bytes as usize].fill(0xff);
        for (index, warp) in self.warps.iter_mut().enumerate() {
            warp.as_mut()
                .expect("no warp is running")
                .begin(index, run.block, run.kernel);
        }
        self.barriers = Default::default();
        self.mbarriers = Mbarriers::default();
        self.bulks.clear();
        self.groups.clear();
        self.member = Member::default();
        self.waited_for_previous.fill(0);
        self.early = false;
        self.last_change = (run.events.load(Ordering::Relaxed), self.executed);
        self.changed = true;
        self.idle_rounds = 0;
        self.second_chance = false;
        self.random = run.settings.seed.map_or(0, |seed| mix(seed ^ linear) | 1);
    }

    /// The next random number, if the schedule is random.
    pub(super) fn random(&mut self) -> Option<u64> {
        if self.random == 0 {
            return None;
        }
        self.random = mix(self.random) | 1;
        Some(self.random >> 1)
    }

    /// Something changed that another thread may be waiting for.
    #[inline]
    pub(super) fn event(&mut self) {
        self.changes += 1;
    }

    /// Whether the last slice changed nothing: the block may be spinning.
    pub fn is_idle(&self) -> bool {
        !self.changed
    }

    /// Whether the last slice changed nothing, and other blocks of the cluster alone can set the block going.
    pub fn is_parked(&self) -> bool {
        self.parked && !self.changed
    }

    /// Lets warps run, in turn, for about `budget` warp instructions.
    pub fn advance(&mut self, budget: u64) -> Slice {
        self.changed = false;
        self.parked = false;
        let until = self.executed.saturating_add(budget);
        let count = self.warps.len();
        loop {
            let mut ran = false;
            self.wake();
            let first = self.random().map_or(0, |r| r as usize % count);
            for i in 0..count {
                let w = (first + i) % count;
                // Long turns are cheap; a random schedule makes them short and uneven.
                let turn = self.random().map_or(10_000, |r| 1 + (r % 97) as u32);
                match self.turn(w, turn) {
                    Ok(any) => ran |= any,
                    Err(finding) => {
                        self.run.report(*finding);
                        return Slice::Done;
                    }
                }
                if let Err(finding) = self.land_some() {
                    self.run.report(*finding);
                    return Slice::Done;
                }
                if self.run.stopped() {
                    return Slice::Done;
                }
            }
            if self.warps.iter().flatten().all(|w| w.live == 0) {
                self.check_end();
                return Slice::Done;
            }
            let asleep = match self.look_for_progress(ran) {
                Ok(asleep) => asleep,
                Err(finding) => {
                    self.run.report(*finding);
                    return Slice::Done;
                }
            };
            // Who sleeps leaves the rest of the turn to other blocks, if there are any.
            if self.executed >= until || asleep && budget != u64::MAX {
                return Slice::More;
            }
        }
    }

    /// One warp's turn; whether it ran anything.
    fn turn(&mut self, w: usize, instructions: u32) -> Result<bool, Box<Finding>> {
        let mut warp = self.warps[w].take().expect("no warp is running");
        let mut ran = false;
        let mut left = instructions;
        let result = loop {
            let Some(next) = warp.next_ready() else {
                break Ok(());
            };
            if left == 0 {
                break Ok(());
            }
            ran = true;
            // A share of the turn for each split, so that a lane that spins leaves time for the one it waits for.
            let share = if warp.splits.len() > 1 || warp.meets.iter().any(|m| m.waiting.is_some()) {
                left.min(500)
            } else {
                left
            };
            let changes = self.changes;
            match self.execute(&mut warp, next, share) {
                Ok(done) => {
                    left = left.saturating_sub(done.max(1));
                    self.executed += u64::from(done);
                    if warp.meets.iter().any(|m| m.used && m.waiting.is_some()) {
                        warp.apart += done;
                        warp.idle = if self.changes == changes {
                            warp.idle + done
                        } else {
                            0
                        };
                        if warp.apart > APART || warp.idle > IDLE {
                            self.release_meets(&mut warp);
                        }
                    } else {
                        warp.apart = 0;
                        warp.idle = 0;
                    }
                }
                Err(finding) => break Err(finding),
            }
        };
        self.warps[w] = Some(warp);
        if self.changes != 0 {
            self.changed = true;
            self.run
                .events
                .fetch_add(std::mem::take(&mut self.changes), Ordering::Relaxed);
        }
        result.map(|()| ran)
    }

    /// Lets lanes that wait at a meeting point go ahead without the others, which may be waiting for them.
    fn release_meets(&mut self, warp: &mut Warp) -> bool {
        warp.apart = 0;
        warp.idle = 0;
        let mut any = false;
        for meet in &mut warp.meets {
            let Some(mut split) = meet.waiting.take_if(|_| meet.used) else {
                continue;
            };
            split.mask = meet.arrived;
            split.meets.pop();
            split.wait = Wait::Ready;
            for other in &mut warp.splits {
                if let Wait::Lanes { passed, .. } = &mut other.wait {
                    *passed |= split.mask;
                }
            }
            meet.expected &= !meet.arrived;
            meet.arrived = 0;
            meet.used = meet.expected != 0;
            warp.splits.push(split);
            any = true;
        }
        any
    }

    /// After a round: frees lanes that wait for each other, and says so if nothing can go on.
    /// Whether all that could go on sleep.
    fn look_for_progress(&mut self, ran: bool) -> Result<bool, Box<Finding>> {
        let events = self.run.events.load(Ordering::Relaxed);
        if events != self.last_change.0 {
            self.last_change = (events, self.executed);
            self.idle_rounds = 0;
            self.second_chance = false;
        }
        let (mut ready, mut polls, mut sleeps) = (false, false, false);
        for split in self.warps.iter().flatten().flat_map(|w| &w.splits) {
            match split.wait {
                Wait::Ready => ready = true,
                Wait::Cluster => polls = true,
                Wait::Poll { mbarrier } => {
                    polls |= mbarrier.is_some();
                    sleeps |= mbarrier.is_none();
                }
                _ => {}
            }
        }
        if !ready && !sleeps && polls && self.member.is_clustered() {
            // Other blocks may set it going; who runs the cluster sees when none does.
            self.parked = !self.release_some();
            return Ok(true);
        }
        if !ready && !sleeps {
            // Only this block's own threads can complete its barriers.
            self.idle_rounds += 1;
            if !polls || self.idle_rounds > 64 {
                if self.release_some() {
                    self.idle_rounds = 0;
                    return Ok(false);
                }
                return Err(self.stuck(None));
            }
        } else if ready && !ran {
            unreachable!("a ready split runs in its warp's turn");
        }
        let still = self.executed - self.last_change.1;
        if still > self.run.settings.spin_limit {
            // Once more, with the lanes that wait for their neighbours let go: they may be the ones to wait for, and
            // if not, they are out of the way.
            if self.second_chance {
                return Err(self.stuck(Some(still)));
            }
            self.second_chance = true;
            self.release_some();
            self.last_change.1 += self.run.settings.spin_limit / 4;
        }
        let asleep = sleeps && !ready;
        if asleep {
            std::thread::yield_now();
        }
        Ok(asleep)
    }

    /// Before a round: those that poll look again, and those whose phase of the cluster's barrier is complete go on.
    fn wake(&mut self) {
        for warp in self.warps.iter_mut().flatten() {
            for split in &mut warp.splits {
                match split.wait {
                    Wait::Poll { .. } => split.wait = Wait::Ready,
                    Wait::Cluster => {
                        if let Some(complete) = self.member.is_complete(warp.index) {
                            self.clocks.acquire(warp.index, split.mask, &complete);
                            split.wait = Wait::Ready;
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// Releases lanes that wait at meeting points, in all warps; whether there were any.
    fn release_some(&mut self) -> bool {
        let mut any = false;
        for w in 0..self.warps.len() {
            let mut warp = self.warps[w].take().expect("no warp is running");
            any |= self.release_meets(&mut warp);
            self.warps[w] = Some(warp);
        }
        any
    }

    /// Nothing can go on: which lanes wait for whom.
    pub(super) fn stuck(&self, spinning: Option<u64>) -> Box<Finding> {
        let mut sites: Vec<(Wait, Site)> = Vec::new();
        let mut apart = None;
        for warp in self.warps.iter().flatten() {
            let waiting = warp.splits.iter().chain(
                warp.meets
                    .iter()
                    .filter(|m| m.used)
                    .filter_map(|m| m.waiting.as_ref()),
            );
            for split in waiting {
                let inst_pc = match split.wait {
                    // It goes on behind the instruction that it waits in.
                    Wait::Barrier(_) | Wait::Cluster | Wait::Poll { .. } => split.pc.saturating_sub(1),
                    _ => split.pc,
                };
                let lanes = super::lanes(split.mask);
                let what = match split.wait {
                    Wait::Lanes { need, .. } => {
                        apart.get_or_insert((warp, split));
                        let missing = need & !split.mask & warp.live;
                        let gone = need & !split.mask & !warp.live;
                        let gone = if gone == 0 {
                            String::new()
                        } else {
                            format!(" ({} have exited)", super::lanes(gone))
                        };
                        format!(
                            "warp {}, {lanes}: waits here for {}{gone} of its warp, in",
                            warp.index,
                            super::lanes(missing)
                        )
                    }
                    Wait::Barrier(id) => {
                        let barrier = &self.barriers[id as usize];
                        format!(
                            "warp {}, {lanes}: waits at barrier {id} ({}), in",
                            warp.index,
                            barrier.describe(&self.warps)
                        )
                    }
                    Wait::Cluster => {
                        let barrier = self.member.describe();
                        format!(
                            "warp {}, {lanes}: waits at the cluster's barrier ({barrier}), in",
                            warp.index
                        )
                    }
                    Wait::Poll {
                        mbarrier: Some(offset),
                    } => {
                        format!(
                            "warp {}, {lanes}: waits for {}, in",
                            warp.index,
                            self.describe_mbarrier(offset)
                        )
                    }
                    _ => format!("warp {}, {lanes}: is here, in", warp.index),
                };
                sites.push((
                    split.wait,
                    self.site(inst_pc, warp, split.mask.trailing_zeros(), what),
                ));
            }
        }
        let (check, message) = match (&apart, spinning) {
            (Some((warp, split)), None) => {
                let apart = self.came_apart(warp, split, "the others never come");
                (apart.check, apart.message)
            }
            (None, None) => (
                Check::Deadlock,
                "every thread of the block waits for another".to_owned(),
            ),
            (_, Some(count)) => (
                Check::Deadlock,
                format!(
                    "nothing has changed in memory for {count} warp instructions: the threads wait for what never \
                     happens (SOFTCUDA_SPIN_LIMIT sets the number)"
                ),
            ),
        };
        let main = sites
            .iter()
            .position(|(wait, _)| apart.is_some() && matches!(wait, Wait::Lanes { .. }))
            .unwrap_or(0);
        let mut sites: Vec<Site> = sites.into_iter().map(|(_, site)| site).collect();
        let mut site = if sites.is_empty() {
            self.site(
                0,
                self.warps[0].as_ref().expect("no warp is running"),
                0,
                String::new(),
            )
        } else {
            sites.remove(main)
        };
        let mut message = message;
        if !site.what.is_empty() {
            message = format!("{message}; {}", site.what.trim_end_matches(", in"));
            site.what.clear();
        }
        sites.truncate(8);
        Box::new(Finding {
            check,
            kernel: self.run.kernel.name.clone(),
            message,
            address: None,
            site,
            others: sites,
            module: self.run.module.clone(),
        })
    }

    /// What is wrong once every thread has ended: copies that are still on their way, registers that do not add up.
    fn check_end(&mut self) {
        self.check_landed();
        self.check_registers();
        self.end_in_cluster();
    }

    /// A site of this block.
    pub(super) fn site(&self, pc: u32, warp: &Warp, lane: u32, what: String) -> Site {
        let inst = &self.run.kernel.insts[pc as usize];
        let lane = lane.min(31) as usize;
        Site {
            block: Some(self.member.visitor().map_or(self.id, |visitor| visitor.id)),
            thread: Some([warp.tid[0][lane], warp.tid[1][lane], warp.tid[2][lane]]),
            pc,
            line: inst.line,
            loc: inst.loc,
            what,
        }
    }

    /// A finding at an instruction of a lane.
    pub(super) fn finding(
        &self,
        check: Check,
        warp: &Warp,
        pc: u32,
        lane: u32,
        message: String,
    ) -> Box<Finding> {
        Box::new(Finding {
            check,
            kernel: self.run.kernel.name.clone(),
            message,
            address: None,
            site: self.site(pc, warp, lane, String::new()),
            others: Vec::new(),
            module: self.run.module.clone(),
        })
    }

    /// A split reaches its innermost meeting point. Returns the split to go on with once all have come.
    pub(super) fn arrive(&mut self, warp: &mut Warp, mut split: Split) -> Option<Split> {
        let index = *split.meets.last().expect("a meeting point lies ahead") as usize;
        let meet = &mut warp.meets[index];
        meet.arrived |= split.mask;
        if meet.arrived == meet.expected {
            split.mask = meet.arrived;
            split.meets.pop();
            meet.used = false;
            meet.waiting = None;
            return Some(split);
        }
        meet.waiting.get_or_insert(split);
        None
    }

    /// The lanes of `mask` leave a meeting point for good.
    pub(super) fn forget_lanes(warp: &mut Warp, only: Option<u32>, mask: u32) {
        for index in 0..warp.meets.len() {
            if only.is_some_and(|o| o as usize != index) || !warp.meets[index].used {
                continue;
            }
            let meet: &mut Meet = &mut warp.meets[index];
            meet.expected &= !mask;
            if meet.expected == 0 {
                meet.used = false;
                meet.waiting = None;
            } else if meet.arrived == meet.expected
                && let Some(mut split) = meet.waiting.take()
            {
                split.mask = meet.arrived;
                split.meets.pop();
                split.wait = Wait::Ready;
                meet.used = false;
                warp.splits.push(split);
            }
        }
    }

    /// The lanes of `mask` have ended.
    pub(super) fn exit_lanes(&mut self, warp: &mut Warp, mask: u32) -> Result<(), Box<Finding>> {
        // Lanes that had left before may be missing from a warp-wide instruction, but not those that went around it.
        for split in &warp.splits {
            if let Wait::Lanes { need, passed } = split.wait
                && need & passed & mask != 0
            {
                let gone = need & passed & mask;
                return Err(self.came_apart(
                    warp,
                    split,
                    &format!("{} went another way and have exited", super::lanes(gone)),
                ));
            }
        }
        self.end_stores(warp.index, mask);
        warp.live &= !mask;
        self.clocks.exit(warp.index, mask);
        self.exit_cluster(warp.index, mask);
        Self::forget_lanes(warp, None, mask);
        Self::join_waiting(warp);
        self.event();
        self.check_barriers(warp);
        Ok(())
    }

    /// Some lanes of a warp reached an instruction that needs others too.
    fn came_apart(&self, warp: &Warp, split: &Split, others: &str) -> Box<Finding> {
        let inst = &self.run.kernel.insts[split.pc as usize];
        let barrier = inst.class == crate::ir::Class::Barrier;
        let check = if barrier {
            Check::DivergentBarrier
        } else {
            Check::SyncMask
        };
        let what = match &inst.op {
            Op::Sync(sync) => match **sync {
                Sync::Barrier { .. } => "a barrier",
                Sync::Warp => "bar.warp.sync (__syncwarp)",
                Sync::Shuffle { .. } => "shfl.sync",
                Sync::Vote(_) => "vote.sync",
                Sync::Match { .. } => "match.sync",
                Sync::Redux(_) => "redux.sync",
                _ => "an instruction of several lanes",
            },
            Op::Matrix(_) => "ldmatrix or stmatrix",
            Op::WarpGroup(_) => "an instruction of wgmma or setmaxnreg",
            _ if inst.matrix.is_some() => "mma.sync",
            _ => "an instruction of several lanes",
        };
        let message = format!(
            "{what} was reached by {} of warp {} only; it needs {}, and {others}",
            super::lanes(split.mask),
            warp.index,
            super::lanes(split.wait.lanes().0)
        );
        self.finding(check, warp, split.pc, split.mask.trailing_zeros(), message)
    }

    /// Splits that wait at the same instruction for each other's lanes become one, and run once all are there.
    pub(super) fn join_waiting(warp: &mut Warp) {
        let mut i = 0;
        while i < warp.splits.len() {
            let Wait::Lanes { .. } = warp.splits[i].wait else {
                i += 1;
                continue;
            };
            let mut j = i + 1;
            while j < warp.splits.len() {
                let (a, b) = (&warp.splits[i], &warp.splits[j]);
                if matches!(b.wait, Wait::Lanes { .. }) && a.pc == b.pc && a.frames == b.frames {
                    let b = warp.splits.remove(j);
                    let (need_b, passed_b) = b.wait.lanes();
                    let a = &mut warp.splits[i];
                    let (need_a, passed_a) = a.wait.lanes();
                    let common = a.meets.iter().zip(&b.meets).take_while(|(x, y)| x == y).count();
                    let dropped: Vec<(u32, u32)> = a.meets[common..]
                        .iter()
                        .map(|&m| (m, a.mask))
                        .chain(b.meets[common..].iter().map(|&m| (m, b.mask)))
                        .collect();
                    a.meets.truncate(common);
                    a.mask |= b.mask;
                    a.wait = Wait::Lanes {
                        need: need_a | need_b,
                        passed: passed_a | passed_b,
                    };
                    for (meet, mask) in dropped {
                        Self::forget_lanes(warp, Some(meet), mask);
                    }
                } else {
                    j += 1;
                }
            }
            let live = warp.live;
            let split = &mut warp.splits[i];
            if let Wait::Lanes { need, .. } = split.wait
                && need & live & !split.mask == 0
            {
                split.wait = Wait::Ready;
            }
            i += 1;
        }
    }
}

/// Warp instructions for which lanes wait at a meeting point before they may go ahead: the others may be spinning on
/// something that the waiting lanes are to do.
const APART: u32 = 50_000;

/// The same if the others have not changed anything meanwhile, as lanes that spin do not.
const IDLE: u32 = 2_000;
