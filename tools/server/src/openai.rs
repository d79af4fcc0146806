//! `/v1/embeddings`: OpenAI's fields, Jina's, and ropeway's own.

use std::time::{Duration, Instant};

use axum::extract::Path;
use ropeway::{AdapterSelection, Chunking, Embed, Embedding, Output, Pooling};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::app::{Answer, App, Call, Caller};
use crate::body;
use crate::embed::{Terms, Text, embed, inputs};
use crate::failure::{Failure, Kind};
use crate::vectors::NumberType;

/// The fields that are known; others are ignored, as clients add some.
#[derive(Deserialize)]
pub struct EmbeddingsRequest {
    #[serde(default)]
    input: Value,
    model: Option<String>,
    dimensions: Option<usize>,
    encoding_format: Option<NumberType>,
    // Jina's.
    task: Option<String>,
    late_chunking: Option<bool>,
    truncate: Option<bool>,
    normalized: Option<bool>,
    #[serde(alias = "encoding_type")]
    embedding_type: Option<OneOrMore>,
    // Ropeway's.
    #[serde(default)]
    adapters: Option<Adapters>,
    #[serde(default)]
    any_dimensions: bool,
    prompt: Option<String>,
    pooling: Option<PoolingName>,
    chunks: Option<Chunks>,
    #[serde(default)]
    priority: i32,
    deadline_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "embedding_type is a word or an array of words")]
enum OneOrMore {
    One(NumberType),
    More(Vec<NumberType>),
}

#[derive(Clone, Deserialize)]
#[serde(
    untagged,
    expecting = "adapters is an object of weights by name, or one such object per input"
)]
enum Adapters {
    OfAll(Map<String, Value>),
    OfEach(Vec<Map<String, Value>>),
}

/// A pooling, by the library's name for it.
struct PoolingName(Pooling);

impl<'de> Deserialize<'de> for PoolingName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<PoolingName, D::Error> {
        let word = String::deserialize(deserializer)?;
        let found = Pooling::ALL.into_iter().find(|pooling| pooling.name() == word);
        found.map(PoolingName).ok_or_else(|| {
            let known = Pooling::ALL.map(Pooling::name).join(", ");
            serde::de::Error::custom(format!("pooling `{word}` is unknown; known: {known}"))
        })
    }
}

#[derive(Clone, Deserialize)]
#[serde(
    untagged,
    expecting = "chunks is \"sentences\", a number of tokens, or an array of spans [start, end]"
)]
enum Chunks {
    Word(Sentences),
    Tokens(usize),
    Spans(Vec<(usize, usize)>),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Sentences {
    Sentences,
}

impl EmbeddingsRequest {
    /// The options of every input, but for mixtures of their own.
    fn options(&self) -> Embed {
        let selection = match &self.task {
            Some(task) => AdapterSelection::Task(task.clone()),
            None => AdapterSelection::Unset,
        };
        let chunks = self.chunks.clone().map(|chunks| match chunks {
            Chunks::Word(Sentences::Sentences) => Chunking::Sentences,
            Chunks::Tokens(tokens) => Chunking::Tokens(tokens),
            Chunks::Spans(spans) => Chunking::Spans(spans),
        });
        let options = Embed::default()
            .adapters(selection)
            .dimensions(self.dimensions)
            .any_dimensions(self.any_dimensions)
            .pooling(self.pooling.as_ref().map(|name| name.0))
            .normalize(self.normalized)
            // Both OpenAI and Jina refuse what is too long, unless they are told to cut it.
            .truncate(self.truncate.unwrap_or(false))
            .chunks(chunks);
        match &self.prompt {
            Some(prompt) => options.prompt(prompt),
            None => options,
        }
    }

    /// The inputs, each with its options.
    fn inputs(&mut self, most: usize) -> Result<Vec<(Text, Embed)>, Failure> {
        let texts = inputs(self.input.take(), "input", most)?;
        let options = self.options();
        if self.task.is_some() && self.adapters.is_some() {
            let both = "`task` and `adapters` are both given; take one of them";
            return Err(Failure::new(Kind::Invalid, both));
        }
        let mixtures: Vec<Option<&Map<String, Value>>> = match &self.adapters {
            None => vec![None; texts.len()],
            Some(Adapters::OfAll(mixture)) => vec![Some(mixture); texts.len()],
            Some(Adapters::OfEach(mixtures)) if mixtures.len() == texts.len() => {
                mixtures.iter().map(Some).collect()
            }
            Some(Adapters::OfEach(mixtures)) => {
                let (found, wanted) = (mixtures.len(), texts.len());
                let message = format!(
                    "`adapters` has {found} mixtures for {wanted} inputs; wanted one, or one per input"
                );
                return Err(Failure::new(Kind::Invalid, message));
            }
        };
        let with = |(text, mixture): (Text, Option<&Map<String, Value>>)| match mixture {
            None => Ok((text, options.clone())),
            Some(mixture) => Ok((text, options.clone().adapters(selection(mixture)?))),
        };
        texts.into_iter().zip(mixtures).map(with).collect()
    }

    fn types(&self) -> Result<(Vec<NumberType>, bool), Failure> {
        match (&self.embedding_type, self.encoding_format) {
            (Some(OneOrMore::One(number)), _) => Ok((vec![*number], false)),
            (Some(OneOrMore::More(numbers)), _) if numbers.is_empty() => Err(Failure::new(
                Kind::Invalid,
                "`embedding_type` is an empty array; name a type",
            )),
            (Some(OneOrMore::More(numbers)), _) => Ok((numbers.clone(), true)),
            (None, format) => Ok((vec![format.unwrap_or(NumberType::Float)], false)),
        }
    }
}

fn selection(mixture: &Map<String, Value>) -> Result<AdapterSelection, Failure> {
    let weight = |(name, value): (&String, &Value)| match value.as_f64() {
        Some(weight) => Ok((name.clone(), weight as f32)),
        None => Err(Failure::new(
            Kind::Invalid,
            format!("the weight of adapter `{name}` is not a number"),
        )),
    };
    let parts = mixture.iter().map(weight).collect::<Result<_, _>>()?;
    Ok(AdapterSelection::Mixture(parts))
}

/// All inputs as one text, and the span of each in it: late chunking in Jina's way. A space goes between two inputs where
/// neither has one.
fn joined(texts: Vec<Text>) -> Result<(Text, Vec<(usize, usize)>), Failure> {
    let mut whole = String::new();
    let mut length = 0;
    let mut spans = Vec::with_capacity(texts.len());
    for text in texts {
        let Text::Words(text) = text else {
            let message = "late_chunking takes texts, not token ids";
            return Err(Failure::new(Kind::Invalid, message));
        };
        let apart =
            whole.is_empty() || whole.ends_with(char::is_whitespace) || text.starts_with(char::is_whitespace);
        if !apart {
            whole.push(' ');
            length += 1;
        }
        let end = length + text.chars().count();
        spans.push((length, end));
        length = end;
        whole.push_str(&text);
    }
    Ok((Text::Words(whole), spans))
}

/// `POST /v1/embeddings`.
pub async fn embeddings(mut call: Call) -> Answer {
    let request = call.read().await?;
    answer(&call.app, &call.caller, request).await
}

/// Answers a request of this route.
pub async fn answer(app: &App, caller: &Caller, mut request: EmbeddingsRequest) -> Answer {
    let model = app.model(request.model.as_deref())?;
    let terms = Terms {
        caller: caller.0.clone(),
        priority: request.priority,
        deadline: request
            .deadline_ms
            .and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms))),
    };
    let (types, by_type) = request.types()?;
    let mut asked = request.inputs(app.limits.inputs)?;
    let late = request.late_chunking == Some(true);
    if late {
        if request.chunks.is_some() {
            let both = "`late_chunking` and `chunks` are both given; take one of them";
            return Err(Failure::new(Kind::Invalid, both));
        }
        let options = asked[0].1.clone();
        let (text, spans) = joined(asked.into_iter().map(|(text, _)| text).collect())?;
        asked = vec![(text, options.chunks(Chunking::Spans(spans)))];
    }
    let embedded = embed(&model.service, asked, &terms).await?;
    let tokens = embedded.tokens();
    app.count_tokens(tokens);
    let write = |vector: &[f32]| -> Result<Value, Failure> {
        if !by_type {
            return value(&types[0].write(vector)?);
        }
        let mut object = Map::new();
        for number in &types {
            object.insert(number.name().into(), value(&number.write(vector)?)?);
        }
        Ok(Value::Object(object))
    };
    let mut data = Vec::new();
    for (index, embedding) in embedded.embeddings.into_iter().enumerate() {
        match late {
            false => data.push(item(index, embedding, &write)?),
            true => {
                let chunks = embedding.into_chunks().map_err(Failure::internal)?;
                for (index, chunk) in chunks.into_iter().enumerate() {
                    let vector = write(&chunk.vector.into_f32().map_err(Failure::internal)?)?;
                    data.push(json!({"object": "embedding", "index": index, "embedding": vector}));
                }
            }
        }
    }
    body::json(&json!({
        "object": "list",
        "data": data,
        "model": model.name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }))
}

fn value(numbers: &crate::vectors::Numbers) -> Result<Value, Failure> {
    serde_json::to_value(numbers).map_err(Failure::internal)
}

fn item(
    index: usize,
    embedding: Embedding,
    write: &dyn Fn(&[f32]) -> Result<Value, Failure>,
) -> Result<Value, Failure> {
    let floats = |vector: ropeway::Vector| vector.into_f32().map_err(Failure::internal);
    Ok(match embedding.output {
        Output::Vector(vector) => {
            json!({"object": "embedding", "index": index, "embedding": write(&floats(vector)?)?})
        }
        Output::Tokens(vectors) => {
            let vectors = vectors.into_iter().map(|vector| write(&floats(vector)?));
            let vectors: Vec<Value> = vectors.collect::<Result<_, _>>()?;
            json!({"object": "embeddings", "index": index, "embeddings": vectors})
        }
        Output::Chunks(chunks) => {
            let chunk = |chunk: ropeway::Chunk| -> Result<Value, Failure> {
                let vector = write(&floats(chunk.vector)?)?;
                Ok(json!({"start": chunk.start, "end": chunk.end, "embedding": vector}))
            };
            let chunks: Vec<Value> = chunks.into_iter().map(chunk).collect::<Result<_, _>>()?;
            json!({"object": "embedding.chunks", "index": index, "chunks": chunks})
        }
        _ => return Err(Failure::new(Kind::Internal, "an embedding has an unknown form")),
    })
}

/// `GET /v1/models`.
pub async fn models(call: Call) -> Answer {
    let app = &call.app;
    let data: Vec<Value> = app.models.iter().map(|model| entry(app, &model.name)).collect();
    body::json(&json!({"object": "list", "data": data}))
}

/// `GET /v1/models/{id}`.
pub async fn model(Path(name): Path<String>, call: Call) -> Answer {
    body::json(&entry(&call.app, &call.app.model(Some(&name))?.name))
}

fn entry(app: &App, name: &str) -> Value {
    json!({"id": name, "object": "model", "created": app.started_unix, "owned_by": "ropeway"})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_chunks_are_spans_of_the_joined_text() {
        let words = |text: &str| Text::Words(text.into());
        let (text, spans) = joined(vec![words("Über"), words("uns. "), words("Hier")]).unwrap();
        assert!(matches!(text, Text::Words(text) if text == "Über uns. Hier"));
        assert_eq!(spans, [(0, 4), (5, 10), (10, 14)]);
        assert!(joined(vec![Text::Ids(vec![1])]).is_err());
    }
}
