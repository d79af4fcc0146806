//! Register slots: linear scan over live ranges decides which virtual registers share one.
//!
//! nvcc's PTX never reuses a register, so an unrolled kernel has thousands; a warp's window would leave the cache.
//! Threads of a warp may be at different places, but each lane of a slot belongs to one thread, and writes are
//! masked, so a range that is right for one thread is right for the warp.

use crate::ir::regs::{Slot, Width};
use crate::lower::flow::Block;

/// What one instruction reads and writes, as virtual registers.
pub struct Effects {
    pub reads: Vec<u32>,
    /// Registers that are written wholly; a guarded write leaves some lanes, so it is listed in `reads` as well.
    pub writes: Vec<u32>,
}

/// Gives every register a slot in a window that begins at `base`. Returns slots by register and the window's size.
pub fn assign(widths: &[Width], effects: &[Effects], blocks: &[Block], base: u32) -> (Vec<Slot>, u32) {
    let ranges = ranges(widths.len(), effects, blocks);
    let mut order: Vec<u32> = (0..widths.len() as u32)
        .filter(|&r| ranges[r as usize].0 <= ranges[r as usize].1)
        .collect();
    order.sort_unstable_by_key(|&r| ranges[r as usize].0);

    let mut slots = vec![Slot(base); widths.len()];
    // Predicates lie apart, so that the others stay aligned.
    let mut predicates = Pool::default();
    let mut others = [Pool::default(), Pool::default(), Pool::default()];
    let mut given = vec![0u32; widths.len()];
    for &r in &order {
        let (first, last) = ranges[r as usize];
        let pool = match widths[r as usize] {
            Width::Pred => &mut predicates,
            Width::W32 => &mut others[0],
            Width::W64 => &mut others[1],
            Width::W128 => &mut others[2],
        };
        given[r as usize] = pool.take(first, last);
    }
    let at: Vec<u32> = {
        let mut at = Vec::new();
        let mut offset = base.next_multiple_of(128);
        for (pool, width) in others.iter().zip([Width::W32, Width::W64, Width::W128]) {
            at.push(offset);
            offset += pool.count * width.bytes() as u32;
        }
        at.push(offset);
        at
    };
    for &r in &order {
        let width = widths[r as usize];
        let index = match width {
            Width::W32 => 0,
            Width::W64 => 1,
            Width::W128 => 2,
            Width::Pred => 3,
        };
        slots[r as usize] = Slot(at[index] + given[r as usize] * width.bytes() as u32);
    }
    let size = at[3] + predicates.count * Width::Pred.bytes() as u32;
    (slots, size.next_multiple_of(128))
}

/// Slots of one width: those in use with the end of their use, and the free ones.
#[derive(Default)]
struct Pool {
    busy: std::collections::BinaryHeap<std::cmp::Reverse<(u32, u32)>>,
    free: Vec<u32>,
    count: u32,
}

impl Pool {
    fn take(&mut self, first: u32, last: u32) -> u32 {
        while let Some(&std::cmp::Reverse((end, slot))) = self.busy.peek() {
            if end >= first {
                break;
            }
            self.busy.pop();
            self.free.push(slot);
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.count += 1;
            self.count - 1
        });
        self.busy.push(std::cmp::Reverse((last, slot)));
        slot
    }
}

/// First and last position at which each register must keep its slot; instruction i reads at 2i and writes at
/// 2i + 1. Registers that never occur get an empty range.
fn ranges(registers: usize, effects: &[Effects], blocks: &[Block]) -> Vec<(u32, u32)> {
    let words = registers.div_ceil(64);
    let bit = |set: &[u64], r: u32| set[r as usize / 64] >> (r % 64) & 1 != 0;
    let mut uses = vec![vec![0u64; words]; blocks.len()];
    let mut defs = vec![vec![0u64; words]; blocks.len()];
    for (b, block) in blocks.iter().enumerate() {
        for effect in &effects[block.start..block.end] {
            for &r in &effect.reads {
                if !bit(&defs[b], r) {
                    uses[b][r as usize / 64] |= 1 << (r % 64);
                }
            }
            for &r in &effect.writes {
                if !bit(&uses[b], r) {
                    defs[b][r as usize / 64] |= 1 << (r % 64);
                }
            }
        }
    }
    let mut live_in = uses;
    let mut live_out = vec![vec![0u64; words]; blocks.len()];
    let mut changed = true;
    while changed {
        changed = false;
        for b in (0..blocks.len()).rev() {
            for &next in &blocks[b].next {
                for w in 0..words {
                    let new = live_out[b][w] | live_in[next][w];
                    if new != live_out[b][w] {
                        live_out[b][w] = new;
                        live_in[b][w] |= new & !defs[b][w];
                        changed = true;
                    }
                }
            }
        }
    }
    let mut ranges = vec![(u32::MAX, 0u32); registers];
    let mut extend = |r: u32, at: u32| {
        let range = &mut ranges[r as usize];
        range.0 = range.0.min(at);
        range.1 = range.1.max(at);
    };
    for (b, block) in blocks.iter().enumerate() {
        for w in 0..words {
            for (set, at) in [(&live_in[b], 2 * block.start), (&live_out[b], 2 * block.end)] {
                let mut rest = set[w];
                while rest != 0 {
                    extend((w * 64) as u32 + rest.trailing_zeros(), at as u32);
                    rest &= rest - 1;
                }
            }
        }
        for (i, effect) in effects[block.start..block.end].iter().enumerate() {
            let at = 2 * (block.start + i) as u32;
            effect.reads.iter().for_each(|&r| extend(r, at));
            effect.writes.iter().for_each(|&r| extend(r, at + 1));
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_that_are_alive_together_never_share() {
        let e = |reads: &[u32], writes: &[u32]| Effects {
            reads: reads.to_vec(),
            writes: writes.to_vec(),
        };
        // r0 = …; r1 = …; loop { r2 = r0; r1 = r1 + r2 }; use r1
        let effects = [
            e(&[], &[0]),
            e(&[], &[1]),
            e(&[0], &[2]),
            e(&[1, 2], &[1]),
            e(&[1], &[]),
            e(&[], &[3]),
        ];
        let block = |start, end, next: &[usize]| Block {
            start,
            end,
            next: next.to_vec(),
        };
        let blocks = [block(0, 2, &[1]), block(2, 4, &[1, 2]), block(4, 6, &[])];
        let (slots, size) = assign(&[Width::W32; 4], &effects, &blocks, 0);
        // r0 lives through the loop, so r2 must not have its slot.
        assert_ne!(slots[0], slots[2]);
        assert_ne!(slots[1], slots[2]);
        assert_ne!(slots[0], slots[1]);
        assert!(
            slots[..3].contains(&slots[3]),
            "a later register takes a free slot"
        );
        assert_eq!(size, 3 * 128);
    }
}
