//! The plan: the steps that a pass runs and the buffers that they use, as plain data.
//!
//! A plan is a function of the model's configuration, the batch's sizes and the device. It can be printed,
//! tested and compared without a device. Executors ([`crate::cpu`], [`crate::gpu`]) run its steps in order, with
//! one `match` and one arm per op; on a GPU, one step is one launch. Nothing else decides the order of the work.

use std::fmt;
use std::ops::Range;

use crate::batch::BatchShape;
use crate::kernels::params;
pub use crate::model::adapter::Site;
use crate::model::{ModelConfig, Positions};
use crate::precision::{Half, Numerics};
use crate::tile::{AttentionTile, GemmTile, Multiprocessors, Sm90Attention, Sm90Tile};

/// One operation of the network. The list is closed: every executor knows every op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// `x = LN(word[id] + type[0] (+ position[p]) + adapters)`.
    Embed,
    /// `h = s·w·(x Aᵀ)` for the adapters of each row, ahead of the linear layer at the site.
    LoraDown(Site),
    /// `qkv = x Wᵀ + b + h Bᵀ`.
    Qkv,
    /// `softmax(rope(q) rope(k)ᵀ / √d) v` per head and sequence.
    Attention,
    /// `y = x Wᵀ + b + h Bᵀ`.
    OutProj,
    /// `y = gelu(x Wᵀ + b + h Bᵀ)`, exact erf form.
    Fc1,
    /// `y = x Wᵀ + b + h Bᵀ`.
    Fc2,
    /// `y₀ = x Wᵀ`: the base weights' product alone, which a [`LoraUp`](Op::LoraUp) completes.
    BaseGemm(Site),
    /// `y = y₀ + h Bᵀ + b`, and what else the linear layer at the site does to its result.
    LoraUp(Site),
    /// `x = LN(x + y)`, with one of the layer's two norms.
    AddLayerNorm(NormSite),
    /// Mean, sum, first or all rows of each range; cut to the dimensions asked for; normalised.
    Pool,
}

impl Op {
    /// The linear layer whose base weights the op multiplies by, if it is such a product.
    pub fn site(self) -> Option<Site> {
        match self {
            Op::Qkv => Some(Site::Qkv),
            Op::OutProj => Some(Site::OutProj),
            Op::Fc1 => Some(Site::Fc1),
            Op::Fc2 => Some(Site::Fc2),
            Op::BaseGemm(site) => Some(site),
            Op::Embed | Op::LoraDown(_) | Op::Attention | Op::LoraUp(_) | Op::AddLayerNorm(_) | Op::Pool => {
                None
            }
        }
    }

    /// The op of the linear layer at a site.
    fn linear(site: Site) -> Op {
        match site {
            Site::Qkv => Op::Qkv,
            Site::OutProj => Op::OutProj,
            Site::Fc1 => Op::Fc1,
            Site::Fc2 => Op::Fc2,
        }
    }
}

/// The two LayerNorms of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NormSite {
    /// After attention.
    Attention,
    /// After the feed-forward layer.
    Mlp,
}

/// What a buffer holds, by its name in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// The residual stream entering a layer (layer 0: the embeddings), `[tokens, hidden]`.
    Hidden,
    /// The down-projection for one site, `[tokens, ranks]`.
    Lora(Site),
    /// The product with the base weights at one site, before `h Bᵀ` and bias, `[tokens, out_features]`.
    Base(Site),
    /// `[tokens, 3·hidden]`.
    Qkv,
    /// Attention's output, `[tokens, hidden]`.
    Context,
    /// The output projection, before the residual, `[tokens, hidden]`.
    AttnOut,
    /// The residual stream between attention and feed-forward, `[tokens, hidden]`.
    AttnResidual,
    /// After the GELU, `[tokens, intermediate]`.
    Activated,
    /// The feed-forward output, before the residual, `[tokens, hidden]`.
    MlpOut,
    /// The outputs, `[output rows, hidden]`; the first `dimensions` elements of a row count.
    Pooled,
}

/// How a buffer's elements relate to the plain definition of its name. Executors that fuse steps
/// write other forms; comparisons bring both sides to the plain one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Form {
    /// q and k are rotated already.
    pub rotated: bool,
    /// q is multiplied by `head_dim^-0.5` already.
    pub q_scaled: bool,
}

/// A buffer of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// What it holds.
    pub name: Name,
    /// The layer it belongs to; `Hidden` of layer `num_hidden_layers` is the last output.
    pub layer: usize,
    /// In which form.
    pub form: Form,
    /// Rows.
    pub rows: usize,
    /// Elements per row.
    pub columns: usize,
    /// Elements of the arena that the buffer owns, from `offset` on: `rows · columns`, or more where an
    /// executor writes something wider.
    pub capacity: usize,
    /// First element in the arena.
    pub offset: usize,
}

impl Buffer {
    /// `rows · columns`.
    pub fn elements(&self) -> usize {
        self.rows * self.columns
    }

    /// The buffer's elements in the arena.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.elements()
    }
}

/// Index of a buffer in [`Plan::buffers`].
pub type BufferId = usize;

/// Called by an executor after each op that wrote a buffer, with the step's number, the buffer and its elements.
pub(crate) type OnBuffer<'a> = &'a mut dyn FnMut(usize, BufferId, &[f32]);

/// One op of a step, and the buffer that it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// The operation.
    pub op: Op,
    /// The layer whose weights it uses; none for the ops outside of the layers.
    pub layer: Option<usize>,
    /// The buffer that it writes.
    pub buffer: BufferId,
}

/// One launch: one op, or several that are fused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Buffers that the first op reads. Each of the others reads what those before it wrote; behind a down-projection also
    /// what that read.
    pub reads: Vec<BufferId>,
    /// The ops in order, at least one.
    pub outputs: Vec<Output>,
    /// The tile of a matrix product on a GPU, where there is a choice. All tiles give the same bits. Another kernel may run in
    /// its place, as [`StepPrediction::variant`](crate::inspect::StepPrediction) says.
    pub tile: Option<GemmTile>,
}

impl Step {
    /// The first op.
    pub fn op(&self) -> Op {
        self.outputs[0].op
    }

    /// The linear layer that the step computes, if it does.
    pub fn site(&self) -> Option<Site> {
        self.outputs.iter().find_map(|output| output.op.site())
    }

    /// Buffers that op number `op` reads.
    pub fn reads_of(&self, op: usize) -> Vec<BufferId> {
        match op {
            0 => self.reads.clone(),
            _ => {
                let x = match self.op() {
                    Op::LoraDown(_) => &self.reads[..],
                    _ => &[],
                };
                let written = self.outputs[..op].iter().map(|output| output.buffer);
                x.iter().copied().chain(written).collect()
            }
        }
    }

    /// All buffers that the step reads or writes.
    pub fn buffers(&self) -> impl Iterator<Item = BufferId> {
        let writes = self.outputs.iter().map(|output| output.buffer);
        self.reads.iter().copied().chain(writes)
    }

    /// Same ops and tile; the layer may differ.
    pub fn is_like(&self, other: &Step) -> bool {
        let ops = |step: &Step| step.outputs.iter().map(|output| output.op).collect::<Vec<_>>();
        self.tile == other.tile && ops(self) == ops(other)
    }
}

/// The kernel that a step runs on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Ids to rows.
    Embed,
    /// Whole rows, a warp each.
    LayerNorm,
    /// A LayerNorm, and the product of what it gives.
    NormGemm,
    /// A down-projection, and the product of its rows and of what it gives.
    DownGemm,
    /// A product, on a tile for all GPUs.
    Gemm(GemmTile),
    /// A product of few rows whose sum over k is split, with other bits than the rest.
    GemmSplit16,
    /// A product, on a tile for compute capability 9.0.
    GemmSm90(Sm90Tile),
    /// A down-projection.
    LoraDown,
    /// Attention, on a tile for all GPUs.
    Attention(AttentionTile),
    /// Attention, on what compute capability 9.0 has for the tile.
    AttentionSm90(AttentionTile, Sm90Attention),
    /// Output vectors.
    Pool,
}

/// How a linear layer on a GPU gets its adapters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fusion {
    /// `[x | h] [W | B]ᵀ`: one product, whose k dimension continues over the columns of the down-projection.
    #[default]
    Extended,
    /// `x Wᵀ` first, rounded, then `h Bᵀ` added by a launch of its own.
    Separate,
    /// The adapter of this slot is part of the weights.
    Merged(usize),
}

/// What a plan for a GPU depends on, beside the model and the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GpuOptions {
    /// Of weights and activations; sums are float32.
    pub precision: Half,
    /// What results may depend on.
    pub numerics: Numerics,
    /// How linear layers get their adapters.
    pub fusion: Fusion,
    /// The tile of attention, which follows from the lengths of the batch ([`AttentionTile::choose`]).
    pub attention: AttentionTile,
    /// The device's multiprocessors.
    pub multiprocessors: Multiprocessors,
    /// Whether products of enough rows, and attention where there is one, run the kernels for compute capability 9.0.
    pub sm90: bool,
    /// The tile of these for every product, whatever its rows, where one is to be counted. Else time decides.
    pub sm90_tile: Option<Sm90Tile>,
}

/// The steps of one pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
    /// With their offsets in the arena.
    pub buffers: Vec<Buffer>,
    /// Elements of the arena.
    pub arena_len: usize,
    /// `None` for the CPU.
    pub gpu: Option<GpuOptions>,
}

/// The head of an output record, in units of 16 bits.
pub(crate) const RECORD_HEAD: usize = params::POOL_HEAD_BYTES as usize / 2;

impl Plan {
    /// The plan of the CPU executor. `lora_columns` are the columns of the down-projection at
    /// each site ([`crate::model::adapter::AdapterTable::columns`]).
    pub(crate) fn cpu(config: &ModelConfig, shape: BatchShape, lora_columns: [usize; 4]) -> Plan {
        Builder::new(config, shape, lora_columns, None).plan(config)
    }

    /// The plan of the GPU executor: a row kernel writes the down-projection of its rows as well, the product
    /// that makes queries and keys rotates them, and with few rows a LayerNorm and the product behind it are one launch.
    pub(crate) fn gpu(
        config: &ModelConfig,
        shape: BatchShape,
        lora_columns: [usize; 4],
        gpu: GpuOptions,
    ) -> Plan {
        Builder::new(config, shape, lora_columns, Some(gpu)).plan(config)
    }

    /// The buffer of the outputs.
    pub(crate) fn output(&self) -> &Buffer {
        self.buffers
            .iter()
            .find(|b| b.name == Name::Pooled)
            .expect("every plan pools")
    }

    /// Whether a step computes a down-projection.
    pub(crate) fn is_adapted(&self) -> bool {
        let mut outputs = self.steps.iter().flat_map(|step| &step.outputs);
        outputs.any(|output| matches!(output.op, Op::LoraDown(_)))
    }

    /// The numbers of the steps by kind, in the order of the first of each: those of a kind are alike but for the layer.
    pub fn kinds(&self) -> Vec<Vec<usize>> {
        let mut kinds: Vec<Vec<usize>> = Vec::new();
        for (number, step) in self.steps.iter().enumerate() {
            let kind = kinds.iter_mut().find(|kind| step.is_like(&self.steps[kind[0]]));
            match kind {
                Some(kind) => kind.push(number),
                None => kinds.push(vec![number]),
            }
        }
        kinds
    }

    /// The kernel that a step runs, of a plan for a GPU.
    pub(crate) fn variant(&self, config: &ModelConfig, step: &Step) -> Variant {
        let gpu = self.gpu.as_ref().expect("the plan is one for a GPU");
        let sm90 = |rows| gpu.sm90 && Sm90Tile::serves(rows);
        match step.op() {
            Op::Embed => Variant::Embed,
            Op::LoraDown(_) if step.site().is_some() => Variant::DownGemm,
            Op::LoraDown(_) => Variant::LoraDown,
            Op::AddLayerNorm(_) if step.site().is_some() => Variant::NormGemm,
            Op::AddLayerNorm(_) => Variant::LayerNorm,
            Op::Pool => Variant::Pool,
            Op::Attention => {
                let tile = gpu.attention;
                match tile.sm90(config.head_dim) {
                    Some(kernel) if sm90(self.buffers[step.outputs[0].buffer].rows) => {
                        Variant::AttentionSm90(tile, kernel)
                    }
                    _ => Variant::Attention(tile),
                }
            }
            Op::Qkv | Op::OutProj | Op::Fc1 | Op::Fc2 | Op::BaseGemm(_) | Op::LoraUp(_) => {
                let out = &self.buffers[step.outputs[0].buffer];
                // `LoraUp` adds its first buffer to the product of the second.
                let x = step.reads[usize::from(matches!(step.op(), Op::LoraUp(_)))];
                let head_dim = if out.form.rotated { config.head_dim } else { 0 };
                let shape = [out.rows, out.columns, self.buffers[x].columns];
                let choose = || Sm90Tile::choose(shape, head_dim, gpu.multiprocessors);
                match gpu.sm90.then(|| gpu.sm90_tile.or_else(choose)).flatten() {
                    Some(tile) => Variant::GemmSm90(tile),
                    None if gpu.numerics == Numerics::Fastest && splits(shape) => Variant::GemmSplit16,
                    None => Variant::Gemm(step.tile.expect("a product on a GPU has a tile")),
                }
            }
        }
    }

    /// A step with the precision and the tile that it runs in.
    pub fn describe(&self, step: &Step) -> String {
        let Some(gpu) = self.gpu else {
            return step.to_string();
        };
        let tile = match step.op() {
            Op::Attention => format!(" {}", gpu.attention),
            _ => step.tile.map_or(String::new(), |tile| format!(" {tile}")),
        };
        format!("{step} [{}{tile}]", gpu.precision)
    }
}

struct Builder {
    shape: BatchShape,
    layers: usize,
    lora_columns: [usize; 4],
    /// None for the CPU.
    gpu: Option<GpuOptions>,
    steps: Vec<Step>,
    buffers: Vec<Buffer>,
}

impl Builder {
    fn new(
        config: &ModelConfig,
        shape: BatchShape,
        lora_columns: [usize; 4],
        gpu: Option<GpuOptions>,
    ) -> Builder {
        let merged = gpu.is_some_and(|gpu| matches!(gpu.fusion, Fusion::Merged(_)));
        let none = !shape.adapted || merged;
        Builder {
            shape,
            layers: config.num_hidden_layers,
            lora_columns: if none { [0; 4] } else { lora_columns },
            gpu,
            steps: Vec::new(),
            buffers: Vec::new(),
        }
    }

    /// The network.
    fn plan(mut self, config: &ModelConfig) -> Plan {
        let (h, f) = (config.hidden_size, config.intermediate_size);
        let mut hidden = self.tokens(Name::Hidden, 0, h);
        let mut down = self.rows(Op::Embed, None, &[], hidden, (0, Site::Qkv));
        for layer in 0..config.num_hidden_layers {
            let qkv = self.tokens(Name::Qkv, layer, 3 * h);
            self.buffers[qkv].form = self.qkv_form(config);
            self.linear(Site::Qkv, layer, (hidden, down), qkv);
            let context = self.tokens(Name::Context, layer, h);
            self.step(Op::Attention, Some(layer), &[qkv], context);
            let attn_out = self.tokens(Name::AttnOut, layer, h);
            self.linear(Site::OutProj, layer, (context, None), attn_out);
            let residual = self.tokens(Name::AttnResidual, layer, h);
            let op = Op::AddLayerNorm(NormSite::Attention);
            let down_fc1 = self.rows(op, Some(layer), &[hidden, attn_out], residual, (layer, Site::Fc1));
            let activated = self.tokens(Name::Activated, layer, f);
            self.linear(Site::Fc1, layer, (residual, down_fc1), activated);
            let mlp_out = self.tokens(Name::MlpOut, layer, h);
            self.linear(Site::Fc2, layer, (activated, None), mlp_out);
            hidden = self.tokens(Name::Hidden, layer + 1, h);
            let op = Op::AddLayerNorm(NormSite::Mlp);
            let next = (layer + 1, Site::Qkv);
            down = self.rows(op, Some(layer), &[residual, mlp_out], hidden, next);
        }
        let pooled = self.buffer(Name::Pooled, config.num_hidden_layers, self.shape.output_rows, h);
        if self.gpu.is_some() {
            // Records: at most float32 elements and a head, in units of 16 bits.
            self.buffers[pooled].capacity = self.shape.output_rows * (2 * h + RECORD_HEAD);
        }
        self.step(Op::Pool, None, &[hidden], pooled);
        let arena_len = place(&self.steps, &mut self.buffers);
        Plan {
            steps: self.steps,
            buffers: self.buffers,
            arena_len,
            gpu: self.gpu,
        }
    }

    fn buffer(&mut self, name: Name, layer: usize, rows: usize, columns: usize) -> BufferId {
        self.buffers.push(Buffer {
            name,
            layer,
            form: Form::default(),
            rows,
            columns,
            capacity: rows * columns,
            offset: 0,
        });
        self.buffers.len() - 1
    }

    fn tokens(&mut self, name: Name, layer: usize, columns: usize) -> BufferId {
        self.buffer(name, layer, self.shape.tokens, columns)
    }

    fn step(&mut self, op: Op, layer: Option<usize>, reads: &[BufferId], buffer: BufferId) {
        let product = op.site().is_some() || matches!(op, Op::LoraUp(_));
        let tile = self.gpu.filter(|_| product).map(|gpu| {
            let Buffer { rows, columns, .. } = self.buffers[buffer];
            // A product reads x, or h, or both side by side; `LoraUp` adds its first buffer to the product.
            let factors = if matches!(op, Op::LoraUp(_)) {
                &reads[1..]
            } else {
                reads
            };
            let k = factors.iter().map(|&id| self.buffers[id].columns).sum();
            GemmTile::choose([rows, columns, k], gpu.multiprocessors)
        });
        self.steps.push(Step {
            reads: reads.to_vec(),
            outputs: vec![Output { op, layer, buffer }],
            tile,
        });
    }

    /// A step that writes whole rows. On a GPU it also writes their down-projection for the linear layer at `next`,
    /// since it holds the rows in registers.
    fn rows(
        &mut self,
        op: Op,
        layer: Option<usize>,
        reads: &[BufferId],
        out: BufferId,
        next: (usize, Site),
    ) -> Option<BufferId> {
        self.step(op, layer, reads, out);
        let (next_layer, site) = next;
        let columns = self.lora_columns[site as usize];
        // No linear layer follows the last layer.
        if self.gpu.is_none() || columns == 0 || next_layer == self.layers {
            return None;
        }
        let h = self.tokens(Name::Lora(site), next_layer, columns);
        let step = self.steps.last_mut().expect("it was pushed above");
        step.outputs.push(Output {
            op: Op::LoraDown(site),
            layer: Some(next_layer),
            buffer: h,
        });
        Some(h)
    }

    /// The linear layer at `site` of `x`, with the down-projection ahead of it if the batch uses adapters and `x` comes
    /// without one.
    fn linear(&mut self, site: Site, layer: usize, x: (BufferId, Option<BufferId>), y: BufferId) {
        let columns = self.lora_columns[site as usize];
        let (x, mut down) = x;
        if down.is_none() && columns > 0 {
            let h = self.tokens(Name::Lora(site), layer, columns);
            self.step(Op::LoraDown(site), Some(layer), &[x], h);
            if self.projects(h, y) {
                self.add_to_step(Op::linear(site), layer, y);
                return;
            }
            down = Some(h);
        }
        let separate = self.gpu.is_some_and(|gpu| gpu.fusion == Fusion::Separate);
        if let (Some(h), true) = (down, separate) {
            let base = self.tokens(Name::Base(site), layer, self.buffers[y].columns);
            self.step(Op::BaseGemm(site), Some(layer), &[x], base);
            self.step(Op::LoraUp(site), Some(layer), &[base, h], y);
            return;
        }
        if self.normalises(x, down) {
            self.add_to_step(Op::linear(site), layer, y);
            return;
        }
        let reads: Vec<BufferId> = [x].into_iter().chain(down).collect();
        self.step(Op::linear(site), Some(layer), &reads, y);
    }

    /// Makes an op a part of the last step.
    fn add_to_step(&mut self, op: Op, layer: usize, buffer: BufferId) {
        let step = self
            .steps
            .last_mut()
            .expect("there is one whose results the op reads");
        step.outputs.push(Output {
            op,
            layer: Some(layer),
            buffer,
        });
    }

    /// Whether the down-projection `h` is part of the product that makes `y` of it: where each of its blocks can hold all
    /// rows, and all of them run at the same time. It then takes no launch of its own, in which one block would read all
    /// of A while the other multiprocessors wait.
    fn projects(&self, h: BufferId, y: BufferId) -> bool {
        let Buffer { rows, columns, .. } = self.buffers[h];
        self.gpu.is_some_and(|gpu| {
            let blocks = self.buffers[y]
                .columns
                .div_ceil(params::DOWN_GEMM_COLUMNS as usize);
            gpu.fusion == Fusion::Extended
                && rows <= params::DOWN_GEMM_ROWS as usize
                && columns <= DOWN_LORA_COLUMNS
                && blocks <= gpu.multiprocessors.count
        })
    }

    /// Whether the product of `x` is part of the LayerNorm that makes x: where each of its blocks can hold all rows, and
    /// takes less time to normalise them than a launch does.
    fn normalises(&self, x: BufferId, down: Option<BufferId>) -> bool {
        let normed = self
            .steps
            .last()
            .is_some_and(|step| matches!(step.op(), Op::AddLayerNorm(_)) && step.outputs[0].buffer == x);
        let Buffer { rows, columns, .. } = self.buffers[x];
        self.gpu.is_some()
            && normed
            && rows <= params::NORM_GEMM_ROWS as usize
            && columns <= params::ROW_WARP_COLUMNS as usize
            && down.is_none_or(|h| self.buffers[h].columns <= NORM_LORA_COLUMNS)
    }

    /// A GPU rotates queries and keys once, in the product that makes them, not in every tile that reads them.
    fn qkv_form(&self, config: &ModelConfig) -> Form {
        let rotated = self.gpu.is_some() && matches!(config.positions, Positions::Rotary { .. });
        Form {
            rotated,
            q_scaled: rotated,
        }
    }
}

/// With more columns of h in all, a LayerNorm keeps its launch: each four that a row uses are 500 instructions more, which
/// every block of a product would execute for every row. 20 are those of jina-embeddings-v3. By arithmetic, not measured:
/// `cuda/NOTES.md`.
const NORM_LORA_COLUMNS: usize = 32;
const _: () = assert!(NORM_LORA_COLUMNS <= params::NORM_GEMM_MAX_LORA as usize);

/// With more columns of h in all, a down-projection keeps its launch: its block takes two passes over x then.
const DOWN_LORA_COLUMNS: usize = params::LORA_DOWN_COLUMNS as usize;
const _: () = assert!(DOWN_LORA_COLUMNS <= params::DOWN_GEMM_MAX_LORA as usize);

/// Whether a product is the faster for a sum over k that is split: where one tile has all rows, and each part several k-blocks.
/// By arithmetic, not measured: `cuda/NOTES.md`.
fn splits([rows, _, k]: [usize; 3]) -> bool {
    /// Columns of a part, at least: two k-blocks.
    const PART: usize = 128;
    rows <= params::GEMM_SPLIT16_ROWS as usize && k >= PART * params::GEMM_SPLIT16_PARTS as usize
}

/// Elements that buffers are aligned to: 256 bytes if an element has two.
const ALIGN: usize = 128;

/// Gives every buffer an offset: buffers that are alive at the same time do not overlap. First fit, in
/// order of first use; good because the lifetimes of a transformer's buffers nest like a stack.
/// Returns the arena's length.
fn place(steps: &[Step], buffers: &mut [Buffer]) -> usize {
    // Steps [first, last] during which each buffer must keep its contents.
    let mut lives = vec![(usize::MAX, 0); buffers.len()];
    for (i, step) in steps.iter().enumerate() {
        for id in step.buffers() {
            lives[id] = (lives[id].0.min(i), lives[id].1.max(i));
        }
    }
    let mut arena_len = 0;
    // Placed buffers that may still be alive: (last step, start, end).
    let mut placed: Vec<(usize, usize, usize)> = Vec::new();
    let mut order: Vec<BufferId> = (0..buffers.len()).collect();
    order.sort_by_key(|&id| lives[id].0);
    for id in order {
        let (first, last) = lives[id];
        placed.retain(|&(until, _, _)| until >= first);
        placed.sort_by_key(|&(_, start, _)| start);
        let len = buffers[id].capacity.next_multiple_of(ALIGN);
        let mut offset = 0;
        for &(_, start, end) in &placed {
            if offset + len <= start {
                break;
            }
            offset = offset.max(end);
        }
        buffers[id].offset = offset;
        placed.push((last, offset, offset + len));
        arena_len = arena_len.max(offset + len);
    }
    arena_len
}

impl fmt::Display for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.name {
            Name::Lora(site) => format!("lora_{site:?}"),
            Name::Base(site) => format!("base_{site:?}"),
            Name::AttnOut => "attn_out".to_owned(),
            Name::AttnResidual => "attn_residual".to_owned(),
            Name::MlpOut => "mlp_out".to_owned(),
            Name::Hidden | Name::Qkv | Name::Context | Name::Activated | Name::Pooled => {
                format!("{:?}", self.name)
            }
        };
        write!(f, "layer{}.{}", self.layer, name.to_lowercase())?;
        if self.form.rotated {
            f.write_str("+rotated")?;
        }
        if self.form.q_scaled {
            f.write_str("+scaled")?;
        }
        write!(f, " [{}, {}]", self.rows, self.columns)
    }
}

impl fmt::Display for Step {
    /// The layer and the ops.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(layer) = self.outputs[0].layer {
            write!(f, "layer {layer} ")?;
        }
        for (i, Output { op, .. }) in self.outputs.iter().enumerate() {
            let plus = if i > 0 { " + " } else { "" };
            write!(f, "{plus}{op:?}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Variant {
    /// What the kernel's name begins with, and its tile.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Variant::Embed => f.write_str("embed"),
            Variant::LayerNorm => f.write_str("layernorm"),
            Variant::NormGemm => f.write_str("norm_gemm"),
            Variant::DownGemm => f.write_str("down_gemm"),
            Variant::Gemm(tile) => write!(f, "gemm {tile}"),
            Variant::GemmSplit16 => f.write_str("gemm split16"),
            Variant::GemmSm90(tile) => write!(f, "gemm {tile}"),
            Variant::LoraDown => f.write_str("lora_down"),
            Variant::Attention(tile) => write!(f, "attention {tile}"),
            Variant::AttentionSm90(_, kernel) => write!(f, "attention {}", kernel.name),
            Variant::Pool => f.write_str("pool"),
        }
    }
}

impl fmt::Display for Fusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fusion::Extended => f.write_str("extended"),
            Fusion::Separate => f.write_str("separate"),
            Fusion::Merged(slot) => write!(f, "slot {slot} merged"),
        }
    }
}

impl fmt::Display for Plan {
    /// One line per step: what, from, to.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |ids: &mut dyn Iterator<Item = BufferId>| {
            let names: Vec<String> = ids.map(|id| self.buffers[id].to_string()).collect();
            names.join(", ")
        };
        for step in &self.steps {
            let reads = names(&mut step.reads.iter().copied());
            let writes = names(&mut step.outputs.iter().map(|output| output.buffer));
            writeln!(f, "{}: {reads} -> {writes}", self.describe(step))?;
        }
        if let Some(gpu) = self.gpu {
            writeln!(f, "adapters: {}", gpu.fusion)?;
            writeln!(f, "kernels: {}", if gpu.sm90 { "sm90" } else { "sm80" })?;
        }
        let numerics = self.gpu.map(|gpu| gpu.numerics).unwrap_or_default();
        writeln!(f, "numerics: {numerics}")?;
        let element = if self.gpu.is_some() { 2 } else { 4 };
        write!(f, "arena: {} bytes", self.arena_len * element)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn few_rows_take_five_launches_a_layer() {
        let launches_of = |sm90, tokens, hidden, columns, fusion| {
            let config = crate::cost::tests::model(hidden, 3);
            let shape = BatchShape {
                tokens,
                output_rows: 1,
                adapted: columns > 0,
            };
            let gpu = GpuOptions {
                precision: Half::Bf16,
                numerics: Numerics::Invariant,
                fusion,
                attention: AttentionTile::Small,
                multiprocessors: Multiprocessors::H200,
                sm90,
                sm90_tile: None,
            };
            Plan::gpu(&config, shape, [columns; 4], gpu).steps.len()
        };
        let launches = |tokens, hidden, columns, fusion| {
            let [all_gpus, sm90] =
                [false, true].map(|sm90| launches_of(sm90, tokens, hidden, columns, fusion));
            assert_eq!(sm90, all_gpus);
            all_gpus
        };
        // Embed, the last LayerNorm and Pool besides.
        let few = 1 + 3 * 5 + 2;
        assert_eq!(launches(16, 1024, 0, Fusion::Extended), few);
        assert_eq!(launches(1, 8, 0, Fusion::Merged(0)), few);
        // Down-projections are parts of the output projection and of fc2 too.
        assert_eq!(launches(16, 1024, 32, Fusion::Extended), few);
        // Else each LayerNorm is a launch, but for the last, which is one anyway.
        let more = few + 3 * 2 - 1;
        assert_eq!(launches(17, 1024, 0, Fusion::Extended), more);
        assert_eq!(launches(16, 1032, 0, Fusion::Extended), more);
        assert_eq!(launches(16, 1024, 48, Fusion::Extended), more + 3 * 2);
        // A down-projection does where not all blocks of the product that reads it run at the same time.
        let columns = 16 * Multiprocessors::H200.count;
        assert_eq!(launches(16, columns, 16, Fusion::Extended), more);
        assert_eq!(launches(16, columns + 8, 16, Fusion::Extended), more + 3 * 2);
        // Each linear layer of the adapters in two.
        assert_eq!(launches(16, 1024, 16, Fusion::Separate), more + 3 * (2 + 4));
    }

    proptest! {
        #[test]
        fn buffers_alive_together_never_overlap(
            sizes in prop::collection::vec(1usize..100, 2..20),
            uses in prop::collection::vec((0usize..20, 0usize..20, 0usize..20), 1..30),
        ) {
            let n = sizes.len();
            let mut buffers: Vec<Buffer> = sizes
                .iter()
                .map(|&columns| Buffer {
                    name: Name::Hidden, layer: 0, form: Form::default(), rows: 1, columns, capacity: columns, offset: 0,
                })
                .collect();
            let steps: Vec<Step> = uses
                .iter()
                .map(|&(a, b, c)| Step {
                    reads: vec![a % n, b % n],
                    outputs: vec![Output { op: Op::Pool, layer: None, buffer: c % n }],
                    tile: None,
                })
                .collect();
            let arena = place(&steps, &mut buffers);
            let touches = |s: &Step, id: usize| s.buffers().any(|other| other == id);
            let life = |id: usize| {
                let first = steps.iter().position(|s| touches(s, id));
                let last = steps.iter().rposition(|s| touches(s, id));
                first.zip(last)
            };
            for a in 0..n {
                prop_assert!(buffers[a].range().end <= arena || life(a).is_none());
                for b in 0..a {
                    let (Some(x), Some(y)) = (life(a), life(b)) else { continue };
                    if x.0 <= y.1 && y.0 <= x.1 {
                        let (p, q) = (buffers[a].range(), buffers[b].range());
                        prop_assert!(p.end <= q.start || q.end <= p.start, "{a} and {b} overlap");
                    }
                }
            }
        }
    }
}
