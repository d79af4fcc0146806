//! `/v1/embed` and `/v2/embed`.

use ropeway::Embed;
use serde_json::json;

use crate::harness::{alone, floats, start};

#[test]
fn cohere_gets_its_shapes() {
    let server = start();
    let texts = ["a b", "c"];
    let answer = server.good(
        "/v2/embed",
        json!({"model": "tiny", "texts": texts, "input_type": "search_query", "embedding_types": ["float", "int8", "base64"]}),
    );
    let by_type = &answer["embeddings"];
    assert_eq!(
        floats(&by_type["float"][1]),
        alone("c", &Embed::task("retrieval.query"))
    );
    assert_eq!(by_type["int8"][0].as_array().unwrap().len(), 64);
    assert!(by_type["base64"][1].is_string() && by_type.get("uint8").is_none());
    assert_eq!(answer["texts"], json!(texts));
    assert_eq!(answer["response_type"], "embeddings_by_type");
    assert!(answer["meta"]["billed_units"]["input_tokens"].as_u64().unwrap() > 0);
    let answer = server.good(
        "/v1/embed",
        json!({"model": "tiny", "texts": texts, "input_type": "search_document"}),
    );
    assert_eq!(
        floats(&answer["embeddings"][0]),
        alone("a b", &Embed::task("retrieval.passage"))
    );
    assert_eq!(answer["response_type"], "embeddings_floats");
    let inputs = json!([{"content": [{"type": "text", "text": "a b"}]}]);
    let answer = server.good(
        "/v2/embed",
        json!({"model": "tiny", "inputs": inputs, "input_type": "clustering"}),
    );
    assert_eq!(
        floats(&answer["embeddings"]["float"][0]),
        alone("a b", &Embed::task("separation"))
    );
    let image = json!([{"content": [{"type": "image_url", "image_url": {"url": "http://localhost/"}}]}]);
    for bad in [
        json!({"model": "tiny", "texts": texts}),
        json!({"model": "tiny", "texts": texts, "input_type": "image"}),
        json!({"model": "tiny", "inputs": image, "input_type": "clustering"}),
        json!({"model": "tiny", "input_type": "clustering"}),
        json!({"model": "tiny", "texts": [], "input_type": "clustering"}),
        json!({"model": "tiny", "texts": texts, "input_type": "clustering", "embedding_types": []}),
    ] {
        let (status, answer) = server.post("/v2/embed", bad);
        assert!(
            status == 400 && answer["message"].is_string(),
            "{status} {answer}"
        );
    }
}
