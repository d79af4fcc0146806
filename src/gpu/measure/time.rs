//! What passes and their steps take on the device, by its own clock.

use crate::batch::Batch;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::gpu::context::{ExecContext, Staging};
use crate::gpu::driver::{DeviceMemory, DriverError, Event, Graph};
use crate::gpu::failure::{Failure, in_step};
use crate::gpu::inputs::InputLayout;
use crate::gpu::launch::{ACTIVATION_BYTES, Launch};
use crate::output::Vector;
use crate::plan::{Fusion, Plan};

/// How a step is repeated, so that its data is not in L2 from the time before.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// Between two uses of the same memory, this many times the size of L2 is read or written, if there are enough copies.
    pub l2: u64,
    /// Limit on copies of the arena. Data that is still too small then is in L2 in a real pass as well.
    pub copies: usize,
    /// The smallest number of launches that are timed together: one alone is too short for the device's clock.
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

/// The part of the device's memory that copies of the arena may take: one of this many.
const MEMORY_PARTS: u64 = 8;

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
    context: &'a mut ExecContext,
    pub plan: Plan,
    graphs: StepGraphs,
}

/// The kinds of steps, and what their graphs use beside the context.
struct StepGraphs {
    kinds: Vec<Kind>,
    between: [Event; 2],
    /// Copies of the arena.
    _arenas: Vec<DeviceMemory>,
}

/// Steps that are alike but for the layer: their weights differ.
pub struct Kind {
    /// The number of the first of them.
    pub step: usize,
    /// The launch of that step.
    pub launch: Launch,
    /// Steps of the plan that are of this kind.
    pub count: usize,
    /// Whether so much memory is read and written between two uses that nothing is still in L2.
    pub cold: bool,
    graph: Graph,
    /// Launches in the graph.
    repeats: usize,
}

impl Gpu {
    /// Runs a batch as [`run`](Gpu::run) does, with the adapters applied in a given way, and times it.
    pub fn run_timed(
        &self,
        context: &mut ExecContext,
        staging: &mut Staging,
        batch: &Batch,
        fusion: Fusion,
    ) -> Result<(Vec<Option<Vector>>, PassTimes)> {
        let mut events: Vec<Event> = Vec::new();
        let vectors = self.run_with(context, staging, batch, fusion, &mut |stream| {
            let event = self.device.timed_event()?;
            event.record(stream)?;
            events.push(event);
            Ok(())
        })?;
        let mut times = PassTimes::default();
        for stages in events.chunks_exact(4) {
            let micros = |stage: usize| {
                let since = stages[stage + 1].micros_since(&stages[stage]);
                since.map_err(Failure::from)
            };
            times.upload += micros(0)?;
            times.kernels += micros(1)?;
            times.download += micros(2)?;
        }
        Ok((vectors, times))
    }

    /// Prepares to time the steps of a batch's plan, with exactly its tokens.
    ///
    /// # Errors
    /// A batch that is larger than the engine takes at once; a call of the driver that failed.
    pub fn steps<'a>(
        &'a self,
        context: &'a mut ExecContext,
        staging: &mut Staging,
        batch: &Batch,
        rotation: Rotation,
    ) -> Result<Steps<'a>> {
        let plan = self.plan(batch, batch.shape(), self.fusion(batch));
        let layout = self.reserve(context, batch, &plan)?;
        let graphs = self.step_graphs(context, staging, batch, &plan, &layout, rotation);
        let graphs = self.drain_on_error(context, graphs)?;
        Ok(Steps {
            gpu: self,
            context,
            plan,
            graphs,
        })
    }

    fn step_graphs(
        &self,
        context: &mut ExecContext,
        staging: &mut Staging,
        batch: &Batch,
        plan: &Plan,
        layout: &InputLayout,
        rotation: Rotation,
    ) -> Result<StepGraphs, Failure> {
        self.send(context, staging, batch, plan, layout)?;
        let groups = plan.kinds();
        let arena_bytes = plan.arena_len * ACTIVATION_BYTES;
        let facts = self.device.facts();
        let limit = (facts.memory / MEMORY_PARTS / (arena_bytes as u64).max(1))
            .clamp(1, rotation.copies as u64) as usize;
        let wanted = rotation.l2 * facts.l2;
        // Bytes of activations that a step touches, and of weights.
        let touched = |number: usize| {
            let step = &plan.steps[number];
            let elements: usize = step.buffers().map(|id| plan.buffers[id].elements()).sum();
            let activations = (elements * ACTIVATION_BYTES) as u64;
            let element = ACTIVATION_BYTES;
            let all = crate::cost::step(&self.config, plan, step, &[], element, element).bytes;
            (activations, all - activations)
        };
        let copies = |group: &[usize]| {
            let (activations, weights) = touched(group[0]);
            let rest = wanted.saturating_sub(weights * group.len() as u64);
            (rest.div_ceil(activations.max(1)) as usize).clamp(1, limit)
        };
        let count = groups.iter().map(|group| copies(group)).max().unwrap_or(1);
        let mut arenas = Vec::new();
        for _ in 1..count {
            let arena = self.device.allocate(arena_bytes);
            arenas.push(arena.map_err(in_step("a copy of the arena"))?);
        }
        let addresses =
            std::iter::once(context.arena.address()).chain(arenas.iter().map(DeviceMemory::address));
        let launches: Vec<Vec<Launch>> = addresses
            .map(|arena| self.launches(context, arena, plan, layout))
            .collect();
        // So that no step reads undefined memory.
        for (launch, step) in launches
            .iter()
            .flat_map(|launches| launches.iter().zip(&plan.steps))
        {
            // SAFETY: the context is this call's alone, and drained below; the arenas live as long as what is returned.
            unsafe { self.kernels.launch(&context.stream, launch) }.map_err(in_step(plan.describe(step)))?;
        }
        context.stream.synchronize()?;

        let mut kinds = Vec::new();
        for group in &groups {
            let (activations, weights) = touched(group[0]);
            let copies = copies(group);
            let repeats = group.len().max(copies).max(rotation.launches);
            let launch = |repeat: usize| &launches[repeat % copies][group[repeat % group.len()]];
            let graph = context.stream.capture(|stream| {
                for launch in (0..repeats).map(launch) {
                    // SAFETY: captured, not run; the addresses are still valid where the graph is launched.
                    unsafe { self.kernels.launch(stream, launch) }?;
                }
                Ok::<_, Failure>(())
            })?;
            kinds.push(Kind {
                step: group[0],
                launch: *launch(0),
                count: group.len(),
                cold: activations * copies as u64 + weights * group.len() as u64 >= wanted,
                graph,
                repeats,
            });
        }
        Ok(StepGraphs {
            kinds,
            between: [self.device.timed_event()?, self.device.timed_event()?],
            _arenas: arenas,
        })
    }

    /// The best of `copies` copies of `bytes` within the device's memory, read and written, in bytes per second.
    pub fn copy_bandwidth(
        &self,
        context: &ExecContext,
        bytes: usize,
        copies: usize,
    ) -> Result<f64, DriverError> {
        let device = &self.device;
        let (from, to) = (device.allocate(bytes)?, device.allocate(bytes)?);
        let (start, end) = (device.timed_event()?, device.timed_event()?);
        let stream = &context.stream;
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
    /// The kinds of steps, in the order of their first step.
    pub fn kinds(&self) -> &[Kind] {
        &self.graphs.kinds
    }

    /// Runs the steps of a kind one after the other, and returns the mean time of one in µs.
    pub fn time(&mut self, kind: usize) -> Result<f64> {
        let Kind { graph, repeats, .. } = &self.graphs.kinds[kind];
        let stream = &self.context.stream;
        let run = || -> Result<f64, Failure> {
            let [start, end] = &self.graphs.between;
            let launch = || {
                // SAFETY: its addresses are of the context, which is borrowed, and of arenas that are kept here; nothing
                // else runs.
                unsafe { stream.launch_graph(graph) }
            };
            // Untimed. On an idle stream `start` would happen at once, and the time until the host's launch has arrived,
            // some µs, would count as the kernels'.
            launch()?;
            start.record(stream)?;
            launch()?;
            end.record(stream)?;
            stream.synchronize()?;
            Ok(end.micros_since(start)?)
        };
        let micros = run();
        Ok(self.gpu.drain_on_error(self.context, micros)? / *repeats as f64)
    }

    /// The name of the kernel that a launch starts.
    pub fn entry(&self, launch: &Launch) -> &str {
        self.gpu.entry(launch)
    }
}
