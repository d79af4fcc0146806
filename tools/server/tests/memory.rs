//! The memory of a request is a few times its body, whatever is in it; its work ends, or is bounded, when its client goes away.
#![cfg(target_os = "linux")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use serde_json::{Map, Value, json};

#[path = "http/harness.rs"]
#[allow(dead_code, reason = "the other tests use all of it")]
mod harness;

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

/// Bytes that may be allocated for each of a body: what is parsed, in a list that grows by doubling, beside the text.
const FACTOR: usize = 12;

/// The same where the engine makes chunks of spans before it counts them.
const SPAN_FACTOR: usize = 24;

/// Memory and threads are the process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn memory_is_a_few_times_the_body_whatever_is_in_it() {
    let _alone = ALONE.lock();
    let server = harness::Running::start(|settings| {
        settings.limits.inputs = 1000;
        settings.limits.body_bytes = 2 << 20;
    });
    let inputs = vec!["a"; 1000];
    let long = "x".repeat(1 << 20);
    let names: Map<String, Value> = (0..60_000).map(|i| (format!("adapter {i}"), json!(1))).collect();
    let spans = vec![[0, 1]; 170_000];
    let digits = vec![7; 500_000];
    let types = vec!["int8"; 150_000];
    let cases = [
        (
            "/v1/embeddings",
            json!({"input": inputs, "prompt": long, "truncate": true}),
            413,
        ),
        ("/v1/embeddings", json!({"input": inputs, "task": long}), 413),
        ("/v1/embeddings", json!({"input": inputs, "adapters": names}), 413),
        ("/v1/embeddings", json!({"input": inputs, "chunks": spans}), 413),
        ("/v1/embeddings", json!({"input": "a", "chunks": spans}), 400),
        (
            "/v1/embeddings",
            json!({"input": "a", "embedding_type": types}),
            200,
        ),
        ("/v1/embeddings", json!({"input": "a", "unknown": digits}), 200),
        ("/embed", json!({"inputs": "a", "unknown": digits}), 200),
        ("/embed", json!({"inputs": digits}), 200),
        ("/", json!({"inputs": digits}), 200),
        ("/", json!({"input": "a", "inputs": digits}), 200),
        (
            "/similarity",
            json!({"inputs": {"source_sentence": "a", "sentences": ["b"]}, "parameters": {"unknown": digits}}),
            200,
        ),
        (
            "/v2/embed",
            json!({
                "inputs": [{"content": [{"type": "text", "text": "a", "unknown": digits}]}],
                "input_type": "clustering",
            }),
            200,
        ),
    ];
    for (path, body, wanted) in cases {
        let body = body.to_string();
        let before = NOW.load(Relaxed);
        PEAK.store(before, Relaxed);
        let (status, answer) = server.send(path, body.as_bytes(), &[]);
        let peak = PEAK.load(Relaxed) - before;
        let shown = &body[..body.len().min(80)];
        let factor = match shown.contains(r#""a","chunks""#) {
            true => SPAN_FACTOR,
            false => FACTOR,
        };
        assert_eq!(status, wanted, "{path} {shown}: {answer}");
        assert!(
            peak < factor * body.len(),
            "{path} {shown}: {peak} bytes for {}",
            body.len()
        );
    }
}

/// How many threads there are of servers.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let name =
        |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    tasks
        .map(name)
        .filter(|name| name.trim() == "ropeway-http")
        .count()
}

#[test]
fn clients_that_hang_up_leave_no_more_work_than_others() {
    let _alone = ALONE.lock();
    use std::io::Write as _;
    let server = harness::Running::start(|_| {});
    let body = json!({"inputs": "a ".repeat(500_000)}).to_string();
    let head = format!(
        "POST /tokenize HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let before = threads();
    for _ in 0..40 {
        let mut stream = server.connect();
        stream.write_all((head.clone() + &body).as_bytes()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // Two tokenise, two parse in place of whom others serve, and threads live on for a while.
    let more = threads() - before;
    assert!(more <= 10, "{more} threads more");
    server.good("/embed", json!({"inputs": "a"}));
    server.stop();
    // What it still does would count as the other test's.
    while threads() > 0 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
