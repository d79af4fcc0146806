//! What a service needs of an engine. Tests put others in its place, that fail when they are told to.

use crate::engine::Engine;
use crate::engine::passes::{PassFailure, Ready, Rows};
use crate::error::{Error, Result};
use crate::output::Embedding;
use crate::request::Request;

/// Fewer tokens in a pass waste a GPU, which is as soon done with these.
const FULL_SPEED_TOKENS_GPU: usize = 512;

/// The same for CPU cores: past some 64 tokens each token costs as much as the next.
const FULL_SPEED_TOKENS_CPU: usize = 128;

/// Prepares requests, and runs their sequences in passes.
pub trait Executor: Send + Sync + 'static {
    /// A request, understood and tokenised.
    type Ready: Send + Sync + 'static;
    /// What a pass gives for one sequence.
    type Rows: Send + 'static;

    /// Passes that can run at the same time.
    fn contexts(&self) -> usize;
    /// Tokens of the largest pass.
    fn pass_tokens(&self) -> usize;
    /// A pass of so many tokens is taken to be short, whatever its time: fewer would waste the machine.
    fn full_speed_tokens(&self) -> usize;
    /// The most tokens that a text is cut to.
    fn max_tokens(&self) -> usize;
    /// Floating-point operations per token and per squared token of a sequence.
    fn sequence_cost(&self) -> (u64, u64);

    /// Does once what the first passes would do.
    fn warm_up(&self) -> Result<()>;
    /// Checks and tokenises.
    fn prepare(&self, request: &Request<'static>) -> Result<Self::Ready>;
    /// Tokens of each sequence.
    fn lengths(ready: &Self::Ready) -> Vec<usize>;
    /// Those of one group can share a pass.
    fn group(ready: &Self::Ready) -> usize;
    /// Runs sequences in one pass.
    fn run(&self, sequences: &[(&Self::Ready, usize)]) -> Result<Vec<Self::Rows>, Failed>;
    /// The result of a request, from the rows of all its sequences.
    fn finish(&self, ready: Self::Ready, rows: Vec<Self::Rows>) -> Result<Embedding>;
}

/// Why a pass failed.
pub struct Failed {
    pub kind: FailureKind,
    /// Makes the error of each request that was in the pass.
    pub error: Box<dyn Fn() -> Error + Send>,
}

/// What to do about a pass that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// One request may be the cause; the others would go through without it.
    OfOne,
    /// All would fail again.
    OfAll,
    /// Every pass on this engine will fail.
    Lost,
}

impl From<PassFailure> for Failed {
    fn from(failure: PassFailure) -> Failed {
        let kind = match (failure.is_lost(), failure.may_be_of_one()) {
            (true, _) => FailureKind::Lost,
            (false, true) => FailureKind::OfOne,
            (false, false) => FailureKind::OfAll,
        };
        let error = Box::new(move || failure.error());
        Failed { kind, error }
    }
}

impl Executor for Engine {
    type Ready = Ready;
    type Rows = Rows;

    fn contexts(&self) -> usize {
        Engine::contexts(self)
    }

    fn pass_tokens(&self) -> usize {
        self.batch_tokens()
    }

    fn full_speed_tokens(&self) -> usize {
        match self.on_gpu() {
            true => FULL_SPEED_TOKENS_GPU,
            false => FULL_SPEED_TOKENS_CPU,
        }
    }

    fn max_tokens(&self) -> usize {
        self.config().max_tokens
    }

    fn sequence_cost(&self) -> (u64, u64) {
        Engine::sequence_cost(self)
    }

    fn warm_up(&self) -> Result<()> {
        Engine::warm_up(self)
    }

    fn prepare(&self, request: &Request<'static>) -> Result<Ready> {
        self.make_ready(request)
    }

    fn lengths(ready: &Ready) -> Vec<usize> {
        ready.lengths().collect()
    }

    fn group(ready: &Ready) -> usize {
        ready.adapters_id()
    }

    fn run(&self, sequences: &[(&Ready, usize)]) -> Result<Vec<Rows>, Failed> {
        self.run_pass(sequences).map_err(Failed::from)
    }

    fn finish(&self, ready: Ready, rows: Vec<Rows>) -> Result<Embedding> {
        self.finish_ready(ready, rows.into_iter().flatten().collect())
    }
}
