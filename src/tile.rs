//! The tiles of the kernels that have several: sizes in one table each, and the choice by shape.
//!
//! All tiles of a kernel give the same bits, so that the choice is about time alone. A new GEMM tile is a row in
//! [`GemmTile`]'s table and an entry in `cuda/gemm.cu`, whose name ends in the row's. [`SPLIT16`] alone gives others.

use std::fmt;

use crate::kernels::params::*;

mod time;

pub use time::Multiprocessors;
#[cfg(feature = "inspect")]
pub(crate) use time::{REACHED, RESERVED_SHARED, START_CLOCKS, STEP, STEP_CLOCKS};

/// What one block computes, and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileShape {
    /// Rows: of the product, or queries of attention.
    pub rows: u32,
    /// Columns: of the product, or keys of one stage of attention.
    pub columns: u32,
    /// Threads of the block.
    pub threads: u32,
    /// Dynamic shared memory of the block, in bytes.
    pub shared_bytes: u32,
}

/// A kernel of attention for compute capability 9.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sm90Attention {
    /// What its name ends in.
    pub name: &'static str,
    /// The tile's sizes.
    pub shape: TileShape,
    /// Blocks that a multiprocessor has at a time.
    pub blocks: u32,
}

/// Defines the tiles of a kernel from a table: variants, `ALL` in the table's order, `name`, and whatever else a row
/// holds.
macro_rules! tiles {
    (
        $(#[$doc:meta])* $tile:ident, $row:ident: $($(#[$variant_doc:meta])* $variant:ident $name:literal $value:expr;)+
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $tile {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $tile {
            /// All tiles, the largest first.
            pub const ALL: [$tile; [$($name),+].len()] = [$($tile::$variant),+];

            /// What the names of the tile's kernels end in.
            pub const fn name(self) -> &'static str {
                match self {
                    $($tile::$variant => $name,)+
                }
            }

            const fn row(self) -> $row {
                match self {
                    $($tile::$variant => $value,)+
                }
            }
        }

        impl fmt::Display for $tile {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

const fn shape(rows: u32, columns: u32, threads: u32, shared_bytes: u32) -> TileShape {
    TileShape {
        rows,
        columns,
        threads,
        shared_bytes,
    }
}

mod sm90;

#[cfg(feature = "inspect")]
pub(crate) use sm90::K_BLOCK;
pub use sm90::Sm90Tile;

/// A tile of a product, and what its time depends on.
#[derive(Clone, Copy)]
struct GemmShape {
    block: TileShape,
    /// Rows and columns of a warp's part.
    warp: [u32; 2],
    /// Blocks that a multiprocessor's registers hold.
    blocks: u32,
}

#[rustfmt::skip] // A table.
tiles! {
    /// The tiles of a linear layer's product.
    GemmTile, GemmShape:
    /// For throughput.
    Large "large" GemmShape {
        block: shape(GEMM_LARGE_ROWS, GEMM_LARGE_COLUMNS, GEMM_LARGE_THREADS, GEMM_LARGE_SHARED),
        warp: [GEMM_LARGE_WARP_ROWS, GEMM_LARGE_WARP_COLUMNS],
        blocks: GEMM_LARGE_BLOCKS,
    };
    /// For some hundred rows.
    Medium "medium" GemmShape {
        block: shape(GEMM_MEDIUM_ROWS, GEMM_MEDIUM_COLUMNS, GEMM_MEDIUM_THREADS, GEMM_MEDIUM_SHARED),
        warp: [GEMM_MEDIUM_WARP_ROWS, GEMM_MEDIUM_WARP_COLUMNS],
        blocks: GEMM_MEDIUM_BLOCKS,
    };
    /// For up to 64 rows: narrow columns, the weights streamed.
    Small64 "small64" GemmShape {
        block: shape(GEMM_SMALL64_ROWS, GEMM_SMALL64_COLUMNS, GEMM_SMALL64_THREADS, GEMM_SMALL64_SHARED),
        warp: [GEMM_SMALL64_WARP_ROWS, GEMM_SMALL64_WARP_COLUMNS],
        blocks: GEMM_SMALL64_BLOCKS,
    };
    /// The same for up to 16 rows.
    Small16 "small16" GemmShape {
        block: shape(GEMM_SMALL16_ROWS, GEMM_SMALL16_COLUMNS, GEMM_SMALL16_THREADS, GEMM_SMALL16_SHARED),
        warp: [GEMM_SMALL16_WARP_ROWS, GEMM_SMALL16_WARP_COLUMNS],
        blocks: GEMM_SMALL16_BLOCKS,
    };
}

/// The tile of products whose sums over k are split: for few rows, where results may depend on their batch.
pub const SPLIT16: TileShape = shape(
    GEMM_SPLIT16_ROWS,
    GEMM_SPLIT16_COLUMNS,
    GEMM_SPLIT16_THREADS,
    GEMM_SPLIT16_SHARED,
);

tiles! {
    /// The tiles of attention. A row of the table is the number of queries.
    AttentionTile, u32:
    /// For long sequences.
    Large "large" ATTENTION_LARGE_ROWS;
    /// For short sequences.
    Small "small" ATTENTION_SMALL_ROWS;
}

/// A tile of a linear layer's product, of either kind of kernels.
#[cfg(feature = "inspect")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProductTile {
    /// Of the kernels for all GPUs.
    AllGpus(GemmTile),
    /// With the sum over k split, where a product of so few rows takes it.
    Split16,
    /// Of those for compute capability 9.0.
    Sm90(Sm90Tile),
}

impl GemmTile {
    /// The tile's sizes.
    pub const fn shape(self) -> TileShape {
        self.row().block
    }

    /// The tile for a product of `rows` rows and `columns` columns, summed over `k`: the one with the least estimated
    /// time on the device, the larger of equals. On an H200 it was the fastest or within 2 % of it (cuda/NOTES.md).
    pub fn choose([rows, columns, k]: [usize; 3], device: Multiprocessors) -> GemmTile {
        let [.., smallest] = GemmTile::ALL;
        // Then reading the weights is all of the time, and it has the most copies in flight.
        if rows <= smallest.shape().rows as usize {
            return smallest;
        }
        let clocks = |tile: &GemmTile| device.gemm_clocks(*tile, [rows, columns, k]);
        let least = GemmTile::ALL
            .into_iter()
            .min_by(|a, b| clocks(a).total_cmp(&clocks(b)));
        least.unwrap_or(smallest)
    }
}

impl AttentionTile {
    /// Queries of a tile.
    pub const fn rows(self) -> u32 {
        self.row()
    }

    /// The tile's sizes for heads of this size. Shared memory holds the queries, and two stages of keys and of values.
    pub const fn shape(self, head_dim: u32) -> TileShape {
        let limit = ATTENTION_TILE_NUMBERS / head_dim;
        let keys = if limit < ATTENTION_MAX_KEYS {
            limit
        } else {
            ATTENTION_MAX_KEYS
        };
        shape(
            self.rows(),
            keys,
            ATTENTION_THREADS,
            2 * head_dim * (self.rows() + 4 * keys),
        )
    }

    /// The kernel that compute capability 9.0 has for this tile and heads of this size. It gives the same bits; an engine
    /// checks it when it is opened.
    pub const fn sm90(self, head_dim: usize) -> Option<Sm90Attention> {
        const {
            assert!(ATTENTION_WGMMA128_ROWS == ATTENTION_LARGE_ROWS);
            assert!(ATTENTION_WGMMA64_ROWS == ATTENTION_SMALL_ROWS);
        }
        let rows = self.rows();
        if head_dim != 64 {
            return None;
        }
        Some(match self {
            AttentionTile::Large => Sm90Attention {
                name: "wgmma128",
                shape: shape(rows, rows, ATTENTION_WGMMA128_THREADS, ATTENTION_WGMMA128_SHARED),
                blocks: ATTENTION_WGMMA128_BLOCKS,
            },
            AttentionTile::Small => Sm90Attention {
                name: "wgmma64",
                shape: shape(rows, rows, ATTENTION_WGMMA64_THREADS, ATTENTION_WGMMA64_SHARED),
                blocks: ATTENTION_WGMMA64_BLOCKS,
            },
        })
    }

    /// The tile for sequences of these lengths, on the kernels for compute capability 9.0 or on the others.
    pub fn choose(lengths: impl Iterator<Item = usize> + Clone, sm90: bool) -> AttentionTile {
        if sm90 {
            AttentionTile::choose_sm90(lengths)
        } else {
            AttentionTile::choose_others(lengths)
        }
    }

    /// The tile for a batch of such sequences on kernels for compute capability 9.0, if they are to run and there are such
    /// for heads of this size, or on the others.
    pub fn choose_for(
        lengths: impl Iterator<Item = usize> + Clone,
        head_dim: usize,
        sm90: bool,
    ) -> AttentionTile {
        let sm90 = sm90 && AttentionTile::Large.sm90(head_dim).is_some();
        AttentionTile::choose(lengths, sm90)
    }

    /// Measured on an H200: the large tile takes 0.89 to 0.98 of the small one's time at 1024 to 8192 tokens, 1.03 to 1.19 at
    /// 512. A batch of both goes by those that have most of the scores.
    fn choose_sm90(lengths: impl Iterator<Item = usize> + Clone) -> AttentionTile {
        let scores = |least: usize| -> usize {
            let long = lengths.clone().filter(|&length| length >= least);
            long.map(|length| length * length).sum()
        };
        let (all, long) = (scores(1), scores(1024));
        if long > all / 2 {
            AttentionTile::Large
        } else {
            AttentionTile::Small
        }
    }

    /// The one whose query rows cost less, those past the end of a sequence included. The large tile reads keys and values
    /// half as often.
    fn choose_others(lengths: impl Iterator<Item = usize> + Clone) -> AttentionTile {
        let work = |tile: AttentionTile| -> usize {
            let rows = tile.rows() as usize;
            let padded = lengths
                .clone()
                .map(|length| length.div_ceil(rows) * rows * length);
            padded.sum()
        };
        let (large, small) = (work(AttentionTile::Large), work(AttentionTile::Small));
        // Loads of keys and values are about an eighth of a tile's time; an estimate, not measured yet.
        if large <= small + small / 8 {
            AttentionTile::Large
        } else {
            AttentionTile::Small
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By rows: out_proj, fc1 and fc2 of jina-embeddings-v3.
    #[test]
    fn a_tile_is_chosen_by_its_time() {
        use GemmTile::*;
        let rows = [1, 16, 64, 128, 256, 512, 1024, 8192];
        let of = |capability, count| {
            let device = Multiprocessors { capability, count };
            [[1024, 1024], [4096, 1024], [1024, 4096]]
                .map(|[columns, k]| rows.map(|rows| GemmTile::choose([rows, columns, k], device)))
        };
        let (h200, l4) = (of((9, 0), 132), of((8, 9), 58));
        let narrow = [Small16, Small16, Small16, Small64, Small64, Medium, Medium, Large];
        let wide = [Small16, Small16, Small64, Medium, Medium, Large, Large, Large];
        assert_eq!(h200, [narrow, wide, narrow]);
        let narrow = [Small16, Small16, Medium, Medium, Medium, Large, Large, Large];
        let wide = [Small16, Small16, Medium, Large, Large, Large, Large, Large];
        assert_eq!(l4, [narrow, wide, narrow]);
    }

    /// 128 blocks of a product are no reason to make four times as many of a tile that takes twice the time, on a device
    /// of 132 multiprocessors.
    #[test]
    fn a_tile_does_not_change_at_the_number_of_multiprocessors() {
        for columns in [1024, 4096] {
            for rows in [64, 128, 512] {
                let by_count = [127, 128, 129, 132].map(|count| {
                    let device = Multiprocessors {
                        count,
                        ..Multiprocessors::H200
                    };
                    let clocks = |tile: GemmTile| device.gemm_clocks(tile, [rows, columns, 1024]);
                    clocks(GemmTile::choose([rows, columns, 1024], device))
                });
                let [_, least, .., most] = by_count;
                assert!(most <= least, "{rows} rows, {columns} columns: {by_count:?}");
            }
        }
    }

    #[test]
    fn attention_tiles_follow_the_lengths() {
        let tile = |lengths: &[usize]| AttentionTile::choose(lengths.iter().copied(), false);
        assert_eq!(tile(&[8192]), AttentionTile::Large);
        assert_eq!(tile(&[128, 128]), AttentionTile::Large);
        assert_eq!(tile(&[16; 100]), AttentionTile::Small);
        assert_eq!(tile(&[130]), AttentionTile::Small);
        let sm90 = |lengths: &[usize]| AttentionTile::choose(lengths.iter().copied(), true);
        assert_eq!(sm90(&[8192]), AttentionTile::Large);
        assert_eq!(sm90(&[1024; 2]), AttentionTile::Large);
        assert_eq!(sm90(&[512; 16]), AttentionTile::Small);
        assert_eq!(sm90(&[128, 128]), AttentionTile::Small);
        // Half of the scores are those of the long one if there are four short ones.
        assert_eq!(sm90(&[512, 1024, 512, 512]), AttentionTile::Large);
        assert_eq!(sm90(&[512, 1024, 512, 512, 512]), AttentionTile::Small);
        assert_eq!(sm90(&[]), AttentionTile::Small);
    }

    /// `choose` takes the larger of equals.
    #[test]
    fn tiles_are_in_order_of_their_size() {
        let area = |tile: GemmTile| tile.shape().rows * tile.shape().columns;
        assert!(GemmTile::ALL.is_sorted_by_key(|&tile| std::cmp::Reverse(area(tile))));
        assert!(AttentionTile::ALL.is_sorted_by_key(|&tile| std::cmp::Reverse(tile.rows())));
    }
}
