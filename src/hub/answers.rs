//! What a hub answers, read: the listing of a model and the headers of a file. Pure functions over what a server sent;
//! a wrong value is an error that shows it, escaped and shortened.

use std::borrow::Cow;

use serde::Deserialize;
use ureq::http::{HeaderMap, header};

use super::names::{ContentHash, is_commit, is_wanted};
use crate::error::printable;

/// Far above any model; a listing that asks for more files is not one.
const FILES: usize = 4096;

/// Bytes of a server's value in a message.
const SHOWN: usize = 160;

/// A server's text, safe for a terminal and short.
pub(super) fn shown(text: &str) -> String {
    printable(text, SHOWN)
}

/// What a model's repository holds at a commit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listing {
    pub commit: String,
    /// The files that the engine reads, each once, in order.
    pub files: Vec<String>,
}

/// Reads the answer to `GET /api/models/{id}/revision/{revision}`.
pub(super) fn listing(json: &[u8]) -> Result<Listing, String> {
    #[derive(Deserialize)]
    struct Info<'a> {
        #[serde(borrow)]
        sha: Cow<'a, str>,
        #[serde(default)]
        siblings: Vec<Sibling>,
    }
    #[derive(Deserialize)]
    struct Sibling {
        rfilename: String,
    }
    let info: Info<'_> = serde_json::from_slice(json)
        .map_err(|e| format!("is not the JSON of a hub: {}", shown(&e.to_string())))?;
    if !is_commit(&info.sha) {
        return Err(format!(
            "gives the commit `{}`; wanted 40 digits of lower-case hexadecimal",
            shown(&info.sha)
        ));
    }
    let names = info.siblings.into_iter().map(|file| file.rfilename);
    let mut files: Vec<String> = names.filter(|name| is_wanted(name)).collect();
    files.sort_unstable();
    files.dedup();
    if files.len() > FILES {
        return Err(format!(
            "lists {} files of a model; at most {FILES} are fetched",
            files.len()
        ));
    }
    Ok(Listing {
        commit: info.sha.into_owned(),
        files,
    })
}

/// What the hub's own answers have said of a file so far: with a redirect, then with the file. A redirect names what it
/// leads to in the headers `X-Linked-…`.
#[derive(Debug, Default)]
pub(super) struct FileHeaders {
    linked_etag: Option<String>,
    etag: Option<String>,
    commit: Option<String>,
    linked_size: Option<String>,
}

impl FileHeaders {
    /// Takes the headers of the hub's next answer.
    pub(super) fn add(&mut self, headers: &HeaderMap) {
        let value = |name: &str| {
            headers
                .get(name)
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        self.linked_etag = self.linked_etag.take().or_else(|| value("x-linked-etag"));
        self.linked_size = self.linked_size.take().or_else(|| value("x-linked-size"));
        self.commit = self.commit.take().or_else(|| value("x-repo-commit"));
        // The `ETag` of a redirect within the hub is that of the redirect.
        self.etag = value("etag").or_else(|| self.etag.take());
    }

    /// The hash of the contents and, where it was said, the size of the file at `commit`.
    pub(super) fn read(&self, commit: &str) -> Result<(ContentHash, Option<u64>), String> {
        match self.commit.as_deref() {
            Some(said) if said == commit => {}
            Some(said) => {
                return Err(format!("has X-Repo-Commit `{}`; wanted {commit}", shown(said)));
            }
            None => return Err("has no X-Repo-Commit, so no hub gave it".into()),
        }
        let (name, value) = match (&self.linked_etag, &self.etag) {
            (Some(value), _) => ("X-Linked-ETag", value),
            (None, Some(value)) => ("ETag", value),
            (None, None) => return Err("has no ETag, so its contents cannot be checked".into()),
        };
        let hash = etag(value).ok_or_else(|| {
            format!(
                "has {name} `{}`; wanted 40 or 64 digits of lower-case hexadecimal",
                shown(value)
            )
        })?;
        let size =
            match &self.linked_size {
                None => None,
                Some(value) => Some(number(value).ok_or_else(|| {
                    format!("has X-Linked-Size `{}`; wanted a number of bytes", shown(value))
                })?),
            };
        Ok((hash, size))
    }
}

/// The hash in an `ETag`: `"…"` or `W/"…"`.
pub(super) fn etag(value: &str) -> Option<ContentHash> {
    let value = value.trim();
    let value = value.strip_prefix("W/").unwrap_or(value);
    let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    ContentHash::parse(quoted.unwrap_or(value))
}

/// What part of a file a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Where in the file it starts, in bytes.
    pub start: u64,
    /// The size of the whole file, where it was said.
    pub total: Option<u64>,
}

/// Reads `Content-Range: bytes 0-9/10`, which a status of 206 comes with.
pub(super) fn content_range(headers: &HeaderMap) -> Result<Part, String> {
    let Some(value) = headers.get(header::CONTENT_RANGE) else {
        return Err("is a part and has no Content-Range".into());
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    let parse = || {
        let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (start, last) = range.split_once('-')?;
        let (start, last) = (number(start)?, number(last)?);
        let total = match total {
            "*" => None,
            total => Some(number(total)?),
        };
        (start <= last && total.is_none_or(|total| last < total)).then_some(Part { start, total })
    };
    parse().ok_or_else(|| {
        format!(
            "has Content-Range `{}`; wanted `bytes FIRST-LAST/SIZE`",
            shown(&text)
        )
    })
}

/// Seconds that a server asks to wait (`Retry-After: 120`); dates are not read.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| value.parse().unwrap_or(u64::MAX))
}

/// Digits alone: no sign.
pub(super) fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap()));
        pairs.collect()
    }

    #[test]
    fn a_listing_gives_a_commit_and_the_wanted_files() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let json = |sha: &str, name: &str| {
            serde_json::json!({ "sha": sha, "siblings": [{ "rfilename": name }] }).to_string()
        };
        let read = |text: String| listing(text.as_bytes());
        assert_eq!(
            read(json(commit, "config.json")).unwrap().files,
            ["config.json".to_owned()]
        );
        assert_eq!(
            read(json(commit, "../config.json")).unwrap().files,
            [] as [String; 0]
        );
        for bad in ["..", "main", "/tmp/x", "0123\u{1b}[2J"] {
            let error = read(json(bad, "config.json")).unwrap_err();
            assert!(error.contains("commit") && !error.contains('\u{1b}'), "{error}");
        }
        for bad in ["", "[]", "null", "{}", r#"{"sha":1}"#, &"[".repeat(100_000)] {
            assert!(read(bad.to_owned()).unwrap_err().contains("JSON"), "{bad:.20}");
        }
        let many: Vec<String> = (0..=FILES)
            .map(|n| format!(r#"{{"rfilename":"{n}_x/config.json"}}"#))
            .collect();
        let many = format!(r#"{{"sha":"{commit}","siblings":[{}]}}"#, many.join(","));
        assert!(read(many).unwrap_err().contains("at most"));
    }

    #[test]
    fn a_file_is_described_by_the_hub_alone() {
        let (commit, sha256, sha1) = ("1".repeat(40), "a".repeat(64), "b".repeat(40));
        let mut said = FileHeaders::default();
        said.add(&headers(&[
            ("x-repo-commit", &commit),
            ("etag", "\"of the redirect\""),
            ("x-linked-etag", &format!("\"{sha256}\"")),
            ("x-linked-size", "12"),
        ]));
        let (hash, size) = said.read(&commit).unwrap();
        assert_eq!((hash.as_str(), size), (sha256.as_str(), Some(12)));
        // A redirect within the hub, then the file.
        let mut said = FileHeaders::default();
        said.add(&headers(&[("etag", "W/\"of the redirect\"")]));
        said.add(&headers(&[
            ("x-repo-commit", &commit),
            ("etag", &format!("W/\"{sha1}\"")),
        ]));
        assert_eq!(said.read(&commit).unwrap().0.as_str(), sha1);
        for (wanted, pairs) in [
            ("X-Repo-Commit", vec![("etag", sha1.as_str())]),
            (
                "X-Repo-Commit `..`",
                vec![("etag", sha1.as_str()), ("x-repo-commit", "..")],
            ),
            ("no ETag", vec![("x-repo-commit", commit.as_str())]),
            (
                "ETag `\"/etc/passwd\"`",
                vec![("etag", "\"/etc/passwd\""), ("x-repo-commit", commit.as_str())],
            ),
            (
                "X-Linked-Size `-1`",
                vec![
                    ("etag", sha1.as_str()),
                    ("x-repo-commit", commit.as_str()),
                    ("x-linked-size", "-1"),
                ],
            ),
        ] {
            let mut said = FileHeaders::default();
            said.add(&headers(&pairs));
            let error = said.read(&commit).unwrap_err();
            assert!(error.contains(wanted), "{wanted}: {error}");
        }
    }

    #[test]
    fn ranges_are_read_strictly() {
        let read = |value: &str| content_range(&headers(&[("content-range", value)]));
        assert_eq!(
            read("bytes 5-9/10"),
            Ok(Part {
                start: 5,
                total: Some(10)
            })
        );
        assert_eq!(read("bytes 5-9/*").unwrap().total, None);
        for bad in [
            "bytes 5-10/10",
            "bytes 9-5/10",
            "bytes -5-9/10",
            "bytes +5-9/10",
            "5-9/10",
            "bytes */10",
            "bytes 5-9/99999999999999999999999",
        ] {
            assert!(read(bad).unwrap_err().contains("Content-Range"), "{bad}");
        }
        assert!(content_range(&HeaderMap::new()).is_err());
    }

    #[test]
    fn waiting_times_are_whole_seconds() {
        let read = |value: &str| retry_after(&headers(&[("retry-after", value)]));
        assert_eq!(read("3"), Some(3));
        assert_eq!(read("99999999999999999999999999"), Some(u64::MAX));
        for none in ["", "-1", "soon", "Wed, 21 Oct 2015 07:28:00 GMT", "0x5"] {
            assert_eq!(read(none), None, "{none}");
        }
    }

    #[test]
    fn a_servers_text_is_escaped_and_shortened() {
        let text = shown(&format!("\u{1b}[2J\n\u{202e}{}", "x".repeat(1000)));
        assert!(text.starts_with("\\u{1b}[2J\\u{a}\\u{202e}x"), "{text}");
        assert!(text.len() < 200);
    }
}
