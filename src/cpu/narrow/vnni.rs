//! The kernels of AVX512-VNNI and AVX-VNNI: `VPDPBUSD`, four products of int8 numbers per lane.
//!
//! The instruction multiplies numbers of 0..=255 by signed ones. So x is read as x + 128, which is x with its top bit
//! flipped, and 128 · Σ W is subtracted: one more product per vector of W. Sums are of 32 bits and wrap around, so that the
//! difference is exact.

use std::arch::x86_64::*;

use super::super::isa::Isa;
use super::{Block, PANEL, PANEL_BLOCK, ROW_BYTES, TILE_BYTES, TILE_ROWS, grouped};

/// Whether this processor has AVX512-VNNI.
pub fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni")
}

/// Whether this processor has AVX-VNNI.
pub fn has_avx() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni")
}

/// Four numbers of 128.
const OFFSET: i32 = 0x8080_8080_u32 as i32;

/// A kernel of vectors of `$bytes`, two of them and at most `$height` rows at a time.
macro_rules! kernel {
    (
        $(#[$meta:meta])* $block:ident, $peak:ident: $features:literal, $bytes:literal, $height:literal,
        $zero:ident, $splat:ident, $load:ident, $store:ident, $multiply:ident, $sub:ident
    ) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// The processor has the instruction; everything that the block points to is there.
        pub unsafe fn $block(isa: Isa, t: &Block) {
            /// The columns of two vectors, of `R` rows of one tile, over all blocks of k, from zero.
            ///
            /// # Safety
            /// As for the block.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn rows<const R: usize>(t: &Block, a: *const u8, b: *const u8, c: *mut i32) {
                let offset = $splat(OFFSET);
                let (mut sums, mut sums_of_b) = ([[$zero(); 2]; R], [$zero(); 2]);
                // SAFETY: all inside of what the caller vouches for.
                unsafe {
                    for k in 0..t.k_blocks {
                        let (a, b) = (a.add(k * TILE_BYTES), b.add(k * PANEL_BLOCK));
                        for r in 0..TILE_ROWS {
                            let b = [0, $bytes].map(|at| {
                                // The second vector of a row of 64 bytes lies in the panel's other tile.
                                let at = if $bytes == ROW_BYTES { at / ROW_BYTES * TILE_BYTES } else { at };
                                $load(b.add(r * ROW_BYTES + at).cast())
                            });
                            for (sum, b) in sums_of_b.iter_mut().zip(b) {
                                *sum = $multiply(*sum, offset, b);
                            }
                            for (i, sums) in sums.iter_mut().enumerate() {
                                let dword = a.add(i * ROW_BYTES + r * 4).cast::<i32>().read();
                                let x = $splat(dword ^ OFFSET);
                                for (sum, b) in sums.iter_mut().zip(b) {
                                    *sum = $multiply(*sum, x, b);
                                }
                            }
                        }
                    }
                    for (i, sums) in sums.into_iter().enumerate() {
                        for (v, (sum, of_b)) in sums.into_iter().zip(sums_of_b).enumerate() {
                            let c = c.add(i * t.c_row + v * $bytes / 4);
                            $store(c.cast(), $sub(sum, of_b));
                        }
                    }
                }
            }

            /// # Safety
            /// As for the block; the result is `i32`.
            #[target_feature(enable = $features)]
            unsafe fn panels(_: Isa, t: &Block) {
                for p in 0..t.panels {
                    let mut row = 0;
                    while row < t.rows {
                        // Rows of one tile lie next to each other.
                        let height = usize::min($height, t.rows - row).min(TILE_ROWS - row % TILE_ROWS);
                        for column in (0..PANEL).step_by(2 * $bytes / 4) {
                            // SAFETY: these rows of a and c, these columns of a panel.
                            unsafe {
                                let a = t.a.add(row / TILE_ROWS * t.a_tile_row + row % TILE_ROWS * ROW_BYTES);
                                let b = t.b.add(p * t.b_panel + column / 16 * TILE_BYTES);
                                let c = t.c.add(row * t.c_row + p * PANEL + column).cast();
                                match height {
                                    1 => rows::<1>(t, a, b, c),
                                    2 => rows::<2>(t, a, b, c),
                                    3 => rows::<3>(t, a, b, c),
                                    4 => rows::<4>(t, a, b, c),
                                    5 => rows::<{ if $height < 5 { 1 } else { 5 } }>(t, a, b, c),
                                    6 => rows::<{ if $height < 6 { 1 } else { 6 } }>(t, a, b, c),
                                    7 => rows::<{ if $height < 7 { 1 } else { 7 } }>(t, a, b, c),
                                    _ => rows::<{ if $height < 8 { 1 } else { 8 } }>(t, a, b, c),
                                }
                            }
                        }
                        row += height;
                    }
                }
            }

            // SAFETY: the caller's word.
            unsafe { grouped::block(isa, t, panels) }
        }

        /// Rounds of 8 products side by side; gives their operations.
        ///
        /// # Safety
        /// The processor has the instruction.
        #[cfg(any(test, feature = "inspect"))]
        pub unsafe fn $peak(_: Isa, rounds: usize) -> f64 {
            #[target_feature(enable = $features)]
            fn sums(rounds: usize) {
                let ones = std::hint::black_box($splat(0x0101_0101));
                let mut sums = [$zero(); 8];
                for _ in 0..rounds {
                    for sum in &mut sums {
                        *sum = $multiply(*sum, ones, ones);
                    }
                }
                std::hint::black_box(sums);
            }
            // SAFETY: the caller's word.
            unsafe { sums(rounds) };
            (8 * $bytes * 2 * rounds) as f64
        }
    };
}

kernel! {
    /// See [`Block`].
    block_avx512, peak_avx512: "avx512f,avx512vnni", 64, 8,
    _mm512_setzero_si512, _mm512_set1_epi32, _mm512_loadu_si512, _mm512_storeu_si512, _mm512_dpbusd_epi32, _mm512_sub_epi32
}

kernel! {
    /// See [`Block`].
    block_avx, peak_avx: "avx2,avxvnni", 32, 4,
    _mm256_setzero_si256, _mm256_set1_epi32, _mm256_loadu_si256, _mm256_storeu_si256, _mm256_dpbusd_avx_epi32, _mm256_sub_epi32
}
