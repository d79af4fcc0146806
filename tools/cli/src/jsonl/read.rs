//! From a line to a request.

use std::borrow::Cow;
use std::collections::HashSet;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::exit::one_line;

use super::id::{Id, LONGEST_ID};
use super::{LineEntries, Pairs};
use ropeway::{AdapterSelection, Chunking, Embed, Encoding, Input, Pooling, Request};

/// `Result` with what is wrong and the way out.
type Result<T, E = String> = std::result::Result<T, E>;

/// The keys of a line, as the messages list them.
pub const KEYS: &str = "id, text, input_ids, task, adapters, prompt, dimensions, any_dimensions, pooling, \
                        normalize, truncate, encoding, spans, chunk_tokens, chunk_sentences, window, overlap";

/// A line that was understood.
#[derive(Clone, Debug)]
pub struct Line<'d> {
    /// Its `id`, if it has one.
    pub id: Option<Id>,
    /// Its input, and the defaults with the line's own options over them.
    pub request: Request<'d>,
}

/// A line that was not understood.
#[derive(Debug)]
pub struct BadLine {
    /// Its `id`, if at least that could be read.
    pub id: Option<Id>,
    /// What is wrong and the way out.
    pub problem: String,
}

/// Reads one line. Options that it does not name are those of `defaults`.
pub fn parse<'d>(line: &str, defaults: &'d Embed) -> Result<Line<'d>, BadLine> {
    let LineEntries { entries, .. } = serde_json::from_str(line).map_err(|e| {
        // The line's number in its file is the caller's to say; serde_json's is always 1.
        let text = e.to_string();
        let reason = text.split(" at line 1 column ").next().unwrap_or(&text);
        let problem = if line.trim_start().starts_with('{') {
            format!(
                "invalid JSON at column {}: {reason} (one whole object per line)",
                e.column()
            )
        } else {
            "not a JSON object; wanted e.g. {\"text\": \"…\"} (plain text is read with --input text)".into()
        };
        BadLine { id: None, problem }
    })?;
    let mut fields = Fields {
        options: Cow::Borrowed(defaults),
        ..Fields::default()
    };
    // The id first, wherever it stands, so that a bad line can still be told by it.
    let id = entries
        .iter()
        .find(|(key, _)| key == "id")
        .and_then(|(_, raw)| Id::read(raw));
    match fields.read(&entries).and_then(|()| fields.finish()) {
        Ok(request) => Ok(Line { id, request }),
        Err(problem) => Err(BadLine { id, problem }),
    }
}

/// What the keys of a line said, before the ones that exclude each other are settled. The outer
/// `Option` is whether the key is there, the inner one whether it is other than `null`.
#[derive(Default)]
struct Fields<'d> {
    options: Cow<'d, Embed>,
    text: Option<String>,
    ids: Option<Vec<u32>>,
    task: Option<Option<String>>,
    adapters: Option<Option<Vec<(String, f32)>>>,
    spans: Option<Option<Vec<(usize, usize)>>>,
    chunk_tokens: Option<Option<usize>>,
    chunk_sentences: Option<Option<bool>>,
}

impl<'d> Fields<'d> {
    fn read(&mut self, entries: &[(String, &RawValue)]) -> Result<()> {
        // As many as there are known keys, at most: the first that is not known ends this.
        let mut seen: Vec<String> = Vec::new();
        for (written, raw) in entries {
            // `any-dimensions` is the same word as `any_dimensions`: flags and keys look alike.
            let key = written.replace('-', "_");
            let name = key
                .strip_prefix("no_")
                .filter(|name| ["normalize", "truncate"].contains(name));
            let name = name.unwrap_or(&key).to_owned();
            if seen.contains(&name) {
                return Err(format!("key `{}`: given twice", shorten(written)));
            }
            seen.push(name);
            self.read_one(&key, raw)?;
        }
        Ok(())
    }

    fn read_one(&mut self, key: &str, raw: &RawValue) -> Result<()> {
        let word = "true or false";
        match key {
            "id" if raw.get() != "null" && Id::read(raw).is_none() => {
                return Err(match raw.get().len() > LONGEST_ID {
                    true => format!("key `id`: longer than {} KiB", LONGEST_ID >> 10),
                    false => wrong("id", wanted_of_id(raw), raw),
                });
            }
            "id" => {}
            "text" => self.text = value("text", "a string", raw)?,
            "input_ids" => self.ids = value("input_ids", "a list of token ids (whole numbers)", raw)?,
            "task" => self.task = Some(value("task", "a string", raw)?),
            "adapters" => self.adapters = Some(adapters(raw)?),
            "prompt" => {
                let prompt: Option<String> = value("prompt", "a string", raw)?;
                self.set(|o| match prompt {
                    Some(prompt) => o.prompt(prompt),
                    None => o.own_prompt(),
                });
            }
            "dimensions" => {
                let dimensions: Option<usize> = value("dimensions", "a whole number", raw)?;
                self.set(|o| o.dimensions(dimensions));
            }
            "any_dimensions" => {
                let any: Option<bool> = value("any_dimensions", word, raw)?;
                self.set(|o| o.any_dimensions(any.unwrap_or(false)));
            }
            "pooling" => {
                let pooling = choice("pooling", POOLINGS, raw)?;
                self.set(|o| o.pooling(pooling));
            }
            "normalize" => {
                let yes: Option<bool> = value("normalize", word, raw)?;
                self.set(|o| o.normalize(yes));
            }
            "no_normalize" => {
                let no: Option<bool> = value("no_normalize", word, raw)?;
                self.set(|o| o.normalize(no.map(|no| !no)));
            }
            "truncate" => {
                let yes: Option<bool> = value("truncate", word, raw)?;
                self.set(|o| o.truncate(yes.unwrap_or(true)));
            }
            "no_truncate" => {
                let no: Option<bool> = value("no_truncate", word, raw)?;
                self.set(|o| o.truncate(!no.unwrap_or(false)));
            }
            "encoding" => {
                let encoding = choice("encoding", ENCODINGS, raw)?;
                self.set(|o| o.encoding(encoding.unwrap_or_default()));
            }
            "spans" => {
                let wanted = "a list of [start, end] pairs, half-open, in code points of the text";
                self.spans = Some(value("spans", wanted, raw)?);
            }
            "chunk_tokens" => self.chunk_tokens = Some(value("chunk_tokens", "a whole number", raw)?),
            "chunk_sentences" => self.chunk_sentences = Some(value("chunk_sentences", word, raw)?),
            "window" => {
                let tokens: Option<usize> = value("window", "a whole number", raw)?;
                self.set(|o| o.window(tokens));
            }
            "overlap" => {
                let tokens: Option<usize> = value("overlap", "a whole number", raw)?;
                self.set(|o| o.overlap(tokens));
            }
            _ => return Err(format!("unknown key `{}`; known: {KEYS}", shorten(key))),
        }
        Ok(())
    }

    fn set(&mut self, change: impl FnOnce(Embed) -> Embed) {
        let options = self.options.to_mut();
        *options = change(std::mem::take(options));
    }

    fn finish(&mut self) -> Result<Request<'d>> {
        let input = match (self.text.take(), self.ids.take()) {
            (Some(text), None) => Input::Text(text.into()),
            (None, Some(ids)) => Input::Ids(ids.into()),
            (None, None) => return Err("neither `text` nor `input_ids` is given".into()),
            (Some(_), Some(_)) => return Err("`text` and `input_ids` exclude each other".into()),
        };
        let adapters = match (self.task.take(), self.adapters.take()) {
            (Some(Some(_)), Some(Some(_))) => return Err("`task` and `adapters` exclude each other".into()),
            (Some(Some(task)), _) => Some(AdapterSelection::Task(task)),
            (_, Some(Some(mixture))) if mixture.is_empty() => Some(AdapterSelection::Base),
            (_, Some(Some(mixture))) => Some(AdapterSelection::Mixture(mixture)),
            (Some(None), _) => Some(AdapterSelection::Base),
            // No mixture, but a task of the run still holds.
            (None, Some(None)) => matches!(self.options.get_adapters(), AdapterSelection::Mixture(_))
                .then_some(AdapterSelection::Base),
            (None, None) => None,
        };
        if let Some(adapters) = adapters {
            self.set(|o| o.adapters(adapters));
        }
        if let Some(chunking) = self.chunking()? {
            self.set(|o| o.chunks(chunking));
        }
        Ok(Request::new(input, std::mem::take(&mut self.options)))
    }

    /// What the line says about chunks: `None` if nothing, `Some(None)` if none are wanted.
    fn chunking(&mut self) -> Result<Option<Option<Chunking>>> {
        let spans = self.spans.take();
        let no_spans = spans == Some(None);
        let sentences = self.chunk_sentences.map(|sentences| sentences.filter(|&yes| yes));
        let wanted: Vec<Chunking> = [
            spans.flatten().map(Chunking::Spans),
            self.chunk_tokens.flatten().map(Chunking::Tokens),
            sentences.flatten().map(|_| Chunking::Sentences),
        ]
        .into_iter()
        .flatten()
        .collect();
        if wanted.len() > 1 {
            return Err("`spans`, `chunk_tokens` and `chunk_sentences` exclude each other".into());
        }
        let cancelled = match self.options.get_chunks() {
            Some(Chunking::Spans(_)) => no_spans,
            Some(Chunking::Tokens(_)) => self.chunk_tokens == Some(None),
            Some(Chunking::Sentences) => sentences == Some(None),
            _ => false,
        };
        Ok(wanted.into_iter().next().map(Some).or(cancelled.then_some(None)))
    }
}

/// What is wrong with an id: its type, or that it is one which a JSON reader gives back as another value, or not at all.
fn wanted_of_id(raw: &RawValue) -> &'static str {
    match raw.get().starts_with(['{', '[', 't', 'f']) {
        true => "a string or a number",
        false => {
            "a string or number that every JSON reader takes back (no lone surrogate, no number past 1e308)"
        }
    }
}

/// The words for poolings, in keys and flags.
pub const POOLINGS: &[(&str, Pooling)] = &{
    let mut words = [("", Pooling::None); Pooling::ALL.len()];
    let mut i = 0;
    while i < words.len() {
        words[i] = (Pooling::ALL[i].name(), Pooling::ALL[i]);
        i += 1;
    }
    words
};

/// The words for encodings, in keys and flags.
pub const ENCODINGS: &[(&str, Encoding)] = &[
    ("f32", Encoding::F32),
    ("f16", Encoding::F16),
    ("int8", Encoding::Int8),
    ("binary", Encoding::Binary),
    ("base64", Encoding::Base64),
];

fn choice<T: Copy>(key: &str, words: &[(&str, T)], raw: &RawValue) -> Result<Option<T>> {
    let wanted = words
        .iter()
        .map(|(word, _)| format!("\"{word}\""))
        .collect::<Vec<_>>()
        .join(", ");
    let Some(word) = value::<String>(key, &wanted, raw)? else {
        return Ok(None);
    };
    match words.iter().find(|(name, _)| *name == word) {
        Some((_, meaning)) => Ok(Some(*meaning)),
        None => Err(wrong(key, &wanted, raw)),
    }
}

/// The most adapters in a mixture; far more than a model has.
const LARGEST_MIXTURE: usize = 10_000;

fn adapters(raw: &RawValue) -> Result<Option<Vec<(String, f32)>>> {
    let wanted = "an object of adapter names and weights, e.g. {\"separation\": 0.7}";
    let read = value::<Pairs<f32, LARGEST_MIXTURE>>("adapters", wanted, raw)?;
    let Some(Pairs { entries, more }) = read else {
        return Ok(None);
    };
    if more {
        return Err(format!("adapters: more than {LARGEST_MIXTURE} names"));
    }
    check_mixture(&entries)?;
    Ok(Some(entries))
}

/// Refuses weights that are not finite (JSON's `1e999`) and names that are given twice.
pub fn check_mixture(mixture: &[(String, f32)]) -> Result<()> {
    let mut names = HashSet::with_capacity(mixture.len());
    for (name, weight) in mixture {
        if !weight.is_finite() {
            return Err(format!(
                "adapters: the weight of `{}` is {weight}; wanted a finite number",
                shorten(name)
            ));
        }
        if !names.insert(name) {
            return Err(format!("adapters: `{}` is given twice", shorten(name)));
        }
    }
    Ok(())
}

/// The value of a key; `None` for `null`.
fn value<T: DeserializeOwned>(key: &str, wanted: &str, raw: &RawValue) -> Result<Option<T>> {
    serde_json::from_str(raw.get()).map_err(|_| wrong(key, wanted, raw))
}

fn wrong(key: &str, wanted: &str, raw: &RawValue) -> String {
    format!("key `{key}`: wanted {wanted}, got {}", shorten(raw.get()))
}

/// The beginning of a text of the user's, on one line whatever is in it.
fn shorten(text: &str) -> String {
    const LENGTH: usize = 60;
    match text.char_indices().nth(LENGTH) {
        Some((end, _)) => one_line(&text[..end]) + "…",
        None => one_line(text),
    }
}
