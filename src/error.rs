//! The engine's error type. Every message says what went wrong, where, and the way out.

use std::path::{Path, PathBuf};

use crate::gpu::driver::DriverError;

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The engine's error type: everything that can go wrong in it. It never panics on input.
///
/// [`Engine::embed_batch`](crate::Engine::embed_batch) gives one per request, so that a server can answer each:
///
/// ```no_run
/// use ropeway::{Embed, Engine, Error, Request, RequestError};
/// # let engine = Engine::open("models/all-MiniLM-L6-v2")?;
/// let options = Embed::task("retrieval.query").truncate(false);
/// for result in engine.embed_batch(&[Request::text("reset password", &options)]) {
///     let status = match &result {
///         Ok(_) => 200,
///         Err(Error::Request(RequestError::UnknownTask { .. })) => 404,
///         Err(Error::Request(RequestError::TooLong { .. })) => 413,
///         Err(Error::Request(_)) => 400,
///         Err(_) => 500,
///     };
///     # let _ = status;
/// }
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened, mapped or read.
    #[error("{path}: {source}", path = shown_name(&path.to_string_lossy()))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A model folder's file has wrong contents (configuration, index, header, tokenizer), or there is no such folder.
    #[error("{path}: {problem}", path = shown_name(&path.to_string_lossy()), problem = shown_text(problem))]
    Model {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// A tensor is missing or has the wrong type, shape or values.
    #[error(
        "{path}: tensor `{tensor}`: {problem}",
        path = shown_name(&path.to_string_lossy()),
        tensor = shown_name(tensor),
        problem = shown_text(problem)
    )]
    Tensor {
        /// The file (or folder) it was looked for in.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// What was wanted and what was found.
        problem: String,
    },
    /// A LoRA adapter cannot be added, removed or used.
    #[error("adapter `{name}`: {problem}", name = shown_name(name))]
    Adapter {
        /// The adapter's name.
        name: String,
        /// What is wrong and the way out.
        problem: AdapterError,
    },
    /// An input or its options are not acceptable. The other inputs of the call are not affected.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// One of several inputs failed.
    #[error("input {index}: {source}")]
    Input {
        /// Its number, from 0.
        index: usize,
        /// Why.
        source: Box<Error>,
    },
    /// A setting of the engine is out of its range.
    #[error("{name} is {value}; wanted 1 to {limit}")]
    Setting {
        /// The method of [`EngineBuilder`](crate::EngineBuilder) that sets it.
        name: &'static str,
        /// What it was set to.
        value: usize,
        /// The largest value it can have; the smallest is 1.
        limit: usize,
    },
    /// A model could not be had from the hub.
    #[error("model `{id}`: {problem}", id = shown_name(id), problem = shown_text(problem))]
    Hub {
        /// The hub id (`owner/name`).
        id: String,
        /// What is wrong and the way out.
        problem: String,
    },
    /// The requested device cannot be used.
    #[error("device: {0}")]
    Device(String),
    /// The GPU failed.
    #[error("{step}: {source}")]
    Gpu {
        /// What was being done: a step of the plan, or of opening the engine.
        step: String,
        /// The driver's call and what it said.
        source: DriverError,
    },
    /// The GPU failed earlier in a way that this engine does not survive.
    #[error(
        "the device failed earlier ({0}), and CUDA in this process with it: start the process anew (to open the engine anew may \
         suffice where nothing else in the process uses the device)"
    )]
    DeviceLost(String),
    /// A bug in ropeway: a worker panicked. The engine stays usable.
    #[error("internal error, please report it: {0}")]
    Internal(String),
}

/// Why an input cannot be embedded with these options by this model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Neither a task of the model nor a loaded adapter has this name.
    #[error("there is no task or adapter `{name}`; there are {known}", name = shown_name(name))]
    UnknownTask {
        /// The name asked for.
        name: String,
        /// The tasks and adapters that there are.
        known: KnownNames,
    },
    /// A mixture names an adapter that is not loaded.
    #[error("there is no adapter `{name}`; there are {known}", name = shown_name(name))]
    UnknownAdapter {
        /// The name asked for.
        name: String,
        /// The loaded adapters.
        known: KnownNames,
    },
    /// A mixture names an adapter twice.
    #[error("adapter `{name}` is in the mixture twice", name = shown_name(name))]
    RepeatedAdapter {
        /// Its name.
        name: String,
    },
    /// An adapter's weight in a mixture is not finite or too large.
    #[error(
        "the weight of adapter `{name}` is {weight:?}; wanted a finite number from -{limit} to {limit}",
        name = shown_name(name)
    )]
    AdapterWeight {
        /// The adapter's name.
        name: String,
        /// The weight asked for.
        weight: f32,
        /// The largest weight, either way.
        limit: f32,
    },
    /// More dimensions than the model has, or none.
    #[error("dimensions is {dimensions}; the model has 1 to {limit}")]
    Dimensions {
        /// The dimensions asked for.
        dimensions: usize,
        /// Those of the full embedding.
        limit: usize,
    },
    /// A size that the model was not trained to be cut to; [`Embed::any_dimensions`](crate::Embed::any_dimensions)
    /// accepts it.
    #[error(
        "dimensions is {dimensions}, but the model was trained to be cut to {}; ask for any_dimensions to cut there \
         all the same",
        sizes(trained, *full)
    )]
    UntrainedDimensions {
        /// The dimensions asked for.
        dimensions: usize,
        /// The sizes that the model was trained to be cut to; empty: the full size alone.
        trained: Vec<usize>,
        /// The full size.
        full: usize,
    },
    /// Binary encoding packs eight dimensions into a byte.
    #[error("binary encoding needs a multiple of 8 dimensions, not {dimensions}")]
    BinaryDimensions {
        /// The dimensions asked for.
        dimensions: usize,
    },
    /// The input is longer than the model's limit, and truncation was switched off.
    #[error(
        "the input has at least {tokens} tokens and the model takes {limit}; shorten it, allow truncation or use chunks"
    )]
    TooLong {
        /// Tokens of the input, special tokens and prompt included. A text of more than 64 KiB is counted to little more
        /// than the limit.
        tokens: usize,
        /// [`ModelConfig::max_tokens`](crate::ModelConfig::max_tokens).
        limit: usize,
    },
    /// The list of token ids is empty.
    #[error("there are no token ids; give at least one")]
    NoIds,
    /// A token id is not one of the vocabulary.
    #[error("token id {id} at position {position} is outside the vocabulary of {vocabulary}")]
    IdOutOfRange {
        /// The id.
        id: u32,
        /// Its index in the input, from 0.
        position: usize,
        /// [`ModelConfig::vocab_size`](crate::ModelConfig::vocab_size).
        vocabulary: usize,
    },
    /// The model cannot take text.
    #[error("the model folder has no tokenizer.json, so it takes token ids only")]
    NoTokenizer,
    /// The tokenizer refused the text.
    #[error("the text cannot be tokenised: {0}")]
    Text(String),
    /// A text is too long for a tokenizer that takes it in parts, which are cut at white space.
    #[error(
        "the text has a stretch of more than {limit} bytes without white space between words (special tokens are none), \
         which is too long for the tokenizer; put in white space, or cut the text"
    )]
    NoBlanks {
        /// The longest stretch, in bytes.
        limit: usize,
    },
    /// A pooling whose vector the modules after it do not take.
    #[error(
        "the pooled vector would have {pooled} numbers, and the model's next module takes {wanted}; leave out pooling, for \
         the model's own"
    )]
    PooledWidth {
        /// Numbers of the pooled vector.
        pooled: usize,
        /// Numbers that the module takes.
        wanted: usize,
    },
    /// A prompt is left out of pooling, and no token of the text is left.
    #[error(
        "the text adds no token to its prompt's, which the model leaves out of pooling; give a longer text"
    )]
    NothingBesidePrompt,
    /// A weighted mean over a text behind a prompt that is left out.
    #[error(
        "pooling weightedmean is not computed behind a prompt that the model leaves out of pooling; give an empty prompt or \
         another pooling"
    )]
    WeightedPrompt,
    /// Chunks with another pooling than the mean.
    #[error("chunks are pooled by their mean; ask for pooling mean")]
    ChunkPooling,
    /// Chunks of no tokens.
    #[error("chunks of 0 tokens were asked for; wanted 1 or more")]
    ChunkSize,
    /// Sentences of token ids, which have none.
    #[error("token ids have no sentences; give spans or a number of tokens")]
    SentencesOfIds,
    /// A span is empty or reaches past the input.
    #[error("span [{start}, {end}) is not within the input's {length} {unit}, or is empty")]
    Span {
        /// Its start, as it was given.
        start: usize,
        /// Its end, as it was given.
        end: usize,
        /// The input's length.
        length: usize,
        /// What is counted: `code points` or `tokens`.
        unit: &'static str,
    },
    /// A span holds no token.
    #[error("span [{start}, {end}) holds no token of the text, only white space")]
    EmptySpan {
        /// Its first code point.
        start: usize,
        /// One past its last.
        end: usize,
    },
    /// More spans than tokens.
    #[error("{spans} spans for {tokens} tokens; wanted no more spans than the input has tokens")]
    TooManySpans {
        /// The spans asked for.
        spans: usize,
        /// Tokens of the input.
        tokens: usize,
    },
    /// Spans that overlap so often that their work is far more than the input's.
    #[error("the spans hold {tokens} tokens in all; wanted up to {limit} for an input of this length")]
    Overlapping {
        /// Tokens of all spans.
        tokens: usize,
        /// The most for this input.
        limit: usize,
    },
    /// Vectors that take far more room than their input.
    #[error(
        "the result's {vectors} vectors come to {bytes} bytes; wanted up to {limit}: ask for longer chunks, or for fewer \
         dimensions"
    )]
    LargeResult {
        /// Vectors of the result.
        vectors: usize,
        /// Bytes of them as float32, and of what is kept beside each.
        bytes: usize,
        /// The most for one input.
        limit: usize,
    },
    /// A prompt that leaves no room for a text, whatever its words are.
    #[error(
        "the prompt has {bytes} bytes; for a model that takes {tokens} tokens, wanted up to {limit}: shorten it"
    )]
    LongPrompt {
        /// Its length.
        bytes: usize,
        /// [`ModelConfig::max_tokens`](crate::ModelConfig::max_tokens).
        tokens: usize,
        /// The most bytes for this model.
        limit: usize,
    },
    /// A window that the model does not take.
    #[error("windows of {size} tokens; the model takes 1 to {limit}")]
    Window {
        /// The size asked for.
        size: usize,
        /// [`ModelConfig::max_tokens`](crate::ModelConfig::max_tokens).
        limit: usize,
    },
    /// Windows that overlap by too much.
    #[error("windows of {size} tokens cannot overlap by {overlap}; wanted up to {limit}")]
    Overlap {
        /// Tokens of a window.
        size: usize,
        /// The overlap asked for.
        overlap: usize,
        /// The largest overlap of such windows.
        limit: usize,
    },
    /// The result has numbers that are not finite.
    #[error(
        "the embedding has numbers that are not finite: the model's weights or an adapter's are broken (`ropeway \
         models verify` checks a model's) or the adapters' weights too large"
    )]
    NotFinite,
    /// The result has numbers that are finite, but too large for the encoding.
    #[error(
        "the embedding has numbers that do not fit {encoding}; ask for f32, or for a normalised embedding, whose numbers are \
         at most 1"
    )]
    DoesNotFit {
        /// The encoding, by its name.
        encoding: &'static str,
    },
    /// An embedding was taken for what it is not; see [`Embedding::into_f32`](crate::Embedding::into_f32).
    #[error("the embedding is {found}, not {wanted}; ask for that, or match on its output")]
    Form {
        /// What it is: `one vector per token`, `int8`.
        found: &'static str,
        /// What was wanted.
        wanted: &'static str,
    },
    /// These requests do not fit what is to be done with them together; the text says why.
    #[error("{0}")]
    Other(String),
}

/// The names that there are: some of them, as each of many failed requests carries them, and how many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KnownNames {
    /// The first 20.
    pub first: Vec<String>,
    /// How many there are in all.
    pub count: usize,
}

impl KnownNames {
    /// Those of `count` names.
    pub(crate) fn new<S: Into<String>>(names: impl IntoIterator<Item = S>, count: usize) -> KnownNames {
        KnownNames {
            first: names.into_iter().take(LISTED).map(Into::into).collect(),
            count,
        }
    }
}

impl std::fmt::Display for KnownNames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&list_of(&self.first, self.count))
    }
}

/// Why an adapter cannot be added, removed or used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// The name cannot be written where adapters are named.
    #[error("a name must not be empty nor hold `,` or `=`")]
    InvalidName,
    /// The name is that of a task.
    #[error("is the name of a task of the model; choose another")]
    TaskName,
    /// Another adapter has the name.
    #[error("the name is taken; remove it first or choose another")]
    NameTaken,
    /// No adapter has the name.
    #[error("is not loaded; loaded are {loaded}")]
    NotLoaded {
        /// The loaded adapters.
        loaded: KnownNames,
    },
    /// The adapter of a task of the model was removed.
    #[error("was removed; open the engine anew to have it back")]
    Removed,
    /// What the adapter adds to a weight is out of all proportion to it: every text would get about the same vector.
    #[error(
        "its change of {target} has norm {change:.1e} and the weight itself {weight:.1e}; wanted at most {limit} times as \
         much: check lora_alpha, r and use_rslora in its configuration, and that it was trained on this model"
    )]
    TooLarge {
        /// The weight.
        target: String,
        /// The Frobenius norm of the scaled product of the factors, estimated.
        change: f64,
        /// The Frobenius norm of the weight.
        weight: f64,
        /// The largest change, in norms of the weight.
        limit: f64,
    },
    /// The adapter does not work with this engine's settings; the text says why.
    #[error("{0}")]
    Other(String),
}

/// A word that is not one of those that stand for a value; see [`Device`](crate::Device),
/// [`Precision`](crate::Precision) and [`Numerics`](crate::Numerics).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is not one of {known}")]
pub struct ParseError {
    word: String,
    known: &'static str,
}

impl ParseError {
    pub(crate) fn new(word: &str, known: &'static str) -> ParseError {
        ParseError {
            word: word.to_owned(),
            known,
        }
    }

    /// The word.
    pub fn word(&self) -> &str {
        &self.word
    }

    /// The words there are, as a list for people.
    pub fn known(&self) -> &'static str {
        self.known
    }
}

/// The message of a panic that was caught.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it panicked")
}

/// `a, b and c`, for messages; `none` if there are none. Of many names the first are listed.
pub(crate) fn list<S: AsRef<str>>(names: &[S]) -> String {
    list_of(names, names.len())
}

/// Names that a message lists.
const LISTED: usize = 20;

/// The same of `count` names, which begin with these.
fn list_of<S: AsRef<str>>(names: &[S], count: usize) -> String {
    let shown: Vec<String> = names
        .iter()
        .take(LISTED)
        .map(|x| shown_name(x.as_ref()))
        .collect();
    match shown.as_slice() {
        [] => "none".into(),
        shown if count > shown.len() => format!("{} and {} more", shown.join(", "), count - shown.len()),
        [one] => one.clone(),
        [init @ .., last] => format!("{} and {last}", init.join(", ")),
    }
}

/// A name, of a file or from one, as it stands in messages: see [`printable`].
fn shown_name(name: &str) -> String {
    printable(name, 400)
}

/// A message, into which text from files may have gone.
fn shown_text(text: &str) -> String {
    printable(text, 2000)
}

/// Text from a file as a terminal and a log may see it. Characters that control a terminal, that turn the direction of what
/// follows, or that nobody sees, are written as `\u{…}`; of a long text the middle is left out, so that the way out at
/// a message's end stays.
pub(crate) fn printable(text: &str, limit: usize) -> String {
    let escape = |c: char| match is_unsafe(c) {
        true => c.escape_unicode().to_string(),
        false => c.to_string(),
    };
    // Characters from one end of the text, for as long as they take no more than this number of bytes.
    let fitting = |chars: &mut dyn Iterator<Item = char>, bytes: usize| -> Vec<String> {
        let mut left = bytes;
        let fits = |c: &String| left.checked_sub(c.len()).map(|less| left = less).is_some();
        chars.map(escape).take_while(fits).collect()
    };
    let whole = fitting(&mut text.chars(), limit);
    if text.chars().nth(whole.len()).is_none() {
        return whole.concat();
    }
    let start = fitting(&mut text.chars(), limit * 2 / 3);
    let mut end = fitting(&mut text.chars().rev(), limit / 3);
    end.reverse();
    format!("{}…{}", start.concat(), end.concat())
}

/// Whether a terminal acts on this character, or shows nothing of it, where a reader expects text: control characters, those that
/// end lines or turn the direction of what follows, and those that nobody sees.
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// The sizes that a model was trained to be cut to.
fn sizes(trained: &[usize], full: usize) -> String {
    match trained {
        [] => format!("only {full}"),
        trained => list(&trained.iter().map(usize::to_string).collect::<Vec<_>>()),
    }
}

impl From<String> for AdapterError {
    fn from(problem: String) -> AdapterError {
        AdapterError::Other(problem)
    }
}

impl Error {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Error {
        Error::Io {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn model(path: &Path, problem: impl Into<String>) -> Error {
        Error::Model {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }

    /// A request error without a kind of its own.
    #[cfg(feature = "inspect")]
    pub(crate) fn request(problem: impl Into<String>) -> Error {
        RequestError::Other(problem.into()).into()
    }

    /// This error as that of input number `index`, from 0.
    pub fn at_input(self, index: usize) -> Error {
        Error::Input {
            index,
            source: Box::new(self),
        }
    }

    pub(crate) fn adapter(name: &str, problem: impl Into<AdapterError>) -> Error {
        Error::Adapter {
            name: name.to_owned(),
            problem: problem.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_says_cannot_steer_a_terminal_or_flood_it() {
        let hostile = "a\u{1b}]0;title\u{7}\n\u{202e}b\u{9b}31m\u{200b}";
        let path = Path::new("folder/na\u{1b}me");
        let errors = [
            Error::model(path, format!("the key {hostile} is wrong; take it out")),
            Error::Tensor {
                path: path.into(),
                tensor: hostile.into(),
                problem: hostile.into(),
            },
            Error::adapter(
                hostile,
                AdapterError::NotLoaded {
                    loaded: KnownNames::new([hostile], 1),
                },
            ),
            Error::io(path, std::io::ErrorKind::NotFound.into()),
            RequestError::UnknownTask {
                name: hostile.into(),
                known: KnownNames::new([hostile, "b"], 2),
            }
            .into(),
        ];
        for error in errors {
            let text = error.to_string();
            assert!(!text.chars().any(is_unsafe), "{text:?}");
            assert!(text.contains(r"\u{1b}"), "{text}");
        }
        let long = Error::model(
            path,
            format!("{} is wrong; take it out", "é\u{1b}".repeat(1 << 20)),
        );
        let text = long.to_string();
        assert!(
            text.len() < 4000 && text.ends_with("is wrong; take it out"),
            "{}",
            text.len()
        );
        let names: Vec<String> = (0..10_000).map(|i| i.to_string()).collect();
        assert!(list(&names).ends_with("19 and 9980 more"));
        assert_eq!(list(&["ä", "b", "c"]), "ä, b and c");
    }
}
