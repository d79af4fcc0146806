//! `attention_*`.

use half::{bf16, f16};

use super::device::{Device, WILD};
use super::numbers::{Number, Random, Real, assert_close, assert_same, assert_untouched};
use super::params::*;
use super::rows::cu_seqlens;
use super::{Case, exhaustive, for_each_seed};

mod sm90;

const HEAD_DIMS: [usize; 3] = [32, 64, 128];

/// Lengths of the sequences of a batch: around the 16 rows of an MMA, the keys of a key tile, the queries of a tile.
const BATCHES: [&[usize]; 14] = [
    &[],
    &[1],
    &[7],
    &[16],
    &[32, 33, 31],
    &[63],
    &[64],
    &[65],
    &[127],
    &[128],
    &[129],
    &[0, 31, 0, 0, 64, 5, 0],
    &[3, 0, 17, 1, 140, 19],
    &[600],
];

/// Further lengths if `exhaustive`.
const LONG: [&[usize]; 2] = [&[2100], &[700, 1, 300, 513]];

/// Queries of a tile.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Variant {
    Large,
    Small,
    /// Of compute capability 9.0, for a head_dim of 64, without rotation.
    Wgmma64,
    Wgmma128,
}

impl Variant {
    pub fn name(self) -> &'static str {
        match self {
            Variant::Large => "large",
            Variant::Small => "small",
            Variant::Wgmma64 => "wgmma64",
            Variant::Wgmma128 => "wgmma128",
        }
    }

    pub fn rows(self) -> usize {
        let rows = match self {
            Variant::Large => ATTENTION_LARGE_ROWS,
            Variant::Small => ATTENTION_SMALL_ROWS,
            Variant::Wgmma64 => ATTENTION_WGMMA64_ROWS,
            Variant::Wgmma128 => ATTENTION_WGMMA128_ROWS,
        };
        rows as usize
    }

    /// Threads and dynamic shared memory of a block.
    fn block(self, head_dim: usize) -> (u32, u32) {
        match self {
            Variant::Large | Variant::Small => {
                let keys = ATTENTION_MAX_KEYS.min(ATTENTION_TILE_NUMBERS / head_dim as u32);
                let rows = self.rows() as u32;
                (ATTENTION_THREADS, 2 * head_dim as u32 * (rows + 4 * keys))
            }
            Variant::Wgmma64 => (ATTENTION_WGMMA64_THREADS, ATTENTION_WGMMA64_SHARED),
            Variant::Wgmma128 => (ATTENTION_WGMMA128_THREADS, ATTENTION_WGMMA128_SHARED),
        }
    }
}

/// A row of the table.
#[derive(Debug, Clone)]
struct Shape {
    lengths: Vec<usize>,
    heads: usize,
    head_dim: usize,
    /// Whether the kernel rotates q and k.
    rope: bool,
    /// Of q and k. The spread of the scores grows as its square.
    spread: f32,
    /// Elements between rows of qkv and of out, beyond what the kernel needs.
    gap: usize,
    seed: u64,
}

/// How a batch is launched. The result does not depend on any of it.
#[derive(Debug, Clone)]
struct Launch {
    variant: Variant,
    blocks: usize,
    tiles: Vec<AttentionTile>,
}

impl Launch {
    /// All tiles, longest sequences first.
    fn new(lengths: &[usize], variant: Variant, blocks: usize) -> Launch {
        let mut sequences: Vec<usize> = (0..lengths.len()).collect();
        sequences.sort_by_key(|&sequence| std::cmp::Reverse(lengths[sequence]));
        let of = |sequence: usize| {
            let firsts = (0..lengths[sequence]).step_by(variant.rows());
            firsts.map(move |first| AttentionTile {
                sequence: sequence as u32,
                first: first as u32,
            })
        };
        Launch {
            variant,
            blocks,
            tiles: sequences.into_iter().flat_map(of).collect(),
        }
    }
}

/// All batches for every head_dim; if `exhaustive`, combined with every number of heads, rotation and spread.
fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    let long = if exhaustive() { &LONG[..] } else { &[] };
    for (b, lengths) in BATCHES.iter().chain(long).enumerate() {
        for (d, &head_dim) in HEAD_DIMS.iter().enumerate() {
            let tokens: usize = lengths.iter().sum();
            let turns = if exhaustive() && tokens < 300 { 12 } else { 1 };
            for turn in b + d..b + d + turns {
                shapes.push(Shape {
                    lengths: lengths.to_vec(),
                    heads: if tokens > 200 {
                        1 + turn % 2
                    } else {
                        [2, 1, 3, 12][turn % 4]
                    },
                    head_dim,
                    rope: (turn + d) % 2 == 0,
                    // Nearly uniform weights; those of text; nearly one-hot weights, where exponents reach ±60.
                    spread: [1.7, 0.1, 5.0][turn % 3],
                    gap: [0, 8, 40][turn / 2 % 3],
                    seed: turn as u64,
                });
            }
        }
    }
    shapes
}

/// The operations that a reference needs beside those of `Real`.
trait Exp: Real + PartialOrd {
    fn exp(self) -> Self;
}

impl Exp for f64 {
    fn exp(self) -> f64 {
        self.exp()
    }
}

impl Exp for f32 {
    fn exp(self) -> f32 {
        self.exp()
    }
}

fn dot<R: Real>(a: &[R], b: &[R]) -> R {
    let mut sum = R::from(0.0);
    a.iter().zip(b).for_each(|(&a, &b)| sum += a * b);
    sum
}

/// The inputs of a case.
#[derive(Clone)]
struct Inputs<T> {
    shape: Shape,
    /// [tokens, 3, heads, head_dim], without the gaps.
    qkv: Vec<T>,
    /// [positions, head_dim / 2] pairs; as many positions as the longest sequence has tokens.
    table: Vec<[f32; 2]>,
    scale: f32,
}

impl<T: Number> Inputs<T> {
    fn new(shape: &Shape) -> Inputs<T> {
        let random = &mut Random::new(shape.seed);
        let tokens: usize = shape.lengths.iter().sum();
        let width = shape.heads * shape.head_dim;
        let mut qkv = Vec::new();
        for _ in 0..tokens {
            qkv.extend(random.numbers::<T>(2 * width, 0.0, shape.spread));
            qkv.extend(random.numbers::<T>(width, 0.3, 1.0));
        }
        let positions = shape.lengths.iter().copied().max().unwrap_or(0);
        let half = shape.head_dim / 2;
        let turn = |at: usize| {
            let angle = (at / half) as f64 * 20_000_f64.powf(-((at % half) as f64) / half as f64);
            [angle.cos() as f32, angle.sin() as f32]
        };
        Inputs {
            shape: shape.clone(),
            qkv,
            table: (0..positions * half).map(turn).collect(),
            scale: (shape.head_dim as f32).powf(-0.5),
        }
    }

    /// Elements of a row of out, and of each third of a row of qkv.
    fn width(&self) -> usize {
        self.shape.heads * self.shape.head_dim
    }

    fn tokens(&self) -> usize {
        self.shape.lengths.iter().sum()
    }

    /// Rows of a sequence.
    fn rows(&self, sequence: usize) -> std::ops::Range<usize> {
        let first: usize = self.shape.lengths[..sequence].iter().sum();
        first..first + self.shape.lengths[sequence]
    }

    /// A batch of some of these sequences.
    fn pick(&self, sequences: &[usize]) -> Inputs<T> {
        let mut picked = self.clone();
        picked.shape.lengths = sequences.iter().map(|&s| self.shape.lengths[s]).collect();
        let row = 3 * self.width();
        let numbers = |&s: &usize| &self.qkv[self.rows(s).start * row..self.rows(s).end * row];
        picked.qkv = sequences.iter().flat_map(numbers).copied().collect();
        picked
    }

    /// A head of a row's q (`part` 0), k (1) or v (2), rotated if the kernel does.
    fn head<R: Real>(&self, row: usize, position: usize, part: usize, head: usize) -> Vec<R> {
        let d = self.shape.head_dim;
        let start = (3 * row + part) * self.width() + head * d;
        let x: Vec<R> = self.qkv[start..start + d]
            .iter()
            .map(|x| R::from(x.to_f32()))
            .collect();
        if !self.shape.rope || part == 2 {
            return x;
        }
        let half = d / 2;
        let turned = |i: usize| {
            let [cos, sin] = self.table[position * half + i % half].map(R::from);
            let turned = match i < half {
                true => x[i] * cos - x[i + half] * sin,
                false => x[i] * cos + x[i - half] * sin,
            };
            turned.written::<T>()
        };
        (0..d).map(turned).collect()
    }

    /// Some rows, [rows, heads, head_dim].
    fn reference<R: Exp>(&self, wanted: &[usize]) -> Vec<R> {
        let Shape { heads, head_dim, .. } = self.shape;
        let mut out = vec![R::from(0.0); wanted.len() * self.width()];
        for sequence in 0..self.shape.lengths.len() {
            let rows = self.rows(sequence);
            for head in 0..heads {
                let part = |part| -> Vec<Vec<R>> {
                    rows.clone()
                        .map(|row| self.head(row, row - rows.start, part, head))
                        .collect()
                };
                let (k, v) = (part(1), part(2));
                for (at, &row) in wanted.iter().enumerate().filter(|(_, row)| rows.contains(row)) {
                    let q = self.head(row, row - rows.start, 0, head);
                    let scores: Vec<R> = k.iter().map(|k| dot(&q, k) * R::from(self.scale)).collect();
                    let greater = |most, &score| if score > most { score } else { most };
                    let most = scores.iter().fold(scores[0], greater);
                    let weights: Vec<R> = scores.iter().map(|&score| (score - most).exp()).collect();
                    let mut total = R::from(0.0);
                    weights.iter().for_each(|&weight| total += weight);
                    let out = &mut out[at * self.width() + head * head_dim..][..head_dim];
                    for (weight, v) in weights.iter().zip(&v) {
                        let weight = weight.written::<T>();
                        out.iter_mut().zip(v).for_each(|(out, &v)| *out += weight * v);
                    }
                    out.iter_mut()
                        .for_each(|out| *out = (*out / total).written::<T>());
                }
            }
        }
        out
    }

    /// [tokens, width]. Panics if anything but the tiles' rows was written.
    fn run(&self, device: &Device, launch: &Launch) -> Vec<T> {
        self.run_first(device, launch, launch.tiles.len())
    }

    /// As `run`, with the first tiles alone. The rows of other tiles stay SENTINEL.
    fn run_first(&self, device: &Device, launch: &Launch, tile_count: usize) -> Vec<T> {
        let Shape {
            heads,
            head_dim,
            gap,
            seed,
            ..
        } = self.shape;
        let width = self.width();
        let (qkv_stride, out_stride) = (3 * width + gap, width + gap);
        // After the last row: rows that must not be read, or the end of the allocation.
        let spare = if seed % 2 == 0 {
            ATTENTION_LARGE_ROWS as usize + 7
        } else {
            0
        };

        let mut padded = vec![T::NAN; (self.tokens() + spare) * qkv_stride];
        for (to, row) in padded.chunks_mut(qkv_stride).zip(self.qkv.chunks(3 * width)) {
            to[..3 * width].copy_from_slice(row);
        }
        let qkv = device.upload(&padded);
        let count = device.upload(&[tile_count as u32]);
        let tiles = device.upload(&launch.tiles);
        let starts = device.upload(&cu_seqlens(&self.shape.lengths));
        let table = device.upload(&self.table);
        let out = device.output::<T>((self.tokens() + spare) * out_stride);

        let variant = launch.variant;
        let entry = format!("attention_{}_hd{head_dim}_{}", T::NAME, variant.name());
        let params = AttentionParams {
            tile_count: count.address(),
            tiles: if tile_count == 0 { WILD } else { tiles.address() },
            cu_seqlens: starts.address(),
            qkv: qkv.address(),
            rope: if self.shape.rope { table.address() } else { 0 },
            out: out.address(),
            heads: heads as u32,
            scale: self.scale,
            qkv_stride: qkv_stride as u32,
            out_stride: out_stride as u32,
        };
        let (blocks, (threads, shared)) = (launch.blocks as u32, variant.block(head_dim));
        match variant {
            Variant::Large | Variant::Small => {
                let kernel = device.kernel("attention", &entry);
                kernel.launch(blocks, threads, shared, &params);
            }
            Variant::Wgmma64 | Variant::Wgmma128 => {
                let rows = (self.tokens() + spare).max(1);
                let params = sm90::params::<T>(device, variant, params, rows);
                let kernel = device.kernel("sm90/attention", &entry);
                kernel.launch(blocks, threads, shared, &params);
            }
        }

        let mut tiled = vec![false; self.tokens() + spare];
        for tile in &launch.tiles[..tile_count] {
            let rows = self.rows(tile.sequence as usize);
            let first = rows.start + tile.first as usize;
            tiled[first..rows.end.min(first + variant.rows())].fill(true);
        }
        let mut inside = Vec::new();
        for (row, tiled) in out.download().chunks(out_stride).zip(tiled) {
            assert_untouched("columns past the row", &row[width..]);
            if !tiled {
                assert_untouched("a row of no tile", row);
            }
            inside.extend_from_slice(&row[..width]);
        }
        inside.truncate(self.tokens() * width);
        inside
    }

    /// Asserts that rows are within tolerance: all of them, or some of many.
    fn check(&self, got: &[T]) {
        let step = self.tokens().div_ceil(150).max(1);
        let rows: Vec<usize> = (0..self.tokens()).step_by(step).collect();
        let width = self.width();
        let numbers: Vec<T> = rows
            .iter()
            .flat_map(|row| &got[row * width..][..width])
            .copied()
            .collect();
        assert_close(
            "out",
            &numbers,
            &self.reference::<f32>(&rows),
            &self.reference::<f64>(&rows),
        );
    }
}

/// One launch of bfloat16, for `counts`.
pub fn launch(
    device: &Device,
    lengths: &[usize],
    heads: usize,
    head_dim: usize,
    rope: bool,
    variant: Variant,
) {
    let shape = Shape {
        lengths: lengths.to_vec(),
        heads,
        head_dim,
        rope,
        spread: 1.0,
        gap: 0,
        seed: 1,
    };
    Inputs::<bf16>::new(&shape).run(device, &Launch::new(lengths, variant, 2));
}

/// For the tests of single rows rather than shapes: some sequences have two key tiles and two query tiles.
fn mixed(head_dim: usize) -> Shape {
    Shape {
        lengths: vec![3, 0, 70, 1, 133, 64],
        heads: 2,
        head_dim,
        rope: true,
        spread: 1.7,
        gap: 8,
        seed: head_dim as u64,
    }
}

fn agrees<T: Number>() {
    let Some(device) = Device::open() else { return };
    for (number, shape) in shapes().iter().enumerate() {
        let _case = Case(shape);
        let inputs = Inputs::<T>::new(shape);
        let variant = [Variant::Large, Variant::Small][number % 2];
        let launch = Launch::new(&shape.lengths, variant, [3, 1, 40][number % 3]);
        inputs.check(&inputs.run(&device, &launch));
    }
}

#[test]
fn attention_bf16_agrees_with_float64() {
    agrees::<bf16>();
}

#[test]
fn attention_f16_agrees_with_float64() {
    agrees::<f16>();
}

fn invariant<T: Number>() {
    let Some(device) = Device::open() else { return };
    for head_dim in HEAD_DIMS {
        let shape = mixed(head_dim);
        let _case = Case(&shape);
        let inputs = Inputs::<T>::new(&shape);
        let width = inputs.width();
        let large = Launch::new(&shape.lengths, Variant::Large, 3);
        let wanted = inputs.run(&device, &large);

        // Many blocks, some of which have no work item; one block that does all of them, in another order.
        let mut small = Launch::new(&shape.lengths, Variant::Small, 100);
        assert_same("small tiles", &inputs.run(&device, &small), &wanted);
        (small.blocks, small.tiles) = (1, small.tiles.into_iter().rev().collect());
        assert_same("the tiles reversed", &inputs.run(&device, &small), &wanted);

        // In other batches, at other rows, and alone.
        for sequences in [&[4, 2, 0, 4][..], &[5], &[2], &[0]] {
            let picked = inputs.pick(sequences);
            let launch = Launch::new(&picked.shape.lengths, Variant::Large, 2);
            let got = picked.run(&device, &launch);
            for (at, &sequence) in sequences.iter().enumerate() {
                let (here, there) = (picked.rows(at), inputs.rows(sequence));
                assert_same(
                    "a sequence in other company",
                    &got[here.start * width..here.end * width],
                    &wanted[there.start * width..there.end * width],
                );
            }
        }
    }
}

#[test]
fn attention_bf16_has_the_same_bits_in_any_batch_and_tile() {
    invariant::<bf16>();
}

#[test]
fn attention_f16_has_the_same_bits_in_any_batch_and_tile() {
    invariant::<f16>();
}

fn poisoned<T: Number>() {
    let Some(device) = Device::open() else { return };
    for head_dim in HEAD_DIMS {
        let shape = mixed(head_dim);
        let _case = Case(&shape);
        let mut inputs = Inputs::<T>::new(&shape);
        let width = inputs.width();
        let launch = Launch::new(&shape.lengths, Variant::Small, 3);
        let clean = inputs.run(&device, &launch);
        // All of one sequence, between two others; a key and a value of the sequence after next, in its last key tile.
        let (whole, part) = (inputs.rows(2), inputs.rows(4));
        inputs.qkv[whole.start * 3 * width..whole.end * 3 * width].fill(T::NAN);
        inputs.qkv[(part.end - 1) * 3 * width + width] = T::NAN;
        inputs.qkv[(part.end - 2) * 3 * width + 2 * width + head_dim] = T::NAN;
        let got = inputs.run(&device, &launch);
        inputs.check(&got);
        for row in (0..inputs.tokens()).filter(|row| !whole.contains(row) && !part.contains(row)) {
            let of = |numbers: &[T]| numbers[row * width..][..width].to_vec();
            assert_same("a sequence beside one of NaN", &of(&got), &of(&clean));
        }
    }
}

#[test]
fn a_sequence_of_nan_leaves_the_sequences_beside_it_alone() {
    poisoned::<bf16>();
    poisoned::<f16>();
}

/// One grid, as in a captured graph, with fewer tiles at every launch.
fn reads_the_number_of_tiles(device: &Device, inputs: &Inputs<bf16>, launch: &Launch) {
    let (width, all) = (inputs.width(), inputs.run(device, launch));
    for tiles in [launch.tiles.len() - 1, 1, 0] {
        let got = inputs.run_first(device, launch, tiles);
        for tile in &launch.tiles[..tiles] {
            let rows = inputs.rows(tile.sequence as usize);
            let first = rows.start + tile.first as usize;
            let numbers = first * width..rows.end.min(first + launch.variant.rows()) * width;
            assert_same("the first tiles", &got[numbers.clone()], &all[numbers]);
        }
    }
}

#[test]
fn attention_reads_the_number_of_tiles_on_the_device() {
    let Some(device) = Device::open() else { return };
    for variant in [Variant::Large, Variant::Small] {
        let inputs = Inputs::<bf16>::new(&mixed(64));
        let launch = Launch::new(&inputs.shape.lengths, variant, 5);
        reads_the_number_of_tiles(&device, &inputs, &launch);
    }
}

#[test]
fn equal_scores_give_the_mean_of_the_values() {
    let Some(device) = Device::open() else { return };
    for head_dim in HEAD_DIMS {
        for (length, rope) in [(1, true), (64, false), (150, true)] {
            let mut shape = mixed(head_dim);
            (shape.lengths, shape.rope) = (vec![5, length], rope);
            let _case = Case(&shape);
            let mut inputs = Inputs::<f16>::new(&shape);
            let width = inputs.width();
            // Keys of 0: scores of 0, whatever the queries are.
            for row in inputs.qkv.chunks_mut(3 * width) {
                row[width..2 * width].fill(f16::ZERO);
            }
            let launch = Launch::new(&shape.lengths, Variant::Large, 3);
            let got = inputs.run(&device, &launch);
            let mut mean = vec![0.0_f64; width];
            for row in inputs.qkv[5 * 3 * width..].chunks(3 * width) {
                mean.iter_mut()
                    .zip(&row[2 * width..])
                    .for_each(|(mean, v)| *mean += v.to_f64());
            }
            for row in got[5 * width..].chunks(width) {
                for (got, sum) in row.iter().zip(&mean) {
                    let exact = sum / length as f64;
                    let error = (got.to_f64() - exact).abs();
                    // Half a unit in the last place of 11 bits, and a margin for the float32 sums.
                    assert!(
                        error <= exact.abs() * 2_f64.powi(-11) + 1e-6,
                        "{got} is not {exact}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_score_above_all_others_takes_that_value_as_it_is() {
    let Some(device) = Device::open() else { return };
    for head_dim in HEAD_DIMS {
        // The first key, one in the first key tile, one in a later tile, the last key.
        for chosen in [0, 40, 70, 149] {
            let mut shape = mixed(head_dim);
            (shape.lengths, shape.rope) = (vec![150, 9], false);
            let _case = Case(&shape);
            let mut inputs = Inputs::<bf16>::new(&shape);
            let width = inputs.width();
            for (at, row) in inputs.qkv.chunks_mut(3 * width).enumerate() {
                row[..width].fill(bf16::from_f32(8.0));
                let key = if at == chosen { 8.0 } else { -8.0 + (at % 3) as f32 };
                row[width..2 * width].fill(bf16::from_f32(key));
            }
            let launch = Launch::new(&shape.lengths, Variant::Small, 2);
            let got = inputs.run(&device, &launch);
            let value = &inputs.qkv[(3 * chosen + 2) * width..][..width];
            for row in got[..150 * width].chunks(width) {
                assert_same("every row", row, value);
            }
        }
    }
}
