//! A pass, one step at a time, with every buffer as soon as it is written.

use crate::batch::Batch;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::gpu::context::{ExecContext, Staging};
use crate::gpu::failure::{Failure, in_step};
use crate::gpu::inputs::InputLayout;
use crate::gpu::launch::ACTIVATION_BYTES;
use crate::output::Vector;
use crate::plan::{Name, OnBuffer, Plan};
use crate::request::Encoding;

impl Gpu {
    /// Runs a plan step by step; `after` gets what each op has written, the output vectors as rows of float32.
    ///
    /// # Errors
    /// As [`run`](Self::run); and a batch that is larger than the engine takes at once.
    pub fn trace(
        &self,
        context: &mut ExecContext,
        staging: &mut Staging,
        batch: &Batch,
        plan: &Plan,
        after: OnBuffer<'_>,
    ) -> Result<()> {
        let mut batch = batch.clone();
        batch
            .pools
            .iter_mut()
            .for_each(|pool| pool.encoding = Encoding::F32);
        let layout = self.reserve(context, &batch, plan)?;
        let traced = self.trace_steps(context, staging, &batch, plan, &layout, after);
        Ok(self.drain_on_error(context, traced)?)
    }

    fn trace_steps(
        &self,
        context: &mut ExecContext,
        staging: &mut Staging,
        batch: &Batch,
        plan: &Plan,
        layout: &InputLayout,
        after: OnBuffer<'_>,
    ) -> Result<(), Failure> {
        let pool = self.send(context, staging, batch, plan, layout)?;
        let launches = self.launches(context, context.arena.address(), plan, layout);
        for (number, (step, launch)) in plan.steps.iter().zip(&launches).enumerate() {
            // SAFETY: the context is the caller's alone and has memory for the plan; its adapters stay, and it is drained
            // below before its memory is read.
            unsafe { self.kernels.launch(&context.stream, launch) }.map_err(in_step(plan.describe(step)))?;
            context
                .stream
                .synchronize()
                .map_err(in_step(plan.describe(step)))?;
            for output in &step.outputs {
                let buffer = &plan.buffers[output.buffer];
                let address = context.arena.address() + (buffer.offset * ACTIVATION_BYTES) as u64;
                let elements = if buffer.name == Name::Pooled {
                    let records = self.read(context, staging, address, pool.bytes)?;
                    let rows = pool.vectors(&records).flat_map(|vector| {
                        let mut row = match vector {
                            Some(Vector::F32(row)) => row,
                            _ => vec![f32::NAN],
                        };
                        row.resize(buffer.columns, 0.0);
                        row
                    });
                    rows.collect()
                } else {
                    let bytes = self.read(context, staging, address, buffer.elements() * ACTIVATION_BYTES)?;
                    self.options.precision.widen(&bytes)
                };
                after(number, output.buffer, &elements);
            }
        }
        Ok(())
    }

    /// Copies bytes of device memory to the host.
    fn read(
        &self,
        context: &mut ExecContext,
        staging: &mut Staging,
        address: u64,
        count: usize,
    ) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::with_capacity(count);
        while bytes.len() < count {
            let part = (count - bytes.len()).min(staging.output.len());
            // SAFETY: the bytes are in the context's arena and nothing runs; the stream is drained before they are read.
            unsafe {
                context
                    .stream
                    .download(&mut staging.output, 0..part, address + bytes.len() as u64)
            }?;
            context.stream.synchronize()?;
            bytes.extend_from_slice(&staging.output[..part]);
        }
        Ok(bytes)
    }
}
