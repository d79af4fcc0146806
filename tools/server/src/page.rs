//! The page at `/`, for people: one file in the binary, which asks nothing of anybody but this server.

use std::sync::LazyLock;

use axum::body::Body;
use axum::http::{HeaderValue, Response, header};
use base64::Engine as _;
use ring::digest::{SHA256, digest};

use crate::app::{Answer, Call};
use crate::routes::health;

const PAGE: &str = include_str!("page.html");

/// What the browser lets the page do: run its own script, by the script's hash, and talk to this server.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let script = hash(PAGE, "script");
    let style = hash(PAGE, "style");
    let policy = format!(
        "default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).expect("a policy of plain letters")
});

/// The source of a policy that stands for what is between these tags.
fn hash(page: &str, tag: &str) -> String {
    let between = page.split_once(&format!("<{tag}>"));
    let between = between.and_then(|(_, rest)| rest.split_once(&format!("</{tag}>")));
    let (text, _) = between.expect("the page has one of each");
    let hash = base64::engine::general_purpose::STANDARD.encode(digest(&SHA256, text.as_bytes()));
    format!("'sha256-{hash}'")
}

/// `GET /`: the page for browsers; for others what text-embeddings-inference says there, whether requests can be served.
pub async fn show(call: Call) -> Answer {
    let accepted = call
        .headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok());
    if !accepted.is_some_and(|accept| accept.contains("text/html")) {
        let mut health = health(call).await?;
        let plain = HeaderValue::from_static("text/plain");
        health.headers_mut().insert(header::CONTENT_TYPE, plain);
        return Ok(health);
    }
    let mut response = Response::new(Body::from(PAGE));
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::VARY, "accept"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::routes;

    #[test]
    fn the_page_asks_nothing_of_other_servers() {
        for outside in ["://", "src=\"//", "@import", " url(", ":url("] {
            assert!(!PAGE.contains(outside), "{outside}");
        }
        // The policy has the hash of one script and one style, and none of attributes.
        for (tag, count) in [
            ("<script", 1),
            ("<style", 1),
            (" style=", 0),
            (" onclick=", 0),
            ("innerHTML", 0),
        ] {
            assert_eq!(PAGE.matches(tag).count(), count, "{tag}");
        }
        assert!(hash("<script></script>", "script").contains("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="));
    }

    #[test]
    fn every_path_that_the_page_asks_is_a_route() {
        let asked: Vec<&str> = PAGE
            .split("ask(\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect();
        assert!(asked.len() >= 3, "{asked:?}");
        let routes = routes();
        for path in asked.into_iter().chain(["openapi.json"]) {
            assert!(routes.iter().any(|route| route.path[1..] == *path), "{path}");
        }
    }
}
