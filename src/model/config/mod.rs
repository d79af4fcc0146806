//! The model's configuration, normalised: what `config.json` and the sentence-transformers files
//! say, in one struct, whatever the family calls it. Every number is checked here, so that the
//! rest of the engine can rely on it.

mod decision;
mod derived;
mod keys;
mod modules;
mod sentence;
mod tasks;
mod tokenizer;

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Result, list};
use crate::model::file;
use crate::model::settings::{Settings, read_json};
use crate::request::Pooling;
pub use decision::{Decision, Overruled, Source};
use derived::{dimensions, longest_input, matryoshka, pooling, widths};
use modules::Modules;
pub use modules::{Activation, HeadModule};
use sentence::SentenceTransformers;
#[cfg(feature = "hub")]
pub(crate) use sentence::TRANSFORMER_FILES;
pub(crate) use tasks::jina_adapter_folder;
use tasks::tasks;
#[cfg(test)]
pub(crate) use tokenizer::AddedToken;
pub(crate) use tokenizer::TokenizerSettings;

/// The families of encoders this engine runs. All are post-LayerNorm transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// jina-embeddings-v3 as on the hub: adapters stacked in the checkpoint.
    JinaV3,
    /// jina-embeddings-v3 as transformers has it: one PEFT folder per task.
    JinaV3Native,
    /// BERT: learned positions from 0.
    Bert,
    /// XLM-RoBERTa (and RoBERTa): learned positions from `pad_token_id + 1`.
    XlmRoberta,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::JinaV3 => "jina-embeddings-v3 (stacked adapters)",
            Family::JinaV3Native => "jina-embeddings-v3 (transformers layout, PEFT adapters)",
            Family::Bert => "BERT",
            Family::XlmRoberta => "XLM-RoBERTa",
        })
    }
}

/// How tokens learn their position.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Positions {
    /// Rotary embedding of queries and keys (RoFormer, arXiv 2104.09864), half-split pairs.
    Rotary {
        /// `inv_freq[i] = base^(-2i / head_dim)`.
        base: f32,
    },
    /// A learned row of a table is added to the token's.
    Learned {
        /// `None`: the first token of an input has row 0, the next row 1. RoBERTa and its kin count from `pad + 1`, and
        /// the token of this id, which a text may spell, is not counted: it has row `pad` wherever it stands.
        pad: Option<u32>,
        /// Rows of the table.
        rows: usize,
    },
}

impl Positions {
    /// The position of the first token that is counted.
    fn first(self) -> u32 {
        self.pad().map_or(0, |pad| pad + 1)
    }

    fn pad(self) -> Option<u32> {
        match self {
            Positions::Learned { pad, .. } => pad,
            Positions::Rotary { .. } => None,
        }
    }

    /// The position of each token of one input: in it, or the row of the table.
    pub(crate) fn of(self, ids: &[u32]) -> impl Iterator<Item = u32> {
        let pad = self.pad();
        let mut next = self.first();
        ids.iter().map(move |&id| {
            if pad == Some(id) {
                return id;
            }
            next += 1;
            next - 1
        })
    }
}

/// A task of the model: a name, a prefix and, for jina-embeddings-v3, an adapter of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskConfig {
    /// As the configuration has it, e.g. `retrieval.query`.
    pub name: String,
    /// Put before the text, trailing space included; may be empty.
    pub prefix: String,
    /// Whether the checkpoint holds an adapter for it.
    pub adapter: bool,
}

/// What the model is. Sizes are named as in the literature.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ModelConfig {
    /// Which family's tensor names and rules apply.
    pub family: Family,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream. That of the full embedding is [`embedding_size`](Self::embedding_size).
    pub hidden_size: usize,
    /// Encoder layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Token types; the engine uses type 0.
    pub type_vocab_size: usize,
    /// Added to the variance in LayerNorm.
    pub layer_norm_eps: f32,
    /// Rotary or learned.
    pub positions: Positions,
    /// Longest input, special tokens included.
    pub max_tokens: usize,
    /// The padding token; never computed on, as nothing is padded.
    pub pad_token_id: usize,
    /// The sizes the model was trained to be cut to, ascending; empty: only the full size.
    pub matryoshka: Vec<usize>,
    /// Tasks in index order.
    pub tasks: Vec<TaskConfig>,
    /// Rank of the checkpoint's stacked adapters (`JinaV3` alone).
    pub lora_rank: usize,
    /// Alpha of the checkpoint's stacked adapters; their scale is `alpha / rank`.
    pub lora_alpha: f32,
    /// Prefix of inputs that name no task (sentence-transformers' default prompt).
    pub default_prompt: String,
    /// The model's own pooling: one mode, or several whose vectors are concatenated in this order.
    pub pooling: Vec<Pooling>,
    /// Whether the tokens of a prompt are pooled with those of the text.
    pub include_prompt: bool,
    /// What becomes of the pooled vector, before it is cut and normalised.
    pub head: Vec<HeadModule>,
    /// Whether the model normalises its embeddings.
    pub normalize: bool,
    /// Whether texts are put into lower case before the tokenizer's own normalizer; special tokens keep their case.
    pub do_lower_case: bool,
    /// The folder of configuration, weights and tokenizer in the model's; empty: they are in it.
    pub transformer: String,
    /// See [`decisions`](Self::decisions).
    pub(crate) decisions: Vec<Decision>,
    /// What has to agree with `tokenizer.json`.
    pub(crate) tokenizer: TokenizerSettings,
    /// The transformer module's file that was read.
    pub(crate) transformer_file: Option<&'static str>,
    /// Folders of modules whose `config.json` was read.
    pub(crate) modules: Vec<String>,
    /// See [`unknown_settings`](Self::unknown_settings).
    pub(crate) unknown: Vec<String>,
}

/// The largest values accepted. Generous: they exist so that a broken file is refused with its
/// name instead of running out of memory.
mod limit {
    pub const VOCAB: usize = 1 << 24;
    pub const HIDDEN: usize = 1 << 15;
    pub const LAYERS: usize = 1 << 10;
    pub const FFN: usize = 1 << 18;
    pub const POSITIONS: usize = 1 << 20;
    /// Of several pooled vectors, concatenated.
    pub const POOLED: usize = 8 * HIDDEN;
    pub const TYPES: usize = 1 << 10;
    pub const RANK: usize = 1 << 12;
    /// Entries of `modules.json`, each of which can bring a matrix; published models have up to six.
    pub const MODULES: usize = 32;
    /// Tasks with adapters, and prompts.
    pub const TASKS: usize = 1 << 10;
    /// Positions times head size: 1 GiB of sines and cosines.
    pub const ROTARY: usize = 1 << 28;
}

impl ModelConfig {
    /// Reads the configuration of the model in `folder`; its weights are not looked at.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) and [`Error::Model`](crate::Error::Model), with the file and what was wanted of it.
    pub fn read(folder: impl AsRef<Path>) -> Result<ModelConfig> {
        let folder = folder.as_ref();
        let modules = Modules::read(folder)?;
        let transformer = modules
            .as_ref()
            .map_or("", |modules| modules.transformer.as_str());
        let path = subfolder(folder, transformer).join("config.json");
        let json = read_json(&path)?;
        let config = Settings::new(&path, &json)?;
        let family = family(&config)?;
        let mut unknown = file_keys("config.json", &config.check(keys::config(family))?);
        let mut sentence = SentenceTransformers::read(folder, modules.as_ref())?;
        sentence.tokenizer.class = tokenizer_class(&config, family, &sentence.tokenizer.class)?;
        let has_modules = modules.is_some();
        let Modules {
            transformer,
            pooling: module_pooling,
            include_prompt,
            head,
            normalize,
            folders,
            unknown: of_modules,
            mut decisions,
        } = modules.unwrap_or_else(Modules::of_transformer);
        unknown.extend(of_modules);
        unknown.extend(sentence.unknown.iter().cloned());
        decisions.extend(sentence.decisions.iter().cloned());
        let jina = matches!(family, Family::JinaV3 | Family::JinaV3Native);

        let hidden_size = config.size("hidden_size", limit::HIDDEN)?;
        let num_attention_heads = config.size("num_attention_heads", hidden_size)?;
        if hidden_size % num_attention_heads != 0 {
            return Err(config.error(format!(
                "hidden_size {hidden_size} is not a multiple of num_attention_heads {num_attention_heads}"
            )));
        }
        let head_dim = hidden_size / num_attention_heads;
        if let Some(act) = config.get("hidden_act").filter(|&act| act != "gelu") {
            return Err(config.error(format!(
                "hidden_act is {act}; only \"gelu\" (exact erf) is supported"
            )));
        }
        // What transformers takes where the key is missing.
        let eps = config.float("layer_norm_eps", Some(if jina { 1e-5 } else { 1e-12 }))?;
        if !(0.0..=0.1).contains(&eps) {
            return Err(config.error(format!("layer_norm_eps is {eps:?}; wanted 0 to 0.1")));
        }
        let rows = config.size("max_position_embeddings", limit::POSITIONS)?;
        let pad = config.optional_size("pad_token_id", limit::VOCAB)?;
        let pad_token_id = pad.unwrap_or(if family == Family::Bert { 0 } else { 1 });
        let positions = if jina {
            if head_dim % 2 != 0 {
                return Err(config.error(format!(
                    "rotary embeddings need an even head size, not {head_dim}"
                )));
            }
            let base = match family {
                Family::JinaV3 => config.float("rotary_emb_base", Some(10000.0))?,
                _ => rope_theta(&config, &path)?,
            };
            if let Some(turned) = config
                .optional_size("rotary_emb_dim", limit::HIDDEN)?
                .filter(|&d| d != head_dim)
            {
                return Err(config.error(format!(
                    "rotary_emb_dim is {turned}; only the whole head ({head_dim} dimensions) can be turned"
                )));
            }
            if !(base > 1.0 && base < 1e12) {
                return Err(config.error(format!("the rotary base is {base:?}; wanted 1 to 1e12")));
            }
            // No tensor of the file vouches for the number of positions.
            if rows * head_dim > limit::ROTARY {
                return Err(config.error(format!(
                    "max_position_embeddings is {rows}; with heads of {head_dim}, wanted up to {}",
                    limit::ROTARY / head_dim
                )));
            }
            Positions::Rotary { base: base as f32 }
        } else {
            let pad = (family != Family::Bert).then_some(pad_token_id as u32);
            Positions::Learned { pad, rows }
        };
        let first = positions.first() as usize;
        if first >= rows {
            return Err(config.error(format!(
                "max_position_embeddings is {rows}, but positions start at {first} (pad_token_id + 1)"
            )));
        }
        let table = rows - first;
        let (max_tokens, limit) = longest_input(&sentence, rows, table);
        decisions.insert(0, limit);
        if max_tokens < 3 {
            return Err(config.error(format!(
                "inputs of at most {max_tokens} tokens leave no room for text"
            )));
        }

        if let Some(size) = config.get("truncate_dim") {
            return Err(config.error(format!(
                "truncate_dim is {size}; set it to null and ask for `dimensions` with each request instead"
            )));
        }
        let adapters = subfolder(folder, &transformer);
        let mut of_tasks = Vec::new();
        let (tasks, lora_rank, lora_alpha) = tasks(&config, &adapters, family, &sentence, &mut of_tasks)?;
        let pooling = pooling(&config, module_pooling, &mut decisions)?;
        let embedding_size = widths(&path, hidden_size * pooling.len(), &head)?;
        let matryoshka = matryoshka(&config, family, embedding_size)?;
        if !has_modules {
            decisions.push(Decision {
                note: "what is taken without modules.json",
                ..Decision::new("normalisation", "yes")
            });
        }
        decisions.push(sentence.default_prompt_decision());
        decisions.push(dimensions(&config, &head, embedding_size, &matryoshka));
        decisions.extend(of_tasks);
        if !unknown.is_empty() {
            let settings = list(&unknown);
            tracing::warn!(folder = %folder.display(), %settings, "settings that are not known, so that it is not known either whether they change the vectors");
        }
        Ok(ModelConfig {
            family,
            vocab_size: config.size("vocab_size", limit::VOCAB)?,
            hidden_size,
            num_hidden_layers: config.size("num_hidden_layers", limit::LAYERS)?,
            num_attention_heads,
            head_dim,
            intermediate_size: config.size("intermediate_size", limit::FFN)?,
            type_vocab_size: match config.optional_size("type_vocab_size", limit::TYPES)? {
                Some(types) => types,
                None if jina => 1,
                None => 2,
            },
            layer_norm_eps: eps as f32,
            positions,
            max_tokens,
            pad_token_id,
            matryoshka,
            tasks,
            lora_rank,
            lora_alpha,
            default_prompt: sentence.default_prompt(),
            pooling,
            include_prompt,
            head,
            normalize,
            do_lower_case: sentence.do_lower_case,
            tokenizer: sentence.tokenizer,
            transformer,
            decisions,
            modules: folders,
            transformer_file: sentence.transformer_file,
            unknown,
        })
    }

    /// Settings in the model's files that this version does not know, as `file: key`. They are passed over, with a
    /// warning: makers of models put keys of their own there, nearly all without effect on embeddings. Settings that
    /// are known to change the vectors, and are not computed, are errors instead.
    pub fn unknown_settings(&self) -> &[String] {
        &self.unknown
    }

    /// The folder of configuration, weights and tokenizer of the model in `folder`.
    pub fn transformer_folder(&self, folder: impl AsRef<Path>) -> PathBuf {
        subfolder(folder.as_ref(), &self.transformer)
    }

    /// Dimensions of the full embedding: what the last module of [`head`](Self::head) makes, else `hidden_size` for each
    /// mode of [`pooling`](Self::pooling).
    pub fn embedding_size(&self) -> usize {
        self.vector_size(None)
    }

    /// The same with another pooling than the model's own; of the vector of a token, with [`Pooling::None`].
    pub fn vector_size(&self, pooling: Option<Pooling>) -> usize {
        let modes = if pooling.is_some() { 1 } else { self.pooling.len() };
        let last = match pooling {
            Some(Pooling::None) => None,
            _ => self.head.iter().rev().find_map(HeadModule::widths),
        };
        last.map_or(self.hidden_size * modes, |(_, out)| out)
    }

    /// The decisions that the files of settings make, each with the file and key that it comes from and what it overrules.
    /// [`explain`](Self::explain) has all there are.
    pub fn decisions(&self) -> &[Decision] {
        &self.decisions
    }

    /// Whether queries and keys are rotated.
    pub fn rotary(&self) -> bool {
        matches!(self.positions, Positions::Rotary { .. })
    }

    /// The names of the tasks, in order.
    pub fn task_names(&self) -> Vec<&str> {
        self.tasks.iter().map(|task| task.name.as_str()).collect()
    }

    /// Weights of the encoder's layers (embeddings and adapters left out), in numbers.
    pub fn layer_parameters(&self) -> usize {
        let (h, f) = (self.hidden_size, self.intermediate_size);
        self.num_hidden_layers * (4 * h * h + 2 * h * f + 9 * h + f)
    }
}

/// Some copies of jina-embeddings-v3 lack `model_type`, so what only that model has counts too.
fn family(config: &Settings<'_>) -> Result<Family> {
    let positions = config.text("position_embedding_type")?;
    let stacked = config.get("lora_adaptations").is_some();
    let (family, known): (_, &[&str]) = match config.text("model_type")? {
        Some("jina_embeddings_v3") => (Family::JinaV3Native, &["rotary", "absolute"]),
        Some("xlm-roberta" | "jina-embeddings-v3") | None if positions == Some("rotary") || stacked => {
            (Family::JinaV3, &["rotary"])
        }
        Some("bert") => (Family::Bert, &["absolute"]),
        Some("xlm-roberta" | "roberta") => (Family::XlmRoberta, &["absolute"]),
        Some(other) => {
            return Err(config.error(format!(
                "model_type \"{other}\" is not supported; supported are jina-embeddings-v3 (\"xlm-roberta\" with rotary \
                 positions, or \"jina_embeddings_v3\"), \"bert\", \"xlm-roberta\" and \"roberta\""
            )));
        }
        None => return Err(config.error("model_type is missing")),
    };
    match positions {
        Some(other) if !known.contains(&other) => Err(config.error(format!(
            "position_embedding_type is \"{other}\"; {family} models are supported with \"{}\"",
            known[0]
        ))),
        _ => Ok(family),
    }
}

/// The class of transformers that reads the tokenizer: that of `tokenizer_config.json`, else the configuration's, else the
/// model type's. Its ending tells whether it is the older one in Python; with `tokenizer.json` both are the same.
fn tokenizer_class(config: &Settings<'_>, family: Family, named: &str) -> Result<String> {
    let configured = config.text("tokenizer_class")?;
    let of_model = match config.text("model_type")? {
        Some("roberta") => "RobertaTokenizer",
        _ if family == Family::Bert => "BertTokenizer",
        _ => "XLMRobertaTokenizer",
    };
    let named = Some(named).filter(|named| !named.is_empty());
    let class = named.or(configured).unwrap_or(of_model);
    Ok(class.strip_suffix("Fast").unwrap_or(class).to_owned())
}

/// The base of rotary embeddings in the layout of transformers.
fn rope_theta(config: &Settings<'_>, path: &Path) -> Result<f64> {
    // Where `rope_parameters` has none, transformers takes the key of its version 4.
    let theta = config.float("rope_theta", Some(20000.0))?;
    let Some(json) = config.get("rope_parameters") else {
        return Ok(theta);
    };
    let rope = Settings::new(path, json).map_err(|_| {
        config.error(format!(
            "rope_parameters is {json}; wanted an object (`{{…}}`) with rope_theta"
        ))
    })?;
    match rope.check(&[keys::ROPE])?.first() {
        None => rope.float("rope_theta", Some(theta)),
        Some(unknown) => Err(config.error(format!(
            "rope_parameters sets `{unknown}`, which is not supported; only rope_theta is"
        ))),
    }
}

/// A folder in a folder; `sub` may be empty.
fn subfolder(folder: &Path, sub: &str) -> PathBuf {
    match sub {
        "" => folder.to_owned(),
        sub => folder.join(sub),
    }
}

fn optional_json(path: PathBuf) -> Result<Option<(PathBuf, Value)>> {
    if !file::is_present(&path) {
        return Ok(None);
    }
    let json = read_json(&path)?;
    Ok(Some((path, json)))
}

/// Keys with the file that they are in.
fn file_keys(file: &str, keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| format!("{file}: {key}")).collect()
}
