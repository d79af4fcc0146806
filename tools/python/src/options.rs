//! `ropeway.Options`, as the engine has it.

use std::borrow::Cow;

use pyo3::prelude::*;
use ropeway::{Chunking, Embed, Encoding, Pooling};

use crate::errors;

/// The fields of the dataclass `Options` in `ropeway/options.py`, which documents them.
#[derive(FromPyObject)]
struct Fields {
    task: Option<String>,
    adapters: Option<Vec<(String, f32)>>,
    prompt: Option<String>,
    dimensions: Option<usize>,
    any_dimensions: bool,
    pooling: Option<String>,
    normalize: Option<bool>,
    truncate: bool,
    chunks: Option<Chunks>,
    window: Option<usize>,
    overlap: Option<usize>,
    encoding: String,
}

#[derive(FromPyObject)]
enum Chunks {
    Tokens(usize),
    Word(String),
    Spans(Vec<(usize, usize)>),
}

/// The encodings by numpy's names of their numbers; `ubinary` is sentence-transformers' name for packed bits.
const ENCODINGS: [(&str, Encoding); 4] = [
    ("float32", Encoding::F32),
    ("float16", Encoding::F16),
    ("int8", Encoding::Int8),
    ("ubinary", Encoding::Binary),
];

/// The one of `all` that has this name.
fn named<T: Copy>(py: Python<'_>, field: &str, name: &str, all: &[(&str, T)]) -> PyResult<T> {
    let found = all.iter().find(|one| one.0 == name).map(|one| one.1);
    found.ok_or_else(|| {
        let known: Vec<&str> = all.iter().map(|one| one.0).collect();
        let shown: String = name.chars().take(40).collect();
        let problem = format!("{field} is {shown:?}; wanted one of {}", known.join(", "));
        errors::raise(py, "SettingError", problem)
    })
}

/// Reads one `Options`.
pub fn read(options: &Bound<'_, PyAny>) -> PyResult<Embed> {
    let py = options.py();
    let fields: Fields = options.extract()?;
    let poolings = Pooling::ALL.map(|pooling| (pooling.name(), pooling));
    let pooling = fields.pooling.as_deref();
    let chunks = match fields.chunks {
        None => None,
        Some(Chunks::Tokens(tokens)) => Some(Chunking::Tokens(tokens)),
        Some(Chunks::Spans(spans)) => Some(Chunking::Spans(spans)),
        Some(Chunks::Word(word)) => {
            Some(named(py, "chunks", &word, &[("sentences", ())]).map(|()| Chunking::Sentences)?)
        }
    };
    let embed = match (fields.task, fields.adapters) {
        (None, None) => Embed::default(),
        (Some(task), None) => Embed::task(task),
        (None, Some(parts)) if parts.is_empty() => Embed::base(),
        (None, Some(parts)) => Embed::mixture(parts),
        (Some(_), Some(_)) => {
            let problem = "both task and adapters are given; leave one out";
            return Err(errors::raise(py, "SettingError", problem));
        }
    };
    let embed = embed
        .dimensions(fields.dimensions)
        .any_dimensions(fields.any_dimensions)
        .pooling(
            pooling
                .map(|name| named(py, "pooling", name, &poolings))
                .transpose()?,
        )
        .normalize(fields.normalize)
        .truncate(fields.truncate)
        .chunks(chunks)
        .window(fields.window)
        .overlap(fields.overlap)
        .encoding(named(py, "encoding", &fields.encoding, &ENCODINGS)?);
    Ok(match fields.prompt {
        Some(prompt) => embed.prompt(prompt),
        None => embed,
    })
}

/// The options of a call: one for all texts, or one per text.
pub enum PerText {
    One(Embed),
    /// Each text's number among those that differ, and those.
    Each(Vec<usize>, Vec<Embed>),
}

impl PerText {
    /// Reads one `Options`, a list of `count`, or `None`, which is the default. An object that is in the list many times is read once.
    pub fn read(options: &Bound<'_, PyAny>, count: usize) -> PyResult<PerText> {
        if options.is_none() {
            return Ok(PerText::One(Embed::default()));
        }
        let Ok(list) = options.cast::<pyo3::types::PyList>() else {
            return Ok(PerText::One(read(options)?));
        };
        if list.len() != count {
            let problem = format!("{} options for {count} texts; give one for each", list.len());
            return Err(errors::raise(options.py(), "SettingError", problem));
        }
        let (mut numbers, mut all) = (Vec::with_capacity(count), Vec::new());
        let mut known = std::collections::HashMap::new();
        for one in list.iter() {
            let number = match known.get(&one.as_ptr()) {
                Some(number) => *number,
                None => {
                    all.push(read(&one)?);
                    *known.entry(one.as_ptr()).or_insert(all.len() - 1)
                }
            };
            numbers.push(number);
        }
        Ok(PerText::Each(numbers, all))
    }

    /// The options of a text.
    pub fn of(&self, text: usize) -> Cow<'_, Embed> {
        Cow::Borrowed(match self {
            PerText::One(embed) => embed,
            PerText::Each(numbers, all) => &all[numbers[text]],
        })
    }
}
