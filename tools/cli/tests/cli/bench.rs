//! `ropeway bench` on the CPU.

use std::io::{BufRead as _, BufReader};
use std::process::Command;

use serde_json::Value;

use crate::harness::{InputLocation, command, finish, floats};

const INPUTS: &[u8] = br#"{"text": "a warm coat"}
{"input_ids": [0, 9, 8, 2], "task": "separation"}
{"text": "a cold beer", "task": "retrieval.query"}
"#;

/// A contestant with the inputs of a place's `inputs.jsonl`.
fn contestant(place: &InputLocation) -> Command {
    let mut command = command(&[
        "bench",
        "contestant",
        "--device",
        "cpu",
        "--inputs",
        "inputs.jsonl",
    ]);
    command.current_dir(place.0.path());
    command
}

#[test]
fn a_contestant_runs_its_inputs_when_it_is_told_to() {
    let place = InputLocation::new(&[("inputs.jsonl", INPUTS)]);
    let said = finish(contestant(&place), b"2\nvectors\n0\n").lines();
    let embedded = place.run(&["embed", "--device", "cpu", "inputs.jsonl"]).lines();
    let [ready, runs, vectors, none] = &said[..] else {
        panic!("{said:?}")
    };
    assert_eq!(ready["ready"], true);
    assert!(ready["load_seconds"].as_f64().unwrap() > 0.0);
    let seconds = floats(&runs["seconds"]);
    assert!(
        seconds.len() == 2 && seconds.iter().all(|&time| time > 0.0),
        "{runs}"
    );
    let tokens: u64 = embedded.iter().map(|row| row["tokens"].as_u64().unwrap()).sum();
    assert_eq!(runs["tokens"], tokens);
    let want: Vec<&Value> = embedded.iter().map(|row| &row["embedding"]).collect();
    let got: Vec<&Value> = vectors["embeddings"].as_array().unwrap().iter().collect();
    assert_eq!(got.len(), 3);
    for (got, want) in got.iter().zip(want) {
        assert_eq!(floats(got), floats(want));
    }
    assert_eq!(none["seconds"], Value::Array(Vec::new()));
}

#[test]
fn a_contestant_names_what_it_cannot_serve() {
    let place = InputLocation::new(&[
        ("inputs.jsonl", INPUTS),
        (
            "task.jsonl",
            b"{\"text\": \"a\"}\n{\"text\": \"a\", \"task\": \"nope\"}\n",
        ),
        ("line.jsonl", b"a\n"),
        ("empty.jsonl", b""),
    ]);
    for (file, parts) in [
        ("task.jsonl", &["task.jsonl", "input 1", "nope"][..]),
        ("line.jsonl", &["line.jsonl", "input 0", "not a JSON object"]),
        ("empty.jsonl", &["empty.jsonl", "no inputs"]),
        ("none.jsonl", &["none.jsonl"]),
    ] {
        place
            .run(&["bench", "contestant", "--device", "cpu", "--inputs", file])
            .fails(2, parts);
    }
    finish(contestant(&place), b"many\n").fails(2, &["`many`", "vectors"]);
}

#[test]
fn the_encoder_is_measured_on_the_cpu() {
    let place = InputLocation::new(&[]);
    let run = place.run(&[
        "bench",
        "encoder",
        "--device",
        "cpu",
        "--quick",
        "--json",
        "report.json",
    ]);
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""));
    let rows: Vec<&str> = run.out.lines().filter(|line| line.starts_with("| ")).collect();
    let starts = [
        "| batch | tokens each |",
        "| 1 | 8 |",
        "| 8 | 8 |",
        "| 1 | 16 |",
        "| 8 | 16 |",
    ];
    assert_eq!(rows.len(), starts.len(), "{}", run.out);
    for (row, start) in rows.iter().zip(starts) {
        assert!(row.starts_with(start), "{}", run.out);
    }
    let report: Value = serde_json::from_slice(&place.read("report.json")).unwrap();
    assert!(
        report["device"]["name"].as_str().unwrap().starts_with("cpu"),
        "{report}"
    );
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 4);
    for row in rows {
        let per_second =
            1e6 * row["parameters"]["tokens"].as_f64().unwrap() / row["micros"]["median"].as_f64().unwrap();
        let off = row["tokens_per_s"].as_f64().unwrap() / per_second - 1.0;
        assert!(off.abs() < 1e-9, "{row}");
    }
}

/// Before anything is measured.
#[test]
fn a_report_is_no_file_of_the_model() {
    let place = InputLocation::new(&[]);
    crate::harness::write_model(&place.path("model"));
    let weights = place.read("model/model.safetensors");
    std::os::unix::fs::symlink("model/model.safetensors", place.path("link")).unwrap();
    for bench in ["encoder", "kernels", "serve"] {
        for file in ["model/model.safetensors", "link"] {
            let arguments = [
                "--model", "model", "bench", bench, "--quick", "--device", "cpu", "--json", file,
            ];
            place
                .run(&arguments)
                .fails(2, &["is a file of the model", "nothing was written"]);
        }
    }
    assert!(place.read("model/model.safetensors") == weights);
    assert_eq!(place.names(), ["link", "model"]);
}

/// In each class: every step of a pass, with and without adapters, beside a ceiling that was measured.
#[test]
fn the_steps_of_a_pass_are_measured_on_the_cpu() {
    let place = InputLocation::new(&[]);
    for precision in ["f32", "bf16"] {
        let run = place.run(&[
            "bench",
            "kernels",
            "--device",
            "cpu",
            "--precision",
            precision,
            "--quick",
            "--json",
            "kernels.json",
        ]);
        assert_eq!((run.code, run.err.as_str()), (Some(0), ""));
        let report: Value = serde_json::from_slice(&place.read("kernels.json")).unwrap();
        assert_eq!(report["precision"], precision);
        for ceiling in ["tflops", "gb_per_s"] {
            assert!(report["ceilings"][ceiling].as_f64().unwrap() > 0.0, "{report}");
        }
        let rows = report["rows"].as_array().unwrap();
        for group in ["embed", "gemm", "attention", "lora_down", "layernorm", "pool"] {
            assert!(
                rows.iter().any(|row| row["group"] == group),
                "no {group}: {report}"
            );
        }
        for row in rows {
            assert!(row["micros"]["median"].as_f64().unwrap() > 0.0, "{row}");
            assert!(row["fraction_of_bound"].as_f64().unwrap() > 0.0, "{row}");
        }
    }
}

/// Whatever is measured of a server is there, and every bar has its value; a server that runs already takes turns with it.
#[test]
fn servers_are_put_under_load() {
    let place = InputLocation::new(&[]);
    let mut peer = command(&["serve", "--device", "cpu", "--port", "0"])
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut stderr = BufReader::new(peer.stderr.take().unwrap());
    stderr.read_line(&mut said).unwrap();
    let url = said.trim().split_once(" on ").unwrap().1;
    let flags = [
        "bench",
        "serve",
        "--device",
        "cpu",
        "--quick",
        "--json",
        "report.json",
    ];
    let run = place.run(&[&flags[..], &["--against", &format!("peer={url}")]].concat());
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{}", run.out);
    let report: Value = serde_json::from_slice(&place.read("report.json")).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let of = |case: &str, server: &str| {
        let found = rows
            .iter()
            .find(|row| row["case"] == case && row["server"] == server);
        found.unwrap_or_else(|| panic!("no {case} of {server}: {report}"))
    };
    for (case, server) in [
        ("1 client", "ropeway"),
        ("1 client", "peer"),
        ("8 clients", "peer"),
        ("1 caller", "Service, in process"),
        ("0.5 × capacity", "ropeway"),
        ("queries beside documents", "ropeway"),
        ("documents beside queries", "ropeway"),
    ] {
        let row = of(case, server);
        assert!(row["answered"].as_u64().unwrap() > 0, "{row}");
        assert!(row["p50_ms"].as_f64().unwrap() > 0.0 && row["p50_ms"].as_f64() <= row["p99_ms"].as_f64());
        assert_eq!(
            (&row["failed"], &row["failure"]),
            (&0.into(), &Value::Null),
            "{row}"
        );
    }
    let bars = report["bars"].as_array().unwrap();
    assert_eq!(bars.len(), 10, "{bars:#?}");
    for bar in bars {
        let what = bar["what"].as_str().unwrap();
        // A load that was light after all has no refusal.
        assert!(bar["value"].is_f64() || what.contains("refusal"), "{what}: {bar}");
        assert!(run.out.contains(what), "{}", run.out);
        if what.contains("lost") {
            assert_eq!(bar["met"], true, "{report}");
        }
    }
    let some = ["--only", "clients,start", "--clients", "2"];
    let run = place.run(&[&flags[..], &some].concat());
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{}", run.out);
    let report: Value = serde_json::from_slice(&place.read("report.json")).unwrap();
    let of = |list: &str, key: &str| -> Vec<String> {
        let list = report[list].as_array().unwrap().iter();
        list.map(|item| item[key].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(of("rows", "case"), ["2 clients"]);
    assert_eq!(
        of("bars", "what"),
        ["from the start of the process until it is ready"]
    );
    peer.kill().unwrap();
    peer.wait().unwrap();
    place
        .run(&[
            "bench",
            "serve",
            "--device",
            "cpu",
            "--url",
            "http://192.0.2.1:80",
        ])
        .fails(2, &["192.0.2.1", "loopback"]);
    place
        .run(&["bench", "serve", "--device", "cpu", "--quick", "--url", url])
        .fails(2, &["cannot connect"]);
}
