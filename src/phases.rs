//! The time that the phases of a single piece of work take, such as opening an engine.

use std::time::{Duration, Instant};

/// Phases in their order, with the time that each took.
#[derive(Clone, Debug)]
pub struct PhaseTimes {
    last: Instant,
    phases: Vec<(&'static str, Duration)>,
}

impl PhaseTimes {
    /// Starts the first phase.
    pub fn start() -> PhaseTimes {
        PhaseTimes {
            last: Instant::now(),
            phases: Vec::new(),
        }
    }

    /// Ends the current phase, under this name, and starts the next. The times of phases of one name are added.
    pub fn end(&mut self, phase: &'static str) {
        let now = Instant::now();
        let took = now - self.last;
        self.last = now;
        match self.phases.iter_mut().find(|(name, _)| *name == phase) {
            Some((_, time)) => *time += took,
            None => self.phases.push((phase, took)),
        }
    }

    /// All phases, in the order of their first end.
    pub fn all(&self) -> &[(&'static str, Duration)] {
        &self.phases
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_the_whole_and_keep_their_order() {
        let start = Instant::now();
        let mut times = PhaseTimes::start();
        let pause = Duration::from_millis(2);
        for phase in ["files", "weights", "files"] {
            std::thread::sleep(pause);
            times.end(phase);
        }
        let whole = start.elapsed();
        let [("files", files), ("weights", weights)] = times.all() else {
            panic!("{:?}", times.all())
        };
        assert!(*files >= 2 * pause && *weights >= pause);
        assert!(*files + *weights <= whole);
    }
}
