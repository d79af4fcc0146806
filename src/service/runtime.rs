//! The threads of a service around its scheduler: one per context runs passes, a few tokenise.

mod job;
mod passes;
mod recovery;
mod tokens;

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Submission;
use super::error::ServiceError;
use super::executor::{Executor, Failed, FailureKind};
use super::fair_queue::Place;
use super::items::{Arrival, Id, Limits, Part, Refusal};
use super::metrics::Snapshot;
use super::scheduler::Scheduler;
use super::speed::Speed;
use super::ticket::{Cancel, Slot, Ticket};
use crate::error::{Error, Result, panic_message};

pub use recovery::{Health, Reopen, warmed};

use job::{Delivery, Job, Pass, flush};

/// A service over any executor.
pub struct Runtime<E: Executor> {
    shared: Arc<Shared<E>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared<E: Executor> {
    state: Mutex<State<E>>,
    /// Something may be there to tokenise.
    texts: Condvar,
    /// Something may be there to run.
    passes: Condvar,
    /// No request is left, or the service stops.
    idle: Condvar,
    start: Instant,
    reopen: Option<Reopen<E>>,
    max_tokens: usize,
    sequence_cost: (u64, u64),
}

struct State<E: Executor> {
    scheduler: Scheduler,
    jobs: HashMap<Id, Job<E>>,
    /// None while the device is lost.
    executor: Option<Arc<E>>,
    /// How often the executor was replaced.
    epoch: u64,
    health: Health,
    phase: Phase,
    /// Threads of passes that have nothing to do.
    idle_passes: usize,
    counts: Snapshot,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Draining,
    Stopped,
}

impl<E: Executor> State<E> {
    /// Takes out requests that get no result.
    fn give_up(&mut self, ids: Vec<Id>, error: impl Fn() -> ServiceError, outbox: &mut Vec<Delivery>) {
        for job in ids.into_iter().filter_map(|id| self.jobs.remove(&id)) {
            match error() {
                error @ ServiceError::Expired => {
                    self.counts.expired += 1;
                    outbox.push(job.deliver(Err(error)));
                }
                error => {
                    self.counts.failed += 1;
                    outbox.push(job.deliver(Err(error)));
                }
            }
        }
    }

    fn take_pass(&mut self, number: u64, parts: Vec<Part>) -> Pass<E> {
        let mut ready = Vec::with_capacity(parts.len());
        let mut tokens = 0;
        for &(id, part) in &parts {
            let job = self.jobs.get_mut(&id).expect("the scheduler knows jobs alone");
            job.started.get_or_insert_with(Instant::now);
            let its = job.ready.clone().expect("a pass takes what was tokenised");
            tokens += job.lengths[part];
            ready.push(its);
        }
        Pass {
            number,
            parts,
            ready,
            tokens,
            executor: self
                .executor
                .clone()
                .expect("passes run on a healthy device alone"),
            epoch: self.epoch,
        }
    }
}

impl<E: Executor> Shared<E> {
    fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn cost(&self, tokens: usize) -> u64 {
        cost(self.sequence_cost, tokens)
    }

    /// Waits for a sign, at most until then.
    fn wait<'s>(
        &self,
        sign: &Condvar,
        state: MutexGuard<'s, State<E>>,
        until: Option<Duration>,
    ) -> MutexGuard<'s, State<E>> {
        match until {
            None => sign.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(until) => {
                let left = until.saturating_sub(self.now());
                let waited = sign.wait_timeout(state, left);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    /// Delivers what there is, without the lock, and tells who waits for the last request.
    fn send(&self, state: MutexGuard<'_, State<E>>, outbox: &mut Vec<Delivery>) {
        let was_last = state.phase != Phase::Open && state.jobs.is_empty();
        drop(state);
        if was_last {
            self.idle.notify_all();
        }
        flush(outbox);
    }
}

impl<E: Executor> Cancel for Shared<E> {
    fn cancel(&self, id: Id) {
        let mut state = self.lock();
        if let Some(job) = state.jobs.remove(&id) {
            state.scheduler.cancel(id);
            state.counts.cancelled += 1;
            self.send(state, &mut Vec::new());
            drop(job);
        }
    }
}

impl<E: Executor> Runtime<E> {
    /// Starts the threads.
    pub fn start(
        executor: Arc<E>,
        limits: Limits,
        speed: Speed,
        tokenizers: usize,
        reopen: Option<Reopen<E>>,
    ) -> Result<Runtime<E>> {
        let contexts = limits.contexts;
        let shared = Arc::new(Shared {
            max_tokens: executor.max_tokens(),
            sequence_cost: executor.sequence_cost(),
            state: Mutex::new(State {
                scheduler: Scheduler::new(limits, speed),
                jobs: HashMap::new(),
                executor: Some(executor),
                epoch: 0,
                health: Health::Ready,
                phase: Phase::Open,
                idle_passes: 0,
                counts: Snapshot::default(),
            }),
            texts: Condvar::new(),
            passes: Condvar::new(),
            idle: Condvar::new(),
            start: Instant::now(),
            reopen,
        });
        // From here on, dropping it stops what was started.
        let mut runtime = Runtime {
            shared,
            threads: Vec::new(),
        };
        for number in 0..contexts {
            runtime.spawn(format!("ropeway-pass-{number}"), Shared::run_passes)?;
        }
        for number in 0..tokenizers {
            runtime.spawn(format!("ropeway-tokens-{number}"), Shared::tokenize)?;
        }
        Ok(runtime)
    }

    fn spawn(&mut self, name: String, work: fn(&Shared<E>)) -> Result<()> {
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || work(&shared));
        let failed = |e| Error::Internal(format!("threads cannot be started: {e}"));
        self.threads.push(thread.map_err(failed)?);
        Ok(())
    }

    pub fn submit(&self, submission: Submission) -> Result<Ticket, ServiceError> {
        let Submission {
            request,
            caller,
            priority,
            deadline,
        } = submission;
        let shared = &self.shared;
        let (tokens, cost, short) = shared.estimate(&request);
        let place = Place {
            caller,
            priority,
            deadline: deadline.map(|at| at.saturating_duration_since(shared.start)),
        };
        let mut state = shared.lock();
        if state.phase != Phase::Open {
            return Err(ServiceError::Stopped);
        }
        if let Health::Lost { reason } = &state.health {
            return Err(Error::DeviceLost(reason.clone()).into());
        }
        let arrival = Arrival {
            place,
            tokens,
            cost,
            short,
        };
        let id = match state.scheduler.submit(shared.now(), arrival) {
            Ok(id) => id,
            Err(Refusal::Full { retry_after }) => {
                state.counts.refused_overloaded += 1;
                return Err(ServiceError::Overloaded { retry_after });
            }
            Err(Refusal::Late { needs }) => {
                state.counts.refused_unreachable += 1;
                return Err(ServiceError::Unreachable { needs });
            }
        };
        let slot = Arc::<Slot>::default();
        let job = Job {
            request,
            slot: slot.clone(),
            ready: None,
            rows: Vec::new(),
            lengths: Vec::new(),
            submitted: Instant::now(),
            tokenize: Duration::ZERO,
            started: None,
        };
        state.jobs.insert(id, job);
        state.counts.submitted += 1;
        // A thread of passes that has nothing to do tokenises a short text itself: it need not be woken after another one.
        let is_first = state.scheduler.texts() == 1 && state.scheduler.has_short_text();
        let sign = match is_first && state.idle_passes > 0 {
            true => &shared.passes,
            false => &shared.texts,
        };
        drop(state);
        sign.notify_one();
        Ok(Ticket {
            slot,
            id,
            service: shared.clone(),
        })
    }

    pub fn executor(&self) -> Option<Arc<E>> {
        self.shared.lock().executor.clone()
    }

    pub fn health(&self) -> Health {
        self.shared.lock().health.clone()
    }

    pub fn snapshot(&self) -> Snapshot {
        let state = self.shared.lock();
        Snapshot {
            queued_requests: state.scheduler.queued_requests(),
            queued_tokens: state.scheduler.queued_tokens(),
            running_passes: state.scheduler.running_passes(),
            ..state.counts.clone()
        }
    }

    /// Lets nobody in any more, and waits until everyone inside is served, at most for so long. Says whether they are.
    pub fn drain(&self, timeout: Duration) -> bool {
        let until = self.shared.now().saturating_add(timeout);
        let mut state = self.shared.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Draining;
        }
        while !state.jobs.is_empty() && state.phase == Phase::Draining && self.shared.now() < until {
            state = self.shared.wait(&self.shared.idle, state, Some(until));
        }
        state.jobs.is_empty()
    }

    /// Ends the threads, after the passes that run. What waits gets [`ServiceError::Stopped`].
    fn stop(&mut self) {
        let mut outbox = Vec::new();
        let mut state = self.shared.lock();
        state.phase = Phase::Stopped;
        let all = state.scheduler.cancel_all();
        state.give_up(all, || ServiceError::Stopped, &mut outbox);
        self.shared.texts.notify_all();
        self.shared.passes.notify_all();
        self.shared.send(state, &mut outbox);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl<E: Executor> Drop for Runtime<E> {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The operations of a sequence.
pub fn cost((per_token, per_square): (u64, u64), tokens: usize) -> u64 {
    let tokens = tokens as u64;
    per_token
        .saturating_mul(tokens)
        .saturating_add(per_square.saturating_mul(tokens.saturating_mul(tokens)))
        // Sums of very many stay far from the end of the type.
        .min(1 << 56)
}

fn internal(panic: &(dyn std::any::Any + Send)) -> Error {
    Error::Internal(panic_message(panic).to_owned())
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Failed {
    let message = panic_message(panic).to_owned();
    Failed {
        kind: FailureKind::OfOne,
        error: Box::new(move || Error::Internal(message.clone())),
    }
}

#[cfg(test)]
mod tests;
