//! Settings files (JSON objects) by tables of their keys.
//!
//! A setting that is passed over can change every vector without a sign. So each kind of file has a table of all keys
//! that its writers know, with what each may be: [`check`](Settings::check) holds a file against it. What
//! is in no table is handed back, and the reader of the file decides: an adapter's is refused, a model's is warned of.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::model::file;

/// What a key may be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rule {
    /// The reader of the file takes it, and checks its type and value itself.
    Used,
    /// No embedding depends on it, whatever its value.
    Harmless,
    /// A switch. The value that changes nothing, and why the other one is refused, with the way out.
    Switch(bool, &'static str),
    /// Changes nothing while it is null or empty; why it is refused else, with the way out.
    Empty(&'static str),
    /// Changes nothing while it is null: even an empty list switches it on.
    Null(&'static str),
    /// The words that change nothing, and why others are refused.
    Words(&'static [&'static str], &'static str),
    /// The number that changes nothing, and why others are refused.
    Number(f64, &'static str),
    /// An object with a table of its own. A key that is not in it is refused if it is set: such objects are handed to
    /// functions, whose every argument counts.
    Object(&'static Table),
}

/// Keys and their rules; a key is there once.
pub(crate) type Table = [(&'static str, Rule)];

/// A settings file.
#[derive(Clone, Copy)]
pub(crate) struct Settings<'a> {
    path: &'a Path,
    json: &'a Map<String, Value>,
}

/// Reads a settings file: one JSON value.
///
/// # Errors
/// [`Error::Io`]; [`Error::Model`] with the line and column of what is no JSON.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let text = file::read(path, file::SETTINGS_LIMIT)?;
    file::check_encoding(path, &text)?;
    serde_json::from_slice(&text).map_err(|e| Error::model(path, format!("is not valid JSON: {e}")))
}

impl<'a> Settings<'a> {
    /// The settings in a file's JSON.
    ///
    /// # Errors
    /// A file that holds no object.
    pub fn new(path: &'a Path, json: &'a Value) -> Result<Settings<'a>> {
        match json {
            Value::Object(json) => Ok(Settings { path, json }),
            _ => Err(Error::model(
                path,
                "is not a JSON object (`{…}`) of settings; fetch or save it again",
            )),
        }
    }

    /// An error about the file.
    pub fn error(&self, problem: impl Into<String>) -> Error {
        Error::model(self.path, problem)
    }

    /// Holds every key against the tables, and gives back those that are in none of them and set: to anything but
    /// null, false or an empty value.
    ///
    /// # Errors
    /// The first key that is refused, by name.
    pub fn check(&self, tables: &[&Table]) -> Result<Vec<&'a str>> {
        let mut unknown = Vec::new();
        for (key, value) in self.json {
            let rule = tables.iter().copied().flatten().find(|(known, _)| known == key);
            match rule {
                Some((_, rule)) => self.hold(key, value, *rule)?,
                None if is_off(value) => {}
                None => unknown.push(key.as_str()),
            }
        }
        Ok(unknown)
    }

    fn hold(&self, key: &str, value: &Value, rule: Rule) -> Result<()> {
        let refused = |why: &str| Err(self.error(format!("{key} is {value}, which is not supported: {why}")));
        let wanted = |kind: &str| Err(self.error(format!("{key} is {value}; wanted {kind}")));
        match (rule, value) {
            (Rule::Used | Rule::Harmless, _) | (_, Value::Null) => Ok(()),
            (Rule::Switch(plain, why), Value::Bool(on)) => match *on == plain {
                true => Ok(()),
                false => refused(why),
            },
            (Rule::Switch(..), _) => wanted("true or false"),
            (Rule::Null(why), _) => refused(why),
            (Rule::Empty(why), value) => match is_empty(value) {
                true => Ok(()),
                false => refused(why),
            },
            (Rule::Words(plain, why), Value::String(word)) => match plain.contains(&word.as_str()) {
                true => Ok(()),
                false => refused(why),
            },
            (Rule::Words(plain, _), _) => wanted(&format!("one of {}", plain.join(", "))),
            (Rule::Number(plain, why), Value::Number(number)) => match number.as_f64() == Some(plain) {
                true => Ok(()),
                false => refused(why),
            },
            (Rule::Number(..), _) => wanted("a number"),
            (Rule::Object(table), Value::Object(json)) => {
                let inner = Settings {
                    path: self.path,
                    json,
                };
                match inner.check(&[table]).map_err(|error| within(key, error))?.first() {
                    None => Ok(()),
                    Some(unknown) => Err(self.error(format!(
                        "{key} sets `{unknown}`, which is not known, so that its effect on embeddings is not either; take \
                         it out if it has none"
                    ))),
                }
            }
            (Rule::Object(_), _) => wanted("an object (`{…}`)"),
        }
    }

    /// The value of a key that is there and not null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.json.get(key).filter(|value| !value.is_null())
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a text", Value::as_str)
    }

    /// A switch.
    pub fn switch(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// An object.
    pub fn object(&self, key: &str) -> Result<Option<&'a Map<String, Value>>> {
        self.typed(key, "an object (`{…}`)", Value::as_object)
    }

    /// A number that has to be there, or has a default.
    pub fn float(&self, key: &str, default: Option<f64>) -> Result<f64> {
        let found = self.typed(key, "a number", Value::as_f64)?;
        found
            .or(default)
            .ok_or_else(|| self.error(format!("{key} is missing")))
    }

    /// A whole number from 1 to `limit`, which has to be there.
    pub fn size(&self, key: &str, limit: usize) -> Result<usize> {
        match self.optional_size(key, limit)? {
            Some(0) => Err(self.error(format!("{key} is 0; wanted 1 to {limit}"))),
            Some(size) => Ok(size),
            None => Err(self.error(format!("{key} is missing"))),
        }
    }

    /// A whole number from 0 to `limit`.
    pub fn optional_size(&self, key: &str, limit: usize) -> Result<Option<usize>> {
        let size = |value: &Value| value.as_u64().filter(|&size| size <= limit as u64);
        let found = self.typed(key, &format!("a whole number up to {limit}"), size)?;
        Ok(found.map(|size| size as usize))
    }

    fn typed<T>(&self, key: &str, kind: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(self.error(format!("{key} is {value}; wanted {kind}"))),
        }
    }
}

/// Null, false or empty: a setting that is not known is off then.
fn is_off(value: &Value) -> bool {
    matches!(value, Value::Null | Value::Bool(false)) || is_empty(value)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// The error of an inner object's key, with the outer key.
fn within(key: &str, error: Error) -> Error {
    match error {
        Error::Model { path, problem } => Error::Model {
            path,
            problem: format!("in {key}: {problem}"),
        },
        other => other,
    }
}
