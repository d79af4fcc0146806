//! Products of 16-bit numbers: their layout, the kernels of each instruction set, and the driver.
//!
//! Both operands lie in *tiles* of 16 rows of 64 bytes, the shape of AMX's registers, whatever the instruction set:
//!
//! ```text
//! x: tile (i, b), row r:  x[16 i + r, 32 b ..][..32]
//! W: tile (b, t) of panel p, row r, dword c:  W[32 p + 16 t + c, 32 b + 2 r ..][..2]
//! ```
//!
//! A panel of W is 32 columns of y: for each block of 32 k, two tiles side by side. Past the end of a matrix there are
//! zeros.
//!
//! # What a product is
//!
//! For each element of y, per block of 32 k, in rising order of blocks:
//!
//! ```text
//! even = Σ x[2r] W[2r],  odd = Σ x[2r+1] W[2r+1]      one chain each over r = 0..16, from zero
//! y = y + (even + odd)
//! ```
//!
//! in float32, every step rounded once. This is what AMX's `TDPBF16PS` computes, and the kernels `amx`, `avx512`, `avx2`
//! and `portable` agree in every bit, as long as no product or sum is below 2^-126 without being zero: AMX takes such
//! numbers for zero. (A product of two bf16 numbers is exact in float32, so a fused multiply-add and a plain one round
//! alike.) The kernel `avx512-bf16` has another order, that of its instruction: one chain over all k, in each pair the odd
//! one first. Each is a function of the row and the weights alone: never of the other rows, the threads or the split.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
pub mod attention;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod gemm;
mod tiles;
mod widened;

#[cfg(test)]
mod tests;

use super::isa::Isa;
pub use gemm::gemm;
pub use tiles::{PackedTiles, TileWriter, Tiles, flush, round_row};

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;
/// Bytes of a tile's row.
pub const ROW_BYTES: usize = 64;
/// Bytes of a tile.
pub const TILE_BYTES: usize = TILE_ROWS * ROW_BYTES;
/// 16-bit numbers of a tile's row: k of one block.
pub const ROW_NUMBERS: usize = ROW_BYTES / 2;
/// Columns of a panel: two tiles.
pub const PANEL: usize = 32;
/// Bytes of one block of k of a panel.
pub const PANEL_BLOCK: usize = 2 * TILE_BYTES;

/// What a kernel computes: `c[rows, 32 panels] (+)= a · b` over some blocks of k.
pub struct Block {
    /// Tile (i, b) of the left operand is at `a + i * a_tile_row + b * TILE_BYTES`.
    pub a: *const u8,
    /// Bytes from one row of tiles to the next.
    pub a_tile_row: usize,
    /// Rows that count. Those that fill up the last tile are readable and may be computed.
    pub rows: usize,
    /// Block b of panel p is at `b + p * b_panel + b * PANEL_BLOCK`.
    pub b: *const u8,
    /// Bytes from one panel to the next.
    pub b_panel: usize,
    /// How many panels.
    pub panels: usize,
    /// How many blocks of k.
    pub k_blocks: usize,
    /// Element (i, j) of the result is at `c + i * c_row + j`, for all rows of the last tile.
    pub c: *mut f32,
    /// Elements from one row to the next.
    pub c_row: usize,
    /// Whether to add to what `c` holds; else it is overwritten.
    pub resume: bool,
}

/// A way to compute a [`Block`].
#[derive(Clone, Copy)]
pub struct Kernel {
    /// A short name for logs and tests.
    pub name: &'static str,
    /// Whether it is faster than float32 on the same processor.
    pub fast: bool,
    isa: Isa,
    /// # Safety
    /// Everything that the block points to is there.
    block: unsafe fn(Isa, &Block),
    /// So many rounds of the instruction that does the work, on registers alone; gives the operations that they were.
    ///
    /// # Safety
    /// The processor has it.
    #[cfg(any(test, feature = "inspect"))]
    peak: unsafe fn(Isa, usize) -> f64,
}

impl Kernel {
    /// The kernels of this processor, best first; at least one.
    pub fn available() -> Vec<Kernel> {
        let mut kernels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let isa = Isa::detect();
            if amx::has_bf16() {
                kernels.push(Kernel {
                    name: "amx",
                    fast: true,
                    isa,
                    block: amx::block,
                    #[cfg(any(test, feature = "inspect"))]
                    peak: amx::peak,
                });
            }
            if avx512::has_bf16() {
                kernels.push(Kernel {
                    name: "avx512-bf16",
                    fast: true,
                    isa,
                    block: avx512::block,
                    #[cfg(any(test, feature = "inspect"))]
                    peak: avx512::peak,
                });
            }
        }
        kernels.extend(Isa::available().into_iter().map(|isa| Kernel {
            name: isa.name(),
            fast: false,
            isa,
            block: widened::block,
            #[cfg(any(test, feature = "inspect"))]
            peak: widened::peak,
        }));
        kernels
    }

    /// The best kernel of this processor.
    pub fn detect() -> Kernel {
        Kernel::available()[0]
    }

    /// See [`Kernel::peak`].
    #[cfg(any(test, feature = "inspect"))]
    pub fn peak(&self, rounds: usize) -> f64 {
        // SAFETY: a kernel is in the list only where the processor has its instructions.
        unsafe { (self.peak)(self.isa, rounds) }
    }

    /// Computes a block.
    ///
    /// # Safety
    /// Everything that the block points to is there, and nothing else touches `c` meanwhile.
    unsafe fn run(&self, block: &Block) {
        // SAFETY: a kernel is in the list only where the processor has its instructions; the rest is the caller's word.
        unsafe { (self.block)(self.isa, block) }
    }
}
