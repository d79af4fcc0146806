//! Flags that several commands share: those of the run, and those of an embedding.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::jsonl::{ENCODINGS, POOLINGS, check_mixture};
use clap::ArgAction;
use ropeway::{
    AdapterSelection, Chunking, Device, Embed, Encoding, Engine, EngineBuilder, KernelChoice, Numerics,
    Pooling, Precision, Request, hub,
};
use tracing::level_filters::LevelFilter;

use super::exit::{Exit, note};
use super::terminal::Progress;

/// Flags of every command.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Run options")]
pub struct RunOptions {
    /// The model: a folder, or a hub id (owner/name). `serve` takes several, each as NAME=FOLDER_OR_ID
    #[arg(
        id = "model",
        long,
        short = 'm',
        global = true,
        env = "ROPEWAY_MODEL",
        value_name = "FOLDER_OR_ID",
        action = ArgAction::Append
    )]
    pub models: Vec<String>,

    /// Device to compute on: auto, cpu, cuda or cuda:N; CUDA_VISIBLE_DEVICES selects GPUs by UUID
    #[arg(long, global = true, default_value = "auto", value_name = "DEVICE")]
    pub device: Device,

    /// Type of the weights and of what products read: f32, bf16 or int8 on the CPU, bf16 or f16 on a GPU
    /// [default: f32 on the CPU, bf16 on a GPU]
    #[arg(long, global = true, value_name = "TYPE")]
    pub precision: Option<Precision>,

    /// On a GPU: invariant, where a result depends on its own input alone, or fastest, where it may depend on its batch
    #[arg(long, global = true, default_value_t, value_name = "CLASS")]
    pub numerics: Numerics,

    /// On a GPU: the kernels to run. sm90 are those for compute capability 9.0, compared with sm80's when a model is
    /// opened; auto takes what was measured to be best
    #[arg(long, global = true, default_value_t, value_name = "KERNELS")]
    pub kernels: KernelChoice,

    /// On a GPU of compute capability 9.0 or later: let each kernel of a pass start while the one before it runs. Not the
    /// default, since no GPU has run it yet
    #[arg(long, global = true)]
    pub dependent_launch: bool,

    /// On a GPU, keep a copy of the weights with this task's adapter merged into them. With --numerics fastest,
    /// batches of that task alone use it; may be repeated
    #[arg(long, global = true, value_name = "TASK", action = ArgAction::Append)]
    pub merge: Vec<String>,

    /// CPU threads [default: all cores]
    #[arg(long, global = true, value_name = "N", value_parser = positive)]
    pub threads: Option<usize>,

    /// Tokens per batch, which bounds the memory [default: 2048 on the CPU, 16384 on a GPU]
    #[arg(long, global = true, value_name = "N", value_parser = positive)]
    pub batch_tokens: Option<usize>,

    /// Add a PEFT LoRA adapter folder under a name, to be used with --task or --adapters
    #[arg(id = "adapter", long, global = true, value_name = "NAME=FOLDER", value_parser = named_folder)]
    #[arg(action = ArgAction::Append)]
    pub adapters: Vec<(String, PathBuf)>,

    /// Do not download models
    #[arg(long, global = true)]
    pub offline: bool,

    /// Also say on standard error what the engine does: off, error, warn, info, debug or trace
    #[arg(
        long,
        global = true,
        env = "ROPEWAY_LOG",
        default_value_t = LevelFilter::WARN,
        value_name = "LEVEL"
    )]
    pub log_level: LevelFilter,

    /// Print errors only: no progress bar, no notes
    #[arg(long, short = 'q', global = true)]
    pub quiet: bool,
}

impl RunOptions {
    /// What is printed of what the engine says.
    pub fn notices(&self) -> LevelFilter {
        match self.quiet {
            true => self.log_level.min(LevelFilter::ERROR),
            false => self.log_level,
        }
    }

    /// The model's name, or how to get one.
    pub fn model(&self) -> Result<&str, Exit> {
        match self.models()?[..] {
            [model] => Ok(model),
            ref several => Err(Exit::usage(format!(
                "--model is given {} times; `ropeway serve` alone takes several models",
                several.len()
            ))),
        }
    }

    /// The names of all models, at least one.
    pub fn models(&self) -> Result<Vec<&str>, Exit> {
        let given = self.models.iter().map(String::as_str);
        let given: Vec<&str> = given.filter(|model| !model.is_empty()).collect();
        if given.is_empty() {
            return Err(Exit::usage(
                "no model is given: add --model FOLDER or --model OWNER/NAME, or set ROPEWAY_MODEL; \
                 `tools/fetch-model minilm` gets a small one into models/all-MiniLM-L6-v2",
            ));
        }
        Ok(given)
    }

    /// The same flags, for this model alone.
    pub fn of_model(&self, model: &str) -> RunOptions {
        RunOptions {
            models: vec![model.to_owned()],
            ..self.clone()
        }
    }

    /// The folders that an engine of this run reads, in which nothing may be written.
    pub fn model_folders<'a>(&'a self, engine: &'a Engine) -> Vec<&'a Path> {
        let adapters = self.adapters.iter().map(|(_, folder)| folder.as_path());
        adapters.chain([engine.path()]).collect()
    }

    /// Opens the engine and adds the adapters.
    pub fn open(&self) -> Result<Engine, Exit> {
        self.open_with(|builder| builder)
    }

    /// The same, with settings that the command has of its own.
    pub fn open_with(&self, set: impl FnOnce(EngineBuilder) -> EngineBuilder) -> Result<Engine, Exit> {
        let model = self.model()?;
        let mut builder = Engine::builder()
            .device(self.device)
            .numerics(self.numerics)
            .kernels(self.kernels)
            .dependent_launch(self.dependent_launch)
            .offline(self.offline);
        if let Some(precision) = self.precision {
            builder = builder.precision(precision);
        }
        if let Some(threads) = self.threads {
            builder = builder.threads(threads);
        }
        if let Some(tokens) = self.batch_tokens {
            builder = builder.batch_tokens(tokens);
        }
        for task in &self.merge {
            builder = builder.merge(task);
        }
        builder = set(builder);
        let engine = match Named::new(model)? {
            Named::Folder(folder) => builder.open(folder)?,
            Named::Id(id) => builder.on_download(download_bar(!self.quiet)).from_hub(id)?,
        };
        // Where there is a driver, a GPU was meant to be used: without a word all would be slow. At `info` the engine has
        // said so itself.
        if let Some(reason) = engine.fallback_reason()
            && ropeway::has_cuda_driver()
            && !self.quiet
            && self.log_level < LevelFilter::INFO
        {
            note(reason);
        }
        for (name, folder) in &self.adapters {
            engine.add_adapter(name, folder)?;
        }
        Ok(engine)
    }
}

/// What `--model` names.
pub enum Named<'a> {
    Folder(&'a Path),
    Id(&'a str),
}

impl Named<'_> {
    /// A folder where there is one, else a hub id.
    pub fn new(model: &str) -> Result<Named<'_>, Exit> {
        let path = Path::new(model);
        let problem = match path.is_dir() {
            true => return Ok(Named::Folder(path)),
            false if path.exists() => "is a file; give the model's folder",
            false if hub::is_id(model) => return Ok(Named::Id(model)),
            false => "is neither a folder nor a hub id (`owner/name`)",
        };
        Err(Exit::usage(format!("{model}: {problem}")))
    }
}

/// The progress bar of a download; it appears with the first file.
pub fn download_bar(shown: bool) -> impl Fn(&hub::Progress<'_>) + Send + Sync + 'static {
    let bar = OnceLock::new();
    move |progress| {
        let bar = bar.get_or_init(|| Progress::new(shown, Some(progress.total_bytes)));
        bar.say(progress.file, progress.done_bytes, progress.total_bytes);
    }
}

/// How inputs are embedded; the same words as the keys of a JSONL line, which override them.
#[derive(clap::Args)]
#[command(next_help_heading = "Embedding options")]
pub struct EmbedOptions {
    /// A task of the model, or the name of an added adapter
    #[arg(long, value_name = "TASK")]
    pub task: Option<String>,

    /// A weighted mixture of tasks and adapters, e.g. separation=0.7,classification=0.3
    #[arg(long, value_name = "NAME=WEIGHT,…", value_parser = mixture, conflicts_with = "task")]
    pub adapters: Option<Mixture>,

    /// Put this before the text, in place of the task's prefix (a mixture has none)
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,

    #[command(flatten)]
    pub size: SizeOptions,

    /// How token vectors become one; none: one vector per token [default: the model's own]
    #[arg(long, value_name = "mean|cls|lasttoken|max|mean_sqrt_len_tokens|weightedmean|none", value_parser = pooling)]
    pub pooling: Option<Pooling>,

    /// Divide by the Euclidean norm, even if the model does not
    #[arg(long, overrides_with = "no_normalize")]
    pub normalize: bool,

    /// Do not divide by the Euclidean norm
    #[arg(long, overrides_with = "normalize")]
    pub no_normalize: bool,

    /// Refuse texts longer than the model's limit instead of cutting them
    #[arg(long)]
    pub no_truncate: bool,

    /// Encoding of the vectors: f32, f16, int8, binary or base64
    #[arg(long, value_name = "ENCODING", value_parser = encoding, default_value = "f32")]
    pub encoding: Encoding,

    /// Late chunking: one embedding per N tokens
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with = "chunk_sentences")]
    pub chunk_tokens: Option<usize>,

    /// Late chunking: one embedding per sentence
    #[arg(long)]
    pub chunk_sentences: bool,

    #[command(flatten)]
    pub windows: WindowOptions,
}

/// How many dimensions are kept.
#[derive(clap::Args)]
pub struct SizeOptions {
    /// Keep the first N dimensions; N must be in the model's Matryoshka list [default: all]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub dimensions: Option<usize>,

    /// Accept a --dimensions that is not in the model's list
    #[arg(long)]
    pub any_dimensions: bool,
}

/// The windows of documents past the context length.
#[derive(clap::Args)]
pub struct WindowOptions {
    /// Tokens per window for late chunking past the context length [default: the model's limit]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub window: Option<usize>,

    /// Tokens by which windows overlap [default: 256, or half the window if that is less]
    #[arg(long, value_name = "N")]
    pub overlap: Option<usize>,
}

impl SizeOptions {
    /// Sets these options.
    pub fn apply(&self, options: Embed) -> Embed {
        options
            .dimensions(self.dimensions)
            .any_dimensions(self.any_dimensions)
    }
}

impl WindowOptions {
    /// Sets these options.
    pub fn apply(&self, options: Embed) -> Embed {
        options.window(self.window).overlap(self.overlap)
    }
}

impl EmbedOptions {
    /// The options of an input that says nothing itself.
    pub fn embed(&self) -> Embed {
        let adapters = match (&self.task, &self.adapters) {
            (Some(task), _) => AdapterSelection::Task(task.clone()),
            (None, Some(mixture)) => AdapterSelection::Mixture(mixture.0.clone()),
            (None, None) => AdapterSelection::Unset,
        };
        let chunking = match (self.chunk_tokens, self.chunk_sentences) {
            (Some(tokens), _) => Some(Chunking::Tokens(tokens)),
            (None, true) => Some(Chunking::Sentences),
            (None, false) => None,
        };
        let options = Embed::default()
            .adapters(adapters)
            .pooling(self.pooling)
            .normalize((self.normalize || self.no_normalize).then_some(self.normalize))
            .truncate(!self.no_truncate)
            .chunks(chunking)
            .encoding(self.encoding);
        let options = self.windows.apply(self.size.apply(options));
        with_prompt(options, self.prompt.as_deref())
    }
}

/// Sets the prompt, where one is given.
pub fn with_prompt(options: Embed, prompt: Option<&str>) -> Embed {
    match prompt {
        Some(prompt) => options.prompt(prompt),
        None => options,
    }
}

/// Checks options of the whole run, so that a wrong one is told before the work starts.
pub fn check(engine: &Engine, options: &Embed) -> Result<(), Exit> {
    // Options alone are in question: these ids are valid in any vocabulary and need no tokenizer.
    let request = match options.get_chunks() {
        Some(Chunking::Sentences) => Request::text("a", options),
        _ => Request::ids(&[0u32][..], options),
    };
    Ok(engine.validate(&request)?)
}

/// A mixture, as a type that clap does not take for a repeated flag.
#[derive(Clone, Debug)]
pub struct Mixture(pub Vec<(String, f32)>);

pub(super) fn mixture(text: &str) -> Result<Mixture, String> {
    let part = |part: &str| {
        let (name, weight) = part
            .rsplit_once('=')
            .ok_or(format!("`{part}` is not NAME=WEIGHT"))?;
        let weight = weight
            .trim()
            .parse()
            .map_err(|_| format!("`{weight}` is not a number"))?;
        Ok((name.trim().to_owned(), weight))
    };
    let parts = text.split(',').map(part).collect::<Result<Vec<_>, String>>()?;
    check_mixture(&parts)?;
    Ok(Mixture(parts))
}

fn named_folder(text: &str) -> Result<(String, PathBuf), String> {
    let (name, folder) = text.split_once('=').ok_or("wanted NAME=FOLDER")?;
    Ok((name.to_owned(), folder.into()))
}

fn pooling(word: &str) -> Result<Pooling, String> {
    choice(word, POOLINGS)
}

fn encoding(word: &str) -> Result<Encoding, String> {
    choice(word, ENCODINGS)
}

fn choice<T: Copy>(word: &str, words: &[(&str, T)]) -> Result<T, String> {
    let known = || words.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let found = words.iter().find(|(name, _)| *name == word);
    found
        .map(|(_, meaning)| *meaning)
        .ok_or_else(|| format!("known: {}", known()))
}

pub(super) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("wanted a whole number from 1".into()),
        Ok(number) => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixtures_are_read_and_checked() {
        let mixture = |text| mixture(text).map(|m| m.0);
        assert_eq!(
            mixture("a=0.7, b=-1"),
            Ok(vec![("a".into(), 0.7), ("b".into(), -1.0)])
        );
        for bad in ["a", "a=x", "a=nan", "a=inf", "a=1,a=2", "a=1,", ""] {
            assert!(mixture(bad).is_err(), "{bad}");
        }
    }
}
