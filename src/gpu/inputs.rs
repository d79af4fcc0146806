//! The inputs of a pass: a batch's sizes, tokens and output rows, in one copy to the device; and the output records
//! that come back.
//!
//! The offset of every array depends on the bucket alone. So one CUDA graph, which holds the addresses, serves every
//! batch of its bucket. The lengths of the arrays are in the header, where the kernels read them.

use bytemuck::{Pod, Zeroable};

use crate::batch::{Batch, PoolKind};
use crate::kernels::params::{
    self, POOL_BINARY, POOL_F16, POOL_F32, POOL_HEAD_BYTES, POOL_INT8, POOL_MAX, POOL_MEAN, POOL_NORMALIZE,
    POOL_SQRT_LEN, POOL_WEIGHTED, PoolRow,
};
use crate::model::Positions;
use crate::output::Vector;
use crate::request::Encoding;
use crate::tile::AttentionTile;

/// The lengths of the arrays; each kernel gets the addresses of those that it reads.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    pub tokens: u32,
    pub sequences: u32,
    pub tiles: u32,
    pub pool_rows: u32,
}

/// The offset of each array in the upload, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputLayout {
    /// Tokens of the bucket, and the limit of sequences, attention tiles and output vectors.
    pub tokens: usize,
    /// Adapter slots.
    pub slots: usize,
    pub pool_rows: usize,
    pub ids: usize,
    pub cu_seqlens: usize,
    pub sequence_of_row: usize,
    pub position_of_row: usize,
    pub tiles: usize,
    pub weights: usize,
    /// Bytes of the upload.
    pub bytes: usize,
}

impl InputLayout {
    pub fn new(tokens: usize, slots: usize) -> InputLayout {
        let mut end = size_of::<Header>();
        let mut array = |bytes: usize| {
            let start = end.next_multiple_of(256);
            end = start + bytes;
            start
        };
        let word = size_of::<u32>();
        InputLayout {
            tokens,
            slots,
            // First, because a batch with several pool batches sends header and rows again.
            pool_rows: array(tokens * size_of::<PoolRow>()),
            ids: array(tokens * word),
            cu_seqlens: array((tokens + 1) * word),
            sequence_of_row: array(tokens * word),
            position_of_row: array(tokens * word),
            tiles: array(tokens * size_of::<params::AttentionTile>()),
            weights: array(tokens * slots * word),
            bytes: end,
        }
    }

    /// Writes a batch with its attention tiles and its first output vectors, and returns the number of bytes that are in
    /// use.
    ///
    /// # Panics
    /// If the batch is larger than the bucket.
    pub fn write(
        &self,
        batch: &Batch,
        tiles: &[params::AttentionTile],
        pool: &PoolBatch,
        positions: Positions,
        to: &mut [u8],
    ) -> usize {
        let mut end = self.write_pool(batch, tiles, pool, to);
        end = end.max(write_array(to, self.ids, self.tokens, batch.ids.iter().copied()));
        let starts = batch.cu_seqlens.iter().map(|&start| start as u32);
        end = end.max(write_array(to, self.cu_seqlens, self.tokens + 1, starts));
        let lengths = (0..batch.sequences()).map(|s| batch.rows(s).len());
        let sequences = lengths.enumerate();
        let sequences = sequences.flat_map(|(s, length)| std::iter::repeat_n(s as u32, length));
        end = end.max(write_array(to, self.sequence_of_row, self.tokens, sequences));
        let positions = batch.positions(positions);
        end = end.max(write_array(to, self.position_of_row, self.tokens, positions));
        end = end.max(write_array(to, self.tiles, self.tokens, tiles.iter().copied()));
        if self.slots > 0 {
            let weights = batch.mixtures.iter().flat_map(|mixture| {
                let weight = |slot| mixture.iter().find(|of| of.0 == slot).map_or(0.0, |of| of.1);
                (0..self.slots).map(weight)
            });
            end = end.max(write_array(to, self.weights, self.tokens * self.slots, weights));
        }
        end
    }

    /// Writes the part of the inputs that differs between pool batches, and returns the number of bytes in use.
    pub fn write_pool(
        &self,
        batch: &Batch,
        tiles: &[params::AttentionTile],
        pool: &PoolBatch,
        to: &mut [u8],
    ) -> usize {
        let header = Header {
            tokens: batch.tokens() as u32,
            sequences: batch.sequences() as u32,
            tiles: tiles.len() as u32,
            pool_rows: pool.rows.len() as u32,
        };
        write_array(to, 0, 1, [header].into_iter());
        write_array(to, self.pool_rows, self.tokens, pool.rows.iter().copied())
    }
}

/// Writes values from byte `start` on, and returns the offset of their end.
///
/// # Panics
/// If there are more than `limit` values.
fn write_array<T: Pod>(to: &mut [u8], start: usize, limit: usize, values: impl Iterator<Item = T>) -> usize {
    let mut end = start;
    for (number, value) in values.enumerate() {
        assert!(number < limit, "more than the bucket holds");
        to[end..end + size_of::<T>()].copy_from_slice(bytemuck::bytes_of(&value));
        end += size_of::<T>();
    }
    end
}

/// The work items of attention: blocks of queries. Those of long sequences come first, so that the longest work does
/// not start last.
pub fn attention_tiles(batch: &Batch, tile: AttentionTile) -> Vec<params::AttentionTile> {
    let rows = tile.rows() as usize;
    let mut order: Vec<usize> = (0..batch.sequences()).collect();
    order.sort_by_key(|&s| std::cmp::Reverse(batch.rows(s).len()));
    let tiles = |s: usize| {
        let firsts = (0..batch.rows(s).len()).step_by(rows);
        firsts.map(move |first| params::AttentionTile {
            sequence: s as u32,
            first: first as u32,
        })
    };
    order.into_iter().flat_map(tiles).collect()
}

/// The output vectors of one launch of the pool kernel, at most as many as the bucket has tokens. A batch has more if
/// spans overlap; the pool kernel is then launched again after the pass.
#[derive(Clone, Debug, Default)]
pub struct PoolBatch {
    pub rows: Vec<PoolRow>,
    /// The encoding of each row, and the dimensions that it keeps.
    encodings: Vec<(Encoding, usize)>,
    /// Bytes of all records.
    pub bytes: usize,
}

impl PoolBatch {
    /// The output vectors of a batch, in order, `limit` at a time; at least one pool batch.
    pub fn all(batch: &Batch, limit: usize) -> Vec<PoolBatch> {
        let mut all = vec![PoolBatch::default()];
        for pool in &batch.pools {
            let tokens = batch.pool_rows(pool);
            // Rows of each vector, and how they become one.
            let (rows, flags) = match pool.kind {
                PoolKind::Sum => (tokens.len(), 0),
                PoolKind::Mean => (tokens.len(), POOL_MEAN),
                PoolKind::MeanSqrtLen => (tokens.len(), POOL_MEAN | POOL_SQRT_LEN),
                PoolKind::WeightedMean => (tokens.len(), POOL_MEAN | POOL_WEIGHTED),
                PoolKind::Max => (tokens.len(), POOL_MAX),
                PoolKind::First | PoolKind::Rows => (1, 0),
            };
            for first in tokens.step_by(rows.max(1)).take(pool.rows()) {
                if all.last().is_some_and(|last| last.rows.len() == limit) {
                    all.push(PoolBatch::default());
                }
                let pool_batch = all.last_mut().expect("there is one");
                let (encoding, element_bits) = match pool.encoding {
                    Encoding::F32 | Encoding::Base64 => (POOL_F32, 32),
                    Encoding::F16 => (POOL_F16, 16),
                    Encoding::Int8 => (POOL_INT8, 8),
                    Encoding::Binary => (POOL_BINARY, 1),
                };
                let normalize = if pool.normalize { POOL_NORMALIZE } else { 0 };
                pool_batch.rows.push(PoolRow {
                    first: first as u32,
                    rows: rows as u32,
                    dimensions: pool.dimensions as u32,
                    flags: flags | normalize,
                    encoding,
                    out: pool_batch.bytes as u32,
                });
                pool_batch.encodings.push((pool.encoding, pool.dimensions));
                let bytes = POOL_HEAD_BYTES as usize + (pool.dimensions * element_bits).div_ceil(8);
                pool_batch.bytes += bytes.next_multiple_of(8);
            }
        }
        all
    }

    /// The vectors of the records that came back; `None` for one with elements that are not finite.
    pub fn vectors<'a>(&'a self, records: &'a [u8]) -> impl Iterator<Item = Option<Vector>> + 'a {
        let rows = self.rows.iter().zip(&self.encodings);
        rows.map(|(row, &(encoding, dimensions))| {
            let record = &records[row.out as usize..];
            let (head, elements) = record.split_at(POOL_HEAD_BYTES as usize);
            let finite = u32::from_le_bytes(head[..4].try_into().expect("four bytes"));
            let scale = f32::from_le_bytes(head[4..8].try_into().expect("four bytes"));
            (finite != 0).then(|| Vector::from_record(encoding, elements, dimensions, scale))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Pool;
    use crate::model::adapter::AdapterTable;

    fn pool(sequence: usize, tokens: std::ops::Range<usize>, kind: PoolKind, encoding: Encoding) -> Pool {
        Pool {
            sequence,
            tokens,
            kind,
            dimensions: 24,
            normalize: true,
            encoding,
        }
    }

    fn batch() -> Batch {
        let mut batch = Batch::new(AdapterTable::default());
        batch.push(&[7, 8, 9], vec![(1, 0.5)]);
        batch.push(&[5; 300], Vec::new());
        batch.pools = vec![
            pool(0, 1..3, PoolKind::Mean, Encoding::F32),
            pool(0, 0..3, PoolKind::Rows, Encoding::Int8),
            pool(1, 0..300, PoolKind::First, Encoding::Binary),
            pool(1, 10..20, PoolKind::Sum, Encoding::F32),
        ];
        batch
    }

    fn words(bytes: &[u8], start: usize, count: usize) -> Vec<u32> {
        let words = bytes[start..start + 4 * count].chunks(4);
        words.map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect()
    }

    #[test]
    fn a_batch_is_written_where_the_kernels_look() {
        let (batch, layout) = (batch(), InputLayout::new(512, 3));
        let pools = PoolBatch::all(&batch, 512);
        let mut bytes = vec![0xff; layout.bytes];
        let rows = AttentionTile::Large.rows();
        let tiles = attention_tiles(&batch, AttentionTile::Large);
        let rotary = Positions::Rotary { base: 1e4 };
        let end = layout.write(&batch, &tiles, &pools[0], rotary, &mut bytes);
        assert!(end <= layout.bytes);
        let tiles_of_batch = tiles;
        let tiles = 1 + 300_usize.div_ceil(rows as usize);
        assert_eq!(words(&bytes, 0, 4), [303, 2, tiles as u32, 6]);
        assert_eq!(words(&bytes, layout.ids, 4), [7, 8, 9, 5]);
        assert_eq!(words(&bytes, layout.cu_seqlens, 3), [0, 3, 303]);
        assert_eq!(words(&bytes, layout.sequence_of_row + 8, 2), [0, 1]);
        assert_eq!(words(&bytes, layout.position_of_row, 5), [0, 1, 2, 0, 1]);
        // Learned positions are rows of their table; that of the pad token is its own.
        let learned = Positions::Learned {
            pad: Some(8),
            rows: 514,
        };
        layout.write(&batch, &tiles_of_batch, &pools[0], learned, &mut bytes);
        assert_eq!(words(&bytes, layout.position_of_row, 5), [9, 8, 10, 9, 10]);
        // The long sequence's tiles first.
        assert_eq!(words(&bytes, layout.tiles, 4), [1, 0, 1, rows]);
        assert_eq!(words(&bytes, layout.tiles + 8 * (tiles - 1), 2), [0, 0]);
        let weights = [0.0, 0.5, 0.0, 0.0, 0.0, 0.0].map(f32::to_bits);
        assert_eq!(words(&bytes, layout.weights, 6), weights);
    }

    #[test]
    fn output_vectors_are_batched_and_their_records_do_not_overlap() {
        let batch = batch();
        let pools = PoolBatch::all(&batch, 4);
        assert_eq!(pools.iter().map(|r| r.rows.len()).collect::<Vec<_>>(), [4, 2]);
        let firsts: Vec<(u32, u32)> = pools[0].rows.iter().map(|r| (r.first, r.rows)).collect();
        assert_eq!(firsts, [(1, 2), (0, 1), (1, 1), (2, 1)]);
        assert_eq!(
            pools[0].rows.iter().map(|r| r.out).collect::<Vec<_>>(),
            [0, 104, 136, 168]
        );
        assert_eq!(pools[0].bytes, 200);
        assert_eq!((pools[1].rows[0].first, pools[1].rows[0].rows), (3, 1));
        assert_eq!((pools[1].rows[1].first, pools[1].rows[1].rows), (13, 10));
        assert_eq!(pools[1].rows[1].flags, POOL_NORMALIZE);
    }

    #[test]
    fn records_become_vectors() {
        let batch = batch();
        let pool = &PoolBatch::all(&batch, 64)[0];
        let mut records = vec![0; pool.bytes];
        for row in &pool.rows {
            records[row.out as usize..][..4].copy_from_slice(&1_u32.to_le_bytes());
        }
        records[pool.rows[2].out as usize] = 0;
        records[pool.rows[1].out as usize + 4..][..4].copy_from_slice(&2.5_f32.to_le_bytes());
        records[pool.rows[1].out as usize + 8] = 0x81;
        let vectors: Vec<_> = pool.vectors(&records).collect();
        assert_eq!(vectors[0], Some(Vector::F32(vec![0.0; 24])));
        let mut values = vec![0; 24];
        values[0] = -127;
        assert_eq!(vectors[1], Some(Vector::Int8 { values, scale: 2.5 }));
        assert_eq!(vectors[2], None);
        assert_eq!(vectors[4], Some(Vector::Binary(vec![0; 3])));
    }
}
