//! The operands of narrow products: weights packed once, activations rounded before each.

use std::ops::Range;

use super::super::isa::{Isa, isa_fn};
use super::super::packed::Buffer;
use super::super::scratch::Scratch;
use super::super::team::{SendPtr, Team};
use super::number::{Group, group, magnitude, quantise_below, quantise_row, round, widen};
use super::{Number, Outlier, PANEL, PANEL_BLOCK, ROW_BYTES, ROW_NUMBERS, TILE_BYTES, TILE_ROWS};

isa_fn! {
    /// Rounds `x` to bf16 into a row of tiles whose number 0 is at `to`, and fills up the last tile's row with zeros.
    ///
    /// # Safety
    /// `to` is writable for as many rows of 32 numbers, one in each tile, as hold `x`.
    unsafe fn write_bf16_row<S>(_s, x: &[f32], to: *mut u8) {
        for (block, x) in x.chunks(ROW_NUMBERS).enumerate() {
            // SAFETY: a row of a tile, by the caller's word.
            let row = unsafe { &mut *to.add(block * TILE_BYTES).cast::<[u16; ROW_NUMBERS]>() };
            if let Ok(x) = <&[f32; ROW_NUMBERS]>::try_from(x) {
                for (out, &x) in row.iter_mut().zip(x) {
                    *out = round(x);
                }
            } else {
                row.fill(0);
                for (out, &x) in row.iter_mut().zip(x) {
                    *out = round(x);
                }
            }
        }
    }
}

isa_fn! {
    /// The same of int8 numbers, as [`quantise`](super::number::quantise) has them, without the row's outlier, which is the result.
    ///
    /// # Safety
    /// `to` is writable for as many rows of 64 numbers, one in each tile, as hold `x`; `scales` and `offsets` for as many
    /// numbers.
    unsafe fn write_int8_row<S>(_s, x: &[f32], to: *mut u8, scales: *mut f32, offsets: *mut i32) -> Outlier {
        // SAFETY: one for each block, by the caller's word.
        let magnitude_of = |block: usize| unsafe { scales.add(block).cast::<u32>() };
        let mut max = 0;
        for (block, x) in x.chunks(ROW_BYTES).enumerate() {
            let of_block = match <&[f32; ROW_BYTES]>::try_from(x) {
                Ok(x) => magnitude(x),
                Err(_) => magnitude(x),
            };
            // Where the scale will be.
            // SAFETY: see there.
            unsafe { magnitude_of(block).write(of_block) };
            max = max.max(of_block);
        }
        let mut outlier = Outlier::default();
        let mut outlier_block = usize::MAX;
        if max > 0 && f32::from_bits(max).is_finite() {
            // SAFETY: written above.
            outlier_block = (0..).find(|&block| unsafe { magnitude_of(block).read() } == max).expect("some block has it");
            let first = outlier_block * ROW_BYTES;
            let is_max = |x: &f32| x.to_bits() & 0x7fff_ffff == max;
            let column = first + x[first..].iter().position(is_max).expect("the block has it");
            outlier = Outlier { column, value: x[column] };
        }
        for (block, x) in x.chunks(ROW_BYTES).enumerate() {
            // SAFETY: a row of a tile, and the scale and offset of the block, by the caller's word.
            unsafe {
                let row = &mut *to.add(block * TILE_BYTES).cast::<Group>();
                let (scale, sum) = match <&[f32; ROW_BYTES]>::try_from(x) {
                    Ok(x) if block != outlier_block => quantise_below(x, magnitude_of(block).read(), row),
                    _ => {
                        let mut x = group(x);
                        if block == outlier_block {
                            x[outlier.column % ROW_BYTES] = 0.0;
                        }
                        quantise_below(&x, magnitude(&x), row)
                    }
                };
                scales.add(block).write(scale);
                offsets.add(block).write(-128 * sum);
            }
        }
        outlier
    }
}

/// The top bits of four int8 numbers.
const FLIPPED: i32 = 0x8080_8080_u32 as i32;

/// Byte `byte` of a dword, as an int8 number: by shifts of the whole dword, of which there are instructions for vectors.
#[inline(always)]
fn number_of(dword: i32, byte: usize) -> f32 {
    (dword << (24 - 8 * byte) >> 24) as f32
}

isa_fn! {
    /// Row i of c += value · W[.., column] of the i-th outlier, for the columns of these panels, of int8 numbers; each step
    /// rounded once.
    ///
    /// # Safety
    /// Row i of whole panels lies at `c + i * c_row`, and nothing else touches it meanwhile.
    pub(super) unsafe fn add_outliers<S>(
        _s,
        w: &PackedTiles,
        panels: Range<usize>,
        outliers: &[Outlier],
        c: *mut f32,
        c_row: usize,
    ) {
        for (at, p) in panels.enumerate() {
            // Behind a LayerNorm many rows have theirs in one column.
            let mut numbers = [0.0; PANEL];
            let mut of = None;
            for (i, &Outlier { column, value }) in outliers.iter().enumerate() {
                if value == 0.0 {
                    continue;
                }
                if of != Some(column) {
                    of = Some(column);
                    numbers = column_of(w, p, column);
                }
                // SAFETY: a panel of row i, by the caller's word.
                let y: &mut [f32; PANEL] = unsafe { &mut *c.add(i * c_row + at * PANEL).cast() };
                for (y, number) in y.iter_mut().zip(&numbers) {
                    *y += value * number;
                }
            }
        }
    }
}

/// A column of W, of the rows of panel `p`.
#[inline(always)]
fn column_of(w: &PackedTiles, p: usize, column: usize) -> [f32; PANEL] {
    /// Columns of a tile.
    const HALF: usize = PANEL / 2;
    let (block, byte) = (column / ROW_BYTES, column % ROW_BYTES);
    let scales: &[f32; PANEL] = w.scales(p, block).first_chunk().expect("a panel's scales");
    let row = w.block(p, block).wrapping_add(byte / 4 * ROW_BYTES);
    let mut numbers = [0.0; PANEL];
    for half in 0..2 {
        // SAFETY: a row of a tile of the panel, which is packed and lives as long as the matrix.
        let dwords: &[i32; HALF] = unsafe { &*row.add(half * TILE_BYTES).cast() };
        for (c, &dword) in dwords.iter().enumerate() {
            let c = half * HALF + c;
            numbers[c] = number_of(dword ^ w.flip, byte % 4) * scales[c];
        }
    }
    numbers
}

/// Activations in tiles.
#[derive(Default)]
pub struct Tiles {
    number: Number,
    rows: usize,
    k: usize,
    /// Rows of tiles, a cache line each.
    lines: Scratch,
    /// Of int8 numbers, those of each row's blocks, -128 times the sum of each, and each row's outlier.
    scales: Vec<f32>,
    offsets: Vec<i32>,
    outliers: Vec<Outlier>,
}

/// Writes rows of [`Tiles`] from several threads.
#[derive(Clone, Copy)]
pub struct TileWriter {
    isa: Isa,
    number: Number,
    tiles: *mut u8,
    scales: *mut f32,
    offsets: *mut i32,
    outliers: *mut Outlier,
    k_blocks: usize,
}

// SAFETY: a pointer by itself does nothing; `write` says what makes its use sound.
unsafe impl Send for TileWriter {}
// SAFETY: likewise.
unsafe impl Sync for TileWriter {}

impl Tiles {
    /// Makes room for a matrix, and gives the way to fill it in. Rows that are not written hold what was there before.
    pub fn reset(&mut self, isa: Isa, number: Number, rows: usize, k: usize) -> TileWriter {
        (self.number, self.rows, self.k) = (number, rows, k);
        let lines = rows.next_multiple_of(TILE_ROWS) * self.k_blocks();
        self.lines.reserve(lines * ROW_BYTES);
        let (scales, outliers) = match number {
            Number::Bf16 => (0, 0),
            Number::Int8 => (rows * self.k_blocks(), rows),
        };
        self.scales.resize(self.scales.len().max(scales), 0.0);
        self.offsets.resize(self.scales.len(), 0);
        let outliers = outliers.max(self.outliers.len());
        self.outliers.resize(outliers, Outlier::default());
        TileWriter {
            isa,
            number,
            tiles: self.lines.bytes_mut().as_mut_ptr(),
            scales: self.scales.as_mut_ptr(),
            offsets: self.offsets.as_mut_ptr(),
            outliers: self.outliers.as_mut_ptr(),
            k_blocks: self.k_blocks(),
        }
    }

    /// Rounds a matrix of rows of `k` numbers.
    pub fn round(&mut self, team: &mut Team, isa: Isa, number: Number, x: &[f32], k: usize) {
        let rows = x.len() / k;
        let writer = self.reset(isa, number, rows, k);
        team.run_rows(rows, k, &|row| {
            // SAFETY: each row is one call's alone.
            unsafe { writer.write(row, 0, &x[row * k..][..k]) };
        });
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers of a row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Blocks of k.
    pub fn k_blocks(&self) -> usize {
        self.k.div_ceil(self.number.per_row())
    }

    /// What the numbers are.
    pub(super) fn number(&self) -> Number {
        self.number
    }

    /// The scales of int8 numbers: a row's blocks one after the other.
    pub(super) fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// -128 times the sum of the int8 numbers of each block, in the order of their scales.
    pub(super) fn offsets(&self) -> &[i32] {
        &self.offsets
    }

    /// The outlier of each row, of int8 numbers.
    pub(super) fn outliers(&self) -> &[Outlier] {
        &self.outliers
    }

    /// The tile of rows `16 i..` in block `block`.
    pub(super) fn tile(&self, i: usize, block: usize) -> *const u8 {
        let at = (i * self.k_blocks() + block) * TILE_ROWS;
        self.lines.bytes()[at * ROW_BYTES..].as_ptr()
    }

    /// A row as float32, into `out` of k numbers.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.k);
        let first = row / TILE_ROWS * self.k_blocks() * TILE_ROWS + row % TILE_ROWS;
        for (block, out) in out.chunks_mut(self.number.per_row()).enumerate() {
            let line = &self.lines.bytes()[(first + block * TILE_ROWS) * ROW_BYTES..][..ROW_BYTES];
            match self.number {
                Number::Bf16 => {
                    for (out, bits) in out.iter_mut().zip(line.chunks_exact(2)) {
                        *out = widen(u16::from_ne_bytes([bits[0], bits[1]]));
                    }
                }
                Number::Int8 => {
                    let scale = self.scales[row * self.k_blocks() + block];
                    for (out, &byte) in out.iter_mut().zip(line) {
                        *out = f32::from(byte as i8) * scale;
                    }
                }
            }
        }
        if self.number == Number::Int8 && self.outliers[row].value != 0.0 {
            out[self.outliers[row].column] = self.outliers[row].value;
        }
    }
}

impl TileWriter {
    /// Rounds numbers `first..` of a row; `first` is a multiple of 32, and if `x` does not end the row, so is its length.
    /// Of int8 numbers, `x` is the whole row, which has one outlier.
    ///
    /// # Safety
    /// The tiles that this writes to are alive, hold the row and these numbers, and nothing else touches them meanwhile.
    pub unsafe fn write(self, row: usize, first: usize, x: &[f32]) {
        debug_assert!(first.is_multiple_of(self.number.per_row()));
        let tile = row / TILE_ROWS * self.k_blocks + first / self.number.per_row();
        // SAFETY: inside the tiles, by the caller's word.
        unsafe {
            let to = self.tiles.add(tile * TILE_BYTES + row % TILE_ROWS * ROW_BYTES);
            match self.number {
                Number::Bf16 => write_bf16_row(self.isa, x, to),
                Number::Int8 => {
                    debug_assert!(first == 0 && x.len().div_ceil(ROW_BYTES) == self.k_blocks);
                    let first = row * self.k_blocks;
                    let outlier =
                        write_int8_row(self.isa, x, to, self.scales.add(first), self.offsets.add(first));
                    self.outliers.add(row).write(outlier);
                }
            }
        }
    }
}

/// W[N, K] in bf16 or int8, packed for [`gemm`](super::gemm).
pub struct PackedTiles {
    number: Number,
    n: usize,
    k: usize,
    k_blocks: usize,
    data: Buffer,
    /// What was done to every dword, by exclusive or.
    flip: i32,
    /// Of int8 numbers: panel by panel, block by block, those of the panel's columns; zero past the last.
    scales: Vec<f32>,
}

impl PackedTiles {
    /// Packs an n × k matrix. `row(i, numbers)` fills in row i (of 0..n) as bf16 bits; it is called once per row, from any
    /// thread of the team.
    pub fn pack(
        team: &mut Team,
        n: usize,
        k: usize,
        row: &(dyn Fn(usize, &mut [u16]) + Sync),
    ) -> PackedTiles {
        PackedTiles::pack_rows(team, Number::Bf16, 0, n, k, row)
    }

    /// Quantises and packs an n × k matrix, for a kernel that [`flips`](super::Kernel::flips) or not. `row(i, numbers)` fills
    /// in row i (of 0..n); it is called once per row, from any thread of the team.
    pub fn quantise(
        team: &mut Team,
        isa: Isa,
        flips: bool,
        n: usize,
        k: usize,
        row: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) -> PackedTiles {
        let k_blocks = k.div_ceil(ROW_BYTES);
        let mut scales = vec![0.0; n.div_ceil(PANEL) * k_blocks * PANEL];
        let to = SendPtr(scales.as_mut_ptr());
        let flip = if flips { FLIPPED } else { 0 };
        let packed = PackedTiles::pack_rows(team, Number::Int8, flip, n, k, &|i, out: &mut [i8]| {
            let mut wide = vec![0.0; k];
            row(i, &mut wide);
            quantise_row(isa, &wide, out, &mut |block, scale| {
                let at = (i / PANEL * k_blocks + block) * PANEL + i % PANEL;
                // SAFETY: row i is of 0..n, and one task's alone.
                unsafe { to.get().add(at).write(scale) };
            });
        });
        PackedTiles { scales, ..packed }
    }

    /// `row` fills in rows of numbers that are as long as `number` says.
    fn pack_rows<T: Copy + Default>(
        team: &mut Team,
        number: Number,
        flip: i32,
        n: usize,
        k: usize,
        row: &(dyn Fn(usize, &mut [T]) + Sync),
    ) -> PackedTiles {
        assert!(n > 0 && k > 0, "a matrix has at least one element");
        assert!(size_of::<T>() == number.bytes());
        let (panels, k_blocks) = (n.div_ceil(PANEL), k.div_ceil(number.per_row()));
        let data = Buffer::new(panels * k_blocks * PANEL_BLOCK / size_of::<f32>());
        let out = data.writer();
        team.run(panels, &|p| {
            // The distance keeps the rows apart in the cache.
            let stride = (k_blocks + 1) * number.per_row() + 4 / number.bytes();
            let mut rows = vec![T::default(); PANEL * stride];
            for j in 0..PANEL.min(n - p * PANEL) {
                row(p * PANEL + j, &mut rows[j * stride..][..k]);
            }
            let rows: *const i32 = rows.as_ptr().cast();
            let stride = stride * number.bytes() / size_of::<i32>();
            // SAFETY: panel p of the buffer, which is this task's alone and lies inside the allocation.
            let panel = unsafe { out.get().cast::<i32>().add(p * k_blocks * PANEL_BLOCK / 4) };
            for dword in 0..k_blocks * TILE_ROWS {
                let (block, r) = (dword / TILE_ROWS, dword % TILE_ROWS);
                for j in 0..PANEL {
                    let at = ((block * 2 + j / 16) * TILE_ROWS + r) * 16 + j % 16;
                    // SAFETY: inside of row j, whose numbers have no padding, and of the panel. A write through the
                    // pointer, as the memory is still raw.
                    unsafe {
                        panel
                            .add(at)
                            .write(rows.add(j * stride + dword).read_unaligned() ^ flip)
                    }
                }
            }
        });
        PackedTiles {
            number,
            n,
            k,
            k_blocks,
            data,
            flip,
            scales: Vec::new(),
        }
    }

    /// Whether it is for a kernel that [`flips`](super::Kernel::flips).
    pub(super) fn flipped(&self) -> bool {
        self.flip != 0
    }

    /// Rows of W: columns of y.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Columns of W and of x.
    pub fn k(&self) -> usize {
        self.k
    }

    /// What the numbers are.
    pub(super) fn number(&self) -> Number {
        self.number
    }

    /// The rounding of int8 weights, whose squares sum up to `squares`, against those that are not the largest of their
    /// block, as root mean squares. A number is off by its block's scale / √12, and the largest is 127 of it.
    pub fn relative_rounding(&self, squares: f64) -> f64 {
        let of_scales: f64 = self.scales.iter().map(|&scale| f64::from(scale).powi(2)).sum();
        let of_others = squares - 127.0 * 127.0 * of_scales;
        // What is left where all others are zero: the float32 rounding of both sums.
        if of_others > 1e-6 * squares {
            ((self.k.min(ROW_BYTES) - 1) as f64 * of_scales / 12.0 / of_others).sqrt()
        } else {
            0.0
        }
    }

    /// The scales of int8 numbers from panel `p` and block `block` on: block by block, those of the panel's columns.
    pub(super) fn scales(&self, p: usize, block: usize) -> &[f32] {
        &self.scales[(p * self.k_blocks + block) * PANEL..]
    }

    /// Panels.
    pub(super) fn panels(&self) -> usize {
        self.n.div_ceil(PANEL)
    }

    /// Bytes from one panel to the next.
    pub(super) fn panel_bytes(&self) -> usize {
        self.k_blocks * PANEL_BLOCK
    }

    /// Block `block` of panel `p`.
    pub(super) fn block(&self, p: usize, block: usize) -> *const u8 {
        let at = p * self.panel_bytes() + block * PANEL_BLOCK;
        debug_assert!(at < self.data.bytes());
        self.data.writer().get().cast::<u8>().wrapping_add(at)
    }

    /// Bytes of the packed form.
    pub fn bytes(&self) -> usize {
        self.data.bytes() + self.scales.len() * size_of::<f32>()
    }
}
