//! The model's configuration, normalised: what `config.json` and the sentence-transformers files
//! say, in one struct, whatever the family calls it. Every number is checked here, so that the
//! rest of the engine can rely on it.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::request::Pooling;

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
    /// A learned row per position is added to the token's; position p uses row `p + offset`.
    Learned {
        /// Row of the first position.
        offset: usize,
        /// Rows of the table.
        rows: usize,
    },
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
    /// Width of the residual stream, and of the full embedding.
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
    /// The model's own pooling.
    pub pooling: Pooling,
    /// Whether the model normalises its embeddings.
    pub normalize: bool,
}

/// The largest values accepted. Generous: they exist so that a broken file is refused with its
/// name instead of running out of memory.
mod limit {
    pub const VOCAB: usize = 1 << 24;
    pub const HIDDEN: usize = 1 << 15;
    pub const LAYERS: usize = 1 << 10;
    pub const FFN: usize = 1 << 18;
    pub const POSITIONS: usize = 1 << 20;
    pub const TYPES: usize = 1 << 10;
    pub const RANK: usize = 1 << 12;
    /// Positions times head size: 1 GiB of sines and cosines.
    pub const ROTARY: usize = 1 << 28;
}

impl ModelConfig {
    /// Reads the configuration of the model in `folder`; its weights are not looked at.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Model`], with the file and what was wanted of it.
    pub fn read(folder: impl AsRef<Path>) -> Result<ModelConfig> {
        let folder = folder.as_ref();
        let path = folder.join("config.json");
        let json = super::read_json(&path)?;
        let config = Fields {
            path: &path,
            json: &json,
        };
        let sentence = SentenceTransformers::read(folder)?;
        let family = config.family()?;
        let jina = matches!(family, Family::JinaV3 | Family::JinaV3Native);

        let hidden_size = config.size("hidden_size", limit::HIDDEN)?;
        let num_attention_heads = config.size("num_attention_heads", hidden_size)?;
        if hidden_size % num_attention_heads != 0 {
            return Err(config.error(format!(
                "hidden_size {hidden_size} is not a multiple of num_attention_heads {num_attention_heads}"
            )));
        }
        let head_dim = hidden_size / num_attention_heads;
        match config.json.get("hidden_act") {
            None | Some(Value::Null) => {}
            Some(Value::String(act)) if act == "gelu" => {}
            Some(act) => {
                return Err(config.error(format!(
                    "hidden_act is {act}; only \"gelu\" (exact erf) is supported"
                )));
            }
        }
        let eps = config.float(
            "layer_norm_eps",
            Some(if family == Family::Bert { 1e-12 } else { 1e-5 }),
        )?;
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
                _ => config.rope_theta()?,
            };
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
            let offset = if family == Family::Bert {
                0
            } else {
                pad_token_id + 1
            };
            if offset >= rows {
                return Err(config.error(format!(
                    "max_position_embeddings is {rows}, but positions start at {offset} (pad_token_id + 1)"
                )));
            }
            Positions::Learned { offset, rows }
        };
        let table = match positions {
            Positions::Rotary { .. } => rows,
            Positions::Learned { offset, rows } => rows - offset,
        };
        let max_tokens = [sentence.max_seq_length, sentence.model_max_length]
            .into_iter()
            .flatten()
            .fold(table, usize::min);
        if max_tokens < 3 {
            return Err(config.error(format!(
                "inputs of at most {max_tokens} tokens leave no room for text"
            )));
        }

        if let Some(size) = config.json.get("truncate_dim").filter(|size| !size.is_null()) {
            return Err(config.error(format!(
                "truncate_dim is {size}; set it to null and ask for `dimensions` with each request instead"
            )));
        }
        let (tasks, lora_rank, lora_alpha) = config.tasks(folder, family, &sentence)?;
        let matryoshka = config.matryoshka(hidden_size)?;
        let pooling = match (sentence.pooling, config.json.get("emb_pooler")) {
            (Some(pooling), _) => pooling,
            (None, Some(Value::String(p))) if p == "cls" => Pooling::Cls,
            (None, Some(Value::String(p))) if p != "mean" => {
                return Err(config.error(format!("emb_pooler is \"{p}\"; wanted null, \"mean\" or \"cls\"")));
            }
            (None, Some(other)) if !other.is_null() && !other.is_string() => {
                return Err(config.error(format!("emb_pooler is {other}; wanted null, \"mean\" or \"cls\"")));
            }
            _ => Pooling::Mean,
        };
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
                None if family == Family::Bert => 2,
                None => 1,
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
            normalize: sentence.normalize.unwrap_or(true),
        })
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

/// `config.json` and where it stands, for errors that name both.
struct Fields<'a> {
    path: &'a Path,
    json: &'a Value,
}

impl Fields<'_> {
    fn error(&self, problem: impl Into<String>) -> Error {
        Error::model(self.path, problem)
    }

    /// A size from 1 to `limit`.
    fn size(&self, key: &str, limit: usize) -> Result<usize> {
        match self.optional_size(key, limit)? {
            Some(0) => Err(self.error(format!("{key} is 0; wanted 1 to {limit}"))),
            Some(size) => Ok(size),
            None => Err(self.error(format!("{key} is missing"))),
        }
    }

    fn optional_size(&self, key: &str, limit: usize) -> Result<Option<usize>> {
        match self.json.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(size) if size <= limit as u64 => Ok(Some(size as usize)),
                _ => Err(self.error(format!("{key} is {value}; wanted a whole number up to {limit}"))),
            },
        }
    }

    fn float(&self, key: &str, default: Option<f64>) -> Result<f64> {
        match (self.json.get(key), default) {
            (None | Some(Value::Null), Some(default)) => Ok(default),
            (None | Some(Value::Null), None) => Err(self.error(format!("{key} is missing"))),
            (Some(value), _) => value
                .as_f64()
                .ok_or_else(|| self.error(format!("{key} is {value}; wanted a number"))),
        }
    }

    /// Some copies of jina-embeddings-v3 lack `model_type`, so what only that model has counts too.
    fn family(&self) -> Result<Family> {
        let text = |key: &str| self.json.get(key).and_then(Value::as_str);
        let rotary = text("position_embedding_type") == Some("rotary");
        let stacked = self.json.get("lora_adaptations").is_some_and(|l| !l.is_null());
        match text("model_type") {
            Some("jina_embeddings_v3") => Ok(Family::JinaV3Native),
            Some("xlm-roberta" | "jina-embeddings-v3") | None if rotary || stacked => Ok(Family::JinaV3),
            Some(kind @ ("xlm-roberta" | "roberta" | "bert")) => {
                match text("position_embedding_type") {
                    None | Some("absolute") => {}
                    Some(other) => {
                        return Err(self.error(format!(
                            "position_embedding_type is \"{other}\"; {kind} models are supported with \"absolute\""
                        )));
                    }
                }
                Ok(if kind == "bert" { Family::Bert } else { Family::XlmRoberta })
            }
            Some(other) => Err(self.error(format!(
                "model_type \"{other}\" is not supported; supported are jina-embeddings-v3 (\"xlm-roberta\" with rotary \
                 positions, or \"jina_embeddings_v3\"), \"bert\", \"xlm-roberta\" and \"roberta\""
            ))),
            None => Err(self.error("model_type is missing")),
        }
    }

    fn rope_theta(&self) -> Result<f64> {
        let rope = match self.json.get("rope_parameters") {
            None | Some(Value::Null) => return Ok(20000.0),
            Some(rope) => Fields {
                path: self.path,
                json: rope,
            },
        };
        match rope.json.get("rope_type").and_then(Value::as_str) {
            None | Some("default") => rope.float("rope_theta", Some(20000.0)),
            Some(other) => {
                Err(self.error(format!("rope_type is \"{other}\"; only \"default\" is supported")))
            }
        }
    }

    fn matryoshka(&self, hidden_size: usize) -> Result<Vec<usize>> {
        let mut sizes = match self.json.get("matryoshka_dimensions") {
            None | Some(Value::Null) => Vec::new(),
            Some(list) => {
                let list = list
                    .as_array()
                    .ok_or_else(|| self.error("matryoshka_dimensions is not a list"))?;
                list.iter()
                    .map(|size| match size.as_u64() {
                        Some(n) if n >= 1 && n <= hidden_size as u64 => Ok(n as usize),
                        _ => Err(self.error(format!(
                            "matryoshka_dimensions holds {size}; wanted whole numbers from 1 to {hidden_size}"
                        ))),
                    })
                    .collect::<Result<Vec<_>>>()?
            }
        };
        sizes.sort_unstable();
        sizes.dedup();
        // The transformers layout's configuration has no list; the model is the same.
        if sizes.is_empty()
            && self.json.get("model_type").and_then(Value::as_str) == Some("jina_embeddings_v3")
        {
            sizes = [32, 64, 128, 256, 512, 768, 1024]
                .into_iter()
                .filter(|&d| d <= hidden_size)
                .collect();
        }
        Ok(sizes)
    }

    /// The tasks with their prefixes, and rank and alpha of stacked adapters.
    fn tasks(
        &self,
        folder: &Path,
        family: Family,
        sentence: &SentenceTransformers,
    ) -> Result<(Vec<TaskConfig>, usize, f32)> {
        let prefix = |name: &str| -> String {
            let from_config = self.json.get("task_instructions").and_then(|map| map.get(name));
            match from_config
                .and_then(Value::as_str)
                .or_else(|| sentence.prompt(name))
            {
                Some(prefix) => prefix.to_owned(),
                // The transformers layout leaves the prefixes to the model card.
                None if family == Family::JinaV3Native => default_jina_prefix(name).to_owned(),
                None => String::new(),
            }
        };
        match family {
            Family::JinaV3 => {
                let Some(list) = self.json.get("lora_adaptations").filter(|list| !list.is_null()) else {
                    return Ok((Vec::new(), 1, 1.0));
                };
                let names: Option<Vec<&str>> = list
                    .as_array()
                    .map(|names| names.iter().filter_map(Value::as_str).collect::<Vec<_>>())
                    .filter(|names| Some(names.len()) == list.as_array().map(Vec::len));
                let names = names.ok_or_else(|| self.error("lora_adaptations is not a list of names"))?;
                for (i, name) in names.iter().enumerate() {
                    if name.is_empty() || names[..i].contains(name) {
                        return Err(
                            self.error(format!("lora_adaptations names \"{name}\" twice or not at all"))
                        );
                    }
                }
                let rank = self.size("lora_rank", limit::RANK)?;
                let alpha = self.float("lora_alpha", None)?;
                if !(alpha > 0.0 && alpha <= f64::from(f32::MAX)) {
                    return Err(self.error(format!("lora_alpha is {alpha:?}; wanted a positive number")));
                }
                let tasks = names
                    .iter()
                    .map(|&name| TaskConfig {
                        name: name.into(),
                        prefix: prefix(name),
                        adapter: true,
                    })
                    .collect();
                Ok((tasks, rank, alpha as f32))
            }
            Family::JinaV3Native => {
                let tasks = JINA_TASKS
                    .iter()
                    .filter(|name| {
                        folder
                            .join(jina_adapter_folder(name))
                            .join("adapter_config.json")
                            .exists()
                    })
                    .map(|&name| TaskConfig {
                        name: name.into(),
                        prefix: prefix(name),
                        adapter: true,
                    })
                    .collect();
                Ok((tasks, 1, 1.0))
            }
            Family::Bert | Family::XlmRoberta => {
                let task = |(name, prefix): &(String, String)| TaskConfig {
                    name: name.clone(),
                    prefix: prefix.clone(),
                    adapter: false,
                };
                Ok((sentence.prompts.iter().map(task).collect(), 1, 1.0))
            }
        }
    }
}

/// jina-embeddings-v3's tasks in index order.
const JINA_TASKS: [&str; 5] = [
    "retrieval.query",
    "retrieval.passage",
    "separation",
    "classification",
    "text-matching",
];

/// The sub-folder of a task's PEFT adapter in the transformers layout.
pub(crate) fn jina_adapter_folder(task: &str) -> String {
    task.replace(['.', '-'], "_")
}

fn default_jina_prefix(task: &str) -> &'static str {
    match task {
        "retrieval.query" => "Represent the query for retrieving evidence documents: ",
        "retrieval.passage" => "Represent the document for retrieval: ",
        _ => "",
    }
}

/// What the sentence-transformers files of a folder say; all of them are optional.
#[derive(Debug, Default)]
struct SentenceTransformers {
    pooling: Option<Pooling>,
    normalize: Option<bool>,
    max_seq_length: Option<usize>,
    model_max_length: Option<usize>,
    prompts: Vec<(String, String)>,
    default_prompt_name: Option<String>,
}

impl SentenceTransformers {
    fn read(folder: &Path) -> Result<SentenceTransformers> {
        let mut this = SentenceTransformers::default();
        if let Some((path, modules)) = optional_json(folder.join("modules.json"))? {
            this.read_modules(folder, &path, &modules)?;
        }
        // The list of modules may name no folder for the transformer (older files keep it at the root).
        if let Some((_, json)) = optional_json(folder.join("sentence_bert_config.json"))? {
            this.max_seq_length = positive(json.get("max_seq_length"));
            if json.get("do_lower_case").and_then(Value::as_bool) == Some(true) {
                let path = folder.join("sentence_bert_config.json");
                return Err(Error::model(
                    &path,
                    "do_lower_case is true, which is not supported outside the tokenizer",
                ));
            }
        }
        if let Some((_, json)) = optional_json(folder.join("tokenizer_config.json"))? {
            // "No limit" is written as 1e30.
            this.model_max_length = positive(json.get("model_max_length"));
        }
        if let Some((_, json)) = optional_json(folder.join("config_sentence_transformers.json"))? {
            if let Some(prompts) = json.get("prompts").and_then(Value::as_object) {
                let text =
                    |(name, prompt): (&String, &Value)| Some((name.clone(), prompt.as_str()?.to_owned()));
                this.prompts = prompts.iter().filter_map(text).collect();
            }
            this.default_prompt_name = json
                .get("default_prompt_name")
                .and_then(Value::as_str)
                .map(str::to_owned);
        }
        Ok(this)
    }

    fn read_modules(&mut self, folder: &Path, path: &Path, modules: &Value) -> Result<()> {
        let list = modules
            .as_array()
            .ok_or_else(|| Error::model(path, "is not a list of modules"))?;
        let kind = |module: &Value| {
            let kind = module.get("type").and_then(Value::as_str).unwrap_or_default();
            kind.rsplit('.').next().unwrap_or_default().to_owned()
        };
        self.normalize = Some(list.iter().any(|module| kind(module) == "Normalize"));
        for module in list {
            match kind(module).as_str() {
                "Pooling" => {
                    let sub = module.get("path").and_then(Value::as_str).unwrap_or("1_Pooling");
                    // A list of modules is not to reach outside its folder.
                    if sub.contains(['/', '\\']) || sub == ".." {
                        return Err(Error::model(
                            path,
                            format!("the module path `{sub}` is not a plain folder name"),
                        ));
                    }
                    let path = folder.join(sub).join("config.json");
                    self.pooling = Some(read_pooling(&path)?);
                }
                "Normalize" | "Dropout" => {}
                // jina-embeddings-v3 brings a Transformer module of its own.
                kind if kind.ends_with("Transformer") => {}
                other => {
                    return Err(Error::model(
                        path,
                        format!(
                            "the model has a {other} module, which is not supported; Transformer, Pooling and Normalize are"
                        ),
                    ));
                }
            }
        }
        Ok(())
    }

    fn prompt(&self, name: &str) -> Option<&str> {
        self.prompts
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, prompt)| prompt.as_str())
    }

    fn default_prompt(&self) -> String {
        let name = self.default_prompt_name.as_deref();
        name.and_then(|name| self.prompt(name))
            .unwrap_or_default()
            .to_owned()
    }
}

/// Reads `1_Pooling/config.json`.
fn read_pooling(path: &Path) -> Result<Pooling> {
    let json = super::read_json(path)?;
    let on = |key: &str| json.get(key).and_then(Value::as_bool).unwrap_or(false);
    if json.get("include_prompt").and_then(Value::as_bool) == Some(false) {
        return Err(Error::model(
            path,
            "include_prompt is false, which is not supported: prompts are pooled with the text",
        ));
    }
    // Newer files name the mode, older ones have a switch for each.
    let named = json.get("pooling_mode").and_then(Value::as_str);
    match named {
        Some("mean") => return Ok(Pooling::Mean),
        Some("cls") => return Ok(Pooling::Cls),
        Some(other) => return Err(unsupported_pooling(path, other)),
        None => {}
    }
    let other = [
        "max_tokens",
        "mean_sqrt_len_tokens",
        "weightedmean_tokens",
        "lasttoken",
    ];
    if let Some(mode) = other.into_iter().find(|mode| on(&format!("pooling_mode_{mode}"))) {
        return Err(unsupported_pooling(path, mode));
    }
    match (on("pooling_mode_mean_tokens"), on("pooling_mode_cls_token")) {
        (true, false) => Ok(Pooling::Mean),
        (false, true) => Ok(Pooling::Cls),
        (true, true) => Err(unsupported_pooling(path, "mean and cls together")),
        (false, false) => Err(Error::model(path, "names no pooling mode")),
    }
}

fn unsupported_pooling(path: &Path, mode: &str) -> Error {
    Error::model(
        path,
        format!("pooling mode {mode} is not supported; mean and cls are"),
    )
}

fn positive(value: Option<&Value>) -> Option<usize> {
    value
        .and_then(Value::as_u64)
        .filter(|&n| n > 0)
        .map(|n| n as usize)
}

fn optional_json(path: PathBuf) -> Result<Option<(PathBuf, Value)>> {
    if !path.exists() {
        return Ok(None);
    }
    let json = super::read_json(&path)?;
    Ok(Some((path, json)))
}
