//! `ropeway models`: what a model is, whether its files are whole, and getting one.

mod explain;

use std::fs;
use std::path::Path;

use ropeway::model::Positions;
use ropeway::{KnownNames, ModelConfig, hub};
use serde_json::{Value, json};

use super::exit::{Exit, one_line, shown};
use super::options::{Named, RunOptions, download_bar};
use super::terminal;

const EXAMPLES: &str = "\
Examples:
  ropeway models info models/all-MiniLM-L6-v2
  ropeway models info jinaai/jina-embeddings-v3 --json
  ropeway models explain models/all-MiniLM-L6-v2
  ropeway models verify models/all-MiniLM-L6-v2
  ropeway models pull BAAI/bge-small-en-v1.5";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Print the configuration: sizes, tasks and prefixes, memory needed
    #[command(
        after_help = "Examples:\n  ropeway models info models/all-MiniLM-L6-v2\n  ropeway models info ORG/NAME --json"
    )]
    Info {
        #[command(flatten)]
        model: ModelName,

        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Say of everything that makes a vector what it is, which file and key say so, and what else was found
    #[command(
        after_help = "Examples:\n  ropeway models explain models/all-MiniLM-L6-v2\n  ropeway models explain ORG/NAME --json"
    )]
    Explain {
        #[command(flatten)]
        model: ModelName,

        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Read all weights and check that none is missing, misshapen or not finite, that outputs make sense, and a cached
    /// model's files by their hashes
    #[command(after_help = "Examples:\n  ropeway models verify models/all-MiniLM-L6-v2")]
    Verify {
        #[command(flatten)]
        model: ModelName,
    },
    /// Download a model into the hub's cache and print its folder
    #[command(after_help = "Examples:\n  ropeway models pull BAAI/bge-small-en-v1.5\n  \
                            HF_HOME=/data/hub ropeway models pull jinaai/jina-embeddings-v3")]
    Pull {
        #[command(flatten)]
        model: ModelName,
    },
}

#[derive(clap::Args)]
struct ModelName {
    /// The model, a folder or a hub id [default: that of --model]
    #[arg(value_name = "MODEL")]
    name: Option<String>,
}

impl ModelName {
    fn folder(&self, run: &RunOptions) -> Result<std::path::PathBuf, Exit> {
        self.fetch(run, false)
    }

    /// `whole`: no copy is taken of which it is not known whether it has all files.
    fn fetch(&self, run: &RunOptions, whole: bool) -> Result<std::path::PathBuf, Exit> {
        let name = match &self.name {
            Some(name) => name,
            None => run.model()?,
        };
        match Named::new(name)? {
            Named::Folder(folder) => Ok(folder.to_owned()),
            Named::Id(id) => Ok(hub::Downloader::new()
                .offline(run.offline)
                .whole(whole)
                .on_progress(download_bar(!run.quiet))
                .fetch(id)?),
        }
    }
}

pub fn run(run: &RunOptions, args: Args) -> Result<(), Exit> {
    match args.action {
        Action::Info { model, json } => info(&model.folder(run)?, json),
        Action::Explain { model, json } => explain(&model.folder(run)?, json),
        Action::Verify { model } => {
            let folder = model.folder(run)?;
            // First, because it says most of a file that is not what the hub has.
            let hashed = hub::verify(&folder)?;
            let report = ropeway::model::verify(&folder)?;
            ropeway::Engine::builder()
                .device(ropeway::Device::Cpu)
                .open(&folder)?
                .verify_outputs()?;
            let mut text = format!(
                "{}: sound: {} tensors, {} parameters, all finite\n",
                shown(&folder.display().to_string()),
                report.tensors,
                grouped(report.parameters as u64)
            );
            if hashed > 0 {
                text += &format!("as the hub's hashes say: {hashed} files\n");
            }
            if !report.unused.is_empty() {
                text += &format!("not used: {}\n", listed(&report.unused));
            }
            terminal::print_text(&text)
        }
        Action::Pull { model } => {
            let folder = model.fetch(run, true)?;
            // The configuration alone: a download of something else is noticed here and not later.
            ModelConfig::read(&folder)?;
            let folder = folder.display().to_string();
            // A program takes the path as it is.
            let line = if terminal::for_people() {
                one_line(&folder)
            } else {
                folder
            };
            terminal::print(format!("{line}\n").as_bytes())
        }
    }
}

fn explain(folder: &Path, as_json: bool) -> Result<(), Exit> {
    let explanation = ModelConfig::explain(folder)?;
    match as_json {
        true => terminal::print_json(&explain::json(&explanation, folder)),
        false => terminal::print_text(&explain::text(&explanation)),
    }
}

fn info(folder: &Path, as_json: bool) -> Result<(), Exit> {
    let config = ModelConfig::read(folder)?;
    match as_json {
        true => terminal::print_json(&describe(&config, folder)),
        false => terminal::print_text(&table(&config, folder)),
    }
}

/// Names from files as the engine's errors list them: escaped, and of many the first and how many more there are.
fn listed(names: &[String]) -> String {
    let mut list = KnownNames::default();
    list.first = names.iter().take(20).cloned().collect();
    list.count = names.len();
    list.to_string()
}

/// Bytes of the weights and adapters in the folder.
fn weight_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let size = |entry: fs::DirEntry| {
        let path = entry.path();
        match fs::metadata(&path) {
            Ok(meta) if meta.is_file() && path.extension().is_some_and(|e| e == "safetensors") => meta.len(),
            Ok(meta) if meta.is_dir() => adapter_bytes(&path),
            _ => 0,
        }
    };
    entries.flatten().map(size).sum()
}

fn adapter_bytes(folder: &Path) -> u64 {
    fs::metadata(folder.join("adapter_model.safetensors")).map_or(0, |meta| meta.len())
}

/// Parameters of the base model, adapters left out.
fn parameters(config: &ModelConfig) -> u64 {
    let positions = match config.positions {
        Positions::Learned { rows, .. } => rows,
        _ => 0,
    };
    // Two more rows: gain and bias of the first LayerNorm.
    let rows = config.vocab_size + config.type_vocab_size + positions + 2;
    (rows * config.hidden_size + config.layer_parameters()) as u64
}

/// The model's pooling; several modes joined by `+`.
fn pooling(config: &ModelConfig) -> String {
    let names: Vec<&str> = config.pooling.iter().map(|mode| mode.name()).collect();
    names.join("+")
}

fn describe(config: &ModelConfig, folder: &Path) -> Value {
    let tasks = config.tasks.iter();
    let tasks: Vec<Value> = tasks
        .map(|task| json!({"name": task.name, "prefix": task.prefix, "adapter": task.adapter}))
        .collect();
    json!({
        "folder": folder.display().to_string(),
        "family": config.family.to_string(),
        "hidden_size": config.hidden_size,
        "embedding_size": config.embedding_size(),
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "max_tokens": config.max_tokens,
        "parameters": parameters(config),
        "weight_bytes": weight_bytes(folder),
        "memory_bytes": memory(config, folder),
        "pooling": pooling(config),
        "normalize": config.normalize,
        "matryoshka": config.matryoshka,
        "default_prompt": config.default_prompt,
        "tasks": tasks,
    })
}

/// What a run holds in memory, about: the mapped files and the layers packed as f32.
fn memory(config: &ModelConfig, folder: &Path) -> u64 {
    weight_bytes(folder) + 4 * config.layer_parameters() as u64
}

fn table(config: &ModelConfig, folder: &Path) -> String {
    let list = |sizes: &[usize]| sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    let rows = [
        ("folder", shown(&folder.display().to_string())),
        ("family", config.family.to_string()),
        ("dimensions", config.embedding_size().to_string()),
        (
            "Matryoshka sizes",
            if config.matryoshka.is_empty() {
                "none".into()
            } else {
                list(&config.matryoshka)
            },
        ),
        ("layers", config.num_hidden_layers.to_string()),
        (
            "attention heads",
            format!("{} of {} dimensions", config.num_attention_heads, config.head_dim),
        ),
        ("feed-forward", config.intermediate_size.to_string()),
        ("vocabulary", grouped(config.vocab_size as u64)),
        (
            "longest input",
            format!("{} tokens", grouped(config.max_tokens as u64)),
        ),
        (
            "pooling",
            format!(
                "{}{}",
                pooling(config),
                if config.normalize { ", normalised" } else { "" }
            ),
        ),
        ("parameters", grouped(parameters(config))),
        ("weights on disk", megabytes(weight_bytes(folder))),
        (
            "memory on a CPU",
            format!(
                "about {} and what a batch needs",
                megabytes(memory(config, folder))
            ),
        ),
    ];
    let width = rows
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    let mut text: String = rows
        .iter()
        .map(|(name, value)| format!("{name:width$}  {value}\n"))
        .collect();
    if !config.default_prompt.is_empty() {
        let prompt = format!("{:?}", config.default_prompt);
        text += &format!("{:width$}  {}\n", "default prompt", shown(&prompt));
    }
    let names: Vec<String> = config.tasks.iter().map(|task| shown(&task.name)).collect();
    let names_width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    for (index, (task, name)) in config.tasks.iter().zip(&names).enumerate() {
        let head = if index == 0 { "tasks" } else { "" };
        let adapter = if task.adapter { "adapter" } else { "" };
        let prefix = if task.prefix.is_empty() {
            "no prefix".into()
        } else {
            shown(&format!("{:?}", task.prefix))
        };
        text += &format!("{head:width$}  {name:names_width$}  {adapter:7}  {prefix}\n");
    }
    text
}

/// 1234567 → 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    groups.join(",")
}

fn megabytes(bytes: u64) -> String {
    match bytes {
        0..10_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        10_000_000..1_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_names_is_short_and_safe_to_show() {
        let name = |number: u64| format!("\u{1b}[2J{number}\n");
        let names: Vec<String> = (0..100_000).map(name).collect();
        let list = listed(&names);
        assert!(
            list.starts_with(r"\u{1b}[2J0\u{a}, ") && list.ends_with(" and 99980 more"),
            "{list}"
        );
        assert!(!list.contains(char::is_control));
        assert!(listed(&["x".repeat(1 << 20)]).len() < 500);
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            [0, 999, 1000, 1234567].map(grouped),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(megabytes(1_140_000_000), "1.14 GB");
    }
}
