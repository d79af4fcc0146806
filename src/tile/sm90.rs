//! The tiles of the products on compute capability 9.0, `cuda/sm90/gemm.cu`.

use super::{GemmTile, TileShape, shape};
use crate::kernels::params::*;
use std::fmt;

#[rustfmt::skip] // A table.
tiles! {
    /// The tiles of a linear layer's product on compute capability 9.0. They give the same bits as those of
    /// [`GemmTile`], as far as that can be known without a GPU; an engine checks it when it is opened.
    Sm90Tile, TileShape:
    /// For throughput.
    Wide "wide" shape(GEMM_WIDE_ROWS, GEMM_WIDE_COLUMNS, GEMM_WIDE_THREADS, GEMM_WIDE_SHARED);
    /// For some hundred rows.
    Narrow "narrow" shape(GEMM_NARROW_ROWS, GEMM_NARROW_COLUMNS, GEMM_NARROW_THREADS, GEMM_NARROW_SHARED);
}

impl Sm90Tile {
    /// The tile's sizes.
    pub const fn shape(self) -> TileShape {
        self.row()
    }

    /// The twin among the tiles for all GPUs, with which a self-check compares it.
    pub const fn twin(self) -> GemmTile {
        match self {
            Sm90Tile::Wide => GemmTile::Large,
            Sm90Tile::Narrow => GemmTile::Medium,
        }
    }

    /// Tiles of a product of `rows` rows and `columns` columns.
    pub fn count(self, rows: usize, columns: usize) -> usize {
        let shape = self.shape();
        rows.div_ceil(shape.rows as usize) * columns.div_ceil(shape.columns as usize)
    }

    /// The tile for a product; `None` where all rows fit the smallest tile, for which weights are better streamed
    /// through the narrow columns of a [`GemmTile`]. The wide tile moves half as many bytes per element, the narrow one
    /// keeps every multiprocessor at work. Not measured on a GPU yet.
    pub fn choose(rows: usize, columns: usize, multiprocessors: usize) -> Option<Sm90Tile> {
        if rows <= Sm90Tile::Narrow.shape().rows as usize {
            return None;
        }
        Some(match Sm90Tile::Wide.count(rows, columns) >= multiprocessors {
            true => Sm90Tile::Wide,
            false => Sm90Tile::Narrow,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rows_stay_with_the_tiles_for_all_gpus() {
        use Sm90Tile::*;
        let tiles = |columns| [1, 64, 65, 1024, 8192].map(|rows| Sm90Tile::choose(rows, columns, 132));
        assert_eq!(tiles(1024), [None, None, Some(Narrow), Some(Narrow), Some(Wide)]);
        assert_eq!(tiles(4096), [None, None, Some(Narrow), Some(Narrow), Some(Wide)]);
        assert_eq!(Sm90Tile::choose(1200, 4096, 132), Some(Wide));
    }
}
