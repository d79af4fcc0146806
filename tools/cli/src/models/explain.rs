//! What `ropeway models explain` prints.

use std::path::Path;

use ropeway::model::{Decision, Explanation};
use serde_json::{Value, json};

/// One object.
pub fn json(explanation: &Explanation, folder: &Path) -> Value {
    let decision = |decision: &Decision| {
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
    let names = explanation
        .decisions
        .iter()
        .map(|decision| decision.name.chars().count());
    let width = names.max().unwrap_or(0);
    let mut text = String::new();
    for decision in &explanation.decisions {
        let from = match (&decision.source, decision.note) {
            (Some(source), "") => source.to_string(),
            (Some(source), note) => format!("{source}; {note}"),
            (None, "") => "no file says so".to_owned(),
            (None, note) => format!("no file says so; {note}"),
        };
        text += &format!(
            "{:width$}  {}\n{:width$}    {from}\n",
            decision.name, decision.value, ""
        );
        for other in &decision.overruled {
            text += &format!("{:width$}    overruled: {} = {}\n", "", other.source, other.value);
        }
    }
    for (title, list) in [
        ("not known", &explanation.unknown_settings),
        ("not read", &explanation.unread),
    ] {
        if !list.is_empty() {
            text += &format!("{title:width$}  {}\n", list.join(", "));
        }
    }
    text
}
