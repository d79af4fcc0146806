//! The server over loopback, with small random models.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine as _;
use model_maker::{Dtype, Family, ModelSpec};
use ropeway::service::Service;
use ropeway::{Device, Embed, Engine, Pooling};
use ropeway_server::{Address, Handle, Limits, Model, Server, Settings};
use serde_json::{Value, json};
use ureq::Agent;

/// The folder of a small jina-embeddings-v3 model with a tokenizer.
fn folder() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("server-model");
        let spec = ModelSpec {
            vocab: 600,
            hidden: 64,
            layers: 2,
            heads: 2,
            ffn: 128,
            max_positions: 64,
            dtype: Dtype::F32,
            force: true,
            ..ModelSpec::new(Family::Jina)
        };
        model_maker::write(&spec, &folder).unwrap();
        folder
    };
    FOLDER.get_or_init(make).clone()
}

fn engine() -> Engine {
    Engine::builder()
        .device(Device::Cpu)
        .threads(1)
        .open(folder())
        .unwrap()
}

/// A server that ends with this.
struct Running {
    url: String,
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(change: impl FnOnce(&mut Settings)) -> Running {
        let model = |name: &str| Model {
            name: name.into(),
            service: Service::builder().queue_requests(8).start(engine()).unwrap(),
        };
        let mut settings = Settings {
            address: Address::Tcp("127.0.0.1:0".parse().unwrap()),
            models: vec![model("tiny"), model("other")],
            api_keys: Vec::new(),
            limits: Limits {
                inputs: 50,
                body_bytes: 1 << 20,
                ..Limits::default()
            },
            log: false,
        };
        change(&mut settings);
        let server = Server::bind(settings).unwrap();
        Running {
            url: server.address(),
            handle: server.handle(),
            thread: Some(std::thread::spawn(|| server.run().unwrap())),
        }
    }

    fn stop(mut self) {
        self.handle.stop();
        self.thread.take().unwrap().join().unwrap();
    }

    fn get(&self, path: &str) -> (u16, String) {
        let mut response = agent().get(format!("{}{path}", self.url)).call().unwrap();
        let body = response.body_mut().read_to_string().unwrap();
        (response.status().as_u16(), body)
    }

    fn send(&self, path: &str, body: &[u8], headers: &[(&str, &str)]) -> (u16, Value) {
        let mut request = agent()
            .post(format!("{}{path}", self.url))
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = request.send(body).unwrap();
        assert!(response.headers().contains_key("x-request-id"));
        let text = response.body_mut().read_to_string().unwrap();
        let json = serde_json::from_str(&text).unwrap_or(Value::String(text));
        (response.status().as_u16(), json)
    }

    fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.send(path, body.to_string().as_bytes(), &[])
    }

    fn good(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.post(path, body);
        assert_eq!(status, 200, "{answer}");
        answer
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.url.trim_start_matches("http://")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.stop();
    }
}

fn agent() -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(60)))
        .build()
        .into()
}

fn start() -> Running {
    Running::start(|_| {})
}

/// What the engine says by itself.
fn alone(text: &str, options: &Embed) -> Vec<f32> {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    let mut one = ENGINE.get_or_init(engine).embed(&[text], options).unwrap();
    one.remove(0).into_f32().unwrap()
}

fn floats(value: &Value) -> Vec<f32> {
    let numbers = value.as_array().unwrap_or_else(|| panic!("{value}"));
    numbers.iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

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
    ] {
        let (status, answer) = server.post("/v2/embed", bad);
        assert!(
            status == 400 && answer["message"].is_string(),
            "{status} {answer}"
        );
    }
}

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
fn bodies_are_compressed_both_ways() {
    let server = start();
    let agent: Agent = agent();
    let body = json!({"model": "tiny", "input": vec!["a b"; 20]}).to_string();
    let mut response = agent
        .post(format!("{}/v1/embeddings", server.url))
        .header("accept-encoding", "gzip")
        .send(&body)
        .unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let bytes = response.body_mut().read_to_vec().unwrap();
    assert_eq!(bytes[..2], [0x1f, 0x8b]);
    // `{"model":"tiny","input":"a"}`, stored without compression.
    let plain = br#"{"model":"tiny","input":"a"}"#;
    let gzip = stored_gzip(plain);
    let (status, answer) = server.send("/v1/embeddings", &gzip, &[("content-encoding", "gzip")]);
    assert_eq!(status, 200, "{answer}");
    let (status, _) = server.send("/v1/embeddings", &gzip[..20], &[("content-encoding", "gzip")]);
    assert_eq!(status, 400);
}

/// A gzip file with one block that is stored as it is.
fn stored_gzip(plain: &[u8]) -> Vec<u8> {
    let mut crc = !0u32;
    for &byte in plain {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    let length = plain.len() as u16;
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    file.extend(length.to_le_bytes());
    file.extend((!length).to_le_bytes());
    file.extend(plain);
    file.extend((!crc).to_le_bytes());
    file.extend(u32::from(length).to_le_bytes());
    file
}

#[test]
fn a_key_is_asked_for_but_not_by_probes() {
    let server = Running::start(|settings| settings.api_keys = vec!["one".into(), "two".into()]);
    let body = br#"{"model":"tiny","input":"a"}"#;
    let with = |headers: &[(&str, &str)]| server.send("/v1/embeddings", body, headers);
    assert_eq!(with(&[("authorization", "Bearer two")]).0, 200);
    for wrong in [
        &[][..],
        &[("authorization", "Bearer three")],
        &[("authorization", "two")],
    ] {
        let (status, answer) = with(wrong);
        assert_eq!(
            (status, &answer["error"]["code"]),
            (401, &json!("invalid_api_key"))
        );
    }
    assert_eq!(server.get("/v1/models").0, 401);
    for path in ["/health", "/ready", "/live", "/ping", "/metrics"] {
        assert_eq!(server.get(path).0, 200, "{path}");
    }
}

#[test]
fn metrics_count_what_was_served() {
    let server = start();
    server.good("/embed", json!({"inputs": ["a", "b"]}));
    server.post("/embed", json!({"inputs": []}));
    let (status, text) = server.get("/metrics");
    assert_eq!(status, 200);
    for line in [
        "ropeway_completed_total{model=\"tiny\"} 2",
        "ropeway_completed_total{model=\"other\"} 0",
        "ropeway_total_seconds_count{model=\"tiny\"} 2",
        "ropeway_http_requests_total{path=\"/embed\",status=\"200\"} 1",
        "te_request_failure{err=\"validation\"} 1",
        "te_queue_size 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
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
    let server = Running::start(|settings| {
        settings.limits.connections = 8;
        settings.limits.head_time = Duration::from_millis(300);
    });
    let idle: Vec<TcpStream> = (0..60).map(|_| server.connect()).collect();
    server.good("/embed", json!({"inputs": "a"}));
    drop(idle);
}

#[test]
fn a_server_that_ends_finishes_what_it_began() {
    let server = start();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let url = format!("{}/embed", server.url);
            let body = json!({"inputs": vec!["a b c d e f"; 6]}).to_string();
            std::thread::spawn(move || {
                agent()
                    .post(url)
                    .send(&body)
                    .map(|answer| answer.status().as_u16())
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(20));
    let url = server.url.clone();
    server.stop();
    for client in clients {
        // Served, refused for want of room, or not let in any more; never broken off in between.
        if let Ok(status) = client.join().unwrap() {
            assert!(status == 200 || status == 429, "{status}");
        }
    }
    assert!(TcpStream::connect(url.trim_start_matches("http://")).is_err());
}

#[cfg(unix)]
#[test]
fn a_socket_in_the_file_system_serves_too() {
    use std::os::unix::net::UnixStream;
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("socket");
    let server = Running::start(|settings| settings.address = Address::Unix(path.clone()));
    let mut stream = UnixStream::connect(&path).unwrap();
    stream
        .write_all(b"GET /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    server.stop();
    assert!(!path.exists());
}
