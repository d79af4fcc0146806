//! A request that is not done, and its way to its ticket.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::request::Request;
use crate::service::executor::Executor;
use crate::service::items::Part;
use crate::service::ticket::{Served, Slot, Timing};

/// A request that is not done.
pub struct Job<E: Executor> {
    pub request: Arc<Request<'static>>,
    pub slot: Arc<Slot>,
    pub ready: Option<Arc<E::Ready>>,
    pub rows: Vec<Option<E::Rows>>,
    /// Tokens of each sequence, once it is tokenised.
    pub lengths: Vec<usize>,
    pub submitted: Instant,
    pub tokenize: Duration,
    pub started: Option<Instant>,
}

/// A result on its way to its ticket, put down when no lock is held.
pub struct Delivery {
    pub slot: Arc<Slot>,
    pub result: Served,
    pub timing: Timing,
}

/// A pass that a context is about to run.
pub struct Pass<E: Executor> {
    pub number: u64,
    pub parts: Vec<Part>,
    pub ready: Vec<Arc<E::Ready>>,
    pub tokens: usize,
    pub executor: Arc<E>,
    pub epoch: u64,
}

impl<E: Executor> Job<E> {
    fn timing(&self) -> Timing {
        let now = Instant::now();
        let started = self.started.unwrap_or(now);
        Timing {
            queue: (started - self.submitted).saturating_sub(self.tokenize),
            tokenize: self.tokenize,
            compute: now - started,
            total: now - self.submitted,
        }
    }

    pub fn deliver(self, result: Served) -> Delivery {
        Delivery {
            timing: self.timing(),
            slot: self.slot,
            result,
        }
    }
}

pub fn flush(outbox: &mut Vec<Delivery>) {
    for Delivery { slot, result, timing } in outbox.drain(..) {
        slot.fill(result, timing);
    }
}
