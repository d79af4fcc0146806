//! `cuTensorMapEncodeTiled`.

use std::ffi::{c_int, c_uint, c_void};

use super::result::CUresult;
use super::{exports, list, present, put, say};
use crate::memory::{Fill, Swizzle, TENSOR_MAP_BYTES, TensorMap};

/// Bytes and whether it is a float, by `CUtensorMapDataType`. The types whose values change on the way (10 to 12) and the
/// packed ones (13 to 15) are missing.
const TYPES: [(u32, bool); 10] = [
    (1, false),
    (2, false),
    (4, false),
    (4, false),
    (8, false),
    (8, false),
    (2, true),
    (4, true),
    (8, true),
    (2, true),
];

exports! {
    fn cuTensorMapEncodeTiled(
        call,
        map: *mut [u8; TENSOR_MAP_BYTES],
        data_type: c_int,
        rank: c_uint,
        address: *mut c_void,
        dimensions: *const u64,
        strides: *const u64,
        tile: *const c_uint,
        element_strides: *const c_uint,
        interleave: c_int,
        swizzle: c_int,
        l2_promotion: c_int,
        fill: c_int,
    ) {
        call.current()?;
        present(map)?;
        let refuse = |what: String| {
            say(&format!("cuTensorMapEncodeTiled: {what}"));
            Err(CUresult::INVALID_VALUE)
        };
        if !map.addr().is_multiple_of(64) {
            return refuse(format!("the map's own place {map:?} is not a multiple of 64"));
        }
        let Some(&(element, float)) = usize::try_from(data_type).ok().and_then(|ty| TYPES.get(ty)) else {
            return refuse(format!("the data type {data_type} is not supported"));
        };
        if !(1..=3).contains(&rank) {
            return refuse(format!("a rank of {rank} is not supported; 1 to 3 are"));
        }
        if interleave != 0 {
            return refuse("interleaved layouts are not supported".to_owned());
        }
        let swizzle = match swizzle {
            0 => Swizzle::None,
            1 => Swizzle::B32,
            2 => Swizzle::B64,
            3 => Swizzle::B128,
            other => return refuse(format!("the swizzle {other} is not supported")),
        };
        let fill = match fill {
            0 => Fill::Zero,
            1 if float => Fill::Nan,
            other => return refuse(format!("the fill {other} is not one of the data type")),
        };
        if !(0..=3).contains(&l2_promotion) {
            return refuse(format!("{l2_promotion} is no L2 promotion"));
        }
        let rank = rank as usize;
        let mut encoded = TensorMap {
            address: address as u64,
            rank,
            element,
            dimensions: [1; 3],
            strides: [0; 2],
            tile: [1; 3],
            swizzle,
            fill,
        };
        encoded.dimensions[..rank].copy_from_slice(list(dimensions, rank)?);
        encoded.strides[..rank - 1].copy_from_slice(list(strides, rank - 1)?);
        encoded.tile[..rank].copy_from_slice(list(tile, rank)?);
        // The first is not looked at.
        if list(element_strides, rank)?.iter().skip(1).any(|&stride| stride != 1) {
            return refuse("element strides other than 1 are not supported".to_owned());
        }
        if let Err(what) = encoded.check() {
            return refuse(what);
        }
        put(map, encoded.encode())
    }
}
