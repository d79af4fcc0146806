//! What can be asked of one input: adapters, prompt, size, pooling, chunks, encoding.

use std::borrow::Cow;

/// One input and its options. Requests of any kind mix freely within one call.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The text or the token ids.
    pub input: Input<'a>,
    /// How to embed it.
    pub options: Cow<'a, Embed>,
}

/// Text, or token ids that are taken as they are.
#[derive(Clone, Debug, PartialEq)]
pub enum Input<'a> {
    /// Text: the prompt is put before it, then it is tokenised. Empty text is the embedding of
    /// the prompt and the special tokens.
    Text(Cow<'a, str>),
    /// Token ids with whatever special tokens they should have; no prompt is added.
    Ids(Cow<'a, [u32]>),
}

impl<'a> Request<'a> {
    /// A request for a text.
    pub fn text(text: impl Into<Cow<'a, str>>, options: &'a Embed) -> Self {
        Request {
            input: Input::Text(text.into()),
            options: Cow::Borrowed(options),
        }
    }

    /// A request for token ids, special tokens included.
    pub fn ids(ids: impl Into<Cow<'a, [u32]>>, options: &'a Embed) -> Self {
        Request {
            input: Input::Ids(ids.into()),
            options: Cow::Borrowed(options),
        }
    }
}

/// The options of one input; the default embeds with the base weights and the model's own pooling.
///
/// ```
/// use ropeway::{Embed, Encoding};
/// let options = Embed::task("retrieval.query").dimensions(256).encoding(Encoding::Int8);
/// # let _ = options;
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embed {
    /// Which weights: see [`Weights`].
    pub weights: Weights,
    /// Replaces the task's prefix; `Some("")` is no prefix. Not used for token ids.
    pub prompt: Option<String>,
    /// Keep the first so many dimensions (Matryoshka), before normalising. `None` keeps all.
    pub dimensions: Option<usize>,
    /// Accept a size that the model's Matryoshka list does not name.
    pub any_dimensions: bool,
    /// `None` is the model's own pooling.
    pub pooling: Option<Pooling>,
    /// Divide by the Euclidean norm; `None` is the model's own setting (nearly always `true`).
    pub normalize: Option<bool>,
    /// Refuse a text that is longer than the model's limit, instead of cutting it.
    pub no_truncate: bool,
    /// Late chunking: one forward pass over the document, one embedding per chunk.
    pub chunking: Option<Chunking>,
    /// Windows for late chunking past the context length.
    pub windows: Windows,
    /// The form of the numbers handed back.
    pub encoding: Encoding,
}

/// Which weights an input is embedded with.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Weights {
    /// Not said: the base weights, or for late chunking the model's `retrieval.passage` task
    /// where it has one. The model's default prompt, if any, applies.
    #[default]
    Unset,
    /// The base weights, no prompt.
    Base,
    /// A task of the model (its adapter and its prefix) or the name of an added adapter.
    Task(String),
    /// A weighted mixture of tasks and adapters: `W + Σ wᵢ·ΔWᵢ`, weights from −1000 to 1000. No prefix
    /// unless `prompt` is given.
    Mixture(Vec<(String, f32)>),
}

/// How token vectors become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The mean over all tokens, special tokens and the prompt included.
    Mean,
    /// The first token's vector.
    Cls,
    /// No pooling: one vector per token.
    None,
}

/// How a document is cut into chunks. Bounds are half-open, in Unicode code points of the text
/// without prefix, or in tokens where ids are given.
#[derive(Clone, Debug, PartialEq)]
pub enum Chunking {
    /// Runs of this many tokens of the text.
    Tokens(usize),
    /// Sentences, by Unicode's rules (UAX 29).
    Sentences,
    /// These spans, `(start, end)`; they may overlap and leave gaps. No more of them than tokens.
    Spans(Vec<(usize, usize)>),
}

/// The windows a document longer than the context goes through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    /// Tokens per window; `None` is the model's limit.
    pub size: Option<usize>,
    /// Tokens by which a window overlaps the one before, at most 15/16 of it; their second outputs are
    /// dropped. `None` is 256, as jina-embeddings-v3's authors have it, or half the window if that is
    /// less.
    pub overlap: Option<usize>,
}

/// The form of the numbers handed back, made after truncation and normalisation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats, rounded to nearest even.
    F16,
    /// `q = round_half_even(127·x / max|x|)`, with the scale `max|x| / 127` beside it.
    Int8,
    /// One bit per dimension, `x > 0`, most significant bit first; a multiple of 8 dimensions.
    Binary,
    /// Base64 (standard alphabet, padded) of the little-endian 32-bit floats.
    Base64,
}

impl Embed {
    /// The options for a task or an added adapter.
    pub fn task(name: impl Into<String>) -> Self {
        Embed {
            weights: Weights::Task(name.into()),
            ..Embed::default()
        }
    }

    /// The options for a weighted mixture of tasks and adapters.
    pub fn mixture<N: Into<String>>(parts: impl IntoIterator<Item = (N, f32)>) -> Self {
        let parts = parts
            .into_iter()
            .map(|(name, weight)| (name.into(), weight))
            .collect();
        Embed {
            weights: Weights::Mixture(parts),
            ..Embed::default()
        }
    }

    /// Replaces the task's prefix.
    pub fn prompt(mut self, prompt: impl Into<String>) -> Self {
        self.prompt = Some(prompt.into());
        self
    }

    /// Keeps the first `dimensions` dimensions; a size outside the model's list is refused.
    pub fn dimensions(mut self, dimensions: usize) -> Self {
        self.dimensions = Some(dimensions);
        self
    }

    /// Keeps the first `dimensions` dimensions, whatever the model's list says.
    pub fn any_dimensions(mut self, dimensions: usize) -> Self {
        self.dimensions = Some(dimensions);
        self.any_dimensions = true;
        self
    }

    /// Sets the pooling.
    pub fn pooling(mut self, pooling: Pooling) -> Self {
        self.pooling = Some(pooling);
        self
    }

    /// Sets whether vectors are divided by their norm.
    pub fn normalize(mut self, normalize: bool) -> Self {
        self.normalize = Some(normalize);
        self
    }

    /// Refuses a text longer than the model's limit.
    pub fn no_truncate(mut self) -> Self {
        self.no_truncate = true;
        self
    }

    /// Asks for late chunking.
    pub fn chunks(mut self, chunking: Chunking) -> Self {
        self.chunking = Some(chunking);
        self
    }

    /// Sets the windows for documents past the context length.
    pub fn windows(mut self, size: usize, overlap: usize) -> Self {
        self.windows = Windows {
            size: Some(size),
            overlap: Some(overlap),
        };
        self
    }

    /// Sets the form of the numbers handed back.
    pub fn encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }
}
