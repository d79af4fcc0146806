//! What the engine says beside its results (the crate `tracing`), for Python's `logging`: the logger `ropeway`.
//!
//! An event may come from any of the engine's threads, while the thread that holds the GIL waits for that one or for a lock
//! that it has, and a handler of `logging` is Python code that may call the engine. So nothing here attaches to Python
//! where an event comes up: it is queued, and delivered when a call returns, by the thread of that call, which holds the
//! GIL and none of the engine's locks. The queue has no lock either: a process forked in the midst of an event could not
//! open it. What comes up after the last call of a process is not delivered.

use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use ropeway::notices;
use tracing::subscriber::{self, Interest};
use tracing::{Event, Level, Metadata, Subscriber, span};

/// Events that wait at most; further ones are dropped, and their number is told.
const QUEUED: usize = 1000;

/// An event, and the one that was queued before it.
struct Notice {
    severity: i32,
    message: String,
    /// The process that it is for: a forked child finds those of its parent in the queue.
    process: u32,
    before: *mut Notice,
}

/// The last event that was queued.
static LAST: AtomicPtr<Notice> = AtomicPtr::new(ptr::null_mut());
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// What the logger takes, by `logging`'s numbers, as of the last call.
static LEVEL: AtomicI32 = AtomicI32::new(WARNING);
const WARNING: i32 = 30;

/// A level by `logging`'s number.
fn severity(level: Level) -> i32 {
    match level {
        Level::ERROR => 40,
        Level::WARN => WARNING,
        Level::INFO => 20,
        _ => 10,
    }
}

/// Queues the engine's events from here on.
pub fn listen() {
    // A module that is imported a second time has it already.
    let _ = subscriber::set_global_default(Listener);
}

/// Runs what may take long without the GIL, and tells what the engine said until then.
///
/// # Errors
/// What a handler of the logger raised, such as `KeyboardInterrupt`.
pub fn detached<T: Send>(py: Python<'_>, work: impl Send + FnOnce() -> T) -> PyResult<T> {
    read_level(py)?;
    let result = py.detach(work);
    tell(py)?;
    Ok(result)
}

/// Tells the logger what is queued, and takes over its level for what comes up next.
///
/// # Errors
/// As for [`tell`].
pub fn deliver(py: Python<'_>) -> PyResult<()> {
    tell(py).and(read_level(py))
}

/// Tells the logger what is queued.
///
/// # Errors
/// What a handler raised; the events behind that one are told all the same.
fn tell(py: Python<'_>) -> PyResult<()> {
    let mut told = Ok(());
    if !LAST.load(Ordering::Relaxed).is_null() {
        let logger = logger(py)?;
        for notice in take() {
            let of_one = logger.call_method1("log", (notice.severity, &notice.message));
            told = told.and(of_one.map(drop));
        }
    }
    told
}

/// Takes over what level the logger has; whoever set it need not tell.
fn read_level(py: Python<'_>) -> PyResult<()> {
    let level = logger(py)?
        .call_method0(intern!(py, "getEffectiveLevel"))?
        .extract()?;
    LEVEL.store(level, Ordering::Relaxed);
    Ok(())
}

fn logger(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static LOGGER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let logger = LOGGER.get_or_try_init(py, || {
        let logging = py.import("logging")?;
        Ok::<_, PyErr>(logging.call_method1("getLogger", ("ropeway",))?.unbind())
    })?;
    Ok(logger.bind(py))
}

fn push(severity: i32, message: String) {
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    if count >= QUEUED {
        return;
    }
    let notice = Box::into_raw(Box::new(Notice {
        severity,
        message,
        process: std::process::id(),
        before: LAST.load(Ordering::Relaxed),
    }));
    let linked = |last| {
        // SAFETY: `notice` came from a box and is in the queue only after this succeeded, so that nobody else has it.
        unsafe { (*notice).before = last };
        Some(notice)
    };
    // It always succeeds, since `linked` gives a value.
    let _ = LAST.fetch_update(Ordering::Release, Ordering::Relaxed, linked);
}

/// Empties the queue: this process' events in the order in which they were queued, and how many there was no room for.
fn take() -> Vec<Notice> {
    let mut last = LAST.swap(ptr::null_mut(), Ordering::Acquire);
    let dropped = COUNT.swap(0, Ordering::Relaxed).saturating_sub(QUEUED);
    let mut all = Vec::new();
    while !last.is_null() {
        // SAFETY: each pointer of the list came from a box in `push`, and the swap made the list this thread's alone.
        let notice = unsafe { Box::from_raw(last) };
        last = notice.before;
        all.push(*notice);
    }
    let process = std::process::id();
    all.retain(|notice| notice.process == process);
    all.reverse();
    if dropped > 0 {
        let message =
            format!("{dropped} more messages were dropped: at most {QUEUED} wait for a call to return");
        all.push(Notice {
            severity: WARNING,
            message,
            process,
            before: ptr::null_mut(),
        });
    }
    all
}

struct Listener;

impl Subscriber for Listener {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // The logger's level may change at any time.
        Interest::sometimes()
    }

    fn enabled(&self, of: &Metadata<'_>) -> bool {
        severity(*of.level()) >= LEVEL.load(Ordering::Relaxed) && notices::is_ours(of)
    }

    fn event(&self, event: &Event<'_>) {
        // A name from a file may hold a line end, which would forge a line of a log.
        let mut message = String::new();
        for c in notices::text(event).chars() {
            match c.is_control() {
                true => message.extend(c.escape_default()),
                false => message.push(c),
            }
        }
        push(severity(*event.metadata().level()), message);
    }

    // No span is enabled.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}
