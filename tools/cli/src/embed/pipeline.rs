//! The stages of a run, each on threads of its own: a thread reads ([`Queue`]), others tokenise and embed groups of inputs,
//! and the caller's writes their rows, in the inputs' order.
//!
//! What waits between the stages is bounded: [`FINISHED`] groups between embedding and writing, one in the hands of each
//! thread, and what the queue holds.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::jsonl::Id;
use ropeway::{Embedding, Engine, Request};

use crate::device;
use crate::queue::{Entry, Queue};
use crate::source::{InputLocation, Item};

/// Threads that embed groups on a GPU: one's group computes while another tokenises the next, and a third hands over the
/// results of the one before. On the CPU one, as more would take the cores from one another.
const ON_GPU: usize = 3;

/// Groups that may wait to be written, embedded or under way. With fewer, a thread would wait for the writer before it takes
/// the next group.
const FINISHED: usize = 2;

/// The inputs of a run, numbered in their order.
pub struct Inputs {
    queue: Queue,
    /// Read, not yet taken.
    ready: VecDeque<Entry>,
    /// Inputs taken so far, which is also the id of the next that has none.
    taken: u64,
}

/// Inputs that are embedded together.
pub struct Group {
    /// In their order.
    pub entries: Vec<Taken>,
    requests: Vec<Request<'static>>,
    /// One for each input that could be understood, in their order.
    pub results: Vec<ropeway::Result<Embedding>>,
    /// Inputs taken so far.
    pub taken: u64,
}

/// An input, or a source that ends.
pub enum Taken {
    Input(Waiting),
    /// A source that could not be read, or not to its end.
    Broken(String),
}

/// An input whose request is on its way through the engine.
pub struct Waiting {
    pub id: Id,
    pub place: InputLocation,
    /// Bytes read up to its end.
    pub read: u64,
    /// Why it was not even tried.
    pub problem: Option<String>,
}

impl Inputs {
    pub fn new(queue: Queue) -> Inputs {
        Inputs {
            queue,
            ready: VecDeque::new(),
            taken: 0,
        }
    }

    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// The next input, which is not counted yet.
    pub fn next(&mut self) -> Option<Entry> {
        self.fill();
        self.ready.pop_front()
    }

    fn fill(&mut self) {
        if self.ready.is_empty() {
            self.ready.extend(self.queue.next_group());
        }
    }

    /// The id of an input, which is counted.
    pub fn count(&mut self, id: Option<Id>) -> Id {
        self.taken += 1;
        id.unwrap_or_else(|| Id::number(self.taken - 1))
    }

    /// All inputs that are there, up to a group; `None` at the end.
    fn group(&mut self) -> Option<Group> {
        self.fill();
        if self.ready.is_empty() {
            return None;
        }
        let mut requests = Vec::with_capacity(self.ready.len());
        let mut entries = Vec::with_capacity(self.ready.len());
        for entry in std::mem::take(&mut self.ready) {
            entries.push(match entry {
                Entry::Broken(problem) => Taken::Broken(problem),
                Entry::Item(item) => {
                    let Item {
                        id,
                        place,
                        read,
                        request,
                        ..
                    } = *item;
                    Taken::Input(Waiting {
                        id: self.count(id),
                        place,
                        read,
                        problem: request.map(|request| requests.push(request)).err(),
                    })
                }
            });
        }
        Some(Group {
            entries,
            requests,
            results: Vec::new(),
            taken: self.taken,
        })
    }
}

/// Embeds all inputs and gives their groups to `write`, in order, on the caller's thread. If that fails, no further input is
/// taken, and its error is returned.
pub fn run<E>(
    engine: &Engine,
    inputs: &mut Inputs,
    mut write: impl FnMut(Group) -> Result<(), E>,
) -> Result<(), E> {
    let queue = inputs.queue.stopper();
    let inputs = Mutex::new(inputs);
    let threads = if engine.on_gpu() { ON_GPU } else { 1 };
    thread::scope(|scope| {
        let (order, finished) = sync_channel(FINISHED);
        for _ in 0..threads {
            let (inputs, order) = (&inputs, order.clone());
            scope.spawn(move || embed(engine, inputs, &order));
        }
        drop(order);
        // A thread that panics gives nothing for its group, and the scope passes the panic on.
        let groups = finished
            .iter()
            .map_while(|group: Receiver<Group>| group.recv().ok());
        let written = groups.map(&mut write).find(Result::is_err);
        // The threads end when they have no place for their next group, and one that waits for inputs gets none.
        drop(finished);
        queue.stop();
        written.unwrap_or(Ok(()))
    })
}

/// Embeds groups until there are no more, or nobody wants them.
fn embed(engine: &Engine, inputs: &Mutex<&mut Inputs>, order: &SyncSender<Receiver<Group>>) {
    loop {
        let (mut group, place) = {
            // Until the group has its place in the order. That may wait for the writer, and then all threads do.
            let mut inputs = inputs.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(group) = inputs.group() else { return };
            let (place, result) = sync_channel(1);
            if order.send(result).is_err() {
                return;
            }
            (group, place)
        };
        group.results = device::embed_batch(engine, &group.requests);
        group.requests.clear();
        // If the writer has stopped, the next place says so.
        let _ = place.send(group);
    }
}
