//! Requests of many callers, merged into passes: an [`Engine`] behind a queue.
//!
//! [`Engine::embed_batch`] computes what one caller brings. A service takes requests from any number of threads or tasks, one
//! at a time, and packs what waits into the next pass as soon as the engine is free, so that a thousand callers with one
//! query each need a few passes and not a thousand. Results have the same bits as those of `embed_batch`.
//!
//! ```no_run
//! use ropeway::service::Service;
//! use ropeway::{Embed, Engine, Request};
//!
//! let service = Service::start(Engine::open("models/all-MiniLM-L6-v2")?)?;
//! let ticket = service.submit(Request::text("a warm coat", Embed::default()))?;
//! let vector = ticket.wait()?.into_f32()?;
//! # let _ = vector;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Threads and async
//!
//! A [`Service`] is `Send + Sync`: share it as `Arc<Service>`. [`submit`](Service::submit) does not wait: it takes a lock for
//! some microseconds and gives a [`Ticket`], or says at once why not. The ticket is a plain [`Future`] that works on any
//! runtime and needs none; a thread calls [`wait`](Ticket::wait) or [`wait_timeout`](Ticket::wait_timeout). Dropping it
//! cancels: `tokio::time::timeout(limit, ticket)` and a client that hangs up need no more code.
//!
//! ```no_run
//! # use ropeway::service::{Service, ServiceError};
//! # use ropeway::{Embed, Embedding, Request};
//! async fn embed(service: &Service, text: String) -> Result<Embedding, ServiceError> {
//!     service.submit(Request::text(text, Embed::task("retrieval.query")))?.await
//! }
//! ```
//!
//! # What goes first
//!
//! Every [`Submission`] may name its caller, a priority and a deadline. Higher priorities go first. Within one, the callers
//! take turns by what their requests cost, so that a job of a million texts and a user with one query each get their share;
//! requests without a name share one. Of one caller, the earliest deadline goes first, then the order of arrival.
//!
//! A deadline that cannot be met is refused by `submit` ([`ServiceError::Unreachable`]), from what waits and what this machine
//! measured; one that passes while the request waits ends it uncomputed ([`ServiceError::Expired`]).
//!
//! Passes are cut by their predicted time ([`ServiceBuilder::pass_time`]), so that a query waits for no more than one pass of
//! that length. A single sequence may take longer and cannot be cut. With an engine of
//! [`concurrency`](crate::EngineBuilder::concurrency) 2 or more one context is kept from sequences that take more than a
//! quarter of that time, and queries go through beside them; with 1, those that take more than all of it and the rest take
//! turns of equal time.
//!
//! # Sizing
//!
//! - The queue is bounded in requests and in tokens; past either, `submit` fails with [`ServiceError::Overloaded`], which says
//!   when to come back. A queue that holds more than callers will wait for is only memory: take
//!   [`queue_tokens`](ServiceBuilder::queue_tokens) ≈ tokens per second × the seconds that somebody waits.
//! - Nothing waits for company by default: under load, what comes during a pass is the next pass.
//!   [`max_wait`](ServiceBuilder::max_wait) trades latency for larger passes where callers come slowly and a pass costs about
//!   the same whatever is in it, as on a GPU.
//! - Texts are tokenised by threads of the service while passes run ([`tokenizers`](ServiceBuilder::tokenizers)); a short one
//!   that comes while nothing runs, by the thread that will run it.
//! - Each waiting request holds its text and token ids. A result is held until its ticket is gone.
//!
//! # Warm-up
//!
//! [`Service::start`] returns when the engine ran its first passes, and the service knows about how fast it is; with
//! [`warm_up(false)`](ServiceBuilder::warm_up) it returns at once, and the first requests pay for that.
//!
//! # When something fails
//!
//! A request that the model cannot serve fails alone, before it is packed. Where a pass fails and one of its requests may be
//! the cause, each is tried again by itself. If the device is lost, the requests on it fail with
//! [`Error::DeviceLost`]; with [`ServiceBuilder::reopen`] the engine is opened anew and what waited is
//! computed there. [`Service::health`] tells, for a readiness probe.
//!
//! # Numbers
//!
//! [`Service::snapshot`] has counters, gauges and histograms as plain numbers, to be handed to any metrics crate.

mod backlog;
mod error;
mod executor;
mod fair_queue;
mod items;
mod metrics;
mod runtime;
mod scheduler;
mod slot;
mod speed;
mod ticket;

/// The locks of [`slot`], for which its test has others.
mod sync {
    pub use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
}

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::request::{Embed, Request};

pub use error::ServiceError;
pub use metrics::{Histogram, Snapshot};
pub use runtime::Health;
pub use ticket::{Served, Ticket, Timing};

use executor::Executor;
use items::Limits;
use runtime::{Reopen, Runtime};
use speed::Speed;

/// Passes of this predicted time keep a query's wait short where a pass of so many tokens is no slower.
const PASS_TIME: Duration = Duration::from_millis(50);

/// The queue's default bound, in passes of the engine's size.
const QUEUE_PASSES: usize = 32;

/// The queue's default bound in requests.
const QUEUE_REQUESTS: usize = 16384;

/// A request with what a service wants to know about it; made from a [`Request`] that owns its text.
#[derive(Clone, Debug)]
pub struct Submission {
    request: Arc<Request<'static>>,
    caller: Arc<str>,
    priority: i32,
    deadline: Option<Instant>,
}

impl Submission {
    /// A request of nobody in particular, with priority 0 and no deadline.
    pub fn new(request: Request<'static>) -> Submission {
        Submission {
            request: request.into(),
            caller: "".into(),
            priority: 0,
            deadline: None,
        }
    }

    /// Who sends it: callers of different names share fairly. The name can be anything, such as an API key's number.
    pub fn caller(mut self, name: impl Into<Arc<str>>) -> Submission {
        self.caller = name.into();
        self
    }

    /// Higher priorities go first, whatever waits below them; 0 if not set.
    pub fn priority(mut self, priority: i32) -> Submission {
        self.priority = priority;
        self
    }

    /// When the result is of no use any more.
    pub fn deadline(mut self, deadline: impl Into<Option<Instant>>) -> Submission {
        self.deadline = deadline.into();
        self
    }
}

impl From<Request<'static>> for Submission {
    fn from(request: Request<'static>) -> Submission {
        Submission::new(request)
    }
}

/// Settings of a service; see [`Service::builder`].
#[derive(Default)]
pub struct ServiceBuilder {
    queue_requests: Option<usize>,
    queue_tokens: Option<usize>,
    pass_time: Option<Duration>,
    max_wait: Duration,
    tokenizers: Option<usize>,
    cold: bool,
    reopen: Option<Reopen<Engine>>,
}

impl ServiceBuilder {
    /// Requests that may wait; 16384 if not set.
    pub fn queue_requests(mut self, requests: usize) -> Self {
        self.queue_requests = Some(requests);
        self
    }

    /// Tokens that may wait, texts counted by an estimate until they are tokenised; 32 times
    /// [`Engine::batch_tokens`] if not set. A request that is larger by itself is let in when nothing waits.
    pub fn queue_tokens(mut self, tokens: usize) -> Self {
        self.queue_tokens = Some(tokens);
        self
    }

    /// The predicted time up to which a pass is filled; if not set, 50 ms or what 128 tokens take
    /// (512 on a GPU), whichever is more.
    pub fn pass_time(mut self, time: Duration) -> Self {
        self.pass_time = Some(time);
        self
    }

    /// How long a request may wait for others to share its pass, while the engine is free; not at all, if not set.
    pub fn max_wait(mut self, time: Duration) -> Self {
        self.max_wait = time;
        self
    }

    /// Threads that tokenise; the engine's threads, up to 4, if not set.
    pub fn tokenizers(mut self, threads: usize) -> Self {
        self.tokenizers = Some(threads);
        self
    }

    /// Whether passes are run before [`start`](Self::start) returns, and on an engine that was opened anew before requests get
    /// to it; `true` if not set.
    pub fn warm_up(mut self, warm_up: bool) -> Self {
        self.cold = !warm_up;
        self
    }

    /// How to open the engine anew after its device was lost. Adapters that were added to the lost one are to be added
    /// again by it.
    pub fn reopen(mut self, open: impl Fn() -> Result<Engine> + Send + Sync + 'static) -> Self {
        self.reopen = Some(Box::new(open));
        self
    }

    /// Starts a service on an engine. The engine can be used directly as well; its calls and the service's passes take
    /// turns.
    ///
    /// # Errors
    /// [`Error::Setting`] for a bound of 0, [`Error::Internal`] if threads cannot be started, and whatever the engine gives
    /// when it is warmed up.
    pub fn start(self, engine: impl Into<Arc<Engine>>) -> Result<Service> {
        let engine = engine.into();
        let bounds = [
            ("queue_requests", self.queue_requests),
            ("queue_tokens", self.queue_tokens),
            ("tokenizers", self.tokenizers),
        ];
        if let Some((name, _)) = bounds.into_iter().find(|bound| bound.1 == Some(0)) {
            return Err(Error::Setting {
                name,
                value: 0,
                limit: usize::MAX,
            });
        }
        let pass_tokens = Executor::pass_tokens(&*engine);
        let least = engine.full_speed_tokens().min(pass_tokens);
        let limits = Limits {
            contexts: Executor::contexts(&*engine),
            queue_requests: self.queue_requests.unwrap_or(QUEUE_REQUESTS),
            queue_tokens: self.queue_tokens.unwrap_or(QUEUE_PASSES * pass_tokens),
            pass_tokens,
            pass_time: self.pass_time.unwrap_or(PASS_TIME),
            pass_cost: match self.pass_time {
                Some(_) => 0,
                None => runtime::cost(Executor::sequence_cost(&*engine), least),
            },
            max_wait: self.max_wait,
        };
        let speed = match self.cold {
            true => Speed::default(),
            false => {
                engine.warm_up()?;
                measure(&*engine, least)?
            }
        };
        let reopen = match self.cold {
            true => self.reopen,
            false => self.reopen.map(runtime::warmed),
        };
        let tokenizers = self.tokenizers.unwrap_or(engine.threads().clamp(1, 4));
        Ok(Service {
            runtime: Runtime::start(engine, limits, speed, tokenizers, reopen)?,
            tokenizers,
        })
    }
}

/// Runs a short and a longer pass on every context, and measures them once they are warm.
fn measure<E: Executor>(engine: &E, tokens: usize) -> Result<Speed> {
    let mut speed = Speed::default();
    let per_sequence = engine.sequence_cost();
    for tokens in [8, tokens] {
        let tokens = tokens.min(engine.max_tokens()).max(1);
        let ready = engine.prepare(&Request::ids(vec![0; tokens], Embed::base()))?;
        let run = || {
            engine
                .run(&[(&ready, 0)])
                .map(drop)
                .map_err(|failed| (failed.error)())
        };
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..engine.contexts()).map(|_| scope.spawn(run)).collect();
            let mut joined = all.into_iter().map(|one| one.join());
            let told = |joined: std::thread::Result<Result<()>>| {
                joined.unwrap_or_else(|_| Err(Error::Internal("the warm-up panicked".into())))
            };
            joined.try_for_each(told)
        })?;
        let start = Instant::now();
        run()?;
        speed.learn(runtime::cost(per_sequence, tokens), start.elapsed());
    }
    Ok(speed)
}

/// An engine behind a queue, for any number of callers; see the [module](self). Dropping it stops it: passes that run are
/// finished, what waits gets [`ServiceError::Stopped`].
pub struct Service {
    runtime: Runtime<Engine>,
    tokenizers: usize,
}

impl Service {
    /// Starts a service with the default settings.
    ///
    /// # Errors
    /// See [`ServiceBuilder::start`].
    pub fn start(engine: impl Into<Arc<Engine>>) -> Result<Service> {
        Service::builder().start(engine)
    }

    /// Settings first, then [`ServiceBuilder::start`].
    pub fn builder() -> ServiceBuilder {
        ServiceBuilder::default()
    }

    /// Hands a request in, without waiting.
    ///
    /// # Errors
    /// [`ServiceError::Overloaded`] for a full queue, [`ServiceError::Unreachable`] for a deadline that cannot be met,
    /// [`ServiceError::Stopped`], and [`Error::DeviceLost`] while there is no device to compute on. What is wrong with the request
    /// itself is told by the ticket.
    pub fn submit(&self, submission: impl Into<Submission>) -> Result<Ticket, ServiceError> {
        self.runtime.submit(submission.into())
    }

    /// The engine, to ask for its model or to add adapters; another one after a lost device, and none while there is none.
    /// Do not keep it: a lost device can be opened anew only when nobody holds the engine that lost it.
    pub fn engine(&self) -> Option<Arc<Engine>> {
        self.runtime.executor()
    }

    /// Threads that tokenise; see [`ServiceBuilder::tokenizers`].
    pub fn tokenizers(&self) -> usize {
        self.tokenizers
    }

    /// Whether it can compute.
    pub fn health(&self) -> Health {
        self.runtime.health()
    }

    /// What was counted since the start.
    pub fn snapshot(&self) -> Snapshot {
        self.runtime.snapshot()
    }

    /// Lets no request in any more, and waits until all are served, at most for so long; says whether they are.
    pub fn drain(&self, timeout: Duration) -> bool {
        self.runtime.drain(timeout)
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("engine", &self.engine())
            .field("health", &self.health())
            .finish()
    }
}
