//! The same for attention.

use crate::error::Result;
use crate::gpu::driver::{Context, DriverError};
use crate::gpu::failure::in_step;
use crate::gpu::kernel_set::KernelSet;
use crate::gpu::launch::{Launch, Params};
use crate::kernels::params::*;
use crate::precision::Half;
use crate::tile::{AttentionTile, Sm90Attention};

/// Sequences that end within a key tile and at its end, with queries for one warpgroup and for two, in more stages than there
/// are.
const CU_SEQLENS: [u32; 4] = [0, 63, 127, 607];
const ROWS: usize = CU_SEQLENS[3] as usize;
const HEADS: usize = 2;
const HEAD_DIM: usize = 64;

/// Where the arrays begin, in bytes: tile count, tiles, starts, qkv, out, and the end.
const AT: [usize; 6] = {
    let qkv = 1024;
    let out = qkv + (2 * ROWS * 3 * HEADS * HEAD_DIM).next_multiple_of(256);
    [0, 256, 512, qkv, out, out + 2 * ROWS * HEADS * HEAD_DIM]
};

/// Runs attention on the kernels for compute capability 9.0, and on the twin of each.
///
/// # Errors
/// [`Error::Device`] if the results differ, with a hash of both; [`Error::Gpu`] if a call of the driver fails.
pub fn run(context: &Context, kernels: &KernelSet, precision: Half) -> Result<()> {
    for tile in AttentionTile::ALL {
        let sm90 = tile.sm90(HEAD_DIM).expect("there is one for heads of this size");
        let names = [sm90.name, tile.name()].map(|name| format!("attention_{precision}_hd64_{name}"));
        let hash = |of| attention(context, kernels, precision, tile, of).map_err(in_step(super::STEP));
        super::compare(names, hash(Some(sm90))?, hash(None)?)?;
    }
    Ok(())
}

/// The hash of the output.
fn attention(
    context: &Context,
    kernels: &KernelSet,
    precision: Half,
    tile: AttentionTile,
    sm90: Option<Sm90Attention>,
) -> Result<u64, DriverError> {
    let [count, tiles, starts, qkv, out, end] = AT;
    let (stream, memory) = (context.stream()?, context.allocate(end)?);
    let mut host = context.pinned(end)?;
    fill(&mut host, precision, tile);
    let at = |offset: usize| memory.address() + offset as u64;
    let width = (HEADS * HEAD_DIM) as u32;
    let params = AttentionParams {
        tile_count: at(count),
        tiles: at(tiles),
        cu_seqlens: at(starts),
        qkv: at(qkv),
        rope: 0,
        out: at(out),
        heads: HEADS as u32,
        scale: 0.125,
        qkv_stride: 3 * width,
        out_stride: width,
    };
    let (shape, params) = match sm90 {
        Some(kernel) => (kernel.shape, Params::AttentionSm90(tile, ROWS as u32, params)),
        None => (tile.shape(HEAD_DIM as u32), Params::Attention(tile, params)),
    };
    // Fewer blocks than work items.
    let grid = [3, 1, 1];
    let launch = Launch {
        grid,
        block: shape.threads,
        shared: shape.shared_bytes,
        params,
    };
    super::hash_of(&stream, kernels, &launch, &memory, host, out)
}

/// Queries, keys and values between -2 and 2, and all tiles of the sequences, the longest first.
fn fill(host: &mut [u8], precision: Half, tile: AttentionTile) {
    let [count, tiles, starts, qkv, out, _] = AT;
    let mut put = |offset: usize, numbers: &[u32]| {
        for (to, number) in host[offset..].chunks_exact_mut(4).zip(numbers) {
            to.copy_from_slice(&number.to_le_bytes());
        }
    };
    let mut list = Vec::new();
    for sequence in (0..CU_SEQLENS.len() - 1).rev() {
        let length = CU_SEQLENS[sequence + 1] - CU_SEQLENS[sequence];
        for first in (0..length).step_by(tile.rows() as usize) {
            list.extend([sequence as u32, first]);
        }
    }
    put(count, &[list.len() as u32 / 2]);
    put(tiles, &list);
    put(starts, &CU_SEQLENS);
    let mut random = super::random();
    for number in host[qkv..out].chunks_exact_mut(2) {
        number.copy_from_slice(&precision.round(2.0 * random()).to_le_bytes());
    }
}
