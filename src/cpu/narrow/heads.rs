//! Queries, keys and values as attention's products read them.

use std::arch::x86_64::*;

use super::super::scratch::Scratch;
use super::super::team::{SendPtr, Team};
use super::attention::Amx;
use super::{ROW_NUMBERS, TILE_ROWS};
use crate::model::RopeTable;

/// All of a batch's queries, keys and values: rotated to their positions, queries scaled by log₂e/√d, then rounded to bf16.
///
/// `[3 heads][tokens][d]`, d filled up with zeros to whole rows of tiles: what one head reads lies together, and a tile of
/// queries can be loaded from where it lies.
#[derive(Default)]
pub struct Heads {
    /// Rows of tiles, a cache line each.
    lines: Scratch,
    tokens: usize,
    heads: usize,
    d: usize,
}

/// Queries, keys or values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Query,
    Key,
    Value,
}

/// Writes rows of [`Heads`] from several threads.
#[derive(Clone, Copy)]
pub struct HeadsWriter<'a> {
    to: SendPtr<u16>,
    tokens: usize,
    heads: usize,
    d: usize,
    /// Cosines and sines, and the position of each token.
    rotation: Option<(&'a RopeTable, &'a [u32])>,
    amx: Amx,
}

/// Numbers of a row, filled up.
pub fn wide(d: usize) -> usize {
    d.next_multiple_of(ROW_NUMBERS)
}

impl Heads {
    /// Makes room for a batch, and gives the way to fill it in. Rows that are not written hold what was there before.
    pub fn reset<'a>(
        &mut self,
        amx: Amx,
        [tokens, heads, d]: [usize; 3],
        rotation: Option<(&'a RopeTable, &'a [u32])>,
    ) -> HeadsWriter<'a> {
        (self.tokens, self.heads, self.d) = (tokens, heads, d);
        // The last two tiles of queries may have more rows than there are tokens; keys and values follow them.
        self.lines
            .reserve((3 * heads * tokens + 2 * TILE_ROWS) * wide(d) * size_of::<u16>());
        HeadsWriter {
            to: SendPtr(self.lines.bytes_mut().as_mut_ptr().cast()),
            tokens,
            heads,
            d,
            rotation,
            amx,
        }
    }

    /// The same, and fills it in from a matrix `[tokens, 3 heads d]`: queries of all heads, keys, values.
    pub fn round(
        &mut self,
        amx: Amx,
        team: &mut Team,
        sizes: [usize; 3],
        rotation: Option<(&RopeTable, &[u32])>,
        qkv: &[f32],
    ) {
        /// Rows that make a task worth handing to another thread.
        const HEIGHT: usize = 8;
        let [tokens, heads, d] = sizes;
        let width = 3 * heads * d;
        assert!(qkv.len() >= tokens * width, "qkv is too short");
        let writer = self.reset(amx, sizes, rotation);
        team.run(tokens.div_ceil(HEIGHT), &|task| {
            let mut row = vec![0.0; width];
            for token in task * HEIGHT..tokens.min((task + 1) * HEIGHT) {
                row.copy_from_slice(&qkv[token * width..][..width]);
                // SAFETY: the heads are borrowed until all rows are written, and each row is one task's alone.
                unsafe { writer.write(token, 0, &mut row) };
            }
        });
    }

    /// How many heads.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Numbers of a head.
    pub fn d(&self) -> usize {
        self.d
    }

    /// How many tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// A token's row; the next tokens' of the same head follow, [`wide`] numbers apart.
    pub fn row(&self, part: Part, head: usize, token: usize) -> *const u16 {
        assert!(head < self.heads && token < self.tokens);
        let row = (part as usize * self.heads + head) * self.tokens + token;
        self.lines.bytes()[row * wide(self.d) * size_of::<u16>()..]
            .as_ptr()
            .cast()
    }
}

impl HeadsWriter<'_> {
    /// Numbers `first..` of a token's row `[3 heads d]`, queries of all heads, keys, values: whole heads. They are rotated in place.
    ///
    /// # Safety
    /// The heads that this writes to are alive, and nothing else touches these rows of them meanwhile.
    pub unsafe fn write(self, token: usize, first: usize, x: &mut [f32]) {
        debug_assert!(first.is_multiple_of(self.d) && x.len().is_multiple_of(self.d));
        let wide = wide(self.d);
        for (head, x) in (first / self.d..).zip(x.chunks_exact_mut(self.d)) {
            let part = head / self.heads;
            let rotation = self.rotation.filter(|_| part != Part::Value as usize);
            let rotation = rotation.map(|(table, positions)| table.at(positions[token] as usize));
            let scale =
                (part == Part::Query as usize).then(|| std::f32::consts::LOG2_E / (self.d as f32).sqrt());
            // SAFETY: an `Amx` exists only where the processor has the features; the row is inside of the heads.
            unsafe {
                let to = self.to.get().add((head * self.tokens + token) * wide);
                write_head(self.amx, x, rotation, scale, to, wide);
            }
        }
    }
}

/// The lanes of 16 that are left of `n` from `i` on.
#[inline(always)]
fn lanes(n: usize, i: usize) -> u16 {
    let left = n.saturating_sub(i).min(16);
    ((1_u32 << left) - 1) as u16
}

/// 16 numbers rounded to bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn round(x: __m512) -> __m256i {
    // SAFETY: both are 32 bytes without invalid values.
    unsafe { std::mem::transmute(_mm512_cvtneps_pbh(x)) }
}

/// Rotates, scales and rounds one head's numbers.
///
/// # Safety
/// `to` is writable for `wide` numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
unsafe fn write_head(
    _: Amx,
    x: &mut [f32],
    rotation: Option<(&[f32], &[f32])>,
    scale: Option<f32>,
    to: *mut u16,
    wide: usize,
) {
    let d = x.len();
    let x = x.as_mut_ptr();
    // SAFETY: masks leave out what is past the ends of x and of the table's row, which has a half of its length.
    unsafe {
        if let Some((cos, sin)) = rotation {
            let half = cos.len();
            assert!(2 * half == d && sin.len() == half);
            for i in (0..half).step_by(16) {
                let m = lanes(half, i);
                let load = |from: *const f32| _mm512_maskz_loadu_ps(m, from.wrapping_add(i));
                let (a, b) = (load(x), load(x.wrapping_add(half)));
                let (c, s) = (load(cos.as_ptr()), load(sin.as_ptr()));
                // Each product and sum rounded, as everywhere.
                let first = _mm512_sub_ps(_mm512_mul_ps(a, c), _mm512_mul_ps(b, s));
                let second = _mm512_add_ps(_mm512_mul_ps(b, c), _mm512_mul_ps(a, s));
                _mm512_mask_storeu_ps(x.wrapping_add(i), m, first);
                _mm512_mask_storeu_ps(x.wrapping_add(half + i), m, second);
            }
        }
        let scale = scale.map(|scale| _mm512_set1_ps(scale));
        for i in (0..wide).step_by(16) {
            let mut x = _mm512_maskz_loadu_ps(lanes(d, i), x.wrapping_add(i));
            if let Some(scale) = scale {
                x = _mm512_mul_ps(x, scale);
            }
            _mm256_storeu_si256(to.add(i).cast(), round(x));
        }
    }
}
