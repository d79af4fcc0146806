//! Counts and histograms of a service, as plain numbers that any metrics crate can take.

use std::time::Duration;

/// Upper bounds of histograms of times, in seconds.
const SECONDS: &[f64] = &[
    10e-6, 20e-6, 50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 0.1, 0.2, 0.5, 1.0,
    2.0, 5.0, 10.0, 20.0, 50.0, 100.0,
];

/// Upper bounds of histograms of numbers.
const NUMBERS: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
    32768.0,
];

/// How often values up to each bound were seen.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Histogram {
    /// Upper bounds, ascending; the last bucket, above them all, has none.
    pub bounds: &'static [f64],
    /// Values in each bucket (not summed up), one more than `bounds`.
    pub counts: Vec<u64>,
    /// The sum of all values.
    pub sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Histogram {
        Histogram {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum: 0.0,
        }
    }

    pub(super) fn add(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|&bound| bound < value);
        self.counts[bucket] += 1;
        self.sum += value;
    }

    pub(super) fn add_time(&mut self, time: Duration) {
        self.add(time.as_secs_f64());
    }

    /// Values seen.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Everything a service counts, since it started; see [`Service::snapshot`](super::Service::snapshot).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Requests that were let in.
    pub submitted: u64,
    /// Requests that got an embedding.
    pub completed: u64,
    /// Requests that got the engine's error.
    pub failed: u64,
    /// Requests whose tickets were dropped before they were done.
    pub cancelled: u64,
    /// Requests whose deadline passed while they waited.
    pub expired: u64,
    /// Requests that were not let in because the queue was full.
    pub refused_overloaded: u64,
    /// Requests that were not let in because of their deadline.
    pub refused_unreachable: u64,
    /// Tokens of the requests that got an embedding.
    pub tokens: u64,
    /// Passes that ended well.
    pub passes: u64,
    /// Passes that failed.
    pub failed_passes: u64,
    /// Times that a lost engine was opened anew.
    pub reopened: u64,
    /// Requests that wait now.
    pub queued_requests: usize,
    /// Tokens that wait now; of texts that are not tokenised yet, an estimate.
    pub queued_tokens: usize,
    /// Passes that run now.
    pub running_passes: usize,
    /// Seconds from submission to the start of the first pass, without tokenising.
    pub queue_seconds: Histogram,
    /// Seconds of checking and tokenising.
    pub tokenize_seconds: Histogram,
    /// Seconds of a pass.
    pub pass_seconds: Histogram,
    /// Seconds from submission to result.
    pub total_seconds: Histogram,
    /// Tokens of a pass.
    pub pass_tokens: Histogram,
    /// Requests of a pass.
    pub pass_requests: Histogram,
}

impl Default for Snapshot {
    fn default() -> Snapshot {
        let seconds = || Histogram::new(SECONDS);
        let numbers = || Histogram::new(NUMBERS);
        Snapshot {
            submitted: 0,
            completed: 0,
            failed: 0,
            cancelled: 0,
            expired: 0,
            refused_overloaded: 0,
            refused_unreachable: 0,
            tokens: 0,
            passes: 0,
            failed_passes: 0,
            reopened: 0,
            queued_requests: 0,
            queued_tokens: 0,
            running_passes: 0,
            queue_seconds: seconds(),
            tokenize_seconds: seconds(),
            pass_seconds: seconds(),
            total_seconds: seconds(),
            pass_tokens: numbers(),
            pass_requests: numbers(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_up_to_its_bound() {
        let mut histogram = Histogram::new(NUMBERS);
        for value in [1.0, 2.0, 3.0, 4.0, 1e9] {
            histogram.add(value);
        }
        assert_eq!(histogram.counts[..3], [1, 1, 2]);
        assert_eq!(histogram.counts.last(), Some(&1));
        assert_eq!((histogram.count(), histogram.sum), (5, 1e9 + 10.0));
    }
}
