//! `/openapi.json`: what the routes take and give, made from the table of routes and the types that are parsed and written.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::body::Body;
use axum::http::{HeaderValue, Response, header};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use crate::app::{Answer, Call};
use crate::failure::{Family, Kind};
use crate::routes::{Access, Content, Route, SchemaOf, routes};

/// What all schemas have in common: one place for the named ones, where OpenAPI has it.
fn settings() -> SchemaSettings {
    SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    })
}

/// The document of these routes.
pub fn document(routes: &[Route]) -> Value {
    let mut takes = settings().for_deserialize().into_generator();
    let mut gives = settings().for_serialize().into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let operation = operation(route, &mut takes, &mut gives);
        let path = paths
            .entry(route.path.replace("{*", "{"))
            .or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation;
    }
    let mut schemas = takes.take_definitions(true);
    schemas.append(&mut gives.take_definitions(true));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "ropeway",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Text embeddings for clients of OpenAI, Jina, Cohere, text-embeddings-inference and SageMaker.",
            "license": {"name": env!("CARGO_PKG_LICENSE")},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "A key of the server, if it asks for keys."},
                "admin key": {"type": "http", "scheme": "bearer", "description": "An admin key of the server, if it has any."},
            },
        },
    })
}

fn operation(route: &Route, takes: &mut SchemaGenerator, gives: &mut SchemaGenerator) -> Value {
    let mut responses = errors(route, gives);
    if !route.refused {
        let mut good = json!({"description": "Well"});
        match &route.gives {
            Content::Empty => {}
            Content::Text(kinds) => {
                for kind in kinds {
                    good["content"][kind]["schema"] = json!({"type": "string"});
                }
            }
            Content::Json(types) => good["content"]["application/json"]["schema"] = one_of(types, gives),
        }
        responses.insert("200".into(), good);
    }
    let mut operation =
        json!({"summary": route.about, "operationId": operation_id(route), "responses": responses});
    let names = route
        .path
        .split('{')
        .skip(1)
        .filter_map(|rest| rest.split('}').next());
    let parameter = |name: &str| {
        let name = name.trim_start_matches('*');
        json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}})
    };
    let parameters: Vec<Value> = names.map(parameter).collect();
    if !parameters.is_empty() {
        operation["parameters"] = json!(parameters);
    }
    if !route.takes.is_empty() {
        let types: Vec<SchemaOf> = route.takes.iter().map(|(schema, _)| *schema).collect();
        let examples = route.takes.iter().enumerate();
        let examples: Map<String, Value> = examples
            .map(|(index, (_, example))| (format!("example {}", index + 1), json!({"value": example})))
            .collect();
        operation["requestBody"] = json!({
            "required": true,
            "content": {"application/json": {"schema": one_of(&types, takes), "examples": examples}},
        });
    }
    match route.access {
        Access::Public => {}
        // The second: none, where the server asks for none.
        Access::Key => operation["security"] = json!([{"key": []}, {}]),
        Access::Admin => operation["security"] = json!([{"admin key": []}]),
    }
    operation
}

/// `post_v1_embeddings`.
fn operation_id(route: &Route) -> String {
    let path = route.path.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let path = path.trim_matches('_');
    format!("{}_{path}", route.method.as_str().to_ascii_lowercase())
}

fn one_of(types: &[SchemaOf], generator: &mut SchemaGenerator) -> Value {
    let schemas: Vec<Value> = types.iter().map(|schema| schema(generator).to_value()).collect();
    match <[Value; 1]>::try_from(schemas) {
        Ok([only]) => only,
        Err(several) => json!({"anyOf": several}),
    }
}

/// The failures of a route, by status.
fn errors(route: &Route, gives: &mut SchemaGenerator) -> Map<String, Value> {
    let family = Family::of(route.path);
    let schema = family.schema()(gives).to_value();
    let applies = |kind: &&Kind| match kind {
        Kind::Unauthorized => route.access != Access::Public,
        Kind::UnknownModel => !route.takes.is_empty() || route.path.contains('{'),
        Kind::Unsupported => route.refused,
        Kind::Unavailable | Kind::Internal => true,
        Kind::NotFound => route.access == Access::Admin,
        Kind::Invalid if route.access == Access::Admin => true,
        // No route that the document has gets this.
        Kind::Method => false,
        _ => !route.takes.is_empty(),
    };
    let mut by_status: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for kind in Kind::ALL.iter().filter(applies) {
        by_status
            .entry(kind.status(family))
            .or_default()
            .push(kind.about());
    }
    let response = |(status, about): (u16, Vec<&str>)| {
        let content = json!({"application/json": {"schema": schema}});
        (
            status.to_string(),
            json!({"description": about.join("; "), "content": content}),
        )
    };
    by_status.into_iter().map(response).collect()
}

/// `GET /openapi.json`.
pub async fn response(_: Call) -> Answer {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| document(&routes()).to_string());
    let mut response = Response::new(Body::from(DOCUMENT.as_str()));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
