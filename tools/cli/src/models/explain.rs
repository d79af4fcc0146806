//! What `ropeway models explain` prints.

use std::path::Path;

use ropeway::model::{Decision, Explanation};
use serde_json::{Value, json};

use crate::exit::shown;

/// One object.
pub fn json(explanation: &Explanation, folder: &Path) -> Value {
    let decision = |decision: &Decision| {
        let agreeing = decision
            .agreeing
            .iter()
            .map(|other| json!({"file": other.file, "key": other.key}));
        let overruled = decision
            .overruled
            .iter()
            .map(|other| json!({"file": other.source.file, "key": other.source.key, "value": other.value}));
        json!({
            "name": decision.name,
            "value": decision.value,
            "file": decision.source.as_ref().map(|source| &source.file),
            "key": decision.source.as_ref().map(|source| &source.key),
            "note": decision.note,
            "agreeing": agreeing.collect::<Vec<_>>(),
            "overruled": overruled.collect::<Vec<_>>(),
        })
    };
    json!({
        "folder": folder.display().to_string(),
        "decisions": explanation.decisions.iter().map(decision).collect::<Vec<_>>(),
        "unknown_settings": explanation.unknown_settings,
        "unread": explanation.unread,
    })
}

/// A block of lines per decision: name and value, then where they come from.
pub fn text(explanation: &Explanation) -> String {
    let mut lines: Vec<(&str, String)> = Vec::new();
    for decision in &explanation.decisions {
        let from = match (&decision.source, decision.note) {
            (Some(source), "") => source.to_string(),
            (Some(source), note) => format!("{source}; {note}"),
            (None, "") => "no file says so".to_owned(),
            (None, note) => format!("no file says so; {note}"),
        };
        lines.push((&decision.name, decision.value.clone()));
        lines.push(("", format!("  {from}")));
        for other in &decision.agreeing {
            lines.push(("", format!("  also: {other}")));
        }
        for other in &decision.overruled {
            lines.push(("", format!("  overruled: {} = {}", other.source, other.value)));
        }
    }
    for (name, list) in [
        ("not known", &explanation.unknown_settings),
        ("not read", &explanation.unread),
    ] {
        if !list.is_empty() {
            lines.push((name, super::listed(list)));
        }
    }
    // Names and texts are the model's maker's.
    let lines: Vec<(String, String)> = lines
        .into_iter()
        .map(|(name, value)| (shown(name), shown(&value)))
        .collect();
    let width = lines
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    lines
        .iter()
        .map(|(name, value)| format!("{name:width$}  {value}\n"))
        .collect()
}
