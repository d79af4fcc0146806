//! Matrix multiplication y[M, N] = x[M, K] · W[N, K]ᵀ with W packed once.
//!
//! The tile keeps a few rows × one panel's columns of y in registers and adds
//! x[row, k] · W[.., k] for one k after another. Hence the rule that the
//! engine's results rest on: **each element of y is one chain of additions
//! over k in rising order, starting from zero**, whatever M is, wherever the
//! row stands and however the work is split. Where K is cut into blocks the
//! chain pauses in y itself, which holds it exactly. A row's bits thus never
//! depend on the other rows of its batch.

use std::cell::RefCell;

use super::Line;
use super::isa::{Isa, Simd, isa_fn};
use super::packed::{NR, PackedMatrix};
use super::team::{SendPtr, Team};

/// Values of k per block: a panel's block of 32 KB stays in the first level
/// cache while all rows of a task go over it.
const KC: usize = 256;
/// Distance of the copied rows of x: not a multiple of 4096 bytes, for rows
/// at such a distance would all compete for the same few cache lines.
const X_STRIDE: usize = KC + 16;
/// Up to this many rows every panel is read about once, from memory or the
/// last level cache, and that is what takes the time.
const FEW_ROWS: usize = 48;

/// Rows of a task, at most: their block of x fits the second level cache.
const MOST_ROWS: usize = 192;
/// With fewer panels to a task it does not pay to copy its rows.
const COPY_PANELS: usize = 3;

/// One operand laid out for the tile: element (i, k) at `ptr + i*row + k*step`.
#[derive(Clone, Copy)]
pub(super) struct Strided {
    pub ptr: *const f32,
    pub row: usize,
    pub step: usize,
}

/// The other one: row k at `ptr + k*row`. At its row k the tile asks for the memory at `ahead + k*ahead_row`.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    ptr: *const f32,
    row: usize,
    ahead: *const f32,
    ahead_row: usize,
}

impl Rows {
    /// Rows that are read front to back, and memory behind them that is read next.
    pub fn new(ptr: *const f32, row: usize) -> Rows {
        let ahead = ptr.wrapping_add(PREFETCH * row);
        Rows {
            ptr,
            row,
            ahead,
            ahead_row: row,
        }
    }

    /// The same rows from this column on.
    fn column(self, column: usize) -> Rows {
        Rows {
            ptr: self.ptr.wrapping_add(column),
            ahead: self.ahead.wrapping_add(column),
            ..self
        }
    }
}

/// c[MR, NV vectors] (+)= a[MR, K] · b[K, NV vectors].
///
/// # Safety
/// `a` is readable for MR rows and `k` steps; `b` for `k` rows of NV vectors;
/// `c` is writable (and readable with `resume`) for MR
/// rows of NV vectors at distance `c_row`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn tile<S: Simd, const MR: usize, const NV: usize, const ROW: usize>(
    s: S,
    k: usize,
    a: Strided,
    b: Rows,
    c: *mut f32,
    c_row: usize,
    resume: bool,
) {
    // A distance known to the compiler turns the addresses of all rows into constants. Worked out
    // at run time they would take, once per row and k, the ports that multiply.
    let distance = if ROW > 0 { ROW } else { a.row };
    let mut acc = [[s.zero(); NV]; MR];
    if resume {
        for (i, row) in acc.iter_mut().enumerate() {
            for (j, v) in row.iter_mut().enumerate() {
                // SAFETY: inside c, by this function's contract.
                *v = unsafe { s.load_ptr(c.add(i * c_row + j * S::LANES)) };
            }
        }
    }
    let (mut pa, mut pb, mut ahead) = (a.ptr, b.ptr, b.ahead);
    for _ in 0..k {
        let mut vb = [s.zero(); NV];
        for (j, v) in vb.iter_mut().enumerate() {
            // SAFETY: inside this row of b, by the contract.
            *v = unsafe { s.load_ptr(pb.add(j * S::LANES)) };
        }
        s.prefetch(ahead);
        if NV * S::LANES > 16 {
            s.prefetch(ahead.wrapping_add(16));
        }
        for (i, row) in acc.iter_mut().enumerate() {
            // SAFETY: element (i, k) of a, by the contract.
            let va = s.splat(unsafe { *pa.add(i * distance) });
            for (v, &vb) in row.iter_mut().zip(&vb) {
                *v = s.fma(va, vb, *v);
            }
        }
        pa = pa.wrapping_add(a.step);
        pb = pb.wrapping_add(b.row);
        ahead = ahead.wrapping_add(b.ahead_row);
    }
    for (i, row) in acc.iter().enumerate() {
        for (j, &v) in row.iter().enumerate() {
            // SAFETY: inside c, by the contract.
            unsafe { s.store_ptr(c.add(i * c_row + j * S::LANES), v) };
        }
    }
}

/// How many rows ahead of its use memory that is read front to back is asked for.
const PREFETCH: usize = 48;

/// [`tile`] for `rows` <= `S::TILE_ROWS` rows.
///
/// # Safety
/// As for [`tile`] with MR = `rows`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn tile_of<S: Simd, const NV: usize, const ROW: usize>(
    s: S,
    rows: usize,
    k: usize,
    a: Strided,
    b: Rows,
    c: *mut f32,
    c_row: usize,
    resume: bool,
) {
    macro_rules! by_rows {
        ($($mr:literal)+) => {
            match rows {
                $($mr if $mr <= S::TILE_ROWS => {
                    // SAFETY: passed on to the caller, with MR = rows.
                    unsafe { tile::<S, $mr, NV, ROW>(s, k, a, b, c, c_row, resume) }
                })+
                _ => unreachable!("at most TILE_ROWS rows"),
            }
        };
    }
    by_rows!(1 2 3 4 5 6 7 8 9 10 11 12)
}

/// c[rows, width] (+)= a[rows, K] · b[K, width] for any number of rows and a
/// width that is a multiple of `S::LANES`. `ROW` is `a.row`, or 0 where that
/// is not known when compiling.
///
/// # Safety
/// As for [`tile`], with `rows` rows and `width` columns.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn multiply<S: Simd, const ROW: usize>(
    s: S,
    rows: usize,
    width: usize,
    k: usize,
    a: Strided,
    b: Rows,
    c: *mut f32,
    c_row: usize,
    resume: bool,
) {
    let blocks = rows.div_ceil(S::TILE_ROWS);
    let mut row = 0;
    for block in 0..blocks {
        // Even heights: a last tile of few rows would have too few
        // independent chains to fill the pipelines.
        let height = (rows - row).div_ceil(blocks - block);
        let a = Strided {
            ptr: a.ptr.wrapping_add(row * a.row),
            ..a
        };
        let mut col = 0;
        while col < width {
            // SAFETY: inside what the caller vouches for: `height` rows from
            // `row`, and 2 or 1 vectors of the `width` columns from `col`.
            unsafe {
                let (b, c) = (b.column(col), c.add(row * c_row + col));
                if S::TILE_VECS == 2 && width - col >= 2 * S::LANES {
                    tile_of::<S, 2, ROW>(s, height, k, a, b, c, c_row, resume);
                    col += 2 * S::LANES;
                } else {
                    tile_of::<S, 1, ROW>(s, height, k, a, b, c, c_row, resume);
                    col += S::LANES;
                }
            }
        }
        row += height;
    }
}

/// What one task of [`gemm`] computes: rows `m0..m1`, panels `p0..p1`.
#[derive(Clone, Copy)]
struct Part<'a> {
    m0: usize,
    m1: usize,
    p0: usize,
    p1: usize,
    x: &'a [f32],
    ldx: usize,
    w: &'a PackedMatrix,
    y: SendPtr,
    ldy: usize,
    epilogue: &'a (dyn Fn(usize, usize, &mut [f32]) + Sync),
}

/// A thread's working memory.
struct Scratch {
    /// Rows of x being multiplied, copied next to each other.
    rows: Vec<f32>,
    /// Rows of a panel, widened.
    wide: Vec<Line>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { rows: Vec::new(), wide: Vec::new() }) };
}

/// Widens `k` rows of a panel.
///
/// # Safety
/// The rows of pairs are there.
#[inline(always)]
unsafe fn widen<S: Simd>(s: S, pairs: *const u32, k: usize, wide: &mut [Line]) {
    assert!(wide.len() * 16 >= k * NR);
    let wide: *mut f32 = wide.as_mut_ptr().cast();
    for k in 0..k {
        for column in (0..NR / 2).step_by(S::LANES) {
            // SAFETY: row k, here by the caller's word and there by its length.
            unsafe {
                let [low, high] = s.load_pairs(pairs.add(k * (NR / 2) + column));
                let to = wide.add(k * NR + column);
                s.store_ptr(to, low);
                s.store_ptr(to.add(NR / 2), high);
            }
        }
    }
}

isa_fn! {
    /// Rows `m0..m1` and panels `p0..p1` of a product, and then the epilogue on them.
    ///
    /// # Safety
    /// The part lies inside of x, w and y (`y + i * ldy` is writable for `w.n()` elements for every row i of it), and while
    /// this runs nothing else reads or writes this part of y.
    unsafe fn part<S>(s, t: Part<'_>, scratch: &mut Scratch) {
        let Scratch { rows: rows_copy, wide } = scratch;
        let k = t.w.k();
        let rows = t.m1 - t.m0;
        let panels = t.p1 - t.p0;
        let copy = panels >= COPY_PANELS && rows > S::TILE_ROWS;
        if copy && rows_copy.len() < rows * X_STRIDE {
            rows_copy.resize(rows * X_STRIDE, 0.0);
        }
        if t.w.is_bf16() {
            wide.resize(KC * NR / 16, Line([0.0; 16]));
        }
        let blocks = rows.div_ceil(S::TILE_ROWS);
        let k_blocks = k.div_ceil(if copy || t.w.is_bf16() { KC } else { k });
        let bound = |k_block: usize| k_block * k / k_blocks;
        // What the copy holds is gone over by all panels; else a panel is read front to back.
        let at = |step: usize| match copy {
            true => (step / panels, t.p0 + step % panels),
            false => (step % k_blocks, t.p0 + step / k_blocks),
        };
        for step in 0..k_blocks * panels {
            let (k_block, p) = at(step);
            let (k0, kc) = (bound(k_block), bound(k_block + 1) - bound(k_block));
            let resume = k_block > 0;
            if copy && p == t.p0 {
                for (i, to) in rows_copy.chunks_exact_mut(X_STRIDE).take(rows).enumerate() {
                    to[..kc].copy_from_slice(&t.x[(t.m0 + i) * t.ldx + k0..][..kc]);
                }
            }
            let b = if t.w.is_bf16() {
                // SAFETY: rows k0..k0 + kc of panel p.
                unsafe { widen(s, t.w.pairs(p, k0), kc, wide) };
                let (k_block, p) = at(step + 1);
                let ahead = t.w.pairs(p, bound(k_block)).cast();
                Rows { ptr: wide.as_ptr().cast(), row: NR, ahead, ahead_row: NR / 2 }
            } else {
                Rows::new(t.w.panel(p, k0), NR)
            };
            let mut row = 0;
            for block in 0..blocks {
                let height = (rows - row).div_ceil(blocks - block);
                // SAFETY: `gemm` checked the bounds of x and y and built
                // the parts, which do not overlap.
                unsafe {
                    if copy {
                        let ptr = rows_copy[row * X_STRIDE..].as_ptr();
                        let a = Strided { ptr, row: X_STRIDE, step: 1 };
                        panel::<S, X_STRIDE>(s, &t, p, kc, row, height, a, b, resume);
                    } else {
                        let ptr = t.x[(t.m0 + row) * t.ldx + k0..].as_ptr();
                        let a = Strided { ptr, row: t.ldx, step: 1 };
                        panel::<S, 0>(s, &t, p, kc, row, height, a, b, resume);
                    }
                }
                row += height;
            }
        }
        let first_col = t.p0 * NR;
        let width = t.w.n().min(t.p1 * NR) - first_col;
        for row in t.m0..t.m1 {
            // SAFETY: inside y and this part; no other reference to these
            // elements exists meanwhile.
            let segment =
                unsafe { std::slice::from_raw_parts_mut(t.y.get().add(row * t.ldy + first_col), width) };
            (t.epilogue)(row, first_col, segment);
        }
    }
}

/// Adds some `kc` of k of `rows` rows, from row `row` of the part on, times panel `p` to y.
///
/// # Safety
/// The rows and the panel belong to the part, `a` and `b` hold those k of them, and the part is the only one
/// that touches its elements of y.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn panel<S: Simd, const ROW: usize>(
    s: S,
    t: &Part<'_>,
    p: usize,
    kc: usize,
    row: usize,
    rows: usize,
    a: Strided,
    b: Rows,
    resume: bool,
) {
    let col = p * NR;
    // SAFETY: the caller's promise.
    unsafe {
        let c = t.y.get().add((t.m0 + row) * t.ldy + col);
        if col + NR <= t.w.n() {
            multiply::<S, ROW>(s, rows, NR, kc, a, b, c, t.ldy, resume);
            return;
        }
        // The last panel has fewer real columns than it computes: by way of a
        // buffer.
        let real = t.w.n() - col;
        let mut c2 = [0.0; NR * 12];
        for i in 0..rows {
            let from = std::slice::from_raw_parts(c.add(i * t.ldy), real);
            c2[i * NR..][..real].copy_from_slice(from);
        }
        multiply::<S, ROW>(s, rows, NR, kc, a, b, c2.as_mut_ptr(), NR, resume);
        for i in 0..rows {
            std::slice::from_raw_parts_mut(c.add(i * t.ldy), real).copy_from_slice(&c2[i * NR..][..real]);
        }
    }
}

/// y[M, N] = x[M, K] · W[N, K]ᵀ, and then `epilogue(row, first column,
/// segment)` on every element once, in row segments of free width while they
/// are still in the cache.
///
/// Row i of x starts at `x[i * ldx]`, row i of y at `y[i * ldy]`.
#[allow(clippy::too_many_arguments)]
pub fn gemm(
    team: &mut Team,
    isa: Isa,
    x: &[f32],
    ldx: usize,
    m: usize,
    w: &PackedMatrix,
    y: &mut [f32],
    ldy: usize,
    epilogue: &(dyn Fn(usize, usize, &mut [f32]) + Sync),
) {
    if m == 0 {
        return;
    }
    assert!(ldx >= w.k() && ldy >= w.n(), "rows overlap");
    assert!(x.len() >= (m - 1) * ldx + w.k(), "x is too short");
    assert!(y.len() >= (m - 1) * ldy + w.n(), "y is too short");

    let panels = w.n().div_ceil(NR);
    let (height, group) = split(m, panels, w.k(), team.threads(), w.is_bf16());
    let row_parts = m.div_ceil(height);
    let groups = panels.div_ceil(group);
    let y = SendPtr(y.as_mut_ptr());
    // Row parts vary fastest: threads at work together share their panels.
    team.run(row_parts * groups, &|task| {
        let (i, g) = (task % row_parts, task / row_parts);
        let t = Part {
            m0: i * m / row_parts,
            m1: (i + 1) * m / row_parts,
            p0: g * panels / groups,
            p1: (g + 1) * panels / groups,
            x,
            ldx,
            w,
            y,
            ldy,
            epilogue,
        };
        // SAFETY: the lengths were checked above, rows and panels are inside of them, and no two tasks have an element of y
        // in common.
        SCRATCH.with_borrow_mut(|scratch| unsafe { part(isa, t, scratch) });
    });
}

/// How one product is cut into tasks: rows and panels of each, at most.
fn split(m: usize, panels: usize, k: usize, threads: usize, widens: bool) -> (usize, usize) {
    // Tasks enough for threads of uneven speed to finish about together.
    let wanted = if threads == 1 { 1 } else { threads * 6 };
    if m <= FEW_ROWS {
        return (m, (panels / wanted).clamp(1, 8));
    }
    if widens && m <= MOST_ROWS {
        // Rows of a panel are widened once for each task. As many tasks for each thread, by columns as far as these go.
        let groups = (panels / COPY_PANELS).clamp(1, wanted);
        let groups = (groups / threads * threads).max(groups.min(threads));
        let row_parts = (2 * threads).div_ceil(groups).min(m.div_ceil(24));
        return (m.div_ceil(row_parts), panels.div_ceil(groups));
    }
    // A block of a group of panels takes half of a second level cache.
    let group = (512 * 1024 / 4 / (NR * k.min(KC))).min(panels);
    let groups = panels.div_ceil(group);
    let row_parts = wanted
        .div_ceil(groups)
        .max(m.div_ceil(MOST_ROWS))
        .min(m.div_ceil(24));
    (m.div_ceil(row_parts), group)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Reproducible values in -1..1.
    pub(crate) fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..n)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    /// W that bf16 holds.
    fn weights(n: usize, k: usize, seed: u64) -> Vec<f32> {
        let narrow = |x: f32| f32::from_bits(x.to_bits() & 0xffff_0000);
        noise(n * k, seed).into_iter().map(narrow).collect()
    }

    /// W packed in each way.
    fn packed(team: &mut Team, n: usize, k: usize, w: &[f32]) -> [PackedMatrix; 2] {
        let wide = PackedMatrix::pack(team, n, k, &|i, row| {
            row.copy_from_slice(&w[i * k..][..k]);
        });
        let narrow = PackedMatrix::pack_bf16(team, n, k, &|i, row| {
            for (bits, x) in row.iter_mut().zip(&w[i * k..]) {
                *bits = (x.to_bits() >> 16) as u16;
            }
        });
        let bytes = n.div_ceil(NR) * NR * k;
        assert_eq!([&wide, &narrow].map(PackedMatrix::bytes), [4 * bytes, 2 * bytes]);
        [wide, narrow]
    }

    const SHAPES: [(usize, usize, usize); 13] = [
        (0, 5, 5),
        (1, 1, 1),
        (3, 7, 5),
        (8, 32, 16),
        (13, 33, 31),
        (17, 100, 64),
        (5, 31, 513),
        (12, 64, 1025),
        (25, 40, 600),
        (49, 70, 130),
        (100, 384, 65),
        (197, 97, 1100),
        (400, 130, 33),
    ];

    #[test]
    fn agrees_with_f64() {
        for isa in Isa::available() {
            for threads in [1, 3] {
                let mut team = Team::new(threads);
                for (m, n, k) in SHAPES {
                    let (ldx, ldy) = (k + 3, n + 2);
                    let x = noise(m * ldx, 1);
                    let w = weights(n, k, 2);
                    let mut results = packed(&mut team, n, k, &w).map(|packed| {
                        assert_eq!((packed.n(), packed.k()), (n, k));
                        let mut y = vec![7.0; m * ldy];
                        gemm(&mut team, isa, &x, ldx, m, &packed, &mut y, ldy, &|_, _, _| {});
                        y
                    });
                    let y = std::mem::take(&mut results[0]);
                    for i in 0..m {
                        for j in 0..n {
                            let exact: f64 = (0..k)
                                .map(|p| f64::from(x[i * ldx + p]) * f64::from(w[j * k + p]))
                                .sum();
                            let off = (f64::from(y[i * ldy + j]) - exact).abs();
                            assert!(off < 1e-5 * (k as f64).sqrt(), "{m} {n} {k} {i} {j} {off}");
                        }
                        assert_eq!(y[i * ldy + n..][..2], [7.0; 2], "past the row's end");
                    }
                    assert!(results[1] == y, "widened weights give other bits: {m} {n} {k}");
                }
            }
        }
    }

    #[test]
    fn a_row_alone_has_the_same_bits() {
        for isa in Isa::available() {
            let mut solo = Team::new(1);
            for (m, n, k) in SHAPES {
                let x = noise(m * k, 3);
                let [_, packed] = packed(&mut solo, n, k, &weights(n, k, 4));
                let mut rows = vec![0.0; m * n];
                for i in 0..m {
                    let (x, y) = (&x[i * k..][..k], &mut rows[i * n..][..n]);
                    gemm(&mut solo, isa, x, k, 1, &packed, y, n, &|_, _, _| {});
                }
                for threads in [1, 2, 5] {
                    let mut team = Team::new(threads);
                    let mut y = vec![0.0; m * n];
                    gemm(&mut team, isa, &x, k, m, &packed, &mut y, n, &|_, _, _| {});
                    assert!(y.iter().zip(&rows).all(|(a, b)| a.to_bits() == b.to_bits()));
                }
                // And in the company of fewer rows, at another place.
                for few in [2, 5, 11, 14] {
                    if few < m {
                        let from = m - few;
                        let mut y = vec![0.0; few * n];
                        let x = &x[from * k..];
                        gemm(&mut solo, isa, x, k, few, &packed, &mut y, n, &|_, _, _| {});
                        assert!(y == rows[from * n..]);
                    }
                }
            }
        }
    }

    #[test]
    fn the_chain_runs_over_k_from_zero() {
        let (m, n, k) = (9, 70, 700);
        let (x, w) = (noise(m * k, 5), weights(n, k, 6));
        let mut team = Team::new(2);
        let [_, packed] = packed(&mut team, n, k, &w);
        for isa in Isa::available() {
            let mut y = vec![0.0; m * n];
            gemm(&mut team, isa, &x, k, m, &packed, &mut y, n, &|_, _, _| {});
            for i in 0..m {
                for j in 0..n {
                    let chain = (0..k).fold(0f32, |sum, p| {
                        let (a, b) = (x[i * k + p], w[j * k + p]);
                        if isa == Isa::PORTABLE {
                            a * b + sum
                        } else {
                            a.mul_add(b, sum)
                        }
                    });
                    assert_eq!(y[i * n + j], chain);
                }
            }
        }
    }

    #[test]
    fn epilogue_once_for_every_element() {
        for isa in Isa::available() {
            for threads in [1, 2] {
                let mut team = Team::new(threads);
                for (m, n, k) in SHAPES {
                    let x = noise(m * k, 7);
                    let [packed, _] = packed(&mut team, n, k, &weights(n, k, 8));
                    let mut plain = vec![0.0; m * n];
                    gemm(&mut team, isa, &x, k, m, &packed, &mut plain, n, &|_, _, _| {});
                    let hits = Mutex::new(vec![0; m * n]);
                    let mut y = vec![0.0; m * n];
                    gemm(&mut team, isa, &x, k, m, &packed, &mut y, n, &|i, j, segment| {
                        let mut hits = hits.lock().unwrap();
                        for (c, v) in segment.iter_mut().enumerate() {
                            hits[i * n + j + c] += 1;
                            *v += (j + c) as f32;
                        }
                    });
                    assert!(hits.into_inner().unwrap().iter().all(|&h| h == 1));
                    for i in 0..m * n {
                        assert_eq!(y[i], plain[i] + (i % n) as f32);
                    }
                }
            }
        }
    }
}
