//! The operands of narrow products: weights packed once, activations rounded before each.

use super::super::isa::{Isa, isa_fn};
use super::super::packed::Buffer;
use super::super::team::{SendPtr, Team};
use super::number::{factors, round, to_whole, widen};
use super::{Number, PANEL, PANEL_BLOCK, ROW_BYTES, ROW_NUMBERS, TILE_BYTES, TILE_ROWS, quantise};

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
    /// The same of int8 numbers, as [`quantise`] has them.
    ///
    /// # Safety
    /// `to` is writable for as many rows of 64 numbers, one in each tile, as hold `x`.
    unsafe fn write_int8_row<S>(_s, x: &[f32], factor: f32, to: *mut u8) {
        for (block, x) in x.chunks(ROW_BYTES).enumerate() {
            // SAFETY: a row of a tile, by the caller's word.
            let row = unsafe { &mut *to.add(block * TILE_BYTES).cast::<[i8; ROW_BYTES]>() };
            row.fill(0);
            // Of infinity times zero there is no nearest whole number.
            if factor != 0.0 {
                for (out, &x) in row.iter_mut().zip(x) {
                    *out = to_whole(x, factor);
                }
            }
        }
    }
}

/// A cache line, so that tiles start on one.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; ROW_BYTES]);

/// Activations in tiles.
#[derive(Default)]
pub struct Tiles {
    number: Number,
    rows: usize,
    k: usize,
    lines: Vec<Line>,
    /// Of int8 numbers, each row's.
    scales: Vec<f32>,
}

/// Writes rows of [`Tiles`] from several threads.
#[derive(Clone, Copy)]
pub struct TileWriter {
    isa: Isa,
    number: Number,
    tiles: *mut u8,
    scales: *mut f32,
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
        let lines = rows.div_ceil(TILE_ROWS) * TILE_ROWS * self.k_blocks();
        if self.lines.len() < lines {
            self.lines = Vec::new();
            self.lines.resize(lines, Line([0; ROW_BYTES]));
        }
        if number == Number::Int8 && self.scales.len() < rows {
            self.scales.resize(rows, 0.0);
        }
        TileWriter {
            isa,
            number,
            tiles: self.lines.as_mut_ptr().cast(),
            scales: self.scales.as_mut_ptr(),
            k_blocks: self.k_blocks(),
        }
    }

    /// Rounds a matrix of rows of `k` numbers.
    pub fn round(&mut self, team: &mut Team, isa: Isa, number: Number, x: &[f32], k: usize) {
        let rows = x.len() / k;
        let writer = self.reset(isa, number, rows, k);
        // What makes a task worth handing to another thread.
        let height = 32_768_usize.div_ceil(k);
        team.run(rows.div_ceil(height), &|task| {
            for row in task * height..rows.min((task + 1) * height) {
                // SAFETY: each row is one task's alone.
                unsafe { writer.write(row, 0, &x[row * k..][..k]) };
            }
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

    /// The scale of a row of int8 numbers.
    pub(super) fn scale(&self, row: usize) -> f32 {
        self.scales[row]
    }

    /// The tile of rows `16 i..` in block `block`.
    pub(super) fn tile(&self, i: usize, block: usize) -> *const u8 {
        let at = (i * self.k_blocks() + block) * TILE_ROWS;
        self.lines[at..].as_ptr().cast()
    }

    /// A row as float32, into `out` of k numbers.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.k);
        let first = row / TILE_ROWS * self.k_blocks() * TILE_ROWS + row % TILE_ROWS;
        for (block, out) in out.chunks_mut(self.number.per_row()).enumerate() {
            let line = &self.lines[first + block * TILE_ROWS].0;
            match self.number {
                Number::Bf16 => {
                    for (out, bits) in out.iter_mut().zip(line.chunks_exact(2)) {
                        *out = widen(u16::from_ne_bytes([bits[0], bits[1]]));
                    }
                }
                Number::Int8 => {
                    let scale = self.scale(row);
                    for (out, &byte) in out.iter_mut().zip(line) {
                        *out = f32::from(byte as i8) * scale;
                    }
                }
            }
        }
    }
}

impl TileWriter {
    /// Rounds numbers `first..` of a row; `first` is a multiple of 32, and if `x` does not end the row, so is its length.
    /// Of int8 numbers, `x` is the whole row, as its largest number decides on the scale.
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
                    let (factor, scale) = factors(self.isa, x);
                    self.scales.add(row).write(scale);
                    write_int8_row(self.isa, x, factor, to);
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
    data: Buffer,
    /// Of int8 numbers, each column's of y.
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
        PackedTiles::pack_rows(team, Number::Bf16, n, k, row)
    }

    /// Quantises and packs an n × k matrix. `row(i, numbers)` fills in row i (of 0..n); it is called once per row, from any
    /// thread of the team.
    pub fn quantise(
        team: &mut Team,
        isa: Isa,
        n: usize,
        k: usize,
        row: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) -> PackedTiles {
        let mut scales = vec![0.0; n];
        let scale = SendPtr(scales.as_mut_ptr());
        let packed = PackedTiles::pack_rows(team, Number::Int8, n, k, &|i, out: &mut [i8]| {
            let mut wide = vec![0.0; k];
            row(i, &mut wide);
            // SAFETY: row i is of 0..n, and one task's alone.
            unsafe { scale.get().add(i).write(quantise(isa, &wide, out)) };
        });
        PackedTiles { scales, ..packed }
    }

    /// `row` fills in rows of numbers that are as long as `number` says.
    fn pack_rows<T: Copy + Default>(
        team: &mut Team,
        number: Number,
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
            let rows: *const u32 = rows.as_ptr().cast();
            let stride = stride * number.bytes() / size_of::<u32>();
            // SAFETY: panel p of the buffer, which is this task's alone and lies inside the allocation.
            let panel = unsafe { out.get().cast::<u32>().add(p * k_blocks * PANEL_BLOCK / 4) };
            for dword in 0..k_blocks * TILE_ROWS {
                let (block, r) = (dword / TILE_ROWS, dword % TILE_ROWS);
                for j in 0..PANEL {
                    let at = ((block * 2 + j / 16) * TILE_ROWS + r) * 16 + j % 16;
                    // SAFETY: inside of row j, whose numbers have no padding, and of the panel. A write through the
                    // pointer, as the memory is still raw.
                    unsafe { panel.add(at).write(rows.add(j * stride + dword).read_unaligned()) }
                }
            }
        });
        PackedTiles {
            number,
            n,
            k,
            data,
            scales: Vec::new(),
        }
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

    /// The scales of the columns of y from `first` on, of int8 numbers.
    pub(super) fn scales(&self, first: usize) -> &[f32] {
        &self.scales[first..]
    }

    /// Panels.
    pub(super) fn panels(&self) -> usize {
        self.n.div_ceil(PANEL)
    }

    /// Bytes from one panel to the next.
    pub(super) fn panel_bytes(&self) -> usize {
        self.k.div_ceil(self.number.per_row()) * PANEL_BLOCK
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
