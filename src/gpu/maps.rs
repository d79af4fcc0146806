//! The parameters of the kernels for compute capability 9.0, which see their matrices as maps.

use super::driver::{BOX_COLUMNS, Context, DriverError, Element, Matrix, tensor_map};
use crate::kernels::params::*;
use crate::precision::Half;
use crate::tile::{AttentionTile, Sm90Tile};

/// Maps of all operands of a product, which may read up to `rows` rows of x and h, the bucket's. `stall` is where a thread
/// leaves word that gives up waiting.
///
/// # Errors
/// A matrix that bulk copies do not take, by its name in [`GemmParams`].
pub fn gemm_params(
    context: &Context,
    precision: Half,
    tile: Sm90Tile,
    rows: u32,
    gemm: &GemmParams,
    stall: u64,
) -> Result<GemmSm90Params, DriverError> {
    let element = element(precision);
    let map = |name: &str, address: u64, rows: u32, columns: u32, stride: u32, box_rows: u32| {
        let matrix = Matrix {
            address,
            rows: rows.into(),
            columns: columns.into(),
            stride: stride.into(),
        };
        let words = tensor_map(
            context,
            &format!("{name} of a product"),
            element,
            matrix,
            box_rows,
        )?;
        Ok::<_, DriverError>(TensorMap { words })
    };
    let shape = tile.shape();
    let p = gemm;
    let mut h: TensorMap = bytemuck::Zeroable::zeroed();
    let mut b = h;
    if p.columns > 0 {
        h = map("h", p.h, rows, p.columns, p.columns, shape.rows)?;
        b = map("b", p.b, p.n, p.columns, p.columns, shape.columns)?;
    }
    Ok(GemmSm90Params {
        x: map("x", p.x, rows, p.k, p.x_stride, shape.rows)?,
        w: map("w", p.w, p.n, p.k, p.k, shape.columns)?,
        h,
        b,
        out: map("out", p.out, rows, p.n, p.out_stride, GEMM_SM90_OUT_ROWS)?,
        gemm: *p,
        stall,
    })
}

/// The map of attention's q, k and v, of which it may read up to `rows` rows. `stall`: as for [`gemm_params`].
///
/// # Errors
/// If bulk copies do not take the matrix.
pub fn attention_params(
    context: &Context,
    precision: Half,
    tile: AttentionTile,
    rows: u32,
    attention: &AttentionParams,
    stall: u64,
) -> Result<AttentionSm90Params, DriverError> {
    let matrix = Matrix {
        address: attention.qkv,
        rows: rows.into(),
        columns: u64::from(3 * attention.heads * BOX_COLUMNS),
        stride: attention.qkv_stride.into(),
    };
    let words = tensor_map(
        context,
        "qkv of attention",
        element(precision),
        matrix,
        tile.rows(),
    )?;
    Ok(AttentionSm90Params {
        qkv: TensorMap { words },
        attention: *attention,
        stall,
        reserved: [0; 7],
    })
}

fn element(precision: Half) -> Element {
    match precision {
        Half::Bf16 => Element::Bf16,
        Half::F16 => Element::F16,
    }
}
