//! Barriers, fences, and warp-level instructions (shuffle, vote, match, redux, elect).

use std::sync::atomic::Ordering::Relaxed;

use super::block::Block;
use super::check::{Check, Finding};
use super::step::{At, Next, each};
use super::warp::{Wait, Warp};
use crate::ir::regs::{LANES, Slot};
use crate::ir::{BarrierKind, FenceOrder, Redux, Shuffle, Sync, Vote};
use crate::memory::Published;

/// One of a block's sixteen barriers.
#[derive(Default)]
pub(super) struct Barrier {
    arrivals: Vec<Arrival>,
    /// Threads arrived, counted as the hardware counts (whole warps for the aligned form).
    threads: u32,
    /// Threads to wait for; `None`: all of the block.
    expected: Option<u32>,
    /// What those who only arrive have released.
    released: Published,
}

struct Arrival {
    warp: usize,
    lanes: u32,
    waits: bool,
    /// A reduction's destination (slot and window) and this warp's true predicates.
    reduction: Option<(BarrierKind, Slot, u32, u32)>,
}

impl Barrier {
    pub(super) fn describe(&self, warps: &[Option<Box<Warp>>]) -> String {
        match self.expected {
            Some(expected) => format!("{} of {expected} threads are there", self.threads),
            None => {
                let here: u32 = self.arrivals.iter().map(|a| a.lanes.count_ones()).sum();
                let live: u32 = warps.iter().flatten().map(|w| w.live.count_ones()).sum();
                format!("{here} of the block's {live} live threads are there")
            }
        }
    }
}

impl<'l> Block<'l> {
    pub(super) fn synchronise(
        &mut self,
        warp: &mut Warp,
        at: &At<'_>,
        sync: &Sync,
        whole: u32,
    ) -> Result<Next, Box<Finding>> {
        let regs = at.regs;
        match *sync {
            Sync::Barrier {
                kind,
                aligned,
                counted,
            } => return self.barrier(warp, at, kind, aligned, counted),
            Sync::Warp => {
                for members in groups(at, at.inst.count as usize - 1) {
                    self.clocks.warp_sync(warp.index, members);
                }
            }
            Sync::Fence { scope, order } => {
                // Other proxy fences order this thread's accesses of different kinds; all memory is coherent here.
                match order {
                    FenceOrder::Proxy => {}
                    FenceOrder::MbarrierInit => self.fence_mbarriers(warp, at.mask),
                    FenceOrder::AsyncProxy => self.fence_async_proxy(warp.index, at.mask),
                    FenceOrder::AcqRel | FenceOrder::Sc => self.clocks.fence(warp.index, at.mask, scope),
                }
            }
            Sync::Shuffle { mode, valid } => {
                let value = regs.get32(at.src(0));
                let (b, c) = (regs.get32(at.src(1)), regs.get32(at.src(2)));
                let members = regs.get32(at.src(3));
                let mut out = [0; LANES];
                let mut is_valid = 0;
                for lane in each(at.mask) {
                    // PTX ISA, shfl.sync: c holds the clamp and the mask that splits the warp into segments.
                    let segment = c[lane] >> 8 & 0x1f;
                    let clamp = c[lane] & 0x1f;
                    let here = lane as u32;
                    let most = (here & segment) | (clamp & !segment);
                    let least = here & segment;
                    let step = b[lane] & 0x1f;
                    let (from, ok) = match mode {
                        Shuffle::Up => {
                            let from = here as i32 - step as i32;
                            (from, from >= most as i32)
                        }
                        Shuffle::Down => {
                            let from = here + step;
                            (from as i32, from <= most)
                        }
                        Shuffle::Butterfly => {
                            let from = here ^ step;
                            (from as i32, from <= most)
                        }
                        Shuffle::Index => {
                            let from = least | (step & !segment);
                            (from as i32, from <= most)
                        }
                    };
                    let from = if ok { from as usize } else { lane };
                    is_valid |= u32::from(ok) << lane;
                    // A lane that takes no part has nothing to give: the result is undefined.
                    let there = members[lane] >> from & 1 != 0 && at.mask >> from & 1 != 0;
                    out[lane] = if there { value[from] } else { 0xdead_beef };
                }
                regs.set32(at.dst(0), &out, at.mask);
                if valid {
                    regs.set_pred(at.dst(1), is_valid, at.mask);
                }
            }
            Sync::Vote(vote) => {
                let value = regs.pred(at.src(0));
                let mut ballot = [0; LANES];
                let mut result = 0;
                for members in groups(at, at.inst.count as usize - 1) {
                    let yes = value & members;
                    let holds = match vote {
                        Vote::All => yes == members,
                        Vote::Any => yes != 0,
                        Vote::Uniform => yes == members || yes == 0,
                        Vote::Ballot => false,
                    };
                    if holds {
                        result |= members;
                    }
                    each(members).for_each(|lane| ballot[lane] = yes);
                }
                if vote == Vote::Ballot {
                    regs.set32(at.dst(0), &ballot, at.mask);
                } else {
                    regs.set_pred(at.dst(0), result, at.mask);
                }
            }
            Sync::Match { all, wide, valid } => {
                let value = if wide {
                    regs.get64(at.src(0))
                } else {
                    regs.get32(at.src(0)).map(u64::from)
                };
                let mut out = [0; LANES];
                let mut same = 0;
                for members in groups(at, at.inst.count as usize - 1) {
                    for lane in each(members) {
                        let equal = each(members)
                            .filter(|&l| value[l] == value[lane])
                            .fold(0u32, |m, l| m | 1 << l);
                        if !all {
                            out[lane] = equal;
                        } else if equal == members {
                            out[lane] = members;
                            same |= 1 << lane;
                        }
                    }
                }
                regs.set32(at.dst(0), &out, at.mask);
                if valid {
                    regs.set_pred(at.dst(1), same, at.mask);
                }
            }
            Sync::Redux(redux) => {
                let value = regs.get32(at.src(0));
                let mut out = [0; LANES];
                for members in groups(at, at.inst.count as usize - 1) {
                    let combined = each(members)
                        .map(|lane| value[lane])
                        .reduce(|a, b| match redux {
                            Redux::Add => a.wrapping_add(b),
                            Redux::MinU => a.min(b),
                            Redux::MaxU => a.max(b),
                            Redux::MinS => (a as i32).min(b as i32) as u32,
                            Redux::MaxS => (a as i32).max(b as i32) as u32,
                            Redux::And => a & b,
                            Redux::Or => a | b,
                            Redux::Xor => a ^ b,
                        })
                        .expect("a group has lanes");
                    each(members).for_each(|lane| out[lane] = combined);
                }
                regs.set32(at.dst(0), &out, at.mask);
            }
            Sync::Elect => {
                let mut out = [0; LANES];
                let mut leader = 0;
                for members in groups(at, at.inst.count as usize - 1) {
                    let first = members.trailing_zeros();
                    each(members).for_each(|lane| out[lane] = first);
                    leader |= 1 << first;
                }
                regs.set32(at.dst(0), &out, at.mask);
                regs.set_pred(at.dst(1), leader, at.mask);
            }
            // Lanes that skip the instruction by its guard are active all the same, but not in its result.
            Sync::ActiveMask => regs.set32(at.dst(0), &[at.mask & whole; LANES], at.mask),
            Sync::Sleep => return Ok(Next::Wait(Wait::Poll { mbarrier: None })),
            Sync::GridDependencyWait => self.waited_for_previous[warp.index] |= at.mask,
            Sync::GridDependencyLaunch => {
                if !self.early && self.waited_for_previous[warp.index] & at.mask != at.mask {
                    self.early = true;
                    self.run.early.fetch_add(1, Relaxed);
                }
            }
            Sync::ClusterArrive { order, .. } if self.member.is_clustered() => {
                self.arrive_at_cluster(warp, at, order)?;
            }
            Sync::ClusterWait { .. } if self.member.is_clustered() => return self.wait_at_cluster(warp, at),
            // A cluster of one block: its barrier is one among the block's own threads.
            Sync::ClusterArrive { .. } => {
                return self.arrive_at(warp, at, CLUSTER, BarrierKind::Arrive, true, None, None);
            }
            Sync::ClusterWait { .. } => {
                return self.arrive_at(warp, at, CLUSTER, BarrierKind::Sync, true, None, None);
            }
        }
        Ok(Next::On)
    }

    fn barrier(
        &mut self,
        warp: &mut Warp,
        at: &At<'_>,
        kind: BarrierKind,
        aligned: bool,
        counted: bool,
    ) -> Result<Next, Box<Finding>> {
        let regs = at.regs;
        let first = at.mask.trailing_zeros() as usize;
        let ids = regs.get32(at.src(0));
        let misuse = |block: &Self, message: String| {
            Err(block.finding(Check::BarrierMisuse, warp, at.pc, first as u32, message))
        };
        let id = ids[first];
        if each(at.mask).any(|l| ids[l] != id) {
            return misuse(
                self,
                "lanes of one warp name different barriers in one instruction".into(),
            );
        }
        if id as usize >= CLUSTER as usize {
            return misuse(self, format!("barrier {id}: a block has barriers 0 to 15"));
        }
        let count = if counted {
            let counts = regs.get32(at.src(1));
            let count = counts[first];
            if each(at.mask).any(|l| counts[l] != count) {
                return misuse(self, "lanes of one warp give a barrier different counts".into());
            }
            if count == 0 || !count.is_multiple_of(32) || count as usize > 32 * self.warps.len() {
                return misuse(
                    self,
                    format!(
                        "barrier {id} is to wait for {count} threads: the count is a multiple of 32, at most the \
                         block's {} threads",
                        32 * self.warps.len()
                    ),
                );
            }
            Some(count)
        } else {
            None
        };
        let reduction = match kind {
            BarrierKind::Popc | BarrierKind::And | BarrierKind::Or => {
                let predicate = regs.pred(at.src(1 + usize::from(counted)));
                Some((kind, at.dst(0), at.window, predicate))
            }
            _ => None,
        };
        self.arrive_at(warp, at, id, kind, aligned, count, reduction)
    }

    #[allow(clippy::too_many_arguments)]
    fn arrive_at(
        &mut self,
        warp: &mut Warp,
        at: &At<'_>,
        id: u32,
        kind: BarrierKind,
        aligned: bool,
        count: Option<u32>,
        reduction: Option<(BarrierKind, Slot, u32, u32)>,
    ) -> Result<Next, Box<Finding>> {
        let waits = kind != BarrierKind::Arrive;
        let barrier = &mut self.barriers[id as usize];
        if !barrier.arrivals.is_empty() && barrier.expected != count {
            let words =
                |n: Option<u32>| n.map_or("all threads of the block".to_owned(), |n| format!("{n} threads"));
            let message = format!(
                "barrier {id} is waiting for {} and is now told to wait for {}",
                words(barrier.expected),
                words(count)
            );
            return Err(self.finding(
                Check::BarrierMisuse,
                warp,
                at.pc,
                at.mask.trailing_zeros(),
                message,
            ));
        }
        let twice = barrier
            .arrivals
            .iter()
            .find(|a| a.warp == warp.index && a.lanes & at.mask != 0 && id != CLUSTER);
        if let Some(twice) = twice
            && count.is_none()
            && !twice.waits
        {
            let message = format!("a thread arrives at barrier {id} twice before it is complete");
            return Err(self.finding(
                Check::BarrierMisuse,
                warp,
                at.pc,
                at.mask.trailing_zeros(),
                message,
            ));
        }
        let barrier = &mut self.barriers[id as usize];
        barrier.expected = count;
        barrier.threads += if aligned {
            LANES as u32
        } else {
            at.mask.count_ones()
        };
        barrier.arrivals.push(Arrival {
            warp: warp.index,
            lanes: at.mask,
            waits,
            reduction,
        });
        if !waits {
            let released = self.clocks.release(warp.index, at.mask);
            self.barriers[id as usize].released.join(&released);
        }
        self.event();
        self.meter.barrier_wait();
        if self.complete(warp, id) {
            return Ok(Next::On);
        }
        Ok(if waits {
            Next::Wait(Wait::Barrier(id))
        } else {
            Next::On
        })
    }

    /// Lets everyone through a barrier if all have come. The warp at hand is not in `self.warps`.
    fn complete(&mut self, warp: &mut Warp, id: u32) -> bool {
        let barrier = &self.barriers[id as usize];
        if barrier.arrivals.is_empty() {
            return false;
        }
        let all = match barrier.expected {
            Some(expected) => barrier.threads >= expected,
            None => {
                let here = |index: usize, live: u32| {
                    let arrived = barrier
                        .arrivals
                        .iter()
                        .filter(|a| a.warp == index && (id != CLUSTER || !a.waits))
                        .fold(0, |m, a| m | a.lanes);
                    live & !arrived == 0
                };
                here(warp.index, warp.live) && self.warps.iter().flatten().all(|w| here(w.index, w.live))
            }
        };
        if !all {
            return false;
        }
        let barrier = std::mem::take(&mut self.barriers[id as usize]);
        let waiting: Vec<(usize, u32)> = barrier
            .arrivals
            .iter()
            .filter(|a| a.waits)
            .map(|a| (a.warp, a.lanes))
            .collect();
        if !waiting.is_empty() {
            self.clocks.barrier(&waiting);
        }
        for &(index, lanes) in &waiting {
            self.clocks.acquire(index, lanes, &barrier.released);
        }
        // Reductions are over all who brought a predicate.
        let voters = || {
            barrier
                .arrivals
                .iter()
                .filter_map(|a| a.reduction.map(|r| (a.lanes, r.3)))
        };
        let popc: u32 = voters().map(|(lanes, yes)| (yes & lanes).count_ones()).sum();
        let and = voters().all(|(lanes, yes)| yes & lanes == lanes);
        for arrival in &barrier.arrivals {
            let owner = if arrival.warp == warp.index {
                &mut *warp
            } else {
                self.warps[arrival.warp]
                    .as_mut()
                    .expect("only the warp at hand is running")
            };
            if let Some((kind, slot, window, _)) = arrival.reduction {
                let regs = owner.regs(window, &self.run.constants);
                match kind {
                    BarrierKind::Popc => regs.set32(slot, &[popc; LANES], arrival.lanes),
                    BarrierKind::And => regs.set_pred(slot, if and { u32::MAX } else { 0 }, arrival.lanes),
                    _ => regs.set_pred(slot, if popc > 0 { u32::MAX } else { 0 }, arrival.lanes),
                }
            }
            for split in &mut owner.splits {
                if split.wait == Wait::Barrier(id) && split.mask & arrival.lanes != 0 {
                    split.wait = Wait::Ready;
                }
            }
        }
        self.event();
        true
    }

    /// Threads have ended: barriers that waited for them only may be complete.
    pub(super) fn check_barriers(&mut self, warp: &mut Warp) {
        for id in 0..self.barriers.len() as u32 {
            if self.barriers[id as usize].expected.is_none() {
                self.complete(warp, id);
            }
        }
    }
}

/// The cluster's barrier, kept behind the block's own sixteen.
pub(super) const CLUSTER: u32 = 16;

/// Lanes at work by the mask that they name (operand `operand` among all): usually one group.
fn groups(at: &At<'_>, operand: usize) -> impl Iterator<Item = u32> {
    let members = at.regs.get32(at.ops[operand]);
    let mut rest = at.mask;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let mask = members[rest.trailing_zeros() as usize];
        let group = each(rest)
            .filter(|&l| members[l] == mask)
            .fold(0, |m, l| m | 1 << l);
        rest &= !group;
        Some(group)
    })
}
