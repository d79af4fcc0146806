//! The operands of narrow products: weights packed once, activations rounded before each.

use super::super::isa::{Isa, isa_fn};
use super::super::packed::Buffer;
use super::super::team::Team;
use super::{PANEL, PANEL_BLOCK, ROW_BYTES, ROW_NUMBERS, TILE_BYTES, TILE_ROWS};

/// The nearest bf16 number, ties to even, as its bits. Numbers below 2^-126 become zero, and NaN a quiet NaN: what
/// `VCVTNEPS2BF16` does.
#[inline(always)]
pub fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let high = bits >> 16;
    let nearest = bits.wrapping_add(0x7fff + (high & 1)) >> 16;
    let kept = if magnitude < 0x0080_0000 {
        high & 0x8000
    } else {
        nearest
    };
    (if magnitude > 0x7f80_0000 {
        high | 0x40
    } else {
        kept
    }) as u16
}

/// A bf16 number as [`round`] would give it: zero below 2^-126.
#[inline(always)]
pub fn flush(bits: u16) -> u16 {
    if bits & 0x7f80 == 0 { bits & 0x8000 } else { bits }
}

/// A bf16 number from its bits.
#[inline(always)]
pub fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

isa_fn! {
    /// Rounds every number of `x` into `out`.
    pub fn round_row<S>(_s, x: &[f32], out: &mut [u16]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = round(x);
        }
    }
}

isa_fn! {
    /// Rounds `x` into a row of tiles whose number 0 is at `to`, and fills up the last tile's row with zeros.
    ///
    /// # Safety
    /// `to` is writable for as many rows of 32 numbers, one in each tile, as hold `x`.
    unsafe fn write_row<S>(_s, x: &[f32], to: *mut u16) {
        for (block, x) in x.chunks(ROW_NUMBERS).enumerate() {
            // SAFETY: a row of a tile, by the caller's word.
            let row = unsafe { &mut *to.add(block * TILE_BYTES / 2).cast::<[u16; ROW_NUMBERS]>() };
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

/// A cache line, so that tiles start on one.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; ROW_BYTES]);

/// Activations in tiles, rounded to bf16.
#[derive(Default)]
pub struct Tiles {
    rows: usize,
    k: usize,
    lines: Vec<Line>,
}

/// Writes rows of [`Tiles`] from several threads.
#[derive(Clone, Copy)]
pub struct TileWriter {
    isa: Isa,
    tiles: *mut u16,
    k_blocks: usize,
}

// SAFETY: a pointer by itself does nothing; `write` says what makes its use sound.
unsafe impl Send for TileWriter {}
// SAFETY: likewise.
unsafe impl Sync for TileWriter {}

impl Tiles {
    /// Makes room for a matrix, and gives the way to fill it in. Rows that are not written hold what was there before.
    pub fn reset(&mut self, isa: Isa, rows: usize, k: usize) -> TileWriter {
        (self.rows, self.k) = (rows, k);
        let lines = rows.div_ceil(TILE_ROWS) * TILE_ROWS * self.k_blocks();
        if self.lines.len() < lines {
            self.lines = Vec::new();
            self.lines.resize(lines, Line([0; ROW_BYTES]));
        }
        TileWriter {
            isa,
            tiles: self.lines.as_mut_ptr().cast(),
            k_blocks: self.k_blocks(),
        }
    }

    /// Rounds a matrix of `rows` rows of `k` numbers.
    pub fn round(&mut self, team: &mut Team, isa: Isa, x: &[f32], k: usize) {
        let rows = x.len() / k;
        let writer = self.reset(isa, rows, k);
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
        self.k.div_ceil(ROW_NUMBERS)
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
        for (block, out) in out.chunks_mut(ROW_NUMBERS).enumerate() {
            let line = &self.lines[first + block * TILE_ROWS].0;
            for (out, bits) in out.iter_mut().zip(line.chunks_exact(2)) {
                *out = widen(u16::from_ne_bytes([bits[0], bits[1]]));
            }
        }
    }
}

impl TileWriter {
    /// Rounds numbers `first..` of a row; `first` is a multiple of 32, and if `x` does not end the row, so is its length.
    ///
    /// # Safety
    /// The tiles that this writes to are alive, hold the row and these numbers, and nothing else touches them meanwhile.
    pub unsafe fn write(self, row: usize, first: usize, x: &[f32]) {
        debug_assert!(first.is_multiple_of(ROW_NUMBERS));
        let tile = row / TILE_ROWS * self.k_blocks + first / ROW_NUMBERS;
        // SAFETY: inside the tiles, by the caller's word.
        unsafe {
            let to = self
                .tiles
                .add(tile * TILE_BYTES / 2 + row % TILE_ROWS * ROW_NUMBERS);
            write_row(self.isa, x, to);
        }
    }
}

/// W[N, K] in bf16, packed for [`gemm`](super::gemm).
pub struct PackedTiles {
    n: usize,
    k: usize,
    data: Buffer,
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
        assert!(n > 0 && k > 0, "a matrix has at least one element");
        let (panels, k_blocks) = (n.div_ceil(PANEL), k.div_ceil(ROW_NUMBERS));
        let data = Buffer::new(panels * k_blocks * PANEL_BLOCK / size_of::<f32>());
        let out = data.writer();
        team.run(panels, &|p| {
            // The distance keeps the rows apart in the cache.
            let stride = k_blocks * ROW_NUMBERS + ROW_NUMBERS + 2;
            let mut rows = vec![0u16; PANEL * stride];
            for j in 0..PANEL.min(n - p * PANEL) {
                row(p * PANEL + j, &mut rows[j * stride..][..k]);
            }
            let rows: &[u16] = &rows;
            // SAFETY: panel p of the buffer, which is this task's alone and lies inside the allocation.
            let panel = unsafe { out.get().cast::<u32>().add(p * k_blocks * PANEL_BLOCK / 4) };
            for pair in 0..k_blocks * ROW_NUMBERS / 2 {
                let (block, r) = (pair / TILE_ROWS, pair % TILE_ROWS);
                for j in 0..PANEL {
                    let numbers = &rows[j * stride + 2 * pair..][..2];
                    let dword = u32::from(numbers[0]) | u32::from(numbers[1]) << 16;
                    let at = ((block * 2 + j / 16) * TILE_ROWS + r) * 16 + j % 16;
                    // SAFETY: inside the panel. A write through the pointer, as the memory is still raw.
                    unsafe { panel.add(at).write(dword) }
                }
            }
        });
        PackedTiles { n, k, data }
    }

    /// Rows of W: columns of y.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Columns of W and of x.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Panels.
    pub(super) fn panels(&self) -> usize {
        self.n.div_ceil(PANEL)
    }

    /// Bytes from one panel to the next.
    pub(super) fn panel_bytes(&self) -> usize {
        self.k.div_ceil(ROW_NUMBERS) * PANEL_BLOCK
    }

    /// Block `block` of panel `p`.
    pub(super) fn block(&self, p: usize, block: usize) -> *const u8 {
        let at = p * self.panel_bytes() + block * PANEL_BLOCK;
        debug_assert!(at < self.bytes());
        self.data.writer().get().cast::<u8>().wrapping_add(at)
    }

    /// Bytes of the packed form.
    pub fn bytes(&self) -> usize {
        self.data.bytes()
    }
}
