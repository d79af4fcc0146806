//! `ropeway serve` on a GPU that is lost: requests wait for the engine that is opened in its place.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::device::{Gpu, tiny};
use crate::common::{Scratch, paths};

/// A server, which ends with this.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(variables: &[(&str, &str)]) -> Server {
        let mut child = Command::new(paths::binary())
            .args([
                "serve",
                "--device",
                "cuda",
                "--batch-tokens",
                "16",
                "--port",
                "0",
                "--name",
                "tiny",
            ])
            .env("ROPEWAY_MODEL", tiny())
            .env_remove("ROPEWAY_API_KEY")
            .env_remove("SAGEMAKER_BIND_TO_PORT")
            .envs(variables.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let served = |line: &String| line.contains("serves tiny on http://");
        let first = log
            .by_ref()
            .map_while(Result::ok)
            .find(served)
            .expect("it has ended");
        // Read on, so that it can write.
        std::thread::spawn(move || log.count());
        let (_, address) = first.split_once("http://").unwrap();
        Server {
            child,
            address: address.to_owned(),
        }
    }

    /// The status of an answer and its body.
    fn send(&self, request: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let head = format!(
            "{request} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + body).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer[9..12].parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    /// Sends one input, which is one pass: how many passes several inputs share is a matter of time.
    fn embed(&self) -> (u16, Value) {
        let (status, body) = self.send("POST /v1/embeddings", r#"{"input": "a b"}"#);
        let answer: Value = serde_json::from_str(&body).unwrap();
        (status, answer["data"].clone())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How often a server has launched a pass when it has answered one request.
fn launches() -> (u64, Value) {
    let folder = Scratch::empty();
    let calls = folder.path().join("calls");
    let mut server = Server::start(&[("SOFTCUDA_CALLS", calls.to_str().unwrap())]);
    let (status, vectors) = server.embed();
    assert_eq!(status, 200);
    // SAFETY: it is our child, which is not waited for yet, so that its number is not another process's.
    assert_eq!(unsafe { libc::kill(server.child.id() as i32, libc::SIGTERM) }, 0);
    assert!(server.child.wait().unwrap().success());
    let calls: Value = serde_json::from_slice(&fs::read(calls).unwrap()).unwrap();
    (calls["calls"]["cuGraphLaunch"].as_u64().unwrap(), vectors)
}

#[test]
fn requests_wait_while_a_lost_device_is_opened_anew() {
    let Some(_) = Gpu::find_simulated().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let (last, wanted) = launches();
    // Passes take their time, so that opening it anew does, which makes some.
    let faults = format!("slow-launches=20ms; sticky:cuGraphLaunch:{last}=CUDA_ERROR_ILLEGAL_ADDRESS");
    let server = Server::start(&[("SOFTCUDA_FAULTS", &faults)]);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.embed());
        let since = Instant::now();
        while server.send("GET /ready", "").0 == 200 {
            assert!(
                since.elapsed() < Duration::from_secs(60),
                "the device is not lost"
            );
        }
        // It is lost now.
        assert_eq!(server.send("GET /live", "").0, 200);
        let (status, vectors) = server.embed();
        assert_eq!((status, &vectors), (200, &wanted));
        // What its device computed is lost with it.
        assert_eq!(first.join().unwrap().0, 503);
    });
    assert_eq!(server.send("GET /ready", "").0, 200);
    let (_, metrics) = server.send("GET /metrics", "");
    assert!(
        metrics.contains("ropeway_reopened_total{model=\"tiny\"} 1"),
        "{metrics}"
    );
}
