//! The class `_ropeway.Engine`: an engine, and once it is asked for, a service on it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use pyo3::exceptions::{PyTypeError, PyUnicodeEncodeError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyDict, PyList, PyString};
use ropeway::{Embed, Error, ParseError, Request, hub};

use crate::bridge::{Bridge, Ticket};
use crate::errors;
use crate::notices::detached;
use crate::options::{self, PerText};
use crate::results::Results;

/// Passes whose texts are handed to the engine at once. Between such steps signals are looked at, so that a CPU gets one
/// pass; on a GPU several keep it busy while the next text is tokenised.
const CPU_PASSES: usize = 1;
const GPU_PASSES: usize = 8;

/// Bytes of text that are taken for a token when a step is measured out.
const TOKEN_BYTES: usize = 4;

struct Opened {
    engine: Arc<ropeway::Engine>,
    bridge: Mutex<Option<Arc<Bridge>>>,
}

/// An opened model. `ropeway.Engine` is what users see of it.
#[pyclass(frozen, module = "ropeway._ropeway")]
pub struct Engine {
    /// None only while it is dropped.
    opened: Option<Opened>,
    /// The process that opened it: the threads of an engine do not survive a fork.
    process: u32,
}

/// The value of a setting that is a word.
fn word<T: FromStr<Err = ParseError>>(py: Python<'_>, name: &str, value: &str) -> PyResult<T> {
    value.parse().map_err(|error| errors::of_word(py, name, &error))
}

/// One text. What is no `str` is an error of the whole call, what holds half of a character one of the text.
fn read_text(text: &Bound<'_, PyAny>, index: usize) -> PyResult<PyResult<PyBackedStr>> {
    let py = text.py();
    let Ok(text) = text.cast::<PyString>() else {
        let class = text.get_type().name()?;
        return Err(PyTypeError::new_err(format!(
            "text {index} is of type {class}; wanted str"
        )));
    };
    match PyBackedStr::try_from(text.clone()) {
        Err(error) if error.is_instance_of::<PyUnicodeEncodeError>(py) => {
            let problem = format!(
                "text {index} holds a lone surrogate, which is no character; replace it, as with \
                 text.encode('utf-8', 'replace').decode()"
            );
            let error = errors::raise(py, "TextError", problem);
            error.value(py).setattr("index", index)?;
            Ok(Err(error))
        }
        read => read.map(Ok),
    }
}

impl Engine {
    fn opened(&self, py: Python<'_>) -> PyResult<&Opened> {
        let process = std::process::id();
        match &self.opened {
            Some(opened) if self.process == process => Ok(opened),
            _ => {
                let problem = format!(
                    "this engine was opened in process {} and this is process {process}, a fork of it, where its threads are \
                     gone; open the engine after the fork, or start processes with multiprocessing's \"spawn\"",
                    self.process
                );
                Err(errors::raise(py, "ForkedError", problem))
            }
        }
    }
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (model, *, device, precision, numerics, kernels, threads, batch_tokens, concurrency, merge, offline))]
    #[expect(clippy::too_many_arguments, reason = "each is a keyword of Python's")]
    fn new(
        py: Python<'_>,
        model: PathBuf,
        device: &str,
        precision: Option<&str>,
        numerics: Option<&str>,
        kernels: Option<&str>,
        threads: Option<usize>,
        batch_tokens: Option<usize>,
        concurrency: Option<usize>,
        merge: Vec<String>,
        offline: bool,
    ) -> PyResult<Engine> {
        let mut builder = ropeway::Engine::builder()
            .device(word(py, "device", device)?)
            .offline(offline);
        if let Some(precision) = precision {
            builder = builder.precision(word(py, "precision", precision)?);
        }
        if let Some(numerics) = numerics {
            builder = builder.numerics(word(py, "numerics", numerics)?);
        }
        if let Some(kernels) = kernels {
            builder = builder.kernels(word(py, "kernels", kernels)?);
        }
        if let Some(threads) = threads {
            builder = builder.threads(threads);
        }
        if let Some(tokens) = batch_tokens {
            builder = builder.batch_tokens(tokens);
        }
        if let Some(calls) = concurrency {
            builder = builder.concurrency(calls);
        }
        builder = merge.into_iter().fold(builder, ropeway::EngineBuilder::merge);
        // A folder where there is one, else a hub id; what is neither is the folder that is missing.
        let open = || match model.to_str().filter(|id| hub::is_id(id) && !model.exists()) {
            Some(id) => builder.from_hub(id),
            None => builder.open(&model),
        };
        let engine = detached(py, open)?.map_err(|error| errors::of_engine(py, &error))?;
        let opened = Opened {
            engine: Arc::new(engine),
            bridge: Mutex::new(None),
        };
        Ok(Engine {
            opened: Some(opened),
            process: std::process::id(),
        })
    }

    /// Embeds texts in steps, and looks at signals after each. `progress` is called with the number of texts done.
    /// Raises the first text's error unless `keep_errors`.
    fn embed(
        &self,
        py: Python<'_>,
        texts: &Bound<'_, PyList>,
        options: &Bound<'_, PyAny>,
        batch_size: Option<usize>,
        progress: Option<&Bound<'_, PyAny>>,
        keep_errors: bool,
    ) -> PyResult<Py<PyAny>> {
        let engine = &self.opened(py)?.engine;
        let texts: Vec<PyResult<PyBackedStr>> = (0..)
            .zip(texts.iter())
            .map(|(index, text)| read_text(&text, index))
            .collect::<PyResult<_>>()?;
        if let Some(Err(error)) = texts.iter().find(|text| text.is_err() && !keep_errors) {
            return Err(error.clone_ref(py));
        }
        let options = PerText::read(options, texts.len())?;
        let passes = if engine.on_gpu() { GPU_PASSES } else { CPU_PASSES };
        let step_bytes = passes * engine.batch_tokens() * TOKEN_BYTES;
        let mut results = Results::new(texts.len());
        let mut done = 0;
        while done < texts.len() {
            let most = batch_size.unwrap_or(usize::MAX).max(1);
            let mut bytes = 0;
            let fits = |text: &&PyResult<PyBackedStr>| {
                let first = bytes == 0;
                bytes += text.as_ref().map_or(0, |text| text.len()) + TOKEN_BYTES;
                first || bytes <= step_bytes
            };
            let count = texts[done..].iter().take(most).take_while(fits).count();
            let step = done..done + count;
            let embedded = detached(py, || {
                let request =
                    |number: usize| Some(Request::text(&**texts[number].as_ref().ok()?, options.of(number)));
                let requests: Vec<Request<'_>> = step.clone().filter_map(request).collect();
                engine.embed_batch(&requests)
            })?;
            let mut embedded = embedded.into_iter();
            for number in step {
                let result = match &texts[number] {
                    Err(error) => Err(error.clone_ref(py)),
                    Ok(_) => embedded
                        .next()
                        .unwrap_or_else(|| Err(Error::Internal("a text has no result".into())))
                        .map_err(|error| errors::of_engine(py, &error.at_input(number))),
                };
                match result {
                    Err(error) if !keep_errors => return Err(error),
                    result => results.push(result),
                }
            }
            done += count;
            py.check_signals()?;
            if let Some(progress) = progress {
                progress.call1((done,))?;
            }
        }
        results.into_py(py)
    }

    /// The seconds of each of `calls` calls of [`ropeway::Engine::embed`], one after the other: what the package's own part
    /// of `encode` is measured against, in one process and on one engine.
    fn time_embed(&self, py: Python<'_>, texts: Vec<PyBackedStr>, calls: usize) -> PyResult<Vec<f64>> {
        let engine = &self.opened(py)?.engine;
        let embed = || {
            let start = Instant::now();
            let embeddings = engine.embed(&texts, &Embed::default())?;
            let seconds = start.elapsed().as_secs_f64();
            drop(embeddings);
            Ok(seconds)
        };
        let seconds: ropeway::Result<_> = detached(py, || (0..calls).map(|_| embed()).collect())?;
        seconds.map_err(|error| errors::of_engine(py, &error))
    }

    /// Starts the service that `submit` needs; does nothing where it runs.
    fn start_service(&self, py: Python<'_>) -> PyResult<()> {
        let opened = self.opened(py)?;
        let start = || {
            let mut bridge = opened.bridge.lock().unwrap_or_else(PoisonError::into_inner);
            if bridge.is_none() {
                *bridge = Some(Arc::new(Bridge::start(opened.engine.clone())?));
            }
            Ok(())
        };
        detached(py, start)?.map_err(|error| errors::of_engine(py, &error))
    }

    /// Hands text `number` of a call to the service; the result comes to `future` of the event loop `event_loop`.
    fn submit(
        &self,
        py: Python<'_>,
        number: usize,
        text: &Bound<'_, PyAny>,
        options: &Bound<'_, PyAny>,
        event_loop: Py<PyAny>,
        future: Py<PyAny>,
    ) -> PyResult<Ticket> {
        let opened = self.opened(py)?;
        let text = read_text(text, number)??.to_string();
        let request = Request::text(text, options::read(options)?);
        let bridge = opened
            .bridge
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match bridge {
            Some(bridge) => bridge.submit(py, request, event_loop, future),
            None => Err(errors::raise(py, "StoppedError", "start_service was not called")),
        }
    }

    fn add_adapter(&self, py: Python<'_>, name: &str, folder: PathBuf) -> PyResult<()> {
        let engine = &self.opened(py)?.engine;
        detached(py, || engine.add_adapter(name, folder))?.map_err(|error| errors::of_engine(py, &error))
    }

    fn remove_adapter(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        let engine = &self.opened(py)?.engine;
        detached(py, || engine.remove_adapter(name))?.map_err(|error| errors::of_engine(py, &error))
    }

    fn adapters(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        Ok(self.opened(py)?.engine.adapters())
    }

    /// The prompts of the model's tasks, by name.
    fn prompts(&self, py: Python<'_>) -> PyResult<BTreeMap<String, String>> {
        let tasks = &self.opened(py)?.engine.config().tasks;
        Ok(tasks
            .iter()
            .map(|task| (task.name.clone(), task.prefix.clone()))
            .collect())
    }

    /// What the engine is, by the names of `ropeway.Info`.
    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let engine = &self.opened(py)?.engine;
        let config = engine.config();
        let memory = engine.memory();
        let info = PyDict::new(py);
        info.set_item("path", engine.path().to_string_lossy())?;
        info.set_item("device", engine.device_name())?;
        info.set_item("on_gpu", engine.on_gpu())?;
        info.set_item("fallback_reason", engine.fallback_reason())?;
        info.set_item("precision", engine.precision().to_string())?;
        info.set_item("threads", engine.threads())?;
        info.set_item("batch_tokens", engine.batch_tokens())?;
        info.set_item("dimensions", config.embedding_size())?;
        info.set_item("matryoshka", config.matryoshka.clone())?;
        info.set_item("max_tokens", config.max_tokens)?;
        info.set_item(
            "tasks",
            config.tasks.iter().map(|task| &task.name).collect::<Vec<_>>(),
        )?;
        info.set_item("adapters", engine.adapters())?;
        info.set_item("weight_bytes", memory.weights)?;
        info.set_item("arena_bytes", memory.arena)?;
        info.set_item("truncated", engine.truncated())?;
        let bridge = self
            .opened(py)?
            .bridge
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        info.set_item("service", bridge.map(|bridge| bridge.counts()))?;
        Ok(info)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let opened = self.opened.take();
        if self.process != std::process::id() {
            // Its threads are not here to be waited for.
            std::mem::forget(opened);
            return;
        }
        Python::attach(|py| py.detach(|| drop(opened)));
    }
}
