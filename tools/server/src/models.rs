//! `/v1/models`: what is served.

use axum::extract::Path;
use schemars::JsonSchema;
use serde::Serialize;

use crate::app::{Answer, App, Call, Model};
use crate::openai::ListObject;
use crate::reply;

/// The models, the first one first.
#[derive(Serialize, JsonSchema)]
pub struct ModelList {
    object: ListObject,
    data: Vec<ModelItem>,
}

/// A model: OpenAI's fields, and what it can do unless its device is lost.
#[derive(Serialize, JsonSchema)]
pub struct ModelItem {
    id: String,
    object: ModelObject,
    /// When the server started, in seconds since 1970.
    created: u64,
    owned_by: String,
    #[serde(flatten)]
    abilities: Option<Abilities>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum ModelObject {
    Model,
}

#[derive(Serialize, JsonSchema)]
struct Abilities {
    /// Dimensions of a vector.
    dimensions: usize,
    /// Sizes that the model was trained to be cut to; empty: none are known.
    matryoshka_dimensions: Vec<usize>,
    /// Tokens of the longest input.
    max_tokens: usize,
    /// Its tasks and prompts, for `task` and `prompt_name`.
    tasks: Vec<String>,
    /// Its adapters, for `task` and `adapters`.
    adapters: Vec<String>,
}

impl ModelItem {
    fn new(app: &App, model: &Model) -> ModelItem {
        let abilities = model.engine().ok().map(|engine| {
            let config = engine.config();
            Abilities {
                dimensions: config.embedding_size(),
                matryoshka_dimensions: config.matryoshka.clone(),
                max_tokens: config.max_tokens,
                tasks: config.tasks.iter().map(|task| task.name.clone()).collect(),
                adapters: engine.adapters(),
            }
        });
        ModelItem {
            id: model.name.clone(),
            object: ModelObject::Model,
            created: app.started_unix,
            owned_by: "ropeway".into(),
            abilities,
        }
    }
}

/// `GET /v1/models`.
pub async fn list(call: Call) -> Answer {
    let items = call
        .app
        .models
        .iter()
        .map(|model| ModelItem::new(&call.app, model));
    reply::json(&ModelList {
        object: ListObject::List,
        data: items.collect(),
    })
}

/// `GET /v1/models/{id}`.
pub async fn one(Path(name): Path<String>, call: Call) -> Answer {
    reply::json(&ModelItem::new(&call.app, call.app.model(Some(&name))?))
}
