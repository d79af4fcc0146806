//! Stores: bulk copies from shared into global memory.

use super::{PIECE, chunks, give, issuer};
use crate::memory::{Swizzle, Thread};
use crate::run::block::Block;
use crate::run::check::{Check, Finding};
use crate::run::memory::{Deed, name};
use crate::run::step::At;
use crate::run::tensor::Stretch;
use crate::run::warp::Warp;

/// Agents by what they complete at: mbarriers have their offset as the key.
const STORES: u64 = 1 << 40;

/// On its way to global memory.
pub(super) struct Store {
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

impl<'l> Block<'l> {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn issue_store(
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
            let allocation = self.reach(warp, at, lane, *stretch, Deed::Write, true)?;
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
        self.meter.bulk.stores += 1;
        self.meter.bulk.stored_bytes += u64::from(bytes);
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

    /// A thread waits until at most `groups` of its groups are under way.
    pub(super) fn wait_for_stores(&mut self, warp: &Warp, lane: usize, groups: u32, read: bool) {
        let thread = 32 * warp.index as u32 + lane as u32;
        let committed = self.bulks.committed.get(&thread).copied().unwrap_or(0);
        let mut index = 0;
        while index < self.bulks.stores.len() {
            let store = &mut self.bulks.stores[index];
            // What has been read ends once: others may be under way at its agent.
            if store.thread != thread
                || store.group.saturating_add(groups) >= committed
                || (read && store.read)
            {
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
    pub(in crate::run) fn end_stores(&mut self, warp: usize, mask: u32) {
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
}
