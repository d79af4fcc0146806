//! For the fuzz target of what a hub answers.

use ureq::http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::address::redirect;
use super::answers::{FileHeaders, content_range, etag, listing, retry_after};

/// What was taken from an answer. Errors are texts for people.
#[derive(Debug)]
pub struct Parsed {
    /// Commit and files of the listing.
    pub listing: Result<(String, Vec<String>), String>,
    /// The hash in `ETag`.
    pub etag: Option<String>,
    /// Hash and size of a file at a commit.
    pub file: Result<(String, Option<u64>), String>,
    /// First byte and size of a part.
    pub range: Result<(u64, Option<u64>), String>,
    /// Where a redirect from `https://hub.example/a/b` leads.
    pub redirect: Result<String, String>,
    /// Seconds to wait.
    pub wait: Option<u64>,
}

/// The commit that files are asked for at.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Reads `json` as a listing, and `head` as the headers of an answer: lines of `name: value`.
pub fn parse(json: &[u8], head: &[u8]) -> Parsed {
    let mut headers = HeaderMap::new();
    for line in head.split(|&byte| byte == b'\n').take(100) {
        let mut parts = line.splitn(2, |&byte| byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
            continue;
        };
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name),
            HeaderValue::from_bytes(value.trim_ascii()),
        ) {
            headers.append(name, value);
        }
    }
    let mut said = FileHeaders::default();
    said.add(&headers);
    let base = Uri::from_static("https://hub.example/a/b");
    let tag = headers.get("etag").and_then(|value| value.to_str().ok());
    Parsed {
        listing: listing(json).map(|listing| (listing.commit, listing.files)),
        etag: tag.and_then(etag).map(|hash| hash.to_string()),
        file: said.read(COMMIT).map(|(hash, size)| (hash.to_string(), size)),
        range: content_range(&headers).map(|part| (part.start, part.total)),
        redirect: redirect(&base, &headers).map(|to| to.to_string()),
        wait: retry_after(&headers),
    }
}
