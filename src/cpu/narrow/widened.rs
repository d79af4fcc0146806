//! The kernel for processors without instructions for bf16: numbers are widened, and multiplied in float32.

#[cfg(any(test, feature = "inspect"))]
use super::super::isa::Isa;
use super::super::isa::{Simd, isa_fn};
use super::{Block, PANEL, PANEL_BLOCK, ROW_BYTES, ROW_NUMBERS, TILE_BYTES, TILE_ROWS};

/// One block of k of a panel in float32: `[pair][even, odd][column]`.
type WidePanel = [[[f32; PANEL]; 2]; TILE_ROWS];

isa_fn! {
    /// See [`Block`].
    ///
    /// # Safety
    /// Everything that the block points to is there.
    pub unsafe fn block<S>(s, t: &Block) {
        let mut wide: WidePanel = [[[0.0; PANEL]; 2]; TILE_ROWS];
        for p in 0..t.panels {
            for k in 0..t.k_blocks {
                // SAFETY: two tiles of b, which are as aligned as their rows.
                let dwords = unsafe {
                    &*t.b.add(p * t.b_panel + k * PANEL_BLOCK).cast::<[[[u32; 16]; TILE_ROWS]; 2]>()
                };
                for (half, tile) in dwords.iter().enumerate() {
                    for (dwords, wide) in tile.iter().zip(&mut wide) {
                        let [even, odd] = wide;
                        for (c, &dword) in dwords.iter().enumerate() {
                            even[half * 16 + c] = f32::from_bits(dword << 16);
                            odd[half * 16 + c] = f32::from_bits(dword & 0xffff_0000);
                        }
                    }
                }
                let resume = t.resume || k > 0;
                let step = (S::TILE_ROWS / 2).min(6);
                let mut row = 0;
                while row < t.rows {
                    // Rows of one tile lie next to each other.
                    let height = step.min(t.rows - row).min(TILE_ROWS - row % TILE_ROWS);
                    // SAFETY: these rows of a and c, and this panel's columns of c.
                    unsafe {
                        let a = t.a.add(row / TILE_ROWS * t.a_tile_row + k * TILE_BYTES + row % TILE_ROWS * ROW_BYTES);
                        let c = t.c.add(row * t.c_row + p * PANEL);
                        match height {
                            1 => rows::<S, 1>(s, a.cast(), &wide, c, t.c_row, resume),
                            2 => rows::<S, 2>(s, a.cast(), &wide, c, t.c_row, resume),
                            3 => rows::<S, 3>(s, a.cast(), &wide, c, t.c_row, resume),
                            4 => rows::<S, 4>(s, a.cast(), &wide, c, t.c_row, resume),
                            5 => rows::<S, 5>(s, a.cast(), &wide, c, t.c_row, resume),
                            _ => rows::<S, 6>(s, a.cast(), &wide, c, t.c_row, resume),
                        }
                    }
                    row += height;
                }
            }
        }
    }
}

/// `R` rows by one panel, over one block of k.
///
/// # Safety
/// `a` is readable for `R` rows of a tile, `c` for `R` rows of a panel, and writable.
#[inline(always)]
unsafe fn rows<S: Simd, const R: usize>(
    s: S,
    a: *const u16,
    b: &WidePanel,
    c: *mut f32,
    c_row: usize,
    resume: bool,
) {
    let mut wide = [[0.0; ROW_NUMBERS]; R];
    for (i, wide) in wide.iter_mut().enumerate() {
        for (k, wide) in wide.iter_mut().enumerate() {
            // SAFETY: inside row i of the tile.
            *wide = super::number::widen(unsafe { *a.add(i * ROW_NUMBERS + k) });
        }
    }
    let mut column = 0;
    while column < PANEL {
        // SAFETY: the columns from here on are inside of c, as one or two vectors divide a panel.
        unsafe {
            let c = c.add(column);
            if S::TILE_VECS == 2 {
                vectors::<S, R, 2>(s, &wide, b, column, c, c_row, resume);
            } else {
                vectors::<S, R, 1>(s, &wide, b, column, c, c_row, resume);
            }
        }
        column += S::TILE_VECS * S::LANES;
    }
}

/// `R` rows by `V` vectors of a panel's columns from `column` on.
///
/// # Safety
/// `c` is readable and writable for `R` rows of `V` vectors.
#[inline(always)]
unsafe fn vectors<S: Simd, const R: usize, const V: usize>(
    s: S,
    a: &[[f32; ROW_NUMBERS]; R],
    b: &WidePanel,
    column: usize,
    c: *mut f32,
    c_row: usize,
    resume: bool,
) {
    let mut sums = [[[s.zero(); 2]; V]; R];
    for (pair, b) in b.iter().enumerate() {
        for odd in 0..2 {
            let mut vb = [s.zero(); V];
            for (v, vb) in vb.iter_mut().enumerate() {
                *vb = s.load(&b[odd][column + v * S::LANES..]);
            }
            for (a, sums) in a.iter().zip(&mut sums) {
                let va = s.splat(a[2 * pair + odd]);
                for (sum, &vb) in sums.iter_mut().zip(&vb) {
                    sum[odd] = s.fma(va, vb, sum[odd]);
                }
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        for (v, &[even, odd]) in sums.iter().enumerate() {
            // SAFETY: inside c, by this function's contract.
            unsafe {
                let c = c.add(i * c_row + v * S::LANES);
                let before = if resume { s.load_ptr(c) } else { s.zero() };
                s.store_ptr(c, s.add(before, s.add(even, odd)));
            }
        }
    }
}

/// Its products are those of float32 numbers.
///
/// # Safety
/// None is needed.
#[cfg(any(test, feature = "inspect"))]
pub unsafe fn peak(isa: Isa, rounds: usize) -> f64 {
    super::super::peak::float32(isa, rounds)
}
