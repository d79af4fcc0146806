//! The page at `/`: its headers, and what it does in a browser where there is one.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{agent, start};

#[test]
fn browsers_get_the_page_and_others_whether_the_server_is_ready() {
    let server = start();
    let accepting = |kind: &str| {
        let request = agent().get(&server.url).header("accept", kind);
        request.call().unwrap()
    };
    let mut page = accepting("text/html,*/*;q=0.8");
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    let policy = page.headers()["content-security-policy"]
        .to_str()
        .unwrap()
        .to_owned();
    for part in [
        "default-src 'none'",
        "script-src 'sha256-",
        "connect-src 'self'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(
        page.body_mut()
            .read_to_string()
            .unwrap()
            .starts_with("<!doctype html>")
    );
    let mut probe = accepting("*/*");
    assert_eq!(probe.status(), 200);
    assert_eq!(probe.body_mut().read_to_string().unwrap(), "");
}

/// A browser of this machine.
fn chromium() -> Option<&'static str> {
    let runs = |name: &&&str| {
        let status = Command::new(name)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    };
    ["chromium", "chromium-browser", "google-chrome"]
        .iter()
        .find(runs)
        .copied()
}

#[test]
fn the_page_ranks_passages_in_a_browser() {
    let Some(chromium) = chromium() else {
        // Past the test harness, which shows nothing of a test that passes.
        let _ = std::io::stderr().write_all(b"SKIPPED: no chromium, so the page is not driven\n");
        return;
    };
    let server = start();
    let scratch = tempfile::tempdir().unwrap();
    let output = Command::new(chromium)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ])
        .args(["--virtual-time-budget=20000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", scratch.path().display()))
        .arg(format!("{}/#compare", server.url))
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&output.stdout);
    let list = dom
        .split_once("<ol id=\"ranking\">")
        .and_then(|(_, rest)| rest.split_once("</ol>"));
    let (list, _) = list.unwrap_or_else(|| panic!("{dom}"));
    let status = dom
        .split_once("id=\"status\"")
        .map_or("", |(_, rest)| &rest[..rest.len().min(200)]);
    assert_eq!(list.matches("<li>").count(), 5, "{status}");
    // A table of similarities of six texts, sentences as chunks, sizes, and code that can be sent.
    assert!(dom.matches("<mark").count() >= 5, "{status}");
    assert_eq!(dom.matches("scope=\"row\"").count(), 6);
    let (_, code) = dom.split_once("<code id=\"code\">").unwrap();
    let (code, _) = code.split_once("</code>").unwrap();
    let (_, body) = code.split_once("-d '").unwrap();
    let (body, _) = body.split_once("'\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    server.good("/v1/embeddings", body);
}
