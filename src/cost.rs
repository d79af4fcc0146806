//! What a step must compute and move, by arithmetic on the plan: for benches, which show every
//! time beside it, and for choosing between variants.

use crate::gpu::params;
use crate::model::ModelConfig;
use crate::plan::{BufferId, Name, Op, Plan, Step, Tile};

/// The least work of a step.
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
    let buffers: usize = step
        .reads
        .iter()
        .chain(&step.writes)
        .map(|&id| plan.buffers[id].elements())
        .sum();
    let mut cost = Cost {
        flops: 0,
        bytes: (buffers * element) as u64,
    };
    for &op in &step.ops {
        if let Some(site) = op.site() {
            let (n, k) = site.shape(config);
            cost.flops += (2 * tokens * n * k) as u64;
            cost.bytes += (n * k * weight) as u64;
            // h Bᵀ, where the batch uses adapters.
            let columns = |id: &BufferId| {
                matches!(plan.buffers[*id].name, Name::Lora(_)).then(|| plan.buffers[*id].columns)
            };
            let columns: usize = step.reads.iter().filter_map(columns).sum();
            cost.flops += (2 * tokens * n * columns) as u64;
            cost.bytes += (n * columns * element) as u64;
        }
        match op {
            Op::Attention => {
                // Scores and their product with v, each 2·L²·hidden for all heads together.
                let squares: usize = lengths.iter().map(|l| l * l).sum();
                cost.flops += (4 * squares * config.hidden_size) as u64;
            }
            Op::Embed => cost.bytes += (tokens * config.hidden_size * weight) as u64,
            Op::LoraDown(site) => {
                let h = step.writes.last().map_or(0, |&id| plan.buffers[id].columns);
                let (_, k) = site.shape(config);
                cost.flops += (2 * tokens * h * k) as u64;
                cost.bytes += (h * k * element) as u64;
            }
            Op::Qkv | Op::OutProj | Op::Fc1 | Op::Fc2 | Op::AddLayerNorm(_) | Op::Pool => {}
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

/// The tile of a product of `rows` rows with `columns` columns. All tiles give the same bits, so this is
/// about time alone: the larger a tile, the fewer bytes each number costs, but only if there is a tile for
/// every multiprocessor. Not measured on a GPU yet.
pub fn gemm_tile(rows: usize, columns: usize, multiprocessors: usize) -> Tile {
    if rows <= params::GEMM_SMALL16_ROWS as usize {
        return Tile::GemmSmall16;
    }
    let sizes = [
        (
            Tile::GemmLarge,
            params::GEMM_LARGE_ROWS,
            params::GEMM_LARGE_COLUMNS,
        ),
        (
            Tile::GemmMedium,
            params::GEMM_MEDIUM_ROWS,
            params::GEMM_MEDIUM_COLUMNS,
        ),
        (
            Tile::GemmSmall64,
            params::GEMM_SMALL64_ROWS,
            params::GEMM_SMALL64_COLUMNS,
        ),
    ];
    let enough = |(_, tile_rows, tile_columns): &(Tile, u32, u32)| {
        rows.div_ceil(*tile_rows as usize) * columns.div_ceil(*tile_columns as usize) >= multiprocessors
    };
    let found = sizes.iter().find(|size| enough(size));
    found.map_or(Tile::GemmSmall16, |&(tile, _, _)| tile)
}

/// The attention's tile for sequences of these lengths: the one whose query rows, those of cut tiles
/// included, cost less. The large one reads keys and values half as often.
pub fn attention_tile(lengths: impl Iterator<Item = usize> + Clone) -> Tile {
    let work = |rows: usize| -> usize {
        lengths
            .clone()
            .map(|length| length.div_ceil(rows) * rows * length)
            .sum()
    };
    let (large, small) = (
        params::ATTENTION_LARGE_ROWS as usize,
        params::ATTENTION_SMALL_ROWS as usize,
    );
    // An eighth: what the loads of keys and values are of a tile's time, roughly; not measured yet.
    if work(large) <= work(small) + work(small) / 8 {
        Tile::AttentionLarge
    } else {
        Tile::AttentionSmall
    }
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
            pooling: Pooling::Mean,
            normalize: true,
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
    fn tiles_shrink_until_every_multiprocessor_has_one() {
        let tiles = |columns| [1, 16, 17, 64, 256, 1024, 8192].map(|rows| gemm_tile(rows, columns, 132));
        use Tile::*;
        let narrow = [
            GemmSmall16,
            GemmSmall16,
            GemmSmall16,
            GemmSmall16,
            GemmSmall64,
            GemmMedium,
            GemmLarge,
        ];
        let wide = [
            GemmSmall16,
            GemmSmall16,
            GemmSmall16,
            GemmSmall64,
            GemmMedium,
            GemmLarge,
            GemmLarge,
        ];
        assert_eq!((tiles(1024), tiles(4096)), (narrow, wide));
    }

    #[test]
    fn attention_tiles_follow_the_lengths() {
        let tile = |lengths: &[usize]| attention_tile(lengths.iter().copied());
        assert_eq!(tile(&[8192]), Tile::AttentionLarge);
        assert_eq!(tile(&[128, 128]), Tile::AttentionLarge);
        assert_eq!(tile(&[16; 100]), Tile::AttentionSmall);
        assert_eq!(tile(&[130]), Tile::AttentionSmall);
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
