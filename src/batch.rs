//! A batch: sequences packed end to end, without padding, and the output rows of each.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::model::Positions;
use crate::model::adapter::AdapterTable;
use crate::request::Encoding;

/// Sequences packed for one pass. Everything a pass needs beside the weights.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Token ids of all sequences, end to end, `[tokens]`.
    pub ids: Vec<u32>,
    /// Prefix sums of the sequence lengths, `[sequences + 1]`; sequence s is
    /// `ids[cu_seqlens[s]..cu_seqlens[s + 1]]`.
    pub cu_seqlens: Vec<usize>,
    /// Adapter weights of each sequence, `[sequences]`.
    pub mixtures: Vec<Mixture>,
    /// The output rows, in order.
    pub pools: Vec<Pool>,
    /// The adapters that the mixtures' slots refer to.
    pub adapters: AdapterTable,
}

/// The adapters of one sequence: slots with weights that are not zero, in the order of the adapters' names.
pub type Mixture = Vec<(usize, f32)>;

/// Output rows made from a range of one sequence's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Which sequence.
    pub sequence: usize,
    /// Its tokens, counted from the sequence's first.
    pub tokens: Range<usize>,
    /// How they become output rows.
    pub kind: PoolKind,
    /// Dimensions that are kept, from the first on.
    pub dimensions: usize,
    /// Divide each output row by its Euclidean norm, after cutting it.
    pub normalize: bool,
    /// The encoding of each output row.
    pub encoding: Encoding,
}

/// How token rows become output rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolKind {
    /// One row: the mean.
    Mean,
    /// One row: the sum; for chunks that continue in the next window.
    Sum,
    /// One row: the sum, divided by the square root of the number of rows.
    MeanSqrtLen,
    /// One row: the mean, with weights 1, 2, … from the first row on.
    WeightedMean,
    /// One row: the largest number of each column.
    Max,
    /// One row: the first of the range.
    First,
    /// Every row.
    Rows,
}

impl PoolKind {
    /// What the sum of `rows` rows is divided by.
    pub fn divisor(self, rows: usize) -> f64 {
        let rows = rows as f64;
        match self {
            PoolKind::Mean => rows,
            PoolKind::MeanSqrtLen => rows.sqrt(),
            PoolKind::WeightedMean => rows * (rows + 1.0) / 2.0,
            PoolKind::Sum | PoolKind::Max | PoolKind::First | PoolKind::Rows => 1.0,
        }
    }
}

impl Pool {
    /// The number of output rows.
    pub fn rows(&self) -> usize {
        match self.kind {
            PoolKind::Rows => self.tokens.len(),
            _ => 1,
        }
    }
}

impl Batch {
    /// An empty batch over these adapters.
    pub fn new(adapters: AdapterTable) -> Batch {
        Batch {
            cu_seqlens: vec![0],
            adapters,
            ..Batch::default()
        }
    }

    /// Appends a sequence and returns its number.
    pub fn push(&mut self, ids: &[u32], mixture: Mixture) -> usize {
        self.ids.extend_from_slice(ids);
        self.cu_seqlens.push(self.ids.len());
        self.mixtures.push(mixture);
        self.mixtures.len() - 1
    }

    /// The same sequences over the adapters alone that they use: a pass of the CPU then costs nothing for others that are
    /// loaded. No bit depends on which slot or columns an adapter has there.
    pub fn with_used_adapters(&self) -> Cow<'_, Batch> {
        let used: BTreeSet<usize> = self.mixtures.iter().flatten().map(|&(slot, _)| slot).collect();
        if used.len() == self.adapters.len() {
            return Cow::Borrowed(self);
        }
        let adapters = used.iter().map(|&slot| self.adapters.get(slot).clone());
        let slots: BTreeMap<usize, usize> = used.iter().copied().zip(0..).collect();
        let renumber = |mixture: &Mixture| {
            mixture
                .iter()
                .map(|(slot, weight)| (slots[slot], *weight))
                .collect()
        };
        Cow::Owned(Batch {
            mixtures: self.mixtures.iter().map(renumber).collect(),
            adapters: AdapterTable::new(adapters),
            ..self.clone()
        })
    }

    /// Tokens in all.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Sequences.
    pub fn sequences(&self) -> usize {
        self.mixtures.len()
    }

    /// Tokens of each sequence.
    pub fn lengths(&self) -> Vec<usize> {
        (0..self.sequences()).map(|s| self.rows(s).len()).collect()
    }

    /// The packed rows of a sequence.
    pub fn rows(&self, sequence: usize) -> Range<usize> {
        self.cu_seqlens[sequence]..self.cu_seqlens[sequence + 1]
    }

    /// The packed rows that a pool reads.
    pub fn pool_rows(&self, pool: &Pool) -> Range<usize> {
        let start = self.cu_seqlens[pool.sequence];
        start + pool.tokens.start..start + pool.tokens.end
    }

    /// The sequence each packed row belongs to, `[tokens]`.
    pub fn sequence_of_rows(&self) -> Vec<u32> {
        let sequence = |s: usize| std::iter::repeat_n(s as u32, self.rows(s).len());
        (0..self.sequences()).flat_map(sequence).collect()
    }

    /// The position of each packed row, `[tokens]`.
    pub fn positions(&self, positions: Positions) -> impl Iterator<Item = u32> {
        (0..self.sequences()).flat_map(move |s| positions.of(&self.ids[self.rows(s)]))
    }

    /// Output rows in all.
    pub fn output_rows(&self) -> usize {
        self.pools.iter().map(Pool::rows).sum()
    }

    /// The sizes that a plan depends on.
    pub fn shape(&self) -> BatchShape {
        BatchShape {
            tokens: self.tokens(),
            output_rows: self.output_rows(),
            adapted: self.mixtures.iter().any(|mixture| !mixture.is_empty()),
        }
    }
}

/// The sizes of a batch that a plan depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BatchShape {
    /// Packed tokens.
    pub tokens: usize,
    /// Rows that pooling writes.
    pub output_rows: usize,
    /// Whether any sequence uses an adapter.
    pub adapted: bool,
}

/// Cuts `lengths`, in order, into runs of at most `budget` tokens; an input that is longer than the
/// budget by itself is a run of its own.
pub fn cut(lengths: impl IntoIterator<Item = usize>, budget: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut tokens = 0;
    for (i, length) in lengths.into_iter().enumerate() {
        match runs.last_mut() {
            Some(run) if tokens + length <= budget => {
                run.end = i + 1;
                tokens += length;
            }
            _ => {
                runs.push(i..i + 1);
                tokens = length;
            }
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::adapter::{Adapter, COLUMN_STEP, LoraPart, Site};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cut_keeps_order_loses_nothing_and_holds_the_budget(
            lengths in prop::collection::vec(0usize..50, 0..60),
            budget in 1usize..120,
        ) {
            let runs = cut(lengths.iter().copied(), budget);
            let flat: Vec<usize> = runs.iter().cloned().flatten().collect();
            prop_assert_eq!(flat, (0..lengths.len()).collect::<Vec<_>>());
            for (i, run) in runs.iter().enumerate() {
                let tokens: usize = lengths[run.clone()].iter().sum();
                prop_assert!(tokens <= budget || run.len() == 1);
                if let Some(next) = runs.get(i + 1) {
                    prop_assert!(tokens + lengths[next.start] > budget, "a run ended early");
                }
            }
        }

        #[test]
        fn a_pass_sees_the_adapters_alone_that_it_uses(
            loaded in 1usize..60,
            parts in prop::collection::vec((0usize..60, 0usize..60), 1..5),
        ) {
            let adapter = |number: usize| {
                let part = LoraPart {
                    rank: 1 + number % 3,
                    scale: 1.0,
                    a: Vec::new(),
                    bt: Vec::new(),
                    column: 0,
                    width: 0,
                };
                Adapter {
                    name: number.to_string(),
                    word: None,
                    token_type: None,
                    layers: vec![[(); 4].map(|()| vec![part.clone()])],
                }
            };
            let mut batch = Batch::new(AdapterTable::new((0..loaded).map(adapter)));
            for &(first, second) in &parts {
                batch.push(&[1, 2], vec![(first % loaded, 0.5), (second % loaded, 2.0)]);
            }
            let used = batch.with_used_adapters();
            prop_assert!(used.adapters.len() <= 2 * parts.len());
            prop_assert!(used.adapters.columns(Site::Fc1).1 <= (6 * parts.len()).next_multiple_of(COLUMN_STEP));
            let names = |batch: &Batch| -> Vec<Vec<(String, f32)>> {
                let name = |&(slot, weight): &(usize, f32)| (batch.adapters.get(slot).name.clone(), weight);
                batch.mixtures.iter().map(|mixture| mixture.iter().map(name).collect()).collect()
            };
            prop_assert_eq!(names(&used), names(&batch));
            prop_assert_eq!((&used.ids, &used.cu_seqlens), (&batch.ids, &batch.cu_seqlens));
        }

        #[test]
        fn a_batch_packs_sequences_end_to_end(lengths in prop::collection::vec(0usize..9, 0..9)) {
            let mut batch = Batch::new(AdapterTable::default());
            for (s, &length) in lengths.iter().enumerate() {
                prop_assert_eq!(batch.push(&vec![s as u32; length], Vec::new()), s);
            }
            prop_assert_eq!(batch.tokens(), lengths.iter().sum::<usize>());
            prop_assert_eq!(&batch.sequence_of_rows(), &batch.ids);
            for (s, &length) in lengths.iter().enumerate() {
                prop_assert_eq!(&batch.ids[batch.rows(s)], &vec![s as u32; length][..]);
            }
        }
    }
}
