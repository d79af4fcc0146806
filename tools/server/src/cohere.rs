//! `/v2/embed` and `/v1/embed`.

use ropeway::{Embed, ModelConfig};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::app::{Answer, Call};
use crate::body;
use crate::embed::{Terms, Text, embed as embed_inputs};
use crate::failure::{Failure, Kind};
use crate::vectors::NumberType;

/// The version of the interface.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

#[derive(Deserialize)]
struct EmbedRequest {
    model: Option<String>,
    input_type: Option<InputType>,
    texts: Option<Vec<String>>,
    inputs: Option<Vec<Input>>,
    images: Option<Value>,
    embedding_types: Option<Vec<NumberType>>,
    truncate: Option<Truncate>,
    output_dimension: Option<usize>,
    max_tokens: Option<usize>,
    #[serde(default)]
    priority: i32,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum InputType {
    SearchDocument,
    SearchQuery,
    Classification,
    Clustering,
    Image,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Truncate {
    None,
    Start,
    End,
}

#[derive(Deserialize)]
struct Input {
    content: Vec<Content>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Content {
    Text {
        text: String,
    },
    #[serde(other)]
    Other,
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
                    let part = |part| match part {
                        Content::Text { text } => Ok(text),
                        Content::Other => Err(images()),
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
    let texts = request.texts()?;
    app.check_count("texts", texts.len())?;
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
    let asked = texts
        .iter()
        .map(|text| (Text::Words(text.clone()), options.clone()));
    let embedded = embed_inputs(&model.service, asked.collect(), &terms).await?;
    let tokens = embedded.tokens();
    app.count_tokens(tokens);
    let vectors = embedded.vectors()?;
    let of_type = |number: NumberType| -> Result<Value, Failure> {
        let written = vectors.iter().map(|vector| number.write(vector));
        let written: Vec<_> = written.collect::<Result<_, _>>()?;
        serde_json::to_value(written).map_err(Failure::internal)
    };
    let (embeddings, response_type) = match (&request.embedding_types, version) {
        (None, Version::V1) => (of_type(NumberType::Float)?, "embeddings_floats"),
        (types, _) => {
            let types = types.as_deref().unwrap_or(&[NumberType::Float]);
            let mut by_type = Map::new();
            for number in types {
                by_type.insert(number.name().into(), of_type(*number)?);
            }
            (Value::Object(by_type), "embeddings_by_type")
        }
    };
    let number = match version {
        Version::V1 => "1",
        Version::V2 => "2",
    };
    body::json(&json!({
        "id": app.new_id(),
        "embeddings": embeddings,
        "texts": texts,
        "meta": {"api_version": {"version": number}, "billed_units": {"input_tokens": tokens}},
        "response_type": response_type,
    }))
}
