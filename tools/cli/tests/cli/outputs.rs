//! What `embed` writes: formats, files, and what is left when writing ends early.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use crate::harness::{InputLocation, command, finish, floats, hidden, info, ropeway};

#[test]
fn a_reader_that_leaves_early_ends_the_run_quietly() {
    for arguments in [
        &["embed"][..],
        &["rank", "query", "-k", "100000"],
        &["--help"],
        &["completions", "bash"],
    ] {
        let mut child = command(arguments).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let feeder = std::thread::spawn(move || {
            for number in 0..3000 {
                if writeln!(input, "line {number}").is_err() {
                    break;
                }
            }
        });
        let mut out = BufReader::new(child.stdout.take().unwrap());
        if arguments == ["embed"] {
            let mut line = String::new();
            out.read_line(&mut line).unwrap();
            assert!(line.starts_with("{\"id\":0,"));
        }
        drop(out);
        let mut err = String::new();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert_eq!(
            (child.wait().unwrap().code(), err.as_str()),
            (Some(0), ""),
            "{arguments:?}"
        );
        feeder.join().unwrap();
    }
}

#[test]
fn a_full_disk_is_told_and_has_its_own_exit_code() {
    for arguments in [
        &["embed", "x"][..],
        &["rank", "q", "-"],
        &["devices"],
        &["models", "info"],
        &["--help"],
    ] {
        let mut command = command(arguments);
        command.stdout(File::options().write(true).open("/dev/full").unwrap());
        finish(command, b"line\n").fails(3, &["standard output: No space left on device"]);
    }
    ropeway(&["embed", "x", "-o", "/dev/full"], b"").fails(3, &["/dev/full: No space left on device"]);
}

#[test]
fn a_reader_that_is_slow_gets_each_line_as_it_comes() {
    let mut child = command(&["embed"]).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    for number in 0..3 {
        writeln!(input, "line {number}").unwrap();
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert!(line.starts_with(&format!("{{\"id\":{number},")), "{line}");
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}

fn wait_for_rows(path: &Path, bytes: u64) {
    let start = Instant::now();
    while fs::metadata(path).map_or(0, |meta| meta.len()) < bytes {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "no rows in {}",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_killed_run_is_resumed() {
    let lines: String = (0..200).map(|n| format!("line number {n}\n")).collect();
    let place = InputLocation::new(&[("in.txt", lines.as_bytes())]);
    for format in ["jsonl", "npy"] {
        let flags = ["embed", "in.txt", "--format", format, "-o"];
        let with = |rest: &[&str]| place.run(&flags.iter().chain(rest).copied().collect::<Vec<_>>());
        assert_eq!(with(&["whole"]).code, Some(0));
        // A run that gets half of its input, and then waits until it is killed.
        let mut command = command(&["embed", "--format", format, "-o", "out"]);
        let mut child = command.current_dir(place.0.path()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let half: usize = lines.lines().take(90).map(|line| line.len() + 1).sum();
        input.write_all(&lines.as_bytes()[..half]).unwrap();
        wait_for_rows(&place.path("out.partial"), 2000);
        kill(child);
        drop(input);
        assert!(!place.path("out").exists());
        let left = place.read("out.partial").len();

        with(&["out"]).fails(2, &["out.partial is what an unfinished run left", "--resume"]);
        assert_eq!(place.read("out.partial").len(), left);
        let resumed = with(&["out", "--resume"]);
        assert_eq!((resumed.code, resumed.err.as_str()), (Some(0), ""));
        assert!(place.read("out") == place.read("whole"), "{format}");
        // Nothing is left to do.
        assert_eq!(with(&["out", "--resume"]).code, Some(0));
        assert!(place.read("out") == place.read("whole"));
        for name in ["out", "whole"] {
            fs::remove_file(place.path(name)).unwrap();
        }
        assert_eq!(place.names(), ["in.txt"]);
    }
}

#[test]
fn resume_refuses_what_another_run_made() {
    let place = InputLocation::new(&[
        (
            "in.jsonl",
            b"{\"id\": 1, \"text\": \"a\"}\n{\"id\": 2, \"text\": \"b\"}\n",
        ),
        (
            "other.jsonl",
            b"{\"id\": 1, \"text\": \"a\"}\n{\"id\": 3, \"text\": \"b\"}\n",
        ),
        ("short.jsonl", b"{\"id\": 1, \"text\": \"a\"}\n"),
        ("notes", b"my notes\nhave no\nrows"),
    ]);
    assert_eq!(place.run(&["embed", "in.jsonl", "-o", "out"]).code, Some(0));
    let out = place.read("out");
    let refused = |arguments: &[&str], parts: &[&str]| place.run(arguments).fails(2, parts);
    refused(
        &["embed", "other.jsonl", "-o", "out", "--resume"],
        &["row 2 has the id 2", "other.jsonl:2", "3"],
    );
    refused(
        &["embed", "short.jsonl", "-o", "out", "--resume"],
        &["2 rows or more, the inputs are 1"],
    );
    let query = [
        "embed",
        "in.jsonl",
        "-o",
        "out",
        "--resume",
        "--task",
        "retrieval.query",
    ];
    refused(&query, &["its last row is not what this run makes of in.jsonl:2"]);
    for options in [
        &["--encoding", "base64"][..],
        &["--encoding", "f16"],
        &["--encoding", "int8"],
        &["--chunk-tokens", "100"],
        &["--chunk-sentences"],
        &["--pooling", "none"],
    ] {
        let arguments = [&["embed", "in.jsonl", "-o", "out", "--resume"], options].concat();
        refused(
            &arguments,
            &["its last row is not what this run makes of in.jsonl:2"],
        );
    }
    refused(
        &["embed", "in.jsonl", "-o", "notes", "--resume"],
        &["line 1 is not a row"],
    );
    let mine = b"{\"id\":1,\"my\":\"notes\"";
    fs::write(place.path("mine"), mine).unwrap();
    refused(
        &["embed", "in.jsonl", "-o", "mine", "--resume"],
        &["line 1 is not a row"],
    );
    assert_eq!(place.read("mine"), mine);
    fs::remove_file(place.path("mine")).unwrap();
    refused(
        &["embed", "in.jsonl", "-o", "notes", "--resume", "--format", "npy"],
        &["not an array"],
    );
    refused(
        &["embed", "in.jsonl", "-o", "in.jsonl"],
        &["both an input and the output"],
    );
    assert_eq!(place.read("out"), out);
    assert_eq!(place.read("notes"), b"my notes\nhave no\nrows");
    assert_eq!(
        place.names(),
        ["in.jsonl", "notes", "other.jsonl", "out", "short.jsonl"]
    );
}

/// Header and data of a .npy file.
fn npy(bytes: &[u8]) -> (String, &[u8]) {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!((10 + length) % 64, 0);
    (
        String::from_utf8(bytes[10..10 + length].to_vec()).unwrap(),
        &bytes[10 + length..],
    )
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|&four| f32::from_le_bytes(four))
        .collect()
}

#[test]
fn arrays_hold_what_jsonl_says() {
    let place = InputLocation::new(&[
        ("in.jsonl", b"{\"text\": \"a\"}\nbad\n{\"text\": \"b c\"}\n"),
        ("good.txt", b"a\nb c\n"),
    ]);
    let width = hidden();
    let rows = place.run(&["embed", "good.txt"]).lines();
    let ended = place.run(&["embed", "in.jsonl", "--format", "npy", "-o", "out.npy"]);
    assert_eq!(ended.code, Some(1));
    let file = place.read("out.npy");
    let (header, data) = npy(&file);
    let wanted = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': (3, {width}), }}");
    assert_eq!(header.trim_end(), wanted);
    let data = f32s(data);
    assert_eq!(data[..width], floats(&rows[0]["embedding"]));
    assert!(data[width..2 * width].iter().all(|x| x.is_nan()));
    assert_eq!(data[2 * width..], floats(&rows[1]["embedding"]));

    for (encoding, descr, bytes) in [("f16", "<f2", 2 * width), ("binary", "|u1", width / 8)] {
        let ended = place.run(&[
            "embed",
            "good.txt",
            "--format",
            "npy",
            "--encoding",
            encoding,
            "-o",
            "out.npy",
        ]);
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        let file = place.read("out.npy");
        let (header, data) = npy(&file);
        assert!(header.contains(descr), "{header}");
        assert_eq!(data.len(), 2 * bytes);
        let rows = place.run(&["embed", "good.txt", "--encoding", encoding]).lines();
        let first: Vec<f64> = rows[0]["embedding"]
            .as_array()
            .unwrap()
            .iter()
            .map(|x| x.as_f64().unwrap())
            .collect();
        match encoding {
            "binary" => assert!(data.iter().zip(&first).all(|(&byte, &x)| f64::from(byte) == x)),
            _ => {
                let halves = data
                    .as_chunks()
                    .0
                    .iter()
                    .map(|&two| half::f16::from_le_bytes(two));
                assert!(
                    halves
                        .zip(&first)
                        .all(|(half, &x)| half == half::f16::from_f64(x))
                );
            }
        }
    }
    // Integers have no NaN: the run ends at the bad input, and can go on once that is mended.
    let bits = [
        "embed",
        "in.jsonl",
        "--format",
        "npy",
        "--encoding",
        "binary",
        "-o",
        "bits.npy",
    ];
    let ended = place.run(&bits);
    assert_eq!(ended.code, Some(1));
    ended.says(&["in.jsonl:2: ", "leave a row out"]);
    fs::write(
        place.path("in.jsonl"),
        "{\"text\": \"a\"}\n{\"text\": \"x\"}\n{\"text\": \"b c\"}\n",
    )
    .unwrap();
    let resume: Vec<&str> = bits.iter().copied().chain(["--resume"]).collect();
    assert_eq!(place.run(&resume).code, Some(0));
    let columns = width / 8;
    assert!(
        npy(&place.read("bits.npy"))
            .0
            .contains(&format!("(3, {columns})"))
    );
    // One size per array, which is not the first line's to choose, and no rows at all are an array as well.
    let size = info()["matryoshka"][0].as_u64().unwrap();
    let mixed = format!("{{\"text\": \"a\", \"dimensions\": {size}}}\n{{\"text\": \"a\"}}\n");
    fs::write(place.path("in.jsonl"), mixed).unwrap();
    for (format, what) in [("npy", "array"), ("safetensors", "file")] {
        let ended = place.run(&["embed", "in.jsonl", "--format", format, "-o", "mixed"]);
        assert_eq!(ended.code, Some(1));
        ended.says(&[
            &format!("in.jsonl:1: has {size} columns, the {what} has {width} (--dimensions"),
            "1 of 2 inputs failed",
        ]);
    }
    let flags = [
        "embed",
        "in.jsonl",
        "--format",
        "npy",
        "-o",
        "narrow.npy",
        "--dimensions",
    ];
    let narrow = |rest: &[&str]| place.run(&flags.iter().chain(rest).copied().collect::<Vec<_>>());
    assert_eq!(narrow(&[&size.to_string()]).code, Some(0));
    assert!(npy(&place.read("narrow.npy")).0.contains(&format!("(2, {size})")));
    let wide = narrow(&[&width.to_string(), "--resume", "--any-dimensions"]);
    wide.fails(2, &[&format!("has {size} columns, the rows of this run {width}")]);
    fs::write(place.path("empty.txt"), "").unwrap();
    assert_eq!(
        place
            .run(&["embed", "empty.txt", "--format", "npy", "-o", "empty.npy"])
            .code,
        Some(0)
    );
    assert!(npy(&place.read("empty.npy")).0.contains(&format!("(0, {width})")));
}

#[test]
fn safetensors_hold_what_jsonl_says() {
    let lines = "{\"text\": \"One. Two.\"}\nbad\n{\"text\": \"One. Two.\", \"spans\": [[0, 4], [5, 9]], \"id\": \"x\"}\n";
    let place = InputLocation::new(&[("in.jsonl", lines.as_bytes()), ("plain.txt", b"a\nb c\n")]);
    let (width, rows) = (hidden(), place.run(&["embed", "in.jsonl"]).json());
    let ended = place.run(&["embed", "in.jsonl", "--format", "safetensors", "-o", "out"]);
    assert_eq!(ended.code, Some(1));
    let file = place.read("out");
    let read = safetensors::SafeTensors::deserialize(&file).unwrap();
    let tensor = |name: &str| read.tensor(name).unwrap();
    assert_eq!(tensor("embeddings").shape(), [4, width]);
    let data = f32s(tensor("embeddings").data());
    assert_eq!(data[..width], floats(&rows[0]["embedding"]));
    assert!(data[width..2 * width].iter().all(|x| x.is_nan()));
    assert_eq!(
        data[2 * width..3 * width],
        floats(&rows[2]["chunks"][0]["embedding"])
    );
    assert_eq!(data[3 * width..], floats(&rows[2]["chunks"][1]["embedding"]));
    let u32s = |name: &str| -> Vec<u32> {
        tensor(name)
            .data()
            .as_chunks()
            .0
            .iter()
            .map(|&four| u32::from_le_bytes(four))
            .collect()
    };
    assert_eq!(u32s("rows"), [1, 1, 2]);
    assert_eq!(u32s("spans"), [0, 0, 0, 0, 0, 4, 5, 9]);
    let tokens = |row: usize| rows[row]["tokens"].as_u64().unwrap() as u32;
    assert_eq!(u32s("tokens"), [tokens(0), 0, tokens(2)]);
    assert_eq!(tensor("truncated").data(), [0, 0, 0]);
    assert_eq!(tensor("ids").data(), br#"[0,1,"x"]"#);

    for encoding in ["f32", "f16", "int8", "binary"] {
        let ended = place.run(&[
            "embed",
            "plain.txt",
            "--format",
            "safetensors",
            "-o",
            "out",
            "--encoding",
            encoding,
        ]);
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
        let file = place.read("out");
        let read = safetensors::SafeTensors::deserialize(&file).unwrap();
        let width = if encoding == "binary" { width / 8 } else { width };
        assert_eq!(read.tensor("embeddings").unwrap().shape(), [2, width]);
        let mut names: Vec<&str> = read.names();
        names.sort();
        let scales = if encoding == "int8" { &["scales"][..] } else { &[] };
        assert_eq!(
            names,
            [&["embeddings"], scales, &["tokens", "truncated"]].concat()
        );
    }
    // Row n is input n there, whatever failed before it.
    for encoding in ["int8", "binary"] {
        let ended = place.run(&[
            "embed",
            "in.jsonl",
            "--format",
            "safetensors",
            "-o",
            "out",
            "--encoding",
            encoding,
        ]);
        assert_eq!(ended.code, Some(1), "{}", ended.err);
        let file = place.read("out");
        let read = safetensors::SafeTensors::deserialize(&file).unwrap();
        let embeddings = read.tensor("embeddings").unwrap();
        let width = embeddings.shape()[1];
        let is_zero: Vec<bool> = embeddings
            .data()
            .chunks(width)
            .map(|row| row.iter().all(|&x| x == 0))
            .collect();
        assert_eq!(is_zero, [false, true, false, false]);
        if encoding == "int8" {
            let scales = read.tensor("scales").unwrap();
            let is_nan: Vec<bool> = f32s(scales.data()).iter().map(|scale| scale.is_nan()).collect();
            assert_eq!(is_nan, is_zero);
        }
    }
    assert_eq!(place.names(), ["in.jsonl", "out", "plain.txt"]);
}

#[test]
fn the_old_output_stays_until_the_new_one_is_whole() {
    let place = InputLocation::new(&[("in.txt", b"a\n"), ("out.jsonl", b"old")]);
    place
        .run(&["embed", "in.txt", "-o", "out.jsonl", "--task", "nope"])
        .fails(2, &["nope"]);
    assert_eq!(place.read("out.jsonl"), b"old");
    assert_eq!(place.run(&["embed", "in.txt", "-o", "out.jsonl"]).code, Some(0));
    assert!(place.read("out.jsonl").starts_with(b"{\"id\":0,\"embedding\":["));
    assert_eq!(place.names(), ["in.txt", "out.jsonl"]);
}

#[test]
fn a_source_that_cannot_be_read_costs_no_earlier_output() {
    let place = InputLocation::new(&[("in.txt", b"a\n"), ("out", b"old"), ("closed", b"")]);
    fs::create_dir(place.path("folder")).unwrap();
    for format in ["jsonl", "npy", "safetensors"] {
        for (source, problem) in [("missing.txt", "No such file"), ("folder", "is a folder")] {
            let arguments = [
                "embed", "--file", "in.txt", source, "-o", "out", "--format", format,
            ];
            place
                .run(&arguments)
                .fails(2, &[source, problem, "nothing was written"]);
        }
        assert_eq!(place.read("out"), b"old");
    }
    assert_eq!(place.names(), ["closed", "folder", "in.txt", "out"]);
    // One that can be opened and not read: its neighbours are done, and do not take the old rows' place.
    #[cfg(target_os = "linux")]
    {
        let arguments = [
            "embed",
            "--file",
            "in.txt",
            "/proc/self/mem",
            "in.txt",
            "-o",
            "out",
        ];
        let ended = place.run(&arguments);
        assert_eq!(ended.code, Some(1));
        ended.says(&[
            "/proc/self/mem: ",
            "are in",
            "out.partial",
            "has not been replaced",
        ]);
        assert_eq!(place.read("out"), b"old");
        let rows = String::from_utf8(place.read("out.partial")).unwrap();
        assert_eq!(rows.lines().count(), 2, "{rows}");
        fs::remove_file(place.path("out.partial")).unwrap();
        fs::remove_file(place.path("out")).unwrap();
        assert_eq!(place.run(&arguments).code, Some(1));
        assert_eq!(place.names(), ["closed", "folder", "in.txt", "out"]);
    }
}

/// A limit of the shell's ends no run without a word.
#[test]
#[cfg(unix)]
fn a_limit_on_a_files_size_is_told() {
    let place = InputLocation::new(&[]);
    let ropeway = command(&["embed", "-o", "out"]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "ulimit -f 1 && exec \"$@\"", "sh"]);
    shell.arg(ropeway.get_program()).args(ropeway.get_args());
    shell.envs(
        ropeway
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    shell.current_dir(place.0.path());
    shell.stdin(std::process::Stdio::piped());
    shell.stdout(std::process::Stdio::piped());
    shell.stderr(std::process::Stdio::piped());
    finish(shell, &b"a line\n".repeat(20)).fails(3, &["out", "File too large", "--resume"]);
    assert!(!place.read("out.partial").is_empty());
}

/// Another thread is waiting for the next input then.
#[test]
#[cfg(target_os = "linux")]
fn an_output_that_fails_ends_a_run_whose_input_stays_open() {
    let mut command = command(&["embed", "-q"]);
    command.stdout(File::create("/dev/full").unwrap());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"one line\n").unwrap();
    // The input stays open for longer than a run of one line takes.
    let since = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if since.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("it waits for input");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    drop(input);
    assert_eq!(status.code(), Some(3));
}
