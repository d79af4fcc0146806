//! A model on a GPU: weights, adapters and kernels there, and the way of one batch through them.

use std::sync::{Arc, OnceLock};

use super::adapters::Resident;
use super::driver::{self, Context, DriverError, Stream};
use super::entries::Entries;
use super::exec::{Launch, NUMBER, Places, launches};
use super::lane::{Key, Lane, Pass, Sizes, bucket, sizes};
use super::merged::Merged;
use super::packed::{Layout, Round};
use super::weights::Weights;
use crate::batch::{Batch, BatchShape};
use crate::cost::attention_tile;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::marks::Marks;
use crate::model::adapter::{Adapter, AdapterTable, Site};
use crate::model::{Model, ModelConfig};
use crate::output::Vector;
use crate::plan::{self, Fusion, Name, Op, Plan, Tile};
use crate::precision::{Numerics, Precision};
use crate::request::Encoding;

/// Blocks per multiprocessor of the kernels whose blocks take work in turn.
const BLOCKS_PER_MULTIPROCESSOR: usize = 4;

/// What a user chose.
#[derive(Clone, Debug)]
pub struct Options {
    pub precision: Precision,
    pub numerics: Numerics,
    pub separate_adapters: bool,
    /// Adapters to merge.
    pub merged: Vec<String>,
    pub batch_tokens: usize,
}

/// Why a batch failed.
#[derive(Clone, Debug)]
pub enum Failure {
    /// A call of the driver, for this step.
    Call(String, DriverError),
    /// The device failed for good, in this call or an earlier one.
    Lost(DriverError),
}

impl From<DriverError> for Failure {
    fn from(error: DriverError) -> Failure {
        Failure::Call("a batch".into(), error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Call(step, source) => source.at(step),
            Failure::Lost(source) => Error::DeviceLost(source.to_string()),
        }
    }
}

/// Is given the stream at the seams of a pass.
pub(super) type Mark<'a> = &'a mut dyn FnMut(&Stream) -> Result<(), DriverError>;

/// Names what a call was for.
pub(super) fn at(step: impl Into<String>) -> impl FnOnce(DriverError) -> Failure {
    |error| Failure::Call(step.into(), error)
}

/// A model on a GPU.
#[derive(Debug)]
pub struct Gpu {
    pub(super) context: Context,
    pub(super) entries: Entries,
    weights: Weights,
    /// With the adapter in each: one that is added later under the same name is another.
    merged: Vec<(Arc<Adapter>, Merged)>,
    pub(super) options: Options,
    /// Tokens of the largest batch there can be: the budget, or one input that is longer.
    capacity: usize,
    lost: OnceLock<DriverError>,
}

impl Gpu {
    /// The device for [`Device::Auto`], or why there is none.
    pub fn choose() -> Result<usize, String> {
        driver::find(Device::Auto)
    }

    /// The device that was asked for.
    pub fn find(device: Device) -> Result<usize> {
        driver::find(device).map_err(Error::Device)
    }

    /// Brings a model and its adapters to a device.
    pub fn open(
        model: &Model,
        table: &AdapterTable,
        index: usize,
        options: Options,
        marks: &mut Marks,
    ) -> Result<(Gpu, Arc<Resident>)> {
        let config = &model.config;
        super::entries::check(config).map_err(Error::Device)?;
        let context = Context::open(index)?;
        marks.mark("context");
        let entries = Entries::load(&context, config, options.precision)?;
        marks.mark("kernels");
        let weights = Weights::upload(&context, model, options.precision)?;
        marks.mark("weights");
        let mut merged = Vec::new();
        for name in &options.merged {
            let slot = table.find(name).ok_or_else(|| {
                let names = crate::error::list(&table.names());
                Error::adapter(
                    name,
                    format!("cannot be merged: it is not one of the model's; there are {names}"),
                )
            })?;
            let adapter = table.get(slot);
            let copy = Merged::upload(&context, model, adapter, options.precision)?;
            merged.push((adapter.clone(), copy));
            marks.mark("merged weights");
        }
        let resident = Resident::new(&context, config, options.precision, table, None)?;
        marks.mark("adapters");
        let gpu = Gpu {
            capacity: options.batch_tokens.max(config.max_tokens),
            context,
            entries,
            weights,
            merged,
            options,
            lost: OnceLock::new(),
        };
        Ok((gpu, Arc::new(resident)))
    }

    /// For people: `cuda:0 (NVIDIA H200, bf16)`.
    pub fn name(&self) -> String {
        let facts = self.context.facts();
        format!(
            "cuda:{} ({}, {})",
            facts.index, facts.name, self.options.precision
        )
    }

    /// What the device is.
    pub fn facts(&self) -> &driver::DeviceFacts {
        self.context.facts()
    }

    pub fn context(&self) -> &Context {
        &self.context
    }

    pub fn precision(&self) -> Precision {
        self.options.precision
    }

    /// Bytes of the weights there, merged copies included.
    pub fn weight_bytes(&self) -> usize {
        (self.weights.bytes() + self.merged.iter().map(|(_, copy)| copy.bytes()).sum::<u64>()) as usize
    }

    /// Bytes of a lane's memory there, with these adapters.
    pub fn lane_bytes(&self, config: &ModelConfig, table: &AdapterTable) -> usize {
        let sizes = self.sizes(config, table);
        sizes.arena + sizes.upload
    }

    fn sizes(&self, config: &ModelConfig, table: &AdapterTable) -> Sizes {
        // The attention's tile changes no buffer.
        let plan = |shape, fusion| self.plan_for(config, table, shape, Tile::AttentionLarge, fusion);
        sizes(self.capacity, table.slots(), plan)
    }

    /// A lane for an engine with these adapters.
    pub fn lane(&self, config: &ModelConfig, table: &AdapterTable, resident: &Arc<Resident>) -> Result<Lane> {
        let sizes = self.sizes(config, table);
        Lane::new(&self.context, sizes, resident).map_err(|e| e.at("the memory of a lane"))
    }

    /// The adapters of a table, with those that are there already left in place.
    pub fn resident(
        &self,
        config: &ModelConfig,
        table: &AdapterTable,
        before: &Resident,
    ) -> Result<Arc<Resident>> {
        self.alive().map_err(Error::from)?;
        let precision = self.options.precision;
        let resident = Resident::new(&self.context, config, precision, table, Some(before))?;
        tracing::debug!(bytes = resident.bytes(), "adapters");
        Ok(Arc::new(resident))
    }

    /// The plan of a batch, for this shape of it.
    pub fn plan(&self, config: &ModelConfig, batch: &Batch, shape: BatchShape) -> Plan {
        self.plan_for(
            config,
            &batch.adapters,
            shape,
            self.tile(batch),
            self.fusion(batch),
        )
    }

    pub(super) fn plan_for(
        &self,
        config: &ModelConfig,
        table: &AdapterTable,
        shape: BatchShape,
        attention: Tile,
        fusion: Fusion,
    ) -> Plan {
        let columns = Site::ALL.map(|site| table.columns(site).1);
        let gpu = plan::Gpu {
            precision: self.options.precision,
            numerics: self.options.numerics,
            fusion,
            attention,
            multiprocessors: self.context.facts().multiprocessors as usize,
        };
        Plan::gpu(config, shape, columns, gpu)
    }

    pub(super) fn tile(&self, batch: &Batch) -> Tile {
        attention_tile((0..batch.sequences()).map(|s| batch.rows(s).len()))
    }

    /// Merged weights for a batch of one adapter alone, where the numerics class lets results depend on that.
    pub(super) fn fusion(&self, batch: &Batch) -> Fusion {
        if self.options.separate_adapters {
            return Fusion::Separate;
        }
        let first = batch.mixtures.first().map(Vec::as_slice);
        if let (Numerics::Fastest, Some(&[(slot, 1.0)])) = (self.options.numerics, first)
            && batch.mixtures.iter().all(|mixture| mixture[..] == [(slot, 1.0)])
            && self.merged(slot, &batch.adapters).is_some()
        {
            return Fusion::Merged(slot);
        }
        Fusion::Extended
    }

    pub(super) fn merged(&self, slot: usize, table: &AdapterTable) -> Option<&Merged> {
        let adapter = table.get(slot);
        let found = self.merged.iter().find(|(of, _)| Arc::ptr_eq(of, adapter));
        found.map(|(_, copy)| copy)
    }

    /// Fails if the device was lost earlier.
    pub(super) fn alive(&self) -> Result<(), Failure> {
        match self.lost.get() {
            Some(error) => Err(Failure::Lost(error.clone())),
            None => Ok(()),
        }
    }

    /// After work on a lane: nothing may still be reading or writing its memory when the next batch comes, and a
    /// device that is lost is remembered.
    pub(super) fn settle<T>(&self, lane: &Lane, result: Result<T, Failure>) -> Result<T, Failure> {
        let failure = match result {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        let drained = lane.stream.synchronize();
        let lost = match (&failure, drained) {
            (Failure::Call(_, error), _) if error.is_sticky() => error.clone(),
            (_, Err(error)) if error.is_sticky() => error,
            _ => return Err(failure),
        };
        Err(Failure::Lost(self.lost.get_or_init(|| lost).clone()))
    }

    /// Runs one batch: one copy up, one graph, one copy down. Returns its output vectors, `None` for one whose
    /// numbers are not all finite.
    pub fn run(
        &self,
        lane: &mut Lane,
        model: &Model,
        batch: &Batch,
        resident: &Arc<Resident>,
    ) -> Result<Vec<Option<Vector>>, Failure> {
        self.run_with(lane, model, batch, resident, self.fusion(batch), &mut |_| Ok(()))
    }

    /// As [`run`](Self::run), with adapters the way that is asked for. `mark` is called before the copy up, after
    /// it, after the graph and after the copy down; more often, if there are more output vectors than tokens.
    pub(super) fn run_with(
        &self,
        lane: &mut Lane,
        model: &Model,
        batch: &Batch,
        resident: &Arc<Resident>,
        fusion: Fusion,
        mark: Mark<'_>,
    ) -> Result<Vec<Option<Vector>>, Failure> {
        self.alive()?;
        let result = self.pass(lane, model, batch, resident, fusion, mark);
        self.settle(lane, result)
    }

    fn pass(
        &self,
        lane: &mut Lane,
        model: &Model,
        batch: &Batch,
        resident: &Arc<Resident>,
        fusion: Fusion,
        mark: Mark<'_>,
    ) -> Result<Vec<Option<Vector>>, Failure> {
        let key = Key {
            bucket: bucket(batch.tokens(), self.capacity),
            adapted: batch.shape().adapted,
            attention: self.tile(batch),
            fusion,
        };
        self.adapt(lane, model, batch, resident)?;
        if !lane.passes.contains_key(&key) {
            let pass = self.capture(lane, model, batch, resident, &key)?;
            lane.passes.insert(key, pass);
        }
        let Lane {
            stream,
            sent,
            received,
            upload,
            passes,
            ..
        } = lane;
        let pass = passes.get(&key).expect("it was made just now");
        let rounds = Round::all(batch, key.bucket);
        let mut vectors = Vec::new();
        for (number, round) in rounds.iter().enumerate() {
            let end = if number == 0 {
                pass.layout.write(batch, key.attention, round, sent)
            } else {
                pass.layout.write_round(batch, key.attention, round, sent)
            };
            // SAFETY: the lane is this call's alone. Its buffers hold what is copied and stay until the stream is
            // synchronised, below or after a failure; the graph's addresses are the lane's own and the resident
            // adapters', which the caller holds.
            unsafe {
                mark(stream)?;
                let up = stream.upload(upload.address(), sent, 0..end);
                up.map_err(at("upload of a batch"))?;
                mark(stream)?;
                if number == 0 {
                    let launched = stream.launch_graph(&pass.graph);
                    launched.map_err(at("launch of a batch"))?;
                } else {
                    let launched = self.entries.launch(stream, &pass.pool);
                    launched.map_err(at("Pool"))?;
                }
                mark(stream)?;
                let down = stream.download(received, 0..round.bytes, pass.records);
                down.map_err(at("download of a batch"))?;
                mark(stream)?;
            }
            stream.synchronize().map_err(at("a batch"))?;
            vectors.extend(round.vectors(received));
        }
        Ok(vectors)
    }

    pub(super) fn adapt(
        &self,
        lane: &mut Lane,
        model: &Model,
        batch: &Batch,
        resident: &Arc<Resident>,
    ) -> Result<(), Failure> {
        let sizes = || self.sizes(&model.config, &batch.adapters);
        let adapted = lane.adapt(&self.context, sizes, resident);
        adapted.map_err(at("the memory of a lane"))
    }

    /// The launches of a plan, with its buffers at `arena` and the batch in the lane's upload.
    pub(super) fn launches(
        &self,
        (arena, lane): (u64, &Lane),
        model: &Model,
        batch: &Batch,
        resident: &Resident,
        plan: &Plan,
        layout: &Layout,
        fusion: Fusion,
    ) -> Vec<Launch> {
        let places = Places {
            config: &model.config,
            weights: self.weights.at(),
            merged: match fusion {
                Fusion::Merged(slot) => resident
                    .merged(slot)
                    .or_else(|| self.merged(slot, &batch.adapters)),
                _ => None,
            },
            adapters: &|layer, site| resident.linear(layer, site),
            embedding_adapters: resident.embed(),
            arena,
            upload: lane.upload.address(),
            layout,
            in_turn: self.context.facts().multiprocessors * BLOCKS_PER_MULTIPROCESSOR as u32,
        };
        launches(&places, plan)
    }

    fn capture(
        &self,
        lane: &Lane,
        model: &Model,
        batch: &Batch,
        resident: &Resident,
        key: &Key,
    ) -> Result<Pass, Failure> {
        let shape = BatchShape {
            tokens: key.bucket,
            output_rows: key.bucket,
            adapted: key.adapted,
        };
        let plan = self.plan_for(&model.config, &batch.adapters, shape, key.attention, key.fusion);
        let layout = Layout::new(key.bucket, if key.adapted { resident.slots() } else { 0 });
        let arena = lane.arena.address();
        let launches = self.launches((arena, lane), model, batch, resident, &plan, &layout, key.fusion);
        // The lane was made for the largest batch; the graph would write past it.
        assert!(plan.arena_len * NUMBER <= lane.arena.len() && layout.bytes <= lane.upload.len());
        let graph = lane.stream.capture(|stream| {
            for launch in &launches {
                // SAFETY: captured, not run; what its addresses are good for is said where the graph is launched.
                unsafe { self.entries.launch(stream, launch) }
                    .map_err(at(plan.steps[launch.step].to_string()))?;
            }
            Ok::<_, Failure>(())
        })?;
        tracing::debug!(
            bucket = key.bucket,
            adapted = key.adapted,
            launches = launches.len(),
            "graph"
        );
        Ok(Pass {
            graph,
            layout,
            records: lane.arena.address() + (plan.output().offset * NUMBER) as u64,
            pool: *launches.last().expect("every plan pools"),
        })
    }

    /// Makes a lane ready for a plan with a batch's own tokens, rather than with a bucket's.
    ///
    /// # Errors
    /// A batch that is larger than the lane has room for; a call of the driver that failed, now or earlier for good.
    pub(super) fn make_room(
        &self,
        lane: &mut Lane,
        model: &Model,
        batch: &Batch,
        resident: &Arc<Resident>,
        plan: &Plan,
        adapted: bool,
    ) -> Result<Layout> {
        self.alive()?;
        let ready = self.adapt(lane, model, batch, resident);
        self.settle(lane, ready)?;
        let slots = if adapted { resident.slots() } else { 0 };
        let layout = Layout::new(batch.tokens().max(batch.output_rows()), slots);
        if plan.arena_len * NUMBER > lane.arena.len() || layout.bytes > lane.upload.len() {
            return Err(Error::request(format!(
                "{} tokens with {} output vectors are more than this engine has room for at once: raise batch_tokens",
                batch.tokens(),
                batch.output_rows()
            )));
        }
        Ok(layout)
    }

    /// Starts the copy of a batch to a lane that has room for it. The caller drains the stream before the lane's memory
    /// is used again.
    pub(super) fn send(
        &self,
        lane: &mut Lane,
        batch: &Batch,
        tile: Tile,
        layout: &Layout,
    ) -> Result<Round, Failure> {
        let round = Round::all(batch, layout.tokens).swap_remove(0);
        let end = layout.write(batch, tile, &round, &mut lane.sent);
        // SAFETY: the lane is the caller's alone, has room for the layout, and is drained by it.
        unsafe { lane.stream.upload(lane.upload.address(), &lane.sent, 0..end) }
            .map_err(at("upload of a batch"))?;
        Ok(round)
    }

    /// Runs a plan step by step; `after` sees what each has written, the output vectors as rows of float32.
    ///
    /// # Errors
    /// As [`run`](Self::run); and a batch that is larger than a lane has room for.
    pub fn trace(
        &self,
        lane: &mut Lane,
        model: &Model,
        plan: &Plan,
        batch: &Batch,
        resident: &Arc<Resident>,
        after: crate::cpu::After<'_>,
    ) -> Result<()> {
        let mut batch = batch.clone();
        batch
            .pools
            .iter_mut()
            .for_each(|pool| pool.encoding = Encoding::F32);
        // The plan may have been made for the other side of a comparison, whose batch uses adapters.
        let downs = |op: &Op| matches!(op, Op::LoraDown(_));
        let adapted = batch.shape().adapted || plan.steps.iter().any(|step| step.ops.iter().any(downs));
        let layout = self.make_room(lane, model, &batch, resident, plan, adapted)?;
        let traced = self.trace_steps(lane, model, plan, &batch, resident, &layout, after);
        Ok(self.settle(lane, traced)?)
    }

    #[allow(clippy::too_many_arguments)] // The surroundings of one loop.
    fn trace_steps(
        &self,
        lane: &mut Lane,
        model: &Model,
        plan: &Plan,
        batch: &Batch,
        resident: &Resident,
        layout: &Layout,
        after: crate::cpu::After<'_>,
    ) -> Result<(), Failure> {
        let (tile, fusion) = plan.attention_and_fusion();
        let round = &self.send(lane, batch, tile, layout)?;
        let arena = lane.arena.address();
        let launches = self.launches((arena, lane), model, batch, resident, plan, layout, fusion);
        for (number, step) in plan.steps.iter().enumerate() {
            for launch in launches.iter().filter(|launch| launch.step == number) {
                // SAFETY: as above.
                unsafe { self.entries.launch(&lane.stream, launch) }.map_err(at(step.to_string()))?;
            }
            lane.stream.synchronize().map_err(at(step.to_string()))?;
            for &id in &step.writes {
                let buffer = &plan.buffers[id];
                let address = lane.arena.address() + (buffer.offset * NUMBER) as u64;
                let numbers = if buffer.name == Name::Pooled {
                    let records = self.read(lane, address, round.bytes)?;
                    let rows = round.vectors(&records).flat_map(|vector| {
                        let mut row = match vector {
                            Some(Vector::F32(numbers)) => numbers,
                            _ => vec![f32::NAN],
                        };
                        row.resize(buffer.columns, 0.0);
                        row
                    });
                    rows.collect()
                } else {
                    let bytes = self.read(lane, address, buffer.elements() * NUMBER)?;
                    self.options.precision.widen(&bytes)
                };
                after(number, id, &numbers);
            }
        }
        Ok(())
    }

    /// Bytes of the device.
    fn read(&self, lane: &mut Lane, address: u64, count: usize) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::with_capacity(count);
        while bytes.len() < count {
            let part = (count - bytes.len()).min(lane.received.len());
            // SAFETY: the bytes are the lane's and nothing runs; the stream is drained before they are looked at.
            unsafe {
                lane.stream
                    .download(&mut lane.received, 0..part, address + bytes.len() as u64)
            }?;
            lane.stream.synchronize()?;
            bytes.extend_from_slice(&lane.received[..part]);
        }
        Ok(bytes)
    }
}
