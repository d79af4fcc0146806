//! The GPU executor: the kernels of `cuda/`, which `build.rs` compiles into this library, and the runtime that launches
//! them.
//!
//! One batch is followed in five files. `engine.rs` takes an execution context and calls [`Gpu::run`]. `pass.rs` copies
//! the batch to the device and launches the CUDA graph of its bucket; the first time, it makes the plan, and `launch.rs`
//! lowers each step to one launch, which `kernel_set.rs` gives to the driver while the graph is captured. This file holds
//! what stays the same from batch to batch.
//!
//! No module imports from one below it in this table, which a test reads:
//!
//! | layer | |
//! |---|---|
//! | `driver` | the CUDA driver; imports nothing of the crate |
//! | `failure` | why work failed, and in which step |
//! | `round` | float32 to the 16-bit types |
//! | `select` | the device that a user means |
//! | `upload` | images of device memory, and their copy through staging buffers |
//! | `weights` | the base weights on the device |
//! | `merged` | the weights with an adapter merged into them |
//! | `adapters` | the loaded adapters on the device |
//! | `inputs` | the inputs of a pass, and the output records that come back |
//! | `launch` | from a plan's steps to launches, as data |
//! | `maps` | the parameters of products that see their matrices as maps |
//! | `kernel_set` | the kernels of one model, loaded and launched |
//! | `self_check` | the kernels of compute capability 9.0 against those for all GPUs |
//! | `context` | an execution context: a stream, memory, adapters, graphs |
//! | `Gpu` | what all batches share, in this file |
//! | `pass` | one batch: bucket, capture, run |
//! | `measure` | traced, timed and counted passes, for `inspect` |

use std::sync::{Arc, Mutex, OnceLock};

use crate::batch::{Batch, BatchShape};
use crate::device::KernelChoice;
use crate::error::{Error, Result};
use crate::model::adapter::{Adapter, AdapterTable};
use crate::model::{Model, ModelConfig};
use crate::phases::PhaseTimes;
use crate::plan::{Fusion, GpuOptions, Plan};
use crate::precision::{Half, Numerics};
use crate::tile::{AttentionTile, GemmTile, Multiprocessors};

pub(crate) mod adapters;
mod context;
pub(crate) mod driver;
mod failure;
mod inputs;
mod kernel_set;
pub(crate) mod launch;
mod maps;
#[cfg(feature = "inspect")]
pub(crate) mod measure;
pub(crate) mod merged;
mod pass;
mod round;
pub(crate) mod select;
mod self_check;
#[cfg(test)]
mod testing;
mod upload;
mod weights;

use adapters::{DeviceAdapters, table_columns};
use driver::DriverError;
use kernel_set::KernelSet;
use merged::Merged;
use upload::Uploader;
use weights::Weights;

#[cfg(feature = "inspect")]
pub(crate) use context::Staging;
#[cfg(not(feature = "inspect"))]
use context::Staging;
pub(crate) use context::{ExecContext, PASSES_IN_FLIGHT, PassSlot};
pub(crate) use failure::Failure;
#[cfg(feature = "inspect")]
pub(crate) use failure::in_step;
#[cfg(not(feature = "inspect"))]
use failure::in_step;
pub(crate) use kernel_set::check;
pub(crate) use pass::InFlight;

/// Tokens that a pass can have: a grid has at most 65535 blocks along y, where products have their rows.
const MAX_BATCH_TOKENS: usize = 65535 * GemmTile::Large.shape().rows as usize;

/// What a user chose.
#[derive(Clone, Debug)]
pub struct Options {
    pub precision: Half,
    pub numerics: Numerics,
    pub kernels: KernelChoice,
    /// Adapters to merge.
    pub merged: Vec<String>,
    pub batch_tokens: usize,
    /// Whether a thread that waits for a pass sleeps instead of spinning.
    pub sleeping_wait: bool,
    /// Whether a kernel of a pass starts while the one before it runs, on devices that have programmatic dependent launch.
    pub dependent_launch: bool,
}

/// A model on a GPU: what all batches share.
#[derive(Debug)]
pub struct Gpu {
    config: ModelConfig,
    device: driver::Context,
    kernels: KernelSet,
    weights: Weights,
    /// For the adapters that change.
    uploader: Uploader,
    /// Each with the adapter itself: one that is added later under the same name is a different adapter.
    merged: Vec<(Arc<Adapter>, Merged)>,
    options: Options,
    /// Whether the kernels for compute capability 9.0 run.
    sm90: bool,
    /// Tokens of the largest batch: the token budget, or one input that is longer.
    capacity: usize,
    lost: OnceLock<DriverError>,
}

/// The kernels of a model, and whether those for compute capability 9.0 are among them, which are compared with the others
/// first.
fn load_kernels(
    device: &driver::Context,
    config: &ModelConfig,
    options: &Options,
) -> Result<(KernelSet, bool)> {
    let facts = device.facts();
    let sm90 = options
        .kernels
        .sm90(facts.capability)
        .map_err(|problem| Error::Device(format!("cuda:{} ({}): {problem}", facts.index, facts.name)))?;
    let load = |sm90| KernelSet::load(device, config, options.precision, sm90);
    let kernels = load(sm90)?;
    if sm90
        && !accept(
            options.kernels,
            self_check::run(device, &kernels, config, options.precision),
        )?
    {
        return Ok((load(false)?, false));
    }
    Ok((kernels, sm90))
}

/// Whether kernels run that were checked so. Where nobody asked for them, others take their place if their results differ;
/// after an error of the driver nothing can.
fn accept(choice: KernelChoice, checked: Result<()>) -> Result<bool> {
    match checked {
        Err(Error::Device(problem)) if choice == KernelChoice::Auto => {
            tracing::warn!("{problem}; the kernels sm80 run in their place");
            Ok(false)
        }
        checked => checked.map(|()| true),
    }
}

impl Gpu {
    /// Brings a model and its adapters to a device.
    pub fn open(
        model: &Model,
        table: &AdapterTable,
        index: usize,
        options: Options,
        phases: &mut PhaseTimes,
    ) -> Result<(Gpu, Arc<DeviceAdapters>)> {
        let config = &model.config;
        check(config).map_err(Error::Device)?;
        if options.batch_tokens > MAX_BATCH_TOKENS {
            return Err(Error::Setting {
                name: "batch_tokens",
                value: options.batch_tokens,
                limit: MAX_BATCH_TOKENS,
            });
        }
        let device = select::open(index)?;
        phases.end("context");
        let (kernels, sm90) = load_kernels(&device, config, &options)?;
        phases.end("kernels");
        let weights = Weights::upload(&device, model, options.precision)?;
        phases.end("weights");
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
            let copy = Merged::upload(&device, model, adapter, options.precision)?;
            merged.push((adapter.clone(), copy));
            phases.end("merged weights");
        }
        let adapters = DeviceAdapters::new(&device, config, options.precision, table, None)?;
        phases.end("adapters");
        let gpu = Gpu {
            config: config.clone(),
            capacity: options.batch_tokens.max(config.max_tokens),
            uploader: Uploader::new(&device, true),
            device,
            kernels,
            weights,
            merged,
            options,
            sm90,
            lost: OnceLock::new(),
        };
        Ok((gpu, Arc::new(adapters)))
    }

    /// For people: `cuda:0 (NVIDIA H200, bf16)`.
    pub fn name(&self) -> String {
        let facts = self.device.facts();
        format!(
            "cuda:{} ({}, {})",
            facts.index, facts.name, self.options.precision
        )
    }

    /// The device, with its properties.
    #[cfg(feature = "inspect")]
    pub fn device(&self) -> &driver::Context {
        &self.device
    }

    #[cfg(feature = "inspect")]
    pub fn precision(&self) -> Half {
        self.options.precision
    }

    /// Bytes of the weights on the device, merged copies included.
    pub fn weight_bytes(&self) -> usize {
        (self.weights.bytes() + self.merged.iter().map(|(_, copy)| copy.bytes()).sum::<u64>()) as usize
    }

    /// Bytes of an execution context on the device, with these adapters.
    pub fn context_bytes(&self, table: &AdapterTable) -> usize {
        let sizes = self.sizes(table_columns(table), table.slots());
        sizes.arena + sizes.upload
    }

    fn sizes(&self, lora_columns: [usize; 4], slots: usize) -> context::ContextSizes {
        // The tile of attention does not change any buffer.
        let plan = |shape| self.plan_for(lora_columns, shape, AttentionTile::Large, Fusion::Extended);
        pass::sizes(self.capacity, slots, plan)
    }

    /// An execution context with these adapters, and the slots of its passes in flight.
    pub fn new_context(
        &self,
        adapters: &Arc<DeviceAdapters>,
    ) -> Result<(Arc<Mutex<ExecContext>>, Vec<PassSlot>)> {
        let sizes = self.sizes(adapters.columns(), adapters.slots());
        let make = || -> Result<_, DriverError> {
            let context = Arc::new(Mutex::new(ExecContext::new(
                &self.device,
                sizes,
                adapters,
                self.sm90,
            )?));
            let slots = (0..PASSES_IN_FLIGHT).map(|_| {
                let staging = Staging::new(&self.device, sizes, self.options.sleeping_wait)?;
                Ok(PassSlot::new(&context, staging))
            });
            let slots = slots.collect::<Result<_, DriverError>>()?;
            Ok((context, slots))
        };
        Ok(make().map_err(in_step("memory of an execution context"))?)
    }

    /// Makes these the adapters of a context.
    pub fn rebind_adapters(
        &self,
        context: &mut ExecContext,
        adapters: &Arc<DeviceAdapters>,
    ) -> Result<(), Failure> {
        self.ensure_not_lost()?;
        let sizes = || self.sizes(adapters.columns(), adapters.slots());
        let bound = context.rebind_adapters(&self.device, sizes, adapters);
        self.drain_on_error(context, bound.map_err(in_step("memory of an execution context")))
    }

    /// Uploads the adapters of a table. Those that `previous` has as well share what does not change.
    pub fn upload_adapters(
        &self,
        table: &AdapterTable,
        previous: &DeviceAdapters,
    ) -> Result<Arc<DeviceAdapters>> {
        self.ensure_not_lost()?;
        let precision = self.options.precision;
        let adapters =
            DeviceAdapters::sent_by(&self.uploader, &self.config, precision, table, Some(previous))?;
        tracing::debug!(bytes = adapters.bytes(), "adapters");
        Ok(Arc::new(adapters))
    }

    /// The plan of a batch with the sizes of `shape`.
    pub fn plan(&self, batch: &Batch, shape: BatchShape, fusion: Fusion) -> Plan {
        let columns = table_columns(&batch.adapters);
        self.plan_for(columns, shape, self.attention_tile(batch), fusion)
    }

    fn plan_for(
        &self,
        lora_columns: [usize; 4],
        shape: BatchShape,
        attention: AttentionTile,
        fusion: Fusion,
    ) -> Plan {
        let options = GpuOptions {
            precision: self.options.precision,
            numerics: self.options.numerics,
            fusion,
            attention,
            multiprocessors: Multiprocessors {
                capability: self.device.facts().capability,
                count: self.device.facts().multiprocessors as usize,
            },
            sm90: self.sm90,
            sm90_tile: None,
        };
        Plan::gpu(&self.config, shape, lora_columns, options)
    }

    fn attention_tile(&self, batch: &Batch) -> AttentionTile {
        let lengths = (0..batch.sequences()).map(|s| batch.rows(s).len());
        AttentionTile::choose_for(lengths, self.config.head_dim, self.sm90)
    }

    /// How a batch gets its adapters: from merged weights if all of it uses one adapter with weight 1, and the numerics
    /// class allows results to depend on that.
    pub fn fusion(&self, batch: &Batch) -> Fusion {
        let first = batch.mixtures.first().map(Vec::as_slice);
        if let (Numerics::Fastest, Some(&[(slot, 1.0)])) = (self.options.numerics, first)
            && batch.mixtures.iter().all(|mixture| mixture[..] == [(slot, 1.0)])
            && self.merged_copy(batch.adapters.get(slot)).is_some()
        {
            return Fusion::Merged(slot);
        }
        Fusion::Extended
    }

    fn merged_copy(&self, adapter: &Arc<Adapter>) -> Option<&Merged> {
        let found = self.merged.iter().find(|(of, _)| Arc::ptr_eq(of, adapter));
        found.map(|(_, copy)| copy)
    }

    /// The weights that the adapter of a slot is merged into.
    fn merged_weights<'a>(&'a self, slot: usize, adapters: &'a DeviceAdapters) -> Option<&'a Merged> {
        #[cfg(feature = "inspect")]
        if let Some(merged) = adapters.merged(slot) {
            return Some(merged);
        }
        self.merged_copy(adapters.adapter(slot)?)
    }

    /// Fails if the device was lost earlier.
    fn ensure_not_lost(&self) -> Result<(), Failure> {
        match self.lost.get() {
            Some(error) => Err(Failure::Lost(error.clone())),
            None => Ok(()),
        }
    }

    /// After work on a context that failed, waits until nothing reads or writes its memory any more, and remembers whether
    /// the device is lost.
    fn drain_on_error<T>(&self, context: &ExecContext, result: Result<T, Failure>) -> Result<T, Failure> {
        let failure = match result {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        let drained = context.stream.synchronize();
        let lost = match (&failure, drained) {
            (Failure::Call(_, error), _) if error.is_sticky() => error.clone(),
            (_, Err(error)) if error.is_sticky() => error,
            _ => return Err(failure),
        };
        let named = || match self.kernels.stall() {
            Some(stall) => lost.with_detail(stall),
            None => lost,
        };
        Err(Failure::Lost(self.lost.get_or_init(named).clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_take_the_place_of_kernels_that_nobody_asked_for() {
        let differs = || Err(Error::Device("the kernels sm90 fail their self-check".into()));
        assert!(accept(KernelChoice::Auto, Ok(())).unwrap());
        assert!(!accept(KernelChoice::Auto, differs()).unwrap());
        accept(KernelChoice::Sm90, differs()).unwrap_err();
        // Nothing runs in a context that is lost.
        accept(
            KernelChoice::Auto,
            Err(Error::Internal("not of the results".into())),
        )
        .unwrap_err();
    }
}
