//! `ropeway serve`: models over HTTP.

use std::fs::{self, File, Metadata};
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ropeway::service::Service;
use ropeway_server::{AdapterFolder, Address, Admin, Limits, Model, Server, Settings};

use crate::exit::{self, Exit, note};
use crate::options::{RunOptions, positive};

/// Of the threads that compute: where one of them and one that talks to clients want the same core, it has a quarter of it.
#[cfg(target_os = "linux")]
const COMPUTE_NICENESS: i32 = 5;

/// The longest file of keys.
const KEY_BYTES: u64 = 64 << 10;

#[derive(clap::Args)]
pub struct Args {
    /// The name that requests have for the one --model, as in --model NAME=FOLDER_OR_ID [default: its last part]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Listen on this interface
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), env = "ROPEWAY_HOST", value_name = "ADDRESS")]
    host: IpAddr,

    /// Listen on this port; 0 takes a free one and prints it
    #[arg(
        long,
        default_value_t = 8080,
        env = "SAGEMAKER_BIND_TO_PORT",
        value_name = "PORT"
    )]
    port: u16,

    /// Listen on a socket in the file system instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["host", "port"])]
    unix_socket: Option<PathBuf>,

    /// Ask clients for one of the keys in this file or pipe, one per line, 64 KiB at most
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,

    /// Ask clients for this key; a command line can be seen by others, an environment less so
    #[arg(long, env = "ROPEWAY_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,

    /// Let those who have an admin key load and drop adapters of this folder, each a folder of its own
    #[arg(long, value_name = "FOLDER")]
    adapters_dir: Option<PathBuf>,

    /// The admin keys: a file or pipe as for --api-key-file
    #[arg(long, value_name = "FILE", requires = "adapters_dir")]
    admin_key_file: Option<PathBuf>,

    /// An admin key; a command line can be seen by others, an environment less so
    #[arg(long, env = "ROPEWAY_ADMIN_KEY", hide_env_values = true, value_name = "KEY")]
    admin_key: Option<String>,

    /// Passes that compute at the same time. With 2 or more, one is kept from long documents
    #[arg(long, value_name = "N", value_parser = positive, default_value_t = 1)]
    contexts: usize,

    /// Inputs that may wait [default: 16384]
    #[arg(long, value_name = "N", value_parser = positive)]
    queue_inputs: Option<usize>,

    /// Tokens that may wait [default: 32 times --batch-tokens]
    #[arg(long, value_name = "N", value_parser = positive)]
    queue_tokens: Option<usize>,

    /// Wait so many microseconds for other requests to share a pass
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0)]
    max_wait: u64,

    /// Bytes of the largest request
    #[arg(long, value_name = "BYTES", value_parser = positive, default_value_t = Limits::default().body_bytes)]
    max_body: usize,

    /// Bytes of the vectors of the largest request, as float32, with 128 more for each; of an answer of /tokenize or /decode as
    /// well
    #[arg(long, value_name = "BYTES", value_parser = positive, default_value_t = Limits::default().vector_bytes)]
    max_vectors: usize,

    /// Inputs of the largest request
    #[arg(long, value_name = "N", value_parser = positive, default_value_t = Limits::default().inputs)]
    max_inputs: usize,

    /// Connections at a time
    #[arg(long, value_name = "N", value_parser = positive, default_value_t = Limits::default().connections)]
    max_connections: usize,

    /// Write a line of JSON to standard error for each request, without its texts
    #[arg(long)]
    log: bool,
}

/// The name of a `--model` and where the model is: `NAME=FOLDER_OR_ID`, or the latter alone. A folder with `=` in its own
/// name is a folder.
fn named_model(given: &str) -> Result<(String, &str), Exit> {
    match given.split_once('=') {
        Some((name, model)) if !Path::new(given).is_dir() => match name.is_empty() || model.is_empty() {
            true => Err(Exit::usage(format!("--model {given}: wanted NAME=FOLDER_OR_ID"))),
            false => Ok((name.to_owned(), model)),
        },
        _ => Ok((last_part(given), given)),
    }
}

/// The name of a model whose user gave none: `jina-embeddings-v3` for that folder or hub id.
fn last_part(model: &str) -> String {
    let path = Path::new(model);
    let whole = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    match whole.file_name() {
        Some(name) => name.to_string_lossy().into_owned(),
        None => model.to_owned(),
    }
}

pub fn run(run: &RunOptions, args: Args) -> Result<(), Exit> {
    let address = match &args.unix_socket {
        Some(path) => Address::Unix(path.clone()),
        None => Address::Tcp(SocketAddr::new(args.host, args.port)),
    };
    let api_keys = keys("api", args.api_key.as_deref(), args.api_key_file.as_deref())?;
    let admin = admin(&args)?;
    let adapters = admin.as_ref().map(|admin| admin.adapters.clone());
    let named = run.models()?.into_iter().map(named_model);
    let mut named: Vec<(String, &str)> = named.collect::<Result<_, _>>()?;
    match (&args.name, &mut named[..]) {
        (None, _) => {}
        (Some(name), [(only, _)]) => *only = name.clone(),
        (Some(_), _) => {
            let message = "--name is for one model; name several with --model NAME=FOLDER_OR_ID";
            return Err(Exit::usage(message));
        }
    }
    let models = giving_way(|| -> Result<Vec<Model>, Exit> {
        let models = named.into_iter();
        let models = models.map(|(name, model)| open(&run.of_model(model), &args, name, adapters.clone()));
        models.collect()
    })?;
    let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
    let names = names.join(", ");
    let settings = Settings {
        address,
        models,
        api_keys,
        limits: Limits {
            body_bytes: args.max_body,
            vector_bytes: args.max_vectors,
            inputs: args.max_inputs,
            connections: args.max_connections,
            ..Limits::default()
        },
        log: args.log,
    };
    let mut server = Server::bind(settings).map_err(|e| Exit::usage(format!("cannot listen: {e}")))?;
    if let Some(admin) = admin {
        server = server.with_admin(admin);
    }
    if !run.quiet {
        note(&format!("serves {names} on {}", server.address()));
    }
    server.run().map_err(|e| Exit::output("the listening socket", &e))
}

/// The keys of the file and of the environment. An empty one, or a file without any, is a mistake: nobody who gives one means
/// a server that asks for none.
fn keys(kind: &str, key: Option<&str>, file: Option<&Path>) -> Result<Vec<String>, Exit> {
    if key.is_some_and(|key| key.trim_ascii().is_empty()) {
        return Err(Exit::usage(format!(
            "the key of --{kind}-key, or of ROPEWAY_{}_KEY, is empty; give one, or unset it",
            kind.to_uppercase()
        )));
    }
    // As the server reads the header in which a key comes.
    let mut keys: Vec<String> = key.into_iter().map(|key| key.trim_ascii().to_owned()).collect();
    if let Some(path) = file {
        let text = key_text(path).map_err(|problem| Exit::usage(format!("{}: {problem}", path.display())))?;
        // Some editors begin a file with the mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let lines = text.lines().map(str::trim_ascii).filter(|line| !line.is_empty());
        let before = keys.len();
        keys.extend(lines.map(str::to_owned));
        if keys.len() == before {
            let message = format!("{}: holds no key; write one per line", path.display());
            return Err(Exit::usage(message));
        }
    }
    Ok(keys)
}

/// What is in a file of keys, or comes through a pipe (`<(…)` of a shell). Any other file may have no end.
fn key_text(path: &Path) -> Result<String, String> {
    // Before it is opened: to open a device may do something.
    let meta = fs::metadata(path).map_err(|error| error.to_string())?;
    if !meta.is_file() && !is_pipe(&meta) {
        return Err("is neither a regular file nor a pipe; write keys to a file, one per line".into());
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    let read = file.take(KEY_BYTES + 1).read_to_end(&mut bytes);
    if read.map_err(|error| error.to_string())? as u64 > KEY_BYTES {
        return Err(format!(
            "has more than {KEY_BYTES} bytes; write keys alone to it, one per line"
        ));
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8; write keys to it as text, one per line".into())
}

#[cfg(unix)]
fn is_pipe(meta: &Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_fifo(&meta.file_type())
}

#[cfg(not(unix))]
fn is_pipe(_: &Metadata) -> bool {
    false
}

/// Who may change adapters, where there is a folder of them.
fn admin(args: &Args) -> Result<Option<Admin>, Exit> {
    let Some(folder) = &args.adapters_dir else {
        return Ok(None);
    };
    if !folder.is_dir() {
        return Err(Exit::usage(format!("{}: is no folder", folder.display())));
    }
    let keys = keys("admin", args.admin_key.as_deref(), args.admin_key_file.as_deref())?;
    if keys.is_empty() {
        let message =
            "--adapters-dir wants an admin key: add --admin-key-file FILE, or set ROPEWAY_ADMIN_KEY";
        return Err(Exit::usage(message));
    }
    Ok(Some(Admin {
        keys,
        adapters: Arc::new(AdapterFolder::new(folder)),
    }))
}

/// Calls a function whose threads give way to the rest of the process: those that compute, to those that talk to clients, so
/// that a refusal waits less for a core. Threads have the priority of the thread that starts them.
fn giving_way<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: no memory is touched. On Linux a priority belongs to a thread, and 0 is the calling one.
            #[cfg(target_os = "linux")]
            unsafe {
                libc::setpriority(libc::PRIO_PROCESS, 0, COMPUTE_NICENESS);
            }
            f()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Opens a model and starts its service, which opens it anew when its device is lost.
fn open(
    run: &RunOptions,
    args: &Args,
    name: String,
    adapters: Option<Arc<AdapterFolder>>,
) -> Result<Model, Exit> {
    let run = run.clone();
    let contexts = args.contexts;
    let engine = run.open_with(|builder| builder.concurrency(contexts))?;
    let mut builder = Service::builder()
        .max_wait(Duration::from_micros(args.max_wait))
        .reopen({
            let name = name.clone();
            move || {
                let opened = run.open_with(|builder| builder.concurrency(contexts));
                let engine =
                    opened.map_err(|exit| ropeway::Error::Device(exit::message(&exit).to_owned()))?;
                if let Some(adapters) = &adapters {
                    adapters.restore(&name, &engine, note)?;
                }
                Ok(engine)
            }
        });
    if let Some(inputs) = args.queue_inputs {
        builder = builder.queue_requests(inputs);
    }
    if let Some(tokens) = args.queue_tokens {
        builder = builder.queue_tokens(tokens);
    }
    let service = builder.start(engine)?;
    Ok(Model { name, service })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn keys_come_from_files_and_pipes_that_have_an_end() {
        use std::io::Write as _;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let read =
            |path: &Path| keys("api", None, Some(path)).map_err(|exit| exit::message(&exit).to_owned());
        fs::write(&path, "\u{feff}a\r\n\n b\u{a0} \n").unwrap();
        assert_eq!(read(&path), Ok(vec!["a".into(), "b\u{a0}".into()]));
        let longest = "é".repeat(KEY_BYTES as usize / 2);
        fs::write(&path, &longest).unwrap();
        assert_eq!(read(&path), Ok(vec![longest.clone()]));
        for (content, why) in [
            (format!("x{longest}").into_bytes(), "more than 65536 bytes"),
            (vec![0xff, b'\n'], "not UTF-8"),
            (b"\n \n".to_vec(), "holds no key"),
        ] {
            fs::write(&path, content).unwrap();
            assert!(read(&path).unwrap_err().contains(why), "{why}");
        }
        for (special, why) in [
            (Path::new("/dev/zero"), "neither a regular file nor a pipe"),
            (folder.path(), "neither a regular file"),
            (&folder.path().join("none"), "No such file"),
        ] {
            let problem = read(special).unwrap_err();
            assert!(problem.contains(why), "{problem}");
        }
        // What a shell makes of `<(…)`.
        for (bytes, wanted) in [(2, Ok(())), (1 << 20, Err(()))] {
            let (reader, mut writer) = std::io::pipe().unwrap();
            let descriptor = std::os::fd::AsRawFd::as_raw_fd(&reader);
            let name = format!("/dev/fd/{descriptor}");
            let written = std::thread::spawn(move || writer.write_all(&vec![b'k'; bytes]));
            let given = read(Path::new(&name)).map(|keys| assert_eq!(keys, ["kk"]));
            assert_eq!(
                given.map_err(|problem| assert!(problem.contains("more than"), "{problem}")),
                wanted
            );
            drop(reader);
            let _ = written.join().unwrap();
        }
    }

    #[test]
    fn models_are_named_by_the_last_part_of_where_they_are() {
        assert_eq!(last_part("jinaai/jina-embeddings-v3"), "jina-embeddings-v3");
        assert_eq!(last_part("/no/such/folder/"), "folder");
        let named = |given| named_model(given).map_err(|exit| exit::message(&exit).to_owned());
        assert_eq!(named("a=b=c"), Ok(("a".into(), "b=c")));
        assert_eq!(named("owner/name"), Ok(("name".into(), "owner/name")));
        for bad in ["=b", "a="] {
            assert!(named(bad).unwrap_err().contains("NAME=FOLDER_OR_ID"), "{bad}");
        }
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("a=b");
        fs::create_dir(&folder).unwrap();
        let folder = folder.to_str().unwrap();
        assert_eq!(named(folder), Ok(("a=b".into(), folder)));
    }
}
