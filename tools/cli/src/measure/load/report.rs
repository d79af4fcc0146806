//! What was measured, as lines of a table and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use super::traffic::Tally;

/// Everything that was measured, where.
#[derive(Debug, Serialize)]
pub struct LoadReport {
    /// Version of this program.
    pub ropeway: &'static str,
    /// `serve`.
    pub bench: &'static str,
    /// Where the model is.
    pub model: String,
    /// The type of its weights.
    pub precision: String,
    /// What computes.
    pub device: String,
    /// Cores that this process may use; servers, peers and the load generator share them.
    pub cores: usize,
    /// Who stood beside us.
    pub peers: Vec<String>,
    /// In the order in which they were measured.
    pub rows: Vec<LoadRow>,
    /// What was to be reached, and what was.
    pub bars: Vec<Bar>,
}

/// One kind of traffic to one server.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LoadRow {
    /// What was sent, and how: `64 clients`, `2 × capacity`.
    pub case: String,
    /// What the requests held.
    pub texts: &'static str,
    /// To whom.
    pub server: String,
    /// Requests per second that were sent, in an open loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offered_per_s: Option<f64>,
    /// Requests per second that were answered with embeddings.
    pub answered_per_s: f64,
    /// How many were.
    pub answered: usize,
    /// Latencies of those, in ms; in an open loop from the time when a request was due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    /// 99 of 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
    /// 999 of 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p999_ms: Option<f64>,
    /// Requests that were told to come back later.
    pub refused: usize,
    /// How soon they were told, in ms: 99 of 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused_p99_ms: Option<f64>,
    /// The last of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused_max_ms: Option<f64>,
    /// Requests that got another answer, or none.
    pub failed: usize,
    /// Requests that were due, and not sent as too many were on their way.
    pub unsent: usize,
    /// Memory that the server had resident in the second and in the last quarter of the time, at most, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss_bytes: Option<(u64, u64)>,
    /// In an open loop, how late a thread of the bench that only slept woke up, at most, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_late_ms: Option<f64>,
    /// The first thing that went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// Something that is to be reached.
#[derive(Clone, Debug, Serialize)]
pub struct Bar {
    /// What.
    pub what: String,
    /// What it came to.
    pub value: f64,
    /// In what.
    pub unit: &'static str,
    /// Whether the value is to be this or more, or this or less.
    pub wanted: Wanted,
    /// Whether it is.
    pub met: bool,
}

/// A bound.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

/// Above the lines of rows.
pub const HEAD: &str = "\
| load | texts | server | offered/s | answered/s | p50 ms | p99 ms | p99.9 ms | refused | told by ms (p99, last) | failed |
|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|";

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("–".into(), |value| format!("{value:.digits$}"))
}

impl LoadRow {
    /// A row of what became of requests.
    pub fn new(case: String, texts: &'static str, server: &str, tally: &Tally) -> LoadRow {
        LoadRow {
            case,
            texts,
            server: server.to_owned(),
            answered_per_s: tally.rate(),
            answered: tally.answered.len(),
            p50_ms: tally.quantile(0.5),
            p99_ms: tally.quantile(0.99),
            // Of fewer it says nothing.
            p999_ms: (tally.answered.len() >= 1000)
                .then(|| tally.quantile(0.999))
                .flatten(),
            refused: tally.refused.len(),
            refused_p99_ms: super::traffic::quantile(&tally.refused, 0.99),
            refused_max_ms: super::traffic::quantile(&tally.refused, 1.0),
            failed: tally.failed,
            unsent: tally.unsent,
            failure: tally.failure.clone(),
            ..LoadRow::default()
        }
    }

    /// For people.
    pub fn line(&self) -> String {
        let told = match self.refused {
            0 => "–".into(),
            _ => format!(
                "{}, {}",
                number(self.refused_p99_ms, 1),
                number(self.refused_max_ms, 1)
            ),
        };
        format!(
            "| {} | {} | {} | {} | {:.1} | {} | {} | {} | {} | {told} | {} |",
            self.case,
            self.texts,
            self.server,
            number(self.offered_per_s, 1),
            self.answered_per_s,
            number(self.p50_ms, 2),
            number(self.p99_ms, 2),
            number(self.p999_ms, 2),
            self.refused,
            self.failed + self.unsent,
        )
    }
}

impl Bar {
    /// Whether a value reaches a bound.
    pub fn new(what: impl Into<String>, value: f64, unit: &'static str, wanted: Wanted) -> Bar {
        let met = match wanted {
            Wanted::AtLeast(least) => value >= least,
            Wanted::AtMost(most) => value <= most,
        };
        Bar {
            what: what.into(),
            value,
            unit,
            wanted,
            met,
        }
    }
}

impl LoadReport {
    /// For programs.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a report has no keys but strings");
        text.push('\n');
        text
    }

    /// The bars, for people.
    pub fn bars(&self) -> String {
        let mut text = String::from("\n| bar | wanted | measured | |\n|---|--:|--:|---|\n");
        for bar in &self.bars {
            let (sign, bound) = match bar.wanted {
                Wanted::AtLeast(bound) => ('≥', bound),
                Wanted::AtMost(bound) => ('≤', bound),
            };
            let (what, value, unit) = (&bar.what, bar.value, bar.unit);
            let word = if bar.met { "met" } else { "MISSED" };
            let _ = writeln!(
                text,
                "| {what} | {sign} {bound} {unit} | {value:.2} {unit} | {word} |"
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_met_from_its_own_side() {
        let met = |value, wanted| Bar::new("", value, "", wanted).met;
        assert!(met(4.0, Wanted::AtLeast(4.0)) && !met(3.9, Wanted::AtLeast(4.0)));
        assert!(met(3.0, Wanted::AtMost(3.0)) && !met(3.1, Wanted::AtMost(3.0)));
        // What could not be measured is not met.
        assert!(!met(f64::NAN, Wanted::AtLeast(0.0)) && !met(f64::NAN, Wanted::AtMost(9.0)));
    }

    #[test]
    fn a_row_counts_what_became_of_all() {
        let tally = Tally {
            seconds: 2.0,
            answered: vec![1.0, 3.0, 2.0],
            refused: vec![0.5],
            failed: 1,
            unsent: 2,
            late: 1,
            failure: None,
            clock_late: 0.0,
        };
        let line = LoadRow::new("case".into(), "queries", "ropeway", &tally).line();
        let want = "| case | queries | ropeway | – | 1.0 | 2.00 | 3.00 | – | 1 | 0.5, 0.5 | 3 |";
        assert_eq!(line, want);
    }
}
