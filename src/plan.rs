//! The plan: which steps a pass runs, on which buffers, as plain data.
//!
//! A plan follows from the model's configuration and the batch's sizes alone. It can be printed,
//! tested and compared without a device. Executors ([`crate::cpu`]) walk over it with one `match`,
//! one arm per op; nothing about the order of work is decided anywhere else.

use std::fmt;

use crate::batch::BatchShape;
use crate::model::ModelConfig;
pub use crate::model::adapter::Site;

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
    /// First number in the arena.
    pub offset: usize,
}

impl Buffer {
    /// Numbers in all.
    pub fn len(&self) -> usize {
        self.rows * self.columns
    }

    /// Its place in the arena.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// Index of a buffer in [`Plan::buffers`].
pub type BufferId = usize;

/// One launch: the ops it covers (more than one where they are fused) and the buffers it touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// In order.
    pub ops: Vec<Op>,
    /// The layer, for the ops of a layer.
    pub layer: Option<usize>,
    /// Which implementation; executors with a single one ignore it.
    pub variant: Variant,
    /// Buffers read.
    pub reads: Vec<BufferId>,
    /// Buffers written.
    pub writes: Vec<BufferId>,
}

/// Which implementation of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Float32 on the CPU: every sum over k in one chain, in order, whatever the batch.
    #[default]
    Float32,
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
}

impl Plan {
    /// The plan of the CPU executor. `lora_columns` are the columns of the down-projection at
    /// each site ([`crate::model::adapter::AdapterTable::columns`]).
    pub fn cpu(config: &ModelConfig, shape: BatchShape, lora_columns: [usize; 4]) -> Plan {
        let mut plan = Builder {
            shape,
            lora_columns,
            steps: Vec::new(),
            buffers: Vec::new(),
        };
        let (h, f) = (config.hidden_size, config.intermediate_size);
        let mut hidden = plan.buffer(Name::Hidden, 0, shape.tokens, h);
        plan.step(Op::Embed, None, &[], &[hidden]);
        for layer in 0..config.num_hidden_layers {
            let tokens = |plan: &mut Builder, name, columns| plan.buffer(name, layer, shape.tokens, columns);
            let qkv = tokens(&mut plan, Name::Qkv, 3 * h);
            plan.linear(Op::Qkv, Site::Qkv, layer, hidden, qkv);
            let context = tokens(&mut plan, Name::Context, h);
            plan.step(Op::Attention, Some(layer), &[qkv], &[context]);
            let projected = tokens(&mut plan, Name::Projected, h);
            plan.linear(Op::OutProj, Site::OutProj, layer, context, projected);
            let middle = tokens(&mut plan, Name::Middle, h);
            plan.step(
                Op::AddLayerNorm(NormSite::Attention),
                Some(layer),
                &[hidden, projected],
                &[middle],
            );
            let activated = tokens(&mut plan, Name::Activated, f);
            plan.linear(Op::Fc1, Site::Fc1, layer, middle, activated);
            let fed = tokens(&mut plan, Name::Fed, h);
            plan.linear(Op::Fc2, Site::Fc2, layer, activated, fed);
            hidden = plan.buffer(Name::Hidden, layer + 1, shape.tokens, h);
            plan.step(
                Op::AddLayerNorm(NormSite::Mlp),
                Some(layer),
                &[middle, fed],
                &[hidden],
            );
        }
        let pooled = plan.buffer(Name::Pooled, config.num_hidden_layers, shape.output_rows, h);
        plan.step(Op::Pool, None, &[hidden], &[pooled]);
        plan.finish()
    }

    /// The buffer of the outputs.
    pub fn output(&self) -> &Buffer {
        self.buffers
            .iter()
            .find(|b| b.name == Name::Pooled)
            .expect("every plan pools")
    }
}

struct Builder {
    shape: BatchShape,
    lora_columns: [usize; 4],
    steps: Vec<Step>,
    buffers: Vec<Buffer>,
}

impl Builder {
    fn buffer(&mut self, name: Name, layer: usize, rows: usize, columns: usize) -> BufferId {
        self.buffers.push(Buffer {
            name,
            layer,
            form: Form::default(),
            rows,
            columns,
            offset: 0,
        });
        self.buffers.len() - 1
    }

    fn step(&mut self, op: Op, layer: Option<usize>, reads: &[BufferId], writes: &[BufferId]) {
        self.steps.push(Step {
            ops: vec![op],
            layer,
            variant: Variant::default(),
            reads: reads.to_vec(),
            writes: writes.to_vec(),
        });
    }

    /// A linear layer, with its down-projection ahead where the batch uses adapters.
    fn linear(&mut self, op: Op, site: Site, layer: usize, x: BufferId, y: BufferId) {
        let columns = self.lora_columns[site as usize];
        if self.shape.adapted && columns > 0 {
            let h = self.buffer(Name::Lora(site), layer, self.shape.tokens, columns);
            self.step(Op::LoraDown(site), Some(layer), &[x], &[h]);
            self.step(op, Some(layer), &[x, h], &[y]);
        } else {
            self.step(op, Some(layer), &[x], &[y]);
        }
    }

    fn finish(mut self) -> Plan {
        let arena_len = place(&self.steps, &mut self.buffers);
        Plan {
            steps: self.steps,
            buffers: self.buffers,
            arena_len,
        }
    }
}

/// Numbers that buffers are aligned to: 64 bytes of f32.
const ALIGN: usize = 16;

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
        let len = buffers[id].len().next_multiple_of(ALIGN);
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
        Ok(())
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
        write!(f, "arena: {} bytes", self.arena_len * 4)
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
                    name: Name::Hidden, layer: 0, form: Form::default(), rows: 1, columns, offset: 0,
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
