//! `/v1/embeddings` and `/v1/models`, for clients of OpenAI and Jina.

use base64::Engine as _;
use ropeway::{Embed, Pooling};
use serde_json::{Value, json};

use crate::harness::{alone, floats, start};

#[test]
fn openai_gets_the_bits_of_the_engine() {
    let server = start();
    let answer = server.good(
        "/v1/embeddings",
        json!({"model": "tiny", "input": ["a b c", "d"], "user": "me", "unknown": 1}),
    );
    assert_eq!(
        (&answer["object"], &answer["model"]),
        (&json!("list"), &json!("tiny"))
    );
    let data = answer["data"].as_array().unwrap();
    for (index, (item, text)) in data.iter().zip(["a b c", "d"]).enumerate() {
        assert_eq!(
            (&item["object"], &item["index"]),
            (&json!("embedding"), &json!(index))
        );
        assert_eq!(floats(&item["embedding"]), alone(text, &Embed::default()));
    }
    assert!(answer["usage"]["prompt_tokens"].as_u64().unwrap() >= 4);
    let answer = server.good(
        "/v1/embeddings",
        json!({"model": "other", "input": "a b c", "encoding_format": "base64", "dimensions": 32}),
    );
    let text = answer["data"][0]["embedding"].as_str().unwrap();
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
    let numbers = bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    assert_eq!(
        numbers.collect::<Vec<f32>>(),
        alone("a b c", &Embed::default().dimensions(32))
    );
    let ids = server.good("/v1/embeddings", json!({"model": "tiny", "input": [[5, 6], [7]]}));
    assert_eq!(ids["data"].as_array().unwrap().len(), 2);
    assert_eq!(ids["usage"]["total_tokens"], 3);
    let (status, models) = server.get("/v1/models");
    assert_eq!(status, 200);
    let models: Value = serde_json::from_str(&models).unwrap();
    assert_eq!(
        (&models["data"][0]["id"], &models["data"][1]["id"]),
        (&json!("tiny"), &json!("other"))
    );
    assert_eq!(server.get("/v1/models/tiny").0, 200);
    assert_eq!(server.get("/v1/models/none").0, 404);
}

#[test]
fn jina_gets_tasks_types_and_late_chunks() {
    let server = start();
    let answer = server.good(
        "/v1/embeddings",
        json!({"model": "tiny", "input": [{"text": "a b"}], "task": "retrieval.query", "embedding_type": ["float", "ubinary", "binary"]}),
    );
    let embedding = &answer["data"][0]["embedding"];
    assert_eq!(
        floats(&embedding["float"]),
        alone("a b", &Embed::task("retrieval.query"))
    );
    let packed = floats(&embedding["ubinary"]);
    assert_eq!(packed.len(), 8);
    assert_eq!(
        floats(&embedding["binary"]),
        packed.iter().map(|x| x - 128.0).collect::<Vec<_>>()
    );
    let answer = server.good(
        "/v1/embeddings",
        json!({"model": "tiny", "input": ["a b", "c d"], "late_chunking": true, "task": "retrieval.passage"}),
    );
    let chunks = answer["data"].as_array().unwrap();
    assert_eq!((chunks.len(), &chunks[1]["index"]), (2, &json!(1)));
    assert_ne!(
        floats(&chunks[1]["embedding"]),
        alone("c d", &Embed::task("retrieval.passage"))
    );
    let mixture = Embed::mixture([("separation", 0.5), ("classification", 0.25)]);
    let answer = server.good(
        "/v1/embeddings",
        json!({"model": "tiny", "input": ["a b"], "adapters": [{"separation": 0.5, "classification": 0.25}]}),
    );
    assert_eq!(floats(&answer["data"][0]["embedding"]), alone("a b", &mixture));
}

#[test]
fn every_pooling_of_the_library_has_its_name_here() {
    let server = start();
    for pooling in Pooling::ALL {
        let body = json!({"model": "tiny", "input": "a b", "pooling": pooling.name()});
        let answer = server.good("/v1/embeddings", body);
        if pooling != Pooling::None {
            let wanted = alone("a b", &Embed::default().pooling(pooling));
            assert_eq!(floats(&answer["data"][0]["embedding"]), wanted, "{pooling:?}");
        }
    }
    let (status, answer) = server.post("/v1/embeddings", json!({"input": "a b", "pooling": "median"}));
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(status == 400 && message.contains("weightedmean"), "{message}");
}

#[test]
fn an_adapter_stands_in_a_mixture_once() {
    let server = start();
    let body = br#"{"input": "a", "adapters": {"separation": 1, "separation": 0.5}}"#;
    let (status, answer) = server.send("/v1/embeddings", body, &[]);
    assert_eq!(status, 400, "{answer}");
    assert!(
        answer.to_string().contains("`separation` stands twice"),
        "{answer}"
    );
}
