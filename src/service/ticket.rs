//! The caller's side of a request: a future, that a thread can wait for as well.

use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::error::ServiceError;
use super::items::Id;
use crate::error::Error;
use crate::output::Embedding;

/// The result of a request.
pub type Served = Result<Embedding, ServiceError>;

/// The times of a request that was computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timing {
    /// From the submission to the start of its (first) pass, without tokenising.
    pub queue: Duration,
    /// Checking and tokenising.
    pub tokenize: Duration,
    /// From the start of its first pass to the end of its last.
    pub compute: Duration,
    /// From the submission to the result.
    pub total: Duration,
}

/// Where a result is put down and picked up.
#[derive(Debug, Default)]
pub struct Slot {
    state: Mutex<SlotState>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct SlotState {
    result: Option<Served>,
    timing: Timing,
    /// A result was put down, whether or not it was picked up.
    done: bool,
    waker: Option<Waker>,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the result down; the first one stays.
    pub fn fill(&self, result: Served, timing: Timing) {
        let mut state = self.lock();
        if state.done {
            return;
        }
        (state.result, state.timing, state.done) = (Some(result), timing, true);
        let waker = state.waker.take();
        drop(state);
        self.filled.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Whom a ticket tells that nobody waits any more.
pub trait Cancel: Send + Sync {
    /// Forgets a request that is not done.
    fn cancel(&self, id: Id);
}

/// A request that was submitted: a [`Future`] of its result, for any runtime. A thread waits with [`wait`](Self::wait) or
/// [`wait_timeout`](Self::wait_timeout).
///
/// Dropping it cancels the request: what still waits of it is never computed.
#[must_use = "dropping a ticket cancels its request"]
pub struct Ticket {
    pub(super) slot: Arc<Slot>,
    pub(super) id: Id,
    pub(super) service: Arc<dyn Cancel>,
}

impl Ticket {
    /// Waits for the result.
    ///
    /// # Errors
    /// [`ServiceError`]; after the result was taken by polling, [`Error::Internal`].
    pub fn wait(self) -> Served {
        let mut state = self.slot.lock();
        while !state.done {
            state = self
                .slot
                .filled
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        take(&mut state)
    }

    /// Waits for the result for so long; else gives the ticket back, to wait on or to drop.
    ///
    /// # Errors
    /// The ticket, if there is no result yet.
    pub fn wait_timeout(self, timeout: Duration) -> Result<Served, Ticket> {
        let start = Instant::now();
        let mut state = self.slot.lock();
        while !state.done {
            let Some(left) = timeout
                .checked_sub(start.elapsed())
                .filter(|left| !left.is_zero())
            else {
                drop(state);
                return Err(self);
            };
            let waited = self.slot.filled.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(take(&mut state))
    }

    /// Whether the result is there.
    pub fn is_done(&self) -> bool {
        self.slot.lock().done
    }

    /// The times that the request took, once its result is there and was computed.
    pub fn timing(&self) -> Option<Timing> {
        let state = self.slot.lock();
        state.done.then_some(state.timing)
    }
}

fn take(state: &mut SlotState) -> Served {
    let taken = || Err(Error::Internal("the result of a ticket was taken twice".into()).into());
    state.result.take().unwrap_or_else(taken)
}

impl Future for Ticket {
    type Output = Served;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Served> {
        let mut state = self.slot.lock();
        if state.done {
            return Poll::Ready(take(&mut state));
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_done() {
            self.service.cancel(self.id);
        }
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let done = self.is_done();
        f.debug_struct("Ticket")
            .field("id", &self.id)
            .field("done", &done)
            .finish()
    }
}
