//! The tiles of the products on compute capability 9.0, `cuda/sm90/gemm.cu`.

use super::{GemmTile, Multiprocessors, TileShape, shape};
use crate::kernels::params::*;
use std::fmt;

/// A tile, and what its time depends on: in µs, **measured on an H200** by the products of jina-embeddings-v3, for 128 to
/// 8192 tokens (cuda/NOTES.md).
#[derive(Clone, Copy)]
struct Timed {
    shape: TileShape,
    /// Of a launch, whatever it computes.
    launch: f64,
    /// Of a tile, beside its k-blocks.
    tile: f64,
    /// Of a k-block, 64 columns.
    k_block: f64,
}

#[rustfmt::skip] // A table.
tiles! {
    /// The tiles of a linear layer's product on compute capability 9.0. They give the same bits as those of
    /// [`GemmTile`]: the tests compare them, and an engine does when it is opened.
    Sm90Tile, Timed:
    /// For many rows.
    Wide "wide" Timed {
        shape: shape(GEMM_WIDE_ROWS, GEMM_WIDE_COLUMNS, GEMM_WIDE_THREADS, GEMM_WIDE_SHARED),
        launch: 4.5, tile: 2.0, k_block: 0.64,
    };
    /// For many rows and few k-blocks: one warpgroup stores a tile while the other multiplies the next.
    PingPong "pingpong" Timed {
        shape: shape(GEMM_PINGPONG_ROWS, GEMM_PINGPONG_COLUMNS, GEMM_PINGPONG_THREADS, GEMM_PINGPONG_SHARED),
        launch: 4.0, tile: 0.5, k_block: 0.335,
    };
    /// For one tile per multiprocessor.
    Square "square" Timed {
        shape: shape(GEMM_SQUARE_ROWS, GEMM_SQUARE_COLUMNS, GEMM_SQUARE_THREADS, GEMM_SQUARE_SHARED),
        launch: 2.0, tile: 2.2, k_block: 0.33,
    };
    /// The same for half as many elements.
    Half "half" Timed {
        shape: shape(GEMM_HALF_ROWS, GEMM_HALF_COLUMNS, GEMM_HALF_THREADS, GEMM_HALF_SHARED),
        launch: 1.5, tile: 2.3, k_block: 0.185,
    };
    /// And for a quarter.
    Quarter "quarter" Timed {
        shape: shape(GEMM_QUARTER_ROWS, GEMM_QUARTER_COLUMNS, GEMM_QUARTER_THREADS, GEMM_QUARTER_SHARED),
        launch: 1.3, tile: 2.0, k_block: 0.173,
    };
}

/// [`GemmTile::Small64`] while every block has a multiprocessor to itself: of a launch and of a k-block.
const SMALL64: [f64; 2] = [3.2, 0.128];

/// Columns of k that a k-block has.
pub(crate) const K_BLOCK: usize = 64;

impl Sm90Tile {
    /// The tile's sizes.
    pub const fn shape(self) -> TileShape {
        self.row().shape
    }

    /// The twin among the tiles for all GPUs, with which a self-check compares it.
    pub const fn twin(self) -> GemmTile {
        match self {
            Sm90Tile::Wide | Sm90Tile::PingPong | Sm90Tile::Square => GemmTile::Large,
            Sm90Tile::Half | Sm90Tile::Quarter => GemmTile::Medium,
        }
    }

    /// Tiles of a product of `rows` rows and `columns` columns.
    pub fn count(self, rows: usize, columns: usize) -> usize {
        blocks(self.shape(), rows, columns)
    }

    /// µs of a product on an H200 with so many multiprocessors: of the launch, of its tiles beside their k-blocks, and of the
    /// k-blocks.
    pub(crate) fn micros(
        self,
        [rows, columns]: [usize; 2],
        k_blocks: f64,
        multiprocessors: Multiprocessors,
    ) -> [f64; 3] {
        let rounds = self.count(rows, columns).div_ceil(multiprocessors.count) as f64;
        let Timed {
            launch,
            tile,
            k_block,
            ..
        } = self.row();
        [launch, rounds * tile, rounds * k_blocks * k_block]
    }

    /// Whether there are kernels for passes of so many rows. Where all fit the smallest tile, weights are better streamed
    /// through narrower columns, and no other launch was measured there.
    pub const fn serves(rows: usize) -> bool {
        rows > Sm90Tile::Quarter.shape().rows as usize
    }

    /// The tile with the least estimated time for x Wᵀ with x of `rows` rows, W of `columns` rows, and sums over `k`, of
    /// those in which heads of `head_dim` elements are whole (0 where there is no rotation). `None` where a [`GemmTile`]
    /// is better: for few rows ([`serves`](Self::serves)), and where narrower columns are what gives every multiprocessor
    /// a block.
    pub fn choose(
        [rows, columns, k]: [usize; 3],
        head_dim: usize,
        multiprocessors: Multiprocessors,
    ) -> Option<Sm90Tile> {
        if !Sm90Tile::serves(rows) {
            return None;
        }
        let k_blocks = k.div_ceil(K_BLOCK) as f64;
        let time = |tile: Sm90Tile| {
            let [launch, tiles, steps] = tile.micros([rows, columns], k_blocks, multiprocessors);
            launch + tiles + steps
        };
        let fits = |tile: &Sm90Tile| tile.shape().columns as usize >= head_dim;
        let best = Sm90Tile::ALL
            .into_iter()
            .filter(fits)
            .min_by(|&a, &b| time(a).total_cmp(&time(b)))?;
        let small = GemmTile::Small64.shape();
        let [launch, k_block] = SMALL64;
        let streamed =
            blocks(small, rows, columns) <= multiprocessors.count && launch + k_blocks * k_block < time(best);
        (!streamed).then_some(best)
    }
}

fn blocks(tile: TileShape, rows: usize, columns: usize) -> usize {
    rows.div_ceil(tile.rows as usize) * columns.div_ceil(tile.columns as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fastest tile of each product of jina-embeddings-v3, as it was measured on an H200: QKV, out_proj, fc1 and fc2
    /// by rows.
    #[test]
    fn the_tile_is_the_one_that_was_measured_to_be_the_fastest() {
        use Sm90Tile::*;
        let tiles = |rows| {
            [(3072, 1024), (1024, 1024), (4096, 1024), (1024, 4096)]
                .map(|(columns, k)| Sm90Tile::choose([rows, columns, k], 64, Multiprocessors::H200))
        };
        assert_eq!(tiles(64), [None; 4]);
        assert_eq!(tiles(128), [Some(Quarter), None, Some(Quarter), None]);
        assert_eq!(tiles(256), [Half, Quarter, Half, Quarter].map(Some));
        assert_eq!(tiles(512), [Square, Quarter, Square, Quarter].map(Some));
        assert_eq!(tiles(1024), [PingPong, Half, PingPong, Half].map(Some));
        assert_eq!(tiles(2048), [PingPong, Square, PingPong, Square].map(Some));
        assert_eq!(tiles(4096), [PingPong, PingPong, PingPong, Wide].map(Some));
        assert_eq!(tiles(8192), [PingPong, PingPong, PingPong, Wide].map(Some));
    }

    #[test]
    fn a_tile_has_whole_heads() {
        for (head_dim, tile) in [(64, Sm90Tile::Quarter), (128, Sm90Tile::Half)] {
            let shape = [128, 3072, 1024];
            assert_eq!(
                Sm90Tile::choose(shape, head_dim, Multiprocessors::H200),
                Some(tile)
            );
        }
    }
}
