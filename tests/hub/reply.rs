//! Requests to the stand-in, and what it sends back.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    pub headers: BTreeMap<String, String>,
    /// Whether it came to the other origin.
    pub elsewhere: bool,
}

impl Request {
    /// A header's value; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn is_for(&self, file: &str) -> bool {
        self.path.contains("/resolve/") && self.path.ends_with(file)
    }

    pub fn is_listing(&self) -> bool {
        self.path.starts_with("/api/models/")
    }
}

/// How much of a body is sent.
#[derive(Clone, Copy, PartialEq)]
pub enum Sends {
    All,
    /// Not even a status.
    Nothing,
    /// So many bytes, then the end.
    Cut(usize),
    /// So many bytes, then nothing more.
    Stall(usize),
    /// A byte every tenth of a second.
    Drip,
    /// A chunk of so many bytes, then bytes that are not of the body: first some, then others again and again, with a pause
    /// between them in milliseconds.
    Framing(usize, &'static str, &'static str, u64),
}

#[derive(Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body's length is said.
    pub length: bool,
    pub sends: Sends,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply {
            status,
            headers: Vec::new(),
            body: body.into(),
            length: true,
            sends: Sends::All,
        }
    }

    pub fn redirect(to: impl Into<String>) -> Reply {
        Reply::new(302, "").with("Location", to)
    }

    /// Sets a header; an empty value removes it.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Reply {
        let value = value.into();
        self.headers.retain(|(old, _)| !old.eq_ignore_ascii_case(name));
        if !value.is_empty() {
            self.headers.push((name.into(), value));
        }
        self
    }

    pub fn sends(mut self, sends: Sends) -> Reply {
        self.sends = sends;
        self
    }

    pub fn write(&self, mut stream: &TcpStream, stop: &AtomicBool) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} x\r\nConnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if matches!(self.sends, Sends::Framing(..)) {
            head += "Transfer-Encoding: chunked\r\n";
        } else if self.length {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        if self.sends != Sends::Nothing {
            stream.write_all(format!("{head}\r\n").as_bytes())?;
        }
        let wait = |time: Duration| {
            let mut left = time;
            while !stop.load(Ordering::SeqCst) && !left.is_zero() {
                let pause = left.min(Duration::from_millis(20));
                std::thread::sleep(pause);
                left -= pause;
            }
        };
        match self.sends {
            Sends::All => stream.write_all(&self.body)?,
            Sends::Nothing => wait(Duration::from_secs(60)),
            Sends::Cut(bytes) => stream.write_all(&self.body[..bytes])?,
            Sends::Stall(bytes) => {
                stream.write_all(&self.body[..bytes])?;
                wait(Duration::from_secs(60));
            }
            Sends::Framing(bytes, first, again, pause) => {
                if bytes > 0 {
                    stream.write_all(format!("{bytes:x}\r\n").as_bytes())?;
                    stream.write_all(&self.body[..bytes])?;
                    stream.write_all(b"\r\n")?;
                }
                stream.write_all(first.as_bytes())?;
                while !stop.load(Ordering::SeqCst) {
                    stream.write_all(again.as_bytes())?;
                    wait(Duration::from_millis(pause));
                }
            }
            Sends::Drip => {
                for byte in &self.body {
                    stream.write_all(&[*byte])?;
                    wait(Duration::from_millis(100));
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                }
            }
        }
        stream.shutdown(Shutdown::Both)
    }
}

/// The part of a reply's body that a request asks for.
pub fn ranged(mut reply: Reply, request: &Request) -> Reply {
    let range = request.header("range").strip_prefix("bytes=");
    let Some(start) = range.and_then(|range| range.trim_end_matches('-').parse::<usize>().ok()) else {
        return reply;
    };
    let length = reply.body.len();
    if start >= length {
        return Reply::new(416, "");
    }
    reply.status = 206;
    reply.body.drain(..start);
    reply.with("Content-Range", format!("bytes {start}-{}/{length}", length - 1))
}
