//! Asynchronous copies (`cp.async`), and the barriers in shared memory that they arrive at (mbarriers).

use std::collections::HashMap;

use super::block::Block;
use super::check::{Check, Finding};
use super::memory::{Addresses, Deed, addresses, name, read};
use super::step::{At, Next, each};
use super::warp::{PendingCopies, Wait, Warp};
use crate::ir::regs::{LANES, Slot};
use crate::ir::windows::shared_place;
use crate::ir::{Async, Place, Scope};
use crate::memory::{Hazard, How, Published, Thread};
use crate::ptx::ast::Space;

/// An mbarrier object as it lies in shared memory, in 64 bits: phase, arrivals still expected in this phase, arrivals
/// expected in each phase, bytes of transactions still expected. The ISA leaves the layout open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mbarrier {
    phase: bool,
    pending: u32,
    expected: u32,
    pub(super) transactions: i32,
}

/// Largest count (PTX ISA: 2^20 − 1).
const MOST_ARRIVALS: u32 = (1 << 20) - 1;
/// Most bytes of transactions, expected or come too early, that are outstanding (PTX ISA: 2^20 − 1).
const MOST_TRANSACTIONS: i32 = (1 << 20) - 1;

impl Mbarrier {
    fn pack(self) -> u64 {
        u64::from(self.phase)
            | u64::from(self.pending) << 1
            | u64::from(self.expected) << 21
            | ((self.transactions as u64) & 0x3f_ffff) << 41
            | 1 << 63
    }

    /// `None` for bits that no `mbarrier.init` wrote.
    pub(super) fn unpack(bits: u64) -> Option<Self> {
        let transactions = ((bits >> 41 & 0x3f_ffff) as i32) << 10 >> 10;
        (bits >> 63 == 1 && bits != u64::MAX).then_some(Self {
            phase: bits & 1 != 0,
            pending: (bits >> 1) as u32 & MOST_ARRIVALS,
            expected: (bits >> 21) as u32 & MOST_ARRIVALS,
            transactions,
        })
    }
}

/// Arrivals by one lane: how many, bytes of transactions to expect, and whether later phases expect them no more.
#[derive(Clone, Copy)]
struct Arrival {
    count: u32,
    bytes: i32,
    drop: bool,
}

/// What arrivals at mbarriers have released: in the current phase, and in the last complete one.
#[derive(Default)]
pub(super) struct Mbarriers {
    pub(super) released: HashMap<u32, (Published, Published)>,
    /// Who has initialised each.
    begun: HashMap<u32, Begun>,
}

/// The `mbarrier.init` of an mbarrier: by whom, until which clock, where.
#[derive(Clone, Copy)]
struct Begun {
    thread: Thread,
    clock: u32,
    pc: u32,
    /// The thread has executed `fence.mbarrier_init` since.
    fenced: bool,
    /// The phase of the cluster's barrier that the thread arrived in after that.
    known_from: Option<u32>,
}

impl Mbarriers {
    /// What these lanes of a warp have initialised.
    fn begun_by(&mut self, warp: usize, mask: u32) -> impl Iterator<Item = &mut Begun> {
        self.begun
            .values_mut()
            .filter(move |begun| begun.thread.warp as usize == warp && mask >> begun.thread.lane & 1 != 0)
    }

    /// These lanes arrive at the cluster's barrier.
    pub(super) fn arrive_at_cluster(&mut self, warp: usize, mask: u32, phase: u32) {
        for begun in self.begun_by(warp, mask).filter(|begun| begun.fenced) {
            begun.known_from.get_or_insert(phase);
        }
    }
}

impl<'l> Block<'l> {
    pub(super) fn asynchronous(
        &mut self,
        warp: &mut Warp,
        at: &At<'_>,
        what: &Async,
    ) -> Result<Next, Box<Finding>> {
        let regs = at.regs;
        match *what {
            Async::Copy {
                bytes,
                destination,
                source,
                sized,
                ignore,
            } => self.copy(warp, at, bytes, destination, source, sized, ignore)?,
            Async::Commit => each(at.mask).for_each(|lane| warp.committed[lane] += 1),
            Async::Wait(groups) => {
                let committed = warp.committed;
                self.finish_copies(warp, at.mask, |lane, group| {
                    group.saturating_add(groups) < committed[lane]
                });
            }
            Async::WaitAll => self.finish_copies(warp, at.mask, |_, _| true),
            Async::ArriveOnCompletion { place, counted } => {
                let offsets = self.shared_offsets(warp, at, at.src(0), place)?;
                for lane in each(at.mask) {
                    let offset = offsets[lane] as u32;
                    let mut state = self.mbarrier(warp, at, lane, offset)?;
                    // The copies are an agent's, which this thread too knows of only by waiting.
                    let agent = self.clocks.async_agent(offset.into());
                    self.clocks.async_begin(agent, warp.index, lane);
                    let mut copies = std::mem::take(&mut warp.copies);
                    for copies in &mut copies {
                        if copies.lanes >> lane & 1 != 0 {
                            copies.lanes &= !(1 << lane);
                            copies.put(lane, self.shared.as_mut());
                            let who = self.clocks.who_async(agent);
                            let (offset, bytes) = (copies.offsets[lane].into(), copies.bytes.into());
                            self.shadow.complete_pending(offset, bytes, &who, lane, copies.pc);
                        }
                    }
                    warp.copies = copies;
                    let published = self.clocks.async_end(agent);
                    self.mbarriers
                        .released
                        .entry(offset)
                        .or_default()
                        .0
                        .join(&published);
                    // Without .noinc the pending count is first raised by the arrival that follows.
                    if counted {
                        if state.pending >= MOST_ARRIVALS {
                            return Err(self.overflow(warp, at, lane));
                        }
                        state.pending += 1;
                    }
                    self.arrived(warp, at, lane, offset, state, 1)?;
                }
                warp.forget_done_copies();
            }
            Async::Init(place) => {
                let offsets = self.shared_offsets(warp, at, at.src(0), place)?;
                let counts = regs.get32(at.src(1));
                for lane in each(at.mask) {
                    let offset = offsets[lane];
                    self.check_place(warp, at, lane, offset)?;
                    let count = counts[lane];
                    if count == 0 || count > MOST_ARRIVALS {
                        let message =
                            format!("an mbarrier is to wait for {count} arrivals: 1 to {MOST_ARRIVALS}");
                        return Err(self.finding(Check::BarrierMisuse, warp, at.pc, lane as u32, message));
                    }
                    let who = self.clocks.who(warp.index);
                    if let Err(hazard) = self.shadow.write(offset, 8, &who, lane, How::Weak, false, at.pc) {
                        self.hazard(warp, at, lane, offset, 8, "shared memory", offset, hazard);
                    }
                    self.set_mbarrier(
                        offset as u32,
                        Mbarrier {
                            phase: false,
                            pending: count,
                            expected: count,
                            transactions: 0,
                        },
                    );
                    self.mbarriers.released.remove(&(offset as u32));
                    let begun = Begun {
                        thread: Thread {
                            block: self.linear as u32,
                            warp: warp.index as u32,
                            lane: lane as u32,
                        },
                        clock: self.clocks.close(warp.index),
                        pc: at.pc,
                        fenced: false,
                        known_from: None,
                    };
                    self.mbarriers.begun.insert(offset as u32, begun);
                }
                self.event();
            }
            Async::Invalidate(place) => {
                let offsets = self.shared_offsets(warp, at, at.src(0), place)?;
                for lane in each(at.mask) {
                    self.mbarrier(warp, at, lane, offsets[lane] as u32)?;
                    let to = self.shared.ptr().wrapping_add(offsets[lane] as usize);
                    // SAFETY: `mbarrier` checked that the object exists.
                    unsafe { super::memory::write(to, 8, u64::MAX) };
                }
                self.event();
            }
            Async::Arrive {
                place,
                state: wants_state,
                counted,
                expect,
                drop,
                order,
                ..
            } => {
                let offsets = self.shared_offsets(warp, at, at.src(0), place)?;
                let number = (counted || expect).then(|| regs.get32(at.src(1)));
                for lane in each(at.mask) {
                    let (count, bytes) = match number {
                        Some(bytes) if expect => (1, bytes[lane] as i32),
                        Some(count) => (count[lane], 0),
                        None => (1, 0),
                    };
                    let arrival = Arrival { count, bytes, drop };
                    let Some(rank) = self.far(offsets[lane]) else {
                        let offset = offsets[lane] as u32;
                        let state = self.mbarrier(warp, at, lane, offset)?;
                        if order.releases() {
                            let published = self.clocks.release_lanes(warp.index, 1 << lane);
                            self.release_at(offset, &published);
                        }
                        if wants_state {
                            regs.set_lane64(at.dst(0), lane, state.pack());
                        }
                        self.arrive_with(warp, at, lane, offset, state, arrival)?;
                        continue;
                    };
                    if wants_state {
                        let message =
                            "an arrival at another block's mbarrier has no state: write `_`".to_owned();
                        return Err(self.finding(Check::Illegal, warp, at.pc, lane as u32, message));
                    }
                    let (_, offset) = shared_place(offsets[lane], 0);
                    self.with_peer(warp, at, 1 << lane, rank, |peer| {
                        let offset = offset as u32;
                        let state = peer.mbarrier(warp, at, lane, offset)?;
                        if order.releases() {
                            let published = peer.release_visitor();
                            peer.release_at(offset, &published);
                        }
                        peer.arrive_with(warp, at, lane, offset, state, arrival)
                    })?;
                }
            }
            Async::Transaction { place, complete } => {
                let offsets = self.shared_offsets(warp, at, at.src(0), place)?;
                let numbers = regs.get32(at.src(1));
                for lane in each(at.mask) {
                    let bytes = if complete {
                        -(numbers[lane] as i32)
                    } else {
                        numbers[lane] as i32
                    };
                    let arrival = Arrival {
                        count: 0,
                        bytes,
                        drop: false,
                    };
                    let (_, offset) = shared_place(offsets[lane], 0);
                    let act = |block: &mut Self| {
                        let state = block.mbarrier(warp, at, lane, offset as u32)?;
                        block.arrive_with(warp, at, lane, offset as u32, state, arrival)
                    };
                    match self.far(offsets[lane]) {
                        Some(rank) => self.with_peer(warp, at, 1 << lane, rank, act)?,
                        None if offsets[lane] == offset => act(self)?,
                        // In no block: the place is refused.
                        None => self.check_place(warp, at, lane, offsets[lane])?,
                    }
                }
            }
            Async::TestWait {
                place,
                parity,
                suspend,
                order,
                ..
            } => {
                let offsets = self.shared_offsets(warp, at, at.src(0), place)?;
                let phase = if parity {
                    regs.get32(at.src(1)).map(u64::from)
                } else {
                    regs.get64(at.src(1))
                };
                let mut done = 0;
                let mut waits_at = None;
                for lane in each(at.mask) {
                    let offset = offsets[lane] as u32;
                    let mut state = self.mbarrier(warp, at, lane, offset)?;
                    if state.phase == (phase[lane] & 1 != 0) && self.land(offset)? {
                        // What was on its way to here is there now.
                        state = self.mbarrier(warp, at, lane, offset)?;
                    }
                    if state.phase != (phase[lane] & 1 != 0) {
                        done |= 1 << lane;
                        self.phase_found(offset);
                        if order.acquires()
                            && let Some((_, complete)) = self.mbarriers.released.get(&offset)
                        {
                            self.clocks.acquire(warp.index, 1 << lane, complete);
                        }
                    } else {
                        waits_at = waits_at.or(Some(offset));
                    }
                }
                if let Some(offset) = waits_at {
                    self.meter.mbarrier_wait(offset, at.pc);
                }
                regs.set_pred(at.dst(0), done, at.mask);
                if suspend && done != at.mask {
                    return Ok(Next::Wait(Wait::Poll { mbarrier: waits_at }));
                }
            }
            Async::PendingCount => {
                let states = regs.get64(at.src(0));
                let counts = states.map(|s| Mbarrier::unpack(s).map_or(0, |m| m.pending));
                regs.set32(at.dst(0), &counts, at.mask);
            }
        }
        Ok(Next::On)
    }

    /// Offsets in shared memory from an address operand.
    pub(super) fn shared_offsets(
        &self,
        warp: &Warp,
        at: &At<'_>,
        slot: Slot,
        place: Place,
    ) -> Result<Addresses, Box<Finding>> {
        let mut offsets = addresses(at.regs, slot, place.base, place.offset);
        if place.generic {
            for lane in each(at.mask) {
                let (space, offset) = self.generic(offsets[lane]);
                if space != Space::Shared {
                    let message = format!("the address {:#x} is not one of shared memory", offsets[lane]);
                    return Err(self.finding(Check::Illegal, warp, at.pc, lane as u32, message));
                }
                offsets[lane] = offset;
            }
        } else {
            // A block alone may use mapa too.
            each(at.mask).for_each(|lane| offsets[lane] = self.own_shared(offsets[lane]));
        }
        Ok(offsets)
    }

    #[allow(clippy::too_many_arguments)]
    fn copy(
        &mut self,
        warp: &mut Warp,
        at: &At<'_>,
        bytes: u8,
        destination: Place,
        source: Place,
        sized: bool,
        ignore: bool,
    ) -> Result<(), Box<Finding>> {
        let regs = at.regs;
        let size = usize::from(bytes);
        let to = self.shared_offsets(warp, at, at.src(0), destination)?;
        let from = addresses(regs, at.src(1), source.base, source.offset);
        let mut wanted = [bytes as u32; LANES];
        if sized {
            wanted = regs.get32(at.src(2));
        }
        if ignore {
            let skip = regs.pred(at.src(2));
            each(skip).for_each(|lane| wanted[lane] = 0);
        }
        let reading = each(at.mask)
            .filter(|&l| wanted[l] != 0)
            .fold(0, |m, l| m | 1 << l);
        self.meter.global(at.pc, reading, &from, size);
        self.meter.shared(at.pc, at.mask, &to, size);
        for lane in each(at.mask) {
            let read_bytes = wanted[lane] as usize;
            if read_bytes > size {
                let message = format!("cp.async copies {size} bytes and is told to read {read_bytes}");
                return Err(self.finding(Check::Illegal, warp, at.pc, lane as u32, message));
            }
            self.shared_bounds(warp, at, lane, to[lane], size, Deed::Write)?;
            if !to[lane].is_multiple_of(size as u64) || !from[lane].is_multiple_of(size as u64) {
                let wrong = if to[lane].is_multiple_of(size as u64) {
                    from[lane]
                } else {
                    to[lane]
                };
                let message =
                    format!("cp.async of {size} bytes at {wrong:#x}, which is not a multiple of {size}");
                return Err(self.finding(Check::Misaligned, warp, at.pc, lane as u32, message));
            }
        }
        let mut data = [[0u8; 16]; LANES];
        let mut rest = reading;
        while rest != 0 {
            let first = rest.trailing_zeros() as usize;
            let read_bytes = wanted[first] as usize;
            let allocation = self.global(warp, at, first, from[first], read_bytes, Deed::Read)?;
            let mut lanes = 0;
            let mut offsets = [0; LANES];
            for lane in each(rest) {
                if wanted[lane] == wanted[first] && allocation.contains(from[lane], read_bytes as u64) {
                    lanes |= 1 << lane;
                    offsets[lane] = allocation.offset(from[lane]);
                }
            }
            if !self.run.previous.is_empty() {
                for lane in each(lanes) {
                    self.check_previous(warp, at, lane, from[lane], read_bytes, allocation, Deed::Read);
                }
            }
            let who = self.clocks.who(warp.index);
            let shadow = allocation.shadow();
            if let Err((lane, hazard)) =
                shadow.read_lanes(&offsets, lanes, read_bytes, &who, How::Weak, at.pc)
            {
                let what = name(allocation);
                let address = from[lane];
                self.hazard(warp, at, lane, address, read_bytes, &what, offsets[lane], hazard);
            }
            self.meter.touched(allocation, lanes, &offsets, read_bytes, true);
            for lane in each(lanes) {
                let host = allocation.host(from[lane]);
                if read_bytes == 16 {
                    // SAFETY: the allocation holds all 16 bytes, and the address is a multiple of 16.
                    let halves = [0, 8].map(|i| unsafe { read(host.wrapping_add(i), 8) });
                    data[lane] = (u128::from(halves[1]) << 64 | u128::from(halves[0])).to_le_bytes();
                } else {
                    for (i, byte) in data[lane][..read_bytes].iter_mut().enumerate() {
                        // SAFETY: the allocation holds all `read_bytes` bytes.
                        *byte = unsafe { read(host.wrapping_add(i), 1) } as u8;
                    }
                }
            }
            rest &= !lanes;
        }
        let who = self.clocks.who(warp.index);
        for lane in each(at.mask) {
            if let Err(hazard) = self.shadow.mark_pending(to[lane], size, &who, lane, at.pc) {
                self.hazard(warp, at, lane, to[lane], size, "shared memory", to[lane], hazard);
            }
        }
        let mut offsets = [0; LANES];
        for (offset, to) in offsets.iter_mut().zip(to) {
            *offset = to as u32;
        }
        // Lanes of one group, as mostly all are, together.
        let mut rest = at.mask;
        while rest != 0 {
            let group = warp.committed[rest.trailing_zeros() as usize];
            let lanes = each(rest)
                .filter(|&lane| warp.committed[lane] == group)
                .fold(0, |m, l| m | 1 << l);
            warp.copies.push_back(PendingCopies {
                lanes,
                group,
                offsets,
                data,
                bytes,
                pc: at.pc,
            });
            rest &= !lanes;
        }
        self.event();
        Ok(())
    }

    /// Data arrives for the copies of these lanes that `which` picks by lane and group.
    fn finish_copies(&mut self, warp: &mut Warp, mask: u32, which: impl Fn(usize, u32) -> bool) {
        let mut copies = std::mem::take(&mut warp.copies);
        let who = self.clocks.who(warp.index);
        for copies in &mut copies {
            for lane in each(copies.lanes & mask) {
                if which(lane, copies.group) {
                    copies.lanes &= !(1 << lane);
                    copies.put(lane, self.shared.as_mut());
                    let (offset, bytes) = (copies.offsets[lane].into(), copies.bytes.into());
                    self.shadow.complete_pending(offset, bytes, &who, lane, copies.pc);
                }
            }
        }
        warp.copies = copies;
        warp.forget_done_copies();
    }

    /// Checks the place of an mbarrier object.
    fn check_place(&self, warp: &Warp, at: &At<'_>, lane: usize, offset: u64) -> Result<(), Box<Finding>> {
        self.shared_bounds(warp, at, lane, offset, 8, Deed::Atomic)?;
        if !offset.is_multiple_of(8) {
            let message = format!("an mbarrier at offset {offset:#x}, which is not a multiple of 8");
            return Err(self.finding(Check::Misaligned, warp, at.pc, lane as u32, message));
        }
        Ok(())
    }

    /// Reads the mbarrier at an offset of shared memory.
    pub(super) fn mbarrier(
        &mut self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        offset: u32,
    ) -> Result<Mbarrier, Box<Finding>> {
        self.check_place(warp, at, lane, offset.into())?;
        // SAFETY: checked just above.
        let bits = unsafe { read(self.shared.ptr().wrapping_add(offset as usize), 8) };
        let Some(state) = Mbarrier::unpack(bits) else {
            let message =
                format!("there is no mbarrier at offset {offset:#x} of shared memory: mbarrier.init first");
            return Err(self.finding(Check::BarrierMisuse, warp, at.pc, lane as u32, message));
        };
        let who = match self.member.visitor() {
            Some(visitor) => self.clocks.who_async(visitor.agent),
            None => self.clocks.who(warp.index),
        };
        let scope = Scope::Cluster;
        let hazard = self
            .shadow
            .atomic(offset.into(), 8, &who, lane, scope, at.pc)
            .err();
        let begun = self.mbarriers.begun.get(&offset);
        // A fence and the cluster's barrier order the initialisation for the cluster, even if the barrier does not
        // release: that is an order for mbarriers alone.
        let by_cluster = begun
            .and_then(|begun| begun.known_from)
            .is_some_and(|phase| self.member.has_waited(warp.index, lane, phase));
        if let Some(hazard) = hazard {
            if !(by_cluster && matches!(hazard, Hazard::Race(_))) {
                let words = "an mbarrier";
                self.hazard(warp, at, lane, offset.into(), 8, words, offset.into(), hazard);
            }
        } else if let Some(begun) = begun {
            // The shadow keeps the last access only, which is an atomic one of whoever used the object before.
            let own = who.is_of(begun.thread, lane);
            if !own && !by_cluster && !who.is_after(lane, begun.thread, begun.clock) {
                let message = format!(
                    "an operation on the mbarrier at offset {offset:#x} is not ordered after its mbarrier.init"
                );
                let mut finding = self.at_address(Check::Race, warp, at, lane, offset.into(), message);
                finding
                    .others
                    .push(self.other(begun.thread, begun.pc, "it was initialised in".to_owned()));
                self.run.report(*finding);
            }
        }
        Ok(state)
    }

    /// `fence.mbarrier_init`
    pub(super) fn fence_mbarriers(&mut self, warp: &Warp, mask: u32) {
        self.mbarriers
            .begun_by(warp.index, mask)
            .for_each(|begun| begun.fenced = true);
    }

    fn set_mbarrier(&mut self, offset: u32, state: Mbarrier) {
        // SAFETY: the caller checked the place.
        unsafe { super::memory::write(self.shared.ptr().wrapping_add(offset as usize), 8, state.pack()) };
    }

    fn overflow(&self, warp: &Warp, at: &At<'_>, lane: usize) -> Box<Finding> {
        let message = format!("an mbarrier would wait for more than {MOST_ARRIVALS} arrivals");
        self.finding(Check::BarrierMisuse, warp, at.pc, lane as u32, message)
    }

    /// What is released with an arrival.
    fn release_at(&mut self, offset: u32, published: &Published) {
        self.mbarriers
            .released
            .entry(offset)
            .or_default()
            .0
            .join(published);
    }

    fn arrive_with(
        &mut self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        offset: u32,
        mut state: Mbarrier,
        arrival: Arrival,
    ) -> Result<(), Box<Finding>> {
        state.transactions += arrival.bytes;
        if arrival.drop {
            state.expected = state.expected.saturating_sub(arrival.count);
        }
        self.arrived(warp, at, lane, offset, state, arrival.count)
    }

    /// `count` arrivals; completes the phase when nothing is pending.
    fn arrived(
        &mut self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        offset: u32,
        mut state: Mbarrier,
        count: u32,
    ) -> Result<(), Box<Finding>> {
        if count > state.pending {
            let message = format!(
                "{count} arrivals at the mbarrier at offset {offset:#x}, which waits for {} more in this phase",
                state.pending
            );
            return Err(self.finding(Check::BarrierMisuse, warp, at.pc, lane as u32, message));
        }
        if state.transactions.abs() > MOST_TRANSACTIONS {
            let message = format!(
                "{} bytes of transactions would be outstanding at the mbarrier at offset {offset:#x}; {MOST_TRANSACTIONS} are \
                 the most",
                state.transactions
            );
            return Err(self.finding(Check::BarrierMisuse, warp, at.pc, lane as u32, message));
        }
        state.pending -= count;
        self.settle(offset, state);
        Ok(())
    }

    /// Writes an mbarrier back, its phase complete if nothing is pending.
    pub(super) fn settle(&mut self, offset: u32, mut state: Mbarrier) {
        if state.pending == 0 && state.transactions == 0 {
            state.phase = !state.phase;
            state.pending = state.expected;
            let released = self.mbarriers.released.entry(offset).or_default();
            released.1 = std::mem::take(&mut released.0);
        }
        self.set_mbarrier(offset, state);
        self.event();
    }

    /// The mbarrier at an offset that was checked; `None` if it is not valid any more.
    pub(super) fn peek_mbarrier(&self, offset: u32) -> Option<Mbarrier> {
        // SAFETY: the caller checked the place.
        Mbarrier::unpack(unsafe { read(self.shared.ptr().wrapping_add(offset as usize), 8) })
    }

    /// An mbarrier's phase in words, for those who wait for it in vain.
    pub(super) fn describe_mbarrier(&self, offset: u32) -> String {
        let Some(state) = self.peek_mbarrier(offset) else {
            return format!("the phase of an mbarrier at offset {offset:#x}, which is not valid any more");
        };
        let bytes = match state.transactions {
            0 => String::new(),
            n @ 1.. => format!(", {n} bytes of transactions are expected and have not come"),
            n => format!(", {} bytes of transactions more than expected have come", -n),
        };
        format!(
            "the phase with parity {} of the mbarrier at offset {offset:#x}: {} of {} arrivals are missing{bytes}",
            u8::from(state.phase),
            state.pending,
            state.expected
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mbarrier_survives_its_64_bits() {
        for (phase, pending, expected, transactions) in [
            (false, 1, 1, 0),
            (true, 7, MOST_ARRIVALS, -5),
            (true, 0, 3, 1 << 20),
        ] {
            let state = Mbarrier {
                phase,
                pending,
                expected,
                transactions,
            };
            assert_eq!(Mbarrier::unpack(state.pack()), Some(state));
        }
        assert_eq!(Mbarrier::unpack(0), None);
        assert_eq!(Mbarrier::unpack(u64::MAX), None);
    }
}
