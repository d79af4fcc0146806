//! Compares the kernels for compute capability 9.0 with those for all GPUs, bit for bit, before anything relies on them.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::driver::{Context, DeviceMemory, DriverError, Pinned, Stream};
use super::failure::in_step;
use super::kernel_set::KernelSet;
use super::launch::{Launch, Params};
use crate::error::{Error, Result};
use crate::kernels::params::*;
use crate::model::ModelConfig;
use crate::precision::Half;
use crate::tile::{AttentionTile, GemmTile, Sm90Tile};

mod attention;

/// A product with a part of a tile in every dimension, and more k-blocks than stages: rows, n, k, columns of h.
const SHAPE: [usize; 4] = [129, 384, 840, 32];
/// Of its heads, of which q, k and v have two each.
const HEAD_DIM: usize = 64;

/// The arrays of the product, in the order of [`SIZES`].
#[derive(Clone, Copy)]
enum Array {
    X,
    W,
    H,
    B,
    Bias,
    Table,
    Positions,
    Tokens,
    Out,
}

/// Bytes of each array.
const SIZES: [usize; 9] = {
    let [rows, n, k, columns] = SHAPE;
    [
        2 * rows * k,
        2 * n * k,
        2 * rows * columns,
        2 * n * columns,
        2 * n,
        8 * rows * HEAD_DIM / 2,
        4 * rows,
        4,
        2 * rows * n,
    ]
};

/// Where an array begins: each is aligned as the driver aligns an allocation.
fn offset(array: Array) -> usize {
    let before = &SIZES[..array as usize];
    before.iter().map(|bytes| bytes.next_multiple_of(256)).sum()
}

/// Runs what a model's kernels for compute capability 9.0 compute, and their twins.
///
/// # Errors
/// [`Error::Device`] if the results differ, with a hash of both; [`Error::Gpu`] if a call of the driver fails.
pub fn run(context: &Context, kernels: &KernelSet, config: &ModelConfig, precision: Half) -> Result<()> {
    products(context, kernels, precision)?;
    if AttentionTile::Large.sm90(config.head_dim).is_some() {
        attention::run(context, kernels, precision)?;
    }
    Ok(())
}

/// The step that failures of the driver name.
const STEP: &str = "self-check of the kernels sm90";

/// The product with GELU and with rotation on every tile.
fn products(context: &Context, kernels: &KernelSet, precision: Half) -> Result<()> {
    for rotated in [false, true] {
        let hash =
            |tile, sm90| product(context, kernels, precision, tile, rotated, sm90).map_err(in_step(STEP));
        // Tiles beside one another have one twin, which need not compute for each.
        let mut last: Option<(GemmTile, u64)> = None;
        for tile in Sm90Tile::ALL {
            let twin = tile.twin();
            let wanted = match last {
                Some((same, wanted)) if same == twin => wanted,
                _ => hash(tile, false)?,
            };
            last = Some((twin, wanted));
            let names = [tile.name(), twin.name()].map(|tile| format!("gemm_{precision}_{tile}"));
            compare(names, hash(tile, true)?, wanted)?;
        }
    }
    Ok(())
}

/// Compares the hash of what a kernel for compute capability 9.0 gives with that of its twin, by their names in this order.
fn compare([name, twin]: [String; 2], found: u64, wanted: u64) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::Device(format!(
        "the kernels sm90 fail their self-check: {name} gives {found:016x} where {twin} gives {wanted:016x} (open the engine \
         with the kernels sm80, and please report this)"
    )))
}

/// The hash of what a launch writes to the end of the memory, from `out` on, with the inputs before it. `host` is as long.
fn hash_of(
    stream: &Stream,
    kernels: &KernelSet,
    launch: &Launch,
    memory: &DeviceMemory,
    mut host: Pinned,
    out: usize,
) -> Result<u64, DriverError> {
    let submit = |host: &mut Pinned| {
        // SAFETY: the arrays lie within the memory, which like the host's lives until the stream has been drained, below.
        unsafe {
            stream.upload(memory.address(), host, 0..out)?;
            kernels.launch(stream, launch)?;
            stream.download(host, out..memory.len(), memory.address() + out as u64)
        }
    };
    let submitted = submit(&mut host);
    stream.synchronize()?;
    submitted?;
    let mut hasher = DefaultHasher::new();
    host[out..].hash(&mut hasher);
    Ok(hasher.finish())
}

/// The hash of the product's result.
fn product(
    context: &Context,
    kernels: &KernelSet,
    precision: Half,
    tile: Sm90Tile,
    rotated: bool,
    sm90: bool,
) -> Result<u64, DriverError> {
    let end = offset(Array::Out) + SIZES[Array::Out as usize];
    let (stream, memory) = (context.stream()?, context.allocate(end)?);
    let mut host = context.pinned(end)?;
    fill(&mut host, precision);
    let at = |array| memory.address() + offset(array) as u64;
    let [rows, n, k, columns] = SHAPE.map(|size| size as u32);
    let params = GemmParams {
        tokens: at(Array::Tokens),
        x: at(Array::X),
        w: at(Array::W),
        h: at(Array::H),
        b: at(Array::B),
        bias: at(Array::Bias),
        out: at(Array::Out),
        rope: Rope {
            table: if rotated { at(Array::Table) } else { 0 },
            position_of_row: at(Array::Positions),
            head_dim: HEAD_DIM as u32,
            q_scale: 0.125,
        },
        n,
        k,
        columns,
        x_stride: k,
        out_stride: n,
        gelu: u32::from(!rotated),
        ..bytemuck::Zeroable::zeroed()
    };
    let launch = if sm90 {
        let shape = tile.shape();
        Launch {
            // Some blocks have two tiles, some one.
            grid: [2, 1, 1],
            block: shape.threads,
            shared: shape.shared_bytes,
            params: Params::GemmSm90(tile, rows, params),
        }
    } else {
        let shape = tile.twin().shape();
        Launch {
            grid: [n.div_ceil(shape.columns), rows.div_ceil(shape.rows), 1],
            block: shape.threads,
            shared: shape.shared_bytes,
            params: Params::Gemm(tile.twin(), params),
        }
    };
    hash_of(&stream, kernels, &launch, &memory, host, offset(Array::Out))
}

/// A generator of numbers between -1 and 1.
fn random() -> impl FnMut() -> f32 {
    let mut state = 1u64;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Numbers between -1 and 1; the positions are the rows, each with a cosine and sine of its own.
fn fill(host: &mut [u8], precision: Half) {
    let mut random = random();
    for array in [Array::X, Array::W, Array::H, Array::B, Array::Bias] {
        for number in host[offset(array)..][..SIZES[array as usize]].chunks_exact_mut(2) {
            number.copy_from_slice(&precision.round(random() / 4.0).to_le_bytes());
        }
    }
    for pair in host[offset(Array::Table)..][..SIZES[Array::Table as usize]].chunks_exact_mut(8) {
        let (sin, cos) = (4.0 * random()).sin_cos();
        pair[..4].copy_from_slice(&cos.to_le_bytes());
        pair[4..].copy_from_slice(&sin.to_le_bytes());
    }
    for (row, position) in host[offset(Array::Positions)..][..4 * SHAPE[0]]
        .chunks_exact_mut(4)
        .enumerate()
    {
        position.copy_from_slice(&(row as u32).to_le_bytes());
    }
    host[offset(Array::Tokens)..][..4].copy_from_slice(&(SHAPE[0] as u32).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing;

    #[test]
    fn kernels_for_sm90_give_the_bits_of_their_twins() {
        let Some(context) = testing::context() else { return };
        if context.facts().capability != (9, 0) {
            return;
        }
        let config = testing::model("jina-hub").config;
        for precision in [Half::Bf16, Half::F16] {
            let kernels = KernelSet::load(&context, &config, precision, true).unwrap();
            run(&context, &kernels, &config, precision).unwrap();
            let hash = |tile, rotated| product(&context, &kernels, precision, tile, rotated, true).unwrap();
            // It is the result that is compared.
            assert_ne!(hash(Sm90Tile::Half, false), hash(Sm90Tile::Half, true));
            assert_eq!(kernels.stall(), None);
        }
    }
}
