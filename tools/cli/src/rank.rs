//! `ropeway rank`: semantic search over the lines or passages of files.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::ffi::OsString;
use std::io;

use crate::jsonl::Id;
use ropeway::{AdapterSelection, Embed, Embedding, Encoding, Engine, Input, ModelConfig, Request};
use serde_json::value::RawValue;

use super::device;
use super::exit::{self, Exit};
use super::options::{self, RunOptions, SizeOptions, positive, with_prompt};
use super::queue::{Entry, Queue};
use super::source::{self, Arguments, Format, Reader, Source, Unit};
use super::terminal::{self, Progress, Table};

const EXAMPLES: &str = "\
On a terminal the result is a table, else JSONL: {\"rank\", \"score\", \"id\", \"text\"}. The score is the cosine.
An id is file:line, or a JSONL line's own. Blank lines are passed over. Memory does not grow with
the files. A line or passage of more than 64 MiB fails alone; a result shows the first MiB of its text.

Examples:
  ropeway rank \"what keeps you warm in winter\" notes.txt
  ropeway rank --passages \"how is the licence\" docs/*.md README.md
  cat corpus.jsonl | ropeway rank \"red wine\" --input jsonl --top-k 3
  ropeway rank \"red wine\" corpus.jsonl --top-k 100 > best.jsonl";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The query
    #[arg(value_name = "QUERY")]
    query: String,

    /// Files to search [default: standard input]
    #[arg(value_name = "FILE")]
    files: Vec<OsString>,

    /// Rank passages, that is lines up to a blank one, instead of single lines
    #[arg(long)]
    passages: bool,

    /// Format of the files
    #[arg(long, value_name = "FORM", default_value = "auto")]
    input: Format,

    /// Number of results
    #[arg(long, short = 'k', value_name = "N", default_value = "10", value_parser = positive)]
    top_k: usize,

    /// The query's task [default: retrieval.query or query, if the model has one]
    #[arg(long, value_name = "TASK")]
    query_task: Option<String>,

    /// The passages' task [default: retrieval.passage, passage or document, if the model has one]
    #[arg(long, value_name = "TASK")]
    passage_task: Option<String>,

    /// Put this before the query, in place of its task's prefix
    #[arg(long, value_name = "TEXT")]
    query_prompt: Option<String>,

    /// Put this before every passage, in place of its task's prefix
    #[arg(long, value_name = "TEXT")]
    passage_prompt: Option<String>,

    #[command(flatten)]
    size: SizeOptions,
}

pub fn run(run: &RunOptions, args: Args) -> Result<(), Exit> {
    let sources = Source::list(args.files, Arguments::Files);
    source::refuse_stdout(&sources)?;
    let engine = run.open()?;
    let options = |task: &Option<String>, prompt: &Option<String>, defaults: &[&str]| {
        let adapters = task
            .clone()
            .map_or_else(|| default_task(engine.config(), defaults), AdapterSelection::Task);
        // Scores are cosines, whatever the model's own setting.
        let options = Embed::default().adapters(adapters).normalize(true);
        with_prompt(args.size.apply(options), prompt.as_deref())
    };
    let of_query = options(
        &args.query_task,
        &args.query_prompt,
        &["retrieval.query", "query"],
    );
    let passage_tasks = ["retrieval.passage", "passage", "document"];
    let of_passage = options(&args.passage_task, &args.passage_prompt, &passage_tasks);
    options::check(&engine, &of_query)?;
    options::check(&engine, &of_passage)?;
    let query = engine.embed(&[&args.query], &of_query)?;
    let query = query.first().and_then(Embedding::as_f32).unwrap_or_default();

    // On a terminal as well: what is printed there comes when the bar is gone.
    let progress = Progress::new(!run.quiet, Source::total_bytes(&sources));
    let unit = if args.passages {
        Unit::Passage
    } else {
        Unit::FilledLine
    };
    // The reading thread refers to it for as long as the process lives.
    let defaults: &'static Embed = Box::leak(Box::new(of_passage));
    let reader = Reader {
        format: args.input,
        unit,
        defaults,
    };
    let queue = Queue::start(reader, sources, engine.batch_tokens())?;
    let mut search = Search {
        engine: &engine,
        query,
        best: Best::new(args.top_k),
        progress,
        inputs: 0,
        failed: 0,
    };
    loop {
        let group = queue.next_group();
        if group.is_empty() {
            break;
        }
        search.add(group)?;
    }
    let Search {
        best,
        inputs,
        failed,
        progress,
        ..
    } = search;
    drop(progress);
    if engine.truncated() > 0 && !run.quiet {
        exit::note(&format!(
            "{} of {} texts, the query among them, were longer than the model's limit of {} tokens and are ranked by their \
             start alone; split them to rank all of a text",
            engine.truncated(),
            inputs + 1,
            engine.config().max_tokens
        ));
    }
    print(best.in_order())?;
    match failed {
        0 => Ok(()),
        failed => Err(Exit::inputs(format!(
            "{failed} inputs or files failed; all others were ranked"
        ))),
    }
}

/// The first of these that the model has.
pub fn default_task(model: &ModelConfig, names: &[&str]) -> AdapterSelection {
    let has = |name: &&&str| model.tasks.iter().any(|task| task.name == **name);
    names.iter().find(has).map_or(AdapterSelection::Unset, |name| {
        AdapterSelection::Task((*name).to_owned())
    })
}

/// The cosine of two normalised vectors, summed in one order in double precision.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

struct Search<'a> {
    engine: &'a Engine,
    query: &'a [f32],
    best: Best,
    progress: Progress,
    inputs: u64,
    failed: u64,
}

impl Search<'_> {
    /// Ranks a group of inputs.
    ///
    /// # Errors
    /// A device that failed: a ranking without the inputs that it did not finish would be wrong.
    fn add(&mut self, group: Vec<Entry>) -> Result<(), Exit> {
        let mut items = Vec::with_capacity(group.len());
        let mut requests = Vec::with_capacity(group.len());
        for entry in group {
            match entry {
                Entry::Broken(problem) => self.fail(&problem),
                Entry::Item(mut item) => match item.request {
                    Err(problem) => self.fail(&format!("{}: {problem}", item.place)),
                    Ok(mut request) => {
                        self.comparable(&mut request);
                        requests.push(request);
                        item.request = Err(String::new());
                        items.push(item);
                    }
                },
            }
        }
        let results = device::embed_batch(self.engine, &requests);
        let mut bytes = 0;
        for ((item, request), result) in items.into_iter().zip(requests).zip(results) {
            self.inputs += 1;
            bytes = item.read;
            match result {
                Err(error) if device::ends_run(&error) => return Err(error.into()),
                Err(error) => self.fail(&format!("{}: {error}", item.place)),
                Ok(embedding) => {
                    let score = cosine(self.query, embedding.as_f32().unwrap_or_default());
                    let (place, id, number) = (item.place, item.id, self.inputs);
                    self.best.add(score, number, || Hit {
                        score,
                        number,
                        id: id.unwrap_or_else(|| Id::string(&place.to_string())),
                        text: match request.input {
                            Input::Text(text) => Some(clipped(text.into_owned())),
                            _ => None,
                        },
                    });
                }
            }
        }
        if bytes > 0 {
            self.progress.set(bytes, self.inputs);
        }
        Ok(())
    }

    /// A JSONL line may choose its task, but not a form that cannot be compared with the query.
    fn comparable(&self, request: &mut Request<'static>) {
        let options = request.options.clone().into_owned();
        let wanted = options
            .encoding(Encoding::F32)
            .pooling(None)
            .chunks(None)
            .normalize(true)
            .dimensions(self.query.len())
            .any_dimensions(true);
        if *request.options != wanted {
            request.options = std::borrow::Cow::Owned(wanted);
        }
    }

    fn fail(&mut self, problem: &str) {
        self.failed += 1;
        self.progress.report_error(problem);
    }
}

/// A passage that may be among the best.
#[derive(Debug)]
struct Hit {
    score: f64,
    number: u64,
    id: Id,
    text: Option<String>,
}

impl Ord for Hit {
    /// The better hit is the greater; of two equals, the earlier.
    fn cmp(&self, other: &Hit) -> Ordering {
        self.score
            .total_cmp(&other.score)
            .then(other.number.cmp(&self.number))
    }
}

impl PartialOrd for Hit {
    fn partial_cmp(&self, other: &Hit) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Hit {
    fn eq(&self, other: &Hit) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Hit {}

/// The best so far; the worst of them on top.
struct Best {
    limit: usize,
    heap: BinaryHeap<Reverse<Hit>>,
}

impl Best {
    fn new(limit: usize) -> Best {
        Best {
            limit,
            heap: BinaryHeap::new(),
        }
    }

    /// Later hits of the same score do not displace earlier ones, so only better ones are made.
    fn add(&mut self, score: f64, number: u64, hit: impl FnOnce() -> Hit) {
        let worst = self.heap.peek().map(|Reverse(worst)| (worst.score, worst.number));
        let better = worst.is_none_or(|(worst, at)| score.total_cmp(&worst).then(at.cmp(&number)).is_gt());
        if self.heap.len() < self.limit || better {
            self.heap.push(Reverse(hit()));
        }
        if self.heap.len() > self.limit {
            self.heap.pop();
        }
    }

    fn in_order(self) -> Vec<Hit> {
        self.heap
            .into_sorted_vec()
            .into_iter()
            .map(|Reverse(hit)| hit)
            .collect()
    }
}

/// What is kept of a hit's text, in bytes; more than the models read. So the results are of bounded size.
const LONGEST_TEXT: usize = 1 << 20;

/// The beginning of a text that is longer than that.
fn clipped(mut text: String) -> String {
    if text.len() > LONGEST_TEXT {
        text.truncate(exit::character_start(&text, LONGEST_TEXT));
        text.push('…');
        text.shrink_to_fit();
    }
    text
}

/// One line of the result.
#[derive(serde::Serialize)]
struct Row<'a> {
    rank: usize,
    score: f64,
    id: &'a RawValue,
    text: Option<&'a str>,
}

fn print(hits: Vec<Hit>) -> Result<(), Exit> {
    if terminal::for_people() {
        let mut table = Table::new(&["rank", "score", "id", "text"], &[0, 1]);
        for (index, hit) in hits.iter().enumerate() {
            let id = hit.id.as_json();
            let id = serde_json::from_str::<String>(id).unwrap_or_else(|_| id.to_owned());
            let text = hit.text.clone().unwrap_or_default();
            table.row(vec![
                (index + 1).to_string(),
                format!("{:.4}", hit.score),
                id,
                text,
            ]);
        }
        return terminal::print(table.lines().as_bytes());
    }
    let mut lines = Vec::new();
    for (index, hit) in hits.iter().enumerate() {
        let id = serde_json::from_str(hit.id.as_json());
        let row = id.and_then(|id| {
            let row = Row {
                rank: index + 1,
                score: rounded(hit.score),
                id,
                text: hit.text.as_deref(),
            };
            serde_json::to_writer(&mut lines, &row)
        });
        row.map_err(|error| Exit::output("standard output", &io::Error::from(error)))?;
        lines.push(b'\n');
    }
    terminal::print(&lines)
}

/// Seven decimals are what f32 vectors carry.
pub fn rounded(score: f64) -> f64 {
    (score * 1e7).round() / 1e7
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_clipped_between_characters() {
        let text = "é".repeat(LONGEST_TEXT / 2);
        assert_eq!(clipped(text.clone()), text);
        let longer = clipped(format!("x{text}"));
        assert!(longer.len() < LONGEST_TEXT + 4 && longer.ends_with("é…"));
    }

    #[test]
    fn the_best_are_kept_in_order_and_ties_go_to_the_earlier() {
        let mut best = Best::new(3);
        for (number, score) in [0.1, 0.5, f64::NEG_INFINITY, 0.5, 0.9, 0.5]
            .into_iter()
            .enumerate()
        {
            let number = number as u64;
            best.add(score, number, || Hit {
                score,
                number,
                id: Id::number(number),
                text: None,
            });
        }
        let order: Vec<u64> = best.in_order().iter().map(|hit| hit.number).collect();
        assert_eq!(order, [4, 1, 3]);
    }
}
