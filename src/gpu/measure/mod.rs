//! Passes taken apart, for `inspect`: traced step by step, timed by the device's clock, or launched once to be counted.

mod count;
pub(crate) mod time;
mod trace;

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::gpu::context::{ExecContext, Staging};
use crate::gpu::failure::{Failure, in_step};
use crate::gpu::inputs::{InputLayout, PoolBatch, attention_tiles};
use crate::gpu::launch::ACTIVATION_BYTES;
use crate::plan::Plan;

impl Gpu {
    /// Makes a context ready for a plan with exactly the batch's tokens, instead of a bucket's.
    ///
    /// # Errors
    /// A batch that is larger than the engine takes at once; a call of the driver that failed.
    fn reserve(&self, context: &mut ExecContext, batch: &Batch, plan: &Plan) -> Result<InputLayout> {
        self.ensure_not_lost()?;
        let rows = batch.tokens().max(batch.output_rows());
        if rows > self.capacity {
            return Err(Error::request(format!(
                "{} tokens with {} output vectors are more than this engine has room for at once: raise batch_tokens",
                batch.tokens(),
                batch.output_rows()
            )));
        }
        let reserved = context.reserve_arena(&self.device, plan.arena_len * ACTIVATION_BYTES);
        self.drain_on_error(
            context,
            reserved.map_err(in_step("memory of an execution context")),
        )?;
        // The plan may be that of the other side of a comparison, whose batch uses adapters.
        let adapted = batch.shape().adapted || plan.is_adapted();
        let slots = if adapted { context.adapters().slots() } else { 0 };
        Ok(InputLayout::new(rows, slots))
    }

    /// Starts the copy of a batch to a context that has memory for it. The caller drains the stream before the context's
    /// memory is used again.
    fn send(
        &self,
        context: &mut ExecContext,
        staging: &mut Staging,
        batch: &Batch,
        plan: &Plan,
        layout: &InputLayout,
    ) -> Result<PoolBatch, Failure> {
        let pool = PoolBatch::all(batch, layout.tokens).swap_remove(0);
        let attention = plan.gpu.as_ref().expect("the plan is one for a GPU").attention;
        let tiles = attention_tiles(batch, attention);
        let positions = self.config.positions;
        staging
            .reserve(&self.device, layout.bytes, pool.bytes)
            .map_err(in_step("page-locked memory of a batch"))?;
        let end = layout.write(batch, &tiles, &pool, positions, &mut staging.input);
        // SAFETY: the context is the caller's alone, has memory for the layout, and is drained by the caller.
        unsafe {
            context
                .stream
                .upload(context.upload.address(), &staging.input, 0..end)
        }
        .map_err(in_step("upload of a batch"))?;
        Ok(pool)
    }
}
