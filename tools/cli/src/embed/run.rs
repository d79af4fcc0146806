//! A run: groups of inputs through the engine, and their rows to the output.

use std::io;

use crate::jsonl::Id;
use ropeway::{Embedding, Engine};

use super::pipeline::{self, Group, Inputs, Taken, Waiting};
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
    inputs: Inputs,
    tally: Tally,
}

/// What there is to tell of a run.
struct Tally {
    progress: Progress,
    failed: u64,
    broken: u64,
    /// Inputs of this run that were longer than the model's limit.
    truncated: u64,
}

impl<'a> Run<'a> {
    /// A run over the inputs of a queue.
    pub fn new(engine: &'a Engine, queue: Queue, progress: Progress) -> Run<'a> {
        Run {
            engine,
            inputs: Inputs::new(queue),
            tally: Tally {
                progress,
                failed: 0,
                broken: 0,
                truncated: 0,
            },
        }
    }

    /// The next input; sources that cannot be read are told and passed over.
    fn next(&mut self) -> Option<Item> {
        loop {
            match self.inputs.next()? {
                Entry::Item(item) => return Some(*item),
                Entry::Broken(problem) => self.tally.tell_broken(&problem),
            }
        }
    }

    /// Passes over the inputs whose rows an earlier run wrote, as far as it can be seen that they
    /// are theirs. Changes nothing in the file.
    pub fn skip_existing(
        &mut self,
        target: &Target,
        array: Option<(Dtype, usize)>,
    ) -> Result<Option<ExistingRows>, Exit> {
        let name = target.path().display().to_string();
        let way_out = "give the inputs and options of that run, or move the file away to start over";
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
                    self.inputs.taken()
                )));
            };
            let id = self.inputs.count(item.id.take());
            if let Some(existing_id) = row.id.as_ref().filter(|existing_id| !existing_id.same_value(&id)) {
                let (existing_id, id) = (existing_id.as_json(), id.as_json());
                let what = format!(
                    "row {number} has the id {existing_id}, the input there ({}) {id}",
                    item.place
                );
                return Err(mismatch(&what));
            }
            match row.failed {
                true => self.tally.failed += 1,
                false if row.is_comparable() => last = Some((item, row)),
                false => {}
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
        let tally = &mut self.tally;
        pipeline::run(self.engine, &mut self.inputs, |group| {
            tally.write_group(&mut *sink, group).map_err(|end| match end {
                End::Output(error) => output_failed(error),
                End::Engine(exit) if resumable => {
                    exit.hint("what is written is kept: continue with --resume")
                }
                End::Engine(exit) => exit,
                End::Exit(exit) => exit,
            })
        })?;
        let whole = self.tally.broken == 0;
        let left = sink.finish(whole).map_err(output_failed)?;
        let inputs = self.inputs.taken();
        let Tally {
            progress,
            failed,
            broken,
            truncated,
        } = self.tally;
        drop(progress);
        if truncated > 0 && !quiet {
            note(&format!(
                "{truncated} of {inputs} inputs were longer than the model's limit of {} tokens and cut there; use chunks to \
                 keep all of a text, or --no-truncate to refuse it",
                self.engine.config().max_tokens
            ));
        }
        let mut problems = Vec::new();
        if failed > 0 {
            problems.push(format!("{failed} of {inputs} inputs failed"));
        }
        if broken > 0 {
            problems.push(format!("{broken} of the sources could not be read to the end"));
        }
        let place = left.map_or(String::new(), |partial| {
            let partial = partial.display();
            format!(", and are in {partial}: what was there before has not been replaced")
        });
        match problems.is_empty() {
            true => Ok(()),
            false => Err(Exit::inputs(format!(
                "{}; all others were done{place}",
                problems.join(", ")
            ))),
        }
    }
}

impl Tally {
    fn tell_broken(&mut self, problem: &str) {
        self.broken += 1;
        self.progress.report_error(problem);
    }

    fn tell_failed(&mut self, place: &InputLocation, problem: &str) {
        self.failed += 1;
        self.progress.report_error(&format!("{place}: {problem}"));
    }

    /// Writes the rows of a group.
    fn write_group(&mut self, sink: &mut dyn Sink, group: Group) -> Result<(), End> {
        let mut results = group.results.into_iter();
        let mut bytes = 0;
        for entry in group.entries {
            let Waiting {
                id,
                place,
                read,
                problem,
            } = match entry {
                Taken::Input(waiting) => waiting,
                Taken::Broken(problem) => {
                    self.tell_broken(&problem);
                    continue;
                }
            };
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
            self.progress.set(bytes, group.taken);
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
