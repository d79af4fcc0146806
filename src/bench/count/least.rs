//! What the result of a launch needs at least.

use std::collections::BTreeSet;

use super::Least;
use crate::batch::Batch;
use crate::cost;
use crate::gpu::exec::{Launch, NUMBER, Params};
use crate::model::ModelConfig;
use crate::model::adapter::Site;
use crate::plan::{Op, Plan};

/// [`cost::step`], with what it leaves to arithmetic on the launch: vectors of a number per column, tables, and of the
/// adapters' columns those alone that any row (for bytes) or the row itself (for FLOP) uses.
pub fn of(config: &ModelConfig, plan: &Plan, batch: &Batch, launch: &Launch) -> Least {
    let step = &plan.steps[launch.step];
    let lengths: Vec<usize> = (0..batch.sequences()).map(|s| batch.rows(s).len()).collect();
    let cost = cost::step(config, plan, step, &lengths, NUMBER, NUMBER);
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
    for (number, &op) in step.ops.iter().enumerate() {
        let Op::LoraDown(site) = op else { continue };
        let (padded, (_, k)) = (plan.buffers[step.writes[number]].columns, site.shape(config));
        let (any, each) = used(site);
        bytes -= (padded - any) * k * NUMBER;
        flops -= 2 * (tokens * padded - each) * k;
        // The sequence of each row, its weights, and what the columns belong to.
        bytes += 4 * (tokens + batch.sequences() * batch.adapters.slots()) + 8 * padded;
    }
    match &launch.params {
        Params::Gemm(_, p) => {
            let site = step.ops[0].site().expect("a product is a linear layer's");
            let n = p.n as usize;
            if p.columns > 0 {
                let (any, each) = used(site);
                bytes += NUMBER * n * any;
                flops += 2 * n * each;
            }
            if p.bias != 0 {
                bytes += NUMBER * n;
            }
            if p.rope.table != 0 {
                // A sine and a cosine in float32 for each pair of each position, and the positions.
                let positions = lengths.iter().max().copied().unwrap_or(0);
                bytes += 4 * config.head_dim * positions + 4 * tokens;
            }
        }
        Params::LayerNorm(_) => bytes += 2 * NUMBER * config.hidden_size,
        Params::Embed(_) => {
            let hidden = config.hidden_size;
            let ids = batch.ids.iter().collect::<BTreeSet<_>>().len();
            // A row for each token is counted already; then token type, gain, offset, and the ids.
            bytes -= (tokens - ids) * hidden * NUMBER;
            bytes += 3 * NUMBER * hidden + 4 * tokens;
            for adapter in slots.iter().map(|&slot| batch.adapters.get(slot)) {
                bytes += adapter
                    .word
                    .as_ref()
                    .map_or(0, |word| NUMBER * word.rank() * hidden);
                bytes += adapter.token_type.as_ref().map_or(0, |_| 4 * hidden);
            }
        }
        // Records are of float32, with a head and with what says how to make them.
        Params::Pool(p) => bytes += batch.output_rows() * ((4 - NUMBER) * p.hidden_size as usize + 8 + 24),
        Params::LoraDown(_) | Params::Attention(..) => {}
    }
    Least {
        bytes: bytes as u64,
        flops: flops as u64,
    }
}
