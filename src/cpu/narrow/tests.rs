//! Every kernel against float64, against the others, and bit for bit against a model of its instruction.

use std::sync::Mutex;

use super::super::gemm::tests::noise;
use super::super::isa::Isa;
use super::super::team::Team;
use super::number::{round, widen};
use super::*;

/// The kernels for bf16 and for int8; a test says which of them this machine cannot run.
const BF16: [&str; 5] = ["amx", "avx512-bf16", "avx512", "avx2", "portable"];
const INT8: [&str; 6] = ["amx", "avx512-vnni", "avx-vnni", "avx512", "avx2", "portable"];

pub fn kernels_of(number: Number) -> Vec<Kernel> {
    let names = match number {
        Number::Bf16 => &BF16[..],
        Number::Int8 => &INT8[..],
    };
    let kernels = Kernel::available(number);
    for name in names {
        if !kernels.iter().any(|kernel| kernel.name == *name) {
            println!("SKIPPED: this machine has no {name} for {number}");
        }
    }
    assert!(kernels.iter().all(|kernel| names.contains(&kernel.name)));
    kernels
}

fn kernels() -> Vec<Kernel> {
    [Number::Bf16, Number::Int8].map(kernels_of).concat()
}

/// A number below 2^-126 is zero to these instructions, as operand and as result.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

fn fused(a: u16, b: u16, c: f32) -> f32 {
    flush(flush(widen(a)).mul_add(flush(widen(b)), flush(c)))
}

/// One element of `TDPBF16PS`: 16 pairs.
fn tdpbf16ps(c: f32, a: &[u16], b: &[u16]) -> f32 {
    let chain = |odd: usize| (0..16).fold(0.0, |sum, r| fused(a[2 * r + odd], b[2 * r + odd], sum));
    flush(flush(c) + flush(chain(0) + chain(1)))
}

/// One lane of `VDPBF16PS`, and so of 16 in a row.
fn vdpbf16ps(c: f32, a: &[u16], b: &[u16]) -> f32 {
    (0..16).fold(c, |sum, r| {
        let sum = fused(a[2 * r + 1], b[2 * r + 1], sum);
        fused(a[2 * r], b[2 * r], sum)
    })
}

/// y of one row and column as a kernel of this name defines it.
fn model(kernel: &str, x: &[u16], w: &[u16]) -> f32 {
    let step = if kernel == "avx512-bf16" {
        vdpbf16ps
    } else {
        tdpbf16ps
    };
    let blocks = x.chunks(ROW_NUMBERS).zip(w.chunks(ROW_NUMBERS));
    blocks.fold(0.0, |y, (x, w)| {
        let (mut a, mut b) = ([0; ROW_NUMBERS], [0; ROW_NUMBERS]);
        a[..x.len()].copy_from_slice(x);
        b[..w.len()].copy_from_slice(w);
        step(y, &a, &b)
    })
}

pub fn packed(team: &mut Team, kernel: Kernel, n: usize, k: usize, w: &[f32]) -> PackedTiles {
    match kernel.number {
        Number::Bf16 => PackedTiles::pack(team, n, k, &|i, row| {
            round_row(Isa::PORTABLE, &w[i * k..][..k], row);
        }),
        Number::Int8 => PackedTiles::quantise(team, Isa::PORTABLE, kernel.flips, n, k, &|i, row| {
            row.copy_from_slice(&w[i * k..][..k]);
        }),
    }
}

pub fn tiles(team: &mut Team, number: Number, k: usize, x: &[f32]) -> Tiles {
    let mut tiles = Tiles::default();
    tiles.round(team, Isa::detect(), number, x, k);
    tiles
}

pub fn product(team: &mut Team, kernel: Kernel, k: usize, x: &[f32], w: &PackedTiles) -> Vec<f32> {
    let x = tiles(team, kernel.number, k, x);
    let mut y = vec![7.0; x.rows() * w.n()];
    gemm(team, kernel, &x, w, 1, Some(&mut y), &|_, _, _| ());
    y
}

/// (M, N, K), with ends of tiles, panels, blocks and tasks.
pub const SHAPES: [(usize, usize, usize); 15] = [
    (0, 5, 5),
    (1, 1, 1),
    (3, 7, 5),
    (8, 32, 16),
    (13, 33, 31),
    (16, 64, 32),
    (17, 100, 64),
    (5, 31, 513),
    (12, 64, 1025),
    (33, 40, 600),
    (49, 70, 130),
    (100, 384, 65),
    (197, 97, 1100),
    (400, 300, 33),
    (2, 33, 2100),
];

#[test]
fn rounding_is_to_nearest_even() {
    for (x, bits) in [
        (0.0, 0),
        (-0.0, 0x8000),
        (1.0, 0x3f80),
        (1.0 + 1.0 / 256.0, 0x3f80),
        (1.0 + 3.0 / 256.0, 0x3f82),
        (f32::INFINITY, 0x7f80),
        (f32::MAX, 0x7f80),
        (-1e-40, 0x8000),
        (f32::MIN_POSITIVE, 0x0080),
    ] {
        assert_eq!(round(x), bits, "{x}");
        assert!(bits == 0x8000 || bits == 0 || half::bf16::from_f32(x).to_bits() == bits);
    }
    for bits in [0, 0x8000, 0x0001, 0x807f, 0x0080, 0x3f80, 0xff80] {
        assert_eq!(super::number::flush(bits), round(widen(bits)), "{bits:x}");
    }
    assert!(widen(round(f32::NAN)).is_nan() && widen(round(f32::from_bits(0xff80_0001))).is_nan());
    for isa in Isa::available() {
        for x in noise(1000, 1).chunks(77) {
            let mut out = vec![1; x.len()];
            round_row(isa, x, &mut out);
            assert!(
                x.iter()
                    .zip(&out)
                    .all(|(&x, &bits)| half::bf16::from_f32(x).to_bits() == bits)
            );
        }
    }
}

#[test]
fn rows_come_back_from_tiles() {
    let mut team = Team::new(2);
    for (m, _, k) in SHAPES {
        let x = noise(m * k, 1);
        let tiles = tiles(&mut team, Number::Bf16, k, &x);
        let mut row = vec![9.0; k];
        for i in 0..m {
            tiles.read_row(i, &mut row);
            assert!(
                row.iter()
                    .zip(&x[i * k..])
                    .all(|(&got, &x)| got == widen(round(x)))
            );
        }
    }
}

#[test]
fn agrees_with_f64() {
    for kernel in kernels_of(Number::Bf16) {
        for threads in [1, 3] {
            let mut team = Team::new(threads);
            for (m, n, k) in SHAPES {
                let (x, w) = (noise(m * k, 1), noise(n * k, 2));
                let matrix = packed(&mut team, kernel, n, k, &w);
                let y = product(&mut team, kernel, k, &x, &matrix);
                for i in 0..m {
                    for j in 0..n {
                        // Of the numbers as they are rounded, so that what is left is the sum's error in float32.
                        let number = |x: f32| f64::from(widen(round(x)));
                        let exact: f64 = (0..k).map(|p| number(x[i * k + p]) * number(w[j * k + p])).sum();
                        let off = (f64::from(y[i * n + j]) - exact).abs();
                        assert!(
                            off < 1e-5 * (k as f64).sqrt(),
                            "{} {m} {n} {k}: {off}",
                            kernel.name
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn kernels_are_what_their_instructions_are() {
    let mut team = Team::new(2);
    for (m, n, k) in SHAPES {
        let (x, w) = (noise(m * k, 3), noise(n * k, 4));
        let bits = |x: &[f32]| x.iter().map(|&x| round(x)).collect::<Vec<u16>>();
        let (xb, wb) = (bits(&x), bits(&w));
        for kernel in kernels_of(Number::Bf16) {
            let matrix = packed(&mut team, kernel, n, k, &w);
            let y = product(&mut team, kernel, k, &x, &matrix);
            for i in 0..m {
                for j in (0..n).step_by(7) {
                    let want = model(kernel.name, &xb[i * k..][..k], &wb[j * k..][..k]);
                    let got = y[i * n + j];
                    assert!(
                        got.to_bits() == want.to_bits(),
                        "{}: {got:e} {want:e}",
                        kernel.name
                    );
                }
            }
        }
    }
}

/// The instructions' treatment of numbers at the ends of the range, which the widening kernels do not share.
#[test]
fn instructions_are_modelled_at_the_ends_of_the_range() {
    let k = 64;
    let special = [
        0.0,
        -0.0,
        1.0,
        -3.5,
        f32::INFINITY,
        f32::NAN,
        3e38,
        -3e38,
        2e-19,
        -1.5e-19,
        1.2e-38,
        -2e-38,
        1e-20,
    ];
    for kernel in kernels_of(Number::Bf16)
        .into_iter()
        .filter(|kernel| kernel.native)
    {
        for seed in 0..200u64 {
            let pick = |seed: u64| -> Vec<f32> {
                let common = [0.0, 1e-19, 1e-20, 1.0][seed as usize % 4];
                let number = |x: f32| match ((x + 1.0) * 50.0) as usize {
                    pick if pick < special.len() => special[pick],
                    _ => x * common,
                };
                noise(16 * k, 77 + seed).into_iter().map(number).collect()
            };
            let (x, w) = (pick(seed), pick(3 * seed + 1));
            let mut team = Team::new(1);
            let matrix = packed(&mut team, kernel, 16, k, &w);
            let y = product(&mut team, kernel, k, &x, &matrix);
            let bits = |x: &[f32]| x.iter().map(|&x| round(x)).collect::<Vec<u16>>();
            for i in 0..16 {
                for j in 0..16 {
                    let want = model(kernel.name, &bits(&x[i * k..][..k]), &bits(&w[j * k..][..k]));
                    let got = y[i * 16 + j];
                    let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
                    assert!(same, "{} {seed} {i} {j}: {got:e}, not {want:e}", kernel.name);
                }
            }
        }
    }
}

#[test]
fn a_row_alone_has_the_same_bits() {
    for kernel in kernels() {
        let mut solo = Team::new(1);
        for (m, n, k) in SHAPES {
            let x = noise(m * k, 5);
            let matrix = packed(&mut solo, kernel, n, k, &noise(n * k, 6));
            let rows: Vec<f32> = x
                .chunks(k)
                .flat_map(|x| product(&mut solo, kernel, k, x, &matrix))
                .collect();
            for threads in [1, 2, 5] {
                let y = product(&mut Team::new(threads), kernel, k, &x, &matrix);
                assert!(
                    y.iter().zip(&rows).all(|(a, b)| a.to_bits() == b.to_bits()),
                    "{}",
                    kernel.name
                );
            }
            for few in [2, 5, 16, 31].into_iter().filter(|&few| few < m) {
                let y = product(&mut solo, kernel, k, &x[(m - few) * k..], &matrix);
                assert!(
                    y == rows[(m - few) * n..],
                    "{}: the last {few} of {m}",
                    kernel.name
                );
            }
        }
    }
}

/// A row that is not a number leaves the others alone, in its own tile and elsewhere.
#[test]
fn a_row_of_nan_stays_alone() {
    let (m, n, k) = (20, 40, 70);
    let mut x = noise(m * k, 7);
    let mut team = Team::new(2);
    for kernel in kernels() {
        let matrix = packed(&mut team, kernel, n, k, &noise(n * k, 8));
        let before = product(&mut team, kernel, k, &x, &matrix);
        let kept = x.clone();
        x[3 * k..4 * k].fill(f32::NAN);
        let after = product(&mut team, kernel, k, &x, &matrix);
        for i in 0..m {
            let same = before[i * n..][..n] == after[i * n..][..n];
            assert_eq!(same, i != 3, "{} row {i}", kernel.name);
        }
        assert!(after[3 * n..4 * n].iter().all(|y| y.is_nan()));
        x = kept;
    }
}

#[test]
fn epilogue_once_for_every_element() {
    for kernel in kernels() {
        for threads in [1, 2] {
            let mut team = Team::new(threads);
            for (m, n, k) in SHAPES {
                let x = tiles(&mut team, kernel.number, k, &noise(m * k, 9));
                let matrix = packed(&mut team, kernel, n, k, &noise(n * k, 10));
                let mut plain = vec![0.0; m * n];
                gemm(&mut team, kernel, &x, &matrix, 1, Some(&mut plain), &|_, _, _| ());
                for unit in [1, 40, 64] {
                    let seen = Mutex::new(vec![None; m * n]);
                    let mut y = vec![0.0; m * n];
                    let epilogue = |i: usize, j: usize, segment: &mut [f32]| {
                        assert!(j.is_multiple_of(PANEL) && j.is_multiple_of(unit));
                        let end = j + segment.len();
                        assert!(end == n || end.is_multiple_of(unit));
                        let mut seen = seen.lock().unwrap();
                        for (c, v) in segment.iter_mut().enumerate() {
                            *v += (j + c) as f32;
                            assert!(seen[i * n + j + c].replace(*v).is_none());
                        }
                    };
                    gemm(&mut team, kernel, &x, &matrix, unit, Some(&mut y), &epilogue);
                    let seen = seen.into_inner().unwrap();
                    for i in 0..m * n {
                        assert_eq!(y[i], plain[i] + (i % n) as f32);
                        assert_eq!(seen[i], Some(y[i]));
                    }
                }
            }
        }
    }
}
