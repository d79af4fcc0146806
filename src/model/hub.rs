//! From a folder or a hub id to a folder: the hub's local cache first, then a download into it.

use std::io;
use std::path::{Path, PathBuf};

use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use crate::error::{Error, Result};

/// Called during a download: file, bytes done, bytes in all.
pub type OnProgress<'a> = &'a mut dyn FnMut(&str, usize, usize);

/// The folder of a model: `model` itself if it is one, else the hub's model of that id
/// (`owner/name`, `owner/name@revision`), from the cache or, unless `offline`, downloaded.
///
/// The hub's usual environment variables hold: `HF_HOME` (cache), `HF_ENDPOINT`, `HF_TOKEN`,
/// `HF_HUB_OFFLINE`.
///
/// # Errors
/// [`Error::Model`] for what is neither a folder nor an id, [`Error::Hub`] for an id that cannot be
/// had, with the way out.
pub fn resolve(model: &str, offline: bool, progress: OnProgress<'_>) -> Result<PathBuf> {
    let path = Path::new(model);
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    if path.is_file() {
        return Err(Error::model(path, "is a file; give the model's folder"));
    }
    let Some((id, revision)) = parse_id(model) else {
        return Err(Error::model(
            path,
            "is neither a folder nor a hub id (`owner/name`)",
        ));
    };
    let repo = Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned());
    let cache = Cache::from_env();
    let offline = offline || std::env::var("HF_HUB_OFFLINE").is_ok_and(|v| !matches!(v.as_str(), "" | "0"));
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
    match (
        download(id, &api.repo(repo.clone()), &cache.repo(repo), progress),
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
    let index = super::read_json(&folder.join("model.safetensors.index.json")).ok()?;
    let shards = index.get("weight_map")?.as_object()?;
    shards
        .values()
        .all(|shard| shard.as_str().is_some_and(|s| folder.join(s).exists()))
        .then_some(folder)
}

fn download(id: &str, api: &ApiRepo, cache: &CacheRepo, progress: OnProgress<'_>) -> Result<PathBuf> {
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
            fetch(api, cache, name, &mut *progress).map_err(|e| explain(id, name, e))?;
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
fn fetch(api: &ApiRepo, cache: &CacheRepo, name: &str, progress: OnProgress<'_>) -> Result<(), ApiError> {
    let mut retried = false;
    loop {
        let mut bar = Bar {
            file: name,
            done: 0,
            total: 0,
            report: &mut *progress,
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
    report: OnProgress<'a>,
}

impl Progress for &mut Bar<'_> {
    fn init(&mut self, size: usize, _: &str) {
        self.total = size;
        (self.report)(self.file, 0, size);
    }

    fn update(&mut self, size: usize) {
        self.done += size;
        (self.report)(self.file, self.done, self.total);
    }

    fn finish(&mut self) {
        (self.report)(self.file, self.total, self.total);
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
