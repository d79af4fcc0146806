//! Multi-head self-attention over a batch of unpadded sequences.
//!
//! For each sequence and head, with q, k, v of shape [length, head_dim]:
//!
//! ```text
//! out = softmax(q · kᵀ / √head_dim) · v
//! ```
//!
//! in one pass over blocks of keys that keeps a running maximum and sum per
//! query (the scores are never stored as a whole). Everything is computed
//! transposed, queries side by side in the vector lanes:
//!
//! ```text
//! scores [keys, queries] = k [keys, d] · qᵀ [d, queries]
//! outᵀ   [d, queries]   += vᵀ [d, keys] · exp(scores - maximum)
//! ```
//!
//! so both products run on the tile of [`super::gemm`], which broadcasts its
//! left operand: k and v serve as they lie in memory, only the queries are
//! transposed, once. Maximum, exponentials and sum run over rows, without any
//! step across lanes.
//!
//! Blocks of keys begin at fixed multiples from the sequence's start, and each
//! query has its own lane. So a row's result depends on its own sequence
//! only, not on the batch, on the threads or on the split into tasks.

use super::gemm::{Rows, Strided, multiply};
use super::isa::{Isa, MAX_LANES, Simd, isa_fn};
use super::math::{exp_v, rotate_v};
use super::team::{SendPtr, Team};
use crate::model::RopeTable;
use std::cell::RefCell;

/// Keys per block: part of the definition of the result, as the running sums
/// are rescaled between blocks.
const KEYS: usize = 128;
/// Queries per task, at most: what a block of keys is copied (and rotated) for.
pub const QUERIES: usize = 256;
/// The widest panel of queries.
const PANEL: usize = 2 * MAX_LANES;

/// The sequences of a batch, cut into tasks: computed once per batch,
/// used by every layer.
#[derive(Default)]
pub struct Tasks {
    blocks: Vec<Block>,
    tokens: usize,
    longest: usize,
}

/// Queries `first..first + rows` of the sequence of `len` tokens that starts at token `start`.
#[derive(Clone, Copy)]
pub struct Block {
    pub start: usize,
    pub len: usize,
    pub first: usize,
    pub rows: usize,
}

impl Tasks {
    /// The tasks of sequences i at tokens `bounds[i]..bounds[i + 1]`, which may
    /// be empty, of up to so many queries.
    pub fn new(bounds: &[usize], queries: usize) -> Tasks {
        let mut tasks = Tasks {
            blocks: Vec::new(),
            tokens: bounds.last().copied().unwrap_or(0),
            longest: 0,
        };
        for pair in bounds.windows(2) {
            let (start, end) = (pair[0], pair[1]);
            assert!(start <= end, "bounds rise");
            let len = end - start;
            tasks.longest = tasks.longest.max(len);
            for first in (0..len).step_by(queries) {
                tasks.blocks.push(Block {
                    start,
                    len,
                    first,
                    rows: queries.min(len - first),
                });
            }
        }
        // The longest first, so that none begins when all others are done.
        tasks
            .blocks
            .sort_unstable_by_key(|b| (std::cmp::Reverse(b.len * b.rows), b.start, b.first));
        tasks
    }

    /// Tokens in all.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Calls `f` once for each block and head, from the threads of the team.
    pub fn run(&self, team: &mut Team, heads: usize, f: &(dyn Fn(Block, usize) + Sync)) {
        let items = self.blocks.len() * heads;
        // A head of a short sequence takes about a microsecond, not much more
        // than handing it out: several per task, where there are many.
        let chunk = if self.longest <= 64 {
            (items / (team.threads() * 8)).clamp(1, 16)
        } else {
            1
        };
        team.run(items.div_ceil(chunk), &|task| {
            for item in task * chunk..items.min((task + 1) * chunk) {
                f(self.blocks[item / heads], item % heads);
            }
        });
    }
}

/// What the tasks of one call have in common.
#[derive(Clone, Copy)]
struct Operands<'a> {
    qkv: &'a [f32],
    heads: usize,
    d: usize,
    rope: Option<&'a RopeTable>,
    out: SendPtr,
}

thread_local! {
    /// Working memory of [`block`], kept between calls.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Values of a head of `d`, filled up to whole vectors of any set.
fn wide(d: usize) -> usize {
    d.next_multiple_of(MAX_LANES)
}

/// Values of working memory for heads of `d`, with room to align its start.
fn scratch_len(d: usize) -> usize {
    2 * QUERIES * wide(d) + 2 * KEYS * d + KEYS * PANEL + 2 * QUERIES + (MAX_LANES + 1) * wide(d) + 16
}

/// to = factor · from.
#[inline(always)]
fn scale_v<S: Simd>(s: S, from: &[f32], factor: f32, to: &mut [f32]) {
    let wide = s.splat(factor);
    let mut chunks = from.chunks_exact(S::LANES);
    let mut to_chunks = to.chunks_exact_mut(S::LANES);
    for (from, to) in (&mut chunks).zip(&mut to_chunks) {
        s.store(to, s.mul(s.load(from), wide));
    }
    for (from, to) in chunks.remainder().iter().zip(to_chunks.into_remainder()) {
        *to = from * factor;
    }
}

/// to = from. (As a call, a copy of so few values costs more than its work.)
#[inline(always)]
fn copy_v<S: Simd>(s: S, from: &[f32], to: &mut [f32]) {
    let mut chunks = from.chunks_exact(S::LANES);
    let mut to_chunks = to.chunks_exact_mut(S::LANES);
    for (from, to) in (&mut chunks).zip(&mut to_chunks) {
        s.store(to, s.load(from));
    }
    for (from, to) in chunks.remainder().iter().zip(to_chunks.into_remainder()) {
        *to = *from;
    }
}

isa_fn! {
    /// One head of one block of queries.
    ///
    /// # Safety
    /// `t.out` is writable for the block's rows of `heads * d` elements each, and while this runs nothing else reads or
    /// writes these rows of this head.
    unsafe fn block<S>(s, t: Operands<'_>, b: Block, head: usize, scratch: &mut [f32]) {
        let d = t.d;
        let width = S::TILE_VECS * S::LANES;
        let row_len = 3 * t.heads * d;
        let part = |token: usize, which: usize| {
            &t.qkv[(b.start + token) * row_len + (which * t.heads + head) * d..][..d]
        };
        let wide = wide(d);
        let (queries, rest) = scratch.split_at_mut(QUERIES * wide);
        let (outs, rest) = rest.split_at_mut(QUERIES * wide);
        let (keys, rest) = rest.split_at_mut(KEYS * d);
        let (values, rest) = rest.split_at_mut(KEYS * d);
        let (scores, rest) = rest.split_at_mut(KEYS * PANEL);
        let (maxima, rest) = rest.split_at_mut(QUERIES);
        let (sums, rest) = rest.split_at_mut(QUERIES);
        let (lines, rest) = rest.split_at_mut(MAX_LANES * wide);
        let line = &mut rest[..d];

        // Queries, scaled and rotated, as panels [panel][wide][width]: a vector of them at a time, by way of rows of their own.
        let scale = 1.0 / (d as f32).sqrt();
        let panels = b.rows.div_ceil(width);
        for first in (0..b.rows).step_by(S::LANES) {
            for (r, to) in (first..).zip(lines.chunks_exact_mut(wide).take(S::LANES)) {
                let to = &mut to[..d];
                if r >= b.rows {
                    to.fill(0.0);
                    continue;
                }
                let mut q = part(b.first + r, 0);
                if let Some(rope) = t.rope {
                    let (cos, sin) = rope.at(b.first + r);
                    rotate_v(s, q, cos, sin, line);
                    q = line;
                }
                scale_v(s, q, scale, to);
            }
            let panel = &mut queries[first / width * width * wide..][..width * wide];
            for i in (0..wide).step_by(S::LANES) {
                let to = &mut panel[i * width + first % width..];
                // SAFETY: columns i.. of a vector's rows of `lines`, and so many rows of the panel.
                unsafe { s.transpose(lines[i..].as_ptr(), wide, to.as_mut_ptr(), width) };
            }
        }
        maxima.fill(f32::NEG_INFINITY);
        sums.fill(0.0);

        for first_key in (0..b.len).step_by(KEYS) {
            let n = KEYS.min(b.len - first_key);
            // Copied next to each other: in qkv they lie at a distance that
            // is a multiple of 4096 bytes for many models, where a dozen rows
            // compete for the same few cache lines.
            for (i, (k, v)) in keys.chunks_exact_mut(d).zip(values.chunks_exact_mut(d)).take(n).enumerate() {
                let token = first_key + i;
                match t.rope {
                    Some(rope) => {
                        let (cos, sin) = rope.at(token);
                        rotate_v(s, part(token, 1), cos, sin, k);
                    }
                    None => copy_v(s, part(token, 1), k),
                }
                copy_v(s, part(token, 2), v);
            }
            let following = (first_key + n)..b.len.min(first_key + n + KEYS);
            let keys = Strided { ptr: keys.as_ptr(), row: d, step: 1 };
            let values = Strided { ptr: values.as_ptr(), row: 1, step: d };
            for panel in 0..panels {
                // Rows of the next block, page by page apart, would come late
                // from the last level cache: ask for a share of them now.
                for token in following.clone().skip(panel).step_by(panels) {
                    for at in (0..d).step_by(16) {
                        s.prefetch_far(part(token, 1).as_ptr().wrapping_add(at));
                        s.prefetch_far(part(token, 2).as_ptr().wrapping_add(at));
                    }
                }
                let rows = width.min(b.rows - panel * width);
                // Half a panel, if the queries fit in one vector.
                let live = rows.next_multiple_of(S::LANES);
                let q = queries[panel * width * wide..][..width * d].as_ptr();
                let out = &mut outs[panel * width * wide..][..width * d];
                // SAFETY: keys is n (<= KEYS) by d, q is d by width, scores
                // holds KEYS by PANEL, and live <= width <= PANEL.
                unsafe {
                    let to = scores.as_mut_ptr();
                    match d {
                        32 => multiply::<S, 32>(s, n, live, d, keys, Rows::new(q, width), to, width, false),
                        64 => multiply::<S, 64>(s, n, live, d, keys, Rows::new(q, width), to, width, false),
                        _ => multiply::<S, 0>(s, n, live, d, keys, Rows::new(q, width), to, width, false),
                    }
                }
                for col in (0..live).step_by(S::LANES) {
                    let stats = panel * width + col;
                    let before = s.load(&maxima[stats..]);
                    let mut top = [before; 2];
                    for (i, row) in scores.chunks_exact(width).take(n).enumerate() {
                        top[i % 2] = s.max(top[i % 2], s.load(&row[col..]));
                    }
                    let top = s.max(top[0], top[1]);
                    s.store(&mut maxima[stats..], top);
                    let mut sum = s.zero();
                    for row in scores.chunks_exact_mut(width).take(n) {
                        let row = &mut row[col..];
                        let p = exp_v(s, s.sub(s.load(row), top));
                        s.store(row, p);
                        sum = s.add(sum, p);
                    }
                    if first_key > 0 {
                        let fade = exp_v(s, s.sub(before, top));
                        sum = s.fma(s.load(&sums[stats..]), fade, sum);
                        for row in out.chunks_exact_mut(width) {
                            let row = &mut row[col..];
                            s.store(row, s.mul(s.load(row), fade));
                        }
                    }
                    s.store(&mut sums[stats..], sum);
                }
                // SAFETY: values seen as its transpose is d by n, scores n by
                // width, out d by width.
                unsafe {
                    multiply::<S, 1>(s, d, live, n, values, Rows::new(scores.as_ptr(), width), out.as_mut_ptr(), width, first_key > 0);
                }
            }
        }

        let row_of = |r: usize| {
            // SAFETY: inside out (the caller checked its length).
            unsafe { t.out.get().add(((b.start + b.first + r) * t.heads + head) * d) }
        };
        for first in (0..b.rows).step_by(S::LANES) {
            let panel = &mut outs[first / width * width * wide + first % width..];
            let factor = s.div(s.splat(1.0), s.load(&sums[first..]));
            for row in panel.chunks_mut(width).take(d) {
                s.store(row, s.mul(s.load(row), factor));
            }
            let live = S::LANES.min(b.rows - first);
            for i in (0..wide).step_by(S::LANES) {
                let whole = live == S::LANES && i + S::LANES <= d;
                let (to, distance) = if whole {
                    (row_of(first).wrapping_add(i), t.heads * d)
                } else {
                    (lines[i..].as_mut_ptr(), wide)
                };
                // SAFETY: so many rows of the panel; rows of out that no other task touches for this head, or of `lines`.
                unsafe { s.transpose(panel[i * width..].as_ptr(), width, to, distance) };
                if !whole {
                    let n = S::LANES.min(d.saturating_sub(i));
                    for r in 0..live {
                        // SAFETY: as above.
                        let to = unsafe { std::slice::from_raw_parts_mut(row_of(first + r).add(i), n) };
                        to.copy_from_slice(&lines[r * wide + i..][..n]);
                    }
                }
            }
        }
    }
}

/// Attention of every sequence of the tasks.
///
/// Row t of `qkv` is [q of all heads | k of all heads | v of all heads], of
/// 3 · heads · head_dim values; row t of `out` has heads · head_dim. With
/// `rope`, q and k are rotated to their positions, which start at 0 in each
/// sequence.
#[allow(clippy::too_many_arguments)]
pub fn attention(
    team: &mut Team,
    isa: Isa,
    tasks: &Tasks,
    qkv: &[f32],
    heads: usize,
    head_dim: usize,
    rope: Option<&RopeTable>,
    out: &mut [f32],
) {
    assert!(heads > 0 && head_dim > 0);
    let width = heads * head_dim;
    assert!(qkv.len() >= tasks.tokens * 3 * width, "qkv is too short");
    assert!(out.len() >= tasks.tokens * width, "out is too short");
    if let Some(rope) = rope {
        assert!(2 * rope.half() == head_dim, "a table for other heads");
        assert!(rope.positions() >= tasks.longest, "a table too short");
    }
    let t = Operands {
        qkv,
        heads,
        d: head_dim,
        rope,
        out: SendPtr(out.as_mut_ptr()),
    };
    tasks.run(team, heads, &|b, head| {
        SCRATCH.with_borrow_mut(|scratch| {
            let len = scratch_len(head_dim);
            if scratch.len() < len {
                scratch.resize(len, 0.0);
            }
            // Vectors should not straddle cache lines.
            let offset = scratch.as_ptr().align_offset(64).min(15);
            // SAFETY: the length of out was checked above, and every block and head is one task's alone.
            unsafe { block(isa, t, b, head, &mut scratch[offset..]) };
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "x86_64")]
    use crate::cpu::narrow::{Amx, Heads, Out};

    /// Reproducible values in -2..2.
    fn noise(n: usize, seed: u64) -> Vec<f32> {
        crate::cpu::gemm::tests::noise(n, seed)
            .into_iter()
            .map(|x| 2.0 * x)
            .collect()
    }

    /// The definition, in f64, for one sequence.
    fn reference(qkv: &[f32], heads: usize, d: usize, base: Option<f64>) -> Vec<f64> {
        let row = 3 * heads * d;
        let len = qkv.len() / row;
        let at = |token: usize, which: usize, head: usize| -> Vec<f64> {
            let x = &qkv[token * row + (which * heads + head) * d..][..d];
            let mut x: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            if let (Some(base), true) = (base, which < 2) {
                for i in 0..d / 2 {
                    let angle = token as f64 * base.powf(-2.0 * i as f64 / d as f64);
                    let (a, b) = (x[i], x[i + d / 2]);
                    x[i] = a * angle.cos() - b * angle.sin();
                    x[i + d / 2] = b * angle.cos() + a * angle.sin();
                }
            }
            x
        };
        let mut out = vec![0.0; len * heads * d];
        for head in 0..heads {
            let keys: Vec<_> = (0..len).map(|t| at(t, 1, head)).collect();
            let values: Vec<_> = (0..len).map(|t| at(t, 2, head)).collect();
            for t in 0..len {
                let q = at(t, 0, head);
                let scores: Vec<f64> = keys
                    .iter()
                    .map(|k| k.iter().zip(&q).map(|(a, b)| a * b).sum::<f64>() / (d as f64).sqrt())
                    .collect();
                let top = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
                let total: f64 = weights.iter().sum();
                let out = &mut out[(t * heads + head) * d..][..d];
                for (w, v) in weights.iter().zip(&values) {
                    for (out, v) in out.iter_mut().zip(v) {
                        *out += w / total * v;
                    }
                }
            }
        }
        out
    }

    const SHAPES: [(usize, usize); 7] = [(2, 32), (1, 64), (3, 1), (2, 6), (1, 128), (2, 17), (1, 40)];
    const LENGTHS: [usize; 9] = [5, 0, 1, 16, 33, 300, 128, 129, 8];

    /// What computes.
    #[derive(Clone, Copy, Debug)]
    enum Way {
        F32(Isa),
        #[cfg(target_arch = "x86_64")]
        Amx(Amx),
    }

    fn ways() -> Vec<Way> {
        let mut ways: Vec<Way> = Isa::available().into_iter().map(Way::F32).collect();
        #[cfg(target_arch = "x86_64")]
        ways.extend(Amx::detect().map(Way::Amx));
        if ways.iter().all(|way| matches!(way, Way::F32(_))) {
            println!("SKIPPED: this machine has no AMX");
        }
        ways
    }

    /// Attention of the sequences between the bounds.
    fn run(
        team: &mut Team,
        way: Way,
        bounds: &[usize],
        qkv: &[f32],
        heads: usize,
        d: usize,
        rope: Option<&RopeTable>,
    ) -> Vec<f32> {
        let tokens = bounds.last().copied().unwrap_or(0);
        let mut out = vec![9.0; tokens * heads * d];
        match way {
            Way::F32(isa) => {
                let tasks = Tasks::new(bounds, QUERIES);
                attention(team, isa, &tasks, qkv, heads, d, rope, &mut out);
            }
            #[cfg(target_arch = "x86_64")]
            Way::Amx(amx) => {
                let tasks = Tasks::new(bounds, Amx::queries(tokens, heads, team.threads()));
                let positions: Vec<u32> = bounds.windows(2).flat_map(|b| 0..(b[1] - b[0]) as u32).collect();
                let mut rows = Heads::default();
                let rotation = rope.map(|rope| (rope, &positions[..]));
                rows.round(amx, team, [tokens, heads, d], rotation, qkv);
                let to = Out::Rows(SendPtr(out.as_mut_ptr()));
                // SAFETY: the result has a row for each token.
                unsafe { amx.attention(team, &tasks, &rows, to) };
            }
        }
        out
    }

    /// How far results of numbers up to 2 may be off.
    fn allowed(way: Way) -> f64 {
        match way {
            Way::F32(_) => 1e-5,
            // Three roundings of up to 2^-9: of a value of up to 2, and of the factors of scores of up to about 6.
            #[cfg(target_arch = "x86_64")]
            Way::Amx(_) => 2e-2,
        }
    }

    fn bounds() -> Vec<usize> {
        let mut bounds = vec![0];
        for len in LENGTHS {
            bounds.push(bounds[bounds.len() - 1] + len);
        }
        bounds
    }

    #[test]
    fn agrees_with_f64() {
        let bounds = bounds();
        let tokens = bounds[bounds.len() - 1];
        let mut team = Team::new(2);
        for way in ways() {
            let mut worst = 0f64;
            for (heads, d) in SHAPES {
                for base in [None, Some(10000.0)] {
                    if base.is_some() && d % 2 == 1 {
                        continue;
                    }
                    let rope = base.map(|base| RopeTable::new(512, d, base));
                    let qkv = noise(tokens * 3 * heads * d, 1);
                    let out = run(&mut team, way, &bounds, &qkv, heads, d, rope.as_ref());
                    for pair in bounds.windows(2) {
                        let qkv = &qkv[pair[0] * 3 * heads * d..pair[1] * 3 * heads * d];
                        let exact = reference(qkv, heads, d, base);
                        for (i, exact) in exact.iter().enumerate() {
                            let got = f64::from(out[pair[0] * heads * d + i]);
                            let off = (got - exact).abs();
                            assert!(off < allowed(way), "{way:?} {heads} {d} {i}: {got} {exact}");
                            worst = worst.max(off);
                        }
                    }
                }
            }
            println!("{way:?}: off by {worst:.1e} at most");
        }
    }

    #[test]
    fn a_sequence_alone_has_the_same_bits() {
        let bounds = bounds();
        let tokens = bounds[bounds.len() - 1];
        for way in ways() {
            for (heads, d) in SHAPES {
                let rope = (d % 2 == 0).then(|| RopeTable::new(300, d, 10000.0));
                let qkv = noise(tokens * 3 * heads * d, 2);
                let out = run(&mut Team::new(3), way, &bounds, &qkv, heads, d, rope.as_ref());
                let mut solo = Team::new(1);
                for pair in bounds.windows(2) {
                    let len = pair[1] - pair[0];
                    let qkv = &qkv[pair[0] * 3 * heads * d..];
                    let alone = run(&mut solo, way, &[0, len], qkv, heads, d, rope.as_ref());
                    let batch = &out[pair[0] * heads * d..];
                    assert!(alone.iter().zip(batch).all(|(a, b)| a.to_bits() == b.to_bits()));
                }
            }
        }
    }

    #[test]
    fn large_scores_do_not_overflow() {
        for way in ways() {
            let qkv: Vec<f32> = noise(200 * 96, 3).iter().map(|x| x * 50.0).collect();
            let out = run(&mut Team::new(1), way, &[0, 200], &qkv, 1, 32, None);
            let exact = reference(&qkv, 1, 32, None);
            // Scores reach 10^4, of which f32 keeps three decimals.
            let off = |(a, b): (&f32, &f64)| (f64::from(*a) - b).abs();
            let allowed = match way {
                Way::F32(_) => 2.0,
                // Bfloat16 keeps two: the result is some value or a mean of some.
                #[cfg(target_arch = "x86_64")]
                Way::Amx(_) => 200.0,
            };
            assert!(out.iter().zip(&exact).map(off).all(|off| off <= allowed));
        }
    }

    #[test]
    fn nothing_to_do() {
        for bounds in [&[][..], &[0], &[0, 0, 0]] {
            for way in ways() {
                assert!(run(&mut Team::new(1), way, bounds, &[], 2, 4, None).is_empty());
            }
        }
    }
}
