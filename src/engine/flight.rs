//! Batches on their way through the executor. On a GPU the next one is there and launched before the last is waited for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::{Backend, Engine, Failure};
use crate::batch::Batch;
use crate::context_pool::PooledContext;
use crate::cpu;
use crate::error::panic_message;
use crate::gpu::adapters::DeviceAdapters;
use crate::gpu::{self, Gpu, PassSlot};
use crate::output::Vector;

/// The vectors of a batch, `None` for one whose numbers are not all finite; or why it failed.
pub type Vectors = Result<Vec<Option<Vector>>, Failure>;

/// Batches of a call that may be on their way at once.
pub const IN_FLIGHT: usize = gpu::PASSES_IN_FLIGHT;

/// A batch on its way.
pub enum Flight<'e> {
    /// It is computed, or did not start.
    Ended(Vectors),
    /// The device has it.
    OnDevice {
        gpu: &'e Gpu,
        slot: PooledContext<'e, PassSlot>,
        pass: gpu::InFlight,
    },
}

impl Engine {
    /// Starts a batch; on the CPU it computes it. `None` where the executor is busy with other calls' batches: a call that
    /// has batches on their way ends those first, because two such calls might wait for each other.
    pub(super) fn try_start(
        &self,
        batch: &Batch,
        on_device: Option<&Arc<DeviceAdapters>>,
    ) -> Option<Flight<'_>> {
        match &self.backend {
            Backend::Cpu { .. } => Some(self.start(batch, on_device)),
            Backend::Gpu { gpu, slots, .. } => {
                let slot = slots.try_take()?;
                Some(start_on_device(gpu, slot, batch, on_device))
            }
        }
    }

    /// The same, waiting for its turn. The call has no batches on their way.
    pub(super) fn start(&self, batch: &Batch, on_device: Option<&Arc<DeviceAdapters>>) -> Flight<'_> {
        match &self.backend {
            Backend::Cpu { contexts, .. } => {
                Flight::Ended(guarded(|| self.compute_on(&mut contexts.take(), batch)))
            }
            Backend::Gpu { gpu, slots, .. } => start_on_device(gpu, slots.take(), batch, on_device),
        }
    }

    /// Runs one batch by itself.
    pub(super) fn execute(&self, batch: &Batch, on_device: Option<&Arc<DeviceAdapters>>) -> Vectors {
        self.start(batch, on_device).finish()
    }

    /// Runs one batch on the CPU, in a context of this engine.
    pub(super) fn compute_on(&self, context: &mut cpu::ExecContext, batch: &Batch) -> Vectors {
        let Backend::Cpu { cpu, .. } = &self.backend else {
            unreachable!("the engine is on the CPU")
        };
        log(batch);
        let batch = &*batch.with_used_adapters();
        if let Some(path) = self.changed_file(batch) {
            return Err(Failure::Changed(path.to_owned()));
        }
        let plan = self.plan(batch, batch.shape());
        let output = cpu.run(&self.model, &plan, batch, context, cpu::Watch::Nothing);
        let mut rows = output.chunks(self.model.config.hidden_size);
        let vectors = batch.pools.iter().flat_map(|pool| {
            let rows: Vec<&[f32]> = rows.by_ref().take(pool.rows()).collect();
            rows.into_iter()
                .map(|row| Vector::encode_finite(&row[..pool.dimensions], pool.encoding))
        });
        Ok(vectors.collect())
    }
}

impl Flight<'_> {
    /// Waits for the batch.
    pub fn finish(self) -> Vectors {
        match self {
            Flight::Ended(vectors) => vectors,
            Flight::OnDevice { gpu, mut slot, pass } => {
                guarded(|| gpu.finish(&mut slot, pass).map_err(Failure::Gpu))
            }
        }
    }
}

fn start_on_device<'e>(
    gpu: &'e Gpu,
    mut slot: PooledContext<'e, PassSlot>,
    batch: &Batch,
    on_device: Option<&Arc<DeviceAdapters>>,
) -> Flight<'e> {
    log(batch);
    let on_device = on_device.expect("a GPU has its copy of the adapters");
    match guarded(|| gpu.start(&mut slot, batch, on_device).map_err(Failure::Gpu)) {
        Ok(pass) => Flight::OnDevice { gpu, slot, pass },
        Err(failure) => Flight::Ended(Err(failure)),
    }
}

fn log(batch: &Batch) {
    tracing::debug!(sequences = batch.sequences(), tokens = batch.tokens(), "batch");
}

/// Does a batch's work. A panic is a bug; it is reported and the engine goes on.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(Failure::Panic(panic_message(&*panic).to_owned())))
}
