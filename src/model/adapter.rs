//! LoRA adapters (arXiv 2106.09685), from the stacked tensors of a jina-embeddings-v3 checkpoint
//! or from PEFT folders, in one form: low-rank factors per place in the network.
//!
//! Adapters stay unmerged: `y = x Wᵀ + s·(x Aᵀ) Bᵀ` for a linear layer and
//! `e = W[id] + s·A[id] B` for an embedding, with `s = alpha / rank`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::error::{AdapterError, Error, Result};

use super::config::ModelConfig;
use super::weights::{Checkpoint, Tensor};

/// The linear layers that can be adapted, in the order a layer runs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// Queries, keys and values.
    Qkv,
    /// The attention's output projection.
    OutProj,
    /// Into the feed-forward layer.
    Fc1,
    /// Out of the feed-forward layer.
    Fc2,
}

impl Site {
    /// All of them.
    pub const ALL: [Site; 4] = [Site::Qkv, Site::OutProj, Site::Fc1, Site::Fc2];

    /// `(out_features, in_features)`.
    pub fn shape(self, config: &ModelConfig) -> (usize, usize) {
        let (h, f) = (config.hidden_size, config.intermediate_size);
        match self {
            Site::Qkv => (3 * h, h),
            Site::OutProj => (h, h),
            Site::Fc1 => (f, h),
            Site::Fc2 => (h, f),
        }
    }
}

/// A named adapter, all numbers finite.
#[derive(Debug)]
pub struct Adapter {
    /// The task's or the user's name for it.
    pub name: String,
    /// On the word embeddings.
    pub word: Option<EmbeddingLora>,
    /// On the token-type embeddings.
    pub token_type: Option<EmbeddingLora>,
    /// Per layer, per [`Site`].
    pub layers: Vec<[Vec<LoraPart>; 4]>,
}

/// The factors of one linear layer, or of the columns of it that one pair covers: separate
/// adapters of q, k and v are three parts of the packed projection.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraPart {
    /// Rows of both factors below.
    pub rank: usize,
    /// `alpha / rank`.
    pub scale: f32,
    /// A, `[rank, in_features]`.
    pub a: Vec<f32>,
    /// Bᵀ, `[rank, width]`.
    pub bt: Vec<f32>,
    /// First output column.
    pub column: usize,
    /// Output columns.
    pub width: usize,
}

/// The factors of an embedding table.
#[derive(Debug)]
pub struct EmbeddingLora {
    /// `[rows, rank]`, or `[rank, rows]` if `transposed`; left in the file.
    a: Tensor,
    transposed: bool,
    rank: usize,
    scale: f32,
    /// `[rank, hidden_size]`.
    b: Vec<f32>,
}

impl EmbeddingLora {
    /// Adds `weight·scale·A[row] B` to `out`, one rank after the other.
    pub fn add_row(&self, row: usize, weight: f32, out: &mut [f32]) {
        let width = out.len();
        for r in 0..self.rank {
            let factor = self.factor(row, r) * (weight * self.scale);
            for (x, b) in out.iter_mut().zip(&self.b[r * width..]) {
                *x += factor * b;
            }
        }
    }

    /// The same in float64, for the reference.
    #[cfg(any(test, feature = "inspect"))]
    pub(crate) fn add_row_f64(&self, row: usize, weight: f32, out: &mut [f64]) {
        let width = out.len();
        for r in 0..self.rank {
            let factor = f64::from(self.factor(row, r)) * f64::from(weight) * f64::from(self.scale);
            for (x, b) in out.iter_mut().zip(&self.b[r * width..]) {
                *x += factor * f64::from(*b);
            }
        }
    }

    /// Columns of A.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// `alpha / rank`.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// B, `[rank, hidden_size]`.
    pub fn b(&self) -> &[f32] {
        &self.b
    }

    /// Rows of A.
    pub fn rows(&self) -> usize {
        self.a.shape()[usize::from(self.transposed)]
    }

    /// Reads `out.len()` numbers of A as `[rows, rank]`, whatever the file's layout, from number `start` on.
    pub(crate) fn read_a(&self, start: usize, out: &mut [f32]) {
        if !self.transposed {
            return self.a.read_into(start, out);
        }
        for (index, x) in (start..).zip(out) {
            *x = self.factor(index / self.rank, index % self.rank);
        }
    }

    fn factor(&self, row: usize, r: usize) -> f32 {
        let index = if self.transposed {
            r * self.a.shape()[1] + row
        } else {
            row * self.rank + r
        };
        self.a.read_one(index)
    }
}

impl Adapter {
    /// The parts at `site` of layer `layer`. Panics if there is no such layer.
    pub fn parts(&self, layer: usize, site: Site) -> &[LoraPart] {
        &self.layers[layer][site as usize]
    }

    /// The sum of the ranks of the parts at a site, the same for every layer or the largest.
    pub fn rank(&self, site: Site) -> usize {
        let rank = |layer: &[Vec<LoraPart>; 4]| layer[site as usize].iter().map(|part| part.rank).sum();
        self.layers.iter().map(rank).max().unwrap_or(0)
    }

    /// Reads a PEFT folder (`adapter_config.json`, `adapter_model.safetensors`).
    pub fn read_peft(name: &str, folder: &Path, config: &ModelConfig) -> Result<Adapter> {
        let settings = PeftSettings::read(folder)?;
        let file = folder.join("adapter_model.safetensors");
        if !file.exists() && folder.join("adapter_model.bin").exists() {
            return Err(Error::model(
                folder,
                "only adapter_model.bin is here, and pickled weights are not read; save the adapter with safetensors",
            ));
        }
        let checkpoint = Checkpoint::open_file(&file)?;
        let mut pairs: BTreeMap<Target, Pair> = BTreeMap::new();
        for tensor in checkpoint.names() {
            let tensor = checkpoint.any(tensor)?;
            let (target, half) = Target::parse(&tensor, config)?;
            if target == Target::Unused {
                continue;
            }
            let pair = pairs.entry(target).or_default();
            let slot = if half == Half::A { &mut pair.a } else { &mut pair.b };
            if let Some(other) = slot {
                return Err(tensor.error(format!("means the same weight as `{}`", other.name())));
            }
            *slot = Some(tensor);
        }
        if pairs.is_empty() {
            return Err(Error::model(&file, "holds no LoRA factors of this model"));
        }
        let mut adapter = Adapter {
            name: name.into(),
            word: None,
            token_type: None,
            layers: (0..config.num_hidden_layers)
                .map(|_| Default::default())
                .collect(),
        };
        for (target, pair) in pairs {
            let (a, b) = pair.complete()?;
            match target {
                Target::Word => {
                    adapter.word = Some(settings.embedding(a, b, config.vocab_size, config.hidden_size)?)
                }
                Target::TokenType => {
                    adapter.token_type =
                        Some(settings.embedding(a, b, config.type_vocab_size, config.hidden_size)?)
                }
                Target::Linear { layer, site, third } => {
                    let part = settings.linear(&a, &b, site, third, config)?;
                    adapter.layers[layer][site as usize].push(part);
                }
                Target::Unused => {}
            }
        }
        for (number, layer) in adapter.layers.iter_mut().enumerate() {
            let qkv = &layer[Site::Qkv as usize];
            if qkv.len() > 1 && qkv.iter().any(|part| part.width == 3 * config.hidden_size) {
                return Err(Error::model(
                    &file,
                    format!(
                        "layer {number} has factors of Wqkv and of query, key or value; wanted one or the other"
                    ),
                ));
            }
            merge_shared(&mut layer[Site::Qkv as usize]);
        }
        Ok(adapter)
    }
}

/// Where q, k and v share A, as in jina-embeddings-v3, their three parts are one.
fn merge_shared(parts: &mut Vec<LoraPart>) {
    let [q, k, v] = parts.as_slice() else { return };
    let w = q.width;
    let same = |x: &LoraPart, column: usize| {
        x.width == w && x.column == column && x.rank == q.rank && x.scale == q.scale && x.a == q.a
    };
    if !(same(q, 0) && same(k, w) && same(v, 2 * w)) {
        return;
    }
    let bt = (0..q.rank)
        .flat_map(|r| {
            [q, k, v]
                .into_iter()
                .flat_map(move |part| part.bt[r * w..(r + 1) * w].iter().copied())
        })
        .collect();
    *parts = vec![LoraPart {
        bt,
        width: 3 * w,
        ..q.clone()
    }];
}

/// Reads the adapters of a stacked checkpoint, one per task that the configuration names.
pub(crate) fn read_stacked(config: &ModelConfig, checkpoint: &Checkpoint) -> Result<Vec<Adapter>> {
    let count = config.tasks.len();
    if count == 0 {
        return Ok(Vec::new());
    }
    let stacked = Stacked {
        checkpoint,
        prefix: if checkpoint.contains("embeddings.word_embeddings.parametrizations.weight.original") {
            ""
        } else {
            "roberta."
        },
        count,
        rank: config.lora_rank,
        scale: config.lora_alpha / config.lora_rank as f32,
    };
    let read = |(index, task): (usize, &super::TaskConfig)| -> Result<Adapter> {
        let layer = |n: usize| -> Result<[Vec<LoraPart>; 4]> {
            let at = |site: Site| -> Result<Vec<LoraPart>> {
                let module = match site {
                    Site::Qkv => "mixer.Wqkv",
                    Site::OutProj => "mixer.out_proj",
                    Site::Fc1 => "mlp.fc1",
                    Site::Fc2 => "mlp.fc2",
                };
                let (out, input) = site.shape(config);
                Ok(vec![stacked.linear(
                    &format!("encoder.layers.{n}.{module}"),
                    index,
                    out,
                    input,
                )?])
            };
            Ok([at(Site::Qkv)?, at(Site::OutProj)?, at(Site::Fc1)?, at(Site::Fc2)?])
        };
        Ok(Adapter {
            name: task.name.clone(),
            word: Some(stacked.embedding("word", index, config.vocab_size, config.hidden_size)?),
            token_type: Some(stacked.embedding(
                "token_type",
                index,
                config.type_vocab_size,
                config.hidden_size,
            )?),
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_>>()?,
        })
    };
    use rayon::prelude::*;
    config.tasks.par_iter().enumerate().map(read).collect()
}

/// The stacked layout: one tensor holds one factor of all tasks.
struct Stacked<'a> {
    checkpoint: &'a Checkpoint,
    prefix: &'static str,
    count: usize,
    rank: usize,
    scale: f32,
}

impl Stacked<'_> {
    /// Factor `which` of a module for one task; the whole stack's shape is checked.
    fn factor(&self, module: &str, which: &str, index: usize, shape: [usize; 2]) -> Result<Tensor> {
        let name = format!("{}{module}.parametrizations.weight.0.{which}", self.prefix);
        let tensor = self
            .checkpoint
            .get(&name, &[self.count, shape[0], shape[1]])?
            .index(index);
        tensor.check_finite()?;
        Ok(tensor)
    }

    fn linear(&self, module: &str, index: usize, out: usize, input: usize) -> Result<LoraPart> {
        let a = self.factor(module, "lora_A", index, [self.rank, input])?;
        let b = self.factor(module, "lora_B", index, [out, self.rank])?;
        let bt = transpose(&b.read(), out, self.rank);
        Ok(LoraPart {
            rank: self.rank,
            scale: self.scale,
            a: a.read(),
            bt,
            column: 0,
            width: out,
        })
    }

    fn embedding(&self, table: &str, index: usize, rows: usize, width: usize) -> Result<EmbeddingLora> {
        let module = format!("embeddings.{table}_embeddings");
        let a = self.factor(&module, "lora_A", index, [rows, self.rank])?;
        let b = self.factor(&module, "lora_B", index, [self.rank, width])?.read();
        Ok(EmbeddingLora {
            a,
            transposed: false,
            rank: self.rank,
            scale: self.scale,
            b,
        })
    }
}

/// What a PEFT tensor adapts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Word,
    TokenType,
    /// `third`: 0, 1, 2 for q, k, v; none for the whole layer.
    Linear {
        layer: usize,
        site: Site,
        third: Option<usize>,
    },
    /// The pooler, which no embedding uses.
    Unused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    A,
    B,
}

#[derive(Default)]
struct Pair {
    a: Option<Tensor>,
    b: Option<Tensor>,
}

impl Pair {
    fn complete(self) -> Result<(Tensor, Tensor)> {
        match (self.a, self.b) {
            (Some(a), Some(b)) => Ok((a, b)),
            (Some(a), None) => Err(a.error("has no matching B factor")),
            (None, Some(b)) => Err(b.error("has no matching A factor")),
            (None, None) => unreachable!("an entry is made for a tensor"),
        }
    }
}

impl Target {
    /// From a name such as `base_model.model.encoder.layer.0.attention.self.query.lora_A.weight`.
    fn parse(tensor: &Tensor, config: &ModelConfig) -> Result<(Target, Half)> {
        let name = tensor.name();
        let unknown = || {
            tensor.error(
                "is not a LoRA factor this model can use; supported targets are word_embeddings, \
                 token_type_embeddings, query/key/value (q_proj, k_proj, v_proj, Wqkv), the attention's output \
                 (o_proj, out_proj, attention.output.dense), fc1 (intermediate.dense) and fc2 (output.dense)",
            )
        };
        let halves = [
            (".lora_A.weight", Half::A),
            (".lora_B.weight", Half::B),
            (".lora_embedding_A", Half::A),
            (".lora_embedding_B", Half::B),
        ];
        let (module, half) = halves
            .iter()
            .find_map(|(suffix, half)| Some((name.strip_suffix(suffix)?, *half)))
            .ok_or_else(unknown)?;
        let mut module = module.strip_prefix("base_model.model.").unwrap_or(module);
        for prefix in ["model.", "roberta.", "bert."] {
            module = module.strip_prefix(prefix).unwrap_or(module);
        }
        match module {
            "embeddings.word_embeddings" => return Ok((Target::Word, half)),
            "embeddings.token_type_embeddings" => return Ok((Target::TokenType, half)),
            "pooler.dense" => return Ok((Target::Unused, half)),
            _ => {}
        }
        let module = module.strip_prefix("encoder.").unwrap_or(module);
        let module = module
            .strip_prefix("layers.")
            .or_else(|| module.strip_prefix("layer."))
            .ok_or_else(unknown)?;
        let (number, rest) = module.split_once('.').ok_or_else(unknown)?;
        let layer: usize = number.parse().map_err(|_| unknown())?;
        if layer >= config.num_hidden_layers {
            return Err(tensor.error(format!("the model has {} layers only", config.num_hidden_layers)));
        }
        let (site, third) = match rest {
            "mixer.Wqkv" => (Site::Qkv, None),
            "self_attn.q_proj" | "attention.self.query" => (Site::Qkv, Some(0)),
            "self_attn.k_proj" | "attention.self.key" => (Site::Qkv, Some(1)),
            "self_attn.v_proj" | "attention.self.value" => (Site::Qkv, Some(2)),
            "self_attn.o_proj" | "mixer.out_proj" | "attention.output.dense" => (Site::OutProj, None),
            "mlp.fc1" | "intermediate.dense" => (Site::Fc1, None),
            "mlp.fc2" | "output.dense" => (Site::Fc2, None),
            _ => return Err(unknown()),
        };
        Ok((Target::Linear { layer, site, third }, half))
    }
}

/// The parts of `adapter_config.json` that change what is computed.
struct PeftSettings {
    rank: usize,
    scale: f32,
}

impl PeftSettings {
    fn read(folder: &Path) -> Result<PeftSettings> {
        let path = folder.join("adapter_config.json");
        let json = super::read_json(&path)?;
        let error = |problem: String| Error::model(&path, problem);
        let kind = json.get("peft_type").and_then(Value::as_str).unwrap_or("missing");
        if kind != "LORA" {
            return Err(error(format!(
                "peft_type is {kind}; only LORA adapters are supported"
            )));
        }
        // Each of these changes the formula; none is silently ignored.
        for key in ["use_dora", "fan_in_fan_out", "lora_bias"] {
            if json.get(key).and_then(Value::as_bool) == Some(true) {
                return Err(error(format!("{key} is true, which is not supported")));
            }
        }
        if !matches!(json.get("bias").and_then(Value::as_str), None | Some("none")) {
            return Err(error(
                "bias is not \"none\"; adapters that train biases are not supported".into(),
            ));
        }
        for key in [
            "rank_pattern",
            "alpha_pattern",
            "modules_to_save",
            "layer_replication",
        ] {
            let empty = match json.get(key) {
                None | Some(Value::Null) => true,
                Some(Value::Object(map)) => map.is_empty(),
                Some(Value::Array(list)) => list.is_empty(),
                Some(_) => false,
            };
            if !empty {
                return Err(error(format!("{key} is set, which is not supported")));
            }
        }
        let rank = json
            .get("r")
            .and_then(Value::as_u64)
            .filter(|r| (1..=4096).contains(r));
        let rank = rank.ok_or_else(|| {
            let found = json.get("r").map_or("missing".into(), Value::to_string);
            error(format!("r is {found}; wanted 1 to 4096"))
        })? as usize;
        let alpha = json
            .get("lora_alpha")
            .and_then(Value::as_f64)
            .filter(|a| a.abs() <= f64::from(f32::MAX));
        let alpha = alpha.ok_or_else(|| error("lora_alpha is missing or not a finite number".into()))?;
        // Rank-stabilised LoRA, arXiv 2312.03732.
        let stabilised = json.get("use_rslora").and_then(Value::as_bool) == Some(true);
        let divisor = if stabilised {
            (rank as f64).sqrt()
        } else {
            rank as f64
        };
        Ok(PeftSettings {
            rank,
            scale: (alpha / divisor) as f32,
        })
    }

    fn linear(
        &self,
        a: &Tensor,
        b: &Tensor,
        site: Site,
        third: Option<usize>,
        config: &ModelConfig,
    ) -> Result<LoraPart> {
        let (out, input) = site.shape(config);
        let width = if third.is_some() { out / 3 } else { out };
        check(a, [self.rank, input])?;
        check(b, [width, self.rank])?;
        Ok(LoraPart {
            rank: self.rank,
            scale: self.scale,
            a: a.read(),
            bt: transpose(&b.read(), width, self.rank),
            column: third.unwrap_or(0) * width,
            width,
        })
    }

    fn embedding(&self, a: Tensor, b: Tensor, rows: usize, width: usize) -> Result<EmbeddingLora> {
        check(&a, [self.rank, rows])?;
        check(&b, [width, self.rank])?;
        let b = transpose(&b.read(), width, self.rank);
        Ok(EmbeddingLora {
            a,
            transposed: true,
            rank: self.rank,
            scale: self.scale,
            b,
        })
    }
}

fn check(tensor: &Tensor, shape: [usize; 2]) -> Result<()> {
    if tensor.shape() != shape {
        return Err(tensor.error(format!(
            "has shape {:?}; the rank in adapter_config.json and the model want {shape:?}",
            tensor.shape()
        )));
    }
    tensor.check_finite()
}

/// `[rows, columns]` → `[columns, rows]`.
fn transpose(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns)
        .flat_map(|c| (0..rows).map(move |r| x[r * columns + c]))
        .collect()
}

/// The adapters of an engine. A slot, and a range of columns in every site's down-projection, are given
/// when an adapter is added and kept until it is dropped, so that nothing about an adapter's arithmetic
/// changes when others come and go.
#[derive(Clone, Debug, Default)]
pub struct AdapterTable {
    slots: Vec<Option<Slot>>,
}

/// A loaded adapter and its columns.
#[derive(Clone, Debug)]
struct Slot {
    adapter: std::sync::Arc<Adapter>,
    /// First column per site.
    starts: [usize; 4],
}

impl Slot {
    fn columns(&self, site: Site) -> std::ops::Range<usize> {
        let start = self.starts[site as usize];
        start..start + self.adapter.rank(site)
    }
}

impl AdapterTable {
    /// A table that starts with the model's own adapters.
    pub fn new(adapters: Vec<Adapter>) -> AdapterTable {
        let mut table = AdapterTable::default();
        adapters.into_iter().for_each(|adapter| table.insert(adapter));
        table
    }

    /// The slot of `name`.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.slots
            .iter()
            .position(|slot| slot.as_ref().is_some_and(|s| s.adapter.name == name))
    }

    /// The adapter in `slot`.
    ///
    /// Panics if it is empty: slots come from [`find`](Self::find) on the same table.
    pub fn get(&self, slot: usize) -> &std::sync::Arc<Adapter> {
        let slot = self.slots[slot].as_ref();
        &slot.expect("slots come from find on the same table").adapter
    }

    /// How many slots there are, empty ones included.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// By slot.
    pub fn by_slot(&self) -> Vec<Option<std::sync::Arc<Adapter>>> {
        let adapter = |slot: &Option<Slot>| slot.as_ref().map(|slot| slot.adapter.clone());
        self.slots.iter().map(adapter).collect()
    }

    /// The adapters that are loaded, with their slots.
    pub fn loaded(&self) -> impl Iterator<Item = (usize, &std::sync::Arc<Adapter>)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(number, slot)| Some((number, &slot.as_ref()?.adapter)))
    }

    /// The names, by slot.
    pub fn names(&self) -> Vec<String> {
        self.loaded().map(|(_, adapter)| adapter.name.clone()).collect()
    }

    /// Puts an adapter into the first free slot.
    pub fn add(&mut self, adapter: Adapter) -> Result<()> {
        if self.find(&adapter.name).is_some() {
            return Err(Error::adapter(&adapter.name, AdapterError::NameTaken));
        }
        self.insert(adapter);
        Ok(())
    }

    fn insert(&mut self, adapter: Adapter) {
        let starts = Site::ALL.map(|site| {
            let mut taken: Vec<_> = self
                .slots
                .iter()
                .flatten()
                .map(|slot| slot.columns(site))
                .collect();
            taken.sort_unstable_by_key(|range| range.start);
            first_gap(&taken, adapter.rank(site))
        });
        let slot = Some(Slot {
            adapter: adapter.into(),
            starts,
        });
        match self.slots.iter_mut().find(|slot| slot.is_none()) {
            Some(free) => *free = slot,
            None => self.slots.push(slot),
        }
    }

    /// Empties the slot of `name`. Batches that use it keep it until they are done.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        let not_loaded = || {
            let loaded = self.names();
            Error::adapter(name, AdapterError::NotLoaded { loaded })
        };
        let slot = self.find(name).ok_or_else(not_loaded)?;
        self.slots[slot] = None;
        Ok(())
    }

    /// First column of each slot's part of the down-projection at `site`, and the columns in all, a
    /// multiple of [`COLUMN_STEP`]; columns between and behind the parts are zero.
    pub fn columns(&self, site: Site) -> (Vec<usize>, usize) {
        let start = |slot: &Option<Slot>| slot.as_ref().map_or(0, |slot| slot.columns(site).start);
        let ends = self.slots.iter().flatten().map(|slot| slot.columns(site).end);
        let total = ends.max().unwrap_or(0).next_multiple_of(COLUMN_STEP);
        (self.slots.iter().map(start).collect(), total)
    }
}

/// Columns of a down-projection are padded to a multiple of this.
pub const COLUMN_STEP: usize = crate::gpu::params::LORA_COLUMN_STEP as usize;

/// The first place for `width` columns beside the ranges that are taken, which ascend and do not overlap.
fn first_gap(taken: &[std::ops::Range<usize>], width: usize) -> usize {
    let mut start = 0;
    for range in taken {
        if start + width <= range.start {
            break;
        }
        start = start.max(range.end);
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An adapter of one layer with this rank at every site.
    fn adapter(name: &str, rank: usize) -> Adapter {
        let part = LoraPart {
            rank,
            scale: 1.0,
            a: vec![0.0; rank],
            bt: vec![0.0; rank],
            column: 0,
            width: 1,
        };
        Adapter {
            name: name.into(),
            word: None,
            token_type: None,
            layers: vec![[(); 4].map(|()| vec![part.clone()])],
        }
    }

    proptest! {
        #[test]
        fn columns_keep_their_place(steps in prop::collection::vec((0usize..8, 0usize..20, any::<bool>()), 1..40)) {
            let mut table = AdapterTable::default();
            let mut before: BTreeMap<String, (usize, usize)> = BTreeMap::new();
            for (number, (victim, rank, add)) in steps.into_iter().enumerate() {
                let names = table.names();
                if add {
                    table.add(adapter(&number.to_string(), rank)).unwrap();
                } else if let Some(name) = names.get(victim) {
                    table.remove(name).unwrap();
                }
                let (starts, total) = table.columns(Site::Fc1);
                let mut uses = vec![0; total];
                let mut now = BTreeMap::new();
                for (slot, adapter) in table.loaded() {
                    let columns = starts[slot]..starts[slot] + adapter.rank(Site::Fc1);
                    uses[columns].iter_mut().for_each(|uses| *uses += 1);
                    now.insert(adapter.name.clone(), (slot, starts[slot]));
                }
                prop_assert!(uses.iter().all(|&uses| uses <= 1), "two have the same column");
                prop_assert_eq!(total % COLUMN_STEP, 0);
                prop_assert!(uses.iter().rev().take_while(|&&uses| uses == 0).count() < COLUMN_STEP);
                for (name, place) in &now {
                    prop_assert!(before.get(name).is_none_or(|before| before == place), "{} moved", name);
                }
                // The one that came could not begin any earlier.
                if let Some((slot, adapter)) = table.loaded().find(|(_, a)| !before.contains_key(&a.name)) {
                    let own = starts[slot]..starts[slot] + adapter.rank(Site::Fc1);
                    let free = |first: usize| (first..first + own.len()).all(|column| {
                        uses.get(column).is_none_or(|&uses| uses == 0) || own.contains(&column)
                    });
                    prop_assert!(own.is_empty() || (0..own.start).all(|first| !free(first)));
                }
                before = now;
            }
        }
    }
}
