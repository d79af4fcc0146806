//! Every route, in one table: what answers it, who may call it, what it takes and gives. Both the router and
//! `/openapi.json` are made from it.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Response, StatusCode};
use axum::routing::{MethodRouter, delete, get, post, put};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};

use crate::app::{Answer, App, Call};
use crate::cohere::{self, Version};
use crate::failure::{Failure, Kind};
use crate::{adapters, metrics, models, openai, openapi, page, tei, tokens};

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Public,
    /// Who has a key, where the server asks for keys.
    Key,
    /// Who has an admin key; nobody, where the server has none.
    Admin,
}

/// Makes the schema of a type.
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// What a route gives when all is well.
pub enum Content {
    /// Nothing but its status.
    Empty,
    /// Text of one of these types.
    Text(Vec<&'static str>),
    /// JSON of one of these types.
    Json(Vec<SchemaOf>),
}

/// A route.
pub struct Route {
    pub method: Method,
    pub path: &'static str,
    pub about: &'static str,
    pub access: Access,
    /// The types of its body, with an example of each.
    pub takes: Vec<(SchemaOf, Value)>,
    pub gives: Content,
    /// Whether this kind of model does not do that.
    pub refused: bool,
    pub handler: MethodRouter<Arc<App>>,
}

impl Route {
    fn new(
        method: Method,
        path: &'static str,
        handler: MethodRouter<Arc<App>>,
        about: &'static str,
    ) -> Route {
        Route {
            method,
            path,
            about,
            access: Access::Key,
            takes: Vec::new(),
            gives: Content::Empty,
            refused: false,
            handler,
        }
    }

    fn get(path: &'static str, handler: MethodRouter<Arc<App>>, about: &'static str) -> Route {
        Route::new(Method::GET, path, handler, about)
    }

    fn post(path: &'static str, handler: MethodRouter<Arc<App>>, about: &'static str) -> Route {
        Route::new(Method::POST, path, handler, about)
    }

    fn public(mut self) -> Route {
        self.access = Access::Public;
        self
    }

    fn admin(mut self) -> Route {
        self.access = Access::Admin;
        self
    }

    fn takes<T: JsonSchema>(mut self, example: Value) -> Route {
        self.takes.push((SchemaGenerator::subschema_for::<T>, example));
        self
    }

    fn gives<T: JsonSchema>(mut self) -> Route {
        let schema: SchemaOf = SchemaGenerator::subschema_for::<T>;
        match &mut self.gives {
            Content::Json(schemas) => schemas.push(schema),
            gives => *gives = Content::Json(vec![schema]),
        }
        self
    }

    fn text(mut self, kinds: &[&'static str]) -> Route {
        self.gives = Content::Text(kinds.to_vec());
        self
    }

    fn refused(path: &'static str, about: &'static str) -> Route {
        Route {
            refused: true,
            ..Route::post(path, post(tei::unsupported), about)
        }
    }
}

type Floats = Vec<Vec<f32>>;

/// An adapter of a model.
const ADAPTER: &str = "/v1/adapters/{model}/{name}";

/// All routes.
pub fn routes() -> Vec<Route> {
    let openai = |path| {
        Route::post(
            path,
            post(openai::embeddings),
            "Embed inputs, with the fields of OpenAI and Jina",
        )
        .takes::<openai::EmbeddingsRequest>(json!({"input": ["a warm coat", "a cold beer"]}))
        .gives::<openai::EmbeddingsResponse>()
    };
    let cohere = |path, version, about| {
        let handler = post(async move |call| cohere::embed(call, version).await);
        let example =
            json!({"texts": ["a warm coat"], "input_type": "search_document", "embedding_types": ["float"]});
        let route = Route::post(path, handler, about).gives::<cohere::EmbedResponse>();
        match version {
            Version::V1 => route.takes::<cohere::EmbedRequest>(example),
            Version::V2 => route.takes::<cohere::EmbedRequestV2>(example),
        }
    };
    let inputs = json!({"inputs": ["a warm coat", "a cold beer"]});
    let sentences =
        json!({"inputs": {"source_sentence": "a warm coat", "sentences": ["a jacket", "a cold beer"]}});
    let any = |path, about| {
        Route::post(path, post(tei::any), about)
            .takes::<tei::EmbedRequest>(inputs.clone())
            .takes::<tei::SimilarityRequest>(sentences.clone())
            .takes::<openai::EmbeddingsRequest>(json!({"input": "a warm coat"}))
            .gives::<Floats>()
            .gives::<Vec<f32>>()
            .gives::<openai::EmbeddingsResponse>()
    };
    let probe = |path, about| Route::get(path, get(health), about).public();
    vec![
        openai("/v1/embeddings"),
        openai("/embeddings"),
        Route::get("/v1/models", get(models::list), "List the models").gives::<models::ModelList>(),
        Route::get("/v1/models/{*name}", get(models::one), "Tell of a model").gives::<models::ModelItem>(),
        Route::get(
            "/v1/adapters",
            get(adapters::list),
            "List adapters that models can load",
        )
        .gives::<adapters::AdapterList>()
        .admin(),
        Route::new(
            Method::PUT,
            ADAPTER,
            put(adapters::load),
            "Load an adapter of the server's folder",
        )
        .admin(),
        Route::new(
            Method::DELETE,
            ADAPTER,
            delete(adapters::unload),
            "Drop an adapter that was loaded so",
        )
        .admin(),
        cohere(
            "/v2/embed",
            Version::V2,
            "Embed texts, with the fields of Cohere's version 2",
        ),
        cohere(
            "/v1/embed",
            Version::V1,
            "Embed texts, with the fields of Cohere's version 1",
        ),
        Route::post("/embed", post(tei::embed_route), "Embed inputs")
            .takes::<tei::EmbedRequest>(inputs.clone())
            .gives::<Floats>(),
        Route::post(
            "/embed_all",
            post(tei::embed_all),
            "Embed inputs, with a vector per token",
        )
        .takes::<tei::EmbedRequest>(inputs.clone())
        .gives::<Vec<Floats>>(),
        Route::post(
            "/similarity",
            post(tei::similarity),
            "Compare a sentence with others: their cosines",
        )
        .takes::<tei::SimilarityRequest>(sentences.clone())
        .gives::<Vec<f32>>(),
        Route::post("/tokenize", post(tokens::tokenize), "Tokenise texts")
            .takes::<tokens::TokenizeRequest>(json!({"inputs": "a warm coat"}))
            .gives::<Vec<Vec<tokens::Token>>>(),
        Route::post("/decode", post(tokens::decode), "Make texts of token ids")
            .takes::<tokens::DecodeRequest>(json!({"ids": [5, 6, 7]}))
            .gives::<Vec<String>>(),
        Route::get("/info", get(tei::info), "Tell of the first model and of limits").gives::<tei::Info>(),
        any(
            "/",
            "Embed inputs or compare sentences, whichever the body asks for",
        ),
        any("/invocations", "The same, for SageMaker"),
        Route::refused("/rerank", "Rank texts with a cross-encoder"),
        Route::refused("/predict", "Classify texts"),
        Route::refused("/embed_sparse", "Make sparse vectors"),
        Route::get(
            "/",
            get(page::show),
            "Show the page to browsers; tell others whether requests can be served",
        )
        .text(&["text/html", "text/plain"])
        .public(),
        probe("/ping", "Tell whether requests can be served, for SageMaker"),
        Route::post("/ping", post(health), "The same").public(),
        probe("/health", "Tell whether requests can be served"),
        probe(
            "/ready",
            "Tell whether requests can be served: not while a device is lost, nor while the server ends",
        ),
        Route::get(
            "/live",
            get(async || StatusCode::OK),
            "Tell whether the process answers",
        )
        .public(),
        Route::get("/metrics", get(metrics::response), "Numbers for Prometheus")
            .text(&["text/plain"])
            .public(),
        Route::get("/openapi.json", get(openapi::response), "This document")
            .gives::<Value>()
            .public(),
    ]
}

/// Whether requests can be served.
pub async fn health(call: Call) -> Answer {
    match call.app.not_ready() {
        None => Ok(Response::new(Body::empty())),
        Some(reason) => Err(Failure::new(Kind::Unavailable, reason)),
    }
}
