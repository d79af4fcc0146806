//! `ropeway bench serve`: a server under load.

use std::process::Command;

use crate::measure::{self, Load, Serve};

use super::Common;
use crate::exit::Exit;
use crate::options::{RunOptions, positive};
use crate::terminal;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,

    /// Measure the server at this URL of this machine, instead of some that are started
    #[arg(long, value_name = "URL")]
    url: Option<String>,

    /// Let another server take turns with it: one of /v1/embeddings and /v1/models, on this machine, with the same
    /// model; may be repeated
    #[arg(long, value_name = "NAME=URL", value_parser = named_url)]
    against: Vec<(String, String)>,

    /// Some kinds of load, separated by commas [default: all]
    #[arg(long, value_name = "LOAD,…", value_enum, value_delimiter = ',')]
    only: Vec<Load>,

    /// Some numbers of clients, separated by commas [default: 1,4,16,64,256]
    #[arg(long, value_name = "N,…", value_parser = positive, value_delimiter = ',')]
    clients: Vec<usize>,
}

fn named_url(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, url)) if !name.is_empty() && url.starts_with("http://") => Ok((name.into(), url.into())),
        _ => Err("wanted NAME=http://HOST:PORT".into()),
    }
}

pub fn run(run: &RunOptions, args: Args) -> Result<(), Exit> {
    let engine = run.open()?;
    let file = args.common.file(run, &engine)?;
    let serve = Serve {
        engine,
        command: &|threads| serve_command(run, threads),
        url: args.url,
        against: args.against,
        only: args.only,
        clients: args.clients,
        effort: args.common.effort(),
    };
    let mut printed = Ok(());
    let report = measure::load(serve, &mut |line| {
        if printed.is_ok() {
            printed = terminal::print_text(&format!("{line}\n"));
        }
    })?;
    super::write(file.as_ref(), &report.json())?;
    printed
}

/// `ropeway serve` with this run's options, on so many threads.
fn serve_command(run: &RunOptions, threads: usize) -> Command {
    let program = std::env::current_exe().unwrap_or_else(|_| "ropeway".into());
    let mut command = Command::new(program);
    command.args(["serve", "--device", &run.device.to_string()]);
    command.args(["--numerics", &run.numerics.to_string()]);
    command.args(["--threads", &threads.to_string()]);
    for model in &run.models {
        command.args(["--model", model]);
    }
    let settings = [
        (
            "--precision",
            run.precision.map(|precision| precision.to_string()),
        ),
        (
            "--batch-tokens",
            run.batch_tokens.map(|tokens| tokens.to_string()),
        ),
    ];
    for (flag, value) in settings {
        if let Some(value) = value {
            command.args([flag, &value]);
        }
    }
    if run.offline {
        command.arg("--offline");
    }
    command
}
