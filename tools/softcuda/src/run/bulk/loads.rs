//! Loads: bulk copies from global into shared memory.

use super::{PIECE, chunks, issuer, take};
use crate::ir::windows::shared_place;
use crate::memory::{Hazard, How, Swizzle, Thread};
use crate::run::block::Block;
use crate::run::check::{Check, Finding};
use crate::run::memory::{Deed, name};
use crate::run::step::{At, each};
use crate::run::tensor::Stretch;
use crate::run::warp::Warp;

/// What is to be loaded.
pub(super) struct Request {
    /// Shared addresses of the destination and the mbarrier.
    pub to: u64,
    pub barrier: u64,
    /// What lies in the tensor, and the bytes that stand for the rest.
    pub from: Vec<Stretch>,
    pub fill: [u8; 8],
    pub bytes: u32,
    pub swizzle: Swizzle,
    /// The bytes come by a tensor map, which says how they are arranged.
    pub mapped: bool,
}

/// A box that lies in shared memory as a tensor map has it.
pub(super) struct Tile {
    from: u32,
    to: u32,
    swizzle: Swizzle,
    issuer: Thread,
    pc: u32,
}

/// On its way to shared memory.
pub(super) struct Load {
    /// Offset of the mbarrier.
    barrier: u32,
    pieces: Vec<Piece>,
    issuer: Thread,
    pc: u32,
    agent: usize,
}

struct Piece {
    at: u32,
    /// 16, but for `st.async`.
    bytes: u8,
    data: [u8; PIECE],
    /// A bit for each byte that somebody had written at its source, or that is filled in.
    written: u16,
}

impl<'l> Block<'l> {
    /// Issues a load into the block that its destination lies in, or into those of a multicast: source operand `blocks`.
    pub(super) fn issue_loads(
        &mut self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        load: Request,
        blocks: Option<usize>,
    ) -> Result<(), Box<Finding>> {
        let own = self.member.rank as usize;
        let (to, barrier) = (
            self.far(load.to).unwrap_or(own),
            self.far(load.barrier).unwrap_or(own),
        );
        let ranks = match blocks {
            Some(operand) => at.regs.get32(at.src(operand))[lane] & 0xffff,
            None if to != barrier => {
                let message = format!(
                    "a bulk copy into the cluster's block {to}, with an mbarrier of its block {barrier}"
                );
                return Err(self.illegal(warp, at, lane, message));
            }
            None => 1 << to,
        };
        if ranks == 0 || ranks >> self.run.cluster_blocks() != 0 {
            let message = format!(
                "a multicast to the blocks {ranks:#06x} of a cluster of {}",
                self.run.cluster_blocks()
            );
            return Err(self.illegal(warp, at, lane, message));
        }
        for rank in each(ranks) {
            let first = rank == ranks.trailing_zeros() as usize;
            if rank == own {
                self.issue_load(warp, at, lane, &load, first)?;
            } else {
                self.with_peer(warp, at, 1 << lane, rank, |peer| {
                    peer.issue_load(warp, at, lane, &load, first)
                })?;
            }
        }
        Ok(())
    }

    /// `st.async`: bytes of registers, which arrive as a bulk copy's do.
    pub(super) fn issue_put(
        &mut self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        to: u64,
        barrier: u64,
        data: Vec<u8>,
    ) -> Result<(), Box<Finding>> {
        let own = self.member.rank as usize;
        let rank = self.far(to).unwrap_or(own);
        if rank != self.far(barrier).unwrap_or(own) {
            let message = "st.async: destination and mbarrier lie in different blocks".to_owned();
            return Err(self.illegal(warp, at, lane, message));
        }
        let (to, barrier) = (shared_place(to, 0).1, shared_place(barrier, 0).1 as u32);
        let act = |block: &mut Self| {
            block.shared_bounds(warp, at, lane, to, data.len(), Deed::Write)?;
            if !to.is_multiple_of(data.len() as u64) {
                return Err(block.misaligned(warp, at, lane, to, data.len(), Deed::Write));
            }
            let agent = block.begin_load(warp, at, lane, barrier)?;
            let mut piece = Piece {
                at: to as u32,
                bytes: data.len() as u8,
                data: [0; PIECE],
                written: u16::MAX,
            };
            piece.data[..data.len()].copy_from_slice(&data);
            block.set_out(warp, at, lane, barrier, agent, vec![piece]);
            Ok(())
        };
        if rank == own {
            act(self)
        } else {
            self.with_peer(warp, at, 1 << lane, rank, act)
        }
    }

    /// The agent of loads that complete at an mbarrier begins one for the thread at hand.
    fn begin_load(
        &mut self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        barrier: u32,
    ) -> Result<usize, Box<Finding>> {
        self.mbarrier(warp, at, lane, barrier)?;
        let agent = self.clocks.async_agent(barrier.into());
        // Who waits for the load knows that its thread was here.
        match self.member.visitor() {
            Some(_) => {
                let knows = self.release_visitor();
                self.clocks.async_begin_for(agent, &knows);
            }
            None => self.clocks.async_begin(agent, warp.index, lane),
        }
        Ok(agent)
    }

    /// Pieces are on their way: nobody may touch where they land.
    fn set_out(
        &mut self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        barrier: u32,
        agent: usize,
        pieces: Vec<Piece>,
    ) {
        let who = self.clocks.who_async(agent);
        for piece in &pieces {
            let (to, bytes) = (u64::from(piece.at), usize::from(piece.bytes));
            if let Err(hazard) = self.shadow.mark_pending(to, bytes, &who, lane, at.pc) {
                self.hazard(warp, at, lane, to, bytes, "shared memory", to, hazard);
            }
        }
        self.bulks.loads.push(Load {
            barrier,
            pieces,
            issuer: issuer(
                self.member
                    .visitor()
                    .map_or(self.linear, |visitor| visitor.linear),
                warp,
                lane,
            ),
            pc: at.pc,
            agent,
        });
        self.event();
    }

    /// In this block, whatever block destination and mbarrier are given for: they lie at the same offsets in each. The
    /// `first` of a multicast's blocks asks for the bytes.
    fn issue_load(
        &mut self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        load: &Request,
        first: bool,
    ) -> Result<(), Box<Finding>> {
        let (to, barrier) = (
            shared_place(load.to, 0).1 as u32,
            shared_place(load.barrier, 0).1 as u32,
        );
        let agent = self.begin_load(warp, at, lane, barrier)?;
        let mut data: Vec<u8> = (0..load.bytes as usize).map(|i| load.fill[i % 8]).collect();
        let mut unwritten = Vec::new();
        for stretch in &load.from {
            let allocation = self.reach(warp, at, lane, *stretch, Deed::Read, first)?;
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
                at: load.swizzle.place(to + (i * PIECE) as u32),
                bytes: PIECE as u8,
                data: data.try_into().expect("16 bytes"),
                written: u16::MAX,
            })
            .collect();
        for at in unwritten {
            pieces[at / PIECE].written &= !(1 << (at % PIECE));
        }
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
        }
        self.set_out(warp, at, lane, barrier, agent, pieces);
        let end = to + load.bytes;
        self.bulks.tiles.retain(|tile| tile.to <= to || end <= tile.from);
        if load.mapped {
            self.bulks.tiles.push(Tile {
                from: to,
                to: end,
                swizzle: load.swizzle,
                issuer: issuer(self.linear, warp, lane),
                pc: at.pc,
            });
        }
        let count = &mut self.meter.bulk;
        count.loads += u64::from(first);
        count.loaded_bytes += u64::from(load.bytes);
        count.saved_bytes += if first { 0 } else { u64::from(load.bytes) };
        if self.bulks.filling.insert(barrier) {
            count.fill(self.bulks.filling.len());
        }
        Ok(())
    }

    /// An operand of wgmma that begins at `start` is read with another swizzle than the tensor map has that wrote it.
    pub(in crate::run) fn compare_swizzles(
        &self,
        warp: &Warp,
        at: &At<'_>,
        start: u32,
        swizzle: Swizzle,
        what: &str,
    ) {
        let written = |tile: &&Tile| (tile.from..tile.to).contains(&start) && tile.swizzle != swizzle;
        let Some(tile) = self.bulks.tiles.iter().find(written) else {
            return;
        };
        // Threads may have written there since.
        let who = self.clocks.who(warp.index);
        if self
            .shadow
            .unfenced_writer(start.into(), PIECE as u64, &who, |_, _| false)
            .is_some()
        {
            return;
        }
        let words = |swizzle: Swizzle| match swizzle {
            Swizzle::None => "no swizzle".to_owned(),
            some => format!("a swizzle of {} bytes", some.span()),
        };
        let message = format!(
            "{what} at {start:#x} is read with {}, and the tensor map of the copy that wrote it has {}",
            words(swizzle),
            words(tile.swizzle)
        );
        let mut finding = self.at_address(Check::Swizzle, warp, at, 0, start.into(), message);
        finding
            .others
            .push(self.other(tile.issuer, tile.pc, "the copy was issued in".to_owned()));
        self.run.report(*finding);
    }

    /// A thread has found an mbarrier's phase complete.
    pub(in crate::run) fn phase_found(&mut self, barrier: u32) {
        if !self.bulks.filling.is_empty() && !self.bulks.loads.iter().any(|load| load.barrier == barrier) {
            self.bulks.filling.remove(&barrier);
        }
    }

    /// All copies on their way to an mbarrier arrive; whether there were any.
    pub(in crate::run) fn land(&mut self, barrier: u32) -> Result<bool, Box<Finding>> {
        let mut any = false;
        while let Some(index) = self.bulks.loads.iter().position(|load| load.barrier == barrier) {
            any = true;
            self.land_one(index)?;
        }
        Ok(any)
    }

    /// Where the schedule is random, so is the time at which copies arrive.
    pub(in crate::run) fn land_some(&mut self) -> Result<(), Box<Finding>> {
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
            let count = usize::from(piece.bytes);
            self.shared.as_mut()[at..at + count].copy_from_slice(&piece.data[..count]);
            let who = self.clocks.who_async(load.agent);
            self.shadow
                .complete_pending(at as u64, count, &who, lane, load.pc);
            for i in (0..count as u64).filter(|i| piece.written >> i & 1 == 0) {
                self.shadow.set_uninitialised(at as u64 + i, 1);
            }
            bytes += count as i32;
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

    /// The block has ended: nothing may be on its way to its shared memory.
    pub(in crate::run) fn check_landed(&mut self) {
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
}
