//! The settings of an engine, and the ways to a model's folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Engine;
use super::placement::Placement;
use crate::device::{Device, KernelChoice};
use crate::error::{Error, Result};
#[cfg(feature = "hub")]
use crate::hub;
use crate::phases::PhaseTimes;
use crate::precision::{Numerics, Precision};

/// Settings of an engine; see [`Engine::builder`].
#[derive(Clone, Debug, Default)]
pub struct EngineBuilder {
    pub(super) device: Device,
    threads: Option<usize>,
    pub(super) batch_tokens: Option<usize>,
    concurrency: Option<usize>,
    pub(super) sleeping_wait: bool,
    pub(super) dependent_launch: bool,
    pub(super) precision: Option<Precision>,
    pub(super) numerics: Numerics,
    pub(super) kernels: KernelChoice,
    pub(super) merged: Vec<String>,
    #[cfg(feature = "hub")]
    downloader: hub::Downloader,
}

impl EngineBuilder {
    /// Where to compute; [`Device::Auto`] if not set.
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// The type of weights and of what products read: f32, bf16 or int8 on the CPU, bf16 or f16 on a GPU. If not
    /// set, f32 on the CPU and bf16 on a GPU. [`Device::Auto`] takes the CPU for f32.
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = Some(precision);
        self
    }

    /// What a GPU's results may depend on beside their own input; nothing if not set.
    pub fn numerics(mut self, numerics: Numerics) -> Self {
        self.numerics = numerics;
        self
    }

    /// Which kernels a GPU runs; [`KernelChoice::Auto`] if not set.
    pub fn kernels(mut self, kernels: KernelChoice) -> Self {
        self.kernels = kernels;
        self
    }

    /// On a GPU, keep a copy of the weights with the adapter of one of the model's tasks merged into them; may be
    /// called for several. With [`Numerics::Fastest`], batches that use it alone, with weight 1, take that copy. It
    /// costs as much memory as the linear layers (0.6 GB for jina-embeddings-v3), and merging rounds: an adapter of
    /// 0.3 % of the weights' size loses 43 % of itself in bf16.
    pub fn merge(mut self, adapter: impl Into<String>) -> Self {
        self.merged.push(adapter.into());
        self
    }

    /// CPU threads, 1 to 1024; all cores if not set.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Tokens that go through the model at once. It bounds the memory of a call: see
    /// [`Engine::memory`]. One input longer than this still goes through, by itself. 1 to 2²⁴; if not
    /// set, 2048 on the CPU and 16384 on a GPU.
    pub fn batch_tokens(mut self, tokens: usize) -> Self {
        self.batch_tokens = Some(tokens);
        self
    }

    /// Calls that compute at the same time; each has an arena and, on the CPU, `threads / concurrency` threads
    /// of its own, on a GPU a stream, in which a second batch, of the same call or another, already stands behind the one that
    /// computes; further calls wait, and are served in turn. 1 to `threads`; 1 if not set, which is fastest
    /// for a call alone.
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.concurrency = Some(calls);
        self
    }

    /// Whether a call sleeps while a GPU computes; `false` if not set: it asks the device all the time, which takes a core
    /// per waiting call and hears of the end some microseconds earlier. For an engine that shares its cores with other work.
    pub fn sleeping_wait(mut self, sleeps: bool) -> Self {
        self.sleeping_wait = sleeps;
        self
    }

    /// Whether the kernels of a pass overlap on a GPU of compute capability 9.0 or later, each starting, and reading its
    /// weights, while the one before it still runs (programmatic dependent launch); `false` if not set, since no GPU has
    /// run it yet. It changes no result.
    pub fn dependent_launch(mut self, dependent: bool) -> Self {
        self.dependent_launch = dependent;
        self
    }

    /// Whether [`from_hub`](Self::from_hub) takes what is in the cache and downloads nothing; `false` if not set.
    #[cfg(feature = "hub")]
    pub fn offline(mut self, offline: bool) -> Self {
        self.downloader = self.downloader.offline(offline);
        self
    }

    /// Called while [`from_hub`](Self::from_hub) downloads a model, on the thread that opens the engine.
    ///
    /// ```no_run
    /// # use ropeway::Engine;
    /// let engine = Engine::builder()
    ///     .on_download(|p| eprintln!("{}: {} of {} bytes", p.file, p.done_bytes, p.total_bytes))
    ///     .from_hub("jinaai/jina-embeddings-v3")?;
    /// # let _ = engine;
    /// # Ok::<(), ropeway::Error>(())
    /// ```
    #[cfg(feature = "hub")]
    pub fn on_download(mut self, report: impl Fn(&hub::Progress<'_>) + Send + Sync + 'static) -> Self {
        self.downloader = self.downloader.on_progress(report);
        self
    }

    /// Opens the model in a folder.
    ///
    /// # Errors
    /// A setting out of its range ([`Error::Setting`]), a device that cannot be used ([`Error::Device`],
    /// [`Error::Gpu`]), a folder that is not there or whose files are broken or set something that is not computed
    /// ([`Error::Io`], [`Error::Model`], [`Error::Tensor`]), an adapter of a task out of all proportion
    /// ([`Error::Adapter`]); the message names the file and what was wanted of it.
    pub fn open(self, folder: impl AsRef<Path>) -> Result<Engine> {
        let folder = folder.as_ref();
        self.open_found(|_| match fs::metadata(folder) {
            Ok(found) if found.is_dir() => Ok(folder.to_owned()),
            Ok(_) => Err(Error::model(folder, "is a file; give the model's folder")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::model(
                folder,
                "there is no such folder; a hub id (`owner/name`) is opened with from_hub",
            )),
            Err(error) => Err(Error::io(folder, error)),
        })
    }

    /// Opens a model by its hub id, `owner/name` or `owner/name@revision`: from the hub's cache, else
    /// downloaded into it. See the module [`hub`](crate::hub).
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`Error::Hub`] for a model that cannot be had. Settings and device are checked
    /// before anything is downloaded.
    #[cfg(feature = "hub")]
    pub fn from_hub(self, id: impl AsRef<str>) -> Result<Engine> {
        self.open_found(|settings| settings.downloader.fetch(id.as_ref()))
    }

    /// Opens the model in the folder that `find` gives.
    fn open_found(self, find: impl FnOnce(&EngineBuilder) -> Result<PathBuf>) -> Result<Engine> {
        let mut phases = PhaseTimes::start();
        let bounded = |name, value: usize, limit| match value {
            value if (1..=limit).contains(&value) => Ok(value),
            value => Err(Error::Setting { name, value, limit }),
        };
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = self
            .threads
            .map_or(Ok(cores), |threads| bounded("threads", threads, 1024))?;
        let concurrency = bounded("concurrency", self.concurrency.unwrap_or(1), threads)?;
        if let Some(tokens) = self.batch_tokens {
            bounded("batch_tokens", tokens, 1 << 24)?;
        }
        // Before a model is fetched for it.
        let placement = Placement::choose(self.device, self.precision)?;
        phases.end("driver");
        let folder = find(&self)?;
        Engine::new(&folder, &self, placement, threads, concurrency, phases)
    }
}
