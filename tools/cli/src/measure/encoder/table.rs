//! The rows of the bench for people: a table for each group, since they have different things to say.

use serde_json::Value;

use crate::measure::report::{Report, Row, markdown};

/// The head, and a Markdown table for each group.
pub fn encoder_table(report: &Report) -> String {
    let mut text = report.head();
    for (group, title, columns) in GROUPS {
        let rows: Vec<&Row> = report.rows().iter().filter(|row| row.group == group).collect();
        if rows.is_empty() {
            continue;
        }
        text += &format!("\n{title}\n\n");
        let cells: Vec<Vec<String>> =
            std::iter::once(columns.iter().map(|(head, _)| (*head).to_owned()).collect())
                .chain(
                    rows.iter()
                        .map(|row| columns.iter().map(|(_, cell)| cell(row)).collect()),
                )
                .collect();
        text += &markdown(&cells);
    }
    text
}

type Column = (&'static str, fn(&Row) -> String);

const GROUPS: [(&str, &str, &[Column]); 5] = [
    (
        "encoder",
        "Throughput: whole calls of one batch, ids in, vectors out",
        CALLS,
    ),
    ("documents", "Long documents: one embedding per chunk", CALLS),
    (
        "latency",
        "Latency: one input, in µs; parts are of a call of their own",
        LATENCY,
    ),
    ("startup", "Start-up", STARTUP),
    ("memory", "Device memory", MEMORY),
];

const CALLS: &[Column] = &[
    ("case", |row| row.case.clone()),
    ("shape", |row| row.shape.clone()),
    ("ms: median", |row| format!("{:.3}", 1e-3 * row.micros.median)),
    ("min–max", |row| {
        format!("{:.3}–{:.3}", 1e-3 * row.micros.min, 1e-3 * row.micros.max)
    }),
    ("tokens/s", |row| number(row.tokens_per_s, 0)),
    ("TFLOP/s", |row| number(row.tflops, 1)),
    ("of bound", fraction_of_bound),
    ("µs on the device", |row| part(row, "device")),
    ("note", |row| row.note.clone().unwrap_or_default()),
];

const LATENCY: &[Column] = &[
    ("case", |row| row.case.clone()),
    ("shape", |row| row.shape.clone()),
    ("p50", |row| format!("{:.1}", row.micros.median)),
    ("p99", |row| number(row.micros.p99, 1)),
    ("tokenise", |row| part(row, "tokenise")),
    ("upload", |row| part(row, "upload")),
    ("device", |row| part(row, "device")),
    ("download", |row| part(row, "download")),
    ("rest", |row| part(row, "rest")),
    ("of bound", fraction_of_bound),
    ("note", |row| row.note.clone().unwrap_or_default()),
];

const STARTUP: &[Column] = &[
    ("case", |row| row.case.clone()),
    ("s: median", |row| format!("{:.3}", 1e-6 * row.micros.median)),
    ("of which", |row| {
        let part =
            |(name, time): (&String, &Value)| format!("{name} {:.3}", time.as_f64().unwrap_or_default());
        row.parts.iter().map(part).collect::<Vec<_>>().join(", ")
    }),
];

const MEMORY: &[Column] = &[
    ("what", |row| row.case.clone()),
    ("of", |row| row.shape.clone()),
    ("MB", |row| number(row.bytes.map(|bytes| 1e-6 * bytes as f64), 1)),
];

fn number(x: Option<f64>, digits: usize) -> String {
    x.map_or("–".into(), |x| format!("{x:.digits$}"))
}

fn part(row: &Row, name: &str) -> String {
    number(row.parts.get(name).and_then(Value::as_f64), 1)
}

fn fraction_of_bound(row: &Row) -> String {
    let bound = match row.bound {
        Some(bound) => bound.name(),
        None => return "–".into(),
    };
    row.fraction_of_bound
        .map_or("–".into(), |part| format!("{:.0} % ({bound})", 100.0 * part))
}
