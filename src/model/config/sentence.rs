//! The files that sentence-transformers puts beside a model: modules, pooling, prompts, the longest input.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{file_keys, keys};
use crate::error::{Error, Result};
use crate::model::file;
use crate::model::settings::{Settings, Table, read_json};
use crate::request::Pooling;

/// What the sentence-transformers files of a folder say; all of them are optional.
#[derive(Debug, Default)]
pub(super) struct SentenceTransformers {
    pub pooling: Option<Pooling>,
    pub normalize: Option<bool>,
    /// The longest input, in tokens. The model's own positions may allow less.
    pub max_tokens: Option<usize>,
    pub prompts: Vec<(String, String)>,
    default_prompt_name: Option<String>,
    /// Keys that are in no table, with their files.
    pub unknown: Vec<String>,
}

/// The names of the transformer module's file, of which sentence-transformers reads the first that holds a setting.
pub(crate) const TRANSFORMER_FILES: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

impl SentenceTransformers {
    /// Reads what is there of them in `folder`.
    pub fn read(folder: &Path) -> Result<SentenceTransformers> {
        let mut this = SentenceTransformers::default();
        if let Some((path, modules)) = optional_json(folder.join("modules.json"))? {
            this.read_modules(folder, &path, &modules)?;
            // A folder without modules is one of transformers, whose limit is the tokenizer's.
            this.read_transformer(folder)?;
        }
        if let Some((path, json)) = optional_json(folder.join("tokenizer_config.json"))? {
            // Its other keys are the tokenizer's own, and tokenizer.json has what matters of them.
            let settings = Settings::new(&path, &json)?;
            let length = positive(&settings, "model_max_length")?;
            // What the key was called before version 2 of transformers, which still reads it.
            let of_old = positive(&settings, "max_len")?;
            this.max_tokens = this.max_tokens.or(length).or(of_old);
        }
        this.read_file(
            folder,
            "config_sentence_transformers.json",
            &[keys::SENTENCE],
            SentenceTransformers::read_prompts,
        )?;
        Ok(this)
    }

    fn read_transformer(&mut self, folder: &Path) -> Result<()> {
        for name in TRANSFORMER_FILES {
            let Some((path, json)) = optional_json(folder.join(name))? else {
                continue;
            };
            let settings = Settings::new(&path, &json)?;
            if json.as_object().is_some_and(|keys| !keys.is_empty()) {
                self.unknown
                    .extend(file_keys(name, &settings.check(&[keys::TRANSFORMER])?));
                self.max_tokens = positive(&settings, "max_seq_length")?;
                break;
            }
        }
        Ok(())
    }

    /// Holds a settings file against its table, if it is there, and reads it.
    fn read_file(
        &mut self,
        folder: &Path,
        name: &str,
        tables: &[&Table],
        read: impl FnOnce(&mut SentenceTransformers, &Settings<'_>) -> Result<()>,
    ) -> Result<()> {
        let Some((path, json)) = optional_json(folder.join(name))? else {
            return Ok(());
        };
        let settings = Settings::new(&path, &json)?;
        self.unknown.extend(file_keys(name, &settings.check(tables)?));
        read(self, &settings)
    }

    fn read_prompts(&mut self, settings: &Settings<'_>) -> Result<()> {
        let mut prompts = Vec::new();
        for (name, prompt) in settings.object("prompts")?.into_iter().flatten() {
            match prompt {
                Value::String(prompt) => prompts.push((name.clone(), prompt.clone())),
                Value::Null => {}
                other => {
                    return Err(settings.error(format!("prompts has {other} for `{name}`; wanted a text")));
                }
            }
        }
        self.prompts = prompts;
        let default = settings.text("default_prompt_name")?;
        if let Some(name) = default.filter(|name| self.prompt(name).is_none()) {
            return Err(settings.error(format!(
                "default_prompt_name is \"{name}\", which is not one of prompts"
            )));
        }
        self.default_prompt_name = default.map(str::to_owned);
        Ok(())
    }

    /// Transformer, then Pooling, then Normalize: other modules, and another order, compute something else.
    fn read_modules(&mut self, folder: &Path, path: &Path, modules: &Value) -> Result<()> {
        let list = modules
            .as_array()
            .ok_or_else(|| Error::model(path, "is not a list of modules"))?;
        self.normalize = Some(false);
        let mut before = HashSet::new();
        for module in list {
            let module = Settings::new(path, module).map_err(|_| {
                Error::model(
                    path,
                    format!("holds {module}; wanted objects with a type and a path"),
                )
            })?;
            self.unknown
                .extend(file_keys("modules.json", &module.check(&[keys::MODULE])?));
            let kind = module
                .text("type")?
                .ok_or_else(|| module.error("a module has no type"))?;
            // jina-embeddings-v3 brings a Transformer module of its own.
            let kind = kind.rsplit('.').next().unwrap_or_default();
            let at = module.text("path")?;
            let misplaced = match kind {
                "Transformer" => !before.is_empty(),
                "Pooling" => before.contains("Normalize"),
                "Normalize" => !before.contains("Pooling"),
                _ => false,
            };
            if misplaced || (kind != "Dropout" && !before.insert(kind)) {
                return Err(module.error(format!(
                    "the {kind} module is not where it is computed; supported are Transformer, Pooling and Normalize, each \
                     once, in this order"
                )));
            }
            match kind {
                "Pooling" => {
                    let path = plain_folder(&module, folder, at.unwrap_or("1_Pooling"))?.join("config.json");
                    self.pooling = Some(read_pooling(&path)?);
                }
                "Normalize" => {
                    self.normalize = Some(true);
                    let path =
                        plain_folder(&module, folder, at.unwrap_or("2_Normalize"))?.join("config.json");
                    if let Some((path, json)) = optional_json(path)? {
                        let unknown = Settings::new(&path, &json)?.check(&[keys::NORMALIZE])?;
                        self.unknown
                            .extend(file_keys("2_Normalize/config.json", &unknown));
                    }
                }
                "Dropout" => {}
                "Transformer" => {
                    if let Some(sub) = at.filter(|sub| !sub.is_empty() && *sub != ".") {
                        return Err(module.error(format!(
                            "the transformer is in the folder `{sub}`; move its files beside modules.json and set its path to \
                             \"\""
                        )));
                    }
                }
                other => {
                    return Err(module.error(format!(
                        "the model has a {other} module, which is not supported; Transformer, Pooling and Normalize are"
                    )));
                }
            }
        }
        Ok(())
    }

    pub fn prompt(&self, name: &str) -> Option<&str> {
        let found = self.prompts.iter().find(|(n, _)| n == name);
        found.map(|(_, prompt)| prompt.as_str())
    }

    pub fn default_prompt(&self) -> String {
        let name = self.default_prompt_name.as_deref();
        name.and_then(|name| self.prompt(name))
            .unwrap_or_default()
            .to_owned()
    }
}

/// A module's folder in the model's: a list of modules is not to reach outside.
fn plain_folder(module: &Settings<'_>, folder: &Path, sub: &str) -> Result<PathBuf> {
    match sub.contains(['/', '\\']) || sub == ".." {
        true => Err(module.error(format!("the module path `{sub}` is not a plain folder name"))),
        false => Ok(folder.join(sub)),
    }
}

/// Reads `1_Pooling/config.json`.
fn read_pooling(path: &Path) -> Result<Pooling> {
    let json = read_json(path)?;
    let settings = Settings::new(path, &json)?;
    if let Some(unknown) = settings.check(&[keys::POOLING])?.first() {
        return Err(settings.error(format!(
            "sets `{unknown}`, which is not known, so that its effect on the pooling is not either; take it out if it has \
             none"
        )));
    }
    // Newer files name the modes, older ones have a switch for each.
    let named = match settings.get("pooling_mode") {
        Some(Value::Array(modes)) => Some(modes.iter().collect()),
        mode => mode.map(|mode| vec![mode]),
    };
    let modes: Vec<String> = match named {
        Some(named) => named
            .into_iter()
            .map(|mode| mode.as_str().map_or_else(|| mode.to_string(), str::to_owned))
            .collect(),
        None => {
            let mut on = Vec::new();
            for (mode, switch) in POOLING_SWITCHES {
                if settings.switch(switch)?.unwrap_or(false) {
                    on.push(mode.to_owned());
                }
            }
            // Without a mode it is the mean; without a width the file is no pooling's, and the library does not take it.
            let has_width = ["embedding_dimension", "word_embedding_dimension"]
                .iter()
                .any(|key| settings.get(key).is_some());
            if on.is_empty() && has_width {
                on.push("mean".into());
            }
            on
        }
    };
    let unsupported = |mode: &str| {
        settings.error(format!(
            "pooling mode {mode} is not supported; mean, cls and lasttoken are"
        ))
    };
    match modes.as_slice() {
        [] => Err(settings.error("names no pooling mode; wanted mean, cls or lasttoken")),
        [mode] => match mode.as_str() {
            "mean" => Ok(Pooling::Mean),
            "cls" => Ok(Pooling::Cls),
            "lasttoken" => Ok(Pooling::LastToken),
            other => Err(unsupported(other)),
        },
        several => Err(unsupported(&format!("{} together", several.join(" and ")))),
    }
}

/// Pooling modes, and their switches in older files.
const POOLING_SWITCHES: [(&str, &str); 6] = [
    ("mean", "pooling_mode_mean_tokens"),
    ("cls", "pooling_mode_cls_token"),
    ("lasttoken", "pooling_mode_lasttoken"),
    ("max", "pooling_mode_max_tokens"),
    ("mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens"),
    ("weightedmean", "pooling_mode_weightedmean_tokens"),
];

/// A length of at least 1; none where it is null. "No limit" is written as a number far above any length.
fn positive(settings: &Settings<'_>, key: &str) -> Result<Option<usize>> {
    match settings.float(key, Some(f64::INFINITY))? {
        length if length == f64::INFINITY => Ok(None),
        length if length >= 1.0 && (length.fract() == 0.0) => Ok(Some(length as usize)),
        length => Err(settings.error(format!(
            "{key} is {length:?}; wanted a whole number of at least 1, or null"
        ))),
    }
}

fn optional_json(path: PathBuf) -> Result<Option<(PathBuf, Value)>> {
    if !file::is_present(&path) {
        return Ok(None);
    }
    let json = read_json(&path)?;
    Ok(Some((path, json)))
}
