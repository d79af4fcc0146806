//! Attention with AMX: one head of one block of queries.
//!
//! ```text
//! scores [queries, keys] = q [queries, d] · kᵀ [d, keys]
//! out    [queries, d]   += exp2(scores - maximum) [queries, keys] · v [keys, d]
//! ```
//!
//! over blocks of keys that begin at fixed multiples from the sequence's start. Operands are rounded to bf16: queries, keys
//! and values as [`Heads`] has them, and the exponentials. Maximum, sum and result are float32. Each query has its own row
//! of registers and its own chain of sums, so that its result depends on its own sequence only.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::cmp::Ordering;

use super::super::Line;
use super::super::attention::{Block, Tasks};
use super::super::isa::{Avx512, Simd, transpose};
use super::super::team::{SendPtr, Team};
use super::amx::{configure, load, multiply_bf16, release, store, zero};
use super::heads::{Heads, Part, wide};
use super::{PANEL, PANEL_BLOCK, ROW_BYTES, ROW_NUMBERS, TILE_BYTES, TILE_ROWS, TileWriter};

/// Keys per block: part of the definition of the result, as the running sums are rescaled between blocks.
const KEYS: usize = 128;
/// Queries per task, at the least where there are so many, and at most: a block of keys is packed once for all of them,
/// and what is kept of each stays in the second level cache.
const QUERIES: (usize, usize) = (256, 1024);
/// Queries that go through a block of keys together: two registers' rows.
const ROWS: usize = 2 * TILE_ROWS;
/// The distance of rows of scores: not a multiple of 4096 bytes.
const SCORES: usize = KEYS + 16;

/// A processor that can: with AMX, AVX-512 and its conversions to bf16.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Amx(());

/// Where results go, `[tokens, heads d]`.
#[derive(Clone, Copy)]
pub enum Out {
    Rows(SendPtr),
    /// As bf16 numbers, of heads whose length is a multiple of 32.
    Tiles(TileWriter),
}

thread_local! {
    /// Working memory, kept between calls.
    static MEMORY: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

impl Amx {
    /// This processor, if it is one.
    pub fn detect() -> Option<Amx> {
        has_all().then_some(Amx(()))
    }

    /// Queries per task, at most, of a batch of so many tokens: enough tasks for all threads.
    pub fn queries(tokens: usize, heads: usize, threads: usize) -> usize {
        (tokens * heads / (4 * threads)).clamp(QUERIES.0, QUERIES.1) / ROWS * ROWS
    }

    /// Attention of every sequence of the tasks, all of whose tokens are in the heads.
    ///
    /// # Safety
    /// `out` is writable for every token, and nothing else touches it meanwhile.
    pub unsafe fn attention(self, team: &mut Team, tasks: &Tasks, heads: &Heads, out: Out) {
        assert!(tasks.tokens() <= heads.tokens(), "too few heads");
        tasks.run(team, heads.heads(), &|block, head| {
            MEMORY.with_borrow_mut(|memory| {
                let head = Head {
                    heads,
                    head,
                    block,
                    out,
                };
                let layout = Layout::new(heads.d(), block.rows);
                if memory.len() < layout.end.div_ceil(64) {
                    memory.resize(layout.end.div_ceil(64), Line([0.0; 16]));
                }
                // SAFETY: the processor can; the memory is as long as the layout; each block and head is one task's alone,
                // and the rest is the caller's word.
                unsafe {
                    configure();
                    block_avx512(&head, &layout, memory.as_mut_ptr().cast());
                    release();
                }
            });
        });
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

/// One head of one block of queries.
struct Head<'a> {
    heads: &'a Heads,
    head: usize,
    block: Block,
    out: Out,
}

impl Head<'_> {
    /// A row of the sequence.
    fn row(&self, part: Part, token: usize) -> *const u16 {
        self.heads.row(part, self.head, self.block.start + token)
    }

    /// Writes the result of a token.
    ///
    /// # Safety
    /// The token is one of the block's queries, and nothing else touches its result for this head meanwhile.
    unsafe fn write(&self, token: usize, row: &[f32]) {
        let (d, token) = (self.heads.d(), self.block.start + token);
        // SAFETY: inside of the result; the rest is the caller's word.
        unsafe {
            match self.out {
                Out::Rows(out) => {
                    let at = (token * self.heads.heads() + self.head) * d;
                    out.get().add(at).copy_from_nonoverlapping(row[..d].as_ptr(), d);
                }
                Out::Tiles(out) => out.write(token, self.head * d, row),
            }
        }
    }
}

/// The working memory of one task, in order; sizes in bytes.
struct Layout {
    /// Numbers of a row, filled up to whole tiles.
    wide: usize,
    /// Tiles of d·keys and keys·d of one block, in dwords: see [`super`].
    k: usize,
    v: usize,
    /// Scores, and in the first half of each row its exponentials when they are there.
    scores: usize,
    /// Of each query: what it has so far, the sum in 16 parts, and the maximum.
    out: usize,
    sums: usize,
    maxima: usize,
    end: usize,
}

impl Layout {
    fn new(d: usize, queries: usize) -> Layout {
        let wide = wide(d);
        let queries = queries.next_multiple_of(ROWS);
        let k = 0;
        let v = k + KEYS * wide * 2;
        let scores = v + KEYS * wide * 2;
        let out = scores + ROWS * SCORES * 4;
        let sums = out + queries * (wide + 16) * 4;
        let maxima = sums + queries * 16 * 4;
        Layout {
            wide,
            k,
            v,
            scores,
            out,
            sums,
            maxima,
            end: maxima + queries * 4,
        }
    }
}

/// 32 numbers rounded to bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn round(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both are 64 bytes without invalid values.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(high, low)) }
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
    let Block { len, first, rows, .. } = t.block;
    let wide = layout.wide;
    let blocks = wide / ROW_NUMBERS;
    let at = |offset: usize| memory.wrapping_add(offset);
    // SAFETY: all parts of the memory are where the layout says, and none overlaps another.
    unsafe {
        let maxima: *mut f32 = at(layout.maxima).cast();
        let sums: *mut f32 = at(layout.sums).cast();
        let out: *mut f32 = at(layout.out).cast();
        let out_row = wide + 16;
        let tiles = rows.div_ceil(TILE_ROWS);
        let queries = Left {
            at: t.row(Part::Query, first).cast(),
            row: wide * 2,
            tile_row: TILE_ROWS * wide * 2,
            block: ROW_BYTES,
        };
        let weights = Left {
            at: at(layout.scores),
            row: SCORES * 4,
            tile_row: TILE_ROWS * SCORES * 4,
            block: ROW_BYTES,
        };
        for i in (0..tiles * TILE_ROWS).step_by(16) {
            _mm512_storeu_ps(maxima.add(i), _mm512_set1_ps(f32::NEG_INFINITY));
        }
        for first_key in (0..len).step_by(KEYS) {
            let n = KEYS.min(len - first_key);
            let n32 = n.next_multiple_of(PANEL);
            pack_keys(t.row(Part::Key, first_key), n, wide, at(layout.k));
            pack_values(t.row(Part::Value, first_key), n, wide, at(layout.v));
            for tile in (0..tiles).step_by(2) {
                let pair = tile + 1 < tiles;
                let q = queries.down(tile);
                let (k, c) = (at(layout.k), at(layout.scores));
                match blocks {
                    1 => scores::<1>(q, k, n32 / TILE_ROWS, c),
                    2 => scores::<2>(q, k, n32 / TILE_ROWS, c),
                    _ => {
                        for panel in 0..n32 / PANEL {
                            let k = k.add(panel * blocks * PANEL_BLOCK);
                            product(pair, q, k, blocks, c.add(panel * PANEL * 4), SCORES * 4, false);
                        }
                    }
                }
                for half in 0..1 + usize::from(pair) {
                    let row = (tile + half) * TILE_ROWS;
                    softmax(&Softmax {
                        scores: at(layout.scores).cast::<f32>().add(half * TILE_ROWS * SCORES),
                        live: (rows - row).min(TILE_ROWS),
                        n,
                        maxima: maxima.add(row),
                        sums: sums.add(row * 16),
                        out: out.add(row * out_row),
                        wide,
                        resume: first_key > 0,
                    });
                }
                for panel in 0..wide / PANEL {
                    let v = at(layout.v + panel * (KEYS / ROW_NUMBERS) * PANEL_BLOCK);
                    let c = out.add(tile * TILE_ROWS * out_row + panel * PANEL).cast();
                    product(pair, weights, v, n32 / ROW_NUMBERS, c, out_row * 4, first_key > 0);
                }
            }
        }

        for r in 0..rows {
            let total = s.sum(_mm512_loadu_ps(sums.add(r * 16)));
            let factor = _mm512_set1_ps(1.0 / total);
            let row = std::slice::from_raw_parts_mut(out.add(r * out_row), wide);
            for x in row.chunks_exact_mut(16) {
                _mm512_storeu_ps(x.as_mut_ptr(), _mm512_mul_ps(_mm512_loadu_ps(x.as_ptr()), factor));
            }
            t.write(first + r, row);
        }
    }
}

/// `n` keys of one block as tiles of the right operand, zero past the last.
///
/// # Safety
/// The rows are there, and `to` is writable for a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
unsafe fn pack_keys(keys: *const u16, n: usize, wide: usize, to: *mut u8) {
    let blocks = wide / ROW_NUMBERS;
    for tile in 0..n.next_multiple_of(PANEL) / TILE_ROWS {
        for block in 0..blocks {
            // SAFETY: rows of the block's keys, and this tile of it.
            unsafe {
                let rows: [__m512i; 16] = std::array::from_fn(|r| {
                    let key = tile * TILE_ROWS + r;
                    if key < n {
                        _mm512_loadu_si512(keys.add(key * wide + block * ROW_NUMBERS).cast())
                    } else {
                        _mm512_setzero_si512()
                    }
                });
                let to = to.add((tile / 2 * blocks + block) * PANEL_BLOCK + tile % 2 * TILE_BYTES);
                for (pair, column) in transpose(&rows).into_iter().enumerate() {
                    _mm512_storeu_si512(to.add(pair * ROW_BYTES).cast(), column);
                }
            }
        }
    }
}

/// `n` values of one block as tiles of the right operand, pairs of keys, zero past the last.
///
/// # Safety
/// As for [`pack_keys`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
unsafe fn pack_values(values: *const u16, n: usize, wide: usize, to: *mut u8) {
    for pair in 0..n.next_multiple_of(PANEL) / 2 {
        for i in 0..wide / 16 {
            // SAFETY: rows of the block's values, and this row of a tile of it.
            unsafe {
                let load = |key: usize| {
                    if key < n {
                        _mm512_cvtepu16_epi32(_mm256_loadu_si256(values.add(key * wide + i * 16).cast()))
                    } else {
                        _mm512_setzero_si512()
                    }
                };
                let both = _mm512_or_si512(load(2 * pair), _mm512_slli_epi32::<16>(load(2 * pair + 1)));
                let block =
                    (i / 2 * (KEYS / ROW_NUMBERS) + pair / TILE_ROWS) * PANEL_BLOCK + i % 2 * TILE_BYTES;
                _mm512_storeu_si512(to.add(block + pair % TILE_ROWS * ROW_BYTES).cast(), both);
            }
        }
    }
}

/// A left operand; distances in bytes.
#[derive(Clone, Copy)]
struct Left {
    at: *const u8,
    /// From one row of a tile to the next.
    row: usize,
    /// From one row of tiles to the next.
    tile_row: usize,
    /// From one block of k to the next.
    block: usize,
}

impl Left {
    /// From this row of tiles on.
    fn down(self, tiles: usize) -> Left {
        Left {
            at: self.at.wrapping_add(tiles * self.tile_row),
            ..self
        }
    }
}

/// The scores of 32 queries of one or two blocks, which stay in registers, and `tiles` times 16 keys.
///
/// # Safety
/// The registers are configured; all tiles and rows are there.
#[inline(always)]
unsafe fn scores<const BLOCKS: usize>(q: Left, k: *const u8, tiles: usize, c: *mut u8) {
    // SAFETY: the caller's word.
    unsafe {
        let below = q.down(1);
        load::<4>(q.at, q.row);
        load::<5>(below.at, q.row);
        if BLOCKS == 2 {
            load::<6>(q.at.add(q.block), q.row);
            load::<7>(below.at.add(q.block), q.row);
        }
        for tile in 0..tiles {
            let k = k.add((tile / 2 * BLOCKS * 2 + tile % 2) * TILE_BYTES);
            let c = c.add(tile * ROW_BYTES);
            zero::<0>();
            zero::<1>();
            load::<2>(k, ROW_BYTES);
            multiply_bf16::<0, 4, 2>();
            multiply_bf16::<1, 5, 2>();
            if BLOCKS == 2 {
                load::<3>(k.add(PANEL_BLOCK), ROW_BYTES);
                multiply_bf16::<0, 6, 3>();
                multiply_bf16::<1, 7, 3>();
            }
            store::<0>(c, SCORES * 4);
            store::<1>(c.add(TILE_ROWS * SCORES * 4), SCORES * 4);
        }
    }
}

/// 16 or 32 rows by one panel: c (+)= a · b.
///
/// # Safety
/// The registers are configured; all tiles and rows are there.
#[inline(always)]
unsafe fn product(
    pair: bool,
    a: Left,
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
            let (left, b) = (a.at.add(k * a.block), b.add(k * PANEL_BLOCK));
            load::<4>(left, a.row);
            load::<6>(b, ROW_BYTES);
            multiply_bf16::<0, 4, 6>();
            load::<7>(b.add(TILE_BYTES), ROW_BYTES);
            multiply_bf16::<1, 4, 7>();
            if pair {
                load::<5>(left.add(a.tile_row), a.row);
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

/// The softmax of up to 16 queries over one block of keys; rows as the [`Layout`] has them.
struct Softmax {
    /// The exponentials are written over them.
    scores: *mut f32,
    /// Queries that count.
    live: usize,
    /// Keys.
    n: usize,
    maxima: *mut f32,
    sums: *mut f32,
    out: *mut f32,
    wide: usize,
    /// Whether there were blocks of keys before.
    resume: bool,
}

/// From scores to weights, and what is left of the sums and results of the blocks before.
///
/// # Safety
/// The rows are there; `sums` holds 16 numbers for each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
unsafe fn softmax(t: &Softmax) {
    let (full, rest) = (t.n / 16, t.n % 16);
    // The lanes of a last vector that is not full.
    let last = (1_u16 << rest) - 1;
    let lowest = _mm512_set1_ps(f32::NEG_INFINITY);
    // SAFETY: inside of the rows.
    unsafe {
        // The largest of each lane, then of each row: all rows at once. Those that do not count are read, for nothing.
        let tops: [__m512i; 16] = std::array::from_fn(|r| {
            let scores = t.scores.add(r * SCORES);
            let mut top = _mm512_mask_loadu_ps(lowest, last, scores.add(full * 16));
            for i in 0..full {
                top = _mm512_max_ps(top, _mm512_loadu_ps(scores.add(i * 16)));
            }
            _mm512_castps_si512(top)
        });
        let tops = transpose(&tops);
        let mut top = _mm512_castsi512_ps(tops[0]);
        for &other in &tops[1..] {
            top = _mm512_max_ps(top, _mm512_castsi512_ps(other));
        }
        let before = _mm512_loadu_ps(t.maxima);
        // What was before stays where the new one is not a number.
        let top = _mm512_max_ps(top, before);
        _mm512_storeu_ps(t.maxima, top);
        let same = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(before, top);
        let mut earlier = [0.0; 16];
        _mm512_storeu_ps(earlier.as_mut_ptr(), before);

        for (r, before) in earlier.into_iter().enumerate().take(t.live) {
            let scores = t.scores.add(r * SCORES);
            let weights = scores.cast::<u8>();
            // The next queries' results come from the second level cache.
            for i in (0..t.wide).step_by(16) {
                let next = t.out.wrapping_add((r + ROWS) * (t.wide + 16) + i);
                _mm_prefetch::<_MM_HINT_T0>(next.cast());
            }
            let top = *t.maxima.add(r);
            let wide_top = _mm512_set1_ps(top);
            let mut sum = _mm512_setzero_ps();
            let weight = |i: usize| exp2(_mm512_sub_ps(_mm512_loadu_ps(scores.add(i * 16)), wide_top));
            // A row of a tile at a time, and whole: a load that meets the halves of two stores must wait for both.
            for i in 0..full / 2 {
                let (low, high) = (weight(2 * i), weight(2 * i + 1));
                sum = _mm512_add_ps(_mm512_add_ps(sum, low), high);
                _mm512_storeu_si512(weights.add(i * ROW_BYTES).cast(), round(low, high));
            }
            if !t.n.is_multiple_of(ROW_NUMBERS) {
                let i = full / 2 * 2;
                let kept = |i: usize| match i.cmp(&full) {
                    Ordering::Less => 0xffff,
                    Ordering::Equal => last,
                    Ordering::Greater => 0,
                };
                let low = _mm512_maskz_mov_ps(kept(i), weight(i));
                let high = _mm512_maskz_mov_ps(kept(i + 1), weight(i + 1));
                sum = _mm512_add_ps(_mm512_add_ps(sum, low), high);
                _mm512_storeu_si512(weights.add(i / 2 * ROW_BYTES).cast(), round(low, high));
            }
            let sums = t.sums.add(r * 16);
            if t.resume {
                // As exact as the results that it scales, and 1 where the maximum stays.
                let fade = if same >> r & 1 == 1 {
                    1.0
                } else {
                    (before - top).exp2()
                };
                sum = _mm512_fmadd_ps(_mm512_loadu_ps(sums), _mm512_set1_ps(fade), sum);
                if fade != 1.0 {
                    let out = t.out.add(r * (t.wide + 16));
                    for i in (0..t.wide).step_by(16) {
                        let x = out.add(i);
                        _mm512_storeu_ps(x, _mm512_mul_ps(_mm512_loadu_ps(x), _mm512_set1_ps(fade)));
                    }
                }
            }
            _mm512_storeu_ps(sums, sum);
        }
    }
}
