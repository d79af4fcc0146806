//! The kernel for processors without fast instructions for bf16: numbers are widened, and multiplied in float32.

#[cfg(any(test, feature = "inspect"))]
use super::super::isa::Isa;
use super::super::isa::{Simd, isa_fn};
use super::{Ahead, Block, PANEL, PANEL_BLOCK, ROW_BYTES, TILE_BYTES, TILE_ROWS};

isa_fn! {
    /// See [`Block`].
    ///
    /// # Safety
    /// Everything that the block points to is there.
    pub unsafe fn block<S>(s, t: &Block) {
        // Half as many rows as float32's tile, as each element has two sums here.
        let step = S::TILE_ROWS / 2;
        for p in 0..t.panels {
            let mut row = 0;
            while row < t.rows {
                // Rows of one tile lie next to each other; parts of even heights, so that none has few sums.
                let rest = (t.rows - row).min(TILE_ROWS - row % TILE_ROWS);
                let height = rest.div_ceil(rest.div_ceil(step));
                let ahead = Ahead::of(t, p, row..row + height);
                // SAFETY: these rows of a and c, this panel of b and these columns of c.
                unsafe {
                    let a = t.a.add(row / TILE_ROWS * t.a_tile_row + row % TILE_ROWS * ROW_BYTES);
                    let (b, c) = (t.b.add(p * t.b_panel), t.c.add(row * t.c_row + p * PANEL));
                    match height {
                        1 => rows::<S, 1>(s, t, a, b, c, ahead),
                        2 => rows::<S, 2>(s, t, a, b, c, ahead),
                        3 => rows::<S, 3>(s, t, a, b, c, ahead),
                        4 => rows::<S, 4>(s, t, a, b, c, ahead),
                        5 => rows::<S, 5>(s, t, a, b, c, ahead),
                        _ => rows::<S, 6>(s, t, a, b, c, ahead),
                    }
                }
                row += height;
            }
        }
    }
}

/// `R` rows of one tile by one panel, over all blocks of k.
///
/// # Safety
/// As for the block.
#[inline(always)]
unsafe fn rows<S: Simd, const R: usize>(
    s: S,
    t: &Block,
    a: *const u8,
    b: *const u8,
    c: *mut f32,
    ahead: Ahead,
) {
    for k in 0..t.k_blocks {
        ahead.ask(k);
        let mut wide = [[[0.0; TILE_ROWS]; 2]; R];
        for (i, [even, odd]) in wide.iter_mut().enumerate() {
            // SAFETY: row i of the tile; a vector divides it.
            let row = unsafe { a.add(k * TILE_BYTES + i * ROW_BYTES).cast::<u32>() };
            for pair in (0..TILE_ROWS).step_by(S::LANES) {
                // SAFETY: as above; these pairs of both.
                unsafe {
                    let pairs = s.load_pairs(row.add(pair));
                    s.store_ptr(even[pair..].as_mut_ptr(), pairs[0]);
                    s.store_ptr(odd[pair..].as_mut_ptr(), pairs[1]);
                }
            }
        }
        for column in (0..PANEL).step_by(S::TILE_VECS * S::LANES) {
            // SAFETY: these columns of the panel and of c, as one or two vectors divide a panel.
            unsafe {
                let (b, c) = (b.add(k * PANEL_BLOCK), c.add(column));
                let resume = t.resume || k > 0;
                if S::TILE_VECS == 2 {
                    vectors::<S, R, 2>(s, &wide, b, column, c, t.c_row, resume);
                } else {
                    vectors::<S, R, 1>(s, &wide, b, column, c, t.c_row, resume);
                }
            }
        }
    }
}

/// `R` rows by `V` vectors of a panel's columns from `column` on, over one block of k.
///
/// # Safety
/// `b` is a block of a panel; `c` is readable and writable for `R` rows of `V` vectors.
#[inline(always)]
unsafe fn vectors<S: Simd, const R: usize, const V: usize>(
    s: S,
    a: &[[[f32; TILE_ROWS]; 2]; R],
    b: *const u8,
    column: usize,
    c: *mut f32,
    c_row: usize,
    resume: bool,
) {
    let mut sums = [[[s.zero(); 2]; V]; R];
    for pair in 0..TILE_ROWS {
        let b: [_; V] = std::array::from_fn(|v| {
            let column = column + v * S::LANES;
            // SAFETY: these columns of row `pair` of one of the panel's tiles; a vector divides a tile's row.
            unsafe {
                let row = b.add(column / 16 * TILE_BYTES + pair * ROW_BYTES).cast::<u32>();
                s.load_pairs(row.add(column % 16))
            }
        });
        for (a, sums) in a.iter().zip(&mut sums) {
            for odd in 0..2 {
                let a = s.splat(a[odd][pair]);
                for (sum, b) in sums.iter_mut().zip(&b) {
                    sum[odd] = s.fma(a, b[odd], sum[odd]);
                }
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        for (v, &[even, odd]) in sums.iter().enumerate() {
            // SAFETY: inside of c, by this function's contract.
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
