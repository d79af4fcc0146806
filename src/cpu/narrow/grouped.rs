//! What the int8 kernels of AMX and of 16-bit products have in common: a product of whole numbers for each block of k,
//! scaled and added up in float32.

use super::super::isa::{Isa, isa_fn};
use super::{Block, PANEL, PANEL_BLOCK, TILE_BYTES, TILE_ROWS};

/// Rows of tiles at a time: as many as AMX's kernel takes at once. Their sums stay in the first level cache.
const TILES: usize = 2;

/// Sums of one block of k.
#[repr(C, align(64))]
struct Sums([[i32; PANEL]; TILES * TILE_ROWS]);

isa_fn! {
    /// y (+)= float32(sum) · (the row's scale · the column's), each step rounded once.
    fn scale<S>(_s, y: &mut [f32; PANEL], sums: &[i32; PANEL], row: f32, columns: &[f32; PANEL], resume: bool) {
        for ((y, &sum), &column) in y.iter_mut().zip(sums).zip(columns) {
            let scaled = sum as f32 * (row * column);
            *y = if resume { *y + scaled } else { scaled };
        }
    }
}

/// Computes a [`Block`] of int8 numbers. `product` does so for one panel, one block of k and 32 rows at most, whose sums are
/// `i32`.
///
/// # Safety
/// Everything that the block points to is there, its scales too; `product` asks for no more.
pub unsafe fn block(isa: Isa, t: &Block, product: unsafe fn(Isa, &Block)) {
    let scales = t.scales.as_ref().expect("int8 numbers have scales");
    let mut sums = Sums([[0; PANEL]; TILES * TILE_ROWS]);
    for p in 0..t.panels {
        for first in (0..t.rows).step_by(TILES * TILE_ROWS) {
            let rows = (t.rows - first).min(TILES * TILE_ROWS);
            for k in 0..t.k_blocks {
                // SAFETY: these rows, this panel and this block of k, and their scales, by the caller's word.
                unsafe {
                    let part = Block {
                        a: t.a.add(first / TILE_ROWS * t.a_tile_row + k * TILE_BYTES),
                        rows,
                        b: t.b.add(p * t.b_panel + k * PANEL_BLOCK),
                        panels: 1,
                        k_blocks: 1,
                        c: sums.0.as_mut_ptr().cast(),
                        c_row: PANEL,
                        resume: false,
                        ..*t
                    };
                    product(isa, &part);
                    let columns = &*scales.b.add((p * scales.k_blocks + k) * PANEL).cast();
                    for (i, sums) in sums.0[..rows].iter().enumerate() {
                        let row = *scales.a.add((first + i) * scales.k_blocks + k);
                        let y = &mut *t.c.add((first + i) * t.c_row + p * PANEL).cast();
                        scale(isa, y, sums, row, columns, t.resume || k > 0);
                    }
                }
            }
        }
    }
}
