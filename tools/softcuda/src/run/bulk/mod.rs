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

mod loads;
mod stores;

use loads::Request;

use crate::ir::Bulk;
use crate::ir::regs::LANES;
use crate::ir::regs::Width;
use crate::ir::windows::shared_place;
use crate::memory::{Allocation, How, Swizzle, Thread};
use crate::run::block::Block;
use crate::run::check::{Check, Finding, Site};
use crate::run::memory::{Deed, addresses, read, write};
use crate::run::step::{At, each};
use crate::run::tensor::{Stretch, stretches};
use crate::run::warp::Warp;

/// Bytes of a piece: what a swizzle moves, and the least that a bulk copy copies.
const PIECE: usize = 16;

/// What a block has under way.
#[derive(Default)]
pub(in crate::run) struct Bulks {
    loads: Vec<loads::Load>,
    stores: Vec<stores::Store>,
    /// What tensor copies have brought into shared memory, and no copy has written over.
    tiles: Vec<loads::Tile>,
    /// Groups committed so far, by thread of the block.
    committed: std::collections::HashMap<u32, u32>,
    /// Mbarriers (offsets) for whose phase copies were issued, which nobody has found complete since.
    filling: std::collections::HashSet<u32>,
    /// The clock that each thread's last `fence.proxy.async` ended, by warp and lane.
    fences: Vec<[u32; LANES]>,
}

impl Bulks {
    pub(in crate::run) fn clear(&mut self) {
        self.loads.clear();
        self.stores.clear();
        self.tiles.clear();
        self.committed.clear();
        self.filling.clear();
        self.fences.clear();
    }
}

impl<'l> Block<'l> {
    /// `fence.proxy.async` by these lanes.
    pub(in crate::run) fn fence_async_proxy(&mut self, warp: usize, mask: u32) {
        let clock = self.clocks.close(warp);
        if self.bulks.fences.is_empty() {
            self.bulks.fences = vec![[0; LANES]; self.warps.len()];
        }
        each(mask).for_each(|lane| self.bulks.fences[warp][lane] = clock);
    }

    /// An agent reads 16 bytes of shared memory for a lane: checks order, and the writer's fence.
    pub(in crate::run) fn async_read(
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

    pub(in crate::run) fn bulk(
        &mut self,
        warp: &mut Warp,
        at: &At<'_>,
        what: &Bulk,
    ) -> Result<(), Box<Finding>> {
        match *what {
            Bulk::TensorLoad {
                to,
                map,
                barrier,
                rank,
                multicast,
            } => {
                let to = self.shared_offsets(warp, at, at.src(0), to)?;
                let barrier = self.shared_offsets(warp, at, at.src(2), barrier)?;
                for lane in each(at.mask) {
                    let map = self.tensor_map(warp, at, lane, map, rank)?;
                    let place = coordinates(at, lane, 3, rank);
                    let load = Request {
                        to: to[lane],
                        barrier: barrier[lane],
                        from: stretches(&map, place),
                        fill: map.fill_bytes(),
                        bytes: map.tile_bytes(),
                        swizzle: map.swizzle,
                        mapped: true,
                    };
                    self.check_tile(warp, at, lane, &map, shared_place(to[lane], 0).1, Deed::Write)?;
                    self.issue_loads(warp, at, lane, load, multicast.then_some(3 + usize::from(rank)))?;
                }
            }
            Bulk::Load {
                to,
                from,
                barrier,
                multicast,
            } => {
                let to = self.shared_offsets(warp, at, at.src(0), to)?;
                let from = addresses(at.regs, at.src(1), from.base, from.offset);
                let barrier = self.shared_offsets(warp, at, at.src(2), barrier)?;
                let sizes = at.regs.get32(at.src(3));
                for lane in each(at.mask) {
                    let (_, offset) = shared_place(to[lane], 0);
                    self.check_plain(warp, at, lane, sizes[lane], offset, from[lane], Deed::Write)?;
                    let load = Request {
                        to: to[lane],
                        barrier: barrier[lane],
                        from: vec![Stretch {
                            at: 0,
                            address: from[lane],
                            bytes: sizes[lane],
                        }],
                        fill: [0; 8],
                        bytes: sizes[lane],
                        swizzle: Swizzle::None,
                        mapped: false,
                    };
                    self.issue_loads(warp, at, lane, load, multicast.then_some(4))?;
                }
            }
            Bulk::Put {
                to,
                barrier,
                elements,
                bytes,
            } => {
                let to = self.shared_offsets(warp, at, at.src(0), to)?;
                let barrier = self.shared_offsets(warp, at, at.src(1), barrier)?;
                let width = if bytes == 8 { Width::W64 } else { Width::W32 };
                for lane in each(at.mask) {
                    let data = (0..elements.into()).flat_map(|e| {
                        at.regs.lane(at.src(2 + e), width, lane).to_le_bytes()[..bytes.into()].to_vec()
                    });
                    self.issue_put(warp, at, lane, to[lane], barrier[lane], data.collect())?;
                }
            }
            Bulk::TensorStore { from, map, rank } => {
                let from = self.shared_offsets(warp, at, at.src(0), from)?;
                let mut issued = Vec::new();
                for lane in each(at.mask) {
                    let map = self.tensor_map(warp, at, lane, map, rank)?;
                    let coordinates = coordinates(at, lane, 2, rank);
                    // CUTLASS lets a whole warp store one box: the same bytes at the same places are no race.
                    let store = (map, coordinates, from[lane]);
                    if issued.contains(&store) {
                        continue;
                    }
                    issued.push(store);
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

    pub(in crate::run) fn illegal(
        &self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        message: String,
    ) -> Box<Finding> {
        self.finding(Check::Illegal, warp, at.pc, lane as u32, message)
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

    /// Finds a stretch of global memory, and counts it if it is asked for.
    #[allow(clippy::too_many_arguments)]
    fn reach(
        &mut self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        stretch: Stretch,
        deed: Deed,
        counted: bool,
    ) -> Result<&'l Allocation, Box<Finding>> {
        let bytes = stretch.bytes as usize;
        let allocation = self.global(warp, at, lane, stretch.address, bytes, deed)?;
        if deed == Deed::Write && self.run.memory_is_constant(allocation) {
            let message = format!("a bulk copy to constant memory at {:#x}", stretch.address);
            return Err(self.illegal(warp, at, lane, message));
        }
        self.check_previous(warp, at, lane, stretch.address, bytes, allocation, deed);
        if !counted {
            return Ok(allocation);
        }
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
            let whole = if last == PIECE { mask } else { mask >> 1 };
            for (mask, bytes) in [(whole, PIECE), (mask & !whole, last)] {
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
pub(in crate::run) fn take(allocation: &Allocation, address: u64, to: &mut [u8]) {
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
