//! From the start of a process to its first vector.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::{call, micros};
use crate::measure::Effort;
use crate::measure::batches::ids;
use crate::measure::report::{Micros, Report, Row};
use anyhow::{Result, anyhow};
use ropeway::Engine;
use ropeway::inspect::open_phases;
use ropeway::{Embed, Error, Request, RequestError};

/// What the first vector is made of.
const TEXT: &str = "How do I reset my password?";

/// The new process's side: embeds one text, and gives the line that [`startup`] waits for. The process opened the
/// engine, and did little else, since `start`.
///
/// # Errors
/// A call that failed.
pub fn first_vector(engine: &Engine, start: Instant) -> Result<String> {
    let mut parts = Map::new();
    for (part, time) in open_phases(engine) {
        parts.insert((*part).to_owned(), time.as_secs_f64().into());
    }
    let opened = start.elapsed().as_secs_f64();
    let options = Embed::default();
    let input = match call(engine, &[Request::text(TEXT, &options)]) {
        Ok(()) => "text",
        // There is no tokenizer.
        Err(error)
            if matches!(
                error.downcast_ref(),
                Some(Error::Request(RequestError::NoTokenizer))
            ) =>
        {
            call(engine, &[Request::ids(ids(engine, 8, 1), &options)])?;
            "ids"
        }
        Err(error) => return Err(error),
    };
    let whole = start.elapsed().as_secs_f64();
    parts.insert("first batch".into(), (whole - opened).into());
    let other = whole - sum(&parts);
    parts.insert("other".into(), other.max(0.0).into());
    Ok(json!({"input": input, "parts": parts}).to_string())
}

/// Adds the time from the start of a process until its line of [`first_vector`] is there. The checkpoint is in the
/// page cache, since an engine was opened on it before. `child` is what starts such a process.
///
/// # Errors
/// A process that cannot be started, or says something else.
pub fn startup(report: &mut Report, effort: Effort, child: &mut dyn FnMut() -> Command) -> Result<()> {
    let (warm, runs) = match effort {
        Effort::Quick => (0, 1),
        Effort::Full => (1, 5),
    };
    for _ in 0..warm {
        once(child())?;
    }
    let mut starts = (0..runs).map(|_| once(child())).collect::<Result<Vec<Start>>>()?;
    starts.sort_by(|a, b| a.micros.total_cmp(&b.micros));
    let all = starts.iter().map(|start| start.micros).collect();
    let middle = starts.swap_remove((runs - 1) / 2);
    report.push(Row {
        group: "startup",
        case: "process start to first vector".into(),
        shape: format!("one short input, {} in", middle.input),
        micros: Micros::of(all),
        parts: middle.parts,
        note: Some(
            "parts in s; the checkpoint is in the page cache, and this process has the driver running".into(),
        ),
        ..Row::default()
    });
    Ok(())
}

/// One process's start.
#[derive(Debug)]
struct Start {
    micros: f64,
    input: String,
    /// In s.
    parts: Map<String, Value>,
}

fn once(mut command: Command) -> Result<Start> {
    let failed = |problem: String| anyhow!("a new process for its start-up time: {problem}");
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    let mut line = String::new();
    let said = child.stdout.take().map(BufReader::new);
    let read = said.map_or(Ok(0), |mut said| said.read_line(&mut line));
    let whole = start.elapsed();
    let status = child.wait().map_err(|e| failed(e.to_string()))?;
    match (status.success(), read) {
        (true, Ok(_)) => {
            of_line(micros(whole), &line).ok_or_else(|| failed(format!("it said `{}`", line.trim())))
        }
        (_, Err(error)) => Err(failed(error.to_string())),
        (false, _) => Err(failed(format!("it ended with {status}"))),
    }
}

/// What the process said of its parts, and before them what came before it could look at a clock.
fn of_line(micros: f64, line: &str) -> Option<Start> {
    let said: Value = serde_json::from_str(line).ok()?;
    let theirs = said.get("parts")?.as_object()?;
    let process = 1e-6 * micros - sum(theirs);
    let mut parts = Map::new();
    parts.insert("process".into(), process.max(0.0).into());
    parts.extend(theirs.clone());
    Some(Start {
        micros,
        input: said.get("input")?.as_str()?.to_owned(),
        parts,
    })
}

fn sum(parts: &Map<String, Value>) -> f64 {
    parts.values().filter_map(Value::as_f64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_childs_is_the_processes_start() {
        let start = of_line(
            2e6,
            r#"{"input": "text", "parts": {"weights": 1.25, "other": 0.5}}"#,
        )
        .unwrap();
        let parts: Vec<(&str, f64)> = start
            .parts
            .iter()
            .map(|(part, time)| (part.as_str(), time.as_f64().unwrap()))
            .collect();
        assert_eq!(parts, [("process", 0.25), ("weights", 1.25), ("other", 0.5)]);
        assert!(of_line(2e6, "").is_none() && of_line(2e6, r#"{"parts": 3}"#).is_none());
    }

    #[cfg(unix)]
    #[test]
    fn a_process_that_fails_or_babbles_is_an_error() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            once(command)
        };
        let start =
            shell(r#"sleep 0.05; echo '{"input": "ids", "parts": {"model": 0.01}}'; sleep 0.6"#).unwrap();
        assert!(start.micros > 50e3 && start.input == "ids");
        // It has ended later, which is not waited for.
        assert!(start.micros < 600e3, "{start:?}");
        let problem = |script| shell(script).unwrap_err().to_string();
        assert!(problem("exit 3").contains('3'), "{}", problem("exit 3"));
        assert!(problem("echo ready").contains("`ready`"));
        let none = once(Command::new("/no/such/program")).unwrap_err().to_string();
        assert!(none.contains("a new process"), "{none}");
    }
}
