//! What transformers reads of a tokenizer beside `tokenizer.json`, and changes it by.
//!
//! `tokenizer.json` alone is computed here. What these files say otherwise would give other tokens, so that it is held
//! against `tokenizer.json` when that is opened (`text::agreement`), and what needs no comparison is checked here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::decision::Source;
use super::{file_keys, keys, optional_json};
use crate::error::Result;
use crate::model::settings::Settings;

pub(super) const TOKENIZER_FILE: &str = "tokenizer_config.json";
pub(super) const SPECIAL_TOKENS_FILE: &str = "special_tokens_map.json";
pub(super) const ADDED_TOKENS_FILE: &str = "added_tokens.json";

/// The files' settings that have to agree with `tokenizer.json`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TokenizerSettings {
    /// The folder of the files.
    pub folder: PathBuf,
    /// The class of transformers that reads them, without the ending `Fast`.
    pub class: String,
    pub do_lower_case: Option<bool>,
    pub strip_accents: Option<bool>,
    pub tokenize_chinese_chars: Option<bool>,
    pub add_prefix_space: Option<bool>,
    /// Whether `truncation_side` is set, which can only be to `right`.
    pub truncates_right: bool,
    /// Whether `tokenizer_file` is set, which version 4 of transformers reads in place of `tokenizer.json`.
    pub names_a_file: bool,
    /// Tokens by name, such as `cls_token`, and those without one.
    pub tokens: Vec<(Source, String)>,
    /// `added_tokens_decoder`.
    pub added: Vec<(Source, AddedToken)>,
    /// The files that were read.
    pub files: Vec<&'static str>,
}

/// A token that is found in a text before the tokenizer's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AddedToken {
    /// That of the list; `None` if it is no number.
    pub id: Option<u32>,
    pub content: String,
    pub single_word: bool,
    pub lstrip: bool,
    pub rstrip: bool,
    pub normalized: bool,
    pub special: bool,
}

/// The named tokens of transformers; its version 5 takes every other key that ends so for one too.
const NAMED: &str = "_token";

/// Lists of tokens without a name, or objects of tokens that have one.
const UNNAMED: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

impl TokenizerSettings {
    /// Reads what is there of the files in `folder`; adds the keys that are in no table, with their files, to `unknown`,
    /// and the longest input in tokens to `limits`.
    pub fn read(
        folder: &Path,
        unknown: &mut Vec<String>,
        limits: &mut Vec<(Source, Option<usize>)>,
    ) -> Result<TokenizerSettings> {
        let mut this = TokenizerSettings {
            folder: folder.to_owned(),
            ..TokenizerSettings::default()
        };
        // A key of one file overrules that of another: the last one counts.
        let mut tokens = BTreeMap::new();
        let mut has_decoder = false;
        if let Some((path, json)) = optional_json(folder.join(TOKENIZER_FILE))? {
            this.files.push(TOKENIZER_FILE);
            let settings = Settings::new(&path, &json)?;
            let others = settings.check(&[keys::TOKENIZER])?;
            unknown.extend(file_keys(TOKENIZER_FILE, &without_tokens(&settings, others)));
            // The second is what the key was called before version 2 of transformers, which still reads it.
            for key in ["model_max_length", "max_len"] {
                let limit = super::sentence::positive(&settings, key)?;
                limits.push((Source::new(TOKENIZER_FILE, key), limit));
            }
            this.class = settings.text("tokenizer_class")?.unwrap_or_default().to_owned();
            this.do_lower_case = settings.switch("do_lower_case")?;
            this.strip_accents = settings.switch("strip_accents")?;
            this.tokenize_chinese_chars = settings.switch("tokenize_chinese_chars")?;
            this.add_prefix_space = settings.switch("add_prefix_space")?;
            this.names_a_file = settings.get("tokenizer_file").is_some();
            this.truncates_right = settings.get("truncation_side").is_some();
            read_tokens(&settings, json.as_object(), TOKENIZER_FILE, &mut tokens)?;
            for (id, token) in settings.object("added_tokens_decoder")?.into_iter().flatten() {
                has_decoder = true;
                let key = format!("added_tokens_decoder, {id}");
                let token = AddedToken {
                    id: id.parse().ok(),
                    ..added_token(&settings, &key, token)?
                };
                this.added.push((Source::new(TOKENIZER_FILE, &key), token));
            }
            has_decoder |= settings.get("added_tokens_decoder").is_some();
        }
        // Where the tokens are listed, transformers reads no other file for them.
        if !has_decoder {
            if let Some((path, json)) = optional_json(folder.join(SPECIAL_TOKENS_FILE))? {
                this.files.push(SPECIAL_TOKENS_FILE);
                let settings = Settings::new(&path, &json)?;
                let others = settings.check(&[keys::SPECIAL_TOKENS])?;
                unknown.extend(file_keys(SPECIAL_TOKENS_FILE, &without_tokens(&settings, others)));
                read_tokens(&settings, json.as_object(), SPECIAL_TOKENS_FILE, &mut tokens)?;
            }
            if let Some((path, json)) = optional_json(folder.join(ADDED_TOKENS_FILE))? {
                this.files.push(ADDED_TOKENS_FILE);
                let settings = Settings::new(&path, &json)?;
                for (content, id) in json.as_object().into_iter().flatten() {
                    if id.as_u64().is_none() {
                        return Err(
                            settings.error(format!("`{content}` has the id {id}; wanted a whole number"))
                        );
                    }
                    let source = Source::new(ADDED_TOKENS_FILE, content);
                    tokens.insert(
                        format!("{ADDED_TOKENS_FILE}: {content}"),
                        vec![(source, content.clone())],
                    );
                }
            }
        }
        this.tokens = tokens.into_values().flatten().collect();
        Ok(this)
    }

    /// The named token, such as `cls_token`.
    pub fn token(&self, name: &str) -> Option<&(Source, String)> {
        self.tokens.iter().find(|(source, _)| source.key == name)
    }
}

/// The keys that are no tokens.
fn without_tokens<'k>(settings: &Settings<'_>, keys: Vec<&'k str>) -> Vec<&'k str> {
    let is_token = |key: &str| {
        let value = settings.get(key);
        key.ends_with(NAMED) && value.is_some_and(|value| value.is_string() || value.is_object())
    };
    keys.into_iter().filter(|key| !is_token(key)).collect()
}

/// Reads the named tokens and the lists of others.
fn read_tokens(
    settings: &Settings<'_>,
    json: Option<&Map<String, Value>>,
    file: &str,
    tokens: &mut BTreeMap<String, Vec<(Source, String)>>,
) -> Result<()> {
    for (key, value) in json.into_iter().flatten() {
        let source = |inner: &str| match inner {
            "" => Source::new(file, key),
            inner => Source::new(file, &format!("{key}, {inner}")),
        };
        let found = match value {
            Value::String(_) | Value::Object(_) if key.ends_with(NAMED) => {
                vec![(source(""), content(settings, key, value)?)]
            }
            Value::Array(list) if UNNAMED.contains(&key.as_str()) => list
                .iter()
                .map(|value| Ok((source(""), content(settings, key, value)?)))
                .collect::<Result<_>>()?,
            Value::Object(map) if UNNAMED.contains(&key.as_str()) => map
                .iter()
                .map(|(name, value)| Ok((source(name), content(settings, key, value)?)))
                .collect::<Result<_>>()?,
            Value::Null => continue,
            other if UNNAMED.contains(&key.as_str()) => {
                return Err(settings.error(format!("{key} is {other}; wanted a list of tokens")));
            }
            _ => continue,
        };
        tokens.insert(key.clone(), found);
    }
    Ok(())
}

/// A token as its text or as an object with it.
fn content(settings: &Settings<'_>, key: &str, value: &Value) -> Result<String> {
    let content = value.as_str().or_else(|| value["content"].as_str());
    content.map(str::to_owned).ok_or_else(|| {
        settings.error(format!(
            "{key} holds {value}; wanted a token: a text, or an object with its `content`"
        ))
    })
}

fn added_token(settings: &Settings<'_>, key: &str, value: &Value) -> Result<AddedToken> {
    let flag = |name: &str, default: bool| match &value[name] {
        Value::Null => Ok(default),
        Value::Bool(flag) => Ok(*flag),
        other => Err(settings.error(format!("{key}: {name} is {other}; wanted true or false"))),
    };
    let special = flag("special", false)?;
    Ok(AddedToken {
        id: None,
        content: content(settings, key, value)?,
        single_word: flag("single_word", false)?,
        lstrip: flag("lstrip", false)?,
        rstrip: flag("rstrip", false)?,
        normalized: flag("normalized", !special)?,
        special,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_place_of_the_tokenizer_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        for (file, named) in [("\"/x/tokenizer.json\"", true), ("null", false)] {
            let json = format!("{{\"tokenizer_file\": {file}}}");
            std::fs::write(folder.path().join(TOKENIZER_FILE), json).unwrap();
            let (mut unknown, mut limits) = (Vec::new(), Vec::new());
            let settings = TokenizerSettings::read(folder.path(), &mut unknown, &mut limits).unwrap();
            assert_eq!((settings.names_a_file, unknown.len()), (named, 0));
        }
    }
}
