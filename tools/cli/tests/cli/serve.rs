//! `ropeway serve`: what it says, whom it answers, how it ends.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{InputLocation, command, floats, ropeway};

/// The answer to a request with a body of JSON: its first line and its body.
fn post(address: &str, path: &str, key: &str, body: &Value) -> (String, Value) {
    let mut stream = TcpStream::connect(address).unwrap();
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (
        head.lines().next().unwrap().to_owned(),
        serde_json::from_str(body).unwrap(),
    )
}

#[test]
fn a_model_is_served_until_sigterm() {
    let folder = InputLocation::new(&[("keys", b"\nsecret\n")]);
    let keys = folder.path("keys");
    let flags = [
        "serve", "--device", "cpu", "--port", "0", "--name", "tiny", "--log",
    ];
    let mut child = command(&flags)
        .args(["--api-key-file", keys.to_str().unwrap()])
        .env_remove("ROPEWAY_API_KEY")
        .env_remove("SAGEMAKER_BIND_TO_PORT")
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let address = first
        .strip_prefix("ropeway: serves tiny on http://")
        .unwrap_or_else(|| panic!("{first}"));
    let body = json!({"model": "tiny", "input": "a b"});
    let (status, answer) = post(address, "/v1/embeddings", "secret", &body);
    assert_eq!(status, "HTTP/1.1 200 OK", "{answer}");
    let alone = ropeway(&["embed", "a b", "--device", "cpu"], b"").lines();
    assert_eq!(
        floats(&answer["data"][0]["embedding"]),
        floats(&alone[0]["embedding"])
    );
    let (status, _) = post(address, "/v1/embeddings", "other", &body);
    assert_eq!(status, "HTTP/1.1 401 Unauthorized");
    // SAFETY: it is our child, which is not waited for yet, so that its number is not another process's.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    assert!(child.wait().unwrap().success());
    let log: Vec<Value> = lines
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    let seen: Vec<(&Value, &Value)> = log.iter().map(|line| (&line["route"], &line["status"])).collect();
    let route = json!("/v1/embeddings");
    assert_eq!(seen, [(&route, &json!(200)), (&route, &json!(401))]);
}

#[test]
fn what_cannot_be_served_ends_the_run_in_one_line() {
    let folder = InputLocation::new(&[("none", b"\n")]);
    let flags = |more: &[&str]| folder.run(&[&["serve", "--device", "cpu", "--port", "0"], more].concat());
    flags(&["--api-key-file", "none"]).fails(2, &["none", "holds no key"]);
    flags(&["--model", "x="]).fails(2, &["NAME=FOLDER_OR_ID"]);
    flags(&["--model", "x=/nonexistent"]).fails(2, &["/nonexistent"]);
    flags(&["--model", "a=b", "--model", "c=d", "--name", "e"]).fails(2, &["--name is for one model"]);
    flags(&["--adapters-dir", "."]).fails(2, &["--adapters-dir wants an admin key"]);
    flags(&["--adapters-dir", "nowhere", "--admin-key", "a"]).fails(2, &["nowhere", "no folder"]);
    flags(&["--contexts", "9"]).fails(2, &["concurrency is 9", "1 to 2"]);
    flags(&["--api-key", ""]).fails(2, &["--api-key", "ROPEWAY_API_KEY", "empty"]);
    flags(&["--adapters-dir", ".", "--admin-key", " "]).fails(2, &["--admin-key", "empty"]);
    flags(&["--host", "192.0.2.1"]).fails(2, &["cannot listen"]);
}

/// Who reads no log, or has closed it, is no reason for a request to wait or to fail.
#[test]
fn requests_do_not_wait_for_the_log_to_be_read() {
    for closed in [true, false] {
        let mut child = command(&[
            "serve", "--device", "cpu", "--port", "0", "--name", "tiny", "--log",
        ])
        .env_remove("ROPEWAY_API_KEY")
        .env_remove("SAGEMAKER_BIND_TO_PORT")
        .spawn()
        .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        log.read_line(&mut first).unwrap();
        let address = first
            .trim()
            .strip_prefix("ropeway: serves tiny on http://")
            .unwrap();
        let log = (!closed).then_some(log);
        // More lines than a pipe holds, and than may wait.
        let requests = 6000;
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut writing = stream.try_clone().unwrap();
        let writer = std::thread::spawn(move || {
            let one = b"GET /live HTTP/1.1\r\nhost: a\r\n\r\n";
            writing.write_all(&one.repeat(requests - 1)).unwrap();
            let last = b"GET /live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            writing.write_all(last).unwrap();
        });
        let mut answers = String::new();
        stream.read_to_string(&mut answers).unwrap();
        writer.join().unwrap();
        assert_eq!(
            answers.matches("HTTP/1.1 200 OK").count(),
            requests,
            "closed: {closed}"
        );
        // SAFETY: it is our child, which is not waited for yet, so that its number is not another process's.
        assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
        // A last line that nobody reads does not keep it.
        assert!(child.wait().unwrap().success());
        drop(log);
    }
}
