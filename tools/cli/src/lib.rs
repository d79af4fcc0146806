//! The command line of ropeway: arguments, dispatch, and how a run ends. The engine is the crate `ropeway`.
//!
//! It is a library so that tests and fuzz targets reach its parts; its interface is the command `ropeway`.

mod bench;
mod chunks;
mod claim;
mod completions;
mod count;
mod descriptor;
mod device;
mod devices;
mod diff;
mod embed;
mod exit;
pub mod jsonl;
mod measure;
mod models;
mod notices;
mod npy;
mod options;
mod queue;
mod rank;
mod resume;
mod safetensors;
mod serve;
mod sink;
mod source;
mod target;
mod terminal;
mod tuned;

use std::panic::{self, PanicHookInfo};
use std::process::ExitCode;
use std::sync::Mutex;

use clap::{Parser, Subcommand};

use exit::Exit;
use options::RunOptions;

const AFTER_HELP: &str = "\
Exit codes:
  0  everything was done, or the reader closed the output early (`| head -1`)
  1  some inputs failed, all others were done
  2  wrong usage or options, or the model cannot be opened or was changed
  3  the output cannot be written (a full disk, for example)
  4  the GPU failed; what `embed -o` has written is kept, and --resume embeds the rest

Examples:
  ropeway --model models/all-MiniLM-L6-v2 embed \"a warm coat\" \"a cold beer\"
  ropeway --model models/all-MiniLM-L6-v2 rank \"what keeps you warm\" notes.txt
  export ROPEWAY_MODEL=jinaai/jina-embeddings-v3
  ropeway embed --task retrieval.passage --dimensions 256 corpus.jsonl -o corpus.npy --format npy --resume";

/// Text in, vectors out: embeddings from jina-embeddings-v3, BERT and XLM-RoBERTa models.
#[derive(Parser)]
#[command(name = "ropeway", version, after_help = AFTER_HELP, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = false)]
struct Cli {
    #[command(flatten)]
    run: RunOptions,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Embed texts from arguments, files or standard input
    Embed(embed::Args),
    /// Search files: print the lines or passages that are most similar to a query
    Rank(rank::Args),
    /// Late-chunk a document: one embedding per sentence or per N tokens, each made in context
    Chunks(chunks::Args),
    /// Serve models over HTTP, to clients of OpenAI, Jina, Cohere, text-embeddings-inference and SageMaker
    Serve(serve::Args),
    /// Show, check or download a model
    Models(models::Args),
    /// List the devices of this machine and the kernels of this build
    Devices(devices::Args),
    /// Run one plan on two executors, or with two sets of options, and name the first step that disagrees
    Diff(diff::Args),
    /// Measure kernels and whole calls on this machine
    Bench(bench::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
}

/// The last panic of any thread: what, and where.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // A file that would pass a limit of the shell's (`ulimit -f`) is an error of the output, as a full disk is. By default the
    // system ends the process there without a word.
    #[cfg(unix)]
    // SAFETY: no other thread runs yet, and ignoring a signal calls nothing of ours.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN)
    };
    // The engine makes a panic an error of the input that it came from, so that it is told there alone.
    panic::set_hook(Box::new(|info| {
        if let Ok(mut last) = PANIC.lock() {
            *last = brief(info);
        }
    }));
    // Deeper faults end here: whatever happens, one line and an exit code.
    panic::catch_unwind(run).unwrap_or_else(|_| {
        let last = PANIC.lock().map(|last| last.clone()).unwrap_or_default();
        exit::report_error(&format!("internal error, please report it: {last}"));
        ExitCode::from(exit::USAGE)
    })
}

/// A panic's message and its line, without the folders of the machine that compiled it.
fn brief(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let message = text
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    let place = info.location().map_or(String::new(), |at| {
        let file = at.file().rsplit(['/', '\\']).next().unwrap_or_default();
        format!(" ({file}:{})", at.line())
    });
    format!("{message}{place}")
}

fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if e.use_stderr() => return Exit::usage(exit::one_line_usage(&e)).report(),
        // `--help` and `--version`.
        Err(e) => return exit::code(terminal::print(e.render().to_string().as_bytes())),
    };
    let run = &cli.run;
    notices::show(run.notices());
    exit::code(match cli.command {
        Command::Embed(args) => embed::run(run, args),
        Command::Rank(args) => rank::run(run, args),
        Command::Chunks(args) => chunks::run(run, args),
        Command::Serve(args) => serve::run(run, args),
        Command::Models(args) => models::run(run, args),
        Command::Devices(args) => devices::run(args),
        Command::Diff(args) => diff::run(run, args),
        Command::Bench(args) => bench::run(run, args),
        Command::Completions(args) => completions::run(args),
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_argument_definitions_are_sound() {
        super::Cli::command().debug_assert();
    }
}
