//! The engine: a model, opened once, and the way of a call through it.

mod builder;
mod disposal;
mod flight;
pub(crate) mod passes;
mod placement;

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use rayon::prelude::*;

use crate::batch::{Batch, BatchShape};
use crate::context_pool::ContextPool;
use crate::cost::Cost;
use crate::cpu::{self, Cpu};
use crate::device::Device;
use crate::error::{AdapterError, Error, RequestError, Result};
use crate::gpu::{self, adapters::DeviceAdapters};
use crate::model::adapter::{Adapter, AdapterTable, Site};
use crate::model::{Model, ModelConfig, file};
use crate::output::{Embedding, Vector};
use crate::phases::PhaseTimes;
#[cfg(feature = "inspect")]
use crate::plan::OnBuffer;
use crate::plan::{Fusion, Plan};
use crate::precision::Precision;
use crate::prepare::{Packed, Prepared, RequestPlanner, batches};
use crate::request::{Embed, Request};
use crate::text::{TextPipeline, Token};
pub use builder::EngineBuilder;
use disposal::Disposal;
use flight::Flight;
use placement::{OnCpu, Placement, no_gpu};

/// Small, for the memory: mixed lengths on MiniLM and jina-embeddings-v3 shapes ran equally fast,
/// within the noise, with 256 to 8192 tokens at once (two AVX-512 cores).
const CPU_BATCH_TOKENS: usize = 2048;

/// A GPU needs some thousand rows to be busy with the products of a layer.
const GPU_BATCH_TOKENS: usize = 16384;

/// A model, ready to embed. It can be shared between threads; calls wait for one another only
/// while they compute.
///
/// Every result depends on its own input alone: not on the other inputs of the call, their order,
/// the token budget, nor on what other threads ask for, bit for bit. ([`Numerics::Fastest`](crate::Numerics::Fastest) gives
/// that up.)
pub struct Engine {
    model: Model,
    text: Option<TextPipeline>,
    adapters: RwLock<Adapters>,
    /// Held while adapters are added or removed, which on a GPU takes a while.
    changing: Mutex<()>,
    backend: Backend,
    /// Why a GPU was not taken, where one might have been.
    fallback: Option<String>,
    tokenizers: rayon::ThreadPool,
    threads: usize,
    batch_tokens: usize,
    precision: Precision,
    /// Inputs that were cut.
    truncated: AtomicU64,
    /// The phases of its opening.
    #[cfg_attr(not(feature = "inspect"), allow(dead_code))]
    phases: PhaseTimes,
}

/// What computes.
enum Backend {
    Cpu {
        cpu: Cpu,
        contexts: ContextPool<cpu::ExecContext>,
    },
    Gpu {
        /// The passes that may be in flight: [`gpu::PASSES_IN_FLIGHT`] of each context.
        slots: ContextPool<gpu::PassSlot>,
        /// Before `gpu`, and so dropped before it: their graphs hold its kernels and the addresses of its weights.
        contexts: Vec<Arc<Mutex<gpu::ExecContext>>>,
        gpu: Box<gpu::Gpu>,
        /// Frees adapters; there once some were changed.
        disposal: OnceLock<Disposal>,
    },
}

/// The loaded adapters; on a GPU, with their copies there.
#[derive(Clone, Default)]
struct Adapters {
    table: AdapterTable,
    on_device: Option<Arc<DeviceAdapters>>,
}

/// Why a batch failed; every request in it gets this.
#[derive(Clone, Debug)]
enum Failure {
    Panic(String),
    Gpu(gpu::Failure),
    /// A file that is read from was changed.
    Changed(PathBuf),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Panic(problem) => Error::Internal(problem),
            Failure::Gpu(failure) => failure.into(),
            Failure::Changed(path) => file::changed(&path),
        }
    }
}

/// What an engine needs, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Memory {
    /// Weights in the executor's own layout.
    pub weights: usize,
    /// The loaded adapters, as far as they are copied to a GPU.
    pub adapters: usize,
    /// The arena of one call, for the largest batch there can be.
    pub arena: usize,
    /// How many arenas there are: see [`EngineBuilder::concurrency`].
    pub concurrency: usize,
}

impl Engine {
    /// Opens the model in a folder with the default settings.
    ///
    /// # Errors
    /// See [`EngineBuilder::open`].
    pub fn open(folder: impl AsRef<Path>) -> Result<Engine> {
        Engine::builder().open(folder)
    }

    /// Opens a model by its hub id (`owner/name`) with the default settings: from the hub's cache, else downloaded into
    /// it.
    ///
    /// # Errors
    /// See [`EngineBuilder::from_hub`].
    #[cfg(feature = "hub")]
    pub fn from_hub(id: impl AsRef<str>) -> Result<Engine> {
        Engine::builder().from_hub(id)
    }

    /// Settings first, then [`EngineBuilder::open`] or `from_hub` (feature `hub`).
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    fn new(
        folder: &Path,
        settings: &EngineBuilder,
        mut placement: Placement,
        threads: usize,
        concurrency: usize,
        mut phases: PhaseTimes,
    ) -> Result<Engine> {
        let tokenizers = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("ropeway-text-{i}"))
            .build()
            .map_err(|e| Error::Internal(format!("threads cannot be started: {e}")))?;
        let mut model = tokenizers.install(|| Model::open(folder))?;
        phases.end("model");
        let config = &model.config;
        let text = TextPipeline::open(
            &config.transformer_folder(folder),
            config.do_lower_case,
            config.max_tokens,
            &config.tokenizer,
        )?;
        phases.end("tokenizer");
        let table = AdapterTable::new(std::mem::take(&mut model.adapters));
        let mut adapters = Adapters {
            table,
            on_device: None,
        };
        // A model that the kernels cannot run is one that `auto` runs on the CPU.
        if let (Placement::Gpu { .. }, Device::Auto, Err(reason)) =
            (&placement, settings.device, gpu::check(&model.config))
        {
            placement = Placement::Cpu(OnCpu::new(settings.precision, Some(no_gpu(&reason)))?);
        }
        let mut on_gpu = |index, precision, phases: &mut PhaseTimes| -> Result<Backend> {
            let options = gpu::Options {
                precision,
                numerics: settings.numerics,
                kernels: settings.kernels,
                merged: settings.merged.clone(),
                batch_tokens: settings.batch_tokens.unwrap_or(GPU_BATCH_TOKENS),
                sleeping_wait: settings.sleeping_wait,
                dependent_launch: settings.dependent_launch,
            };
            let open = || gpu::Gpu::open(&model, &adapters.table, index, options, phases);
            let (gpu, on_device) = tokenizers.install(open)?;
            let (mut contexts, mut slots) = (Vec::new(), Vec::new());
            for _ in 0..concurrency {
                let (context, of_context) = gpu.new_context(&on_device)?;
                contexts.push(context);
                slots.extend(of_context);
            }
            phases.end("contexts");
            adapters.on_device = Some(on_device);
            Ok(Backend::Gpu {
                gpu: Box::new(gpu),
                contexts,
                slots: ContextPool::new(slots),
                disposal: OnceLock::new(),
            })
        };
        let on_cpu = |chosen: OnCpu, phases: &mut PhaseTimes| -> Result<_> {
            let cpu = Cpu::new(&model, threads, chosen.precision)?;
            phases.end("weights");
            let context = |_| cpu::ExecContext::new(threads / concurrency);
            let contexts = ContextPool::new((0..concurrency).map(context).collect());
            phases.end("contexts");
            Ok((Backend::Cpu { cpu, contexts }, chosen.precision, chosen.fallback))
        };
        let (backend, precision, fallback) = match placement {
            Placement::Cpu(chosen) => on_cpu(chosen, &mut phases)?,
            Placement::Gpu { index, precision } => match on_gpu(index, precision, &mut phases) {
                Ok(backend) => (backend, precision.into(), None),
                Err(error) => {
                    let chosen = OnCpu::after(error, settings.device, settings.precision)?;
                    on_cpu(chosen, &mut phases)?
                }
            },
        };
        if let Some(reason) = &fallback {
            tracing::info!("{reason}");
        }
        let default_tokens = match backend {
            Backend::Cpu { .. } => CPU_BATCH_TOKENS,
            Backend::Gpu { .. } => GPU_BATCH_TOKENS,
        };
        Ok(Engine {
            model,
            text,
            adapters: RwLock::new(adapters),
            changing: Mutex::new(()),
            backend,
            fallback,
            tokenizers,
            threads,
            batch_tokens: settings.batch_tokens.unwrap_or(default_tokens),
            precision,
            truncated: AtomicU64::new(0),
            phases,
        })
    }

    /// Embeds texts, all with the same options; one result per text, in order.
    ///
    /// # Errors
    /// The first bad text's, as [`Error::Input`] with its number. Where good texts are to survive bad
    /// ones, use [`embed_batch`](Self::embed_batch).
    pub fn embed<S: AsRef<str>>(&self, texts: &[S], options: &Embed) -> Result<Vec<Embedding>> {
        let requests: Vec<Request<'_>> = texts
            .iter()
            .map(|text| Request::text(text.as_ref(), options))
            .collect();
        let results = self.embed_batch(&requests).into_iter().enumerate();
        results
            .map(|(index, result)| result.map_err(|e| e.at_input(index)))
            .collect()
    }

    /// Embeds requests of any kind together; one result per request, in order. A bad request does
    /// not hurt the others.
    ///
    /// # Errors
    /// Per request: [`Error::Request`] for options, texts and ids that this model cannot serve,
    /// [`Error::Adapter`] for an adapter that was removed, [`Error::Model`] for a file that is read from and was changed since
    /// it was opened (on a GPU everything was copied), [`Error::Gpu`] and [`Error::DeviceLost`] for a device that failed,
    /// [`Error::Internal`] for a bug in ropeway.
    pub fn embed_batch(&self, requests: &[Request<'_>]) -> Vec<Result<Embedding>> {
        let adapters = self.adapter_snapshot();
        let prepared = self.prepare(requests, &adapters.table);
        let unchanged =
            |prepared: Result<Prepared>| prepared.and_then(|p| self.check_adapter_files(p, &adapters.table));
        let prepared: Vec<Result<Prepared>> = prepared.into_iter().map(unchanged).collect();
        let mut rows: Vec<Vec<Option<Vector>>> = prepared.iter().map(|_| Vec::new()).collect();
        let mut failed: Vec<Option<Failure>> = vec![None; requests.len()];
        let mut finish = |(packed, flight): (Packed, Flight<'_>)| match flight.finish() {
            Ok(output) => packed.distribute(output, &mut rows),
            Err(failure) => packed
                .requests()
                .for_each(|request| failed[request] = Some(failure.clone())),
        };
        let mut flights: VecDeque<(Packed, Flight<'_>)> = VecDeque::new();
        let on_device = adapters.on_device.as_ref();
        for packed in batches(&prepared, &adapters.table, self.batch_tokens) {
            let flight = self.try_start(&packed.batch, on_device).unwrap_or_else(|| {
                flights.drain(..).for_each(&mut finish);
                self.start(&packed.batch, on_device)
            });
            flights.push_back((packed, flight));
            if flights.len() == flight::IN_FLIGHT {
                flights.pop_front().into_iter().for_each(&mut finish);
            }
        }
        flights.into_iter().for_each(finish);
        self.give_up(adapters);
        let head = self.head();
        let finish = |((prepared, rows), failed): ((Result<Prepared>, _), Option<Failure>)| match failed {
            Some(failure) => Err(failure.into()),
            None => prepared?.finish(rows, &head),
        };
        let all = prepared.into_iter().zip(rows).zip(failed);
        let results: Vec<Result<Embedding>> = match self.model.head.is_empty() {
            true => all.map(finish).collect(),
            // A product for each vector.
            false => {
                let all: Vec<_> = all.collect();
                self.tokenizers
                    .install(|| all.into_par_iter().map(finish).collect())
            }
        };
        self.count_truncated(results.iter().flatten());
        results
    }

    fn count_truncated<'e>(&self, embeddings: impl IntoIterator<Item = &'e Embedding>) {
        let truncated = embeddings.into_iter().filter(|embedding| embedding.truncated);
        self.truncated
            .fetch_add(truncated.count() as u64, Ordering::Relaxed);
    }

    /// The modules after pooling.
    pub(crate) fn head(&self) -> impl Fn(Vec<f32>) -> Vec<f32> + Sync + '_ {
        let isa = cpu::Isa::detect();
        move |pooled| cpu::head::apply(isa, &self.model.head, pooled)
    }

    /// A text's tokens, as [`embed`](Self::embed) has them before it cuts at the limit; with `special_tokens` those that go
    /// around a text as well. A prompt is put before the text by the caller.
    ///
    /// # Errors
    /// [`RequestError::NoTokenizer`] for a model that takes ids alone; a text that cannot be tokenised.
    pub fn tokenize(&self, text: &str, special_tokens: bool) -> Result<Vec<Token>> {
        let tokens = self.tokenize_within(text, special_tokens, usize::MAX)?;
        Ok(tokens.unwrap_or_default())
    }

    /// The same of a text of at most so many tokens, besides special ones; `None` for a longer one, which is not tokenised
    /// to its end.
    ///
    /// # Errors
    /// Those of [`tokenize`](Self::tokenize).
    pub fn tokenize_within(
        &self,
        text: &str,
        special_tokens: bool,
        most: usize,
    ) -> Result<Option<Vec<Token>>> {
        let pipeline = self.text.as_ref().ok_or(RequestError::NoTokenizer)?;
        pipeline.tokens(text, special_tokens, most)
    }

    /// A text of these token ids; `skip_special_tokens` leaves special ones out. Where the tokenizer normalises, it is not
    /// the text that the ids came from.
    ///
    /// # Errors
    /// [`RequestError::NoTokenizer`], [`RequestError::IdOutOfRange`]; ids that the tokenizer cannot make a text of.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        let pipeline = self.text.as_ref().ok_or(RequestError::NoTokenizer)?;
        let vocabulary = self.model.config.vocab_size;
        match ids.iter().position(|&id| id as usize >= vocabulary) {
            None => pipeline.decode(ids, skip_special_tokens),
            Some(position) => Err(RequestError::IdOutOfRange {
                id: ids[position],
                position,
                vocabulary,
            }
            .into()),
        }
    }

    /// The most bytes that [`decode`](Self::decode) can make of these token ids, which is told by the lengths of their tokens
    /// before any text is made. It refuses more than 64 MiB.
    ///
    /// # Errors
    /// [`RequestError::NoTokenizer`].
    pub fn decoded_at_most(&self, ids: &[u32]) -> Result<usize> {
        let pipeline = self.text.as_ref().ok_or(RequestError::NoTokenizer)?;
        Ok(pipeline.decoded_at_most(ids))
    }

    /// Texts that were embedded since the engine was opened and cut at the model's limit
    /// ([`Embedding::truncated`]).
    pub fn truncated(&self) -> u64 {
        self.truncated.load(Ordering::Relaxed)
    }

    /// Does once what a first batch would do: on a GPU, captures the graphs of all sizes of batches, with adapters and
    /// without, and runs each; on the CPU, runs a small batch on each of its contexts, which reads all weights. It takes some
    /// tenths of a second (with drivers up to 550 also 64 KB of device memory for every kernel of every graph). A server
    /// calls it before it says that it is ready: no request is slower for being the first of its size then. Calls may go on
    /// meanwhile.
    ///
    /// # Errors
    /// [`Error::Gpu`] and [`Error::DeviceLost`] for a device that failed, [`Error::Model`] for a file that was changed.
    pub fn warm_up(&self) -> Result<()> {
        let adapters = self.adapter_snapshot();
        let (gpu, contexts, slots) = match &self.backend {
            Backend::Cpu { contexts, .. } => {
                let ids: Vec<u32> = vec![0; self.batch_tokens.min(self.model.config.max_tokens).min(16)];
                let (_, batch) = self.plan_of(&[Request::ids(ids, Embed::default())])?;
                let warm = |context: &mut _| flight::guarded(|| self.compute_on(context, &batch)).map(drop);
                return contexts.for_each(warm).map_err(Error::from);
            }
            Backend::Gpu {
                gpu, contexts, slots, ..
            } => (gpu, contexts, slots),
        };
        let on_device = adapters
            .on_device
            .as_ref()
            .expect("a GPU has its copy of the adapters");
        for context in contexts {
            gpu.warm_up(context, &mut slots.take(), &adapters.table, on_device)?;
        }
        self.give_up(adapters);
        Ok(())
    }

    /// Checks a request as [`embed_batch`](Self::embed_batch) would, without computing.
    ///
    /// # Errors
    /// As there, but for the devices'.
    pub fn validate(&self, request: &Request<'_>) -> Result<()> {
        self.request_planner(&self.adapter_snapshot().table)
            .prepare(request)
            .map(|_| ())
    }

    /// Adds a PEFT LoRA adapter folder (`adapter_config.json`, `adapter_model.safetensors`) under a name, to be asked
    /// for with [`Embed::task`] or [`Embed::mixture`]. Calls that are computing are not disturbed; calls that start
    /// later can use it.
    ///
    /// # Errors
    /// [`Error::Adapter`] for a name that is taken, empty, or holds `,` or `=`, and for an adapter that adds more than
    /// 1000 times a weight's own norm to it; [`Error::Io`], [`Error::Model`] and [`Error::Tensor`] for files that are
    /// broken, for another model, or of a kind of adapter that is not supported; every setting in `adapter_config.json` is
    /// used, known to have no effect, or refused by name. [`Error::Gpu`] where the device has no room for it. Nothing is
    /// added then.
    ///
    /// # Cost
    /// On a CPU linear in the adapter's size, whatever else is loaded, and its numbers stay in memory as float32 (tables
    /// of embeddings in the file). On a GPU the factors of all loaded adapters are uploaded again.
    pub fn add_adapter(&self, name: &str, folder: impl AsRef<Path>) -> Result<()> {
        if name.is_empty() || name.contains([',', '=']) {
            return Err(Error::adapter(name, AdapterError::InvalidName));
        }
        if self.model.config.tasks.iter().any(|task| task.name == name) {
            return Err(Error::adapter(name, AdapterError::TaskName));
        }
        if self.adapter_snapshot().table.find(name).is_some() {
            return Err(Error::adapter(name, AdapterError::NameTaken));
        }
        let adapter = Adapter::read_peft(name, folder.as_ref(), &self.model.config)?;
        // What it adds is compared with the model's weights, which are read for that.
        if let Some(path) = self.model.any_changed_file() {
            return Err(file::changed(path));
        }
        adapter.check_magnitude(&self.model.encoder)?;
        self.change(|table| table.add(adapter))
    }

    /// Removes an adapter. Calls that are computing with it finish; its memory is freed after them, on a thread that serves
    /// no call.
    ///
    /// # Errors
    /// [`AdapterError::NotLoaded`] if no adapter of that name is loaded.
    pub fn remove_adapter(&self, name: &str) -> Result<()> {
        self.change(|table| table.remove(name))
    }

    /// Changes the adapters for the calls to come: on a GPU a copy first, which is taken once it is on the device.
    fn change(&self, change: impl FnOnce(&mut AdapterTable) -> Result<()>) -> Result<()> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let adapters = || self.adapters.write().unwrap_or_else(PoisonError::into_inner);
        let Backend::Gpu {
            gpu,
            contexts,
            disposal,
            ..
        } = &self.backend
        else {
            // In place: the table is copied only if a call is computing, which keeps what it began with.
            return change(&mut adapters().table);
        };
        let Adapters { mut table, on_device } = self.adapter_snapshot();
        let before = on_device.expect("a GPU has its copy of the adapters");
        change(&mut table)?;
        let on_device = gpu.upload_adapters(&table, &before)?;
        let disposal = disposal.get_or_init(Disposal::start);
        let next = Adapters {
            table,
            on_device: Some(on_device.clone()),
        };
        let previous = std::mem::replace(&mut *adapters(), next);
        for context in contexts {
            // What fails here fails again for the next batch, which can say so.
            if let Err(failure) = gpu.replace_adapters(context, &on_device) {
                tracing::debug!(?failure, "while adapters were changed");
            }
        }
        disposal.dispose((previous, before));
        disposal.wait();
        Ok(())
    }

    /// Lets go of a call's adapters. If they were changed meanwhile, it may be their last owner.
    fn give_up(&self, adapters: Adapters) {
        if let Backend::Gpu { disposal, .. } = &self.backend
            && let Some(disposal) = disposal.get()
        {
            disposal.dispose(adapters);
        }
    }

    /// The names of all loaded adapters, the model's own included.
    pub fn adapters(&self) -> Vec<String> {
        self.adapter_snapshot().table.names()
    }

    /// What the model is: its sizes, tasks and limits.
    pub fn config(&self) -> &ModelConfig {
        &self.model.config
    }

    /// Tokens that go through the model at once.
    pub fn batch_tokens(&self) -> usize {
        self.batch_tokens
    }

    /// CPU threads.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The type of weights and of what products read.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// What computes, for people.
    pub fn device_name(&self) -> String {
        match &self.backend {
            Backend::Cpu { cpu, .. } => format!("cpu ({}, {} threads)", cpu.name(), self.threads),
            Backend::Gpu { gpu, .. } => gpu.name(),
        }
    }

    /// Why this engine computes on the CPU, where [`Device::Auto`] was to choose.
    pub fn fallback_reason(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// What the engine needs, known before the first batch: weights, and an arena per concurrent call that
    /// holds the larger of the token budget and the longest input. (On the CPU the arena grows to this on
    /// demand; on a GPU it is there from the start. Tokenising, results and loaded adapters come on top.)
    pub fn memory(&self) -> Memory {
        let tokens = self.batch_tokens.max(self.model.config.max_tokens);
        let shape = crate::batch::BatchShape {
            tokens,
            output_rows: tokens * self.model.config.pooling.len(),
            adapted: true,
        };
        let Adapters { table, on_device } = self.adapter_snapshot();
        let adapters = on_device.map_or(0, |adapters| adapters.bytes() as usize);
        let columns = Site::ALL.map(|site| table.columns(site).1);
        match &self.backend {
            Backend::Cpu { cpu, contexts } => Memory {
                weights: cpu.bytes(),
                adapters,
                arena: Plan::cpu(&self.model.config, shape, columns).arena_len * size_of::<f32>(),
                concurrency: contexts.count,
            },
            Backend::Gpu { gpu, contexts, .. } => Memory {
                weights: gpu.weight_bytes(),
                adapters,
                arena: gpu.context_bytes(&table),
                concurrency: contexts.len(),
            },
        }
    }

    /// Floating-point operations of the matrix products, and bytes that must be moved at the least,
    /// if these requests go through all at once.
    ///
    /// # Errors
    /// The first bad request's.
    pub fn cost(&self, requests: &[Request<'_>]) -> Result<Cost> {
        let (plan, batch) = self.plan_of(requests)?;
        Ok(self.cost_of(&plan, &batch))
    }

    /// The lower bound of a plan's work for a batch.
    pub(crate) fn cost_of(&self, plan: &Plan, batch: &Batch) -> Cost {
        let (element, weight) = self.number_bytes();
        crate::cost::plan(&self.model.config, plan, &batch.lengths(), element, weight)
    }

    /// Bytes of an activation and of a weight.
    pub(crate) fn number_bytes(&self) -> (usize, usize) {
        match &self.backend {
            Backend::Cpu { cpu, .. } => (size_of::<f32>(), cpu.weight_bytes()),
            Backend::Gpu { .. } => (size_of::<u16>(), size_of::<u16>()),
        }
    }

    /// The plan and the batch these requests make if they all fit one pass, for comparisons.
    pub(crate) fn plan_of(&self, requests: &[Request<'_>]) -> Result<(Plan, Batch)> {
        let adapters = self.adapter_snapshot().table;
        let prepared = self.prepare(requests, &adapters).into_iter().enumerate();
        let prepared: Vec<Prepared> = prepared
            .map(|(index, prepared)| prepared.map_err(|e| e.at_input(index)))
            .collect::<Result<_>>()?;
        let Packed { batch, .. } = Packed::all(&prepared, &adapters);
        Ok((self.plan(&batch, batch.shape()), batch))
    }

    /// The loaded adapters.
    #[cfg(feature = "inspect")]
    pub(crate) fn adapter_table(&self) -> AdapterTable {
        self.adapter_snapshot().table
    }

    /// Runs one plan on this engine's own executor; `after` sees every buffer, as float32 and in the form
    /// that the plan gives it, as soon as a step has written it.
    #[cfg(feature = "inspect")]
    pub(crate) fn trace(&self, plan: &Plan, batch: &Batch, after: OnBuffer<'_>) -> Result<()> {
        match &self.backend {
            Backend::Cpu { cpu, contexts } => {
                let watch = cpu::Watch::Buffers(after);
                cpu.run(&self.model, plan, batch, &mut contexts.take(), watch);
                Ok(())
            }
            Backend::Gpu { .. } => {
                self.with_gpu(|gpu, context, staging| gpu.trace(context, staging, batch, plan, after))
            }
        }
    }

    /// Runs one plan on the CPU; `after` gets each step's number and what it took.
    ///
    /// # Errors
    /// An engine on a GPU.
    #[cfg(feature = "inspect")]
    pub(crate) fn time_on_cpu(
        &self,
        plan: &Plan,
        batch: &Batch,
        after: &mut dyn FnMut(usize, std::time::Duration),
    ) -> Result<()> {
        let (cpu, contexts) = self.cpu()?;
        cpu.run(
            &self.model,
            plan,
            batch,
            &mut contexts.take(),
            cpu::Watch::Times(after),
        );
        Ok(())
    }

    /// What the CPU can do at most in this engine's precision, measured.
    ///
    /// # Errors
    /// An engine on a GPU.
    #[cfg(feature = "inspect")]
    pub(crate) fn cpu_limits(&self) -> Result<cpu::Limits> {
        let (cpu, contexts) = self.cpu()?;
        Ok(cpu.limits(&mut contexts.take()))
    }

    #[cfg(feature = "inspect")]
    fn cpu(&self) -> Result<(&Cpu, &ContextPool<cpu::ExecContext>)> {
        match &self.backend {
            Backend::Cpu { cpu, contexts } => Ok((cpu, contexts)),
            Backend::Gpu { .. } => Err(Error::Device(
                "this is measured on the CPU, and the engine computes on a GPU: take --device cpu".into(),
            )),
        }
    }

    /// The GPU that this engine computes on.
    ///
    /// # Errors
    /// An engine on the CPU.
    #[cfg(feature = "inspect")]
    pub(crate) fn gpu(&self) -> Result<&gpu::Gpu> {
        match &self.backend {
            Backend::Gpu { gpu, .. } => Ok(gpu),
            Backend::Cpu { .. } => Err(Error::Device(format!(
                "this is measured on a GPU, and the engine computes on {}{}: take --device cuda",
                self.device_name(),
                self.fallback_reason()
                    .map_or(String::new(), |reason| format!(" ({reason})"))
            ))),
        }
    }

    /// Works on an execution context of the GPU, with the loaded adapters, and on the buffers of a pass.
    ///
    /// # Errors
    /// An engine on the CPU; else what the work gives.
    #[cfg(feature = "inspect")]
    pub(crate) fn with_gpu<T>(
        &self,
        work: impl FnOnce(&gpu::Gpu, &mut gpu::ExecContext, &mut gpu::Staging) -> Result<T>,
    ) -> Result<T> {
        let gpu = self.gpu()?;
        let Backend::Gpu { slots, .. } = &self.backend else {
            unreachable!("the engine is on a GPU, as was found above")
        };
        let on_device = self.adapter_snapshot().on_device;
        let mut slot = slots.take();
        let (mut context, staging) = slot.parts();
        gpu.rebind_adapters(
            &mut context,
            &on_device.expect("a GPU has its copy of the adapters"),
        )?;
        work(gpu, &mut context, staging)
    }

    /// The phases of opening this engine.
    #[cfg(feature = "inspect")]
    pub(crate) fn phases(&self) -> &PhaseTimes {
        &self.phases
    }

    /// Whether the steps run on a GPU.
    pub fn on_gpu(&self) -> bool {
        matches!(self.backend, Backend::Gpu { .. })
    }

    /// The folder that the model was opened from.
    pub fn path(&self) -> &Path {
        &self.model.path
    }

    #[cfg(feature = "inspect")]
    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// The adapters as they are now; a call keeps this view until it is done.
    fn adapter_snapshot(&self) -> Adapters {
        self.adapters
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn request_planner<'a>(&'a self, adapters: &'a AdapterTable) -> RequestPlanner<'a> {
        RequestPlanner {
            config: &self.model.config,
            text: self.text.as_ref(),
            adapters,
        }
    }

    pub(crate) fn prepare(&self, requests: &[Request<'_>], adapters: &AdapterTable) -> Vec<Result<Prepared>> {
        let planner = self.request_planner(adapters);
        match requests {
            // Waking the pool costs more than tokenising one text.
            [one] => vec![planner.prepare(one)],
            many => self
                .tokenizers
                .install(|| many.par_iter().map(|r| planner.prepare(r)).collect()),
        }
    }

    /// The plan of a batch with the sizes of `shape`.
    pub(crate) fn plan(&self, batch: &Batch, shape: BatchShape) -> Plan {
        self.plan_with(batch, shape, None)
    }

    /// The same, on a GPU with the adapters applied in a given way.
    pub(crate) fn plan_with(&self, batch: &Batch, shape: BatchShape, fusion: Option<Fusion>) -> Plan {
        let columns = Site::ALL.map(|site| batch.adapters.columns(site).1);
        match &self.backend {
            Backend::Cpu { .. } => Plan::cpu(&self.model.config, shape, columns),
            Backend::Gpu { gpu, .. } => {
                let fusion = fusion.unwrap_or_else(|| gpu.fusion(batch));
                gpu.plan(batch, shape, fusion)
            }
        }
    }

    /// Passes a request on if the files are unchanged which its adapters are read from, so that a changed one fails the
    /// requests alone that use it.
    fn check_adapter_files(&self, prepared: Prepared, table: &AdapterTable) -> Result<Prepared> {
        let Backend::Cpu { .. } = self.backend else {
            return Ok(prepared);
        };
        // All sequences of a request have its mixture.
        let mut mixture = prepared
            .sequences
            .first()
            .into_iter()
            .flat_map(|sequence| &sequence.mixture);
        match mixture.find_map(|&(slot, _)| table.get(slot).changed_file()) {
            Some(path) => Err(file::changed(path)),
            None => Ok(prepared),
        }
    }

    /// A file that a pass on the CPU would read from, if it was changed since it was opened.
    fn changed_file<'a>(&'a self, batch: &'a Batch) -> Option<&'a Path> {
        let of_adapters = || {
            batch
                .adapters
                .loaded()
                .find_map(|(_, adapter)| adapter.changed_file())
        };
        self.model.changed_file().or_else(of_adapters)
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("model", &self.model.path)
            .field("device", &self.device_name())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Under softcuda `auto` never gets as far, so that this is told without a device.
    #[test]
    fn auto_goes_on_without_a_gpu_that_fails_and_nobody_else_does() {
        let lost = || Error::DeviceLost("of a cable".into());
        let chosen = OnCpu::after(lost(), Device::Auto, None).unwrap();
        let reason = chosen.fallback.unwrap();
        assert!(
            reason.starts_with("no GPU is used: ") && reason.contains("of a cable"),
            "{reason}"
        );
        assert!(OnCpu::after(lost(), Device::Cuda(0), None).is_err());
        let bad_setting = Error::adapter("x", "cannot be merged".to_owned());
        assert!(OnCpu::after(bad_setting, Device::Auto, None).is_err());
        // What the GPU would have computed in, the CPU has not.
        let error = OnCpu::after(lost(), Device::Auto, Some(Precision::F16))
            .err()
            .unwrap();
        assert!(
            matches!(&error, Error::Device(text) if text.contains("f16") && text.contains("of a cable")),
            "{error}"
        );
    }

    #[test]
    fn a_warm_up_runs_a_batch_on_every_context() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        let spec = model_maker::ModelSpec {
            vocab: 64,
            hidden: 32,
            layers: 1,
            heads: 2,
            ffn: 64,
            max_positions: 40,
            tokenizer: false,
            ..model_maker::ModelSpec::new(model_maker::Family::Bert)
        };
        model_maker::write(&spec, &path).unwrap();
        let builder = Engine::builder().device(Device::Cpu).threads(3).concurrency(3);
        let engine = builder.open(&path).unwrap();
        let warm = || {
            let Backend::Cpu { contexts, .. } = &engine.backend else {
                unreachable!("on the CPU")
            };
            let mut warm = 0;
            let count = |context: &mut cpu::ExecContext| -> Result<(), ()> {
                warm += usize::from(context.arena_len() > 0);
                Ok(())
            };
            contexts.for_each(count).unwrap();
            warm
        };
        assert_eq!(warm(), 0);
        engine.warm_up().unwrap();
        assert_eq!(warm(), 3);
    }
}
