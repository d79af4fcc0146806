//! Makes the report of tools/gpu/softcuda-parity from its records: `softcuda-parity-report RECORDS OUT.json OUT.md`.
//! Exit status 0 if everything agreed, 1 if not, 2 if there is no report.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::ExitCode;

use serde_json::{Value, json};

/// From best to worst.
const VERDICTS: [&str; 6] = ["ran", "exact", "within", "differs", "error", "unfinished"];

fn rank(verdict: &Value) -> usize {
    VERDICTS
        .iter()
        .position(|v| verdict == v)
        .unwrap_or(VERDICTS.len() - 1)
}

/// Joins a further launch of a program to what is known of it.
fn join(program: &mut Value, outcome: &Value) {
    for key in ["values", "differing", "nans", "wrong"] {
        program[key] = (program[key].as_u64().unwrap_or(0) + outcome[key].as_u64().unwrap_or(0)).into();
    }
    for key in ["worst_ulps", "worst_absolute"] {
        if outcome[key].as_f64().unwrap_or(0.0) > program[key].as_f64().unwrap_or(0.0) {
            program[key] = outcome[key].clone();
        }
    }
    if let (Some(sums), Some(more)) = (
        program["ulp_classes"].as_array().cloned(),
        outcome["ulp_classes"].as_array(),
    ) {
        let joined = sums
            .iter()
            .zip(more)
            .map(|(a, b)| a.as_u64().unwrap_or(0) + b.as_u64().unwrap_or(0));
        program["ulp_classes"] = joined.collect::<Vec<u64>>().into();
    } else if outcome["ulp_classes"].is_array() {
        program["ulp_classes"] = outcome["ulp_classes"].clone();
    }
    if program["rules"].as_array().is_none_or(Vec::is_empty) {
        program["rules"] = outcome["rules"].clone();
    }
    if program["first"].is_null() {
        program["first"] = outcome["first"].clone();
    }
    if program["verdict"].is_null() || rank(&outcome["verdict"]) > rank(&program["verdict"]) {
        program["verdict"] = outcome["verdict"].clone();
    }
    program["launches"] = (program["launches"].as_u64().unwrap_or(0) + 1).into();
}

fn report(records: &str) -> Result<Value, String> {
    let mut device = Value::Null;
    let mut programs: BTreeMap<String, Value> = BTreeMap::new();
    let mut failed = Vec::new();
    let mut tests = 0;
    let mut running: Option<String> = None;
    for line in records.lines() {
        let record: Value = serde_json::from_str(line).map_err(|e| format!("{e}: {line}"))?;
        let name = record["program"].as_str().unwrap_or_default().to_owned();
        match record["kind"].as_str() {
            Some("device") => device = record,
            Some("begin") => running = Some(name),
            Some("launch") => {
                running = None;
                join(
                    programs.entry(name).or_insert_with(|| json!({})),
                    &record["outcome"],
                );
            }
            Some("test") => {
                tests += 1;
                if let Some(name) = running.take() {
                    let outcome =
                        json!({"verdict": "unfinished", "first": "the process ended or was stopped here"});
                    join(programs.entry(name).or_insert_with(|| json!({})), &outcome);
                }
                if record["status"] != 0 {
                    failed.push(record);
                }
            }
            _ => return Err(format!("what is this record? {line}")),
        }
    }
    let mut counts = json!({});
    for verdict in VERDICTS {
        counts[verdict] = programs
            .values()
            .filter(|p| p["verdict"] == verdict)
            .count()
            .into();
    }
    let programs: Vec<Value> = programs
        .into_iter()
        .map(|(name, mut program)| {
            program["program"] = name.into();
            program
        })
        .collect();
    let agreed =
        programs.iter().all(|p| rank(&p["verdict"]) <= 2) && failed.is_empty() && !programs.is_empty();
    Ok(json!({
        "device": device, "agreed": agreed, "counts": counts, "tests": tests, "failed_tests": failed, "programs": programs,
    }))
}

fn markdown(report: &Value) -> String {
    let mut text = String::from("# softcuda beside a GPU\n\n");
    let device = &report["device"];
    let word = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    let _ = writeln!(
        text,
        "{}, compute capability {}, driver for CUDA {}. {} tests.\n\n| programs | |\n|---|---|",
        word(&device["name"]),
        word(&device["compute_capability"]),
        word(&device["driver"]),
        report["tests"]
    );
    for (verdict, words) in [
        ("exact", "agree in every bit"),
        ("within", "agree within their rule"),
        ("ran", "ran; no memory to compare"),
        ("differs", "DISAGREE"),
        ("error", "could not be run"),
        ("unfinished", "did not end"),
    ] {
        let _ = writeln!(text, "| {words} | {} |", report["counts"][verdict]);
    }
    let empty = Vec::new();
    let programs = report["programs"].as_array().unwrap_or(&empty);
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    let wrong: Vec<&Value> = programs.iter().filter(|p| rank(&p["verdict"]) > 2).collect();
    if !wrong.is_empty() {
        text.push_str("\n## Disagreements\n\n| program | values beyond the rule | first |\n|---|---|---|\n");
    }
    for p in wrong {
        let first = cell(p["first"].as_str().unwrap_or_default());
        let _ = writeln!(
            text,
            "| {} | {} of {} | {first} |",
            cell(&word(&p["program"])),
            p["wrong"],
            p["values"]
        );
    }
    let failed = report["failed_tests"].as_array().unwrap_or(&empty);
    if !failed.is_empty() {
        text.push_str("\n## Tests that failed\n\n");
    }
    for test in failed {
        let _ = writeln!(text, "- {}: exit status {}", word(&test["name"]), test["status"]);
    }
    text.push_str(
        "\n## Not bit for bit\n\nUlp: how many floating-point values differ by 0, 1, 2, up to 4, 16, 256, 65536, and more units in the \
         last place.\n\n| program | rule | bits differ | worst | ulp |\n|---|---|---|---|---|\n",
    );
    for p in programs
        .iter()
        .filter(|p| p["verdict"] == "within" || p["worst_ulps"].as_u64() > Some(0))
    {
        let rules: Vec<String> = p["rules"].as_array().unwrap_or(&empty).iter().map(word).collect();
        let classes: Vec<String> = p["ulp_classes"]
            .as_array()
            .unwrap_or(&empty)
            .iter()
            .map(Value::to_string)
            .collect();
        let _ = writeln!(
            text,
            "| {} | {} | {} of {} ({} NaN) | {} ulp, {:.3e} | {} |",
            cell(&word(&p["program"])),
            cell(&rules.join("; ")),
            p["differing"],
            p["values"],
            p["nans"],
            p["worst_ulps"],
            p["worst_absolute"].as_f64().unwrap_or(0.0),
            classes.join(" ")
        );
    }
    text.push_str("\n## Every bit\n\n");
    for p in programs.iter().filter(|p| p["verdict"] == "exact") {
        let _ = writeln!(text, "- {} ({} values)", word(&p["program"]), p["values"]);
    }
    text
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [records, json_out, text_out] = &arguments[..] else {
        eprintln!("usage: softcuda-parity-report RECORDS OUT.json OUT.md");
        return ExitCode::from(2);
    };
    let made = std::fs::read_to_string(records)
        .map_err(|e| format!("{records}: {e}"))
        .and_then(|records| report(&records))
        .and_then(|report| {
            let text = serde_json::to_string_pretty(&report).map_err(|e| e.to_string())? + "\n";
            std::fs::write(json_out, text).map_err(|e| format!("{json_out}: {e}"))?;
            std::fs::write(text_out, markdown(&report)).map_err(|e| format!("{text_out}: {e}"))?;
            Ok(report)
        });
    match made {
        Ok(report) => ExitCode::from(u8::from(report["agreed"] != true)),
        Err(message) => {
            eprintln!("softcuda-parity-report: {message}");
            ExitCode::from(2)
        }
    }
}
