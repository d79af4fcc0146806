//! A run: groups of inputs through the engine, and their rows to the output.

use std::collections::VecDeque;
use std::io;

use crate::jsonl::Id;
use ropeway::{Embedding, Engine, Request};

use crate::device;
use crate::exit::{Exit, note, shortened};
use crate::npy::Dtype;
use crate::queue::{Entry, Queue};
use crate::resume::{ExistingRow, ExistingRows};
use crate::sink::{Sink, SinkError};
use crate::source::{InputLocation, Item};
use crate::target::Target;
use crate::terminal::Progress;

/// A run under way.
pub struct Run<'a> {
    engine: &'a Engine,
    queue: Queue,
    /// Read, not yet taken.
    ready: VecDeque<Entry>,
    progress: Progress,
    /// Inputs so far, which is also the id of the next that has none.
    inputs: u64,
    failed: u64,
    broken: u64,
    /// Inputs of this run that were longer than the model's limit.
    truncated: u64,
}

/// An input whose request is on its way through the engine.
struct Waiting {
    id: Id,
    place: InputLocation,
    read: u64,
    /// Why it was not even tried.
    problem: Option<String>,
}

impl<'a> Run<'a> {
    /// A run over the inputs of a queue.
    pub fn new(engine: &'a Engine, queue: Queue, progress: Progress) -> Run<'a> {
        Run {
            engine,
            queue,
            ready: VecDeque::new(),
            progress,
            inputs: 0,
            failed: 0,
            broken: 0,
            truncated: 0,
        }
    }

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
    pub fn skip_existing(
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
            if let Some(existing_id) = row.id.as_ref().filter(|existing_id| !existing_id.same_value(&id)) {
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
                        Some(Err(error)) if device::ends_run(&error) => return Err(error.into()),
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

    /// Embeds all inputs that are left, and completes the output.
    pub fn embed_all(
        mut self,
        mut sink: Box<dyn Sink>,
        output_failed: &dyn Fn(io::Error) -> Exit,
        resumable: bool,
        quiet: bool,
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
                End::Engine(exit) if resumable => {
                    exit.hint("what is written is kept: continue with --resume")
                }
                End::Engine(exit) => exit,
                End::Exit(exit) => exit,
            })?;
        }
        sink.finish().map_err(output_failed)?;
        drop(self.progress);
        if self.truncated > 0 && !quiet {
            note(&format!(
                "{} of {} inputs were longer than the model's limit of {} tokens and cut there; use chunks to keep all of a \
                 text, or --no-truncate to refuse it",
                self.truncated,
                self.inputs,
                self.engine.config().max_tokens
            ));
        }
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
                    Some(Err(error)) if device::ends_run(&error) => {
                        // All later inputs would fail with it. What is written stays, and none of them has a row, so
                        // that --resume embeds them.
                        sink.flush().map_err(End::Output)?;
                        return Err(End::Engine(error.into()));
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
            Ok(embedding) => {
                self.truncated += u64::from(embedding.truncated);
                sink.row(id, Ok(embedding))
            }
            Err(problem) => {
                self.tell_failed(place, problem);
                sink.row(id, Err(&shortened(problem)))
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
    /// The device failed, or the model changed.
    Engine(Exit),
    Exit(Exit),
}
