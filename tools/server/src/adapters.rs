//! Adapters that are loaded and dropped while the server runs: from one folder, by their names in it, by who has an admin
//! key.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::extract::Path;
use axum::http::Response;
use ropeway::{Engine, Error};
use schemars::JsonSchema;
use serde::Serialize;

use crate::app::{Answer, App, Call};
use crate::failure::{Failure, Kind};
use crate::names::{listed, shown};
use crate::reply;

/// A folder of adapters, each a folder of its own, and which of them models have.
#[derive(Debug)]
pub struct AdapterFolder {
    path: PathBuf,
    /// Model and adapter. Held for a moment.
    loaded: Mutex<BTreeSet<(String, String)>>,
    /// Held while a file is read and an engine changed, which takes its time.
    changing: Mutex<()>,
}

impl AdapterFolder {
    /// Adapters are taken from this folder.
    pub fn new(path: impl Into<PathBuf>) -> AdapterFolder {
        AdapterFolder {
            path: path.into(),
            loaded: Mutex::default(),
            changing: Mutex::default(),
        }
    }

    /// Adds to an engine what this model had loaded: for one that is opened anew after its device was lost. What is not there
    /// any more is not loaded from then on, or the model would never be back for those who ask for something else; it is told.
    ///
    /// # Errors
    /// The device failed.
    pub fn restore(&self, model: &str, engine: &Engine, tell: impl Fn(&str)) -> ropeway::Result<()> {
        let _turn = self.turn();
        let loaded = self.loaded().clone();
        for adapter in loaded.iter().filter(|(of, _)| of == model) {
            let (_, name) = adapter;
            match engine.add_adapter(name, self.path.join(name)) {
                Ok(()) => {}
                Err(error @ (Error::Gpu { .. } | Error::DeviceLost(_))) => return Err(error),
                Err(error) => {
                    self.loaded().remove(adapter);
                    tell(&format!("model {} goes on without it: {error}", shown(model)));
                }
            }
        }
        Ok(())
    }

    fn loaded(&self) -> MutexGuard<'_, BTreeSet<(String, String)>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names of the folder's adapters.
    fn available(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let name = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            self.find(&name).map(|_| name)
        };
        let mut names: Vec<String> = entries.filter_map(name).collect();
        names.sort();
        names
    }

    /// The folder of an adapter: a name that is nothing but a name, of a folder that is there.
    fn find(&self, name: &str) -> Option<PathBuf> {
        let mut parts = FilePath::new(name).components();
        let plain = matches!(
            (parts.next(), parts.next()),
            (Some(Component::Normal(part)), None) if part.to_str() == Some(name)
        );
        let path = self.path.join(name);
        (plain && !name.starts_with('.') && path.is_dir()).then_some(path)
    }

    fn load(&self, model: &str, name: &str, engine: GetEngine<'_>) -> Result<(), Failure> {
        let path = self.find(name).ok_or_else(|| {
            let known = self.available();
            let known = match known.is_empty() {
                true => "it has none that can be loaded".to_owned(),
                false => format!("it has {}", listed(&known)),
            };
            Failure::new(
                Kind::NotFound,
                format!("the server's folder has no adapter `{}`; {known}", shown(name)),
            )
        })?;
        let _turn = self.turn();
        engine()?
            .add_adapter(name, path)
            .map_err(|error| refused(error, &self.path))?;
        self.loaded().insert((model.to_owned(), name.to_owned()));
        Ok(())
    }

    fn unload(&self, model: &str, name: &str, engine: GetEngine<'_>) -> Result<(), Failure> {
        let _turn = self.turn();
        let adapter = (model.to_owned(), name.to_owned());
        if !self.loaded().contains(&adapter) {
            let message = format!(
                "model {} has loaded no adapter `{}` from the server's folder",
                shown(model),
                shown(name)
            );
            return Err(Failure::new(Kind::NotFound, message));
        }
        engine()?.remove_adapter(name)?;
        self.loaded().remove(&adapter);
        Ok(())
    }
}

/// Why an adapter is not loaded. Files are told by their place in the folder of adapters: where that is, is the server's
/// affair.
fn refused(error: Error, folder: &FilePath) -> Failure {
    let inside = |path: PathBuf| match path.strip_prefix(folder) {
        Ok(inside) => inside.to_owned(),
        // A file of the model, which is somewhere else.
        Err(_) => path.file_name().unwrap_or_default().into(),
    };
    let error = match error {
        Error::Io { path, source } => Error::Io {
            path: inside(path),
            source,
        },
        Error::Model { path, problem } => Error::Model {
            path: inside(path),
            problem,
        },
        Error::Tensor {
            path,
            tensor,
            problem,
        } => Error::Tensor {
            path: inside(path),
            tensor,
            problem,
        },
        other => return other.into(),
    };
    Failure::new(Kind::Invalid, error.to_string())
}

/// Who may change adapters, and which there are.
pub struct Admin {
    /// Keys, of which a request has one. They are not those of [`Settings::api_keys`](crate::Settings::api_keys).
    pub keys: Vec<String>,
    /// Where adapters are taken from.
    pub adapters: Arc<AdapterFolder>,
}

/// The adapters that there are, and which of them models have loaded.
#[derive(Serialize, JsonSchema)]
pub struct AdapterList {
    /// Names that can be loaded.
    available: Vec<String>,
    loaded: Vec<LoadedAdapter>,
}

#[derive(Serialize, JsonSchema)]
struct LoadedAdapter {
    model: String,
    name: String,
}

fn folder(app: &App) -> Result<Arc<AdapterFolder>, Failure> {
    let admin = app.admin.as_ref().map(|admin| admin.adapters.clone());
    admin.ok_or_else(|| Failure::new(Kind::NotFound, "this server has no folder of adapters"))
}

/// `GET /v1/adapters`.
pub async fn list(call: Call) -> Answer {
    let folder = folder(&call.app)?;
    let list = move || AdapterList {
        available: folder.available(),
        loaded: folder
            .loaded()
            .iter()
            .cloned()
            .map(|(model, name)| LoadedAdapter { model, name })
            .collect(),
    };
    let list = tokio::task::spawn_blocking(list).await;
    reply::json(&list.map_err(Failure::internal)?)
}

/// Gives the model's engine. It is asked for when a change has its turn: while it waits, another engine may come in place of one
/// whose device was lost, for which that must not be held.
type GetEngine<'a> = &'a dyn Fn() -> Result<Arc<Engine>, Failure>;

type Change = fn(&AdapterFolder, &str, &str, GetEngine<'_>) -> Result<(), Failure>;

/// Changes a model's adapters, on a thread that may take its time.
async fn change(app: Arc<App>, model: String, name: String, change: Change) -> Answer {
    let folder = folder(&app)?;
    let work = move || {
        let served = app.model(Some(&model))?;
        change(&folder, &model, &name, &|| served.engine())
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Failure::internal)??;
    Ok(Response::new(Body::empty()))
}

/// `PUT /v1/adapters/{model}/{name}`.
pub async fn load(Path((model, name)): Path<(String, String)>, call: Call) -> Answer {
    change(call.app, model, name, AdapterFolder::load).await
}

/// `DELETE /v1/adapters/{model}/{name}`.
pub async fn unload(Path((model, name)): Path<(String, String)>, call: Call) -> Answer {
    change(call.app, model, name, AdapterFolder::unload).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_tell_files_by_their_place_in_the_folder_alone() {
        let long = format!("/srv/{}", "secret".repeat(200));
        for folder in ["/srv/secret", "/srv/se\u{7}cret", "secret", "ad", ".", &long] {
            let folder = FilePath::new(folder);
            let path = folder.join("bad/adapter_config.json");
            let problem = "adds nothing";
            for (error, wanted) in [
                (
                    Error::Model {
                        path: path.clone(),
                        problem: problem.into(),
                    },
                    "bad/adapter_config.json: adds nothing",
                ),
                (
                    Error::Tensor {
                        path: path.clone(),
                        tensor: "a.add".into(),
                        problem: problem.into(),
                    },
                    "bad/adapter_config.json: tensor `a.add`: adds nothing",
                ),
                (
                    Error::Io {
                        path,
                        source: std::io::ErrorKind::NotFound.into(),
                    },
                    "bad/adapter_config.json: entity not found",
                ),
                (
                    Error::Model {
                        path: "/srv/models/secret/model.safetensors".into(),
                        problem: problem.into(),
                    },
                    "model.safetensors: adds nothing",
                ),
            ] {
                let failure = refused(error, folder);
                assert_eq!((failure.kind, failure.message.as_str()), (Kind::Invalid, wanted));
            }
        }
    }

    #[test]
    fn only_names_of_the_folder_are_found() {
        let scratch = tempfile::tempdir().unwrap();
        let inside = scratch.path().join("inside");
        for folder in ["inside/legal", "inside/.hidden", "outside"] {
            fs::create_dir_all(scratch.path().join(folder)).unwrap();
        }
        fs::write(inside.join("file"), "").unwrap();
        let adapters = AdapterFolder::new(&inside);
        assert_eq!(adapters.available(), ["legal"]);
        assert!(adapters.find("legal").is_some());
        let outside = scratch.path().join("outside");
        for bad in [
            "",
            ".",
            "..",
            "../outside",
            "legal/",
            "legal/..",
            ".hidden",
            "file",
            "none",
            "a\0b",
            outside.to_str().unwrap(),
        ] {
            assert!(adapters.find(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn adapters_are_listed_while_one_is_being_loaded() {
        let folder = AdapterFolder::new("nowhere");
        let _turn = folder.turn();
        assert!(folder.loaded.try_lock().is_ok());
        assert_eq!(folder.available(), [""; 0]);
    }

    #[test]
    fn a_change_takes_the_engine_that_there_is_when_it_has_its_turn() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("legal")).unwrap();
        let folder = AdapterFolder::new(scratch.path());
        let loaded = ("tiny".to_owned(), "legal".to_owned());
        folder.loaded().insert(loaded.clone());
        let lost = || {
            assert!(folder.changing.try_lock().is_err(), "it is not its turn");
            Err(Failure::new(Kind::Unavailable, "lost"))
        };
        let changes: [Change; 2] = [AdapterFolder::load, AdapterFolder::unload];
        for change in changes {
            let failed = change(&folder, "tiny", "legal", &lost).unwrap_err();
            assert_eq!(failed.kind, Kind::Unavailable);
        }
        // What could not be dropped is there, and an engine that comes gets it.
        assert!(folder.loaded().contains(&loaded));
    }
}
