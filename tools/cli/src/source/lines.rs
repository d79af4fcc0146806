//! Lines and passages of a source, in memory that does not grow with it.

use std::io::{self, BufRead, BufReader, Read};

use super::LONGEST;

/// Where a line this long has no end, the rest of its source is not read: a device, for example, has none.
const HOPELESS: u64 = 1 << 30;

/// A line or a passage.
pub struct Piece {
    pub text: Vec<u8>,
    /// Its first line, from 1.
    pub line: u64,
    /// False if it was too long to keep.
    pub whole: bool,
}

/// The lines of a source.
pub struct Lines<R> {
    input: BufReader<R>,
    /// Lines that were read.
    pub line: u64,
    /// Bytes that were read, of this source and those before it.
    pub read: u64,
}

impl<R: Read> Lines<R> {
    /// The lines of a source, of which nothing was read yet.
    pub fn new(input: BufReader<R>, read: u64) -> Lines<R> {
        Lines { input, line: 0, read }
    }

    /// Whether the next line is not in the buffer yet.
    pub fn may_wait(&self) -> bool {
        !self.input.buffer().contains(&b'\n')
    }

    /// Reads a line without its end (`\n` or `\r\n`) and, at the start of the source, without a
    /// byte order mark. `None` at the end; `Some(false)` if it was too long to keep.
    ///
    /// # Errors
    /// The source cannot be read on, or its line has no end within reach.
    pub fn next(&mut self, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
        line.clear();
        let (start, mut whole) = (self.read, true);
        loop {
            let bytes = match self.input.fill_buf() {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if bytes.is_empty() {
                break;
            }
            let end = bytes.iter().position(|&byte| byte == b'\n');
            let used = end.map_or(bytes.len(), |at| at + 1);
            if line.len() + used > LONGEST {
                whole = false;
                *line = Vec::new();
            }
            if whole {
                line.extend_from_slice(&bytes[..used]);
            }
            self.input.consume(used);
            self.read += used as u64;
            if end.is_some() {
                break;
            }
            if self.read - start > HOPELESS {
                let (number, limit) = (self.line + 1, HOPELESS >> 30);
                return Err(io::Error::other(format!(
                    "line {number} has no end within {limit} GiB; the rest is not read"
                )));
            }
        }
        if self.read == start {
            return Ok(None);
        }
        self.line += 1;
        if line.last() == Some(&b'\n') {
            line.pop();
            if line.last() == Some(&b'\r') {
                line.pop();
            }
        }
        if self.line == 1 && line.starts_with("\u{feff}".as_bytes()) {
            line.drain(..3);
        }
        Ok(Some(whole))
    }
}
