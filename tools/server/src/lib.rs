//! ropeway over HTTP: `ropeway serve`.
//!
//! Clients of OpenAI, Jina, Cohere, text-embeddings-inference and SageMaker are served as they are, but for their base URL.
//! Every input of a request is a request of its own to the model's [`Service`](ropeway::service::Service), which merges those
//! of all clients into passes.
//!
//! | route | |
//! |---|---|
//! | `POST /v1/embeddings`, `/embeddings` | OpenAI's and Jina's fields, and ropeway's: `adapters`, `chunks`, `pooling`, `prompt`, `any_dimensions`, `priority`, `deadline_ms` |
//! | `GET /v1/models`, `/v1/models/{name}` | OpenAI's |
//! | `POST /v2/embed`, `/v1/embed` | Cohere's |
//! | `POST /embed`, `/embed_all`, `/similarity`, `/tokenize`, `/decode`, `GET /info` | text-embeddings-inference's |
//! | `GET /ping`, `POST /invocations` | SageMaker's |
//! | `GET /v1/adapters`, `PUT` and `DELETE /v1/adapters/{model}/{name}` | adapters, loaded and dropped by who has an admin key |
//! | `GET /` | the page for people; for programs as `/health` |
//! | `GET /ready`, `/health` | 200 where requests can be served; a full queue still can, a lost GPU cannot |
//! | `GET /live` | 200 while the process answers |
//! | `GET /metrics` | Prometheus |
//! | `GET /openapi.json` | all of this, for programs |
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod adapters;
mod app;
mod body;
mod cohere;
mod connections;
mod embed;
mod failure;
mod inputs;
mod log;
mod metrics;
mod models;
mod names;
mod openai;
mod openapi;
mod page;
mod reply;
mod room;
mod routes;
mod tei;
mod tokens;
mod vectors;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::Notify;

use app::App;
use connections::Listener;
use log::Log;

pub use adapters::{AdapterFolder, Admin};
pub use app::Model;

/// Bounds on what clients can ask for.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request's body, after decompression. Eight times as many are held at a time, for all requests together, besides
    /// the first 64 KiB of each.
    pub body_bytes: usize,
    /// Bytes of a request's vectors, as float32, with 128 more for each, and of an answer of `/tokenize` or `/decode`. Eight
    /// times as many are held at a time, for all requests together, besides the first 64 KiB of each, until they are sent.
    pub vector_bytes: usize,
    /// Inputs of a request.
    pub inputs: usize,
    /// Connections at a time; further ones wait.
    pub connections: usize,
    /// Time for the head of a request, and between requests of a connection.
    pub head_time: Duration,
    /// Time for the body of a request, and for a client to take some of a response.
    pub body_time: Duration,
    /// Time for the requests that are being served when the server is to end.
    pub drain_time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            body_bytes: 25 << 20,
            // 15,887 of 1024 dimensions: one for each token of one document of 8192 tokens, not of two.
            vector_bytes: 64 << 20,
            inputs: 2048,
            connections: 4096,
            // Load balancers keep connections for 60 s, and must be the first to close one: a request may be on its way.
            head_time: Duration::from_secs(75),
            body_time: Duration::from_secs(60),
            drain_time: Duration::from_secs(25),
        }
    }
}

/// Where a server listens.
#[derive(Clone, Debug)]
pub enum Address {
    /// A port of an interface; port 0 is a free one.
    Tcp(SocketAddr),
    /// A socket in the file system. A socket that is there already, and that nobody listens on, is replaced.
    Unix(PathBuf),
}

/// What a server is started with.
pub struct Settings {
    /// Where it listens.
    pub address: Address,
    /// What it serves; the first is taken by requests that name none.
    pub models: Vec<Model>,
    /// The keys that it takes; empty: it asks for none.
    pub api_keys: Vec<String>,
    /// Bounds on what clients can ask for.
    pub limits: Limits,
    /// Whether each request is logged to standard error, as a line of JSON without texts.
    pub log: bool,
}

/// Threads that parse and write; the work is done by the services' threads. Two on two cores get in the way of these, and wake
/// each other. What takes one of them long goes elsewhere ([`body::parse`]).
fn http_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 4).clamp(1, 4)
}

/// A server that listens.
pub struct Server {
    runtime: Runtime,
    listener: Listener,
    app: App,
    stop: Arc<Notify>,
}

/// Ends a server from another thread.
#[derive(Clone)]
pub struct Handle(Arc<Notify>);

impl Handle {
    /// Lets nobody in any more; requests that are being served are finished.
    pub fn stop(&self) {
        self.0.notify_one();
    }
}

impl Server {
    /// Listens. Clients that connect wait until [`run`](Self::run).
    ///
    /// # Errors
    /// An address that cannot be had; no model; two of one name.
    pub fn bind(settings: Settings) -> io::Result<Server> {
        let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidInput, message);
        let Settings {
            address,
            models,
            api_keys,
            limits,
            log,
        } = settings;
        let mut names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
        names.sort_unstable();
        if names.is_empty() {
            return Err(invalid("there is no model to serve".into()));
        }
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(invalid(format!(
                "two models are named `{}`; give one another name",
                twice[0]
            )));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(http_threads())
            .thread_name("ropeway-http")
            .enable_all()
            .build()?;
        connections::allow_files(limits.connections);
        let listener = runtime.block_on(Listener::bind(&address))?;
        Ok(Server {
            runtime,
            listener,
            app: App::new(models, api_keys, limits, log.then(Log::start).transpose()?),
            stop: Arc::new(Notify::new()),
        })
    }

    /// Lets those who have an admin key load and drop adapters while it serves.
    pub fn with_admin(mut self, admin: Admin) -> Server {
        self.app.admin = Some(admin);
        self
    }

    /// Where it listens, as a URL or path.
    pub fn address(&self) -> String {
        self.listener.address()
    }

    /// Ends it from another thread.
    pub fn handle(&self) -> Handle {
        Handle(self.stop.clone())
    }

    /// Serves until SIGTERM, SIGINT or [`Handle::stop`]; then finishes what is being served, within
    /// [`Limits::drain_time`].
    ///
    /// # Errors
    /// A listening socket that fails for good.
    pub fn run(self) -> io::Result<()> {
        let Server {
            runtime,
            listener,
            app,
            stop,
        } = self;
        let app = Arc::new(app);
        let result = runtime.block_on(connections::serve(listener, app.clone(), async move {
            tokio::select! {
                () = stop.notified() => {}
                () = connections::signalled() => {}
            }
            app.draining.store(true, Ordering::Relaxed);
        }));
        runtime.shutdown_timeout(Duration::from_secs(1));
        result
    }
}
