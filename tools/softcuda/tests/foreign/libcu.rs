//! libcu++.

use super::harness::{Args, Random, Shape};
use super::{all, load, randoms};

#[test]
fn barriers_that_copies_arrive_at() {
    let Some((mut gpu, module)) = load("libcu.cu") else {
        return;
    };
    for (tiles, threads) in [(1, 32), (5, 128), (6, 64), (4, 96)] {
        let n = 128 * tiles;
        let data: Vec<u32> = randoms(&mut Random(1), n);
        let (input, out) = (gpu.upload(&data), gpu.alloc(4 * n));
        let args = Args::new().with(input).with(out).with(tiles as i32);
        gpu.launch(&module, "barrier_copy", Shape::new(1, threads), &args);
        let want: Vec<u32> = data.chunks(128).flat_map(|t| t.iter().rev().copied()).collect();
        assert_eq!(
            gpu.download::<u32>(out, n),
            want,
            "{tiles} tiles, {threads} threads"
        );
    }
}

#[test]
fn pipelines() {
    let Some((mut gpu, module)) = load("libcu.cu") else {
        return;
    };
    let mut random = Random(2);
    for (n, threads) in [(1, 32), (96, 32), (97, 64), (1000, 96), (960, 128)] {
        let data: Vec<u32> = randoms(&mut random, n);
        let (input, out) = (gpu.upload(&data), gpu.alloc(4 * n));
        let args = Args::new().with(input).with(out).with(n as i32);
        gpu.launch(&module, "pipeline_copy", Shape::new(1, threads), &args);
        let want: Vec<u32> = data
            .chunks(96)
            .zip(0..)
            .flat_map(|(tile, t)| tile.iter().rev().map(move |v| v.wrapping_add(t)))
            .collect();
        assert_eq!(gpu.download::<u32>(out, n), want, "{n} words, {threads} threads");
    }
    for tiles in [1, 2, 7] {
        let data: Vec<u32> = randoms(&mut random, 64 * tiles);
        let (input, out) = (gpu.upload(&data), gpu.alloc(4 * 64));
        let args = Args::new().with(input).with(out).with(tiles as i32);
        gpu.launch(&module, "pipeline_roles", Shape::new(1, 96), &args);
        let want: Vec<u32> = (0..64)
            .map(|me| {
                (0..tiles).fold(0u32, |sum, t| {
                    sum.wrapping_mul(3).wrapping_add(data[64 * t + (me + t) % 64])
                })
            })
            .collect();
        assert_eq!(gpu.download::<u32>(out, 64), want, "{tiles} tiles");
    }
    for steps in [1, 2, 6] {
        let data: Vec<u32> = randoms(&mut random, 4 * 64 * steps);
        let (input, out) = (gpu.upload(&data), gpu.alloc(4 * 64));
        let args = Args::new().with(input).with(out).with(steps as i32);
        gpu.launch(&module, "pipeline_thread", Shape::new(1, 64), &args);
        let want: Vec<u32> = (0..64)
            .map(|me| {
                (0..steps).fold(0u32, |sum, s| {
                    let v = &data[4 * (64 * s + me)..];
                    sum.wrapping_mul(5)
                        .wrapping_add(v[0] ^ v[1])
                        .wrapping_add(v[2] ^ v[3])
                })
            })
            .collect();
        assert_eq!(gpu.download::<u32>(out, 64), want, "{steps} steps");
    }
}

#[test]
fn barriers_that_threads_leave() {
    let Some((mut gpu, module)) = load("libcu.cu") else {
        return;
    };
    for threads in [64, 100] {
        let out = gpu.alloc(4 * 8);
        gpu.launch(&module, "drops", Shape::new(1, threads), &Args::new().with(out));
        let mut count = 0;
        let want: Vec<u32> = (1..=8)
            .map(|gone| {
                count += threads - gone;
                count
            })
            .collect();
        assert_eq!(gpu.download::<u32>(out, 8), want);
    }
}

#[test]
fn atomics_of_all_widths() {
    let Some((mut gpu, module)) = load("libcu.cu") else {
        return;
    };
    let n = 192;
    let mut random = Random(3);
    let data: Vec<u32> = (0..n).map(|_| random.below(100_000)).collect();
    let input = gpu.upload(&data);
    let (bytes, halves) = (gpu.zeros(8), gpu.zeros(8));
    let words = gpu.upload(&[0u32, 0, u32::MAX, 0]);
    let (longs, f, d) = (gpu.zeros(24), gpu.zeros(8), gpu.zeros(8));
    let args = [bytes, halves, words, longs, f, d]
        .into_iter()
        .fold(Args::new().with(input), Args::with);
    gpu.device.settings.threads = 3;
    gpu.launch(&module, "atomics", Shape::new(3, 64), &args);
    let mut want = [0u8; 8];
    for &v in &data {
        want[(v % 7) as usize] = want[(v % 7) as usize].wrapping_add(1);
        want[7] ^= v as u8;
    }
    assert_eq!(gpu.download::<u8>(bytes, 8), want);
    let sum16 = data.iter().fold(0u16, |s, &v| s.wrapping_add(v as u16));
    let max16 = data.iter().map(|&v| v as u16).max().expect("data");
    assert_eq!(gpu.download::<u16>(halves, 2), [sum16, max16]);
    let (max, min) = (
        *data.iter().max().expect("data"),
        *data.iter().min().expect("data"),
    );
    let xor = data.iter().fold(0, |s, v| s ^ v);
    assert_eq!(gpu.download::<u32>(words, 4), [data.iter().sum(), max, min, xor]);
    let sum: u64 = data.iter().map(|&v| u64::from(v) << 20).sum();
    let or = data.iter().fold(0, |s, v| s | 1u64 << (v % 64));
    let squares: u64 = data.iter().map(|&v| u64::from(v) * u64::from(v)).sum();
    assert_eq!(gpu.download::<u64>(longs, 3), [sum, or, squares]);
    let small: u32 = data.iter().map(|v| v % 16).sum();
    assert_eq!(gpu.download::<f32>(f, 2), [small as f32, max as f32]);
    assert_eq!(gpu.download::<f64>(d, 1), [f64::from(small) * 0.5]);
}

#[test]
fn blocks_take_turns() {
    let Some((mut gpu, module)) = load("libcu.cu") else {
        return;
    };
    let blocks = 40u32;
    for (threads, seed) in [(1, None), (3, None), (3, Some(1)), (1, Some(2))] {
        gpu.device.settings.threads = threads;
        gpu.device.settings.seed = seed;
        let (ticket, sum) = (gpu.zeros(4), gpu.zeros(4));
        let out = gpu.alloc(4 * 64 * blocks as usize);
        let args = Args::new().with(ticket).with(sum).with(out);
        gpu.launch(&module, "turns", Shape::new(blocks, 64), &args);
        let mut before = 0u32;
        let mut want = Vec::new();
        for block in 0..blocks {
            want.extend((0..64).map(|t| before.wrapping_add(t)));
            before = before.wrapping_mul(2).wrapping_add(block);
        }
        assert_eq!(
            gpu.download::<u32>(out, want.len()),
            want,
            "{threads} threads, {seed:?}"
        );
    }
}

#[test]
fn semaphores_and_latches() {
    let Some((mut gpu, module)) = load("libcu.cu") else {
        return;
    };
    for threads in [32u32, 96] {
        let (most, total) = (gpu.alloc(4), gpu.alloc(4));
        let args = Args::new().with(most).with(total);
        gpu.launch(&module, "semaphore", Shape::new(1, threads), &args);
        let most = gpu.download::<u32>(most, 1)[0];
        assert!((1..=2).contains(&most), "{most} inside");
        assert_eq!(gpu.download::<u32>(total, 1), [threads * (threads - 1) / 2]);
    }
}

#[test]
fn barriers_between_blocks() {
    let Some((mut gpu, module)) = load("libcu.cu") else {
        return;
    };
    let size = gpu.alloc(4);
    gpu.launch(
        &module,
        "device_barrier_size",
        Shape::new(1, 1),
        &Args::new().with(size),
    );
    let size = gpu.download::<u32>(size, 1)[0] as usize;
    for (grid, block, threads) in [(2, 32, 1), (6, 64, 3)] {
        gpu.device.settings.threads = threads;
        let n = grid * block;
        let barrier = gpu.alloc(size);
        gpu.launch(
            &module,
            "device_barrier_init",
            Shape::new(1, 1),
            &Args::new().with(barrier).with(n as i32),
        );
        let (cells, out) = (gpu.alloc(4 * n), gpu.alloc(4 * n));
        let shape = Shape {
            cooperative: true,
            ..Shape::new(grid as u32, block as u32)
        };
        let args = Args::new().with(barrier).with(cells).with(out);
        gpu.launch(&module, "device_barrier", shape, &args);
        let want: Vec<u32> = (0..n).map(|i| ((i + n / 2) % n * 7) as u32).collect();
        assert_eq!(gpu.download::<u32>(out, n), want);
    }
}

#[test]
fn integers_of_128_bits() {
    let Some((mut gpu, module)) = load("libcu.cu") else {
        return;
    };
    let mut random = Random(4);
    let n = if all() { 2000 } else { 150 };
    let mut value = |least: u128| -> u128 {
        let word = |random: &mut Random| u128::from(random.next());
        let whole = (0..4).fold(0, |v, _| v << 32 | word(&mut random));
        // Of any length.
        let value = whole >> random.below(128);
        if value < least { least } else { value }
    };
    let (mut a, mut b): (Vec<u128>, Vec<u128>) = (0..n).map(|_| (value(0), value(1))).unzip();
    a.extend([
        0,
        u128::MAX,
        u128::MAX,
        1 << 127,
        5,
        u128::from(u64::MAX),
        u128::MAX - 1,
    ]);
    b.extend([1, u128::MAX, 1, 2, 1 << 64, u128::from(u64::MAX), 1 << 64]);
    let n = a.len();
    let words = |v: &[u128]| -> Vec<u64> { v.iter().flat_map(|&v| [v as u64, (v >> 64) as u64]).collect() };
    let (da, db) = (gpu.upload(&words(&a)), gpu.upload(&words(&b)));
    let out = gpu.alloc(64 * n);
    let args = Args::new().with(da).with(db).with(out).with(n as i32);
    gpu.launch(&module, "wide", Shape::new(n.div_ceil(64) as u32, 64), &args);
    let out: Vec<u64> = gpu.download(out, 8 * n);
    for i in 0..n {
        let (x, y) = (a[i], b[i]);
        let signed = (x as i128).wrapping_div(y as i128) as u128;
        let want = words(&[x.wrapping_mul(y), x / y, x % y, signed]);
        assert_eq!(out[8 * i..8 * i + 8], want, "{x:#x} and {y:#x}");
    }
}

/// erf by its Taylor series, for |x| ≤ 3 (where 1e-12 of it is lost at most) and its limit from 6 on.
fn erf(x: f64) -> f64 {
    if x.abs() >= 6.0 {
        return x.signum();
    }
    assert!(x.abs() <= 3.0);
    let (mut term, mut sum) = (x, x);
    for n in 1..100 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

/// Units in the last place of `want`, rounded to f32, between it and `got`.
fn ulps(got: f32, want: f64) -> f64 {
    let near = want as f32;
    if got == near || (got.is_nan() && want.is_nan()) {
        return 0.0;
    }
    let least = f64::from(f32::MIN_POSITIVE);
    let unit = 2f64.powf(want.abs().max(least).log2().floor() - 23.0);
    (f64::from(got) - want).abs() / unit
}

/// The errors that the CUDA C++ Programming Guide allows the library's functions (appendix "Mathematical Functions"),
/// in units in the last place.
#[test]
fn elementary_functions() {
    let Some((mut gpu, module)) = load("libcu.cu") else {
        return;
    };
    let mut random = Random(5);
    let mut inputs: Vec<f32> = vec![
        1e-30, 1e-3, 0.5, 1.0, -1.0, 1.5707964, -2.5, 3.25, 100.0, 1e5, 2.5e6, -1e10, 1e20, 3e38,
    ];
    let count = if all() { 3000 } else { 114 };
    for _ in 0..count {
        // Sizes from 2^-20 to 2^11: erf's series holds for a thousandth of them.
        let size = 2f32.powf(random.unit() * 15.5 - 4.5);
        inputs.push(if random.below(2) == 0 { size } else { -size });
    }
    let n = inputs.len();
    let (input, out) = (gpu.upload(&inputs), gpu.alloc(48 * n));
    let args = Args::new().with(input).with(out).with(n as i32);
    gpu.launch(&module, "functions", Shape::new(n.div_ceil(64) as u32, 64), &args);
    let out: Vec<f32> = gpu.download(out, 12 * n);
    for (i, &input) in inputs.iter().enumerate() {
        let x = f64::from(input);
        let small = f64::from(input * 1e-3f32);
        let expected = [
            ("sin", x.sin(), 2.0),
            ("cos", x.cos(), 2.0),
            ("exp", (-small.abs()).exp(), 2.0),
            ("log", x.abs().ln(), 1.0),
            ("pow", x.abs().powf(f64::from(0.37f32)), 9.0),
            ("tanh", small.tanh(), 2.0),
            ("erf", erf(small), 2.0),
            ("atan2", x.atan2(2.5), 3.0),
            ("cbrt", x.cbrt(), 1.0),
            ("fmod", x % 3.25, 0.0),
            ("hypot", x.hypot(1.5), 3.0),
            ("log1p", x.abs().ln_1p(), 1.0),
        ];
        for (k, (name, want, allowed)) in expected.into_iter().enumerate() {
            let got = out[12 * i + k];
            // Half a unit comes from the rounding.
            assert!(
                ulps(got, want) <= allowed + 0.5,
                "{name} of {input}: {got:e} and not {want:e}"
            );
        }
    }
    let inputs: Vec<f64> = inputs
        .iter()
        .map(|&x| f64::from(x) * 1.000_000_000_123)
        .chain([1e200, -3e300])
        .collect();
    let n = inputs.len();
    let (input, out) = (gpu.upload(&inputs), gpu.alloc(64 * n));
    let args = Args::new().with(input).with(out).with(n as i32);
    gpu.launch(
        &module,
        "functions_f64",
        Shape::new(n.div_ceil(64) as u32, 64),
        &args,
    );
    let out: Vec<f64> = gpu.download(out, 8 * n);
    for (i, &x) in inputs.iter().enumerate() {
        let expected = [
            ("sin", x.sin(), 2.0),
            ("exp", (-x.abs() * 1e-3).exp(), 1.0),
            ("log", x.abs().ln(), 1.0),
            ("pow", x.abs().powf(0.37), 2.0),
            ("tanh", (x * 1e-3).tanh(), 2.0),
            ("sqrt", x.abs().sqrt(), 0.0),
            ("reciprocal", 1.0 / x, 0.0),
            ("atan", x.atan(), 2.0),
        ];
        for (k, (name, want, allowed)) in expected.into_iter().enumerate() {
            let got = out[8 * i + k];
            // The host's own library is right to one unit at least, but for those that IEEE 754 rounds.
            let unit = f64::EPSILON * want.abs().max(f64::MIN_POSITIVE);
            let slack = if allowed == 0.0 { 0.0 } else { 1.0 };
            assert!(
                (got - want).abs() <= (allowed + slack) * unit,
                "{name} of {x}: {got:e} and not {want:e}"
            );
        }
    }
}

#[test]
fn complex_numbers_and_bits() {
    let Some((mut gpu, module)) = load("libcu.cu") else {
        return;
    };
    let mut random = Random(6);
    let n = 100;
    let data: Vec<f32> = (0..4 * n)
        .map(|_| random.unit() * 2f32.powi(random.below(20) as i32 - 10))
        .collect();
    let (input, out, bits) = (gpu.upload(&data), gpu.alloc(20 * n), gpu.alloc(24 * n));
    let args = Args::new().with(input).with(out).with(bits).with(n as i32);
    gpu.launch(&module, "standard", Shape::new(2, 64), &args);
    let (out, bits): (Vec<f32>, Vec<u32>) = (gpu.download(out, 5 * n), gpu.download(bits, 6 * n));
    for i in 0..n {
        let [a, b, c, d]: [f64; 4] = std::array::from_fn(|k| f64::from(data[4 * i + k]));
        let near = |got: f32, want: f64, size: f64| {
            // A few roundings of parts as large as the whole.
            let allowed = 8.0 * f64::from(f32::EPSILON) * size;
            assert!(
                (f64::from(got) - want).abs() <= allowed,
                "{i}: {got:e} and not {want:e}"
            );
        };
        let (one, other) = (a.hypot(b), c.hypot(d));
        near(out[5 * i], a * c - b * d, one * other);
        near(out[5 * i + 1], a * d + b * c, one * other);
        let square = c * c + d * d;
        near(out[5 * i + 2], (a * c + b * d) / square, one / other);
        near(out[5 * i + 3], (b * c - a * d) / square, one / other);
        near(out[5 * i + 4], one, one);
        let (x, shift) = (data[4 * i].to_bits(), i as u32 % 32);
        let floor = match x >> shift {
            0 => 0,
            v => 1 << v.ilog2(),
        };
        let want = [
            x.count_ones(),
            (x >> shift).leading_zeros(),
            (x << shift).trailing_zeros(),
            x.rotate_left(shift),
            (x >> 1 >> (i % 31)).next_power_of_two(),
            floor,
        ];
        assert_eq!(bits[6 * i..6 * i + 6], want, "bits of {x:#x}");
    }
}
