//! A server of ours that the bench starts and ends.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hyper::StatusCode;
use tokio::runtime::Runtime;

use super::client::{Connection, Target};
use crate::measure::host;

/// Opening a model and warming it up takes no longer.
const LONGEST_START: Duration = Duration::from_secs(120);

/// A process that serves.
pub struct Server {
    process: Child,
    pub target: Target,
    /// From its start to the first time that it said it is ready, in s.
    pub start_seconds: f64,
}

impl Server {
    /// Starts `ropeway serve` by a command that has everything but where to listen, and waits until it is ready.
    ///
    /// # Errors
    /// A server that ends, or is not ready in time; what it said.
    pub fn start(runtime: &Runtime, mut command: Command) -> Result<Server> {
        let started = Instant::now();
        command
            .args(["--port", "0"])
            // Its own settings alone count.
            .env_remove("ROPEWAY_API_KEY")
            .env_remove("SAGEMAKER_BIND_TO_PORT")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut process = command.spawn().context("the server cannot be started")?;
        let stderr = process.stderr.take().context("it has no standard error")?;
        let (say, said) = mpsc::channel();
        // Until it ends, so that its pipe does not fill up.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                drop(say.send(line));
            }
        });
        // From here on, dropping it ends the process.
        let mut process = Ended(Some(process));
        let mut lines = Vec::new();
        let url = loop {
            match said.recv_timeout(LONGEST_START.saturating_sub(started.elapsed())) {
                Ok(line) => match line.split_once(" on http://") {
                    Some((_, authority)) => break format!("http://{authority}"),
                    None => lines.push(line),
                },
                Err(_) => bail!("the server did not get ready: {}", lines.join("; ")),
            }
        };
        let (target, start_seconds) = runtime.block_on(async {
            let target = Target::at("ropeway", &url).await?;
            let mut connection = Connection::open(&target, None).await?;
            while connection.get("/ready").await?.0 != StatusCode::OK {
                if started.elapsed() > LONGEST_START {
                    bail!("the server at {url} is not ready");
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok((target, started.elapsed().as_secs_f64()))
        })?;
        Ok(Server {
            process: process.0.take().context("it was started")?,
            target,
            start_seconds,
        })
    }

    /// Watches its memory until [`Memory::end`].
    pub fn watch_memory(&self) -> Memory {
        let pid = self.process.id();
        let done = Arc::new(AtomicBool::new(false));
        let seen = done.clone();
        let samples = std::thread::spawn(move || {
            let mut samples = Vec::new();
            while !seen.load(Ordering::Relaxed) {
                samples.extend(host::rss_of(pid));
                std::thread::sleep(Duration::from_millis(100));
            }
            samples
        });
        Memory { done, samples }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Ends a process, if it is still there.
struct Ended(Option<Child>);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(process) = &mut self.0 {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The resident memory of a process over some time.
pub struct Memory {
    done: Arc<AtomicBool>,
    samples: JoinHandle<Vec<u64>>,
}

impl Memory {
    /// The most of the second quarter of the time, and of the last, in bytes. By the second one the queue is full.
    pub fn end(self) -> Option<(u64, u64)> {
        self.done.store(true, Ordering::Relaxed);
        quarters(&self.samples.join().ok()?)
    }
}

fn quarters(samples: &[u64]) -> Option<(u64, u64)> {
    let quarter = samples.len().div_ceil(4);
    let second = samples.get(quarter..2 * quarter)?.iter().max()?;
    let last = samples[samples.len() - quarter..].iter().max()?;
    Some((*second, *last))
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_is_compared_by_quarters() {
        let samples: Vec<u64> = (0..100).collect();
        assert_eq!(super::quarters(&samples), Some((49, 99)));
        assert_eq!(super::quarters(&[]), None);
        assert_eq!(super::quarters(&[5]), None);
    }
}
