//! From the structs of C to the requests of Rust.

use std::collections::HashMap;
use std::ffi::c_char;

use ropeway::{AdapterSelection, Chunking, Embed, Encoding, Engine, EngineBuilder, Pooling, Request};

use crate::error::{Failure, Result};
use crate::pointers::{optional, sized, slice, string, text};
use crate::types::*;

/// Reads the settings of an engine; NULL is all defaults.
///
/// # Safety
/// Every pointer points to what `types.rs` says, for as long as this runs.
pub unsafe fn read_settings(options: *const ropeway_options) -> Result<EngineBuilder> {
    let mut builder = Engine::builder();
    if options.is_null() {
        return Ok(builder);
    }
    // SAFETY: the caller's promise.
    let (o, device, precision, numerics, merge) = unsafe {
        let o = sized(options, "options")?;
        (
            o,
            optional(o.device, "options.device")?,
            optional(o.precision, "options.precision")?,
            optional(o.numerics, "options.numerics")?,
            slice(o.merge, o.merge_len, "options.merge")?,
        )
    };
    if o.reserved != 0 {
        return Err(Failure::argument("options.reserved is not 0"));
    }
    if let Some(device) = device {
        builder = builder.device(device.parse()?);
    }
    if let Some(precision) = precision {
        builder = builder.precision(precision.parse()?);
    }
    if let Some(numerics) = numerics {
        builder = builder.numerics(numerics.parse()?);
    }
    for (index, &name) in merge.iter().enumerate() {
        // SAFETY: the caller's promise.
        builder = builder.merge(unsafe { string(name, &format!("options.merge[{index}]")) }?);
    }
    if o.threads != 0 {
        builder = builder.threads(o.threads);
    }
    if o.concurrency != 0 {
        builder = builder.concurrency(o.concurrency);
    }
    if o.batch_tokens != 0 {
        builder = builder.batch_tokens(o.batch_tokens);
    }
    Ok(builder.offline(o.offline != 0))
}

/// Options, each read once however many requests share them. An address stands for what it holds,
/// as nothing changes during a call.
type Options = HashMap<*const ropeway_embed_options, Result<Embed>>;

/// Embeds requests of C; one result per request, in order.
///
/// # Safety
/// Every pointer of every request points to what `types.rs` says, for as long as this runs.
pub unsafe fn embed(engine: &Engine, requests: &[ropeway_request]) -> Vec<Result<ropeway::Embedding>> {
    let mut options = Options::new();
    for request in requests {
        // SAFETY: the caller's promise.
        let read = || unsafe { read_options(request.options, "options") };
        options.entry(request.options).or_insert_with(read);
    }
    // SAFETY: the caller's promise.
    let read = |request| unsafe { read_request(request, &options) };
    run(engine, requests.iter().map(read).collect())
}

/// As [`embed`], for one request and without computing.
///
/// # Safety
/// As for [`embed`].
pub unsafe fn validate(engine: &Engine, request: &ropeway_request) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe {
        let read = read_options(request.options, "options");
        let options = Options::from([(request.options, read)]);
        Ok(engine.validate(&read_request(request, &options)?)?)
    }
}

/// Embeds the requests that could be read, and puts each result in its request's place.
pub fn run(engine: &Engine, requests: Vec<Result<Request<'_>>>) -> Vec<Result<ropeway::Embedding>> {
    let mut failures = Vec::with_capacity(requests.len());
    let mut good = Vec::with_capacity(requests.len());
    for request in requests {
        failures.push(request.map(|request| good.push(request)).err());
    }
    let mut results = engine.embed_batch(&good).into_iter();
    let place = |failure| match failure {
        Some(failure) => Err(failure),
        None => Ok(results.next().expect("a result for every good request")?),
    };
    failures.into_iter().map(place).collect()
}

unsafe fn read_request<'a>(request: &'a ropeway_request, options: &'a Options) -> Result<Request<'a>> {
    let options = options[&request.options].as_ref().map_err(Clone::clone)?;
    match (request.text.is_null(), request.ids.is_null()) {
        // SAFETY: the caller's promise.
        (false, true) => Ok(Request::text(
            unsafe { text(request.text, request.text_len, "text") }?,
            options,
        )),
        // SAFETY: the caller's promise.
        (true, false) => Ok(Request::ids(
            unsafe { slice(request.ids, request.ids_len, "ids") }?,
            options,
        )),
        (true, true) => Err(Failure::argument("text and ids are both NULL; one must be given")),
        (false, false) => Err(Failure::argument("text and ids are both given; one must be NULL")),
    }
}

/// Reads options; NULL is all defaults.
///
/// # Safety
/// Every pointer points to what `types.rs` says, for as long as this runs.
pub unsafe fn read_options(options: *const ropeway_embed_options, name: &str) -> Result<Embed> {
    if options.is_null() {
        return Ok(Embed::default());
    }
    // SAFETY: the caller's promise.
    let (o, adapters, prompt, chunking) = unsafe {
        let o = sized(options, name)?;
        let prompt = optional(o.prompt, "options.prompt")?;
        (o, read_adapters(&o)?, prompt, read_chunking(&o)?)
    };
    const POOLINGS: [Option<Pooling>; 8] = [
        None,
        Some(Pooling::Mean),
        Some(Pooling::Cls),
        Some(Pooling::None),
        Some(Pooling::LastToken),
        Some(Pooling::Max),
        Some(Pooling::MeanSqrtLen),
        Some(Pooling::WeightedMean),
    ];
    const ENCODINGS: [Encoding; 5] = [
        Encoding::F32,
        Encoding::F16,
        Encoding::Int8,
        Encoding::Binary,
        Encoding::Base64,
    ];
    let nonzero = |value: usize| (value != 0).then_some(value);
    if o.reserved != 0 {
        return Err(Failure::argument("options.reserved is not 0"));
    }
    let overlap = match o.window_overlap {
        ROPEWAY_NO_OVERLAP => Some(0),
        overlap => nonzero(overlap),
    };
    let options = Embed::default()
        .adapters(adapters)
        .dimensions(nonzero(o.dimensions))
        .any_dimensions(o.any_dimensions != 0)
        .pooling(choose("pooling", o.pooling, POOLINGS)?)
        .normalize(choose("normalize", o.normalize, [None, Some(true), Some(false)])?)
        .truncate(o.no_truncate == 0)
        .chunks(chunking)
        .window(nonzero(o.window_size))
        .overlap(overlap)
        .encoding(choose("encoding", o.encoding, ENCODINGS)?);
    Ok(match prompt {
        Some(prompt) => options.prompt(prompt),
        None => options,
    })
}

/// The value of a constant; they are numbered from 0.
fn choose<T: Copy, const N: usize>(field: &str, value: i32, values: [T; N]) -> Result<T> {
    let known = usize::try_from(value).ok().and_then(|value| values.get(value));
    known.copied().ok_or_else(|| {
        Failure::argument(format!(
            "options.{field} is {value}; the ropeway_{field} values are 0 to {}",
            N - 1
        ))
    })
}

unsafe fn read_adapters(o: &ropeway_embed_options) -> Result<AdapterSelection> {
    // SAFETY: the caller's promise.
    let (task, mixture) = unsafe {
        let task = optional(o.task, "options.task")?;
        (task, slice(o.mixture, o.mixture_len, "options.mixture")?)
    };
    match (task, mixture, o.base_weights != 0) {
        (None, [], false) => Ok(AdapterSelection::Unset),
        (None, [], true) => Ok(AdapterSelection::Base),
        (Some(task), [], false) => Ok(AdapterSelection::Task(task.to_owned())),
        (None, parts, false) => {
            let part = |(index, part): (usize, &ropeway_weight)| {
                // SAFETY: the caller's promise.
                let name = unsafe { string(part.adapter, &format!("options.mixture[{index}].adapter")) }?;
                Ok((name.to_owned(), part.weight))
            };
            let parts: Result<_> = parts.iter().enumerate().map(part).collect();
            Ok(AdapterSelection::Mixture(parts?))
        }
        _ => Err(Failure::argument(
            "options.task, options.mixture and options.base_weights exclude one another",
        )),
    }
}

unsafe fn read_chunking(o: &ropeway_embed_options) -> Result<Option<Chunking>> {
    use ropeway_chunking::*;
    const KINDS: [ropeway_chunking; 4] = [
        ROPEWAY_CHUNKING_NONE,
        ROPEWAY_CHUNKING_TOKENS,
        ROPEWAY_CHUNKING_SENTENCES,
        ROPEWAY_CHUNKING_SPANS,
    ];
    Ok(match choose("chunking", o.chunking, KINDS)? {
        ROPEWAY_CHUNKING_NONE => None,
        ROPEWAY_CHUNKING_TOKENS => Some(Chunking::Tokens(o.chunk_tokens)),
        ROPEWAY_CHUNKING_SENTENCES => Some(Chunking::Sentences),
        ROPEWAY_CHUNKING_SPANS => {
            // SAFETY: the caller's promise.
            let spans = unsafe { slice(o.spans, o.spans_len, "options.spans") }?;
            let spans = spans.iter().map(|span| (span.start, span.end));
            Some(Chunking::Spans(spans.collect()))
        }
    })
}

/// Requests for texts that all have the same options.
///
/// # Safety
/// Every pointer of `texts` points to as many bytes as its length says, or to a string that ends with a
/// NUL, for as long as the result is used.
pub unsafe fn texts<'a>(
    texts: &[*const c_char],
    lens: Option<&[usize]>,
    options: &'a Embed,
) -> Vec<Result<Request<'a>>> {
    let one = |(index, &pointer): (usize, &*const c_char)| {
        let len = lens.map_or(ROPEWAY_NUL_TERMINATED, |lens| lens[index]);
        // SAFETY: the caller's promise.
        let text = unsafe { text(pointer, len, "the text") }?;
        Ok(Request::text(text, options))
    };
    texts.iter().enumerate().map(one).collect()
}
