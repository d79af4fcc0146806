//! `ropeway bench encoder`: whole calls.

use std::process::Command;
use std::time::Instant;

use crate::measure;
use ropeway::inspect::MemoryProbe;
use ropeway::{Engine, Numerics};

use super::Common;
use crate::exit::Exit;
use crate::options::RunOptions;
use crate::terminal;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,

    /// Make one vector and tell what it took: the bench's own child
    #[arg(long, hide = true)]
    first_vector: bool,
}

pub fn run(run: &RunOptions, args: Args) -> Result<(), Exit> {
    let start = Instant::now();
    if args.first_vector {
        let said = measure::first_vector(&run.open()?, start)?;
        return terminal::print(format!("{said}\n").as_bytes());
    }
    // Both classes are measured, the default one first; it has no use for merged weights.
    let invariant = RunOptions {
        numerics: Numerics::Invariant,
        merge: Vec::new(),
        ..run.clone()
    };
    let probe = MemoryProbe::new(run.device);
    let opening = Instant::now();
    let engine = invariant.open()?;
    let opened = opening.elapsed().as_secs_f64();
    if !engine.on_gpu() {
        return on_cpu(run, &engine, opened, &args.common);
    }
    let effort = args.common.effort();
    let file = args.common.file(run, &engine)?;
    let mut report = measure::encoder(&engine, effort, probe.as_ref(), file.as_ref())?;
    let task = run.merge.first().cloned().or_else(|| {
        let tasks = &engine.config().tasks;
        tasks
            .iter()
            .find(|task| task.adapter)
            .map(|task| task.name.clone())
    });
    // Its memory is needed for the next one's.
    drop(engine);
    if let Some(task) = task {
        let fastest = RunOptions {
            numerics: Numerics::Fastest,
            merge: vec![task.clone()],
            ..run.clone()
        };
        measure::encoder_fastest(&fastest.open()?, &task, effort, &mut report)?;
    }
    measure::startup(&mut report, effort, &mut this_again)?;
    super::finish(file.as_ref(), &report.json(), &measure::encoder_table(&report))
}

/// This process's command, for one vector alone.
fn this_again() -> Command {
    let program = std::env::current_exe().unwrap_or_else(|_| "ropeway".into());
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1)).arg("--first-vector");
    command
}

fn on_cpu(run: &RunOptions, engine: &Engine, opened: f64, common: &Common) -> Result<(), Exit> {
    let file = common.file(run, engine)?;
    let mut printed = Ok(());
    let report = measure::encoder_on_cpu(engine, opened, common.effort(), &mut |line| {
        if printed.is_ok() {
            printed = terminal::print_text(&format!("{line}\n"));
        }
    })?;
    super::write(file.as_ref(), &report.json())?;
    printed
}
