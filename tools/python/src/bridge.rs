//! From a service's tickets to futures of an event loop.
//!
//! A ticket that is done wakes its `Pending`, which only goes into a channel, so that the service's threads never wait for
//! the GIL. One thread takes all that is there, attaches to Python once, and hands the results to their loops.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use pyo3::prelude::*;
use pyo3::types::PyList;
use ropeway::service::{Served, Service};
use ropeway::{Error, Request};

use crate::errors;
use crate::notices;
use crate::results;

/// A service whose results go to event loops.
pub struct Bridge {
    service: Service,
    ready: Sender<Arc<Pending>>,
}

/// A request that was submitted, until its result was delivered or nobody wants it any more.
struct Pending {
    waiting: Mutex<Option<Waiting>>,
    ready: Sender<Arc<Pending>>,
}

struct Waiting {
    ticket: ropeway::service::Ticket,
    event_loop: Py<PyAny>,
    future: Py<PyAny>,
}

impl Wake for Pending {
    fn wake(self: Arc<Self>) {
        // With the deliverer gone there is no Python to deliver to.
        let _ = self.ready.send(self.clone());
    }
}

impl Pending {
    /// The result and where it goes, if it is there and was not cancelled.
    fn take(self: &Arc<Self>) -> Option<(Served, Waiting)> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let waker = Waker::from(self.clone());
        let polled = Pin::new(&mut waiting.as_mut()?.ticket).poll(&mut Context::from_waker(&waker));
        match polled {
            Poll::Ready(served) => Some((served, waiting.take()?)),
            Poll::Pending => None,
        }
    }
}

impl Bridge {
    pub fn start(engine: Arc<ropeway::Engine>) -> ropeway::Result<Bridge> {
        let (ready, done) = mpsc::channel();
        let service = Service::start(engine)?;
        std::thread::Builder::new()
            .name("ropeway-asyncio".into())
            .spawn(move || deliver(&done))
            .map_err(|error| Error::Internal(format!("a thread could not be started: {error}")))?;
        Ok(Bridge { service, ready })
    }

    pub fn submit(
        &self,
        py: Python<'_>,
        request: Request<'static>,
        event_loop: Py<PyAny>,
        future: Py<PyAny>,
    ) -> PyResult<Ticket> {
        let ticket = self
            .service
            .submit(request)
            .map_err(|error| errors::of_service(py, &error))?;
        let waiting = Waiting {
            ticket,
            event_loop,
            future,
        };
        let pending = Arc::new(Pending {
            waiting: Mutex::new(Some(waiting)),
            ready: self.ready.clone(),
        });
        if let Some(done) = pending.take() {
            hand_over(py, vec![done])?;
        }
        Ok(Ticket { pending })
    }

    /// What the service did so far, and `queued` now.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let counts = self.service.snapshot();
        BTreeMap::from([
            ("submitted", counts.submitted),
            ("completed", counts.completed),
            ("failed", counts.failed),
            ("cancelled", counts.cancelled),
            ("refused", counts.refused_overloaded),
            ("passes", counts.passes),
            ("queued", counts.queued_requests as u64),
        ])
    }
}

/// Delivers until the bridge and all its requests are gone, or Python is.
fn deliver(done: &Receiver<Arc<Pending>>) {
    while let Ok(first) = done.recv() {
        let all: Vec<_> = std::iter::once(first)
            .chain(done.try_iter())
            .filter_map(|pending| pending.take())
            .collect();
        let handed = Python::try_attach(|py| {
            if let Err(failure) = hand_over(py, all).and(notices::deliver(py)) {
                failure.write_unraisable(py, None);
            }
        });
        if handed.is_none() {
            return;
        }
    }
}

/// Gives each loop the results of its futures: `[(future, value or None, exception or None), …]`.
fn hand_over(py: Python<'_>, all: Vec<(Served, Waiting)>) -> PyResult<()> {
    let settle = py.import("ropeway._futures")?.getattr("settle")?;
    let mut loops: Vec<(Py<PyAny>, Bound<'_, PyList>)> = Vec::new();
    for (served, waiting) in all {
        let value = served
            .map_err(|error| errors::of_service(py, &error))
            .and_then(|embedding| results::single(py, embedding));
        let (value, exception) = match value {
            Ok(value) => (Some(value), None),
            Err(error) => (None, Some(error.into_value(py))),
        };
        let known = loops.iter().find(|one| one.0.is(&waiting.event_loop));
        let list = match known {
            Some((_, list)) => list.clone(),
            None => {
                let list = PyList::empty(py);
                loops.push((waiting.event_loop, list.clone()));
                list
            }
        };
        list.append((waiting.future, value, exception))?;
    }
    for (event_loop, list) in loops {
        // A loop that was closed has nobody who waits.
        let _ = event_loop.call_method1(py, "call_soon_threadsafe", (&settle, list));
    }
    Ok(())
}

/// A request that was handed to the service.
#[pyclass(frozen, module = "ropeway._ropeway")]
pub struct Ticket {
    pending: Arc<Pending>,
}

#[pymethods]
impl Ticket {
    /// Takes the request back; what still waits of it is never computed.
    fn cancel(&self) {
        let mut waiting = self
            .pending
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        drop(waiting.take());
    }
}
