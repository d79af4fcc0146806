//! One input, text in, vector out.

use super::{Pace, call, entries, parts, texts};
use crate::measure::Effort;
use crate::measure::batches::ids;
use crate::measure::report::{Report, Row};
use anyhow::Result;
use ropeway::Engine;
use ropeway::Numerics;
use ropeway::inspect::Pass;
use ropeway::{Embed, Request};

/// Calls whose parts are looked at.
const TIMED: usize = 50;

/// One input of so many tokens with the base weights, and with a task's adapter where the model has one: `merged`,
/// whose weights are taken, or the first. Without prompt, so that the tokens are those of the text.
pub fn of_one_input(
    engine: &Engine,
    numerics: Numerics,
    merged: Option<&str>,
    effort: Effort,
    report: &mut Report,
) -> Result<()> {
    let (pace, timed, lengths): (_, _, &[usize]) = match effort {
        Effort::Quick => (Pace::QUICK, 1, &[8, 16]),
        Effort::Full => (
            Pace {
                warm: 20,
                least: 500,
                most: 2000,
                seconds: 0.5,
            },
            TIMED,
            &[8, 16, 32, 64, 128, 256, 512],
        ),
    };
    let mut cases = vec![("base".to_owned(), Embed::base())];
    let tasks = &engine.config().tasks;
    let first = tasks
        .iter()
        .find(|task| task.adapter)
        .map(|task| task.name.as_str());
    if let Some(task) = merged.or(first) {
        let how = if merged.is_some() { " merged" } else { "" };
        cases.push((format!("{task}{how}"), Embed::task(task).prompt("")));
    }
    let longest = engine.config().max_tokens;
    for &tokens in lengths.iter().filter(|&&tokens| tokens <= longest) {
        for (case, options) in &cases {
            let text = texts::of_tokens(tokens, |text| {
                let pass = Pass::new(engine, &[Request::text(text, options)]).ok()?;
                Some(pass.tokens())
            });
            let (input, requests) = match &text {
                Some(text) => ("text", [Request::text(text, options)]),
                None => ("ids", [Request::ids(ids(engine, tokens, 1), options)]),
            };
            let row = Row {
                group: "latency",
                case: format!("{case}, {numerics}"),
                shape: format!("{tokens} tokens, {input} in"),
                micros: pace.time(|| call(engine, &requests))?,
                parts: parts(engine, &requests, timed)?,
                parameters: entries([
                    ("tokens", tokens.into()),
                    ("input", input.into()),
                    ("numerics", numerics.to_string().into()),
                    ("merged", (merged.is_some() && case != "base").into()),
                ]),
                note: text
                    .is_none()
                    .then(|| "no tokenizer makes a text of so many tokens".into()),
                ..Row::default()
            };
            // At the least, every weight comes through the device's memory once.
            let mut least = engine.cost(&requests)?;
            least.bytes = (engine.config().layer_parameters() * engine.precision().bytes()) as u64;
            report.push(row.measured(least, &report.ceilings));
        }
    }
    Ok(())
}
