//! Products of int8 numbers against their definition, bit for bit, and against what they stand for.

use super::super::gemm::tests::noise;
use super::super::team::Team;
use super::number::{groups, quantise};
use super::tests::{SHAPES, kernels_of, packed, product, tiles};
use super::*;

/// The blocks of a row, with their scales.
fn quantised(x: &[f32]) -> Vec<([i8; 64], f32)> {
    let group = |x: [f32; 64]| {
        let mut numbers = [0; 64];
        let scale = quantise(&x, &mut numbers);
        (numbers, scale)
    };
    groups(x).map(group).collect()
}

/// A row's outlier: the first of its largest magnitude, if all are finite.
fn outlier(x: &[f32]) -> Outlier {
    if !x.iter().all(|x| x.is_finite()) {
        return Outlier::default();
    }
    let max = x.iter().fold(0f32, |max, x| max.max(x.abs()));
    let column = x.iter().position(|x| x.abs() == max).unwrap();
    let value = x[column];
    Outlier { column, value }
}

/// A row without its outlier.
fn without_outlier(x: &[f32]) -> (Vec<f32>, Outlier) {
    let (mut rest, outlier) = (x.to_vec(), outlier(x));
    rest[outlier.column] -= outlier.value;
    (rest, outlier)
}

/// Rows whose numbers are of very different sizes.
fn uneven(k: usize, count: usize, seed: u64) -> Vec<f32> {
    let mut x = noise(count, seed);
    for (i, x) in x.iter_mut().enumerate() {
        *x *= if i % k % 97 == 5 { 40.0 } else { 1.0 };
    }
    x
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
        let offset = -128 * x.iter().map(|&x| i32::from(x)).sum::<i32>();
        quads.fold(offset, |sum, (x, w)| vpdpbusd(sum, w.map(|w| w as u8 ^ 0x80), x))
    } else {
        quads.fold(0, |sum, (x, w)| tdpbssd(sum, x, w))
    }
}

#[test]
fn blocks_become_whole_numbers() {
    let quantised = |x: &[f32]| {
        let (numbers, scale) = quantised(x)[0];
        (numbers[..x.len()].to_vec(), scale)
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
    for x in noise(1000, 1).chunks(57) {
        let (numbers, scale) = quantised(x);
        let max = x.iter().fold(0f32, |max, x| max.max(x.abs()));
        assert_eq!(scale, max / 127.0);
        for (&q, &x) in numbers.iter().zip(x) {
            assert_eq!(f32::from(q), (x * (127.0 / max)).round_ties_even());
        }
    }
}

#[test]
fn the_first_of_the_largest_is_the_outlier() {
    let mut team = Team::new(1);
    let mut outlier = |x: &[f32]| tiles(&mut team, Number::Int8, x.len(), x).outliers()[0];
    for k in [4, 64, 70, 200] {
        let mut x = vec![1.0; k];
        x[k - 3] = -3.0;
        x[k - 1] = 3.0;
        let (column, value) = (k - 3, -3.0);
        assert_eq!(outlier(&x), Outlier { column, value });
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
            x[k / 2] = bad;
            assert_eq!(outlier(&x), Outlier::default(), "{bad}");
        }
        assert_eq!(outlier(&vec![-0.0; k]).value, 0.0);
    }
}

#[test]
fn rows_come_back_from_tiles() {
    let mut team = Team::new(2);
    for (m, _, k) in SHAPES {
        let x = uneven(k, m * k, 1);
        let tiles = tiles(&mut team, Number::Int8, k, &x);
        let mut row = vec![9.0; k];
        for (i, x) in x.chunks(k).enumerate() {
            tiles.read_row(i, &mut row);
            let (rest, outlier) = without_outlier(x);
            let mut want: Vec<f32> = quantised(&rest)
                .iter()
                .flat_map(|(numbers, scale)| numbers.map(|q| f32::from(q) * scale))
                .collect();
            want.truncate(k);
            want[outlier.column] = outlier.value;
            assert_eq!(row, want);
            let offsets = quantised(&rest);
            let offsets = offsets
                .iter()
                .map(|(numbers, _)| -128 * numbers.iter().map(|&q| i32::from(q)).sum::<i32>());
            assert!(
                offsets.eq(tiles.offsets()[i * tiles.k_blocks()..][..tiles.k_blocks()]
                    .iter()
                    .copied())
            );
        }
    }
}

/// y of one row and column, with the sums of products as a kernel of this name gets them.
fn definition(kernel: &str, x: &[f32], w: &[f32]) -> f32 {
    let (rest, outlier) = without_outlier(x);
    let w = quantised(w);
    let y = quantised(&rest).iter().zip(&w).fold(None, |y, ((x, s), (w, t))| {
        let exact: i32 = x.iter().zip(w).map(|(&x, &w)| i32::from(x) * i32::from(w)).sum();
        assert_eq!(model(kernel, x, w), exact, "{kernel}");
        let scaled = exact as f32 * (s * t);
        Some(y.map_or(scaled, |y: f32| y + scaled))
    });
    let (numbers, scale) = w[outlier.column / 64];
    let y = y.unwrap();
    if outlier.value == 0.0 {
        return y;
    }
    y + outlier.value * (f32::from(numbers[outlier.column % 64]) * scale)
}

/// The sums are exact, so that every kernel has the bits of the definition; its models have them, too.
#[test]
fn every_kernel_has_the_bits_of_the_definition() {
    for threads in [1, 3] {
        let mut team = Team::new(threads);
        for (m, n, k) in SHAPES {
            let (x, w) = (uneven(k, m * k, 3), uneven(k, n * k, 4));
            for kernel in kernels_of(Number::Int8) {
                let matrix = packed(&mut team, kernel, n, k, &w);
                let y = product(&mut team, kernel, k, &x, &matrix);
                for (i, x) in x.chunks(k).enumerate() {
                    for j in (i % 3..n).step_by(3) {
                        let (got, want) = (y[i * n + j], definition(kernel.name, x, &w[j * k..][..k]));
                        assert!(
                            got.to_bits() == want.to_bits(),
                            "{} {m} {n} {k}: {got} {want}",
                            kernel.name
                        );
                    }
                }
            }
        }
    }
}

/// Against the product that is meant: each number is off by half its block's scale at most, and a little of float32.
#[test]
fn agrees_with_f64_within_the_rounding() {
    let mut team = Team::new(2);
    let kernel = Kernel::detect(Number::Int8);
    for (m, n, k) in SHAPES {
        let (x, w) = (uneven(k, m * k, 1), uneven(k, n * k, 2));
        let matrix = packed(&mut team, kernel, n, k, &w);
        let y = product(&mut team, kernel, k, &x, &matrix);
        let halves =
            |x: &[f32]| -> Vec<f64> { quantised(x).iter().map(|(_, s)| f64::from(*s) / 2.0).collect() };
        for (i, x) in x.chunks(k).enumerate() {
            let half_x = halves(&without_outlier(x).0);
            for (j, w) in w.chunks(k).enumerate() {
                let half_w = halves(w);
                let pairs =
                    (0..k).map(|p| (f64::from(x[p]), f64::from(w[p]), half_x[p / 64], half_w[p / 64]));
                let allowed: f64 = pairs
                    .clone()
                    .map(|(x, w, half_x, half_w)| x.abs() * half_w + w.abs() * half_x + half_x * half_w)
                    .sum();
                let exact: f64 = pairs.map(|(x, w, _, _)| x * w).sum();
                let off = (f64::from(y[i * n + j]) - exact).abs();
                assert!(off <= allowed * 1.0001, "{m} {n} {k}: {off}, allowed {allowed}");
            }
        }
    }
}

/// A row that holds NaN or an infinity gives NaN, and leaves the others alone.
#[test]
fn what_is_not_finite_gives_nan_in_its_row_alone() {
    let mut team = Team::new(2);
    let (m, n, k) = (20, 40, 130);
    let x = noise(m * k, 1);
    for kernel in kernels_of(Number::Int8) {
        let matrix = packed(&mut team, kernel, n, k, &noise(n * k, 2));
        let good = product(&mut team, kernel, k, &x, &matrix);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = x.clone();
            x[3 * k + 70] = bad;
            let y = product(&mut team, kernel, k, &x, &matrix);
            for (i, (y, good)) in y.chunks(n).zip(good.chunks(n)).enumerate() {
                assert!(if i == 3 {
                    y.iter().all(|y| y.is_nan())
                } else {
                    y == good
                });
            }
        }
    }
}

/// Of numbers that are not the largest of their block, as the limit for outliers counts it.
#[test]
fn the_rounding_of_weights_is_what_it_says() {
    let mut team = Team::new(2);
    let kernel = Kernel::detect(Number::Int8);
    let (n, k) = (40, 640);
    for (size, low, high) in [(1.0, 0.003, 0.008), (20.0, 0.035, 0.07), (300.0, 0.5, 1.1)] {
        let mut w = noise(n * k, 5);
        for w in w.iter_mut().step_by(64) {
            *w = size * 0.6;
        }
        let squares = w.iter().map(|&w| f64::from(w).powi(2)).sum();
        let said = packed(&mut team, kernel, n, k, &w).relative_rounding(squares);
        let (mut off, mut of_others) = (0.0, 0.0);
        for w in w.chunks(k) {
            for ((numbers, scale), w) in quantised(w).iter().zip(w.chunks(64)) {
                let max = w.iter().fold(0f32, |max, w| max.max(w.abs()));
                for (&q, &w) in numbers.iter().zip(w).filter(|(_, w)| w.abs() < max) {
                    off += f64::from(f32::from(q) * scale - w).powi(2);
                    of_others += f64::from(w).powi(2);
                }
            }
        }
        let measured: f64 = (off / of_others).sqrt();
        println!("a number of {size} times the others: off by {measured:.4}, said {said:.4}");
        assert!((low..high).contains(&measured), "{measured}");
        if measured < 0.1 {
            assert!((0.9..1.1).contains(&(said / measured)), "{said} {measured}");
        } else {
            // Most have become zero, and are off by themselves.
            assert!(said > 0.1, "{said} {measured}");
        }
    }
    let zeros = packed(&mut team, kernel, n, k, &vec![0.0; n * k]);
    assert_eq!(zeros.relative_rounding(0.0), 0.0);
}
