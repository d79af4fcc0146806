//! `norm_gemm_{bf16,f16}`, against what it stands for: `layernorm` and then `gemm`, which have their own references.

use half::{bf16, f16};

use super::device::{Device, WILD};
use super::numbers::{Number, Random, assert_row_of_nan, assert_same, assert_untouched};
use super::params::*;
use super::rows::{Down, Grid, Placed, RANKS, Weights, inside, sequence_of_row};
use super::{Case, exhaustive};

/// A row of the table.
#[derive(Debug, Clone)]
struct Shape {
    /// Lengths of the sequences, at most NORM_GEMM_ROWS in all.
    lengths: Vec<usize>,
    hidden: usize,
    n: usize,
    ranks: &'static [usize],
    /// Wqkv with RoPE on heads of this size; else fc1 with GELU, or neither if it is 0.
    head_dim: Option<usize>,
    gap: usize,
    seed: u64,
}

/// hidden and n: a vector; parts of a k-block and of a tile; models' sizes; the largest row of one warp. n is a multiple of
/// three heads of 32.
const SIZES: [(usize, usize); 7] = [
    (8, 96),
    (72, 192),
    (128, 384),
    (384, 1152),
    (768, 96),
    (1000, 576),
    (1024, 192),
];

/// Of up to 64 columns of h.
const FEW_RANKS: [&[usize]; 5] = [RANKS[0], RANKS[1], RANKS[2], RANKS[3], RANKS[5]];

const LENGTHS: [&[usize]; 5] = [&[1], &[3], &[2, 0, 5, 1], &[16], &[4, 3, 8]];

fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for (s, &(hidden, n)) in SIZES.iter().enumerate() {
        for (l, lengths) in LENGTHS.iter().enumerate() {
            for (r, ranks) in FEW_RANKS.iter().enumerate() {
                if !exhaustive() && r != (s + 2 * l) % FEW_RANKS.len() {
                    continue;
                }
                let turn = s + l + r;
                shapes.push(Shape {
                    lengths: lengths.to_vec(),
                    hidden,
                    // A part of the last tile.
                    n: n + if turn % 4 == 0 { 8 } else { 0 },
                    ranks,
                    head_dim: match turn % 4 {
                        0 => None,
                        1 => Some(0),
                        _ => Some(32),
                    },
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
    /// [tokens, hidden]
    x: Vec<T>,
    y: Vec<T>,
    gamma: Vec<T>,
    beta: Vec<T>,
    /// [n, hidden]
    w: Vec<T>,
    /// [n, columns]
    b: Vec<T>,
    /// [n]
    bias: Vec<T>,
    /// [positions, head_dim / 2] cosines and sines.
    table: Vec<[f32; 2]>,
    /// [tokens]
    positions: Vec<u32>,
    rows: Vec<u32>,
    weights: Weights,
    down: Down<T>,
}

/// What was written: the normalised rows, h and the product.
struct Written<T> {
    x: Vec<T>,
    h: Vec<T>,
    out: Vec<T>,
}

const POSITIONS: usize = 300;

impl<T: Number> Inputs<T> {
    fn new(shape: &Shape) -> Inputs<T> {
        let random = &mut Random::new(shape.seed);
        let Shape { hidden, n, ranks, .. } = *shape;
        let rows = sequence_of_row(&shape.lengths);
        let tokens = rows.len();
        let weights = Weights::new(random, shape.lengths.len(), ranks, shape.seed as usize);
        let down = Down::new(random, hidden, ranks, &weights);
        let columns = down.columns.len();
        let half = shape.head_dim.unwrap_or(0) / 2;
        let spread = 3.0 / (hidden as f32).sqrt();
        let table = (0..POSITIONS * half).map(|at| (at as f32).sin_cos());
        Inputs {
            shape: shape.clone(),
            x: random.numbers(tokens * hidden, 0.5, 1.0),
            y: random.numbers(tokens * hidden, 0.0, 1.0),
            gamma: random.numbers(hidden, 1.0, 0.5),
            beta: random.numbers(hidden, 0.0, 0.5),
            w: random.numbers(n * hidden, 0.0, spread),
            b: random.numbers(n * columns, 0.0, spread),
            bias: random.numbers(n, 0.0, 1.0),
            table: table.map(|(sin, cos)| [cos, sin]).collect(),
            positions: (0..tokens).map(|_| random.below(POSITIONS) as u32).collect(),
            rows,
            weights,
            down,
        }
    }

    /// The first rows, in one launch or in two. Panics if anything else was written.
    fn run(&self, device: &Device, tokens: usize, one_launch: bool) -> Written<T> {
        let Shape {
            hidden,
            n,
            head_dim,
            gap,
            ..
        } = self.shape;
        let bucket = NORM_GEMM_ROWS as usize;
        let padded = |numbers: &[T], stride: usize| -> Vec<T> {
            let row = |row: &[T]| [row, &vec![T::NAN; stride - hidden]].concat();
            numbers.chunks(hidden).flat_map(row).collect()
        };
        let (x_stride, y_stride, normed_stride, out_stride) =
            (hidden + gap, hidden + 8, hidden + gap, n + gap);
        let count = device.upload(&[tokens as u32]);
        let (x, y) = (
            device.upload(&padded(&self.x, x_stride)),
            device.upload(&padded(&self.y, y_stride)),
        );
        let (gamma, beta) = (device.upload(&self.gamma), device.upload(&self.beta));
        let (w, b, bias) = (
            device.upload(&self.w),
            device.upload(&self.b),
            device.upload(&self.bias),
        );
        let (table, positions) = (device.upload(&self.table), device.upload(&self.positions));
        let sequenced = !self.down.columns.is_empty();
        let placed = Placed::new(device, bucket, &self.rows, &self.weights, &self.down, sequenced);
        let normed = device.output::<T>(bucket * normed_stride);
        let out = device.output::<T>(bucket * out_stride);

        let norm = LayerNormParams {
            tokens: count.address(),
            x: x.address(),
            y: y.address(),
            gamma: gamma.address(),
            beta: beta.address(),
            out: normed.address(),
            mixtures: placed.mixtures,
            lora: placed.lora,
            hidden_size: hidden as u32,
            x_stride: x_stride as u32,
            y_stride: y_stride as u32,
            out_stride: normed_stride as u32,
            eps: 1e-5,
            reserved: 0,
        };
        let head_dim = head_dim.unwrap_or(0) as u32;
        let columns = placed.lora.columns;
        let gemm = GemmParams {
            tokens: count.address(),
            x: if one_launch { WILD } else { normed.address() },
            w: w.address(),
            h: if one_launch { WILD } else { placed.lora.h },
            b: if columns > 0 { b.address() } else { WILD },
            bias: bias.address(),
            residual: 0,
            out: out.address(),
            rope: Rope {
                table: if head_dim > 0 { table.address() } else { 0 },
                position_of_row: if head_dim > 0 { positions.address() } else { WILD },
                head_dim,
                q_scale: 0.17,
            },
            n: n as u32,
            k: hidden as u32,
            columns,
            x_stride: normed_stride as u32,
            residual_stride: 0,
            out_stride: out_stride as u32,
            gelu: u32::from(self.shape.head_dim.is_none()),
            reserved: 0,
        };
        if one_launch {
            let params = NormGemmParams { norm, gemm };
            let kernel = device.kernel("norm_gemm", &format!("norm_gemm_{}", T::NAME));
            let blocks = gemm.n.div_ceil(NORM_GEMM_COLUMNS);
            kernel.launch(blocks, NORM_GEMM_THREADS, NORM_GEMM_SHARED, &params);
        } else {
            let kernel = device.kernel("layernorm", &format!("layernorm_{}", T::NAME));
            let (blocks, threads, shared) = Grid::new(tokens, 8).launch(hidden);
            kernel.launch(blocks, threads, shared, &norm);
            let kernel = device.kernel("gemm", &format!("gemm_{}_small16", T::NAME));
            let blocks = (gemm.n.div_ceil(GEMM_SMALL16_COLUMNS), 1);
            kernel.launch_grid(blocks, GEMM_SMALL16_THREADS, GEMM_SMALL16_SHARED, &gemm);
        }
        let rows = |all: &[T], width: usize, stride: usize| {
            assert_untouched("rows past the tokens", &all[tokens * stride..]);
            inside(&all[..tokens * stride], tokens, width, stride)
        };
        Written {
            x: rows(&normed.download(), hidden, normed_stride),
            h: placed.h(tokens),
            out: rows(&out.download(), n, out_stride),
        }
    }

    /// Panics if one launch does not write what two do.
    fn check(&self, device: &Device, tokens: usize) -> Written<T> {
        let (one, two) = (self.run(device, tokens, true), self.run(device, tokens, false));
        assert_same("the rows", &one.x, &two.x);
        assert_same("h", &one.h, &two.h);
        assert_same("the product", &one.out, &two.out);
        one
    }
}

/// One launch of bfloat16, for `counts`.
pub fn launch(
    device: &Device,
    [tokens, hidden, n]: [usize; 3],
    ranks: &'static [usize],
    head_dim: Option<usize>,
) {
    let shape = Shape {
        lengths: vec![tokens],
        hidden,
        n,
        ranks,
        head_dim,
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
fn norm_gemm_bf16_has_the_bits_of_layernorm_and_gemm() {
    equals::<bf16>();
}

#[test]
fn norm_gemm_f16_has_the_bits_of_layernorm_and_gemm() {
    equals::<f16>();
}

/// A batch with every mixture.
fn mixed() -> Shape {
    Shape {
        lengths: vec![3, 0, 6, 1, 4],
        hidden: 384,
        n: 200,
        ranks: RANKS[3],
        head_dim: None,
        gap: 8,
        seed: 3,
    }
}

#[test]
fn norm_gemm_reads_the_number_of_tokens_on_the_device() {
    let Some(device) = Device::open() else { return };
    let shape = mixed();
    let inputs = Inputs::<bf16>::new(&shape);
    let all = inputs.check(&device, inputs.rows.len());
    for tokens in [13, 8, 1, 0] {
        let mut inputs = Inputs::<bf16>::new(&shape);
        inputs.x[tokens * shape.hidden..].fill(bf16::NAN);
        inputs.positions[tokens..].fill(u32::MAX);
        inputs.rows[tokens..].fill(u32::MAX);
        let first = inputs.run(&device, tokens, true);
        assert_same("the first rows", &first.x, &all.x[..tokens * shape.hidden]);
        assert_same("their h", &first.h, &all.h[..first.h.len()]);
        assert_same("their product", &first.out, &all.out[..tokens * shape.n]);
    }
}

#[test]
fn a_row_of_nan_leaves_the_rows_of_norm_gemm_beside_it_alone() {
    let Some(device) = Device::open() else { return };
    let shape = mixed();
    let mut inputs = Inputs::<f16>::new(&shape);
    let clean = inputs.check(&device, inputs.rows.len());
    let bad = 5;
    inputs.x[bad * shape.hidden + 7] = f16::NAN;
    let got = inputs.check(&device, inputs.rows.len());
    assert_row_of_nan(bad, shape.n, &got.out, &clean.out);
}
