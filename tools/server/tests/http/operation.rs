//! Keys, metrics, compression, sockets, and how a server ends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ropeway_server::Address;
use serde_json::json;
use ureq::Agent;

use crate::harness::{Running, agent, start};

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

#[test]
#[cfg(unix)]
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
