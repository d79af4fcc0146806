//! The environment variables of the hub, with the meaning that the Python package huggingface_hub gives them.
//!
//! An empty variable counts as unset.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::{HeaderValue, Uri};

use super::address::Origin;
use super::answers::shown;
use super::proxies::Proxies;
use crate::error::Error;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// How long a server may take, unless the environment says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest time that can be asked for: a day.
const MAX_TIMEOUT_SECONDS: u64 = 86_400;

/// No token is longer.
const TOKEN_BYTES: u64 = 4096;

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

pub(super) fn text(name: &str) -> Option<String> {
    variable(name).map(|value| value.to_string_lossy().into_owned())
}

/// `1`, `on`, `yes` and `true`, in any case, are true; everything else is false.
fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str())
}

fn flag(name: &str) -> bool {
    text(name).is_some_and(|value| is_true(&value))
}

/// Whether nothing may be downloaded.
pub(super) fn is_offline() -> bool {
    // The second counts where the first is not set at all.
    text("HF_HUB_OFFLINE")
        .or_else(|| text("TRANSFORMERS_OFFLINE"))
        .is_some_and(|value| is_true(&value))
}

/// Whether the cache holds files where it could hold links to blobs.
pub(super) fn links_are_disabled() -> bool {
    flag("HF_HUB_DISABLE_SYMLINKS")
}

fn home() -> PathBuf {
    let user = std::env::home_dir().unwrap_or_default();
    let folder = variable("HF_HOME").map_or_else(
        || {
            let caches = variable("XDG_CACHE_HOME").map_or_else(|| user.join(".cache"), PathBuf::from);
            caches.join("huggingface")
        },
        PathBuf::from,
    );
    expand(folder, &user)
}

/// The folder of all cached models.
pub(super) fn cache_folder() -> PathBuf {
    let folder = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE"));
    match folder {
        Some(folder) => expand(folder.into(), &std::env::home_dir().unwrap_or_default()),
        None => home().join("hub"),
    }
}

/// Puts the home folder for a leading `~`, and the values of variables for `$NAME` and `${NAME}`; names that are not set
/// stay as they are.
fn expand(path: PathBuf, user: &Path) -> PathBuf {
    let Some(text) = path.to_str() else {
        return path;
    };
    let mut rest = text;
    let mut out = String::new();
    if let Some(after) = rest.strip_prefix('~')
        && (after.is_empty() || after.starts_with('/'))
    {
        out.push_str(&user.to_string_lossy());
        rest = after;
    }
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let braced = after.strip_prefix('{').and_then(|after| after.split_once('}'));
        let plain = after
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(after.len());
        let (name, next) = braced.unwrap_or_else(|| after.split_at(plain));
        match std::env::var(name) {
            Ok(value) if !name.is_empty() => {
                out.push_str(&value);
                rest = next;
            }
            _ => {
                out.push('$');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out.into()
}

/// How the hub is reached.
#[derive(Debug)]
pub(super) struct Network {
    /// Where addresses start, without a slash at the end.
    pub endpoint: String,
    /// The one origin that gets the token.
    pub origin: Origin,
    pub token: Option<Token>,
    pub proxies: Proxies,
    /// For connecting to the hub and for its answer to begin.
    pub answer_timeout: Duration,
    /// For connecting to where files are, and for each part of a body.
    pub download_timeout: Duration,
}

impl Network {
    /// Reads the environment; an error names the variable and what is wanted.
    pub(super) fn from_env() -> Result<Network, String> {
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let address: Option<Uri> = endpoint.parse().ok();
        let origin = address
            .as_ref()
            .filter(|address| address.query().is_none() && !endpoint.contains('#'))
            .and_then(Origin::of);
        let origin = origin.ok_or_else(|| {
            // Everything else may hold a password or a token.
            let start = address.and_then(|address| Some(format!("{}://{}", address.scheme_str()?, address.host()?)));
            format!(
                "HF_ENDPOINT{} is not the address of a hub; wanted `http://` or `https://` and a host, without a user's \
                 name or a query, as in `{DEFAULT_ENDPOINT}`",
                start.map_or_else(String::new, |start| format!(" (`{}…`)", shown(&start)))
            )
        })?;
        Ok(Network {
            endpoint,
            origin,
            token: token()?,
            proxies: Proxies::from_env()?,
            answer_timeout: seconds("HF_HUB_ETAG_TIMEOUT")?,
            download_timeout: seconds("HF_HUB_DOWNLOAD_TIMEOUT")?,
        })
    }
}

/// A duration in whole seconds; 0 is the default.
fn seconds(name: &str) -> Result<Duration, String> {
    let Some(value) = text(name) else {
        return Ok(DEFAULT_TIMEOUT);
    };
    match value.trim().parse::<u64>() {
        Ok(0) => Ok(DEFAULT_TIMEOUT),
        Ok(seconds) if seconds <= MAX_TIMEOUT_SECONDS => Ok(Duration::from_secs(seconds)),
        _ => Err(format!(
            "{name} is `{}`; wanted whole seconds, 1 to {MAX_TIMEOUT_SECONDS}",
            shown(&value)
        )),
    }
}

/// A user's secret for the hub, which no message shows.
#[derive(Clone)]
pub(super) struct Token(HeaderValue);

impl Token {
    /// One of printable letters; nothing else is one.
    pub(super) fn new(token: &str) -> Option<Token> {
        let is_one = token.bytes().all(|b| b.is_ascii_graphic()) && token.len() as u64 <= TOKEN_BYTES;
        let mut value = HeaderValue::try_from(format!("{BEARER}{token}")).ok()?;
        value.set_sensitive(true);
        is_one.then_some(Token(value))
    }

    /// The value of the header `Authorization`.
    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }

    /// A message without the token, which a server may have sent back.
    pub(super) fn hide(&self, message: &str) -> String {
        const HIDDEN: &str = "…";
        let header = self.0.as_bytes().strip_prefix(BEARER.as_bytes());
        let token = header.and_then(|token| std::str::from_utf8(token).ok());
        let token = token.unwrap_or_default();
        // Where a server's text was cut, it may have been cut within the token. A few letters of it are no secret.
        let cuts = 4..token.len();
        let message = message.replace(token, HIDDEN);
        let pieces = message.split(HIDDEN).map(|piece| {
            let end = cuts.clone().rev().find(|&at| piece.ends_with(&token[..at]));
            let piece = &piece[..piece.len() - end.unwrap_or(0)];
            let start = cuts
                .clone()
                .rev()
                .find(|&at| piece.starts_with(&token[token.len() - at..]));
            &piece[start.unwrap_or(0)..]
        });
        pieces.collect::<Vec<_>>().join(HIDDEN)
    }
}

/// What the value of `Authorization` begins with.
const BEARER: &str = "Bearer ";

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

fn token() -> Result<Option<Token>, String> {
    if flag("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
        return Ok(None);
    }
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        // One of blanks alone is none.
        if let Some(value) = text(name)
            && let Some(token) = clean(&value, name)?
        {
            return Ok(Some(token));
        }
    }
    let user = std::env::home_dir().unwrap_or_default();
    let file =
        variable("HF_TOKEN_PATH").map_or_else(|| home().join("token"), |path| expand(path.into(), &user));
    // A pipe would be waited for without end.
    let read = || -> crate::error::Result<String> {
        let (opened, _) = crate::model::file::open(&file)?;
        let mut text = String::new();
        // One byte more than a token may have: what is longer is none, and not cut.
        let read = opened.take(TOKEN_BYTES + 1).read_to_string(&mut text);
        read.map_err(|e| Error::io(&file, e)).map(|_| text)
    };
    match read() {
        Ok(text) => clean(&text, &file.display().to_string()),
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            // Most models need none.
            tracing::warn!(file = %file.display(), %error, "the token's file cannot be read; asking without a token");
            Ok(None)
        }
    }
}

/// The token in a text, which may have blanks and line ends around it.
fn clean(text: &str, from: &str) -> Result<Option<Token>, String> {
    let token = text.replace(['\r', '\n'], "");
    let token = token.trim();
    if token.is_empty() {
        return Ok(None);
    }
    let problem = || {
        format!(
            "the token in {from} holds characters that no token has; copy it anew from the hub's settings, or unset it"
        )
    };
    Token::new(token).map(Some).ok_or_else(problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_has_four_words() {
        for yes in ["1", "ON", "on", "Yes", "tRuE"] {
            assert!(is_true(yes), "{yes}");
        }
        for no in [
            "", "0", "false", "off", "no", "2", "y", "t", "enabled", " 1", "1 ",
        ] {
            assert!(!is_true(no), "{no}");
        }
    }

    #[test]
    fn a_token_is_cleaned_and_never_shown() {
        let token = clean(" hf_secret\r\n", "HF_TOKEN").unwrap().unwrap();
        assert_eq!(token.header(), "Bearer hf_secret");
        assert!(!format!("{token:?} {:?}", token.header()).contains("secret"));
        assert!(clean(" \n", "HF_TOKEN").unwrap().is_none());
        for bad in [
            "hf_se cret",
            "hf_secret\u{1b}",
            "hf_sécret",
            &"secret".repeat(1000),
        ] {
            let error = clean(bad, "HF_TOKEN").unwrap_err();
            assert!(error.contains("HF_TOKEN") && !error.contains("cret"), "{error}");
        }
    }

    #[test]
    fn a_message_does_not_show_a_token_that_came_back() {
        let token = clean("hf_0123456789abcdefghij", "HF_TOKEN").unwrap().unwrap();
        for (message, wanted) in [
            ("no such token: hf_0123456789abcdefghij", "no such token: …"),
            (
                "`/Bearer%20hf_0123456789abcdefghijhf_0123456789abcdefghij`",
                "`/Bearer%20……`",
            ),
            // Cut within it.
            ("x hf_01234…", "x …"),
            ("x hf_01234…ghij y", "x … y"),
            ("…0123456789abcdefghij y", "… y"),
            ("hf_ hub … ij", "hf_ hub … ij"),
            ("the status is 401", "the status is 401"),
        ] {
            assert_eq!(token.hide(message), wanted);
        }
        let short = clean("x", "HF_TOKEN").unwrap().unwrap();
        assert_eq!(short.hide("x and y…x"), "… and y……");
    }

    #[test]
    fn folders_may_name_the_home_and_variables() {
        let expanded = |text: &str| expand(text.into(), Path::new("/home/u"));
        let cargo = env!("CARGO_MANIFEST_DIR");
        for (text, wanted) in [
            ("~", "/home/u".to_owned()),
            ("~/x", "/home/u/x".to_owned()),
            ("/a/~/b", "/a/~/b".to_owned()),
            ("~other/x", "~other/x".to_owned()),
            ("$CARGO_MANIFEST_DIR/x", format!("{cargo}/x")),
            ("a${CARGO_MANIFEST_DIR}b", format!("a{cargo}b")),
            (
                "$ROPEWAY_TEST_IS_NOT_SET/x$",
                "$ROPEWAY_TEST_IS_NOT_SET/x$".to_owned(),
            ),
            ("${open", "${open".to_owned()),
        ] {
            assert_eq!(expanded(text), Path::new(&wanted), "{text}");
        }
    }
}
