//! The kernels of one model: those for its precision and head size, loaded once.

use super::driver::{Context, DriverError, Stream};
use super::exec::{Launch, Params, attention_shared};
use super::kernels::{Kernel, Loader};
use super::params::*;
use crate::error::Result;
use crate::model::ModelConfig;
use crate::plan::Tile;
use crate::precision::Precision;

/// The entry of a kernel for a precision: its name, `_bf16` or `_f16`, and what follows.
macro_rules! entry {
    ($precision:expr, $name:literal) => {
        entry!($precision, $name, "")
    };
    ($precision:expr, $name:literal, $more:literal) => {
        match $precision {
            Precision::Bf16 => concat!($name, "_bf16", $more),
            Precision::F16 => concat!($name, "_f16", $more),
        }
    };
}

/// A model's kernels.
#[derive(Debug)]
pub struct Entries {
    embed: Kernel<EmbedParams>,
    layernorm: Kernel<LayerNormParams>,
    gemm_large: Kernel<GemmParams>,
    gemm_medium: Kernel<GemmParams>,
    gemm_small64: Kernel<GemmParams>,
    gemm_small16: Kernel<GemmParams>,
    lora_down: Kernel<LoraDownParams>,
    attention_large: Kernel<AttentionParams>,
    attention_small: Kernel<AttentionParams>,
    pool: Kernel<PoolParams>,
}

/// Why a model cannot run on the kernels, if it cannot.
pub fn check(config: &ModelConfig) -> Result<(), String> {
    let head = config.head_dim;
    if ![32, 64, 128].contains(&head) {
        return Err(format!(
            "the GPU kernels are for heads of 32, 64 or 128 numbers, and the model has {head}"
        ));
    }
    let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
    let step = ROW_VECTOR as usize;
    if !hidden.is_multiple_of(step) || !intermediate.is_multiple_of(step) || hidden > ROW_MAX_HIDDEN as usize
    {
        return Err(format!(
            "the GPU kernels are for sizes that are multiples of {step} and a hidden size of at most {ROW_MAX_HIDDEN}, and \
             the model has {hidden} and {intermediate}"
        ));
    }
    Ok(())
}

impl Entries {
    /// Loads them.
    pub fn load(context: &Context, config: &ModelConfig, precision: Precision) -> Result<Entries> {
        let mut loader = Loader::new(context);
        let head = config.head_dim;
        let (large, small) = match config.head_dim {
            32 => (
                entry!(precision, "attention", "_hd32_large"),
                entry!(precision, "attention", "_hd32_small"),
            ),
            64 => (
                entry!(precision, "attention", "_hd64_large"),
                entry!(precision, "attention", "_hd64_small"),
            ),
            _ => (
                entry!(precision, "attention", "_hd128_large"),
                entry!(precision, "attention", "_hd128_small"),
            ),
        };
        Ok(Entries {
            embed: loader.kernel("embed", entry!(precision, "embed"), ROW_SHARED_BYTES)?,
            layernorm: loader.kernel("layernorm", entry!(precision, "layernorm"), ROW_SHARED_BYTES)?,
            gemm_large: loader.kernel("gemm", entry!(precision, "gemm", "_large"), GEMM_LARGE_SHARED)?,
            gemm_medium: loader.kernel("gemm", entry!(precision, "gemm", "_medium"), GEMM_MEDIUM_SHARED)?,
            gemm_small64: loader.kernel(
                "gemm",
                entry!(precision, "gemm", "_small64"),
                GEMM_SMALL64_SHARED,
            )?,
            gemm_small16: loader.kernel(
                "gemm",
                entry!(precision, "gemm", "_small16"),
                GEMM_SMALL16_SHARED,
            )?,
            lora_down: loader.kernel(
                "lora_down",
                entry!(precision, "lora_down"),
                LORA_DOWN_SHARED_BYTES,
            )?,
            attention_large: loader.kernel(
                "attention",
                large,
                attention_shared(Tile::AttentionLarge, head),
            )?,
            attention_small: loader.kernel(
                "attention",
                small,
                attention_shared(Tile::AttentionSmall, head),
            )?,
            pool: loader.kernel("pool", entry!(precision, "pool"), POOL_SHARED_BYTES)?,
        })
    }

    /// Launches one.
    ///
    /// # Safety
    /// The addresses in the launch must be good for what its kernel does with them, until it is done.
    pub unsafe fn launch(&self, stream: &Stream, launch: &Launch) -> Result<(), DriverError> {
        let &Launch {
            grid,
            block,
            shared,
            params,
            ..
        } = launch;
        // SAFETY: the caller's promise; each struct goes to the kernel that it is for.
        unsafe {
            match &params {
                Params::Embed(p) => self.embed.launch(stream, grid, block, shared, p),
                Params::LayerNorm(p) => self.layernorm.launch(stream, grid, block, shared, p),
                Params::Gemm(tile, p) => self.gemm(*tile).launch(stream, grid, block, shared, p),
                Params::LoraDown(p) => self.lora_down.launch(stream, grid, block, shared, p),
                Params::Attention(tile, p) => self.attention(*tile).launch(stream, grid, block, shared, p),
                Params::Pool(p) => self.pool.launch(stream, grid, block, shared, p),
            }
        }
    }

    /// The entry that a launch starts.
    pub fn name(&self, launch: &Launch) -> &'static str {
        match &launch.params {
            Params::Embed(_) => self.embed.entry(),
            Params::LayerNorm(_) => self.layernorm.entry(),
            Params::Gemm(tile, _) => self.gemm(*tile).entry(),
            Params::LoraDown(_) => self.lora_down.entry(),
            Params::Attention(tile, _) => self.attention(*tile).entry(),
            Params::Pool(_) => self.pool.entry(),
        }
    }

    fn gemm(&self, tile: Tile) -> &Kernel<GemmParams> {
        match tile {
            Tile::GemmLarge => &self.gemm_large,
            Tile::GemmMedium => &self.gemm_medium,
            Tile::GemmSmall64 => &self.gemm_small64,
            _ => &self.gemm_small16,
        }
    }

    fn attention(&self, tile: Tile) -> &Kernel<AttentionParams> {
        match tile {
            Tile::AttentionLarge => &self.attention_large,
            _ => &self.attention_small,
        }
    }
}
