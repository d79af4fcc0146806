//! What was measured as people see it.

use serde_json::{Map, Value};

use super::super::report::{Report, Row, markdown};
use super::WAYS;

/// What stands below the table.
pub(super) const LEGEND: &str = "\
Extended, separate: time over that of merged weights, measured in turns. Vectors apart, over their length, the furthest \
pair: extended from merged, separate from extended, those of the base weights from extended.
";

/// What a row was measured with.
fn parameter(row: &Row, name: &str) -> u64 {
    let found = |of: &Map<String, Value>| of.get(name).and_then(Value::as_u64);
    found(&row.parameters).unwrap_or_default()
}

/// For people: the head, and a line for each combination, sorted by tokens.
pub fn table(report: &Report) -> String {
    report.head() + "\n" + &lines(report.rows())
}

pub(super) fn lines(rows: &[Row]) -> String {
    let mut lines: Vec<(_, Vec<&Row>)> = Vec::new();
    for row in rows {
        let key = ["tokens", "rank", "adapters"].map(|name| parameter(row, name));
        match lines.iter_mut().find(|(of, _)| *of == key) {
            Some((_, rows)) => rows.push(row),
            None => lines.push((key, vec![row])),
        }
    }
    lines.sort_by_key(|(key, _)| *key);
    let mut cells = vec![
        [
            "tokens",
            "rank",
            "adapters",
            "merged, µs",
            "of bound",
            "extended",
            "separate",
            "note",
        ]
        .map(String::from),
    ];
    for ([tokens, rank, adapters], rows) in lines {
        let of = |way: &str| rows.iter().find(|row| row.case == way);
        let shown = |text: Option<String>| text.unwrap_or("–".into());
        let ratio = |way| {
            shown(
                of(way)
                    .and_then(|row| row.ratio)
                    .map(|ratio| format!("{ratio:.3} ×")),
            )
        };
        let part = |row: &&Row| row.fraction_of_bound.map(|part| format!("{:.0} %", 100.0 * part));
        cells.push([
            tokens.to_string(),
            rank.to_string(),
            adapters.to_string(),
            shown(of(WAYS[0].0).map(|row| format!("{:.1}", row.micros.median))),
            shown(of(WAYS[0].0).and_then(part)),
            ratio(WAYS[1].0),
            ratio(WAYS[2].0),
            rows[0].note.clone().unwrap_or_default(),
        ]);
    }
    markdown(&cells) + "\n" + LEGEND
}
