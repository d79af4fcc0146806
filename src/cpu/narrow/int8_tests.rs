//! Products of int8 numbers against their definition, bit for bit, and against what they stand for.

use super::super::gemm::tests::noise;
use super::super::isa::Isa;
use super::super::team::Team;
use super::number::quantise;
use super::tests::{SHAPES, kernels_of, packed, product, tiles};
use super::*;

/// Rows of whole numbers and their scales.
fn quantised(k: usize, x: &[f32]) -> (Vec<i8>, Vec<f32>) {
    let mut numbers = vec![0; x.len()];
    let rows = x.chunks(k).zip(numbers.chunks_mut(k));
    let scales = rows.map(|(x, out)| quantise(Isa::PORTABLE, x, out)).collect();
    (numbers, scales)
}

/// One dword of `TDPBSSD`.
fn tdpbssd(c: i32, a: [i8; 4], b: [i8; 4]) -> i32 {
    (0..4).fold(c, |c, i| c.wrapping_add(i32::from(a[i]) * i32::from(b[i])))
}

/// One lane of `VPDPBUSD`.
fn vpdpbusd(c: i32, a: [u8; 4], b: [i8; 4]) -> i32 {
    (0..4).fold(c, |c, i| c.wrapping_add(i32::from(a[i]) * i32::from(b[i])))
}

/// The sum of one row and column, as a kernel of this name gets it.
fn model(kernel: &str, x: &[i8], w: &[i8]) -> i32 {
    let quad = |x: &[i8]| {
        let mut quad = [0; 4];
        quad[..x.len()].copy_from_slice(x);
        quad
    };
    let quads = x.chunks(4).zip(w.chunks(4)).map(|(x, w)| (quad(x), quad(w)));
    if kernel.ends_with("vnni") {
        let (sum, of_w) = quads.fold((0, 0), |(sum, of_w), (x, w)| {
            let above = x.map(|x| x as u8 ^ 0x80);
            (vpdpbusd(sum, above, w), vpdpbusd(of_w, [0x80; 4], w))
        });
        sum.wrapping_sub(of_w)
    } else {
        quads.fold(0, |sum, (x, w)| tdpbssd(sum, x, w))
    }
}

#[test]
fn rows_become_whole_numbers() {
    for isa in Isa::available() {
        let quantised = |x: &[f32]| {
            let mut out = vec![9; x.len()];
            let scale = quantise(isa, x, &mut out);
            (out, scale)
        };
        // Ties go to even numbers.
        let (numbers, scale) = quantised(&[127.0, -127.0, 0.5, 1.5, -2.5, 0.49, -0.0]);
        assert_eq!((numbers, scale), (vec![127, -127, 0, 2, -2, 0, 0], 1.0));
        assert_eq!(quantised(&[0.0, -0.0]), (vec![0, 0], 0.0));
        assert_eq!(quantised(&[1e-40, -1e-37]), (vec![0, 0], 0.0));
        let (numbers, scale) = quantised(&[f32::MAX, f32::MIN, 1.0]);
        assert_eq!((numbers, scale), (vec![127, -127, 0], f32::MAX / 127.0));
        let tiny = f32::from_bits(7 << 23);
        assert_eq!(quantised(&[tiny, -tiny / 2.0]), (vec![127, -64], tiny / 127.0));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
            let (numbers, scale) = quantised(&[3.0, bad, 1.0]);
            assert!(numbers == [0, 0, 0] && scale.is_nan(), "{bad}");
        }
        for x in noise(1000, 1).chunks(77) {
            let (numbers, scale) = quantised(x);
            let max = x.iter().fold(0f32, |max, x| max.max(x.abs()));
            assert_eq!(scale, max / 127.0);
            for (&q, &x) in numbers.iter().zip(x) {
                assert_eq!(f32::from(q), (x * (127.0 / max)).round_ties_even());
            }
        }
    }
}

#[test]
fn rows_come_back_from_tiles() {
    let mut team = Team::new(2);
    for (m, _, k) in SHAPES {
        let x = noise(m * k, 1);
        let (numbers, scales) = quantised(k, &x);
        let tiles = tiles(&mut team, Number::Int8, k, &x);
        let mut row = vec![9.0; k];
        for i in 0..m {
            tiles.read_row(i, &mut row);
            let want = numbers[i * k..][..k].iter().map(|&q| f32::from(q) * scales[i]);
            assert!(row.iter().copied().eq(want));
        }
    }
}

/// The sums are exact, so that every kernel has the bits of the definition; its models have them, too.
#[test]
fn every_kernel_has_the_bits_of_the_definition() {
    for threads in [1, 3] {
        let mut team = Team::new(threads);
        for (m, n, k) in SHAPES {
            let (x, w) = (noise(m * k, 3), noise(n * k, 4));
            let matrix = packed(&mut team, Number::Int8, n, k, &w);
            let ((xq, xs), (wq, ws)) = (quantised(k, &x), quantised(k, &w));
            let sum = |i: usize, j: usize| -> i64 {
                let row = xq[i * k..][..k].iter().zip(&wq[j * k..][..k]);
                row.map(|(&x, &w)| i64::from(x) * i64::from(w)).sum()
            };
            for kernel in kernels_of(Number::Int8) {
                let y = product(&mut team, kernel, k, &x, &matrix);
                for i in 0..m {
                    for j in 0..n {
                        let (sum, got) = (sum(i, j), y[i * n + j]);
                        let want = sum as i32 as f32 * (xs[i] * ws[j]);
                        assert!(
                            got.to_bits() == want.to_bits(),
                            "{} {m} {n} {k}: {got} {want}",
                            kernel.name
                        );
                        if j % 7 == 0 {
                            let model = model(kernel.name, &xq[i * k..][..k], &wq[j * k..][..k]);
                            assert_eq!(i64::from(model), sum, "{}", kernel.name);
                        }
                    }
                }
            }
        }
    }
}

/// Against the product that is meant: each number is off by half its row's scale at most, and a little of float32.
#[test]
fn agrees_with_f64_within_the_rounding() {
    let mut team = Team::new(2);
    let kernel = Kernel::detect(Number::Int8);
    for (m, n, k) in SHAPES {
        let (x, w) = (noise(m * k, 1), noise(n * k, 2));
        let matrix = packed(&mut team, Number::Int8, n, k, &w);
        let (xs, ws) = (quantised(k, &x).1, quantised(k, &w).1);
        let y = product(&mut team, kernel, k, &x, &matrix);
        for i in 0..m {
            for j in 0..n {
                let pairs = (0..k).map(|p| (f64::from(x[i * k + p]), f64::from(w[j * k + p])));
                let (half_x, half_w) = (f64::from(xs[i]) / 2.0, f64::from(ws[j]) / 2.0);
                let allowed: f64 = pairs
                    .clone()
                    .map(|(x, w)| x.abs() * half_w + w.abs() * half_x + half_x * half_w)
                    .sum();
                let exact: f64 = pairs.map(|(x, w)| x * w).sum();
                let off = (f64::from(y[i * n + j]) - exact).abs();
                assert!(off <= allowed * 1.00001, "{m} {n} {k}: {off}, allowed {allowed}");
            }
        }
    }
}

/// The largest sums there are, of either sign: nothing saturates on the way.
#[test]
fn the_longest_rows_of_the_largest_numbers_do_not_overflow() {
    let mut team = Team::new(2);
    let k = MAX_INT8_K;
    let x = [vec![1.0; k], vec![-1.0; k]].concat();
    let matrix = packed(&mut team, Number::Int8, 2, k, &x);
    for kernel in kernels_of(Number::Int8) {
        let y = product(&mut team, kernel, k, &x, &matrix);
        let unit = 1f32 / 127.0;
        let want = (127 * 127 * k as i32) as f32 * (unit * unit);
        assert_eq!(y, [want, -want, -want, want], "{}", kernel.name);
    }
}
