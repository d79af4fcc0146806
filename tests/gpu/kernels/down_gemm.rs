//! `down_gemm_{bf16,f16}`, against what it stands for: `lora_down` and then `gemm`, which have their own references.

use half::{bf16, f16};

use super::device::{Device, WILD};
use super::numbers::{Number, Random, assert_row_of_nan, assert_same, assert_untouched};
use super::params::*;
use super::rows::{Down, Placed, RANKS, Weights, inside, sequence_of_row};
use super::{Case, exhaustive};

/// A row of the table.
#[derive(Debug, Clone)]
struct Shape {
    /// Lengths of the sequences, at most DOWN_GEMM_ROWS in all.
    lengths: Vec<usize>,
    k: usize,
    n: usize,
    ranks: &'static [usize],
    /// Whether out is added to a residual, and sent through GELU.
    extras: bool,
    gap: usize,
    seed: u64,
}

/// k and n: a vector; parts of a k-block, of a warp's columns of k and of a tile; models' sizes.
const SIZES: [(usize, usize); 7] = [
    (8, 16),
    (72, 8),
    (136, 40),
    (384, 64),
    (1000, 24),
    (1024, 64),
    (4096, 32),
];

/// Of 16 to 64 columns of h.
const FEW_RANKS: [&[usize]; 5] = [RANKS[1], RANKS[2], RANKS[3], RANKS[4], RANKS[5]];

const LENGTHS: [&[usize]; 5] = [&[1], &[3], &[2, 0, 5, 1], &[16], &[4, 3, 8]];

fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for (s, &(k, n)) in SIZES.iter().enumerate() {
        for (l, lengths) in LENGTHS.iter().enumerate() {
            for (r, ranks) in FEW_RANKS.iter().enumerate() {
                if !exhaustive() && r != (s + 2 * l) % FEW_RANKS.len() {
                    continue;
                }
                let turn = s + l + r;
                shapes.push(Shape {
                    lengths: lengths.to_vec(),
                    k,
                    n,
                    ranks,
                    extras: turn.is_multiple_of(2),
                    gap: [0, 8, 40][turn % 3],
                    seed: turn as u64,
                });
            }
        }
    }
    shapes
}

/// The inputs of a case, without the gaps between rows.
struct Inputs<T> {
    shape: Shape,
    /// [tokens, k]
    x: Vec<T>,
    /// [n, k]
    w: Vec<T>,
    /// [n, columns]
    b: Vec<T>,
    /// [n]
    bias: Vec<T>,
    /// [tokens, n]
    residual: Vec<T>,
    rows: Vec<u32>,
    weights: Weights,
    down: Down<T>,
}

/// What was written.
struct Written<T> {
    h: Vec<T>,
    out: Vec<T>,
}

impl<T: Number> Inputs<T> {
    fn new(shape: &Shape) -> Inputs<T> {
        let random = &mut Random::new(shape.seed);
        let Shape { k, n, ranks, .. } = *shape;
        let rows = sequence_of_row(&shape.lengths);
        let tokens = rows.len();
        let weights = Weights::new(random, shape.lengths.len(), ranks, shape.seed as usize);
        let down = Down::new(random, k, ranks, &weights);
        let columns = down.columns.len();
        let spread = 3.0 / (k as f32).sqrt();
        Inputs {
            shape: shape.clone(),
            x: random.numbers(tokens * k, 0.0, 1.0),
            w: random.numbers(n * k, 0.0, spread),
            b: random.numbers(n * columns, 0.0, 0.5),
            bias: random.numbers(n, 0.0, 1.0),
            residual: random.numbers(tokens * n, 0.0, 1.0),
            rows,
            weights,
            down,
        }
    }

    /// The first rows, in one launch or in two. Panics if anything else was written.
    fn run(&self, device: &Device, tokens: usize, one_launch: bool) -> Written<T> {
        let Shape {
            k, n, extras, gap, ..
        } = self.shape;
        let bucket = DOWN_GEMM_ROWS as usize;
        let padded = |numbers: &[T], width: usize, stride: usize| -> Vec<T> {
            let row = |row: &[T]| [row, &vec![T::NAN; stride - width]].concat();
            numbers.chunks(width).flat_map(row).collect()
        };
        let (x_stride, residual_stride, out_stride) = (k + gap, n + 8, n + gap);
        let count = device.upload(&[tokens as u32]);
        let x = device.upload(&padded(&self.x, k, x_stride));
        let residual = device.upload(&padded(&self.residual, n, residual_stride));
        let (w, b, bias) = (
            device.upload(&self.w),
            device.upload(&self.b),
            device.upload(&self.bias),
        );
        let placed = Placed::new(device, bucket, &self.rows, &self.weights, &self.down, true);
        let out = device.output::<T>(bucket * out_stride);
        let lora = placed.lora;
        let down = LoraDownParams {
            tokens: count.address(),
            x: x.address(),
            a: lora.a,
            column: lora.column,
            h: lora.h,
            mixtures: placed.mixtures,
            k: k as u32,
            columns: lora.columns,
            x_stride: x_stride as u32,
            reserved: 0,
        };
        let gemm = GemmParams {
            tokens: count.address(),
            x: x.address(),
            w: w.address(),
            h: if one_launch { WILD } else { lora.h },
            b: b.address(),
            bias: bias.address(),
            residual: if extras { residual.address() } else { 0 },
            out: out.address(),
            rope: Rope {
                table: 0,
                position_of_row: WILD,
                head_dim: 0,
                q_scale: 1.0,
            },
            n: n as u32,
            k: k as u32,
            columns: lora.columns,
            x_stride: x_stride as u32,
            residual_stride: residual_stride as u32,
            out_stride: out_stride as u32,
            gelu: u32::from(extras),
            reserved: 0,
        };
        if one_launch {
            let kernel = device.kernel("down_gemm", &format!("down_gemm_{}", T::NAME));
            let blocks = gemm.n.div_ceil(DOWN_GEMM_COLUMNS);
            let params = DownGemmParams { down, gemm };
            kernel.launch(blocks, DOWN_GEMM_THREADS, DOWN_GEMM_SHARED, &params);
        } else {
            let kernel = device.kernel("lora_down", &format!("lora_down_{}", T::NAME));
            kernel.launch(1, LORA_DOWN_THREADS, LORA_DOWN_SHARED_BYTES, &down);
            let kernel = device.kernel("gemm", &format!("gemm_{}_small16", T::NAME));
            let blocks = (gemm.n.div_ceil(GEMM_SMALL16_COLUMNS), 1);
            kernel.launch_grid(blocks, GEMM_SMALL16_THREADS, GEMM_SMALL16_SHARED, &gemm);
        }
        let all = out.download();
        assert_untouched("rows past the tokens", &all[tokens * out_stride..]);
        Written {
            h: placed.h(tokens),
            out: inside(&all[..tokens * out_stride], tokens, n, out_stride),
        }
    }

    /// Panics if one launch does not write what two do.
    fn check(&self, device: &Device, tokens: usize) -> Written<T> {
        let (one, two) = (self.run(device, tokens, true), self.run(device, tokens, false));
        assert_same("h", &one.h, &two.h);
        assert_same("the product", &one.out, &two.out);
        one
    }
}

/// One launch of bfloat16, for `counts`.
pub fn launch(device: &Device, [tokens, k, n]: [usize; 3], ranks: &'static [usize]) {
    let shape = Shape {
        lengths: vec![tokens],
        k,
        n,
        ranks,
        extras: false,
        gap: 0,
        seed: 0,
    };
    Inputs::<bf16>::new(&shape).run(device, tokens, true);
}

fn equals<T: Number>() {
    let Some(device) = Device::open() else { return };
    for shape in shapes() {
        let _case = Case(&shape);
        let inputs = Inputs::<T>::new(&shape);
        inputs.check(&device, inputs.rows.len());
    }
}

#[test]
fn down_gemm_bf16_has_the_bits_of_lora_down_and_gemm() {
    equals::<bf16>();
}

#[test]
fn down_gemm_f16_has_the_bits_of_lora_down_and_gemm() {
    equals::<f16>();
}

/// A batch with every mixture.
fn mixed() -> Shape {
    Shape {
        lengths: vec![3, 0, 6, 1, 4],
        k: 392,
        n: 40,
        ranks: RANKS[3],
        extras: true,
        gap: 8,
        seed: 3,
    }
}

#[test]
fn down_gemm_reads_the_number_of_tokens_on_the_device() {
    let Some(device) = Device::open() else { return };
    let shape = mixed();
    let inputs = Inputs::<bf16>::new(&shape);
    let all = inputs.check(&device, inputs.rows.len());
    for tokens in [13, 8, 1, 0] {
        let mut inputs = Inputs::<bf16>::new(&shape);
        inputs.x[tokens * shape.k..].fill(bf16::NAN);
        inputs.rows[tokens..].fill(u32::MAX);
        let first = inputs.run(&device, tokens, true);
        assert_same("the first rows of h", &first.h, &all.h[..first.h.len()]);
        assert_same("their product", &first.out, &all.out[..tokens * shape.n]);
    }
}

#[test]
fn a_row_of_nan_leaves_the_rows_of_down_gemm_beside_it_alone() {
    let Some(device) = Device::open() else { return };
    let shape = mixed();
    let mut inputs = Inputs::<f16>::new(&shape);
    let clean = inputs.check(&device, inputs.rows.len());
    let bad = 5;
    inputs.x[bad * shape.k + 7] = f16::NAN;
    let got = inputs.check(&device, inputs.rows.len());
    assert_row_of_nan(bad, shape.n, &got.out, &clean.out);
}
