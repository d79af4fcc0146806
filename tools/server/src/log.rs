//! The log of requests: lines on standard error, which may be read slowly, or by nobody.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

/// Lines that wait to be written, of some hundred bytes each. Further ones are dropped, so that requests never wait for who reads
/// the log.
const WAITING: usize = 4096;

/// How long a server that ends waits until its last lines are written.
const PATIENCE: Duration = Duration::from_secs(1);

/// Writes lines on a thread of its own.
pub struct Log {
    lines: Option<SyncSender<String>>,
    dropped: Arc<AtomicU64>,
    written: Mutex<Receiver<()>>,
}

impl Log {
    pub fn start() -> io::Result<Log> {
        let (lines, waiting) = sync_channel(WAITING);
        let (end, written) = channel();
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = dropped.clone();
        let write = move || {
            write_all(&waiting, &lost, |line| {
                // A line that cannot be written is nobody's loss.
                let _ = writeln!(io::stderr().lock(), "{line}");
            });
            let _ = end.send(());
        };
        std::thread::Builder::new()
            .name("ropeway-log".into())
            .spawn(write)?;
        Ok(Log {
            lines: Some(lines),
            dropped,
            written: Mutex::new(written),
        })
    }

    pub fn line(&self, line: String) {
        let taken = self
            .lines
            .as_ref()
            .is_some_and(|lines| lines.try_send(line).is_ok());
        if !taken {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes lines until nobody sends any, and how many were dropped before one.
fn write_all(lines: &Receiver<String>, dropped: &AtomicU64, mut write: impl FnMut(&str)) {
    for line in lines {
        match dropped.swap(0, Ordering::Relaxed) {
            0 => {}
            count => write(&json!({"dropped_lines": count}).to_string()),
        }
        write(&line);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        drop(self.lines.take());
        let _ = self
            .written
            .get_mut()
            .map(|written| written.recv_timeout(PATIENCE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_were_dropped_are_counted() {
        let (send, lines) = sync_channel(2);
        for line in ["a", "b"] {
            send.send(line.to_owned()).unwrap();
        }
        drop(send);
        let mut written = Vec::new();
        write_all(&lines, &AtomicU64::new(3), |line| written.push(line.to_owned()));
        assert_eq!(written, [r#"{"dropped_lines":3}"#, "a", "b"]);
    }
}
