//! What the tests of the row kernels (`cuda/row.cuh`) share: launches, the adapters of a batch, and references of
//! LayerNorm and down-projection.

use super::device::{Buffer, Device, Output, WILD};
use super::numbers::{Number, Random, Real, assert_close, assert_untouched};
use super::params::{
    LORA_COLUMN_STEP, LORA_NO_SLOT, LoraColumn, LoraDown, Mixtures, ROW_MAX_WARPS, ROW_SHARED_BYTES,
    ROW_WARP_COLUMNS,
};

/// Values of hidden_size: one vector; a part of a warp; models' sizes; more than one warp, with and without idle lanes.
pub const HIDDEN: [usize; 10] = [8, 128, 256, 384, 768, 1024, 1032, 2056, 4096, 8192];

/// Lengths of the sequences of a batch.
pub const BATCHES: [&[usize]; 8] = [
    &[],
    &[1],
    &[7],
    &[1, 1, 5],
    &[63],
    &[40, 24],
    &[0, 31, 0, 0, 34, 0],
    &[3, 0, 17, 1, 90, 19],
];

/// Ranks of a site's adapters by slot, 0 for an empty one: down-projections of 0, 16, 16, 32, 48, 64 and 80 columns.
pub const RANKS: [&[usize]; 7] = [
    &[],
    &[4],
    &[1, 4, 8],
    &[16, 7, 0, 5],
    &[0, 32, 16],
    &[64],
    &[16, 16, 16, 16, 16],
];

/// How rows are launched. The elements of a row do not depend on any of it.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    /// Rows of the grid: at least as many as there are tokens.
    pub bucket: usize,
    /// Rows per block, with one warp per row.
    pub rows_per_block: usize,
}

impl Grid {
    pub fn new(tokens: usize, rows_per_block: usize) -> Grid {
        Grid {
            // More than one block too many: whole blocks have no row.
            bucket: (tokens + 1).next_multiple_of(32),
            rows_per_block,
        }
    }

    /// Blocks, threads of each, and bytes of shared memory.
    pub fn launch(self, hidden: usize) -> (u32, u32, u32) {
        match hidden.div_ceil(ROW_WARP_COLUMNS as usize) {
            1 => {
                assert!(self.rows_per_block <= ROW_MAX_WARPS as usize);
                let blocks = self.bucket.div_ceil(self.rows_per_block);
                (blocks as u32, 32 * self.rows_per_block as u32, 0)
            }
            warps => (self.bucket as u32, 32 * warps as u32, ROW_SHARED_BYTES),
        }
    }
}

/// The sequence of each row.
pub fn sequence_of_row(lengths: &[usize]) -> Vec<u32> {
    let rows = |(sequence, &length): (usize, &usize)| vec![sequence as u32; length];
    lengths.iter().enumerate().flat_map(rows).collect()
}

/// The first row of each sequence, and the end.
pub fn cu_seqlens(lengths: &[usize]) -> Vec<u32> {
    (0..=lengths.len())
        .map(|n| lengths[..n].iter().sum::<usize>() as u32)
        .collect()
}

/// The adapters that the sequences of a batch use.
#[derive(Clone)]
pub struct Weights {
    pub slots: usize,
    /// [sequences, slots]
    pub weights: Vec<f32>,
}

impl Weights {
    /// No adapter, one, a mixture of two or of all, in rotation from `turn` on. If there are several slots, no sequence
    /// uses the last one, nor empty ones.
    pub fn new(random: &mut Random, sequences: usize, ranks: &[usize], turn: usize) -> Weights {
        let mut usable: Vec<usize> = (0..ranks.len()).filter(|&slot| ranks[slot] > 0).collect();
        if usable.len() > 1 {
            usable.pop();
        }
        let mut weights = vec![0.0; sequences * ranks.len()];
        for (sequence, row) in weights.chunks_mut(ranks.len().max(1)).enumerate() {
            match (turn + sequence) % 4 {
                0 => row[usable[random.below(usable.len())]] = 1.0,
                1 => {
                    let first = random.below(usable.len());
                    row[usable[first]] = 0.7;
                    row[usable[(first + 1) % usable.len()]] = 0.3;
                }
                2 => {}
                _ => usable.iter().for_each(|&slot| row[slot] = 2.0 * random.unit()),
            }
        }
        Weights {
            slots: ranks.len(),
            weights,
        }
    }

    pub fn of(&self, sequence: usize) -> &[f32] {
        &self.weights[sequence * self.slots..][..self.slots]
    }

    /// Whether any sequence uses the slot.
    pub fn used(&self, slot: usize) -> bool {
        self.weights.chunks(self.slots.max(1)).any(|row| row[slot] != 0.0)
    }
}

/// A down-projection of all loaded adapters. What no row of the batch may read is NaN: unused adapters, with their
/// scales, and padding columns.
#[derive(Clone)]
pub struct Down<T> {
    pub columns: Vec<LoraColumn>,
    /// [columns, hidden_size]
    pub a: Vec<T>,
}

impl<T: Number> Down<T> {
    pub fn new(random: &mut Random, hidden: usize, ranks: &[usize], weights: &Weights) -> Down<T> {
        let mut down = Down {
            columns: Vec::new(),
            a: Vec::new(),
        };
        for (slot, &rank) in ranks.iter().enumerate() {
            let used = weights.used(slot);
            let scale = if used { 1.5 + random.unit() } else { f32::NAN };
            for _ in 0..rank {
                down.columns.push(LoraColumn {
                    slot: slot as u32,
                    scale,
                });
                match used {
                    true => down.a.extend(random.numbers::<T>(hidden, 0.0, 0.25)),
                    false => down.a.extend(vec![T::NAN; hidden]),
                }
            }
        }
        while down.columns.len() % LORA_COLUMN_STEP as usize != 0 {
            down.columns.push(LoraColumn {
                slot: LORA_NO_SLOT,
                scale: f32::NAN,
            });
            down.a.extend(vec![T::NAN; hidden]);
        }
        down
    }
}

/// On the device: the buffers behind `Mixtures` and `LoraDown`.
pub struct Placed<'d, T> {
    pub mixtures: Mixtures,
    pub lora: LoraDown,
    h: Output<'d, T>,
    _buffers: [Buffer<'d>; 4],
}

impl<'d, T: Number> Placed<'d, T> {
    /// `bucket`: rows of h. `sequenced`: whether the kernel may read the sequences of the rows.
    pub fn new(
        device: &'d Device,
        bucket: usize,
        rows: &[u32],
        weights: &Weights,
        down: &Down<T>,
        sequenced: bool,
    ) -> Placed<'d, T> {
        let buffers = [
            device.upload(rows),
            device.upload(&weights.weights),
            device.upload(&down.a),
            device.upload(&down.columns),
        ];
        let h = device.output(bucket * down.columns.len());
        let none = down.columns.is_empty();
        let unless = |wild: bool, buffer: &Buffer| if wild { WILD } else { buffer.address() };
        Placed {
            mixtures: Mixtures {
                sequence_of_row: unless(!sequenced, &buffers[0]),
                weights: unless(weights.slots == 0, &buffers[1]),
                slots: weights.slots as u32,
                reserved: 0,
            },
            lora: LoraDown {
                a: unless(none, &buffers[2]),
                column: unless(none, &buffers[3]),
                h: if none { WILD } else { h.address() },
                columns: down.columns.len() as u32,
                reserved: 0,
            },
            h,
            _buffers: buffers,
        }
    }

    /// h of the first rows. Panics if anything else was written.
    pub fn h(&self, tokens: usize) -> Vec<T> {
        let mut h = self.h.download();
        let rest = h.split_off(tokens * self.lora.columns as usize);
        assert_untouched("rows of h past the tokens", &rest);
        h
    }
}

/// (x - mean) / √(variance + eps) · gamma + beta, evaluated in the order of the formula.
pub fn layer_norm<R: Real, T: Number>(x: &[R], gamma: &[T], beta: &[T], eps: f32) -> Vec<R> {
    let sum = |terms: &mut dyn Iterator<Item = R>| {
        let mut sum = R::from(0.0);
        terms.for_each(|term| sum += term);
        sum
    };
    let count = R::from(x.len() as f32);
    let mean = sum(&mut x.iter().copied()) / count;
    let variance = sum(&mut x.iter().map(|&x| (x - mean) * (x - mean))) / count;
    let deviation = (variance + R::from(eps)).sqrt();
    let affine = |((&x, gamma), beta): ((&R, &T), &T)| {
        let y = (x - mean) / deviation * R::from(gamma.to_f32()) + R::from(beta.to_f32());
        y.written::<T>()
    };
    x.iter().zip(gamma).zip(beta).map(affine).collect()
}

/// Rows of `left` and of `right`, concatenated: a batch's rows of out, with their h.
pub fn beside<T: Number>(left: &[T], left_width: usize, right: &[T], right_width: usize) -> Vec<T> {
    let rows = left.len() / left_width;
    assert_eq!(right.len(), rows * right_width);
    let row = |row: usize| {
        let (left, right) = (&left[row * left_width..], &right[row * right_width..]);
        [&left[..left_width], &right[..right_width]].concat()
    };
    (0..rows).flat_map(row).collect()
}

/// The rows that a kernel wrote, `stride` apart. Panics if anything between or past them was written.
pub fn inside<T: Number>(all: &[T], rows: usize, width: usize, stride: usize) -> Vec<T> {
    let (rows, rest) = all.split_at(rows * stride);
    assert_untouched("rows past the tokens", rest);
    let mut inside = Vec::new();
    for row in rows.chunks(stride) {
        assert_untouched("columns past the row", &row[width..]);
        inside.extend_from_slice(&row[..width]);
    }
    inside
}

/// Asserts that both parts of rows that [`beside`] made are within tolerance: `what`, the first `left` columns of
/// `width`, and h.
pub fn check_beside<T: Number>(
    what: &str,
    left: usize,
    got: &[T],
    plain: &[f32],
    exact: &[f64],
    width: usize,
) {
    for (what, columns) in [(what, 0..left), ("h", left..width)] {
        assert_close(
            what,
            &part(got, width, columns.clone()),
            &part(plain, width, columns.clone()),
            &part(exact, width, columns),
        );
    }
}

/// Some columns of all rows.
fn part<N: Copy>(rows: &[N], width: usize, columns: std::ops::Range<usize>) -> Vec<N> {
    rows.chunks(width)
        .flat_map(|row| &row[columns.clone()])
        .copied()
        .collect()
}

/// Σ row·A · (weight · scale) by column, 0 in columns that the sequence does not use.
pub fn down_project<R: Real, T: Number>(row: &[R], down: &Down<T>, weights: &[f32]) -> Vec<R> {
    let column = |(number, column): (usize, &LoraColumn)| {
        let weight = match column.slot {
            LORA_NO_SLOT => 0.0,
            slot => weights[slot as usize],
        };
        if weight == 0.0 {
            return R::from(0.0);
        }
        let mut h = R::from(0.0);
        let a = &down.a[number * row.len()..][..row.len()];
        for (&x, a) in row.iter().zip(a) {
            h += x * R::from(a.to_f32());
        }
        (h * (R::from(weight) * R::from(column.scale))).written::<T>()
    };
    down.columns.iter().enumerate().map(column).collect()
}
