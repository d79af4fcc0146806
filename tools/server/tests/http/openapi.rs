//! `/openapi.json` says what the server does.

use serde_json::{Map, Value, json};

use crate::harness::start;

/// The schema that a `$ref` stands for.
fn resolved<'d>(document: &'d Value, schema: &'d Value) -> &'d Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(reference) => document
            .pointer(&reference[1..])
            .unwrap_or_else(|| panic!("{reference}")),
        None => schema,
    }
}

/// Whether a value is what a schema says, as far as this document's schemas say it.
fn fits(document: &Value, schema: &Value, value: &Value) -> bool {
    let schema = resolved(document, schema);
    let Some(schema) = schema.as_object() else {
        return schema == &Value::Bool(true);
    };
    let of_kind = |kind: &Value| match kind.as_str().unwrap() {
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        other => panic!("type {other}"),
    };
    let all = |key: &str, test: &dyn Fn(&Value) -> bool| schema.get(key).is_none_or(test);
    all("type", &|kind| match kind {
        Value::Array(kinds) => kinds.iter().any(of_kind),
        kind => of_kind(kind),
    }) && all("enum", &|words| words.as_array().unwrap().contains(value))
        && all("const", &|word| word == value)
        && ["anyOf", "oneOf"].iter().all(|key| {
            all(key, &|schemas| {
                let mut schemas = schemas.as_array().unwrap().iter();
                schemas.any(|schema| fits(document, schema, value))
            })
        })
        && all("allOf", &|schemas| {
            let mut schemas = schemas.as_array().unwrap().iter();
            schemas.all(|schema| fits(document, schema, value))
        })
        && all("items", &|schema| {
            let items = value.as_array();
            items.is_none_or(|items| items.iter().all(|item| fits(document, schema, item)))
        })
        && all("required", &|names| {
            let mut names = names.as_array().unwrap().iter();
            names.all(|name| value.get(name.as_str().unwrap()).is_some())
        })
        && all("properties", &|properties| {
            let mut properties = properties.as_object().unwrap().iter();
            properties.all(|(name, schema)| value.get(name).is_none_or(|value| fits(document, schema, value)))
        })
}

#[test]
fn every_documented_route_takes_its_examples_and_gives_what_it_says() {
    let server = start();
    let (status, text) = server.get("/openapi.json");
    assert_eq!(status, 200);
    let document: Value = serde_json::from_str(&text).unwrap();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 15);
    let told = |operation: &Value, status: u16, answer: &Value| {
        let response = &operation["responses"][status.to_string()];
        let schema = &response["content"]["application/json"]["schema"];
        assert!(response.is_object(), "{status} is not in {operation}");
        assert!(
            schema.is_null() || fits(&document, schema, answer),
            "{answer} is not {schema}"
        );
    };
    let mut sent = 0;
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().unwrap() {
            let served = operation["responses"].get("200").is_some();
            let for_admins = operation["security"][0].get("admin key").is_some();
            if method == "get" {
                let (status, text) = server.get(&path.replace("{name}", "tiny"));
                assert_eq!(status, if for_admins { 401 } else { 200 }, "{path}");
                let json = serde_json::from_str(&text).unwrap_or_default();
                told(operation, status, &json);
                continue;
            }
            let content = &operation["requestBody"]["content"]["application/json"];
            let empty = Map::new();
            for (name, example) in content["examples"].as_object().unwrap_or(&empty) {
                let example = &example["value"];
                assert!(fits(&document, &content["schema"], example), "{path}: {example}");
                let (status, answer) = server.post(path, example.clone());
                assert_eq!(status == 200, served, "{path}, {name}: {answer}");
                told(operation, status, &answer);
                sent += 1;
            }
            if content.is_object() {
                for bad in ["{", "[]", r#"{"inputs":[],"input":[],"texts":[],"ids":[]}"#] {
                    let (status, answer) = server.send(path, bad.as_bytes(), &[]);
                    assert!((400..500).contains(&status), "{path}: {status}");
                    told(operation, status, &answer);
                }
            }
        }
    }
    assert!(sent > 12, "{sent}");
    let request = json!({"texts": ["a warm coat"]});
    for (path, enough) in [("/v1/embed", true), ("/v2/embed", false)] {
        let schema = &paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"];
        assert_eq!(fits(&document, schema, &request), enough, "{path}");
        assert_eq!(server.post(path, request.clone()).0 == 200, enough, "{path}");
    }
}

#[test]
fn what_fits_a_schema_is_told_from_what_does_not() {
    let document = json!({"a": {
        "type": "object", "properties": {"b": {"type": ["integer", "null"]}}, "required": ["b"],
    }});
    let schema = json!({"anyOf": [{"$ref": "#/a"}, {"type": "array", "items": {"enum": ["x"]}}]});
    for (value, wanted) in [
        (json!({"b": 1}), true),
        (json!({"b": null}), true),
        (json!({"b": "1"}), false),
        (json!({}), false),
        (json!(["x", "x"]), true),
        (json!(["x", "y"]), false),
    ] {
        assert_eq!(fits(&document, &schema, &value), wanted, "{value}");
    }
}
