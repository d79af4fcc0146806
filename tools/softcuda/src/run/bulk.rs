//! Bulk copies: `cp.async.bulk`, with tensor maps and without.
//!
//! A copy reads its source when it is issued and lands as late as the architecture allows: into shared memory when a thread
//! finds its mbarrier's phase incomplete, in global memory when the issuing thread waits for its group or exits. With a
//! seed, copies into shared memory also land at random times and in any order.
//!
//! To the race checks a copy is an agent of its own, which knows what the issuing thread knew, and of which a thread knows
//! only by waiting at the mbarrier or for the group. Between issue and landing nobody may touch the destination. So a stage
//! that is filled before its readers have said that they are done, or read before its phase, is found whatever the
//! order of the run.

use super::block::Block;
use super::check::{Check, Finding, Site};
use super::memory::{Deed, addresses, generic, name, read, write};
use super::step::{At, each};
use super::tensor::{Stretch, is_laid_out, stretches};
use super::warp::Warp;
use crate::ir::regs::LANES;
use crate::ir::{Bulk, Place};
use crate::memory::{Allocation, Hazard, How, Swizzle, TENSOR_MAP_BYTES, TensorMap, Thread};
use crate::ptx::ast::Space;

/// Bytes of a piece: what a swizzle moves, and the least that a bulk copy copies.
const PIECE: usize = 16;

/// What a block has under way.
#[derive(Default)]
pub(super) struct Bulks {
    loads: Vec<Load>,
    stores: Vec<Store>,
    /// Groups committed so far, by thread of the block.
    committed: std::collections::HashMap<u32, u32>,
    /// The clock that each thread's last `fence.proxy.async` ended, by warp and lane.
    fences: Vec<[u32; LANES]>,
}

impl Bulks {
    pub(super) fn clear(&mut self) {
        self.loads.clear();
        self.stores.clear();
        self.committed.clear();
        self.fences.clear();
    }
}

/// On its way to shared memory.
struct Load {
    /// Offset of the mbarrier.
    barrier: u32,
    pieces: Vec<Piece>,
    issuer: Thread,
    pc: u32,
    agent: usize,
}

struct Piece {
    at: u32,
    data: [u8; PIECE],
    /// A bit for each byte that somebody had written at its source, or that is filled in.
    written: u16,
}

/// On its way to global memory.
struct Store {
    thread: u32,
    group: u32,
    issuer: Thread,
    pc: u32,
    agent: usize,
    data: Vec<u8>,
    to: Vec<Stretch>,
    /// The thread has waited for the source to have been read.
    read: bool,
}

/// Agents by what they complete at: mbarriers have their offset as the key.
const STORES: u64 = 1 << 40;

impl<'l> Block<'l> {
    /// `fence.proxy.async` by these lanes.
    pub(super) fn fence_async_proxy(&mut self, warp: usize, mask: u32) {
        let clock = self.clocks.close(warp);
        if self.bulks.fences.is_empty() {
            self.bulks.fences = vec![[0; LANES]; self.warps.len()];
        }
        each(mask).for_each(|lane| self.bulks.fences[warp][lane] = clock);
    }

    /// An agent reads 16 bytes of shared memory for a lane: checks order, and the writer's fence.
    pub(super) fn async_read(
        &self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        agent: usize,
        offset: u32,
        what: &str,
    ) -> Result<[u8; PIECE], Box<Finding>> {
        self.shared_bounds(warp, at, lane, offset.into(), PIECE, Deed::Read)
            .map_err(|mut finding| {
                finding.message = format!("{what}: {}", finding.message);
                finding
            })?;
        let who = self.clocks.who_async(agent);
        let shadow = &self.shadow;
        match shadow.read(offset.into(), PIECE, &who, lane, How::Weak, at.pc) {
            Err(hazard) => {
                let words = format!("shared memory ({what})");
                self.hazard(
                    warp,
                    at,
                    lane,
                    offset.into(),
                    PIECE,
                    &words,
                    offset.into(),
                    hazard,
                );
            }
            Ok(()) => {
                let fences = &self.bulks.fences;
                let fenced = |thread: Thread, clock: u32| {
                    fences
                        .get(thread.warp as usize)
                        .is_some_and(|lanes| lanes[thread.lane as usize] >= clock)
                };
                if let Some((writer, pc)) = shadow.unfenced_writer(offset.into(), PIECE as u64, &who, fenced)
                {
                    let message = format!(
                        "{what} reads 16 bytes of shared memory at {offset:#x} by the asynchronous proxy, and the thread that \
                         wrote them has executed no fence.proxy.async since"
                    );
                    let mut finding =
                        self.at_address(Check::ProxyFence, warp, at, lane, offset.into(), message);
                    if let Some(pc) = pc {
                        finding
                            .others
                            .push(self.other(writer, pc, "they were written in".to_owned()));
                    }
                    self.run.report(*finding);
                }
            }
        }
        let from = offset as usize;
        Ok(self.shared.as_ref()[from..from + PIECE]
            .try_into()
            .expect("16 bytes"))
    }

    pub(super) fn bulk(&mut self, warp: &mut Warp, at: &At<'_>, what: &Bulk) -> Result<(), Box<Finding>> {
        match *what {
            Bulk::TensorLoad {
                to,
                map,
                barrier,
                rank,
            } => {
                let to = self.shared_offsets(warp, at, at.src(0), to)?;
                let barrier = self.shared_offsets(warp, at, at.src(2), barrier)?;
                for lane in each(at.mask) {
                    let map = self.tensor_map(warp, at, lane, map, rank)?;
                    let coordinates = coordinates(at, lane, 3, rank);
                    self.check_tile(warp, at, lane, &map, to[lane], Deed::Write)?;
                    let from = stretches(&map, coordinates);
                    let fill = map.fill_bytes();
                    let data = (0..map.tile_bytes() as usize).map(|i| fill[i % 8]).collect();
                    let (to, barrier) = (to[lane], barrier[lane]);
                    self.issue_load(
                        warp,
                        at,
                        lane,
                        to as u32,
                        barrier as u32,
                        &from,
                        data,
                        map.swizzle,
                    )?;
                }
            }
            Bulk::Load { to, from, barrier } => {
                let to = self.shared_offsets(warp, at, at.src(0), to)?;
                let from = addresses(at.regs, at.src(1), from.base, from.offset);
                let barrier = self.shared_offsets(warp, at, at.src(2), barrier)?;
                let sizes = at.regs.get32(at.src(3));
                for lane in each(at.mask) {
                    self.check_plain(warp, at, lane, sizes[lane], to[lane], from[lane], Deed::Write)?;
                    let stretch = Stretch {
                        at: 0,
                        address: from[lane],
                        bytes: sizes[lane],
                    };
                    let data = vec![0; sizes[lane] as usize];
                    let (to, barrier) = (to[lane] as u32, barrier[lane] as u32);
                    self.issue_load(warp, at, lane, to, barrier, &[stretch], data, Swizzle::None)?;
                }
            }
            Bulk::TensorStore { from, map, rank } => {
                let from = self.shared_offsets(warp, at, at.src(0), from)?;
                for lane in each(at.mask) {
                    let map = self.tensor_map(warp, at, lane, map, rank)?;
                    let coordinates = coordinates(at, lane, 2, rank);
                    self.check_tile(warp, at, lane, &map, from[lane], Deed::Read)?;
                    let to = stretches(&map, coordinates);
                    let bytes = map.tile_bytes();
                    self.issue_store(warp, at, lane, from[lane] as u32, bytes, to, map.swizzle)?;
                }
            }
            Bulk::Store { from, to } => {
                let from = self.shared_offsets(warp, at, at.src(0), from)?;
                let to = addresses(at.regs, at.src(1), to.base, to.offset);
                let sizes = at.regs.get32(at.src(2));
                for lane in each(at.mask) {
                    self.check_plain(warp, at, lane, sizes[lane], from[lane], to[lane], Deed::Read)?;
                    let stretch = Stretch {
                        at: 0,
                        address: to[lane],
                        bytes: sizes[lane],
                    };
                    let from = from[lane] as u32;
                    self.issue_store(warp, at, lane, from, sizes[lane], vec![stretch], Swizzle::None)?;
                }
            }
            Bulk::Commit => {
                for lane in each(at.mask) {
                    let thread = 32 * warp.index as u32 + lane as u32;
                    *self.bulks.committed.entry(thread).or_default() += 1;
                }
            }
            Bulk::Wait { groups, read } => {
                for lane in each(at.mask) {
                    self.wait_for_stores(warp, lane, groups, read);
                }
            }
        }
        Ok(())
    }

    fn illegal(&self, warp: &Warp, at: &At<'_>, lane: usize, message: String) -> Box<Finding> {
        self.finding(Check::Illegal, warp, at.pc, lane as u32, message)
    }

    /// Reads the map that an operand points to.
    fn tensor_map(
        &mut self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        place: Place,
        rank: u8,
    ) -> Result<TensorMap, Box<Finding>> {
        let address = addresses(at.regs, at.src(1), place.base, place.offset)[lane];
        let mut bytes = [0; TENSOR_MAP_BYTES];
        if !address.is_multiple_of(64) {
            let message = format!("a tensor map at {address:#x}, which is not a multiple of 64");
            return Err(self.finding(Check::Misaligned, warp, at.pc, lane as u32, message));
        }
        match generic(address) {
            (Space::Param, offset) => {
                let end = offset as usize + TENSOR_MAP_BYTES;
                if end > self.run.param_bytes as usize {
                    let message =
                        format!("a tensor map of 128 bytes at offset {offset:#x} of the parameters");
                    return Err(self.at_address(Check::OutOfBounds, warp, at, lane, address, message));
                }
                bytes.copy_from_slice(&self.run.params.as_ref()[offset as usize..end]);
            }
            (Space::Global, _) => {
                let allocation = self.global(warp, at, lane, address, TENSOR_MAP_BYTES, Deed::Read)?;
                take(allocation, address, &mut bytes);
            }
            _ => {
                let message =
                    "a tensor map lies in a parameter (__grid_constant__), in constant or in global memory";
                return Err(self.illegal(warp, at, lane, message.to_owned()));
            }
        }
        let Some(map) = TensorMap::decode(&bytes) else {
            let message =
                format!("the 128 bytes at {address:#x} are no map that cuTensorMapEncodeTiled wrote");
            return Err(self.illegal(warp, at, lane, message));
        };
        if map.rank != usize::from(rank) {
            let message = format!(
                "a copy with {rank} coordinates by a tensor map of {} dimensions",
                map.rank
            );
            return Err(self.illegal(warp, at, lane, message));
        }
        Ok(map)
    }

    /// Checks where a box lies in shared memory.
    fn check_tile(
        &self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        map: &TensorMap,
        offset: u64,
        deed: Deed,
    ) -> Result<(), Box<Finding>> {
        if !is_laid_out(map) {
            let message = format!(
                "rows of {} bytes in a swizzle of {}: how they lie in shared memory is not documented",
                map.row_bytes(),
                map.swizzle.span()
            );
            return Err(self.illegal(warp, at, lane, message));
        }
        if !offset.is_multiple_of(128) {
            let message = format!(
                "a tensor's box at offset {offset:#x} of shared memory, which is not a multiple of 128"
            );
            return Err(self.at_address(Check::Misaligned, warp, at, lane, offset, message));
        }
        self.shared_bounds(warp, at, lane, offset, map.tile_bytes() as usize, deed)
    }

    /// Checks a copy without a map.
    #[allow(clippy::too_many_arguments)]
    fn check_plain(
        &self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        bytes: u32,
        shared: u64,
        global: u64,
        deed: Deed,
    ) -> Result<(), Box<Finding>> {
        let wrong = [
            ("size", u64::from(bytes)),
            ("shared address", shared),
            ("global address", global),
        ];
        if let Some((what, value)) = wrong.iter().find(|(_, value)| !value.is_multiple_of(16)) {
            let message = format!("a bulk copy's {what} is {value:#x}, which is not a multiple of 16");
            return Err(self.finding(Check::Misaligned, warp, at.pc, lane as u32, message));
        }
        if bytes == 0 {
            return Err(self.illegal(warp, at, lane, "a bulk copy of no bytes".to_owned()));
        }
        self.shared_bounds(warp, at, lane, shared, bytes as usize, deed)
    }

    /// `data` has what is not in the stretches already.
    #[allow(clippy::too_many_arguments)]
    fn issue_load(
        &mut self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        to: u32,
        barrier: u32,
        from: &[Stretch],
        mut data: Vec<u8>,
        swizzle: Swizzle,
    ) -> Result<(), Box<Finding>> {
        self.mbarrier(warp, at, lane, barrier)?;
        let agent = self.clocks.async_agent(barrier.into());
        self.clocks.async_begin(agent, warp.index, lane);
        let mut unwritten = Vec::new();
        for stretch in from {
            let allocation = self.reach(warp, at, lane, *stretch, Deed::Read)?;
            let place = stretch.at as usize;
            let bytes = stretch.bytes as usize;
            take(allocation, stretch.address, &mut data[place..place + bytes]);
            let offset = allocation.offset(stretch.address);
            let shadow = allocation.shadow();
            if shadow.first_uninitialised(offset, bytes as u64).is_some() {
                // What nobody has written stays so: who reads it there is told.
                unwritten.extend(
                    (0..bytes)
                        .filter(|&i| shadow.first_uninitialised(offset + i as u64, 1).is_some())
                        .map(|i| place + i),
                );
            }
            let who = self.clocks.who_async(agent);
            for (from, bytes) in chunks(offset, bytes) {
                match shadow.read(from, bytes, &who, lane, How::Weak, at.pc) {
                    Ok(()) | Err(Hazard::Uninitialised { .. }) => {}
                    Err(hazard) => {
                        let words = name(allocation);
                        let address = allocation.address() + from;
                        self.hazard(warp, at, lane, address, bytes, &words, from, hazard);
                    }
                }
            }
        }
        let mut pieces: Vec<Piece> = data
            .chunks_exact(PIECE)
            .enumerate()
            .map(|(i, data)| Piece {
                at: swizzle.place(to + (i * PIECE) as u32),
                data: data.try_into().expect("16 bytes"),
                written: u16::MAX,
            })
            .collect();
        for at in unwritten {
            pieces[at / PIECE].written &= !(1 << (at % PIECE));
        }
        let who = self.clocks.who_async(agent);
        for piece in &pieces {
            let at_piece = u64::from(piece.at);
            if self
                .shared_bounds(warp, at, lane, at_piece, PIECE, Deed::Write)
                .is_err()
            {
                let message = format!(
                    "the swizzle moves a piece of the box at {to:#x} to {at_piece:#x}, past the end of shared memory: align the \
                     box to eight of its rows"
                );
                return Err(self.at_address(Check::OutOfBounds, warp, at, lane, at_piece, message));
            }
            if let Err(hazard) = self.shadow.mark_pending(at_piece, PIECE, &who, lane, at.pc) {
                let words = "shared memory";
                self.hazard(warp, at, lane, at_piece, PIECE, words, at_piece, hazard);
            }
        }
        self.bulks.loads.push(Load {
            barrier,
            pieces,
            issuer: issuer(self.linear, warp, lane),
            pc: at.pc,
            agent,
        });
        self.event();
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn issue_store(
        &mut self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        from: u32,
        bytes: u32,
        to: Vec<Stretch>,
        swizzle: Swizzle,
    ) -> Result<(), Box<Finding>> {
        let thread = 32 * warp.index as u32 + lane as u32;
        let group = self.bulks.committed.get(&thread).copied().unwrap_or(0);
        // Two groups of a thread are told apart; more are rarely under way.
        let agent = self
            .clocks
            .async_agent(STORES | u64::from(thread) << 1 | u64::from(group & 1));
        self.clocks.async_begin(agent, warp.index, lane);
        let mut data = Vec::with_capacity(bytes as usize);
        for at_piece in (from..from + bytes).step_by(PIECE) {
            let at_piece = swizzle.place(at_piece);
            data.extend(self.async_read(warp, at, lane, agent, at_piece, "a bulk copy")?);
        }
        for stretch in &to {
            let allocation = self.reach(warp, at, lane, *stretch, Deed::Write)?;
            let who = self.clocks.who_async(agent);
            let offset = allocation.offset(stretch.address);
            for (to, bytes) in chunks(offset, stretch.bytes as usize) {
                let shadow = allocation.shadow();
                if let Err(hazard) = shadow.mark_pending(to, bytes, &who, lane, at.pc) {
                    let words = name(allocation);
                    let address = allocation.address() + to;
                    self.hazard(warp, at, lane, address, bytes, &words, to, hazard);
                }
            }
        }
        self.bulks.stores.push(Store {
            thread,
            group,
            issuer: issuer(self.linear, warp, lane),
            pc: at.pc,
            agent,
            data,
            to,
            read: false,
        });
        self.event();
        Ok(())
    }

    /// Finds and counts a stretch of global memory.
    fn reach(
        &mut self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        stretch: Stretch,
        deed: Deed,
    ) -> Result<&'l Allocation, Box<Finding>> {
        let bytes = stretch.bytes as usize;
        let allocation = self.global(warp, at, lane, stretch.address, bytes, deed)?;
        if deed == Deed::Write && self.run.memory_is_constant(allocation) {
            let message = format!("a bulk copy to constant memory at {:#x}", stretch.address);
            return Err(self.illegal(warp, at, lane, message));
        }
        self.check_previous(warp, at, lane, stretch.address, bytes, allocation, deed);
        // Counted as accesses of 16 bytes each, 32 to a request.
        let mut done = 0;
        while done < bytes {
            let count = (bytes - done).div_ceil(PIECE).min(LANES);
            let mask = u32::MAX >> (LANES - count);
            let mut places = [0; LANES];
            for (i, place) in places.iter_mut().enumerate() {
                *place = stretch.address + (done + i * PIECE) as u64;
            }
            let last = (bytes - done).min(count * PIECE) - (count - 1) * PIECE;
            for (mask, bytes) in [(mask >> 1, PIECE), (1 << (count - 1), last)] {
                if mask != 0 {
                    self.meter.global(at.pc, mask, &places, bytes);
                    let offsets = places.map(|place| place - allocation.address());
                    self.meter
                        .touched(allocation, mask, &offsets, bytes, deed == Deed::Read);
                }
            }
            done += count * PIECE;
        }
        Ok(allocation)
    }

    /// All copies on their way to an mbarrier arrive; whether there were any.
    pub(super) fn land(&mut self, barrier: u32) -> Result<bool, Box<Finding>> {
        let mut any = false;
        while let Some(index) = self.bulks.loads.iter().position(|load| load.barrier == barrier) {
            any = true;
            self.land_one(index)?;
        }
        Ok(any)
    }

    /// Where the schedule is random, so is the time at which copies arrive.
    pub(super) fn land_some(&mut self) -> Result<(), Box<Finding>> {
        if self.bulks.loads.is_empty() {
            return Ok(());
        }
        match self.random() {
            Some(random) if random.is_multiple_of(3) => {
                let count = self.bulks.loads.len() as u64;
                self.land_one((random / 3 % count) as usize)
            }
            _ => Ok(()),
        }
    }

    fn land_one(&mut self, index: usize) -> Result<(), Box<Finding>> {
        let load = self.bulks.loads.remove(index);
        let (lane, mut bytes) = (load.issuer.lane as usize, 0);
        for piece in &load.pieces {
            let at = piece.at as usize;
            self.shared.as_mut()[at..at + PIECE].copy_from_slice(&piece.data);
            let who = self.clocks.who_async(load.agent);
            self.shadow
                .complete_pending(at as u64, PIECE, &who, lane, load.pc);
            for i in (0..PIECE as u64).filter(|i| piece.written >> i & 1 == 0) {
                self.shadow.set_uninitialised(at as u64 + i, 1);
            }
            bytes += PIECE as i32;
        }
        let published = self.clocks.async_end(load.agent);
        let released = &mut self.mbarriers.released;
        released.entry(load.barrier).or_default().0.join(&published);
        let Some(mut state) = self.peek_mbarrier(load.barrier) else {
            let message = format!(
                "a bulk copy arrives at the mbarrier at offset {:#x}, which is not valid any more",
                load.barrier
            );
            return Err(Box::new(self.async_finding(
                Check::BarrierMisuse,
                load.issuer,
                load.pc,
                message,
            )));
        };
        state.transactions -= bytes;
        self.settle(load.barrier, state);
        Ok(())
    }

    /// A thread waits until at most `groups` of its groups are under way.
    fn wait_for_stores(&mut self, warp: &Warp, lane: usize, groups: u32, read: bool) {
        let thread = 32 * warp.index as u32 + lane as u32;
        let committed = self.bulks.committed.get(&thread).copied().unwrap_or(0);
        let mut index = 0;
        while index < self.bulks.stores.len() {
            let store = &mut self.bulks.stores[index];
            if store.thread != thread || store.group.saturating_add(groups) >= committed {
                index += 1;
                continue;
            }
            store.read = true;
            let agent = store.agent;
            if read {
                index += 1;
            } else {
                self.put_store(index);
            }
            let published = self.clocks.async_end(agent);
            self.clocks.acquire(warp.index, 1 << lane, &published);
        }
    }

    /// A store's bytes reach global memory.
    fn put_store(&mut self, index: usize) {
        let store = self.bulks.stores.remove(index);
        for stretch in &store.to {
            let mut hint = 0;
            let Some(allocation) = self.run.memory.find_cached(stretch.address, &mut hint) else {
                continue;
            };
            let from = stretch.at as usize;
            let bytes = stretch.bytes as usize;
            give(allocation, stretch.address, &store.data[from..from + bytes]);
            let who = self.clocks.who_async(store.agent);
            let offset = allocation.offset(stretch.address);
            for (to, bytes) in chunks(offset, bytes) {
                let lane = store.issuer.lane as usize;
                allocation
                    .shadow()
                    .complete_pending(to, bytes, &who, lane, store.pc);
            }
        }
        self.event();
    }

    /// Threads end: their stores go on by themselves, but not the reading of shared memory, which ends with the block.
    pub(super) fn end_stores(&mut self, warp: usize, mask: u32) {
        let mut index = 0;
        while index < self.bulks.stores.len() {
            let store = &self.bulks.stores[index];
            let (owner, lane) = (store.thread / 32, store.thread % 32);
            if owner as usize != warp || mask >> lane & 1 == 0 {
                index += 1;
                continue;
            }
            if !store.read {
                let message = "a thread exits while a bulk copy that it issued may still read shared memory: \
                               cp.async.bulk.wait_group.read first";
                self.run.report(self.async_finding(
                    Check::AsyncPending,
                    store.issuer,
                    store.pc,
                    message.to_owned(),
                ));
            }
            self.put_store(index);
        }
    }

    /// The block has ended: nothing may be on its way to its shared memory.
    pub(super) fn check_landed(&mut self) {
        if self.run.stopped() {
            return;
        }
        for load in &self.bulks.loads {
            let message =
                "the block ends while a bulk copy into its shared memory is under way: wait for its mbarrier";
            self.run.report(self.async_finding(
                Check::AsyncPending,
                load.issuer,
                load.pc,
                message.to_owned(),
            ));
        }
    }

    /// A finding at the instruction that issued an operation.
    fn async_finding(&self, check: Check, issuer: Thread, pc: u32, message: String) -> Finding {
        let site: Site = self.other(issuer, pc, String::new());
        Finding {
            check,
            kernel: self.run.kernel.name.clone(),
            message,
            address: None,
            site,
            others: Vec::new(),
            module: self.run.module.clone(),
        }
    }
}

fn issuer(block: u64, warp: &Warp, lane: usize) -> Thread {
    Thread {
        block: block as u32,
        warp: warp.index as u32,
        lane: lane as u32,
    }
}

/// Coordinates from source `first` on; 0 where the tensor has no such dimension.
fn coordinates(at: &At<'_>, lane: usize, first: usize, rank: u8) -> [i32; 3] {
    let mut list = [0; 3];
    for (axis, coordinate) in list.iter_mut().enumerate().take(rank.into()) {
        *coordinate = at.regs.get32(at.src(first + axis))[lane] as i32;
    }
    list
}

/// Cuts a range of offsets where multiples of 64 lie.
fn chunks(offset: u64, bytes: usize) -> impl Iterator<Item = (u64, usize)> {
    let end = offset + bytes as u64;
    let mut at = offset;
    std::iter::from_fn(move || {
        if at == end {
            return None;
        }
        let from = at;
        at = (from / 64 * 64 + 64).min(end);
        Some((from, (at - from) as usize))
    })
}

/// Copies out of an allocation that holds all of it.
fn take(allocation: &Allocation, address: u64, to: &mut [u8]) {
    let from = allocation.host(address);
    let mut done = 0;
    while done < to.len() {
        let step = if (from as usize + done).is_multiple_of(8) && to.len() - done >= 8 {
            8
        } else {
            1
        };
        // SAFETY: the allocation holds all bytes, and the address is aligned to the step.
        let value = unsafe { read(from.wrapping_add(done), step) };
        to[done..done + step].copy_from_slice(&value.to_le_bytes()[..step]);
        done += step;
    }
}

/// Copies into an allocation that holds all of it.
fn give(allocation: &Allocation, address: u64, from: &[u8]) {
    let to = allocation.host(address);
    let mut done = 0;
    while done < from.len() {
        let step = if (to as usize + done).is_multiple_of(8) && from.len() - done >= 8 {
            8
        } else {
            1
        };
        let mut value = [0; 8];
        value[..step].copy_from_slice(&from[done..done + step]);
        // SAFETY: the allocation holds all bytes, and the address is aligned to the step.
        unsafe { write(to.wrapping_add(done), step, u64::from_le_bytes(value)) };
        done += step;
    }
}
