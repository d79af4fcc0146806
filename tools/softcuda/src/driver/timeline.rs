//! When work is over on the device, where `SOFTCUDA_FAULTS` gives it a length (`slow-copies`, `slow-launches`).
//!
//! Memory holds the result of a piece of work as soon as it is performed; whoever waits for it sleeps until its time is over,
//! as do events and queries. The device has three engines that work side by side, each on one piece at a time: one for
//! launches, one for copies to the device, one for copies from it. The time in which a kernel is interpreted is the
//! device's: a launch should be given a length that it fits in.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::work::{Copy, OpId, Place, Work};

/// What does a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    Launches = 0,
    Up = 1,
    Down = 2,
}

/// The device's time so far.
#[derive(Debug, Default)]
pub struct Timeline {
    /// The ends of work that is performed but not over.
    due: HashMap<OpId, Instant>,
    /// When each engine has done what it was given.
    free: [Option<Instant>; 3],
    first: Option<Instant>,
    /// Launches, and their time in sum.
    launches: u64,
    busy: Duration,
}

impl Timeline {
    /// The end of a piece of work, if that lies ahead.
    pub fn due(&self, op: OpId) -> Option<Instant> {
        self.due.get(&op).copied().filter(|&end| end > Instant::now())
    }

    /// The latest of several ends.
    pub fn latest<'a>(&self, ops: impl IntoIterator<Item = &'a OpId>) -> Option<Instant> {
        ops.into_iter().filter_map(|op| self.due.get(op)).max().copied()
    }

    /// The end of everything.
    pub fn end(&self) -> Option<Instant> {
        self.due.values().max().copied()
    }

    /// Work was performed that could begin at `ready` and has this length. Returns its end.
    pub fn add(&mut self, op: OpId, work: &Work, ready: Instant, length: Option<Duration>) -> Instant {
        let mut end = ready;
        if let Some(length) = length {
            let engine = engine(work);
            let free = &mut self.free[engine as usize];
            let start = free.map_or(ready, |free| free.max(ready));
            end = start + length;
            *free = Some(end);
            if engine == Engine::Launches {
                self.first.get_or_insert(start);
                self.launches += 1;
                self.busy += length;
            }
        }
        let now = Instant::now();
        if end > now {
            if self.due.len() >= 1024 {
                self.due.retain(|_, end| *end > now);
            }
            self.due.insert(op, end);
        }
        end
    }

    /// `{"launches": 3, "busy_us": 60000, "span_us": 61000}`: how long the device was busy with launches, of the time from the
    /// first one's start to the last one's end. `None` where launches have no length.
    pub fn json(&self) -> Option<String> {
        let span = self.free[Engine::Launches as usize]? - self.first?;
        let (launches, busy, span) = (self.launches, self.busy.as_micros(), span.as_micros());
        Some(format!(
            "{{\"launches\": {launches}, \"busy_us\": {busy}, \"span_us\": {span}}}"
        ))
    }
}

fn engine(work: &Work) -> Engine {
    match work {
        Work::Copy(copy) => match &**copy {
            Copy {
                to: Place::Device { .. },
                from: Place::Host(_) | Place::Staged(_),
                ..
            } => Engine::Up,
            Copy {
                to: Place::Host(_), ..
            } => Engine::Down,
            _ => Engine::Launches,
        },
        _ => Engine::Launches,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_does_one_piece_at_a_time_and_engines_work_side_by_side() {
        let copy = |from, to| Work::Copy(Copy::flat(from, to, 8).into());
        let (host, device) = (
            Place::Host(0),
            Place::Device {
                device: 0,
                address: 0,
            },
        );
        let (up, down) = (copy(host.clone(), device.clone()), copy(device, host));
        let mut timeline = Timeline::default();
        let start = Instant::now() + Duration::from_secs(100);
        let second = Duration::from_secs(1);
        let at = |seconds: u32| start + seconds * second;
        assert_eq!(timeline.json(), None);
        assert_eq!(timeline.add(1, &Work::Empty, start, Some(2 * second)), at(2));
        // The next launch waits for the first, a copy does not.
        assert_eq!(timeline.add(2, &Work::Empty, start, Some(2 * second)), at(4));
        assert_eq!(timeline.add(3, &up, start, Some(second)), at(1));
        assert_eq!(timeline.add(4, &down, at(3), Some(second)), at(4));
        // What has no length is over when what it waits for is.
        assert_eq!(timeline.add(5, &Work::Empty, at(4), None), at(4));
        assert_eq!(timeline.add(6, &Work::Empty, at(6), Some(second)), at(7));
        assert_eq!(timeline.due(3), Some(at(1)));
        assert_eq!(timeline.latest(&[3, 4, 9]), Some(at(4)));
        assert_eq!(timeline.end(), Some(at(7)));
        let json = "{\"launches\": 3, \"busy_us\": 5000000, \"span_us\": 7000000}";
        assert_eq!(timeline.json().as_deref(), Some(json));
    }
}
