//! Where the time of something goes that is done once.

use std::time::{Duration, Instant};

/// Parts of a whole in their order, each with the time that it took.
#[derive(Clone, Debug)]
pub struct Marks {
    last: Instant,
    parts: Vec<(&'static str, Duration)>,
}

impl Marks {
    /// Begins now.
    pub fn start() -> Marks {
        Marks {
            last: Instant::now(),
            parts: Vec::new(),
        }
    }

    /// What was done since the last mark was this. A part may come again; its times are added.
    pub fn mark(&mut self, part: &'static str) {
        let now = Instant::now();
        let took = now - self.last;
        self.last = now;
        match self.parts.iter_mut().find(|(name, _)| *name == part) {
            Some((_, time)) => *time += took,
            None => self.parts.push((part, took)),
        }
    }

    pub fn parts(&self) -> &[(&'static str, Duration)] {
        &self.parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_whole_and_keep_their_order() {
        let start = Instant::now();
        let mut marks = Marks::start();
        let pause = Duration::from_millis(2);
        for part in ["files", "weights", "files"] {
            std::thread::sleep(pause);
            marks.mark(part);
        }
        let whole = start.elapsed();
        let [("files", files), ("weights", weights)] = marks.parts() else {
            panic!("{:?}", marks.parts())
        };
        assert!(*files >= 2 * pause && *weights >= pause);
        assert!(*files + *weights <= whole);
    }
}
