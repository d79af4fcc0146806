//! `layernorm_bf16`, `layernorm_f16`.

use half::{bf16, f16};

use super::device::Device;
use super::numbers::{Number, Random, Real, assert_same};
use super::params::LayerNormParams;
use super::rows::{
    BATCHES, Down, Grid, HIDDEN, Placed, RANKS, Weights, beside, check_beside, down_project, inside,
    layer_norm, sequence_of_row,
};
use super::{Case, exhaustive};

/// Where the sum is written.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Out {
    /// A separate buffer.
    Apart,
    OverX,
    OverY,
}

/// A row of the table.
#[derive(Debug, Clone)]
struct Shape {
    hidden: usize,
    lengths: Vec<usize>,
    ranks: &'static [usize],
    /// Elements between the end of a row and the next, beyond what the kernel needs.
    gap: usize,
    out: Out,
    /// Of the elements of x and y.
    mean: f32,
    spread: f32,
    rows_per_block: usize,
    seed: u64,
}

/// All values of every dimension; if `exhaustive`, all combinations of hidden_size and batch, of those with few elements
/// with all adapters.
fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for (h, &hidden) in HIDDEN.iter().enumerate() {
        for (b, lengths) in BATCHES.iter().enumerate() {
            // A few long rows test as much as many.
            let tokens: usize = lengths.iter().sum();
            let large = tokens * hidden > 66 * 1024;
            if !exhaustive() && large {
                continue;
            }
            for (r, ranks) in RANKS.iter().enumerate() {
                if (large || !exhaustive()) && r != (2 * b + h) % RANKS.len() {
                    continue;
                }
                for seed in 0..if exhaustive() && !large { 3 } else { 1 } {
                    let turn = h + b + r + seed;
                    shapes.push(Shape {
                        hidden,
                        lengths: lengths.to_vec(),
                        ranks,
                        gap: [0, 8, 40][turn % 3],
                        out: [Out::Apart, Out::OverX, Out::OverY][turn / 2 % 3],
                        // A mean with which E[x²] - E[x]² cancels, and a variance below eps.
                        mean: [0.0, 30.0, 0.0][turn / 3 % 3],
                        spread: [1.0, 1.0, 1e-3][turn / 3 % 3],
                        rows_per_block: [8, 4, 1, 3][turn % 4],
                        seed: turn as u64,
                    });
                }
            }
        }
    }
    shapes
}

/// The inputs of a case.
struct Inputs<T> {
    shape: Shape,
    /// [tokens, hidden_size], without the gaps.
    x: Vec<T>,
    y: Vec<T>,
    gamma: Vec<T>,
    beta: Vec<T>,
    eps: f32,
    rows: Vec<u32>,
    weights: Weights,
    down: Down<T>,
}

impl<T: Number> Inputs<T> {
    fn new(shape: &Shape) -> Inputs<T> {
        let random = &mut Random::new(shape.seed);
        let rows = sequence_of_row(&shape.lengths);
        let numbers = rows.len() * shape.hidden;
        let weights = Weights::new(random, shape.lengths.len(), shape.ranks, shape.seed as usize);
        Inputs {
            shape: shape.clone(),
            x: random.numbers(numbers, shape.mean, shape.spread),
            y: random.numbers(numbers, 0.0, shape.spread),
            gamma: random.numbers(shape.hidden, 1.0, 0.5),
            beta: random.numbers(shape.hidden, 0.0, 0.5),
            eps: 1e-5,
            rows,
            down: Down::new(random, shape.hidden, shape.ranks, &weights),
            weights,
        }
    }

    /// A batch of some of these rows.
    fn pick(&self, rows: &[usize]) -> Inputs<T> {
        let hidden = self.shape.hidden;
        let of = |numbers: &[T]| -> Vec<T> {
            rows.iter()
                .flat_map(|&row| &numbers[row * hidden..][..hidden])
                .copied()
                .collect()
        };
        Inputs {
            shape: self.shape.clone(),
            x: of(&self.x),
            y: of(&self.y),
            gamma: self.gamma.clone(),
            beta: self.beta.clone(),
            eps: self.eps,
            rows: rows.iter().map(|&row| self.rows[row]).collect(),
            weights: self.weights.clone(),
            down: self.down.clone(),
        }
    }

    /// Elements that a row yields: the row of out, and its h.
    fn width(&self) -> usize {
        self.shape.hidden + self.down.columns.len()
    }

    /// [tokens, width]
    fn reference<R: Real>(&self) -> Vec<R> {
        let mut out = Vec::new();
        let hidden = self.shape.hidden;
        for (row, &sequence) in self.rows.iter().enumerate() {
            let of = |numbers: &[T], i: usize| R::from(numbers[row * hidden + i].to_f32());
            let sum: Vec<R> = (0..hidden).map(|i| of(&self.x, i) + of(&self.y, i)).collect();
            let normed = layer_norm(&sum, &self.gamma, &self.beta, self.eps);
            let h = down_project(&normed, &self.down, self.weights.of(sequence as usize));
            out.extend(normed);
            out.extend(h);
        }
        out
    }

    /// [tokens, width]. Panics if anything else was written.
    fn run(&self, device: &Device) -> Vec<T> {
        let grid = Grid::new(self.rows.len(), self.shape.rows_per_block);
        self.run_first(device, self.rows.len(), grid)
    }

    /// As `run`, with the first rows alone.
    fn run_first(&self, device: &Device, tokens: usize, grid: Grid) -> Vec<T> {
        let Shape { hidden, gap, out, .. } = self.shape;
        // An input that is overwritten has the stride of the output; separate buffers have different strides.
        let apart = |more: usize| hidden + gap + if out == Out::Apart { more } else { 0 };
        let (x_stride, y_stride, out_stride) = (apart(8), apart(24), apart(0));
        let padded = |numbers: &[T], stride: usize| -> Vec<T> {
            let row = |row: &[T]| [row, &vec![T::NAN; stride - hidden]].concat();
            numbers.chunks(hidden).flat_map(row).collect()
        };

        let count = device.upload(&[tokens as u32]);
        let (x, y) = (
            device.upload(&padded(&self.x, x_stride)),
            device.upload(&padded(&self.y, y_stride)),
        );
        let (gamma, beta) = (device.upload(&self.gamma), device.upload(&self.beta));
        let sequenced = !self.down.columns.is_empty();
        let placed = Placed::new(
            device,
            grid.bucket,
            &self.rows,
            &self.weights,
            &self.down,
            sequenced,
        );
        let written = device.output::<T>(grid.bucket * out_stride);
        if out != Out::Apart {
            let over = if out == Out::OverX { &self.x } else { &self.y };
            for (row, numbers) in over.chunks(hidden).take(tokens).enumerate() {
                written.write(row * out_stride, numbers);
            }
        }

        let kernel = device.kernel::<LayerNormParams>("layernorm", &format!("layernorm_{}", T::NAME));
        let (blocks, threads, shared) = grid.launch(hidden);
        let params = LayerNormParams {
            tokens: count.address(),
            x: if out == Out::OverX {
                written.address()
            } else {
                x.address()
            },
            y: if out == Out::OverY {
                written.address()
            } else {
                y.address()
            },
            gamma: gamma.address(),
            beta: beta.address(),
            out: written.address(),
            mixtures: placed.mixtures,
            lora: placed.lora,
            hidden_size: hidden as u32,
            x_stride: x_stride as u32,
            y_stride: y_stride as u32,
            out_stride: out_stride as u32,
            eps: self.eps,
            reserved: 0,
        };
        kernel.launch(blocks, threads, shared, &params);

        let inside = inside(&written.download(), tokens, hidden, out_stride);
        beside(&inside, hidden, &placed.h(tokens), placed.lora.columns as usize)
    }

    /// Asserts that each part of the rows is within tolerance.
    fn check(&self, got: &[T]) {
        let (plain, exact) = (self.reference::<f32>(), self.reference::<f64>());
        check_beside("the sum", self.shape.hidden, got, &plain, &exact, self.width());
    }
}

/// One launch of bfloat16, for `counts`.
pub fn launch(device: &Device, hidden: usize, lengths: &[usize], ranks: &'static [usize]) {
    let shape = Shape {
        hidden,
        lengths: lengths.to_vec(),
        ranks,
        gap: 0,
        out: Out::Apart,
        mean: 0.0,
        spread: 1.0,
        rows_per_block: 8,
        seed: 0,
    };
    Inputs::<bf16>::new(&shape).run(device);
}

/// A batch with every mixture, for the tests of single rows rather than shapes.
fn mixed(hidden: usize) -> Shape {
    Shape {
        hidden,
        lengths: vec![3, 0, 6, 1, 4, 5],
        ranks: RANKS[2],
        gap: 8,
        out: Out::Apart,
        mean: 0.0,
        spread: 1.0,
        rows_per_block: 8,
        seed: hidden as u64,
    }
}

fn agrees<T: Number>() {
    let Some(device) = Device::open() else { return };
    for shape in shapes() {
        let _case = Case(&shape);
        let inputs = Inputs::<T>::new(&shape);
        inputs.check(&inputs.run(&device));
    }
}

#[test]
fn layernorm_bf16_agrees_with_float64() {
    agrees::<bf16>();
}

#[test]
fn layernorm_f16_agrees_with_float64() {
    agrees::<f16>();
}

fn alone<T: Number>() {
    let Some(device) = Device::open() else { return };
    for hidden in [128, 1024, 1032, 4096] {
        let shape = mixed(hidden);
        let _case = Case(&shape);
        let inputs = Inputs::<T>::new(&shape);
        let width = inputs.width();
        let together = inputs.run(&device);
        let count = inputs.rows.len();
        for row in [0, 4, 9, count - 1] {
            let alone = inputs.pick(&[row]);
            let grid = Grid {
                bucket: 1,
                rows_per_block: 1,
            };
            let got = alone.run_first(&device, 1, grid);
            assert_same("a row alone", &got, &together[row * width..][..width]);
        }
        // In another batch, at another row of another block.
        let reversed: Vec<usize> = (0..count).rev().collect();
        let mut other = inputs.pick(&reversed);
        other.shape.rows_per_block = 3;
        for (row, got) in reversed.iter().zip(other.run(&device).chunks(width)) {
            assert_same("the rows reversed", got, &together[row * width..][..width]);
        }
    }
}

#[test]
fn layernorm_bf16_has_the_same_bits_in_any_batch() {
    alone::<bf16>();
}

#[test]
fn layernorm_f16_has_the_same_bits_in_any_batch() {
    alone::<f16>();
}

fn poisoned<T: Number>() {
    let Some(device) = Device::open() else { return };
    for hidden in [384, 2056] {
        let shape = mixed(hidden);
        let _case = Case(&shape);
        let mut inputs = Inputs::<T>::new(&shape);
        let width = inputs.width();
        let clean = inputs.run(&device);
        let bad = 5;
        inputs.x[bad * hidden..][..hidden].fill(T::NAN);
        let got = inputs.run(&device);
        // NaN where the row's own elements are NaN, and still 0 in the columns that it does not use.
        inputs.check(&got);
        let (row, before) = (&got[bad * width..][..width], &clean[bad * width..][..width]);
        assert!(row[..hidden].iter().all(|number| number.to_f32().is_nan()));
        for (number, before) in row[hidden..].iter().zip(&before[hidden..]) {
            assert_eq!(number.to_f32().is_nan(), before.to_f32() != 0.0);
        }
        for other in (0..inputs.rows.len()).filter(|&row| row != bad) {
            let (got, clean) = (&got[other * width..][..width], &clean[other * width..][..width]);
            assert_same("a row beside one of NaN", got, clean);
        }
    }
}

#[test]
fn a_row_of_nan_leaves_the_rows_beside_it_alone() {
    poisoned::<bf16>();
    poisoned::<f16>();
}

#[test]
fn layernorm_reads_the_number_of_tokens_on_the_device() {
    let Some(device) = Device::open() else { return };
    for hidden in [256, 1032] {
        let shape = mixed(hidden);
        let _case = Case(&shape);
        let inputs = Inputs::<bf16>::new(&shape);
        let width = inputs.width();
        let all = inputs.run(&device);
        // One grid, as in a captured graph, with fewer tokens at every launch.
        let grid = Grid::new(inputs.rows.len(), 8);
        for tokens in [inputs.rows.len() - 1, 8, 1, 0] {
            let got = inputs.run_first(&device, tokens, grid);
            assert_same("the first rows", &got, &all[..tokens * width]);
        }
    }
}

#[test]
fn a_row_of_equal_numbers_becomes_the_offset() {
    let Some(device) = Device::open() else { return };
    for hidden in [8, 768, 4096] {
        let shape = mixed(hidden);
        let _case = Case(&shape);
        let mut inputs = Inputs::<bf16>::new(&shape);
        // The sum over a power of two of columns is exact, and over 768 columns too: the variance is 0, and eps
        // prevents a division by it.
        inputs.x.fill(bf16::from_f32(0.75));
        inputs.y.fill(bf16::from_f32(-0.25));
        let width = inputs.width();
        for row in inputs.run(&device).chunks(width) {
            assert_same("the row", &row[..hidden], &inputs.beta);
        }
    }
}
