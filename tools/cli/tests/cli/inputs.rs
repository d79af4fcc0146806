//! What `embed` reads: sources, keys and flags, and what it says of bad ones.

use std::fs;

use serde_json::Value;

use crate::harness::{InputLocation, floats, hidden, ids, info, ropeway};

#[test]
fn arguments_files_and_standard_input_in_order() {
    let place = InputLocation::new(&[
        ("a.txt", b"one\n\ntwo\r\n"),
        ("b.jsonl", b"{\"text\": \"three\", \"id\": \"x\"}\n\n"),
    ]);
    let rows = place
        .run(&["embed", "some text", "a.txt", "b.jsonl", "", "a b.txt"])
        .lines();
    assert_eq!(ids(&rows), ["0", "1", "2", "3", "\"x\"", "5", "6"]);
    let alone = |text: &str| ropeway(&["embed", "--text", text], b"").lines().remove(0)["embedding"].clone();
    for (row, text) in rows
        .iter()
        .zip(["some text", "one", "", "two", "three", "", "a b.txt"])
    {
        assert_eq!(row["embedding"], alone(text), "{text}");
        assert_eq!(row["truncated"], Value::Bool(false));
        assert!(row["tokens"].as_u64().is_some_and(|tokens| tokens >= 2));
    }
    // The same through standard input, with a byte order mark and without a last line feed.
    let piped = ropeway(&["embed"], "\u{feff}one\n\ntwo\r\nthree".as_bytes()).lines();
    assert_eq!(piped.len(), 4);
    assert!(
        piped
            .iter()
            .zip(&rows[1..])
            .all(|(a, b)| a["embedding"] == b["embedding"])
    );
    let dash = ropeway(&["embed", "some text", "-"], b"one\n").lines();
    assert!(
        dash.iter()
            .zip(&rows)
            .all(|(a, b)| a["embedding"] == b["embedding"])
    );
    assert_eq!(ropeway(&["embed"], b"").lines().len(), 0);
    // --text and --file settle what an argument is.
    assert_eq!(place.run(&["embed", "--text", "a.txt"]).lines().len(), 1);
    assert_eq!(place.run(&["embed", "--file", "a.txt"]).lines().len(), 3);
    place
        .run(&["embed", "--file", "some text"])
        .says(&["some text: No such file"]);
}

#[test]
fn keys_override_flags() {
    let size = info()["matryoshka"][0].as_u64().unwrap();
    let lines = format!(
        r#"{{"text": "a b"}}
{{"text": "a b", "task": "retrieval.passage"}}
{{"text": "a b", "task": null}}
{{"text": "a b", "adapters": {{"separation": 0.5, "classification": 0.5}}, "dimensions": null}}
{{"text": "a b", "dimensions": {size}, "encoding": "int8"}}
"#
    );
    let flags = ["embed", "--input", "jsonl", "--task", "retrieval.query"];
    let rows = ropeway(&flags, lines.as_bytes()).lines();
    let alone = |flags: &[&str]| {
        let arguments: Vec<&str> = ["embed", "a b"].iter().chain(flags).copied().collect();
        ropeway(&arguments, b"").lines().remove(0)["embedding"].clone()
    };
    assert_eq!(rows[0]["embedding"], alone(&["--task", "retrieval.query"]));
    assert_eq!(rows[1]["embedding"], alone(&["--task", "retrieval.passage"]));
    assert_eq!(rows[2]["embedding"], alone(&[]));
    assert_eq!(
        rows[3]["embedding"],
        alone(&["--adapters", "separation=0.5,classification=0.5"])
    );
    let size = size.to_string();
    let int8 = [
        "--task",
        "retrieval.query",
        "--dimensions",
        &size,
        "--encoding",
        "int8",
    ];
    assert_eq!(rows[4]["embedding"], alone(&int8));
    assert!(rows[4]["scale"].as_f64().is_some_and(|scale| scale > 0.0));
    let different = |a: usize, b: usize| assert_ne!(rows[a]["embedding"], rows[b]["embedding"], "{a} {b}");
    [(0, 1), (0, 2), (1, 2), (0, 3)]
        .iter()
        .for_each(|&(a, b)| different(a, b));
}

#[test]
fn token_rows_chunks_and_ids_are_written() {
    let lines = r#"{"text": "One two. Three four.", "pooling": "none"}
{"text": "One two. Three four.", "spans": [[0, 8], [9, 20], [0, 20]]}
{"text": "One two. Three four.", "chunk_sentences": true}
{"input_ids": [0, 5, 6, 7, 2], "chunk_tokens": 2}
"#;
    let rows = ropeway(&["embed", "--input", "jsonl"], lines.as_bytes()).lines();
    let tokens = rows[0]["tokens"].as_u64().unwrap() as usize;
    assert_eq!(rows[0]["embedding"].as_array().unwrap().len(), tokens);
    assert_eq!(floats(&rows[0]["embedding"][0]).len(), hidden());
    let bounds = |row: &Value| -> Vec<(u64, u64)> {
        let chunks = row["chunks"].as_array().unwrap().iter();
        chunks
            .map(|chunk| (chunk["start"].as_u64().unwrap(), chunk["end"].as_u64().unwrap()))
            .collect()
    };
    assert_eq!(bounds(&rows[1]), [(0, 8), (9, 20), (0, 20)]);
    assert_eq!(floats(&rows[1]["chunks"][0]["embedding"]).len(), hidden());
    assert!(bounds(&rows[2]).len() > 1 || bounds(&rows[2])[0].1 <= 20);
    assert!(bounds(&rows[3]).len() > 1);
}

#[test]
fn bad_inputs_are_told_with_their_place_and_hurt_no_other() {
    let place = InputLocation::new(&[
        ("a.txt", b"good\nbad \xff\xfe\ngood\n"),
        (
            "b.jsonl",
            b"{\"text\": \"good\"}\n{\"text\": \"x\", \"txt\": 1, \"id\": \"q\"}\nnot json\n{\"input_ids\": [99999999]}\n\
              {\"text\": \"x\", \"task\": \"nope\"}\n{\"text\": \"x\", \"dimensions\": 3}\n{\"text\": \"good\"}\n",
        ),
    ]);
    fs::create_dir(place.path("folder")).unwrap();
    let ended = place.run(&["embed", "a.txt", "missing.txt", "folder", "b.jsonl", "good"]);
    assert_eq!(ended.code, Some(1));
    ended.says(&[
        "a.txt:2: invalid UTF-8 at byte 5 of the line",
        "missing.txt: No such file",
        "folder: is a folder",
        "b.jsonl:2: unknown key `txt`; known: id, text",
        "b.jsonl:3: not a JSON object",
        "b.jsonl:4: ",
        "b.jsonl:5: ",
        "retrieval.query",
        "b.jsonl:6: ",
        "6 of 11 inputs failed, 2 of the sources could not be read to the end; all others were done",
    ]);
    assert_eq!(ended.err.lines().count(), 9);
    let rows = ended.json();
    assert_eq!(
        ids(&rows),
        ["0", "1", "2", "3", "\"q\"", "5", "6", "7", "8", "9", "10"]
    );
    let good: Vec<bool> = rows.iter().map(|row| row.get("embedding").is_some()).collect();
    assert_eq!(
        good,
        [
            true, false, true, true, false, false, false, false, false, true, true
        ]
    );
    assert!(
        rows.iter()
            .all(|row| row.get("embedding").is_some() != row.get("error").is_some())
    );
    let embedding = &rows[0]["embedding"];
    assert!(
        [2, 3, 9, 10]
            .iter()
            .all(|&row| rows[row]["embedding"] == *embedding)
    );
}

#[test]
fn texts_that_were_cut_are_told_at_the_end() {
    let limit = info()["max_tokens"].as_u64().unwrap();
    let input = format!("short\n{0}\n{0}\n", "long ".repeat(limit as usize));
    let told = ropeway(&["embed"], input.as_bytes());
    let words = format!("2 of 3 inputs were longer than the model's limit of {limit} tokens");
    assert_eq!(
        (told.code, told.err.lines().count()),
        (Some(0), 1),
        "{}",
        told.err
    );
    assert!(told.err.contains(&words), "{}", told.err);
    assert_eq!(
        told.json().iter().filter(|row| row["truncated"] == true).count(),
        2
    );
    let ranked = ropeway(&["rank", "short"], input.as_bytes());
    let words =
        format!("2 of 4 texts, the query among them, were longer than the model's limit of {limit} tokens");
    assert!(
        ranked.code == Some(0) && ranked.err.contains(&words),
        "{}",
        ranked.err
    );
    assert_eq!(ropeway(&["rank", "short", "--quiet"], input.as_bytes()).err, "");
    assert_eq!(ropeway(&["embed", "--quiet"], input.as_bytes()).lines().len(), 3);
    assert_eq!(ropeway(&["embed"], b"short\n").lines().len(), 1);
}
