//! Throughput, latency and memory of whole forward passes, text or ids in, vectors out.
//!
//! `cargo bench --bench encoder -- --model DIR` prints a table over input lengths and batch sizes.
//! With `--inputs FILE.jsonl --on-demand` it runs one set of inputs whenever it is told to, so that
//! `tools/peers/cpu` can alternate it with other engines in one run.

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use ropeway::{Embed, Engine, Request};
use serde_json::{Value, json};

fn main() {
    let options = Options::parse();
    if options.help {
        println!("{HELP}");
        return;
    }
    let start = Instant::now();
    let mut builder = Engine::builder();
    if let Some(threads) = options.threads {
        builder = builder.threads(threads);
    }
    if let Some(tokens) = options.batch_tokens {
        builder = builder.batch_tokens(tokens);
    }
    let engine = builder
        .open(&options.model)
        .unwrap_or_else(|e| fail(&e.to_string()));
    let load_seconds = start.elapsed().as_secs_f64();
    if options.on_demand {
        let inputs = options
            .inputs
            .as_deref()
            .unwrap_or_else(|| fail("--on-demand needs --inputs FILE.jsonl"));
        on_demand(&engine, inputs, load_seconds);
    } else {
        table(&engine, load_seconds);
    }
}

const HELP: &str = "cargo bench --bench encoder -- [--model DIR] [--threads N] [--batch-tokens N] \
                    [--inputs FILE.jsonl --on-demand]";

struct Options {
    model: String,
    threads: Option<usize>,
    batch_tokens: Option<usize>,
    inputs: Option<String>,
    on_demand: bool,
    help: bool,
}

impl Options {
    fn parse() -> Options {
        let root = env!("CARGO_MANIFEST_DIR");
        let mut options = Options {
            model: format!("{root}/models/all-MiniLM-L6-v2"),
            threads: None,
            batch_tokens: None,
            inputs: None,
            on_demand: false,
            help: false,
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || {
                args.next()
                    .unwrap_or_else(|| fail(&format!("{arg} needs a value")))
            };
            let number = |text: String| {
                text.parse()
                    .unwrap_or_else(|_| fail(&format!("`{text}` is not a number")))
            };
            match arg.as_str() {
                "--model" => options.model = value(),
                "--threads" => options.threads = Some(number(value())),
                "--batch-tokens" => options.batch_tokens = Some(number(value())),
                "--inputs" => options.inputs = Some(value()),
                "--on-demand" => options.on_demand = true,
                "--help" | "-h" => options.help = true,
                // What `cargo bench` itself passes.
                "--bench" => {}
                other => fail(&format!("unknown option {other}\n{HELP}")),
            }
        }
        options
    }
}

fn fail(problem: &str) -> ! {
    eprintln!("encoder: {problem}");
    std::process::exit(2);
}

/// An input of the peers' comparison.
enum Input {
    Text(String),
    Ids(Vec<u32>),
}

fn read_inputs(path: &str) -> Vec<Input> {
    let text = std::fs::read_to_string(Path::new(path)).unwrap_or_else(|e| fail(&format!("{path}: {e}")));
    let parse = |line: &str| -> Option<Input> {
        let json: Value = serde_json::from_str(line).ok()?;
        match (json.get("text"), json.get("input_ids")) {
            (Some(text), None) => Some(Input::Text(text.as_str()?.to_owned())),
            (None, Some(ids)) => {
                let ids: Option<Vec<u32>> = ids
                    .as_array()?
                    .iter()
                    .map(|id| Some(id.as_u64()? as u32))
                    .collect();
                ids.map(Input::Ids)
            }
            _ => None,
        }
    };
    let line = |(n, line): (usize, &str)| {
        parse(line).unwrap_or_else(|| fail(&format!("{path}:{}: wanted text or input_ids", n + 1)))
    };
    text.lines().enumerate().map(line).collect()
}

/// Lines on standard input: a number N runs the inputs N times; `vectors` prints their embeddings.
fn on_demand(engine: &Engine, path: &str, load_seconds: f64) {
    let inputs = read_inputs(path);
    let options = Embed::default();
    let requests: Vec<Request<'_>> = inputs
        .iter()
        .map(|input| match input {
            Input::Text(text) => Request::text(text.as_str(), &options),
            Input::Ids(ids) => Request::ids(ids.as_slice(), &options),
        })
        .collect();
    let run = || -> Vec<ropeway::Embedding> {
        let results = engine.embed_batch(&requests).into_iter();
        results
            .map(|r| r.unwrap_or_else(|e| fail(&e.to_string())))
            .collect()
    };
    let say = |json: Value| {
        println!("{json}");
        std::io::stdout().flush().unwrap_or_else(|e| fail(&e.to_string()));
    };
    say(json!({"ready": true, "load_seconds": load_seconds, "peak_rss_bytes": peak_rss()}));
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap_or_else(|e| fail(&e.to_string()));
        if line.trim() == "vectors" {
            let rows: Vec<Vec<f32>> = run()
                .iter()
                .map(|e| e.vector().unwrap_or_default().to_vec())
                .collect();
            say(json!({"embeddings": rows}));
            continue;
        }
        let times: usize = line
            .trim()
            .parse()
            .unwrap_or_else(|_| fail(&format!("`{line}` is not a number")));
        let mut seconds = Vec::new();
        let mut tokens = 0;
        for _ in 0..times {
            let start = Instant::now();
            let results = run();
            seconds.push(start.elapsed().as_secs_f64());
            tokens = results.iter().map(|e| e.tokens).sum();
        }
        say(json!({"seconds": seconds, "tokens": tokens, "peak_rss_bytes": peak_rss()}));
    }
}

/// Tokens per second by input length and batch, and how many of the plan's operations per second
/// that is.
fn table(engine: &Engine, load_seconds: f64) {
    let model = engine.model();
    let h = model.hidden_size;
    println!(
        "{}: {} layers, hidden {h}; {}; opened in {load_seconds:.2} s",
        model.family,
        model.num_hidden_layers,
        engine.device_name(),
    );
    println!("| batch | tokens each | ms (median, min–max) | tokens/s | GFLOP/s |");
    println!("|---|---|---|---|---|");
    let lengths = [8, 16, 64, 128, 512, 2048, 8192];
    for length in lengths.into_iter().filter(|&l| l <= model.max_tokens) {
        for batch in [1, 8, 64] {
            if batch * length > 16384 {
                continue;
            }
            let vocab = model.vocab_size as u64;
            // Any ids do; a fixed multiplicative sequence gives every run the same ones.
            let id = |i: usize| ((i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20) % vocab;
            let ids: Vec<Vec<u32>> = (0..batch)
                .map(|b| (0..length).map(|i| id(b * length + i) as u32).collect())
                .collect();
            let options = Embed::default();
            let requests: Vec<Request<'_>> = ids
                .iter()
                .map(|ids| Request::ids(ids.as_slice(), &options))
                .collect();
            let once = || {
                let start = Instant::now();
                let ok = engine.embed_batch(&requests).iter().all(Result::is_ok);
                assert!(ok, "the bench's own inputs are good");
                start.elapsed().as_secs_f64()
            };
            let warm = once();
            let times = ((1.0 / warm) as usize).clamp(5, 200);
            let mut seconds: Vec<f64> = (0..times).map(|_| once()).collect();
            seconds.sort_by(f64::total_cmp);
            let median = seconds[times / 2];
            let tokens = (batch * length) as f64;
            let cost = engine.cost(&requests).unwrap_or_else(|e| fail(&e.to_string()));
            println!(
                "| {batch} | {length} | {:.2} ({:.2}–{:.2}) | {:.0} | {:.0} |",
                median * 1e3,
                seconds[0] * 1e3,
                seconds[times - 1] * 1e3,
                tokens / median,
                cost.flops as f64 / median / 1e9,
            );
        }
    }
    println!(
        "peak memory (VmHWM): {:.2} GB",
        peak_rss().unwrap_or(0) as f64 / 1e9
    );
}

/// The most memory this process ever had resident, in bytes, where the system tells.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
