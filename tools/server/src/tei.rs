//! The routes of text-embeddings-inference, and SageMaker's, whose bodies are the same.

use axum::body::Body;
use axum::http::{HeaderValue, Response};
use ropeway::{Embed, Pooling, Precision};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::{Answer, App, Call, Caller, Model};
use crate::body;
use crate::embed::{Embedded, Terms, Text, embed, inputs};
use crate::failure::{Failure, Kind};
use crate::openai;

#[derive(Default, Deserialize)]
struct Options {
    truncate: Option<bool>,
    truncation_direction: Option<Direction>,
    prompt_name: Option<String>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
enum Direction {
    #[serde(alias = "Right", rename = "right")]
    Right,
    #[serde(alias = "Left", rename = "left")]
    Left,
}

#[derive(Deserialize)]
struct EmbedRequest {
    #[serde(default)]
    inputs: Value,
    #[serde(flatten)]
    options: Options,
    normalize: Option<bool>,
    dimensions: Option<usize>,
}

#[derive(Deserialize)]
struct SimilarityRequest {
    inputs: Similarity,
    #[serde(default)]
    parameters: Options,
}

#[derive(Deserialize)]
struct Similarity {
    source_sentence: String,
    sentences: Vec<String>,
}

impl Options {
    fn embed(&self, model: &Model) -> Result<Embed, Failure> {
        let options = match &self.prompt_name {
            None => Embed::default(),
            Some(name) => {
                let engine = model.engine()?;
                if !engine.config().tasks.iter().any(|task| task.name == *name) {
                    let names: Vec<&str> = engine
                        .config()
                        .tasks
                        .iter()
                        .map(|task| task.name.as_str())
                        .collect();
                    let message = format!("there is no prompt `{name}`; there are {}", names.join(", "));
                    return Err(Failure::new(Kind::Invalid, message));
                }
                Embed::task(name)
            }
        };
        // Texts are cut at their end or not at all.
        let left = self.truncation_direction == Some(Direction::Left);
        Ok(options.truncate(self.truncate.unwrap_or(true) && !left))
    }
}

fn terms(caller: Caller) -> Terms {
    Terms {
        caller: caller.0,
        priority: 0,
        deadline: None,
    }
}

/// A response with what TEI says of its times, in milliseconds.
fn timed(
    mut response: Response<Body>,
    kind: &'static str,
    embedded: &Embedded,
    characters: usize,
) -> Response<Body> {
    let timing = embedded.timing;
    let milliseconds = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let numbers = [
        ("x-compute-time", milliseconds(timing.total)),
        ("x-compute-characters", characters as u64),
        ("x-compute-tokens", embedded.tokens() as u64),
        ("x-total-time", milliseconds(timing.total)),
        ("x-tokenization-time", milliseconds(timing.tokenize)),
        ("x-queue-time", milliseconds(timing.queue)),
        ("x-inference-time", milliseconds(timing.compute)),
    ];
    let headers = response.headers_mut();
    for (name, number) in numbers {
        headers.insert(name, HeaderValue::from(number));
    }
    headers.insert("x-compute-type", HeaderValue::from_static(kind));
    response
}

/// `POST /embed`, `/` and `/invocations`, with a body of `/embed` or `/similarity`.
pub async fn embed_route(mut call: Call) -> Answer {
    let bytes = call.bytes().await?;
    answer(&call.app, call.caller, &bytes).await
}

async fn answer(app: &App, caller: Caller, bytes: &[u8]) -> Answer {
    let request: EmbedRequest = body::parse(bytes)?;
    // `/` is the route of all clients of huggingface_hub, whatever they want.
    if request.inputs.get("source_sentence").is_some() {
        return compare(app, caller, body::parse(bytes)?).await;
    }
    let model = app.model(None)?;
    let texts = inputs(request.inputs, "inputs", app.limits.inputs)?;
    let options = request
        .options
        .embed(model)?
        .normalize(request.normalize.unwrap_or(true))
        .dimensions(request.dimensions);
    let characters = texts.iter().map(Text::characters).sum();
    let asked = texts.into_iter().map(|text| (text, options.clone()));
    let mut embedded = embed(&model.service, asked.collect(), &terms(caller)).await?;
    app.count_tokens(embedded.tokens());
    let vectors: Vec<_> = embedded.embeddings.iter_mut().map(|one| one.as_f32()).collect();
    let response = body::json(&vectors)?;
    let kind = if model.engine().is_ok_and(|engine| engine.on_gpu()) {
        "gpu"
    } else {
        "cpu"
    };
    Ok(timed(response, kind, &embedded, characters))
}

/// `POST /embed_all`: one vector per token.
pub async fn embed_all(mut call: Call) -> Answer {
    let request: EmbedRequest = call.read().await?;
    let Call { app, caller, .. } = call;
    let model = app.model(None)?;
    let texts = inputs(request.inputs, "inputs", app.limits.inputs)?;
    let options = request
        .options
        .embed(model)?
        .pooling(Pooling::None)
        .normalize(false);
    let asked = texts.into_iter().map(|text| (text, options.clone()));
    let embedded = embed(&model.service, asked.collect(), &terms(caller)).await?;
    app.count_tokens(embedded.tokens());
    let mut all = Vec::new();
    for embedding in embedded.embeddings {
        let vectors = embedding.into_tokens().and_then(|vectors| {
            vectors
                .into_iter()
                .map(ropeway::Vector::into_f32)
                .collect::<ropeway::Result<Vec<_>>>()
        });
        all.push(vectors.map_err(Failure::internal)?);
    }
    body::json(&all)
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
    app.check_count("sentences", sentences.len() + 1)?;
    let options = request.parameters.embed(model)?.normalize(true);
    let texts = std::iter::once(source_sentence).chain(sentences);
    let asked = texts.map(|text| (Text::Words(text), options.clone()));
    let embedded = embed(&model.service, asked.collect(), &terms(caller)).await?;
    app.count_tokens(embedded.tokens());
    let vectors = embedded.vectors()?;
    let (source, others) = vectors.split_first().expect("one for each sentence");
    let dot = |other: &Vec<f32>| -> f64 {
        let products = source
            .iter()
            .zip(other)
            .map(|(a, b)| f64::from(*a) * f64::from(*b));
        products.sum()
    };
    body::json(&others.iter().map(|other| dot(other) as f32).collect::<Vec<f32>>())
}

/// `POST /invocations`: a body of `/embed` or of `/v1/embeddings`.
pub async fn invocations(mut call: Call) -> Answer {
    #[derive(Deserialize)]
    struct Keys {
        input: Option<serde::de::IgnoredAny>,
    }
    if call.headers.contains_key("x-amzn-sagemaker-target-model") {
        let message = "this container serves its own models alone; name one in the body's `model`";
        return Err(Failure::new(Kind::Invalid, message));
    }
    let bytes = call.bytes().await?;
    match body::parse::<Keys>(&bytes)?.input {
        Some(_) => openai::answer(&call.app, &call.caller, body::parse(&bytes)?).await,
        None => answer(&call.app, call.caller, &bytes).await,
    }
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
    body::json(&json!({
        "model_id": model.name,
        "model_sha": null,
        "model_dtype": dtype,
        "served_model_name": model.name,
        "model_type": {"embedding": {"pooling": pooling}},
        "max_concurrent_requests": app.limits.connections,
        "max_input_length": engine.config().max_tokens,
        "max_batch_tokens": engine.batch_tokens(),
        "max_batch_requests": null,
        "max_client_batch_size": app.limits.inputs,
        "auto_truncate": true,
        "tokenization_workers": model.service.tokenizers(),
        "version": env!("CARGO_PKG_VERSION"),
        "sha": null,
        "docker_label": null,
    }))
}

/// A route of other kinds of models.
pub async fn unsupported() -> Answer {
    let message = "this model embeds texts; it has no head for this route";
    Err(Failure::new(Kind::Unsupported, message))
}
