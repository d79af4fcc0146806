//! The threads that tokenise.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use super::{Delivery, Health, Phase, Shared, State, internal};
use crate::request::{Input, Request};
use crate::service::error::ServiceError;
use crate::service::executor::Executor;
use crate::service::items::Id;

/// Tokens of a text that a thread tokenises within some 100 µs.
const SHORT_TEXT: usize = 128;

impl<E: Executor> Shared<E> {
    /// Tokenises until the service stops, and gives up requests whose deadlines pass.
    pub fn tokenize(&self) {
        let mut outbox = Vec::new();
        loop {
            let mut state = self.lock();
            if state.phase == Phase::Stopped {
                return self.send(state, &mut outbox);
            }
            let late = state.scheduler.take_late(self.now());
            state.give_up(late, || ServiceError::Expired, &mut outbox);
            let id = match state.health {
                Health::Ready => state.scheduler.next_text(),
                _ => None,
            };
            if let Some(id) = id {
                if self.tokenize_one(state, id, &mut outbox) {
                    self.passes.notify_one();
                }
            } else if outbox.is_empty() {
                let until = state.scheduler.next_deadline();
                drop(self.wait(&self.texts, state, until));
            } else {
                self.send(state, &mut outbox);
            }
        }
    }

    /// Tokenises a text that the scheduler gave out. Says whether it can be run now and a thread of passes waits for that: no
    /// thread is woken as long as this one holds the lock that it would wait for.
    pub fn tokenize_one(&self, state: MutexGuard<'_, State<E>>, id: Id, outbox: &mut Vec<Delivery>) -> bool {
        let request = state.jobs[&id].request.clone();
        let executor = state
            .executor
            .clone()
            .expect("texts are taken on a healthy device alone");
        let epoch = state.epoch;
        let more = state.scheduler.texts() > 0;
        self.send(state, outbox);
        if more {
            self.texts.notify_one();
        }
        let started = Instant::now();
        let ready = catch_unwind(AssertUnwindSafe(|| executor.prepare(&request)));
        let took = started.elapsed();
        let ready = ready.unwrap_or_else(|panic| Err(internal(&*panic)));
        let sequences: Vec<(usize, u64)> = match &ready {
            Ok(ready) => E::lengths(ready).into_iter().map(|n| (n, self.cost(n))).collect(),
            Err(_) => Vec::new(),
        };
        let mut state = self.lock();
        state.counts.tokenize_seconds.add_time(took);
        match ready {
            _ if epoch != state.epoch => state.scheduler.return_text(id),
            Ok(ready) => {
                let group = E::group(&ready);
                if state.scheduler.tokenized(self.now(), id, group, &sequences) {
                    let job = state.jobs.get_mut(&id).expect("the scheduler knows jobs alone");
                    job.rows = sequences.iter().map(|_| None).collect();
                    job.lengths = sequences.iter().map(|&(tokens, _)| tokens).collect();
                    job.ready = Some(Arc::new(ready));
                    job.tokenize = took;
                    return state.idle_passes > 0;
                }
            }
            Err(error) => {
                state.scheduler.cancel(id);
                if let Some(job) = state.jobs.remove(&id) {
                    state.counts.failed += 1;
                    outbox.push(job.deliver(Err(error.into())));
                }
            }
        }
        false
    }

    /// About the tokens of a request that is not tokenised yet, as far as the model takes them, and their cost; and whether the
    /// text is short, all of it.
    pub fn estimate(&self, request: &Request<'_>) -> (usize, u64, bool) {
        // Of English some four bytes make a token.
        let tokens = match &request.input {
            Input::Text(text) => 2 + (text.len() + request.options.get_prompt().map_or(0, str::len)) / 4,
            Input::Ids(ids) => ids.len(),
        };
        let chunked = request.options.get_chunks().is_some();
        let limit = self.max_tokens.max(1);
        let (taken, cost) = match chunked {
            false => (tokens.min(limit), self.cost(tokens.min(limit))),
            true => (
                tokens,
                (tokens / limit) as u64 * self.cost(limit) + self.cost(tokens % limit),
            ),
        };
        (taken, cost, tokens <= SHORT_TEXT)
    }
}
