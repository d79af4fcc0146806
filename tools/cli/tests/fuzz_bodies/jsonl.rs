//! What the fuzz target `jsonl` does with an input. It panics where the command line does, or where an error is not one
//! line that a person can read.

use ropeway::Embed;
use ropeway_cli::jsonl;

/// Lines of requests.
pub fn body(input: &[u8]) {
    let defaults = Embed::default();
    for line in String::from_utf8_lossy(input).lines() {
        match jsonl::parse(line, &defaults) {
            Ok(parsed) => {
                if let Some(id) = parsed.id {
                    json(id.as_json());
                }
            }
            Err(bad) => readable(&bad.problem),
        }
        // The same line as one of an interrupted run's output.
        if let Some(row) = jsonl::read_row(line) {
            json(row.id.as_json());
        }
    }
}

/// An id is copied into the output as it is, so it must be JSON that a reader takes back.
fn json(text: &str) {
    serde_json::from_str::<serde_json::Value>(text).unwrap();
}

fn readable(text: &str) {
    assert!(
        !text.trim().is_empty() && !text.contains('\n'),
        "not one line: {text:?}"
    );
    assert!(text.len() < 4096, "{} bytes of text: {:.200}", text.len(), text);
}
