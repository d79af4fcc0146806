//! Whether a stage waits for another: `cargo bench --bench pipeline -- --model DIR [--device cuda] [--texts 5000]`.
//!
//! Embeds the same texts in one call of `Engine::embed_batch` and by `ropeway embed` from JSON lines to JSON lines, in turn,
//! and compares them round by round, less what each takes for a single text. Under softcuda, with launches that take a set time, it
//! also shows how long the device was idle between its first launch and its last, and the time over the device's own. The set
//! time must be longer than softcuda takes to compute a pass, as it is for a model of one layer and width 32:
//!
//! ```sh
//! SOFTCUDA_FAULTS='slow-launches=500ms;slow-copies=1GB' tools/softcuda/run \
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
const ROUNDS: usize = 5;

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
    /// The device's seconds for a single text, which `seconds` is without.
    busy_before: f64,
}

fn busy(device: &Value) -> f64 {
    number(device, "busy_us") / 1e6
}

fn number(device: &Value, name: &str) -> f64 {
    device[name].as_f64().expect("a number")
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
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push([&in_a_call as &dyn Fn(&str) -> Run, &by_embed].map(|way| {
            let (one, mut all) = (way("one"), way("all"));
            all.seconds -= one.seconds;
            all.busy_before = one.device.as_ref().map_or(0.0, busy);
            all
        }));
    }
    println!(
        "{} texts, medians of {ROUNDS} rounds, less the time of one text",
        args.texts
    );
    for (way, name) in ["embed_batch", "ropeway embed"].into_iter().enumerate() {
        let seconds = median(rounds.iter().map(|round| round[way].seconds));
        println!(
            "{name:14} {seconds:8.3} s {:9.0} texts/s",
            args.texts as f64 / seconds
        );
        let devices = rounds
            .iter()
            .filter_map(|round| Some((&round[way], round[way].device.as_ref()?)));
        for (run, device) in devices {
            let (busy, span) = (busy(device), number(device, "span_us") / 1e6);
            println!(
                "{:14} {} launches, {busy:.3} s busy, idle {:.1} %, total {:.3} of busy",
                "",
                number(device, "launches"),
                100.0 * (1.0 - busy / span),
                run.seconds / (busy - run.busy_before)
            );
        }
    }
    println!(
        "ropeway embed has {:.1} % of embed_batch",
        100.0 * median(rounds.iter().map(|[call, embed]| call.seconds / embed.seconds))
    );
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
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
        busy_before: 0.0,
    }
}
