//! What sentence-transformers puts beside a model, but for its modules: the longest input, letter case, prompts; and the
//! tokenizer's files.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::decision::{Decision, Source};
use super::modules::Modules;
use super::tokenizer::TokenizerSettings;
use super::{file_keys, keys, limit, optional_json};
use crate::error::Result;
use crate::model::settings::{Settings, Table};

/// What these files say; all of them are optional.
#[derive(Debug, Default)]
pub(super) struct SentenceTransformers {
    /// The longest input in tokens, in the order of precedence. The model's own positions may allow less.
    pub limits: Vec<(Source, Option<usize>)>,
    /// Whether texts are put into lower case before the tokenizer's own normalizer.
    pub do_lower_case: bool,
    pub prompts: Vec<(String, String)>,
    prompts_by_name: HashMap<String, String>,
    default_prompt_name: Option<String>,
    /// Keys that are in no table, with their files.
    pub unknown: Vec<String>,
    /// The transformer module's file that was read.
    pub transformer_file: Option<&'static str>,
    /// What the tokenizer's files say beside `tokenizer.json`.
    pub tokenizer: TokenizerSettings,
    pub decisions: Vec<Decision>,
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

pub(super) const PROMPTS_FILE: &str = "config_sentence_transformers.json";

impl SentenceTransformers {
    /// Reads what is there of them in `folder`, whose modules are these.
    pub fn read(folder: &Path, modules: Option<&Modules>) -> Result<SentenceTransformers> {
        let mut this = SentenceTransformers::default();
        let transformer = folder.join(modules.map_or("", |modules| &modules.transformer));
        // A folder without modules is one of transformers, whose limit is the tokenizer's.
        if modules.is_some() {
            this.read_transformer(&transformer)?;
        }
        this.tokenizer = TokenizerSettings::read(&transformer, &mut this.unknown, &mut this.limits)?;
        this.read_file(
            folder,
            PROMPTS_FILE,
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
                let limit = positive(&settings, "max_seq_length")?;
                self.limits.push((Source::new(name, "max_seq_length"), limit));
                if let Some(lower) = settings.switch("do_lower_case")? {
                    self.do_lower_case = lower;
                    let value = if lower { "made lower" } else { "the tokenizer's" };
                    self.decisions.push(Decision {
                        source: Some(Source::new(name, "do_lower_case")),
                        ..Decision::new("letter case", value)
                    });
                }
                self.transformer_file = Some(name);
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
        let map = settings.object("prompts")?;
        let count = map.map_or(0, |map| map.len());
        if count > limit::TASKS {
            return Err(settings.error(format!(
                "prompts has {count} entries; wanted at most {}",
                limit::TASKS
            )));
        }
        for (name, prompt) in map.into_iter().flatten() {
            match prompt {
                Value::String(prompt) => prompts.push((name.clone(), prompt.clone())),
                Value::Null => {}
                other => {
                    return Err(settings.error(format!("prompts has {other} for `{name}`; wanted a text")));
                }
            }
        }
        self.prompts_by_name = prompts.iter().cloned().collect();
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

    pub fn prompt(&self, name: &str) -> Option<&str> {
        self.prompts_by_name.get(name).map(String::as_str)
    }

    pub fn default_prompt(&self) -> String {
        let name = self.default_prompt_name.as_deref();
        name.and_then(|name| self.prompt(name))
            .unwrap_or_default()
            .to_owned()
    }

    /// The prompt of inputs that name no task.
    pub fn default_prompt_decision(&self) -> Decision {
        match &self.default_prompt_name {
            Some(name) => Decision {
                source: Some(Source::new(PROMPTS_FILE, "default_prompt_name")),
                ..Decision::new("default prompt", format!("{:?} ({name})", self.default_prompt()))
            },
            None => Decision::new("default prompt", "none"),
        }
    }
}

/// A length of at least 1; none where it is null. "No limit" is written as a number far above any length.
pub(super) fn positive(settings: &Settings<'_>, key: &str) -> Result<Option<usize>> {
    match settings.float(key, Some(f64::INFINITY))? {
        length if length >= 1e12 => Ok(None),
        length if length >= 1.0 && (length.fract() == 0.0) => Ok(Some(length as usize)),
        length => Err(settings.error(format!(
            "{key} is {length:?}; wanted a whole number of at least 1, or null"
        ))),
    }
}
