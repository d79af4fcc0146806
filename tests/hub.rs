//! Models from a hub: a stand-in on the loopback address serves small ones, well and badly.
//!
//! The hub's settings are environment variables, so every open happens in a process of its own:
//! this test binary, run again for the one test [`child`].

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{Scratch, model, tiny};
use model_maker::{Family, Layout, ModelSpec};
use ropeway::hub::Progress;
use ropeway::{Device, Embed, Engine, EngineBuilder};
use serde_json::{Value, json};

/// What the child opens, and where it writes the result.
const MODEL: &str = "ROPEWAY_TEST_HUB_MODEL";
const RESULT: &str = "ROPEWAY_TEST_HUB_RESULT";

/// Not a test by itself: opens the model that the environment names and embeds a text.
#[test]
fn child() {
    let (Ok(model), Ok(result)) = (std::env::var(MODEL), std::env::var(RESULT)) else {
        return;
    };
    let whole = Arc::new(Mutex::new(Vec::new()));
    let report = {
        let whole = whole.clone();
        move |progress: &Progress<'_>| {
            if progress.done_bytes == progress.total_bytes {
                whole.lock().unwrap().push(progress.file.to_owned());
            }
        }
    };
    let engine = builder().on_download(report).from_hub(&model);
    let answer = match engine.and_then(bits) {
        Ok(bits) => json!({ "bits": bits, "downloaded": *whole.lock().unwrap() }),
        Err(error) => json!({ "error": error.to_string() }),
    };
    fs::write(result, answer.to_string()).unwrap();
}

fn builder() -> EngineBuilder {
    Engine::builder().device(Device::Cpu).threads(1)
}

/// The bits of one embedding by the model in a folder.
fn embed(folder: impl AsRef<Path>) -> ropeway::Result<Vec<u32>> {
    bits(builder().open(folder)?)
}

/// The bits of one embedding.
fn bits(engine: Engine) -> ropeway::Result<Vec<u32>> {
    let task = engine
        .config()
        .task_names()
        .first()
        .map_or(Embed::default(), |&task| Embed::task(task));
    let embedding = engine.embed(&["A text to embed."], &task)?.remove(0);
    Ok(embedding.into_f32()?.into_iter().map(f32::to_bits).collect())
}

/// Opens `model` in a process with this cache and these variables: the bits of an embedding, and the files whose
/// download was reported to its end.
fn open_in_child(
    home: &Path,
    endpoint: &str,
    model: &str,
    variables: &[(&str, &str)],
) -> Result<(Vec<u32>, Vec<String>), String> {
    let folder = Scratch::empty();
    let result = folder.path().join("result.json");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--test-threads=1"])
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    for name in [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "HF_TOKEN",
        "HF_HUB_OFFLINE",
    ] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command
        .env("HF_HOME", home)
        .env("HF_ENDPOINT", endpoint)
        .env(MODEL, model)
        .env(RESULT, &result)
        .envs(variables.iter().copied());
    let mut child = command.spawn().unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{model}: the child hangs");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let answer: Value = serde_json::from_slice(&fs::read(&result).expect("the child panicked")).unwrap();
    match answer["error"].as_str() {
        Some(error) => Err(error.to_owned()),
        None => Ok((
            serde_json::from_value(answer["bits"].clone()).unwrap(),
            serde_json::from_value(answer["downloaded"].clone()).unwrap(),
        )),
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Default, PartialEq)]
enum Fault {
    #[default]
    None,
    /// The first whole weights are cut off in the middle, against their announced length.
    Cut,
    /// The first whole weights are short, and nothing announced their length.
    Short,
    /// Every request without this token is refused.
    Gated(&'static str),
}

#[derive(Default)]
struct Repo {
    /// By revision, by path.
    files: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    fault: Fault,
}

/// One request as it came: path, `Range` and `Authorization`.
#[derive(Clone, Debug)]
struct Seen {
    path: String,
    range: String,
    authorization: String,
}

/// A hub with one model, `owner/name`.
struct Hub {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    home: Scratch,
}

impl Hub {
    fn serve(repo: Repo) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (seen, stop) = (seen.clone(), stop.clone());
            move || {
                let mut repo = repo;
                for stream in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    // A client that hangs up early is no concern of the hub.
                    let _ = answer(&mut repo, &seen, address, stream.unwrap());
                }
            }
        });
        Hub {
            address,
            seen,
            stop,
            thread: Some(thread),
            home: Scratch::empty(),
        }
    }

    fn of_folder(folder: &Path) -> Hub {
        Hub::serve(Repo {
            files: [("main".into(), read_folder(folder))].into(),
            ..Repo::default()
        })
    }

    fn open(&self, model: &str, variables: &[(&str, &str)]) -> Result<Vec<u32>, String> {
        self.open_and_list(model, variables).map(|(bits, _)| bits)
    }

    fn open_and_list(
        &self,
        model: &str,
        variables: &[(&str, &str)],
    ) -> Result<(Vec<u32>, Vec<String>), String> {
        open_in_child(
            self.home.path(),
            &format!("http://{}", self.address),
            model,
            variables,
        )
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How many requests came for whole files (not for their size alone) of this name.
    fn fetches(&self, file: &str) -> usize {
        let whole = |seen: &&Seen| seen.path.ends_with(file) && seen.range != "bytes=0-0";
        self.seen().iter().filter(whole).count()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().unwrap().join();
    }
}

fn read_folder(folder: &Path) -> BTreeMap<String, Vec<u8>> {
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

/// Answers one request and closes the connection.
fn answer(
    repo: &mut Repo,
    seen: &Mutex<Vec<Seen>>,
    address: SocketAddr,
    mut stream: TcpStream,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
    let (range, authorization) = (header("range"), header("authorization"));
    seen.lock().unwrap().push(Seen {
        path: path.clone(),
        range: range.clone(),
        authorization: authorization.clone(),
    });
    let mut respond = |status: &str, headers: &str, body: &[u8]| {
        write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n")?;
        stream.write_all(body)?;
        stream.shutdown(Shutdown::Both)
    };
    let with_length = |body: &[u8]| format!("Content-Length: {}\r\n", body.len());
    if matches!(repo.fault, Fault::Gated(token) if authorization != format!("Bearer {token}")) {
        return respond("401 Unauthorized", &with_length(b""), b"");
    }

    if let Some(revision) = path.strip_prefix("/api/models/owner/name/revision/") {
        let Some(files) = repo.files.get(&revision.replace("%2F", "/")) else {
            return respond("404 Not Found", &with_length(b""), b"");
        };
        let siblings: Vec<Value> = files.keys().map(|name| json!({ "rfilename": name })).collect();
        let body = json!({ "sha": sha(revision), "siblings": siblings }).to_string();
        return respond("200 OK", &with_length(body.as_bytes()), body.as_bytes());
    }
    // Large files are kept elsewhere, as on the real hub: `resolve` sends the client there.
    let (moved, rest) = match path.strip_prefix("/elsewhere") {
        Some(rest) => (true, rest),
        None => (false, path.as_str()),
    };
    let found = rest.strip_prefix("/owner/name/resolve/").and_then(|rest| {
        let (revision, name) = rest.split_once('/')?;
        let revision = revision.replace("%2F", "/");
        let bytes = repo.files.get(&revision)?.get(name)?;
        Some((sha(&revision), name, bytes))
    });
    let Some((commit, name, bytes)) = found else {
        return respond("404 Not Found", &with_length(b""), b"");
    };
    let etag = format!(
        "{:x}-{}",
        bytes.iter().fold(7u64, |h, &b| h.wrapping_mul(31) + u64::from(b)),
        name.len()
    );
    if name.ends_with(".safetensors") && !moved {
        let headers = format!(
            "Location: http://{address}/elsewhere{path}\r\nX-Repo-Commit: {commit}\r\nX-Linked-Etag: \"{etag}\"\r\n\
             Content-Length: 0\r\n"
        );
        return respond("302 Found", &headers, b"");
    }
    let (start, end) = range
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
        .unwrap_or(("0", ""));
    let start: usize = start.parse().unwrap();
    let end = end
        .parse()
        .map_or(bytes.len(), |last: usize| bytes.len().min(last + 1));
    if start >= bytes.len() {
        return respond("416 Range Not Satisfiable", &with_length(b""), b"");
    }
    let part = &bytes[start..end];
    let mut headers = format!(
        "ETag: \"{etag}\"\r\nX-Repo-Commit: {commit}\r\nContent-Range: bytes {start}-{}/{}\r\n",
        end - 1,
        bytes.len()
    );
    // Each of these happens once.
    let once = matches!(repo.fault, Fault::Cut | Fault::Short);
    let fault = if once && end == bytes.len() && name == "model.safetensors" {
        std::mem::take(&mut repo.fault)
    } else {
        Fault::None
    };
    let part = match fault {
        Fault::Cut | Fault::Short => &part[..part.len() / 2],
        _ => part,
    };
    if fault != Fault::Short {
        headers += &format!("Content-Length: {}\r\n", end - start);
    }
    respond("206 Partial Content", &headers, part)
}

fn sha(revision: &str) -> String {
    format!(
        "{:0<40x}",
        revision
            .bytes()
            .fold(7u64, |h, b| h.wrapping_mul(31) + u64::from(b))
    )
}

fn jina() -> PathBuf {
    model(&tiny(Family::Jina))
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, String>, words: &[&str]) {
    let error = result.unwrap_err();
    for word in words {
        assert!(error.contains(word), "no {word:?} in: {error}");
    }
    assert!(error.contains("`owner/name`"), "{error}");
}

#[test]
fn a_model_is_downloaded_once_and_then_needs_no_network() {
    let mut files = read_folder(&jina());
    for unwanted in [
        "pytorch_model.bin",
        "onnx/model.onnx",
        "README.md",
        "../adapter_model.safetensors",
    ] {
        files.insert(unwanted.into(), vec![1; 100]);
    }
    let hub = Hub::serve(Repo {
        files: [("main".into(), files)].into(),
        ..Repo::default()
    });
    let expected = embed(jina()).unwrap();
    let (bits, downloaded) = hub.open_and_list("owner/name", &[]).unwrap();
    assert_eq!(bits, expected);
    for file in ["config.json", "model.safetensors"] {
        assert!(downloaded.iter().any(|name| name == file), "{downloaded:?}");
    }
    let seen = hub.seen();
    for unwanted in ["pytorch", "onnx", "README", "adapter_model"] {
        assert!(
            !seen.iter().any(|s| s.path.contains(unwanted)),
            "{unwanted}: {seen:#?}"
        );
    }
    assert_eq!(
        hub.fetches("/model.safetensors"),
        2,
        "the redirect and the file: {seen:#?}"
    );
    assert!(seen.iter().all(|s| s.authorization.is_empty()));

    assert_eq!(
        hub.open_and_list("owner/name", &[]).unwrap(),
        (expected.clone(), Vec::new())
    );
    assert_eq!(
        hub.open("owner/name", &[("HF_HUB_OFFLINE", "1")]).unwrap(),
        expected
    );
    assert_eq!(hub.seen().len(), seen.len(), "the cache was not used");
}

#[test]
fn shards_and_subfolders_are_downloaded() {
    for spec in [
        ModelSpec {
            shards: 2,
            ..tiny(Family::Bert)
        },
        ModelSpec {
            layout: Layout::Native,
            ..tiny(Family::Jina)
        },
    ] {
        let folder = model(&spec);
        let hub = Hub::of_folder(&folder);
        assert_eq!(hub.open("owner/name", &[]).unwrap(), embed(&folder).unwrap());
        let wanted = if spec.family == Family::Bert {
            "1_Pooling/config.json"
        } else {
            "retrieval_query/adapter_model.safetensors"
        };
        assert!(hub.fetches(wanted) > 0);
    }
}

/// Other programs cache the weights of a model without the files that say how to pool.
#[test]
fn what_another_program_left_out_is_fetched() {
    let folder = model(&tiny(Family::Bert));
    let mut files = read_folder(&folder);
    let pooling = String::from_utf8(files["1_Pooling/config.json"].clone()).unwrap();
    let cls = pooling.replace("mean_tokens\": true", "mean_tokens\": false");
    let cls = cls.replace("cls_token\": false", "cls_token\": true");
    assert_ne!(cls, pooling);
    files.insert("1_Pooling/config.json".into(), cls.into_bytes());
    let repo = Repo {
        files: [("main".into(), files)].into(),
        ..Repo::default()
    };
    let hub = Hub::serve(repo);
    let expected = hub.open("owner/name", &[]).unwrap();
    assert_ne!(expected, embed(&folder).unwrap(), "cls is not mean");

    let snapshots = hub.home.path().join("hub/models--owner--name/snapshots");
    let snapshot = std::fs::read_dir(snapshots)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    for name in ["modules.json", "1_Pooling/config.json", ".ropeway-complete"] {
        std::fs::remove_file(snapshot.join(name)).unwrap();
    }
    let weights = hub.fetches("/model.safetensors");
    assert_eq!(hub.open("owner/name", &[]).unwrap(), expected);
    assert_eq!(
        hub.fetches("/model.safetensors"),
        weights,
        "the weights were there"
    );
    // Where there is no network a copy of the weights still serves.
    std::fs::remove_file(snapshot.join(".ropeway-complete")).unwrap();
    assert_eq!(
        hub.open("owner/name", &[("HF_ENDPOINT", "http://127.0.0.1:9")])
            .unwrap(),
        expected
    );
}

#[test]
fn a_revision_is_a_model_of_its_own() {
    let other = model(&ModelSpec {
        seed: 2,
        ..tiny(Family::Jina)
    });
    let files = [
        ("main".into(), read_folder(&jina())),
        ("refs/pr/1".into(), read_folder(&other)),
    ];
    let hub = Hub::serve(Repo {
        files: files.into(),
        ..Repo::default()
    });
    let (main, pr) = (embed(jina()).unwrap(), embed(&other).unwrap());
    assert_ne!(main, pr);
    assert_eq!(hub.open("owner/name@refs/pr/1", &[]).unwrap(), pr);
    assert_eq!(hub.open("owner/name", &[]).unwrap(), main);
    assert_eq!(
        hub.open("owner/name@refs/pr/1", &[("HF_HUB_OFFLINE", "1")])
            .unwrap(),
        pr
    );
    refused(
        hub.open("owner/name@v9", &[]),
        &["404", "check the id and the revision"],
    );
}

#[test]
fn offline_without_a_copy_says_what_to_do() {
    let hub = Hub::of_folder(&jina());
    let home = hub.home.path().to_str().unwrap();
    let words = [
        "is not in the cache",
        home,
        "ropeway models pull owner/name",
        "folder",
    ];
    refused(hub.open("owner/name", &[("HF_HUB_OFFLINE", "1")]), &words);
    assert!(hub.seen().is_empty());
}

#[test]
fn a_model_that_is_not_there_or_not_for_us_is_refused() {
    let hub = Hub::serve(Repo::default());
    refused(
        hub.open("owner/name", &[]),
        &["404", "check the id and the revision"],
    );

    let hub = Hub::serve(Repo {
        files: [("main".into(), read_folder(&jina()))].into(),
        fault: Fault::Gated("sesame"),
    });
    refused(hub.open("owner/name", &[]), &["401", "HF_TOKEN"]);
    refused(
        hub.open("owner/name", &[("HF_TOKEN", "wrong")]),
        &["401", "HF_TOKEN"],
    );
    assert_eq!(
        hub.open("owner/name", &[("HF_TOKEN", "sesame")]).unwrap(),
        embed(jina()).unwrap()
    );

    let mut files = read_folder(&jina());
    let weights = files.remove("model.safetensors").unwrap();
    files.insert("pytorch_model.bin".into(), weights);
    let hub = Hub::serve(Repo {
        files: [("main".into(), files)].into(),
        ..Repo::default()
    });
    refused(hub.open("owner/name", &[]), &["no safetensors weights"]);

    let mut files = read_folder(&model(&ModelSpec {
        shards: 2,
        ..tiny(Family::Bert)
    }));
    files.remove("model-00001-of-00002.safetensors").unwrap();
    let hub = Hub::serve(Repo {
        files: [("main".into(), files)].into(),
        ..Repo::default()
    });
    refused(hub.open("owner/name", &[]), &["lacks", "weights"]);
}

#[test]
fn a_hub_that_does_not_answer_is_reported() {
    // Bound once, so that the port is one that nobody listens on.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let home = Scratch::empty();
    let result = open_in_child(home.path(), &format!("http://{address}"), "owner/name", &[]);
    refused(result, &["refused", "check the network", "HF_ENDPOINT"]);
}

#[test]
fn a_download_that_is_cut_off_fails_and_the_next_one_completes() {
    let expected = embed(jina()).unwrap();
    for fault in [Fault::Cut, Fault::Short] {
        let hub = Hub::serve(Repo {
            files: [("main".into(), read_folder(&jina()))].into(),
            fault,
        });
        refused(
            hub.open("owner/name", &[]),
            &["model.safetensors", "broke off", "try again"],
        );
        assert_eq!(hub.open("owner/name", &[]).unwrap(), expected);
        let resumed = hub
            .seen()
            .iter()
            .any(|s| !matches!(s.range.as_str(), "" | "bytes=0-0" | "bytes=0-"));
        assert_eq!(resumed, fault == Fault::Cut, "{:#?}", hub.seen());
    }
}

#[test]
fn a_part_that_is_whole_or_too_long_is_fetched_anew() {
    let expected = embed(jina()).unwrap();
    for more in [0, 5] {
        let hub = Hub::serve(Repo {
            files: [("main".into(), read_folder(&jina()))].into(),
            fault: Fault::Cut,
        });
        hub.open("owner/name", &[]).unwrap_err();
        let blobs = hub.home.path().join("hub/models--owner--name/blobs");
        let part = fs::read_dir(blobs)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().is_some_and(|e| e == "part"))
            .unwrap();
        let length = fs::metadata(jina().join("model.safetensors")).unwrap().len();
        // Full length, but not its bytes: it must not become the model.
        fs::File::options()
            .write(true)
            .open(part)
            .unwrap()
            .set_len(length + more)
            .unwrap();
        assert_eq!(hub.open("owner/name", &[]).unwrap(), expected);
    }
}
