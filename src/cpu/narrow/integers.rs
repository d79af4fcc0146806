//! The kernel for processors without products of int8 numbers: they are widened, and multiplied as numbers of 16 bits.

use super::super::isa::{Isa, isa_fn};
use super::{Block, PANEL, PANEL_BLOCK, ROW_BYTES, TILE_BYTES, TILE_ROWS, grouped};

/// Four numbers of a dword, for each column of a panel: `[number][column]`.
type Quads = [[i16; PANEL]; 4];

/// See [`Block`].
///
/// # Safety
/// Everything that the block points to is there.
pub unsafe fn block(isa: Isa, t: &Block) {
    // SAFETY: the caller's word.
    unsafe { grouped::block(isa, t, panels) }
}

isa_fn! {
    /// All of a block; the result is `i32`.
    ///
    /// # Safety
    /// As for the block.
    unsafe fn panels<S>(_s, t: &Block) {
        for p in 0..t.panels {
            for k in 0..t.k_blocks {
                let mut wide: [Quads; TILE_ROWS] = [[[0; PANEL]; 4]; TILE_ROWS];
                // SAFETY: two tiles of b.
                let tiles = unsafe { &*t.b.add(p * t.b_panel + k * PANEL_BLOCK).cast::<[[[[i8; 4]; 16]; TILE_ROWS]; 2]>() };
                for (half, tile) in tiles.iter().enumerate() {
                    for (quads, wide) in tile.iter().zip(&mut wide) {
                        for (c, quad) in quads.iter().enumerate() {
                            for (&number, wide) in quad.iter().zip(wide.iter_mut()) {
                                wide[half * 16 + c] = number.into();
                            }
                        }
                    }
                }
                for row in 0..t.rows {
                    // SAFETY: this row of a and c, and this panel's columns of c.
                    unsafe {
                        let a = t.a.add(row / TILE_ROWS * t.a_tile_row + k * TILE_BYTES + row % TILE_ROWS * ROW_BYTES);
                        let c = &mut *t.c.add(row * t.c_row + p * PANEL).cast::<[i32; PANEL]>();
                        if !t.resume && k == 0 {
                            *c = [0; PANEL];
                        }
                        add_row(&*a.cast(), &wide, c);
                    }
                }
            }
        }
    }
}

/// One row by one panel, over one block of k.
#[inline(always)]
fn add_row(a: &[[i8; 4]; TILE_ROWS], b: &[Quads; TILE_ROWS], c: &mut [i32; PANEL]) {
    let mut sums = *c;
    for (a, b) in a.iter().zip(b) {
        let [a0, a1, a2, a3] = a.map(i32::from);
        let [b0, b1, b2, b3] = b;
        for j in 0..PANEL {
            let low = a0 * i32::from(b0[j]) + a1 * i32::from(b1[j]);
            sums[j] += low + a2 * i32::from(b2[j]) + a3 * i32::from(b3[j]);
        }
    }
    *c = sums;
}

/// Rounds of a row by a panel over one block of k, in the first level cache; gives their operations.
///
/// # Safety
/// None is needed.
#[cfg(any(test, feature = "inspect"))]
pub unsafe fn peak(isa: Isa, rounds: usize) -> f64 {
    isa_fn! {
        fn sums<S>(_s, rounds: usize) {
            let a = std::hint::black_box([[1; 4]; TILE_ROWS]);
            let b = std::hint::black_box([[[1; PANEL]; 4]; TILE_ROWS]);
            let mut c = [0; PANEL];
            // Small sums, whatever the rounds.
            for _ in 0..rounds {
                c = [0; PANEL];
                add_row(&a, &b, std::hint::black_box(&mut c));
            }
            std::hint::black_box(c);
        }
    }
    sums(isa, rounds);
    (2 * ROW_BYTES * PANEL * rounds) as f64
}
