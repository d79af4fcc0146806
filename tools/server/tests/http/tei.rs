//! The routes of text-embeddings-inference and SageMaker.

use ropeway::Embed;
use ropeway::service::Service;
use serde_json::{Value, json};

use crate::harness::{alone, engine, floats, start};

#[test]
fn tei_and_sagemaker_get_bare_lists() {
    let server = start();
    let answer = server.good("/embed", json!({"inputs": "a b"}));
    assert_eq!(floats(&answer[0]), alone("a b", &Embed::default()));
    for path in ["/", "/invocations"] {
        assert_eq!(server.good(path, json!({"inputs": ["a b"]})), answer);
    }
    let openai = server.good("/invocations", json!({"input": "a b"}));
    assert_eq!(floats(&openai["data"][0]["embedding"]), floats(&answer[0]));
    let named = server.good(
        "/embed",
        json!({"inputs": "a b", "prompt_name": "retrieval.query", "normalize": false}),
    );
    assert_eq!(
        floats(&named[0]),
        alone("a b", &Embed::task("retrieval.query").normalize(false))
    );
    let all = server.good("/embed_all", json!({"inputs": [[5, 6, 7]]}));
    assert_eq!(all[0].as_array().unwrap().len(), 3);
    let body = json!({"inputs": [[5, 6, 7]], "normalize": true, "dimensions": 32});
    for vector in server.good("/embed_all", body)[0].as_array().unwrap() {
        let vector = floats(vector);
        let norm: f32 = vector.iter().map(|x| x * x).sum();
        assert!(vector.len() == 32 && (norm - 1.0).abs() < 1e-5, "{vector:?}");
    }
    let body = json!({"inputs": {"source_sentence": "a b", "sentences": ["a b", "c"]}});
    let cosines = floats(&server.good("/similarity", body.clone()));
    assert_eq!(floats(&server.good("/", body)), cosines);
    assert!((cosines[0] - 1.0).abs() < 1e-5 && cosines[1] < 1.0, "{cosines:?}");
    let (status, info) = server.get("/info");
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(
        (status, &info["model_type"]["embedding"]["pooling"]),
        (200, &json!("mean"))
    );
    let service = Service::builder().warm_up(false).start(engine()).unwrap();
    assert_eq!(info["tokenization_workers"], service.tokenizers());
    for (path, body, status, kind) in [
        ("/embed", json!({"inputs": []}), 400, "Empty"),
        (
            "/similarity",
            json!({"inputs": {"source_sentence": "", "sentences": ["a"]}}),
            400,
            "Empty",
        ),
        (
            "/similarity",
            json!({"inputs": {"source_sentence": "a", "sentences": ["a", ""]}}),
            400,
            "Empty",
        ),
        (
            "/embed",
            json!({"inputs": "a", "prompt_name": "none"}),
            422,
            "Validation",
        ),
        ("/embed", json!({"inputs": vec!["a"; 51]}), 422, "Validation"),
        (
            "/embed",
            json!({"inputs": "a", "dimensions": 0}),
            422,
            "Validation",
        ),
        ("/rerank", json!({"query": "a", "texts": ["b"]}), 424, "Backend"),
    ] {
        let (found, answer) = server.post(path, body);
        assert_eq!((found, &answer["error_type"]), (status, &json!(kind)), "{answer}");
        assert!(answer["error"].is_string());
    }
    for path in ["/ping", "/health", "/ready", "/live", "/"] {
        assert_eq!(server.get(path).0, 200, "{path}");
    }
}

#[test]
fn tokens_stand_for_bytes_of_the_text() {
    let server = start();
    let text = "ä b c";
    let answer = server.good("/tokenize", json!({"inputs": text}));
    let tokens = answer[0].as_array().unwrap();
    let whole = server.good("/v1/embeddings", json!({"model": "tiny", "input": text}));
    assert_eq!(whole["usage"]["prompt_tokens"], tokens.len());
    let (first, last) = (&tokens[0], &tokens[tokens.len() - 1]);
    for special in [first, last] {
        assert_eq!(
            (&special["special"], &special["start"], &special["stop"]),
            (&json!(true), &json!(null), &json!(null))
        );
        assert!(!special["text"].as_str().unwrap().is_empty());
    }
    let mut seen = 0;
    for token in tokens.iter().filter(|token| token["special"] == false) {
        let at = |key: &str| token[key].as_u64().unwrap() as usize;
        assert_eq!(token["text"], text[at("start")..at("stop")]);
        // Several may stand for the bytes of one letter.
        assert!(at("stop") >= seen);
        seen = at("stop");
    }
    assert_eq!(seen, text.len());
    let plain = server.good(
        "/tokenize",
        json!({"inputs": [text, "b"], "add_special_tokens": false}),
    );
    assert_eq!(plain[0].as_array().unwrap()[..], tokens[1..tokens.len() - 1]);
    let prompted = server.good(
        "/tokenize",
        json!({"inputs": "b", "prompt_name": "retrieval.query"}),
    );
    assert!(prompted[0].as_array().unwrap().len() > plain[1].as_array().unwrap().len() + 2);
    let ids = |tokens: &Value| -> Vec<u64> {
        let tokens = tokens.as_array().unwrap().iter();
        tokens.map(|token| token["id"].as_u64().unwrap()).collect()
    };
    let texts = server.good("/decode", json!({"ids": [ids(&answer[0]), ids(&plain[1])]}));
    assert_eq!(texts.as_array().unwrap().len(), 2);
    assert_eq!(texts[1], "b");
    let with = server.good(
        "/decode",
        json!({"ids": ids(&answer[0]), "skip_special_tokens": false}),
    );
    assert!(
        with[0]
            .as_str()
            .unwrap()
            .contains(first["text"].as_str().unwrap()),
        "{with}"
    );
    for (path, body, status) in [
        ("/tokenize", json!({"inputs": ""}), 400),
        ("/tokenize", json!({"inputs": [1, 2]}), 422),
        ("/tokenize", json!({"inputs": "a", "prompt_name": "none"}), 422),
        ("/tokenize", json!({"inputs": "a b ".repeat(300_000)}), 413),
        ("/tokenize", json!({"inputs": vec!["a"; 51]}), 422),
        ("/decode", json!({"ids": []}), 400),
        ("/decode", json!({"ids": "a"}), 422),
        ("/decode", json!({"ids": [600]}), 422),
        ("/decode", json!({"ids": [-1]}), 400),
    ] {
        let (found, answer) = server.post(path, body);
        assert_eq!(found, status, "{answer}");
        assert!(answer["error"].is_string() && answer["error_type"].is_string());
    }
}
