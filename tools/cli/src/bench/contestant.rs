//! `ropeway bench contestant`: the engine's side of `tools/peers`.

use std::io::BufRead as _;
use std::path::PathBuf;
use std::time::Instant;

use crate::measure::Contestant;
use ropeway::Embed;

use crate::exit::Exit;
use crate::options::RunOptions;
use crate::source::{self, Source};
use crate::terminal;

#[derive(clap::Args)]
pub struct Args {
    /// What to embed: JSON lines as `ropeway embed` reads them
    #[arg(long, value_name = "FILE")]
    inputs: PathBuf,
}

pub fn run(run: &RunOptions, args: Args) -> Result<(), Exit> {
    let path = args.inputs.display().to_string();
    let lines = source::read_document(&Source::File(args.inputs))?;
    let start = Instant::now();
    let engine = run.open()?;
    let load_seconds = start.elapsed().as_secs_f64();
    let defaults = Embed::default();
    let contestant =
        Contestant::new(&engine, &lines, &defaults).map_err(|e| Exit::usage(format!("{path}: {e}")))?;
    terminal::print_json(&contestant.ready(load_seconds))?;
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|e| Exit::usage(format!("standard input: {e}")))?;
        terminal::print_json(&contestant.answer(&line)?)?;
    }
    Ok(())
}
