//! Clients that are broken, slow, or mean harm.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ropeway_server::{AdapterFolder, Admin};
use rustix::process::{Resource, Rlimit};
use serde_json::json;

use crate::harness::{Running, agent, start};

#[test]
fn bad_requests_get_typed_errors_and_hurt_nobody() {
    let server = start();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep = format!("{{\"model\":\"tiny\",\"input\":{deep}}}");
    let bodies: &[(&[u8], u16)] = &[
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"{\"model\":\"tiny\"}", 400),
        (b"{\"model\":\"tiny\",\"input\":\"\xff\"}", 400),
        (b"{\"model\":\"tiny\",\"input\":3}", 400),
        (b"{\"model\":\"tiny\",\"input\":[]}", 400),
        (b"{\"model\":\"tiny\",\"input\":[\"a\",\"\"]}", 400),
        (b"{\"model\":\"tiny\",\"input\":\"a\",\"dimensions\":65}", 400),
        (b"{\"model\":\"tiny\",\"input\":\"a\",\"dimensions\":\"x\"}", 400),
        (b"{\"model\":\"tiny\",\"input\":\"a\",\"task\":\"none\"}", 400),
        (b"{\"model\":\"tiny\",\"input\":[600]}", 400),
        (b"{\"model\":\"none\",\"input\":\"a\"}", 404),
        (b"{\"model\":\"tiny\",\"input\":\"a\",\"deadline_ms\":0}", 504),
        (deep.as_bytes(), 400),
    ];
    for (body, wanted) in bodies {
        let (status, answer) = server.send("/v1/embeddings", body, &[]);
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]);
        assert_eq!(status, *wanted, "{shown}: {answer}");
        assert!(answer["error"]["message"].is_string() && answer["error"].get("code").is_some());
    }
    let long = "a ".repeat(200);
    let (status, answer) = server.post("/v1/embeddings", json!({"model": "tiny", "input": long}));
    assert_eq!(status, 400, "{answer}");
    server.good(
        "/v1/embeddings",
        json!({"model": "tiny", "input": long, "truncate": true}),
    );
    let (status, answer) = server.send("/v1/embeddings", &vec![b' '; 2 << 20], &[]);
    assert_eq!(
        (status, &answer["error"]["code"]),
        (413, &json!("request_too_large"))
    );
    assert_eq!(server.get("/none").0, 404);
    assert_eq!(server.get("/v1/embeddings").0, 405);
    // The queue has fewer places than a request may have inputs.
    let (status, _) = server.post("/v1/embeddings", json!({"model": "tiny", "input": vec!["a"; 51]}));
    assert_eq!(status, 400);
    server.good("/v1/embeddings", json!({"model": "tiny", "input": vec!["a"; 50]}));
}

#[test]
fn what_stands_beside_every_input_is_bounded_with_their_number() {
    let server = start();
    let names: serde_json::Map<String, serde_json::Value> =
        (0..5000).map(|i| (format!("adapter {i}"), json!(0.5))).collect();
    // A body of 1 MiB would hold each of them, but not 50 times.
    for (beside, status) in [
        (json!({"prompt": "x ".repeat(3000), "truncate": true}), 400),
        (json!({"task": "x".repeat(30_000)}), 413),
        (json!({"chunks": vec![[0, 1]; 2000]}), 413),
        (json!({"adapters": names}), 413),
    ] {
        for (count, wanted) in [(50, status), (1, 400)] {
            let mut body = beside.clone();
            body["input"] = json!(vec!["a b"; count]);
            let (found, answer) = server.post("/v1/embeddings", body);
            assert_eq!(found, wanted, "{count} inputs: {answer}");
        }
    }
    let text = "a ".repeat(10_480);
    // Less than 1 MiB, but not with the prompt before each.
    let body = json!({"inputs": vec![&text; 50], "prompt_name": "retrieval.query"});
    assert_eq!(server.post("/tokenize", body).0, 413);
}

#[test]
fn long_words_are_not_sent_back() {
    let scratch = tempfile::tempdir().unwrap();
    let admin = Admin {
        keys: vec!["admin".into()],
        adapters: Arc::new(AdapterFolder::new(scratch.path())),
    };
    let server = Running::start_with(|_| {}, |server| server.with_admin(admin));
    let long = "x".repeat(500_000);
    let openai = |field: &str| {
        let mut body = json!({"input": "a"});
        body[field] = json!(long);
        ("/v1/embeddings", body)
    };
    let fields = [
        "model",
        "task",
        "pooling",
        "encoding_format",
        "embedding_type",
        "chunks",
        "dimensions",
        "priority",
    ];
    let others = [
        ("/v1/embeddings", json!({"input": "a", "adapters": {&long: 1}})),
        (
            "/v2/embed",
            json!({"texts": ["a"], "input_type": "clustering", "truncate": long}),
        ),
        ("/v2/embed", json!({"texts": ["a"], "input_type": long})),
        ("/embed", json!({"inputs": "a", "prompt_name": long})),
        ("/embed", json!({"inputs": "a", "truncation_direction": long})),
        ("/embed", json!({"inputs": "a", "normalize": long})),
        ("/", json!({"inputs": "a", "truncate": long})),
        ("/tokenize", json!({"inputs": "a", "prompt_name": long})),
    ];
    for (path, body) in fields.into_iter().map(openai).chain(others) {
        let (status, answer) = server.post(path, body);
        let size = answer.to_string().len();
        assert!(
            (400..500).contains(&status) && size < 3000,
            "{path}: {size} bytes"
        );
    }
    let path = "x".repeat(10_000);
    for path in [
        format!("/v1/models/{path}"),
        format!("/v1/adapters/{path}/a"),
        format!("/v1/adapters/tiny/{path}"),
    ] {
        let request = agent().put(format!("{}{path}", server.url));
        let mut response = match path.starts_with("/v1/models") {
            true => agent().get(format!("{}{path}", server.url)).call(),
            false => request.header("authorization", "Bearer admin").send_empty(),
        }
        .unwrap();
        let answer = response.body_mut().read_to_string().unwrap();
        assert!(response.status() == 404 && answer.len() < 1000, "{answer}");
    }
}

#[test]
fn slow_and_broken_clients_are_let_go() {
    let server = Running::start(|settings| {
        settings.limits.head_time = Duration::from_millis(300);
        settings.limits.body_time = Duration::from_millis(300);
    });
    let answer_to = |bytes: &[u8]| -> String {
        let mut stream = server.connect();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    // Half a head, half a body, and no HTTP at all: each ends, and is never served.
    for bytes in [
        &b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\n"[..],
        b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ] {
        let answer = answer_to(bytes);
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // Gone without waiting for the answer.
    for _ in 0..20 {
        let body = r#"{"model":"tiny","input":["a b","c"]}"#;
        let head = format!(
            "POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        server.connect().write_all((head + body).as_bytes()).unwrap();
    }
    // They fill the queue; what they asked for is cancelled or done soon.
    let since = Instant::now();
    while server.post("/embed", json!({"inputs": "a"})).0 == 429 {
        assert!(since.elapsed() < Duration::from_secs(60));
    }
    server.good("/embed", json!({"inputs": "a"}));
}

#[test]
fn more_connections_than_allowed_wait() {
    // `tools/test --all` has as many as a machine lets one process open.
    let (allowed, clients) = match std::env::var_os("ROPEWAY_TEST_ALL") {
        Some(_) => (4096, 10_000),
        None => (64, 700),
    };
    let server = Running::start(|settings| {
        settings.limits.connections = allowed;
        settings.limits.head_time = Duration::from_millis(200);
    });
    // This process has the clients' ends as well.
    let files = rustix::process::getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: files.maximum,
        ..files
    };
    rustix::process::setrlimit(Resource::Nofile, all).unwrap();
    let idle: Vec<TcpStream> = (0..clients).map(|_| server.connect()).collect();
    server.good("/embed", json!({"inputs": "a"}));
    drop(idle);
    server.good("/embed", json!({"inputs": "a"}));
}

#[test]
fn a_hundred_megabytes_are_not_read() {
    let server = start();
    let mut stream = server.connect();
    stream
        .write_all(b"POST /embed HTTP/1.1\r\nhost: a\r\ncontent-length: 104857600\r\n\r\n")
        .unwrap();
    let part = vec![b' '; 1 << 20];
    let sent = (0..100).take_while(|_| stream.write_all(&part).is_ok()).count();
    // Four times the limit of 1 MiB, and what the system holds on its way.
    assert!(sent < 50, "{sent} MiB");
    server.good("/embed", json!({"inputs": "a"}));
}

#[test]
fn bodies_have_room_together_of_which_nobody_takes_all() {
    let server = Running::start(|settings| settings.api_keys = vec!["one".into(), "two".into()]);
    // All of a body but its last byte.
    let part = vec![b' '; 1 << 20];
    let head = format!(
        "POST /v1/embeddings HTTP/1.1\r\nhost: a\r\nauthorization: Bearer one\r\ncontent-length: {}\r\n\r\n",
        part.len()
    );
    let unfinished = || {
        let mut stream = server.connect();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&part[1..]).unwrap();
        stream
    };
    let send = |key: &str, pad: usize| {
        let body = json!({"input": "a", "pad": " ".repeat(pad)}).to_string();
        server.send(
            "/v1/embeddings",
            body.as_bytes(),
            &[("authorization", &format!("Bearer {key}"))],
        )
    };
    let mut slow: Vec<TcpStream> = Vec::new();
    let since = Instant::now();
    let until = |wanted: u16, meanwhile: &mut dyn FnMut()| {
        loop {
            meanwhile();
            let (status, answer) = send("one", 1_000_000);
            if status == wanted {
                return answer;
            }
            assert!(since.elapsed() < Duration::from_secs(60), "{status}: {answer}");
        }
    };
    // Of 8 MiB four of them take half.
    let refused = until(429, &mut || {
        slow.push(unfinished());
        std::thread::sleep(Duration::from_millis(20));
    });
    assert_eq!(refused["error"]["code"], "overloaded");
    assert!(slow.len() >= 4);
    assert_eq!(send("one", 10_000).0, 200);
    assert_eq!(send("two", 1_000_000).0, 200);
    // They go without having sent all.
    slow.clear();
    until(200, &mut || {});
}

#[test]
fn a_head_is_read_up_to_its_bound() {
    let server = start();
    let mut stream = server.connect();
    let head = format!("GET /live HTTP/1.1\r\nhost: a\r\na: {}", "a".repeat(65 << 10));
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(
        answer.starts_with(b"HTTP/1.1 431"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

/// A request whose response has 40 KiB for each of so many inputs: a vector per token.
fn large(inputs: usize) -> String {
    let body = json!({"inputs": vec![vec![7; 60]; inputs]}).to_string();
    format!(
        "POST /embed_all HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn a_client_that_takes_nothing_of_a_response_is_let_go() {
    let server = Running::start(|settings| {
        settings.limits.inputs = 800;
        settings.limits.connections = 1;
        settings.limits.body_time = Duration::from_millis(500);
    });
    let mut client = server.connect();
    // More than the system's buffers hold.
    client.write_all(large(800).as_bytes()).unwrap();
    // The response has begun.
    client.read_exact(&mut [0; 12]).unwrap();
    // The only place is taken, until the server has waited for long enough.
    server.good("/embed", json!({"inputs": "a"}));
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest);
    // What ends a chunked response in good order does not come.
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{} bytes", rest.len());
}

#[test]
fn a_client_that_goes_away_in_the_middle_of_a_response_hurts_nobody() {
    let server = Running::start(|settings| {
        settings.limits.inputs = 100;
        settings.limits.connections = 1;
    });
    for _ in 0..3 {
        let mut client = server.connect();
        client.write_all(large(100).as_bytes()).unwrap();
        client.read_exact(&mut [0; 4096]).unwrap();
    }
    let mut client = server.connect();
    client.write_all(large(100).as_bytes()).unwrap();
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    // 6000 vectors of 64 numbers, in chunks.
    let size = all.len();
    assert!(size > 2 << 20 && all.ends_with(b"0\r\n\r\n"), "{size} bytes");
}

#[test]
fn vectors_have_their_bound_and_room_together() {
    let server = Running::start(|settings| {
        settings.limits.inputs = 1000;
        settings.limits.vector_bytes = 4 << 20;
        settings.api_keys = vec!["one".into(), "two".into()];
    });
    // One per token, or per chunk, or per input: 60 vectors of 256 bytes and what is said of them.
    let many = |inputs: usize| vec![vec![7; 60]; inputs];
    let send = |key: &str, path: &str, body: &serde_json::Value| {
        let key = format!("Bearer {key}");
        server.send(path, body.to_string().as_bytes(), &[("authorization", &key)])
    };
    for (path, body) in [
        ("/embed_all", json!({"inputs": many(200)})),
        ("/v1/embeddings", json!({"input": many(200), "pooling": "none"})),
        ("/v1/embeddings", json!({"input": many(200), "chunks": 1})),
    ] {
        let (status, answer) = send("one", path, &body);
        assert_eq!(status, 413, "{path}: {answer}");
        assert!(answer.to_string().contains("4194304 bytes"), "{answer}");
    }
    assert_eq!(send("one", "/embed", &json!({"inputs": many(1000)})).0, 200);
    // Half of 32 MiB is held by clients that read nothing.
    let unread = || {
        let request = large(160).replace("host: a", "host: a\r\nauthorization: Bearer one");
        let mut stream = server.connect();
        stream.write_all(request.as_bytes()).unwrap();
        stream.read_exact(&mut [0; 12]).unwrap();
        stream
    };
    let held: Vec<TcpStream> = (0..5).map(|_| unread()).collect();
    let body = json!({"inputs": many(160)});
    let (status, answer) = send("one", "/embed_all", &body);
    assert_eq!(
        (status, &answer["error_type"]),
        (429, &json!("Overloaded")),
        "{answer}"
    );
    // What is short needs none of it, and another gets his part.
    assert_eq!(send("one", "/embed", &json!({"inputs": "a"})).0, 200);
    assert_eq!(send("two", "/embed_all", &body).0, 200);
    drop(held);
    let since = Instant::now();
    while send("one", "/embed_all", &body).0 != 200 {
        assert!(since.elapsed() < Duration::from_secs(60));
    }
}

#[test]
fn a_body_that_cannot_be_read_is_taken_before_that_is_told() {
    let server = start();
    let body = vec![b' '; 3 << 20];
    let (status, answer) = server.send("/v1/embeddings", &body, &[("content-encoding", "br")]);
    assert_eq!(status, 415, "{answer}");
}

#[test]
fn tokens_and_texts_that_can_never_be_sent_are_told_so() {
    let server = Running::start(|settings| settings.limits.vector_bytes = 16 << 10);
    let text = "a b ".repeat(100);
    // Each list and each text could be sent by itself.
    for (path, field, one) in [
        ("/tokenize", "inputs", json!(text)),
        ("/decode", "ids", json!(vec![7; 200])),
    ] {
        server.good(path, json!({field: [&one]}));
        let (status, answer) = server.post(path, json!({field: vec![&one; 50]}));
        assert_eq!(
            (status, &answer["error"]),
            (
                413,
                &json!("the answer could have more than 16384 bytes; send fewer or shorter inputs at a time")
            ),
            "{path}"
        );
    }
    let (status, answer) = server.post("/tokenize", json!({"inputs": text.repeat(50)}));
    assert_eq!(status, 413, "{answer}");
}
