//! `GET /metrics`: the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::http::{HeaderValue, Response, header};
use ropeway::service::{Histogram, Snapshot};

use crate::app::{Answer, App, Call, Model};
use crate::failure::Kind;

/// What the server counts itself.
#[derive(Default)]
pub struct Counts {
    /// Requests by path and status. Paths are those of routes, so that there are few.
    requests: Mutex<BTreeMap<(String, u16), u64>>,
    failures: Mutex<BTreeMap<&'static str, u64>>,
    pub tokens: AtomicU64,
}

impl Counts {
    /// Counts a request that was answered.
    pub fn request(&self, path: &str, status: u16, failure: Option<Kind>) {
        let mut requests = self.requests.lock().unwrap_or_else(|e| e.into_inner());
        *requests.entry((path.to_owned(), status)).or_default() += 1;
        if let Some(kind) = failure {
            let mut failures = self.failures.lock().unwrap_or_else(|e| e.into_inner());
            *failures.entry(kind.te_word()).or_default() += 1;
        }
    }
}

type Counter = (&'static str, &'static str, fn(&Snapshot) -> u64);

const COUNTERS: &[Counter] = &[
    ("submitted", "Inputs that were let in.", |s| s.submitted),
    ("completed", "Inputs that got an embedding.", |s| s.completed),
    ("failed", "Inputs that got an error.", |s| s.failed),
    ("cancelled", "Inputs whose clients went away.", |s| s.cancelled),
    (
        "expired",
        "Inputs whose deadline passed while they waited.",
        |s| s.expired,
    ),
    (
        "refused_overloaded",
        "Inputs refused because the queue was full.",
        |s| s.refused_overloaded,
    ),
    (
        "refused_unreachable",
        "Inputs refused because of their deadline.",
        |s| s.refused_unreachable,
    ),
    ("tokens", "Tokens that were embedded.", |s| s.tokens),
    ("passes", "Passes that ended well.", |s| s.passes),
    ("failed_passes", "Passes that failed.", |s| s.failed_passes),
    ("reopened", "Times that a lost engine was opened anew.", |s| {
        s.reopened
    }),
];

type Gauge = (&'static str, &'static str, fn(&Snapshot) -> usize);

const GAUGES: &[Gauge] = &[
    ("queued_inputs", "Inputs that wait.", |s| s.queued_requests),
    ("queued_tokens", "Tokens that wait.", |s| s.queued_tokens),
    ("running_passes", "Passes that run.", |s| s.running_passes),
];

type Distribution = (&'static str, &'static str, fn(&Snapshot) -> &Histogram);

const HISTOGRAMS: &[Distribution] = &[
    ("ropeway_queue_seconds", "Waiting, without tokenising.", |s| {
        &s.queue_seconds
    }),
    ("ropeway_tokenize_seconds", "Tokenising an input.", |s| {
        &s.tokenize_seconds
    }),
    ("ropeway_pass_seconds", "A pass.", |s| &s.pass_seconds),
    ("ropeway_total_seconds", "From submission to result.", |s| {
        &s.total_seconds
    }),
    ("ropeway_pass_tokens", "Tokens of a pass.", |s| &s.pass_tokens),
    ("ropeway_pass_inputs", "Inputs of a pass.", |s| &s.pass_requests),
    // Under the names that dashboards of text-embeddings-inference use.
    ("te_embed_queue_duration", "Waiting, without tokenising.", |s| {
        &s.queue_seconds
    }),
    ("te_embed_tokenization_duration", "Tokenising an input.", |s| {
        &s.tokenize_seconds
    }),
    ("te_embed_inference_duration", "A pass.", |s| &s.pass_seconds),
    ("te_embed_duration", "From submission to result.", |s| {
        &s.total_seconds
    }),
    ("te_batch_next_tokens", "Tokens of a pass.", |s| &s.pass_tokens),
    ("te_batch_next_size", "Inputs of a pass.", |s| &s.pass_requests),
];

/// A label's value: quotes, backslashes and line ends are escaped.
fn label(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn histogram(text: &mut String, name: &str, model: &str, values: &Histogram) {
    let mut below = 0;
    for (bound, count) in values.bounds.iter().zip(&values.counts) {
        below += count;
        let _ = writeln!(text, "{name}_bucket{{model=\"{model}\",le=\"{bound}\"}} {below}");
    }
    let count = values.count();
    let _ = writeln!(text, "{name}_bucket{{model=\"{model}\",le=\"+Inf\"}} {count}");
    let _ = writeln!(text, "{name}_sum{{model=\"{model}\"}} {}", values.sum);
    let _ = writeln!(text, "{name}_count{{model=\"{model}\"}} {count}");
}

/// All metrics.
pub fn text(app: &App) -> String {
    let of = |model: &Model| (label(&model.name), model.service.snapshot());
    let models: Vec<(String, Snapshot)> = app.models.iter().map(of).collect();
    let mut text = String::new();
    for (name, help, value) in COUNTERS {
        let name = format!("ropeway_{name}_total");
        head(&mut text, &name, "counter", help);
        for (model, snapshot) in &models {
            let _ = writeln!(text, "{name}{{model=\"{model}\"}} {}", value(snapshot));
        }
    }
    for (name, help, value) in GAUGES {
        let name = format!("ropeway_{name}");
        head(&mut text, &name, "gauge", help);
        for (model, snapshot) in &models {
            let _ = writeln!(text, "{name}{{model=\"{model}\"}} {}", value(snapshot));
        }
    }
    for (name, help, value) in HISTOGRAMS {
        head(&mut text, name, "histogram", help);
        for (model, snapshot) in &models {
            histogram(&mut text, name, model, value(snapshot));
        }
    }
    let sum = |value: fn(&Snapshot) -> u64| models.iter().map(|(_, snapshot)| value(snapshot)).sum::<u64>();
    let requests = app
        .counts
        .requests
        .lock()
        .unwrap_or_else(|e| e.into_inner())
        .clone();
    head(
        &mut text,
        "ropeway_http_requests_total",
        "counter",
        "Requests that were answered.",
    );
    for ((path, status), count) in &requests {
        let path = label(path);
        let _ = writeln!(
            text,
            "ropeway_http_requests_total{{path=\"{path}\",status=\"{status}\"}} {count}"
        );
    }
    head(
        &mut text,
        "te_request_count",
        "counter",
        "Requests that were answered.",
    );
    let _ = writeln!(text, "te_request_count {}", requests.values().sum::<u64>());
    head(
        &mut text,
        "te_request_success",
        "counter",
        "Requests that got a result.",
    );
    let good = requests.iter().filter(|((_, status), _)| *status < 400);
    let _ = writeln!(
        text,
        "te_request_success {}",
        good.map(|(_, count)| count).sum::<u64>()
    );
    head(
        &mut text,
        "te_request_failure",
        "counter",
        "Requests that got an error.",
    );
    for (word, count) in app
        .counts
        .failures
        .lock()
        .unwrap_or_else(|e| e.into_inner())
        .iter()
    {
        let _ = writeln!(text, "te_request_failure{{err=\"{word}\"}} {count}");
    }
    for (name, value) in [
        ("te_embed_count", sum(|s| s.submitted)),
        ("te_embed_success", sum(|s| s.completed)),
    ] {
        head(&mut text, name, "counter", "Inputs.");
        let _ = writeln!(text, "{name} {value}");
    }
    head(&mut text, "te_queue_size", "gauge", "Inputs that wait.");
    let _ = writeln!(text, "te_queue_size {}", sum(|s| s.queued_requests as u64));
    head(
        &mut text,
        "ropeway_http_tokens_total",
        "counter",
        "Tokens that were answered for.",
    );
    let _ = writeln!(
        text,
        "ropeway_http_tokens_total {}",
        app.counts.tokens.load(Ordering::Relaxed)
    );
    text
}

/// `GET /metrics`.
pub async fn response(call: Call) -> Answer {
    let mut response = Response::new(Body::from(text(&call.app)));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}
