//! What can be asked of one input: adapters, prompt, size, pooling, chunks, encoding.

use std::borrow::Cow;
use std::sync::Arc;

/// One input and its options. Requests of any kind mix freely within one call.
///
/// ```
/// use ropeway::{Embed, Request};
/// let query = Embed::task("retrieval.query");
/// let requests = [
///     Request::text("reset password", &query),
///     Request::text("the opening hours", &query),
///     Request::ids(vec![0, 70, 1274, 2], Embed::base()),
/// ];
/// # let _ = requests;
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Request<'a> {
    /// The text or the token ids.
    pub input: Input<'a>,
    /// How to embed it.
    pub options: Cow<'a, Embed>,
}

/// Text, or token ids that are taken as they are.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Input<'a> {
    /// Text: the prompt is put before it, then it is tokenised. Empty text is the embedding of
    /// the prompt and the special tokens.
    Text(Cow<'a, str>),
    /// Token ids with whatever special tokens they should have; no prompt is added.
    Ids(Cow<'a, [u32]>),
}

impl<'a> Request<'a> {
    /// A request for an input; `options` are borrowed (`&Embed`) or owned.
    pub fn new(input: Input<'a>, options: impl Into<Cow<'a, Embed>>) -> Self {
        Request {
            input,
            options: options.into(),
        }
    }

    /// A request for a text.
    pub fn text(text: impl Into<Cow<'a, str>>, options: impl Into<Cow<'a, Embed>>) -> Self {
        Request::new(Input::Text(text.into()), options)
    }

    /// A request for token ids, special tokens included.
    pub fn ids(ids: impl Into<Cow<'a, [u32]>>, options: impl Into<Cow<'a, Embed>>) -> Self {
        Request::new(Input::Ids(ids.into()), options)
    }
}

/// The options of one input. The default embeds with the base weights, the model's default prompt and the
/// model's own pooling, normalisation and size.
///
/// Options are set by methods that return them, and read by the `get_` methods. Those that the model or the engine
/// has a value of its own for take that value back with `None`: `options.dimensions(None)`.
///
/// A clone shares the prompt, the names of adapters and the spans, so that thousands of requests with the same options cost
/// little more than one.
///
/// ```
/// use ropeway::{Embed, Encoding};
/// let options = Embed::task("retrieval.query").dimensions(256).encoding(Encoding::Int8);
/// assert_eq!(options.get_dimensions(), Some(256));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embed {
    pub(crate) adapters: Arc<AdapterSelection>,
    /// Not used for token ids.
    pub(crate) prompt: Option<Arc<str>>,
    pub(crate) dimensions: Option<usize>,
    pub(crate) any_dimensions: bool,
    pub(crate) pooling: Option<Pooling>,
    pub(crate) normalize: Option<bool>,
    pub(crate) no_truncate: bool,
    pub(crate) chunking: Option<Arc<Chunking>>,
    pub(crate) window: Option<usize>,
    pub(crate) overlap: Option<usize>,
    pub(crate) encoding: Encoding,
}

/// Which adapters an input is embedded with.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum AdapterSelection {
    /// The default: no adapter, but for late chunking the model's `retrieval.passage` task where it has one.
    /// The model's default prompt, if any, applies.
    #[default]
    Unset,
    /// No adapter: the base weights, without a prompt.
    Base,
    /// A task of the model (its adapter and its prefix) or the name of an added adapter.
    Task(String),
    /// A weighted mixture of tasks and adapters: `W + Σ wᵢ·ΔWᵢ`, weights from −1000 to 1000. It has no prefix;
    /// [`Embed::prompt`] sets one.
    ///
    /// The order of the parts changes no bit. On the CPU the sum goes by the adapters' names, so that neither does the order
    /// in which adapters were loaded; on a GPU it goes by their places in memory, and after loading them in another order
    /// the last bits can differ.
    Mixture(Vec<(String, f32)>),
}

/// How token vectors become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pooling {
    /// The mean over all tokens, special tokens and the prompt included.
    Mean,
    /// The first token's vector.
    Cls,
    /// The last token's vector; of most models that is a special token.
    LastToken,
    /// The largest number of each dimension.
    Max,
    /// The sum over all tokens, divided by the square root of their number.
    MeanSqrtLen,
    /// The mean over all tokens, the first with weight 1, the next with 2, and so on.
    WeightedMean,
    /// No pooling: one vector per token.
    None,
}

impl Pooling {
    /// All of them.
    pub const ALL: [Pooling; 7] = [
        Pooling::Mean,
        Pooling::Cls,
        Pooling::LastToken,
        Pooling::Max,
        Pooling::MeanSqrtLen,
        Pooling::WeightedMean,
        Pooling::None,
    ];

    /// Its name, as sentence-transformers has it: `mean`, `cls`, `lasttoken`, `max`, `mean_sqrt_len_tokens`,
    /// `weightedmean`; and `none`.
    pub const fn name(self) -> &'static str {
        match self {
            Pooling::Mean => "mean",
            Pooling::Cls => "cls",
            Pooling::LastToken => "lasttoken",
            Pooling::Max => "max",
            Pooling::MeanSqrtLen => "mean_sqrt_len_tokens",
            Pooling::WeightedMean => "weightedmean",
            Pooling::None => "none",
        }
    }
}

/// How a document is cut into chunks. Bounds are half-open, in Unicode code points of the text
/// without prefix, or in tokens where ids are given.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Chunking {
    /// Runs of this many tokens of the text.
    Tokens(usize),
    /// Sentences, by Unicode's rules (UAX 29).
    Sentences,
    /// These spans, `(start, end)`; they may overlap and leave gaps. At most one per token.
    Spans(Vec<(usize, usize)>),
}

/// The form of the numbers handed back, made after truncation and normalisation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Encoding {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats, rounded to nearest even; a number above 65504 is an error.
    F16,
    /// `q = round_half_even(127·x / max|x|)`, with the scale `max|x| / 127` beside it.
    Int8,
    /// One bit per dimension, `x > 0`, most significant bit first; a multiple of 8 dimensions.
    Binary,
    /// Base64 (standard alphabet, padded) of the little-endian 32-bit floats.
    Base64,
}

impl Embed {
    /// The options for the base weights, without any prompt.
    pub fn base() -> Self {
        Embed::default().adapters(AdapterSelection::Base)
    }

    /// The options for a task or an added adapter.
    pub fn task(name: impl Into<String>) -> Self {
        Embed::default().adapters(AdapterSelection::Task(name.into()))
    }

    /// The options for a weighted mixture of tasks and adapters.
    pub fn mixture<N: Into<String>>(parts: impl IntoIterator<Item = (N, f32)>) -> Self {
        let parts = parts
            .into_iter()
            .map(|(name, weight)| (name.into(), weight))
            .collect();
        Embed::default().adapters(AdapterSelection::Mixture(parts))
    }

    /// Chooses the adapters.
    pub fn adapters(mut self, adapters: AdapterSelection) -> Self {
        self.adapters = Arc::new(adapters);
        self
    }

    /// Puts this before the text in place of the task's prefix; `""` is no prefix. Not used for token ids.
    pub fn prompt(mut self, prompt: impl Into<String>) -> Self {
        let prompt: String = prompt.into();
        self.prompt = Some(prompt.into());
        self
    }

    /// Puts the task's own prefix before the text, or the model's default prompt, as when
    /// [`prompt`](Self::prompt) was never set.
    pub fn own_prompt(mut self) -> Self {
        self.prompt = None;
        self
    }

    /// Keeps the first `dimensions` dimensions (Matryoshka), before normalising; `None` keeps all. A size outside
    /// [`ModelConfig::matryoshka`](crate::ModelConfig::matryoshka) is refused; see
    /// [`any_dimensions`](Self::any_dimensions).
    pub fn dimensions(mut self, dimensions: impl Into<Option<usize>>) -> Self {
        self.dimensions = dimensions.into();
        self
    }

    /// Whether [`dimensions`](Self::dimensions) may be a size that the model was not trained to be cut to; `false` if
    /// not set.
    pub fn any_dimensions(mut self, any: bool) -> Self {
        self.any_dimensions = any;
        self
    }

    /// Sets the pooling; `None` is the model's own.
    pub fn pooling(mut self, pooling: impl Into<Option<Pooling>>) -> Self {
        self.pooling = pooling.into();
        self
    }

    /// Sets whether vectors are divided by their Euclidean norm; `None` is the model's own setting (nearly always
    /// `true`).
    pub fn normalize(mut self, normalize: impl Into<Option<bool>>) -> Self {
        self.normalize = normalize.into();
        self
    }

    /// Whether a text longer than the model's limit is cut there (`true`, if not set) or refused
    /// ([`RequestError::TooLong`](crate::RequestError::TooLong)). Chunked documents are never cut.
    pub fn truncate(mut self, truncate: bool) -> Self {
        self.no_truncate = !truncate;
        self
    }

    /// Asks for late chunking: one forward pass over the document, one vector per chunk. `None` asks for one vector.
    pub fn chunks(mut self, chunking: impl Into<Option<Chunking>>) -> Self {
        self.chunking = chunking.into().map(Arc::new);
        self
    }

    /// Tokens of the windows that a chunked document longer than the context goes through; `None` is the model's
    /// limit.
    pub fn window(mut self, tokens: impl Into<Option<usize>>) -> Self {
        self.window = tokens.into();
        self
    }

    /// Tokens by which a window overlaps the one before, at most 15/16 of it; their second outputs are dropped.
    /// `None` is 256, as jina-embeddings-v3's authors have it, or half the window if that is less.
    pub fn overlap(mut self, tokens: impl Into<Option<usize>>) -> Self {
        self.overlap = tokens.into();
        self
    }

    /// Sets the form of the numbers handed back.
    pub fn encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// The adapters chosen.
    pub fn get_adapters(&self) -> &AdapterSelection {
        &self.adapters
    }

    /// The prompt; `None` is the task's prefix or the model's default prompt.
    pub fn get_prompt(&self) -> Option<&str> {
        self.prompt.as_deref()
    }

    /// The dimensions kept; `None` is all.
    pub fn get_dimensions(&self) -> Option<usize> {
        self.dimensions
    }

    /// Whether any size of [`get_dimensions`](Self::get_dimensions) is accepted.
    pub fn get_any_dimensions(&self) -> bool {
        self.any_dimensions
    }

    /// The pooling; `None` is the model's own.
    pub fn get_pooling(&self) -> Option<Pooling> {
        self.pooling
    }

    /// Whether vectors are normalised; `None` is the model's own setting.
    pub fn get_normalize(&self) -> Option<bool> {
        self.normalize
    }

    /// Whether a text longer than the model's limit is cut, not refused.
    pub fn get_truncate(&self) -> bool {
        !self.no_truncate
    }

    /// The chunks asked for.
    pub fn get_chunks(&self) -> Option<&Chunking> {
        self.chunking.as_deref()
    }

    /// Tokens of a window; `None` is the model's limit.
    pub fn get_window(&self) -> Option<usize> {
        self.window
    }

    /// Tokens by which windows overlap; `None` is the engine's choice.
    pub fn get_overlap(&self) -> Option<usize> {
        self.overlap
    }

    /// The form of the numbers handed back.
    pub fn get_encoding(&self) -> Encoding {
        self.encoding
    }
}

impl From<Embed> for Cow<'_, Embed> {
    fn from(options: Embed) -> Self {
        Cow::Owned(options)
    }
}

impl<'a> From<&'a Embed> for Cow<'a, Embed> {
    fn from(options: &'a Embed) -> Self {
        Cow::Borrowed(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_shares_what_can_be_long() {
        let options = Embed::mixture([("a", 1.0)])
            .prompt("x")
            .chunks(Chunking::Spans(vec![(0, 1)]));
        let clone = options.clone();
        assert_eq!(clone, options);
        assert!(std::ptr::eq(clone.get_adapters(), options.get_adapters()));
        assert!(std::ptr::eq(
            clone.get_prompt().unwrap(),
            options.get_prompt().unwrap()
        ));
        assert!(std::ptr::eq(
            clone.get_chunks().unwrap(),
            options.get_chunks().unwrap()
        ));
    }
}
