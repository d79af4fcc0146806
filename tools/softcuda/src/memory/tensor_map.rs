//! Tensor maps: what `cuTensorMapEncodeTiled` writes and a tensor copy reads, and the swizzles of shared memory.
//!
//! The 128 bytes of a `CUtensorMap` are opaque, so they have a layout of their own here, with a mark and a checksum: bytes
//! that no driver function wrote are told from a map.

/// Bytes of a `CUtensorMap`.
pub const TENSOR_MAP_BYTES: usize = 128;

/// How 16-byte pieces are exchanged within rows of shared memory, against bank conflicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swizzle {
    None,
    B32,
    B64,
    B128,
}

impl Swizzle {
    /// Bytes of a row within which pieces change places; 16 where none does.
    pub const fn span(self) -> u32 {
        match self {
            Swizzle::None => 16,
            Swizzle::B32 => 32,
            Swizzle::B64 => 64,
            Swizzle::B128 => 128,
        }
    }

    /// Where the byte meant for `address` lies: bits 4 to 6 of the address, as many as the span has, are exchanged by
    /// bits 7 to 9. The pattern hangs on the address in shared memory alone, not on where a tile begins.
    pub const fn place(self, address: u32) -> u32 {
        address ^ (address >> 7 & (self.span() / 16 - 1)) << 4
    }
}

/// What stands for elements outside of the tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    Zero,
    /// A NaN of a float type of the element's size.
    Nan,
}

/// A tensor in global memory and the box of it that one copy moves. Dimension 0 is the one whose elements are adjacent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorMap {
    pub address: u64,
    /// 1 to 3; what the arrays hold beyond it is 1 (dimensions) or 0 (strides).
    pub rank: usize,
    /// Bytes of an element.
    pub element: u32,
    pub dimensions: [u64; 3],
    /// Bytes from one element to the next in dimensions 1 and 2.
    pub strides: [u64; 2],
    /// Elements in each dimension.
    pub tile: [u32; 3],
    pub swizzle: Swizzle,
    pub fill: Fill,
}

const MARK: [u8; 8] = *b"softmap1";
const CHECKSUM_AT: usize = 120;

impl TensorMap {
    /// Checks it as cuda.h documents the arguments of `cuTensorMapEncodeTiled`; the error says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=3).contains(&self.rank) {
            return Err(format!("a rank of {} is not supported; 1 to 3 are", self.rank));
        }
        if !self.address.is_multiple_of(16) || self.address == 0 {
            return Err(format!(
                "the tensor's address {:#x} is not a multiple of 16",
                self.address
            ));
        }
        for (axis, (&size, &tile)) in self.dimensions.iter().zip(&self.tile).enumerate().take(self.rank) {
            if !(1..=1 << 32).contains(&size) {
                return Err(format!("globalDim[{axis}] is {size}; it is 1 to 2^32"));
            }
            if !(1..=256).contains(&tile) {
                return Err(format!("boxDim[{axis}] is {tile}; it is 1 to 256"));
            }
        }
        for (axis, &stride) in self.strides.iter().enumerate().take(self.rank - 1) {
            if !stride.is_multiple_of(16) || stride >= 1 << 40 {
                return Err(format!(
                    "globalStrides[{axis}] is {stride}; it is a multiple of 16 below 2^40"
                ));
            }
            let least = match axis {
                0 => self.dimensions[0] * u64::from(self.element),
                _ => self.strides[0],
            };
            // Nothing steps over where there is one; CUTLASS has no stride there.
            if stride < least && self.dimensions[axis + 1] > 1 {
                return Err(format!(
                    "globalStrides[{axis}] is {stride}, less than the {least} bytes of what it steps over"
                ));
            }
        }
        let row = self.row_bytes();
        if !row.is_multiple_of(16) {
            return Err(format!(
                "a row of the box has {row} bytes; it is a multiple of 16"
            ));
        }
        if self.swizzle != Swizzle::None && row > self.swizzle.span() {
            return Err(format!(
                "a row of the box has {row} bytes; the swizzle spans {}",
                self.swizzle.span()
            ));
        }
        Ok(())
    }

    /// Bytes of the box in dimension 0.
    pub fn row_bytes(&self) -> u32 {
        self.tile[0] * self.element
    }

    /// Bytes of the whole box in shared memory.
    pub fn tile_bytes(&self) -> u32 {
        self.row_bytes() * self.tile[1] * self.tile[2]
    }

    /// The bytes of an element outside of the tensor.
    pub fn fill_bytes(&self) -> [u8; 8] {
        match (self.fill, self.element) {
            (Fill::Zero, _) => [0; 8],
            (Fill::Nan, 2) => [0xff, 0x7f, 0xff, 0x7f, 0xff, 0x7f, 0xff, 0x7f],
            (Fill::Nan, 4) => [0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0x7f],
            (Fill::Nan, _) => [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        }
    }

    pub fn encode(&self) -> [u8; TENSOR_MAP_BYTES] {
        let mut bytes = Vec::with_capacity(TENSOR_MAP_BYTES);
        bytes.extend(MARK);
        let swizzle = match self.swizzle {
            Swizzle::None => 0,
            Swizzle::B32 => 1,
            Swizzle::B64 => 2,
            Swizzle::B128 => 3,
        };
        let fill = u8::from(self.fill == Fill::Nan);
        // CUTLASS clears bit 21 of the second word, against a fault of some drivers: here it is always clear.
        bytes.extend([self.rank as u8, self.element as u8, swizzle, fill, 0, 0, 0, 0]);
        bytes.extend(self.address.to_le_bytes());
        self.dimensions
            .iter()
            .chain(&self.strides)
            .for_each(|n| bytes.extend(n.to_le_bytes()));
        self.tile.iter().for_each(|n| bytes.extend(n.to_le_bytes()));
        bytes.resize(CHECKSUM_AT, 0);
        let sum = checksum(&bytes);
        bytes.extend(sum.to_le_bytes());
        bytes.try_into().expect("as many bytes as it has")
    }

    /// `None` for bytes that [`TensorMap::encode`] did not write.
    pub fn decode(bytes: &[u8; TENSOR_MAP_BYTES]) -> Option<Self> {
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let short = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        if bytes[..8] != MARK || long(CHECKSUM_AT) != checksum(&bytes[..CHECKSUM_AT]) {
            return None;
        }
        let map = Self {
            address: long(16),
            rank: bytes[8].into(),
            element: bytes[9].into(),
            dimensions: [24, 32, 40].map(long),
            strides: [48, 56].map(long),
            tile: [64, 68, 72].map(short),
            swizzle: [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128][usize::from(bytes[10] & 3)],
            fill: if bytes[11] == 0 { Fill::Zero } else { Fill::Nan },
        };
        map.check().is_ok().then_some(map)
    }
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix() -> TensorMap {
        TensorMap {
            address: 0x7f00_0000_1000,
            rank: 2,
            element: 2,
            dimensions: [100, 40, 1],
            strides: [208, 0],
            tile: [64, 32, 1],
            swizzle: Swizzle::B128,
            fill: Fill::Zero,
        }
    }

    #[test]
    fn a_map_survives_its_bytes_and_no_other_bytes_are_one() {
        let map = matrix();
        let bytes = map.encode();
        assert_eq!(TensorMap::decode(&bytes), Some(map));
        assert_eq!(TensorMap::decode(&[0; TENSOR_MAP_BYTES]), None);
        for at in 0..TENSOR_MAP_BYTES {
            let mut other = bytes;
            other[at] ^= 4;
            assert_eq!(TensorMap::decode(&other), None, "byte {at}");
        }
    }

    #[test]
    fn arguments_out_of_their_limits_are_named() {
        type Change = fn(&mut TensorMap);
        let wrong: [(Change, &str); 8] = [
            (|m| m.address += 8, "address"),
            (|m| m.dimensions[1] = 0, "globalDim[1]"),
            (|m| m.strides[0] = 216, "globalStrides[0]"),
            (|m| m.strides[0] = 192, "globalStrides[0]"),
            (|m| m.tile[1] = 257, "boxDim[1]"),
            (|m| m.tile[0] = 60, "multiple of 16"),
            (|m| m.tile[0] = 128, "swizzle"),
            (|m| m.rank = 4, "rank"),
        ];
        assert_eq!(matrix().check(), Ok(()));
        for (spoil, word) in wrong {
            let mut map = matrix();
            spoil(&mut map);
            let message = map.check().expect_err(word);
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn swizzles_permute_their_pattern() {
        for (swizzle, period) in [(Swizzle::B32, 256u32), (Swizzle::B64, 512), (Swizzle::B128, 1024)] {
            let mut seen: Vec<u32> = (0..period).map(|a| swizzle.place(a)).collect();
            seen.sort_unstable();
            assert!(seen.iter().copied().eq(0..period), "{swizzle:?}");
        }
        // Row 3 of 128 bytes: piece 0 lies at place 3.
        assert_eq!(Swizzle::B128.place(3 * 128), 3 * 128 + 3 * 16);
        assert_eq!(Swizzle::B64.place(5 * 64), 5 * 64 + 2 * 16);
        assert_eq!(Swizzle::B32.place(4 * 32), 4 * 32 + 16);
        assert_eq!(Swizzle::None.place(0x3f0), 0x3f0);
    }
}
