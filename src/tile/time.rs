//! How long a product takes with a tile, by arithmetic on what a multiprocessor does per clock. The choice of a tile and the
//! predictions of `cost` are both of these estimates.

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
#[cfg_attr(not(feature = "inspect"), allow(dead_code))]
pub(crate) struct Rates {
    /// From this compute capability on.
    pub capability: (u32, u32),
    /// FLOP of dense products of 16-bit numbers with float32 sums: the data sheets' peaks over their multiprocessors and
    /// boost clocks (A100 312 TFLOP/s, 108, 1.41 GHz; L40S 362, 142, 2.49; H100 SXM 989, 132, 1.83; B200 2250, 148, 1.85).
    /// GeForce boards have half of it from 8.6 on.
    pub peak_flop: f64,
    /// FLOP of `mma.sync`: of Hopper's peak 0.63, which is what `mma.sync` reaches there (arXiv 2402.13499).
    pub flop: f64,
    /// Bytes from L2 while all multiprocessors load: assumed.
    pub l2_bytes: f64,
    /// Shared memory that it has.
    pub shared_bytes: u32,
}

#[rustfmt::skip] // A table.
const RATES: [Rates; 6] = [
    Rates { capability: (8, 0), peak_flop: 2048.0, flop: 2048.0, l2_bytes: 40.0, shared_bytes: 164 << 10 },
    Rates { capability: (8, 6), peak_flop: 1024.0, flop: 1024.0, l2_bytes: 20.0, shared_bytes: 100 << 10 },
    Rates { capability: (8, 9), peak_flop: 1024.0, flop: 1024.0, l2_bytes: 20.0, shared_bytes: 100 << 10 },
    Rates { capability: (9, 0), peak_flop: 4096.0, flop: 2580.0, l2_bytes: 46.0, shared_bytes: 228 << 10 },
    Rates { capability: (10, 0), peak_flop: 8192.0, flop: 2580.0, l2_bytes: 46.0, shared_bytes: 228 << 10 },
    Rates { capability: (12, 0), peak_flop: 1024.0, flop: 1024.0, l2_bytes: 20.0, shared_bytes: 100 << 10 },
];

/// The part of the busiest rate that a main loop reaches. Of an H200, at its data sheet's clock: 0.67 to 0.73 by the report of
/// 2026-11-29, of products of 8192 rows on the large tile. Assumed of other devices.
pub(crate) const REACHED: f64 = 0.7;
/// Bytes of shared memory per clock, read and written, of every multiprocessor.
const SHARED_BYTES: f64 = 128.0;
/// Columns of k that one MMA consumes.
pub(crate) const STEP: u32 = 16;
/// Clocks of a k-step at least: an MMA that waits for another's accumulators, and its part of a stage's barrier.
pub(crate) const STEP_CLOCKS: f64 = 55.0;
/// Clocks from a block's start to its first MMA.
pub(crate) const START_CLOCKS: f64 = 1800.0;
/// Elements per clock of the epilogue: 128 lanes, 16 instructions an element.
const EPILOGUE_ELEMENTS: f64 = 8.0;
/// Bytes of a block's shared memory that the device takes for itself.
pub(crate) const RESERVED_SHARED: u32 = 1 << 10;

impl Multiprocessors {
    /// Those of an H200.
    #[cfg(test)]
    pub const H200: Multiprocessors = Multiprocessors {
        capability: (9, 0),
        count: 132,
    };

    /// What one of them does per clock; of a capability that is not in the table, what the one before does.
    pub(crate) fn rates(&self) -> &'static Rates {
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

    /// FLOP per clock of dense products of 16-bit numbers with float32 sums at most, and the compute capability that the
    /// figure is of.
    #[cfg(feature = "inspect")]
    pub fn peak_flop(&self) -> (f64, (u32, u32)) {
        (self.rates().peak_flop, self.rates().capability)
    }

    /// Clocks of x Wᵀ with x of `rows` rows, W of `columns` rows, and sums over `k`; infinite if the tile does not fit.
    pub fn gemm_clocks(&self, tile: GemmTile, shape: [usize; 3]) -> f64 {
        let clocks = self.gemm_parts(tile, shape, self.rates().flop, REACHED);
        clocks.map_or(f64::INFINITY, |clocks| {
            clocks.start + clocks.steps + clocks.epilogue
        })
    }

    /// The same by its parts, with tensor cores of `flop` FLOP per clock and main loops that reach a part of the busiest
    /// rate. `None` if the tile does not fit.
    pub(crate) fn gemm_parts(
        &self,
        tile: GemmTile,
        [rows, columns, k]: [usize; 3],
        flop: f64,
        reached: f64,
    ) -> Option<GemmClocks> {
        let (shape, rates) = (tile.row(), self.rates());
        let resident = self.resident(&shape) as usize;
        if resident == 0 {
            return None;
        }
        let (tile, [warp_rows, warp_columns]) = (shape.block, shape.warp);
        let blocks = rows.div_ceil(tile.rows as usize) * columns.div_ceil(tile.columns as usize);
        let steps = k.div_ceil(STEP as usize) as f64;
        let area = f64::from(tile.rows * tile.columns);
        // Of one block and k-step: every warp reads its rows of x and of W.
        let copied = f64::from(2 * STEP * (tile.rows + tile.columns));
        let warps = area / f64::from(warp_rows * warp_columns);
        let read = warps * f64::from(2 * STEP * (warp_rows + warp_columns));
        let [tensor, shared, l2] = [
            2.0 * f64::from(STEP) * area / flop,
            (read + copied) / SHARED_BYTES,
            copied / rates.l2_bytes,
        ]
        .map(|clocks| clocks / reached);
        // Blocks that a multiprocessor has at once share it, and begin and end together.
        let mut all = GemmClocks::default();
        let mut round = |rounds: usize, blocks: usize| {
            let (rounds, blocks) = (rounds as f64, blocks as f64);
            let busiest = blocks * tensor.max(shared).max(l2);
            all.start += rounds * START_CLOCKS;
            all.chain += rounds * steps * STEP_CLOCKS;
            all.serial += rounds * steps * reached * (tensor + shared);
            all.tensor += rounds * steps * blocks * tensor;
            all.shared += rounds * steps * blocks * shared;
            all.l2 += rounds * steps * blocks * l2;
            all.steps += rounds * steps * STEP_CLOCKS.max(busiest);
            all.epilogue += rounds * blocks * area / EPILOGUE_ELEMENTS;
        };
        let of_one = blocks.div_ceil(self.count);
        round(of_one / resident, resident);
        if of_one % resident > 0 {
            round(1, of_one % resident);
        }
        Some(all)
    }
}

/// Clocks of a product on the multiprocessor that has most of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(not(feature = "inspect"), allow(dead_code))]
pub(crate) struct GemmClocks {
    /// Until the first MMA of each round of blocks.
    pub start: f64,
    /// The main loops: of each round what takes longest, of the parts below but `serial`.
    pub steps: f64,
    /// MMAs that wait for one another.
    pub chain: f64,
    /// A block alone on a multiprocessor: each scheduler has one warp, which loads and multiplies in turns. Not part of `steps`,
    /// since the choice of a tile would change on 8.0, where nothing was measured.
    pub serial: f64,
    pub tensor: f64,
    pub shared: f64,
    pub l2: f64,
    /// The ends of the rounds.
    pub epilogue: f64,
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

    /// One block of 128×128: tensor cores are its limit, 32 FLOP·128·128 of 0.7 · 2580 for each of 64 steps.
    #[test]
    fn clocks_are_those_of_the_busiest_part() {
        let one = Multiprocessors::H200.gemm_clocks(GemmTile::Large, [128, 128, 1024]);
        let steps = 64.0 * 32.0 * 128.0 * 128.0 / (0.7 * 2580.0);
        assert!((one - (1800.0 + steps + 128.0 * 128.0 / 8.0)).abs() < 1e-6);
        // Another column of blocks is another multiprocessor's, up to as many as there are; then two share one.
        let wide =
            |blocks: usize| Multiprocessors::H200.gemm_clocks(GemmTile::Large, [128, 128 * blocks, 1024]);
        assert_eq!(wide(132), one);
        assert!((wide(133) - (2.0 * one - 1800.0)).abs() < 1e-6);
        assert!((wide(3 * 132) - (wide(2 * 132) + one)).abs() < 1e-6);
        // A tile of 16 waits for its own MMAs.
        let small = Multiprocessors::H200.gemm_clocks(GemmTile::Small16, [16, 16, 1024]);
        assert_eq!(small, 1800.0 + 64.0 * 55.0 + 32.0);
    }
}
