//! Throughput: many inputs in a call, or one long one.

use serde_json::Map;

use super::{Pace, call, entries, parts};
use crate::measure::Effort;
use crate::measure::batches::{ids, log_uniform, options};
use crate::measure::report::{Report, Row};
use anyhow::Result;
use ropeway::Engine;
use ropeway::inspect::Pass;
use ropeway::{Chunking, Embed, Request};

/// Lengths that are measured alone.
const LENGTHS: [usize; 5] = [16, 128, 512, 2048, 8192];

/// Lengths that are mixed, their logarithms uniform.
const MIXED: (usize, usize) = (16, 512);

/// Tokens of a batch between one input and the budget.
const MIDDLE: usize = 2048;

/// Tokens per chunk of a document.
const CHUNK: usize = 64;

/// The lengths of the inputs of each batch that is measured.
fn cases(effort: Effort, budget: usize, longest: usize) -> Vec<Vec<usize>> {
    if effort == Effort::Quick {
        let cases = [vec![9], vec![8, 17, 1, 6]];
        return cases
            .into_iter()
            .filter(|lengths| fits(lengths, budget, longest))
            .collect();
    }
    let mut cases: Vec<Vec<usize>> = Vec::new();
    for length in LENGTHS {
        for tokens in [length, MIDDLE, budget] {
            cases.push(vec![length; tokens / length]);
        }
    }
    for tokens in [MIDDLE, budget] {
        cases.push(log_uniform(MIXED.0, MIXED.1, tokens));
    }
    cases.retain(|lengths| fits(lengths, budget, longest));
    cases.dedup();
    cases
}

/// Whether they can go through the model at once.
fn fits(lengths: &[usize], budget: usize, longest: usize) -> bool {
    let tokens: usize = lengths.iter().sum();
    tokens > 0 && lengths.iter().all(|&length| length <= longest) && (tokens <= budget || lengths.len() == 1)
}

/// Calls of one batch each, ids in, with the base weights and with the loaded adapters in turn.
pub fn throughput(engine: &Engine, effort: Effort, report: &mut Report) -> Result<()> {
    let pace = match effort {
        Effort::Quick => Pace::QUICK,
        Effort::Full => Pace {
            warm: 3,
            least: 10,
            most: 200,
            seconds: 0.5,
        },
    };
    let cases = cases(effort, engine.batch_tokens(), engine.config().max_tokens);
    for adapted in [false, true] {
        if adapted && engine.adapters().is_empty() {
            continue;
        }
        for lengths in &cases {
            let count = lengths.len();
            let options: Vec<Embed> = (0..count).map(|n| options(engine, n, adapted)).collect();
            let inputs = lengths.iter().zip(&options).enumerate();
            let requests: Vec<Request<'_>> = inputs
                .map(|(n, (&length, options))| Request::ids(ids(engine, length, n as u64 + 1), options))
                .collect();
            let micros = pace.time(|| call(engine, &requests))?;
            let tokens: usize = lengths.iter().sum();
            let same = lengths.iter().all(|&length| length == lengths[0]);
            let shape = if same {
                format!("{count} × {} tokens", lengths[0])
            } else {
                let (least, most) = (lengths.iter().min(), lengths.iter().max());
                format!(
                    "{count} of {}…{} tokens, {tokens} in all",
                    least.unwrap_or(&0),
                    most.unwrap_or(&0)
                )
            };
            let row = Row {
                group: "encoder",
                case: if adapted { "adapters mixed" } else { "base" }.into(),
                shape,
                micros,
                tokens_per_s: Some(1e6 * tokens as f64 / micros.median),
                parts: parts(engine, &requests, pace.least)?,
                parameters: entries([
                    ("tokens", tokens.into()),
                    ("sequences", count.into()),
                    ("longest", lengths.iter().max().copied().into()),
                    ("same_length", same.into()),
                    ("adapters", adapted.into()),
                ]),
                ..Row::default()
            };
            report.push(row.measured(engine.cost(&requests)?, &report.ceilings));
        }
    }
    Ok(())
}

/// Late chunking: a document as long as the context, and one that goes through the model in windows.
pub fn documents(engine: &Engine, effort: Effort, report: &mut Report) -> Result<()> {
    let longest = engine.config().max_tokens;
    // Tokens of the document, and per chunk and window.
    let (pace, cases) = match effort {
        Effort::Quick => {
            let window = longest.min(24);
            (
                Pace::QUICK,
                [(longest.min(32), 8, longest), (2 * window, 8, window)],
            )
        }
        Effort::Full => (
            Pace {
                warm: 2,
                least: 5,
                most: 50,
                seconds: 1.0,
            },
            [(longest.min(8192), CHUNK, longest), (3 * longest, CHUNK, longest)],
        ),
    };
    for (tokens, chunk, window) in cases {
        // 256 is what jina-embeddings-v3's authors have.
        let overlap = 256.min(window / 4);
        let options = Embed::default()
            .chunks(Chunking::Tokens(chunk))
            .window(window)
            .overlap(overlap);
        let requests = [Request::ids(ids(engine, tokens, 1), &options)];
        let micros = pace.time(|| call(engine, &requests))?;
        let pass = Pass::new(engine, &requests)?;
        let (windows, through) = (pass.lengths().len(), pass.tokens());
        let at_once = through <= engine.batch_tokens().max(longest);
        let (case, shape) = match windows {
            1 => ("late chunking", format!("1 × {tokens} tokens")),
            count => (
                "late chunking, windows",
                format!("1 × {tokens} tokens, {count} windows of {window}, {overlap} shared"),
            ),
        };
        let row = Row {
            group: "documents",
            case: case.into(),
            shape: format!("{shape}, chunks of {chunk}"),
            micros,
            tokens_per_s: Some(1e6 * tokens as f64 / micros.median),
            parts: if at_once {
                parts(engine, &requests, pace.least)?
            } else {
                Map::new()
            },
            parameters: entries([
                ("tokens", tokens.into()),
                ("tokens_through", through.into()),
                ("windows", windows.into()),
                ("chunk", chunk.into()),
            ]),
            note: (!at_once).then(|| "several passes".into()),
            ..Row::default()
        };
        report.push(row.measured(engine.cost(&requests)?, &report.ceilings));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_go_up_to_the_budget() {
        let sums = |effort, budget, longest| -> Vec<(usize, usize)> {
            let cases = cases(effort, budget, longest);
            let of = |lengths: &Vec<usize>| (lengths.len(), lengths.iter().sum());
            cases.iter().map(of).collect()
        };
        let full = sums(Effort::Full, 16384, 8194);
        for want in [
            (1, 16),
            (1024, 16384),
            (1, 512),
            (4, 2048),
            (32, 16384),
            (1, 8192),
            (2, 16384),
        ] {
            assert!(full.contains(&want), "{want:?} is not among {full:?}");
        }
        // Fifteen and the two mixed; 2048 alone is its middle as well, and 8192 has none.
        assert_eq!(full.len(), 15);
        // An input longer than the budget goes by itself, one longer than the context not at all.
        let small = sums(Effort::Full, 100, 600);
        let (mixed, same) = small.split_last().unwrap();
        assert_eq!(same, [(1, 16), (6, 96), (1, 128), (1, 512)]);
        assert_eq!(mixed.1, 100);
        assert_eq!(sums(Effort::Quick, 16, 600), [(1, 9)]);
    }

    #[test]
    fn mixed_lengths_are_in_one_batch() {
        let mixed = cases(Effort::Full, 4096, 512).pop().unwrap();
        assert_eq!(mixed.iter().sum::<usize>(), 4096);
        assert!(mixed.iter().any(|&length| length < 64) && mixed.iter().any(|&length| length > 256));
    }
}
