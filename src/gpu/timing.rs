//! What passes and their steps take on the device, by its own clock: for `inspect`.

use std::sync::Arc;

use super::adapters::Resident;
use super::backend::{Failure, Gpu, at};
use super::driver::{DeviceMemory, DriverError, Event, Graph};
use super::exec::{Launch, NUMBER};
use super::lane::Lane;
use super::packed::Layout;
use crate::batch::Batch;
use crate::error::Result;
use crate::model::Model;
use crate::output::Vector;
use crate::plan::{Fusion, Plan};

/// How a step is repeated, so that it does not find its own data in L2.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// This many times the size of L2 is read or written before anything is used again, if there are enough copies.
    pub l2: u64,
    /// Limit on copies of the arena: data that is still too small then is in L2 in a real pass as well.
    pub copies: usize,
    /// Launches that are timed together, at least: one alone is too short for the device's clock.
    pub launches: usize,
}

impl Rotation {
    /// For measurements.
    pub const FULL: Rotation = Rotation {
        l2: 3,
        copies: 64,
        launches: 8,
    };
    /// Few repetitions, to see that everything works.
    pub const QUICK: Rotation = Rotation {
        l2: 3,
        copies: 1,
        launches: 1,
    };
}

/// At most this part of the device's memory goes into copies of the arena.
const MOST_MEMORY: u64 = 8;

/// What one pass took on the device, by its clock, in µs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PassTimes {
    /// The copy of the batch to the device.
    pub upload: f64,
    /// The graph: all kernels.
    pub kernels: f64,
    /// The copy of the output vectors to the host.
    pub download: f64,
}

/// The steps of a plan, sorted by kind, ready to be timed.
pub struct Steps<'a> {
    gpu: &'a Gpu,
    lane: &'a mut Lane,
    pub plan: Plan,
    pub kinds: Vec<Kind>,
    between: [Event; 2],
    /// What the graphs read and write beside the lane's memory.
    _kept: (Vec<DeviceMemory>, Arc<Resident>),
}

/// Steps that are alike but for the layer: their weights differ.
pub struct Kind {
    /// The first of them.
    pub step: usize,
    /// Its launches.
    pub launches: Vec<Launch>,
    /// How many steps of the plan are of this kind.
    pub count: usize,
    /// Whether so much memory goes by that nothing is still in L2 when it is used again.
    pub cold: bool,
    graph: Graph,
    /// Steps in the graph.
    repeats: usize,
}

impl Gpu {
    /// Runs a batch as [`run`](Gpu::run) does, with adapters the way that is asked for, and times it.
    pub fn run_timed(
        &self,
        lane: &mut Lane,
        model: &Model,
        batch: &Batch,
        resident: &Arc<Resident>,
        fusion: Option<Fusion>,
    ) -> Result<(Vec<Option<Vector>>, PassTimes)> {
        let fusion = fusion.unwrap_or(self.fusion(batch));
        let mut marks: Vec<Event> = Vec::new();
        let vectors = self.run_with(lane, model, batch, resident, fusion, &mut |stream| {
            let event = self.context.timed_event()?;
            event.record(stream)?;
            marks.push(event);
            Ok(())
        })?;
        let mut parts = PassTimes::default();
        for round in marks.chunks_exact(4) {
            let micros = |part: usize| round[part + 1].micros_since(&round[part]).map_err(Failure::from);
            parts.upload += micros(0)?;
            parts.kernels += micros(1)?;
            parts.download += micros(2)?;
        }
        Ok((vectors, parts))
    }

    /// Prepares to time the steps of a batch's plan, with its own tokens.
    ///
    /// # Errors
    /// A batch that is larger than a lane has room for; a call of the driver that failed.
    pub fn steps<'a>(
        &'a self,
        lane: &'a mut Lane,
        model: &Model,
        batch: &Batch,
        resident: &Arc<Resident>,
        rotation: Rotation,
    ) -> Result<Steps<'a>> {
        let plan = self.plan(&model.config, batch, batch.shape());
        let layout = self.make_room(lane, model, batch, resident, &plan, batch.shape().adapted)?;
        let prepared = self.prepare_steps(lane, model, batch, resident, rotation, &plan, &layout);
        let (kinds, arenas, between) = self.settle(lane, prepared)?;
        Ok(Steps {
            gpu: self,
            lane,
            plan,
            kinds,
            between,
            _kept: (arenas, resident.clone()),
        })
    }

    #[allow(clippy::type_complexity, clippy::too_many_arguments)] // One caller, which takes it apart.
    fn prepare_steps(
        &self,
        lane: &mut Lane,
        model: &Model,
        batch: &Batch,
        resident: &Arc<Resident>,
        rotation: Rotation,
        plan: &Plan,
        layout: &Layout,
    ) -> Result<(Vec<Kind>, Vec<DeviceMemory>, [Event; 2]), Failure> {
        self.send(lane, batch, self.tile(batch), layout)?;

        // By kind: the numbers of its steps.
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for (number, step) in plan.steps.iter().enumerate() {
            match groups
                .iter_mut()
                .find(|group| step.is_like(&plan.steps[group[0]]))
            {
                Some(group) => group.push(number),
                None => groups.push(vec![number]),
            }
        }

        let facts = self.context.facts();
        let arena_bytes = (plan.arena_len * NUMBER) as u64;
        let most =
            (facts.memory / MOST_MEMORY / arena_bytes.max(1)).clamp(1, rotation.copies as u64) as usize;
        let wanted = rotation.l2 * facts.l2;
        let config = &model.config;
        // Bytes of activations that a step touches, and of weights.
        let touched = |number: usize| {
            let step = &plan.steps[number];
            let buffers = step.reads.iter().chain(&step.writes);
            let numbers: usize = buffers.map(|&id| plan.buffers[id].elements()).sum();
            let whole = crate::cost::step(config, plan, step, &[], NUMBER, NUMBER).bytes;
            ((numbers * NUMBER) as u64, whole - (numbers * NUMBER) as u64)
        };
        let copies = |group: &[usize]| {
            let (activations, weights) = touched(group[0]);
            let rest = wanted.saturating_sub(weights * group.len() as u64);
            (rest.div_ceil(activations.max(1)) as usize).clamp(1, most)
        };
        let count = groups.iter().map(|group| copies(group)).max().unwrap_or(1);
        let mut arenas = Vec::new();
        for _ in 1..count {
            let arena = self.context.allocate(plan.arena_len * NUMBER);
            arenas.push(arena.map_err(at("a copy of the arena"))?);
        }
        let addresses = std::iter::once(lane.arena.address()).chain(arenas.iter().map(DeviceMemory::address));
        let fusion = self.fusion(batch);
        let launches: Vec<Vec<Launch>> = addresses
            .map(|arena| self.launches((arena, lane), model, batch, resident, plan, layout, fusion))
            .collect();
        // So that every step finds numbers.
        for launch in launches.iter().flatten() {
            // SAFETY: the lane is this call's alone, and drained below; the arenas live as long as what is returned.
            unsafe { self.entries.launch(&lane.stream, launch) }
                .map_err(at(plan.steps[launch.step].to_string()))?;
        }
        lane.stream.synchronize()?;

        let mut kinds = Vec::new();
        for group in &groups {
            let (activations, weights) = touched(group[0]);
            let copies = copies(group);
            let repeats = group.len().max(copies).max(rotation.launches);
            let of = |repeat: usize| {
                let step = group[repeat % group.len()];
                launches[repeat % copies]
                    .iter()
                    .filter(move |launch| launch.step == step)
            };
            let graph = lane.stream.capture(|stream| {
                for launch in (0..repeats).flat_map(of) {
                    // SAFETY: captured, not run; where it is run the addresses are still good.
                    unsafe { self.entries.launch(stream, launch) }?;
                }
                Ok::<_, Failure>(())
            })?;
            kinds.push(Kind {
                step: group[0],
                launches: of(0).copied().collect(),
                count: group.len(),
                cold: activations * copies as u64 + weights * group.len() as u64 >= wanted,
                graph,
                repeats,
            });
        }
        let between = [self.context.timed_event()?, self.context.timed_event()?];
        Ok((kinds, arenas, between))
    }
}

impl Gpu {
    /// The best of `copies` copies of `bytes` within the device's memory, read and written, in bytes per second.
    pub fn copy_bandwidth(&self, lane: &Lane, bytes: usize, copies: usize) -> Result<f64, DriverError> {
        let context = &self.context;
        let (from, to) = (context.allocate(bytes)?, context.allocate(bytes)?);
        let (start, end) = (context.timed_event()?, context.timed_event()?);
        let stream = &lane.stream;
        // SAFETY: `from` has this many bytes and lives until the stream is drained, here or by the caller's next call.
        unsafe { stream.zero(from.address(), bytes) }?;
        let mut best = f64::INFINITY;
        for _ in 0..copies {
            start.record(stream)?;
            // SAFETY: both have this many bytes and live until the stream is drained, here or by the caller's next call.
            unsafe { stream.copy(to.address(), from.address(), bytes) }?;
            end.record(stream)?;
            stream.synchronize()?;
            best = best.min(end.micros_since(&start)?);
        }
        Ok(2e6 * bytes as f64 / best)
    }
}

impl Steps<'_> {
    /// Runs the steps of a kind one after the other, and gives the mean time of one in µs.
    pub fn time(&mut self, kind: usize) -> Result<f64> {
        let Kind { graph, repeats, .. } = &self.kinds[kind];
        let stream = &self.lane.stream;
        let run = || -> Result<f64, Failure> {
            let [start, end] = &self.between;
            start.record(stream)?;
            // SAFETY: its addresses are the lane's, which is borrowed, and of what is kept here; nothing else runs.
            unsafe { stream.launch_graph(graph) }?;
            end.record(stream)?;
            stream.synchronize()?;
            Ok(end.micros_since(start)?)
        };
        let micros = run();
        Ok(self.gpu.settle(self.lane, micros)? / *repeats as f64)
    }

    /// The name of the kernel that a launch starts.
    pub fn entry(&self, launch: &Launch) -> &'static str {
        self.gpu.entries.name(launch)
    }
}
