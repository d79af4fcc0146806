//! Keys, metrics, compression, sockets, and how a server ends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use ropeway_server::Address;
use serde_json::json;
use ureq::Agent;

use crate::harness::{Running, agent, start};

#[test]
fn bodies_are_compressed_both_ways() {
    let server = Running::start(|settings| settings.limits.body_bytes = 64 << 10);
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
    let plain = br#"{"model":"tiny","input":"a"}"#;
    let whole = gzip(plain);
    let members = [gzip(&plain[..5]), gzip(b""), gzip(&plain[5..])].concat();
    let good: &[(&[u8], &str)] = &[
        (plain, "identity"),
        (plain, ""),
        (&whole, "gzip"),
        (&whole, "GZip"),
        (&whole, "x-gzip"),
        (&whole, "identity, gzip"),
        (&members, "gzip"),
    ];
    for (body, coding) in good {
        let (status, answer) = server.send("/v1/embeddings", body, &[("content-encoding", coding)]);
        assert_eq!(status, 200, "{coding}: {answer}");
    }
    let garbage = [&whole[..], b"junk"].concat();
    let half = [&whole[..], &whole[..12]].concat();
    let large = gzip(&vec![b' '; 512 << 10]);
    // A little more than four times the limit, so that it is read to its end.
    let empty = gzip(b"").repeat(13_110);
    let bad: &[(&[u8], &str, u16)] = &[
        (&whole[..20], "gzip", 400),
        (&garbage, "gzip", 400),
        (&half, "gzip", 400),
        (plain, "gzip", 400),
        (b"", "gzip", 400),
        (&large, "gzip", 413),
        (&empty, "gzip", 413),
        (&whole, "deflate", 415),
        (&whole, "gzip, gzip", 415),
    ];
    for (body, coding, wanted) in bad {
        let (status, answer) = server.send("/v1/embeddings", body, &[("content-encoding", coding)]);
        assert_eq!(status, *wanted, "{coding}: {answer}");
        assert!(answer["error"]["message"].is_string(), "{answer}");
    }
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut file = GzEncoder::new(Vec::new(), Compression::default());
    file.write_all(plain).unwrap();
    file.finish().unwrap()
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
    let head = |path: &str| {
        let answer = agent().head(format!("{}{path}", server.url)).call();
        answer.unwrap().status().as_u16()
    };
    for path in ["/health", "/ready", "/live", "/ping", "/metrics"] {
        assert_eq!((server.get(path).0, head(path)), (200, 200), "{path}");
    }
    assert_eq!((head("/v1/models"), head("/embed")), (401, 401));
}

#[test]
fn a_key_may_have_any_characters() {
    let server = Running::start(|settings| settings.api_keys = vec!["schl\u{fc}ssel \u{1f511}".into()]);
    let status = |key: &str| {
        let mut stream = server.connect();
        let head = format!(
            "GET /v1/models HTTP/1.1\r\nhost: a\r\nconnection: close\r\nauthorization: Bearer  {key} \r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(status("schl\u{fc}ssel \u{1f511}"), "200");
    assert_eq!(status("schlussel \u{1f511}"), "401");
}

#[test]
fn a_path_that_is_not_utf8_is_told_so() {
    let server = start();
    for path in ["/v1/models/%ff", "/v1/models/t%C3"] {
        let (status, answer) = server.get(path);
        assert!(
            status == 400 && answer.contains("the path is not UTF-8"),
            "{answer}"
        );
    }
    let (status, answer) = server.get("/v1/models/%C3%BC");
    assert!(status == 404 && answer.contains("no model `\u{fc}`"), "{answer}");
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

#[test]
#[cfg(unix)]
fn a_socket_of_others_is_left_alone() {
    use std::os::unix::net::{UnixDatagram, UnixStream};
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("socket");
    let on = |path: &std::path::Path| {
        let path = path.to_owned();
        Running::start(|settings| settings.address = Address::Unix(path))
    };
    let first = on(&path);
    std::fs::remove_file(&path).unwrap();
    let second = on(&path);
    first.stop();
    assert!(
        UnixStream::connect(&path).is_ok(),
        "the second one's socket is gone"
    );
    second.stop();
    let _other = UnixDatagram::bind(&path).unwrap();
    assert!(std::panic::catch_unwind(|| on(&path)).is_err(), "it was replaced");
    assert!(UnixDatagram::unbound().unwrap().connect(&path).is_ok());
    // One that nobody listens on.
    let left = scratch.path().join("left");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    on(&left).stop();
}
