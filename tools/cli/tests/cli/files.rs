//! What happens to files: inputs, outputs and what is beside them, whoever put it there.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;

use crate::harness::{Ended, InputLocation, command, ids, test_model};

/// Runs in the folder with these files as standard input and output.
fn redirected(
    place: &InputLocation,
    arguments: &[&str],
    input: Option<&str>,
    append_to: Option<&str>,
) -> Ended {
    let mut command = command(arguments);
    command.current_dir(place.0.path());
    if let Some(name) = input {
        command.stdin(File::open(place.path(name)).unwrap());
    } else {
        command.stdin(Stdio::null());
    }
    if let Some(name) = append_to {
        command.stdout(File::options().append(true).open(place.path(name)).unwrap());
    }
    let output = command.output().unwrap();
    Ended {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn no_input_is_written_to_whatever_its_name_is() {
    let place = InputLocation::new(&[("notes.txt", b"one\ntwo\n"), ("data.partial", b"three\n")]);
    fs::hard_link(place.path("notes.txt"), place.path("hard")).unwrap();
    symlink("notes.txt", place.path("soft")).unwrap();
    symlink("hard", place.path("new.partial")).unwrap();
    let names = place.names();
    for (arguments, input, append_to) in [
        (&["embed", "-o", "notes.txt"][..], Some("notes.txt"), None),
        (&["embed", "-", "-o", "soft"], Some("hard"), None),
        (&["embed", "-o", "hard", "--resume"], Some("notes.txt"), None),
        (
            &["embed", "--file", "/dev/stdin", "-o", "hard"],
            Some("notes.txt"),
            None,
        ),
        (&["embed", "--file", "notes.txt", "-o", "hard"], None, None),
        (&["embed", "--file", "hard", "-o", "soft"], None, None),
        (&["embed", "--file", "notes.txt", "-o", "new"], None, None),
        (&["embed", "--file", "data.partial", "-o", "data"], None, None),
        (
            &["embed", "--file", "data.partial", "-o", "data", "--resume"],
            None,
            None,
        ),
        (
            &[
                "embed",
                "--file",
                "data.partial",
                "--format",
                "safetensors",
                "-o",
                "data",
            ],
            None,
            None,
        ),
        (
            &["embed", "--file", "data.partial", "--format", "npy", "-o", "data"],
            None,
            None,
        ),
        // There is no such file yet: the run would make it, and read its own rows.
        (&["embed", "--file", "soon.partial", "-o", "soon"], None, None),
        (&["embed", "notes.txt"], None, Some("notes.txt")),
        (&["embed"], Some("soft"), Some("hard")),
        (&["rank", "query", "notes.txt"], None, Some("notes.txt")),
        (&["chunks", "notes.txt"], None, Some("hard")),
        (&["chunks"], Some("notes.txt"), Some("hard")),
    ] {
        redirected(&place, arguments, input, append_to).fails(2, &["is both an input and "]);
        assert_eq!(place.read("notes.txt"), b"one\ntwo\n", "{arguments:?}");
        assert_eq!(place.read("data.partial"), b"three\n", "{arguments:?}");
        assert_eq!(place.names(), names, "{arguments:?}");
    }
    // Other files are no inputs: a copy of the same content, the same name elsewhere.
    fs::write(place.path("copy"), "one\ntwo\n").unwrap();
    let ended = redirected(&place, &["embed", "-o", "copy"], Some("notes.txt"), None);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    let ended = redirected(&place, &["embed", "notes.txt"], None, Some("copy"));
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    assert_eq!(
        place.read("copy").iter().filter(|&&byte| byte == b'\n').count(),
        4
    );
}

#[test]
fn nothing_is_written_through_what_is_in_the_scratch_files_place() {
    for format in ["jsonl", "npy", "safetensors"] {
        let place = InputLocation::new(&[("victim", b"secret"), ("other", b"secret")]);
        // Columns have no names at all.
        for column in ["embeddings", "ids", "rows", "tokens"] {
            symlink("other", place.path(&format!("out.partial.{column}"))).unwrap();
        }
        let embed = || place.run(&["embed", "x", "--format", format, "-o", "out"]);
        type Plant = fn(&InputLocation);
        let plants: [(Plant, &str); 4] = [
            (
                |place| symlink("victim", place.path("out.partial")).unwrap(),
                "is a link",
            ),
            (
                |place| symlink("nothing", place.path("out.partial")).unwrap(),
                "is a link",
            ),
            (
                |place| fs::hard_link(place.path("victim"), place.path("out.partial")).unwrap(),
                "second name",
            ),
            (
                |place| fs::create_dir(place.path("out.partial")).unwrap(),
                "not a regular file",
            ),
        ];
        for (plant, problem) in plants {
            plant(&place);
            let names = place.names();
            embed().fails(2, &["out.partial", problem]);
            assert_eq!(place.names(), names);
            let partial = place.path("out.partial");
            fs::remove_file(&partial)
                .or_else(|_| fs::remove_dir(&partial))
                .unwrap();
        }
        let ended = embed();
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
        assert_eq!(
            (place.read("victim"), place.read("other")),
            (b"secret".to_vec(), b"secret".to_vec())
        );
        assert!(place.path("out").is_file() && !place.path("nothing").exists());
    }
}

#[test]
fn a_replaced_file_keeps_its_mode_and_a_link_its_place() {
    let place = InputLocation::new(&[("private", b"old"), ("fixed", b"old"), ("plain", b"")]);
    let set = |name, mode| fs::set_permissions(place.path(name), fs::Permissions::from_mode(mode)).unwrap();
    set("private", 0o600);
    set("fixed", 0o444);
    symlink("nowhere", place.path("dangling")).unwrap();
    symlink("private", place.path("link")).unwrap();
    let mode = |name: &str| fs::metadata(place.path(name)).unwrap().permissions().mode() & 0o7777;
    for format in ["jsonl", "npy", "safetensors"] {
        let embed = |name: &str| place.run(&["embed", "x", "--format", format, "-o", name]);
        for name in ["private", "link", "dangling", "new"] {
            let ended = embed(name);
            assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{name}");
            assert_ne!(place.read(name), b"old");
        }
        embed("fixed").fails(3, &["fixed", "read-only", "chmod"]);
        assert_eq!(place.read("fixed"), b"old");
        assert_eq!(mode("private"), 0o600);
        assert_eq!([mode("new"), mode("nowhere")], [mode("plain"); 2]);
        assert!(place.path("dangling").is_symlink() && place.path("link").is_symlink());
        fs::remove_file(place.path("nowhere")).unwrap();
        fs::remove_file(place.path("new")).unwrap();
    }
    assert_eq!(place.names(), ["dangling", "fixed", "link", "plain", "private"]);
}

/// What the shell has opened is gone on with, not replaced: it may hold more than this run's rows.
#[test]
#[cfg(target_os = "linux")]
fn standard_output_by_a_name_is_standard_output() {
    let place = InputLocation::new(&[("log", b"earlier\n")]);
    for (number, name) in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "-"]
        .into_iter()
        .enumerate()
    {
        let ended = redirected(&place, &["embed", "--text", "x", "-o", name], None, Some("log"));
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{name}");
        let log = String::from_utf8(place.read("log")).unwrap();
        assert!(log.starts_with("earlier\n{\"id\":0,"), "{name}: {log}");
        assert_eq!(log.lines().count(), 2 + number, "{name}");
        for flags in [
            &["--resume"][..],
            &["--format", "npy"],
            &["--format", "safetensors"],
        ] {
            let arguments = [&["embed", "--text", "x", "-o", name], flags].concat();
            redirected(&place, &arguments, None, Some("log")).fails(2, &["-o"]);
        }
    }
    let log = place.read("log");
    // Another open file, and one that has no name any more.
    let mut command = command(&["embed", "--text", "x", "-o", "/dev/stderr"]);
    command.stderr(File::options().append(true).open(place.path("log")).unwrap());
    assert_eq!(command.output().unwrap().status.code(), Some(2));
    let told = String::from_utf8(place.read("log").split_off(log.len())).unwrap();
    assert!(
        told.contains("/dev/stderr") && told.contains("give its own name"),
        "{told}"
    );
    assert_eq!(place.names(), ["log"]);
    let mut file = tempfile::tempfile_in(place.0.path()).unwrap();
    let mut command = crate::harness::command(&["embed", "--text", "x", "-o", "/dev/stdout"]);
    command.stdout(file.try_clone().unwrap());
    assert_eq!(command.output().unwrap().status.code(), Some(0));
    let mut written = String::new();
    std::io::Seek::rewind(&mut file).unwrap();
    std::io::Read::read_to_string(&mut file, &mut written).unwrap();
    assert!(written.starts_with("{\"id\":0,"), "{written}");
    assert_eq!(place.names(), ["log"]);
}

#[test]
fn a_file_of_the_model_is_not_replaced() {
    let place = InputLocation::new(&[]);
    crate::harness::write_model(&place.path("model"));
    fs::create_dir(place.path("model/1_Pooling")).unwrap();
    fs::write(place.path("model/1_Pooling/config.json"), "{}").unwrap();
    fs::hard_link(place.path("model/model.safetensors"), place.path("weights")).unwrap();
    symlink("model/config.json", place.path("link")).unwrap();
    for name in [
        "model/model.safetensors",
        "model/1_Pooling/config.json",
        "weights",
        "link",
    ] {
        let before = place.read(name);
        let ended = place.run(&["--model", "model", "embed", "--text", "x", "-o", name]);
        ended.fails(2, &["is a file of the model", "nothing was written"]);
        assert!(place.read(name) == before, "{name}");
    }
    assert_eq!(place.names(), ["link", "model", "weights"]);
}

#[test]
fn one_run_at_a_time_writes_a_file() {
    let place = InputLocation::new(&[("out", b"")]);
    assert_eq!(place.run(&["embed", "x", "-o", "out"]).code, Some(0));
    let done = place.read("out");
    let partial = File::create(place.path("out.partial")).unwrap();
    partial.lock().unwrap();
    for flags in [
        &[][..],
        &["--resume"],
        &["--format", "npy"],
        &["--format", "safetensors"],
    ] {
        let arguments = [&["embed", "y", "-o", "out"][..], flags].concat();
        place.run(&arguments).fails(2, &["another ropeway is writing it"]);
    }
    place
        .run(&["embed", "y", "-o", "out.partial"])
        .fails(2, &["out.partial: another ropeway is writing it"]);
    assert_eq!(place.read("out"), done);
    assert_eq!(place.names(), ["out", "out.partial"]);
    drop(partial);
    // FILE itself, where it is what would be continued.
    let file = File::open(place.path("out")).unwrap();
    file.lock().unwrap();
    place
        .run(&["embed", "x", "-o", "out", "--resume"])
        .fails(2, &["another ropeway is writing it"]);
    drop(file);
    assert_eq!(place.run(&["embed", "x", "-o", "out", "--resume"]).code, Some(0));
    assert_eq!(place.read("out"), done);
    assert_eq!(place.names(), ["out"]);
}

#[test]
fn ids_that_no_reader_takes_back_fail_alone_and_resume_goes_on() {
    let odd = [r#""\ud800""#, r#""a\udc00\ud800""#, "1e999", "-1e999", "1e-999"];
    for odd in odd {
        let lines = format!("{{\"id\": \"a\", \"text\": \"a\"}}\n{{\"id\": {odd}, \"text\": \"b\"}}\n");
        let place = InputLocation::new(&[("in.jsonl", lines.as_bytes())]);
        let embed = |more: &[&str]| place.run(&[&["embed", "in.jsonl", "-o", "out"][..], more].concat());
        let ended = embed(&[]);
        assert_eq!(ended.code, Some(1), "{odd}");
        ended.says(&["in.jsonl:2: key `id`: wanted a string or number that every JSON reader takes back"]);
        let rows: Vec<serde_json::Value> = String::from_utf8(place.read("out"))
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(ids(&rows), ["\"a\"", "1"]);
        assert!(rows[0].get("embedding").is_some() && rows[1].get("error").is_some());
        let done = place.read("out");
        // The whole file, and what a kill leaves of it.
        let first = done.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        for left in [first, done.len()] {
            fs::write(place.path("out"), &done[..left]).unwrap();
            let ended = embed(&["--resume"]);
            assert_eq!(ended.code, Some(1), "{}", ended.err);
            assert_eq!(place.read("out"), done);
        }
    }
}

#[test]
fn resume_knows_an_id_in_another_spelling() {
    let place = InputLocation::new(&[
        (
            "in.jsonl",
            "{\"id\": \"caf\\u00e9\", \"text\": \"a\"}\n{\"id\": 100, \"text\": \"b\"}\n".as_bytes(),
        ),
        (
            "same.jsonl",
            "{\"id\": \"café\", \"text\": \"a\"}\n{\"id\": 1e2, \"text\": \"b\"}\n".as_bytes(),
        ),
        (
            "other.jsonl",
            "{\"id\": \"cafe\", \"text\": \"a\"}\n{\"id\": 100, \"text\": \"b\"}\n".as_bytes(),
        ),
    ]);
    assert_eq!(place.run(&["embed", "in.jsonl", "-o", "out"]).code, Some(0));
    let ended = place.run(&["embed", "same.jsonl", "-o", "out", "--resume"]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    place
        .run(&["embed", "other.jsonl", "-o", "out", "--resume"])
        .fails(2, &["row 1 has the id"]);
}

#[test]
fn names_of_files_reach_the_terminal_escaped() {
    let place = InputLocation::new(&[("a\u{1b}[31m\u{9b}2J\u{202e}.txt", b"\xff\n")]);
    let ended = place.run(&[
        "embed",
        "--file",
        "a\u{1b}[31m\u{9b}2J\u{202e}.txt",
        "no\u{7}\n.txt",
    ]);
    assert_eq!(ended.code, Some(1));
    ended.says(&[
        r"a\u{1b}[31m\u{9b}2J\u{202e}.txt:1: invalid UTF-8",
        r"no\u{7}\n.txt: No such file",
    ]);
    assert!(!ended.err.chars().any(|c| c != '\n' && c.is_control()));
    let key = ropeway_line("{\"te\\u001b[0mxt\\u202e\": 1}\n");
    assert!(key.contains(r"unknown key `te\u{1b}[0mxt\u{202e}`"), "{key}");
}

fn ropeway_line(line: &str) -> String {
    crate::harness::ropeway(&["embed", "--input", "jsonl"], line.as_bytes()).err
}

#[test]
fn a_model_that_changes_ends_the_run_and_takes_no_row() {
    let place = InputLocation::new(&[]);
    let model = place.path("model");
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir(test_model())
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        if entry.is_file() {
            fs::copy(&entry, model.join(entry.file_name().unwrap())).unwrap();
        }
    }
    let arguments = ["embed", "-o", "rows"];
    let mut command = command(&arguments);
    let mut run = command
        .env("ROPEWAY_MODEL", &model)
        .current_dir(place.0.path())
        .spawn()
        .unwrap();
    let mut input = run.stdin.take().unwrap();
    input.write_all(b"one\n").unwrap();
    let rows = || fs::read_to_string(place.path("rows.partial")).unwrap_or_default();
    while rows().lines().count() < 1 {
        assert!(run.try_wait().unwrap().is_none(), "it ended early");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let weights = model.join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    input.write_all(b"two\nthree\n").unwrap();
    drop(input);
    let output = run.wait_with_output().unwrap();
    let ended = Ended {
        code: output.status.code(),
        out: String::new(),
        err: String::from_utf8(output.stderr).unwrap(),
    };
    ended.fails(2, &["model.safetensors", "was changed", "--resume"]);
    assert_eq!(rows().lines().count(), 1);
    assert!(!place.path("rows").exists());
}
