//! Tensor maps: how bulk tensor copies (TMA) of compute capability 9.0 and later see a matrix.

use cudarc::driver::sys::{
    CUresult, CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave,
    CUtensorMapL2promotion, CUtensorMapSwizzle,
};

use super::{Context, DriverError, call};

/// Elements of a box's row: 128 bytes, the width of the swizzle.
pub const BOX_COLUMNS: u32 = 64;

/// The most rows of a box.
pub const BOX_ROWS: u32 = 256;

/// The type of a matrix's elements, of two bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    Bf16,
    F16,
}

/// A matrix on the device, row-major. What a box has outside of it is read as zeros and not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Of its first element: a multiple of 16.
    pub address: u64,
    pub rows: u64,
    pub columns: u64,
    /// Elements between rows: a multiple of 8, at least `columns`.
    pub stride: u64,
}

/// The map of boxes of `box_rows` rows and [`BOX_COLUMNS`] columns, with the swizzle of 128 bytes in shared memory: the
/// words of a CUtensorMap. `name` is for messages.
///
/// # Errors
/// If the matrix or the box is not one that bulk copies take: `CUDA_ERROR_INVALID_VALUE`, with what is wrong.
pub fn tensor_map(
    context: &Context,
    name: &str,
    element: Element,
    matrix: Matrix,
    box_rows: u32,
) -> Result<[u64; 16], DriverError> {
    const CALL: &str = "cuTensorMapEncodeTiled";
    let Matrix {
        address,
        rows,
        columns,
        stride,
    } = matrix;
    let of = |problem: &str| {
        format!(
            "{name}, [{rows}, {columns}] at {address:#x} with rows {stride} elements apart, boxes of {box_rows} rows{problem}"
        )
    };
    if let Some(problem) = problem(matrix, box_rows) {
        let error = DriverError::new(CALL, CUresult::CUDA_ERROR_INVALID_VALUE);
        return Err(error.with_detail(of(&format!(": {problem}"))));
    }
    let data_type = match element {
        Element::Bf16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        Element::F16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
    };
    let _entered = context.enter()?;
    let mut map = CUtensorMap { opaque: [0; 16] };
    // SAFETY: every array has the length that the rank asks for, and the place for the result is good. The driver does not
    // access the matrix.
    unsafe {
        call!(cuTensorMapEncodeTiled(
            &mut map,
            data_type,
            2,
            address as *mut _,
            [columns, rows].as_ptr(),
            [2 * stride].as_ptr(),
            [BOX_COLUMNS, box_rows].as_ptr(),
            [1, 1].as_ptr(),
            CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        ))
    }
    .map_err(|e| e.with_detail(of("")))?;
    Ok(map.opaque)
}

/// What is wrong with a matrix ("CUDA driver API", cuTensorMapEncodeTiled).
fn problem(matrix: Matrix, box_rows: u32) -> Option<&'static str> {
    let Matrix {
        address,
        rows,
        columns,
        stride,
    } = matrix;
    let sizes = 1..=1 << 32;
    [
        (
            address == 0 || !address.is_multiple_of(16),
            "the address must be a multiple of 16 and not null",
        ),
        (
            !sizes.contains(&rows) || !sizes.contains(&columns),
            "rows and columns must be from 1 to 2^32",
        ),
        (
            stride < columns || !stride.is_multiple_of(8) || stride >= 1 << 39,
            "rows must be a multiple of 8 elements apart, no less than the columns and less than 2^39",
        ),
        (
            !(1..=BOX_ROWS).contains(&box_rows),
            "a box has from 1 to 256 rows",
        ),
    ]
    .into_iter()
    .find_map(|(wrong, text)| wrong.then_some(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing;

    const GOOD: Matrix = Matrix {
        address: 0x1000,
        rows: 3,
        columns: 24,
        stride: 32,
    };

    #[test]
    fn a_map_is_refused_with_what_is_wrong() {
        // The message of a code is the driver's to give.
        let Some(context) = testing::context() else { return };
        let refused = |matrix, box_rows| {
            let error = tensor_map(&context, "w of layer 3", Element::Bf16, matrix, box_rows).unwrap_err();
            assert_eq!(error.name(), "CUDA_ERROR_INVALID_VALUE");
            error.to_string()
        };
        let cases = [
            (
                Matrix {
                    address: 0x1008,
                    ..GOOD
                },
                64,
                "the address",
            ),
            (Matrix { address: 0, ..GOOD }, 64, "the address"),
            (Matrix { rows: 0, ..GOOD }, 64, "rows and columns"),
            (
                Matrix {
                    columns: (1 << 32) + 8,
                    stride: 1 << 33,
                    ..GOOD
                },
                64,
                "rows and columns",
            ),
            (Matrix { stride: 28, ..GOOD }, 64, "rows must be a multiple of 8"),
            (Matrix { stride: 16, ..GOOD }, 64, "rows must be a multiple of 8"),
            (GOOD, 0, "a box has"),
            (GOOD, 257, "a box has"),
        ];
        for (matrix, box_rows, wanted) in cases {
            let text = refused(matrix, box_rows);
            assert!(
                text.contains("w of layer 3, [") && text.contains(wanted),
                "{text}"
            );
        }
    }

    #[test]
    fn a_map_depends_on_all_of_its_matrix() {
        let Some(context) = testing::context() else { return };
        let map = |element, matrix, box_rows| tensor_map(&context, "x", element, matrix, box_rows).unwrap();
        let good = map(Element::Bf16, GOOD, 64);
        assert_eq!(good, map(Element::Bf16, GOOD, 64));
        for other in [
            map(Element::Bf16, GOOD, 128),
            map(
                Element::Bf16,
                Matrix {
                    address: 0x1010,
                    ..GOOD
                },
                64,
            ),
            map(Element::Bf16, Matrix { rows: 4, ..GOOD }, 64),
            map(Element::Bf16, Matrix { columns: 16, ..GOOD }, 64),
            map(Element::Bf16, Matrix { stride: 40, ..GOOD }, 64),
        ] {
            assert_ne!(other, good);
        }
    }
}
