//! Reading ahead: a thread reads and parses inputs while others are embedded.
//!
//! What is read waits in a queue of bounded weight. The consumer takes all that is there, up to a
//! group; so large groups form while the engine is busy, and a single line that someone types is
//! embedded at once. Results do not depend on the groups.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::exit::Exit;
use super::source::{Event, Item, LONGEST, Reader, Source};

/// Inputs of one group; as many again wait in the queue and are being read.
const GROUP_INPUTS: usize = 1024;

/// Inputs that may wait in the queue while a group is computed.
const WAITING_INPUTS: usize = GROUP_INPUTS;

/// Passes through the model that a group makes. Few, as rows are written after each group and a
/// kill loses those under way; many enough that a last pass which is not full does not matter.
const GROUP_PASSES: usize = 4;

/// A token is about four bytes of text.
const TOKEN_BYTES: usize = 4;

/// The largest group in bytes, whatever the engine takes at once. What waits and what is being read is two groups and two
/// inputs of the greatest length at most; on top come the groups that are embedded and written.
const LARGEST_GROUP: usize = LONGEST;

/// What was read next.
#[derive(Debug)]
pub enum Entry {
    /// An input.
    Item(Box<Item>),
    /// A source that could not be read, or not to its end.
    Broken(String),
}

/// The consumer's end; dropping it ends the reader at its next input.
pub struct Queue(Arc<Shared>);

struct Shared {
    /// Weight of one group.
    group: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    entries: VecDeque<Entry>,
    weight: usize,
    /// The reader has reported all.
    done: bool,
    /// The consumer is gone.
    deserted: bool,
}

impl Queue {
    /// Starts reading, for an engine that takes so many tokens at once.
    pub fn start(reader: Reader, sources: Vec<Source>, batch_tokens: usize) -> Result<Queue, Exit> {
        let group = batch_tokens
            .saturating_mul(GROUP_PASSES * TOKEN_BYTES)
            .min(LARGEST_GROUP);
        let shared = Arc::new(Shared {
            group,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let queue = Queue(shared.clone());
        let read = move || {
            // Also when the reader panics, the consumer must not wait for ever.
            let end = End(&shared);
            let mut ready = Vec::new();
            let mut weight = 0;
            reader.read(sources, &mut |event| {
                match event {
                    Event::Item(item) => {
                        weight += item.weight();
                        ready.push(Entry::Item(item));
                    }
                    Event::Broken(problem) => ready.push(Entry::Broken(problem)),
                    Event::Idle => return shared.hand_over(&mut ready, &mut weight),
                }
                let full = ready.len() >= GROUP_INPUTS || weight >= group;
                !full || shared.hand_over(&mut ready, &mut weight)
            });
            shared.hand_over(&mut ready, &mut weight);
            drop(end);
        };
        let thread = thread::Builder::new().name("ropeway-read".into()).spawn(read);
        thread.map_err(|error| Exit::usage(format!("the reading thread cannot be started: {error}")))?;
        Ok(queue)
    }

    /// A way to end it.
    pub fn stopper(&self) -> Stop {
        Stop(self.0.clone())
    }

    /// The next inputs: all there are, up to a group. Waits for the first; empty at the end.
    pub fn next_group(&self) -> Vec<Entry> {
        let mut state = self.0.lock();
        while state.entries.is_empty() && !state.done && !state.deserted {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let mut group = Vec::new();
        let mut weight = 0;
        while let Some(entry) = state.entries.front() {
            let next = entry.weight();
            if group.len() == GROUP_INPUTS || (!group.is_empty() && weight + next > self.0.group) {
                break;
            }
            weight += next;
            group.extend(state.entries.pop_front());
        }
        state.weight -= weight;
        self.0.changed.notify_all();
        group
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.0.desert();
    }
}

/// Ends a queue from a thread that does not hold it.
pub struct Stop(Arc<Shared>);

impl Stop {
    /// Ends the reader at its next input; whoever waits for inputs gets none.
    pub fn stop(&self) {
        self.0.desert();
    }
}

impl Shared {
    fn desert(&self) {
        self.lock().deserted = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts what was read into the queue, waiting for room; false if nobody wants it.
    fn hand_over(&self, ready: &mut Vec<Entry>, weight: &mut usize) -> bool {
        let mut state = self.lock();
        let full = |state: &State| state.weight >= self.group || state.entries.len() >= WAITING_INPUTS;
        while !ready.is_empty() && full(&state) && !state.deserted {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        // Inputs that failed to parse weigh something as well, so their number is bounded too.
        state.weight += ready.iter().map(Entry::weight).sum::<usize>();
        state.entries.extend(ready.drain(..));
        *weight = 0;
        self.changed.notify_all();
        !state.deserted
    }
}

impl Entry {
    fn weight(&self) -> usize {
        match self {
            Entry::Item(item) => item.weight(),
            Entry::Broken(problem) => problem.len(),
        }
    }
}

/// Marks the end of reading, however it is reached.
struct End<'a>(&'a Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.lock().done = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ropeway::Embed;

    use super::*;
    use crate::source::{Format, Unit};

    /// Reads such lines through a queue, and gives how many there were, and the most inputs and bytes that waited.
    fn through(line: &str, count: usize, batch_tokens: usize) -> (usize, usize, usize) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.txt");
        fs::write(&path, line.repeat(count)).unwrap();
        let reader = Reader {
            format: Format::Text,
            unit: Unit::Line,
            defaults: Box::leak(Box::new(Embed::default())),
        };
        let queue = Queue::start(reader, vec![Source::File(path)], batch_tokens).unwrap();
        let (mut read, mut inputs, mut bytes) = (0, 0, 0);
        loop {
            {
                let state = queue.0.lock();
                inputs = inputs.max(state.entries.len());
                bytes = bytes.max(state.weight);
                assert_eq!(
                    state.weight,
                    state.entries.iter().map(Entry::weight).sum::<usize>()
                );
            }
            match queue.next_group().len() {
                0 => return (read, inputs, bytes),
                group => read += group,
            }
            // Lets the reader fill the queue as far as it goes.
            thread::yield_now();
        }
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_in_bytes() {
        // Large batches: the number is the bound.
        let (read, inputs, _) = through("\n", 50_000, usize::MAX);
        assert_eq!(read, 50_000);
        assert!(inputs < WAITING_INPUTS + GROUP_INPUTS, "{inputs} inputs wait");
        // Long lines: the bytes are, up to the line that crosses it.
        let (read, inputs, bytes) = through(&format!("{}\n", "x".repeat(1 << 16)), 200, 1);
        assert_eq!(read, 200);
        assert!(
            inputs <= 2 && bytes <= 2 << 17,
            "{inputs} inputs of {bytes} bytes wait"
        );
        let (_, _, bytes) = through(&format!("{}\n", "x".repeat(1000)), 2000, 1000);
        assert!(
            bytes < 2 * 1000 * GROUP_PASSES * TOKEN_BYTES + 2 * 1064,
            "{bytes} bytes wait"
        );
    }
}
