//! `embed_bf16`, `embed_f16`.

use half::{bf16, f16};

use super::device::{Buffer, Device, WILD};
use super::numbers::{Number, Random, Real, assert_same};
use super::params::{EmbedAdapter, EmbedParams};
use super::rows::{
    BATCHES, Down, Grid, HIDDEN, Placed, RANKS, Weights, beside, check_beside, cu_seqlens, down_project,
    inside, layer_norm, sequence_of_row,
};
use super::{Case, exhaustive};

const VOCAB: usize = 60;
/// A word that the random batches do not contain.
const SPARE: u32 = 59;

/// A row of the table.
#[derive(Debug, Clone)]
struct Shape {
    hidden: usize,
    lengths: Vec<usize>,
    /// The adapters of the batch.
    ranks: &'static [usize],
    /// Whether they change the tables, and whether they have a down-projection.
    tables: bool,
    down: bool,
    /// The least row of the position table that is read, if there is a table.
    position: Option<usize>,
    gap: usize,
    rows_per_block: usize,
    seed: u64,
}

/// All values of every dimension; if `exhaustive`, all combinations of hidden_size and batch, of those with few elements
/// with all adapters.
fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for (h, &hidden) in HIDDEN.iter().enumerate() {
        for (b, lengths) in BATCHES.iter().enumerate() {
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
                        tables: !ranks.is_empty() && turn % 3 != 1,
                        down: turn % 3 != 2,
                        position: [None, Some(0), Some(2)][turn / 2 % 3],
                        gap: [0, 8, 40][turn / 3 % 3],
                        rows_per_block: [8, 4, 1, 3][turn % 4],
                        seed: turn as u64,
                    });
                }
            }
        }
    }
    shapes
}

/// An adapter's part of the tables.
#[derive(Clone)]
struct Adapter<T> {
    rank: usize,
    scale: f32,
    /// [VOCAB, rank] and [rank, hidden_size], unless it does not change the word table.
    words: Option<(Vec<T>, Vec<T>)>,
    /// [hidden_size], unless it does not change the token types.
    token_type: Option<Vec<f32>>,
}

/// The inputs of a case. Rows of tables that the batch does not use are NaN.
#[derive(Clone)]
struct Inputs<T> {
    shape: Shape,
    ids: Vec<u32>,
    /// [tokens]: rows of `position`, in any order.
    position_of_row: Vec<u32>,
    /// [VOCAB, hidden_size]
    word: Vec<T>,
    token_type: Vec<T>,
    /// [positions, hidden_size]
    position: Vec<T>,
    gamma: Vec<T>,
    beta: Vec<T>,
    eps: f32,
    weights: Weights,
    /// By slot; none for slots that no sequence uses.
    adapters: Vec<Option<Adapter<T>>>,
    down: Down<T>,
}

/// Rows of `width` elements, NaN where `used` says that the batch does not read them.
fn table<T: Number>(
    random: &mut Random,
    rows: usize,
    width: usize,
    spread: f32,
    used: impl Fn(usize) -> bool,
) -> Vec<T> {
    let mut table: Vec<T> = random.numbers(rows * width, 0.0, spread);
    for row in (0..rows).filter(|&row| !used(row)) {
        table[row * width..][..width].fill(T::NAN);
    }
    table
}

impl<T: Number> Inputs<T> {
    fn new(shape: &Shape) -> Inputs<T> {
        let random = &mut Random::new(shape.seed);
        let tokens = shape.lengths.iter().sum();
        let ids: Vec<u32> = (0..tokens).map(|_| random.below(SPARE as usize) as u32).collect();
        let has = |id: usize| ids.contains(&(id as u32));
        let ranks = match shape.tables || shape.down {
            true => shape.ranks,
            false => &[],
        };
        let hidden = shape.hidden;
        let weights = Weights::new(random, shape.lengths.len(), ranks, shape.seed as usize);
        let adapter = |(slot, &rank): (usize, &usize), random: &mut Random| {
            let [words, types] =
                [[true, true], [true, false], [false, true]][(slot + shape.lengths.len()) % 3];
            Adapter {
                rank,
                scale: 1.0 + 0.5 * random.unit(),
                words: words.then(|| {
                    (
                        table(random, VOCAB, rank, 0.5, has),
                        table(random, rank, hidden, 0.25, |_| true),
                    )
                }),
                token_type: types.then(|| (0..hidden).map(|_| 0.25 * random.unit()).collect()),
            }
        };
        let adapters = ranks.iter().enumerate();
        let adapters = adapters.map(|slot| weights.used(slot.0).then(|| adapter(slot, random)));
        let adapters = adapters.collect();
        let offset = shape.position.unwrap_or(0);
        let longest = shape.lengths.iter().max().copied().unwrap_or(0);
        Inputs {
            shape: shape.clone(),
            position_of_row: (0..tokens)
                .map(|_| (offset + random.below(longest)) as u32)
                .collect(),
            word: table(random, VOCAB, hidden, 1.0, has),
            token_type: random.numbers(hidden, 0.0, 0.25),
            position: table(random, offset + longest, hidden, 0.5, |row| row >= offset),
            gamma: random.numbers(hidden, 1.0, 0.5),
            beta: random.numbers(hidden, 0.0, 0.5),
            eps: 1e-5,
            adapters,
            down: match shape.down {
                true => Down::new(random, hidden, ranks, &weights),
                false => Down::new(random, hidden, &[], &weights),
            },
            weights,
            ids,
        }
    }

    /// A batch of some of the sequences.
    fn pick(&self, sequences: &[usize]) -> Inputs<T> {
        let first = cu_seqlens(&self.shape.lengths);
        let mut picked = self.clone();
        picked.shape.lengths = sequences.iter().map(|&s| self.shape.lengths[s]).collect();
        let pick = |of: &[u32]| -> Vec<u32> {
            let rows = |&s: &usize| &of[first[s] as usize..first[s + 1] as usize];
            sequences.iter().flat_map(rows).copied().collect()
        };
        picked.ids = pick(&self.ids);
        picked.position_of_row = pick(&self.position_of_row);
        picked.weights.weights = sequences
            .iter()
            .flat_map(|&s| self.weights.of(s))
            .copied()
            .collect();
        picked
    }

    /// Elements that a row yields: the row of out, and its h.
    fn width(&self) -> usize {
        self.shape.hidden + self.down.columns.len()
    }

    /// [tokens, width]
    fn reference<R: Real>(&self) -> Vec<R> {
        let hidden = self.shape.hidden;
        let mut out = Vec::new();
        for (row, &sequence) in sequence_of_row(&self.shape.lengths).iter().enumerate() {
            let (id, sequence) = (self.ids[row] as usize, sequence as usize);
            let of = |numbers: &[T], at: usize| R::from(numbers[at].to_f32());
            let mut x: Vec<R> = (0..hidden)
                .map(|i| of(&self.word, id * hidden + i) + of(&self.token_type, i))
                .collect();
            if self.shape.position.is_some() {
                let position = self.position_of_row[row] as usize;
                for (i, x) in x.iter_mut().enumerate() {
                    *x += of(&self.position, position * hidden + i);
                }
            }
            let adapters = self.adapters.iter().zip(self.weights.of(sequence));
            for (adapter, &weight) in adapters.filter(|(_, weight)| self.shape.tables && **weight != 0.0) {
                let adapter = adapter.as_ref().expect("a slot in use");
                for (i, x) in x.iter_mut().enumerate() {
                    let mut delta = R::from(0.0);
                    if let Some((a, b)) = &adapter.words {
                        for r in 0..adapter.rank {
                            delta += of(a, id * adapter.rank + r) * of(b, r * hidden + i);
                        }
                    }
                    let mut change = delta * R::from(adapter.scale);
                    if let Some(token_type) = &adapter.token_type {
                        change += R::from(token_type[i]);
                    }
                    *x += R::from(weight) * change;
                }
            }
            let normed = layer_norm(&x, &self.gamma, &self.beta, self.eps);
            let h = down_project(&normed, &self.down, self.weights.of(sequence));
            out.extend(normed);
            out.extend(h);
        }
        out
    }

    /// [tokens, width]. Panics if anything else was written.
    fn run(&self, device: &Device) -> Vec<T> {
        let grid = Grid::new(self.ids.len(), self.shape.rows_per_block);
        self.run_first(device, self.ids.len(), grid)
    }

    /// As `run`, with the first rows alone.
    fn run_first<'d>(&self, device: &'d Device, tokens: usize, grid: Grid) -> Vec<T> {
        let Shape { hidden, gap, .. } = self.shape;
        let stride = hidden + gap;

        let count = device.upload(&[tokens as u32]);
        let (ids, position_of_row) = (device.upload(&self.ids), device.upload(&self.position_of_row));
        let (word, token_type) = (device.upload(&self.word), device.upload(&self.token_type));
        let position = device.upload(&self.position);
        let (gamma, beta) = (device.upload(&self.gamma), device.upload(&self.beta));
        let mut buffers = Vec::new();
        let mut table = Vec::new();
        for adapter in &self.adapters {
            let Some(adapter) = adapter else {
                // Unused slots must not be read at all.
                table.push(EmbedAdapter {
                    a: WILD,
                    b: WILD,
                    token_type: WILD,
                    scale: f32::NAN,
                    rank: u32::MAX,
                });
                continue;
            };
            let mut place = |buffer: Buffer<'d>| {
                let address = buffer.address();
                // Kept until the kernel has run.
                buffers.push(buffer);
                address
            };
            let (a, b) = match &adapter.words {
                Some((a, b)) => (place(device.upload(a)), place(device.upload(b))),
                None => (0, WILD),
            };
            table.push(EmbedAdapter {
                a,
                b,
                token_type: adapter.token_type.as_ref().map_or(0, |t| place(device.upload(t))),
                scale: adapter.scale,
                rank: adapter.rank as u32,
            });
        }
        let adapters = device.upload(&table);
        let learned = self.shape.position.is_some();
        let sequenced = self.shape.tables || !self.down.columns.is_empty();
        let rows = sequence_of_row(&self.shape.lengths);
        let placed = Placed::new(device, grid.bucket, &rows, &self.weights, &self.down, sequenced);
        let written = device.output::<T>(grid.bucket * stride);

        let kernel = device.kernel::<EmbedParams>("embed", &format!("embed_{}", T::NAME));
        let (blocks, threads, shared) = grid.launch(hidden);
        let params = EmbedParams {
            tokens: count.address(),
            ids: ids.address(),
            position_of_row: if learned { position_of_row.address() } else { WILD },
            word: word.address(),
            token_type: token_type.address(),
            position: if learned { position.address() } else { 0 },
            gamma: gamma.address(),
            beta: beta.address(),
            adapters: if self.shape.tables { adapters.address() } else { 0 },
            out: written.address(),
            mixtures: placed.mixtures,
            lora: placed.lora,
            hidden_size: hidden as u32,
            out_stride: stride as u32,
            eps: self.eps,
            reserved: 0,
        };
        kernel.launch(blocks, threads, shared, &params);

        let inside = inside(&written.download(), tokens, hidden, stride);
        beside(&inside, hidden, &placed.h(tokens), placed.lora.columns as usize)
    }

    /// Asserts that each part of the rows is within tolerance.
    fn check(&self, got: &[T]) {
        let (plain, exact) = (self.reference::<f32>(), self.reference::<f64>());
        check_beside(
            "the embedding",
            self.shape.hidden,
            got,
            &plain,
            &exact,
            self.width(),
        );
    }
}

/// One launch of bfloat16, for `counts`.
pub fn launch(device: &Device, hidden: usize, lengths: &[usize], ranks: &'static [usize]) {
    let shape = Shape {
        hidden,
        lengths: lengths.to_vec(),
        ranks,
        tables: false,
        down: !ranks.is_empty(),
        position: None,
        gap: 0,
        rows_per_block: 8,
        seed: 0,
    };
    let mut inputs = Inputs::<bf16>::new(&shape);
    // Every word about once, if the vocabulary suffices.
    for (at, id) in inputs.ids.iter_mut().enumerate() {
        *id = at as u32 % SPARE;
    }
    inputs.word.fill(bf16::ONE);
    inputs.run(device);
}

/// A batch with every mixture, for the tests of single rows rather than shapes.
fn mixed(hidden: usize) -> Shape {
    Shape {
        hidden,
        lengths: vec![3, 0, 6, 1, 4, 5],
        ranks: RANKS[2],
        tables: true,
        down: true,
        position: Some(2),
        gap: 8,
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
fn embed_bf16_agrees_with_float64() {
    agrees::<bf16>();
}

#[test]
fn embed_f16_agrees_with_float64() {
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
        let first = cu_seqlens(&shape.lengths);
        let rows = |sequence: usize| {
            &together[first[sequence] as usize * width..first[sequence + 1] as usize * width]
        };
        for sequence in [0, 2, 3, 5] {
            let alone = inputs.pick(&[sequence]);
            let tokens = alone.ids.len();
            let grid = Grid {
                bucket: tokens,
                rows_per_block: 1,
            };
            let got = alone.run_first(&device, tokens, grid);
            assert_same("a sequence alone", &got, rows(sequence));
        }
        let reversed: Vec<usize> = (0..shape.lengths.len()).rev().collect();
        let mut other = inputs.pick(&reversed);
        other.shape.rows_per_block = 3;
        let wanted: Vec<T> = reversed.iter().flat_map(|&s| rows(s)).copied().collect();
        assert_same("the sequences reversed", &other.run(&device), &wanted);
    }
}

#[test]
fn embed_bf16_has_the_same_bits_in_any_batch() {
    alone::<bf16>();
}

#[test]
fn embed_f16_has_the_same_bits_in_any_batch() {
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
        // The spare word's row is NaN.
        let bad = 5;
        inputs.ids[bad] = SPARE;
        let got = inputs.run(&device);
        let (row, before) = (&got[bad * width..][..width], &clean[bad * width..][..width]);
        assert!(row[..hidden].iter().all(|number| number.to_f32().is_nan()));
        for (number, before) in row[hidden..].iter().zip(&before[hidden..]) {
            assert_eq!(number.to_f32().is_nan(), before.to_f32() != 0.0);
        }
        for other in (0..inputs.ids.len()).filter(|&row| row != bad) {
            let (got, clean) = (&got[other * width..][..width], &clean[other * width..][..width]);
            assert_same("a row beside one of NaN", got, clean);
        }
    }
}

#[test]
fn a_word_of_nan_leaves_the_rows_beside_it_alone() {
    poisoned::<bf16>();
    poisoned::<f16>();
}

#[test]
fn embed_reads_the_number_of_tokens_on_the_device() {
    let Some(device) = Device::open() else { return };
    for hidden in [256, 1032] {
        let shape = mixed(hidden);
        let _case = Case(&shape);
        let inputs = Inputs::<bf16>::new(&shape);
        let width = inputs.width();
        let all = inputs.run(&device);
        let grid = Grid::new(inputs.ids.len(), 8);
        for tokens in [inputs.ids.len() - 1, 8, 1, 0] {
            let got = inputs.run_first(&device, tokens, grid);
            assert_same("the first rows", &got, &all[..tokens * width]);
        }
    }
}
