//! What the scheduler and those around it tell each other, and what it keeps of each request.

use std::time::Duration;

use super::fair_queue::Place;

/// Number of a request, in the order of their arrival.
pub type Id = u64;

/// A sequence of a request: the request and the sequence's number.
pub type Part = (Id, usize);

/// The bounds that a scheduler keeps.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Passes that run at the same time.
    pub contexts: usize,
    /// Requests that may wait.
    pub queue_requests: usize,
    /// Tokens that may wait.
    pub queue_tokens: usize,
    /// Tokens of a pass; a longer sequence is a pass of its own.
    pub pass_tokens: usize,
    /// The predicted time of a pass; a sequence that takes longer is a pass of its own, and with several contexts one that
    /// takes a quarter of it.
    pub pass_time: Duration,
    /// A pass of this cost is always within `pass_time`: below it a pass wastes the machine.
    pub pass_cost: u64,
    /// How long a request may wait for others to share its pass.
    pub max_wait: Duration,
}

/// A request at the door.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub place: Place,
    /// Its tokens; of a text, an estimate.
    pub tokens: usize,
    /// Its cost, estimated likewise.
    pub cost: u64,
    /// Whether it is tokenised in less time than it takes to wake a thread for it, or in about as much.
    pub short: bool,
}

/// Why a request is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The queue is full; there should be room after this time.
    Full { retry_after: Duration },
    /// The deadline would pass before the result is there, which should take this long from now.
    Late { needs: Duration },
}

/// What a free context does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// These parts, in one pass.
    Pass { number: u64, parts: Vec<Part> },
    /// Nothing before this time, unless something changes.
    At(Duration),
    /// Nothing until something changes.
    Nothing,
}

/// What a pass came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took this long.
    Done(Duration),
    /// It failed, and one of its requests may be the cause: each is tried alone.
    FailedByOne,
    /// It failed for all.
    Failed,
}

#[derive(Debug)]
pub struct Entry {
    pub place: Place,
    /// What it counts for in the queue.
    pub tokens: usize,
    pub cost: u64,
    /// As it came: see [`Arrival`].
    pub short: bool,
    pub stage: Stage,
}

#[derive(Debug)]
pub enum Stage {
    /// Waits for a tokenizer.
    Text,
    /// A tokenizer has it.
    Tokenizing,
    /// In parts. They share a pass with those of the same group alone.
    Parts {
        group: usize,
        /// It goes through by itself.
        alone: bool,
        parts: Vec<Sequence>,
    },
}

#[derive(Clone, Copy, Debug)]
pub struct Sequence {
    pub tokens: usize,
    pub cost: u64,
    pub long: bool,
    pub state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Waits,
    Runs,
    Done,
}

#[derive(Debug)]
pub struct Running {
    pub parts: Vec<Part>,
    pub cost: u64,
    pub long: bool,
    /// When it should end.
    pub ends: Duration,
}
