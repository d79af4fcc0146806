//! Clusters: blocks that run side by side, wait for each other, and reach each other's shared memory.
//!
//! One host thread runs the blocks of a cluster in turn, so a block may take hold of another while that one does not run.
//! What a thread does in another block's shared memory is checked there, by an agent of that block which knows what the
//! thread knows; the thread knows of it afterwards, and so do all to whom it releases. A block that could exit before such an
//! access is over has no thread that knows of it when it ends: that is found whichever of the two comes first in the run.

use std::sync::{Arc, Mutex, MutexGuard};

use super::block::Block;
use super::check::{Check, Finding};
use super::grid::Run;
use super::memory::{Addresses, Deed};
use super::step::{At, Next, each};
use super::warp::{Wait, Warp};
use crate::ir::windows::{SHARED_RANK_SHIFT, shared_place};
use crate::ir::{Order, Scope};
use crate::memory::{How, Published, Thread, Var};

/// Agents of other blocks' warps: apart from mbarriers, stores and products.
const VISITORS: u64 = 1 << 42;

/// The cluster's barrier.
pub(super) struct Cluster {
    /// By rank and warp: lanes that live, and those that have arrived in this phase.
    live: Vec<Vec<u32>>,
    arrived: Vec<Vec<u32>>,
    /// By rank and warp: the phase of the last arrival, and the lanes that have not waited for it yet.
    arrived_in: Vec<Vec<u32>>,
    not_waited: Vec<Vec<u32>>,
    phase: u32,
    /// What arrivals have released: in this phase, and in the last complete one.
    released: Published,
    complete: Published,
}

impl Cluster {
    /// Everybody who lives has arrived: the next phase begins.
    fn settle(&mut self) -> bool {
        let all = self.live.iter().flatten().zip(self.arrived.iter().flatten());
        let mut any = false;
        for (live, arrived) in all {
            any |= *arrived != 0;
            if live & !arrived != 0 {
                return false;
            }
        }
        if any {
            self.phase += 1;
            self.complete = std::mem::take(&mut self.released);
            self.arrived.iter_mut().flatten().for_each(|lanes| *lanes = 0);
        }
        any
    }
}

/// A block's place in its cluster; without one it is alone.
#[derive(Default)]
pub(super) struct Member<'l> {
    pub rank: u32,
    barrier: Option<Arc<Mutex<Cluster>>>,
    /// All blocks by rank, the block itself among them.
    peers: Vec<*mut Block<'l>>,
    /// For whom something is being done in this block.
    visitor: Option<Visitor>,
    /// By agent: the last access by another block's threads.
    visits: Vec<Visit>,
    ended: bool,
}

// SAFETY: a cluster's blocks are made, run and dropped by one host thread; without a cluster there are no pointers.
unsafe impl Send for Member<'_> {}

/// A thread of another block, while it acts in this one.
pub(super) struct Visitor {
    pub rank: u32,
    pub id: [u32; 3],
    pub linear: u64,
    pub agent: usize,
    pub waited_for_previous: u32,
}

struct Visit {
    agent: usize,
    clock: u32,
    thread: Thread,
    pc: u32,
}

impl<'l> Member<'l> {
    pub(super) fn visitor(&self) -> Option<&Visitor> {
        self.visitor.as_ref()
    }

    fn barrier(&self) -> Option<MutexGuard<'_, Cluster>> {
        let barrier = self.barrier.as_ref()?;
        Some(barrier.lock().unwrap_or_else(|e| e.into_inner()))
    }

    /// The block's barrier waits for peers, which this block alone cannot set going.
    pub(super) fn is_clustered(&self) -> bool {
        self.barrier.is_some()
    }

    /// Whether the phase that a warp has arrived in is complete.
    pub(super) fn is_complete(&self, warp: usize) -> Option<Published> {
        let cluster = self.barrier()?;
        let arrived_in = cluster.arrived_in[self.rank as usize][warp];
        (cluster.phase > arrived_in).then(|| cluster.complete.clone())
    }

    /// Whether a lane (of the block that acts here) has waited for a phase of the cluster's barrier.
    pub(super) fn has_waited(&self, warp: usize, lane: usize, phase: u32) -> bool {
        let rank = self.visitor.as_ref().map_or(self.rank, |visitor| visitor.rank) as usize;
        self.barrier().is_some_and(|cluster| {
            let last = cluster.arrived_in[rank][warp];
            last > phase || last == phase && cluster.not_waited[rank][warp] >> lane & 1 == 0
        })
    }

    pub(super) fn describe(&self) -> String {
        let Some(cluster) = self.barrier() else {
            return String::new();
        };
        let count = |lanes: &[Vec<u32>]| lanes.iter().flatten().map(|l| l.count_ones()).sum::<u32>();
        format!(
            "{} of the cluster's {} live threads are there",
            count(&cluster.arrived),
            count(&cluster.live)
        )
    }
}

/// Begins the blocks of cluster number `number`.
pub(super) fn begin<'l>(run: &Run<'l>, blocks: &mut [Box<Block<'l>>], number: u64) {
    let grid: [u64; 3] = std::array::from_fn(|axis| u64::from(run.grid[axis] / run.cluster[axis]));
    let corner = [
        number % grid[0],
        number / grid[0] % grid[1],
        number / grid[0] / grid[1],
    ];
    let [width, height, _] = run.cluster.map(u64::from);
    for (rank, block) in (0u64..).zip(blocks.iter_mut()) {
        let inside = [rank % width, rank / width % height, rank / width / height];
        let id: [u64; 3] =
            std::array::from_fn(|axis| corner[axis] * u64::from(run.cluster[axis]) + inside[axis]);
        let [x, y, _] = run.grid.map(u64::from);
        block.begin(id[0] + x * (id[1] + y * id[2]));
    }
    let warps = |value: &dyn Fn(&Warp) -> u32| -> Vec<Vec<u32>> {
        blocks
            .iter()
            .map(|block| block.warps.iter().flatten().map(|warp| value(warp)).collect())
            .collect()
    };
    let barrier = Arc::new(Mutex::new(Cluster {
        live: warps(&|warp| warp.live),
        arrived: warps(&|_| 0),
        arrived_in: warps(&|_| 0),
        not_waited: warps(&|_| 0),
        phase: 1,
        released: Published::default(),
        complete: Published::default(),
    }));
    let peers: Vec<*mut Block<'l>> = blocks.iter_mut().map(|block| &raw mut **block).collect();
    for (rank, block) in (0..).zip(blocks.iter_mut()) {
        block.member = Member {
            rank,
            barrier: Some(barrier.clone()),
            peers: peers.clone(),
            ..Member::default()
        };
    }
}

impl<'l> Block<'l> {
    /// `barrier.cluster.arrive`
    pub(super) fn arrive_at_cluster(
        &mut self,
        warp: &Warp,
        at: &At<'_>,
        order: Order,
    ) -> Result<(), Box<Finding>> {
        let published = order.releases().then(|| self.clocks.release(warp.index, at.mask));
        let rank = self.member.rank as usize;
        let mut cluster = self.member.barrier().expect("only in a cluster");
        if cluster.not_waited[rank][warp.index] & at.mask != 0 {
            drop(cluster);
            let message =
                "a thread arrives at the cluster's barrier a second time: barrier.cluster.wait first";
            let lane = at.mask.trailing_zeros();
            return Err(self.finding(Check::BarrierMisuse, warp, at.pc, lane, message.to_owned()));
        }
        cluster.arrived[rank][warp.index] |= at.mask;
        cluster.not_waited[rank][warp.index] |= at.mask;
        cluster.arrived_in[rank][warp.index] = cluster.phase;
        self.mbarriers
            .arrive_at_cluster(warp.index, at.mask, cluster.phase);
        if let Some(published) = published {
            cluster.released.join(&published);
        }
        cluster.settle();
        drop(cluster);
        self.event();
        self.meter.barrier_wait();
        Ok(())
    }

    /// `barrier.cluster.wait`
    pub(super) fn wait_at_cluster(&mut self, warp: &Warp, at: &At<'_>) -> Result<Next, Box<Finding>> {
        let mut cluster = self.member.barrier().expect("only in a cluster");
        let not_waited = &mut cluster.not_waited[self.member.rank as usize][warp.index];
        let missing = at.mask & !*not_waited;
        *not_waited &= !at.mask;
        drop(cluster);
        if missing != 0 {
            let message =
                "barrier.cluster.wait by a thread that has not arrived: barrier.cluster.arrive first";
            let lane = missing.trailing_zeros();
            return Err(self.finding(Check::BarrierMisuse, warp, at.pc, lane, message.to_owned()));
        }
        Ok(match self.member.is_complete(warp.index) {
            Some(complete) => {
                self.clocks.acquire(warp.index, at.mask, &complete);
                Next::On
            }
            None => Next::Wait(Wait::Cluster),
        })
    }

    /// Threads have ended: the cluster's barrier does not wait for them.
    pub(super) fn exit_cluster(&mut self, warp: usize, mask: u32) {
        let rank = self.member.rank as usize;
        if let Some(mut cluster) = self.member.barrier() {
            cluster.live[rank][warp] &= !mask;
            cluster.settle();
        }
    }

    /// An address of the shared space with the block's own memory at its offsets, whatever `mapa` has put above them.
    pub(super) fn own_shared(&self, address: u64) -> u64 {
        match shared_place(address, self.member.rank) {
            (rank, offset) if rank == u64::from(self.member.rank) => offset,
            _ => address,
        }
    }

    /// The rank of the other block in whose shared memory an address lies; `None` for the own, and for none.
    pub(super) fn far(&self, address: u64) -> Option<usize> {
        let (rank, _) = shared_place(address, self.member.rank);
        let rank = rank as usize;
        (address >> SHARED_RANK_SHIFT != 0
            && rank < self.member.peers.len()
            && rank != self.member.rank as usize)
            .then_some(rank)
    }

    /// Does something in another block's shared memory for the lanes of `mask`.
    pub(super) fn with_peer<R>(
        &mut self,
        warp: &Warp,
        at: &At<'_>,
        mask: u32,
        rank: usize,
        act: impl FnOnce(&mut Block<'l>) -> Result<R, Box<Finding>>,
    ) -> Result<R, Box<Finding>> {
        let peer = self.member.peers[rank];
        debug_assert!(!std::ptr::eq(peer, self), "a block does not visit itself");
        // SAFETY: it is another block of the cluster, which lives as long as the cluster runs and does not run now.
        let peer = unsafe { &mut *peer };
        let knows = self.clocks.release_lanes(warp.index, mask);
        let agent = peer
            .clocks
            .async_agent(VISITORS | u64::from(self.member.rank) << 8 | warp.index as u64);
        peer.clocks.async_begin_for(agent, &knows);
        peer.member.visitor = Some(Visitor {
            rank: self.member.rank,
            id: self.id,
            linear: self.linear,
            agent,
            waited_for_previous: self.waited_for_previous[warp.index],
        });
        let before = peer.changes;
        let result = act(peer);
        let published = peer.clocks.async_end(agent);
        if peer.member.ended {
            self.run
                .report(*peer.may_have_exited(warp, at, mask.trailing_zeros()));
        }
        peer.member.visitor = None;
        peer.member.visits.retain(|visit| visit.agent != agent);
        peer.member.visits.push(Visit {
            agent,
            clock: published.clock(),
            thread: Thread {
                block: self.linear as u32,
                warp: warp.index as u32,
                lane: mask.trailing_zeros(),
            },
            pc: at.pc,
        });
        self.clocks.acquire(warp.index, mask, &published);
        if peer.changes != before {
            self.event();
        }
        result
    }

    /// What a visiting thread knows now, its accesses here among it.
    pub(super) fn release_visitor(&mut self) -> Published {
        let agent = self
            .member
            .visitor()
            .expect("a thread of another block is here")
            .agent;
        self.clocks.async_end(agent)
    }

    fn may_have_exited(&self, warp: &Warp, at: &At<'_>, lane: u32) -> Box<Finding> {
        let message = exited(self.member.rank);
        self.finding(Check::Race, warp, at.pc, lane, message)
    }

    /// The block has ended: nobody else may be in its shared memory later.
    pub(super) fn end_in_cluster(&mut self) {
        self.member.ended = true;
        for visit in &self.member.visits {
            if self.clocks.is_known(visit.agent, visit.clock) || self.run.stopped() {
                continue;
            }
            let site = self.other(visit.thread, visit.pc, String::new());
            self.run.report(Finding {
                check: Check::Race,
                kernel: self.run.kernel.name.clone(),
                message: exited(self.member.rank),
                address: None,
                site,
                others: Vec::new(),
                module: self.run.module.clone(),
            });
        }
    }

    /// Lanes of `mask` whose addresses lie in other blocks.
    pub(super) fn far_of(&self, mask: u32, addresses: &Addresses) -> u32 {
        match self.member.is_clustered() {
            true => each(mask)
                .filter(|&lane| self.far(addresses[lane]).is_some())
                .fold(0, |lanes, lane| lanes | 1 << lane),
            false => 0,
        }
    }

    /// Where a lane's atomic operation on another block's shared memory takes place, which is checked.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn far_atomic(
        &mut self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        rank: usize,
        address: u64,
        bytes: usize,
        scope: Scope,
    ) -> Result<*mut u8, Box<Finding>> {
        let (_, offset) = shared_place(address, 0);
        self.with_peer(warp, at, 1 << lane, rank, |peer| {
            peer.shared_bounds(warp, at, lane, offset, bytes, Deed::Atomic)?;
            if !offset.is_multiple_of(bytes as u64) {
                return Err(peer.misaligned(warp, at, lane, offset, bytes, Deed::Atomic));
            }
            let agent = peer.member.visitor().expect("just set").agent;
            let who = peer.clocks.who_async(agent);
            if let Err(hazard) = peer.shadow.atomic(offset, bytes, &who, lane, scope, at.pc) {
                let words = format!("the shared memory of the cluster's block {rank}");
                peer.hazard(warp, at, lane, offset, bytes, &words, offset, hazard);
            }
            peer.event();
            Ok(peer.shared.ptr().wrapping_add(offset as usize))
        })
    }

    /// A lane is about to write strongly: to `shared` memory, its own block's or another's, or to global memory.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn before_strong_write(
        &mut self,
        warp: &Warp,
        lane: usize,
        shared: bool,
        address: u64,
        order: Order,
        scope: Scope,
        rmw: bool,
    ) {
        let (warp, lanes) = (warp.index, 1 << lane);
        match self.far_variable(shared, address) {
            Some((peer, offset)) => {
                let there = &mut peer.clocks;
                self.clocks
                    .before_far_write(there, warp, lanes, offset, order, scope, rmw);
            }
            None => {
                let var = near_variable(shared, address);
                self.clocks
                    .before_strong_write(warp, lanes, var, order, scope, rmw);
            }
        }
    }

    /// A lane has read strongly, from there.
    pub(super) fn after_strong_read(
        &mut self,
        warp: &Warp,
        lane: usize,
        shared: bool,
        address: u64,
        order: Order,
        scope: Scope,
    ) {
        let (warp, lanes) = (warp.index, 1 << lane);
        match self.far_variable(shared, address) {
            // An access at block scope takes no part in what several blocks agree upon.
            Some(_) if scope == Scope::Cta => {}
            Some((peer, offset)) => {
                self.clocks
                    .after_far_read(&peer.clocks, warp, lanes, offset, order);
            }
            None => {
                let var = near_variable(shared, address);
                self.clocks.after_strong_read(warp, lanes, var, order, scope);
            }
        }
    }

    /// The other block in whose shared memory an address lies, and the offset there.
    fn far_variable(&mut self, shared: bool, address: u64) -> Option<(&'l mut Block<'l>, u32)> {
        let rank = if shared { self.far(address)? } else { return None };
        let peer = self.member.peers[rank];
        debug_assert!(!std::ptr::eq(peer, self), "a block does not visit itself");
        // SAFETY: as in `with_peer`; the caller lets go of it before it does anything else with the cluster.
        let peer = unsafe { &mut *peer };
        Some((peer, shared_place(address, 0).1 as u32))
    }

    /// [`Block::shared_lanes`] for lanes whose addresses lie in other blocks.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn far_lanes(
        &mut self,
        warp: &Warp,
        at: &At<'_>,
        mask: u32,
        addresses: &Addresses,
        bytes: usize,
        align: usize,
        wanted: (u8, u8),
        deed: Deed,
        how: How,
        same: &dyn Fn(usize, *const u8) -> bool,
        visit: &mut dyn FnMut(usize, *mut u8),
    ) -> Result<(), Box<Finding>> {
        let mut rest = mask;
        while rest != 0 {
            let first = rest.trailing_zeros() as usize;
            let rank = self.far(addresses[first]).expect("the caller looked");
            let lanes = each(rest)
                .filter(|&lane| self.far(addresses[lane]) == Some(rank))
                .fold(0, |lanes, lane| lanes | 1 << lane);
            rest &= !lanes;
            self.with_peer(warp, at, lanes, rank, |peer| {
                let words = format!("the shared memory of the cluster's block {rank}");
                let agent = peer.member.visitor().expect("just set").agent;
                for lane in each(lanes) {
                    let (_, offset) = shared_place(addresses[lane], 0);
                    peer.shared_bounds(warp, at, lane, offset, bytes, deed)?;
                    if !offset.is_multiple_of(align as u64) {
                        return Err(peer.misaligned(warp, at, lane, offset, align, deed));
                    }
                    let place = peer.shared.ptr().wrapping_add(offset as usize);
                    let who = peer.clocks.who_async(agent);
                    let result = match deed {
                        Deed::Read => {
                            let from = offset + u64::from(wanted.0);
                            peer.shadow.read(from, wanted.1.into(), &who, lane, how, at.pc)
                        }
                        _ => peer
                            .shadow
                            .write(offset, bytes, &who, lane, how, same(lane, place), at.pc),
                    };
                    if let Err(hazard) = result {
                        peer.hazard(warp, at, lane, offset, bytes, &words, offset, hazard);
                    }
                    visit(lane, place);
                }
                if deed == Deed::Write {
                    peer.event();
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// A location of the block's own shared memory, or of global memory.
fn near_variable(shared: bool, address: u64) -> Var {
    match shared {
        true => Var::Shared(address as u32),
        false => Var::Global(address),
    }
}

fn exited(rank: u32) -> String {
    format!(
        "an access of the shared memory of the cluster's block {rank}, which nothing keeps from exiting before it: let the block \
         wait for it, at barrier.cluster or an mbarrier"
    )
}
