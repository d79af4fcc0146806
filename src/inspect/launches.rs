//! What a launch computes, and the lower bound of its work.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::Pass;
use crate::cost::{self, Cost};
use crate::gpu::launch::{ACTIVATION_BYTES, Launch, Params};
use crate::kernels::params::{DownGemmParams, NormGemmParams};
use crate::model::ModelConfig;
use crate::model::adapter::Site;
use crate::plan::{Op, Output, Plan, Step};

/// What a kernel is launched on.
#[derive(Clone, Debug)]
pub struct LaunchInfo {
    /// Launches that belong together: `gemm`, `norm_gemm`, `down_gemm`, `attention`, `lora_down`, `embed`, `layernorm`,
    /// `pool`.
    pub group: &'static str,
    /// The kernel's entry.
    pub kernel: String,
    /// The shape, for people.
    pub shape: String,
    /// The numbers behind `shape`, for programs.
    pub parameters: Map<String, Value>,
    /// The lower bound of the work: of the step for [`StepTimer::describe`](super::StepTimer::describe), of the launch's own result
    /// for [`Pass::single_launches`].
    pub cost: Cost,
}

impl LaunchInfo {
    pub(super) fn new(
        config: &ModelConfig,
        lengths: &[usize],
        launch: &Launch,
        kernel: &str,
        cost: Cost,
    ) -> LaunchInfo {
        let (group, shape, parameters) = shape(config, lengths, launch);
        LaunchInfo {
            group,
            kernel: kernel.to_owned(),
            shape,
            parameters,
            cost,
        }
    }
}

/// A launch's group and shape, for people and for programs.
fn shape(
    config: &ModelConfig,
    lengths: &[usize],
    launch: &Launch,
) -> (&'static str, String, Map<String, Value>) {
    let tokens: usize = lengths.iter().sum();
    let (group, shape, parameters) = match &launch.params {
        Params::Gemm(_, p)
        | Params::GemmSplit16(p)
        | Params::GemmSm90(_, _, p)
        | Params::NormGemm(NormGemmParams { gemm: p, .. })
        | Params::DownGemm(DownGemmParams { gemm: p, .. }) => {
            let epilogue = match (p.gelu, p.rope.table) {
                (1, _) => "gelu",
                (_, 0) => "bias",
                _ => "rope",
            };
            let group = match &launch.params {
                Params::NormGemm(_) => "norm_gemm",
                Params::DownGemm(_) => "down_gemm",
                _ => "gemm",
            };
            (
                group,
                format!(
                    "{tokens} tokens, n {}, k {}{}, {epilogue}",
                    p.n,
                    p.k,
                    of_columns(p.columns)
                ),
                json!({"n": p.n, "k": p.k, "columns": p.columns, "epilogue": epilogue}),
            )
        }
        Params::Attention(_, p) | Params::AttentionSm90(_, _, p) => {
            let same = lengths.iter().all(|&length| length == lengths[0]);
            let sequences = match same {
                true => format!("{} × {} tokens", lengths.len(), lengths[0]),
                false => format!("{} of mixed lengths, {tokens} tokens", lengths.len()),
            };
            let (heads, head_dim) = (config.num_attention_heads, config.head_dim);
            (
                "attention",
                format!("{sequences}, {heads} heads of {head_dim}"),
                json!({"lengths": lengths, "heads": heads, "head_dim": head_dim, "rope": p.rope != 0}),
            )
        }
        Params::LoraDown(p) => (
            "lora_down",
            format!("{tokens} tokens, k {}{}", p.k, of_columns(p.columns)),
            json!({"k": p.k, "columns": p.columns}),
        ),
        Params::Embed(p) => (
            "embed",
            format!(
                "{tokens} tokens, hidden {}{}",
                p.hidden_size,
                of_columns(p.lora.columns)
            ),
            json!({"hidden": p.hidden_size, "columns": p.lora.columns}),
        ),
        Params::LayerNorm(p) => (
            "layernorm",
            format!(
                "{tokens} tokens, hidden {}{}",
                p.hidden_size,
                of_columns(p.lora.columns)
            ),
            json!({"hidden": p.hidden_size, "columns": p.lora.columns}),
        ),
        Params::Pool(p) => (
            "pool",
            format!("{tokens} tokens, vectors: {} of {}", lengths.len(), p.hidden_size),
            json!({"vectors": lengths.len(), "hidden": p.hidden_size}),
        ),
    };
    let Value::Object(mut parameters) = parameters else {
        unreachable!("an object was written above")
    };
    parameters.insert("tokens".into(), tokens.into());
    (group, shape, parameters)
}

fn of_columns(columns: u32) -> String {
    match columns {
        0 => String::new(),
        _ => format!(" + {columns}"),
    }
}

/// [`cost::step`], with what it leaves to arithmetic on the launch: vectors of one element per column, tables, and of the
/// adapters' columns only those that any row (for bytes) or the row itself (for FLOP) uses.
pub(super) fn lower_bound(pass: &Pass<'_>, plan: &Plan, step: &Step, launch: &Launch) -> Cost {
    let (config, batch) = (pass.engine.config(), &pass.batch);
    let lengths = pass.lengths();
    let cost = cost::step(config, plan, step, &lengths, ACTIVATION_BYTES, ACTIVATION_BYTES);
    let (mut bytes, mut flops) = (cost.bytes as usize, cost.flops as usize);
    let tokens = batch.tokens();
    let slots: BTreeSet<usize> = batch.mixtures.iter().flatten().map(|&(slot, _)| slot).collect();
    let rank = |slot: usize, site| batch.adapters.get(slot).rank(site);
    // Columns that any row uses, and those of each row added up.
    let used = |site: Site| -> (usize, usize) {
        let of_row = |s: usize| {
            batch.mixtures[s]
                .iter()
                .map(|&(slot, _)| rank(slot, site))
                .sum::<usize>()
        };
        let rows = lengths.iter().enumerate().map(|(s, length)| length * of_row(s));
        (slots.iter().map(|&slot| rank(slot, site)).sum(), rows.sum())
    };
    // A down-projection: its step counts all columns, the padding among them.
    for &Output { op, buffer, .. } in &step.outputs {
        let Op::LoraDown(site) = op else { continue };
        let (padded, (_, k)) = (plan.buffers[buffer].columns, site.shape(config));
        let (any, each) = used(site);
        bytes -= (padded - any) * k * ACTIVATION_BYTES;
        flops -= 2 * (tokens * padded - each) * k;
        // The sequence of each row, its weights, and what the columns belong to.
        bytes += 4 * (tokens + batch.sequences() * batch.adapters.slots()) + 8 * padded;
    }
    // Gain and offset.
    let norm = 2 * ACTIVATION_BYTES * config.hidden_size;
    match &launch.params {
        Params::Gemm(_, p)
        | Params::GemmSplit16(p)
        | Params::GemmSm90(_, _, p)
        | Params::NormGemm(NormGemmParams { gemm: p, .. })
        | Params::DownGemm(DownGemmParams { gemm: p, .. }) => {
            let site = step.site().expect("a product is a linear layer's");
            let n = p.n as usize;
            if p.columns > 0 {
                // B, of which the step counts all columns as well.
                let (padded, (any, each)) = (p.columns as usize, used(site));
                bytes -= ACTIVATION_BYTES * n * (padded - any);
                flops -= 2 * n * (tokens * padded - each);
            }
            if p.bias != 0 {
                bytes += ACTIVATION_BYTES * n;
            }
            if p.rope.table != 0 {
                // A sine and a cosine in float32 for each pair of each position, and the positions.
                let positions = lengths.iter().max().copied().unwrap_or(0);
                bytes += 4 * config.head_dim * positions + 4 * tokens;
            }
            if let Params::NormGemm(_) = &launch.params {
                bytes += norm;
            }
        }
        Params::LayerNorm(_) => bytes += norm,
        Params::Embed(_) => {
            let hidden = config.hidden_size;
            let ids = batch.ids.iter().collect::<BTreeSet<_>>().len();
            // A row for each token is counted already; then token type, gain, offset, and the ids.
            bytes -= (tokens - ids) * hidden * ACTIVATION_BYTES;
            bytes += 3 * ACTIVATION_BYTES * hidden + 4 * tokens;
            for adapter in slots.iter().map(|&slot| batch.adapters.get(slot)) {
                bytes += adapter
                    .word
                    .as_ref()
                    .map_or(0, |word| ACTIVATION_BYTES * word.rank() * hidden);
                bytes += adapter.token_type.as_ref().map_or(0, |_| 4 * hidden);
            }
        }
        // Records are of float32, with a head and with what says how to make them.
        Params::Pool(p) => {
            bytes += batch.output_rows() * ((4 - ACTIVATION_BYTES) * p.hidden_size as usize + 8 + 24)
        }
        Params::LoraDown(_) | Params::Attention(..) | Params::AttentionSm90(..) => {}
    }
    Cost {
        bytes: bytes as u64,
        flops: flops as u64,
    }
}
