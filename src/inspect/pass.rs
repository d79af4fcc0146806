//! Requests packed into one pass: its plan, a traced run, times and single launches.

use std::time::{Duration, Instant};

use super::launches::{LaunchInfo, lower_bound};
use crate::batch::Batch;
use crate::cost::{self, Cost};
use crate::engine::Engine;
use crate::error::Result;
use crate::gpu::launch::ACTIVATION_BYTES;
use crate::gpu::measure::time::{PassTimes, Rotation, Steps};
use crate::output::Vector;
use crate::plan::{Buffer, Fusion, Plan, Step};
use crate::prepare::{Packed, Prepared};
use crate::request::Request;
use crate::tile::{AttentionTile, ProductTile};

/// Requests packed into one pass of an engine, whatever the engine's token budget is.
#[derive(Clone, Debug)]
pub struct Pass<'e> {
    pub(super) engine: &'e Engine,
    pub(super) batch: Batch,
}

/// What one call of [`Engine::embed_batch`] took.
#[derive(Clone, Copy, Debug)]
pub struct CallTimes {
    /// The whole call, by the host's clock.
    pub whole: Duration,
    /// Of that, from the requests to sequences of token ids.
    pub tokenise: Duration,
    /// Of that, by the device's clock.
    pub device: PassTimes,
}

impl<'e> Pass<'e> {
    /// Prepares and packs requests as [`Engine::embed_batch`] does.
    ///
    /// # Errors
    /// The first bad request's, as [`Error::Input`](crate::Error::Input).
    pub fn new(engine: &'e Engine, requests: &[Request<'_>]) -> Result<Pass<'e>> {
        let (_, batch) = engine.plan_of(requests)?;
        Ok(Pass { engine, batch })
    }

    /// Tokens in all.
    pub fn tokens(&self) -> usize {
        self.batch.tokens()
    }

    /// Tokens of each sequence. A request whose text is longer than the context makes several.
    pub fn lengths(&self) -> Vec<usize> {
        self.batch.lengths()
    }

    /// The plan that the engine's device would run.
    pub fn plan(&self) -> Plan {
        self.engine.plan(&self.batch, self.batch.shape())
    }

    /// The lower bound of that plan's work, with the base weights' and all loaded adapters' columns.
    pub fn cost(&self) -> Cost {
        self.engine.cost_of(&self.plan(), &self.batch)
    }

    /// Runs the plan step by step; `after` sees every buffer as soon as it is written, as float32 in the form that
    /// the plan gives it. One of the engine's execution slots is in use meanwhile: `after` must not call the engine.
    ///
    /// # Errors
    /// A batch that is larger than the engine has room for; a call of the driver that failed.
    pub fn trace(&self, after: &mut dyn FnMut(&Step, &Buffer, &[f32])) -> Result<()> {
        let plan = self.plan();
        self.engine.trace(&plan, &self.batch, &mut |step, id, values| {
            after(&plan.steps[step], &plan.buffers[id], values)
        })
    }

    /// Runs the pass with the adapters applied in a given way, and times it. Output vectors are `None` where their
    /// elements are not all finite.
    ///
    /// # Errors
    /// An engine on the CPU; a call of the driver that failed.
    pub fn run(&self, fusion: Fusion) -> Result<(Vec<Option<Vector>>, PassTimes)> {
        self.engine
            .with_gpu(|gpu, context, staging| gpu.run_timed(context, staging, &self.batch, fusion))
    }

    /// Prepares to time the steps of the plan alone, by the device's clock, and hands the timer to `work`.
    ///
    /// # Errors
    /// An engine on the CPU; a batch that is larger than the engine has room for; a call of the driver that
    /// failed; the error of `work`.
    pub fn time_steps<T>(
        &self,
        rotation: Rotation,
        work: impl FnOnce(&mut StepTimer<'_>) -> Result<T>,
    ) -> Result<T> {
        self.engine.with_gpu(|gpu, context, staging| {
            let steps = gpu.steps(context, staging, &self.batch, rotation)?;
            work(&mut StepTimer { pass: self, steps })
        })
    }

    /// Launches each kernel of the pass once, with the linear layers on this tile, and attention on that one or on the
    /// plan's: of steps that are alike but for the layer, the first. `wanted` selects the steps. For a profiler, or for
    /// softcuda, which counts.
    ///
    /// # Errors
    /// As [`time_steps`](Self::time_steps).
    ///
    /// # Panics
    /// A tile of kernels for compute capability 9.0 where the plan has none of them.
    pub fn single_launches(
        &self,
        tile: ProductTile,
        attention: Option<AttentionTile>,
        wanted: impl Fn(&Step) -> bool,
    ) -> Result<Vec<LaunchInfo>> {
        let (config, lengths) = (self.engine.config(), self.lengths());
        self.engine.with_gpu(|gpu, context, staging| {
            let (plan, launches) =
                gpu.single_launches(context, staging, &self.batch, tile, attention, wanted)?;
            let info = |(step, launch)| {
                let cost = lower_bound(self, &plan, step, launch);
                LaunchInfo::new(config, &lengths, launch, gpu.entry(launch), cost)
            };
            Ok(plan.steps.iter().zip(&launches).map(info).collect())
        })
    }
}

/// One kind of steps.
#[derive(Clone, Debug)]
pub struct StepInfo {
    /// The launch of the first of them.
    pub launch: LaunchInfo,
    /// Steps of the pass that are alike but for the layer.
    pub per_pass: usize,
    /// Whether so much memory is read and written between two uses that nothing is still in L2.
    pub cold: bool,
}

/// The steps of a pass, sorted by kind, ready to be timed. Steps that are alike but for the layer are of one kind.
pub struct StepTimer<'a> {
    pass: &'a Pass<'a>,
    steps: Steps<'a>,
}

impl StepTimer<'_> {
    /// How many kinds of steps there are.
    pub fn kinds(&self) -> usize {
        self.steps.kinds().len()
    }

    /// What the steps of a kind do. `kind` counts from 0.
    pub fn describe(&self, kind: usize) -> StepInfo {
        let of = &self.steps.kinds()[kind];
        let launch = &of.launch;
        let (config, lengths, plan) = (self.pass.engine.config(), self.pass.lengths(), &self.steps.plan);
        let cost = cost::step(
            config,
            plan,
            &plan.steps[of.step],
            &lengths,
            ACTIVATION_BYTES,
            ACTIVATION_BYTES,
        );
        StepInfo {
            launch: LaunchInfo::new(config, &lengths, launch, self.steps.entry(launch), cost),
            per_pass: of.count,
            cold: of.cold,
        }
    }

    /// Runs the steps of a kind one after the other, and gives the mean time of one in µs.
    ///
    /// # Errors
    /// A call of the driver that failed.
    pub fn time(&mut self, kind: usize) -> Result<f64> {
        self.steps.time(kind)
    }
}

/// Embeds requests that fit one pass, as [`Engine::embed_batch`] does, and times the parts of the call.
///
/// # Errors
/// An engine on the CPU; else as `embed_batch`, the first bad request's.
pub fn time_call(engine: &Engine, requests: &[Request<'_>]) -> Result<CallTimes> {
    let start = Instant::now();
    let adapters = engine.adapter_table();
    let prepared = engine.prepare(requests, &adapters);
    let tokenise = start.elapsed();
    let prepared: Vec<Prepared> = prepared.into_iter().collect::<Result<_>>()?;
    let packed = Packed::all(&prepared, &adapters);
    let (vectors, device) = engine.with_gpu(|gpu, context, staging| {
        let fusion = gpu.fusion(&packed.batch);
        gpu.run_timed(context, staging, &packed.batch, fusion)
    })?;
    let mut rows = vec![Vec::new(); prepared.len()];
    packed.distribute(vectors, &mut rows);
    for (prepared, rows) in prepared.into_iter().zip(rows) {
        prepared.finish(rows, &engine.head())?;
    }
    Ok(CallTimes {
        whole: start.elapsed(),
        tokenise,
        device,
    })
}

/// What opening an engine took: phases in order, with their times.
pub fn open_phases(engine: &Engine) -> &[(&'static str, Duration)] {
    engine.phases().all()
}
