//! The other commands, flags, and help.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{InputLocation, floats, hidden, info, ropeway, test_model};

#[test]
fn wrong_flags_end_the_run_before_it_starts() {
    for (arguments, parts) in [
        (
            &["embed", "x", "--task", "nope"][..],
            &["nope", "retrieval.query"][..],
        ),
        (&["embed", "x", "--dimensions", "3"], &["3", "any"]),
        (
            &["embed", "x", "--dimensions", "0"],
            &["wanted a whole number from 1"],
        ),
        (&["embed", "x", "--adapters", "separation=nan"], &["NaN"]),
        (&["embed", "x", "--adapters", "nope=1"], &["nope"]),
        (
            &["embed", "x", "--adapters", "separation=1", "--task", "separation"],
            &["--task", "ropeway embed --help"],
        ),
        (
            &["embed", "x", "--pooling", "median"],
            &["known: mean, cls, lasttoken, max, mean_sqrt_len_tokens, weightedmean, none"],
        ),
        (
            &["embed", "x", "--encoding", "f64"],
            &["known: f32, f16, int8, binary, base64"],
        ),
        (&["embed", "x", "--adapter", "x"], &["NAME=FOLDER"]),
        (&["embed", "x", "--adapter", "x=/nonexistent"], &["/nonexistent"]),
        (&["embed", "x", "--device", "tpu"], &["tpu", "cpu"]),
        (&["embed", "x", "--format", "npy"], &["needs -o FILE"]),
        (
            &[
                "embed",
                "x",
                "--format",
                "npy",
                "-o",
                "out",
                "--encoding",
                "base64",
            ],
            &["--encoding f32"],
        ),
        (
            &["embed", "x", "--format", "npy", "-o", "out", "--encoding", "int8"],
            &["scales of int8", "jsonl or safetensors"],
        ),
        (
            &["embed", "x", "--format", "npy", "-o", "out", "--pooling", "none"],
            &["one vector per input"],
        ),
        (
            &[
                "embed",
                "x",
                "--format",
                "npy",
                "-o",
                "out",
                "--chunk-tokens",
                "4",
            ],
            &["one vector per input"],
        ),
        (
            &["embed", "x", "--format", "safetensors", "-o", "out", "--resume"],
            &["jsonl and npy"],
        ),
        (&["embed", "x", "--resume"], &["--output"]),
        (&["embed", "x", "-o", "missing/out"], &[]),
        (&["embed", "x", "-o", "."], &["is a folder"]),
        (
            &["embed", "x", "--model", "/nonexistent/model"],
            &["/nonexistent/model"],
        ),
        (
            &["embed", "x", "--model", ""],
            &["--model", "ROPEWAY_MODEL", "tools/fetch-model"],
        ),
        (&["embed", "x", "--ditch"], &["--ditch", "ropeway embed --help"]),
        (&["ditch"], &["ditch", "ropeway --help"]),
        (&[], &["--help"]),
        (&["chunks", "--by", "sentences", "--size", "5"], &["--by tokens"]),
        (&["rank", "q", "--top-k", "0"], &["from 1"]),
        (
            &[
                "diff",
                "--left-task",
                "separation",
                "--left-adapters",
                "separation=1",
            ],
            &["--left-task", "ropeway diff --help"],
        ),
        (
            &[
                "diff",
                "x",
                "--left-prompt",
                "one two three",
                "--right-prompt",
                "",
            ],
            &["do not have the same tokens"],
        ),
    ] {
        let place = InputLocation::new(&[]);
        let code = if arguments.contains(&"missing/out") { 3 } else { 2 };
        place.run(arguments).fails(code, parts);
        assert_eq!(place.names(), [""; 0], "{arguments:?}");
    }
}

#[test]
fn help_has_examples_and_version_is_there() {
    for command in [
        &["embed"][..],
        &["rank"],
        &["chunks"],
        &["diff"],
        &["models"],
        &["models", "info"],
        &["models", "verify"],
        &["models", "pull"],
        &["devices"],
        &["completions"],
        &[],
    ] {
        let arguments: Vec<&str> = command.iter().copied().chain(["--help"]).collect();
        let ended = ropeway(&arguments, b"");
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
        assert!(ended.out.contains("Examples:"), "{command:?}: {}", ended.out);
    }
    let ended = ropeway(&["--help"], b"");
    assert!(ended.out.contains("Exit codes:") && ended.out.contains("ROPEWAY_MODEL"));
    assert_eq!(
        ropeway(&["--version"], b"").out,
        format!("ropeway {}\n", env!("CARGO_PKG_VERSION"))
    );
    assert!(ropeway(&["completions", "bash"], b"").out.contains("_ropeway()"));
}

#[test]
fn devices_tells_what_is_embedded() {
    let text = ropeway(&["devices"], b"").out;
    let kinds: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    // Some GPUs, or one line that says why there are none.
    let (first, rest) = kinds.split_first().unwrap();
    let (last, cuda) = rest.split_last().unwrap();
    assert_eq!((*first, *last), ("cpu", "kernels"));
    let numbered: Vec<String> = (0..cuda.len()).map(|index| format!("cuda:{index}")).collect();
    assert!(cuda == ["cuda"] || cuda == numbered, "{text}");
    let last = text.lines().last().unwrap_or_default();

    let json = ropeway(&["devices", "--json"], b"").out;
    let devices: Vec<Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(devices.len(), 1 + cuda.len());
    for device in &devices {
        assert!(device["kind"].is_string() && device["name"].is_string() && device["detail"].is_string());
        assert!(device["usable"].is_boolean());
        let kind = device["kind"].as_str().unwrap();
        assert_eq!(device.get("kernels").is_some(), kind.starts_with("cuda"));
        let named = kind.starts_with("cuda:");
        for field in ["uuid", "capability", "memory", "multiprocessors", "simulated"] {
            assert_eq!(device.get(field).is_some(), named, "{field}");
        }
        if device["name"].as_str().unwrap().starts_with("softcuda") {
            assert_eq!(device["simulated"], true);
            assert!(device["detail"].as_str().unwrap().contains("`auto` never takes"));
        }
    }
    let kernels = &devices[1]["kernels"];
    match kernels["compiler"].as_str() {
        Some(compiler) => {
            assert!(
                compiler.starts_with("nvcc 13.") && last.contains(compiler),
                "{last}"
            );
            assert_eq!(
                kernels["modules"]["embed"],
                json!(["sm_80", "compute_80", "sm_90", "compute_90"])
            );
            assert!(
                last.contains("embed, ") && last.contains(" for sm_80, compute_80, sm_90, compute_90"),
                "{last}"
            );
        }
        None => {
            let reason = kernels["reason"].as_str().unwrap();
            assert!(last.contains("none") && last.ends_with(reason), "{last}");
        }
    }
}

#[test]
fn rank_puts_the_nearest_first() {
    let text = "the red cat\n\n\u{6c34}\u{6e29} is low\nthe red cat sleeps\nsomething else\n";
    let place = InputLocation::new(&[
        ("a.txt", text.as_bytes()),
        ("b.jsonl", b"{\"id\": 7, \"text\": \"in json\"}\n"),
    ]);
    let same = ["--query-task", "separation", "--passage-task", "separation"];
    let arguments: Vec<&str> = ["rank", "the red cat", "a.txt", "b.jsonl"]
        .iter()
        .chain(&same)
        .copied()
        .collect();
    let rows = place.run(&arguments).lines();
    assert_eq!(rows.len(), 5);
    assert_eq!(rows[0]["id"], "a.txt:1");
    assert_eq!(rows[0]["text"], "the red cat");
    assert!((rows[0]["score"].as_f64().unwrap() - 1.0).abs() < 1e-5);
    let scores: Vec<f64> = rows.iter().map(|row| row["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    let ranks: Vec<u64> = rows.iter().map(|row| row["rank"].as_u64().unwrap()).collect();
    assert_eq!(ranks, [1, 2, 3, 4, 5]);
    assert!(rows.iter().any(|row| row["id"] == 7));
    assert_eq!(place.run(&["rank", "q", "a.txt", "-k", "2"]).lines().len(), 2);
    let passages = place.run(&["rank", "q", "a.txt", "--passages"]).lines();
    assert_eq!(passages.len(), 2);
    assert!(passages.iter().any(|row| row["id"] == "a.txt:3" && row["text"] == text.split_once("\n\n").unwrap().1.trim_end()));
    let ended = place.run(&["rank", "q", "missing", "a.txt"]);
    assert_eq!((ended.code, ended.json().len()), (Some(1), 4));
    ended.says(&["missing: No such file"]);
}

#[test]
fn documents_are_chunked() {
    let text = "First things first. \u{6c34} comes second. The third sentence is here.\n";
    let place = InputLocation::new(&[("doc.txt", text.as_bytes())]);
    let rows = place.run(&["chunks", "doc.txt"]).lines();
    assert!(rows.len() > 1);
    let points: Vec<char> = text.chars().collect();
    for row in &rows {
        let at = |key: &str| row[key].as_u64().unwrap() as usize;
        assert_eq!(
            row["text"],
            points[at("start")..at("end")].iter().collect::<String>()
        );
        assert_eq!(floats(&row["embedding"]).len(), hidden());
    }
    // The same chunks as `embed` makes.
    let lines = format!("{}\n", serde_json::json!({"text": text, "chunk_sentences": true}));
    let embedded = ropeway(&["embed", "--input", "jsonl"], lines.as_bytes()).lines();
    assert_eq!(embedded[0]["chunks"][0]["embedding"], rows[0]["embedding"]);
    let tokens = place.run(&["chunks", "doc.txt", "--size", "4"]).lines();
    assert!(tokens.len() > 2);
    let ranked = place
        .run(&["chunks", "doc.txt", "--query", "second", "-k", "2"])
        .lines();
    assert_eq!(ranked.len(), 2);
    assert!(ranked[0]["score"].as_f64() >= ranked[1]["score"].as_f64());
    assert_eq!(ropeway(&["chunks"], text.as_bytes()).lines().len(), rows.len());
    fs::write(place.path("bad.txt"), b"good\n\xff\n").unwrap();
    place
        .run(&["chunks", "bad.txt"])
        .fails(1, &["bad.txt:2: invalid UTF-8"]);
    place
        .run(&["chunks", "missing.txt"])
        .fails(1, &["missing.txt: No such file"]);
}

/// Of a device that is not here.
#[test]
fn a_plan_is_shown_with_what_its_steps_are_predicted_to_take() {
    let plan = |more: &[&str]| {
        let base = ["diff", "--show-plan", "--device-name"];
        ropeway(&base.iter().chain(more).copied().collect::<Vec<_>>(), b"")
    };
    let shown = |more: &[&str]| {
        let ended = plan(more);
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{more:?}");
        ended.out
    };
    // Of each row the cells, and of the head the number of steps and the µs.
    let parts = |out: &str| {
        let cells = |line: &str| -> Vec<String> {
            line.trim_matches('|')
                .split('|')
                .map(|cell| cell.trim().to_owned())
                .collect()
        };
        let rows: Vec<Vec<String>> = out
            .lines()
            .filter(|line| line.starts_with('|'))
            .skip(2)
            .map(cells)
            .collect();
        let (_, head) = out.lines().next().unwrap().split_once(": ").unwrap();
        let numbers = head.split(' ').filter_map(|word| word.parse::<f64>().ok());
        (rows, numbers.collect::<Vec<f64>>())
    };
    let kinds = shown(&["h200", "--length", "40", "--task", "separation"]);
    let all = shown(&["h200", "--length", "40", "--task", "separation", "--all"]);
    assert!(
        kinds.contains("NVIDIA H200") && kinds.contains("data sheet"),
        "{kinds}"
    );
    let (rows, numbers) = parts(&kinds);
    let [steps, micros] = numbers[..] else {
        panic!("{kinds}")
    };
    let (each, same) = parts(&all);
    assert_eq!(same, numbers, "{all}");
    assert_eq!(each.len() as f64, steps);
    assert!(
        rows.len() < each.len(),
        "two layers have rows of their own: {kinds}"
    );
    let sum = |rows: &[Vec<String>]| -> f64 {
        let number = |cell: &String| cell.parse::<f64>().unwrap();
        rows.iter().map(|row| number(&row[3]) * number(&row[4])).sum()
    };
    for rows in [&rows, &each] {
        assert!((sum(rows) - micros).abs() < 0.06 * steps + 0.5, "{kinds}{all}");
        assert!(rows.iter().all(|row| row[2] == "invariant"), "{kinds}");
    }
    let kernels: Vec<&str> = each.iter().map(|row| row[1].as_str()).collect();
    for kernel in ["embed", "attention small", "lora_down", "layernorm", "pool"] {
        assert!(kernels.contains(&kernel), "no {kernel}: {all}");
    }

    let f16 = shown(&["NVIDIA L4", "--precision", "f16", "--numerics", "fastest"]);
    assert!(
        f16.contains("in f16 on NVIDIA L4") && f16.contains("fastest"),
        "{f16}"
    );

    plan(&["l4", "--kernels", "sm90"]).fails(2, &["NVIDIA L4", "compute capability 9.0"]);
    plan(&["h200", "--precision", "int8"]).fails(2, &["bf16 or f16", "int8"]);
    plan(&["b9"]).fails(2, &["`b9` is not one of", "h200"]);
    ropeway(&["diff", "--show-plan"], b"").fails(2, &["--device-name"]);
    ropeway(&["diff", "--device-name", "h200"], b"").fails(2, &["--show-plan"]);
}

#[test]
fn two_sides_are_compared() {
    let both = ["diff", "--left", "cpu", "--right", "cpu"];
    let with = |rest: &[&str]| ropeway(&both.iter().chain(rest).copied().collect::<Vec<_>>(), b"");
    // A side's own options go before those of both.
    let same = with(&[
        "--task",
        "retrieval.query",
        "--prompt",
        "one",
        "--left-adapters",
        "separation=1",
        "--left-prompt",
        "two: ",
        "--right-adapters",
        "separation=1",
        "--right-prompt",
        "two: ",
    ]);
    assert_eq!((same.code, same.err.as_str()), (Some(0), ""));
    assert!(
        same.out.ends_with("the largest relative difference is 0.0e0\n"),
        "{}",
        same.out
    );
    let other = with(&[
        "--length",
        "9",
        "--adapters",
        "separation=1",
        "--left-adapters",
        "separation=0.5",
    ]);
    assert!(other.out.starts_with("DIFFERS"), "{}", other.out);
    other.fails(1, &["the first step that disagrees is"]);
}

#[test]
fn models_are_described_and_verified() {
    let info = info();
    assert!(info["parameters"].as_u64().unwrap() > 0);
    assert!(
        info["tasks"]
            .as_array()
            .unwrap()
            .iter()
            .any(|task| task["name"] == "retrieval.query")
    );
    let table = ropeway(&["models", "info"], b"").out;
    assert!(table.contains("Matryoshka sizes") && table.contains("retrieval.query"));
    let ended = ropeway(&["models", "verify"], b"");
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.out.contains("all finite"));
    let place = InputLocation::new(&[]);
    let pulled = place.run(&["models", "pull", test_model().to_str().unwrap()]);
    assert_eq!(pulled.out.trim_end(), test_model().to_str().unwrap());
    place.run(&["models", "info", "."]).fails(2, &["config.json"]);
}

#[test]
fn decisions_are_explained_with_their_files() {
    let explained = ropeway(&["models", "explain"], b"").out;
    for words in [
        "longest input",
        "also: config.json: max_position_embeddings",
        "task retrieval.query",
        "task_instructions",
    ] {
        assert!(explained.contains(words), "{words}:\n{explained}");
    }
    let json = ropeway(&["models", "explain", "--json"], b"").json().remove(0);
    let decisions = json["decisions"].as_array().unwrap();
    let positions = decisions.iter().find(|decision| decision["name"] == "positions");
    let positions = positions.unwrap();
    assert_eq!(positions["file"], "config.json");
    assert_eq!(positions["key"], "rotary_emb_base");
    assert!(json["unread"].is_array() && json["unknown_settings"].is_array());
}

#[test]
fn names_of_a_models_tasks_do_not_reach_the_terminal_as_they_are() {
    let config = br#"{"model_type": "bert", "vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 128, "max_position_embeddings": 64, "type_vocab_size": 2,
        "hidden_act": "gelu", "layer_norm_eps": 1e-12}"#;
    let prompts = br#"{"prompts": {"\u001b[31mred\u202e": "p: "}}"#;
    let place = InputLocation::new(&[
        ("config.json", config),
        ("config_sentence_transformers.json", prompts),
    ]);
    let table = place.run(&["models", "info", "."]);
    assert_eq!(table.code, Some(0), "{}", table.err);
    assert!(table.out.contains("\\u{1b}[31mred\\u{202e}"), "{}", table.out);
    assert!(!table.out.contains(['\u{1b}', '\u{202e}']), "{}", table.out);
    // There are no weights, which it looks at.
    let refused = place.run(&["models", "explain", "."]);
    refused.fails(2, &["neither model.safetensors"]);
}

#[test]
fn names_of_tensors_and_folders_do_not_reach_the_terminal_as_they_are() {
    let folder = "mo\u{1b}[31mdel\u{feff}";
    let place = InputLocation::new(&[]);
    crate::harness::write_model(&place.path(folder));
    let path = place.path(folder).join("model.safetensors");
    let weights = fs::read(&path).unwrap();
    let (length, rest) = weights.split_at(8);
    let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
    let mut header: Value = serde_json::from_slice(header).unwrap();
    for number in 0..100 {
        let at = data.len() + 4 * number;
        let tensor = json!({"dtype": "F32", "shape": [1], "data_offsets": [at, at + 4]});
        header[format!("\u{1b}]0;owned\u{7}\u{9b}2J\u{200b}\nnothing: all is well {number:03}")] = tensor;
    }
    let mut header = header.to_string();
    header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
    let length = (header.len() as u64).to_le_bytes();
    let parts = [&length[..], header.as_bytes(), data, &[0; 400]];
    fs::write(&path, parts.concat()).unwrap();
    for (command, lines) in [("verify", 2), ("info", 0), ("explain", 0)] {
        let ended = place.run(&["models", command, folder]);
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        let out = &ended.out;
        let hidden = |c: char| c != '\n' && (c.is_control() || matches!(c, '\u{200b}' | '\u{feff}'));
        assert!(!out.contains(hidden), "{out:?}");
        if lines > 0 {
            assert_eq!(out.lines().count(), lines, "{out}");
            assert!(out.contains(r"mo\u{1b}[31mdel\u{feff}: sound"), "{out}");
            assert!(
                out.contains(r"not used: \u{1b}]0;owned") && out.contains(" 019 and "),
                "{out}"
            );
        }
        let json = place.run(&["models", "info", folder, "--json"]);
        assert!(!json.out.contains(hidden), "{:?}", json.out);
        assert_eq!(json.json()[0]["folder"], folder);
    }
}
