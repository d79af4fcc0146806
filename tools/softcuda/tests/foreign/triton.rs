//! Kernels that Triton compiled: the fixtures in triton/, made by triton/generate.py.

use half::{bf16, f16};
use softcuda::machine::Module;
use softcuda::run::check::Finding;

use super::harness::{Args, Ended, Gpu, Random, Shape};
use super::{all, randoms, seeds};

/// Half a unit in the last place, relative to the number.
pub const HALF_F32: f64 = 1.0 / (1u32 << 24) as f64;
pub const HALF_F16: f64 = 1.0 / (1u32 << 11) as f64;
pub const HALF_BF16: f64 = 1.0 / (1u32 << 8) as f64;

pub struct Kernel {
    module: Module,
    name: String,
    threads: u32,
    shared: u32,
}

/// The text of a fixture.
pub fn text(name: &str) -> String {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/foreign/triton/{name}.ptx"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Loads a fixture; its head says how it is launched.
pub fn load(gpu: &mut Gpu, name: &str) -> Kernel {
    let text = text(name);
    let head = text
        .lines()
        .find_map(|l| l.strip_prefix("// launch: "))
        .expect("a line that says how it is launched");
    let field = |key: &str| -> &str {
        head.split(' ')
            .find_map(|f| f.strip_prefix(key)?.strip_prefix('='))
            .unwrap_or_else(|| panic!("{name} does not say its {key}"))
    };
    let module = Module::load(text.as_bytes(), &mut gpu.device).unwrap_or_else(|e| panic!("{name}: {e}"));
    Kernel {
        module,
        name: field("kernel").to_owned(),
        threads: 32 * field("warps").parse::<u32>().expect("a number"),
        shared: field("shared").parse().expect("a number"),
    }
}

impl Kernel {
    #[track_caller]
    pub fn launch(&self, gpu: &mut Gpu, grid: [u32; 3], args: Args) {
        let shape = Shape {
            grid,
            shared: self.shared,
            ..Shape::new(1, self.threads)
        };
        // Triton's own two, for scratch memory and for its profiler.
        let args = args.with(0u64).with(0u64);
        match gpu.try_launch(&self.module, &self.name, shape, &args) {
            Ended::Well => gpu.assert_no_hints(&self.name),
            Ended::Refused(_, message) => panic!("{} was refused: {message}", self.name),
            Ended::Found(findings) => {
                let text: Vec<String> = findings.iter().map(Finding::to_string).collect();
                panic!("{} is clean, but:\n{}", self.name, text.join("\n"));
            }
        }
    }
}

#[track_caller]
pub fn near(got: f64, want: f64, allowed: f64, what: impl FnOnce() -> String) {
    assert!(
        (got - want).abs() <= allowed,
        "{}: {got:e} and not {want:e}, {allowed:e} allowed",
        what()
    );
}

pub fn units(random: &mut Random, count: usize) -> Vec<f32> {
    (0..count).map(|_| random.unit()).collect()
}

fn f16s(values: &[f32]) -> Vec<f16> {
    values.iter().map(|&v| f16::from_f32(v)).collect()
}

/// Bits of sixteen-bit floats, as they are uploaded.
fn bits(values: &[f16]) -> Vec<u16> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn download_f16(gpu: &Gpu, at: u64, count: usize) -> Vec<f64> {
    gpu.download::<u16>(at, count)
        .into_iter()
        .map(|b| f16::from_bits(b).to_f64())
        .collect()
}

#[test]
fn add() {
    let mut gpu = Gpu::new();
    let kernel = load(&mut gpu, "add");
    for n in [1, 1000, 1024, 4 * 1024 + 3] {
        let mut random = Random(1);
        let (x, y) = (units(&mut random, n), units(&mut random, n));
        let (dx, dy, out) = (gpu.upload(&x), gpu.upload(&y), gpu.alloc(4 * n));
        let args = Args::new().with(dx).with(dy).with(out).with(n as i32);
        kernel.launch(&mut gpu, [n.div_ceil(1024) as u32, 1, 1], args);
        let want: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
        assert_eq!(gpu.download::<f32>(out, n), want, "{n}");
    }
}

#[test]
fn softmax() {
    let mut gpu = Gpu::new();
    let kernel = load(&mut gpu, "softmax");
    for (rows, columns) in [(1, 1), (5, 1000), (7, 1024), (3, 129)] {
        let stride = columns + 3;
        let mut random = Random(2);
        let x: Vec<f32> = (0..rows * stride).map(|_| 10.0 * random.unit()).collect();
        let (dx, out) = (gpu.upload(&x), gpu.zeros(4 * rows * stride));
        let args = Args::new()
            .with(dx)
            .with(out)
            .with(rows as i32)
            .with(columns as i32)
            .with(stride as i32);
        kernel.launch(&mut gpu, [2, 1, 1], args);
        let out: Vec<f32> = gpu.download(out, rows * stride);
        for row in 0..rows {
            let x = &x[row * stride..][..columns];
            let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exps: Vec<f64> = x.iter().map(|&v| f64::from(v - most).exp()).collect();
            let sum: f64 = exps.iter().sum();
            for (i, e) in exps.iter().enumerate() {
                let want = e / sum;
                // The exponent in base 2 is rounded, twice; ex2.approx and div.full are wrong by two units, and
                // a sum in a tree of ten levels by a half in each.
                let exponent = 2.0 * f64::from(most - x[i]) * std::f64::consts::LOG2_E;
                let allowed = want * HALF_F32 * (2.0 * exponent + 2.0 * 4.0 + 2.0 * 4.0 + 10.0);
                near(out[row * stride + i].into(), want, allowed, || {
                    format!("row {row}, column {i} of {columns}")
                });
            }
            // Nothing behind the row.
            assert!(out[row * stride + columns..][..3].iter().all(|&v| v == 0.0));
        }
    }
}

#[test]
fn layer_norm() {
    let mut gpu = Gpu::new();
    let kernel = load(&mut gpu, "layer_norm");
    for columns in [1usize, 200, 256, 1000] {
        let rows = 3;
        let stride = columns.next_multiple_of(16);
        let mut random = Random(3);
        let x: Vec<f16> = f16s(
            &(0..rows * stride)
                .map(|_| 3.0 * random.unit() + 0.5)
                .collect::<Vec<_>>(),
        );
        let (w, b) = (units(&mut random, columns), units(&mut random, columns));
        let (dx, dw, db) = (gpu.upload(&bits(&x)), gpu.upload(&w), gpu.upload(&b));
        let out = gpu.zeros(2 * rows * stride);
        let (means, rstds) = (gpu.alloc(4 * rows), gpu.alloc(4 * rows));
        let eps = 1e-5f32;
        let args = Args::new()
            .with(dx)
            .with(dw)
            .with(db)
            .with(out)
            .with(means)
            .with(rstds)
            .with(columns as i32)
            .with(stride as i32)
            .with(eps);
        kernel.launch(&mut gpu, [rows as u32, 1, 1], args);
        let out = download_f16(&gpu, out, rows * stride);
        let (means, rstds): (Vec<f32>, Vec<f32>) = (gpu.download(means, rows), gpu.download(rstds, rows));
        for row in 0..rows {
            let x: Vec<f64> = x[row * stride..][..columns].iter().map(|v| v.to_f64()).collect();
            let n = columns as f64;
            let mean = x.iter().sum::<f64>() / n;
            let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            let rstd = 1.0 / (variance + f64::from(eps)).sqrt();
            // A sum goes through `steps` roundings of numbers no larger than the sum of sizes.
            let steps = n / 256.0 + 1.0 + 8.0;
            let size = x.iter().map(|v| v.abs()).sum::<f64>() / n;
            let mean_error = HALF_F32 * (steps + 4.0) * size;
            near(means[row].into(), mean, mean_error, || {
                format!("mean {row} of {columns}")
            });
            // An error δ of the mean adds δ² to the variance and 2δ·|x - mean| · 2⁻²⁴ to each square; the root
            // halves the variance's relative error, and sqrt.approx and the division are wrong by two units.
            let variance_error = variance * HALF_F32 * (steps + 8.0) + mean_error * mean_error;
            let relative = variance_error / (variance + f64::from(eps)) / 2.0 + 12.0 * HALF_F32;
            near(rstds[row].into(), rstd, rstd * relative, || {
                format!("rstd {row} of {columns}")
            });
            for i in 0..columns {
                let (w, b) = (f64::from(w[i]), f64::from(b[i]));
                let normal = (x[i] - mean) * rstd;
                let want = normal * w + b;
                let inner = (mean_error * rstd + normal.abs() * (relative + 4.0 * HALF_F32)) * w.abs()
                    + HALF_F32 * want.abs();
                let allowed =
                    inner + (want.abs() + inner) * HALF_F16 + f64::from(f16::MIN_POSITIVE_SUBNORMAL) / 2.0;
                near(out[row * stride + i], want, allowed, || {
                    format!("row {row}, column {i} of {columns}")
                });
            }
            assert!(
                out[row * stride + columns..(row + 1) * stride]
                    .iter()
                    .all(|&v| v == 0.0)
            );
        }
    }
}

/// GELU with erf's Taylor series: for |z| ≤ 5 its terms reach 1e10, so 1e-6 of the sum is lost there, where the
/// tolerance (which grows with the factors' sizes) is larger.
fn gelu(x: f64) -> f64 {
    let z = x * std::f64::consts::FRAC_1_SQRT_2;
    let erf = if z.abs() > 5.0 {
        z.signum()
    } else {
        let (mut term, mut sum) = (z, z);
        for n in 1..200 {
            term *= -z * z / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    };
    0.5 * x * (1.0 + erf)
}

#[derive(Clone, Copy, PartialEq)]
enum Float {
    F16,
    Bf16,
    F32,
}

impl Float {
    fn bytes(self) -> usize {
        if self == Float::F32 { 4 } else { 2 }
    }
    /// What a number is as this type.
    fn round(self, value: f32) -> f64 {
        match self {
            Float::F16 => f16::from_f32(value).to_f64(),
            Float::Bf16 => bf16::from_f32(value).to_f64(),
            Float::F32 => value.into(),
        }
    }
    fn to_bytes(self, value: f32) -> Vec<u8> {
        match self {
            Float::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
            Float::Bf16 => bf16::from_f32(value).to_le_bytes().to_vec(),
            Float::F32 => value.to_le_bytes().to_vec(),
        }
    }
    fn read(self, bytes: &[u8]) -> f64 {
        match self {
            Float::F16 => f16::from_le_bytes(bytes.try_into().expect("two")).to_f64(),
            Float::Bf16 => bf16::from_le_bytes(bytes.try_into().expect("two")).to_f64(),
            Float::F32 => f32::from_le_bytes(bytes.try_into().expect("four")).into(),
        }
    }
    fn half_unit(self) -> f64 {
        match self {
            Float::F16 => HALF_F16,
            Float::Bf16 => HALF_BF16,
            Float::F32 => HALF_F32,
        }
    }
}

/// Rows of a matrix at a stride; between them memory that nobody has written, so that a read there is found.
fn upload_rows(gpu: &mut Gpu, rows: &[Vec<f32>], stride: usize, ty: Float) -> u64 {
    let at = gpu.alloc(rows.len() * stride * ty.bytes());
    for (i, row) in rows.iter().enumerate() {
        let bytes: Vec<u8> = row.iter().flat_map(|&v| ty.to_bytes(v)).collect();
        gpu.write(at + (i * stride * ty.bytes()) as u64, &bytes);
    }
    at
}

struct Matmul {
    name: &'static str,
    tile: [usize; 2],
    input: Float,
    output: Float,
    gelu: bool,
    sizes: &'static [[usize; 3]],
}

fn matmul(case: &Matmul) {
    let mut gpu = Gpu::new();
    let kernel = load(&mut gpu, case.name);
    let mut random = Random(4);
    let count = if all() { case.sizes.len() } else { 2 };
    for &[m, n, k] in &case.sizes[..count] {
        let mut matrix = |rows: usize, columns: usize| -> Vec<Vec<f32>> {
            (0..rows).map(|_| units(&mut random, columns)).collect()
        };
        let (a, b) = (matrix(m, k), matrix(k, n));
        let [stride_a, stride_b, stride_c] = [k, n, n].map(|s| s.next_multiple_of(16) + 16);
        let da = upload_rows(&mut gpu, &a, stride_a, case.input);
        let db = upload_rows(&mut gpu, &b, stride_b, case.input);
        let size = case.output.bytes();
        let dc = gpu.zeros(m * stride_c * size);
        let args = Args::new()
            .with(da)
            .with(db)
            .with(dc)
            .with(m as i32)
            .with(n as i32)
            .with(k as i32)
            .with(stride_a as i32)
            .with(stride_b as i32)
            .with(stride_c as i32);
        let programs = m.div_ceil(case.tile[0]) * n.div_ceil(case.tile[1]);
        kernel.launch(&mut gpu, [programs as u32, 1, 1], args);
        let c: Vec<u8> = gpu.download(dc, m * stride_c * size);
        let exact = |v: &Vec<Vec<f32>>| -> Vec<Vec<f64>> {
            v.iter()
                .map(|r| r.iter().map(|&x| case.input.round(x)).collect())
                .collect()
        };
        let (a, b) = (exact(&a), exact(&b));
        for (i, a) in a.iter().enumerate() {
            for j in 0..stride_c {
                let at = (i * stride_c + j) * size;
                let got = case.output.read(&c[at..at + size]);
                if j >= n {
                    assert_eq!(got, 0.0, "{}: row {i} behind its end, {j}", case.name);
                    continue;
                }
                let (mut want, mut total) = (0.0, 0.0);
                for (l, row) in b.iter().enumerate() {
                    want += a[l] * row[j];
                    total += (a[l] * row[j]).abs();
                }
                // Each of k sums is rounded or cut off; tf32 cuts ten bits of each factor's fraction.
                let mut allowed = total * 2.0 * HALF_F32 * (k as f64 + 1.0);
                if case.input == Float::F32 {
                    allowed += total * 2.0 / f64::from(1 << 10);
                }
                if case.gelu {
                    want = gelu(want);
                    // GELU's slope is 1.13 at most; erf is wrong by four units, in a factor below 2.
                    allowed = 1.13 * allowed + 16.0 * HALF_F32 * total;
                }
                allowed += want.abs() * case.output.half_unit();
                near(got, want, allowed, || {
                    format!("{}, {m}×{n}×{k}: [{i}, {j}]", case.name)
                });
            }
        }
    }
}

#[test]
fn matmul_f16() {
    let sizes = &[[130, 112, 144], [7, 16, 16], [64, 64, 128], [200, 192, 80]];
    matmul(&Matmul {
        name: "matmul_f16_64x64x32",
        tile: [64, 64],
        input: Float::F16,
        output: Float::F16,
        gelu: false,
        sizes,
    });
}

#[test]
fn matmul_f16_of_any_size() {
    let sizes = &[[130, 101, 83], [1, 1, 1], [128, 64, 64], [257, 65, 129]];
    matmul(&Matmul {
        name: "matmul_f16_128x64x64",
        tile: [128, 64],
        input: Float::F16,
        output: Float::F32,
        gelu: true,
        sizes,
    });
}

#[test]
fn matmul_bf16() {
    let sizes = &[[100, 144, 112], [64, 128, 32], [65, 272, 160]];
    matmul(&Matmul {
        name: "matmul_bf16_64x128x32",
        tile: [64, 128],
        input: Float::Bf16,
        output: Float::Bf16,
        gelu: true,
        sizes,
    });
    let sizes = &[[50, 48, 272], [32, 32, 64], [31, 80, 16]];
    matmul(&Matmul {
        name: "matmul_bf16_32x32x64",
        tile: [32, 32],
        input: Float::Bf16,
        output: Float::F32,
        gelu: false,
        sizes,
    });
}

#[test]
fn matmul_tf32() {
    let sizes = &[[100, 80, 96], [64, 64, 32], [1, 16, 16]];
    matmul(&Matmul {
        name: "matmul_tf32_64x64x32",
        tile: [64, 64],
        input: Float::F32,
        output: Float::F32,
        gelu: false,
        sizes,
    });
}

#[test]
fn matmul_i8() {
    let mut gpu = Gpu::new();
    let kernel = load(&mut gpu, "matmul_i8_64x64x64");
    for k in [64usize, 300, 1] {
        let mut random = Random(5);
        let mut matrix = || -> Vec<i8> { (0..64 * k).map(|_| random.next() as i8).collect() };
        let (a, b) = (matrix(), matrix());
        let (da, db, dc) = (gpu.upload(&a), gpu.upload(&b), gpu.alloc(4 * 64 * 64));
        let args = Args::new().with(da).with(db).with(dc).with(k as i32);
        kernel.launch(&mut gpu, [1, 1, 1], args);
        let want: Vec<i32> = (0..64 * 64)
            .map(|at| {
                let (x, y) = (&a[at / 64 * k..][..k], &b[at % 64 * k..][..k]);
                x.iter().zip(y).map(|(&x, &y)| i32::from(x) * i32::from(y)).sum()
            })
            .collect();
        assert_eq!(gpu.download::<i32>(dc, 64 * 64), want, "{k}");
    }
}

fn attention(name: &str, rows: usize, causal: bool, lengths: &[usize]) {
    let mut gpu = Gpu::new();
    let kernel = load(&mut gpu, name);
    let (heads, dim) = (2, 64);
    let mut random = Random(6);
    for &length in lengths {
        let n = heads * length * dim;
        let mut tensor = || f16s(&units(&mut random, n));
        let (q, k, v) = (tensor(), tensor(), tensor());
        let (dq, dk, dv) = (
            gpu.upload(&bits(&q)),
            gpu.upload(&bits(&k)),
            gpu.upload(&bits(&v)),
        );
        let (out, lse) = (gpu.alloc(2 * n), gpu.alloc(4 * heads * length));
        let scale = 0.3f32;
        let args = Args::new()
            .with(dq)
            .with(dk)
            .with(dv)
            .with(out)
            .with(lse)
            .with(length as i32)
            .with(scale);
        let grid = [length.div_ceil(rows) as u32, heads as u32, 1];
        kernel.launch(&mut gpu, grid, args);
        let out = download_f16(&gpu, out, n);
        let lse: Vec<f32> = gpu.download(lse, heads * length);
        let row =
            |t: &[f16], i: usize| -> Vec<f64> { t[i * dim..][..dim].iter().map(|v| v.to_f64()).collect() };
        for i in 0..heads * length {
            let head = i / length * length;
            let end = if causal { i + 1 } else { head + length };
            let query = row(&q, i);
            let scores: Vec<f64> = (head..end)
                .map(|j| row(&k, j).iter().zip(&query).map(|(a, b)| a * b).sum::<f64>() * f64::from(scale))
                .collect();
            let total: f64 = scores.iter().map(|s| s.exp()).sum();
            // A score is a sum of 64 products, at most 64 in size, cut off 64 times, and then scaled.
            let size: f64 = 64.0 * f64::from(scale);
            let score_error = size * 2.0 * HALF_F32 * (64.0 + 4.0);
            near(
                lse[i].into(),
                total.ln(),
                score_error + 8.0 * HALF_F32 * size,
                || format!("{name}, length {length}: row {i}"),
            );
            let mut want = vec![0.0; dim];
            for (j, score) in (head..end).zip(&scores) {
                for (w, v) in want.iter_mut().zip(row(&v, j)) {
                    *w += score.exp() / total * v;
                }
            }
            // Values are at most 1: each weight is rounded to f16 (the sum of weights is not), and so is the
            // outcome; scores that are off by δ move weights by 2δ.
            let allowed = 2.0 * HALF_F16 + 2.0 * score_error + 4.0 * HALF_F32 * length as f64;
            for (d, want) in want.into_iter().enumerate() {
                near(out[i * dim + d], want, allowed, || {
                    format!("{name}, length {length}: row {i}, {d}")
                });
            }
        }
    }
}

#[test]
fn flash_attention() {
    let lengths: &[usize] = if all() {
        &[130, 64, 1, 31, 65, 256]
    } else {
        &[130, 64, 1]
    };
    attention("attention_64x32", 64, false, lengths);
}

#[test]
fn flash_attention_causal() {
    let lengths: &[usize] = if all() {
        &[130, 64, 1, 31, 65, 256]
    } else {
        &[130, 64, 1]
    };
    attention("attention_causal_64x64", 64, true, lengths);
}

#[test]
fn reductions() {
    let mut gpu = Gpu::new();
    let kernel = load(&mut gpu, "reductions");
    let (blocks, rows, columns) = (2, 32, 64);
    for seed in seeds() {
        let mut random = Random(seed);
        // Few values, so that the largest is there more than once.
        let x: Vec<f32> = (0..blocks * rows * columns)
            .map(|_| random.below(9) as f32 * 0.3 - 1.2)
            .collect();
        let dx = gpu.upload(&x);
        let out = [rows, columns, 1, 1].map(|n| gpu.alloc(4 * n * blocks));
        let args = out.into_iter().fold(Args::new().with(dx), Args::with);
        kernel.launch(&mut gpu, [blocks as u32, 1, 1], args);
        let sums: Vec<f32> = gpu.download(out[0], rows * blocks);
        let places: Vec<i32> = gpu.download(out[1], columns * blocks);
        let largest: Vec<f32> = gpu.download(out[2], blocks);
        let parity: Vec<u32> = gpu.download(out[3], blocks);
        for (block, x) in x.chunks(rows * columns).enumerate() {
            for (i, row) in x.chunks(columns).enumerate() {
                let want: f64 = row.iter().map(|&v| f64::from(v)).sum();
                let size: f64 = row.iter().map(|&v| f64::from(v.abs())).sum();
                // 64 numbers in at most 63 sums.
                near(
                    sums[block * rows + i].into(),
                    want,
                    63.0 * HALF_F32 * size,
                    || format!("sum of row {i}"),
                );
            }
            for j in 0..columns {
                let column = |i: usize| x[i * columns + j];
                let most = (0..rows).map(column).fold(f32::MIN, f32::max);
                let first = (0..rows).position(|i| column(i) == most).expect("it is there");
                assert_eq!(places[block * columns + j], first as i32, "column {j}");
            }
            let want = x
                .chunks(columns)
                .map(|row| row.iter().copied().fold(f32::MAX, f32::min))
                .fold(f32::MIN, f32::max);
            assert_eq!(largest[block], want);
            assert_eq!(parity[block], x.iter().fold(0, |p, v| p ^ v.to_bits()));
        }
    }
}

#[test]
fn scans() {
    let mut gpu = Gpu::new();
    let kernel = load(&mut gpu, "scans");
    let (blocks, rows, columns) = (2, 8, 128);
    let n = blocks * rows * columns;
    for seed in seeds() {
        let x: Vec<i32> = randoms::<u32>(&mut Random(seed), n)
            .into_iter()
            .map(|v| v as i32)
            .collect();
        let dx = gpu.upload(&x);
        let out: [u64; 4] = std::array::from_fn(|_| gpu.alloc(4 * n));
        let args = out.into_iter().fold(Args::new().with(dx), Args::with);
        kernel.launch(&mut gpu, [blocks as u32, 1, 1], args);
        let [scales, shifts, sums, tops] = out.map(|at| gpu.download::<i32>(at, n));
        for (r, row) in x.chunks(columns).enumerate() {
            let (mut scale, mut shift, mut top) = (1i32, 0i32, i32::MIN);
            for (c, &v) in row.iter().enumerate() {
                scale = scale.wrapping_mul(v);
                shift = shift.wrapping_mul(v).wrapping_add(1);
                let at = r * columns + c;
                assert_eq!((scales[at], shifts[at]), (scale, shift), "row {r}, {c}");
                // Down the columns, inside the block.
                let block = r / rows * rows;
                let sum = (block..=r).fold(0i32, |s, r| s.wrapping_add(x[r * columns + c]));
                assert_eq!(sums[at], sum, "row {r}, {c}");
            }
            for c in (0..columns).rev() {
                top = top.max(row[c]);
                assert_eq!(tops[r * columns + c], top, "row {r}, {c}");
            }
        }
    }
}

#[test]
fn atomics() {
    let mut gpu = Gpu::new();
    gpu.device.settings.threads = 3;
    let kernel = load(&mut gpu, "atomics");
    let n = 1700u32;
    let mut random = Random(7);
    let x: Vec<i32> = (0..n).map(|_| random.below(5000) as i32).collect();
    let dx = gpu.upload(&x);
    let mut start = [0i32; 48];
    start[..16].fill(i32::MIN);
    start[16..32].fill(i32::MAX);
    let (sums, extremes, lock) = (gpu.zeros(64), gpu.upload(&start), gpu.zeros(4));
    let (guarded, halves) = (gpu.zeros(4), gpu.zeros(32));
    let args = Args::new()
        .with(dx)
        .with(sums)
        .with(extremes)
        .with(lock)
        .with(guarded)
        .with(halves)
        .with(n as i32);
    let programs = n.div_ceil(256);
    kernel.launch(&mut gpu, [programs, 1, 1], args);
    let (mut want_sums, mut want, mut counts) = ([0f32; 16], start, [0f64; 16]);
    for &v in &x {
        let at = (v % 16) as usize;
        want_sums[at] += v as f32;
        want[at] = want[at].max(v);
        want[16 + at] = want[16 + at].min(v);
        want[32 + at] ^= v;
        counts[at] += 1.0;
    }
    assert_eq!(gpu.download::<f32>(sums, 16), want_sums);
    assert_eq!(gpu.download::<i32>(extremes, 48), want);
    assert_eq!(download_f16(&gpu, halves, 16), counts);
    assert_eq!(gpu.download::<i32>(guarded, 1), [(1 << programs) - 1]);
    assert_eq!(gpu.download::<i32>(lock, 1), [0]);
}

#[test]
fn histogram() {
    let mut gpu = Gpu::new();
    let kernel = load(&mut gpu, "histogram");
    for n in [1, 512, 1500] {
        let mut random = Random(8);
        let x: Vec<i32> = (0..n).map(|_| random.below(64) as i32).collect();
        let (dx, counts) = (gpu.upload(&x), gpu.zeros(256));
        let args = Args::new().with(dx).with(counts).with(n);
        kernel.launch(&mut gpu, [(n as u32).div_ceil(512), 1, 1], args);
        let mut want = [0i32; 64];
        x.iter().for_each(|&v| want[v as usize] += 1);
        assert_eq!(gpu.download::<i32>(counts, 64), want, "{n}");
    }
}

#[test]
fn sort() {
    let mut gpu = Gpu::new();
    let kernel = load(&mut gpu, "sort");
    let (rows, columns) = (8, 128);
    for seed in seeds() {
        let mut random = Random(seed);
        let x: Vec<i32> = (0..rows * columns)
            .map(|_| random.below(2000) as i32 - 1000)
            .collect();
        let (dx, sorted, largest) = (gpu.upload(&x), gpu.alloc(4 * x.len()), gpu.alloc(4 * 8 * rows));
        let args = Args::new().with(dx).with(sorted).with(largest);
        kernel.launch(&mut gpu, [rows as u32 / 4, 1, 1], args);
        let mut want = x;
        want.chunks_mut(columns).for_each(<[i32]>::sort_unstable);
        assert_eq!(gpu.download::<i32>(sorted, want.len()), want);
        let top: Vec<f32> = want
            .chunks(columns)
            .flat_map(|row| row.iter().rev().take(8).map(|&v| v as f32))
            .collect();
        assert_eq!(gpu.download::<f32>(largest, 8 * rows), top);
    }
}

/// What a float of 8 bits is, 5 of them exponent: the upper half of an f16.
fn from_e5m2(bits: u8) -> f32 {
    f16::from_bits(u16::from(bits) << 8).to_f32()
}

/// The float of 8 bits that is nearest, the even one where two are.
fn e5m2(value: f32) -> u8 {
    let distance = |bits: u8| (f64::from(from_e5m2(bits)) - f64::from(value.abs())).abs();
    let nearest = (0..=0x7b)
        .min_by(|&a, &b| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1))))
        .expect("there are some");
    nearest | if value.is_sign_negative() { 0x80 } else { 0 }
}

#[test]
fn casts() {
    let mut gpu = Gpu::new();
    let kernel = load(&mut gpu, "casts");
    let mut random = Random(9);
    let mut x: Vec<f32> = vec![
        0.0, -0.0, 1.0, -1.5, 57344.0, -57344.0, 1e-5, -3e-7, 2.0, 1.125, 1.375, 0.3,
    ];
    x.extend((0..1000).map(|_| random.unit() * 2f32.powi(random.below(32) as i32 - 17)));
    let n = x.len();
    let dx = gpu.upload(&x);
    let out = [1, 4, 2, 2, 1].map(|size| gpu.alloc(size * n));
    let args = out
        .into_iter()
        .fold(Args::new().with(dx), Args::with)
        .with(n as i32);
    kernel.launch(&mut gpu, [n.div_ceil(512) as u32, 1, 1], args);
    let eights: Vec<u8> = gpu.download(out[0], n);
    let back: Vec<f32> = gpu.download(out[1], n);
    let (halves, brains): (Vec<u16>, Vec<u16>) = (gpu.download(out[2], n), gpu.download(out[3], n));
    let bytes: Vec<i8> = gpu.download(out[4], n);
    for (i, &v) in x.iter().enumerate() {
        // sm_80 has no such conversion: Triton makes one of integer instructions.
        let eight = e5m2(v);
        assert_eq!(eights[i], eight, "{v} as e5m2");
        let value = from_e5m2(eight);
        assert_eq!(back[i].to_bits(), value.to_bits(), "{v} by way of e5m2");
        assert_eq!(halves[i], f16::from_f32(v).to_bits(), "{v} as f16");
        assert_eq!(brains[i], bf16::from_f32(v).to_bits(), "{v} as bf16");
        assert_eq!(bytes[i], v.clamp(-100.0, 100.0) as i8, "{v} as i8");
    }
}

#[test]
fn gather() {
    let mut gpu = Gpu::new();
    let kernel = load(&mut gpu, "gather");
    let (rows, block) = (50usize, 128);
    for (count, width) in [(1usize, 1usize), (40, 100), (16, 128)] {
        let mut random = Random(10);
        let ids: Vec<i64> = (0..count)
            .map(|i| match i % 7 {
                5 => -1 - i64::from(random.below(1000)),
                6 => rows as i64 + i64::from(random.below(1000)),
                _ => random.below(rows as u32).into(),
            })
            .collect();
        let table = f16s(&units(&mut random, rows * width));
        let (dids, dtable) = (gpu.upload(&ids), gpu.upload(&bits(&table)));
        let (out, turned) = (gpu.alloc(4 * count * width), gpu.alloc(4 * count * block));
        let args = Args::new()
            .with(dids)
            .with(dtable)
            .with(out)
            .with(turned)
            .with(count as i32)
            .with(rows as i32)
            .with(width as i32);
        kernel.launch(&mut gpu, [count.div_ceil(16) as u32, 1, 1], args);
        let (out, turned): (Vec<f32>, Vec<f32>) = (
            gpu.download(out, count * width),
            gpu.download(turned, count * block),
        );
        for (i, &id) in ids.iter().enumerate() {
            for j in 0..block {
                let known = (0..rows as i64).contains(&id) && j < width;
                let want = if known {
                    table[id as usize * width + j].to_f32()
                } else {
                    0.0
                };
                if j < width {
                    assert_eq!(out[i * width + j], want, "row {i}, {j}");
                }
                assert_eq!(turned[i * block + block - 1 - j], want, "row {i}, {j} turned");
            }
        }
    }
}

/// The first of four numbers of Philox 4×32 with ten rounds (Salmon, Moraes, Dror, Shaw 2011).
fn philox(counter: u32, seed: u32) -> u32 {
    let mut c = [counter, 0, 0, 0];
    let mut key = [seed, 0];
    for _ in 0..10 {
        let (a, b) = (u64::from(c[2]) * 0xcd9e_8d57, u64::from(c[0]) * 0xd251_1f53);
        c = [
            (a >> 32) as u32 ^ c[1] ^ key[0],
            a as u32,
            (b >> 32) as u32 ^ c[3] ^ key[1],
            b as u32,
        ];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    c[0]
}

#[test]
fn random_numbers() {
    let mut gpu = Gpu::new();
    let kernel = load(&mut gpu, "dropout");
    let n = 700;
    let x = units(&mut Random(11), n);
    let (dx, out) = (gpu.upload(&x), gpu.alloc(4 * n));
    let seed = 123_456;
    let args = Args::new().with(dx).with(out).with(n as i32).with(seed);
    kernel.launch(&mut gpu, [n.div_ceil(256) as u32, 1, 1], args);
    let want: Vec<f32> = (0..n)
        .map(|i| match philox(i as u32, seed as u32) & 1 {
            0 => 0.0,
            _ => 2.0 * x[i],
        })
        .collect();
    assert_eq!(gpu.download::<f32>(out, n), want);
}
