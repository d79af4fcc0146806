//! The threads that run passes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::{Delivery, Health, Job, Pass, Phase, Shared, State, internal, panicked};
use crate::error::Error;
use crate::service::error::ServiceError;
use crate::service::executor::{Executor, Failed, FailureKind};
use crate::service::items::{Id, Next, Outcome};

impl<E: Executor> Shared<E> {
    /// Runs passes until the service stops.
    pub fn run_passes(&self) {
        let mut outbox = Vec::new();
        loop {
            let mut state = self.lock();
            if state.phase == Phase::Stopped {
                return self.send(state, &mut outbox);
            }
            let now = self.now();
            let next = match state.health {
                Health::Ready => state.scheduler.next_pass(now),
                _ => Next::Nothing,
            };
            let late = state.scheduler.take_late(now);
            state.give_up(late, || ServiceError::Expired, &mut outbox);
            let until = match next {
                Next::Pass { number, parts } => {
                    let pass = state.take_pass(number, parts);
                    let more = state.idle_passes > 0 && state.scheduler.has_parts();
                    self.leave_texts(&state);
                    self.send(state, &mut outbox);
                    // Another context has something to do as well.
                    if more {
                        self.passes.notify_one();
                    }
                    self.run(pass, &mut outbox);
                    continue;
                }
                Next::At(time) => Some(time),
                Next::Nothing => None,
            };
            if state.health == Health::Ready && state.scheduler.has_short_text() {
                let id = state.scheduler.next_text().expect("there is one");
                self.tokenize_one(state, id, &mut outbox);
                continue;
            }
            if !outbox.is_empty() {
                self.send(state, &mut outbox);
                continue;
            }
            self.leave_texts(&state);
            state.idle_passes += 1;
            state = self.wait(&self.passes, state, until);
            state.idle_passes -= 1;
        }
    }

    /// Wakes a thread that tokenises, where this one was woken for a text and does something else now. Deadlines that pass are
    /// for those threads to see as well.
    fn leave_texts(&self, state: &State<E>) {
        if state.scheduler.texts() > 0 || state.scheduler.next_deadline().is_some() {
            self.texts.notify_one();
        }
    }

    fn run(&self, pass: Pass<E>, outbox: &mut Vec<Delivery>) {
        let Pass {
            number,
            parts,
            ready,
            tokens,
            executor,
            epoch,
        } = pass;
        let sequences = ready.iter().zip(&parts).map(|(ready, part)| (&**ready, part.1));
        let sequences: Vec<_> = sequences.collect();
        let started = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| executor.run(&sequences)));
        let took = started.elapsed();
        drop(sequences);
        drop(ready);
        let outcome = outcome.unwrap_or_else(|panic| Err(panicked(&*panic)));
        let mut state = self.lock();
        match outcome {
            Ok(rows) => {
                // What a lost engine still gave is computed again, as its requests were taken back.
                let rows = parts.iter().zip(rows).filter(|_| state.epoch == epoch);
                for (&(id, part), rows) in rows.collect::<Vec<_>>() {
                    if let Some(job) = state.jobs.get_mut(&id) {
                        job.rows[part] = Some(rows);
                    }
                }
                let (done, _) = state.scheduler.end_pass(number, Outcome::Done(took));
                let done: Vec<Job<E>> = done.iter().filter_map(|id| state.jobs.remove(id)).collect();
                state.counts.passes += 1;
                state.counts.pass_seconds.add_time(took);
                state.counts.pass_tokens.add(tokens as f64);
                let mut requests: Vec<Id> = parts.iter().map(|part| part.0).collect();
                requests.dedup();
                state.counts.pass_requests.add(requests.len() as f64);
                drop(state);
                self.finish(&executor, done, outbox);
            }
            Err(Failed { kind, error }) => {
                // A lost device is let go when nobody holds it.
                drop(executor);
                state.counts.failed_passes += 1;
                let outcome = match kind {
                    FailureKind::OfOne => Outcome::FailedByOne,
                    FailureKind::OfAll | FailureKind::Lost => Outcome::Failed,
                };
                let (_, failed) = state.scheduler.end_pass(number, outcome);
                state.give_up(failed, || error().into(), outbox);
                if kind == FailureKind::Lost && state.epoch == epoch {
                    let lost = match error() {
                        Error::DeviceLost(reason) => reason,
                        other => other.to_string(),
                    };
                    self.replace_executor(state, &lost, outbox);
                }
            }
        }
    }

    /// Makes the results of requests whose parts are all computed.
    fn finish(&self, executor: &E, done: Vec<Job<E>>, outbox: &mut Vec<Delivery>) {
        let finished = done.into_iter().map(|mut job| {
            let rows = std::mem::take(&mut job.rows).into_iter().flatten().collect();
            let ready = job.ready.take().and_then(Arc::into_inner);
            let finish = || executor.finish(ready.expect("no pass holds a request that is done"), rows);
            let result =
                catch_unwind(AssertUnwindSafe(finish)).unwrap_or_else(|panic| Err(internal(&*panic)));
            (
                job.lengths.iter().sum(),
                job.deliver(result.map_err(ServiceError::from)),
            )
        });
        let finished: Vec<(usize, Delivery)> = finished.collect();
        let mut state = self.lock();
        for (tokens, delivery) in finished {
            let counts = &mut state.counts;
            match delivery.result {
                Ok(_) => {
                    counts.completed += 1;
                    counts.tokens += tokens as u64;
                }
                Err(_) => counts.failed += 1,
            }
            counts.queue_seconds.add_time(delivery.timing.queue);
            counts.total_seconds.add_time(delivery.timing.total);
            outbox.push(delivery);
        }
    }
}
