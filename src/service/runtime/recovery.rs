//! A lost device: what becomes of the requests, and another engine in its place.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use super::{Delivery, Phase, Shared, State};
use crate::error::{Error, Result, panic_message};
use crate::service::executor::Executor;

/// Opens an engine in place of one that was lost.
pub type Reopen<E> = Box<dyn Fn() -> Result<E> + Send + Sync>;

/// The same, and warms the engine up: it is not there before its first passes would be as fast as all others. One that fails
/// then has not been opened.
pub fn warmed<E: Executor>(open: Reopen<E>) -> Reopen<E> {
    Box::new(move || {
        let engine = open()?;
        engine.warm_up()?;
        Ok(engine)
    })
}

/// The pause after a first failed attempt to open an engine anew; each further one is twice as long, up to
/// [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long those who still hold a lost engine are waited for: passes on it end with an error.
const RELEASE: Duration = Duration::from_secs(5);

/// Drops an engine when nobody else holds it. Its context has to be gone before the device can be had anew.
fn let_go<E>(engine: Option<Arc<E>>) {
    let since = Instant::now();
    while let Some(engine) = &engine
        && Arc::strong_count(engine) > 1
        && since.elapsed() < RELEASE
    {
        std::thread::sleep(Duration::from_millis(1));
    }
}

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

impl<E: Executor> Shared<E> {
    /// Opens an engine in place of the lost one; keeps trying until that works or the service stops.
    pub fn replace_executor(
        &self,
        mut state: MutexGuard<'_, State<E>>,
        lost: &str,
        outbox: &mut Vec<Delivery>,
    ) {
        tracing::error!("the device of a service is lost: {lost}");
        state.epoch += 1;
        for id in state.scheduler.return_all() {
            if let Some(job) = state.jobs.get_mut(&id) {
                job.ready = None;
                job.rows.clear();
            }
        }
        let mut reason = lost.to_owned();
        state.health = match self.reopen {
            Some(_) => Health::Reopening {
                reason: reason.clone(),
            },
            None => Health::Lost {
                reason: reason.clone(),
            },
        };
        let mut pause = FIRST_PAUSE;
        let old = state.executor.take();
        self.send(state, outbox);
        let_go(old);
        loop {
            let attempt = self
                .reopen
                .as_ref()
                .map(|open| catch_unwind(AssertUnwindSafe(open)));
            let failure = match attempt {
                Some(Ok(Ok(executor))) => {
                    tracing::info!("the service computes again, on an engine that was opened anew");
                    let mut state = self.lock();
                    state.executor = Some(Arc::new(executor));
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
}
