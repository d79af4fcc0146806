//! `/v1/embeddings`: OpenAI's fields, Jina's, and ropeway's own.
//!
//! Fields of several shapes are read by visitors: for an untagged enum serde makes a tree of values first, which takes twenty
//! times the room of the text.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ropeway::{AdapterSelection, Chunking, Embed, Embedding, Output, Pooling, Vector};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{IntoDeserializer as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::app::{Answer, App, Call, Caller};
use crate::embed::{Options, Terms, embed};
use crate::failure::{Failure, Kind};
use crate::inputs::{Inputs, Text, required};
use crate::names::shown;
use crate::reply::{Slot, Vectors};
use crate::vectors::NumberType;

/// What to embed, and how. Unknown fields are ignored.
#[derive(Deserialize, JsonSchema)]
pub struct EmbeddingsRequest {
    #[schemars(required, with = "Inputs")]
    input: Option<Inputs>,
    /// The name of a model; the first one if it is missing.
    model: Option<String>,
    /// Keep the first so many dimensions: a size that the model was trained to be cut to.
    #[schemars(range(min = 1))]
    dimensions: Option<usize>,
    /// How vectors are written.
    encoding_format: Option<NumberType>,
    /// A task of the model, or an adapter (as Jina has it).
    task: Option<String>,
    /// Join all inputs to one text, and give the vectors of their parts of it (as Jina has it).
    late_chunking: Option<bool>,
    /// Cut what is longer than the model takes, in place of refusing it (as Jina has it).
    truncate: Option<bool>,
    /// Divide vectors by their norm (as Jina has it).
    normalized: Option<bool>,
    /// How vectors are written; several types give an object by type (as Jina has it).
    #[serde(alias = "encoding_type")]
    embedding_type: Option<OneOrMore>,
    /// A mixture of adapters, `{"name": weight}`, for all inputs, or one for each.
    adapters: Option<Adapters>,
    /// Accept `dimensions` that the model was not trained to be cut to.
    #[serde(default)]
    any_dimensions: bool,
    /// Put before each text, in place of the task's: at most 64 bytes for each token that the model takes.
    prompt: Option<String>,
    /// How vectors of tokens become one; `none` gives one per token.
    pooling: Option<PoolingName>,
    /// Late chunking of each input.
    chunks: Option<Chunks>,
    /// Higher goes first.
    #[serde(default)]
    priority: i32,
    /// Refuse the request at once if it cannot be answered within so many milliseconds.
    deadline_ms: Option<u64>,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum OneOrMore {
    One(NumberType),
    More(#[schemars(length(min = 1))] Vec<NumberType>),
}

struct OneOrMoreVisitor;

impl<'de> Visitor<'de> for OneOrMoreVisitor {
    type Value = OneOrMore;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("embedding_type as a word or an array of words")
    }

    fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<OneOrMore, E> {
        NumberType::deserialize(word.into_deserializer()).map(OneOrMore::One)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, words: A) -> Result<OneOrMore, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(words)).map(OneOrMore::More)
    }
}

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OneOrMore, D::Error> {
        deserializer.deserialize_any(OneOrMoreVisitor)
    }
}

/// Weights by name of an adapter.
#[derive(JsonSchema)]
#[schemars(transparent)]
struct Mixture(BTreeMap<String, f32>);

struct MixtureVisitor;

impl<'de> Visitor<'de> for MixtureVisitor {
    type Value = Mixture;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of weights by name")
    }

    /// A name that stands there twice is told: with one of its weights alone the mixture is another.
    fn visit_map<A: MapAccess<'de>>(self, mut weights: A) -> Result<Mixture, A::Error> {
        let mut mixture = BTreeMap::new();
        while let Some((name, weight)) = weights.next_entry::<String, f32>()? {
            if mixture.contains_key(&name) {
                let problem = format!("the adapter `{}` stands twice in a mixture", shown(&name));
                return Err(serde::de::Error::custom(problem));
            }
            mixture.insert(name, weight);
        }
        Ok(Mixture(mixture))
    }
}

impl<'de> Deserialize<'de> for Mixture {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Mixture, D::Error> {
        deserializer.deserialize_map(MixtureVisitor)
    }
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Adapters {
    OfAll(Mixture),
    OfEach(Vec<Mixture>),
}

struct AdaptersVisitor;

impl<'de> Visitor<'de> for AdaptersVisitor {
    type Value = Adapters;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("adapters as an object of weights by name, or one such object per input")
    }

    fn visit_map<A: MapAccess<'de>>(self, weights: A) -> Result<Adapters, A::Error> {
        Mixture::deserialize(MapAccessDeserializer::new(weights)).map(Adapters::OfAll)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mixtures: A) -> Result<Adapters, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(mixtures)).map(Adapters::OfEach)
    }
}

impl<'de> Deserialize<'de> for Adapters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Adapters, D::Error> {
        deserializer.deserialize_any(AdaptersVisitor)
    }
}

/// A pooling, by the library's name for it.
struct PoolingName(Pooling);

impl<'de> Deserialize<'de> for PoolingName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<PoolingName, D::Error> {
        let word = String::deserialize(deserializer)?;
        let found = Pooling::ALL.into_iter().find(|pooling| pooling.name() == word);
        found.map(PoolingName).ok_or_else(|| {
            let known = Pooling::ALL.map(Pooling::name).join(", ");
            serde::de::Error::custom(format!("pooling `{}` is unknown; known: {known}", shown(&word)))
        })
    }
}

impl JsonSchema for PoolingName {
    fn schema_name() -> Cow<'static, str> {
        "Pooling".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "enum": Pooling::ALL.map(Pooling::name)})
    }
}

/// Sentences, chunks of so many tokens, or spans `[start, end)` in code points of the text.
#[derive(Clone, JsonSchema)]
#[schemars(untagged)]
enum Chunks {
    Word(Sentences),
    Tokens(usize),
    Spans(Vec<(usize, usize)>),
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Sentences {
    Sentences,
}

struct ChunksVisitor;

impl<'de> Visitor<'de> for ChunksVisitor {
    type Value = Chunks;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("chunks as \"sentences\", a number of tokens, or an array of spans [start, end]")
    }

    fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Chunks, E> {
        Sentences::deserialize(word.into_deserializer()).map(Chunks::Word)
    }

    fn visit_u64<E: serde::de::Error>(self, tokens: u64) -> Result<Chunks, E> {
        usize::deserialize(tokens.into_deserializer()).map(Chunks::Tokens)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, spans: A) -> Result<Chunks, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(spans)).map(Chunks::Spans)
    }
}

impl<'de> Deserialize<'de> for Chunks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Chunks, D::Error> {
        deserializer.deserialize_any(ChunksVisitor)
    }
}

/// The vectors, in the order of the inputs.
#[derive(Serialize, JsonSchema)]
pub struct EmbeddingsResponse {
    object: ListObject,
    data: Vec<Item>,
    /// The name of the model.
    model: String,
    usage: Usage,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ListObject {
    List,
}

#[derive(Serialize, JsonSchema)]
struct Usage {
    /// Tokens that went through the model.
    prompt_tokens: usize,
    total_tokens: usize,
}

/// What one input gets: a vector, one per token, or one per chunk.
#[derive(Serialize, JsonSchema)]
#[serde(tag = "object")]
enum Item {
    #[serde(rename = "embedding")]
    Embedding { index: usize, embedding: Written },
    #[serde(rename = "embeddings")]
    Tokens { index: usize, embeddings: Vec<Written> },
    #[serde(rename = "embedding.chunks")]
    Chunks { index: usize, chunks: Vec<ChunkItem> },
}

/// A chunk of an input: code points `[start, end)`.
#[derive(Serialize, JsonSchema)]
struct ChunkItem {
    start: usize,
    end: usize,
    embedding: Written,
}

/// A vector, or the same vector in each type that was asked for.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum Written {
    One(Slot),
    ByType(BTreeMap<NumberType, Slot>),
}

/// The types that vectors are written in.
struct Writer {
    types: Vec<NumberType>,
    by_type: bool,
    vectors: Vectors,
}

impl Writer {
    fn write(&mut self, vector: Vector) -> Result<Written, Failure> {
        let vector: Arc<[f32]> = vector.into_f32().map_err(Failure::internal)?.into();
        if !self.by_type {
            return Ok(Written::One(self.vectors.slot(vector, self.types[0])?));
        }
        let slot = |&number: &NumberType| Ok((number, self.vectors.slot(vector.clone(), number)?));
        Ok(Written::ByType(
            self.types.iter().map(slot).collect::<Result<_, Failure>>()?,
        ))
    }

    fn item(&mut self, index: usize, embedding: Embedding) -> Result<Item, Failure> {
        Ok(match embedding.output {
            Output::Vector(vector) => Item::Embedding {
                index,
                embedding: self.write(vector)?,
            },
            Output::Tokens(vectors) => Item::Tokens {
                index,
                embeddings: vectors
                    .into_iter()
                    .map(|vector| self.write(vector))
                    .collect::<Result<_, _>>()?,
            },
            Output::Chunks(chunks) => {
                let chunk = |chunk: ropeway::Chunk| {
                    Ok(ChunkItem {
                        start: chunk.start,
                        end: chunk.end,
                        embedding: self.write(chunk.vector)?,
                    })
                };
                Item::Chunks {
                    index,
                    chunks: chunks.into_iter().map(chunk).collect::<Result<_, Failure>>()?,
                }
            }
            _ => return Err(Failure::new(Kind::Internal, "an embedding has an unknown form")),
        })
    }
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

    /// The inputs and their options.
    fn inputs(&mut self, most: usize) -> Result<(Vec<Text>, Options), Failure> {
        let texts = required(self.input.take(), "input", most)?;
        let options = self.options();
        if self.task.is_some() && self.adapters.is_some() {
            let both = "`task` and `adapters` are both given; take one of them";
            return Err(Failure::new(Kind::Invalid, both));
        }
        let with = |mixture: Mixture| {
            let mixture = AdapterSelection::Mixture(mixture.0.into_iter().collect());
            options.clone().adapters(mixture)
        };
        let options = match self.adapters.take() {
            None => Options::Shared(options),
            Some(Adapters::OfAll(mixture)) => Options::Shared(with(mixture)),
            Some(Adapters::OfEach(mixtures)) if mixtures.len() == texts.len() => {
                Options::Each(mixtures.into_iter().map(with).collect())
            }
            Some(Adapters::OfEach(mixtures)) => {
                let (found, wanted) = (mixtures.len(), texts.len());
                let message = format!(
                    "`adapters` has {found} mixtures for {wanted} inputs; wanted one, or one per input"
                );
                return Err(Failure::new(Kind::Invalid, message));
            }
        };
        Ok((texts, options))
    }

    fn writer(&self) -> Result<Writer, Failure> {
        let (types, by_type) = match (&self.embedding_type, self.encoding_format) {
            (Some(OneOrMore::One(number)), _) => (vec![*number], false),
            (Some(OneOrMore::More(numbers)), _) if numbers.is_empty() => {
                let message = "`embedding_type` is an empty array; name a type";
                return Err(Failure::new(Kind::Invalid, message));
            }
            (Some(OneOrMore::More(numbers)), _) => (each_once(numbers), true),
            (None, format) => (vec![format.unwrap_or(NumberType::Float)], false),
        };
        Ok(Writer {
            types,
            by_type,
            vectors: Vectors::default(),
        })
    }
}

/// The same types without repetitions, which would be written again and again.
pub fn each_once(numbers: &[NumberType]) -> Vec<NumberType> {
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
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
    let mut writer = request.writer()?;
    let (mut texts, mut options) = request.inputs(app.limits.inputs)?;
    let late = request.late_chunking == Some(true);
    if late {
        if request.chunks.is_some() {
            let both = "`late_chunking` and `chunks` are both given; take one of them";
            return Err(Failure::new(Kind::Invalid, both));
        }
        let of_all = match options {
            Options::Shared(options) => options,
            Options::Each(each) => match <[Embed; 1]>::try_from(each) {
                Ok([only]) => only,
                Err(_) => {
                    let message = "late_chunking makes one text of all inputs; give one mixture in `adapters`, not one per input";
                    return Err(Failure::new(Kind::Invalid, message));
                }
            },
        };
        let (text, spans) = joined(texts)?;
        texts = vec![text];
        options = Options::Shared(of_all.chunks(Chunking::Spans(spans)));
    }
    let embedded = embed(app, model, texts, options, &terms).await?;
    let tokens = embedded.tokens();
    writer.vectors = Vectors::within(embedded.share);
    app.count_tokens(tokens);
    let mut data = Vec::new();
    for (index, embedding) in embedded.embeddings.into_iter().enumerate() {
        match late {
            false => data.push(writer.item(index, embedding)?),
            true => {
                let chunks = embedding.into_chunks().map_err(Failure::internal)?;
                for (index, chunk) in chunks.into_iter().enumerate() {
                    let embedding = writer.write(chunk.vector)?;
                    data.push(Item::Embedding { index, embedding });
                }
            }
        }
    }
    writer.vectors.response(&EmbeddingsResponse {
        object: ListObject::List,
        data,
        model: model.name.clone(),
        usage: Usage {
            prompt_tokens: tokens,
            total_tokens: tokens,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_several_shapes_are_told_apart() {
        let read = |field: &str, value: serde_json::Value| {
            let body = serde_json::json!({ field: value }).to_string();
            crate::body::parse::<EmbeddingsRequest>(body.as_bytes())
        };
        let chunks = |value| read("chunks", value).map(|request| request.chunks);
        assert!(matches!(chunks("sentences".into()), Ok(Some(Chunks::Word(_)))));
        assert!(matches!(chunks(3.into()), Ok(Some(Chunks::Tokens(3)))));
        let spans = chunks(serde_json::json!([[0, 2], [2, 3]]));
        assert!(matches!(spans, Ok(Some(Chunks::Spans(spans))) if spans == [(0, 2), (2, 3)]));
        assert!(matches!(chunks(serde_json::json!(null)), Ok(None)));
        for (field, bad, told) in [
            ("chunks", serde_json::json!("words"), "sentences"),
            ("chunks", serde_json::json!(-1), "chunks as"),
            ("chunks", serde_json::json!({}), "chunks as"),
            ("chunks", serde_json::json!([[0]]), "tuple"),
            ("adapters", serde_json::json!("a"), "adapters as"),
            ("adapters", serde_json::json!({"a": "b"}), "f32"),
            ("adapters", serde_json::json!([1]), "map"),
            ("embedding_type", serde_json::json!(1), "embedding_type as"),
            ("embedding_type", serde_json::json!("text"), "ubinary"),
            ("embedding_type", serde_json::json!(["text"]), "ubinary"),
        ] {
            let failure = read(field, bad.clone()).err().unwrap();
            let message = failure.message;
            assert!(
                failure.kind == Kind::Malformed && message.contains(told),
                "{field} {bad}: {message}"
            );
        }
    }

    #[test]
    fn late_chunks_are_spans_of_the_joined_text() {
        let words = |text: &str| Text::Words(text.into());
        let (text, spans) = joined(vec![words("Über"), words("uns. "), words("Hier")]).unwrap();
        assert_eq!(text, words("Über uns. Hier"));
        assert_eq!(spans, [(0, 4), (5, 10), (10, 14)]);
        assert!(joined(vec![Text::Ids(vec![1])]).is_err());
    }
}
