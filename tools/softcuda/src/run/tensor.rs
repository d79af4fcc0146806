//! Tensor maps in a kernel: where they lie, which bytes of global memory a copy moves, and where in shared memory those lie.

use super::block::Block;
use super::bulk::take;
use super::check::{Check, Finding};
use super::memory::{Deed, addresses, generic};
use super::step::At;
use super::warp::Warp;
use crate::ir::Place;
use crate::memory::{Swizzle, TENSOR_MAP_BYTES, TensorMap};
use crate::ptx::ast::Space;

/// Bytes that lie one after the other in global memory and, but for the swizzle, in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    /// Offset in the box.
    pub at: u32,
    pub address: u64,
    pub bytes: u32,
}

/// The parts of a box at these coordinates that lie in the tensor, row by row.
pub(super) fn stretches(map: &TensorMap, coordinates: [i32; 3]) -> Vec<Stretch> {
    // The part of the box in one dimension that lies inside: first and end, counted from the box's corner.
    let inside = |axis: usize| {
        let corner = i64::from(coordinates[axis]);
        let size = map.dimensions[axis] as i64;
        let first = (-corner).max(0);
        let end = (size - corner).min(i64::from(map.tile[axis]));
        first..end
    };
    let (x, element) = (inside(0), u64::from(map.element));
    let bytes = (x.end - x.start).max(0) as u32 * map.element;
    let mut list = Vec::new();
    if bytes == 0 {
        return list;
    }
    let index = |axis: usize, at: i64| (i64::from(coordinates[axis]) + at) as u64;
    for z in inside(2) {
        for y in inside(1) {
            let row = z as u32 * map.tile[1] + y as u32;
            list.push(Stretch {
                at: row * map.row_bytes() + x.start as u32 * map.element,
                address: map.address
                    + index(0, x.start) * element
                    + index(1, y) * map.strides[0]
                    + index(2, z) * map.strides[1],
                bytes,
            });
        }
    }
    list
}

/// Whether it is known how the box lies in shared memory: a swizzle's rows are as long as its span.
pub(super) fn is_laid_out(map: &TensorMap) -> bool {
    map.swizzle == Swizzle::None || map.row_bytes() == map.swizzle.span() || map.tile[1] * map.tile[2] == 1
}

impl<'l> Block<'l> {
    /// Reads the map that an operand points to.
    pub(super) fn tensor_map(
        &mut self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        place: Place,
        rank: u8,
    ) -> Result<TensorMap, Box<Finding>> {
        let address = addresses(at.regs, at.src(1), place.base, place.offset)[lane];
        let mut bytes = [0; TENSOR_MAP_BYTES];
        if !address.is_multiple_of(64) {
            let message = format!("a tensor map at {address:#x}, which is not a multiple of 64");
            return Err(self.finding(Check::Misaligned, warp, at.pc, lane as u32, message));
        }
        match generic(address) {
            (Space::Param, offset) => {
                let end = offset as usize + TENSOR_MAP_BYTES;
                if end > self.run.param_bytes as usize {
                    let message =
                        format!("a tensor map of 128 bytes at offset {offset:#x} of the parameters");
                    return Err(self.at_address(Check::OutOfBounds, warp, at, lane, address, message));
                }
                bytes.copy_from_slice(&self.run.params.as_ref()[offset as usize..end]);
            }
            (Space::Global, _) => {
                let allocation = self.global(warp, at, lane, address, TENSOR_MAP_BYTES, Deed::Read)?;
                take(allocation, address, &mut bytes);
            }
            _ => {
                let message =
                    "a tensor map lies in a parameter (__grid_constant__), in constant or in global memory";
                return Err(self.illegal(warp, at, lane, message.to_owned()));
            }
        }
        let Some(map) = TensorMap::decode(&bytes) else {
            let message =
                format!("the 128 bytes at {address:#x} are no map that cuTensorMapEncodeTiled wrote");
            return Err(self.illegal(warp, at, lane, message));
        };
        if map.rank != usize::from(rank) {
            let message = format!(
                "a copy with {rank} coordinates by a tensor map of {} dimensions",
                map.rank
            );
            return Err(self.illegal(warp, at, lane, message));
        }
        Ok(map)
    }

    /// Checks where a box lies in shared memory.
    pub(super) fn check_tile(
        &self,
        warp: &Warp,
        at: &At<'_>,
        lane: usize,
        map: &TensorMap,
        offset: u64,
        deed: Deed,
    ) -> Result<(), Box<Finding>> {
        if !is_laid_out(map) {
            let message = format!(
                "rows of {} bytes in a swizzle of {}: how they lie in shared memory is not documented",
                map.row_bytes(),
                map.swizzle.span()
            );
            return Err(self.illegal(warp, at, lane, message));
        }
        if !offset.is_multiple_of(128) {
            let message = format!(
                "a tensor's box at offset {offset:#x} of shared memory, which is not a multiple of 128"
            );
            return Err(self.at_address(Check::Misaligned, warp, at, lane, offset, message));
        }
        self.shared_bounds(warp, at, lane, offset, map.tile_bytes() as usize, deed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Fill;

    #[test]
    fn a_box_is_cut_at_every_edge() {
        let map = TensorMap {
            address: 0x1000,
            rank: 3,
            element: 2,
            dimensions: [20, 5, 3],
            strides: [48, 256],
            tile: [8, 4, 2],
            swizzle: Swizzle::None,
            fill: Fill::Zero,
        };
        for coordinates in [
            [0, 0, 0],
            [-3, -2, -1],
            [16, 3, 2],
            [20, 0, 0],
            [-8, 0, 0],
            [0, 5, 0],
            [13, -4, 0],
            [i32::MAX, i32::MIN, 0],
        ] {
            // Element by element.
            let mut want = Vec::new();
            for (z, y, x) in (0..2).flat_map(|z| (0..4).flat_map(move |y| (0..8).map(move |x| (z, y, x)))) {
                let [cx, cy, cz] = coordinates.map(i64::from);
                let (i, j, k) = (cx + x, cy + y, cz + z);
                if (0..20).contains(&i) && (0..5).contains(&j) && (0..3).contains(&k) {
                    want.push((
                        ((z * 4 + y) * 8 + x) as u32 * 2,
                        (0x1000 + k * 256 + j * 48 + i * 2) as u64,
                    ));
                }
            }
            let got: Vec<(u32, u64)> = stretches(&map, coordinates)
                .iter()
                .flat_map(|s| {
                    (0..s.bytes)
                        .step_by(2)
                        .map(|b| (s.at + b, s.address + u64::from(b)))
                })
                .collect();
            assert_eq!(got, want, "{coordinates:?}");
        }
    }
}
