//! Why something cannot be had, whether it may pass by itself, and the way out.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::answers::shown;
use super::names::ContentHash;
use super::settings::Token;

/// How often a request is made in all when the reason may pass by itself.
const TRIES: u32 = 4;

/// The pause before the second try; it doubles with each.
const BACK_OFF: Duration = Duration::from_millis(500);

/// The longest pause that a server can ask for.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// A try that brought a file this much further than any before was no failure of the server: tries are counted anew.
const PROGRESS_BYTES: u64 = 1 << 20;

pub(super) type Result<T, E = Failure> = std::result::Result<T, E>;

#[derive(Debug)]
pub(super) enum Failure {
    /// The server's status is no success.
    Status {
        status: u16,
        /// Seconds that it asks to wait.
        wait: Option<u64>,
        /// What the hub says about it, escaped; may be empty.
        said: String,
    },
    /// The server was too slow.
    Timeout(String),
    /// The connection broke off.
    Broken(String),
    /// No connection was made.
    Unreachable(String),
    /// The answer is not that of a hub.
    Answer(String),
    /// What came is not what the hub's hash says.
    WrongHash {
        wanted: ContentHash,
        found: ContentHash,
        /// The bytes that came.
        bytes: u64,
        /// Whether an answer said how many there are.
        is_sized: bool,
    },
    /// The cache cannot be read or written.
    Disk(String),
    /// What the hub has is no model for the engine; the text says why.
    Model(String),
}

impl Failure {
    pub(super) fn disk(path: &Path, error: &io::Error) -> Failure {
        Failure::Disk(format!("{}: {error}", path.display()))
    }

    /// The failure of an exchange with `host`.
    pub(super) fn network(host: &str, error: ureq::Error) -> Failure {
        use io::ErrorKind as Kind;
        match error {
            ureq::Error::Timeout(what) => Failure::Timeout(format!("{host} took too long ({what})")),
            ureq::Error::Io(error) => {
                let text = format!("{host}: {}", shown(&error.to_string()));
                match error.kind() {
                    Kind::TimedOut | Kind::WouldBlock => Failure::Timeout(text),
                    Kind::UnexpectedEof
                    | Kind::ConnectionReset
                    | Kind::ConnectionAborted
                    | Kind::BrokenPipe => Failure::Broken(text),
                    _ => Failure::Unreachable(text),
                }
            }
            error @ (ureq::Error::Protocol(_)
            | ureq::Error::LargeResponseHeader(..)
            | ureq::Error::Http(_)
            | ureq::Error::BodyStalled) => Failure::Answer(format!("{host}: {}", shown(&error.to_string()))),
            error => Failure::Unreachable(format!("{host}: {}", shown(&error.to_string()))),
        }
    }

    /// The failure of reading a body from `host`.
    pub(super) fn body(host: &str, error: io::Error) -> Failure {
        Failure::network(host, ureq::Error::from(error))
    }

    /// Whether the hub could not be reached: no connection, no answer in time, or a server that is busy or broken. Everything
    /// else is an answer, or no failure of the hub.
    pub(super) fn is_absence(&self) -> bool {
        match self {
            Failure::Timeout(_) | Failure::Broken(_) | Failure::Unreachable(_) => true,
            Failure::Status { status, .. } => is_busy(*status),
            _ => false,
        }
    }

    fn way_out(&self) -> &'static str {
        match self {
            Failure::Status {
                status: 401 | 403, ..
            } => "the model is gated or does not exist: accept its terms on the hub and set HF_TOKEN",
            Failure::Status { status: 404, .. } => "check the id and the revision",
            Failure::Status { status: 429, .. } => "try again later; HF_TOKEN may raise the hub's limit",
            Failure::Status { status: 500.., .. } => "try again later",
            Failure::Timeout(_) => {
                "try again, what came is kept; HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT (seconds) set the limits"
            }
            Failure::Broken(_) => "the connection broke off: try again, what came is kept",
            Failure::WrongHash { .. } => {
                "nothing of it is kept; try again, or look for what changes files on the way (HF_ENDPOINT, proxy)"
            }
            Failure::Disk(_) => {
                "check the cache folder (HF_HOME): is it writable, is the disk full, is something else in the way?"
            }
            Failure::Status { .. } | Failure::Answer(_) => {
                "that is not what a hub answers: check HF_ENDPOINT and the proxy"
            }
            Failure::Unreachable(_) => {
                "check the network (HF_ENDPOINT, proxy), or give the folder of a copy of the model"
            }
            Failure::Model(_) => "give the folder of a model that has it",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Status { status, wait, said } => {
                write!(f, "the status is {status}")?;
                if !said.is_empty() {
                    write!(f, " ({said})")?;
                }
                if let Some(seconds) = wait {
                    write!(f, ", with a wait of {seconds} s asked for")?;
                }
            }
            Failure::WrongHash {
                wanted,
                found,
                bytes,
                is_sized,
            } => {
                write!(
                    f,
                    "its hash is {found}, and that of the hub's file {wanted} ({bytes} bytes came"
                )?;
                if !is_sized {
                    write!(
                        f,
                        ", and no answer said how many there are: it may have been cut short"
                    )?;
                }
                f.write_str(")")?;
            }
            Failure::Timeout(text)
            | Failure::Broken(text)
            | Failure::Unreachable(text)
            | Failure::Answer(text)
            | Failure::Disk(text)
            | Failure::Model(text) => f.write_str(text)?,
        }
        write!(f, "; {}", self.way_out())
    }
}

/// A message without the token, if there is one.
pub(super) fn without(token: Option<&Token>, message: String) -> String {
    match token {
        Some(token) => token.hide(&message),
        None => message,
    }
}

/// Whether a status may be another one later.
fn is_busy(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..=599)
}

/// Counts the tries of one thing and pauses between them.
#[derive(Default)]
pub(super) struct Tries {
    failed: u32,
    wrong_hashes: u32,
}

impl Tries {
    /// Returns after a pause if another try makes sense after this failure, in a try that brought a file so many bytes
    /// further than any before. `token`: what a server got and may have sent back.
    pub(super) fn again(&mut self, failure: Failure, gained_bytes: u64, token: Option<&Token>) -> Result<()> {
        let pause = self.judge(&failure, gained_bytes);
        let Some(pause) = pause else {
            return Err(failure);
        };
        let failure = without(token, failure.to_string());
        tracing::info!(failure, ?pause, "trying again");
        std::thread::sleep(pause);
        Ok(())
    }

    /// The pause before the next try; `None` if there is to be none.
    fn judge(&mut self, failure: &Failure, gained_bytes: u64) -> Option<Duration> {
        let progress = gained_bytes >= PROGRESS_BYTES;
        if progress {
            self.failed = 0;
        }
        self.failed += 1;
        let may_pass = match failure {
            Failure::Status { status, .. } => is_busy(*status),
            Failure::Broken(_) => true,
            // Whoever waited once for nothing need not wait again.
            Failure::Timeout(_) => progress,
            Failure::WrongHash { .. } => {
                self.wrong_hashes += 1;
                self.wrong_hashes < 2
            }
            _ => false,
        };
        (may_pass && self.failed < TRIES).then(|| pause(failure, self.failed))
    }
}

/// How long to wait after the `failed`th failure.
fn pause(failure: &Failure, failed: u32) -> Duration {
    let asked = match failure {
        Failure::Status {
            wait: Some(seconds), ..
        } => Duration::from_secs(*seconds),
        _ => Duration::ZERO,
    };
    asked.max(BACK_OFF * (1 << (failed - 1))).min(MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::testing::Said;

    #[test]
    fn another_try_is_said_without_the_token() {
        let token = Token::new("hf_secret").unwrap();
        let busy = |said: &str| Failure::Status {
            status: 503,
            wait: None,
            said: said.to_owned(),
        };
        let said = Said::default();
        tracing::subscriber::with_default(said.clone(), || {
            let failure = busy("not now, Bearer hf_secret");
            Tries::default().again(failure, 0, Some(&token)).unwrap();
        });
        let said = said.texts();
        assert!(said[0].contains("(not now, Bearer …)"), "{said:?}");
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let status = |status| Failure::Status {
            status,
            wait: None,
            said: String::new(),
        };
        for failure in [
            status(404),
            status(401),
            status(416),
            status(204),
            Failure::Timeout(String::new()),
            Failure::Answer(String::new()),
            Failure::Disk(String::new()),
            Failure::Unreachable(String::new()),
        ] {
            let text = failure.to_string();
            assert!(Tries::default().judge(&failure, 0).is_none(), "{text}");
        }
        for failure in [status(429), status(503), Failure::Broken(String::new())] {
            assert!(Tries::default().judge(&failure, 0).is_some());
        }
        let stalled = Failure::Timeout(String::new());
        let mut tries = Tries::default();
        assert!(tries.judge(&stalled, PROGRESS_BYTES).is_some());
        assert!(tries.judge(&stalled, 1000).is_none());
        // Four in a row end it, and progress counts anew.
        let broken = Failure::Broken(String::new());
        let mut tries = Tries::default();
        for gained in [0, 0, PROGRESS_BYTES, 0, 0] {
            assert!(tries.judge(&broken, gained).is_some());
        }
        assert!(tries.judge(&broken, PROGRESS_BYTES - 1).is_none());
    }

    #[test]
    fn only_a_hub_that_cannot_be_reached_is_absent() {
        let status = |status| Failure::Status {
            status,
            wait: None,
            said: String::new(),
        };
        let hash = ContentHash::parse(&"0".repeat(40)).unwrap();
        let text = String::new;
        for failure in [
            status(408),
            status(429),
            status(503),
            Failure::Timeout(text()),
            Failure::Broken(text()),
            Failure::Unreachable(text()),
        ] {
            assert!(failure.is_absence(), "{failure}");
        }
        for failure in [
            status(401),
            status(404),
            status(416),
            Failure::Answer(text()),
            Failure::Disk(text()),
            Failure::Model(text()),
            Failure::WrongHash {
                wanted: hash.clone(),
                found: hash,
                bytes: 0,
                is_sized: true,
            },
        ] {
            assert!(!failure.is_absence(), "{failure}");
        }
    }

    #[test]
    fn pauses_double_and_have_an_end() {
        let busy = |wait| Failure::Status {
            status: 429,
            wait,
            said: String::new(),
        };
        let pauses = [1, 2, 3].map(|failed| pause(&busy(None), failed).as_millis());
        assert_eq!(pauses, [500, 1000, 2000]);
        assert_eq!(pause(&busy(Some(3)), 1), Duration::from_secs(3));
        for hours in [3600, u64::MAX] {
            assert_eq!(pause(&busy(Some(hours)), 1), MAX_PAUSE);
            assert!(busy(Some(hours)).to_string().contains(&format!("{hours} s")));
        }
    }
}
