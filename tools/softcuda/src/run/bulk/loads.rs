//! Loads: bulk copies from global into shared memory.

use super::{PIECE, chunks, issuer, take};
use crate::memory::{Hazard, How, Swizzle, Thread};
use crate::run::block::Block;
use crate::run::check::{Check, Finding};
use crate::run::memory::{Deed, name};
use crate::run::step::At;
use crate::run::tensor::Stretch;
use crate::run::warp::Warp;

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
    data: [u8; PIECE],
    /// A bit for each byte that somebody had written at its source, or that is filled in.
    written: u16,
}

impl<'l> Block<'l> {
    /// `data` has what is not in the stretches already.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn issue_load(
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
