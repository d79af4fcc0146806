//! How long a product takes with a tile, by arithmetic on what a multiprocessor does per clock. **Estimates, none of them
//! measured**: they compare tiles with one another, no more.

use super::{GemmShape, GemmTile};

/// The multiprocessors of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Multiprocessors {
    /// Compute capability: (9, 0).
    pub capability: (u32, u32),
    /// How many.
    pub count: usize,
}

/// What one multiprocessor has and does per clock.
struct Rates {
    /// From this compute capability on.
    capability: (u32, u32),
    /// FLOP of `mma.sync` on 16-bit numbers with float32 sums: the data sheets' peaks; of Hopper's 0.63, which is what
    /// `mma.sync` reaches there (arXiv 2402.13499).
    flop: f64,
    /// Bytes from L2 while all multiprocessors load: assumed.
    l2_bytes: f64,
    /// Shared memory that it has.
    shared_bytes: u32,
}

#[rustfmt::skip] // A table.
const RATES: [Rates; 5] = [
    Rates { capability: (8, 0), flop: 2048.0, l2_bytes: 40.0, shared_bytes: 164 << 10 },
    Rates { capability: (8, 6), flop: 1024.0, l2_bytes: 20.0, shared_bytes: 100 << 10 },
    Rates { capability: (9, 0), flop: 2580.0, l2_bytes: 46.0, shared_bytes: 228 << 10 },
    Rates { capability: (10, 0), flop: 2580.0, l2_bytes: 46.0, shared_bytes: 228 << 10 },
    Rates { capability: (12, 0), flop: 1024.0, l2_bytes: 20.0, shared_bytes: 100 << 10 },
];

/// Bytes of shared memory per clock, read and written, of every multiprocessor.
const SHARED_BYTES: f64 = 128.0;
/// Columns of k that one MMA consumes.
const STEP: u32 = 16;
/// Clocks of a k-step at least: an MMA that waits for another's accumulators, and its part of a stage's barrier.
const STEP_CLOCKS: f64 = 55.0;
/// Clocks from a block's start to its first MMA.
const START_CLOCKS: f64 = 1800.0;
/// Elements per clock of the epilogue: 128 lanes, 16 instructions an element.
const EPILOGUE_ELEMENTS: f64 = 8.0;
/// Bytes of a block's shared memory that the device takes for itself.
const RESERVED_SHARED: u32 = 1 << 10;

impl Multiprocessors {
    /// Those of an H200.
    #[cfg(test)]
    pub const H200: Multiprocessors = Multiprocessors {
        capability: (9, 0),
        count: 132,
    };

    fn rates(&self) -> &'static Rates {
        let found = RATES
            .iter()
            .rev()
            .find(|rates| rates.capability <= self.capability);
        found.unwrap_or(&RATES[0])
    }

    /// Blocks of a tile that a multiprocessor has at a time; 0 if its shared memory is too small for one.
    fn resident(&self, tile: &GemmShape) -> u32 {
        let shared = tile.block.shared_bytes + RESERVED_SHARED;
        tile.blocks.min(self.rates().shared_bytes / shared)
    }

    /// Clocks of x Wᵀ with x of `rows` rows, W of `columns` rows, and sums over `k`; infinite if the tile does not fit.
    pub fn gemm_clocks(&self, tile: GemmTile, [rows, columns, k]: [usize; 3]) -> f64 {
        let (shape, rates) = (tile.row(), self.rates());
        let resident = self.resident(&shape) as usize;
        if resident == 0 {
            return f64::INFINITY;
        }
        let (tile, [warp_rows, warp_columns]) = (shape.block, shape.warp);
        let blocks = rows.div_ceil(tile.rows as usize) * columns.div_ceil(tile.columns as usize);
        let steps = k.div_ceil(STEP as usize) as f64;
        let area = f64::from(tile.rows * tile.columns);
        // Of one block and k-step: every warp reads its rows of x and of W.
        let copied = f64::from(2 * STEP * (tile.rows + tile.columns));
        let warps = area / f64::from(warp_rows * warp_columns);
        let read = warps * f64::from(2 * STEP * (warp_rows + warp_columns));
        let busiest = (2.0 * f64::from(STEP) * area / rates.flop)
            .max((read + copied) / SHARED_BYTES)
            .max(copied / rates.l2_bytes);
        // Blocks that a multiprocessor has at once share it, and begin and end together.
        let round = |blocks: usize| {
            let blocks = blocks as f64;
            START_CLOCKS + steps * STEP_CLOCKS.max(blocks * busiest) + blocks * area / EPILOGUE_ELEMENTS
        };
        let of_one = blocks.div_ceil(self.count);
        let (rounds, rest) = (of_one / resident, of_one % resident);
        rounds as f64 * round(resident) + if rest > 0 { round(rest) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_the_rates_of_the_newest_that_is_not_newer() {
        let flop = |capability| Multiprocessors { capability, count: 1 }.rates().flop;
        assert_eq!(
            [(7, 5), (8, 0), (8, 9), (9, 0), (12, 1)].map(flop),
            [2048.0, 2048.0, 1024.0, 2580.0, 1024.0]
        );
        assert!(RATES.is_sorted_by_key(|rates| rates.capability));
    }

    #[test]
    fn blocks_of_a_tile_are_limited_by_registers_and_shared_memory() {
        let resident = |capability| {
            let device = Multiprocessors { capability, count: 1 };
            GemmTile::ALL.map(|tile| device.resident(&tile.row()))
        };
        assert_eq!(resident((8, 0)), [2, 3, 2, 2]);
        assert_eq!(resident((8, 9)), [2, 2, 1, 1]);
        assert_eq!(resident((9, 0)), [2, 3, 3, 3]);
    }

    /// One block of 128×128: tensor cores are its limit, 32 FLOP·128·128 of 2580 for each of 64 steps.
    #[test]
    fn clocks_are_those_of_the_busiest_part() {
        let one = Multiprocessors::H200.gemm_clocks(GemmTile::Large, [128, 128, 1024]);
        let steps = 64.0 * 32.0 * 128.0 * 128.0 / 2580.0;
        assert_eq!(one, 1800.0 + steps + 128.0 * 128.0 / 8.0);
        // Another column of blocks is another multiprocessor's, up to as many as there are; then two share one.
        let wide =
            |blocks: usize| Multiprocessors::H200.gemm_clocks(GemmTile::Large, [128, 128 * blocks, 1024]);
        assert_eq!(wide(132), one);
        assert!((wide(133) - (2.0 * one - 1800.0)).abs() < 1e-6);
        assert_eq!(wide(3 * 132), wide(2 * 132) + one);
        // A tile of 16 waits for its own MMAs.
        let small = Multiprocessors::H200.gemm_clocks(GemmTile::Small16, [16, 16, 1024]);
        assert_eq!(small, 1800.0 + 64.0 * 55.0 + 32.0);
    }
}
