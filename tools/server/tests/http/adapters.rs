//! Adapters that are loaded and dropped at run time.

use std::sync::Arc;

use model_maker::{AdapterSpec, write_adapter};
use ropeway_server::{AdapterFolder, Admin};
use serde_json::{Value, json};

use crate::harness::{Running, agent, engine, floats, folder, start};

#[test]
fn adapters_come_and_go_by_the_admin_key_alone() {
    let scratch = tempfile::tempdir().unwrap();
    write_adapter(&AdapterSpec::new(folder()), &scratch.path().join("legal")).unwrap();
    std::fs::create_dir(scratch.path().join("broken")).unwrap();
    let adapters = Arc::new(AdapterFolder::new(scratch.path()));
    let admin = Admin {
        keys: vec!["admin".into()],
        adapters: adapters.clone(),
    };
    let server = Running::start_with(
        |settings| settings.api_keys = vec!["user".into()],
        |server| server.with_admin(admin),
    );
    let ask = |method: &str, path: &str, key: &str| -> (u16, Value) {
        let request = agent();
        let (url, bearer) = (format!("{}{path}", server.url), format!("Bearer {key}"));
        let mut response = match method {
            "PUT" => request.put(url).header("authorization", bearer).send_empty(),
            "DELETE" => request.delete(url).header("authorization", bearer).call(),
            _ => request.get(url).header("authorization", bearer).call(),
        }
        .unwrap();
        let text = response.body_mut().read_to_string().unwrap();
        (
            response.status().as_u16(),
            serde_json::from_str(&text).unwrap_or_default(),
        )
    };
    let embed = |key: &str| {
        let body = json!({"model": "tiny", "input": "a b", "task": "legal"}).to_string();
        let key = format!("Bearer {key}");
        server.send("/v1/embeddings", body.as_bytes(), &[("authorization", &key)])
    };
    let legal = "/v1/adapters/tiny/legal";
    for method in ["PUT", "DELETE"] {
        assert_eq!(ask(method, legal, "user").0, 401);
    }
    assert_eq!(ask("GET", "/v1/adapters", "user").0, 401);
    assert_eq!(embed("user").0, 400);
    assert_eq!(ask("PUT", legal, "admin").0, 200);
    let (status, answer) = embed("user");
    assert_eq!(status, 200, "{answer}");
    // What an engine has that got the adapter by its folder.
    let other = engine();
    adapters
        .restore("tiny", &other, |problem| panic!("{problem}"))
        .unwrap();
    let wanted = other
        .embed(&["a b"], &ropeway::Embed::task("legal"))
        .unwrap()
        .remove(0);
    assert_eq!(
        floats(&answer["data"][0]["embedding"]),
        wanted.into_f32().unwrap()
    );
    let (_, list) = ask("GET", "/v1/adapters", "admin");
    assert_eq!(
        list,
        json!({"available": ["broken", "legal"], "loaded": [{"model": "tiny", "name": "legal"}]})
    );
    let inside = scratch.path().to_str().unwrap();
    for (path, status) in [
        (legal, 400),
        ("/v1/adapters/tiny/broken", 400),
        ("/v1/adapters/tiny/none", 404),
        ("/v1/adapters/none/legal", 404),
        ("/v1/adapters/tiny/..", 404),
        ("/v1/adapters/tiny/..%2Flegal", 404),
        ("/v1/adapters/tiny/%2Fetc", 404),
    ] {
        let (found, answer) = ask("PUT", path, "admin");
        assert_eq!(found, status, "{path}: {answer}");
        assert!(!answer.to_string().contains(inside), "{answer}");
    }
    assert_eq!(ask("DELETE", legal, "admin").0, 200);
    assert_eq!(ask("DELETE", legal, "admin").0, 404);
    assert_eq!(embed("user").0, 400);
    // The admin key is no other key.
    assert_eq!(embed("admin").0, 401);
    // One that is gone when the engine is opened anew keeps it from nothing.
    assert_eq!(ask("PUT", legal, "admin").0, 200);
    std::fs::remove_dir_all(scratch.path().join("legal")).unwrap();
    let told = std::cell::RefCell::new(Vec::new());
    let tell = |problem: &str| told.borrow_mut().push(problem.to_owned());
    adapters.restore("tiny", &engine(), tell).unwrap();
    let told = told.into_inner();
    assert!(
        told.len() == 1
            && told[0].starts_with("model tiny goes on without it: ")
            && told[0].contains("legal"),
        "{told:?}"
    );
    let (_, list) = ask("GET", "/v1/adapters", "admin");
    assert_eq!(list["loaded"], json!([]));
}

#[test]
fn without_an_admin_key_nobody_changes_adapters() {
    let server = start();
    for key in ["Bearer ", "Bearer x"] {
        let url = format!("{}/v1/adapters/tiny/legal", server.url);
        let response = agent()
            .put(url)
            .header("authorization", key)
            .send_empty()
            .unwrap();
        assert_eq!(response.status(), 401);
    }
    // Nor does anybody see how long the list of them is.
    let head = agent().head(format!("{}/v1/adapters", server.url)).call();
    assert_eq!(head.unwrap().status(), 401);
}
