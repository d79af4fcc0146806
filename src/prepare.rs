//! From a request to its sequences and their batches, and from the output rows to its result.

use std::collections::HashSet;

use crate::batch::{Batch, Mixture, Pool, PoolKind, cut};
use crate::error::{AdapterError, Error, RequestError, Result};
use crate::model::ModelConfig;
use crate::model::adapter::AdapterTable;
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

/// The largest weight of an adapter in a mixture, either way.
const LARGEST_WEIGHT: f32 = 1000.0;

/// Turns requests into sequences, for one model with its tokenizer and the adapters that are loaded.
pub struct RequestPlanner<'a> {
    pub config: &'a ModelConfig,
    pub text: Option<&'a TextPipeline>,
    pub adapters: &'a AdapterTable,
}

/// A request, understood and tokenised.
#[derive(Debug)]
pub struct Prepared {
    /// One, or the windows of a long document.
    pub sequences: Vec<Sequence>,
    tokens: usize,
    truncated: bool,
    encoding: Encoding,
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
    Vector,
    Tokens,
    Chunks {
        spans: Vec<Span>,
        parts: Vec<ChunkPart>,
        dimensions: usize,
        normalize: bool,
    },
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
        let dimensions = self.dimensions(options)?;
        let normalize = options.normalize.unwrap_or(self.config.normalize);
        let pooling = options.pooling.unwrap_or(self.config.pooling);
        let (mixture, prompt) = self.weights(options)?;
        let mut tokens = self.tokens(request, prompt)?;
        let Some(chunking) = &options.chunking else {
            let truncated = self.truncate(request, &mut tokens)?;
            let count = tokens.ids.len();
            let (kind, pooled, result) = match pooling {
                Pooling::Mean => (PoolKind::Mean, 0..count, ResultKind::Vector),
                Pooling::Cls => (PoolKind::First, 0..count, ResultKind::Vector),
                Pooling::LastToken => (PoolKind::First, count - 1..count, ResultKind::Vector),
                Pooling::None => (PoolKind::Rows, 0..count, ResultKind::Tokens),
            };
            let pool = Pool {
                sequence: 0,
                tokens: pooled,
                kind,
                dimensions,
                normalize,
                encoding: options.encoding,
            };
            let sequences = vec![Sequence {
                ids: tokens.ids,
                mixture,
                pools: vec![pool],
            }];
            return Ok(Prepared {
                sequences,
                tokens: count,
                truncated,
                encoding: options.encoding,
                result,
            });
        };
        if !matches!(options.pooling, None | Some(Pooling::Mean)) {
            return Err(RequestError::ChunkPooling.into());
        }
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
        let output = OutputSpec {
            dimensions,
            normalize,
            encoding: options.encoding,
        };
        let (sequences, parts) = chunk_sequences(&tokens.ids, &mixture, &spans, &windows, &output);
        let count = tokens.ids.len();
        let result = ResultKind::Chunks {
            spans,
            parts,
            dimensions,
            normalize,
        };
        Ok(Prepared {
            sequences,
            tokens: count,
            truncated: false,
            encoding: options.encoding,
            result,
        })
    }

    fn dimensions(&self, options: &Embed) -> Result<usize> {
        let full = self.config.hidden_size;
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
        let (mixture, prompt) = match &options.adapters {
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
                let tasks = self.config.tasks.iter().map(|task| task.name.clone());
                let added = self.adapters.names().into_iter().filter(|n| !self.has_task(n));
                Err(RequestError::UnknownTask {
                    name: name.to_owned(),
                    known: tasks.chain(added).collect(),
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
                    known: self.adapters.names(),
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

/// The form that every chunk's vector gets.
struct OutputSpec {
    dimensions: usize,
    normalize: bool,
    encoding: Encoding,
}

/// The sequences of a chunked document, and which rows make which chunk.
fn chunk_sequences(
    ids: &[u32],
    mixture: &Mixture,
    spans: &[Span],
    windows: &[Window],
    output: &OutputSpec,
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
    pub fn finish(self, rows: Vec<Option<Vector>>) -> Result<Embedding> {
        let rows = rows.into_iter().collect::<Option<Vec<Vector>>>();
        let rows = rows.ok_or(RequestError::NotFinite)?;
        let mut rows = rows.into_iter();
        let output = match self.result {
            ResultKind::Vector => Output::Vector(rows.next().expect("one row was asked for")),
            ResultKind::Tokens => Output::Tokens(rows.collect()),
            ResultKind::Chunks {
                spans,
                parts,
                dimensions,
                normalize,
            } => {
                let mut vectors: Vec<Option<Vector>> = vec![None; spans.len()];
                let mut sums: Vec<Vec<f32>> = vec![Vec::new(); spans.len()];
                for (part, row) in parts.iter().zip(rows) {
                    if part.whole {
                        vectors[part.chunk] = Some(row);
                        continue;
                    }
                    let sum = &mut sums[part.chunk];
                    sum.resize(dimensions, 0.0);
                    let row = row.as_f32().expect("sums are float32");
                    sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
                }
                let vector = |(chunk, whole): (usize, Option<Vector>)| {
                    whole.or_else(|| {
                        let sum = &mut sums[chunk];
                        finish_sum(sum, spans[chunk].tokens.len(), normalize);
                        Vector::encode_finite(sum, self.encoding)
                    })
                };
                let vectors = vectors.into_iter().enumerate().map(vector);
                let chunk = |(span, vector): (&Span, Option<Vector>)| {
                    Ok(Chunk {
                        start: span.bounds.0,
                        end: span.bounds.1,
                        vector: vector.ok_or(RequestError::NotFinite)?,
                    })
                };
                let vectors: Vec<Option<Vector>> = vectors.collect();
                Output::Chunks(spans.iter().zip(vectors).map(chunk).collect::<Result<_>>()?)
            }
        };
        Ok(Embedding {
            output,
            tokens: self.tokens,
            truncated: self.truncated,
        })
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

/// From a sum over `count` tokens to the (normalised) mean.
fn finish_sum(vector: &mut [f32], count: usize, normalize: bool) {
    let values: Vec<f64> = vector.iter().map(|&x| f64::from(x) / count as f64).collect();
    let norm = values.iter().map(|x| x * x).sum::<f64>().sqrt();
    let scale = if normalize && norm > 0.0 { 1.0 / norm } else { 1.0 };
    for (x, value) in vector.iter_mut().zip(values) {
        *x = (value * scale) as f32;
    }
}
