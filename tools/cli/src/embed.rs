//! `ropeway embed`: texts in, vectors out, in input order.

mod pipeline;
mod run;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use ropeway::{Embed, Encoding, Pooling};

use super::descriptor::Descriptor;
use super::exit::Exit;
use super::npy::{Dtype, NpySink};
use super::options::{self, EmbedOptions, RunOptions};
use super::queue::Queue;
use super::resume::ExistingRows;
use super::safetensors::SafetensorsSink;
use super::sink::{Format, JsonlSink, Out, Sink};
use super::source::{self, Arguments, Reader, Source, Unit};
use super::target::{Existing, Target};
use super::terminal::Progress;
use run::Run;

const EXAMPLES: &str = "\
An argument that names a file is read as that file, `-` is standard input, any other argument is a
text; --text and --file settle it for all. Plain text is one input per line, empty lines included.

A JSONL line is {\"id\", \"text\" | \"input_ids\", …}; all but one of text and input_ids is optional.
Its other keys are the embedding options: task, adapters ({name: weight}), prompt, dimensions,
any_dimensions, pooling, normalize, truncate, encoding, spans ([[start, end], …]), chunk_tokens,
chunk_sentences, window, overlap. A key overrides the flag, an absent key inherits it, null means none.

An input that fails becomes {\"id\", \"error\"} (in an array of floats a row of NaNs), is told on standard
error, and makes the exit code 1. A text longer than the model's limit is cut there, unless --no-truncate
is given, and how many were is told on standard error at the end. An array of floats has as many columns as --dimensions says, or the
model; npy has no place for the scales of int8, jsonl and safetensors keep them.

With -o FILE, rows go to FILE.partial, which is renamed when all is done. --resume continues it, or
FILE itself, which is FILE.partial meanwhile; rows of inputs that failed are kept as they are. A GPU
that fails ends the run with exit code 4, a model file that changes with 2: inputs that were not finished
have no row, and are embedded then.
A FILE that is replaced keeps its permissions, and its owner where that is allowed, but not its access lists
and extended attributes; one that may not be written is not replaced. Where FILE is a link, what it points
to is written. One run at a time writes a FILE. No input and no file of the model may be the output. A FILE there
already is not replaced where an input could not be read to its end.

A line of more than 64 MiB fails alone; a source with a line of more than 1 GiB is not read further. An id
has 64 KiB at most, and is a string or number that JSON readers take back.

Examples:
  ropeway embed \"a warm coat\" --task retrieval.query
  ropeway embed notes.txt --dimensions 256 -o notes.jsonl
  cat corpus.jsonl | ropeway embed --input jsonl --encoding int8 > vectors.jsonl
  ropeway embed corpus.jsonl --format npy -o corpus.npy --resume
  echo '{\"text\": \"One. Two.\", \"spans\": [[0, 4], [5, 9]]}' | ropeway embed --input jsonl";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Texts and files [default: standard input]
    #[arg(value_name = "TEXT or FILE")]
    inputs: Vec<OsString>,

    /// Take every argument as a text, even where a file has that name
    #[arg(long, conflicts_with = "file")]
    text: bool,

    /// Take every argument as a file
    #[arg(long)]
    file: bool,

    /// Format of the inputs
    #[arg(
        long,
        value_name = "FORM",
        default_value = "auto",
        hide_possible_values = false
    )]
    input: source::Format,

    /// Format of the output
    #[arg(long, value_name = "FORM", default_value = "jsonl")]
    format: Format,

    /// Write to a file instead of standard output (`-`)
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Continue an interrupted run with the same inputs and options (jsonl and npy)
    #[arg(long, requires = "output")]
    resume: bool,

    #[command(flatten)]
    embed: EmbedOptions,
}

pub fn run(run: &RunOptions, mut args: Args) -> Result<(), Exit> {
    if args.output.as_deref().is_some_and(names_stdout) {
        if args.resume {
            return Err(Exit::usage(
                "--resume needs a file's name after -o, not standard output",
            ));
        }
        args.output = None;
    }
    // Inputs refer to it from the reading thread, for as long as the process lives.
    let defaults: &'static Embed = Box::leak(Box::new(args.embed.embed()));
    check_format(&args, defaults)?;
    let kind = match (args.text, args.file) {
        (true, _) => Arguments::Texts,
        (_, true) => Arguments::Files,
        _ => Arguments::Guess,
    };
    let from_nowhere = args.inputs.is_empty() && io::stdin().is_terminal() && !run.quiet;
    let sources = Source::list(args.inputs, kind);
    let existing = match args.format {
        Format::Safetensors => Existing::Foreign,
        _ if args.resume => Existing::Continue,
        _ => Existing::Keep,
    };
    // Before the model, which takes longer to open.
    let target = match &args.output {
        Some(path) => {
            let target = Target::open(path, &sources, existing)?;
            source::refuse_unreadable(&sources)?;
            Some(target)
        }
        None => source::refuse_stdout(&sources).map(|()| None)?,
    };
    let engine = run.open()?;
    if let Some(target) = &target {
        target.refuse_files_of(&run.model_folders(&engine))?;
    }
    options::check(&engine, defaults)?;
    if from_nowhere {
        // Not an error, and nothing to do if it cannot be said.
        let _ = io::Write::write_all(
            &mut io::stderr(),
            b"ropeway: reading texts, one per line; Ctrl-D ends\n",
        );
    }

    let shown = !run.quiet && (target.is_some() || !io::stdout().is_terminal());
    let progress = Progress::new(shown, Source::total_bytes(&sources));
    let reader = Reader {
        format: args.input,
        unit: Unit::Line,
        defaults,
    };
    let mut work = Run::new(
        &engine,
        Queue::start(reader, sources, engine.batch_tokens())?,
        progress,
    );
    let name = args
        .output
        .as_deref()
        .map_or("standard output".into(), |path| path.display().to_string());
    let resumable = target.as_ref().is_some_and(Target::is_file) && args.format != Format::Safetensors;
    let output_failed = |error: io::Error| {
        let exit = Exit::output(&name, &error);
        match error.kind() {
            // It says what to do itself.
            io::ErrorKind::Other => exit,
            _ if !resumable => exit,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                exit.hint("make room and continue with --resume, which keeps all rows that are written")
            }
            _ => exit.hint("all rows that are written are kept: continue with --resume once this is mended"),
        }
    };
    let columns = {
        let dimensions = defaults
            .get_dimensions()
            .unwrap_or_else(|| engine.config().vector_size(defaults.get_pooling()));
        if defaults.get_encoding() == Encoding::Binary {
            dimensions.div_ceil(8)
        } else {
            dimensions
        }
    };
    let dtype = Dtype::new(defaults.get_encoding());
    let sink: Box<dyn Sink> = match (target, dtype) {
        (None, _) => Box::new(JsonlSink::new(Out::Stdout(io::stdout()))),
        (Some(target), Some(dtype)) if args.format == Format::Safetensors => {
            let model = run.model().unwrap_or_default();
            Box::new(SafetensorsSink::new(target, dtype, columns, model).map_err(output_failed)?)
        }
        (Some(mut target), dtype) => {
            let array = dtype.filter(|_| args.format == Format::Npy);
            if array.is_some() && !target.seekable() {
                return Err(Exit::usage(format!(
                    "{name}: --format npy needs a file, not a pipe"
                )));
            }
            let existing = if args.resume {
                work.skip_existing(&target, array.map(|dtype| (dtype, columns)))?
            } else {
                None
            };
            target
                .begin(existing.as_ref().map_or(0, ExistingRows::keep))
                .map_err(output_failed)?;
            match (array, existing) {
                (None, _) => Box::new(JsonlSink::new(Out::File(target))),
                (Some(dtype), Some(existing)) => {
                    Box::new(NpySink::resume(target, dtype, columns, existing.rows()))
                }
                (Some(dtype), None) => Box::new(NpySink::new(target, dtype, columns)),
            }
        }
    };
    work.embed_all(sink, &output_failed, resumable, run.quiet)
}

/// Whether this is standard output: `-`, as for inputs, or a name that the system has for it.
fn names_stdout(path: &Path) -> bool {
    path == Path::new("-") || Descriptor::named(path) == Some(Descriptor::Stdout)
}

/// Refuses what the format cannot hold before anything is computed.
fn check_format(args: &Args, options: &Embed) -> Result<(), Exit> {
    let name = match args.format {
        Format::Jsonl => return Ok(()),
        Format::Npy => "npy",
        Format::Safetensors => "safetensors",
    };
    if args.output.is_none() {
        return Err(Exit::usage(format!(
            "--format {name} needs -o FILE: its header is written last"
        )));
    }
    if options.get_encoding() == Encoding::Base64 {
        return Err(Exit::usage(format!(
            "--format {name} holds numbers: use --encoding f32, not base64"
        )));
    }
    if args.format == Format::Npy && options.get_encoding() == Encoding::Int8 {
        let way_out = "use --format jsonl or safetensors, which keep them";
        return Err(Exit::usage(format!(
            "--format npy has no place for the scales of int8: {way_out}"
        )));
    }
    if args.format == Format::Npy
        && (options.get_pooling() == Some(Pooling::None) || options.get_chunks().is_some())
    {
        let way_out = "use --format jsonl or safetensors for token vectors and chunks";
        return Err(Exit::usage(format!(
            "--format npy holds one vector per input: {way_out}"
        )));
    }
    if args.format == Format::Safetensors && args.resume {
        return Err(Exit::usage("--resume works with --format jsonl and npy"));
    }
    Ok(())
}
