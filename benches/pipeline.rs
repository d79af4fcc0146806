//! Whether a stage waits for another: `cargo bench --bench pipeline -- --model DIR [--device cuda] [--texts 5000]`.
//!
//! Embeds the same texts in one call of `Engine::embed_batch` and by `ropeway embed` from JSON lines to JSON lines, in turn,
//! and compares the best times, less what each takes for a single text. Under softcuda, with launches that take a set time, it
//! also shows how long the device was idle between its first launch and its last:
//!
//! ```sh
//! SOFTCUDA_FAULTS='slow-launches=50ms;slow-copies=1GB' tools/softcuda/run \
//!     cargo bench --bench pipeline -- --model DIR --device cuda --texts 1000 --batch-tokens 512
//! ```

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::Parser;
use ropeway::{Device, Embed, Engine, Request};
use serde_json::Value;

/// Both are run this often.
const ROUNDS: usize = 3;

#[derive(Parser)]
struct Args {
    #[arg(long)]
    model: String,
    #[arg(long, default_value = "auto")]
    device: Device,
    #[arg(long, default_value_t = 5000)]
    texts: usize,
    #[arg(long)]
    batch_tokens: Option<usize>,
    /// Embeds the lines of a file in one call, in this process.
    #[arg(long, hide = true)]
    call: Option<String>,
    /// What cargo gives.
    #[arg(long, hide = true)]
    bench: bool,
}

/// One run: its seconds, and what softcuda says of its device.
struct Run {
    seconds: f64,
    device: Option<Value>,
}

fn main() {
    let args = Args::parse();
    match &args.call {
        Some(file) => call(&args, file),
        None => compare(&args),
    }
}

fn call(args: &Args, file: &str) {
    let mut builder = Engine::builder().device(args.device);
    if let Some(tokens) = args.batch_tokens {
        builder = builder.batch_tokens(tokens);
    }
    let engine = builder.open(&args.model).expect("the model opens");
    let lines = fs::read_to_string(file).expect("the file of the texts");
    let texts: Vec<String> = lines
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).expect("a line");
            line["text"].as_str().expect("a text").to_owned()
        })
        .collect();
    let options = Embed::default();
    let requests: Vec<Request<'_>> = texts
        .iter()
        .map(|text| Request::text(text.as_str(), &options))
        .collect();
    for result in engine.embed_batch(&requests) {
        result.expect("a text is embedded");
    }
}

fn compare(args: &Args) {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let at = |name: &str| folder.path().join(name);
    let line = |number: usize| {
        let words = (0..8).map(|word| format!("word{}", (number * 31 + word * 7) % 997));
        let text = words.collect::<Vec<_>>().join(" ");
        serde_json::json!({"id": number, "text": text}).to_string() + "\n"
    };
    let write = |name: &str, count: usize| {
        fs::write(at(name), (0..count).map(line).collect::<String>()).expect("the texts are written");
    };
    write("one", 1);
    write("all", args.texts);
    let in_a_call = |name: &str| {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.arg("--call").arg(at(name));
        run(args, command, &at("calls"))
    };
    let by_embed = |name: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ropeway"));
        command
            .args(["embed", "--input", "jsonl", "--file"])
            .arg(at(name))
            .stdout(Stdio::null());
        run(args, command, &at("calls"))
    };
    let mut best: [Option<Run>; 2] = [None, None];
    for _ in 0..ROUNDS {
        for (best, way) in best
            .iter_mut()
            .zip([&in_a_call as &dyn Fn(&str) -> Run, &by_embed])
        {
            let start = way("one").seconds;
            let mut all = way("all");
            all.seconds -= start;
            if best.as_ref().is_none_or(|best| all.seconds < best.seconds) {
                *best = Some(all);
            }
        }
    }
    let [call, embed] = best.map(|run| run.expect("there is a round"));
    println!(
        "{} texts, best of {ROUNDS} rounds, less the time of one text",
        args.texts
    );
    for (name, run) in [("embed_batch", &call), ("ropeway embed", &embed)] {
        println!(
            "{name:14} {:8.3} s {:9.0} texts/s",
            run.seconds,
            args.texts as f64 / run.seconds
        );
        if let Some(device) = &run.device {
            let number = |name: &str| device[name].as_f64().expect("a number");
            let (busy, span) = (number("busy_us") / 1e6, number("span_us") / 1e6);
            let (launches, idle, total) = (number("launches"), 1.0 - busy / span, run.seconds / busy);
            println!(
                "{:14} {launches} launches, {busy:.3} s busy, idle {:.1} %, total {total:.3} of busy",
                "",
                100.0 * idle
            );
        }
    }
    println!(
        "ropeway embed has {:.1} % of embed_batch",
        100.0 * call.seconds / embed.seconds
    );
}

fn run(args: &Args, mut command: Command, calls: &Path) -> Run {
    command
        .args(["--model", &args.model, "--device", &args.device.to_string()])
        .env("SOFTCUDA_CALLS", calls);
    if let Some(tokens) = args.batch_tokens {
        command.args(["--batch-tokens", &tokens.to_string()]);
    }
    let start = Instant::now();
    let status = command.status().expect("it starts");
    let seconds = start.elapsed().as_secs_f64();
    assert!(status.success(), "{command:?}: {status}");
    let calls: Option<Value> = fs::read(calls)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    Run {
        seconds,
        device: calls.and_then(|mut calls| Some(calls.get_mut("device")?.take())),
    }
}
