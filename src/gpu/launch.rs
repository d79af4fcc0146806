//! From a plan's steps to launches: one `match`, one arm per op, each arm one kernel.
//!
//! [`launches`] is arithmetic on the plan and on addresses and calls no driver. A pass captures the launches in a CUDA
//! graph; a traced pass launches them one by one.

use super::adapters::LoraAt;
use super::inputs::{Header, InputLayout};
use super::merged::Merged;
use super::weights::{LinearAt, WeightLayout};
use crate::kernels::params::*;
use crate::model::ModelConfig;
use crate::model::adapter::Site;
use crate::plan::{BufferId, GpuOptions, NormSite, Op, Output, Plan, Step, Variant};
use crate::tile::{AttentionTile, GemmTile, SPLIT16, Sm90Tile};

/// One kernel launch.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// The kernel, by its one parameter.
    pub params: Params,
}

/// A kernel's parameter, which names the kernel.
#[derive(Clone, Copy, Debug)]
pub enum Params {
    Embed(EmbedParams),
    LayerNorm(LayerNormParams),
    /// A LayerNorm, and the product of what it gives.
    NormGemm(NormGemmParams),
    DownGemm(DownGemmParams),
    Gemm(GemmTile, GemmParams),
    /// With its sum over k split.
    GemmSplit16(GemmParams),
    /// On compute capability 9.0, with the rows that may be read.
    GemmSm90(Sm90Tile, u32, GemmParams),
    LoraDown(LoraDownParams),
    Attention(AttentionTile, AttentionParams),
    /// On compute capability 9.0, with the rows that may be read.
    AttentionSm90(AttentionTile, u32, AttentionParams),
    Pool(PoolParams),
}

/// What the launches of a plan depend on: the model, and addresses on the device.
pub struct LaunchContext<'a> {
    pub config: &'a ModelConfig,
    pub weights: &'a WeightLayout,
    /// The weights with an adapter merged into them, for a plan that uses them.
    pub merged: Option<&'a Merged>,
    /// The adapters' factors of a layer's linear layer.
    pub adapters: &'a dyn Fn(usize, Site) -> LoraAt,
    /// The adapters' factors of the embedding tables.
    pub embedding_adapters: u64,
    /// The arena, in which the plan's buffers have their offsets.
    pub arena: u64,
    /// The batch, as `layout` says.
    pub upload: u64,
    pub layout: &'a InputLayout,
    /// Blocks of a persistent kernel, whose blocks take one work item after the other.
    pub persistent_blocks: u32,
}

/// Bytes of an activation.
pub const ACTIVATION_BYTES: usize = 2;

/// Rows per block of the row kernels, for rows of one warp.
const ROWS_PER_BLOCK: usize = ROW_MAX_WARPS as usize;

/// The launches of a plan, one per step.
pub fn launches(context: &LaunchContext<'_>, plan: &Plan) -> Vec<Launch> {
    let options = plan.gpu.as_ref().expect("the plan is one for a GPU");
    let lower = |step: &Step| {
        let lowering = StepLowering {
            context,
            plan,
            options,
            step,
            reads: step.reads_of(0),
            output: step.outputs[0],
        };
        match step.op() {
            Op::Embed => lowering.embed(),
            Op::LoraDown(site) => match step.site() {
                None => lowering.lora_down(site),
                Some(_) => lowering.down_gemm(site),
            },
            Op::Qkv => lowering.linear(Site::Qkv),
            Op::Attention => lowering.attention(),
            Op::OutProj => lowering.linear(Site::OutProj),
            Op::Fc1 => lowering.linear(Site::Fc1),
            Op::Fc2 => lowering.linear(Site::Fc2),
            Op::BaseGemm(site) => lowering.base_gemm(site),
            Op::LoraUp(site) => lowering.lora_up(site),
            Op::AddLayerNorm(norm) => match step.site() {
                None => lowering.layer_norm(norm),
                Some(site) => lowering.norm_gemm(norm, site),
            },
            Op::Pool => lowering.pool(),
        }
    };
    plan.steps.iter().map(lower).collect()
}

/// One step on its way to a launch.
struct StepLowering<'a> {
    context: &'a LaunchContext<'a>,
    plan: &'a Plan,
    options: &'a GpuOptions,
    step: &'a Step,
    /// Of one of its ops.
    reads: Vec<BufferId>,
    output: Output,
}

impl StepLowering<'_> {
    fn address(&self, id: BufferId) -> u64 {
        self.context.arena + (self.plan.buffers[id].offset * ACTIVATION_BYTES) as u64
    }

    fn upload(&self, offset: usize) -> u64 {
        self.context.upload + offset as u64
    }

    fn read(&self, i: usize) -> u64 {
        self.address(self.reads[i])
    }

    fn columns(&self, id: BufferId) -> u32 {
        self.plan.buffers[id].columns as u32
    }

    fn layer(&self) -> usize {
        self.output.layer.expect("the op belongs to a layer")
    }

    fn rows(&self) -> usize {
        self.plan.buffers[self.output.buffer].rows
    }

    fn out(&self) -> u64 {
        self.address(self.output.buffer)
    }

    fn tokens(&self) -> u64 {
        self.upload(std::mem::offset_of!(Header, tokens))
    }

    fn launch(&self, grid: [u32; 3], block: u32, shared: u32, params: Params) -> Launch {
        Launch {
            grid,
            block,
            shared,
            params,
        }
    }

    /// A launch of a row kernel: one warp per row, or one block for rows that are too wide for a warp.
    fn rows_launch(&self, params: Params) -> Launch {
        let (rows, hidden) = (self.rows(), self.context.config.hidden_size);
        match hidden.div_ceil(ROW_WARP_COLUMNS as usize) {
            1 => {
                let blocks = rows.div_ceil(ROWS_PER_BLOCK) as u32;
                self.launch([blocks, 1, 1], 32 * ROWS_PER_BLOCK as u32, 0, params)
            }
            warps => self.launch([rows as u32, 1, 1], 32 * warps as u32, ROW_SHARED_BYTES, params),
        }
    }

    /// A launch of a persistent kernel with up to this many work items.
    fn persistent_launch(&self, items: usize, block: u32, shared: u32, params: Params) -> Launch {
        let blocks = (items as u32).min(self.context.persistent_blocks);
        self.launch([blocks, 1, 1], block, shared, params)
    }

    fn mixtures(&self) -> Mixtures {
        let layout = self.context.layout;
        Mixtures {
            sequence_of_row: self.upload(layout.sequence_of_row),
            weights: self.upload(layout.weights),
            slots: layout.slots as u32,
            reserved: 0,
        }
    }

    /// The down-projection that a row kernel writes with its rows.
    fn fused_lora_down(&self) -> LoraDown {
        let Some(&Output {
            op: Op::LoraDown(site),
            layer: Some(layer),
            buffer,
        }) = self.step.outputs.get(1)
        else {
            return bytemuck::Zeroable::zeroed();
        };
        let at = (self.context.adapters)(layer, site);
        LoraDown {
            a: at.a,
            column: at.column,
            h: self.address(buffer),
            columns: self.columns(buffer),
            reserved: 0,
        }
    }

    /// Whether any sequence of the batch uses an adapter.
    fn adapted(&self) -> bool {
        self.context.layout.slots > 0
    }

    fn embed(&self) -> Launch {
        let LaunchContext {
            config,
            weights,
            embedding_adapters,
            layout,
            ..
        } = *self.context;
        let params = EmbedParams {
            tokens: self.tokens(),
            ids: self.upload(layout.ids),
            position_of_row: self.upload(layout.position_of_row),
            word: weights.word,
            token_type: weights.token_type,
            position: weights.position.unwrap_or(0),
            gamma: weights.norm.gamma,
            beta: weights.norm.beta,
            adapters: if self.adapted() { embedding_adapters } else { 0 },
            out: self.out(),
            mixtures: self.mixtures(),
            lora: self.fused_lora_down(),
            hidden_size: config.hidden_size as u32,
            out_stride: config.hidden_size as u32,
            eps: config.layer_norm_eps,
            reserved: 0,
        };
        self.rows_launch(Params::Embed(params))
    }

    fn layer_norm(&self, site: NormSite) -> Launch {
        self.rows_launch(Params::LayerNorm(self.layer_norm_params(site)))
    }

    /// The parameters of the linear layer that the step ends with.
    fn last_linear_params(&self, site: Site) -> GemmParams {
        let last = self.step.outputs.len() - 1;
        let linear = StepLowering {
            reads: self.step.reads_of(last),
            output: self.step.outputs[last],
            ..*self
        };
        linear.linear_params(site)
    }

    /// A LayerNorm, whose down-projection comes next if the batch has adapters, and last the linear layer that reads both.
    fn norm_gemm(&self, norm: NormSite, site: Site) -> Launch {
        let params = NormGemmParams {
            norm: self.layer_norm_params(norm),
            gemm: self.last_linear_params(site),
        };
        let blocks = params.gemm.n.div_ceil(NORM_GEMM_COLUMNS);
        self.launch(
            [blocks, 1, 1],
            NORM_GEMM_THREADS,
            NORM_GEMM_SHARED,
            Params::NormGemm(params),
        )
    }

    fn layer_norm_params(&self, site: NormSite) -> LayerNormParams {
        let config = self.context.config;
        let layer = &self.context.weights.layers[self.layer()];
        let norm = match site {
            NormSite::Attention => &layer.norm1,
            NormSite::Mlp => &layer.norm2,
        };
        let hidden = config.hidden_size as u32;
        LayerNormParams {
            tokens: self.tokens(),
            x: self.read(0),
            y: self.read(1),
            gamma: norm.gamma,
            beta: norm.beta,
            out: self.out(),
            mixtures: self.mixtures(),
            lora: self.fused_lora_down(),
            hidden_size: hidden,
            x_stride: hidden,
            y_stride: hidden,
            out_stride: hidden,
            eps: config.layer_norm_eps,
            reserved: 0,
        }
    }

    /// A down-projection, and the linear layer that reads it and what it reads.
    fn down_gemm(&self, site: Site) -> Launch {
        let params = DownGemmParams {
            down: self.lora_down_params(site),
            gemm: self.last_linear_params(site),
        };
        let blocks = params.gemm.n.div_ceil(DOWN_GEMM_COLUMNS);
        self.launch(
            [blocks, 1, 1],
            DOWN_GEMM_THREADS,
            DOWN_GEMM_SHARED,
            Params::DownGemm(params),
        )
    }

    fn lora_down_params(&self, site: Site) -> LoraDownParams {
        let (x, h) = (self.reads[0], self.output.buffer);
        let at = (self.context.adapters)(self.layer(), site);
        LoraDownParams {
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
        }
    }

    fn lora_down(&self, site: Site) -> Launch {
        let blocks = self.rows().div_ceil(LORA_DOWN_ROWS as usize) as u32;
        self.launch(
            [blocks, 1, 1],
            LORA_DOWN_THREADS,
            LORA_DOWN_SHARED_BYTES,
            Params::LoraDown(self.lora_down_params(site)),
        )
    }

    /// A linear layer; with `[x | h] [W | B]ᵀ` where its step reads a down-projection.
    fn linear(&self, site: Site) -> Launch {
        self.gemm(self.linear_params(site))
    }

    fn linear_params(&self, site: Site) -> GemmParams {
        let linear = self.finished(site, self.product(self.weight(site)));
        let Some(&h) = self.reads.get(1) else {
            return linear;
        };
        GemmParams {
            h: self.address(h),
            b: (self.context.adapters)(self.layer(), site).b,
            columns: self.columns(h),
            ..linear
        }
    }

    /// `x Wᵀ`, without what the linear layer does to it.
    fn base_gemm(&self, site: Site) -> Launch {
        self.gemm(self.product(self.weight(site)))
    }

    /// `y = y₀ + h Bᵀ`, and the rest of the linear layer.
    fn lora_up(&self, site: Site) -> Launch {
        let (base, h) = (self.reads[0], self.reads[1]);
        let b = (self.context.adapters)(self.layer(), site).b;
        let product = GemmParams {
            x: self.address(h),
            k: self.columns(h),
            x_stride: self.columns(h),
            residual: self.address(base),
            residual_stride: self.columns(base),
            ..self.product(b)
        };
        self.gemm(self.finished(site, product))
    }

    fn variant(&self) -> Variant {
        self.plan.variant(self.context.config, self.step)
    }

    fn linear_weights(&self, site: Site) -> LinearAt {
        self.context.weights.layers[self.layer()].linear(site)
    }

    /// The weight of a linear layer, or the copy that an adapter is merged into.
    fn weight(&self, site: Site) -> u64 {
        match self.context.merged {
            Some(merged) => merged.w(self.layer(), site),
            None => self.linear_weights(site).w,
        }
    }

    /// The product of the first buffer that the step reads with `w`, alone.
    fn product(&self, w: u64) -> GemmParams {
        let (x, out) = (self.reads[0], self.output.buffer);
        GemmParams {
            tokens: self.tokens(),
            x: self.address(x),
            w,
            out: self.address(out),
            n: self.columns(out),
            k: self.columns(x),
            x_stride: self.columns(x),
            out_stride: self.columns(out),
            ..bytemuck::Zeroable::zeroed()
        }
    }

    /// Adds what a linear layer does to its product: bias, GELU for Fc1, rotation for Qkv.
    fn finished(&self, site: Site, product: GemmParams) -> GemmParams {
        let form = self.plan.buffers[self.output.buffer].form;
        let config = self.context.config;
        let rope = match self.context.weights.rope {
            Some(table) if form.rotated => Rope {
                table,
                position_of_row: self.upload(self.context.layout.position_of_row),
                head_dim: config.head_dim as u32,
                q_scale: if form.q_scaled { scale(config) } else { 1.0 },
            },
            _ => bytemuck::Zeroable::zeroed(),
        };
        GemmParams {
            bias: self.linear_weights(site).bias,
            rope,
            gelu: u32::from(site == Site::Fc1),
            ..product
        }
    }

    fn gemm(&self, params: GemmParams) -> Launch {
        let (rows, n) = (self.rows(), params.n);
        match self.variant() {
            Variant::GemmSm90(tile) => {
                let shape = tile.shape();
                let tiles = tile.count(rows, n as usize);
                let blocks = tiles.min(self.options.multiprocessors.count) as u32;
                let params = Params::GemmSm90(tile, rows as u32, params);
                self.launch([blocks, 1, 1], shape.threads, shape.shared_bytes, params)
            }
            variant @ (Variant::Gemm(_) | Variant::GemmSplit16) => {
                let (shape, params) = match variant {
                    Variant::Gemm(tile) => (tile.shape(), Params::Gemm(tile, params)),
                    _ => (SPLIT16, Params::GemmSplit16(params)),
                };
                let grid = [n.div_ceil(shape.columns), (rows as u32).div_ceil(shape.rows), 1];
                self.launch(grid, shape.threads, shape.shared_bytes, params)
            }
            other => unreachable!("a product runs {other}"),
        }
    }

    fn attention(&self) -> Launch {
        let (qkv, out) = (self.reads[0], self.output.buffer);
        let (config, layout) = (self.context.config, self.context.layout);
        let form = self.plan.buffers[qkv].form;
        let params = AttentionParams {
            tile_count: self.upload(std::mem::offset_of!(Header, tiles)),
            tiles: self.upload(layout.tiles),
            cu_seqlens: self.upload(layout.cu_seqlens),
            qkv: self.address(qkv),
            rope: if form.rotated {
                0
            } else {
                self.context.weights.rope.unwrap_or(0)
            },
            out: self.address(out),
            heads: config.num_attention_heads as u32,
            scale: if form.q_scaled { 1.0 } else { scale(config) },
            qkv_stride: self.columns(qkv),
            out_stride: self.columns(out),
        };
        let tile = self.options.attention;
        let shape = tile.shape(config.head_dim as u32);
        // At most one tile per token and head: every tile has at least one row.
        let items = self.rows() * config.num_attention_heads;
        if let Variant::AttentionSm90(tile, kernel) = self.variant() {
            debug_assert_eq!(params.rope, 0, "on a GPU the product before rotates");
            let params = Params::AttentionSm90(tile, self.rows() as u32, params);
            let blocks = items.min(self.options.multiprocessors.count * kernel.blocks as usize) as u32;
            let shape = kernel.shape;
            return self.launch([blocks, 1, 1], shape.threads, shape.shared_bytes, params);
        }
        let params = Params::Attention(tile, params);
        self.persistent_launch(items, shape.threads, shape.shared_bytes, params)
    }

    fn pool(&self) -> Launch {
        let (x, layout) = (self.reads[0], self.context.layout);
        let params = PoolParams {
            count: self.upload(std::mem::offset_of!(Header, pool_rows)),
            rows: self.upload(layout.pool_rows),
            x: self.address(x),
            out: self.out(),
            hidden_size: self.columns(x),
            x_stride: self.columns(x),
        };
        let items = self.rows().max(1);
        self.persistent_launch(items, POOL_THREADS, POOL_SHARED_BYTES, Params::Pool(params))
    }
}

/// The factor of attention's scores.
fn scale(config: &ModelConfig) -> f32 {
    (1.0 / (config.head_dim as f64).sqrt()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::BatchShape;
    use crate::model::Positions;
    use crate::plan::Fusion;
    use crate::precision::{Half, Numerics};
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
                false => Positions::Learned {
                    pad: Some(1),
                    rows: 514,
                },
            },
            ..crate::cost::tests::model(hidden, layers)
        }
    }

    proptest! {
        /// Every step has one launch, which works on the step's buffers and on nothing else of the arena, with a grid
        /// that covers them.
        #[test]
        fn launches_are_what_the_plan_says(
            (hidden, head_dim) in prop::sample::select(vec![(128, 32), (128, 64), (384, 32), (1024, 64), (2048, 128)]),
            layers in 0usize..4,
            rotary: bool,
            tokens in prop_oneof![1usize..3000, 1usize..20],
            adapted: bool,
            columns in prop::sample::select(vec![[0; 4], [32; 4], [16, 0, 48, 0], [80, 16, 64, 320]]),
            fusion in prop::sample::select(vec![Fusion::Extended, Fusion::Separate]),
            attention in prop::sample::select(AttentionTile::ALL.to_vec()),
            sm90: bool,
            fastest: bool,
        ) {
            let config = model(hidden, head_dim, layers, rotary);
            let shape = BatchShape { tokens, output_rows: tokens, adapted };
            let gpu = GpuOptions {
                precision: Half::Bf16,
                numerics: if fastest { Numerics::Fastest } else { Numerics::Invariant },
                fusion,
                attention,
                multiprocessors: crate::tile::Multiprocessors::H200,
                sm90,
                sm90_tile: None,
            };
            let plan = Plan::gpu(&config, shape, columns, gpu);
            let weights = WeightLayout::new(&config, Half::Bf16, WEIGHTS);
            let layout = InputLayout::new(tokens, if adapted { 5 } else { 0 });
            let at = |layer: usize, site: Site| {
                let place = ADAPTERS + ((layer * 4 + site as usize) << 20) as u64;
                LoraAt { a: place, b: place + (1 << 18), column: place + (1 << 19) }
            };
            let context = LaunchContext {
                config: &config,
                weights: &weights,
                merged: None,
                adapters: &at,
                embedding_adapters: ADAPTERS,
                arena: ARENA,
                upload: UPLOAD,
                layout: &layout,
                persistent_blocks: 528,
            };
            let address = |id: BufferId| ARENA + (plan.buffers[id].offset * ACTIVATION_BYTES) as u64;
            let launches = launches(&context, &plan);
            prop_assert_eq!(launches.len(), plan.steps.len());
            for (step, launch) in plan.steps.iter().zip(&launches) {
                let reads: Vec<u64> = step.reads.iter().map(|&id| address(id)).collect();
                let writes: Vec<u64> = step.outputs.iter().map(|output| address(output.buffer)).collect();
                let shared = if sm90 { 227 << 10 } else { 99 << 10 };
                prop_assert!(launch.shared <= shared && launch.block <= 1024 && launch.grid.iter().all(|&g| g > 0));
                let rows = plan.buffers[step.outputs[0].buffer].rows as u32;
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
                        if let Some(&Output { op, layer, buffer }) = step.outputs.get(1) {
                            let Op::LoraDown(site) = op else { panic!("{step}") };
                            prop_assert_eq!(layer, Some(plan.buffers[buffer].layer));
                            let of = at(plan.buffers[buffer].layer, site);
                            prop_assert_eq!((p.lora.a, p.lora.column), (of.a, of.column));
                        }
                    }
                    Params::NormGemm(p) => {
                        prop_assert!(rows <= 16 && hidden <= 1024);
                        prop_assert!(fusion == Fusion::Extended || writes.len() == 2);
                        prop_assert!(p.gemm.columns <= 32 && launch.grid[0] * NORM_GEMM_COLUMNS >= p.gemm.n);
                        prop_assert_eq!((p.norm.x, p.norm.y), (reads[0], reads[1]));
                        let (out, h) = (writes[writes.len() - 1], if writes.len() == 3 { writes[1] } else { 0 });
                        prop_assert_eq!((p.norm.out, p.norm.lora.h, p.gemm.out), (writes[0], h, out));
                        prop_assert_eq!((p.gemm.x, p.gemm.h, p.gemm.residual), (writes[0], h, 0));
                        prop_assert_eq!((p.gemm.k, p.gemm.columns), (p.norm.hidden_size, p.norm.lora.columns));
                        let Output { op, layer, .. } = step.outputs[writes.len() - 1];
                        let (site, layer) = (op.site().unwrap(), layer.unwrap());
                        let linear = weights.layers[layer].linear(site);
                        prop_assert_eq!((p.gemm.w, p.gemm.bias), (linear.w, linear.bias));
                        if h != 0 {
                            let of = at(layer, site);
                            prop_assert_eq!((p.norm.lora.a, p.norm.lora.column, p.gemm.b), (of.a, of.column, of.b));
                        }
                        prop_assert_eq!(p.gemm.gelu != 0, site == Site::Fc1);
                        prop_assert_eq!(p.gemm.rope.table != 0, rotary && site == Site::Qkv);
                    }
                    Params::LoraDown(p) => {
                        prop_assert_eq!((p.x, p.h), (reads[0], writes[0]));
                        prop_assert!(launch.grid[0] * LORA_DOWN_ROWS >= rows);
                    }
                    Params::DownGemm(DownGemmParams { down, gemm: p }) => {
                        prop_assert!(rows <= 16 && down.columns <= 32 && fusion == Fusion::Extended);
                        prop_assert!(launch.grid[0] <= 132 && launch.grid[0] * DOWN_GEMM_COLUMNS >= p.n);
                        prop_assert_eq!((down.x, down.h, p.out), (reads[0], writes[0], writes[1]));
                        prop_assert_eq!((p.x, p.h, p.residual), (down.x, down.h, 0));
                        prop_assert_eq!((p.k, p.x_stride, p.columns), (down.k, down.x_stride, down.columns));
                        let Output { op, layer, .. } = step.outputs[1];
                        let (site, layer) = (op.site().unwrap(), layer.unwrap());
                        prop_assert!(matches!(site, Site::OutProj | Site::Fc2));
                        let linear = weights.layers[layer].linear(site);
                        prop_assert_eq!((p.w, p.bias), (linear.w, linear.bias));
                        let of = at(layer, site);
                        prop_assert_eq!((down.a, down.column, p.b), (of.a, of.column, of.b));
                        prop_assert_eq!((p.gelu, p.rope.table), (0, 0));
                    }
                    Params::Gemm(_, p) | Params::GemmSplit16(p) | Params::GemmSm90(_, _, p) => {
                        prop_assert_eq!(p.out, writes[0]);
                        let (base, up) = match step.op() {
                            Op::BaseGemm(_) => (true, false),
                            Op::LoraUp(_) => (false, true),
                            _ => (false, false),
                        };
                        prop_assert_eq!(base || up, fusion == Fusion::Separate && (base || reads.len() == 2));
                        prop_assert_eq!(p.x, reads[usize::from(up)]);
                        prop_assert_eq!(p.residual, if up { reads[0] } else { 0 });
                        let fused = reads.len() == 2 && !up;
                        prop_assert_eq!(p.h, if fused { reads[1] } else { 0 });
                        match launch.params {
                            Params::GemmSm90(tile, readable, _) => {
                                // Any number of blocks covers all tiles.
                                prop_assert!(sm90 && rows > 64 && tile.shape().rows >= 64);
                                prop_assert_eq!((readable, launch.grid[1]), (rows, 1));
                            }
                            Params::GemmSplit16(_) => {
                                prop_assert!(fastest && rows <= 16 && p.k >= 512);
                                prop_assert!(launch.grid[0] * GEMM_SPLIT16_COLUMNS >= p.n);
                            }
                            Params::Gemm(tile, _) => {
                                prop_assert!(!fastest || rows > 16 || p.k < 512);
                                let shape = tile.shape();
                                prop_assert!(launch.grid[0] * shape.columns >= p.n);
                                prop_assert!(launch.grid[1] * shape.rows >= rows);
                            }
                            _ => unreachable!(),
                        }
                        // Bias, GELU and rotation once: with the last product.
                        let site = |op: Op| match op {
                            Op::LoraUp(site) => Some(site),
                            op => op.site(),
                        };
                        let site = site(step.op()).filter(|_| !base);
                        prop_assert_eq!(p.bias != 0, !base);
                        prop_assert_eq!(p.gelu != 0, site == Some(Site::Fc1));
                        prop_assert_eq!(p.rope.table != 0, rotary && site == Some(Site::Qkv));
                    }
                    Params::Attention(tile, p) => {
                        prop_assert!(!sm90 || tile.sm90(head_dim).is_none() || rows <= 64);
                        prop_assert_eq!((p.qkv, p.out, tile), (reads[0], writes[0], attention));
                        prop_assert_eq!((p.rope, p.scale == 1.0), (0, rotary));
                    }
                    Params::AttentionSm90(tile, readable, p) => {
                        prop_assert!(sm90 && head_dim == 64 && rows > 64);
                        prop_assert_eq!((p.qkv, p.out, readable), (reads[0], writes[0], rows));
                        prop_assert_eq!((tile, launch.block), (attention, 128 + 2 * tile.rows()));
                        prop_assert_eq!((p.rope, p.scale == 1.0), (0, rotary));
                    }
                    Params::Pool(p) => prop_assert_eq!((p.x, p.out), (reads[0], writes[0])),
                }
            }
        }
    }
}
