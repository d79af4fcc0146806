//! The caller's side of a request: a future, that a thread can wait for as well.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

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

/// Where the result of a request and its times come to.
pub type Slot = super::slot::Slot<Served, Timing>;

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
        taken(self.slot.wait())
    }

    /// Waits for the result for so long; else gives the ticket back, to wait on or to drop.
    ///
    /// # Errors
    /// The ticket, if there is no result yet.
    pub fn wait_timeout(self, timeout: Duration) -> Result<Served, Ticket> {
        match self.slot.wait_timeout(timeout) {
            true => Ok(self.wait()),
            false => Err(self),
        }
    }

    /// Whether the result is there.
    pub fn is_done(&self) -> bool {
        self.slot.note().is_some()
    }

    /// The times that the request took, once its result is there and was computed.
    pub fn timing(&self) -> Option<Timing> {
        self.slot.note()
    }
}

/// A result, or that it was taken before.
fn taken(result: Option<Served>) -> Served {
    let twice = || Err(Error::Internal("the result of a ticket was taken twice".into()).into());
    result.unwrap_or_else(twice)
}

impl Future for Ticket {
    type Output = Served;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Served> {
        self.slot.poll(context).map(taken)
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
