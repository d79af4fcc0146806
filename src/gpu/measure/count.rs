//! The kernels of a pass, each launched once, so that a profiler or softcuda counts what they do.

use crate::batch::Batch;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::gpu::context::{ExecContext, Staging};
use crate::gpu::failure::{Failure, in_step};
use crate::gpu::inputs::InputLayout;
use crate::gpu::launch::{ACTIVATION_BYTES, Launch};
use crate::plan::{Fusion, Plan, Step};
use crate::precision::Numerics;
use crate::tile::{AttentionTile, ProductTile};

impl Gpu {
    /// Launches each kernel of a batch's pass once, with the products on this tile, and attention on that one or on its
    /// own: of steps that are alike but for the layer, the first. `wanted` selects the steps. Returns them as a plan, with
    /// the launches in the same order.
    ///
    /// # Errors
    /// A batch that is larger than the engine takes at once; a call of the driver that failed.
    ///
    /// # Panics
    /// A tile of kernels that the engine has not loaded.
    pub fn single_launches(
        &self,
        context: &mut ExecContext,
        staging: &mut Staging,
        batch: &Batch,
        tile: ProductTile,
        attention: Option<AttentionTile>,
        wanted: impl Fn(&Step) -> bool,
    ) -> Result<(Plan, Vec<Launch>)> {
        let mut plan = self.plan(batch, batch.shape(), Fusion::Extended);
        let options = plan.gpu.as_mut().expect("the plan is one for a GPU");
        options.attention = attention.unwrap_or(options.attention);
        match tile {
            ProductTile::AllGpus(_) => options.sm90 = false,
            ProductTile::Split16 => {
                options.sm90 = false;
                options.numerics = Numerics::Fastest;
            }
            ProductTile::Sm90(tile) => options.sm90_tile = Some(tile),
        }
        let mut steps: Vec<Step> = Vec::new();
        for mut step in plan.steps.drain(..) {
            if let ProductTile::AllGpus(tile) = tile {
                step.tile = step.tile.map(|_| tile);
            }
            if wanted(&step) && !steps.iter().any(|other| other.is_like(&step)) {
                steps.push(step);
            }
        }
        plan.steps = steps;
        let layout = self.reserve(context, batch, &plan)?;
        let launched = self.launch_steps(context, staging, batch, &plan, &layout);
        let launches = self.drain_on_error(context, launched)?;
        Ok((plan, launches))
    }

    fn launch_steps(
        &self,
        context: &mut ExecContext,
        staging: &mut Staging,
        batch: &Batch,
        plan: &Plan,
        layout: &InputLayout,
    ) -> Result<Vec<Launch>, Failure> {
        self.send(context, staging, batch, plan, layout)?;
        let arena = context.arena.address();
        let launches = self.launches(context, arena, plan, layout);
        // SAFETY: the context is this call's alone and has memory for the plan, as the caller has ensured; the stream is
        // drained before its memory is used again.
        unsafe {
            // A step may read a buffer whose own step is left out.
            context.stream.zero(arena, plan.arena_len * ACTIVATION_BYTES)?;
            for (launch, step) in launches.iter().zip(&plan.steps) {
                self.kernels
                    .launch(&context.stream, launch)
                    .map_err(in_step(plan.describe(step)))?;
            }
        }
        context.stream.synchronize()?;
        Ok(launches)
    }

    /// The name of the kernel that a launch starts.
    pub fn entry(&self, launch: &Launch) -> &str {
        self.kernels.entry(launch)
    }
}
