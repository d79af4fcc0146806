//! `/v2/embed` and `/v1/embed`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use ropeway::{Embed, ModelConfig};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::app::{Answer, Call};
use crate::embed::{Options, Terms, embed as embed_inputs};
use crate::failure::{Failure, Kind};
use crate::inputs::{Text, check_count};
use crate::openai::each_once;
use crate::reply::{Slot, Vectors};
use crate::vectors::NumberType;

/// The version of the interface.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// What to embed, as `texts` or `inputs`. Unknown fields are ignored.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "CohereRequest")]
pub struct EmbedRequest {
    /// The name of a model; the first one if it is missing.
    model: Option<String>,
    /// What the vectors are for: the model's task or prompt of that meaning, if it has one. `/v2/embed` wants it.
    input_type: Option<InputType>,
    #[schemars(length(min = 1))]
    texts: Option<Vec<String>>,
    #[schemars(length(min = 1))]
    inputs: Option<Vec<Input>>,
    #[schemars(skip)]
    images: Option<IgnoredAny>,
    /// The types that each vector is written in: floats if it is missing.
    #[schemars(length(min = 1))]
    embedding_types: Option<Vec<NumberType>>,
    /// Whether texts that are too long are cut; `END` if it is missing. None is cut at its start.
    truncate: Option<Truncate>,
    /// Keep the first so many dimensions.
    #[schemars(range(min = 1))]
    output_dimension: Option<usize>,
    #[schemars(skip)]
    max_tokens: Option<usize>,
    /// Lower goes first.
    #[serde(default)]
    priority: i32,
}

/// The schema of what `/v2/embed` takes: an [`EmbedRequest`] that says what the vectors are for.
pub struct EmbedRequestV2;

impl JsonSchema for EmbedRequestV2 {
    fn schema_name() -> Cow<'static, str> {
        "CohereV2Request".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "allOf": [generator.subschema_for::<EmbedRequest>()],
            "properties": {"input_type": generator.subschema_for::<InputType>()},
            "required": ["input_type"],
        })
    }
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum InputType {
    SearchDocument,
    SearchQuery,
    Classification,
    Clustering,
    Image,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
enum Truncate {
    None,
    Start,
    End,
}

/// Parts of one input; a line end goes between two.
#[derive(Deserialize, JsonSchema)]
struct Input {
    content: Vec<Content>,
}

#[derive(Deserialize, JsonSchema)]
struct Content {
    #[serde(rename = "type")]
    kind: ContentKind,
    #[schemars(required, with = "String")]
    text: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ContentKind {
    Text,
    #[serde(other)]
    #[schemars(skip)]
    Other,
}

/// The vectors, in the order of the texts.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "CohereResponse")]
pub struct EmbedResponse {
    id: String,
    embeddings: Embeddings,
    texts: Vec<String>,
    meta: Meta,
    response_type: ResponseType,
}

/// A vector per text, or, by the types that were asked for, one per text of each.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum Embeddings {
    Floats(Vec<Slot>),
    ByType(BTreeMap<NumberType, Vec<Slot>>),
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ResponseType {
    EmbeddingsFloats,
    EmbeddingsByType,
}

#[derive(Serialize, JsonSchema)]
struct Meta {
    api_version: ApiVersion,
    billed_units: BilledUnits,
}

#[derive(Serialize, JsonSchema)]
struct ApiVersion {
    version: String,
}

#[derive(Serialize, JsonSchema)]
struct BilledUnits {
    /// Tokens that went through the model.
    input_tokens: usize,
}

/// The tasks that an input type may mean, the best first; a model has one of them or none.
fn tasks(input_type: InputType) -> &'static [&'static str] {
    match input_type {
        InputType::SearchQuery => &["retrieval.query", "query"],
        InputType::SearchDocument => &["retrieval.passage", "passage", "document"],
        InputType::Classification => &["classification"],
        InputType::Clustering => &["separation", "clustering"],
        InputType::Image => &[],
    }
}

/// The options for an input type: the model's task for it, if it has one.
fn options(config: &ModelConfig, input_type: Option<InputType>) -> Embed {
    let mut wanted = input_type.into_iter().flat_map(tasks);
    let has = |name: &&&str| config.tasks.iter().any(|task| task.name == **name);
    match wanted.find(has) {
        Some(task) => Embed::task(*task),
        None => Embed::default(),
    }
}

impl EmbedRequest {
    fn texts(&mut self) -> Result<Vec<String>, Failure> {
        let images = || Failure::new(Kind::Invalid, "this model embeds texts, not images");
        if self.images.is_some() || matches!(self.input_type, Some(InputType::Image)) {
            return Err(images());
        }
        match (self.texts.take(), self.inputs.take()) {
            (Some(texts), None) => Ok(texts),
            (None, Some(inputs)) => {
                let text = |input: Input| {
                    let part = |part: Content| match (part.kind, part.text) {
                        (ContentKind::Text, Some(text)) => Ok(text),
                        (ContentKind::Text, None) => {
                            let message = "a part of `content` of type text has no `text`";
                            Err(Failure::new(Kind::Malformed, message))
                        }
                        (ContentKind::Other, _) => Err(images()),
                    };
                    let parts: Vec<String> = input.content.into_iter().map(part).collect::<Result<_, _>>()?;
                    Ok(parts.join("\n"))
                };
                inputs.into_iter().map(text).collect()
            }
            _ => Err(Failure::new(Kind::Invalid, "wanted one of `texts` and `inputs`")),
        }
    }
}

/// `POST /v2/embed` and `/v1/embed`.
pub async fn embed(mut call: Call, version: Version) -> Answer {
    let mut request: EmbedRequest = call.read().await?;
    let app = &call.app;
    let model = app.model(request.model.as_deref())?;
    if version == Version::V2 && request.input_type.is_none() {
        return Err(Failure::new(Kind::Invalid, "`input_type` is missing"));
    }
    if request.max_tokens.is_some() {
        let message = "`max_tokens` is not served; leave it out, or cut the texts";
        return Err(Failure::new(Kind::Invalid, message));
    }
    if request.embedding_types.as_ref().is_some_and(Vec::is_empty) {
        let message = "`embedding_types` is an empty array; name a type, or leave it out for floats";
        return Err(Failure::new(Kind::Invalid, message));
    }
    let texts = request.texts()?;
    check_count("texts", texts.len(), app.limits.inputs)?;
    let cuts = match request.truncate.unwrap_or(Truncate::End) {
        Truncate::End => true,
        // What fits needs no cut; what does not cannot be cut at its start.
        Truncate::None | Truncate::Start => false,
    };
    let options = options(model.engine()?.config(), request.input_type)
        .dimensions(request.output_dimension)
        .truncate(cuts);
    let terms = Terms {
        caller: call.caller.0,
        // Lower goes first there.
        priority: request.priority.saturating_neg(),
        deadline: None,
    };
    let inputs = texts.iter().map(|text| Text::Words(text.clone())).collect();
    let embedded = embed_inputs(app, model, inputs, Options::Shared(options), &terms).await?;
    let tokens = embedded.tokens();
    app.count_tokens(tokens);
    let (found, share) = embedded.vectors()?;
    let found: Vec<Arc<[f32]>> = found.into_iter().map(Arc::from).collect();
    let mut vectors = Vectors::within(share);
    let mut of_type = |number: NumberType| -> Result<Vec<Slot>, Failure> {
        let slots = found.iter().map(|vector| vectors.slot(vector.clone(), number));
        slots.collect()
    };
    let (embeddings, response_type) = match (&request.embedding_types, version) {
        (None, Version::V1) => (
            Embeddings::Floats(of_type(NumberType::Float)?),
            ResponseType::EmbeddingsFloats,
        ),
        (types, _) => {
            let types = each_once(types.as_deref().unwrap_or(&[NumberType::Float]));
            let by_type = types.into_iter().map(|number| Ok((number, of_type(number)?)));
            (
                Embeddings::ByType(by_type.collect::<Result<_, Failure>>()?),
                ResponseType::EmbeddingsByType,
            )
        }
    };
    let version = match version {
        Version::V1 => "1",
        Version::V2 => "2",
    };
    vectors.response(&EmbedResponse {
        id: app.new_id(),
        embeddings,
        texts,
        meta: Meta {
            api_version: ApiVersion {
                version: version.into(),
            },
            billed_units: BilledUnits { input_tokens: tokens },
        },
        response_type,
    })
}
