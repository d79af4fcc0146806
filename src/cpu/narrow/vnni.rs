//! The kernels of AVX512-VNNI and AVX-VNNI: `VPDPBUSD`, four products of int8 numbers per lane.
//!
//! The instruction multiplies numbers of 0..=255 by signed ones. So W is packed as W + 128, which is W with its top bits
//! flipped, and the sums start at -128 · Σ x, which [`Tiles`](super::Tiles) keeps for each row and block of k. Sums are of
//! 32 bits and wrap around, so that the result is exact.

use std::arch::x86_64::*;

use super::super::isa::Isa;
use super::{Ahead, Block, PANEL, PANEL_BLOCK, ROW_BYTES, Scales, TILE_BYTES, TILE_ROWS};

/// Whether this processor has AVX512-VNNI.
pub fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni")
}

/// Whether this processor has AVX-VNNI.
pub fn has_avx() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni")
}

/// A kernel of vectors of `$bytes`, two of them and at most `$height` rows at a time: sums enough to hide the latency.
macro_rules! kernel {
    (
        $(#[$meta:meta])* $block:ident, $peak:ident: $features:literal, $bytes:literal, $height:literal,
        $splat:ident, $load:ident, $multiply:ident, $convert:ident,
        $splat_ps:ident, $load_ps:ident, $store_ps:ident, $add_ps:ident, $mul_ps:ident
    ) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// The processor has the instruction; everything that the block points to is there, its scales too.
        pub unsafe fn $block(_: Isa, t: &Block) {
            /// The columns of two vectors, of `R` rows of one tile, over all blocks of k.
            ///
            /// # Safety
            /// As for the block; `scales` are of the first row and column.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn rows<const R: usize>(t: &Block, scales: Scales, a: *const u8, b: *const u8, c: *mut f32, ahead: Ahead) {
                // SAFETY: all inside of what the caller vouches for.
                unsafe {
                    for k in 0..t.k_blocks {
                        let (a, b) = (a.add(k * TILE_BYTES), b.add(k * PANEL_BLOCK));
                        ahead.ask(k);
                        let of_row = |i: usize| i * scales.k_blocks + k;
                        let mut sums: [_; R] = std::array::from_fn(|i| [$splat(*scales.offsets.add(of_row(i))); 2]);
                        for r in 0..TILE_ROWS {
                            let b = [0, $bytes].map(|at| {
                                // The second vector of a row of 64 bytes lies in the panel's other tile.
                                let at = if $bytes == ROW_BYTES { at / ROW_BYTES * TILE_BYTES } else { at };
                                $load(b.add(r * ROW_BYTES + at).cast())
                            });
                            for (i, sums) in sums.iter_mut().enumerate() {
                                let x = $splat(a.add(i * ROW_BYTES + r * 4).cast::<i32>().read());
                                for (sum, b) in sums.iter_mut().zip(b) {
                                    *sum = $multiply(*sum, b, x);
                                }
                            }
                        }
                        let columns = [0, $bytes / 4].map(|at| $load_ps(scales.b.add(k * PANEL + at)));
                        for (i, sums) in sums.into_iter().enumerate() {
                            let row = $splat_ps(*scales.a.add(of_row(i)));
                            for (v, (sum, columns)) in sums.into_iter().zip(columns).enumerate() {
                                let c = c.add(i * t.c_row + v * $bytes / 4);
                                let scaled = $mul_ps($convert(sum), $mul_ps(row, columns));
                                let resume = t.resume || k > 0;
                                $store_ps(c, if resume { $add_ps($load_ps(c), scaled) } else { scaled });
                            }
                        }
                    }
                }
            }

            /// # Safety
            /// As for the block.
            #[target_feature(enable = $features)]
            unsafe fn panels(t: &Block) {
                let scales = t.scales.expect("int8 numbers have scales");
                for p in 0..t.panels {
                    let mut row = 0;
                    while row < t.rows {
                        // Rows of one tile lie next to each other; parts of even heights, so that none has few sums.
                        let rest = (t.rows - row).min(TILE_ROWS - row % TILE_ROWS);
                        let height = rest.div_ceil(rest.div_ceil($height));
                        for column in (0..PANEL).step_by(2 * $bytes / 4) {
                            // SAFETY: these rows of a and c, these columns of a panel, and their scales.
                            unsafe {
                                let a = t.a.add(row / TILE_ROWS * t.a_tile_row + row % TILE_ROWS * ROW_BYTES);
                                let b = t.b.add(p * t.b_panel + column / 16 * TILE_BYTES);
                                let c = t.c.add(row * t.c_row + p * PANEL + column);
                                let scales = Scales {
                                    a: scales.a.add(row * scales.k_blocks),
                                    offsets: scales.offsets.add(row * scales.k_blocks),
                                    b: scales.b.add(p * scales.k_blocks * PANEL + column),
                                    ..scales
                                };
                                let ahead = Ahead::of(t, p, row..row + height);
                                match height {
                                    1 => rows::<1>(t, scales, a, b, c, ahead),
                                    2 => rows::<2>(t, scales, a, b, c, ahead),
                                    3 => rows::<3>(t, scales, a, b, c, ahead),
                                    4 => rows::<4>(t, scales, a, b, c, ahead),
                                    5 => rows::<{ if $height < 5 { 1 } else { 5 } }>(t, scales, a, b, c, ahead),
                                    6 => rows::<{ if $height < 6 { 1 } else { 6 } }>(t, scales, a, b, c, ahead),
                                    7 => rows::<{ if $height < 7 { 1 } else { 7 } }>(t, scales, a, b, c, ahead),
                                    _ => rows::<{ if $height < 8 { 1 } else { 8 } }>(t, scales, a, b, c, ahead),
                                }
                            }
                        }
                        row += height;
                    }
                }
            }

            // SAFETY: the caller's word.
            unsafe { panels(t) }
        }

        /// Rounds of 16 products side by side; gives their operations.
        ///
        /// # Safety
        /// The processor has the instruction.
        #[cfg(any(test, feature = "inspect"))]
        pub unsafe fn $peak(_: Isa, rounds: usize) -> f64 {
            #[target_feature(enable = $features)]
            fn sums(rounds: usize) {
                let ones = std::hint::black_box($splat(0x0101_0101));
                let mut sums = [$splat(0); 2 * $height];
                for _ in 0..rounds {
                    for sum in &mut sums {
                        *sum = $multiply(*sum, ones, ones);
                    }
                }
                std::hint::black_box(sums);
            }
            // SAFETY: the caller's word.
            unsafe { sums(rounds) };
            (2 * $height * $bytes * 2 * rounds) as f64
        }
    };
}

kernel! {
    /// See [`Block`].
    block_avx512, peak_avx512: "avx512f,avx512vnni", 64, 8,
    _mm512_set1_epi32, _mm512_loadu_si512, _mm512_dpbusd_epi32, _mm512_cvtepi32_ps,
    _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_add_ps, _mm512_mul_ps
}

kernel! {
    /// See [`Block`].
    block_avx, peak_avx: "avx2,avxvnni", 32, 4,
    _mm256_set1_epi32, _mm256_loadu_si256, _mm256_dpbusd_avx_epi32, _mm256_cvtepi32_ps,
    _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_add_ps, _mm256_mul_ps
}
