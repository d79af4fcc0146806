//! Row kernels: what an encoder does besides matrix products.
//!
//! Each works on one row (a token's vector) or on elements alone, in an order
//! of operations that depends on the row's length and the instruction set
//! only. So a row's result does not depend on its batch.

use super::isa::{Isa, Simd, isa_fn};
#[cfg(test)]
use crate::model::RopeTable;

/// 1.5 * 2^23: adding it rounds to a whole number, which then stands in the
/// low bits of the sum.
const ROUND: f32 = 12_582_912.0;

/// e^x for x in -87..=88, within 2 units in the last place; 0 below -88, e^88
/// above. NaN stays NaN.
///
/// x = n ln 2 + r with |r| <= (ln 2)/2, and e^x = 2^n e^r. The part 355/512 of
/// ln 2 has so few bits that its product with n is exact. For e^r a polynomial
/// 1 + r + r² q(r), q of degree 4, was fitted to the smallest largest error
/// (weighted least squares on Chebyshev nodes with Lawson's reweighting; error
/// 3e-9 before rounding).
#[inline(always)]
pub(super) fn exp_v<S: Simd>(s: S, x: S::V) -> S::V {
    let x = s.max(s.splat(-88.0), s.min(s.splat(88.0), x));
    let t = s.fma(x, s.splat(std::f32::consts::LOG2_E), s.splat(ROUND));
    let n = s.sub(t, s.splat(ROUND));
    let r = s.fma(n, s.splat(-355.0 / 512.0), x);
    // 355/512 - ln 2.
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let mut q = s.splat(0.001_395_06);
    for c in [0.008_368_954, 0.041_666_206, 0.166_665_18, 0.5] {
        q = s.fma(q, r, s.splat(c));
    }
    let p = s.add(s.fma(s.mul(r, r), q, r), s.splat(1.0));
    s.mul(p, s.pow2_biased(t))
}

/// Exact GELU, x Φ(x) = x (1 + erf(x/√2)) / 2, with an error below
/// 2e-7 max(1, |x|) (2.2e-7 without fused multiply-adds).
///
/// For a = |x| let Φ(a) = 1/2 + a P(a²) / 2Q(a²). Then GELU is
///
/// ```text
/// max(x, 0) - a/2 · (Q - a P) / Q
/// ```
///
/// whose second term vanishes in f32 beyond a = 5.5. Up to there P and Q, of
/// degrees 5 and 6, were fitted to erf in 30 digits by linearised least
/// squares with Lawson's reweighting towards the smallest largest error (8e-10
/// before rounding), then scaled by a common factor tried out for the least
/// error after rounding. All coefficients are positive, so no term cancels
/// another and Q has no zero.
#[inline(always)]
fn gelu_v<S: Simd>(s: S, x: S::V) -> S::V {
    const P: [f32; 6] = [
        2.242_323e-7,
        2.728_841_4e-5,
        5.592_294e-4,
        1.484_680_1e-2,
        1.025_737_75e-1,
        1.205_047_7,
    ];
    const Q: [f32; 7] = [
        6.037_610_4e-9,
        3.401_181_4e-6,
        1.331_321e-4,
        3.060_866_6e-3,
        4.422_882_6e-2,
        3.802_745_6e-1,
        1.510_303_3,
    ];
    // -a; in this order of operands NaN stays NaN.
    let minus = s.max(s.splat(-5.5), s.min(s.sub(s.zero(), x), x));
    let t = s.mul(minus, minus);
    let mut p = s.splat(P[0]);
    for c in &P[1..] {
        p = s.fma(p, t, s.splat(*c));
    }
    let mut q = s.splat(Q[0]);
    for c in &Q[1..] {
        q = s.fma(q, t, s.splat(*c));
    }
    let rest = s.div(s.fma(minus, p, q), q);
    s.fma(s.mul(s.splat(0.5), minus), rest, s.max(s.zero(), x))
}

/// `x[i] = f(x[i], y[i])` over whole vectors and the tail; a macro, as a
/// closure would have to be inlined by force.
macro_rules! map2 {
    ($s:ident, $x:expr, $y:expr, |$a:ident, $b:ident| $f:expr) => {{
        let (x, y): (&mut [f32], &[f32]) = ($x, $y);
        assert_eq!(x.len(), y.len());
        let mut xs = x.chunks_exact_mut(S::LANES);
        let mut ys = y.chunks_exact(S::LANES);
        for (x, y) in (&mut xs).zip(&mut ys) {
            let ($a, $b) = ($s.load(x), $s.load(y));
            $s.store(x, $f);
        }
        let (x, y) = (xs.into_remainder(), ys.remainder());
        if !x.is_empty() {
            let ($a, $b) = ($s.load_tail(x), $s.load_tail(y));
            $s.store_tail(x, $f);
        }
    }};
}

/// `x[i] = f(x[i])`, likewise.
macro_rules! map1 {
    ($s:ident, $x:expr, |$a:ident| $f:expr) => {{
        let mut xs = $x.chunks_exact_mut(S::LANES);
        for x in &mut xs {
            let $a = $s.load(x);
            $s.store(x, $f);
        }
        let x = xs.into_remainder();
        if !x.is_empty() {
            let $a = $s.load_tail(x);
            $s.store_tail(x, $f);
        }
    }};
}

#[cfg(test)]
isa_fn! {
    /// x = e^x, for x <= 88 (see [`exp_v`]).
    pub fn exp<S>(s, x: &mut [f32]) {
        map1!(s, x, |v| exp_v(s, v));
    }
}

isa_fn! {
    /// x = GELU(x), exact (with erf).
    pub fn gelu<S>(s, x: &mut [f32]) {
        map1!(s, x, |v| gelu_v(s, v));
    }
}

isa_fn! {
    /// x = GELU(x + y).
    pub fn add_gelu<S>(s, x: &mut [f32], y: &[f32]) {
        map2!(s, x, y, |a, b| gelu_v(s, s.add(a, b)));
    }
}

isa_fn! {
    /// x += y.
    pub fn add<S>(s, x: &mut [f32], y: &[f32]) {
        map2!(s, x, y, |a, b| s.add(a, b));
    }
}

isa_fn! {
    /// y += a x.
    pub fn axpy<S>(s, a: f32, x: &[f32], y: &mut [f32]) {
        let a = s.splat(a);
        map2!(s, y, x, |v, x| s.fma(a, x, v));
    }
}

isa_fn! {
    /// x *= a.
    pub fn scale<S>(s, a: f32, x: &mut [f32]) {
        let a = s.splat(a);
        map1!(s, x, |v| s.mul(v, a));
    }
}

/// Σ f(x[i], y[i]) in a fixed order: four interleaved sums of vectors, then
/// the tail, then the lanes by halves. `f` must be 0 for zero lanes, or given
/// with its own tail.
macro_rules! fold {
    ($s:ident, $x:expr, $y:expr, |$acc:ident, $a:ident, $b:ident| $f:expr) => {
        fold!($s, $x, $y, |$acc, $a, $b, _live| $f)
    };
    ($s:ident, $x:expr, $y:expr, |$acc:ident, $a:ident, $b:ident, $live:ident| $f:expr) => {{
        let (x, y): (&[f32], &[f32]) = ($x, $y);
        assert_eq!(x.len(), y.len());
        let mut acc = [$s.zero(); 4];
        let mut xs = x.chunks_exact(4 * S::LANES);
        let mut ys = y.chunks_exact(4 * S::LANES);
        for (x, y) in (&mut xs).zip(&mut ys) {
            for (j, slot) in acc.iter_mut().enumerate() {
                let $acc = *slot;
                let ($a, $b) = ($s.load(&x[j * S::LANES..]), $s.load(&y[j * S::LANES..]));
                let $live = $s.splat(1.0);
                *slot = $f;
            }
        }
        let mut xs = xs.remainder().chunks_exact(S::LANES);
        let mut ys = ys.remainder().chunks_exact(S::LANES);
        let mut j = 0;
        for (x, y) in (&mut xs).zip(&mut ys) {
            let $acc = acc[j];
            let ($a, $b) = ($s.load(x), $s.load(y));
            let $live = $s.splat(1.0);
            acc[j] = $f;
            j += 1;
        }
        let (x, y) = (xs.remainder(), ys.remainder());
        if !x.is_empty() {
            let $acc = acc[3];
            let ($a, $b) = ($s.load_tail(x), $s.load_tail(y));
            let $live = $s.load_tail(&[1.0; crate::cpu::isa::MAX_LANES][..x.len()]);
            acc[3] = $f;
        }
        $s.sum($s.add($s.add(acc[0], acc[1]), $s.add(acc[2], acc[3])))
    }};
}

isa_fn! {
    /// Σ x[i] y[i].
    pub fn dot<S>(s, x: &[f32], y: &[f32]) -> f32 {
        fold!(s, x, y, |acc, a, b| s.fma(a, b, acc))
    }
}

/// √(Σ x[i]²).
pub fn l2_norm(isa: Isa, x: &[f32]) -> f32 {
    dot(isa, x, x).sqrt()
}

/// x /= √(Σ x[i]²), but for a vector of zeros and one with numbers that are not finite, which stay.
pub fn normalize(isa: Isa, x: &mut [f32]) {
    let squares = dot(isa, x, x);
    let mut norm = squares.sqrt();
    // Squares of numbers above 1e19 overflow and those below 1e-19 underflow, where numbers themselves do not.
    if !squares.is_normal() {
        let max = x.iter().fold(0f32, |max, x| max.max(x.abs()));
        if max == 0.0 || !max.is_finite() {
            return;
        }
        // Brought to a maximum of about 1 by a power of two, which is exact; cuda/pool.cu does the same.
        let exponent = max.to_bits() >> 23;
        scale(
            isa,
            f32::from_bits(254u32.saturating_sub(exponent).max(1) << 23),
            x,
        );
        norm = l2_norm(isa, x);
    }
    scale(isa, 1.0 / norm, x);
}

isa_fn! {
    /// x = (x - mean) / √(variance + eps) · gamma + beta, with the biased
    /// variance Σ (x - mean)² / n, taken in a second pass over the row.
    pub fn layer_norm<S>(s, x: &mut [f32], gamma: &[f32], beta: &[f32], eps: f32) {
        let n = x.len() as f32;
        let mean = fold!(s, x, x, |acc, a, _b| s.add(acc, a)) / n;
        let mean = s.splat(mean);
        // `live` is 0 in the lanes past the row's end, which are not part of it.
        let square = fold!(s, x, x, |acc, a, _b, live| {
            let d = s.mul(s.sub(a, mean), live);
            s.fma(d, d, acc)
        });
        let factor = s.splat(1.0 / (square / n + eps).sqrt());
        map2!(s, x, gamma, |v, g| s.mul(s.mul(s.sub(v, mean), factor), g));
        map2!(s, x, beta, |v, b| s.add(v, b));
    }
}

isa_fn! {
    /// out = x + r.
    pub fn sum<S>(s, x: &[f32], r: &[f32], out: &mut [f32]) {
        out.copy_from_slice(x);
        map2!(s, out, r, |a, b| s.add(a, b));
    }
}

isa_fn! {
    /// out[j] = Σ over the rows of x[row, j]: columns of `rows`, of
    /// `out.len()` values each at distance `stride`. Kahan's compensation
    /// keeps the error of a sum of any length to about one rounding.
    pub fn sum_rows<S>(s, x: &[f32], rows: usize, stride: usize, out: &mut [f32]) {
        let width = out.len();
        assert!(rows == 0 || x.len() >= (rows - 1) * stride + width);
        // Four vectors side by side, as each chain waits for its additions.
        let mut chunks = out.chunks_exact_mut(4 * S::LANES);
        let mut col = 0;
        for out in &mut chunks {
            let mut total = [s.zero(); 4];
            let mut lost = [s.zero(); 4];
            for row in 0..rows {
                let x = &x[row * stride + col..][..4 * S::LANES];
                for j in 0..4 {
                    let term = s.sub(s.load(&x[j * S::LANES..]), lost[j]);
                    let next = s.add(total[j], term);
                    lost[j] = s.sub(s.sub(next, total[j]), term);
                    total[j] = next;
                }
            }
            for j in 0..4 {
                s.store(&mut out[j * S::LANES..], total[j]);
            }
            col += 4 * S::LANES;
        }
        for out in chunks.into_remainder() {
            let (mut total, mut lost) = (0f32, 0f32);
            for row in 0..rows {
                let term = x[row * stride + col] - lost;
                let next = total + term;
                lost = (next - total) - term;
                total = next;
            }
            *out = total;
            col += 1;
        }
    }
}

/// out = x rotated: (x1 cos - x2 sin, x2 cos + x1 sin) for the halves x1, x2.
#[inline(always)]
pub(super) fn rotate_v<S: Simd>(s: S, x: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
    let half = cos.len();
    assert!(sin.len() == half && x.len() == 2 * half && out.len() == 2 * half);
    let (x1, x2) = x.split_at(half);
    let (o1, o2) = out.split_at_mut(half);
    let mut i = 0;
    while i + S::LANES <= half {
        let (a, b) = (s.load(&x1[i..]), s.load(&x2[i..]));
        let (c, d) = (s.load(&cos[i..]), s.load(&sin[i..]));
        s.store(&mut o1[i..], s.sub(s.mul(a, c), s.mul(b, d)));
        s.store(&mut o2[i..], s.add(s.mul(b, c), s.mul(a, d)));
        i += S::LANES;
    }
    if i < half {
        let (a, b) = (s.load_tail(&x1[i..]), s.load_tail(&x2[i..]));
        let (c, d) = (s.load_tail(&cos[i..]), s.load_tail(&sin[i..]));
        s.store_tail(&mut o1[i..], s.sub(s.mul(a, c), s.mul(b, d)));
        s.store_tail(&mut o2[i..], s.add(s.mul(b, c), s.mul(a, d)));
    }
}

#[cfg(test)]
isa_fn! {
    /// out = one head's vector x, rotated to `position`.
    pub fn rotate<S>(s, x: &[f32], table: &RopeTable, position: usize, out: &mut [f32]) {
        let (cos, sin) = table.at(position);
        rotate_v(s, x, cos, sin, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::naive::erf;

    const LENGTHS: [usize; 12] = [1, 2, 7, 8, 15, 17, 31, 33, 64, 100, 384, 1027];

    fn wave(n: usize, seed: f32) -> Vec<f32> {
        (0..n)
            .map(|i| ((i as f32 + seed) * 12.9898).sin() * 3.0 + 0.5)
            .collect()
    }

    #[test]
    fn exp_is_within_two_units() {
        for isa in Isa::available() {
            let xs: Vec<f32> = (0..400_003).map(|i| -87.0 + i as f32 * 2.18e-4).collect();
            let mut ys = xs.clone();
            exp(isa, &mut ys);
            for (&x, &y) in xs.iter().zip(&ys).filter(|(x, _)| **x <= 0.0) {
                let exact = f64::from(x).exp();
                let unit = f64::from((exact as f32).next_up()) - f64::from(exact as f32);
                let off = (f64::from(y) - exact).abs() / unit;
                assert!(off <= 2.0, "{} exp({x}) = {y}, {off} units", isa.name());
            }
            let mut odd = [0.0, f32::NEG_INFINITY, -1e30, f32::NAN, 88.0, -100.0, -88.5];
            exp(isa, &mut odd);
            assert_eq!(odd[..3], [1.0, 0.0, 0.0]);
            assert!(odd[3].is_nan() && (odd[4] / 88f32.exp() - 1.0).abs() < 1e-6);
            assert_eq!(odd[5..], [0.0, 0.0]);
        }
    }

    #[test]
    fn gelu_is_exact_enough() {
        assert!((erf(1.0) - 0.842_700_792_949_714_9).abs() < 1e-15);
        assert!((erf(2.999_999) - erf(3.000_001)).abs() < 1e-9);
        for isa in Isa::available() {
            let xs: Vec<f32> = (0..200_001).map(|i| -10.0 + i as f32 * 1e-4).collect();
            let mut ys = xs.clone();
            gelu(isa, &mut ys);
            for (&x, &y) in xs.iter().zip(&ys) {
                let x64 = f64::from(x);
                let exact = 0.5 * x64 * (1.0 + erf(x64 / 2f64.sqrt()));
                let off = (f64::from(y) - exact).abs() / x64.abs().max(1.0);
                let bound = if isa == Isa::PORTABLE { 2.2e-7 } else { 2e-7 };
                assert!(off <= bound, "{} gelu({x}) = {y}, {off:e}", isa.name());
            }
            let mut odd = [0.0, -100.0, 100.0, f32::INFINITY, f32::NAN];
            gelu(isa, &mut odd);
            assert!(odd[0] == 0.0 && odd[1].abs() < 1.1e-6);
            assert_eq!(odd[2..4], [100.0, f32::INFINITY]);
            assert!(odd[4].is_nan());
            // With a sum before it, the same bits.
            for length in [0, 1, 16, 37, 1000] {
                let (mut x, y) = (xs[90_000..][..length].to_vec(), &xs[7..][..length]);
                let mut sum = x.clone();
                add_gelu(isa, &mut x, y);
                add(isa, &mut sum, y);
                gelu(isa, &mut sum);
                assert_eq!(x, sum, "{}, {length}", isa.name());
            }
        }
    }

    #[test]
    fn vectors_of_any_size_are_normalised() {
        let base: Vec<f32> = (0..37).map(|i| ((i * 7) % 11) as f32 / 4.0 - 1.0).collect();
        for isa in Isa::available() {
            for size in [
                0.0, 1e-45, 1e-40, 1e-38, 1e-30, 1e-20, 1e-19, 1e-10, 1.0, 1e10, 1e18, 1e19, 1e20, 1e30,
                1.9e38,
            ] {
                let given: Vec<f32> = base.iter().map(|x| x * size).collect();
                let mut x = given.clone();
                normalize(isa, &mut x);
                let norm = given.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
                for (x, given) in x.iter().zip(&given) {
                    let wanted = if norm > 0.0 { f64::from(*given) / norm } else { 0.0 };
                    assert!(
                        (f64::from(*x) - wanted).abs() < 1e-6,
                        "{isa:?} {size:e}: {x} {wanted}"
                    );
                }
                // The bits of ordinary vectors are those of one division.
                if (1e-10..=1e10).contains(&size) {
                    let mut plain = given.clone();
                    scale(isa, 1.0 / l2_norm(isa, &given), &mut plain);
                    assert_eq!(x, plain);
                }
            }
            for odd in [f32::NAN, f32::INFINITY] {
                let mut x = [1.0, odd, 2.0];
                normalize(isa, &mut x);
                assert!(x.iter().any(|x| !x.is_finite()));
            }
        }
    }

    #[test]
    fn layer_norm_agrees_with_f64() {
        for isa in Isa::available() {
            for n in LENGTHS {
                let (x, r) = (wave(n, 0.0), wave(n, 77.0));
                let (gamma, beta) = (wave(n, 5.0), wave(n, 9.0));
                let v: Vec<f64> = (0..n).map(|i| f64::from(x[i]) + f64::from(r[i])).collect();
                let mean = v.iter().sum::<f64>() / n as f64;
                let var = v.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
                let mut out = vec![0.0; n];
                sum(isa, &x, &r, &mut out);
                layer_norm(isa, &mut out, &gamma, &beta, 1e-5);
                for i in 0..n {
                    let exact =
                        (v[i] - mean) / (var + 1e-5).sqrt() * f64::from(gamma[i]) + f64::from(beta[i]);
                    // Two elements nearly alike make the variance inexact.
                    assert!((f64::from(out[i]) - exact).abs() < 2e-5, "{n}: {i}");
                }
            }
        }
    }

    #[test]
    fn sums_agree_with_f64() {
        for isa in Isa::available() {
            for n in LENGTHS {
                let (x, y) = (wave(n, 1.0), wave(n, 2.0));
                let pairs = || x.iter().zip(&y).map(|(a, b)| (f64::from(*a), f64::from(*b)));
                let exact: f64 = pairs().map(|(a, b)| a * b).sum();
                let size: f64 = pairs().map(|(a, b)| (a * b).abs()).sum();
                assert!((f64::from(dot(isa, &x, &y)) - exact).abs() <= 1e-6 * size);
                let norm: f64 = x.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>().sqrt();
                assert!((f64::from(l2_norm(isa, &x)) / norm - 1.0).abs() < 1e-6);
                let mut z = y.clone();
                axpy(isa, 0.3, &x, &mut z);
                let mut added = y.clone();
                add(isa, &mut added, &x);
                let mut scaled = y.clone();
                scale(isa, 2.0, &mut scaled);
                for i in 0..n {
                    assert!((z[i] - (0.3 * x[i] + y[i])).abs() < 1e-6);
                    assert_eq!(added[i], y[i] + x[i]);
                    assert_eq!(scaled[i], y[i] * 2.0);
                }
            }
        }
    }

    #[test]
    fn long_sums_of_rows_stay_exact() {
        for isa in Isa::available() {
            for (rows, width) in [(0, 3), (1, 65), (8192, 70), (100, 384)] {
                let stride = width + 1;
                let x: Vec<f32> = (0..rows * stride).map(|i| 0.1 + (i % 7) as f32).collect();
                let mut out = vec![1.0; width];
                sum_rows(isa, &x, rows, stride, &mut out);
                for j in 0..width {
                    let exact: f64 = (0..rows).map(|r| f64::from(x[r * stride + j])).sum();
                    assert!((f64::from(out[j]) - exact).abs() <= 1e-6 * exact);
                }
            }
        }
    }

    #[test]
    fn rotation_by_the_angle() {
        for isa in Isa::available() {
            for d in [2, 6, 32, 64, 70] {
                let table = RopeTable::new(50, d, 10000.0);
                assert_eq!((table.half(), table.positions()), (d / 2, 50));
                let x = wave(d, 3.0);
                let mut out = vec![0.0; d];
                rotate(isa, &x, &table, 49, &mut out);
                for i in 0..d / 2 {
                    let angle = 49.0 * 10000f64.powf(-2.0 * i as f64 / d as f64);
                    let (a, b) = (f64::from(x[i]), f64::from(x[i + d / 2]));
                    let first = a * angle.cos() - b * angle.sin();
                    let second = b * angle.cos() + a * angle.sin();
                    assert!((f64::from(out[i]) - first).abs() < 3e-5);
                    assert!((f64::from(out[i + d / 2]) - second).abs() < 3e-5);
                }
            }
        }
    }
}
