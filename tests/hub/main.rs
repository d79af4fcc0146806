//! Models from a hub: a stand-in on the loopback address serves small ones, well and badly.
//!
//! The hub's settings are environment variables, so every fetch happens in a process of its own: this test binary, run
//! again for the one test [`child`].

#[path = "../common/mod.rs"]
mod common;

mod broken;
mod caches;
mod contents;
mod downloads;
mod hostile;
mod reply;
mod run;
mod stand_in;

use std::sync::{Arc, Mutex};

use ropeway::hub::{Downloader, Progress};
use serde_json::json;

/// Not a test by itself: fetches or opens the model that the environment names, and writes down what came of it.
#[test]
fn child() {
    let variable = |name: &str| std::env::var(name);
    let (Ok(model), Ok(result)) = (variable(run::MODEL), variable(run::RESULT)) else {
        return;
    };
    let reports = Arc::new(Mutex::new(Vec::new()));
    let report = {
        let reports = reports.clone();
        move |progress: &Progress<'_>| {
            let seen = (
                progress.file.to_owned(),
                progress.done_bytes,
                progress.total_bytes,
            );
            reports.lock().unwrap().push(seen);
        }
    };
    let answer = if variable(run::EMBEDS).is_ok() {
        let engine = run::builder().on_download(report).from_hub(&model);
        engine.and_then(run::bits).map(|bits| json!({ "bits": bits }))
    } else {
        let downloader = Downloader::new().whole(variable(run::WHOLE).is_ok());
        let folder = downloader.on_progress(report).fetch(&model);
        folder.map(|folder| json!({ "folder": folder.to_str().unwrap() }))
    };
    let mut answer = answer.unwrap_or_else(|error| json!({ "error": error.to_string() }));
    answer["reports"] = json!(*reports.lock().unwrap());
    std::fs::write(result, answer.to_string()).unwrap();
}
