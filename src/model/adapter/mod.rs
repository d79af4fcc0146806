//! LoRA adapters (arXiv 2106.09685), from the stacked tensors of a jina-embeddings-v3 checkpoint
//! ([`read_stacked`]) or from PEFT folders ([`Adapter::read_peft`]), in one form: low-rank factors per linear layer.
//!
//! Adapters stay unmerged: `y = x Wᵀ + s·(x Aᵀ) Bᵀ` for a linear layer and
//! `e = W[id] + s·A[id] B` for an embedding, with `s = alpha / rank`.

mod keys;
mod magnitude;
mod peft;
mod stacked;
mod table;
mod targets;

use std::path::Path;

use super::config::ModelConfig;
use super::weights::Tensor;

pub(crate) use stacked::read_stacked;
pub use table::AdapterTable;
#[cfg(test)]
pub(crate) use table::COLUMN_STEP;

/// The linear layers that can be adapted, in the order a layer runs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// Queries, keys and values.
    Qkv,
    /// The attention's output projection.
    OutProj,
    /// Into the feed-forward layer.
    Fc1,
    /// Out of the feed-forward layer.
    Fc2,
}

impl Site {
    /// All of them.
    pub const ALL: [Site; 4] = [Site::Qkv, Site::OutProj, Site::Fc1, Site::Fc2];

    /// `(out_features, in_features)`.
    pub fn shape(self, config: &ModelConfig) -> (usize, usize) {
        let (h, f) = (config.hidden_size, config.intermediate_size);
        match self {
            Site::Qkv => (3 * h, h),
            Site::OutProj => (h, h),
            Site::Fc1 => (f, h),
            Site::Fc2 => (h, f),
        }
    }
}

/// A named adapter, all numbers finite.
#[derive(Debug)]
pub struct Adapter {
    /// The task's or the user's name for it.
    pub name: String,
    /// On the word embeddings.
    pub word: Option<EmbeddingLora>,
    /// On the token-type embeddings.
    pub token_type: Option<EmbeddingLora>,
    /// Per layer, per [`Site`].
    pub layers: Vec<[Vec<LoraPart>; 4]>,
}

/// The factors of one linear layer, or of the columns of it that one pair covers: separate
/// adapters of q, k and v are three parts of the packed projection.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraPart {
    /// Rows of both factors below.
    pub rank: usize,
    /// `alpha / rank`.
    pub scale: f32,
    /// A, `[rank, in_features]`.
    pub a: Vec<f32>,
    /// Bᵀ, `[rank, width]`.
    pub bt: Vec<f32>,
    /// First output column.
    pub column: usize,
    /// Output columns.
    pub width: usize,
}

/// The factors of an embedding table.
#[derive(Debug)]
pub struct EmbeddingLora {
    /// `[rows, rank]`, or `[rank, rows]` if `transposed`; left in the file.
    a: Tensor,
    transposed: bool,
    rank: usize,
    scale: f32,
    /// `[rank, hidden_size]`.
    b: Vec<f32>,
}

impl EmbeddingLora {
    /// Adds `weight·scale·A[row] B` to `out`, one rank after the other.
    pub fn add_row(&self, row: usize, weight: f32, out: &mut [f32]) {
        let width = out.len();
        for r in 0..self.rank {
            let factor = self.factor(row, r) * (weight * self.scale);
            for (x, b) in out.iter_mut().zip(&self.b[r * width..]) {
                *x += factor * b;
            }
        }
    }

    /// The same in float64, for the reference.
    #[cfg(any(test, feature = "inspect"))]
    pub(crate) fn add_row_f64(&self, row: usize, weight: f32, out: &mut [f64]) {
        let width = out.len();
        for r in 0..self.rank {
            let factor = f64::from(self.factor(row, r)) * f64::from(weight) * f64::from(self.scale);
            for (x, b) in out.iter_mut().zip(&self.b[r * width..]) {
                *x += factor * f64::from(*b);
            }
        }
    }

    /// Columns of A.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// `alpha / rank`.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// B, `[rank, hidden_size]`.
    pub fn b(&self) -> &[f32] {
        &self.b
    }

    /// Rows of A.
    pub fn rows(&self) -> usize {
        self.a.shape()[usize::from(self.transposed)]
    }

    /// Reads `out.len()` numbers of A as `[rows, rank]`, whatever the file's layout, from number `start` on.
    pub(crate) fn read_a(&self, start: usize, out: &mut [f32]) {
        if !self.transposed {
            return self.a.read_into(start, out);
        }
        for (index, x) in (start..).zip(out) {
            *x = self.factor(index / self.rank, index % self.rank);
        }
    }

    fn factor(&self, row: usize, r: usize) -> f32 {
        let index = if self.transposed {
            r * self.a.shape()[1] + row
        } else {
            row * self.rank + r
        };
        self.a.read_one(index)
    }
}

impl Adapter {
    /// The adapter's file, if it is still read from and was changed: see [`Tensor::changed_file`].
    pub(crate) fn changed_file(&self) -> Option<&Path> {
        let tables = [&self.word, &self.token_type];
        tables
            .into_iter()
            .flatten()
            .find_map(|lora| lora.a.changed_file())
    }

    /// The parts at `site` of layer `layer`. Panics if there is no such layer.
    pub fn parts(&self, layer: usize, site: Site) -> &[LoraPart] {
        &self.layers[layer][site as usize]
    }

    /// The sum of the ranks of the parts at a site, the same for every layer or the largest.
    pub fn rank(&self, site: Site) -> usize {
        let rank = |layer: &[Vec<LoraPart>; 4]| layer[site as usize].iter().map(|part| part.rank).sum();
        self.layers.iter().map(rank).max().unwrap_or(0)
    }
}

/// `[rows, columns]` → `[columns, rows]`.
fn transpose(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns)
        .flat_map(|c| (0..rows).map(move |r| x[r * columns + c]))
        .collect()
}
