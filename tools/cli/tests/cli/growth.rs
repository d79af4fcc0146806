//! How time and memory grow with the input, for every place where the command line takes one in.
//!
//! Processor time, not time on the clock, and bounds that quadratic work breaks many times over: a busy machine does not
//! matter. A measurement that is out of bounds is made again.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::harness::{InputLocation, command};

/// What a run took.
#[derive(Clone, Copy, Debug)]
struct Cost {
    seconds: f64,
    /// Bytes, at its peak.
    memory: u64,
}

/// How the memory may grow.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Memory {
    /// Not at all.
    Constant,
    /// Up to so many bytes for each byte that is read.
    Linear(u64),
}

/// Runs the command in the folder, and gives its exit code and what it took. Its output goes to `log` and `errors`.
fn run(place: &InputLocation, arguments: &[&str]) -> (i32, Cost) {
    let mut command: Command = command(arguments);
    command
        .current_dir(place.0.path())
        .stdin(File::open(place.path("in")).unwrap())
        .stdout(File::create(place.path("log")).unwrap())
        .stderr(File::create(place.path("errors")).unwrap());
    let pid = command.spawn().unwrap().id() as libc::pid_t;
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: both point to places of the types that the call fills in. The child is ours, and nobody else waits for it.
    let usage = unsafe {
        assert_eq!(libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()), pid);
        usage.assume_init()
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    let cost = Cost {
        seconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        memory: usage.ru_maxrss as u64 * 1024,
    };
    assert!(libc::WIFEXITED(status), "ended by a signal: {status:#x}");
    (libc::WEXITSTATUS(status), cost)
}

/// Runs over inputs of one, two and four times a size, which `make` writes to the file `in`.
fn grows(
    name: &str,
    arguments: &[&str],
    code: i32,
    memory: Memory,
    size: usize,
    make: impl Fn(&mut File, usize),
) {
    let sizes = [size, 2 * size, 4 * size];
    let place = InputLocation::new(&[]);
    let measured = |size: &usize| {
        make(&mut File::create(place.path("in")).unwrap(), *size);
        let (ended, cost) = run(&place, arguments);
        let errors = fs::read_to_string(place.path("errors")).unwrap();
        assert_eq!(ended, code, "{name}: {:.400}", errors);
        // Short lines, however large a fault is; so are the rows.
        let rows = fs::read_to_string(place.path("log")).unwrap();
        assert!(
            rows.lines().all(|line| line.len() < 8000),
            "{name}: {:.4000}",
            rows
        );
        assert!(
            errors.lines().all(|line| line.len() < 4000),
            "{name}: {:.4000}",
            errors
        );
        let read = fs::metadata(place.path("in")).unwrap().len();
        (cost, read)
    };
    let mut problem = String::new();
    for _ in 0..3 {
        let costs: Vec<(Cost, u64)> = sizes.iter().map(measured).collect();
        let [(one, read), _, (four, read_four)] = costs[..] else {
            unreachable!()
        };
        let more = four.memory.saturating_sub(one.memory);
        let allowed = match memory {
            Memory::Constant => 0,
            Memory::Linear(bytes) => bytes * (read_four - read),
        };
        // 16 times the time if it is quadratic.
        let slow = four.seconds > 6.0 * one.seconds + 0.3;
        if !slow && more <= allowed + (24 << 20) {
            return;
        }
        problem = format!("{name}: {costs:?} at sizes {sizes:?}, {memory:?}");
    }
    panic!("{problem}");
}

/// A line that fails, between two that are embedded.
fn between(file: &mut File, line: impl FnOnce(&mut Vec<u8>)) {
    let mut text = b"{\"id\": \"before\", \"text\": \"a\"}\n".to_vec();
    line(&mut text);
    text.extend_from_slice(b"\n{\"text\": \"b\", \"id\": \"after\"}\n");
    file.write_all(&text).unwrap();
}

const JSONL: [&str; 3] = ["embed", "--input", "jsonl"];

#[test]
fn a_line_of_json_costs_its_length() {
    type Line = fn(&mut Vec<u8>, usize);
    let lines: [(&str, usize, Line); 10] = [
        ("unknown keys", 100_000, |text, n| {
            text.push(b'{');
            (0..n).for_each(|i| text.extend(format!("\"key{i}\": {i}, ").bytes()));
            text.extend_from_slice(b"\"text\": \"a\"}");
        }),
        ("one key again and again", 100_000, |text, n| {
            text.push(b'{');
            (0..n).for_each(|_| text.extend_from_slice(b"\"task\": null, "));
            text.extend_from_slice(b"\"text\": \"a\"}");
        }),
        ("a mixture of many names", 60_000, |text, n| {
            text.extend_from_slice(b"{\"text\": \"a\", \"adapters\": {");
            (0..n).for_each(|i| text.extend(format!("\"name number {i}\": 0.5, ").bytes()));
            text.extend_from_slice(b"\"last\": 1}}");
        }),
        ("many spans", 200_000, |text, n| {
            text.extend_from_slice(b"{\"spans\": [");
            (0..n).for_each(|i| text.extend(format!("[{i}, {}], ", i + 1).bytes()));
            text.extend_from_slice(b"[0, 1]]}");
        }),
        ("many ids", 500_000, |text, n| {
            text.extend_from_slice(b"{\"input_ids\": [");
            (0..n).for_each(|_| text.extend_from_slice(b"1, "));
            text.extend_from_slice(b"-1]}");
        }),
        ("lists in lists", 500_000, |text, n| {
            text.extend_from_slice(b"{\"text\": ");
            text.extend(std::iter::repeat_n(b'[', n));
            text.extend(std::iter::repeat_n(b']', n));
            text.push(b'}');
        }),
        ("objects in objects", 200_000, |text, n| {
            (0..n).for_each(|_| text.extend_from_slice(b"{\"a\":"));
            text.push(b'1');
            text.extend(std::iter::repeat_n(b'}', n));
        }),
        ("a long task", 2_000_000, |text, n| {
            text.extend_from_slice(b"{\"text\": \"a\", \"task\": \"");
            text.extend(std::iter::repeat_n(b'x', n));
            text.extend_from_slice(b"\"}");
        }),
        ("a long adapter", 2_000_000, |text, n| {
            text.extend_from_slice(b"{\"text\": \"a\", \"adapters\": {\"");
            text.extend(std::iter::repeat_n(b'x', n));
            text.extend_from_slice(b"\": 1}}");
        }),
        ("a long id", 2_000_000, |text, n| {
            text.extend_from_slice(b"{\"text\": \"a\", \"id\": \"");
            text.extend(std::iter::repeat_n(b'x', n));
            text.extend_from_slice(b"\"}");
        }),
    ];
    for (name, size, line) in lines {
        grows(name, &JSONL, 1, Memory::Linear(8), size, |file, n| {
            between(file, |text| line(text, n));
        });
    }
}

#[test]
fn lines_cost_their_number_and_no_memory() {
    grows(
        "empty lines of JSONL",
        &JSONL,
        0,
        Memory::Constant,
        500_000,
        |file, n| {
            between(file, |text| text.resize(text.len() + n, b'\n'));
        },
    );
    let rank = ["rank", "query"];
    grows(
        "empty lines to rank",
        &rank,
        0,
        Memory::Constant,
        500_000,
        |file, n| {
            let mut text = vec![b'\n'; n];
            text.extend_from_slice(b"line\n");
            file.write_all(&text).unwrap();
        },
    );
    let passages = ["rank", "query", "--passages", "in"];
    grows(
        "lines of a passage that is too long",
        &passages,
        1,
        Memory::Constant,
        36 << 20,
        |file, n| {
            // 72 MiB at least.
            let lines = b"xxxxxxx\n".repeat(1 << 17);
            (0..2 * n)
                .step_by(lines.len())
                .for_each(|_| file.write_all(&lines).unwrap());
            file.write_all(b"\npassage\n").unwrap();
        },
    );
    grows(
        "bad lines",
        &["embed", "--file", "in"],
        1,
        Memory::Constant,
        8,
        |file, n| {
            let line = [&[0xff; 1 << 20][..], b"\n"].concat();
            (0..n).for_each(|_| file.write_all(&line).unwrap());
            file.write_all(b"text\n").unwrap();
        },
    );
}

/// Without line breaks; the zeros are a hole in the file.
fn zeros(file: &mut File, n: usize) {
    file.write_all(b"before\n").unwrap();
    file.set_len(n as u64).unwrap();
    let mut end = File::options().append(true).open(path_of(file)).unwrap();
    end.write_all(b"\nafter\n").unwrap();
}

/// Linux's name of an open file.
fn path_of(file: &File) -> std::path::PathBuf {
    use std::os::fd::AsRawFd;
    fs::read_link(Path::new("/proc/self/fd").join(file.as_raw_fd().to_string())).unwrap()
}

#[test]
fn a_line_past_the_limit_is_passed_over() {
    let size = 80 << 20;
    grows(
        "a long line",
        &["embed", "--file", "in"],
        1,
        Memory::Constant,
        size,
        zeros,
    );
    grows(
        "a long line of JSONL",
        &JSONL,
        1,
        Memory::Constant,
        size,
        |file, n| {
            zeros(file, n);
        },
    );
    grows(
        "a long line to rank",
        &["rank", "query", "in"],
        1,
        Memory::Constant,
        size,
        zeros,
    );
    grows(
        "a long document",
        &["chunks", "in"],
        1,
        Memory::Constant,
        size,
        zeros,
    );
    // The neighbours have their rows.
    let place = InputLocation::new(&[]);
    zeros(&mut File::create(place.path("in")).unwrap(), size);
    let ended = place.run(&["embed", "--file", "in"]);
    assert_eq!(ended.code, Some(1));
    ended.says(&["in:2: longer than 64 MiB; split it", "1 of 3 inputs failed"]);
    let rows = ended.json();
    let good: Vec<bool> = rows.iter().map(|row| row.get("embedding").is_some()).collect();
    assert_eq!(good, [true, false, true]);
}

#[test]
fn special_files_are_read_as_far_as_makes_sense() {
    let place = InputLocation::new(&[("in.txt", b"text\n")]);
    // A device without an end and without lines is given up; what comes after it is embedded.
    let ended = place.run(&["embed", "--file", "/dev/zero", "in.txt", "/dev/null"]);
    assert_eq!(ended.code, Some(1));
    ended.says(&["/dev/zero: line 1 has no end within 1 GiB"]);
    assert_eq!(ended.json().len(), 1);
    place
        .run(&["chunks", "/dev/zero"])
        .fails(1, &["/dev/zero: longer than 64 MiB"]);
    place.run(&["chunks", "."]).fails(1, &["is a folder"]);
    place.run(&["rank", "q", "."]).says(&["is a folder"]);
    // A pipe with a name is a stream like any other.
    let fifo = std::ffi::CString::new(place.path("fifo").to_str().unwrap()).unwrap();
    // SAFETY: the name ends with a zero byte and lives through the call.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    let path = place.path("fifo");
    let writer = std::thread::spawn(move || {
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .write_all(b"a\nb\n")
    });
    assert_eq!(place.run(&["embed", "--file", "fifo"]).lines().len(), 2);
    writer.join().unwrap().unwrap();
}

#[test]
fn rows_that_are_continued_cost_their_number_and_no_memory() {
    let embed = ["embed", "--input", "jsonl", "in", "-o", "out", "--quiet"];
    let resume = [&embed[..], &["--resume"]].concat();
    grows(
        "rows of an earlier run",
        &resume,
        1,
        Memory::Constant,
        5000,
        |file, n| {
            let folder = path_of(file).parent().unwrap().to_owned();
            // Inputs that fail, so that the rows are all that costs.
            (0..n).for_each(|_| file.write_all(b"{}\n").unwrap());
            let rows: String = (0..n)
                .map(|id| format!("{{\"id\":{id},\"error\":\"{}\"}}\n", "x".repeat(500)))
                .collect();
            fs::write(folder.join("out"), rows).unwrap();
        },
    );
    // A file without lines is none that is continued, and is not read into memory to see that.
    let place = InputLocation::new(&[("in", b"a\n")]);
    File::create(place.path("out")).unwrap().set_len(1 << 30).unwrap();
    let (code, cost) = run(&place, &["embed", "-o", "out", "--resume"]);
    assert_eq!(code, 2);
    assert!(cost.memory < 700 << 20, "{cost:?}");
    assert!(
        fs::read_to_string(place.path("errors"))
            .unwrap()
            .contains("line 1 is not a row that ropeway wrote")
    );
}
