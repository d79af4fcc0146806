//! `make-model`: writes random embedding models, for trying out and testing the engine without a download.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use model_maker::{AdapterSpec, Dtype, Family, Layout, ModelSpec, write, write_adapter};

const EXAMPLES: &str = "\
Examples:
  make-model /tmp/jina                                   the full shape of jina-embeddings-v3, 1.14 GB
  make-model /tmp/tiny --hidden 64 --layers 2 --heads 4 --ffn 128 --vocab 400 --max-positions 512
  make-model /tmp/native --layout native --dtype f32     transformers' layout, one PEFT adapter per task
  make-model /tmp/e5 --family xlm-roberta --shards 3     a sharded XLM-RoBERTa
  make-model adapter /tmp/mine --base /tmp/e5 --targets query,value --rank 8 --alpha 16

The same options give the same bytes. Both layouts of a jina model with the same seed hold the same numbers.";

/// Write a random embedding model: real layout, random weights
#[derive(Parser)]
#[command(version, after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Write a PEFT adapter for a model folder, as a user would have trained it
    Adapter(AdapterArgs),
}

#[derive(Args)]
struct ModelArgs {
    /// Folder to write; created where it does not exist
    #[arg(required = true)]
    out: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t = Family::Jina)]
    family: Family,
    /// Layout of a jina model
    #[arg(long, value_enum, default_value_t = Layout::Hub)]
    layout: Layout,
    /// Hidden size [default: 1024; bert 768]
    #[arg(long)]
    hidden: Option<usize>,
    /// Number of layers [default: 24; bert 12]
    #[arg(long)]
    layers: Option<usize>,
    /// Attention heads [default: 16; bert 12]
    #[arg(long)]
    heads: Option<usize>,
    /// Inner size of the feed-forward block [default: 4096; bert 3072]
    #[arg(long)]
    ffn: Option<usize>,
    /// Rows of the token table [default: 250002; bert 30522]
    #[arg(long)]
    vocab: Option<usize>,
    /// Longest sequence; for bert and xlm-roberta the rows of the position table [default: 8194; bert 512; xlm-roberta 514]
    #[arg(long)]
    max_positions: Option<usize>,
    /// Rank of the task adapters (jina)
    #[arg(long, default_value_t = 4)]
    rank: usize,
    /// Alpha of the task adapters (jina)
    #[arg(long, default_value_t = 1.0)]
    alpha: f64,
    /// Norm of a task adapter relative to the weight it changes (jina)
    #[arg(long, default_value_t = 0.3)]
    adapter_strength: f64,
    /// Type of the stored weights
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    dtype: Dtype,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Spread the weights over this many files
    #[arg(long, default_value_t = 1)]
    shards: usize,
    /// Leave out tokenizer.json and its companions
    #[arg(long)]
    no_tokenizer: bool,
    /// Replace the model in a folder that is not empty
    #[arg(long)]
    force: bool,
}

impl ModelArgs {
    fn spec(&self) -> ModelSpec {
        let full = ModelSpec::new(self.family);
        ModelSpec {
            family: self.family,
            layout: self.layout,
            vocab: self.vocab.unwrap_or(full.vocab),
            hidden: self.hidden.unwrap_or(full.hidden),
            layers: self.layers.unwrap_or(full.layers),
            heads: self.heads.unwrap_or(full.heads),
            ffn: self.ffn.unwrap_or(full.ffn),
            max_positions: self.max_positions.unwrap_or(full.max_positions),
            rank: self.rank,
            alpha: self.alpha,
            adapter_strength: self.adapter_strength,
            dtype: self.dtype,
            seed: self.seed,
            shards: self.shards,
            tokenizer: !self.no_tokenizer,
            force: self.force,
        }
    }
}

#[derive(Args)]
struct AdapterArgs {
    /// Folder to write
    out: PathBuf,
    /// Folder of the model that the adapter is for
    #[arg(long)]
    base: PathBuf,
    /// Write into a sub-folder of this name
    #[arg(long)]
    name: Option<String>,
    #[arg(long, default_value_t = 8)]
    rank: usize,
    #[arg(long, default_value_t = 16.0)]
    alpha: f64,
    /// Modules to adapt, by the end of their names [default: query,value; jina q_proj,v_proj]
    #[arg(long, value_delimiter = ',')]
    targets: Vec<String>,
    /// Norm of the change relative to the weight it changes
    #[arg(long, default_value_t = 0.3)]
    strength: f64,
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    dtype: Dtype,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Replace an adapter that exists
    #[arg(long)]
    force: bool,
}

fn run(cli: Cli) -> Result<()> {
    let start = Instant::now();
    let written = match cli.command {
        None => {
            let out = cli
                .model
                .out
                .as_ref()
                .context("give the folder to write; see --help")?;
            write(&cli.model.spec(), out)?;
            out.clone()
        }
        Some(Command::Adapter(args)) => {
            let spec = AdapterSpec {
                base: args.base,
                name: args.name,
                rank: args.rank,
                alpha: args.alpha,
                targets: args.targets,
                strength: args.strength,
                dtype: args.dtype,
                seed: args.seed,
                force: args.force,
            };
            write_adapter(&spec, &args.out)?
        }
    };
    eprintln!(
        "wrote {} in {:.1} s",
        written.display(),
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
