//! The plan: which steps a pass runs, on which buffers, as plain data.
//!
//! A plan follows from the model's configuration, the batch's sizes and the device alone. It can be printed,
//! tested and compared without a device. Executors ([`crate::cpu`], [`crate::gpu`]) walk over it with one `match`,
//! one arm per op; nothing about the order of work is decided anywhere else.

use std::fmt;
use std::ops::Range;

use crate::batch::BatchShape;
pub use crate::model::adapter::Site;
use crate::model::{ModelConfig, Positions};
use crate::precision::{Numerics, Precision};

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
    /// `x = LN(x + y)`; which of a layer's two norms.
    AddLayerNorm(NormSite),
    /// Mean, sum, first or all rows of each range; cut; normalise.
    Pool,
}

impl Op {
    /// The linear layer that it computes, if it is one.
    pub fn site(self) -> Option<Site> {
        match self {
            Op::Qkv => Some(Site::Qkv),
            Op::OutProj => Some(Site::OutProj),
            Op::Fc1 => Some(Site::Fc1),
            Op::Fc2 => Some(Site::Fc2),
            _ => None,
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
    /// `[tokens, 3·hidden]`.
    Qkv,
    /// Attention's output, `[tokens, hidden]`.
    Context,
    /// The output projection, before the residual, `[tokens, hidden]`.
    Projected,
    /// The residual stream between attention and feed-forward, `[tokens, hidden]`.
    Middle,
    /// After the GELU, `[tokens, intermediate]`.
    Activated,
    /// The feed-forward output, before the residual, `[tokens, hidden]`.
    Fed,
    /// The outputs, `[output rows, hidden]`; a row's first `dimensions` numbers count.
    Pooled,
}

/// How a buffer's numbers relate to the plain definition of its name. Executors that fuse steps
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
    /// Numbers per row.
    pub columns: usize,
    /// Numbers of the arena that are its own, from `offset` on: `rows · columns`, or more where an
    /// executor writes something wider.
    pub room: usize,
    /// First number in the arena.
    pub offset: usize,
}

impl Buffer {
    /// Numbers in all.
    pub fn elements(&self) -> usize {
        self.rows * self.columns
    }

    /// Its place in the arena.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.elements()
    }
}

/// Index of a buffer in [`Plan::buffers`].
pub type BufferId = usize;

/// One launch: the ops it covers (more than one where they are fused) and the buffers it touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// In order. The first reads `reads`, the others what the first wrote; op number i writes
    /// `writes[i]`, and belongs to the layer of that buffer.
    pub ops: Vec<Op>,
    /// The layer of the first op, if it is one of a layer.
    pub layer: Option<usize>,
    /// Which implementation; executors with a single one ignore it.
    pub variant: Variant,
    /// Buffers read.
    pub reads: Vec<BufferId>,
    /// Buffers written, one per op.
    pub writes: Vec<BufferId>,
}

impl Step {
    /// Whether it computes a linear layer.
    pub fn is_linear(&self) -> bool {
        self.ops[0].site().is_some()
    }

    /// Same ops and variant; the layer may differ.
    pub fn is_like(&self, other: &Step) -> bool {
        self.ops == other.ops && self.variant == other.variant
    }
}

/// Which implementation of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Float32 on the CPU: every sum over k in one chain, in order, whatever the batch.
    #[default]
    Float32,
    /// A kernel over 16-bit numbers with float32 sums.
    Kernel {
        /// The numbers.
        precision: Precision,
        /// Which of the op's kernels.
        tile: Tile,
        /// Where a linear layer gets its adapters from.
        fusion: Fusion,
    },
}

/// Which of an op's kernels: what a block works on. All tiles of an op give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tile {
    /// There is one kernel.
    Only,
    /// A product's for throughput.
    GemmLarge,
    /// A product's for some hundred rows.
    GemmMedium,
    /// A product's for up to 64 rows: narrow columns, the weights streamed.
    GemmSmall64,
    /// The same for up to 16 rows.
    GemmSmall16,
    /// Attention's for long sequences.
    AttentionLarge,
    /// Attention's for short ones.
    AttentionSmall,
}

impl Tile {
    /// Rows of a linear layer's or an attention's tile; 1 where there is one kernel.
    pub fn rows(self) -> usize {
        use crate::gpu::params;
        let rows = match self {
            Tile::Only => 1,
            Tile::GemmLarge => params::GEMM_LARGE_ROWS,
            Tile::GemmMedium => params::GEMM_MEDIUM_ROWS,
            Tile::GemmSmall64 => params::GEMM_SMALL64_ROWS,
            Tile::GemmSmall16 => params::GEMM_SMALL16_ROWS,
            Tile::AttentionLarge => params::ATTENTION_LARGE_ROWS,
            Tile::AttentionSmall => params::ATTENTION_SMALL_ROWS,
        };
        rows as usize
    }
}

/// How a linear layer on a GPU gets its adapters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fusion {
    /// `[x | h] [W | B]ᵀ`: the product goes on over the down-projection's columns, in the same sums.
    #[default]
    Extended,
    /// `x Wᵀ` first, rounded, then `h Bᵀ` added to it by a launch of its own.
    Separate,
    /// The adapter of this slot is part of the weights.
    Merged(usize),
}

/// The steps of one pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
    /// With their places in the arena.
    pub buffers: Vec<Buffer>,
    /// Numbers the arena must hold.
    pub arena_len: usize,
    /// What results may depend on.
    pub numerics: Numerics,
}

/// What a plan for a GPU follows from, beside the model and the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gpu {
    /// Of weights and activations.
    pub precision: Precision,
    /// What results may depend on.
    pub numerics: Numerics,
    /// How linear layers get their adapters.
    pub fusion: Fusion,
    /// The attention's tile: it follows from the lengths of the batch ([`crate::cost::attention_tile`]).
    pub attention: Tile,
    /// The device's multiprocessors.
    pub multiprocessors: usize,
}

impl Plan {
    /// The plan of the CPU executor. `lora_columns` are the columns of the down-projection at
    /// each site ([`crate::model::adapter::AdapterTable::columns`]).
    pub(crate) fn cpu(config: &ModelConfig, shape: BatchShape, lora_columns: [usize; 4]) -> Plan {
        Builder::new(config, shape, lora_columns, None).plan(config)
    }

    /// The plan of the GPU executor: down-projections of what a row kernel writes are its own second
    /// result, and queries and keys are rotated by the product that makes them.
    pub(crate) fn gpu(config: &ModelConfig, shape: BatchShape, lora_columns: [usize; 4], gpu: Gpu) -> Plan {
        Builder::new(config, shape, lora_columns, Some(gpu)).plan(config)
    }

    /// The attention's tile and the way of the adapters, which all steps of a plan for a GPU have in common.
    pub(crate) fn attention_and_fusion(&self) -> (Tile, Fusion) {
        let of = |step: &Step| match step.variant {
            Variant::Kernel { tile, fusion, .. } => Some((tile, fusion)),
            Variant::Float32 => None,
        };
        let attention = self.steps.iter().find(|step| step.ops[0] == Op::Attention);
        attention
            .and_then(of)
            .unwrap_or((Tile::AttentionLarge, Fusion::Extended))
    }

    /// The buffer of the outputs.
    pub(crate) fn output(&self) -> &Buffer {
        self.buffers
            .iter()
            .find(|b| b.name == Name::Pooled)
            .expect("every plan pools")
    }
}

struct Builder {
    shape: BatchShape,
    layers: usize,
    lora_columns: [usize; 4],
    /// None for the CPU.
    gpu: Option<Gpu>,
    steps: Vec<Step>,
    buffers: Vec<Buffer>,
}

impl Builder {
    fn new(config: &ModelConfig, shape: BatchShape, lora_columns: [usize; 4], gpu: Option<Gpu>) -> Builder {
        let merged = matches!(
            gpu,
            Some(Gpu {
                fusion: Fusion::Merged(_),
                ..
            })
        );
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
            self.linear(Op::Qkv, Site::Qkv, layer, (hidden, down), qkv);
            let context = self.tokens(Name::Context, layer, h);
            self.step(vec![Op::Attention], Some(layer), &[qkv], &[context]);
            let projected = self.tokens(Name::Projected, layer, h);
            self.linear(Op::OutProj, Site::OutProj, layer, (context, None), projected);
            let middle = self.tokens(Name::Middle, layer, h);
            let op = Op::AddLayerNorm(NormSite::Attention);
            let down_fc1 = self.rows(op, Some(layer), &[hidden, projected], middle, (layer, Site::Fc1));
            let activated = self.tokens(Name::Activated, layer, f);
            self.linear(Op::Fc1, Site::Fc1, layer, (middle, down_fc1), activated);
            let fed = self.tokens(Name::Fed, layer, h);
            self.linear(Op::Fc2, Site::Fc2, layer, (activated, None), fed);
            hidden = self.tokens(Name::Hidden, layer + 1, h);
            let op = Op::AddLayerNorm(NormSite::Mlp);
            down = self.rows(op, Some(layer), &[middle, fed], hidden, (layer + 1, Site::Qkv));
        }
        let pooled = self.buffer(Name::Pooled, config.num_hidden_layers, self.shape.output_rows, h);
        if self.gpu.is_some() {
            // Records: at most float32 numbers and a head, in units of 16 bits.
            self.buffers[pooled].room = self.shape.output_rows * (2 * h + crate::gpu::RECORD_HEAD);
        }
        self.step(vec![Op::Pool], None, &[hidden], &[pooled]);
        let arena_len = place(&self.steps, &mut self.buffers);
        Plan {
            steps: self.steps,
            buffers: self.buffers,
            arena_len,
            numerics: self.gpu.map(|gpu| gpu.numerics).unwrap_or_default(),
        }
    }

    fn buffer(&mut self, name: Name, layer: usize, rows: usize, columns: usize) -> BufferId {
        self.buffers.push(Buffer {
            name,
            layer,
            form: Form::default(),
            rows,
            columns,
            room: rows * columns,
            offset: 0,
        });
        self.buffers.len() - 1
    }

    fn tokens(&mut self, name: Name, layer: usize, columns: usize) -> BufferId {
        self.buffer(name, layer, self.shape.tokens, columns)
    }

    fn step(&mut self, ops: Vec<Op>, layer: Option<usize>, reads: &[BufferId], writes: &[BufferId]) {
        let variant = self.gpu.map_or(Variant::Float32, |gpu| {
            let shape = |id: BufferId| (self.buffers[id].rows, self.buffers[id].columns);
            let tile = match ops[0] {
                Op::Qkv | Op::OutProj | Op::Fc1 | Op::Fc2 => {
                    let (rows, columns) = shape(writes[0]);
                    crate::cost::gemm_tile(rows, columns, gpu.multiprocessors)
                }
                Op::Attention => gpu.attention,
                Op::Embed | Op::LoraDown(_) | Op::AddLayerNorm(_) | Op::Pool => Tile::Only,
            };
            Variant::Kernel {
                precision: gpu.precision,
                tile,
                fusion: gpu.fusion,
            }
        });
        self.steps.push(Step {
            ops,
            layer,
            variant,
            reads: reads.to_vec(),
            writes: writes.to_vec(),
        });
    }

    /// A step that writes whole rows, and, on a GPU, the down-projection of them for the linear layer at
    /// `next` as well: it has them at hand.
    fn rows(
        &mut self,
        op: Op,
        layer: Option<usize>,
        reads: &[BufferId],
        out: BufferId,
        next: (usize, Site),
    ) -> Option<BufferId> {
        let columns = self.lora_columns[next.1 as usize];
        // The last layer's rows are pooled.
        if self.gpu.is_none() || columns == 0 || next.0 == self.layers {
            self.step(vec![op], layer, reads, &[out]);
            return None;
        }
        let h = self.tokens(Name::Lora(next.1), next.0, columns);
        self.step(vec![op, Op::LoraDown(next.1)], layer, reads, &[out, h]);
        Some(h)
    }

    /// A linear layer of `x`, with its down-projection ahead where the batch uses adapters and `x` came
    /// without.
    fn linear(&mut self, op: Op, site: Site, layer: usize, x: (BufferId, Option<BufferId>), y: BufferId) {
        let columns = self.lora_columns[site as usize];
        let (x, mut down) = x;
        if down.is_none() && columns > 0 {
            let h = self.tokens(Name::Lora(site), layer, columns);
            self.step(vec![Op::LoraDown(site)], Some(layer), &[x], &[h]);
            down = Some(h);
        }
        let reads: Vec<BufferId> = [x].into_iter().chain(down).collect();
        self.step(vec![op], Some(layer), &reads, &[y]);
    }

    /// Queries and keys are rotated once, where they are made, and not again by every tile that reads them.
    fn qkv_form(&self, config: &ModelConfig) -> Form {
        let rotated = self.gpu.is_some() && matches!(config.positions, Positions::Rotary { .. });
        Form {
            rotated,
            q_scaled: rotated,
        }
    }
}

/// Numbers that buffers are aligned to: 256 bytes where a number has two.
const ALIGN: usize = 128;

/// Gives every buffer a place: buffers that live at the same time do not overlap. First fit, in
/// order of first use; good because a transformer's buffers come and go like a stack.
/// Returns the arena's length.
fn place(steps: &[Step], buffers: &mut [Buffer]) -> usize {
    // Steps [first, last] during which each buffer must keep its contents.
    let mut lives = vec![(usize::MAX, 0); buffers.len()];
    for (i, step) in steps.iter().enumerate() {
        for &id in step.reads.iter().chain(&step.writes) {
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
        let len = buffers[id].room.next_multiple_of(ALIGN);
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
            name => format!("{name:?}"),
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
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(layer) = self.layer {
            write!(f, "layer {layer} ")?;
        }
        for (i, op) in self.ops.iter().enumerate() {
            let plus = if i > 0 { " + " } else { "" };
            match op {
                Op::LoraDown(site) => write!(f, "{plus}LoraDown({site:?})")?,
                Op::AddLayerNorm(site) => write!(f, "{plus}AddLayerNorm({site:?})")?,
                op => write!(f, "{plus}{op:?}")?,
            }
        }
        match self.variant {
            Variant::Float32 => Ok(()),
            Variant::Kernel {
                precision,
                tile,
                fusion,
            } => {
                write!(f, " [{precision}")?;
                match tile {
                    Tile::Only => {}
                    Tile::GemmLarge | Tile::AttentionLarge => f.write_str(" large")?,
                    Tile::GemmMedium => f.write_str(" medium")?,
                    Tile::GemmSmall64 => f.write_str(" small64")?,
                    Tile::GemmSmall16 => f.write_str(" small16")?,
                    Tile::AttentionSmall => f.write_str(" small")?,
                }
                match fusion {
                    Fusion::Extended => {}
                    Fusion::Separate => f.write_str(" separate adapters")?,
                    Fusion::Merged(slot) => write!(f, " adapter {slot} merged")?,
                }
                f.write_str("]")
            }
        }
    }
}

impl fmt::Display for Plan {
    /// One line per step: what, from, to.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            let names = |ids: &[BufferId]| {
                ids.iter()
                    .map(|&id| self.buffers[id].to_string())
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            writeln!(f, "{step}: {} -> {}", names(&step.reads), names(&step.writes))?;
        }
        let number = match self.steps.first().map(|step| step.variant) {
            Some(Variant::Kernel { .. }) => 2,
            _ => 4,
        };
        writeln!(f, "numerics: {}", self.numerics)?;
        write!(f, "arena: {} bytes", self.arena_len * number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
                    name: Name::Hidden, layer: 0, form: Form::default(), rows: 1, columns, room: columns, offset: 0,
                })
                .collect();
            let steps: Vec<Step> = uses
                .iter()
                .map(|&(a, b, c)| Step {
                    ops: vec![Op::Pool],
                    layer: None,
                    variant: Variant::default(),
                    reads: vec![a % n, b % n],
                    writes: vec![c % n],
                })
                .collect();
            let arena = place(&steps, &mut buffers);
            let touches = |s: &Step, id: usize| s.reads.contains(&id) || s.writes.contains(&id);
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
