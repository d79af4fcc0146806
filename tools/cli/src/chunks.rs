//! `ropeway chunks`: late chunking of a document.

use std::ffi::OsString;
use std::io::{self, Write};

use ropeway::{AdapterSelection, Chunk, Chunking, Embed, Embedding, Engine, Vector};
use serde_json::json;

use super::exit::{self, Exit};
use super::options::{self, RunOptions, SizeOptions, WindowOptions, positive};
use super::rank::{cosine, default_task, rounded};
use super::source::{self, Source};
use super::terminal::{self, Table};

const EXAMPLES: &str = "\
The document goes through the model as a whole, in windows where it is longer than the context; the
embedding of a chunk is the mean over its tokens, so it knows what stands around it. Bounds are
half-open, in Unicode code points. A document has 64 MiB at most. On a terminal the result is a table, else JSONL:
{\"start\", \"end\", \"text\", \"embedding\"}, with \"rank\" and \"score\" where there is a --query.

Examples:
  ropeway chunks report.txt
  ropeway chunks report.txt --query \"who pays for it?\" --top-k 3
  ropeway chunks --by tokens --size 256 report.txt > chunks.jsonl
  pdftotext report.pdf - | ropeway chunks --dimensions 256";

/// Where chunks end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum By {
    /// At the end of a sentence
    Sentences,
    /// After a number of tokens
    Tokens,
}

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The document; - is standard input [default: -]
    #[arg(value_name = "FILE")]
    file: Option<OsString>,

    /// Where chunks end [default: sentences; tokens if --size is given]
    #[arg(long)]
    by: Option<By>,

    /// Tokens per chunk [default: 128]
    #[arg(long, value_name = "N", value_parser = positive)]
    size: Option<usize>,

    /// Rank the chunks by their similarity to a query
    #[arg(long, value_name = "TEXT")]
    query: Option<String>,

    /// How many chunks are shown with --query [default: all]
    #[arg(long, short = 'k', value_name = "N", value_parser = positive, requires = "query")]
    top_k: Option<usize>,

    /// The document's task [default: retrieval.passage, if the model has it]
    #[arg(long, value_name = "TASK")]
    task: Option<String>,

    #[command(flatten)]
    dimensions: SizeOptions,

    #[command(flatten)]
    windows: WindowOptions,
}

pub fn run(run: &RunOptions, args: Args) -> Result<(), Exit> {
    let chunking = match (args.by, args.size) {
        (Some(By::Sentences), Some(_)) => {
            return Err(Exit::usage(
                "--size is a number of tokens: use it with --by tokens",
            ));
        }
        (Some(By::Tokens), size) => Chunking::Tokens(size.unwrap_or(128)),
        (None, Some(size)) => Chunking::Tokens(size),
        (_, None) => Chunking::Sentences,
    };
    let source = args.file.map_or(Source::Stdin, Source::of);
    source::refuse_stdout(std::slice::from_ref(&source))?;
    let engine = run.open()?;
    let adapters = args
        .task
        .clone()
        .map_or(AdapterSelection::Unset, AdapterSelection::Task);
    let document = Embed::default()
        .adapters(adapters)
        .chunks(chunking)
        // Scores are cosines, whatever the model's own setting.
        .normalize(args.query.is_some().then_some(true));
    let document = args.windows.apply(args.dimensions.apply(document));
    options::check(&engine, &document)?;
    let text = source::read_document(&source).map_err(|error| Exit::inputs(format!("{error:#}")))?;
    let embedding = engine
        .embed(&[&text], &document)
        .map_err(|error| Exit::of_input(error, exit::INPUTS))?;
    let chunks = embedding.first().and_then(Embedding::chunks).unwrap_or_default();
    let mut chunks: Vec<Scored<'_>> = chunks
        .iter()
        .zip(texts(&text, chunks))
        .map(|(chunk, text)| Scored {
            chunk,
            text,
            score: None,
        })
        .collect();
    if let Some(query) = &args.query {
        score(&engine, query, &document, &mut chunks)?;
        chunks.truncate(args.top_k.unwrap_or(usize::MAX));
    }
    print(&chunks)
}

struct Scored<'a> {
    chunk: &'a Chunk,
    text: &'a str,
    score: Option<f64>,
}

/// The text of each chunk: its bounds count code points, strings are cut at bytes.
fn texts<'a>(text: &'a str, chunks: &[Chunk]) -> Vec<&'a str> {
    // Only where chunks begin and end: a table of all code points would be eight times the text.
    let mut points: Vec<usize> = chunks.iter().flat_map(|chunk| [chunk.start, chunk.end]).collect();
    points.sort_unstable();
    points.dedup();
    let mut bytes = text.char_indices().map(|(at, _)| at).enumerate().peekable();
    let mut places = Vec::with_capacity(points.len());
    for &point in &points {
        while bytes.next_if(|&(number, _)| number < point).is_some() {}
        places.push(bytes.peek().map_or(text.len(), |&(_, at)| at));
    }
    let at = |point: usize| {
        points
            .binary_search(&point)
            .map_or(text.len(), |index| places[index])
    };
    chunks
        .iter()
        .map(|chunk| text.get(at(chunk.start)..at(chunk.end)).unwrap_or_default())
        .collect()
}

/// Scores the chunks and puts the best first; equals stay in the document's order.
fn score(engine: &Engine, query: &str, document: &Embed, chunks: &mut [Scored<'_>]) -> Result<(), Exit> {
    let task = default_task(engine.config(), &["retrieval.query", "query"]);
    let options = document.clone().adapters(task).chunks(None);
    let query = engine.embed(&[query], &options)?;
    let query = query.first().and_then(Embedding::as_f32).unwrap_or_default();
    for scored in chunks.iter_mut() {
        scored.score = Some(cosine(query, scored.chunk.vector.as_f32().unwrap_or_default()));
    }
    chunks.sort_by(|a, b| {
        b.score
            .unwrap_or_default()
            .total_cmp(&a.score.unwrap_or_default())
    });
    Ok(())
}

fn print(chunks: &[Scored<'_>]) -> Result<(), Exit> {
    let ranked = chunks.iter().any(|chunk| chunk.score.is_some());
    if terminal::for_people() {
        let mut table = match ranked {
            true => Table::new(&["rank", "score", "start", "end", "text"], &[0, 1, 2, 3]),
            false => Table::new(&["start", "end", "norm", "text"], &[0, 1, 2]),
        };
        for (index, Scored { chunk, text, score }) in chunks.iter().enumerate() {
            let bounds = [chunk.start.to_string(), chunk.end.to_string()];
            let mut cells = match score {
                Some(score) => vec![(index + 1).to_string(), format!("{score:.4}")],
                None => Vec::new(),
            };
            cells.extend(bounds);
            if score.is_none() {
                cells.push(format!("{:.3}", norm(&chunk.vector)));
            }
            cells.push((*text).to_owned());
            table.row(cells);
        }
        return terminal::print(table.lines().as_bytes());
    }
    let failed = |error| Exit::output("standard output", &error);
    let mut out = io::BufWriter::new(io::stdout().lock());
    for (index, Scored { chunk, text, score }) in chunks.iter().enumerate() {
        let mut row = serde_json::Map::new();
        if let Some(score) = score {
            row.insert("rank".into(), json!(index + 1));
            row.insert("score".into(), json!(rounded(*score)));
        }
        row.insert("start".into(), json!(chunk.start));
        row.insert("end".into(), json!(chunk.end));
        row.insert("text".into(), json!(text));
        // The numbers are written by the same hand as those of `embed`.
        let mut line = serde_json::Value::Object(row).to_string().into_bytes();
        line.pop();
        line.extend_from_slice(b",\"embedding\":");
        crate::jsonl::write_numbers(&mut line, &chunk.vector).map_err(failed)?;
        line.extend_from_slice(b"}\n");
        out.write_all(&line).map_err(failed)?;
    }
    out.flush().map_err(failed)
}

fn norm(vector: &Vector) -> f64 {
    let values = vector.as_f32().unwrap_or_default();
    cosine(values, values).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_cut_at_code_points() {
        let chunk = |start, end| Chunk::new(start, end, Vector::F32(Vec::new()));
        let chunks = [chunk(0, 2), chunk(2, 4), chunk(1, 9), chunk(4, 4)];
        assert_eq!(texts("é漢🙂x", &chunks), ["é漢", "🙂x", "漢🙂x", ""]);
    }
}
