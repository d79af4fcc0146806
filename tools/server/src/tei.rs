//! The routes of text-embeddings-inference, and SageMaker's, whose bodies are the same.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, Response};
use ropeway::service::Timing;
use ropeway::{Embed, Pooling, Precision};
use schemars::JsonSchema;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::app::{Answer, App, Call, Caller, Model};
use crate::embed::{Options, Terms, embed};
use crate::failure::{Failure, Kind};
use crate::inputs::{Inputs, Text, check_count, required};
use crate::names::{listed, shown};
use crate::openai;
use crate::reply::{self, Slot, Vectors};
use crate::vectors::NumberType;

#[derive(Default, Deserialize, JsonSchema)]
struct Parameters {
    /// Cut what is longer than the model takes, in place of refusing it; true if it is missing.
    truncate: Option<bool>,
    /// Where texts are cut. With `left`, what would have to be cut is refused.
    truncation_direction: Option<Direction>,
    /// A task or prompt of the model.
    prompt_name: Option<String>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema, PartialEq, Eq)]
enum Direction {
    #[serde(alias = "Right", rename = "right")]
    Right,
    #[serde(alias = "Left", rename = "left")]
    Left,
}

/// What to embed with the first model. Unknown fields are ignored.
#[derive(Deserialize, JsonSchema)]
pub struct EmbedRequest {
    #[schemars(required, with = "Inputs")]
    inputs: Option<Inputs>,
    /// Cut what is longer than the model takes, in place of refusing it; true if it is missing.
    truncate: Option<bool>,
    /// Where texts are cut. With `left`, what would have to be cut is refused.
    truncation_direction: Option<Direction>,
    /// A task or prompt of the model.
    prompt_name: Option<String>,
    /// Divide vectors by their norm. If it is missing: true, and false of vectors per token.
    normalize: Option<bool>,
    /// Keep the first so many dimensions.
    #[schemars(range(min = 1))]
    dimensions: Option<usize>,
}

impl EmbedRequest {
    /// What it has in common with [`SimilarityRequest`]. Flattened, all fields that are not known would be kept.
    fn parameters(&mut self) -> Parameters {
        Parameters {
            truncate: self.truncate,
            truncation_direction: self.truncation_direction,
            prompt_name: self.prompt_name.take(),
        }
    }
}

/// One sentence, and others that it is compared with.
#[derive(Deserialize, JsonSchema)]
pub struct SimilarityRequest {
    inputs: Similarity,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Deserialize, JsonSchema)]
struct Similarity {
    source_sentence: String,
    #[schemars(length(min = 1))]
    sentences: Vec<String>,
}

/// Whose body it is, of the routes that take several.
#[derive(Deserialize)]
struct Sort {
    input: Option<IgnoredAny>,
    inputs: Option<Source>,
}

/// Whether inputs are sentences to compare. Nothing of them is kept.
enum Source {
    Sentences,
    Other,
}

struct SourceVisitor;

impl<'de> Visitor<'de> for SourceVisitor {
    type Value = Source;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("inputs to embed, or sentences to compare")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Source, A::Error> {
        let mut source = Source::Other;
        while let Some((key, _)) = map.next_entry::<Cow<'de, str>, IgnoredAny>()? {
            if key == "source_sentence" {
                source = Source::Sentences;
            }
        }
        Ok(source)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut inputs: A) -> Result<Source, A::Error> {
        while inputs.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Source::Other)
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Source, E> {
        Ok(Source::Other)
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Source, D::Error> {
        deserializer.deserialize_any(SourceVisitor)
    }
}

impl Parameters {
    fn embed(&self, model: &Model) -> Result<Embed, Failure> {
        let options = match &self.prompt_name {
            None => Embed::default(),
            Some(name) => {
                check_prompt(model, name)?;
                Embed::task(name)
            }
        };
        // Texts are cut at their end or not at all.
        let left = self.truncation_direction == Some(Direction::Left);
        Ok(options.truncate(self.truncate.unwrap_or(true) && !left))
    }
}

/// Fails for a name that is no task or prompt of the model; else gives what it puts before a text.
pub fn check_prompt(model: &Model, name: &str) -> Result<String, Failure> {
    let engine = model.engine()?;
    let tasks = &engine.config().tasks;
    let found = tasks.iter().find(|task| task.name == name);
    found.map(|task| task.prefix.clone()).ok_or_else(|| {
        let names: Vec<&str> = tasks.iter().map(|task| task.name.as_str()).collect();
        no_prompt(name, &names)
    })
}

fn no_prompt(name: &str, known: &[&str]) -> Failure {
    let known = match known.is_empty() {
        true => "this model has none: leave `prompt_name` out".to_owned(),
        false => format!("there are {}", listed(known)),
    };
    let message = format!("there is no prompt `{}`; {known}", shown(name));
    Failure::new(Kind::Invalid, message)
}

fn terms(caller: Caller) -> Terms {
    Terms {
        caller: caller.0,
        priority: 0,
        deadline: None,
    }
}

/// What TEI's headers say of a response.
struct Timed {
    kind: &'static str,
    timing: Timing,
    tokens: usize,
    characters: usize,
}

impl Timed {
    /// Adds them to a response; times are in milliseconds.
    fn headers_of(self, mut response: Response<Body>) -> Response<Body> {
        let timing = self.timing;
        let milliseconds = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let numbers = [
            ("x-compute-time", milliseconds(timing.total)),
            ("x-compute-characters", self.characters as u64),
            ("x-compute-tokens", self.tokens as u64),
            ("x-total-time", milliseconds(timing.total)),
            ("x-tokenization-time", milliseconds(timing.tokenize)),
            ("x-queue-time", milliseconds(timing.queue)),
            ("x-inference-time", milliseconds(timing.compute)),
        ];
        let headers = response.headers_mut();
        for (name, number) in numbers {
            headers.insert(name, HeaderValue::from(number));
        }
        headers.insert("x-compute-type", HeaderValue::from_static(self.kind));
        response
    }
}

/// `POST /embed`.
pub async fn embed_route(mut call: Call) -> Answer {
    let request = call.read().await?;
    answer(&call.app, call.caller, request).await
}

/// `POST /` and `/invocations`: a body of `/embed`, `/similarity` or `/v1/embeddings`. Clients of huggingface_hub send all
/// they want to `/`.
pub async fn any(mut call: Call) -> Answer {
    if call.headers.contains_key("x-amzn-sagemaker-target-model") {
        let message = "this container serves its own models alone; name one in the body's `model`";
        return Err(Failure::new(Kind::Invalid, message));
    }
    let bytes = call.bytes().await?;
    let Call { app, caller, .. } = call;
    let request = match app.parse(&bytes).await? {
        Sort { input: Some(_), .. } => Any::Embeddings(Box::new(app.parse(&bytes).await?)),
        Sort {
            inputs: Some(Source::Sentences),
            ..
        } => Any::Similarity(app.parse(&bytes).await?),
        _ => Any::Embed(app.parse(&bytes).await?),
    };
    // What was parsed is a copy.
    drop(bytes);
    match request {
        Any::Embeddings(request) => openai::answer(&app, &caller, *request).await,
        Any::Similarity(request) => compare(&app, caller, request).await,
        Any::Embed(request) => answer(&app, caller, request).await,
    }
}

/// A body of one of the routes that [`any`] stands for.
enum Any {
    Embeddings(Box<openai::EmbeddingsRequest>),
    Similarity(SimilarityRequest),
    Embed(EmbedRequest),
}

async fn answer(app: &App, caller: Caller, mut request: EmbedRequest) -> Answer {
    let model = app.model(None)?;
    let texts = required(request.inputs.take(), "inputs", app.limits.inputs)?;
    let options = request
        .parameters()
        .embed(model)?
        .normalize(request.normalize.unwrap_or(true))
        .dimensions(request.dimensions);
    let characters = texts.iter().map(Text::characters).sum();
    let options = Options::Shared(options);
    let embedded = embed(app, model, texts, options, &terms(caller)).await?;
    let tokens = embedded.tokens();
    app.count_tokens(tokens);
    let kind = if model.engine().is_ok_and(|engine| engine.on_gpu()) {
        "gpu"
    } else {
        "cpu"
    };
    let timing = Timed {
        kind,
        timing: embedded.timing,
        tokens,
        characters,
    };
    let mut vectors = Vectors::within(embedded.share);
    let slots = embedded.embeddings.into_iter();
    let slots = slots.map(|one| vectors.slot(floats(one.into_f32())?, NumberType::Float));
    let slots: Vec<Slot> = slots.collect::<Result<_, _>>()?;
    Ok(timing.headers_of(vectors.response(&slots)?))
}

fn floats(vector: ropeway::Result<Vec<f32>>) -> Result<Arc<[f32]>, Failure> {
    Ok(vector.map_err(Failure::internal)?.into())
}

/// `POST /embed_all`: one vector per token.
pub async fn embed_all(mut call: Call) -> Answer {
    let mut request: EmbedRequest = call.read().await?;
    let Call { app, caller, .. } = call;
    let model = app.model(None)?;
    let texts = required(request.inputs.take(), "inputs", app.limits.inputs)?;
    let options = request
        .parameters()
        .embed(model)?
        .pooling(Pooling::None)
        .normalize(request.normalize.unwrap_or(false))
        .dimensions(request.dimensions);
    let options = Options::Shared(options);
    let embedded = embed(&app, model, texts, options, &terms(caller)).await?;
    app.count_tokens(embedded.tokens());
    let mut vectors = Vectors::within(embedded.share);
    let mut all: Vec<Vec<Slot>> = Vec::new();
    for embedding in embedded.embeddings {
        let tokens = embedding.into_tokens().map_err(Failure::internal)?.into_iter();
        let slots = tokens.map(|vector| vectors.slot(floats(vector.into_f32())?, NumberType::Float));
        all.push(slots.collect::<Result<_, _>>()?);
    }
    vectors.response(&all)
}

/// `POST /similarity`: cosines of one sentence and others.
pub async fn similarity(mut call: Call) -> Answer {
    let request = call.read().await?;
    compare(&call.app, call.caller, request).await
}

async fn compare(app: &App, caller: Caller, request: SimilarityRequest) -> Answer {
    let model = app.model(None)?;
    let Similarity {
        source_sentence,
        sentences,
    } = request.inputs;
    if sentences.is_empty() {
        return Err(Failure::empty("sentences"));
    }
    check_count("sentences", sentences.len() + 1, app.limits.inputs)?;
    if source_sentence.is_empty() {
        return Err(Failure::empty("source_sentence"));
    }
    if let Some(index) = sentences.iter().position(String::is_empty) {
        return Err(Failure::empty("sentences").of_input(index, sentences.len()));
    }
    let options = request.parameters.embed(model)?.normalize(true);
    let texts = std::iter::once(source_sentence).chain(sentences);
    let texts = texts.map(Text::Words).collect();
    let options = Options::Shared(options);
    let embedded = embed(app, model, texts, options, &terms(caller)).await?;
    app.count_tokens(embedded.tokens());
    let (vectors, _share) = embedded.vectors()?;
    let (source, others) = vectors.split_first().expect("one for each sentence");
    let cosines = others.iter().map(|other| cosine(source, other));
    reply::json(&cosines.collect::<Vec<f32>>())
}

/// The cosine of normalised vectors, whose norms are rounded: their product may be a bit more than one.
fn cosine(one: &[f32], other: &[f32]) -> f32 {
    let products = one.iter().zip(other).map(|(a, b)| f64::from(*a) * f64::from(*b));
    products.sum::<f64>().clamp(-1.0, 1.0) as f32
}

/// `GET /info`.
pub async fn info(call: Call) -> Answer {
    let app = &call.app;
    let model = app.model(None)?;
    let engine = model.engine()?;
    let pooling = engine.config().pooling.iter().map(|pooling| match pooling {
        // The contract has another word.
        Pooling::LastToken => "last_token",
        pooling => pooling.name(),
    });
    let pooling = pooling.collect::<Vec<_>>().join("+");
    let dtype = match engine.precision() {
        Precision::F32 => "float32".into(),
        Precision::F16 => "float16".into(),
        Precision::Bf16 => "bfloat16".into(),
        other => other.to_string(),
    };
    reply::json(&Info {
        model_id: model.name.clone(),
        model_sha: None,
        model_dtype: dtype,
        served_model_name: model.name.clone(),
        model_type: ModelType::Embedding { pooling },
        max_concurrent_requests: app.limits.connections,
        max_input_length: engine.config().max_tokens,
        max_batch_tokens: engine.batch_tokens(),
        max_batch_requests: None,
        max_client_batch_size: app.limits.inputs,
        auto_truncate: true,
        tokenization_workers: model.service.tokenizers(),
        version: env!("CARGO_PKG_VERSION").into(),
        sha: None,
        docker_label: None,
    })
}

/// The first model, and the server's limits.
#[derive(Serialize, JsonSchema)]
pub struct Info {
    model_id: String,
    model_sha: Option<String>,
    model_dtype: String,
    served_model_name: String,
    model_type: ModelType,
    /// Connections at a time.
    max_concurrent_requests: usize,
    /// Tokens of the longest input.
    max_input_length: usize,
    max_batch_tokens: usize,
    max_batch_requests: Option<usize>,
    /// Inputs of a request.
    max_client_batch_size: usize,
    auto_truncate: bool,
    tokenization_workers: usize,
    version: String,
    sha: Option<String>,
    docker_label: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum ModelType {
    Embedding { pooling: String },
}

/// A route of other kinds of models.
pub async fn unsupported() -> Answer {
    let message = "this model embeds texts; it has no head for this route";
    Err(Failure::new(Kind::Unsupported, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_a_model_without_prompts_for_one_is_told_so() {
        let none = no_prompt("query", &[]).message;
        assert_eq!(
            none,
            "there is no prompt `query`; this model has none: leave `prompt_name` out"
        );
        let many = no_prompt("c", &["a", "b"]).message;
        assert_eq!(many, "there is no prompt `c`; there are a, b");
    }

    #[test]
    fn no_cosine_is_more_than_one() {
        let long = [0.6, 0.800_000_1];
        assert!(long.iter().map(|x| x * x).sum::<f32>() > 1.0);
        assert_eq!(cosine(&long, &long), 1.0);
        assert_eq!(cosine(&long, &long.map(|x| -x)), -1.0);
        assert_eq!(cosine(&[1.0, 0.0], &[0.5, 1.0]), 0.5);
    }
}
