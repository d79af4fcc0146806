//! Attention with AMX: one head of one block of queries.
//!
//! ```text
//! scores [queries, keys] = q [queries, d] · kᵀ [d, keys]
//! out    [queries, d]   += exp2(scores - maximum) [queries, keys] · v [keys, d]
//! ```
//!
//! over blocks of keys that begin at fixed multiples from the sequence's start. Operands are rounded to bf16: q after its
//! rotation and its scale log₂e/√d, k after its rotation, v, and the exponentials. Maximum, sum and result are float32. Each
//! query has its own row of registers and its own chain of sums, so that its result depends on its own sequence only.

use std::arch::x86_64::*;
use std::cell::RefCell;

use super::super::Line;
use super::super::attention::{Head, QUERIES};
use super::super::isa::{Avx512, Simd};
use super::amx::{configure, load, multiply_bf16, release, store, zero};
use super::{PANEL, PANEL_BLOCK, ROW_BYTES, ROW_NUMBERS, TILE_BYTES, TILE_ROWS};

/// Keys per block: part of the definition of the result, as the running sums are rescaled between blocks.
const KEYS: usize = 128;
/// Queries that go through a block of keys together: two registers' rows.
const ROWS: usize = 2 * TILE_ROWS;
/// The distance of rows of scores: not a multiple of 4096 bytes.
const SCORES: usize = KEYS + 16;

/// A processor that can: with AMX, AVX-512 and its conversions to bf16.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Amx(());

thread_local! {
    /// Working memory, kept between calls.
    static MEMORY: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

impl Amx {
    /// This processor, if it is one.
    pub fn detect() -> Option<Amx> {
        has_all().then_some(Amx(()))
    }

    /// One head of one block of queries.
    ///
    /// # Safety
    /// As for [`Head::write`], of all queries of the block.
    pub unsafe fn block(self, head: &Head<'_>) {
        // SAFETY: the processor can; the rest is the caller's word.
        MEMORY.with_borrow_mut(|memory| unsafe { block(head, memory) });
    }
}

fn has_all() -> bool {
    super::amx::has_bf16()
        && super::avx512::has_bf16()
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("fma")
}

/// The working memory of one task, in order; sizes in bytes.
struct Layout {
    /// d, filled up to whole tiles.
    wide: usize,
    /// Tiles of k·d or d·keys of one block, in dwords: see [`super`].
    q: usize,
    k: usize,
    v: usize,
    scores: usize,
    weights: usize,
    out: usize,
    sums: usize,
    rows: usize,
    end: usize,
}

impl Layout {
    fn new(d: usize) -> Layout {
        let wide = d.next_multiple_of(PANEL);
        let q = 0;
        let k = q + QUERIES * wide * 2;
        let v = k + KEYS * wide * 2;
        let scores = v + KEYS * wide * 2;
        let weights = scores + ROWS * SCORES * 4;
        let out = weights + ROWS * KEYS * 2;
        let sums = out + QUERIES * (wide + 16) * 4;
        let rows = sums + QUERIES * 16 * 4;
        Layout {
            wide,
            q,
            k,
            v,
            scores,
            weights,
            out,
            sums,
            rows,
            end: rows + (TILE_ROWS + 2) * wide * 4,
        }
    }
}

/// One head of one block of queries.
///
/// # Safety
/// The processor is an [`Amx`]. As for [`Head::write`], of all queries of the block.
unsafe fn block(t: &Head<'_>, memory: &mut Vec<Line>) {
    let layout = Layout::new(t.d);
    if memory.len() < layout.end.div_ceil(64) {
        memory.resize(layout.end.div_ceil(64), Line([0.0; 16]));
    }
    // SAFETY: the caller's word; the memory is as long as the layout.
    unsafe {
        configure();
        block_avx512(t, &layout, memory.as_mut_ptr().cast());
        release();
    }
}

/// The columns of 16 rows of 16 dwords.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: &[__m512i; 16]) -> [__m512i; 16] {
    let mut t = *rows;
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    let mut u = t;
    for i in (0..16).step_by(4) {
        u[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        u[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        u[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        u[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    // Quarter l of u[4 i + c] holds column 4 l + c of rows 4 i..4 i + 4.
    let mut out = u;
    for c in 0..4 {
        let even = |a, b| _mm512_shuffle_i32x4::<0x88>(a, b);
        let odd = |a, b| _mm512_shuffle_i32x4::<0xdd>(a, b);
        let (a, b) = (even(u[c], u[4 + c]), even(u[8 + c], u[12 + c]));
        (out[c], out[8 + c]) = (even(a, b), odd(a, b));
        let (a, b) = (odd(u[c], u[4 + c]), odd(u[8 + c], u[12 + c]));
        (out[4 + c], out[12 + c]) = (even(a, b), odd(a, b));
    }
    out
}

/// 16 numbers rounded to bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn round(x: __m512) -> __m256i {
    // SAFETY: both are 32 bytes without invalid values.
    unsafe { std::mem::transmute(_mm512_cvtneps_pbh(x)) }
}

/// 2^x for x ≤ 0, within 8e-5 of itself (bf16 rounds at 4e-3); NaN stays NaN.
///
/// x = n + r with |r| ≤ 1/2; the polynomial of degree 3 for 2^r was fitted to the smallest largest relative error.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp2(x: __m512) -> __m512 {
    let x = _mm512_max_ps(_mm512_set1_ps(-126.0), x);
    let n = _mm512_roundscale_ps::<0>(x);
    let r = _mm512_sub_ps(x, n);
    let mut p = _mm512_set1_ps(EXP2[3]);
    for c in [EXP2[2], EXP2[1], EXP2[0]] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    }
    _mm512_scalef_ps(p, n)
}

/// Of rising degree.
const EXP2: [f32; 4] = [0.999_928_07, 0.693_261, 0.242_611_2, 0.055_171_683];

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
unsafe fn block_avx512(t: &Head<'_>, layout: &Layout, memory: *mut u8) {
    // SAFETY: this function has the features.
    let s = unsafe { Avx512::new() };
    let (d, wide) = (t.d, layout.wide);
    let blocks = wide / ROW_NUMBERS;
    let at = |offset: usize| memory.wrapping_add(offset);
    // SAFETY: all parts of the memory are where the layout says, and none overlaps another; `numbers` are f32, and every
    // bit pattern is one.
    unsafe {
        let maxima = &mut [f32::NEG_INFINITY; QUERIES];
        let sums: *mut f32 = at(layout.sums).cast();
        let out: *mut f32 = at(layout.out).cast();
        let out_row = wide + 16;
        let (line, staged) = {
            let rows = std::slice::from_raw_parts_mut(at(layout.rows).cast::<f32>(), (TILE_ROWS + 2) * wide);
            rows.split_at_mut(wide)
        };
        line.fill(0.0);
        let staged: *mut u16 = staged.as_mut_ptr().cast();

        // Queries, as tiles of rows.
        let scale = std::f32::consts::LOG2_E / (d as f32).sqrt();
        let tiles = t.rows.div_ceil(TILE_ROWS);
        for r in 0..tiles * TILE_ROWS {
            if r < t.rows {
                t.rotated(s, t.first + r, 0, &mut line[..d]);
                for q in &mut line[..d] {
                    *q *= scale;
                }
            } else {
                line.fill(0.0);
            }
            for (block, q) in line.chunks_exact(ROW_NUMBERS).enumerate() {
                let to =
                    at(layout.q + (r / TILE_ROWS * blocks + block) * TILE_BYTES + r % TILE_ROWS * ROW_BYTES);
                for half in 0..2 {
                    let q = round(_mm512_loadu_ps(q[half * 16..].as_ptr()));
                    _mm256_storeu_si256(to.add(half * 32).cast(), q);
                }
            }
        }

        for first_key in (0..t.len).step_by(KEYS) {
            let n = KEYS.min(t.len - first_key);
            let n32 = n.next_multiple_of(PANEL);
            pack_keys(s, t, first_key, n, layout, memory, line, staged);
            pack_values(t, first_key, n, layout, memory, line, staged);
            for tile in (0..tiles).step_by(2) {
                let pair = tile + 1 < tiles;
                let q = at(layout.q + tile * blocks * TILE_BYTES);
                for panel in 0..n32 / PANEL {
                    let k = at(layout.k + panel * blocks * PANEL_BLOCK);
                    let c = at(layout.scores + panel * PANEL * 4);
                    product(pair, q, blocks * TILE_BYTES, k, blocks, c, SCORES * 4, false);
                }
                let row = tile * TILE_ROWS;
                let live = (t.rows - row).min(ROWS);
                softmax(
                    layout,
                    memory,
                    live,
                    n,
                    &mut maxima[row..],
                    sums.add(row * 16),
                    out.add(row * out_row),
                    out_row,
                    first_key > 0,
                );
                for panel in 0..wide / PANEL {
                    let v = at(layout.v + panel * (KEYS / ROW_NUMBERS) * PANEL_BLOCK);
                    let c = out.add(row * out_row + panel * PANEL).cast();
                    let a_row = KEYS / ROW_NUMBERS * TILE_BYTES;
                    let (p, k_blocks) = (at(layout.weights), n32 / ROW_NUMBERS);
                    product(pair, p, a_row, v, k_blocks, c, out_row * 4, first_key > 0);
                }
            }
        }

        for r in 0..t.rows {
            let total = s.sum(_mm512_loadu_ps(sums.add(r * 16)));
            let factor = _mm512_set1_ps(1.0 / total);
            let from = std::slice::from_raw_parts_mut(out.add(r * out_row), wide);
            for x in from.chunks_exact_mut(16) {
                _mm512_storeu_ps(x.as_mut_ptr(), _mm512_mul_ps(_mm512_loadu_ps(x.as_ptr()), factor));
            }
            t.write(t.first + r, &from[..d]);
        }
    }
}

/// Keys of one block, rotated: tiles of the right operand, zero past the last.
///
/// # Safety
/// As for [`block_avx512`]; `staged` holds 16 rows of the filled-up d.
#[allow(clippy::too_many_arguments)]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
unsafe fn pack_keys(
    s: Avx512,
    t: &Head<'_>,
    first: usize,
    n: usize,
    layout: &Layout,
    memory: *mut u8,
    line: &mut [f32],
    staged: *mut u16,
) {
    let wide = layout.wide;
    let blocks = wide / ROW_NUMBERS;
    for tile in 0..n.next_multiple_of(PANEL) / TILE_ROWS {
        for r in 0..TILE_ROWS {
            let key = tile * TILE_ROWS + r;
            if key < n {
                t.rotated(s, first + key, 1, &mut line[..t.d]);
                line[t.d..].fill(0.0);
            } else {
                line.fill(0.0);
            }
            for (i, x) in line.chunks_exact(16).enumerate() {
                // SAFETY: row r of the staged ones.
                unsafe {
                    let x = round(_mm512_loadu_ps(x.as_ptr()));
                    _mm256_storeu_si256(staged.add(r * wide + i * 16).cast(), x);
                }
            }
        }
        for block in 0..blocks {
            // SAFETY: the staged rows, and this tile of this block.
            unsafe {
                let rows: [__m512i; 16] = std::array::from_fn(|r| {
                    _mm512_loadu_si512(staged.add(r * wide + block * ROW_NUMBERS).cast())
                });
                let tile_at = (tile / 2 * blocks + block) * PANEL_BLOCK + tile % 2 * TILE_BYTES;
                let to = memory.add(layout.k + tile_at);
                for (pair, column) in transpose(&rows).into_iter().enumerate() {
                    _mm512_storeu_si512(to.add(pair * ROW_BYTES).cast(), column);
                }
            }
        }
    }
}

/// Values of one block: tiles of the right operand, pairs of keys, zero past the last.
///
/// # Safety
/// As for [`pack_keys`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
unsafe fn pack_values(
    t: &Head<'_>,
    first: usize,
    n: usize,
    layout: &Layout,
    memory: *mut u8,
    line: &mut [f32],
    staged: *mut u16,
) {
    let wide = layout.wide;
    // SAFETY: the staged rows are free, and hold two rows of float32.
    let other = unsafe { std::slice::from_raw_parts_mut(staged.cast::<f32>(), wide) };
    for pair in 0..n.next_multiple_of(PANEL) / 2 {
        for (odd, row) in [&mut *line, &mut *other].into_iter().enumerate() {
            let key = 2 * pair + odd;
            row.fill(0.0);
            if key < n {
                row[..t.d].copy_from_slice(t.part(first + key, 2));
            }
        }
        for (i, (even, odd)) in line.chunks_exact(16).zip(other.chunks_exact(16)).enumerate() {
            // SAFETY: this row of this tile.
            unsafe {
                let even = _mm512_cvtepu16_epi32(round(_mm512_loadu_ps(even.as_ptr())));
                let odd = _mm512_cvtepu16_epi32(round(_mm512_loadu_ps(odd.as_ptr())));
                let both = _mm512_or_si512(even, _mm512_slli_epi32::<16>(odd));
                let block =
                    (i / 2 * (KEYS / ROW_NUMBERS) + pair / TILE_ROWS) * PANEL_BLOCK + i % 2 * TILE_BYTES;
                _mm512_storeu_si512(
                    memory.add(layout.v + block + pair % TILE_ROWS * ROW_BYTES).cast(),
                    both,
                );
            }
        }
    }
}

/// 16 or 32 rows by one panel: c (+)= a · b.
///
/// # Safety
/// The registers are configured; all tiles and rows are there.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
unsafe fn product(
    pair: bool,
    a: *const u8,
    a_row: usize,
    b: *const u8,
    k_blocks: usize,
    c: *mut u8,
    c_row: usize,
    resume: bool,
) {
    let below = c.wrapping_add(TILE_ROWS * c_row);
    // SAFETY: the caller's word.
    unsafe {
        if resume {
            load::<0>(c, c_row);
            load::<1>(c.add(ROW_BYTES), c_row);
            if pair {
                load::<2>(below, c_row);
                load::<3>(below.add(ROW_BYTES), c_row);
            }
        } else {
            zero::<0>();
            zero::<1>();
            zero::<2>();
            zero::<3>();
        }
        for k in 0..k_blocks {
            let (a, b) = (a.add(k * TILE_BYTES), b.add(k * PANEL_BLOCK));
            load::<4>(a, ROW_BYTES);
            load::<6>(b, ROW_BYTES);
            multiply_bf16::<0, 4, 6>();
            load::<7>(b.add(TILE_BYTES), ROW_BYTES);
            multiply_bf16::<1, 4, 7>();
            if pair {
                load::<5>(a.add(a_row), ROW_BYTES);
                multiply_bf16::<2, 5, 6>();
                multiply_bf16::<3, 5, 7>();
            }
        }
        store::<0>(c, c_row);
        store::<1>(c.add(ROW_BYTES), c_row);
        if pair {
            store::<2>(below, c_row);
            store::<3>(below.add(ROW_BYTES), c_row);
        }
    }
}

/// From scores to weights of `live` rows, and what is left of the sums and results of the blocks before.
///
/// # Safety
/// As for [`block_avx512`]; `sums` holds 16 numbers for each row.
#[allow(clippy::too_many_arguments)]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
unsafe fn softmax(
    layout: &Layout,
    memory: *mut u8,
    live: usize,
    n: usize,
    maxima: &mut [f32],
    sums: *mut f32,
    out: *mut f32,
    out_row: usize,
    resume: bool,
) {
    let vectors = n.div_ceil(16);
    // The lanes of the last vector that are keys.
    let last = 0xffff_u16 >> (vectors * 16 - n);
    let lowest = _mm512_set1_ps(f32::NEG_INFINITY);
    for (r, maximum) in maxima.iter_mut().enumerate().take(live) {
        // SAFETY: row r of scores, weights, sums and results.
        unsafe {
            let scores = memory.add(layout.scores).cast::<f32>().add(r * SCORES);
            let weights = memory.add(
                layout.weights
                    + r / TILE_ROWS * (KEYS / ROW_NUMBERS) * TILE_BYTES
                    + r % TILE_ROWS * ROW_BYTES,
            );
            let mut top = lowest;
            for i in 0..vectors - 1 {
                top = _mm512_max_ps(top, _mm512_loadu_ps(scores.add(i * 16)));
            }
            let mask = |i: usize| if i + 1 == vectors { last } else { 0xffff };
            let end = _mm512_mask_loadu_ps(lowest, last, scores.add((vectors - 1) * 16));
            let top = _mm512_reduce_max_ps(_mm512_max_ps(top, end));
            let before = *maximum;
            let top = if top > before { top } else { before };
            *maximum = top;
            let wide_top = _mm512_set1_ps(top);
            let mut sum = _mm512_setzero_ps();
            for i in 0..vectors {
                let p = exp2(_mm512_sub_ps(_mm512_loadu_ps(scores.add(i * 16)), wide_top));
                let p = _mm512_maskz_mov_ps(mask(i), p);
                sum = _mm512_add_ps(sum, p);
                _mm256_storeu_si256(weights.add(i / 2 * TILE_BYTES + i % 2 * 32).cast(), round(p));
            }
            if vectors % 2 == 1 {
                let i = vectors;
                _mm256_storeu_si256(
                    weights.add(i / 2 * TILE_BYTES + i % 2 * 32).cast(),
                    _mm256_setzero_si256(),
                );
            }
            if resume {
                // As exact as the results that it scales, and 1 where the maximum stays.
                let fade = if before == top { 1.0 } else { (before - top).exp2() };
                sum = _mm512_fmadd_ps(_mm512_loadu_ps(sums.add(r * 16)), _mm512_set1_ps(fade), sum);
                if fade != 1.0 {
                    for i in (0..layout.wide).step_by(16) {
                        let x = out.add(r * out_row + i);
                        _mm512_storeu_ps(x, _mm512_mul_ps(_mm512_loadu_ps(x), _mm512_set1_ps(fade)));
                    }
                }
            }
            _mm512_storeu_ps(sums.add(r * 16), sum);
        }
    }
}
