//! Which bytes of global memory a tensor copy moves, and where in shared memory they lie.

use crate::memory::{Swizzle, TensorMap};

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
