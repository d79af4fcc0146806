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
//! An id is `owner/name` or `owner/name@revision`, where a revision is a branch, a tag or a commit. Only the files that
//! the engine reads are downloaded, the weights as safetensors alone.
//!
//! The hub's usual environment variables hold: `HF_HOME` (the cache), `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use crate::error::{Error, Result};

/// How far the download of one file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// The file's path in the model's repository.
    pub file: &'a str,
    /// Bytes that are here.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

type Report = Arc<dyn Fn(&Progress<'_>) + Send + Sync>;

/// Settings of a download; see [`fetch`] for one with the defaults.
#[derive(Clone, Default)]
pub struct Downloader {
    offline: bool,
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
        let repo = Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned());
        let cache = Cache::from_env();
        let offline =
            self.offline || std::env::var("HF_HUB_OFFLINE").is_ok_and(|v| !matches!(v.as_str(), "" | "0"));
        // Another program may have cached the weights without the files that say how to pool and what to
        // put before a text. Only a download of our own is known to be whole.
        let in_cache = cached(&cache.repo(repo.clone()));
        match &in_cache {
            Some(folder) if offline || folder.join(WHOLE).exists() => return Ok(folder.clone()),
            _ => {}
        }
        if offline {
            return Err(hub_error(
                id,
                format!(
                    "is not in the cache ({}) and downloads are off; run `ropeway models pull {model}` where there is a \
                     network, or give the folder of a copy",
                    cache.path().display()
                ),
            ));
        }
        let token = std::env::var("HF_TOKEN")
            .ok()
            .filter(|t| !t.is_empty())
            .or_else(|| cache.token());
        let api = ApiBuilder::from_env()
            .with_token(token)
            .with_progress(false)
            .build()
            .map_err(|e| hub_error(id, format!("the download cannot be set up: {e}")))?;
        let report = |progress: &Progress<'_>| {
            if let Some(report) = &self.report {
                report(progress);
            }
        };
        match (
            download(id, &api.repo(repo.clone()), &cache.repo(repo), &report),
            in_cache,
        ) {
            (Ok(folder), _) => Ok(folder),
            (Err(error), Some(folder)) => {
                tracing::warn!(%error, "taking the cached copy, which may lack some files");
                Ok(folder)
            }
            (Err(error), None) => Err(error),
        }
    }
}

impl fmt::Debug for Downloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Downloader")
            .field("offline", &self.offline)
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

/// Marks a cached model that was downloaded by this engine, with all the files it reads.
const WHOLE: &str = ".ropeway-complete";

/// `owner/name` or `owner/name@revision`.
fn parse_id(model: &str) -> Option<(&str, &str)> {
    let (id, revision) = model.split_once('@').unwrap_or((model, "main"));
    let (owner, name) = id.split_once('/')?;
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    // A branch may hold slashes (`refs/pr/1`); as a part of the cache's paths it stays inside them.
    (plain(owner) && plain(name) && revision.split('/').all(plain)).then_some((id, revision))
}

/// The snapshot folder, if everything is there. Weights are downloaded last, so that where they
/// are, the rest is.
fn cached(repo: &CacheRepo) -> Option<PathBuf> {
    let config = repo.get("config.json")?;
    let folder = config.parent()?.to_owned();
    if folder.join("model.safetensors").exists() {
        return Some(folder);
    }
    let index = crate::model::read_json(&folder.join("model.safetensors.index.json")).ok()?;
    let shards = index.get("weight_map")?.as_object()?;
    shards
        .values()
        .all(|shard| shard.as_str().is_some_and(|s| folder.join(s).exists()))
        .then_some(folder)
}

fn download(id: &str, api: &ApiRepo, cache: &CacheRepo, report: &dyn Fn(&Progress<'_>)) -> Result<PathBuf> {
    let info = api.info().map_err(|e| explain(id, "its list of files", e))?;
    let mut files: Vec<String> = info
        .siblings
        .into_iter()
        .map(|file| file.rfilename)
        .filter(|name| wanted(name))
        .collect();
    if !files.iter().any(|name| is_root_weights(name)) {
        return Err(hub_error(
            id,
            "has no safetensors weights; only models saved with safetensors are read",
        ));
    }
    files.sort_by_key(|name| (is_root_weights(name), name.clone()));
    for name in &files {
        if cache.get(name).is_none() {
            fetch_file(api, cache, name, report).map_err(|e| explain(id, name, e))?;
        }
    }
    let folder = cached(cache)
        .ok_or_else(|| hub_error(id, "was downloaded, but lacks config.json or some of its weights"))?;
    // Without the mark the next call asks the hub again, and that is all.
    if let Err(error) = std::fs::write(folder.join(WHOLE), "") {
        tracing::debug!(%error, "the cached copy cannot be marked as whole");
    }
    Ok(folder)
}

/// Downloads one file, going on where an earlier attempt was cut off.
fn fetch_file(
    api: &ApiRepo,
    cache: &CacheRepo,
    name: &str,
    report: &dyn Fn(&Progress<'_>),
) -> Result<(), ApiError> {
    let mut retried = false;
    loop {
        let mut bar = Bar {
            file: name,
            done: 0,
            total: 0,
            report,
        };
        let problem = match api.download_with_progress(name, &mut bar) {
            Ok(path) => {
                let length = path.metadata()?.len();
                if length == bar.total as u64 {
                    return Ok(());
                }
                // The client takes whatever came for the whole. Nothing of it is to stay in the cache.
                if let Ok(blob) = path.canonicalize() {
                    std::fs::remove_file(blob)?;
                }
                std::fs::remove_file(&path)?;
                let problem = format!("{length} of {} bytes came", bar.total);
                ApiError::IoError(io::Error::new(io::ErrorKind::UnexpectedEof, problem))
            }
            Err(problem) => problem,
        };
        // A part that is whole already, or longer, cannot be gone on with: it is fetched anew.
        let stuck = matches!(problem, ApiError::InvalidResume) || problem.to_string().contains("416");
        if !stuck || retried {
            return Err(problem);
        }
        retried = true;
        drop_parts(cache)?;
    }
}

/// Removes what cut-off downloads left of a model's files.
fn drop_parts(cache: &CacheRepo) -> io::Result<()> {
    let snapshot = cache.pointer_path("any");
    let Some(repo) = snapshot.parent().and_then(Path::parent) else {
        return Ok(());
    };
    for entry in std::fs::read_dir(repo.join("blobs"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "part") {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The files the engine reads.
fn wanted(name: &str) -> bool {
    const ROOT: [&str; 8] = [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "modules.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "model.safetensors.index.json",
    ];
    match name.split_once('/') {
        None => ROOT.contains(&name) || is_root_weights(name),
        // Pooling modules (`1_Pooling/config.json`) and PEFT folders.
        Some((folder, file)) => match file {
            "config.json" => folder
                .split_once('_')
                .is_some_and(|(n, _)| n.parse::<u32>().is_ok()),
            "adapter_config.json" | "adapter_model.safetensors" => !folder.starts_with('.'),
            _ => false,
        },
    }
}

/// `model.safetensors` or a shard of it.
fn is_root_weights(name: &str) -> bool {
    let stem = name
        .strip_prefix("model")
        .and_then(|rest| rest.strip_suffix(".safetensors"));
    stem.is_some_and(|stem| stem.is_empty() || stem.starts_with('-'))
}

fn hub_error(id: &str, problem: impl Into<String>) -> Error {
    Error::Hub {
        id: id.into(),
        problem: problem.into(),
    }
}

fn explain(id: &str, what: &str, error: ApiError) -> Error {
    let text = error.to_string();
    let way_out = if text.contains("401") || text.contains("403") {
        "; the model is gated or does not exist: accept its terms on the hub and set HF_TOKEN"
    } else if text.contains("404") {
        "; check the id and the revision"
    } else if is_cut(&error) {
        "; the connection broke off: try again, what came is kept"
    } else if matches!(error, ApiError::IoError(_) | ApiError::LockAcquisition(_)) {
        "; check the cache folder (HF_HOME): is it writable, is the disk full, is another download running?"
    } else {
        "; check the network (HF_ENDPOINT, proxy), or give the folder of a copy of the model"
    };
    hub_error(id, format!("{what} cannot be had from the hub: {text}{way_out}"))
}

/// Whether reading from the network failed, not writing to the disk.
fn is_cut(error: &ApiError) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof};
    let cut = [
        UnexpectedEof,
        ConnectionReset,
        ConnectionAborted,
        BrokenPipe,
        TimedOut,
    ];
    matches!(error, ApiError::IoError(e) if cut.contains(&e.kind()))
}

struct Bar<'a> {
    file: &'a str,
    done: usize,
    total: usize,
    report: &'a dyn Fn(&Progress<'_>),
}

impl Bar<'_> {
    fn report(&self) {
        (self.report)(&Progress {
            file: self.file,
            done_bytes: self.done as u64,
            total_bytes: self.total as u64,
        });
    }
}

impl hf_hub::api::Progress for &mut Bar<'_> {
    fn init(&mut self, size: usize, _: &str) {
        self.total = size;
        self.report();
    }

    fn update(&mut self, size: usize) {
        self.done += size;
        self.report();
    }

    fn finish(&mut self) {
        self.done = self.total;
        self.report();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_paths() {
        assert_eq!(
            parse_id("jinaai/jina-embeddings-v3"),
            Some(("jinaai/jina-embeddings-v3", "main"))
        );
        assert_eq!(parse_id("a/b@v1.0"), Some(("a/b", "v1.0")));
        for path in [
            "model",
            "./model",
            "../a/b",
            "/a/b",
            "a/b/c",
            "a/",
            "a/b@",
            "a b/c",
            "a/b@..",
            "a/b@/c",
            "a/b@c/../d",
        ] {
            assert_eq!(parse_id(path), None, "{path}");
        }
    }

    #[test]
    fn only_files_the_engine_reads_are_downloaded() {
        let yes = [
            "config.json",
            "model.safetensors",
            "model-00001-of-00002.safetensors",
            "1_Pooling/config.json",
            "retrieval_query/adapter_model.safetensors",
        ];
        let no = [
            "pytorch_model.bin",
            "onnx/model.onnx",
            "README.md",
            "openvino/config.json",
            "a/b/config.json",
            "../adapter_model.safetensors",
        ];
        assert!(yes.iter().all(|name| wanted(name)));
        assert!(!no.iter().any(|name| wanted(name)));
    }
}
