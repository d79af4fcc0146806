//! The kernels of a pass, each launched once: for counting what they do.

use std::sync::Arc;

use super::adapters::Resident;
use super::backend::{Failure, Gpu, at};
use super::exec::{Launch, NUMBER};
use super::lane::Lane;
use super::packed::Layout;
use crate::batch::Batch;
use crate::error::Result;
use crate::model::Model;
use crate::plan::{Fusion, Plan, Step, Tile, Variant};

/// What was launched, in order: the step of the plan is [`Launch::step`].
pub struct Once {
    pub plan: Plan,
    /// With the kernel's name.
    pub launches: Vec<(Launch, &'static str)>,
}

impl Gpu {
    /// Launches each kernel of a batch's pass once, with the products on this tile: of steps that are alike but for
    /// the layer, the first. `wanted` says which steps.
    ///
    /// # Errors
    /// A batch that is larger than a lane has room for; a call of the driver that failed.
    pub fn launch_once(
        &self,
        lane: &mut Lane,
        model: &Model,
        batch: &Batch,
        resident: &Arc<Resident>,
        products: Tile,
        wanted: impl Fn(&Step) -> bool,
    ) -> Result<Once> {
        let shape = batch.shape();
        let attention = self.tile(batch);
        let mut plan = self.plan_for(&model.config, &batch.adapters, shape, attention, Fusion::Extended);
        let mut steps: Vec<Step> = Vec::new();
        for mut step in plan.steps.drain(..) {
            if let (true, Variant::Kernel { tile, .. }) = (step.is_linear(), &mut step.variant) {
                *tile = products;
            }
            if wanted(&step) && !steps.iter().any(|other| other.is_like(&step)) {
                steps.push(step);
            }
        }
        plan.steps = steps;
        let layout = self.make_room(lane, model, batch, resident, &plan, shape.adapted)?;
        let launched = self.launch_steps(lane, model, batch, resident, &plan, &layout);
        let launches = self.settle(lane, launched)?;
        Ok(Once { plan, launches })
    }

    fn launch_steps(
        &self,
        lane: &mut Lane,
        model: &Model,
        batch: &Batch,
        resident: &Resident,
        plan: &Plan,
        layout: &Layout,
    ) -> Result<Vec<(Launch, &'static str)>, Failure> {
        let (tile, fusion) = (self.tile(batch), Fusion::Extended);
        self.send(lane, batch, tile, layout)?;
        let arena = lane.arena.address();
        let launches = self.launches((arena, lane), model, batch, resident, plan, layout, fusion);
        // SAFETY: the lane is this call's alone and has room for the plan, as the caller has seen; the stream is drained
        // before its memory is used again.
        unsafe {
            // A step may read what one writes that is left out.
            lane.stream.zero(arena, plan.arena_len * NUMBER)?;
            for launch in &launches {
                self.entries
                    .launch(&lane.stream, launch)
                    .map_err(at(plan.steps[launch.step].to_string()))?;
            }
        }
        lane.stream.synchronize()?;
        let named = |launch: Launch| (launch, self.entries.name(&launch));
        Ok(launches.into_iter().map(named).collect())
    }
}
