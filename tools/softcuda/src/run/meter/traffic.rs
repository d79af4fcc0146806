//! What one warp's request costs: sectors of 32 bytes in global memory, wavefronts in shared memory.

use crate::ir::regs::LANES;

/// Bytes of a sector, in which caches and DRAM move data.
pub const SECTOR: u64 = 32;

/// Distinct sectors that a request touches, and the distinct bytes that it asks for.
///
/// An access is aligned to its size, at most 32 bytes, so each lane's lies in one sector.
pub fn sectors(mask: u32, addresses: &[u64; LANES], bytes: usize) -> (u32, u32) {
    let ones = (1u64 << bytes.min(32)) - 1;
    let mut seen = [(0u64, 0u32); LANES];
    let mut count = 0;
    let mut greatest = 0;
    let mut rest = mask;
    while rest != 0 {
        let lane = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        let sector = addresses[lane] / SECTOR;
        let touched = (ones << (addresses[lane] % SECTOR)) as u32;
        // Lanes mostly go upwards: a sector above all others needs no search.
        if count == 0 || sector > greatest {
            greatest = sector;
            seen[count] = (sector, touched);
            count += 1;
        } else if let Some(known) = seen[..count].iter_mut().rev().find(|(s, _)| *s == sector) {
            known.1 |= touched;
        } else {
            seen[count] = (sector, touched);
            count += 1;
        }
    }
    let distinct = seen[..count].iter().map(|(_, bytes)| bytes.count_ones()).sum();
    (count as u32, distinct)
}

/// Wavefronts that a request to shared memory takes, and the fewest that accesses of its width can take.
///
/// The model, as far as NVIDIA documents the hardware: 32 banks of 4 bytes; a wavefront reads or writes one word of
/// each bank, and hands a word to all lanes that ask for it. Accesses of 8 bytes go by half warps, of 16 by quarter
/// warps; what is left of conflicts is between the lanes of one such part. A tile of ldmatrix, eight rows of 16
/// bytes, is a quarter of that kind. Atomics on one word follow each other (`one_by_one`).
pub fn wavefronts(mask: u32, offsets: &[u64; LANES], bytes: usize, one_by_one: bool) -> (u32, u32) {
    // A lane's access fills one of `slots` places in a wavefront.
    let shift = bytes.clamp(4, 16).next_power_of_two().trailing_zeros();
    let slots = 128 >> shift;
    let lanes = slots;
    let part = if lanes == 32 { u32::MAX } else { (1 << lanes) - 1 };
    let (mut count, mut ideal) = (0, 0);
    for first in (0..32).step_by(lanes) {
        let active = mask >> first & part;
        if active != 0 {
            ideal += 1;
            let offsets = &offsets[first..first + lanes];
            count += passes(active, offsets, shift, slots as u64 - 1, one_by_one);
        }
    }
    (count, ideal)
}

/// Wavefronts of one part of a warp: the most words that a bank must give.
fn passes(active: u32, offsets: &[u64], shift: u32, slot: u64, one_by_one: bool) -> u32 {
    let lanes = || {
        let mut rest = active;
        std::iter::from_fn(move || {
            if rest == 0 {
                return None;
            }
            let lane = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            Some(offsets[lane] >> shift)
        })
    };
    // Every lane its own bank, or all the same word: nearly always.
    let banks = lanes().fold(0u32, |banks, unit| banks | 1 << (unit & slot));
    if banks.count_ones() == active.count_ones() {
        return 1;
    }
    if one_by_one {
        let mut load = [0u32; LANES];
        lanes().for_each(|unit| load[(unit & slot) as usize] += 1);
        return load.into_iter().max().unwrap_or(0);
    }
    let mut seen = [0u64; LANES];
    let mut count = 0;
    let mut load = [0u32; LANES];
    for unit in lanes() {
        if !seen[..count].contains(&unit) {
            seen[count] = unit;
            count += 1;
            load[(unit & slot) as usize] += 1;
        }
    }
    load.into_iter().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u32 = u32::MAX;

    fn lanes(f: impl Fn(u64) -> u64) -> [u64; LANES] {
        std::array::from_fn(|lane| f(lane as u64))
    }

    #[test]
    fn sectors_of_plain_patterns() {
        let at = 0x7000_0000_0000;
        for (mask, addresses, bytes, want) in [
            (ALL, lanes(|l| at + 4 * l), 4, (4, 128)),
            (ALL, lanes(|l| at + 4 + 4 * l), 4, (5, 128)),
            (ALL, lanes(|l| at + 16 * l), 16, (16, 512)),
            (ALL, lanes(|l| at + 32 * l), 32, (32, 1024)),
            (ALL, lanes(|l| at + 128 * l), 4, (32, 128)),
            (ALL, lanes(|_| at + 8), 4, (1, 4)),
            // Downwards, and back and forth between two sectors.
            (ALL, lanes(|l| at + 4 * (31 - l)), 4, (4, 128)),
            (ALL, lanes(|l| at + l % 2 * 64 + l), 1, (2, 32)),
            (0xffff, lanes(|l| at + 2 * l), 2, (1, 32)),
            (0, lanes(|_| 3), 4, (0, 0)),
        ] {
            assert_eq!(sectors(mask, &addresses, bytes), want, "{addresses:?}");
        }
    }

    #[test]
    fn wavefronts_of_plain_patterns() {
        for (mask, offsets, bytes, want) in [
            (ALL, lanes(|l| 4 * l), 4, (1, 1)),
            (ALL, lanes(|_| 64), 4, (1, 1)),
            (ALL, lanes(|l| 128 * l), 4, (32, 1)),
            (ALL, lanes(|l| 132 * l), 4, (1, 1)),
            // Two lanes to a bank, different words.
            (ALL, lanes(|l| 8 * l), 4, (2, 1)),
            // Two lanes to a word: halves of 4 bytes.
            (ALL, lanes(|l| 2 * l), 2, (1, 1)),
            (ALL, lanes(|l| 8 * l), 8, (2, 2)),
            (0xffff, lanes(|l| 8 * l), 8, (1, 1)),
            (ALL, lanes(|l| 16 * l), 8, (4, 2)),
            (ALL, lanes(|l| 16 * l), 16, (4, 4)),
            (ALL, lanes(|l| 128 * l), 16, (32, 4)),
            // Rows of 128 bytes with the 16-byte groups XORed by the row.
            (ALL, lanes(|l| 128 * l + 16 * (l % 8)), 16, (4, 4)),
            (0xff, lanes(|l| 64 * l), 16, (4, 1)),
            // Three words in one bank, one of them asked for by thirty lanes.
            (ALL, lanes(|l| 128 * l.min(2)), 4, (3, 1)),
        ] {
            assert_eq!(wavefronts(mask, &offsets, bytes, false), want, "{offsets:?}");
        }
    }

    #[test]
    fn atomics_on_one_word_follow_each_other() {
        assert_eq!(wavefronts(ALL, &lanes(|_| 64), 4, true), (32, 1));
        assert_eq!(wavefronts(ALL, &lanes(|l| 4 * l), 4, true), (1, 1));
        assert_eq!(wavefronts(ALL, &lanes(|l| 4 * (l / 4)), 4, true), (4, 1));
    }
}
