//! `ropeway bench`: measuring this machine.

mod contestant;
mod encoder;
mod serve;

use std::io::BufRead as _;
use std::path::{Path, PathBuf};

use crate::measure::{self, Effort, KernelBench};
use ropeway::Engine;
use serde_json::json;

use super::count;
use super::exit::{Exit, shown};
use super::options::RunOptions;
use super::target::ReportFile;
use super::terminal;
use super::tuned::{self, Tuned};

const EXAMPLES: &str = "\
Every row has its ceiling beside it: a GPU's matrix units at its highest clock, a CPU's instructions as measured on registers
alone, or a copy measured for memory.

Examples:
  ropeway bench kernels --device cuda               every kernel alone, over the model's shapes
  ropeway bench kernels --device cuda --json k.json
  ropeway bench kernels --device cpu --precision bf16
  ropeway bench adapters --device cuda              rank by rank, up to 16 adapters mixed
  tools/softcuda/run ropeway bench count            without a GPU: what each kernel does, counted
  ropeway bench encoder --device cuda               whole calls: throughput, latency, start-up, memory
  ropeway bench encoder --device cpu
  ropeway bench tune --device cuda                  what `diff --show-plan` predicts with, measured here
  ropeway bench serve --device cpu                  a server under load, about six minutes
  ropeway bench serve --against infinity=http://127.0.0.1:7997";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Time every kernel alone, over the shapes of the model
    Kernels(Kernels),
    /// Count what each kernel does, under softcuda
    Count(Count),
    /// Time adapters merged, fused into the GEMM, and as separate products, by rank, number and tokens
    Adapters(Common),
    /// Time whole calls: throughput, latency and its parts, start-up, memory. On a GPU in both numerics classes, with
    /// the first task's weights merged, or those of --merge
    Encoder(encoder::Args),
    /// Measure what predictions depend on (`ropeway diff --show-plan`): a launch, memory, L2, a large product. It goes to a file
    /// of the user's cache folder, for this device and its driver, and is read from there
    Tune(Tune),
    /// Put servers under load: closed loops of clients, arrivals at up to twice the capacity, queries beside long documents,
    /// memory, cold start; each bar beside what was measured
    Serve(serve::Args),
    /// For tools/peers: run one set of inputs N times for each line `N` of standard input
    Contestant(contestant::Args),
}

/// Flags of every bench.
#[derive(clap::Args)]
struct Common {
    /// Few small shapes and repetitions, to check that everything works
    #[arg(long)]
    quick: bool,

    /// Write the report as JSON; on a GPU, a file has it after each row
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Kernels {
    #[command(flatten)]
    common: Common,

    /// For tools/peers/gpu: print the rows as JSON, then time row I N times for each line `I N` of standard input
    #[arg(long, conflicts_with = "json")]
    serve: bool,
}

#[derive(clap::Args)]
struct Tune {
    /// A small product and few repetitions, to check that everything works
    #[arg(long)]
    quick: bool,
}

#[derive(clap::Args)]
struct Count {
    /// Write the counts as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Common {
    fn effort(&self) -> Effort {
        if self.quick { Effort::Quick } else { Effort::Full }
    }

    /// Where the report goes, if it was asked for.
    fn file(&self, run: &RunOptions, engine: &Engine) -> Result<Option<ReportFile>, Exit> {
        file(self.json.as_deref(), run, engine)
    }
}

/// Where a report goes, if it was asked for.
pub fn file(path: Option<&Path>, run: &RunOptions, engine: &Engine) -> Result<Option<ReportFile>, Exit> {
    path.map(|path| ReportFile::new(path, &run.model_folders(engine)))
        .transpose()
}

/// Writes a report where it was asked for.
fn write(file: Option<&ReportFile>, json: &str) -> Result<(), Exit> {
    match file {
        Some(file) => file
            .write(json)
            .map_err(|error| Exit::output_file(file.path(), &error)),
        None => Ok(()),
    }
}

/// The same, and prints its table; where one of the two fails, the other is there.
pub fn finish(file: Option<&ReportFile>, json: &str, table: &str) -> Result<(), Exit> {
    let printed = terminal::print_text(table);
    write(file, json)?;
    printed
}

pub fn run(run: &RunOptions, args: Args) -> Result<(), Exit> {
    match args.what {
        What::Count(args) => count::run(run, args.json.as_deref()),
        What::Kernels(args) => {
            let engine = run.open()?;
            let effort = args.common.effort();
            if args.serve {
                return serve_kernels(&KernelBench::new(&engine, effort)?);
            }
            let file = args.common.file(run, &engine)?;
            if !engine.on_gpu() {
                let report = measure::kernels_on_cpu(&engine, effort)?;
                return finish(file.as_ref(), &report.json(), &report.table());
            }
            let report = measure::kernels(&engine, effort, file.as_ref())?;
            finish(file.as_ref(), &report.json(), &report.table())
        }
        What::Adapters(args) => {
            let engine = run.open()?;
            let file = args.file(run, &engine)?;
            let report = measure::adapters(&engine, args.effort(), file.as_ref())?;
            finish(file.as_ref(), &report.json(), &measure::adapters_table(&report))
        }
        What::Encoder(args) => encoder::run(run, args),
        What::Tune(args) => tune(run, &args),
        What::Serve(args) => serve::run(run, args),
        What::Contestant(args) => contestant::run(run, args),
    }
}

/// Measures what predictions depend on, and keeps it where they find it.
fn tune(run: &RunOptions, args: &Tune) -> Result<(), Exit> {
    let folder = tuned::folder()
        .ok_or_else(|| Exit::usage("there is no cache folder: set ROPEWAY_CACHE, XDG_CACHE_HOME or HOME"))?;
    let engine = run.open()?;
    if !engine.on_gpu() {
        return Err(Exit::usage("a GPU is measured: choose one with --device cuda"));
    }
    let effort = if args.quick { Effort::Quick } else { Effort::Full };
    let tuning = measure::tune(&engine, effort)?;
    let mut figures = tuning.figures;
    // Products of the other kernels were measured in another run.
    if let Ok(Some(before)) = tuned::read(&folder, &tuning.device) {
        figures.reached = figures.reached.or(before.reached);
        figures.sm90_speed = figures.sm90_speed.or(before.sm90_speed);
    }
    let written = Tuned::new(&tuning.device, figures).write(&folder);
    let path = written.map_err(|(path, problem)| Exit::output_file(&path, &problem))?;
    let path = shown(&path.display().to_string());
    terminal::print_text(&format!("{}\nwritten to {path}\n", tuning.table()))
}

/// One JSON object per line: the rows, then times in µs.
fn serve_kernels(bench: &KernelBench<'_>) -> Result<(), Exit> {
    let rows: Vec<_> = bench.rows().collect();
    terminal::print_json(&json!({"ready": true, "rows": rows}))?;
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|e| Exit::usage(format!("standard input: {e}")))?;
        let mut words = line.split_whitespace().map(str::parse::<usize>);
        let (Some(Ok(row)), Some(Ok(count)), None) = (words.next(), words.next(), words.next()) else {
            return Err(Exit::usage(format!(
                "`{line}` is not a row and a number of times"
            )));
        };
        terminal::print_json(&json!({"micros": bench.time(row, count)?}))?;
    }
    Ok(())
}
