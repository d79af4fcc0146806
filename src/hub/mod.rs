//! Models by their id on the Hugging Face hub: found in the hub's local cache, else downloaded into it.
//!
//! [`Engine::from_hub`](crate::Engine::from_hub) opens a model by its id; [`fetch`] gives the folder:
//!
//! ```no_run
//! let folder = ropeway::hub::fetch("BAAI/bge-small-en-v1.5")?;
//! let report = ropeway::model::verify(&folder)?;
//! println!("{}: {} tensors", folder.display(), report.tensors);
//! # Ok::<(), ropeway::Error>(())
//! ```
//!
//! An id is `owner/name` or `owner/name@revision`, where a revision is a branch, a tag or a commit; where it is a full commit,
//! no other one is taken. Only the files that the engine reads are downloaded, the weights as safetensors alone. Each is
//! checked by the hash that the hub names it by before it gets its name; [`verify`] checks those that are there. A download
//! that was cut off, by Ctrl-C too, is gone on with by the next.
//!
//! # Environment
//!
//! The variables have the meaning that they have in the Python package huggingface_hub, whose cache this is. An empty one
//! counts as unset; *true* is `1`, `on`, `yes` or `true` in any case, and everything else false.
//!
//! | variable | default | |
//! |---|---|---|
//! | `HF_HUB_CACHE` | `$HF_HOME/hub` | the cache; `HUGGINGFACE_HUB_CACHE` is its older name |
//! | `HF_HOME` | `$XDG_CACHE_HOME/huggingface`, `~/.cache/huggingface` | cache and token |
//! | `HF_HUB_OFFLINE` | false | true: nothing is downloaded; `TRANSFORMERS_OFFLINE` where it is not set |
//! | `HF_ENDPOINT` | `https://huggingface.co` | the hub |
//! | `HF_TOKEN` | the file's | the user's token; `HUGGING_FACE_HUB_TOKEN` is its older name |
//! | `HF_TOKEN_PATH` | `$HF_HOME/token` | the file of the token |
//! | `HF_HUB_DISABLE_IMPLICIT_TOKEN` | false | true: no token is sent |
//! | `HF_HUB_ETAG_TIMEOUT` | 10 | seconds for connecting to the hub and for its answer to begin |
//! | `HF_HUB_DOWNLOAD_TIMEOUT` | 10 | seconds for connecting to where a file is, and without bytes of a body |
//! | `HF_HUB_DISABLE_SYMLINKS` | false | true: snapshots hold files and not links to blobs |
//! | `HTTP_PROXY`, `HTTPS_PROXY` | `ALL_PROXY` | the proxy for addresses of that scheme |
//! | `ALL_PROXY` | none | the proxy where the scheme has no other |
//! | `NO_PROXY` | none | hosts, domains, `HOST:PORT`, ranges (`10.0.0.0/8`) without a proxy, between commas; `*` is all |
//!
//! The names of the proxies may be in lower case too, which counts first, as for curl. `TRANSFORMERS_CACHE` is not read, as in
//! huggingface_hub.
//!
//! # Trust
//!
//! The token goes to the endpoint's own scheme, host and port alone. A server's answers are held to their known alphabets
//! and to stated limits before they are used; nothing is written outside the cache. `SECURITY.md` has the details.

mod address;
mod answers;
mod cache;
mod client;
mod deadline;
mod download;
mod failure;
#[cfg(feature = "inspect")]
#[doc(hidden)]
pub mod fuzzing;
mod hash;
mod names;
mod proxies;
mod settings;
#[cfg(test)]
mod testing;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Result};
use cache::{ModelCache, is_whole};
use client::Client;
use failure::without;
pub use hash::verify;
use names::{is_commit, parse_id};
use settings::Network;

/// How far the download of one file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// The file's path in the model's repository.
    pub file: &'a str,
    /// Bytes that are here.
    pub done_bytes: u64,
    /// Bytes in all; those that are here, where the server does not say how many there are.
    pub total_bytes: u64,
}

type Report = Arc<dyn Fn(&Progress<'_>) + Send + Sync>;

/// Settings of a download; see [`fetch`] for one with the defaults.
#[derive(Clone, Default)]
pub struct Downloader {
    offline: bool,
    whole: bool,
    report: Option<Report>,
}

impl Downloader {
    /// Downloads what is not in the cache, and reports to nobody.
    pub fn new() -> Downloader {
        Downloader::default()
    }

    /// Whether to take what is in the cache and download nothing; `false` if not set. `HF_HUB_OFFLINE=1` has the same
    /// effect.
    pub fn offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }

    /// Whether a hub that cannot be reached is an error although a copy is in the cache that another program made, of which
    /// it is not known whether it has all files; `false` if not set: the copy is taken, with a warning. Where the hub
    /// answers, but wrongly, or lists files that the copy lacks, that is an error in any case.
    pub fn whole(mut self, whole: bool) -> Self {
        self.whole = whole;
        self
    }

    /// Called while files are downloaded, on the thread that downloads.
    pub fn on_progress(mut self, report: impl Fn(&Progress<'_>) + Send + Sync + 'static) -> Self {
        self.report = Some(Arc::new(report));
        self
    }

    /// The folder of a model in the cache, into which it is downloaded if it is not there.
    ///
    /// # Errors
    /// [`Error::Hub`] for what is no id and for a model that cannot be had, with the way out.
    pub fn fetch(&self, id: impl AsRef<str>) -> Result<PathBuf> {
        self.fetch_model(id.as_ref())
    }

    fn fetch_model(&self, model: &str) -> Result<PathBuf> {
        let Some((id, revision)) = parse_id(model) else {
            return Err(hub_error(
                model,
                "is not a hub id; wanted `owner/name` or `owner/name@revision`",
            ));
        };
        // The hub takes a commit in any case; its name in the cache is in lower case.
        let lower = revision.to_ascii_lowercase();
        let revision = if is_commit(&lower) { &lower } else { revision };
        let all = settings::cache_folder();
        let cache = ModelCache::new(&all, id);
        let offline = self.offline || settings::is_offline();
        let in_cache = cache.find(revision);
        match in_cache {
            Some(folder) if offline || is_whole(&folder) => return Ok(folder),
            None if offline => {
                return Err(hub_error(
                    id,
                    format!(
                        "is not in the cache ({}) and downloads are off; run `ropeway models pull {model}` where there \
                         is a network, or give the folder of a copy",
                        all.display()
                    ),
                ));
            }
            _ => {}
        }
        let network = Network::from_env().map_err(|problem| hub_error(id, problem))?;
        let report = |progress: &Progress<'_>| {
            if let Some(report) = &self.report {
                report(progress);
            }
        };
        let client = Client::new(network);
        let downloaded = download::download(&client, &cache, id, revision, &report);
        let missed = match downloaded {
            Ok(folder) => return Ok(folder),
            Err(missed) => missed,
        };
        let problem = format!("{} cannot be had from the hub: {}", missed.what, missed.failure);
        let problem = without(client.token(), problem);
        match in_cache {
            Some(folder) if !self.whole && missed.leaves(&folder) => {
                let error = hub_error(id, problem);
                tracing::warn!(%error, "taking the cached copy, which may lack some files");
                Ok(folder)
            }
            Some(_) => Err(hub_error(
                id,
                format!(
                    "{problem} (there is a copy in the cache, which may lack files; HF_HUB_OFFLINE=1 takes it as it is)"
                ),
            )),
            None => Err(hub_error(id, problem)),
        }
    }
}

impl fmt::Debug for Downloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Downloader")
            .field("offline", &self.offline)
            .field("whole", &self.whole)
            .finish_non_exhaustive()
    }
}

/// The folder of a model in the hub's cache, into which it is downloaded if it is not there; [`Downloader`] has
/// settings for this.
///
/// # Errors
/// See [`Downloader::fetch`].
pub fn fetch(id: impl AsRef<str>) -> Result<PathBuf> {
    Downloader::new().fetch(id)
}

/// Whether this is written like an id, `owner/name` or `owner/name@revision`. A path may be written so as well.
pub fn is_id(text: &str) -> bool {
    parse_id(text).is_some()
}

fn hub_error(id: &str, problem: impl Into<String>) -> Error {
    Error::Hub {
        id: id.into(),
        problem: problem.into(),
    }
}
