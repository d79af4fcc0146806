//! Loads and stores: resolves addresses, checks them, moves the bytes. The other files' accesses are checked here too.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::block::Block;
use super::check::{Check, Finding, Site};
use super::step::{At, each};
use super::warp::Warp;
use crate::ir::regs::{LANES, Regs, Slot, Width};
use crate::ir::windows::{
    LOCAL_WINDOW, PARAM_WINDOW, SHARED_RANK_SHIFT, SHARED_WINDOW, WINDOW_BYTES, generic_to_shared,
};
use crate::ir::{Access, Order, Scope};
use crate::memory::{Allocation, Hazard, How, Kind, RaceKind};
use crate::ptx::ast::Space;

/// What an instruction does to memory, for checks and words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Read,
    Write,
    Atomic,
}

/// The addresses of a warp's lanes.
pub(super) type Addresses = [u64; LANES];

/// Addresses from a base operand and an offset.
pub(super) fn addresses(regs: Regs, slot: Slot, base: Width, offset: i64) -> Addresses {
    let mut addresses;
    match base {
        Width::W64 => {
            addresses = regs.get64(slot);
            addresses
                .iter_mut()
                .for_each(|address| *address = address.wrapping_add_signed(offset));
        }
        // 32-bit addresses wrap in 32 bits.
        _ => {
            addresses = [0; LANES];
            let bases = regs.get32(slot);
            for (address, base) in addresses.iter_mut().zip(bases) {
                *address = u64::from(base.wrapping_add(offset as u32));
            }
        }
    }
    addresses
}

/// The space that a generic address lies in, and the address there.
pub(super) fn generic(address: u64) -> (Space, u64) {
    match address & !(WINDOW_BYTES - 1) {
        SHARED_WINDOW => (Space::Shared, address - SHARED_WINDOW),
        LOCAL_WINDOW => (Space::Local, address - LOCAL_WINDOW),
        PARAM_WINDOW => (Space::Param, address - PARAM_WINDOW),
        _ => (Space::Global, address),
    }
}

/// Reads `bytes` (1, 2, 4, 8) bytes that other host threads may be writing.
///
/// # Safety
/// `at` is readable and aligned to `bytes`.
#[inline]
pub(super) unsafe fn read(at: *const u8, bytes: usize) -> u64 {
    // SAFETY: by the caller; atomics have the layout of their integers.
    unsafe {
        match bytes {
            1 => (*at.cast::<AtomicU8>()).load(Ordering::Relaxed).into(),
            2 => (*at.cast::<AtomicU16>()).load(Ordering::Relaxed).into(),
            4 => (*at.cast::<AtomicU32>()).load(Ordering::Relaxed).into(),
            _ => (*at.cast::<AtomicU64>()).load(Ordering::Relaxed),
        }
    }
}

/// Writes `bytes` (1, 2, 4, 8) bytes.
///
/// # Safety
/// As [`read`], and writable.
#[inline]
pub(super) unsafe fn write(at: *mut u8, bytes: usize, value: u64) {
    // SAFETY: by the caller.
    unsafe {
        match bytes {
            1 => (*at.cast::<AtomicU8>()).store(value as u8, Ordering::Relaxed),
            2 => (*at.cast::<AtomicU16>()).store(value as u16, Ordering::Relaxed),
            4 => (*at.cast::<AtomicU32>()).store(value as u32, Ordering::Relaxed),
            _ => (*at.cast::<AtomicU64>()).store(value, Ordering::Relaxed),
        }
    }
}

/// Lanes that write what a lane before them writes to the same place: one of them does it, and it does not matter
/// which.
fn repeated(mask: u32, addresses: &Addresses, bytes: usize, equal: impl Fn(usize, usize) -> bool) -> u32 {
    let mut repeated = 0;
    let (mut least, mut end, mut before) = (u64::MAX, 0, 0u32);
    for lane in each(mask) {
        let address = addresses[lane];
        // Outside of all before it, as it mostly is.
        if address < end && address.saturating_add(bytes as u64) > least {
            let same_place = each(before).filter(|&l| addresses[l] == address).last();
            if same_place.is_some_and(|other| equal(other, lane)) {
                repeated |= 1 << lane;
            }
        }
        least = least.min(address);
        end = end.max(address.saturating_add(bytes as u64));
        before |= 1 << lane;
    }
    repeated
}

/// The lock held while 16 bytes are accessed strongly (shorter vectors are accessed in one piece). In the PTX memory
/// model a vector is scalars in any order, but GPUs move 16 aligned bytes at once, and CUB's look-back scan relies on
/// it: status and value lie in one vector.
fn whole(at: *const u8) -> MutexGuard<'static, ()> {
    static LOCKS: [Mutex<()>; 64] = [const { Mutex::new(()) }; 64];
    LOCKS[at as usize / 16 % LOCKS.len()]
        .lock()
        .unwrap_or_else(|e| e.into_inner())
}

impl<'l> Block<'l> {
    /// The space that a generic address lies in, and the address there.
    pub(super) fn generic(&self, address: u64) -> (Space, u64) {
        match generic(address) {
            (Space::Shared, _) => (Space::Shared, generic_to_shared(address, self.member.rank)),
            other => other,
        }
    }

    /// A finding with an address.
    pub(super) fn at_address(
        &self,
        check: Check,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        address: u64,
        message: String,
    ) -> Box<Finding> {
        let mut finding = self.finding(check, warp, at.pc, lane as u32, message);
        finding.address = Some(address);
        finding
    }

    fn out_of_bounds(
        &self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        address: u64,
        bytes: usize,
        deed: Deed,
        what: String,
    ) -> Box<Finding> {
        let message = format!("{} of {bytes} bytes at {address:#x}: {what}", deed.name());
        self.at_address(Check::OutOfBounds, warp, at, lane, address, message)
    }

    pub(super) fn misaligned(
        &self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        address: u64,
        bytes: usize,
        deed: Deed,
    ) -> Box<Finding> {
        let message = format!(
            "{} of {bytes} bytes at {address:#x}, which is not a multiple of {bytes}",
            deed.name()
        );
        self.at_address(Check::Misaligned, warp, at, lane, address, message)
    }

    /// Tells of a hazard that the shadow found.
    pub(super) fn hazard(
        &self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        address: u64,
        bytes: usize,
        what: &str,
        first: u64,
        hazard: Hazard,
    ) {
        let mut finding = match hazard {
            Hazard::Uninitialised { offset } => {
                let skip = offset - first;
                let which = if skip == 0 {
                    String::new()
                } else {
                    format!(" (byte {skip} of them is the first)")
                };
                self.at_address(
                    Check::Uninitialised,
                    warp,
                    at,
                    lane,
                    address,
                    format!("read of {bytes} bytes of {what} at {address:#x} that nobody has written{which}"),
                )
            }
            Hazard::Race(race) => {
                let (mine, theirs) = match race.kind {
                    RaceKind::ReadAfterWrite => ("read", "write"),
                    RaceKind::WriteAfterRead => ("write", "read"),
                    RaceKind::WriteAfterWrite => ("write", "write"),
                };
                let mut finding = self.at_address(
                    Check::Race,
                    warp,
                    at,
                    lane,
                    address,
                    format!(
                        "{mine} of {bytes} bytes of {what} at {address:#x} is not ordered after another thread's \
                         {theirs} of them"
                    ),
                );
                let who = if race.other_async && self.member.is_clustered() {
                    "an asynchronous operation or another block's thread"
                } else if race.other_async {
                    "an asynchronous copy"
                } else {
                    "the other thread"
                };
                if let Some(pc) = race.other_pc {
                    finding
                        .others
                        .push(self.other(race.other, pc, format!("the {theirs} ({who}), in")));
                }
                finding
            }
            Hazard::AsyncPending {
                issuer, issuer_pc, ..
            } => {
                let mut finding = self.at_address(
                    Check::AsyncPending,
                    warp,
                    at,
                    lane,
                    address,
                    format!(
                        "access of {bytes} bytes of {what} at {address:#x}, which an asynchronous copy writes that \
                         its thread has not waited for"
                    ),
                );
                if let Some(pc) = issuer_pc {
                    finding
                        .others
                        .push(self.other(issuer, pc, "the copy was issued in".to_owned()));
                }
                finding
            }
        };
        finding.address = Some(address);
        self.run.report(*finding);
    }

    /// A site of any thread of the grid.
    pub(super) fn other(&self, thread: crate::memory::Thread, pc: u32, what: String) -> Site {
        let Some(inst) = self.run.kernel.insts.get(pc as usize) else {
            return Site {
                block: None,
                thread: None,
                pc,
                line: 0,
                loc: None,
                what,
            };
        };
        let [x, y, _] = self.run.block;
        let t = thread.in_block();
        Site {
            block: Some(self.run.block_id(thread.block.into())),
            thread: ((thread.warp as usize) < self.warps.len()).then_some([t % x, t / x % y, t / x / y]),
            pc,
            line: inst.line,
            loc: inst.loc,
            what,
        }
    }

    /// The allocation that holds all of `bytes` bytes at a global address.
    pub(super) fn global(
        &mut self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        address: u64,
        bytes: usize,
        deed: Deed,
    ) -> Result<&'l Allocation, Box<Finding>> {
        let memory = self.run.memory;
        let hint = &mut self.hints[usize::from(deed == Deed::Read)];
        match memory.find_cached(address, hint) {
            Some(allocation) if allocation.contains(address, bytes as u64) => Ok(allocation),
            _ => {
                let what = memory.explain(address, bytes as u64);
                Err(self.out_of_bounds(warp, at, lane, address, bytes, deed, what))
            }
        }
    }

    /// Checks that `bytes` bytes at an offset of shared memory exist.
    pub(super) fn shared_bounds(
        &self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        offset: u64,
        bytes: usize,
        deed: Deed,
    ) -> Result<(), Box<Finding>> {
        let size = u64::from(self.run.shared_bytes);
        if offset.saturating_add(bytes as u64) <= size {
            return Ok(());
        }
        if let Some(rank) = self.far(offset) {
            let message = format!(
                "{} of the shared memory of the cluster's block {rank}, which this instruction does not reach",
                deed.name()
            );
            return Err(self.at_address(Check::Illegal, warp, at, lane, offset, message));
        }
        let what = if size == 0 {
            "the block has no shared memory".to_owned()
        } else {
            format!(
                "the block's shared memory has {size} bytes ({} of them dynamic)",
                self.run.dynamic_shared
            )
        };
        let message = format!(
            "{} of {bytes} bytes of shared memory at offset {offset:#x}: {what}",
            deed.name()
        );
        Err(self.at_address(Check::OutOfBounds, warp, at, lane, offset, message))
    }

    /// What a dependent launch touches before it waits for the launches before it must not be what they touched. To be asked
    /// before the access is noted, which takes a stamp's place.
    pub(super) fn check_previous(
        &self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        address: u64,
        bytes: usize,
        allocation: &Allocation,
        deed: Deed,
    ) {
        if self.run.previous.is_empty() {
            return;
        }
        let waited = match self.member.visitor() {
            Some(visitor) => visitor.waited_for_previous,
            None => self.waited_for_previous[warp.index],
        };
        let (offset, reads) = (allocation.offset(address), deed != Deed::Read);
        let shadow = allocation.shadow();
        if waited >> lane & 1 != 0 || shadow.untouched_since(offset, bytes, self.run.previous_from, reads) {
            return;
        }
        // The last launch first.
        for (back, &previous) in self.run.previous.iter().rev().enumerate() {
            let touch = shadow.touched_by_launch(offset, bytes, &self.run.launch, previous);
            if let Some(touch) = touch
                && (touch.wrote || reads)
            {
                let which = match back {
                    0 => "the launch before".to_owned(),
                    _ => format!("a launch before, {} back, which may not have ended,", back + 1),
                };
                let message = format!(
                    "{} of {bytes} bytes at {address:#x} before griddepcontrol.wait (cudaGridDependencySynchronize), but \
                     {which} {} them",
                    deed.name(),
                    if touch.wrote { "writes" } else { "reads" }
                );
                self.run
                    .report(*self.at_address(Check::Race, warp, at, lane, address, message));
                return;
            }
        }
    }

    /// Finds, checks and marks what the lanes of `mask` access in global memory. Calls `visit` with each lane's
    /// host pointer. `same` says for a write whether memory holds a lane's bytes already.
    #[allow(clippy::too_many_arguments)]
    fn global_lanes(
        &mut self,
        warp: &Warp,
        at: &At<'_>,
        mask: u32,
        addresses: &Addresses,
        bytes: usize,
        align: usize,
        wanted: (u8, u8),
        repeated: u32,
        deed: Deed,
        how: How,
        same: impl Fn(usize, *const u8) -> bool,
        alike: impl Fn(usize, usize) -> bool,
        mut visit: impl FnMut(usize, *mut u8),
    ) -> Result<(), Box<Finding>> {
        self.meter.global(at.pc, mask, addresses, bytes);
        let mut rest = mask;
        while rest != 0 {
            let first = rest.trailing_zeros() as usize;
            let allocation = self.global(warp, at, first, addresses[first], bytes, deed)?;
            let mut lanes = 0;
            let mut offsets = [0u64; LANES];
            let mut same_value = repeated;
            for lane in each(rest) {
                let address = addresses[lane];
                if !address.is_multiple_of(align as u64) {
                    return Err(self.misaligned(warp, at, lane, address, align, deed));
                }
                if allocation.contains(address, bytes as u64) {
                    lanes |= 1 << lane;
                    offsets[lane] = allocation.offset(address);
                    if deed == Deed::Write && same(lane, allocation.host(address)) {
                        same_value |= 1 << lane;
                    }
                }
            }
            if deed != Deed::Read
                && allocation.kind() == Kind::Module
                && self.run.memory_is_constant(allocation)
            {
                let message = format!("{} to constant memory at {:#x}", deed.name(), addresses[first]);
                return Err(self.at_address(Check::Illegal, warp, at, first, addresses[first], message));
            }
            self.meter
                .touched(allocation, lanes, &offsets, bytes, deed == Deed::Read);
            if deed == Deed::Write {
                same_value |= twice(lanes, addresses, &alike);
            }
            if !self.run.previous.is_empty() {
                for lane in each(lanes) {
                    self.check_previous(warp, at, lane, addresses[lane], bytes, allocation, deed);
                }
            }
            let who = self.clocks.who(warp.index);
            let shadow = allocation.shadow();
            let result = match deed {
                Deed::Read => {
                    let (skip, bytes) = (u64::from(wanted.0), usize::from(wanted.1));
                    if skip != 0 {
                        offsets = offsets.map(|o| o + skip);
                    }
                    shadow.read_lanes(&offsets, lanes, bytes, &who, how, at.pc)
                }
                Deed::Write => shadow.write_lanes(&offsets, lanes, bytes, &who, how, same_value, at.pc),
                Deed::Atomic => unreachable!("atomics go lane by lane"),
            };
            if let Err((lane, hazard)) = result {
                let what = name(allocation);
                self.hazard(
                    warp,
                    at,
                    lane,
                    addresses[lane],
                    bytes,
                    &what,
                    allocation.offset(addresses[lane]),
                    hazard,
                );
            }
            for lane in each(lanes) {
                visit(lane, allocation.host(addresses[lane]));
            }
            rest &= !lanes;
        }
        Ok(())
    }

    /// The same in shared memory.
    #[allow(clippy::too_many_arguments)]
    fn shared_lanes(
        &mut self,
        warp: &Warp,
        at: &At<'_>,
        mask: u32,
        offsets: &Addresses,
        bytes: usize,
        align: usize,
        wanted: (u8, u8),
        repeated: u32,
        deed: Deed,
        how: How,
        same: impl Fn(usize, *const u8) -> bool,
        alike: impl Fn(usize, usize) -> bool,
        mut visit: impl FnMut(usize, *mut u8),
    ) -> Result<(), Box<Finding>> {
        let far = self.far_of(mask, offsets);
        if far != 0 {
            // At block scope nothing is strong towards another block.
            let how = match how {
                How::Strong(Scope::Cta) => How::Weak,
                how => how,
            };
            self.far_lanes(
                warp, at, far, offsets, bytes, align, wanted, deed, how, &same, &mut visit,
            )?;
        }
        let mask = mask & !far;
        self.meter.shared(at.pc, mask, offsets, bytes);
        let memory = self.shared.ptr();
        let mut same_value = repeated;
        for lane in each(mask) {
            let offset = offsets[lane];
            self.shared_bounds(warp, at, lane, offset, bytes, deed)?;
            if !offset.is_multiple_of(align as u64) {
                return Err(self.misaligned(warp, at, lane, offset, align, deed));
            }
            if deed == Deed::Write && same(lane, memory.wrapping_add(offset as usize)) {
                same_value |= 1 << lane;
            }
        }
        if deed == Deed::Write {
            same_value |= twice(mask, offsets, &alike);
        }
        let who = self.clocks.who(warp.index);
        let result = match deed {
            Deed::Read => {
                let skip = u64::from(wanted.0);
                let offsets = if skip == 0 {
                    offsets
                } else {
                    &offsets.map(|o| o.wrapping_add(skip))
                };
                self.shadow
                    .read_lanes(offsets, mask, usize::from(wanted.1), &who, how, at.pc)
            }
            Deed::Write => self
                .shadow
                .write_lanes(offsets, mask, bytes, &who, how, same_value, at.pc),
            Deed::Atomic => unreachable!("atomics go lane by lane"),
        };
        if let Err((lane, hazard)) = result {
            self.hazard(
                warp,
                at,
                lane,
                offsets[lane],
                bytes,
                "shared memory",
                offsets[lane],
                hazard,
            );
        }
        for lane in each(mask) {
            visit(lane, memory.wrapping_add(offsets[lane] as usize));
        }
        Ok(())
    }

    /// Checks an access to local memory; returns where each lane's bytes begin in [`Warp::local`].
    fn local_place(
        &self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        offset: u64,
        bytes: usize,
        align: usize,
        deed: Deed,
    ) -> Result<usize, Box<Finding>> {
        if offset.saturating_add(bytes as u64) > u64::from(at.local_end) {
            let what = format!("the thread's local memory has {} bytes here", at.local_end);
            let message = format!(
                "{} of {bytes} bytes of local memory at offset {offset:#x}: {what}",
                deed.name()
            );
            return Err(self.at_address(Check::OutOfBounds, warp, at, lane, offset, message));
        }
        if !offset.is_multiple_of(align as u64) {
            return Err(self.misaligned(warp, at, lane, offset, align, deed));
        }
        Ok(lane * warp.local_bytes as usize + offset as usize)
    }

    /// Splits lanes by the space that their generic addresses lie in.
    pub(super) fn spaces(
        &self,
        space: Option<Space>,
        mask: u32,
        addresses: &mut Addresses,
    ) -> [(Space, u32); 4] {
        let mut lanes = [
            (Space::Global, 0),
            (Space::Shared, 0),
            (Space::Local, 0),
            (Space::Param, 0),
        ];
        match space {
            Some(Space::Global | Space::Const) => lanes[0].1 = mask,
            Some(Space::Shared) => {
                lanes[1].1 = mask;
                // What mapa has given some lane; a block alone may use it too.
                if addresses.iter().fold(0, |all, address| all | address) >> SHARED_RANK_SHIFT != 0 {
                    each(mask).for_each(|lane| addresses[lane] = self.own_shared(addresses[lane]));
                }
            }
            Some(Space::Local) => lanes[2].1 = mask,
            Some(Space::Param) => lanes[3].1 = mask,
            None => {
                for lane in each(mask) {
                    let (space, address) = self.generic(addresses[lane]);
                    addresses[lane] = address;
                    let index = match space {
                        Space::Shared => 1,
                        Space::Local => 2,
                        Space::Param => 3,
                        _ => 0,
                    };
                    lanes[index].1 |= 1 << lane;
                }
            }
        }
        lanes
    }

    pub(super) fn load(&mut self, warp: &mut Warp, at: &At<'_>, access: &Access) -> Result<(), Box<Finding>> {
        let size = access.ty.size();
        let elements = access.elements as usize;
        let bytes = access.bytes();
        let regs = at.regs;
        // An element as the register holds it.
        let put = |element: usize, lane: usize, value: u64, high: u64| {
            let slot = at.dst(element);
            match access.register {
                Width::W128 => {
                    let mut all = regs.get128(slot);
                    all[lane] = u128::from(value) | u128::from(high) << 64;
                    regs.set128(slot, &all, 1 << lane);
                }
                width => {
                    let mut value = value;
                    if access.ty.is_signed() {
                        let shift = 64 - 8 * size as u32;
                        value = ((value << shift) as i64 >> shift) as u64;
                    }
                    if width == Width::W64 {
                        regs.set_lane64(slot, lane, value);
                    } else {
                        let keep = if access.register_bytes >= 4 {
                            u32::MAX
                        } else {
                            (1u32 << (8 * access.register_bytes)) - 1
                        };
                        regs.set_lane32(slot, lane, value as u32 & keep);
                    }
                }
            }
        };
        if let Some((offset, per_lane)) = access.area {
            let base = at.window as usize + offset as usize;
            let memory = warp.registers.ptr();
            for lane in each(at.mask) {
                for e in 0..elements {
                    let place = base + lane * per_lane as usize + access.offset as usize + e * size;
                    // SAFETY: areas lie in the window, and parameters are accessed inside their areas.
                    let get = |i: usize, n: usize| unsafe { read(memory.add(place + i), n) };
                    if size == 16 {
                        put(e, lane, get(0, 8), get(8, 8));
                    } else {
                        put(e, lane, get(0, size), 0);
                    }
                }
            }
            return Ok(());
        }
        let mut addresses = addresses(regs, at.src(0), access.base, access.offset);
        let how = match access.order {
            Order::Weak => How::Weak,
            _ => How::Strong(access.scope),
        };
        let strong = access.order != Order::Weak;
        for (space, mask) in self.spaces(access.space, at.mask, &mut addresses) {
            if mask == 0 {
                continue;
            }
            // SAFETY (of `read` below): the lane's bytes were checked to exist and to be aligned.
            let visit = |lane: usize, from: *mut u8| {
                if strong && elements > 1 && bytes <= 8 {
                    let all = unsafe { read(from, bytes) };
                    for e in 0..elements {
                        put(e, lane, all >> (8 * size * e) & (u64::MAX >> (64 - 8 * size)), 0);
                    }
                    return;
                }
                let _whole = (strong && bytes == 16).then(|| whole(from));
                for e in 0..elements {
                    let from = from.wrapping_add(e * size);
                    if size == 16 {
                        let (low, high) = unsafe { (read(from, 8), read(from.wrapping_add(8), 8)) };
                        put(e, lane, low, high);
                    } else {
                        put(e, lane, unsafe { read(from, size) }, 0);
                    }
                }
            };
            match space {
                Space::Global | Space::Const => {
                    self.global_lanes(
                        warp,
                        at,
                        mask,
                        &addresses,
                        bytes,
                        bytes,
                        access.wanted,
                        0,
                        Deed::Read,
                        how,
                        |_, _| false,
                        |_, _| false,
                        visit,
                    )?;
                    if access.order != Order::Weak {
                        self.read_strongly(warp, mask, &addresses, access, false);
                    }
                }
                Space::Shared => {
                    self.shared_lanes(
                        warp,
                        at,
                        mask,
                        &addresses,
                        bytes,
                        bytes,
                        access.wanted,
                        0,
                        Deed::Read,
                        how,
                        |_, _| false,
                        |_, _| false,
                        visit,
                    )?;
                    if access.order != Order::Weak {
                        self.read_strongly(warp, mask, &addresses, access, true);
                    }
                }
                Space::Local => {
                    self.meter.local(at.pc, mask, bytes, true);
                    for lane in each(mask) {
                        let place =
                            self.local_place(warp, at, lane, addresses[lane], bytes, bytes, Deed::Read)?;
                        visit(lane, warp.local.as_mut_ptr().wrapping_add(place));
                    }
                }
                Space::Param => {
                    for lane in each(mask) {
                        let address = addresses[lane];
                        let end = u64::from(self.run.param_bytes);
                        if address.saturating_add(bytes as u64) > end {
                            let what = format!("the kernel's parameters have {end} bytes");
                            return Err(self.out_of_bounds(warp, at, lane, address, bytes, Deed::Read, what));
                        }
                        if !address.is_multiple_of(bytes as u64) {
                            return Err(self.misaligned(warp, at, lane, address, bytes, Deed::Read));
                        }
                        visit(lane, self.run.params.ptr().wrapping_add(address as usize));
                    }
                }
            }
        }
        Ok(())
    }

    fn read_strongly(
        &mut self,
        warp: &Warp,
        mask: u32,
        addresses: &Addresses,
        access: &Access,
        shared: bool,
    ) {
        for lane in each(mask) {
            self.after_strong_read(warp, lane, shared, addresses[lane], access.order, access.scope);
        }
    }

    pub(super) fn store(
        &mut self,
        warp: &mut Warp,
        at: &At<'_>,
        access: &Access,
    ) -> Result<(), Box<Finding>> {
        let size = access.ty.size();
        let elements = access.elements as usize;
        let bytes = access.bytes();
        let regs = at.regs;
        // Element e of a lane: its low and high halves.
        let get = |e: usize, lane: usize| -> (u64, u64) {
            let slot = at.src(1 + e);
            match access.register {
                Width::W128 => {
                    let value = regs.get128(slot)[lane];
                    (value as u64, (value >> 64) as u64)
                }
                width => (regs.lane(slot, width, lane), 0),
            }
        };
        if let Some((offset, per_lane)) = access.area {
            let base = at.window as usize + offset as usize;
            let memory = warp.registers.ptr();
            for lane in each(at.mask) {
                for e in 0..elements {
                    let place = base + lane * per_lane as usize + access.offset as usize + e * size;
                    let (low, high) = get(e, lane);
                    // SAFETY: areas lie in the window, and parameters are accessed inside their areas.
                    unsafe {
                        write(memory.add(place), size.min(8), low);
                        if size == 16 {
                            write(memory.add(place + 8), 8, high);
                        }
                    }
                }
            }
            return Ok(());
        }
        let mut addresses = addresses(regs, at.src(0), access.base, access.offset);
        let how = match access.order {
            Order::Weak => How::Weak,
            _ => How::Strong(access.scope),
        };
        let mask_of = |n: usize| if n >= 8 { u64::MAX } else { (1 << (8 * n)) - 1 };
        let same = |lane: usize, to: *const u8| {
            (0..elements).all(|e| {
                let (low, high) = get(e, lane);
                let to = to.wrapping_add(e * size);
                // SAFETY: the bytes were checked to exist; `global_lanes` checks alignment first.
                unsafe {
                    read(to, size.min(8)) == low & mask_of(size)
                        && (size < 16 || read(to.wrapping_add(8), 8) == high)
                }
            })
        };
        let alike = |a: usize, b: usize| {
            (0..elements).all(|e| {
                let (a, b) = (get(e, a), get(e, b));
                a.0 & mask_of(size) == b.0 & mask_of(size) && a.1 == b.1
            })
        };
        let strong = access.order != Order::Weak;
        let changed = std::cell::Cell::new(false);
        let visit = |lane: usize, to: *mut u8| {
            if strong && elements > 1 && bytes <= 8 {
                let all = (0..elements).fold(0, |all, e| {
                    all | (get(e, lane).0 & mask_of(size)) << (8 * size * e)
                });
                // SAFETY: as below.
                unsafe {
                    changed.set(changed.get() || read(to, bytes) != all);
                    write(to, bytes, all);
                }
                return;
            }
            let _whole = (strong && bytes == 16).then(|| whole(to));
            for e in 0..elements {
                let (low, high) = get(e, lane);
                let to = to.wrapping_add(e * size);
                // SAFETY: the lane's bytes were checked to exist, to be aligned and to be writable.
                unsafe {
                    changed.set(changed.get() || read(to, size.min(8)) != low & mask_of(size));
                    write(to, size.min(8), low);
                    if size == 16 {
                        changed.set(changed.get() || read(to.wrapping_add(8), 8) != high);
                        write(to.wrapping_add(8), 8, high);
                    }
                }
            }
        };
        for (space, mask) in self.spaces(access.space, at.mask, &mut addresses) {
            if mask == 0 {
                continue;
            }
            let repeated = repeated(mask, &addresses, bytes, |a, b| {
                (0..elements).all(|e| {
                    let (a, b) = (get(e, a), get(e, b));
                    (a.0 ^ b.0) & mask_of(size) == 0 && a.1 == b.1
                })
            });
            let shared = space == Space::Shared;
            if access.order != Order::Weak {
                for lane in each(mask) {
                    let (order, scope) = (access.order, access.scope);
                    self.before_strong_write(warp, lane, shared, addresses[lane], order, scope, false);
                }
            }
            match space {
                Space::Global | Space::Const => {
                    self.global_lanes(
                        warp,
                        at,
                        mask,
                        &addresses,
                        bytes,
                        bytes,
                        (0, 0),
                        repeated,
                        Deed::Write,
                        how,
                        same,
                        alike,
                        visit,
                    )?;
                }
                Space::Shared => {
                    self.shared_lanes(
                        warp,
                        at,
                        mask,
                        &addresses,
                        bytes,
                        bytes,
                        (0, 0),
                        repeated,
                        Deed::Write,
                        how,
                        same,
                        alike,
                        visit,
                    )?;
                }
                Space::Local => {
                    self.meter.local(at.pc, mask, bytes, false);
                    for lane in each(mask) {
                        let place =
                            self.local_place(warp, at, lane, addresses[lane], bytes, bytes, Deed::Write)?;
                        visit(lane, warp.local.as_mut_ptr().wrapping_add(place));
                    }
                }
                Space::Param => {
                    let lane = mask.trailing_zeros() as usize;
                    let message = "a write to kernel parameters, which are constant".to_owned();
                    return Err(self.at_address(Check::Illegal, warp, at, lane, addresses[lane], message));
                }
            }
        }
        if changed.get() {
            self.event();
        }
        Ok(())
    }

    /// Reads memory for the driver's own purposes (printf), without marking it.
    pub(super) fn peek(&self, warp: &Warp, lane: usize, address: u64, bytes: usize) -> Option<u64> {
        let (space, at) = generic(address);
        let from = match space {
            Space::Local => {
                let end = u64::from(warp.local_bytes);
                if at + bytes as u64 > end {
                    return None;
                }
                warp.local
                    .as_ptr()
                    .wrapping_add(lane * warp.local_bytes as usize + at as usize)
            }
            Space::Shared if at + bytes as u64 <= self.run.shared_bytes.into() => {
                self.shared.ptr().wrapping_add(at as usize).cast_const()
            }
            Space::Global => {
                let allocation = self.run.memory.find(address)?;
                if !allocation.contains(address, bytes as u64) {
                    return None;
                }
                allocation.host(address).cast_const()
            }
            _ => return None,
        };
        if !(from as usize).is_multiple_of(bytes) {
            return None;
        }
        // SAFETY: inside memory that exists, aligned.
        Some(unsafe { read(from, bytes) })
    }
}

/// What an allocation is called in a finding.
pub(super) fn name(allocation: &Allocation) -> String {
    if allocation.kind() == Kind::Module {
        format!("the {}", allocation.label())
    } else {
        format!(
            "global memory (allocation #{}, {})",
            allocation.serial(),
            allocation.label()
        )
    }
}

/// Lanes that write what a lane before them writes to the same address in the same instruction.
fn twice(mask: u32, addresses: &Addresses, alike: impl Fn(usize, usize) -> bool) -> u32 {
    let mut last = None;
    // Nearly always each lane writes behind the one before it.
    if each(mask).all(|lane| {
        last.replace(addresses[lane])
            .is_none_or(|before| before < addresses[lane])
    }) {
        return 0;
    }
    each(mask)
        .filter(|&lane| {
            each(mask & ((1 << lane) - 1))
                .any(|before| addresses[before] == addresses[lane] && alike(before, lane))
        })
        .fold(0, |lanes, lane| lanes | 1 << lane)
}

impl Deed {
    pub(super) fn name(self) -> &'static str {
        match self {
            Deed::Read => "read",
            Deed::Write => "write",
            Deed::Atomic => "atomic operation",
        }
    }
}
