//! The threads of a service around its scheduler: one per context runs passes, a few tokenise.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Submission;
use super::error::ServiceError;
use super::executor::{Executor, Failed, FailureKind};
use super::fair_queue::Place;
use super::metrics::Snapshot;
use super::scheduler::{Arrival, Id, Limits, Next, Outcome, Part, Refusal, Scheduler};
use super::speed::Speed;
use super::ticket::{Cancel, Served, Slot, Ticket, Timing};
use crate::error::{Error, Result, panic_message};
use crate::request::{Input, Request};

/// Opens an engine in place of one that was lost.
pub type Reopen<E> = Box<dyn Fn() -> Result<E> + Send + Sync>;

/// The pause after a first failed attempt to open an engine anew; each further one is twice as long, up to
/// [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Whether a service can compute.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// It computes. A full queue is healthy too.
    Ready,
    /// The device was lost, and the engine is being opened anew; requests wait.
    Reopening {
        /// What happened to the device.
        reason: String,
    },
    /// The device was lost, and the engine could not be opened anew; requests are refused. Where the service was given a way
    /// to open one, it tries again.
    Lost {
        /// What happened last.
        reason: String,
    },
}

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
    executor: Arc<E>,
    /// How often the executor was replaced.
    epoch: u64,
    health: Health,
    phase: Phase,
    counts: Snapshot,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Draining,
    Stopped,
}

/// A request that is not done.
struct Job<E: Executor> {
    request: Arc<Request<'static>>,
    slot: Arc<Slot>,
    ready: Option<Arc<E::Ready>>,
    rows: Vec<Option<E::Rows>>,
    tokens: usize,
    submitted: Instant,
    tokenize: Duration,
    started: Option<Instant>,
}

/// A result on its way to its ticket, put down when no lock is held.
struct Delivery {
    slot: Arc<Slot>,
    result: Served,
    timing: Timing,
}

/// A pass that a context is about to run.
struct Pass<E: Executor> {
    number: u64,
    parts: Vec<Part>,
    ready: Vec<Arc<E::Ready>>,
    tokens: usize,
    executor: Arc<E>,
    epoch: u64,
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

    fn deliver(self, result: Served) -> Delivery {
        Delivery {
            timing: self.timing(),
            slot: self.slot,
            result,
        }
    }
}

fn flush(outbox: &mut Vec<Delivery>) {
    for Delivery { slot, result, timing } in outbox.drain(..) {
        slot.fill(result, timing);
    }
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
            tokens += E::lengths(&its)[part];
            ready.push(its);
        }
        Pass {
            number,
            parts,
            ready,
            tokens,
            executor: self.executor.clone(),
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

    /// Tells who waits for the last request.
    fn tell_if_idle(&self, state: &State<E>) {
        if state.jobs.is_empty() {
            self.idle.notify_all();
        }
    }

    /// Delivers what there is, without the lock.
    fn send(&self, state: MutexGuard<'_, State<E>>, outbox: &mut Vec<Delivery>) {
        self.tell_if_idle(&state);
        drop(state);
        flush(outbox);
    }

    /// Runs passes until the service stops.
    fn run_passes(&self) {
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
                    // Another context may have something to do as well.
                    self.passes.notify_one();
                    self.send(state, &mut outbox);
                    self.run(pass, &mut outbox);
                    continue;
                }
                Next::At(time) => Some(time),
                Next::Nothing => None,
            };
            match outbox.is_empty() {
                true => drop(self.wait(&self.passes, state, until)),
                false => self.send(state, &mut outbox),
            }
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
                for (&(id, part), rows) in parts.iter().zip(rows) {
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
                self.finish(done, outbox);
            }
            Err(Failed { kind, error }) => {
                state.counts.failed_passes += 1;
                let outcome = match kind {
                    FailureKind::OfOne => Outcome::FailedByOne,
                    FailureKind::OfAll | FailureKind::Lost => Outcome::Failed,
                };
                let (_, failed) = state.scheduler.end_pass(number, outcome);
                state.give_up(failed, || error().into(), outbox);
                if kind == FailureKind::Lost && state.epoch == epoch {
                    self.replace_executor(state, &error().to_string(), outbox);
                }
            }
        }
    }

    /// Makes the results of requests whose parts are all computed.
    fn finish(&self, done: Vec<Job<E>>, outbox: &mut Vec<Delivery>) {
        let finished = done.into_iter().map(|mut job| {
            let rows = std::mem::take(&mut job.rows).into_iter().flatten().collect();
            let ready = job.ready.take().and_then(Arc::into_inner);
            let finish = || E::finish(ready.expect("no pass holds a request that is done"), rows);
            let result =
                catch_unwind(AssertUnwindSafe(finish)).unwrap_or_else(|panic| Err(internal(&*panic)));
            (job.tokens, job.deliver(result.map_err(ServiceError::from)))
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

    /// Opens an engine in place of the lost one; keeps trying until that works or the service stops.
    fn replace_executor(&self, mut state: MutexGuard<'_, State<E>>, lost: &str, outbox: &mut Vec<Delivery>) {
        tracing::error!("the device of a service is lost: {lost}");
        state.epoch += 1;
        for id in state.scheduler.return_all() {
            if let Some(job) = state.jobs.get_mut(&id) {
                job.ready = None;
                job.rows.clear();
            }
        }
        if self.reopen.is_some() {
            state.health = Health::Reopening {
                reason: lost.to_owned(),
            };
        }
        let mut reason = lost.to_owned();
        let mut pause = FIRST_PAUSE;
        self.send(state, outbox);
        loop {
            let attempt = self
                .reopen
                .as_ref()
                .map(|open| catch_unwind(AssertUnwindSafe(open)));
            let failure = match attempt {
                Some(Ok(Ok(executor))) => {
                    tracing::info!("the service computes again, on an engine that was opened anew");
                    let mut state = self.lock();
                    state.executor = Arc::new(executor);
                    state.health = Health::Ready;
                    state.counts.reopened += 1;
                    self.texts.notify_all();
                    self.passes.notify_all();
                    return;
                }
                Some(Ok(Err(error))) => Some(error.to_string()),
                Some(Err(panic)) => Some(panic_message(&*panic).to_owned()),
                None => None,
            };
            if let Some(failure) = &failure {
                reason = format!("{lost}; opening the engine anew failed too: {failure}");
            }
            tracing::error!("{reason}");
            let mut state = self.lock();
            state.health = Health::Lost {
                reason: reason.clone(),
            };
            let all = state.scheduler.cancel_all();
            state.give_up(all, || Error::DeviceLost(reason.clone()).into(), outbox);
            self.send(state, outbox);
            if failure.is_none() {
                return;
            }
            let until = self.now() + pause;
            pause = (2 * pause).min(LONGEST_PAUSE);
            let mut state = self.lock();
            while self.now() < until {
                if state.phase == Phase::Stopped {
                    return;
                }
                state = self.wait(&self.passes, state, Some(until));
            }
        }
    }

    /// Tokenises until the service stops, and gives up requests whose deadlines pass.
    fn tokenize(&self) {
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
                self.tokenize_one(state, id, &mut outbox);
            } else if outbox.is_empty() {
                let until = state.scheduler.next_deadline();
                drop(self.wait(&self.texts, state, until));
            } else {
                self.send(state, &mut outbox);
            }
        }
    }

    fn tokenize_one(&self, state: MutexGuard<'_, State<E>>, id: Id, outbox: &mut Vec<Delivery>) {
        let request = state.jobs[&id].request.clone();
        let (executor, epoch) = (state.executor.clone(), state.epoch);
        self.texts.notify_one();
        self.send(state, outbox);
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
                    job.tokens = sequences.iter().map(|&(tokens, _)| tokens).sum();
                    job.ready = Some(Arc::new(ready));
                    job.tokenize = took;
                    self.passes.notify_one();
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
    }

    /// About the tokens of a request that is not tokenised yet, and their cost.
    fn estimate(&self, request: &Request<'_>) -> (usize, u64) {
        let tokens = match &request.input {
            // Of English some four bytes make a token.
            Input::Text(text) => 2 + text.len() / 4,
            Input::Ids(ids) => ids.len(),
        };
        let chunked = request.options.get_chunks().is_some();
        let limit = self.max_tokens.max(1);
        match chunked {
            false => (tokens.min(limit), self.cost(tokens.min(limit))),
            true => (
                tokens,
                (tokens / limit) as u64 * self.cost(limit) + self.cost(tokens % limit),
            ),
        }
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
                executor,
                epoch: 0,
                health: Health::Ready,
                phase: Phase::Open,
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
        let (tokens, cost) = shared.estimate(&request);
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
        let arrival = Arrival { place, tokens, cost };
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
            request: Arc::new(request),
            slot: slot.clone(),
            ready: None,
            rows: Vec::new(),
            tokens: 0,
            submitted: Instant::now(),
            tokenize: Duration::ZERO,
            started: None,
        };
        state.jobs.insert(id, job);
        state.counts.submitted += 1;
        drop(state);
        shared.texts.notify_one();
        Ok(Ticket {
            slot,
            id,
            service: shared.clone(),
        })
    }

    pub fn executor(&self) -> Arc<E> {
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
