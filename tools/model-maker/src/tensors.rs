//! Which tensors a model has: names, shapes and the spread of their random values.
//!
//! The spreads make a well-conditioned encoder. With `x` of unit variance (it comes out of a LayerNorm), q and k have a standard
//! deviation of about 1.3 and so attention logits of about 1.7: attention is neither uniform nor one-hot, and a wrong RoPE base is seen.
//! The outputs of `out_proj` and `fc2` stay below the residual stream, so that a text's own signal survives all the layers.

use crate::file::Tensor;
use crate::values::{Key, Part};
use crate::{Family, Layout, ModelSpec, TASKS};

const EMBEDDING_STD: f32 = 0.8;
const TOKEN_TYPE_STD: f32 = 0.1;
const POSITION_STD: f32 = 0.3;
const BIAS_STD: f32 = 0.05;
const NORM_STD: f32 = 0.1;

/// What a weight does; decides the spread of its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `[vocab, hidden]`
    WordEmbedding,
    /// `[types, hidden]`
    TokenTypeEmbedding,
    /// q, k and v, packed or not.
    Qkv,
    AttentionOut,
    Fc1,
    Fc2,
    Pooler,
}

impl Role {
    pub fn is_embedding(self) -> bool {
        matches!(self, Self::WordEmbedding | Self::TokenTypeEmbedding)
    }

    /// Standard deviation of the weight; `inputs` is the length of the vectors that it multiplies.
    pub fn std(self, inputs: usize) -> f32 {
        let unit = 1.0 / (inputs as f32).sqrt();
        match self {
            Self::WordEmbedding => EMBEDDING_STD,
            Self::TokenTypeEmbedding => TOKEN_TYPE_STD,
            Self::Qkv => 1.3 * unit,
            Self::AttentionOut => 0.6 * unit,
            Self::Fc1 => 1.2 * unit,
            Self::Fc2 => 0.7 * unit,
            Self::Pooler => unit,
        }
    }
}

/// A weight matrix: linear weights are `[rows = outputs, cols = inputs]`, embedding tables `[rows = entries, cols = hidden]`.
#[derive(Debug, Clone)]
pub struct Weight {
    pub name: String,
    pub role: Role,
    pub rows: usize,
    pub cols: usize,
}

impl Weight {
    pub fn new(name: impl Into<String>, role: Role, rows: usize, cols: usize) -> Self {
        Self {
            name: name.into(),
            role,
            rows,
            cols,
        }
    }

    pub fn std(&self) -> f32 {
        self.role.std(self.cols)
    }
}

/// Standard deviations of A and B for which the Frobenius norm of `alpha/rank · B·A` is about `strength` times that of the weight.
///
/// `|B·A| ≈ sqrt(rows · cols · rank) · a · b` and `|W| ≈ sqrt(rows · cols) · std`.
pub fn adapter_stds(weight: &Weight, rank: usize, alpha: f64, strength: f64) -> (f32, f32) {
    let a = if weight.role.is_embedding() {
        1.0
    } else {
        1.0 / (weight.cols as f64).sqrt()
    };
    let b = strength * f64::from(weight.std()) * (rank as f64).sqrt() / (alpha * a);
    (a as f32, b as f32)
}

fn vector(spec: &ModelSpec, name: &str, mean: f32, std: f32, len: usize) -> Tensor {
    let key = Key::new(spec.seed, name);
    let part = Part {
        mean,
        ..Part::matrix(key, std, 1, len)
    };
    Tensor {
        name: name.into(),
        shape: vec![len],
        parts: vec![part],
    }
}

fn bias(spec: &ModelSpec, module: &str, len: usize) -> Tensor {
    vector(spec, &format!("{module}.bias"), 0.0, BIAS_STD, len)
}

fn norm(spec: &ModelSpec, module: &str) -> [Tensor; 2] {
    [
        vector(spec, &format!("{module}.weight"), 1.0, NORM_STD, spec.hidden),
        vector(spec, &format!("{module}.bias"), 0.0, NORM_STD, spec.hidden),
    ]
}

fn matrix(spec: &ModelSpec, name: &str, std: f32, rows: usize, cols: usize) -> Tensor {
    let part = Part::matrix(Key::new(spec.seed, name), std, rows, cols);
    Tensor {
        name: name.into(),
        shape: vec![rows, cols],
        parts: vec![part],
    }
}

/// The weights of a jina model that have adapters, under their hub names without prefix and ending.
pub fn jina_weights(spec: &ModelSpec) -> Vec<Weight> {
    let (h, f) = (spec.hidden, spec.ffn);
    let mut all = vec![
        Weight::new("embeddings.word_embeddings", Role::WordEmbedding, spec.vocab, h),
        Weight::new("embeddings.token_type_embeddings", Role::TokenTypeEmbedding, 1, h),
    ];
    for n in 0..spec.layers {
        let layer = format!("encoder.layers.{n}");
        all.push(Weight::new(format!("{layer}.mixer.Wqkv"), Role::Qkv, 3 * h, h));
        all.push(Weight::new(
            format!("{layer}.mixer.out_proj"),
            Role::AttentionOut,
            h,
            h,
        ));
        all.push(Weight::new(format!("{layer}.mlp.fc1"), Role::Fc1, f, h));
        all.push(Weight::new(format!("{layer}.mlp.fc2"), Role::Fc2, h, f));
    }
    all.push(Weight::new("pooler.dense", Role::Pooler, h, h));
    all
}

/// The tensors of the main file(s).
pub fn model_tensors(spec: &ModelSpec) -> Vec<Tensor> {
    match spec.family {
        Family::Jina => jina_tensors(spec),
        Family::Bert | Family::XlmRoberta => bert_tensors(spec),
    }
}

fn jina_tensors(spec: &ModelSpec) -> Vec<Tensor> {
    let mut all = Vec::new();
    all.extend(norm(spec, "emb_ln"));
    for n in 0..spec.layers {
        all.extend(norm(spec, &format!("encoder.layers.{n}.norm1")));
        all.extend(norm(spec, &format!("encoder.layers.{n}.norm2")));
    }
    for weight in jina_weights(spec) {
        if !weight.role.is_embedding() {
            all.push(bias(spec, &weight.name, weight.rows));
        }
        let mut base = matrix(
            spec,
            &format!("{}.weight", weight.name),
            weight.std(),
            weight.rows,
            weight.cols,
        );
        if spec.layout == Layout::Hub {
            let level = format!("{}.parametrizations.weight", weight.name);
            base.name = format!("{level}.original");
            all.extend(stacked_adapters(spec, &weight, &level));
        }
        all.push(base);
    }
    if spec.layout == Layout::Hub {
        for tensor in &mut all {
            tensor.name.insert_str(0, "roberta.");
        }
    }
    all
}

/// Linear: A `[tasks, rank, in]`, B `[tasks, out, rank]`. Embedding: A `[tasks, entries, rank]`, B `[tasks, rank, hidden]`.
fn stacked_adapters(spec: &ModelSpec, weight: &Weight, level: &str) -> [Tensor; 2] {
    let (rank, tasks) = (spec.rank, TASKS.len());
    let ((a_rows, a_cols), (b_rows, b_cols)) = if weight.role.is_embedding() {
        ((weight.rows, rank), (rank, weight.cols))
    } else {
        ((rank, weight.cols), (weight.rows, rank))
    };
    let (a_std, b_std) = adapter_stds(weight, rank, spec.alpha, spec.adapter_strength);
    let stack = |which: &str, std, rows, cols| Tensor {
        name: format!("{level}.0.lora_{which}"),
        shape: vec![tasks, rows, cols],
        parts: (0..tasks)
            .map(|task| Part::matrix(adapter_key(spec, weight, which, task), std, rows, cols))
            .collect(),
    };
    [
        stack("A", a_std, a_rows, a_cols),
        stack("B", b_std, b_rows, b_cols),
    ]
}

fn adapter_key(spec: &ModelSpec, weight: &Weight, which: &str, task: usize) -> Key {
    Key::new(spec.seed, &format!("{}.lora_{which}.{task}", weight.name))
}

/// The PEFT adapter of one task: the same numbers as in the hub layout. q, k and v share the packed A and split B by rows; the
/// matrices of embeddings are transposed.
pub fn task_adapter_tensors(spec: &ModelSpec, task: usize) -> Vec<Tensor> {
    let rank = spec.rank;
    let mut all = Vec::new();
    for weight in jina_weights(spec) {
        let (a_std, b_std) = adapter_stds(&weight, rank, spec.alpha, spec.adapter_strength);
        let a_key = adapter_key(spec, &weight, "A", task);
        let b_key = adapter_key(spec, &weight, "B", task);
        if weight.role.is_embedding() {
            let turned = |key, std, rows, cols| Part {
                transpose: true,
                ..Part::matrix(key, std, rows, cols)
            };
            all.extend(peft_pair(
                &weight.name,
                true,
                turned(a_key, a_std, rank, weight.rows),
                turned(b_key, b_std, weight.cols, rank),
            ));
            continue;
        }
        let targets = native_modules(&weight.name);
        let rows = weight.rows / targets.len();
        for (i, module) in targets.iter().enumerate() {
            let a = Part::matrix(a_key, a_std, rank, weight.cols);
            let b = Part {
                start: i * rows * rank,
                ..Part::matrix(b_key, b_std, rows, rank)
            };
            all.extend(peft_pair(module, false, a, b));
        }
    }
    all
}

/// The names of transformers' modules for a hub weight: three for the packed `Wqkv`, one for any other.
fn native_modules(name: &str) -> Vec<String> {
    let name = name
        .replace("encoder.layers", "layers")
        .replace("mixer.out_proj", "self_attn.o_proj");
    match name.strip_suffix("mixer.Wqkv") {
        Some(layer) => ["q_proj", "k_proj", "v_proj"]
            .map(|module| format!("{layer}self_attn.{module}"))
            .into(),
        None => vec![name],
    }
}

/// The two tensors of a module's adapter, named as PEFT names them.
pub fn peft_pair(module: &str, embedding: bool, a: Part, b: Part) -> [Tensor; 2] {
    let tensor = |which: &str, part: Part| Tensor {
        name: if embedding {
            format!("base_model.model.{module}.lora_embedding_{which}")
        } else {
            format!("base_model.model.{module}.lora_{which}.weight")
        },
        shape: vec![part.rows, part.cols],
        parts: vec![part],
    };
    [tensor("A", a), tensor("B", b)]
}

/// The weights of a BERT or XLM-RoBERTa layer, under their names in the checkpoint.
pub fn bert_layer_weights(layer: usize, h: usize, f: usize) -> [Weight; 6] {
    let name = |module: &str| format!("encoder.layer.{layer}.{module}");
    [
        Weight::new(name("attention.self.query"), Role::Qkv, h, h),
        Weight::new(name("attention.self.key"), Role::Qkv, h, h),
        Weight::new(name("attention.self.value"), Role::Qkv, h, h),
        Weight::new(name("attention.output.dense"), Role::AttentionOut, h, h),
        Weight::new(name("intermediate.dense"), Role::Fc1, f, h),
        Weight::new(name("output.dense"), Role::Fc2, h, f),
    ]
}

fn bert_tensors(spec: &ModelSpec) -> Vec<Tensor> {
    let h = spec.hidden;
    let table = |name: &str, std, rows| {
        matrix(
            spec,
            &format!("embeddings.{name}_embeddings.weight"),
            std,
            rows,
            h,
        )
    };
    let mut all = vec![
        table("word", EMBEDDING_STD, spec.vocab),
        table("position", POSITION_STD, spec.max_positions),
        table("token_type", TOKEN_TYPE_STD, spec.family.token_types()),
    ];
    all.extend(norm(spec, "embeddings.LayerNorm"));
    let mut linears = Vec::new();
    for n in 0..spec.layers {
        linears.extend(bert_layer_weights(n, h, spec.ffn));
        all.extend(norm(
            spec,
            &format!("encoder.layer.{n}.attention.output.LayerNorm"),
        ));
        all.extend(norm(spec, &format!("encoder.layer.{n}.output.LayerNorm")));
    }
    linears.push(Weight::new("pooler.dense", Role::Pooler, h, h));
    for weight in linears {
        all.push(matrix(
            spec,
            &format!("{}.weight", weight.name),
            weight.std(),
            weight.rows,
            weight.cols,
        ));
        all.push(bias(spec, &weight.name, weight.rows));
    }
    all
}
