//! The CPU executor: runs a plan on a team of threads, in float32 or with the linear layers' products in bf16 or int8.
//!
//! [`Cpu::run`] is the whole network on one screen: one arm per op, each arm one kernel. Numbers
//! are a function of the model, the instruction set and the row's own sequence, never of the rest
//! of the batch, the number of threads or how work is split.
//!
//! In the narrow classes, bf16 and int8, the products round what they read and their weights ([`narrow`]); softmax,
//! LayerNorm, GELU, the residual stream and the adapters stay in float32. Adapters read what the product reads, the rounded
//! rows. Attention's products are of bf16 numbers in both, where the processor has AMX: then the product before it writes
//! them, rotated and rounded, and no float32 copy.

mod arena;
mod attention;
mod gemm;
pub mod head;
mod isa;
mod math;
#[cfg(any(test, feature = "inspect"))]
pub mod naive;
mod narrow;
mod packed;
#[cfg(any(test, feature = "inspect"))]
mod peak;
mod scratch;
mod team;
mod weights;

use std::cell::RefCell;
#[cfg(feature = "inspect")]
use std::time::{Duration, Instant};

use crate::batch::{Batch, Pool, PoolKind};
use crate::error::Result;
use crate::model::adapter::Site;
use crate::model::{Model, ModelConfig, Norm, Positions, RopeTable};
use crate::plan::{BufferId, NormSite, OnBuffer, Op, Output, Plan};
use arena::Arena;
use attention::attention;
use gemm::gemm;
pub use isa::Isa;
#[cfg(target_arch = "x86_64")]
use narrow::{Amx, Heads, Out};
pub use narrow::{Kernel, Number};
use narrow::{PackedTiles, TileWriter, Tiles};
#[cfg(any(test, feature = "inspect"))]
pub use peak::Limits;
use team::{SendPtr, Team};
use weights::{LinearWeights, Matrix};

use crate::precision::Precision;

/// A model's weights in the executor's layout.
pub struct Cpu {
    isa: Isa,
    /// What computes the products of a narrow class.
    kernel: Option<Kernel>,
    /// What computes attention in a narrow class; else it is in float32.
    #[cfg(target_arch = "x86_64")]
    amx: Option<Amx>,
    layers: Vec<Layer>,
    norm: NormWeights,
    /// Type 0's row (and nothing else of the tables: those are gathered from the file).
    token_type: Vec<f32>,
    rope: Option<RopeTable>,
}

struct Layer {
    qkv: LinearWeights,
    out_proj: LinearWeights,
    norm1: NormWeights,
    fc1: LinearWeights,
    fc2: LinearWeights,
    norm2: NormWeights,
}

/// `[hidden]` each.
struct NormWeights {
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

/// What the caller of [`Cpu::run`] looks at, after each op.
pub enum Watch<'a> {
    /// The result is all.
    Nothing,
    /// What it wrote, all of it.
    #[cfg_attr(not(any(test, feature = "inspect")), allow(dead_code))]
    Buffers(OnBuffer<'a>),
    /// The step's number and what it took.
    #[cfg(feature = "inspect")]
    Times(&'a mut dyn FnMut(usize, Duration)),
}

/// The threads and the arena of one pass at a time, both reused from call to call.
pub struct ExecContext {
    team: Team,
    arena: Arena,
    rounded: Rounded,
}

/// The rounded copy of the buffer that the next product reads, in a narrow class.
#[derive(Default)]
struct Rounded {
    /// Whose copy it is.
    of: Option<BufferId>,
    tiles: Tiles,
    /// Of the product at work, whose result is rounded at once.
    next: Tiles,
    /// Whose queries, keys and values are the heads, if they are.
    #[cfg(target_arch = "x86_64")]
    heads_of: Option<BufferId>,
    #[cfg(target_arch = "x86_64")]
    heads: Heads,
}

/// From this many rows on there are whole rows enough for all threads, and what is saved is more than reading the weights
/// once for each few of them.
const WHOLE_ROWS: usize = 256;

/// What reads the result of a product.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// Nothing but the next product: in a narrow class the rounded copy is all that is written.
    Product,
    /// Nothing but attention: likewise its heads, where AMX computes it.
    Attention,
    /// Anything.
    Any,
}

impl ExecContext {
    /// A context with this number of threads, the caller's included.
    pub fn new(threads: usize) -> ExecContext {
        ExecContext {
            team: Team::new(threads),
            arena: Arena::default(),
            rounded: Rounded::default(),
        }
    }

    /// Numbers of the arena so far: none before the first pass.
    #[cfg(test)]
    pub fn arena_len(&self) -> usize {
        self.arena.len()
    }
}

impl Cpu {
    /// Packs a model's weights for one of [`Cpu::PRECISIONS`].
    ///
    /// # Errors
    /// A weight that is not finite, or not in this precision: this is the one time that all of them are read.
    pub fn new(model: &Model, threads: usize, precision: Precision) -> Result<Cpu> {
        let mut team = Team::new(threads);
        let encoder = &model.encoder;
        let kernel = number(precision).map(Kernel::detect);
        let isa = Isa::detect();
        let mut linear = |linear| LinearWeights::pack(&mut team, isa, kernel, linear);
        let norm = |norm: &Norm| NormWeights {
            gamma: norm.weight.read(),
            beta: norm.bias.read(),
        };
        let layers = encoder
            .layers
            .iter()
            .map(|layer| {
                Ok(Layer {
                    qkv: linear(&layer.qkv)?,
                    out_proj: linear(&layer.out_proj)?,
                    norm1: norm(&layer.norm1),
                    fc1: linear(&layer.fc1)?,
                    fc2: linear(&layer.fc2)?,
                    norm2: norm(&layer.norm2),
                })
            })
            .collect::<Result<_>>()?;
        let config = &model.config;
        Ok(Cpu {
            isa,
            kernel,
            #[cfg(target_arch = "x86_64")]
            amx: kernel.and_then(|_| Amx::detect()),
            layers,
            norm: norm(&encoder.norm),
            token_type: encoder.token_type.index(0).read(),
            rope: match config.positions {
                Positions::Rotary { base } => {
                    Some(RopeTable::new(config.max_tokens, config.head_dim, base.into()))
                }
                Positions::Learned { .. } => None,
            },
        })
    }

    /// The classes that there are, the default first.
    pub const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];

    /// What computes, for people.
    pub fn name(&self) -> String {
        match self.kernel {
            None => self.isa.name().to_owned(),
            Some(kernel) => format!("{} by {}, {}", kernel.number, kernel.name, self.isa.name()),
        }
    }

    /// What this machine can do at most in this precision, measured.
    #[cfg(feature = "inspect")]
    pub fn limits(&self, context: &mut ExecContext) -> Limits {
        peak::limits(&mut context.team, &|rounds| match self.kernel {
            None => peak::float32(self.isa, rounds),
            Some(kernel) => kernel.peak(rounds),
        })
    }

    /// Bytes of a weight of a linear layer.
    pub fn weight_bytes(&self) -> usize {
        match self.kernel {
            None => size_of::<f32>(),
            Some(kernel) => kernel.number.bytes(),
        }
    }

    /// Bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        self.layers
            .iter()
            .flat_map(|l| [&l.qkv, &l.out_proj, &l.fc1, &l.fc2])
            .map(LinearWeights::bytes)
            .sum()
    }

    /// Runs a plan and returns its output rows, `[output rows, hidden]`.
    pub fn run<'a>(
        &self,
        model: &Model,
        plan: &Plan,
        batch: &Batch,
        context: &'a mut ExecContext,
        mut watch: Watch<'_>,
    ) -> &'a [f32] {
        let ExecContext { team, arena, rounded } = context;
        arena.reserve(plan.arena_len);
        rounded.of = None;
        #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
        let mut queries = attention::QUERIES;
        #[cfg(target_arch = "x86_64")]
        if self.amx.is_some() {
            rounded.heads_of = None;
            queries = Amx::queries(batch.tokens(), model.config.num_attention_heads, team.threads());
        }
        let layout = BatchLayout::new(batch, &model.config, queries);
        for (number, step) in plan.steps.iter().enumerate() {
            for (i, &Output { op, layer, buffer }) in step.outputs.iter().enumerate() {
                let ids = step.reads_of(i);
                let (reads, out) = arena.borrow(plan, &ids, buffer);
                let mut pass = Pass {
                    cpu: self,
                    model,
                    batch,
                    layout: &layout,
                    team,
                    layer,
                    rounded,
                    read: ids.first().copied(),
                    written: buffer,
                    traced: matches!(watch, Watch::Buffers(_)),
                };
                #[cfg(feature = "inspect")]
                let start = Instant::now();
                match op {
                    Op::Embed => pass.embed(out),
                    Op::LoraDown(site) => pass.lora_down(site, reads[0], out),
                    Op::Qkv => pass.linear(Site::Qkv, &reads, out),
                    Op::Attention => pass.attention(reads[0], out),
                    Op::OutProj => pass.linear(Site::OutProj, &reads, out),
                    Op::Fc1 => pass.linear(Site::Fc1, &reads, out),
                    Op::Fc2 => pass.linear(Site::Fc2, &reads, out),
                    Op::BaseGemm(site) => pass.gemm(site, reads[0], out, Reader::Any, &|_, _, _| ()),
                    Op::LoraUp(site) => pass.lora_up(site, reads[0], reads[1], out),
                    Op::AddLayerNorm(site) => pass.add_layer_norm(site, reads[0], reads[1], out),
                    Op::Pool => pass.pool(reads[0], out),
                }
                match &mut watch {
                    Watch::Nothing => {}
                    Watch::Buffers(after) => after(number, buffer, out),
                    #[cfg(feature = "inspect")]
                    Watch::Times(after) => after(number, start.elapsed()),
                }
            }
        }
        arena.get(plan.output())
    }
}

/// What the products of a class multiply, if it is a narrow one.
fn number(precision: Precision) -> Option<Number> {
    match precision {
        Precision::Bf16 => Some(Number::Bf16),
        Precision::Int8 => Some(Number::Int8),
        Precision::F32 | Precision::F16 => None,
    }
}

/// What every layer needs to know of the batch, computed once.
struct BatchLayout {
    /// The attention's tasks.
    attention: attention::Tasks,
    /// `[tokens]`.
    sequence_of_rows: Vec<u32>,
    /// `[tokens]`.
    positions: Vec<u32>,
    /// Per site: first column of each slot in the down-projection, and columns in all.
    columns: [(Vec<usize>, usize); 4],
}

impl BatchLayout {
    /// `queries`: those of one of attention's tasks, at most.
    fn new(batch: &Batch, config: &ModelConfig, queries: usize) -> BatchLayout {
        BatchLayout {
            attention: attention::Tasks::new(&batch.cu_seqlens, queries),
            sequence_of_rows: batch.sequence_of_rows(),
            positions: batch.positions(config.positions).collect(),
            columns: Site::ALL.map(|site| batch.adapters.columns(site)),
        }
    }
}

/// One op and what it works with.
struct Pass<'a> {
    cpu: &'a Cpu,
    model: &'a Model,
    batch: &'a Batch,
    layout: &'a BatchLayout,
    team: &'a mut Team,
    /// The layer whose weights the op uses.
    layer: Option<usize>,
    rounded: &'a mut Rounded,
    /// The first buffer that the op reads, if any, and the one that it writes.
    read: Option<BufferId>,
    written: BufferId,
    /// Whether every buffer must be whole: someone looks at it.
    traced: bool,
}

thread_local! {
    /// One row of what a product reads, as float32.
    static ROW: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl<'a> Pass<'a> {
    fn layer(&self) -> (usize, &'a Layer) {
        let layer = self.layer.expect("the op belongs to a layer");
        (layer, &self.cpu.layers[layer])
    }

    fn linear_weights(&self, site: Site) -> &'a LinearWeights {
        let (_, weights) = self.layer();
        match site {
            Site::Qkv => &weights.qkv,
            Site::OutProj => &weights.out_proj,
            Site::Fc1 => &weights.fc1,
            Site::Fc2 => &weights.fc2,
        }
    }

    /// x[row] = LN(word[id] + type[0] (+ position) + Σ adapters).
    fn embed(&mut self, out: &mut [f32]) {
        let (cpu, batch, encoder) = (self.cpu, self.batch, &self.model.encoder);
        let hidden = self.model.config.hidden_size;
        let eps = self.model.config.layer_norm_eps;
        let (sequences, positions) = (&self.layout.sequence_of_rows, &self.layout.positions);
        let rounded = self.rounded_result(hidden);
        par_rows(self.team, hidden, out, |row, x| {
            let sequence = sequences[row] as usize;
            let id = batch.ids[row] as usize;
            encoder.word.read_row(id, x);
            math::add(cpu.isa, x, &cpu.token_type);
            if let Some(table) = &encoder.position {
                let mut learned = [0.0; 256];
                let position = positions[row] as usize;
                for (i, x) in x.chunks_mut(learned.len()).enumerate() {
                    let learned = &mut learned[..x.len()];
                    table.read_into(position * hidden + i * 256, learned);
                    math::add(cpu.isa, x, learned);
                }
            }
            for &(slot, weight) in &batch.mixtures[sequence] {
                let adapter = batch.adapters.get(slot);
                if let Some(lora) = &adapter.word {
                    lora.add_row(id, weight, x);
                }
                if let Some(lora) = &adapter.token_type {
                    lora.add_row(0, weight, x);
                }
            }
            math::layer_norm(cpu.isa, x, &cpu.norm.gamma, &cpu.norm.beta, eps);
            if let Some(rounded) = rounded {
                // SAFETY: the copy has this size, and each row is written once.
                unsafe { rounded.write(row, 0, x) };
            }
        });
    }

    /// h[row, column of (slot, r)] = (x[row] · A[r]) · (weight · scale), for the row's adapters, with x as the product
    /// reads it.
    fn lora_down(&mut self, site: Site, x: &[f32], out: &mut [f32]) {
        let (isa, batch, layout) = (self.cpu.isa, self.batch, self.layout);
        let (layer, _) = self.layer();
        let (_, k) = site.shape(&self.model.config);
        let (starts, columns) = &layout.columns[site as usize];
        let rounds = self.cpu.kernel.map(|kernel| kernel.number);
        if let Some(number) = rounds {
            self.round(number, x, k);
        }
        let tiles = &self.rounded.tiles;
        par_rows(self.team, *columns, out, |row, h| {
            h.fill(0.0);
            let mixture = &batch.mixtures[layout.sequence_of_rows[row] as usize];
            if mixture.is_empty() {
                return;
            }
            ROW.with_borrow_mut(|wide| {
                let x = if rounds.is_some() {
                    wide.resize(k, 0.0);
                    tiles.read_row(row, wide);
                    &wide[..]
                } else {
                    &x[row * k..(row + 1) * k]
                };
                for &(slot, weight) in mixture {
                    let mut column = starts[slot];
                    for part in batch.adapters.get(slot).parts(layer, site) {
                        for a in part.a.chunks_exact(k) {
                            h[column] = math::dot(isa, x, a) * (weight * part.scale);
                            column += 1;
                        }
                    }
                }
            });
        });
    }

    /// Makes sure that the rounded copy is that of `x`, the buffer that the op reads, of rows of `k` numbers.
    fn round(&mut self, number: Number, x: &[f32], k: usize) {
        if self.rounded.of != self.read {
            self.rounded.tiles.round(self.team, self.cpu.isa, number, x, k);
            self.rounded.of = self.read;
        }
    }

    /// In a narrow class, the way to write the rounded copy of the op's result, of rows of `columns` numbers.
    fn rounded_result(&mut self, columns: usize) -> Option<TileWriter> {
        let number = self.cpu.kernel?.number;
        self.rounded.of = Some(self.written);
        let tiles = &mut self.rounded.tiles;
        Some(tiles.reset(self.cpu.isa, number, self.batch.tokens(), columns))
    }

    /// y = x Wᵀ + b + h Bᵀ, and GELU for Fc1.
    fn linear(&mut self, site: Site, reads: &[&[f32]], y: &mut [f32]) {
        let epilogue = self.epilogue(site, reads.get(1).copied());
        let reader = match site {
            Site::Qkv => Reader::Attention,
            Site::Fc1 => Reader::Product,
            Site::OutProj | Site::Fc2 => Reader::Any,
        };
        self.gemm(site, reads[0], y, reader, &epilogue);
    }

    /// y = base + b + h Bᵀ, and GELU for Fc1.
    fn lora_up(&mut self, site: Site, base: &[f32], h: &[f32], y: &mut [f32]) {
        let epilogue = self.epilogue(site, Some(h));
        let n = self.linear_weights(site).matrix.n();
        par_rows(self.team, n, y, |row, y| {
            y.copy_from_slice(&base[row * n..][..n]);
            epilogue(row, 0, y);
        });
    }

    /// y = x Wᵀ; `epilogue` gets each finished segment: its row, its first column and its elements.
    fn gemm(
        &mut self,
        site: Site,
        x: &[f32],
        y: &mut [f32],
        reader: Reader,
        epilogue: &(impl Fn(usize, usize, &mut [f32]) + Sync),
    ) {
        match &self.linear_weights(site).matrix {
            Matrix::F32(matrix) => {
                let (n, k) = (matrix.n(), matrix.k());
                let (isa, tokens) = (self.cpu.isa, self.batch.tokens());
                gemm(self.team, isa, x, k, tokens, matrix, y, n, epilogue);
            }
            Matrix::Narrow(matrix) => self.narrow_gemm(matrix, x, y, reader, epilogue),
        }
    }

    /// The same in a narrow class.
    fn narrow_gemm(
        &mut self,
        matrix: &PackedTiles,
        x: &[f32],
        y: &mut [f32],
        reader: Reader,
        epilogue: &(impl Fn(usize, usize, &mut [f32]) + Sync),
    ) {
        let kernel = self.cpu.kernel.expect("the weights are packed for it");
        self.round(kernel.number, x, matrix.k());
        #[cfg(target_arch = "x86_64")]
        if let (Reader::Attention, Some(amx), false) = (reader, self.cpu.amx, self.traced) {
            let config = &self.model.config;
            let sizes = [self.batch.tokens(), config.num_attention_heads, config.head_dim];
            let rotation = self.rotation();
            let Rounded {
                tiles,
                heads,
                heads_of,
                ..
            } = &mut *self.rounded;
            let writer = heads.reset(amx, sizes, rotation);
            narrow::gemm(
                self.team,
                kernel,
                tiles,
                matrix,
                config.head_dim,
                None,
                &|row, first, segment| {
                    epilogue(row, first, segment);
                    // SAFETY: the heads have the batch's size, and each segment comes once, of whole heads.
                    unsafe { writer.write(row, first, segment) };
                },
            );
            *heads_of = Some(self.written);
            return;
        }
        let Rounded { of, tiles, next, .. } = &mut *self.rounded;
        // A row of int8 numbers is rounded when all of it is there: where a task has whole rows.
        let unit = match kernel.number {
            Number::Bf16 => Some(1),
            Number::Int8 => (tiles.rows() >= WHOLE_ROWS).then(|| matrix.n()),
        };
        let Some(unit) = unit.filter(|_| reader == Reader::Product) else {
            narrow::gemm(self.team, kernel, tiles, matrix, 1, Some(y), epilogue);
            return;
        };
        let writer = next.reset(self.cpu.isa, kernel.number, tiles.rows(), matrix.n());
        let y = self.traced.then_some(y);
        narrow::gemm(
            self.team,
            kernel,
            tiles,
            matrix,
            unit,
            y,
            &|row, first, segment| {
                epilogue(row, first, segment);
                // SAFETY: the copy has the result's size, each segment comes once, and starts at a multiple of 32 columns; of
                // int8 numbers it is a row.
                unsafe { writer.write(row, first, segment) };
            },
        );
        std::mem::swap(tiles, next);
        *of = Some(self.written);
    }

    /// Adds bias and `h Bᵀ` to a segment of a linear layer's product, and applies GELU for Fc1.
    fn epilogue<'h>(
        &self,
        site: Site,
        h: Option<&'h [f32]>,
    ) -> impl Fn(usize, usize, &mut [f32]) + Sync + use<'a, 'h> {
        let (isa, batch, layout) = (self.cpu.isa, self.batch, self.layout);
        let (layer, _) = self.layer();
        let weights = self.linear_weights(site);
        let (starts, columns) = &layout.columns[site as usize];
        move |row: usize, first: usize, y: &mut [f32]| {
            let bias = &weights.bias[first..first + y.len()];
            if site == Site::Fc1 && h.is_none() {
                // Segments may be as short as a call is long.
                math::add_gelu(isa, y, bias);
                return;
            }
            math::add(isa, y, bias);
            if let Some(h) = h {
                for &(slot, _) in &batch.mixtures[layout.sequence_of_rows[row] as usize] {
                    let mut column = row * columns + starts[slot];
                    for part in batch.adapters.get(slot).parts(layer, site) {
                        add_up_projection(isa, part, &h[column..column + part.rank], first, y);
                        column += part.rank;
                    }
                }
            }
            if site == Site::Fc1 {
                math::gelu(isa, y);
            }
        }
    }

    /// The rotation of queries and keys, and the position of each token.
    #[cfg(target_arch = "x86_64")]
    fn rotation(&self) -> Option<(&'a RopeTable, &'a [u32])> {
        let positions = &self.layout.positions[..];
        self.cpu.rope.as_ref().map(|table| (table, positions))
    }

    fn attention(&mut self, qkv: &[f32], out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(amx) = self.cpu.amx {
            self.attention_by(amx, qkv, out);
            return;
        }
        let config = &self.model.config;
        let (heads, head_dim) = (config.num_attention_heads, config.head_dim);
        let (isa, rope) = (self.cpu.isa, self.cpu.rope.as_ref());
        attention(
            self.team,
            isa,
            &self.layout.attention,
            qkv,
            heads,
            head_dim,
            rope,
            out,
        );
    }

    /// The same by AMX. `qkv` is read where its product did not write the heads.
    #[cfg(target_arch = "x86_64")]
    fn attention_by(&mut self, amx: Amx, qkv: &[f32], out: &mut [f32]) {
        let config = &self.model.config;
        let (heads, head_dim) = (config.num_attention_heads, config.head_dim);
        let rotation = self.rotation();
        if self.rounded.heads_of != self.read {
            let sizes = [self.batch.tokens(), heads, head_dim];
            let heads = &mut self.rounded.heads;
            heads.round(amx, self.team, sizes, rotation, qkv);
            self.rounded.heads_of = self.read;
        }
        // The next product alone reads the result. It is rounded at once where a head fills whole rows of tiles.
        let of_tiles = self
            .cpu
            .kernel
            .is_some_and(|kernel| kernel.number == Number::Bf16)
            && head_dim.is_multiple_of(narrow::ROW_NUMBERS)
            && !self.traced;
        let writer = of_tiles.then(|| self.rounded_result(heads * head_dim)).flatten();
        let out = match writer {
            Some(writer) => Out::Tiles(writer),
            None => Out::Rows(SendPtr(out.as_mut_ptr())),
        };
        // SAFETY: both ways lead to a row for each token of the batch.
        unsafe { amx.attention(self.team, &self.layout.attention, &self.rounded.heads, out) };
    }

    fn add_layer_norm(&mut self, site: NormSite, x: &[f32], y: &[f32], out: &mut [f32]) {
        let (_, weights) = self.layer();
        let norm = match site {
            NormSite::Attention => &weights.norm1,
            NormSite::Mlp => &weights.norm2,
        };
        let (isa, config) = (self.cpu.isa, &self.model.config);
        let (hidden, eps) = (config.hidden_size, config.layer_norm_eps);
        let rounded = self.rounded_result(hidden);
        par_rows(self.team, hidden, out, |row, out| {
            let range = row * hidden..(row + 1) * hidden;
            math::sum(isa, &x[range.clone()], &y[range], out);
            math::layer_norm(isa, out, &norm.gamma, &norm.beta, eps);
            if let Some(rounded) = rounded {
                // SAFETY: the copy has this size, and each row is written once.
                unsafe { rounded.write(row, 0, out) };
            }
        });
    }

    fn pool(&mut self, x: &[f32], out: &mut [f32]) {
        let (isa, batch) = (self.cpu.isa, self.batch);
        let hidden = self.model.config.hidden_size;
        // Every output row with the pool it comes from and its number there.
        let rows: Vec<(&Pool, usize)> = batch
            .pools
            .iter()
            .flat_map(|pool| (0..pool.rows()).map(move |i| (pool, i)))
            .collect();
        par_rows(self.team, hidden, out, |row, out| {
            let (pool, i) = rows[row];
            let tokens = batch.pool_rows(pool);
            let (out, cut) = out.split_at_mut(pool.dimensions);
            cut.fill(0.0);
            match pool.kind {
                PoolKind::First | PoolKind::Rows => {
                    out.copy_from_slice(&x[(tokens.start + i) * hidden..][..pool.dimensions]);
                }
                PoolKind::Max => max_rows(&x[tokens.start * hidden..tokens.end * hidden], hidden, out),
                PoolKind::WeightedMean => {
                    let divisor = pool.kind.divisor(tokens.len());
                    weighted_mean(
                        &x[tokens.start * hidden..tokens.end * hidden],
                        hidden,
                        divisor,
                        out,
                    );
                }
                PoolKind::Sum | PoolKind::Mean | PoolKind::MeanSqrtLen => {
                    math::sum_rows(isa, &x[tokens.start * hidden..], tokens.len(), hidden, out);
                    if pool.kind != PoolKind::Sum {
                        math::scale(isa, 1.0 / pool.kind.divisor(tokens.len()) as f32, out);
                    }
                }
            }
            if pool.normalize {
                math::normalize(isa, out);
            }
        });
    }
}

/// The largest number of each of the first columns of rows of `width`; NaN if any is.
fn max_rows(rows: &[f32], width: usize, out: &mut [f32]) {
    out.copy_from_slice(&rows[..out.len()]);
    for row in rows.chunks_exact(width).skip(1) {
        for (max, &x) in out.iter_mut().zip(row) {
            *max = if x > *max || x.is_nan() { x } else { *max };
        }
    }
}

/// Σ r·row / divisor of the first columns, r from 1 on; summed in float64, as the weights grow with the rows.
fn weighted_mean(rows: &[f32], width: usize, divisor: f64, out: &mut [f32]) {
    let mut sum = vec![0.0; out.len()];
    for (r, row) in rows.chunks_exact(width).enumerate() {
        let weight = (r + 1) as f64;
        sum.iter_mut()
            .zip(row)
            .for_each(|(sum, &x)| *sum += weight * f64::from(x));
    }
    out.iter_mut()
        .zip(sum)
        .for_each(|(out, sum)| *out = (sum / divisor) as f32);
}

/// y += h Bᵀ for the columns of one part that lie in this segment, which starts at column `first`.
fn add_up_projection(
    isa: Isa,
    part: &crate::model::adapter::LoraPart,
    h: &[f32],
    first: usize,
    y: &mut [f32],
) {
    let start = first.max(part.column);
    let end = (first + y.len()).min(part.column + part.width);
    if start >= end {
        return;
    }
    let y = &mut y[start - first..end - first];
    for (&h, bt) in h.iter().zip(part.bt.chunks_exact(part.width)) {
        math::axpy(isa, h, &bt[start - part.column..end - part.column], y);
    }
}

/// Calls `f(row, its part of out)` for every row of `out`, rows shared out over the team.
fn par_rows(team: &mut Team, columns: usize, out: &mut [f32], f: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = out.len().checked_div(columns).unwrap_or(0);
    let start = SendPtr(out.as_mut_ptr());
    team.run_rows(rows, columns, &|row| {
        // SAFETY: rows are disjoint parts of `out`, which is borrowed for this whole call, and
        // each row is one call's alone.
        let row_out = unsafe { std::slice::from_raw_parts_mut(start.get().add(row * columns), columns) };
        f(row, row_out);
    });
}

/// One cache line, so that buffers start on one.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::batch::BatchShape;
    use crate::model::adapter::AdapterTable;
    use crate::plan::{Fusion, GpuOptions};
    use crate::precision::{Half, Numerics};
    use crate::request::Encoding;
    use crate::tile::AttentionTile;

    /// The CPU's own plans have no separate adapters; a comparison with a GPU runs the GPU's plan.
    #[test]
    fn a_plan_with_separate_adapters_agrees_with_the_reference() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/jina-hub");
        let mut model = Model::open(&folder).unwrap();
        let table = AdapterTable::new(std::mem::take(&mut model.adapters));
        let columns = Site::ALL.map(|site| table.columns(site).1);
        let mut batch = Batch::new(table);
        batch.push(&[5, 6, 7], vec![(0, 0.5), (3, 0.75)]);
        batch.push(&[8, 9], Vec::new());
        batch.pools = vec![Pool {
            sequence: 0,
            tokens: 0..3,
            kind: PoolKind::Mean,
            dimensions: model.config.hidden_size,
            normalize: true,
            encoding: Encoding::F32,
        }];
        let shape: BatchShape = batch.shape();
        let options = GpuOptions {
            precision: Half::Bf16,
            numerics: Numerics::Invariant,
            fusion: Fusion::Separate,
            attention: AttentionTile::Small,
            multiprocessors: crate::tile::Multiprocessors::H200,
            sm90: false,
            sm90_tile: None,
        };
        let plan = Plan::gpu(&model.config, shape, columns, options);
        let ops = plan
            .steps
            .iter()
            .flat_map(|step| &step.outputs)
            .map(|output| output.op);
        let separate = ops.filter(|op| matches!(op, Op::LoraUp(_))).count();
        assert_eq!(separate, 4 * model.config.num_hidden_layers);

        let mut reference: HashMap<BufferId, Vec<f64>> = HashMap::new();
        naive::run(&model, &plan, &batch, &mut |_, buffer, values| {
            reference.insert(buffer, values.to_vec());
        });
        let mut context = ExecContext::new(2);
        let mut after = |step: usize, buffer: BufferId, values: &[f32]| {
            let reference = &reference[&buffer];
            let scale = reference.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
            for (x, y) in values.iter().zip(reference) {
                let off = (f64::from(*x) - y).abs();
                assert!(off <= 1e-4 * scale, "{}: {x} and {y}", plan.steps[step]);
            }
        };
        let cpu = Cpu::new(&model, 2, Precision::F32).unwrap();
        cpu.run(&model, &plan, &batch, &mut context, Watch::Buffers(&mut after));
    }

    /// Watched, every buffer is whole and float32; else products and attention write what the next one reads.
    #[test]
    fn a_watched_pass_has_the_same_bits() {
        for name in ["jina-hub", "bert"] {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/golden")
                .join(name);
            let mut model = Model::open(&folder).unwrap();
            let table = AdapterTable::new(std::mem::take(&mut model.adapters));
            let adapted = Site::ALL.iter().any(|&site| table.columns(site).1 > 0);
            let mut batch = Batch::new(table);
            // Rows enough for all threads to have whole ones.
            let lengths = [3, 1, 40, 17, 110, 120];
            assert!(lengths.iter().sum::<u32>() as usize >= WHOLE_ROWS);
            for length in lengths {
                let ids: Vec<u32> = (0..length).map(|i| 5 + i % 7).collect();
                let mixture = if adapted && length == 40 {
                    vec![(0, 0.5)]
                } else {
                    Vec::new()
                };
                batch.push(&ids, mixture);
            }
            batch.pools = (0..lengths.len())
                .map(|sequence| Pool {
                    sequence,
                    tokens: 0..batch.rows(sequence).len(),
                    kind: PoolKind::Mean,
                    dimensions: model.config.hidden_size,
                    normalize: true,
                    encoding: Encoding::F32,
                })
                .collect();
            let plan = Plan::cpu(
                &model.config,
                batch.shape(),
                Site::ALL.map(|site| batch.adapters.columns(site).1),
            );
            for precision in Cpu::PRECISIONS {
                let cpu = Cpu::new(&model, 2, precision).unwrap();
                let mut context = ExecContext::new(2);
                let plain = cpu
                    .run(&model, &plan, &batch, &mut context, Watch::Nothing)
                    .to_vec();
                let mut look = |_: usize, _: BufferId, _: &[f32]| ();
                let watched = cpu.run(&model, &plan, &batch, &mut context, Watch::Buffers(&mut look));
                assert!(
                    plain.iter().zip(watched).all(|(a, b)| a.to_bits() == b.to_bits()),
                    "{name} {precision}"
                );
            }
        }
    }
}
