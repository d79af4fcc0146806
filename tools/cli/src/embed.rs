//! `ropeway embed`: texts in, vectors out, in input order.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use crate::jsonl::Id;
use ropeway::{Embed, Embedding, Encoding, Engine, Pooling, Request};

use super::device;
use super::exit::Exit;
use super::npy::{Dtype, NpySink};
use super::options::{self, EmbedOptions, RunOptions};
use super::queue::{Entry, Queue};
use super::resume::{ExistingRow, ExistingRows};
use super::safetensors::SafetensorsSink;
use super::sink::{Format, JsonlSink, Out, Sink, SinkError};
use super::source::{self, Arguments, InputLocation, Item, Reader, Source, Unit};
use super::target::Target;
use super::terminal::Progress;

const EXAMPLES: &str = "\
An argument that names a file is read as that file, `-` is standard input, any other argument is a
text; --text and --file settle it for all. Plain text is one input per line, empty lines included.

A JSONL line is {\"id\", \"text\" | \"input_ids\", …}; all but one of text and input_ids is optional.
Its other keys are the embedding options: task, adapters ({name: weight}), prompt, dimensions,
any_dimensions, pooling, normalize, truncate, encoding, spans ([[start, end], …]), chunk_tokens,
chunk_sentences, window, overlap. A key overrides the flag, an absent key inherits it, null means none.

An input that fails becomes {\"id\", \"error\"} (in an array of floats a row of NaNs), is told on standard
error, and makes the exit code 1. An array of floats has as many columns as --dimensions says, or the
model; npy has no place for the scales of int8, jsonl and safetensors keep them.

With -o FILE, rows go to FILE.partial, which is renamed when all is done. --resume continues it, or
FILE itself, which is FILE.partial meanwhile; rows of inputs that failed are kept as they are. A GPU
that fails ends the run with exit code 4: inputs that it did not finish have no row, and are embedded then.

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

    /// Write to a file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Continue an interrupted run with the same inputs and options (jsonl and npy)
    #[arg(long, requires = "output")]
    resume: bool,

    #[command(flatten)]
    embed: EmbedOptions,
}

pub fn run(run: &RunOptions, args: Args) -> Result<(), Exit> {
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
    if let Some(output) = &args.output {
        check_not_an_input(output, &sources)?;
    }
    // Before the model, which takes longer to open.
    let target = args
        .output
        .as_deref()
        .map(|path| Target::open(path, args.resume, args.format != Format::Safetensors))
        .transpose()?;
    let opened = run
        .open()
        .and_then(|engine| options::check(&engine, defaults).map(|()| engine));
    let engine = opened.inspect_err(|_| target.iter().for_each(Target::discard_if_empty))?;
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
    let mut work = Run {
        engine: &engine,
        queue: Queue::start(reader, sources, engine.batch_tokens())?,
        ready: VecDeque::new(),
        progress,
        inputs: 0,
        failed: 0,
        broken: 0,
    };
    let name = args
        .output
        .as_deref()
        .map_or("standard output".into(), |path| path.display().to_string());
    let resumable = args.output.is_some() && args.format != Format::Safetensors;
    let output_failed = |error: io::Error| {
        let exit = Exit::output(&name, &error);
        match resumable {
            true => exit.hint("make room and continue with --resume, which keeps all rows that are written"),
            false => exit,
        }
    };
    let columns = {
        let dimensions = defaults.get_dimensions().unwrap_or(engine.config().hidden_size);
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
            let model = run.model.as_deref().unwrap_or_default();
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
    work.embed_all(sink, &output_failed, resumable)
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

/// Refuses to replace an input by its vectors.
fn check_not_an_input(output: &Path, sources: &[Source]) -> Result<(), Exit> {
    let Ok(output) = fs::canonicalize(output) else {
        return Ok(());
    };
    for source in sources {
        if let Source::File(path) = source
            && output.is_file()
            && fs::canonicalize(path).is_ok_and(|path| path == output)
        {
            return Err(Exit::usage(format!(
                "{}: is both an input and the output",
                output.display()
            )));
        }
    }
    Ok(())
}

/// A run under way.
struct Run<'a> {
    engine: &'a Engine,
    queue: Queue,
    /// Read, not yet taken.
    ready: VecDeque<Entry>,
    progress: Progress,
    /// Inputs so far, which is also the id of the next that has none.
    inputs: u64,
    failed: u64,
    broken: u64,
}

/// An input whose request is on its way through the engine.
struct Waiting {
    id: Id,
    place: InputLocation,
    read: u64,
    /// Why it was not even tried.
    problem: Option<String>,
}

impl Run<'_> {
    /// The next input; sources that cannot be read are told and passed over.
    fn next(&mut self) -> Option<Item> {
        loop {
            match self.ready.pop_front() {
                Some(Entry::Item(item)) => return Some(*item),
                Some(Entry::Broken(problem)) => self.tell_broken(&problem),
                None => {
                    self.ready.extend(self.queue.next_group());
                    if self.ready.is_empty() {
                        return None;
                    }
                }
            }
        }
    }

    fn tell_broken(&mut self, problem: &str) {
        self.broken += 1;
        self.progress.report_error(problem);
    }

    fn tell_failed(&mut self, place: &InputLocation, problem: &str) {
        self.failed += 1;
        self.progress.report_error(&format!("{place}: {problem}"));
    }

    /// The id of an input, which is counted.
    fn count(&mut self, id: Option<Id>) -> Id {
        self.inputs += 1;
        id.unwrap_or_else(|| Id::number(self.inputs - 1))
    }

    /// Passes over the inputs whose rows an earlier run wrote, as far as it can be seen that they
    /// are theirs. Changes nothing in the file.
    fn skip_existing(
        &mut self,
        target: &Target,
        array: Option<(Dtype, usize)>,
    ) -> Result<Option<ExistingRows>, Exit> {
        let name = target.path().display().to_string();
        let way_out = "give the inputs and options of that run, or delete the file to start over";
        let mismatch = |what: &str| Exit::usage(format!("{name}: {what}; {way_out}"));
        let file = target.reader().map_err(|error| Exit::output(&name, &error))?;
        let existing = match array {
            None => Some(ExistingRows::jsonl(file)),
            Some((dtype, columns)) => {
                ExistingRows::npy(file, dtype, columns).map_err(|problem| mismatch(&problem))?
            }
        };
        let Some(mut existing) = existing else {
            return Ok(None);
        };
        let mut last: Option<(Item, ExistingRow)> = None;
        while let Some(row) = existing.next().map_err(|problem| mismatch(&problem))? {
            let number = existing.rows();
            let Some(mut item) = self.next() else {
                return Err(mismatch(&format!(
                    "has {number} rows or more, the inputs are {}",
                    self.inputs
                )));
            };
            let id = self.count(item.id.take());
            if let Some(existing_id) = row.id.as_ref().filter(|existing_id| **existing_id != id) {
                let (existing_id, id) = (existing_id.as_json(), id.as_json());
                let what = format!(
                    "row {number} has the id {existing_id}, the input there ({}) {id}",
                    item.place
                );
                return Err(mismatch(&what));
            }
            match row.failed {
                true => self.failed += 1,
                false => last = Some((item, row)),
            }
        }
        // One row is made again, to notice another model or other options before they mix.
        if let Some((item, row)) = last {
            let same = match &item.request {
                Ok(request) => {
                    let result = device::embed_batch(self.engine, std::slice::from_ref(request)).pop();
                    match result {
                        Some(Ok(embedding)) => {
                            existing.agrees(&row, &embedding, request.options.get_encoding())
                        }
                        Some(Err(error)) if device::failed(&error) => return Err(error.into()),
                        _ => false,
                    }
                }
                Err(_) => false,
            };
            if !same {
                let what = format!("its last row is not what this run makes of {}", item.place);
                return Err(mismatch(&what));
            }
        }
        Ok(Some(existing))
    }

    fn embed_all(
        mut self,
        mut sink: Box<dyn Sink>,
        output_failed: &dyn Fn(io::Error) -> Exit,
        resumable: bool,
    ) -> Result<(), Exit> {
        loop {
            if self.ready.is_empty() {
                self.ready.extend(self.queue.next_group());
            }
            if self.ready.is_empty() {
                break;
            }
            self.embed_group(&mut *sink).map_err(|end| match end {
                End::Output(error) => output_failed(error),
                End::Device(exit) if resumable => {
                    exit.hint("what is written is kept: continue with --resume")
                }
                End::Device(exit) => exit,
                End::Exit(exit) => exit,
            })?;
        }
        sink.finish().map_err(output_failed)?;
        drop(self.progress);
        let mut problems = Vec::new();
        if self.failed > 0 {
            problems.push(format!("{} of {} inputs failed", self.failed, self.inputs));
        }
        if self.broken > 0 {
            problems.push(format!(
                "{} of the sources could not be read to the end",
                self.broken
            ));
        }
        match problems.is_empty() {
            true => Ok(()),
            false => Err(Exit::inputs(format!(
                "{}; all others were done",
                problems.join(", ")
            ))),
        }
    }

    /// Embeds what is ready and writes its rows.
    fn embed_group(&mut self, sink: &mut dyn Sink) -> Result<(), End> {
        let mut waiting = Vec::with_capacity(self.ready.len());
        let mut requests: Vec<Request<'static>> = Vec::with_capacity(self.ready.len());
        while let Some(entry) = self.ready.pop_front() {
            match entry {
                Entry::Broken(problem) => self.tell_broken(&problem),
                Entry::Item(item) => {
                    let id = self.count(item.id);
                    let problem = item.request.map(|request| requests.push(request)).err();
                    waiting.push(Waiting {
                        id,
                        place: item.place,
                        read: item.read,
                        problem,
                    });
                }
            }
        }
        let mut results = device::embed_batch(self.engine, &requests).into_iter();
        let mut bytes = 0;
        for Waiting {
            id,
            place,
            read,
            problem,
        } in waiting
        {
            let result = match problem {
                Some(problem) => Err(problem),
                None => match results.next() {
                    Some(Err(error)) if device::failed(&error) => {
                        // All later inputs would fail with it. What is written stays, and none of them has a row, so
                        // that --resume embeds them.
                        sink.flush().map_err(End::Output)?;
                        return Err(End::Device(error.into()));
                    }
                    Some(result) => result.map_err(|error| error.to_string()),
                    None => Err("the engine gave no result".into()),
                },
            };
            self.write(sink, &id, &place, result)?;
            bytes = read;
        }
        if bytes > 0 {
            self.progress.set(bytes, self.inputs);
        }
        sink.flush().map_err(End::Output)
    }

    fn write(
        &mut self,
        sink: &mut dyn Sink,
        id: &Id,
        place: &InputLocation,
        result: Result<Embedding, String>,
    ) -> Result<(), End> {
        let mut outcome = match &result {
            Ok(embedding) => sink.row(id, Ok(embedding)),
            Err(problem) => {
                self.tell_failed(place, problem);
                sink.row(id, Err(problem))
            }
        };
        if let Err(SinkError::Unfit(problem)) = &outcome {
            let problem = problem.clone();
            self.tell_failed(place, &problem);
            outcome = sink.row(id, Err(&problem));
        }
        match outcome {
            Ok(()) => Ok(()),
            Err(SinkError::Output(error)) => Err(End::Output(error)),
            Err(SinkError::Stop(problem) | SinkError::Unfit(problem)) => {
                sink.flush().map_err(End::Output)?;
                let way_out = "take the input out, or use --format jsonl or --encoding f32";
                Err(End::Exit(Exit::inputs(format!("{place}: {problem}; {way_out}"))))
            }
        }
    }
}

/// Why a run ends early.
enum End {
    Output(io::Error),
    Device(Exit),
    Exit(Exit),
}
