//! One set of inputs, run whenever it is told to: the engine's side of `tools/peers`.

use std::str::FromStr;
use std::time::Instant;

use serde_json::{Value, json};

use super::host::peak_rss;
use crate::jsonl;
use anyhow::{Context as _, Result, anyhow, bail};
use ropeway::Embedding;
use ropeway::Engine;
use ropeway::{Embed, Request};

/// An engine with the inputs that it is to run.
pub struct Contestant<'e> {
    engine: &'e Engine,
    requests: Vec<Request<'e>>,
}

/// What a line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    /// So many runs over all inputs, timed.
    Runs(usize),
    /// The vectors.
    Vectors,
}

impl FromStr for Ask {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Ask> {
        match line.trim() {
            "vectors" => Ok(Ask::Vectors),
            runs => runs
                .parse()
                .map(Ask::Runs)
                .with_context(|| format!("`{runs}` is neither a number of runs nor `vectors`")),
        }
    }
}

impl<'e> Contestant<'e> {
    /// Takes inputs as `ropeway embed` does, one JSON object per line; `defaults` is what a line does not say.
    ///
    /// # Errors
    /// The first line that is none, or that the model cannot serve.
    pub fn new(engine: &'e Engine, lines: &str, defaults: &'e Embed) -> Result<Contestant<'e>> {
        let mut requests = Vec::new();
        for (index, line) in lines.lines().enumerate() {
            let request =
                jsonl::parse(line, defaults).map_err(|bad| anyhow!("input {index}: {}", bad.problem))?;
            engine.validate(&request.request).map_err(|e| e.at_input(index))?;
            requests.push(request.request);
        }
        if requests.is_empty() {
            bail!("there are no inputs");
        }
        Ok(Contestant { engine, requests })
    }

    /// What is said first: the engine took so long to open.
    pub fn ready(&self, load_seconds: f64) -> Value {
        json!({"ready": true, "load_seconds": load_seconds, "peak_rss_bytes": peak_rss()})
    }

    /// What is said to a line: a number N is N runs, `vectors` is the embeddings.
    ///
    /// # Errors
    /// A line that asks for something else; an input that failed; vectors that are not one of float32 per input.
    pub fn answer(&self, line: &str) -> Result<Value> {
        match line.parse()? {
            Ask::Vectors => {
                let embeddings = self.run()?;
                let vectors = embeddings.iter().enumerate().map(|(index, embedding)| {
                    let none = || format!("input {index}: makes no single float32 vector");
                    embedding.as_f32().with_context(none)
                });
                let vectors: Vec<&[f32]> = vectors.collect::<Result<_>>()?;
                Ok(json!({"embeddings": vectors}))
            }
            Ask::Runs(runs) => {
                let mut seconds = Vec::new();
                let mut tokens = 0;
                for _ in 0..runs {
                    let start = Instant::now();
                    let embeddings = self.run()?;
                    seconds.push(start.elapsed().as_secs_f64());
                    tokens = embeddings.iter().map(|embedding| embedding.tokens).sum::<usize>();
                }
                Ok(json!({"seconds": seconds, "tokens": tokens, "peak_rss_bytes": peak_rss()}))
            }
        }
    }

    /// One call for all inputs.
    fn run(&self) -> Result<Vec<Embedding>> {
        let results = self.engine.embed_batch(&self.requests).into_iter().enumerate();
        results
            .map(|(index, result)| Ok(result.map_err(|e| e.at_input(index))?))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_a_number_or_vectors() {
        let ask = |line: &str| line.parse::<Ask>().ok();
        assert_eq!(ask("12"), Some(Ask::Runs(12)));
        assert_eq!(ask(" 0 \r\n"), Some(Ask::Runs(0)));
        assert_eq!(ask("vectors\n"), Some(Ask::Vectors));
        for bad in ["", "-1", "1 2", "vector", "VECTORS"] {
            assert_eq!(ask(bad), None, "{bad}");
        }
    }
}
