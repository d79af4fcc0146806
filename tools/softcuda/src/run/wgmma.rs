//! `wgmma` and `setmaxnreg`: what the four warps of a warpgroup do together.
//!
//! A warp computes its own 16 of a product's 64 rows, when it executes the instruction. The operands in shared memory are read
//! then by an agent of the warp, of which nobody knows before `wgmma.wait_group`: who overwrites them earlier has a race. A
//! product is the warpgroup's, so a warp waits until all four have begun it, and then knows of what all four have read.
//! The results go to a second set of registers, the hidden ones, in which further products add to them, and come to the
//! registers proper at the wait. Until then those hold a poison pattern, and every instruction that touches them is found;
//! but a plain `mov` is not, which compilers put anywhere: it gives the hidden result a second place. The registers of A are
//! watched in the same way.
//!
//! The products themselves are those of `mma.sync` (`lower::isa::mma`), eight columns at a time.

use std::collections::HashMap;

use super::block::Block;
use super::check::{Check, Finding};
use super::step::At;
use super::warp::{Aligned, Warp};
use crate::ir::regs::{FULL, LANES, Regs, Slot};
use crate::ir::{Class, Multiply, Op, WarpGroup};
use crate::memory::{Published, Swizzle};

/// Agents of warps' products: apart from mbarriers (offsets) and stores.
const PRODUCTS: u64 = 1 << 41;
/// What registers hold that a product is going to write: a NaN.
const POISON: u32 = 0x7fc0_dead;
/// Bytes of a 32-bit register's slot, in which registers are numbered here.
const SLOT: usize = 4 * LANES;

/// What was done to a register since the last `wgmma.fence`.
const WRITTEN: u8 = 1;
const READ: u8 = 2;

/// Products that a warp has under way.
#[derive(Default)]
pub struct Products {
    /// The results, at their registers' offsets.
    hidden: Option<Aligned>,
    /// By register: the group whose product writes it, counted from 1; 0 for none.
    results: Vec<u32>,
    /// The same for products that read it.
    sources: Vec<u32>,
    touched: Vec<u8>,
    /// Registers that are not 0 in `results` or `sources`.
    listed: Vec<u32>,
    /// Groups committed, and groups waited for.
    committed: u32,
    done: u32,
    /// Products executed.
    count: u32,
    fenced: bool,
}

impl Products {
    pub fn clear(&mut self) {
        for &register in &self.listed {
            self.results[register as usize] = 0;
            self.sources[register as usize] = 0;
        }
        self.listed.clear();
        self.touched.fill(0);
        (self.committed, self.done, self.count, self.fenced) = (0, 0, 0, false);
    }

    /// Makes room for a window of registers and, behind it, `extra` slots.
    fn grow(&mut self, bytes: usize, extra: usize) {
        let slots = bytes.div_ceil(SLOT);
        if self.touched.len() < slots {
            self.results.resize(slots, 0);
            self.sources.resize(slots, 0);
            self.touched.resize(slots, 0);
        }
        let hidden = self.hidden.get_or_insert_with(|| Aligned::new(0));
        hidden.grow((slots + extra) * SLOT);
    }
}

/// What the warps of each warpgroup multiply: by warpgroup and number of the product. All must do the same.
#[derive(Default)]
pub(super) struct Groups {
    products: HashMap<(usize, u32), Product>,
    /// Of each warp: groups that it has committed.
    committed: HashMap<usize, u32>,
    /// What is known to who waits for a warp's part of a group; the last few, by number.
    ended: HashMap<(usize, u32), Published>,
}

/// Groups of a warp that are told apart: more than kernels have under way. Of a warp that is further ahead, those behind it
/// know more than they should.
const KEPT: u32 = 8;

struct Product {
    pc: u32,
    descriptors: [Option<u64>; 2],
    warps: u32,
}

impl Groups {
    pub(super) fn clear(&mut self) {
        self.products.clear();
        self.committed.clear();
        self.ended.clear();
    }
}

/// A matrix descriptor (PTX ISA, "Matrix descriptor").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Descriptor {
    start: u32,
    leading: u32,
    stride: u32,
    swizzle: Swizzle,
    /// Rows of 16 bytes run along m or n.
    transposed: bool,
}

impl Descriptor {
    fn decode(bits: u64, transposed: bool) -> Result<Self, String> {
        // Fields of 14 bits, in units of 16 bytes.
        let field = |at: u32| (bits >> at & 0x3fff) as u32 * 16;
        if bits >> 49 & 7 != 0 {
            return Err(format!(
                "the descriptor {bits:#018x} has a base offset, which is not supported: align the tile to eight of its rows"
            ));
        }
        Ok(Self {
            start: field(0),
            leading: field(16),
            stride: field(32),
            swizzle: [Swizzle::None, Swizzle::B128, Swizzle::B64, Swizzle::B32][(bits >> 62) as usize],
            transposed,
        })
    }

    /// Where the piece of 16 bytes lies: of the eight rows (of A, or columns of B) number `group` and the half `k` of the
    /// 32 bytes, the piece that holds row `i` or, transposed, the i-th element in k of all eight rows.
    fn piece(&self, group: u32, k: u32, i: u32) -> u32 {
        let span = self.swizzle.span();
        let offset = match (self.swizzle, self.transposed) {
            // Cores of 128 bytes, whatever runs along their rows.
            (Swizzle::None, _) => group * self.stride + k * self.leading + 16 * i,
            (_, false) => group * self.stride + i * span + 16 * k,
            (_, true) => {
                let groups = span / 16;
                group % groups * 16 + group / groups * self.leading + i * span + k * self.stride
            }
        };
        self.swizzle.place(self.start.wrapping_add(offset))
    }
}

impl<'l> Block<'l> {
    /// Whether the warp can go on: not as long as it waits for products that others of its warpgroup have not begun.
    pub(super) fn warpgroup(
        &mut self,
        warp: &mut Warp,
        at: &At<'_>,
        what: &WarpGroup,
    ) -> Result<bool, Box<Finding>> {
        match what {
            WarpGroup::Multiply(multiply) => self.multiply(warp, at, multiply)?,
            WarpGroup::Fence => {
                warp.products.fenced = true;
                warp.products.touched.fill(0);
            }
            WarpGroup::Commit => self.commit_products(warp),
            WarpGroup::Wait(groups) => return Ok(self.wait_for_products(warp, at, *groups)),
            WarpGroup::Registers { count, .. } => warp.registers_set = Some((*count, at.pc)),
        }
        Ok(true)
    }

    fn commit_products(&mut self, warp: &mut Warp) {
        warp.products.committed += 1;
        let number = warp.products.committed;
        let key = PRODUCTS | (warp.index as u64) << 1 | u64::from(number & 1);
        let agent = self.clocks.async_agent(key);
        let published = self.clocks.async_accesses(agent);
        self.groups.ended.insert((warp.index, number % KEPT), published);
        self.groups.committed.insert(warp.index, number);
        self.event();
    }

    fn multiply(&mut self, warp: &mut Warp, at: &At<'_>, what: &Multiply) -> Result<(), Box<Finding>> {
        let illegal = |block: &Self, warp: &Warp, message: String| {
            Err(block.finding(Check::Illegal, warp, at.pc, at.mask.trailing_zeros(), message))
        };
        let group = warp.index / 4;
        if at.mask != FULL || 4 * (group + 1) > self.warps.len() {
            let message = "wgmma needs the four whole warps of a warpgroup".to_owned();
            return illegal(self, warp, message);
        }
        let d = usize::from(what.n) / 2;
        let a = if what.a_in_registers { 4 } else { 1 };
        // One value for all lanes.
        let same = |values: [u64; LANES]| values.iter().all(|v| *v == values[0]).then_some(values[0]);
        let mut bits = [None; 2];
        for (index, bits) in bits.iter_mut().enumerate() {
            if index == 0 && what.a_in_registers {
                continue;
            }
            *bits = same(at.regs.get64(at.src(d + if index == 0 { 0 } else { a })));
            if bits.is_none() {
                let message = "the lanes of a warp give wgmma different descriptors".to_owned();
                return illegal(self, warp, message);
            }
        }
        let add = at.regs.pred(at.src(d + a + 1));
        if add != 0 && add != FULL {
            let message = "the lanes of a warp give wgmma different predicates".to_owned();
            return illegal(self, warp, message);
        }
        self.compare_warps(warp, at, group, bits)?;
        let mut descriptors = [None; 2];
        for index in 0..2 {
            let Some(bits) = bits[index] else { continue };
            match Descriptor::decode(bits, what.transposed[index]) {
                Ok(descriptor) => descriptors[index] = Some(descriptor),
                Err(message) => return illegal(self, warp, message),
            }
        }
        if warp.index.is_multiple_of(4) {
            for (descriptor, what) in descriptors.iter().zip(["wgmma's A", "wgmma's B"]) {
                if let Some(Descriptor { start, swizzle, .. }) = *descriptor {
                    self.compare_swizzles(warp, at, start, swizzle, what);
                }
            }
        }
        self.check_fence(warp, at, d, if what.a_in_registers { 4 } else { 0 });

        let products = &warp.products;
        let number = products.committed + 1;
        let agent = self
            .clocks
            .async_agent(PRODUCTS | (warp.index as u64) << 1 | u64::from(number & 1));
        let knows = self.clocks.release(warp.index, at.mask);
        self.clocks.async_begin_for(agent, &knows);

        let bytes = warp.registers.as_ref().len();
        warp.products.grow(bytes, 6);
        let hidden = warp.products.hidden.as_ref().expect("just made").ptr();
        // SAFETY: `grow` made room for the window and six slots more; both areas are aligned to 128 bytes, and this warp is
        // run by this thread alone.
        let inner = unsafe { Regs::new(hidden.add(at.window as usize), self.run.constants.ptr()) };
        let first = (bytes.next_multiple_of(SLOT) - at.window as usize) as u32;
        let scratch: [Slot; 6] = std::array::from_fn(|i| Slot(first + (i * SLOT) as u32));

        for (i, &slot) in scratch[..4].iter().enumerate() {
            let value = match descriptors[0] {
                None => at.regs.get32(at.src(d + i)),
                // Registers: rows g, rows g + 8, then the same of the second half of k.
                Some(a) => {
                    let rows = 2 * (warp.index as u32 % 4) + i as u32 % 2;
                    self.core(warp, at, agent, &a, rows, i as u32 / 2, "wgmma's A", true)?
                }
            };
            inner.set32(slot, &value, FULL);
        }
        for i in 0..d {
            let slot = at.dst(i);
            let register = index(at.window, slot);
            if add == 0 {
                inner.set32(slot, &[0; LANES], FULL);
            } else if warp.products.results[register] == 0 {
                inner.set32(slot, &at.regs.get32(slot), FULL);
            }
        }
        let b = descriptors[1].expect("B is in shared memory");
        // The four warps share what is read of B.
        let whole = warp.index.is_multiple_of(4);
        for columns in 0..usize::from(what.n) / 8 {
            for k in 0..2 {
                let value = self.core(warp, at, agent, &b, columns as u32, k as u32, "wgmma's B", whole)?;
                inner.set32(scratch[4 + k], &value, FULL);
            }
            let d: [Slot; 4] = std::array::from_fn(|i| at.dst(4 * columns + i));
            let s = &scratch;
            let ops = [
                d[0], d[1], d[2], d[3], s[0], s[1], s[2], s[3], s[4], s[5], d[0], d[1], d[2], d[3],
            ];
            (what.tile)(inner, &ops, FULL);
        }

        let products = &mut warp.products;
        for i in 0..d {
            let register = index(at.window, at.dst(i));
            if products.results[register] == 0 {
                at.regs.set32(at.dst(i), &[POISON; LANES], FULL);
                products.listed.push(register as u32);
            }
            products.results[register] = number;
        }
        if what.a_in_registers {
            for i in 0..4 {
                if at.src(d + i).0 & Slot::CONST == 0 {
                    let register = index(at.window, at.src(d + i));
                    products.sources[register] = number;
                    products.listed.push(register as u32);
                }
            }
        }
        products.count += 1;
        Ok(())
    }

    /// Eight rows of 16 bytes, as `mma.sync` has them in one register: lane 4r + t holds word t of row r.
    #[allow(clippy::too_many_arguments)]
    fn core(
        &mut self,
        warp: &Warp,
        at: &At<'_>,
        agent: usize,
        descriptor: &Descriptor,
        group: u32,
        k: u32,
        what: &str,
        counted: bool,
    ) -> Result<[u32; LANES], Box<Finding>> {
        let mut pieces = [[0u8; 16]; 8];
        let places: [u32; 8] = std::array::from_fn(|i| descriptor.piece(group, k, i as u32));
        for (piece, place) in pieces.iter_mut().zip(places) {
            *piece = self.async_read(warp, at, 0, agent, place, what)?;
        }
        if counted {
            self.meter.core(at.pc, &places.map(u64::from));
        }
        let mut words = [0; LANES];
        for (lane, word) in words.iter_mut().enumerate() {
            let (row, t) = (lane / 4, lane % 4);
            *word = if descriptor.transposed {
                // Elements of 16 bits: number 2t and 2t + 1 in k.
                let element =
                    |k: usize| u32::from(u16::from_le_bytes([pieces[k][2 * row], pieces[k][2 * row + 1]]));
                element(2 * t) | element(2 * t + 1) << 16
            } else {
                u32::from_le_bytes(pieces[row][4 * t..4 * t + 4].try_into().expect("4 bytes"))
            };
        }
        Ok(words)
    }

    /// The warps of a warpgroup execute the same products.
    fn compare_warps(
        &mut self,
        warp: &Warp,
        at: &At<'_>,
        group: usize,
        descriptors: [Option<u64>; 2],
    ) -> Result<(), Box<Finding>> {
        let key = (group, warp.products.count);
        let product = self.groups.products.entry(key).or_insert(Product {
            pc: at.pc,
            descriptors,
            warps: 0,
        });
        if product.pc != at.pc || product.descriptors != descriptors {
            let message = format!(
                "warp {} of a warpgroup multiplies by other descriptors, or elsewhere, than the warp before it: {:#x?} and \
                 {:#x?}",
                warp.index, descriptors, product.descriptors
            );
            let other = product.pc;
            let mut finding = self.finding(Check::Illegal, warp, at.pc, 0, message);
            let site = self.site(other, warp, 0, "the other warp, in".to_owned());
            finding.others.push(site);
            return Err(finding);
        }
        product.warps += 1;
        if product.warps == 4 {
            self.groups.products.remove(&key);
        }
        Ok(())
    }

    /// Registers that the thread has touched need a `wgmma.fence` before a product touches them.
    fn check_fence(&self, warp: &Warp, at: &At<'_>, d: usize, a: usize) {
        let products = &warp.products;
        let touched = |slot: Slot, what: u8| {
            slot.0 & Slot::CONST == 0
                && products
                    .touched
                    .get(index(at.window, slot))
                    .is_some_and(|t| t & what != 0)
        };
        let message = if !products.fenced {
            "a product without any wgmma.fence before it".to_owned()
        } else if (0..d).any(|i| touched(at.dst(i), READ | WRITTEN)) {
            "registers of the result were touched since the last wgmma.fence".to_owned()
        } else if (0..a).any(|i| touched(at.src(d + i), WRITTEN)) {
            "registers of A were written since the last wgmma.fence".to_owned()
        } else {
            return;
        };
        self.run
            .report(*self.finding(Check::WgmmaFence, warp, at.pc, 0, message));
    }

    /// Results of all but the last `groups` groups come to their registers. A product is the warpgroup's: when it is complete
    /// for one warp, it has read what it reads for all four, as CUTLASS has it, where one of their threads gives a stage back.
    fn wait_for_products(&mut self, warp: &mut Warp, at: &At<'_>, groups: u32) -> bool {
        let products = &mut warp.products;
        let until = products.committed.saturating_sub(groups);
        if products.done >= until {
            return true;
        }
        let all = warp.index / 4 * 4..warp.index / 4 * 4 + 4;
        let behind = |warp: usize| {
            self.groups
                .committed
                .get(&warp)
                .is_none_or(|&number| number < until)
        };
        if all.clone().any(behind) {
            return false;
        }
        let hidden = products.hidden.as_ref().map(Aligned::ptr);
        let registers = warp.registers.ptr();
        let (results, sources) = (&mut products.results, &mut products.sources);
        products.listed.retain(|&register| {
            let register = register as usize;
            if (1..=until).contains(&results[register]) {
                results[register] = 0;
                if let Some(hidden) = hidden {
                    // SAFETY: both have this slot (`grow`), and they are apart.
                    unsafe {
                        let from = hidden.add(register * SLOT);
                        std::ptr::copy_nonoverlapping(from, registers.add(register * SLOT), SLOT);
                    }
                }
            }
            if (1..=until).contains(&sources[register]) {
                sources[register] = 0;
            }
            results[register] != 0 || sources[register] != 0
        });
        // What is known of a group is so of all before it with the same agent: the last two are enough.
        let first = products.done.max(until.saturating_sub(2)) + 1;
        products.done = until;
        for number in first..=until {
            let key = PRODUCTS | (warp.index as u64) << 1 | u64::from(number & 1);
            let agent = self.clocks.async_agent(key);
            let published = self.clocks.async_end(agent);
            self.clocks.acquire(warp.index, at.mask, &published);
            // Of the others' parts it knows that they are over, not what they knew.
            for other in all.clone() {
                if let Some(published) = self.groups.ended.get(&(other, number % KEPT)) {
                    self.clocks.acquire(warp.index, at.mask, published);
                }
            }
        }
        self.event();
        true
    }

    /// Looks at what an instruction of a kernel with products does to registers.
    pub(super) fn watch(&self, warp: &mut Warp, pc: u32, ops: &[Slot], window: u32, mask: u32) {
        let inst = &self.run.kernel.insts[pc as usize];
        if mask == 0 || matches!(inst.op, Op::WarpGroup(_)) {
            return;
        }
        let bytes = warp.registers.as_ref().len();
        warp.products.grow(bytes, 6);
        let products = &mut warp.products;
        let (dst, src) = ops.split_at(inst.dst.into());
        let moves = inst.class == Class::Move && dst.len() == 1 && src.len() <= 1;
        if moves {
            self.watch_move(warp, dst[0], src.first().copied(), window);
            return;
        }
        let busy = !products.listed.is_empty();
        let mut early = None;
        for &slot in src.iter().filter(|slot| slot.0 & Slot::CONST == 0) {
            let register = index(window, slot);
            products.touched[register] |= READ;
            if busy && products.results[register] != 0 {
                early = Some("reads the result of a wgmma");
            }
        }
        for &slot in dst {
            let register = index(window, slot);
            products.touched[register] |= WRITTEN;
            if busy && products.results[register] != 0 {
                early = Some("writes a register that a wgmma is going to write");
                products.results[register] = 0;
            } else if busy && products.sources[register] != 0 {
                early = Some("writes a register that a wgmma is reading");
                products.sources[register] = 0;
            }
        }
        if let Some(what) = early {
            let message = format!("an instruction {what} before wgmma.wait_group");
            let lane = mask.trailing_zeros();
            self.run
                .report(*self.finding(Check::AsyncPending, warp, pc, lane, message));
        }
    }

    /// A copy of one register: what is known of it goes along. Constants are as good as untouched.
    fn watch_move(&self, warp: &mut Warp, to: Slot, from: Option<Slot>, window: u32) {
        let products = &mut warp.products;
        let to = index(window, to);
        let from = from.filter(|slot| slot.0 & Slot::CONST == 0);
        let Some(from) = from.map(|slot| index(window, slot)) else {
            products.touched[to] = 0;
            products.results[to] = 0;
            return;
        };
        products.touched[to] = products.touched[from];
        let number = products.results[from];
        if number == 0 {
            products.results[to] = 0;
            return;
        }
        products.results[to] = number;
        products.listed.push(to as u32);
        let hidden = products.hidden.as_ref().expect("it holds a result").ptr();
        // SAFETY: `grow` made room for both slots.
        unsafe { std::ptr::copy(hidden.add(from * SLOT), hidden.add(to * SLOT), SLOT) };
    }

    /// The block has ended: what `setmaxnreg` gave to some warps, others must have given back.
    pub(super) fn check_registers(&self) {
        let warps = || self.warps.iter().flatten();
        let Some((_, pc)) = warps().filter_map(|warp| warp.registers_set).max() else {
            return;
        };
        // What ptxas gives a kernel at most: all registers shared out, in steps of eight.
        let kernel = self.run.kernel;
        let threads = self.run.block.iter().product::<u32>().next_multiple_of(32);
        let blocks = kernel.limits.min_blocks_per_sm.unwrap_or(1).max(1);
        let most = (self.run.profile.registers_per_block / threads / blocks / 8 * 8).min(256);
        let each = kernel
            .limits
            .max_registers
            .map_or(most, |limit| limit.next_multiple_of(8).min(most));
        let sum: u32 = warps()
            .map(|warp| warp.registers_set.map_or(each, |(count, _)| count))
            .sum();
        let pool = each * self.warps.len() as u32;
        if sum > pool {
            let message = format!(
                "setmaxnreg: the block's warps ask for {} registers in the end, and the block has {} ({each} per thread): \
                 setmaxnreg.inc waits for ever",
                32 * sum,
                32 * pool
            );
            let warp = warps()
                .find(|warp| warp.registers_set.is_some_and(|set| set.1 == pc))
                .expect("found above");
            self.run
                .report(*self.finding(Check::Illegal, warp, pc, 0, message));
        }
    }
}

/// A register's number: its place among all slots of the warp.
fn index(window: u32, slot: Slot) -> usize {
    (window + slot.0) as usize / SLOT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_says_where_pieces_lie() {
        let bits = |start: u64, leading: u64, stride: u64, swizzle: u64| {
            start >> 4 | (leading >> 4) << 16 | (stride >> 4) << 32 | swizzle << 62
        };
        // Rows of 128 bytes in groups of 1024: row 8·2 + 3, the second 16 bytes, which the row's number exchanges.
        let a = Descriptor::decode(bits(0x400, 16, 1024, 1), false).expect("valid");
        assert_eq!(a.piece(2, 1, 3), 0x400 + 2 * 1024 + 3 * 128 + (16 ^ 0x30));
        // The next 32 bytes of k, by a start 32 bytes on.
        let next = Descriptor::decode(bits(0x420, 16, 1024, 1), false).expect("valid");
        assert_eq!(next.piece(0, 0, 5), 0x400 + 5 * 128 + (0x20 ^ 0x50));
        // Transposed: columns 64 and on in the next atom.
        let b = Descriptor::decode(bits(0, 4096, 1024, 1), true).expect("valid");
        assert_eq!(b.piece(9, 1, 2), 4096 + 1024 + 2 * 128 + (16 ^ 0x20));
        // Without swizzle: cores of 128 bytes.
        let plain = Descriptor::decode(bits(0x80, 256, 512, 0), false).expect("valid");
        assert_eq!(plain.piece(3, 1, 7), 0x80 + 3 * 512 + 256 + 7 * 16);
        assert!(Descriptor::decode(1 << 49, false).is_err());
    }
}
