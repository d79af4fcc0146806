//! What a step must compute and move, by arithmetic on the plan: the lower bound that benches show beside every time. In
//! [`predict`] how long that takes on a device, whose figures are in [`rates`].

use crate::model::ModelConfig;
use crate::plan::{BufferId, Name, Op, Output, Plan, Step};

#[cfg(feature = "inspect")]
pub(crate) mod predict;
#[cfg(feature = "inspect")]
pub(crate) mod rates;

/// The lower bound of a step's work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cost {
    /// Floating-point operations of its matrix products; a multiply-add counts as 2.
    pub flops: u64,
    /// Bytes that must be read or written at least once: operands, weights, results.
    pub bytes: u64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        self.flops += other.flops;
        self.bytes += other.bytes;
    }
}

/// The cost of one step for sequences of these lengths; `element` and `weight` are the sizes of an activation and
/// of a weight in bytes.
pub fn step(
    config: &ModelConfig,
    plan: &Plan,
    step: &Step,
    lengths: &[usize],
    element: usize,
    weight: usize,
) -> Cost {
    let tokens: usize = lengths.iter().sum();
    let buffers: usize = step.buffers().map(|id| plan.buffers[id].elements()).sum();
    let mut cost = Cost {
        flops: 0,
        bytes: (buffers * element) as u64,
    };
    // h Bᵀ, where the batch uses adapters.
    let up_projection = |n: usize| {
        let columns = |id: BufferId| match plan.buffers[id].name {
            Name::Lora(_) => plan.buffers[id].columns,
            _ => 0,
        };
        let columns: usize = step.buffers().map(columns).sum();
        Cost {
            flops: (2 * tokens * n * columns) as u64,
            bytes: (n * columns * element) as u64,
        }
    };
    for &Output { op, buffer, .. } in &step.outputs {
        if let Some(site) = op.site() {
            let (n, k) = site.shape(config);
            cost.flops += (2 * tokens * n * k) as u64;
            cost.bytes += (n * k * weight) as u64;
            cost += up_projection(n);
        }
        match op {
            Op::Attention => {
                // Scores and their product with v, each 2·L²·hidden for all heads together.
                let squares: usize = lengths.iter().map(|l| l * l).sum();
                cost.flops += (4 * squares * config.hidden_size) as u64;
            }
            Op::Embed => cost.bytes += (tokens * config.hidden_size * weight) as u64,
            Op::LoraDown(site) => {
                let h = plan.buffers[buffer].columns;
                let (_, k) = site.shape(config);
                cost.flops += (2 * tokens * h * k) as u64;
                cost.bytes += (h * k * element) as u64;
            }
            Op::LoraUp(site) => cost += up_projection(site.shape(config).0),
            Op::Qkv | Op::OutProj | Op::Fc1 | Op::Fc2 | Op::BaseGemm(_) | Op::AddLayerNorm(_) | Op::Pool => {}
        }
    }
    cost
}

/// The cost of a whole plan.
pub fn plan(config: &ModelConfig, plan: &Plan, lengths: &[usize], element: usize, weight: usize) -> Cost {
    let mut total = Cost::default();
    for each in &plan.steps {
        total += step(config, plan, each, lengths, element, weight);
    }
    total
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::batch::BatchShape;
    use crate::model::{Family, Positions};
    use crate::request::Pooling;

    fn jina() -> ModelConfig {
        ModelConfig {
            head_dim: 64,
            num_attention_heads: 16,
            ..model(1024, 24)
        }
    }

    /// jina-embeddings-v3 with other sizes.
    pub fn model(hidden: usize, layers: usize) -> ModelConfig {
        ModelConfig {
            family: Family::JinaV3,
            vocab_size: 250002,
            hidden_size: hidden,
            num_hidden_layers: layers,
            num_attention_heads: 1,
            head_dim: hidden,
            intermediate_size: 4 * hidden,
            type_vocab_size: 1,
            layer_norm_eps: 1e-5,
            positions: Positions::Rotary { base: 20000.0 },
            max_tokens: 8194,
            pad_token_id: 1,
            matryoshka: vec![32, hidden],
            tasks: Vec::new(),
            lora_rank: 4,
            lora_alpha: 1.0,
            default_prompt: String::new(),
            pooling: vec![Pooling::Mean],
            include_prompt: true,
            head: Vec::new(),
            normalize: true,
            do_lower_case: false,
            tokenizer: Default::default(),
            transformer: String::new(),
            decisions: Vec::new(),
            transformer_file: None,
            modules: Vec::new(),
            unknown: Vec::new(),
        }
    }

    #[test]
    fn jina_v3_costs_what_its_shape_says() {
        let config = jina();
        let cost = |lengths: &[usize]| {
            let shape = BatchShape {
                tokens: lengths.iter().sum(),
                output_rows: lengths.len(),
                adapted: false,
            };
            plan(&config, &Plan::cpu(&config, shape, [0; 4]), lengths, 4, 2)
        };
        // 302 M weights: 604 MFLOP a token, and 604 MB to read in bf16; attention 98,304·L FLOP a token.
        let gemms = 2 * 24 * (4 * 1024 * 1024 + 2 * 1024 * 4096) as u64;
        assert_eq!(cost(&[512]).flops, 512 * (gemms + 98_304 * 512));
        assert_eq!(cost(&[512, 1]).flops - cost(&[512]).flops, gemms + 98_304);
        assert!(cost(&[1]).bytes > gemms && cost(&[1]).bytes < gemms + 3_000_000);
    }

    /// Per layer and token, 32 columns of h cost 2·32·k for `x Aᵀ` and 2·32·n for `h Bᵀ` at each site; A and B are
    /// read once, h is written once and read once.
    #[test]
    fn adapters_cost_both_of_their_products() {
        let config = jina();
        let cost = |adapted| {
            let shape = BatchShape {
                tokens: 512,
                output_rows: 1,
                adapted,
            };
            plan(&config, &Plan::cpu(&config, shape, [32; 4]), &[512], 4, 4)
        };
        let (base, adapted) = (cost(false), cost(true));
        let (h, f) = (1024, 4096);
        // Each site's input and output features: qkv, out_proj, fc1, fc2.
        let features = [(h, 3 * h), (h, h), (h, f), (f, h)];
        let sums: u64 = features.iter().map(|(k, n)| k + n).sum();
        assert_eq!(adapted.flops - base.flops, 24 * 512 * 2 * 32 * sums);
        let inputs: u64 = features.iter().map(|(k, _)| k).sum();
        // The down-projections of a CPU read x again.
        let activations = 512 * (4 * 2 * 32 + inputs);
        assert_eq!(adapted.bytes - base.bytes, 24 * 4 * (32 * sums + activations));
    }

    #[test]
    fn the_plan_of_a_layer_reads_as_the_network() {
        let config = ModelConfig {
            num_hidden_layers: 1,
            ..jina()
        };
        let shape = BatchShape {
            tokens: 3,
            output_rows: 1,
            adapted: true,
        };
        let text = Plan::cpu(&config, shape, [20; 4]).to_string();
        let steps: Vec<&str> = text
            .lines()
            .map(|line| line.split(':').next().unwrap_or_default())
            .collect();
        assert_eq!(
            steps,
            [
                "Embed",
                "layer 0 LoraDown(Qkv)",
                "layer 0 Qkv",
                "layer 0 Attention",
                "layer 0 LoraDown(OutProj)",
                "layer 0 OutProj",
                "layer 0 AddLayerNorm(Attention)",
                "layer 0 LoraDown(Fc1)",
                "layer 0 Fc1",
                "layer 0 LoraDown(Fc2)",
                "layer 0 Fc2",
                "layer 0 AddLayerNorm(Mlp)",
                "Pool",
                "numerics",
                "arena",
            ]
        );
    }
}
