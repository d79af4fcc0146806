//! How processor time and memory grow with an input, for every place of the engine where one of any size comes in.
//!
//! Bounds that quadratic work or memory breaks many times over, so that a busy machine does not matter; a measurement
//! that is out of bounds is made again. The command line has the same for lines and files.
#![cfg(target_os = "linux")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use ropeway::{AdapterSelection, Chunking, Device, Embed, Engine, Error, Request, RequestError};

/// Counts what is allocated, and the most of it at one time.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all calls go to the system's allocator with the arguments they came with.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(now, Relaxed);
        // SAFETY: the caller keeps to `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the pointer came from `alloc` above, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Clone, Copy, Debug)]
struct Cost {
    seconds: f64,
    /// Bytes above what there was, at the peak.
    memory: usize,
}

fn cost(call: impl FnOnce()) -> Cost {
    let clock = || {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: it fills in the place that it is given.
        assert_eq!(0, unsafe {
            libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time)
        });
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    };
    let (before, start) = (NOW.load(Relaxed), clock());
    PEAK.store(before, Relaxed);
    call();
    Cost {
        seconds: clock() - start,
        memory: PEAK.load(Relaxed) - before,
    }
}

/// What is done with a request.
type Call = fn(&Engine, Request<'_>) -> Result<(), Error>;

const EMBED: Call = |engine, request| engine.embed_batch(&[request]).remove(0).map(|_| ());

/// All but the computing, which is linear in tokens and slow.
const VALIDATE: Call = |engine, request| engine.validate(&request);

/// Sends the requests of one, two and four times a size, whose input has `bytes` bytes for each of that size. `memory` is
/// the bytes that may be allocated for a byte of input.
fn grows<'o>(
    name: &str,
    (engine, call): (&Engine, Call),
    size: usize,
    (bytes, memory): (usize, usize),
    make: impl Fn(usize) -> Request<'o>,
    accept: fn(&Result<(), Error>) -> bool,
) {
    let mut problem = String::new();
    for _ in 0..3 {
        let [one, _, four] = [1, 2, 4].map(|times| {
            let request = make(times * size);
            cost(|| {
                let result = call(engine, request);
                assert!(accept(&result), "{name}: {result:?}");
            })
        });
        let slow = four.seconds > 6.0 * one.seconds + 0.2;
        let allowed = 4 * size * bytes * memory + (8 << 20);
        if !slow && four.memory <= allowed {
            println!("{name}: {one:?} at {size}, {four:?} at four times the size");
            return;
        }
        problem =
            format!("{name}: {one:?} at {size}, {four:?} at four times the size; allowed {allowed} bytes");
    }
    panic!("{problem}");
}

fn engine(name: &str) -> Engine {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    Engine::builder()
        .device(Device::Cpu)
        .threads(1)
        .open(folder)
        .unwrap()
}

/// Splitters of well-known models, and others of any form that is taken.
const EXPRESSIONS: [&str; 12] = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    " ?[^(\\s|[.,!?…。，、।۔،])]+",
    r" {2,}|\s+|[\r\n]",
    // As far as their form goes.
    r"\p{L}{1,31}\d| {0,30}!|.",
    "[ab]a[ab]{60}c|.",
    r"(?:'s|aa)[ab]{2,}b*\s*(?i:'s)?|.",
];

/// A model with this splitter.
fn splitting(expression: &str) -> Engine {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bert");
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("1_Pooling")).unwrap();
    for name in [
        "1_Pooling/config.json",
        "config.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "special_tokens_map.json",
    ] {
        std::fs::copy(golden.join(name), folder.path().join(name)).unwrap();
    }
    let file = std::fs::read(golden.join("tokenizer.json")).unwrap();
    let mut file: serde_json::Value = serde_json::from_slice(&file).unwrap();
    file["normalizer"] = serde_json::Value::Null;
    file["pre_tokenizer"] = serde_json::json!({
        "type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false,
    });
    std::fs::write(folder.path().join("tokenizer.json"), file.to_string()).unwrap();
    let engine = Engine::builder().device(Device::Cpu).threads(1);
    engine.open(folder.path()).unwrap()
}

/// Letters of which each is one of two, without order.
fn mixed(length: usize) -> String {
    let mut state = 1u64;
    let letter = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'a' + (state >> 63) as u8)
    };
    (0..length).map(letter).collect()
}

fn embedded(result: &Result<(), Error>) -> bool {
    result.is_ok()
}

fn refused(result: &Result<(), Error>) -> bool {
    matches!(result, Err(Error::Request(_)))
}

/// One test: the allocator counts for the whole process.
#[test]
fn every_input_costs_its_size() {
    let (bert, jina) = (engine("bert"), engine("jina-hub"));
    let default = Embed::default();
    let text = |text: String| Request::text(text, default.clone());

    // Cut at the limit: whatever follows is not even tokenised.
    for (name, engine, unit) in [
        ("words", &bert, "word "),
        ("punctuation", &bert, "!"),
        ("lines", &jina, "word\n"),
        ("marks", &bert, "! "),
        ("brackets", &bert, "[1] "),
        ("brackets of lines", &jina, "(1)\n"),
    ] {
        let words = |n: usize| text(unit.repeat(n));
        grows(
            name,
            (engine, VALIDATE),
            1 << 20,
            (unit.len(), 1),
            words,
            embedded,
        );
    }
    let untruncated = |n: usize| Request::text("word ".repeat(n), default.clone().truncate(false));
    grows(
        "words in excess",
        (&bert, VALIDATE),
        1 << 20,
        (5, 1),
        untruncated,
        refused,
    );
    for (name, unit) in [
        ("one word", "x"),
        ("white space", " "),
        ("letters of three bytes", "文"),
    ] {
        for engine in [&bert, &jina] {
            let no_blanks = |result: &Result<(), Error>| {
                matches!(result, Err(Error::Request(RequestError::NoBlanks { .. })))
            };
            let stretch = |n: usize| text(unit.repeat(n));
            grows(
                name,
                (engine, VALIDATE),
                1 << 20,
                (unit.len(), 1),
                stretch,
                no_blanks,
            );
        }
    }
    let prompt = |n: usize| Request::text("a", default.clone().prompt("word ".repeat(n)));
    grows("a prompt", (&bert, VALIDATE), 1 << 20, (5, 1), prompt, refused);
    let ids = |n: usize| Request::ids(vec![7u32; n], default.clone());
    grows("ids", (&bert, EMBED), 1 << 20, (4, 2), ids, embedded);

    // Expressions: white space at both ends of words, what alternatives share, what they fail at.
    for expression in EXPRESSIONS {
        let engine = splitting(expression);
        for unit in [
            " ",
            " \n",
            "\n ",
            "a",
            "A",
            "Aa",
            "中",
            "中A",
            "\u{301}",
            "中\u{301}",
            " a",
            "!",
            " !",
            "1",
            "'s",
            "mixed",
        ] {
            let make = |n: usize| match unit {
                "mixed" => text(mixed(n)),
                unit => text(unit.repeat(n / unit.len()) + "x"),
            };
            let name = format!("{unit:?} of {expression}");
            grows(&name, (&engine, VALIDATE), 1 << 14, (1, 600), make, embedded);
        }
    }

    // Chunks keep everything.
    let chunked = |chunking| {
        default
            .clone()
            .chunks(Some(chunking))
            .window(Some(64))
            .overlap(Some(16))
    };
    for (name, unit) in [
        ("sentences", "One two. "),
        ("points", ". "),
        ("figures", "1.1 "),
        ("quotes", ".\" "),
    ] {
        let sentences = |n: usize| Request::text(unit.repeat(n), chunked(Chunking::Sentences));
        grows(
            name,
            (&jina, VALIDATE),
            1 << 13,
            (unit.len(), 400),
            sentences,
            embedded,
        );
    }
    let tokens = |n: usize| Request::text("word ".repeat(n), chunked(Chunking::Tokens(1)));
    grows(
        "chunks of tokens",
        (&jina, VALIDATE),
        1 << 13,
        (5, 400),
        tokens,
        embedded,
    );
    grows(
        "chunks that are computed",
        (&jina, EMBED),
        1 << 8,
        (5, 4000),
        tokens,
        embedded,
    );
    let windows = |n: usize| {
        let options = chunked(Chunking::Tokens(1)).window(Some(16)).overlap(Some(15));
        Request::ids(vec![7u32; n], options)
    };
    grows("windows", (&jina, VALIDATE), 1 << 14, (4, 800), windows, embedded);
    let spans = |n: usize, make: fn(usize, usize) -> (usize, usize)| {
        let spans = (0..n).map(|i| make(i, n)).collect();
        Request::ids(vec![7u32; n], chunked(Chunking::Spans(spans)))
    };
    let (single, whole) = (|n| spans(n, |i, _| (i, i + 1)), |n| spans(n, |_, n| (0, n)));
    grows(
        "spans of one token",
        (&jina, VALIDATE),
        1 << 15,
        (20, 40),
        single,
        embedded,
    );
    grows(
        "spans of everything",
        (&jina, VALIDATE),
        1 << 15,
        (20, 20),
        whole,
        refused,
    );
    let many = |n: usize| Request::ids(vec![7u32; 9], chunked(Chunking::Spans(vec![(0, 1); n])));
    grows(
        "more spans than tokens",
        (&jina, VALIDATE),
        1 << 18,
        (16, 10),
        many,
        refused,
    );

    // Adapters by name.
    let repeated = |n: usize| {
        let parts = vec![("retrieval.query".to_owned(), 0.5); n];
        Request::text("a", default.clone().adapters(AdapterSelection::Mixture(parts)))
    };
    grows(
        "a mixture of one name",
        (&jina, VALIDATE),
        1 << 18,
        (40, 4),
        repeated,
        refused,
    );
    let named = |n: usize| {
        let name = AdapterSelection::Task("x".repeat(n));
        Request::text("a", default.clone().adapters(name))
    };
    grows("a long name", (&jina, VALIDATE), 1 << 20, (1, 10), named, refused);

    // Adapters that are loaded: the last costs what the first does.
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bert/user");
    let loaded = |count: usize| {
        let engine = engine("bert");
        cost(|| (0..count).for_each(|number| engine.add_adapter(&number.to_string(), &folder).unwrap()))
    };
    let rounds = (0..3).map(|_| [100, 400].map(loaded));
    let linear = |[some, more]: [Cost; 2]| {
        println!("100 adapters: {some:?}, 400: {more:?}");
        more.seconds <= 6.0 * some.seconds + 0.2 && more.memory <= 5 * some.memory
    };
    assert!(
        rounds.into_iter().any(linear),
        "400 adapters cost more than four times as much as 100"
    );
}
