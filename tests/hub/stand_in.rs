//! A hub on the loopback address, with large files on another origin as on the real one, and whatever faults a test asks for.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use serde_json::{Value, json};

use crate::common::Scratch;
pub use crate::reply::{Reply, Request, Sends, ranged};
use crate::run::{self, Fetched, Running};

pub type Files = BTreeMap<String, Vec<u8>>;

/// What is served.
pub struct Repo {
    /// By revision, by path.
    files: BTreeMap<String, Files>,
    /// Where large files are.
    elsewhere: String,
}

impl Repo {
    /// The right answer.
    pub fn answer(&self, request: &Request) -> Reply {
        if let Some(revision) = request.path.strip_prefix("/api/models/owner/name/revision/") {
            let revision = revision.replace("%2F", "/");
            let found = self
                .files
                .iter()
                .find(|(name, _)| **name == revision || commit(name) == revision);
            let Some((name, files)) = found else {
                return Reply::new(404, "").with("X-Error-Message", "Invalid rev id");
            };
            return Reply::new(200, listing(&commit(name), files.keys().map(String::as_str)));
        }
        let found = request
            .path
            .strip_prefix("/owner/name/resolve/")
            .and_then(|rest| {
                let (wanted, name) = rest.split_once('/')?;
                let (revision, files) = self.files.iter().find(|(name, _)| commit(name) == wanted)?;
                Some((commit(revision), name, files.get(name)?))
            });
        let Some((commit, name, bytes)) = found else {
            return Reply::new(404, "");
        };
        let reply = if name.ends_with(".safetensors") && !request.elsewhere {
            return Reply::redirect(format!("{}{}", self.elsewhere, request.path))
                .with("ETag", "\"of the redirect\"")
                .with("X-Linked-ETag", format!("\"{}\"", sha256(bytes)))
                .with("X-Linked-Size", bytes.len().to_string())
                .with("X-Repo-Commit", commit);
        } else if request.elsewhere {
            // What another origin says of the file is not the hub's word.
            Reply::new(200, bytes.as_slice())
                .with("ETag", "\"../../elsewhere\"")
                .with("X-Repo-Commit", "..")
        } else {
            Reply::new(200, bytes.as_slice())
                .with("ETag", format!("\"{}\"", git_sha1(bytes)))
                .with("X-Repo-Commit", commit)
        };
        ranged(reply, request)
    }
}

pub fn listing<'n>(commit: &str, names: impl Iterator<Item = &'n str>) -> String {
    let siblings: Vec<Value> = names.map(|name| json!({ "rfilename": name })).collect();
    json!({ "sha": commit, "siblings": siblings }).to_string()
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes))
}

pub fn git_sha1(bytes: &[u8]) -> String {
    let blob = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, &blob))
}

/// The commit of a revision.
pub fn commit(revision: &str) -> String {
    git_sha1(revision.as_bytes())
}

pub fn read_folder(folder: &Path) -> Files {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            for (file, bytes) in read_folder(&path) {
                files.insert(format!("{name}/{file}"), bytes);
            }
        } else {
            files.insert(name, fs::read(&path).unwrap());
        }
    }
    files
}

/// What a test does with a request in place of the right answer; `None` where it leaves it.
pub type Fault = Box<dyn Fn(&Request, &Repo) -> Option<Reply> + Send + Sync>;

/// The first so many times, `fault`; then the right answers.
pub fn first(
    times: usize,
    fault: impl Fn(&Request, &Repo) -> Option<Reply> + Send + Sync + 'static,
) -> Fault {
    let count = AtomicUsize::new(0);
    Box::new(move |request, repo| {
        let reply = fault(request, repo)?;
        (count.fetch_add(1, Ordering::SeqCst) < times).then_some(reply)
    })
}

/// Always `fault`.
pub fn always(fault: impl Fn(&Request, &Repo) -> Option<Reply> + Send + Sync + 'static) -> Fault {
    Box::new(fault)
}

/// A hub with one model, `owner/name`, and a cache to fetch it into.
pub struct Hub {
    pub address: SocketAddr,
    pub elsewhere: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    pub home: Scratch,
}

impl Hub {
    /// Serves revisions, with large files at the other origin under the name `host`.
    pub fn at(host: &str, files: impl Into<BTreeMap<String, Files>>, fault: Fault) -> Hub {
        let bind = |host: &str| TcpListener::bind((host, 0)).unwrap();
        let listeners = [
            bind("127.0.0.1"),
            bind(if host == "127.0.0.2" { host } else { "127.0.0.1" }),
        ];
        let [address, elsewhere] = [0, 1].map(|n: usize| listeners[n].local_addr().unwrap());
        let repo = Arc::new((
            Repo {
                files: files.into(),
                elsewhere: format!("http://{host}:{}", elsewhere.port()),
            },
            fault,
        ));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let serve = |(n, listener): (usize, TcpListener)| {
            let (repo, seen, stop) = (repo.clone(), seen.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut answers = Vec::new();
                for stream in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let (repo, seen, stop) = (repo.clone(), seen.clone(), stop.clone());
                    answers.push(std::thread::spawn(move || {
                        // A client that hangs up early is no concern of the hub.
                        let _ = answer(&repo.0, &repo.1, &seen, &stop, stream.unwrap(), n == 1);
                    }));
                }
                for answer in answers {
                    answer.join().unwrap();
                }
            })
        };
        let threads = listeners.into_iter().enumerate().map(serve).collect();
        Hub {
            address,
            elsewhere,
            seen,
            stop,
            threads,
            home: Scratch::empty(),
        }
    }

    pub fn of(files: Files) -> Hub {
        Hub::faulty(files, always(|_, _| None))
    }

    pub fn faulty(files: Files, fault: Fault) -> Hub {
        Hub::at("127.0.0.1", [("main".into(), files)], fault)
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Starts a fetch from here into the cache here.
    pub fn start(&self, model: &str, variables: &[(&str, &str)]) -> Running {
        let endpoint = self.endpoint();
        let mut all = vec![
            ("HF_ENDPOINT", endpoint.as_str()),
            ("HF_HOME", self.home.path().to_str().unwrap()),
        ];
        all.extend(variables);
        run::start(model, &all)
    }

    pub fn fetch(&self, variables: &[(&str, &str)]) -> Result<Fetched, String> {
        self.start("owner/name", variables).end()
    }

    /// Fetches, opens and embeds.
    pub fn embed(&self, model: &str, variables: &[(&str, &str)]) -> Result<Fetched, String> {
        let variables = [variables, &[(run::EMBEDS, "1")]].concat();
        self.start(model, &variables).end()
    }

    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    /// How many requests came for listings and files of which the path ends so.
    pub fn requests(&self, end: &str) -> usize {
        self.seen().iter().filter(|seen| seen.path.ends_with(end)).count()
    }

    /// The `Range` of each request to the other origin.
    pub fn ranges(&self) -> Vec<String> {
        let seen = self.seen().into_iter().filter(|seen| seen.elsewhere);
        seen.map(|seen| seen.header("range").to_owned()).collect()
    }

    /// The model's folder in the cache.
    pub fn cached(&self) -> std::path::PathBuf {
        self.home.path().join("hub/models--owner--name")
    }

    pub fn snapshot(&self) -> std::path::PathBuf {
        self.cached().join("snapshots").join(commit("main"))
    }

    /// The parts of files in the cache, and their lengths.
    pub fn parts(&self) -> Vec<(std::path::PathBuf, u64)> {
        let Ok(blobs) = fs::read_dir(self.cached().join("blobs")) else {
            return Vec::new();
        };
        let parts = blobs
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.path().extension().is_some_and(|end| end == "incomplete"));
        parts
            .map(|entry| (entry.path(), entry.metadata().unwrap().len()))
            .collect()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for address in [self.address, self.elsewhere] {
            let _ = TcpStream::connect(address);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Answers one request and closes the connection.
fn answer(
    repo: &Repo,
    fault: &Fault,
    seen: &Mutex<Vec<Request>>,
    stop: &AtomicBool,
    stream: TcpStream,
    elsewhere: bool,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(&stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let request = Request {
        path: first.split(' ').nth(1).unwrap_or_default().to_owned(),
        headers,
        elsewhere,
    };
    if request.path.is_empty() {
        return Ok(());
    }
    assert!(request.is_listing() || request.path.contains("/resolve/") || request.path.contains("/hop"));
    seen.lock().unwrap().push(request.clone());
    let reply = fault(&request, repo).unwrap_or_else(|| repo.answer(&request));
    reply.write(&stream, stop)
}
