//! Products of numbers of 16 or 8 bits: their layout, the kernels of each instruction set, and the driver.
//!
//! Both operands lie in *tiles* of 16 rows of 64 bytes, the shape of AMX's registers, whatever the instruction set. A row of
//! a tile holds R numbers: 32 bf16 or 64 int8. A dword of it holds D: 2 or 4.
//!
//! ```text
//! x: tile (i, b), row r:  x[16 i + r, R b ..][..R]
//! W: tile (b, t) of panel p, row r, dword c:  W[32 p + 16 t + c, R b + D r ..][..D]
//! ```
//!
//! A panel of W is 32 columns of y: for each block of R k, two tiles side by side. Past the end of a matrix there are
//! zeros.
//!
//! # What a product of bf16 numbers is
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
//!
//! # What a product of int8 numbers is
//!
//! ```text
//! x ≈ q s, W ≈ v t      q, v whole numbers of -127..=127; s and t of each row and block of 64 k of x and W
//! y = y + float32(Σ q v) · (s · t)         per block of 64 k, in rising order of blocks
//! y = y + x[j] · (v[j] · t)                  of the row's outlier j
//! ```
//!
//! The sums are whole numbers below 2^24 and so exact; every other step is rounded once in float32, on all sets alike: all
//! kernels agree in every bit. [`number::quantise`] says what q and s are. The outlier, the number of the row's largest
//! magnitude, is left out of q and of its block's s, and multiplies the rounded weights in float32: behind a LayerNorm one
//! channel may be a hundred times the others, which would share its step.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod gemm;
mod grouped;
#[cfg(target_arch = "x86_64")]
mod heads;
mod integers;
mod number;
mod tiles;
#[cfg(target_arch = "x86_64")]
mod vnni;
mod widened;

#[cfg(test)]
mod int8_tests;
#[cfg(test)]
mod tests;

use std::ops::Range;

use super::isa::Isa;
#[cfg(target_arch = "x86_64")]
pub use attention::{Amx, Out};
pub use gemm::gemm;
#[cfg(target_arch = "x86_64")]
pub use heads::Heads;
pub use number::{Number, Outlier, flush, round_row};
pub use tiles::{PackedTiles, TileWriter, Tiles};

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;
/// Bytes of a tile's row.
pub const ROW_BYTES: usize = 64;
/// Bytes of a tile.
pub const TILE_BYTES: usize = TILE_ROWS * ROW_BYTES;
/// bf16 numbers of a tile's row: k of one block.
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
    /// What is read after them: a kernel may ask the memory for it meanwhile.
    pub next: *const u8,
    /// How many panels.
    pub panels: usize,
    /// How many blocks of k.
    pub k_blocks: usize,
    /// Of int8 numbers.
    pub scales: Option<Scales>,
    /// Element (i, j) of the result is at `c + i * c_row + j`, for all rows of the last tile.
    pub c: *mut f32,
    /// Elements from one row to the next.
    pub c_row: usize,
    /// Whether to add to what `c` holds; else it is overwritten.
    pub resume: bool,
}

/// What a loop over k asks the memory for meanwhile, as it will be read next: so many bytes of each of its blocks of k.
#[derive(Clone, Copy)]
struct Ahead {
    from: *const u8,
    bytes: usize,
}

impl Ahead {
    /// The share of these rows' loop over panel `p`, in what comes after that: the loops of all rows ask for all of it.
    #[inline(always)]
    fn of(t: &Block, p: usize, rows: Range<usize>) -> Ahead {
        let next = if p + 1 < t.panels {
            t.b.wrapping_add((p + 1) * t.b_panel)
        } else {
            t.next
        };
        let line = |row: usize| row * (PANEL_BLOCK / ROW_BYTES) / t.rows * ROW_BYTES;
        Ahead {
            from: next.wrapping_add(line(rows.start)),
            bytes: line(rows.end) - line(rows.start),
        }
    }

    /// Asks for its part of block `k`, where there is an instruction for it.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    fn ask(self, k: usize) {
        #[cfg(target_arch = "x86_64")]
        for line in (0..self.bytes).step_by(ROW_BYTES) {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            let line = self.from.wrapping_add(k * PANEL_BLOCK + line);
            // SAFETY: a prefetch never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
        }
    }
}

/// The scales of a [`Block`] of int8 numbers.
#[derive(Clone, Copy)]
pub struct Scales {
    /// That of row i and block b is at `a + i * k_blocks + b`.
    pub a: *const f32,
    /// Likewise, -128 times the sum of the row's numbers in the block.
    pub offsets: *const i32,
    /// Those of the columns of panel p and block b are at `b + (p * k_blocks + b) * PANEL`.
    pub b: *const f32,
    /// How many blocks of k the operands have in all.
    pub k_blocks: usize,
}

/// A way to compute a [`Block`].
#[derive(Clone, Copy)]
pub struct Kernel {
    /// A short name for logs and tests.
    pub name: &'static str,
    /// What it multiplies.
    pub number: Number,
    /// Whether the processor has instructions for such products; else they are made of others.
    pub native: bool,
    /// Whether it reads W with the top bits of all numbers flipped: W + 128, without a sign.
    pub flips: bool,
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

/// A row of the table of kernels.
macro_rules! kernel {
    ($name:expr, $number:ident, $native:expr, $isa:expr, $block:expr, $peak:expr) => {
        Kernel {
            name: $name,
            number: Number::$number,
            native: $native,
            flips: false,
            isa: $isa,
            block: $block,
            #[cfg(any(test, feature = "inspect"))]
            peak: $peak,
        }
    };
}

impl Kernel {
    /// The kernels of this processor for such numbers, best first; at least one.
    pub fn available(number: Number) -> Vec<Kernel> {
        let mut kernels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let isa = Isa::detect();
            let native = [
                (
                    amx::has_bf16(),
                    kernel!("amx", Bf16, true, isa, amx::block_bf16, amx::peak::<false>),
                ),
                (
                    avx512::has_bf16(),
                    kernel!(avx512::NAME, Bf16, true, isa, avx512::block, avx512::peak),
                ),
                (
                    amx::has_int8(),
                    kernel!("amx", Int8, true, isa, amx::block_int8, amx::peak::<true>),
                ),
                (
                    vnni::has_avx512(),
                    Kernel {
                        flips: true,
                        ..kernel!(
                            "avx512-vnni",
                            Int8,
                            true,
                            isa,
                            vnni::block_avx512,
                            vnni::peak_avx512
                        )
                    },
                ),
                (
                    vnni::has_avx(),
                    Kernel {
                        flips: true,
                        ..kernel!("avx-vnni", Int8, true, isa, vnni::block_avx, vnni::peak_avx)
                    },
                ),
            ];
            kernels.extend(
                native
                    .into_iter()
                    .filter(|(has, kernel)| *has && kernel.number == number)
                    .map(|(_, kernel)| kernel),
            );
        }
        kernels.extend(Isa::available().into_iter().map(|isa| match number {
            Number::Bf16 => kernel!(isa.name(), Bf16, false, isa, widened::block, widened::peak),
            Number::Int8 => kernel!(isa.name(), Int8, false, isa, integers::block, integers::peak),
        }));
        #[cfg(target_arch = "x86_64")]
        if avx512::is_slower_than_float32() {
            kernels.sort_by_key(|kernel| kernel.name == avx512::NAME);
        }
        kernels
    }

    /// The best kernel of this processor for such numbers.
    pub fn detect(number: Number) -> Kernel {
        Kernel::available(number)[0]
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
