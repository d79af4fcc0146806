//! `ldmatrix` and `stmatrix`: 8×8 tiles of 16-bit elements between shared memory and a warp's fragments.

use super::block::Block;
use super::check::{Check, Finding};
use super::memory::{Deed, read, write};
use super::step::At;
use super::warp::Warp;
use crate::ir::MatrixCopy;
use crate::ir::regs::LANES;
use crate::memory::How;

impl<'l> Block<'l> {
    /// Lanes 8t…8t+7 give the addresses of tile t's rows of 16 bytes; in the fragments lane 4r + c holds elements
    /// 2c and 2c + 1 of row r (of column r, transposed).
    pub(super) fn matrix_copy(
        &mut self,
        warp: &mut Warp,
        at: &At<'_>,
        copy: &MatrixCopy,
    ) -> Result<(), Box<Finding>> {
        const ROW: usize = 16;
        let tiles = usize::from(copy.tiles);
        let rows = if tiles == 4 {
            u32::MAX
        } else {
            (1 << (8 * tiles)) - 1
        };
        let deed = if copy.load { Deed::Read } else { Deed::Write };
        // Only the rows' lanes give addresses that count.
        let at = &At { mask: rows, ..*at };
        let offsets = self.shared_offsets(warp, at, at.src(0), copy.place)?;
        for (lane, &offset) in offsets.iter().enumerate().take(8 * tiles) {
            self.shared_bounds(warp, at, lane, offset, ROW, deed)?;
            if !offset.is_multiple_of(ROW as u64) {
                let message =
                    format!("a row of 16 bytes at offset {offset:#x}, which is not a multiple of 16");
                return Err(self.finding(Check::Misaligned, warp, at.pc, lane as u32, message));
            }
        }
        self.meter.matrix(at.pc, tiles, &offsets);
        let memory = self.shared.ptr();
        // SAFETY (of both accesses): every row was checked to exist and to be aligned.
        let place = |row: usize, column: usize| memory.wrapping_add(offsets[row] as usize + 2 * column);
        let who = self.clocks.who(warp.index);
        let result = if copy.load {
            self.shadow
                .read_lanes(&offsets, rows, ROW, &who, How::Weak, at.pc)
        } else {
            self.shadow
                .write_lanes(&offsets, rows, ROW, &who, How::Weak, 0, at.pc)
        };
        if let Err((lane, hazard)) = result {
            self.hazard(
                warp,
                at,
                lane,
                offsets[lane],
                ROW,
                "shared memory",
                offsets[lane],
                hazard,
            );
        }
        for tile in 0..tiles {
            if copy.load {
                let mut elements = [[0u16; 8]; 8];
                for (row, elements) in elements.iter_mut().enumerate() {
                    for (half, elements) in elements.chunks_exact_mut(4).enumerate() {
                        // SAFETY: see above.
                        let four = unsafe { read(place(8 * tile + row, 4 * half), 8) };
                        for (i, element) in elements.iter_mut().enumerate() {
                            *element = (four >> (16 * i)) as u16;
                        }
                    }
                }
                let mut fragment = [0u32; LANES];
                for (lane, value) in fragment.iter_mut().enumerate() {
                    let (r, c) = (lane / 4, 2 * (lane % 4));
                    let [low, high] = if copy.transposed {
                        [elements[c][r], elements[c + 1][r]]
                    } else {
                        [elements[r][c], elements[r][c + 1]]
                    };
                    *value = u32::from(low) | u32::from(high) << 16;
                }
                at.regs.set32(at.dst(tile), &fragment, u32::MAX);
            } else {
                let fragment = at.regs.get32(at.src(1 + tile));
                for (lane, &value) in fragment.iter().enumerate() {
                    let (r, c) = (lane / 4, 2 * (lane % 4));
                    for half in 0..2 {
                        let (row, column) = if copy.transposed {
                            (c + half, r)
                        } else {
                            (r, c + half)
                        };
                        // SAFETY: see above.
                        unsafe {
                            write(
                                place(8 * tile + row, column),
                                2,
                                u64::from(value >> (16 * half) & 0xffff),
                            )
                        };
                    }
                }
            }
        }
        if !copy.load {
            self.event();
        }
        Ok(())
    }
}
