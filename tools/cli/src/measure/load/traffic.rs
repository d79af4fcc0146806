//! Clients that wait for their answers, and arrivals that wait for nobody.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::body::Bytes;
use ropeway::inspect::Random;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

use super::client::{Connection, Target};

/// Requests that are on their way at a time in an open loop, each on a connection. Further ones are not sent, and counted.
const MOST_ON_THEIR_WAY: usize = 2000;

/// After a request that got no answer a client waits this long.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// What became of requests.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// The time that they were counted in, in s.
    pub seconds: f64,
    /// The latencies of those that were answered with embeddings, in ms.
    pub answered: Vec<f64>,
    /// Those of requests that were told to come back later.
    pub refused: Vec<f64>,
    /// Those that got something else, or nothing.
    pub failed: usize,
    /// Those that were due while too many were on their way.
    pub unsent: usize,
    /// Answers that came after the time was over; they are among `answered`.
    pub late: usize,
    /// What went wrong first.
    pub failure: Option<String>,
    /// In an open loop, how late the thread that only waits for the next arrival woke up, at most, in ms: the machine's share
    /// in the longest latencies.
    pub clock_late: f64,
}

impl Tally {
    /// Answered requests per second.
    pub fn rate(&self) -> f64 {
        (self.answered.len() - self.late) as f64 / self.seconds.max(1e-9)
    }

    /// The latency that this part of the answered requests did not exceed, in ms.
    pub fn quantile(&self, part: f64) -> Option<f64> {
        quantile(&self.answered, part)
    }

    /// Adds what became of others.
    pub fn add(&mut self, other: Tally) {
        self.seconds += other.seconds;
        self.answered.extend(other.answered);
        self.refused.extend(other.refused);
        self.failed += other.failed;
        self.unsent += other.unsent;
        self.late += other.late;
        self.failure = self.failure.take().or(other.failure);
        self.clock_late = self.clock_late.max(other.clock_late);
    }

    /// Takes in a request that was due at one time and done at another.
    fn take(&mut self, exchanged: Exchanged, due: Instant, done: Instant, end: Instant) {
        let milliseconds = 1e3 * done.duration_since(due).as_secs_f64();
        match exchanged {
            Ok(StatusCode::OK) => {
                self.answered.push(milliseconds);
                self.late += usize::from(done > end);
            }
            Ok(StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => {
                self.refused.push(milliseconds)
            }
            Ok(status) => self.fail(status.to_string()),
            Err(message) => self.fail(message),
        }
    }

    /// The same for a request of an open loop.
    fn take_ended(&mut self, ended: Result<(Exchanged, Instant, Instant), JoinError>, end: Instant) {
        match ended {
            Ok((exchanged, due, done)) => self.take(exchanged, due, done, end),
            Err(panic) => self.fail(panic.to_string()),
        }
    }

    fn fail(&mut self, message: String) {
        self.failed += 1;
        self.failure.get_or_insert(message);
    }
}

/// The value that this part of the samples does not exceed.
pub fn quantile(samples: &[f64], part: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(place.max(1) - 1).copied()
}

/// A status, or why there was none.
type Exchanged = Result<StatusCode, String>;

/// Sends a request, on a connection that is opened if there is none, and given up if it fails.
async fn exchange(
    connection: &mut Option<Connection>,
    target: &Target,
    from: Option<IpAddr>,
    body: Bytes,
) -> Exchanged {
    // One that the server has closed since, as idle, is none.
    let mut open = match connection.take().filter(|connection| !connection.is_closed()) {
        Some(open) => open,
        None => Connection::open(target, from)
            .await
            .map_err(|error| format!("{error:#}"))?,
    };
    let (status, _) = open.post(body).await.map_err(|error| format!("{error:#}"))?;
    *connection = Some(open);
    Ok(status)
}

/// So many clients, each of which sends its next request when the last one was answered. What ends in the warm-up is not
/// counted.
pub async fn closed(
    target: &Target,
    bodies: &Arc<[Bytes]>,
    clients: usize,
    from: Option<IpAddr>,
    warm_up: Duration,
    time: Duration,
) -> Tally {
    let start = Instant::now() + warm_up;
    let end = start + time;
    let next = Arc::new(AtomicUsize::new(0));
    let mut all = JoinSet::new();
    for _ in 0..clients {
        let (target, bodies, next) = (target.clone(), bodies.clone(), next.clone());
        all.spawn(async move {
            let mut tally = Tally::default();
            let mut connection = None;
            while Instant::now() < end {
                let body = bodies[next.fetch_add(1, Ordering::Relaxed) % bodies.len()].clone();
                let sent = Instant::now();
                let exchanged = exchange(&mut connection, &target, from, body).await;
                let went_well = exchanged == Ok(StatusCode::OK);
                let done = Instant::now();
                if done >= start {
                    tally.take(exchanged, sent, done, end);
                }
                if !went_well {
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
            tally
        });
    }
    let mut tally = Tally::default();
    while let Some(of_one) = all.join_next().await {
        tally.add(of_one.unwrap_or_default());
    }
    tally.seconds = time.as_secs_f64();
    if tally.late == tally.answered.len() {
        // Each was on its way for longer than the whole time: all that is known is how long they took.
        tally.seconds = start.elapsed().as_secs_f64();
        tally.late = 0;
    }
    tally
}

/// Requests that arrive at random (Poisson), so many per second, whether or not earlier ones were answered; those of a
/// millisecond together, since a thread that woke for each took 5 % of a core from the server at 2000 a second. Latencies
/// count from the moment when a request was due, so that none is hidden by a delay of the sender.
pub async fn open(target: &Target, bodies: &Arc<[Bytes]>, rate: f64, time: Duration, seed: u64) -> Tally {
    let (due, mut arrivals) = mpsc::unbounded_channel();
    let start = Instant::now();
    let end = start + time;
    // A thread's sleep is finer than the runtime's timers, and goes on while the runtime is busy.
    let clock = std::thread::spawn(move || {
        let mut random = Random::new(seed);
        let mut milliseconds = 0.0;
        let mut late = Duration::ZERO;
        loop {
            milliseconds += -1e3 * (1.0 - random.unit()).max(1e-12).ln() / rate.max(1e-3);
            let next = start + Duration::from_millis(milliseconds.ceil() as u64);
            if next >= end {
                return late;
            }
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            late = late.max(next.elapsed());
            if due.send(next).is_err() {
                return late;
            }
        }
    });
    let idle: Arc<Mutex<Vec<Connection>>> = Arc::default();
    let mut all = JoinSet::new();
    let mut tally = Tally::default();
    let mut sent = 0;
    loop {
        let next = tokio::select! {
            biased;
            next = arrivals.recv() => next,
            Some(ended) = all.join_next() => {
                tally.take_ended(ended, end);
                continue;
            }
        };
        let Some(due) = next else { break };
        if all.len() >= MOST_ON_THEIR_WAY {
            tally.unsent += 1;
            continue;
        }
        let (target, body, idle) = (target.clone(), bodies[sent % bodies.len()].clone(), idle.clone());
        sent += 1;
        all.spawn(async move {
            let lock = || idle.lock().unwrap_or_else(PoisonError::into_inner);
            let mut connection = lock().pop();
            let exchanged = exchange(&mut connection, &target, None, body).await;
            let done = Instant::now();
            lock().extend(connection);
            (exchanged, due, done)
        });
    }
    while let Some(ended) = all.join_next().await {
        tally.take_ended(ended, end);
    }
    tally.clock_late = 1e3 * clock.join().unwrap_or_default().as_secs_f64();
    tally.seconds = time.as_secs_f64();
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let samples: Vec<f64> = (1..=1000).rev().map(f64::from).collect();
        let of = |part| quantile(&samples, part);
        assert_eq!(
            (of(0.5), of(0.99), of(0.999), of(1.0)),
            (Some(500.0), Some(990.0), Some(999.0), Some(1000.0))
        );
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[3.0], 0.001), Some(3.0));
    }
}
