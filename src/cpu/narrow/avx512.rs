//! The kernel of AVX512-BF16: `VDPBF16PS`, a pair of products per lane.

use std::arch::x86_64::*;

use super::super::isa::Isa;
use super::{Block, PANEL, PANEL_BLOCK, ROW_BYTES, TILE_BYTES, TILE_ROWS};

/// Whether this processor has it.
pub fn has_bf16() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
}

/// Its kernel's name.
pub const NAME: &str = "avx512-bf16";

/// Whether the instruction multiplies more slowly than float32's, two of which do as much: so on Intel's processors (0.16
/// against 0.34 TFLOP/s on two cores of an Emerald Rapids).
pub fn is_slower_than_float32() -> bool {
    // Safe functions from some later Rust on than the oldest that this is for.
    #[allow(unused_unsafe)]
    // SAFETY: every processor that Rust's x86-64 is for has the instruction.
    let leaf = unsafe { __cpuid(0) };
    [leaf.ebx, leaf.edx, leaf.ecx]
        .map(u32::to_le_bytes)
        .as_flattened()
        == b"GenuineIntel"
}

/// See [`Block`].
///
/// # Safety
/// The processor has AVX512-BF16; everything that the block points to is there.
pub unsafe fn block(_: Isa, t: &Block) {
    // SAFETY: the caller's word.
    unsafe { block_bf16(t) }
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn block_bf16(t: &Block) {
    for p in 0..t.panels {
        let mut row = 0;
        while row < t.rows {
            // Half a tile: 16 chains hide the latency, and leave room for the operands.
            let height = (TILE_ROWS / 2).min(t.rows - row);
            // SAFETY: these rows of a and c, this panel of b.
            unsafe {
                let a =
                    t.a.add(row / TILE_ROWS * t.a_tile_row + row % TILE_ROWS * ROW_BYTES);
                let (b, c) = (t.b.add(p * t.b_panel), t.c.add(row * t.c_row + p * PANEL));
                match height {
                    1 => rows::<1>(t, a, b, c),
                    2 => rows::<2>(t, a, b, c),
                    3 => rows::<3>(t, a, b, c),
                    4 => rows::<4>(t, a, b, c),
                    5 => rows::<5>(t, a, b, c),
                    6 => rows::<6>(t, a, b, c),
                    7 => rows::<7>(t, a, b, c),
                    _ => rows::<8>(t, a, b, c),
                }
            }
            row += height;
        }
    }
}

/// `R` rows of one tile by one panel, over all blocks of k.
///
/// # Safety
/// As for the block.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn rows<const R: usize>(t: &Block, a: *const u8, b: *const u8, c: *mut f32) {
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    // SAFETY: all inside of what the caller vouches for.
    unsafe {
        if t.resume {
            for (i, sums) in sums.iter_mut().enumerate() {
                *sums = [0, 16].map(|j| _mm512_loadu_ps(c.add(i * t.c_row + j)));
            }
        }
        for k in 0..t.k_blocks {
            let (a, b) = (a.add(k * TILE_BYTES), b.add(k * PANEL_BLOCK));
            for pair in 0..TILE_ROWS {
                let at = b.add(pair * ROW_BYTES);
                let b0: __m512bh = std::mem::transmute(_mm512_loadu_si512(at.cast()));
                let b1: __m512bh = std::mem::transmute(_mm512_loadu_si512(at.add(TILE_BYTES).cast()));
                for (i, sums) in sums.iter_mut().enumerate() {
                    let dword = a.add(i * ROW_BYTES + pair * 4).cast::<i32>().read();
                    let va: __m512bh = std::mem::transmute(_mm512_set1_epi32(dword));
                    sums[0] = _mm512_dpbf16_ps(sums[0], va, b0);
                    sums[1] = _mm512_dpbf16_ps(sums[1], va, b1);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            _mm512_storeu_ps(c.add(i * t.c_row), sums[0]);
            _mm512_storeu_ps(c.add(i * t.c_row + 16), sums[1]);
        }
    }
}

/// Rounds of 16 products side by side; gives their operations.
///
/// # Safety
/// The processor has AVX512-BF16.
#[cfg(any(test, feature = "inspect"))]
pub unsafe fn peak(_: Isa, rounds: usize) -> f64 {
    // SAFETY: the caller's word.
    unsafe { peak_bf16(rounds) }
}

#[cfg(any(test, feature = "inspect"))]
#[target_feature(enable = "avx512f,avx512bf16")]
fn peak_bf16(rounds: usize) -> f64 {
    let ones = std::hint::black_box(_mm512_set1_epi32(0x3f80_3f80));
    // SAFETY: 64 bytes both.
    let ones: __m512bh = unsafe { std::mem::transmute(ones) };
    let mut sums = [_mm512_setzero_ps(); 16];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, ones, ones);
        }
    }
    std::hint::black_box(sums);
    (16 * 16 * 2 * 2 * rounds) as f64
}
