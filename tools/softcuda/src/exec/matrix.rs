//! `ldmatrix` and `stmatrix`: 8×8 tiles of 16-bit elements between shared memory and a warp's fragments.

use super::asynchronous::Place;

/// One `ldmatrix` (dst 1, 2 or 4 registers; src address) or `stmatrix` (src address, then the registers).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatrixCopy {
    pub load: bool,
    pub tiles: u8,
    pub transposed: bool,
    pub place: Place,
}
