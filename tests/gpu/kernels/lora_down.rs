//! `lora_down_bf16`, `lora_down_f16`.

use half::{bf16, f16};

use super::device::Device;
use super::numbers::{Number, Random, Real, assert_close, assert_same};
use super::params::{LORA_DOWN_ROWS, LORA_DOWN_SHARED_BYTES, LORA_DOWN_THREADS, LoraDownParams};
use super::rows::{BATCHES, Down, Placed, Weights, down_project, sequence_of_row};
use super::{Case, exhaustive};

/// Values of k: less than a step; an end that fills neither a step nor a warp's run of steps; one run for every warp;
/// models' sizes.
const K: [usize; 10] = [8, 24, 64, 136, 384, 1024, 1032, 3072, 4096, 16384];

/// Ranks by slot, 0 for an empty one: 16 to 368 columns, which may take more than one pass, or a second panel.
const RANKS: [&[usize]; 8] = [
    &[4],
    &[1, 4, 8],
    &[4, 4, 4, 4, 4],
    &[16, 7, 0, 5],
    &[0, 32, 16],
    &[64],
    &[64, 64, 64, 64, 64, 16],
    &[200, 60, 1, 100],
];

/// A row of the table.
#[derive(Debug, Clone)]
struct Shape {
    k: usize,
    lengths: Vec<usize>,
    ranks: &'static [usize],
    /// Elements between the end of a row of x and the next.
    gap: usize,
    seed: u64,
}

/// All values of every dimension; all combinations if `exhaustive`.
fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for (i, &k) in K.iter().enumerate() {
        for (b, lengths) in BATCHES.iter().enumerate() {
            let tokens: usize = lengths.iter().sum();
            // A few long rows test as much as many.
            if tokens * k > if exhaustive() { 512 * 1024 } else { 70 * 1024 } {
                continue;
            }
            for (r, ranks) in RANKS.iter().enumerate() {
                if !exhaustive() && r != (b + i) % RANKS.len() {
                    continue;
                }
                let turn = i + b + r;
                shapes.push(Shape {
                    k,
                    lengths: lengths.to_vec(),
                    ranks,
                    gap: [0, 8, 40][turn % 3],
                    seed: turn as u64,
                });
            }
        }
    }
    shapes
}

/// A batch with every mixture, for the tests of single rows rather than shapes.
fn mixed(k: usize) -> Shape {
    Shape {
        k,
        lengths: vec![3, 0, 20, 1, 4, 11],
        ranks: RANKS[7],
        gap: 8,
        seed: k as u64,
    }
}

/// The inputs of a case.
#[derive(Clone)]
struct Inputs<T> {
    shape: Shape,
    /// [tokens, k], without the gaps.
    x: Vec<T>,
    rows: Vec<u32>,
    weights: Weights,
    down: Down<T>,
}

impl<T: Number> Inputs<T> {
    fn new(shape: &Shape) -> Inputs<T> {
        let random = &mut Random::new(shape.seed);
        let rows = sequence_of_row(&shape.lengths);
        let weights = Weights::new(random, shape.lengths.len(), shape.ranks, shape.seed as usize);
        Inputs {
            shape: shape.clone(),
            x: random.numbers(rows.len() * shape.k, 0.0, 1.0),
            rows,
            down: Down::new(random, shape.k, shape.ranks, &weights),
            weights,
        }
    }

    /// A batch of some of these rows.
    fn pick(&self, rows: &[usize]) -> Inputs<T> {
        let k = self.shape.k;
        let x = rows.iter().flat_map(|&row| &self.x[row * k..][..k]);
        Inputs {
            x: x.copied().collect(),
            rows: rows.iter().map(|&row| self.rows[row]).collect(),
            ..self.clone()
        }
    }

    fn columns(&self) -> usize {
        self.down.columns.len()
    }

    /// [tokens, columns]
    fn reference<R: Real>(&self) -> Vec<R> {
        let rows = self.x.chunks(self.shape.k).zip(&self.rows);
        rows.flat_map(|(row, &sequence)| {
            let row: Vec<R> = row.iter().map(|x| R::from(x.to_f32())).collect();
            down_project(&row, &self.down, self.weights.of(sequence as usize))
        })
        .collect()
    }

    fn check(&self, got: &[T]) {
        assert_close("h", got, &self.reference::<f32>(), &self.reference::<f64>());
    }

    fn run(&self, device: &Device) -> Vec<T> {
        // More than one block too many: whole blocks have no row.
        let bucket = (self.rows.len() + 1).next_multiple_of(32);
        self.run_first(device, self.rows.len(), bucket)
    }

    /// [tokens, columns], with the first rows alone; rows past them are NaN, with invalid sequences.
    fn run_first(&self, device: &Device, tokens: usize, bucket: usize) -> Vec<T> {
        let Shape { k, gap, .. } = self.shape;
        let stride = k + gap;
        let mut x = vec![T::NAN; self.rows.len() * stride];
        for (to, from) in x.chunks_mut(stride).zip(self.x.chunks(k)).take(tokens) {
            to[..k].copy_from_slice(from);
        }
        let mut rows = self.rows.clone();
        rows[tokens..].fill(u32::MAX / 2);

        let (count, x) = (device.upload(&[tokens as u32]), device.upload(&x));
        let placed = Placed::new(device, bucket, &rows, &self.weights, &self.down, true);
        let params = LoraDownParams {
            tokens: count.address(),
            x: x.address(),
            a: placed.lora.a,
            column: placed.lora.column,
            h: placed.lora.h,
            mixtures: placed.mixtures,
            k: k as u32,
            columns: placed.lora.columns,
            x_stride: stride as u32,
            reserved: 0,
        };
        let kernel = device.kernel::<LoraDownParams>("lora_down", &format!("lora_down_{}", T::NAME));
        let blocks = bucket.div_ceil(LORA_DOWN_ROWS as usize) as u32;
        kernel.launch(blocks, LORA_DOWN_THREADS, LORA_DOWN_SHARED_BYTES, &params);
        placed.h(tokens)
    }
}

/// One launch of bfloat16, for `counts`.
pub fn launch(device: &Device, k: usize, lengths: &[usize], ranks: &'static [usize]) {
    let shape = Shape {
        k,
        lengths: lengths.to_vec(),
        ranks,
        gap: 0,
        seed: 0,
    };
    Inputs::<bf16>::new(&shape).run(device);
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
fn lora_down_bf16_agrees_with_float64() {
    agrees::<bf16>();
}

#[test]
fn lora_down_f16_agrees_with_float64() {
    agrees::<f16>();
}

fn alone<T: Number>() {
    let Some(device) = Device::open() else { return };
    for k in [136, 1024, 3080] {
        let shape = mixed(k);
        let _case = Case(&shape);
        let inputs = Inputs::<T>::new(&shape);
        let columns = inputs.columns();
        let together = inputs.run(&device);
        let count = inputs.rows.len();
        for row in [0, 3, 16, 23, count - 1] {
            let got = inputs.pick(&[row]).run_first(&device, 1, 1);
            assert_same("a row alone", &got, &together[row * columns..][..columns]);
        }
        // In another batch, at another row of another block.
        let reversed: Vec<usize> = (0..count).rev().collect();
        let other = inputs.pick(&reversed).run(&device);
        for (row, got) in reversed.iter().zip(other.chunks(columns)) {
            assert_same("the rows reversed", got, &together[row * columns..][..columns]);
        }
    }
}

#[test]
fn lora_down_has_the_same_bits_in_any_batch() {
    alone::<bf16>();
    alone::<f16>();
}

#[test]
fn lora_down_reads_the_number_of_tokens_on_the_device() {
    let Some(device) = Device::open() else { return };
    let inputs = Inputs::<bf16>::new(&mixed(256));
    let all = inputs.run(&device);
    // One grid, as in a captured graph, with fewer tokens at every launch.
    for tokens in [inputs.rows.len() - 1, 17, 16, 8, 1, 0] {
        let got = inputs.run_first(&device, tokens, 64);
        assert_same("the first rows", &got, &all[..tokens * inputs.columns()]);
    }
}

fn poisoned<T: Number>() {
    let Some(device) = Device::open() else { return };
    let shape = mixed(392);
    let mut inputs = Inputs::<T>::new(&shape);
    let columns = inputs.columns();
    let clean = inputs.run(&device);
    let bad = 2;
    inputs.x[bad * shape.k..][..shape.k].fill(T::NAN);
    let got = inputs.run(&device);
    // NaN in the columns that the row uses, and still 0 in those that it does not.
    inputs.check(&got);
    let used = |row: usize| {
        clean[row * columns..][..columns]
            .iter()
            .filter(|h| h.to_f32() != 0.0)
            .count()
    };
    assert!((1..columns).contains(&used(bad)), "the row uses some columns");
    for other in (0..inputs.rows.len()).filter(|&row| row != bad) {
        let row = |h: &[T]| h[other * columns..][..columns].to_vec();
        assert_same("a row beside one of NaN", &row(&got), &row(&clean));
    }
}

#[test]
fn a_row_of_nan_leaves_the_down_projections_beside_it_alone() {
    poisoned::<bf16>();
    poisoned::<f16>();
}

/// One user's broken adapter must not affect other rows, even those that the same block computes.
#[test]
fn an_adapter_of_nan_stays_in_the_rows_that_use_it() {
    let Some(device) = Device::open() else { return };
    let mut inputs = Inputs::<f16>::new(&Shape {
        ranks: RANKS[2],
        ..mixed(392)
    });
    let clean = inputs.run(&device);
    let broken = 0;
    let columns = inputs.columns();
    for (column, a) in inputs.down.columns.iter_mut().zip(inputs.down.a.chunks_mut(392)) {
        if column.slot == broken {
            a.fill(f16::INFINITY);
            column.scale = f32::NAN;
        }
    }
    let got = inputs.run(&device);
    let (mut touched, mut spared) = (0, 0);
    for (at, (got, clean)) in got.iter().zip(&clean).enumerate() {
        let weight = inputs.weights.of(inputs.rows[at / columns] as usize)[broken as usize];
        if inputs.down.columns[at % columns].slot != broken {
            assert_eq!(got.to_bits(), clean.to_bits());
        } else if weight == 0.0 {
            assert_eq!(got.to_bits(), 0);
            spared += 1;
        } else {
            assert!(got.is_nan());
            touched += 1;
        }
    }
    assert!(touched > 0 && spared > 0, "{touched} and {spared}");
}
