//! From a request to its sequences and their batches, and from the output rows to its result.

use std::collections::HashSet;
use std::ops::Range;

use crate::batch::{Batch, Mixture, Pool, PoolKind, cut};
use crate::error::{AdapterError, Error, KnownNames, RequestError, Result};
use crate::model::adapter::AdapterTable;
use crate::model::{HeadModule, ModelConfig};
use crate::output::{Chunk, Embedding, Output, Vector};
use crate::request::{AdapterSelection, Embed, Encoding, Input, Pooling, Request};
use crate::text::chunk::{self, Span, Window};
use crate::text::{TextPipeline, Tokens};

/// Late chunking without a task uses this one where the model has it.
const CHUNKING_TASK: &str = "retrieval.passage";

/// All chunks of an input may hold this many times its tokens, so that their work is linear in its size. Sentences in
/// paragraphs in sections take 3.
const MOST_OVERLAP: usize = 64;

/// Tokens that the chunks of an input may hold in any case.
const FREE_SPAN_TOKENS: usize = 1 << 20;

/// Bytes that the vectors of one input may take: a document of 65,536 tokens with a vector of 1024 dimensions for each.
const LARGEST_RESULT: usize = 256 << 20;

/// Bytes that are kept beside the numbers of a vector.
const BESIDE_VECTOR: usize = 64;

/// A prompt of more bytes than this for each token that the model takes leaves no room for a text: the longest tokens of
/// vocabularies have 16 characters, of at most 4 bytes.
const TOKEN_BYTES: usize = 64;

/// The largest weight of an adapter in a mixture, either way.
const LARGEST_WEIGHT: f32 = 1000.0;

/// Turns requests into sequences, for one model with its tokenizer and the adapters that are loaded.
pub struct RequestPlanner<'a> {
    pub config: &'a ModelConfig,
    pub text: Option<&'a TextPipeline>,
    pub adapters: &'a AdapterTable,
}

/// What sends a pooled vector through the modules after pooling.
pub type Head<'a> = &'a dyn Fn(Vec<f32>) -> Vec<f32>;

/// A request, understood and tokenised.
#[derive(Debug)]
pub struct Prepared {
    /// One, or the windows of a long document.
    pub sequences: Vec<Sequence>,
    tokens: usize,
    truncated: bool,
    result: ResultKind,
}

/// One sequence and the output rows that are asked for.
#[derive(Debug)]
pub struct Sequence {
    pub ids: Vec<u32>,
    pub mixture: Mixture,
    pub pools: Vec<Pool>,
}

/// How the output rows become the result.
#[derive(Debug)]
enum ResultKind {
    /// The one row, as it is.
    Vector,
    /// All rows, concatenated.
    Pooled(Finish),
    Tokens,
    Chunks {
        spans: Vec<Span>,
        parts: Vec<ChunkPart>,
        finish: Finish,
    },
}

/// What becomes of a pooled vector.
#[derive(Clone, Copy, Debug)]
struct Finish {
    /// It goes through the modules after pooling first.
    head: bool,
    dimensions: usize,
    normalize: bool,
    encoding: Encoding,
}

/// How a request is pooled.
struct PoolingChoice {
    /// Their vectors are concatenated.
    modes: Vec<Pooling>,
    /// Whether the modules after pooling follow.
    head: bool,
    /// Dimensions of the full vector.
    width: usize,
}

/// One output row of a chunked document: a whole chunk, or its part in one window.
#[derive(Debug)]
struct ChunkPart {
    chunk: usize,
    whole: bool,
}

impl Sequence {
    /// Output rows that its pools make.
    fn output_rows(&self) -> usize {
        self.pools.iter().map(Pool::rows).sum()
    }

    /// Appends the sequence and its pools to a batch.
    fn push_to(&self, batch: &mut Batch) {
        let sequence = batch.push(&self.ids, self.mixture.clone());
        let pools = self.pools.iter().map(|pool| Pool {
            sequence,
            ..pool.clone()
        });
        batch.pools.extend(pools);
    }
}

impl RequestPlanner<'_> {
    /// Checks a request and turns it into sequences.
    pub fn prepare(&self, request: &Request<'_>) -> Result<Prepared> {
        let options = request.options.as_ref();
        let pooling = self.pooling(options)?;
        let finish = Finish {
            head: pooling.head,
            dimensions: self.dimensions(options, pooling.width)?,
            normalize: options.normalize.unwrap_or(self.config.normalize),
            encoding: options.encoding,
        };
        let (mixture, prompt) = self.weights(options)?;
        self.check_prompt(prompt)?;
        let mut tokens = self.tokens(request, prompt)?;
        let Some(chunking) = &options.chunking else {
            let truncated = self.truncate(request, &mut tokens)?;
            let count = tokens.ids.len();
            let prompt = self.unpooled(request, prompt, count)?;
            // What the executor can finish by itself it does.
            let whole = pooling.modes.len() == 1 && !finish.head;
            let output = if whole { finish } else { self.raw() };
            let pool = |&mode: &Pooling| {
                let (kind, tokens) = pool_kind(mode, prompt..count)?;
                Ok(Pool {
                    sequence: 0,
                    tokens,
                    kind,
                    dimensions: output.dimensions,
                    normalize: output.normalize,
                    encoding: output.encoding,
                })
            };
            let pools = pooling.modes.iter().map(pool).collect::<Result<_>>()?;
            return Ok(Prepared {
                sequences: vec![Sequence {
                    ids: tokens.ids,
                    mixture,
                    pools,
                }],
                tokens: count,
                truncated,
                result: match pooling.modes[..] {
                    [Pooling::None] => ResultKind::Tokens,
                    _ if whole => ResultKind::Vector,
                    _ => ResultKind::Pooled(finish),
                },
            });
        };
        let spans = match &request.input {
            Input::Text(text) => chunk::of_text(text, &tokens, chunking)?,
            Input::Ids(ids) => chunk::of_ids(ids.len(), chunking)?,
        };
        // So that outputs, like everything else of a pass, are bounded by its tokens.
        if spans.len() > tokens.ids.len() {
            return Err(RequestError::TooManySpans {
                spans: spans.len(),
                tokens: tokens.ids.len(),
            }
            .into());
        }
        let limit = (MOST_OVERLAP * tokens.ids.len()).max(FREE_SPAN_TOKENS);
        let covered = spans.iter().map(|span| span.tokens.len()).sum();
        if covered > limit {
            return Err(RequestError::Overlapping {
                tokens: covered,
                limit,
            }
            .into());
        }
        let windows = self.windows(options, tokens.ids.len())?;
        let output = if finish.head { self.raw() } else { finish };
        check_result(spans.len(), output.dimensions.max(finish.dimensions))?;
        let (sequences, parts) = chunk_sequences(&tokens.ids, &mixture, &spans, &windows, &output);
        let count = tokens.ids.len();
        let result = ResultKind::Chunks { spans, parts, finish };
        Ok(Prepared {
            sequences,
            tokens: count,
            truncated: false,
            result,
        })
    }

    /// A prompt is tokenised with each input anew, and a model's own can be of any length.
    fn check_prompt(&self, prompt: &str) -> Result<()> {
        let tokens = self.config.max_tokens;
        let limit = tokens.saturating_mul(TOKEN_BYTES);
        if prompt.len() > limit {
            return Err(RequestError::LongPrompt {
                bytes: prompt.len(),
                tokens,
                limit,
            }
            .into());
        }
        Ok(())
    }

    /// What an executor makes of a vector that is finished later.
    fn raw(&self) -> Finish {
        Finish {
            head: false,
            dimensions: self.config.hidden_size,
            normalize: false,
            encoding: Encoding::F32,
        }
    }

    /// The pooling of a request, and what follows it.
    fn pooling(&self, options: &Embed) -> Result<PoolingChoice> {
        let (own, head) = (&self.config.pooling, &self.config.head);
        let modes = match (options.pooling, &options.chunking) {
            (Some(mode), None) => vec![mode],
            (None, None) => own.clone(),
            (Some(Pooling::Mean), Some(_)) => vec![Pooling::Mean],
            // A chunk has no special token of its own, so that such a model's chunks are means as well; but a head was
            // trained for what the model pools.
            (None, Some(_)) => match own[..] {
                [Pooling::Mean] => vec![Pooling::Mean],
                [Pooling::Cls | Pooling::LastToken] if head.is_empty() => vec![Pooling::Mean],
                _ => return Err(RequestError::ChunkPooling.into()),
            },
            _ => return Err(RequestError::ChunkPooling.into()),
        };
        let pooled = self.config.hidden_size * modes.len();
        let tokens = modes == [Pooling::None];
        if let Some((wanted, _)) = head.iter().find_map(HeadModule::widths)
            && wanted != pooled
            && !tokens
        {
            return Err(RequestError::PooledWidth { pooled, wanted }.into());
        }
        let width = match modes[..] {
            [mode] => self.config.vector_size(Some(mode)),
            _ => self.config.embedding_size(),
        };
        Ok(PoolingChoice {
            head: !head.is_empty() && !tokens,
            modes,
            width,
        })
    }

    /// The tokens at a text's start that are left out of pooling: the prompt's, with the special tokens before it.
    fn unpooled(&self, request: &Request<'_>, prompt: &str, count: usize) -> Result<usize> {
        let (Input::Text(_), Some(pipeline)) = (&request.input, self.text) else {
            return Ok(0);
        };
        if self.config.include_prompt || prompt.is_empty() {
            return Ok(0);
        }
        match pipeline.prompt_tokens(prompt, self.config.max_tokens)? {
            tokens if tokens < count => Ok(tokens),
            _ => Err(RequestError::NothingBesidePrompt.into()),
        }
    }

    fn dimensions(&self, options: &Embed, full: usize) -> Result<usize> {
        let wanted = options.dimensions.unwrap_or(full);
        if wanted == 0 || wanted > full {
            return Err(RequestError::Dimensions {
                dimensions: wanted,
                limit: full,
            }
            .into());
        }
        let known = wanted == full || self.config.matryoshka.contains(&wanted);
        if !known && !options.any_dimensions {
            return Err(RequestError::UntrainedDimensions {
                dimensions: wanted,
                trained: self.config.matryoshka.clone(),
                full,
            }
            .into());
        }
        if options.encoding == Encoding::Binary && !wanted.is_multiple_of(8) {
            return Err(RequestError::BinaryDimensions { dimensions: wanted }.into());
        }
        Ok(wanted)
    }

    /// The adapters of a request and the prompt that goes before its text.
    fn weights<'o>(&'o self, options: &'o Embed) -> Result<(Mixture, &'o str)> {
        let (mixture, prompt) = match &*options.adapters {
            AdapterSelection::Unset if options.chunking.is_some() && self.has_task(CHUNKING_TASK) => {
                self.task(CHUNKING_TASK)?
            }
            AdapterSelection::Unset => (Mixture::new(), self.config.default_prompt.as_str()),
            AdapterSelection::Base => (Mixture::new(), ""),
            AdapterSelection::Task(name) => self.task(name)?,
            AdapterSelection::Mixture(parts) => (self.mixture(parts)?, ""),
        };
        Ok((mixture, options.prompt.as_deref().unwrap_or(prompt)))
    }

    fn has_task(&self, name: &str) -> bool {
        self.config.tasks.iter().any(|task| task.name == name)
    }

    fn task(&self, name: &str) -> Result<(Mixture, &str)> {
        let slot = self.adapters.find(name);
        match (self.config.tasks.iter().find(|task| task.name == name), slot) {
            (Some(task), None) if task.adapter => Err(Error::adapter(name, AdapterError::Removed)),
            (Some(task), slot) => Ok((slot.map(|s| (s, 1.0)).into_iter().collect(), &task.prefix)),
            (None, Some(slot)) => Ok((vec![(slot, 1.0)], "")),
            (None, None) => {
                let tasks = self.config.tasks.iter().map(|task| task.name.as_str());
                let of_tasks = tasks
                    .clone()
                    .filter(|name| self.adapters.find(name).is_some())
                    .count();
                let count = tasks.len() + self.adapters.loaded().count() - of_tasks;
                let added = self.adapters.loaded().map(|(_, adapter)| adapter.name.as_str());
                let added = added.filter(|name| !self.has_task(name));
                Err(RequestError::UnknownTask {
                    name: name.to_owned(),
                    known: KnownNames::new(tasks.chain(added), count),
                }
                .into())
            }
        }
    }

    fn mixture(&self, parts: &[(String, f32)]) -> Result<Mixture> {
        let mut mixture = Mixture::new();
        for (name, weight) in parts {
            // Far outside what mixing means, and bounded so that no product overflows.
            if !(-LARGEST_WEIGHT..=LARGEST_WEIGHT).contains(weight) {
                return Err(RequestError::AdapterWeight {
                    name: name.clone(),
                    weight: *weight,
                    limit: LARGEST_WEIGHT,
                }
                .into());
            }
            let slot = self
                .adapters
                .find(name)
                .ok_or_else(|| RequestError::UnknownAdapter {
                    name: name.clone(),
                    known: self.adapters.known(),
                })?;
            mixture.push((slot, *weight));
        }
        let mut slots = HashSet::with_capacity(mixture.len());
        if let Some(index) = mixture.iter().position(|&(slot, _)| !slots.insert(slot)) {
            let name = parts[index].0.clone();
            return Err(RequestError::RepeatedAdapter { name }.into());
        }
        // A weight of 0 is no adapter at all, so that it costs nothing and changes no bit. The order of the names
        // makes the sum independent of the order of the request, and of the order in which adapters were loaded.
        mixture.retain(|&(_, weight)| weight != 0.0);
        mixture.sort_by_key(|&(slot, _)| &self.adapters.get(slot).name);
        Ok(mixture)
    }

    fn tokens(&self, request: &Request<'_>, prompt: &str) -> Result<Tokens> {
        let ids = match &request.input {
            Input::Text(text) => {
                let pipeline = self.text.ok_or(RequestError::NoTokenizer)?;
                let chunked = request.options.chunking.is_some();
                // Of a text that is cut, no more is tokenised than is seen to be too much.
                let limit = (!chunked).then_some(self.config.max_tokens);
                pipeline.tokenize(prompt, text, chunked, limit)?
            }
            Input::Ids(ids) => Tokens {
                ids: ids.to_vec(),
                offsets: Vec::new(),
            },
        };
        if ids.ids.is_empty() {
            return Err(RequestError::NoIds.into());
        }
        let vocabulary = self.config.vocab_size;
        if let Some(position) = ids.ids.iter().position(|&id| id as usize >= vocabulary) {
            return Err(RequestError::IdOutOfRange {
                id: ids.ids[position],
                position,
                vocabulary,
            }
            .into());
        }
        Ok(ids)
    }

    fn truncate(&self, request: &Request<'_>, tokens: &mut Tokens) -> Result<bool> {
        let (count, limit) = (tokens.ids.len(), self.config.max_tokens);
        if count > limit && request.options.no_truncate {
            return Err(RequestError::TooLong { tokens: count, limit }.into());
        }
        match (&request.input, self.text) {
            (Input::Text(_), Some(pipeline)) => Ok(pipeline.truncate(tokens, limit)),
            _ => {
                tokens.ids.truncate(limit);
                Ok(count > limit)
            }
        }
    }

    fn windows(&self, options: &Embed, count: usize) -> Result<Vec<Window>> {
        let limit = self.config.max_tokens;
        let size = options.window.unwrap_or(limit);
        if size == 0 || size > limit {
            return Err(RequestError::Window { size, limit }.into());
        }
        let overlap = options.overlap.unwrap_or(256.min(size / 2));
        // With more, a document would go through the model more than 16 times.
        let most = size - size.div_ceil(16);
        if overlap > most {
            return Err(RequestError::Overlap {
                size,
                overlap,
                limit: most,
            }
            .into());
        }
        Ok(chunk::windows(count, size, overlap))
    }
}

/// Checks that there is room for vectors of float32: two bytes of an input can ask for thousands of bytes of numbers.
fn check_result(vectors: usize, dimensions: usize) -> Result<()> {
    let of_one = BESIDE_VECTOR + size_of::<f32>() * dimensions;
    let bytes = vectors.saturating_mul(of_one);
    if bytes > LARGEST_RESULT {
        return Err(RequestError::LargeResult {
            vectors,
            bytes,
            limit: LARGEST_RESULT,
        }
        .into());
    }
    Ok(())
}

/// How the rows of these tokens become output rows.
fn pool_kind(mode: Pooling, tokens: Range<usize>) -> Result<(PoolKind, Range<usize>)> {
    let kind = match mode {
        Pooling::Mean => PoolKind::Mean,
        Pooling::MeanSqrtLen => PoolKind::MeanSqrtLen,
        Pooling::Max => PoolKind::Max,
        Pooling::Cls => PoolKind::First,
        Pooling::LastToken => return Ok((PoolKind::First, tokens.end - 1..tokens.end)),
        // The weights of sentence-transformers go on counting where the prompt ends.
        Pooling::WeightedMean if tokens.start > 0 => return Err(RequestError::WeightedPrompt.into()),
        Pooling::WeightedMean => PoolKind::WeightedMean,
        Pooling::None => return Ok((PoolKind::Rows, 0..tokens.end)),
    };
    Ok((kind, tokens))
}

/// The sequences of a chunked document, and which rows make which chunk.
fn chunk_sequences(
    ids: &[u32],
    mixture: &Mixture,
    spans: &[Span],
    windows: &[Window],
    output: &Finish,
) -> (Vec<Sequence>, Vec<ChunkPart>) {
    // The chunks of each window; windows keep the document's tokens in order, each once.
    let mut chunks: Vec<Vec<usize>> = vec![Vec::new(); windows.len()];
    for (chunk, span) in spans.iter().enumerate() {
        let first = windows.partition_point(|window| window.kept.end <= span.tokens.start);
        let reached = windows[first..]
            .iter()
            .take_while(|window| window.kept.start < span.tokens.end);
        for chunks in &mut chunks[first..][..reached.count()] {
            chunks.push(chunk);
        }
    }
    let mut parts = Vec::new();
    let mut sequences = Vec::new();
    for (window, chunks) in windows.iter().zip(chunks) {
        let mut pools = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let span = &spans[chunk];
            let start = span.tokens.start.max(window.kept.start);
            let end = span.tokens.end.min(window.kept.end);
            let whole = (start..end) == span.tokens;
            let tokens = start - window.tokens.start..end - window.tokens.start;
            // The sums of the parts are added, cut and normalised when all windows are computed.
            let (kind, normalize, encoding) = if whole {
                (PoolKind::Mean, output.normalize, output.encoding)
            } else {
                (PoolKind::Sum, false, Encoding::F32)
            };
            pools.push(Pool {
                sequence: 0,
                tokens,
                kind,
                dimensions: output.dimensions,
                normalize,
                encoding,
            });
            parts.push(ChunkPart { chunk, whole });
        }
        let ids = ids[window.tokens.clone()].to_vec();
        sequences.push(Sequence {
            ids,
            mixture: mixture.clone(),
            pools,
        });
    }
    (sequences, parts)
}

impl Prepared {
    /// Builds the result from the output rows of all its sequences, in order; `None` is a row with elements that
    /// are not finite.
    pub fn finish(self, rows: Vec<Option<Vector>>, head: Head<'_>) -> Result<Embedding> {
        let rows = rows.into_iter().collect::<Option<Vec<Vector>>>();
        let rows = rows.ok_or(RequestError::NotFinite)?;
        rows.iter().try_for_each(Vector::check_fits)?;
        let mut rows = rows.into_iter();
        let output = match self.result {
            ResultKind::Vector => Output::Vector(rows.next().expect("one row was asked for")),
            ResultKind::Pooled(finish) => {
                let pooled = rows.map(Vector::into_f32).collect::<Result<Vec<_>>>()?.concat();
                Output::Vector(finish.vector(pooled, head)?)
            }
            ResultKind::Tokens => Output::Tokens(rows.collect()),
            ResultKind::Chunks { spans, parts, finish } => {
                let mut whole: Vec<Option<Vector>> = vec![None; spans.len()];
                let mut sums: Vec<Vec<f32>> = vec![Vec::new(); spans.len()];
                for (part, row) in parts.iter().zip(rows) {
                    if part.whole {
                        whole[part.chunk] = Some(row);
                        continue;
                    }
                    let row = row.into_f32()?;
                    let sum = &mut sums[part.chunk];
                    sum.resize(row.len(), 0.0);
                    sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
                }
                let chunk = |((span, whole), mut sum): ((&Span, Option<Vector>), Vec<f32>)| {
                    let vector = match whole {
                        Some(vector) if finish.head => finish.vector(vector.into_f32()?, head)?,
                        Some(vector) => vector,
                        None => {
                            let count = span.tokens.len() as f64;
                            sum.iter_mut().for_each(|x| *x = (f64::from(*x) / count) as f32);
                            finish.vector(sum, head)?
                        }
                    };
                    Ok(Chunk {
                        start: span.bounds.0,
                        end: span.bounds.1,
                        vector,
                    })
                };
                let chunks = spans.iter().zip(whole).zip(sums).map(chunk);
                Output::Chunks(chunks.collect::<Result<_>>()?)
            }
        };
        Ok(Embedding {
            output,
            tokens: self.tokens,
            truncated: self.truncated,
        })
    }
}

impl Finish {
    /// The vector of pooled numbers.
    fn vector(&self, mut values: Vec<f32>, head: Head<'_>) -> Result<Vector> {
        if self.head {
            values = head(values);
        }
        values.truncate(self.dimensions);
        if self.normalize {
            let squares = values.iter().map(|&x| f64::from(x).powi(2));
            let norm = squares.sum::<f64>().sqrt();
            if norm > 0.0 {
                values.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
            }
        }
        let vector = Vector::encode_finite(&values, self.encoding).ok_or(RequestError::NotFinite)?;
        vector.check_fits()?;
        Ok(vector)
    }
}

/// Sequences of several requests packed into one pass, and the request of each.
pub struct Packed {
    /// What the executor runs.
    pub batch: Batch,
    /// For each sequence of the batch, the number of its request and of its output rows.
    owners: Vec<(usize, usize)>,
}

impl Packed {
    /// Numbered sequences in one pass, whatever their tokens come to.
    pub fn new<'s>(
        sequences: impl IntoIterator<Item = (usize, &'s Sequence)>,
        adapters: &AdapterTable,
    ) -> Packed {
        let mut packed = Packed {
            batch: Batch::new(adapters.clone()),
            owners: Vec::new(),
        };
        for (request, sequence) in sequences {
            sequence.push_to(&mut packed.batch);
            packed.owners.push((request, sequence.output_rows()));
        }
        packed
    }

    /// All sequences of some requests in one pass, whatever their tokens come to.
    pub fn all<'p>(requests: impl IntoIterator<Item = &'p Prepared>, adapters: &AdapterTable) -> Packed {
        Packed::new(sequences(requests.into_iter().enumerate()), adapters)
    }

    /// The numbers of the requests that have sequences here; the number of a request that has several is repeated.
    pub fn requests(&self) -> impl Iterator<Item = usize> {
        self.owners.iter().map(|&(request, _)| request)
    }

    /// Appends the output rows of the pass to those of the requests.
    pub fn distribute(&self, output: Vec<Option<Vector>>, rows: &mut [Vec<Option<Vector>>]) {
        let mut output = output.into_iter();
        for &(request, count) in &self.owners {
            rows[request].extend(output.by_ref().take(count));
        }
    }
}

/// The sequences of the requests that could be prepared, in order, in passes of at most `budget` tokens. A sequence
/// that is longer than the budget is a pass of its own.
pub fn batches(
    prepared: &[Result<Prepared>],
    adapters: &AdapterTable,
    budget: usize,
) -> impl Iterator<Item = Packed> {
    let good = prepared
        .iter()
        .enumerate()
        .filter_map(|(request, p)| Some((request, p.as_ref().ok()?)));
    let sequences = sequences(good);
    let runs = cut(sequences.iter().map(|(_, sequence)| sequence.ids.len()), budget);
    runs.into_iter()
        .map(move |run| Packed::new(sequences[run].iter().copied(), adapters))
}

/// The sequences of numbered requests, each with the request's number.
fn sequences<'p>(requests: impl Iterator<Item = (usize, &'p Prepared)>) -> Vec<(usize, &'p Sequence)> {
    let of = |(request, prepared): (usize, &'p Prepared)| {
        prepared.sequences.iter().map(move |sequence| (request, sequence))
    };
    requests.flat_map(of).collect()
}
