//! A server over loopback, with small random models.

use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::Duration;

use model_maker::{Dtype, Family, ModelSpec};
use ropeway::service::Service;
use ropeway::{Device, Embed, Engine};
use ropeway_server::{Address, Handle, Limits, Model, Server, Settings};
use serde_json::Value;
use ureq::Agent;

/// The folder of a small jina-embeddings-v3 model with a tokenizer.
pub fn folder() -> PathBuf {
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

pub fn engine() -> Engine {
    Engine::builder()
        .device(Device::Cpu)
        .threads(1)
        .open(folder())
        .unwrap()
}

/// A server that ends with this.
pub struct Running {
    pub url: String,
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub fn start(change: impl FnOnce(&mut Settings)) -> Running {
        Running::start_with(change, |server| server)
    }

    pub fn start_with(change: impl FnOnce(&mut Settings), add: impl FnOnce(Server) -> Server) -> Running {
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
        let server = add(Server::bind(settings).unwrap());
        Running {
            url: server.address(),
            handle: server.handle(),
            thread: Some(std::thread::spawn(|| server.run().unwrap())),
        }
    }

    pub fn stop(mut self) {
        self.handle.stop();
        self.thread.take().unwrap().join().unwrap();
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        let mut response = agent().get(format!("{}{path}", self.url)).call().unwrap();
        let body = response.body_mut().read_to_string().unwrap();
        (response.status().as_u16(), body)
    }

    pub fn send(&self, path: &str, body: &[u8], headers: &[(&str, &str)]) -> (u16, Value) {
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

    pub fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.send(path, body.to_string().as_bytes(), &[])
    }

    pub fn good(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.post(path, body);
        assert_eq!(status, 200, "{answer}");
        answer
    }

    pub fn connect(&self) -> TcpStream {
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

pub fn agent() -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(60)))
        .build()
        .into()
}

pub fn start() -> Running {
    Running::start(|_| {})
}

/// What the engine says by itself.
pub fn alone(text: &str, options: &Embed) -> Vec<f32> {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    let mut one = ENGINE.get_or_init(engine).embed(&[text], options).unwrap();
    one.remove(0).into_f32().unwrap()
}

pub fn floats(value: &Value) -> Vec<f32> {
    let numbers = value.as_array().unwrap_or_else(|| panic!("{value}"));
    numbers.iter().map(|x| x.as_f64().unwrap() as f32).collect()
}
