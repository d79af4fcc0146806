//! A PEFT adapter as a user would train it for a model folder: any rank, any choice of modules.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::config::peft_config;
use crate::tensors::{Role, Weight, adapter_stds, bert_layer_weights, peft_pair};
use crate::values::{Key, Part};
use crate::{Dtype, create_folder, file, write_json};

/// An adapter to be written by [`write_adapter`].
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterSpec {
    /// Folder of the model that the adapter is for; only its `config.json` is read.
    pub base: PathBuf,
    /// The adapter goes into a sub-folder of this name, as PEFT saves one with a name; without it, into the folder itself.
    pub name: Option<String>,
    pub rank: usize,
    pub alpha: f64,
    /// Modules to adapt, matched by the end of their names as PEFT does it: `query`, `attention.output.dense`, `q_proj`, …
    /// None: query and value.
    pub targets: Vec<String>,
    /// Frobenius norm of `alpha/rank · B·A` relative to the usual norm of its weight.
    pub strength: f64,
    pub dtype: Dtype,
    pub seed: u64,
    pub force: bool,
}

impl AdapterSpec {
    /// Rank 8, alpha 16, query and value, f32: what a first fine-tuning looks like.
    pub fn new(base: impl Into<PathBuf>) -> Self {
        Self {
            base: base.into(),
            name: None,
            rank: 8,
            alpha: 16.0,
            targets: Vec::new(),
            strength: 0.3,
            dtype: Dtype::F32,
            seed: 1,
            force: false,
        }
    }
}

/// What an adapter needs to know of its model.
struct Base {
    class: &'static str,
    module: &'static str,
    default_targets: [&'static str; 2],
    /// Every module that can be adapted, under its name in transformers.
    weights: Vec<Weight>,
}

fn read_base(folder: &Path) -> Result<Base> {
    let path = folder.join("config.json");
    let text = fs::read_to_string(&path).with_context(|| {
        format!(
            "could not read {}; --base takes the folder of a model",
            path.display()
        )
    })?;
    let config: Value =
        serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))?;
    let size = |key: &str| -> Result<usize> {
        config[key]
            .as_u64()
            .filter(|value| (1..=1 << 24).contains(value))
            .map(|value| value as usize)
            .with_context(|| format!("{}: `{key}` is missing or is no usable size", path.display()))
    };
    let (v, h, f, layers) = (
        size("vocab_size")?,
        size("hidden_size")?,
        size("intermediate_size")?,
        size("num_hidden_layers")?,
    );
    ensure!(
        layers <= 1 << 12,
        "{}: {layers} layers are more than an encoder has",
        path.display()
    );
    let types = size("type_vocab_size")?;
    let rotary = config["position_embedding_type"] == "rotary";
    let (class, module, jina) = match config["model_type"].as_str() {
        Some("jina_embeddings_v3") => ("JinaEmbeddingsV3Model", "jina_embeddings_v3", true),
        Some("xlm-roberta") | None if rotary => ("JinaEmbeddingsV3Model", "jina_embeddings_v3", true),
        Some("xlm-roberta") => ("XLMRobertaModel", "xlm_roberta", false),
        Some("bert") => ("BertModel", "bert", false),
        other => bail!(
            "{}: model_type is {}; known are bert, xlm-roberta and jina_embeddings_v3",
            path.display(),
            other.unwrap_or("missing")
        ),
    };
    let mut weights = vec![
        Weight::new("embeddings.word_embeddings", Role::WordEmbedding, v, h),
        Weight::new(
            "embeddings.token_type_embeddings",
            Role::TokenTypeEmbedding,
            types,
            h,
        ),
    ];
    for n in 0..layers {
        if jina {
            for name in ["q_proj", "k_proj", "v_proj"] {
                weights.push(Weight::new(
                    format!("layers.{n}.self_attn.{name}"),
                    Role::Qkv,
                    h,
                    h,
                ));
            }
            weights.push(Weight::new(
                format!("layers.{n}.self_attn.o_proj"),
                Role::AttentionOut,
                h,
                h,
            ));
            weights.push(Weight::new(format!("layers.{n}.mlp.fc1"), Role::Fc1, f, h));
            weights.push(Weight::new(format!("layers.{n}.mlp.fc2"), Role::Fc2, h, f));
        } else {
            weights.extend(bert_layer_weights(n, h, f));
        }
    }
    weights.push(Weight::new("pooler.dense", Role::Pooler, h, h));
    let default_targets = if jina {
        ["q_proj", "v_proj"]
    } else {
        ["query", "value"]
    };
    Ok(Base {
        class,
        module,
        default_targets,
        weights,
    })
}

/// Writes `adapter_config.json` and `adapter_model.safetensors` into `out`, or into its sub-folder where the spec has a name.
///
/// The tensors have the names that PEFT gives them for transformers' bare model (`BertModel`, `XLMRobertaModel`,
/// `JinaEmbeddingsV3Model`): `base_model.model.encoder.layer.0.attention.self.query.lora_A.weight`.
///
/// # Errors
/// A base without a usable `config.json`, targets that match no module, an adapter that exists already (without `force`).
pub fn write_adapter(spec: &AdapterSpec, out: &Path) -> Result<PathBuf> {
    ensure!(
        (1..=1 << 12).contains(&spec.rank),
        "--rank {}: must be from 1 to 4096",
        spec.rank
    );
    ensure!(
        spec.alpha.is_finite() && spec.alpha > 0.0,
        "--alpha {}: must be above 0",
        spec.alpha
    );
    ensure!(
        spec.strength.is_finite() && spec.strength >= 0.0,
        "--strength {}: must be 0 or above",
        spec.strength
    );
    let folder = match spec.name.as_deref() {
        None => out.to_path_buf(),
        Some(name) if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\']) => {
            bail!("--name {name:?}: must be the plain name of a folder")
        }
        Some(name) => out.join(name),
    };
    let base = read_base(&spec.base)?;
    let targets: Vec<&str> = if spec.targets.is_empty() {
        base.default_targets.into()
    } else {
        spec.targets.iter().map(String::as_str).collect()
    };
    for target in &targets {
        if !base.weights.iter().any(|weight| matches(&weight.name, target)) {
            let layer = base
                .weights
                .iter()
                .filter(|w| !w.name.contains("layer") || w.name.contains(".0."));
            let known: Vec<&str> = layer.map(|w| w.name.as_str()).collect();
            bail!(
                "--targets {target:?} is the end of no module's name; the modules are {}",
                known.join(", ")
            );
        }
    }
    let config_path = folder.join("adapter_config.json");
    if config_path.exists() && !spec.force {
        bail!(
            "{} holds an adapter already; give another folder, or --force to replace it",
            folder.display()
        );
    }

    let mut tensors = Vec::new();
    for weight in base
        .weights
        .iter()
        .filter(|w| targets.iter().any(|target| matches(&w.name, target)))
    {
        let (a_std, b_std) = adapter_stds(weight, spec.rank, spec.alpha, spec.strength);
        let key = |which: &str| Key::new(spec.seed, &format!("user.{}.lora_{which}", weight.name));
        // An embedding's A has a column for each entry of the table, its B a row for each hidden dimension.
        let (ins, outs) = if weight.role.is_embedding() {
            (weight.rows, weight.cols)
        } else {
            (weight.cols, weight.rows)
        };
        let a = Part::matrix(key("A"), a_std, spec.rank, ins);
        let b = Part::matrix(key("B"), b_std, outs, spec.rank);
        tensors.extend(peft_pair(&weight.name, weight.role.is_embedding(), a, b));
    }
    create_folder(&folder)?;
    let base_name = spec.base.to_string_lossy();
    let config = peft_config(
        base.class,
        base.module,
        Some(&base_name),
        spec.rank,
        spec.alpha,
        &targets,
    );
    file::write_file(&folder.join("adapter_model.safetensors"), tensors, spec.dtype)?;
    write_json(&config_path, &config)?;
    Ok(folder)
}

/// PEFT's rule for a list of targets: the whole name, or the end of it after a dot.
fn matches(module: &str, target: &str) -> bool {
    module
        .strip_suffix(target)
        .is_some_and(|before| before.is_empty() || before.ends_with('.'))
}
