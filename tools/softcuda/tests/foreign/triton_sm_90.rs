//! What Triton compiles for sm_90: tensor copies, mbarriers and wgmma as another compiler's authors read the manual.
//! The fixtures in triton/sm_90 are made by the generate.py there.

use half::{bf16, f16};
use softcuda::memory::{Fill, Swizzle, TensorMap};

use super::harness::{Args, Gpu, Random, shuffled};
use super::triton::{HALF_BF16, HALF_F16, HALF_F32, load, near, text};
use super::{all, seeds};

/// Element types of the fixtures: how many bytes, how a number is written and read.
struct Element {
    bytes: usize,
    write: fn(f64) -> Vec<u8>,
    read: fn(&[u8]) -> f64,
    half_unit: f64,
}

const F16: Element = Element {
    bytes: 2,
    write: |v| f16::from_f64(v).to_le_bytes().to_vec(),
    read: |b| f16::from_le_bytes(b.try_into().expect("two")).to_f64(),
    half_unit: HALF_F16,
};
const BF16: Element = Element {
    bytes: 2,
    write: |v| bf16::from_f64(v).to_le_bytes().to_vec(),
    read: |b| bf16::from_le_bytes(b.try_into().expect("two")).to_f64(),
    half_unit: HALF_BF16,
};
/// Whole numbers from -4 to 4, which are all that is used of e4m3: so sums are exact in the accumulator's 14 bits.
const E4M3: Element = Element {
    bytes: 1,
    write: |v| {
        let size = [0x00, 0x38, 0x40, 0x44, 0x48][v.abs() as usize];
        vec![size | if v < 0.0 { 0x80 } else { 0 }]
    },
    read: |_| unreachable!("results are no e4m3"),
    half_unit: 0.0,
};

/// Rows of numbers on the device, whose ends nobody has written.
struct Matrix {
    values: Vec<Vec<f64>>,
    address: u64,
    stride: usize,
}

impl Matrix {
    fn new(
        gpu: &mut Gpu,
        [rows, columns]: [usize; 2],
        element: &Element,
        mut number: impl FnMut() -> f64,
    ) -> Self {
        let stride = (columns * element.bytes).next_multiple_of(16) + 16;
        let address = gpu.alloc(rows * stride);
        let values = (0..rows)
            .map(|_| (0..columns).map(|_| number()).collect())
            .collect();
        for (i, row) in (0..).zip::<&Vec<Vec<f64>>>(&values) {
            let bytes: Vec<u8> = row.iter().flat_map(|&v| (element.write)(v)).collect();
            gpu.write(address + i * stride as u64, &bytes);
        }
        Self {
            values,
            address,
            stride,
        }
    }
}

/// Appends tensor number `index` as Triton passes it: the map, sizes, strides in elements.
fn with_tensor(
    args: Args,
    name: &str,
    index: usize,
    at: u64,
    [rows, columns]: [usize; 2],
    stride: usize,
) -> Args {
    let text = text(name);
    let maps = text
        .lines()
        .find_map(|l| l.strip_prefix("// maps: "))
        .expect("the maps' line");
    let fields: Vec<u32> = maps
        .split(' ')
        .nth(index)
        .expect("a map for each tensor")
        .split([':', 'x'])
        .map(|n| n.parse().expect("a number"))
        .collect();
    let &[element, tile_rows, tile_columns, swizzle] = &fields[..] else {
        panic!("{name}: {maps}");
    };
    let map = TensorMap {
        address: at,
        rank: 2,
        element,
        dimensions: [columns as u64, rows as u64, 1],
        strides: [stride as u64, 0],
        tile: [tile_columns, tile_rows, 1],
        swizzle: [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128][swizzle as usize],
        fill: Fill::Zero,
    };
    map.check().expect("a good map");
    args.with_bytes(&map.encode(), 64)
        .with(rows as i32)
        .with(columns as i32)
        .with((stride / element as usize) as i64)
        .with(1i64)
}

struct Matmul {
    name: &'static str,
    tile: [usize; 2],
    input: Element,
    output: Element,
    /// b is [k, n], not [n, k].
    along_n: bool,
}

fn matmul(case: &Matmul, sizes: &[[usize; 3]]) {
    let name = format!("sm_90/{}", case.name);
    let mut gpu = Gpu::new();
    let kernel = load(&mut gpu, &name);
    let mut random = Random(4);
    for &[m, n, k] in sizes {
        let mut number = || match case.input.bytes {
            1 => f64::from(random.below(9)) - 4.0,
            _ => (case.input.read)(&(case.input.write)(random.unit().into())),
        };
        let a = Matrix::new(&mut gpu, [m, k], &case.input, &mut number);
        let b_size = if case.along_n { [k, n] } else { [n, k] };
        let b = Matrix::new(&mut gpu, b_size, &case.input, &mut number);
        let stride = (n * 2).next_multiple_of(16) + 16;
        let c = gpu.zeros(m * stride);
        let mut args = Args::new();
        args = with_tensor(args, &name, 0, a.address, [m, k], a.stride);
        args = with_tensor(args, &name, 1, b.address, b_size, b.stride);
        args = with_tensor(args, &name, 2, c, [m, n], stride);
        args = args.with(n as i32).with(k as i32);
        let programs = m.div_ceil(case.tile[0]) * n.div_ceil(case.tile[1]);
        kernel.launch(&mut gpu, [programs as u32, 1, 1], args);
        let got: Vec<u8> = gpu.download(c, m * stride);
        for i in 0..m {
            for j in 0..stride / 2 {
                let at = i * stride + 2 * j;
                let got = (case.output.read)(&got[at..at + 2]);
                if j >= n {
                    assert_eq!(got, 0.0, "{name}: row {i} behind its end, {j}");
                    continue;
                }
                let products = (0..k).map(|l| {
                    let factor = if case.along_n {
                        b.values[l][j]
                    } else {
                        b.values[j][l]
                    };
                    a.values[i][l] * factor
                });
                let (want, total) =
                    products.fold((0.0, 0.0), |(sum, size), p: f64| (sum + p, size + p.abs()));
                // Each of k sums is cut off; those of whole numbers are exact.
                let lost = if case.input.bytes == 1 {
                    0.0
                } else {
                    total * 2.0 * HALF_F32 * (k as f64 + 1.0)
                };
                near(got, want, lost + want.abs() * case.output.half_unit, || {
                    format!("{name}, {m}×{n}×{k}: [{i}, {j}]")
                });
            }
        }
    }
}

/// As many of the sizes as there is time for.
fn some<T>(sizes: &[T]) -> &[T] {
    if all() { sizes } else { &sizes[..1] }
}

fn in_some_orders(test: impl Fn()) {
    test();
    for seed in seeds() {
        shuffled(seed, &test);
    }
}

#[test]
fn matmul_f16() {
    let case = Matmul {
        name: "matmul_f16_64x64x64",
        tile: [64, 64],
        input: F16,
        output: F16,
        along_n: false,
    };
    in_some_orders(|| {
        matmul(
            &case,
            some(&[[70, 50, 200], [64, 64, 64], [1, 8, 8], [129, 65, 320]]),
        )
    });
}

#[test]
fn matmul_bf16_of_two_warpgroups() {
    let case = Matmul {
        name: "matmul_bf16_128x128x64",
        tile: [128, 128],
        input: BF16,
        output: BF16,
        along_n: false,
    };
    in_some_orders(|| matmul(&case, some(&[[130, 100, 136], [128, 128, 64], [257, 129, 72]])));
}

#[test]
fn matmul_of_b_along_n() {
    let case = Matmul {
        name: "matmul_f16_64x128x32",
        tile: [64, 128],
        input: F16,
        output: F16,
        along_n: true,
    };
    in_some_orders(|| matmul(&case, some(&[[70, 120, 168], [64, 128, 32], [3, 200, 40]])));
    let case = Matmul {
        name: "matmul_bf16_64x32x16",
        tile: [64, 32],
        input: BF16,
        output: BF16,
        along_n: true,
    };
    in_some_orders(|| matmul(&case, some(&[[70, 40, 72], [64, 32, 16], [1, 7, 8]])));
}

#[test]
fn matmul_e4m3() {
    let case = Matmul {
        name: "matmul_e4m3_64x64x128",
        tile: [64, 64],
        input: E4M3,
        output: F16,
        along_n: false,
    };
    in_some_orders(|| matmul(&case, some(&[[70, 50, 272], [64, 64, 128], [1, 16, 16]])));
}

fn attention(name: &str, rows: usize, lengths: &[usize]) {
    let name = format!("sm_90/{name}");
    let mut gpu = Gpu::new();
    let kernel = load(&mut gpu, &name);
    let (heads, dim) = (2, 64);
    let mut random = Random(6);
    for &length in lengths {
        let size = [heads * length, dim];
        let mut tensor = || {
            Matrix::new(&mut gpu, size, &F16, || {
                (F16.read)(&(F16.write)(random.unit().into()))
            })
        };
        let (q, k, v) = (tensor(), tensor(), tensor());
        let out = gpu.alloc(size[0] * q.stride);
        let scale = 0.3f32;
        let mut args = Args::new();
        for (index, tensor) in [&q, &k, &v].into_iter().enumerate() {
            args = with_tensor(args, &name, index, tensor.address, size, tensor.stride);
        }
        args = with_tensor(args, &name, 3, out, size, q.stride)
            .with(length as i32)
            .with(scale);
        kernel.launch(&mut gpu, [(length / rows) as u32, heads as u32, 1], args);
        for i in 0..size[0] {
            let head = i / length * length;
            let scores: Vec<f64> = (head..head + length)
                .map(|j| {
                    q.values[i]
                        .iter()
                        .zip(&k.values[j])
                        .map(|(a, b)| a * b)
                        .sum::<f64>()
                        * f64::from(scale)
                })
                .collect();
            let total: f64 = scores.iter().map(|s| s.exp()).sum();
            let got: Vec<u8> = gpu.download(out + (i * q.stride) as u64, 2 * dim);
            // As for the kernels of sm_80: weights are rounded to f16, and so is the outcome; scores that are off by δ
            // move weights by 2δ.
            let score_error = 64.0 * f64::from(scale) * 2.0 * HALF_F32 * (64.0 + 4.0);
            let allowed = 2.0 * HALF_F16 + 2.0 * score_error + 4.0 * HALF_F32 * length as f64;
            for (d, got) in got.chunks_exact(2).enumerate() {
                let want: f64 = scores
                    .iter()
                    .enumerate()
                    .map(|(j, s)| s.exp() / total * v.values[head + j][d])
                    .sum();
                near((F16.read)(got), want, allowed, || {
                    format!("{name}, length {length}: row {i}, {d}")
                });
            }
        }
    }
}

/// The weights go from registers into the second product, whose values run along n.
#[test]
fn flash_attention() {
    in_some_orders(|| attention("attention_64x128", 64, some(&[192, 64, 320])));
    in_some_orders(|| attention("attention_128x64", 128, some(&[128, 256, 384])));
}
