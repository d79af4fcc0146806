//! From steps to launches: one `match`, one arm per op, each arm one kernel of the same name.
//!
//! [`launches`] is arithmetic on the plan and on addresses; nothing is called. The same list is captured into
//! a CUDA graph or launched step by step for a comparison.

use super::adapters::LoraAt;
use super::merged::Merged;
use super::packed::{Header, Layout};
use super::params::*;
use super::weights;
use crate::model::adapter::Site;
use crate::model::{ModelConfig, Positions};
use crate::plan::{BufferId, Fusion, NormSite, Op, Plan, Step, Tile, Variant};

/// One kernel launch.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    /// Number of the step that it belongs to.
    pub step: usize,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// Which kernel, and its one parameter.
    pub params: Params,
}

/// A kernel's parameter; the kernel goes with it.
#[derive(Clone, Copy, Debug)]
pub enum Params {
    Embed(EmbedParams),
    LayerNorm(LayerNormParams),
    Gemm(Tile, GemmParams),
    LoraDown(LoraDownParams),
    Attention(Tile, AttentionParams),
    Pool(PoolParams),
}

/// What the launches of a plan follow from: the model and addresses on the device.
pub struct Places<'a> {
    pub config: &'a ModelConfig,
    pub weights: &'a weights::Layout,
    /// Where a linear layer's weights with an adapter merged into them are, for a plan that takes them.
    pub merged: Option<&'a Merged>,
    /// The adapters' factors of a layer's linear layer.
    pub adapters: &'a dyn Fn(usize, Site) -> LoraAt,
    /// The adapters' factors of the embedding tables.
    pub embedding_adapters: u64,
    /// Where the plan's buffers lie.
    pub arena: u64,
    /// Where the batch lies.
    pub upload: u64,
    pub layout: &'a Layout,
    /// Blocks of the kernels whose blocks take work in turn.
    pub in_turn: u32,
}

/// Bytes of an activation.
pub const NUMBER: usize = 2;

/// Rows per block of the row kernels, for rows of one warp.
const ROWS_PER_BLOCK: usize = ROW_MAX_WARPS as usize;

/// The launches of a plan, in order; every step has at least one.
pub fn launches(places: &Places<'_>, plan: &Plan) -> Vec<Launch> {
    let mut launches = Vec::new();
    for (number, step) in plan.steps.iter().enumerate() {
        let one = Arm {
            places,
            plan,
            number,
            step,
        };
        match step.ops[0] {
            Op::Embed => launches.push(one.embed()),
            Op::LoraDown(site) => launches.push(one.lora_down(site)),
            Op::Qkv => one.linear(Site::Qkv, &mut launches),
            Op::Attention => launches.push(one.attention()),
            Op::OutProj => one.linear(Site::OutProj, &mut launches),
            Op::Fc1 => one.linear(Site::Fc1, &mut launches),
            Op::Fc2 => one.linear(Site::Fc2, &mut launches),
            Op::AddLayerNorm(site) => launches.push(one.layer_norm(site)),
            Op::Pool => launches.push(one.pool()),
        }
    }
    launches
}

/// One step and its surroundings.
struct Arm<'a> {
    places: &'a Places<'a>,
    plan: &'a Plan,
    number: usize,
    step: &'a Step,
}

impl Arm<'_> {
    fn address(&self, id: BufferId) -> u64 {
        self.places.arena + (self.plan.buffers[id].offset * NUMBER) as u64
    }

    fn upload(&self, offset: usize) -> u64 {
        self.places.upload + offset as u64
    }

    fn read(&self, i: usize) -> u64 {
        self.address(self.step.reads[i])
    }

    fn columns(&self, id: BufferId) -> u32 {
        self.plan.buffers[id].columns as u32
    }

    fn layer(&self) -> usize {
        self.step.layer.expect("the op belongs to a layer")
    }

    fn rows(&self) -> usize {
        self.plan.buffers[self.step.writes[0]].rows
    }

    fn tokens(&self) -> u64 {
        self.upload(std::mem::offset_of!(Header, tokens))
    }

    fn launch(&self, grid: [u32; 3], block: u32, shared: u32, params: Params) -> Launch {
        Launch {
            step: self.number,
            grid,
            block,
            shared,
            params,
        }
    }

    /// A launch of a row kernel: a warp per row, or a block for rows too wide for one.
    fn rows_launch(&self, params: Params) -> Launch {
        let (rows, hidden) = (self.rows(), self.places.config.hidden_size);
        match hidden.div_ceil(ROW_WARP_COLUMNS as usize) {
            1 => {
                let blocks = rows.div_ceil(ROWS_PER_BLOCK) as u32;
                self.launch([blocks, 1, 1], 32 * ROWS_PER_BLOCK as u32, 0, params)
            }
            warps => self.launch([rows as u32, 1, 1], 32 * warps as u32, ROW_SHARED_BYTES, params),
        }
    }

    fn mixtures(&self) -> Mixtures {
        let layout = self.places.layout;
        Mixtures {
            sequence_of_row: self.upload(layout.sequence_of_row),
            weights: self.upload(layout.weights),
            slots: layout.slots as u32,
            reserved: 0,
        }
    }

    /// The down-projection that a row kernel writes beside its rows.
    fn beside(&self) -> LoraDown {
        let (Some(&Op::LoraDown(site)), Some(&h)) = (self.step.ops.get(1), self.step.writes.get(1)) else {
            return bytemuck::Zeroable::zeroed();
        };
        let at = (self.places.adapters)(self.plan.buffers[h].layer, site);
        LoraDown {
            a: at.a,
            column: at.column,
            h: self.address(h),
            columns: self.columns(h),
            reserved: 0,
        }
    }

    /// Whether the batch has adapters at all.
    fn adapted(&self) -> bool {
        self.places.layout.slots > 0
    }

    fn embed(&self) -> Launch {
        let Places {
            config,
            weights,
            embedding_adapters,
            layout,
            ..
        } = *self.places;
        let params = EmbedParams {
            tokens: self.tokens(),
            ids: self.upload(layout.ids),
            cu_seqlens: self.upload(layout.cu_seqlens),
            word: weights.word,
            token_type: weights.token_type,
            position: weights.position.unwrap_or(0),
            gamma: weights.norm.gamma,
            beta: weights.norm.beta,
            adapters: if self.adapted() { embedding_adapters } else { 0 },
            out: self.address(self.step.writes[0]),
            mixtures: self.mixtures(),
            lora: self.beside(),
            hidden_size: config.hidden_size as u32,
            out_stride: config.hidden_size as u32,
            position_offset: match config.positions {
                Positions::Learned { offset, .. } => offset as u32,
                Positions::Rotary { .. } => 0,
            },
            eps: config.layer_norm_eps,
        };
        self.rows_launch(Params::Embed(params))
    }

    fn layer_norm(&self, site: NormSite) -> Launch {
        let config = self.places.config;
        let layer = &self.places.weights.layers[self.layer()];
        let norm = match site {
            NormSite::Attention => &layer.norm1,
            NormSite::Mlp => &layer.norm2,
        };
        let hidden = config.hidden_size as u32;
        let params = LayerNormParams {
            tokens: self.tokens(),
            x: self.read(0),
            y: self.read(1),
            gamma: norm.gamma,
            beta: norm.beta,
            out: self.address(self.step.writes[0]),
            mixtures: self.mixtures(),
            lora: self.beside(),
            hidden_size: hidden,
            x_stride: hidden,
            y_stride: hidden,
            out_stride: hidden,
            eps: config.layer_norm_eps,
            reserved: 0,
        };
        self.rows_launch(Params::LayerNorm(params))
    }

    fn lora_down(&self, site: Site) -> Launch {
        let (x, h) = (self.step.reads[0], self.step.writes[0]);
        let at = (self.places.adapters)(self.layer(), site);
        let params = LoraDownParams {
            tokens: self.tokens(),
            x: self.address(x),
            a: at.a,
            column: at.column,
            h: self.address(h),
            mixtures: self.mixtures(),
            k: self.columns(x),
            columns: self.columns(h),
            x_stride: self.columns(x),
            reserved: 0,
        };
        let blocks = self.rows().div_ceil(LORA_DOWN_ROWS as usize) as u32;
        self.launch(
            [blocks, 1, 1],
            LORA_DOWN_THREADS,
            LORA_DOWN_SHARED_BYTES,
            Params::LoraDown(params),
        )
    }

    /// A linear layer; two launches where its adapters are added by one of their own.
    fn linear(&self, site: Site, launches: &mut Vec<Launch>) {
        let (x, out) = (self.step.reads[0], self.step.writes[0]);
        let layer = self.layer();
        let (tile, fusion) = self.variant();
        let mut weights = self.places.weights.layers[layer].linear(site);
        if let Some(merged) = self.places.merged {
            weights.w = merged.w(layer, site);
        }
        let form = self.plan.buffers[out].form;
        let config = self.places.config;
        let rope = match self.places.weights.rope {
            Some(table) if form.rotated => Rope {
                table,
                position_of_row: self.upload(self.places.layout.position_of_row),
                head_dim: config.head_dim as u32,
                q_scale: if form.q_scaled { scale(config) } else { 1.0 },
            },
            _ => bytemuck::Zeroable::zeroed(),
        };
        let plain = GemmParams {
            tokens: self.tokens(),
            x: self.address(x),
            w: weights.w,
            h: 0,
            b: 0,
            bias: weights.bias,
            residual: 0,
            out: self.address(out),
            rope,
            n: self.columns(out),
            k: self.columns(x),
            columns: 0,
            x_stride: self.columns(x),
            residual_stride: 0,
            out_stride: self.columns(out),
            gelu: u32::from(site == Site::Fc1),
            reserved: 0,
        };
        let Some(&h) = self.step.reads.get(1) else {
            return launches.push(self.gemm(tile, plain));
        };
        let (h, columns) = (self.address(h), self.columns(h));
        let b = (self.places.adapters)(layer, site).b;
        if fusion == Fusion::Separate {
            let none: Rope = bytemuck::Zeroable::zeroed();
            launches.push(self.gemm(
                tile,
                GemmParams {
                    bias: 0,
                    rope: none,
                    gelu: 0,
                    ..plain
                },
            ));
            let (residual, residual_stride) = (plain.out, plain.out_stride);
            let added = GemmParams {
                x: h,
                w: b,
                k: columns,
                x_stride: columns,
                residual,
                residual_stride,
                ..plain
            };
            return launches.push(self.gemm(tile, added));
        }
        launches.push(self.gemm(
            tile,
            GemmParams {
                h,
                b,
                columns,
                ..plain
            },
        ));
    }

    fn gemm(&self, tile: Tile, params: GemmParams) -> Launch {
        let (rows, columns, block, shared) = match tile {
            Tile::GemmLarge => (
                GEMM_LARGE_ROWS,
                GEMM_LARGE_COLUMNS,
                GEMM_LARGE_THREADS,
                GEMM_LARGE_SHARED,
            ),
            Tile::GemmMedium => (
                GEMM_MEDIUM_ROWS,
                GEMM_MEDIUM_COLUMNS,
                GEMM_MEDIUM_THREADS,
                GEMM_MEDIUM_SHARED,
            ),
            Tile::GemmSmall64 => (
                GEMM_SMALL64_ROWS,
                GEMM_SMALL64_COLUMNS,
                GEMM_SMALL64_THREADS,
                GEMM_SMALL64_SHARED,
            ),
            _ => (
                GEMM_SMALL16_ROWS,
                GEMM_SMALL16_COLUMNS,
                GEMM_SMALL16_THREADS,
                GEMM_SMALL16_SHARED,
            ),
        };
        let grid = [params.n.div_ceil(columns), (self.rows() as u32).div_ceil(rows), 1];
        self.launch(grid, block, shared, Params::Gemm(tile, params))
    }

    fn attention(&self) -> Launch {
        let (qkv, out) = (self.step.reads[0], self.step.writes[0]);
        let (config, layout) = (self.places.config, self.places.layout);
        let form = self.plan.buffers[qkv].form;
        let params = AttentionParams {
            tile_count: self.upload(std::mem::offset_of!(Header, tiles)),
            tiles: self.upload(layout.tiles),
            cu_seqlens: self.upload(layout.cu_seqlens),
            qkv: self.address(qkv),
            rope: if form.rotated {
                0
            } else {
                self.places.weights.rope.unwrap_or(0)
            },
            out: self.address(out),
            heads: config.num_attention_heads as u32,
            scale: if form.q_scaled { 1.0 } else { scale(config) },
            qkv_stride: self.columns(qkv),
            out_stride: self.columns(out),
        };
        let (tile, _) = self.variant();
        // At most a tile per token: each sequence has at least one row in its last.
        let most = (self.rows() * config.num_attention_heads) as u32;
        let shared = attention_shared(tile, config.head_dim);
        let grid = [most.min(self.places.in_turn), 1, 1];
        self.launch(grid, ATTENTION_THREADS, shared, Params::Attention(tile, params))
    }

    fn pool(&self) -> Launch {
        let (x, layout) = (self.step.reads[0], self.places.layout);
        let params = PoolParams {
            count: self.upload(std::mem::offset_of!(Header, pool_rows)),
            rows: self.upload(layout.pool_rows),
            x: self.address(x),
            out: self.address(self.step.writes[0]),
            hidden_size: self.columns(x),
            x_stride: self.columns(x),
        };
        let most = (self.rows() as u32).max(1);
        self.launch(
            [most.min(self.places.in_turn), 1, 1],
            POOL_THREADS,
            POOL_SHARED_BYTES,
            Params::Pool(params),
        )
    }

    fn variant(&self) -> (Tile, Fusion) {
        match self.step.variant {
            Variant::Kernel { tile, fusion, .. } => (tile, fusion),
            Variant::Float32 => unreachable!("plans for the GPU have kernels"),
        }
    }
}

/// Bytes of dynamic shared memory of an attention kernel: queries, and two stages of keys and values.
pub fn attention_shared(tile: Tile, head_dim: usize) -> u32 {
    let rows = match tile {
        Tile::AttentionLarge => ATTENTION_LARGE_ROWS,
        _ => ATTENTION_SMALL_ROWS,
    };
    let keys = ATTENTION_MAX_KEYS.min(ATTENTION_TILE_NUMBERS / head_dim as u32);
    NUMBER as u32 * head_dim as u32 * (rows + 4 * keys)
}

/// What scores are multiplied by.
fn scale(config: &ModelConfig) -> f32 {
    (1.0 / (config.head_dim as f64).sqrt()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::BatchShape;
    use crate::plan::Gpu;
    use crate::precision::{Numerics, Precision};
    use proptest::prelude::*;

    const ARENA: u64 = 1 << 40;
    const UPLOAD: u64 = 2 << 40;
    const WEIGHTS: u64 = 3 << 40;
    const ADAPTERS: u64 = 4 << 40;

    fn model(hidden: usize, head_dim: usize, layers: usize, rotary: bool) -> ModelConfig {
        ModelConfig {
            num_attention_heads: hidden / head_dim,
            head_dim,
            positions: match rotary {
                true => Positions::Rotary { base: 20000.0 },
                false => Positions::Learned { rows: 514, offset: 2 },
            },
            ..crate::cost::tests::model(hidden, layers)
        }
    }

    proptest! {
        /// Every step has its launches, each of which works on the step's buffers and on nothing else of the arena,
        /// with a grid that covers them.
        #[test]
        fn launches_are_what_the_plan_says(
            (hidden, head_dim) in prop::sample::select(vec![(128, 32), (128, 64), (384, 32), (1024, 64), (2048, 128)]),
            layers in 0usize..4,
            rotary: bool,
            tokens in 1usize..3000,
            adapted: bool,
            columns in prop::sample::select(vec![[0; 4], [32; 4], [16, 0, 48, 0], [0, 16, 0, 320]]),
            fusion in prop::sample::select(vec![Fusion::Extended, Fusion::Separate]),
            attention in prop::sample::select(vec![Tile::AttentionLarge, Tile::AttentionSmall]),
        ) {
            let config = model(hidden, head_dim, layers, rotary);
            let shape = BatchShape { tokens, output_rows: tokens, adapted };
            let gpu = Gpu {
                precision: Precision::Bf16,
                numerics: Numerics::Invariant,
                fusion,
                attention,
                multiprocessors: 132,
            };
            let plan = Plan::gpu(&config, shape, columns, gpu);
            let weights = weights::Layout::new(&config, Precision::Bf16, WEIGHTS);
            let layout = Layout::new(tokens, if adapted { 5 } else { 0 });
            let at = |layer: usize, site: Site| {
                let place = ADAPTERS + ((layer * 4 + site as usize) << 20) as u64;
                LoraAt { a: place, b: place + (1 << 18), column: place + (1 << 19) }
            };
            let places = Places {
                config: &config,
                weights: &weights,
                merged: None,
                adapters: &at,
                embedding_adapters: ADAPTERS,
                arena: ARENA,
                upload: UPLOAD,
                layout: &layout,
                in_turn: 528,
            };
            let address = |id: BufferId| ARENA + (plan.buffers[id].offset * NUMBER) as u64;
            let launches = launches(&places, &plan);
            prop_assert!(launches.windows(2).all(|pair| pair[0].step <= pair[1].step));
            for (number, step) in plan.steps.iter().enumerate() {
                let own: Vec<&Launch> = launches.iter().filter(|launch| launch.step == number).collect();
                let reads: Vec<u64> = step.reads.iter().map(|&id| address(id)).collect();
                let writes: Vec<u64> = step.writes.iter().map(|&id| address(id)).collect();
                let linear = matches!(step.ops[0], Op::Qkv | Op::OutProj | Op::Fc1 | Op::Fc2);
                let separate = linear && fusion == Fusion::Separate && reads.len() == 2;
                prop_assert_eq!(own.len(), if separate { 2 } else { 1 }, "{}", step);
                for launch in own {
                    prop_assert!(launch.shared <= 99 * 1024 && launch.block <= 1024 && launch.grid.iter().all(|&g| g > 0));
                    let rows = plan.buffers[step.writes[0]].rows as u32;
                    match launch.params {
                        Params::Embed(p) => {
                            prop_assert_eq!(p.out, writes[0]);
                            prop_assert_eq!(p.lora.h, writes.get(1).copied().unwrap_or(0));
                            prop_assert_eq!(p.adapters != 0, adapted);
                            prop_assert_eq!(p.position != 0, !rotary);
                        }
                        Params::LayerNorm(p) => {
                            prop_assert_eq!((p.x, p.y, p.out), (reads[0], reads[1], writes[0]));
                            prop_assert_eq!(p.lora.h, writes.get(1).copied().unwrap_or(0));
                            if let Some(&id) = step.writes.get(1) {
                                let Op::LoraDown(site) = step.ops[1] else { panic!("{step}") };
                                let of = at(plan.buffers[id].layer, site);
                                prop_assert_eq!((p.lora.a, p.lora.column), (of.a, of.column));
                            }
                        }
                        Params::LoraDown(p) => {
                            prop_assert_eq!((p.x, p.h), (reads[0], writes[0]));
                            prop_assert!(launch.grid[0] * LORA_DOWN_ROWS >= rows);
                        }
                        Params::Gemm(tile, p) => {
                            prop_assert_eq!(p.out, writes[0]);
                            let second = separate && p.residual != 0;
                            prop_assert_eq!(p.x, reads[usize::from(second)]);
                            let fused = reads.len() == 2 && !separate;
                            prop_assert_eq!(p.h, if fused { reads[1] } else { 0 });
                            let (tile_rows, tile_columns) = match tile {
                                Tile::GemmLarge => (GEMM_LARGE_ROWS, GEMM_LARGE_COLUMNS),
                                Tile::GemmMedium => (GEMM_MEDIUM_ROWS, GEMM_MEDIUM_COLUMNS),
                                Tile::GemmSmall64 => (GEMM_SMALL64_ROWS, GEMM_SMALL64_COLUMNS),
                                _ => (GEMM_SMALL16_ROWS, GEMM_SMALL16_COLUMNS),
                            };
                            prop_assert!(launch.grid[0] * tile_columns >= p.n && launch.grid[1] * tile_rows >= rows);
                            // Bias, GELU and rotation once, by the last.
                            let last = !separate || second;
                            prop_assert_eq!(p.bias != 0, last);
                            prop_assert_eq!(p.gelu != 0, last && step.ops[0] == Op::Fc1);
                            prop_assert_eq!(p.rope.table != 0, last && rotary && step.ops[0] == Op::Qkv);
                        }
                        Params::Attention(tile, p) => {
                            prop_assert_eq!((p.qkv, p.out, tile), (reads[0], writes[0], attention));
                            prop_assert_eq!((p.rope, p.scale == 1.0), (0, rotary));
                        }
                        Params::Pool(p) => prop_assert_eq!((p.x, p.out), (reads[0], writes[0])),
                    }
                }
            }
        }
    }
}
