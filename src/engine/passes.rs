//! Single passes, for a caller that packs requests into them itself.

use crate::batch::BatchShape;
use crate::cost;
use crate::error::{Error, Result};
use crate::gpu;
use crate::output::{Embedding, Vector};
use crate::plan::Plan;
use crate::prepare::{Packed, Prepared};
use crate::request::Request;

use super::{Adapters, Engine, Failure};

/// A request, understood and tokenised, with the adapters as they were then.
pub struct Ready {
    prepared: Prepared,
    adapters: Adapters,
}

/// The output rows of one sequence; `None` is a row with elements that are not finite.
pub type Rows = Vec<Option<Vector>>;

/// Why a pass failed.
#[derive(Clone)]
pub struct PassFailure(Failure);

impl Ready {
    /// Tokens of each of its sequences.
    pub fn lengths(&self) -> impl Iterator<Item = usize> {
        self.prepared.sequences.iter().map(|sequence| sequence.ids.len())
    }

    /// Requests that are ready and have the same number here can share a pass: they know the same adapters.
    pub fn adapters_id(&self) -> usize {
        self.adapters.table.id()
    }
}

impl PassFailure {
    /// The error of each request that was in the pass.
    pub fn error(&self) -> Error {
        self.0.clone().into()
    }

    /// Whether the device is lost, and every later pass of this engine fails as well.
    pub fn is_lost(&self) -> bool {
        matches!(self.0, Failure::Gpu(gpu::Failure::Lost(_)))
    }

    /// Whether one request may be the cause, and the others of the pass would go through without it.
    pub fn may_be_of_one(&self) -> bool {
        match self.0 {
            Failure::Panic(_) | Failure::Gpu(gpu::Failure::Call(..)) => true,
            Failure::Gpu(gpu::Failure::Lost(_)) | Failure::Changed(_) => false,
        }
    }
}

impl Engine {
    /// Checks and tokenises a request, on the calling thread.
    pub(crate) fn make_ready(&self, request: &Request<'_>) -> Result<Ready> {
        let adapters = self.adapter_snapshot();
        let prepared = self.request_planner(&adapters.table).prepare(request)?;
        let prepared = self.check_adapter_files(prepared, &adapters.table)?;
        Ok(Ready { prepared, adapters })
    }

    /// Runs sequences in one pass, each given by its request and its number there; the rows of each, in order. All
    /// requests must have the same [`Ready::adapters_id`].
    pub(crate) fn run_pass(&self, sequences: &[(&Ready, usize)]) -> Result<Vec<Rows>, PassFailure> {
        let Some((first, _)) = sequences.first() else {
            return Ok(Vec::new());
        };
        let numbered = sequences.iter().enumerate();
        let packed = Packed::new(
            numbered.map(|(place, (ready, part))| (place, &ready.prepared.sequences[*part])),
            &first.adapters.table,
        );
        let output = self
            .execute(&packed.batch, first.adapters.on_device.as_ref())
            .map_err(PassFailure)?;
        let mut rows: Vec<Rows> = sequences.iter().map(|_| Vec::new()).collect();
        packed.distribute(output, &mut rows);
        Ok(rows)
    }

    /// The result of a request, from the rows of all its sequences in order.
    pub(crate) fn finish_ready(&self, ready: Ready, rows: Rows) -> Result<Embedding> {
        let embedding = ready.prepared.finish(rows, &self.head())?;
        self.count_truncated([&embedding]);
        Ok(embedding)
    }

    /// Floating-point operations that a sequence costs: this many per token, and this many per token squared.
    pub(crate) fn sequence_cost(&self) -> (u64, u64) {
        let config = &self.model.config;
        let of = |tokens| {
            let shape = BatchShape {
                tokens,
                output_rows: 1,
                adapted: false,
            };
            let plan = Plan::cpu(config, shape, [0; 4]);
            cost::plan(config, &plan, &[tokens], size_of::<f32>(), size_of::<f32>()).flops
        };
        // f(n) = a·n + b·n².
        let (one, two) = (of(1), of(2));
        let square = two.saturating_sub(2 * one) / 2;
        (one - square, square)
    }

    /// Passes that may be on their way at the same time: on a GPU, more than one of a context.
    pub(crate) fn contexts(&self) -> usize {
        match &self.backend {
            super::Backend::Cpu { contexts, .. } => contexts.count,
            super::Backend::Gpu { slots, .. } => slots.count,
        }
    }
}
