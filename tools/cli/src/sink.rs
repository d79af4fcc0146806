//! The output formats, seen from the run.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use crate::jsonl::{self, Id};
use ropeway::{Embedding, Encoding};

use super::target::Target;

/// The words for the formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One JSON object per input: {"id", "embedding" | "chunks", "tokens", "truncated"}
    Jsonl,
    /// An array [inputs, dimensions] for numpy.load; not with int8
    Npy,
    /// Tensor `embeddings` and tensors that say which rows belong to which input
    Safetensors,
}

/// Why a row could not be written.
#[derive(Debug)]
pub enum SinkError {
    /// This embedding does not fit the format. The row is written as that of a failed input.
    Unfit(String),
    /// A failed input has no place in this format: the run ends.
    Stop(String),
    /// The output cannot be written.
    Output(io::Error),
}

impl From<io::Error> for SinkError {
    fn from(error: io::Error) -> SinkError {
        SinkError::Output(error)
    }
}

/// Takes results in input order.
pub trait Sink {
    /// Adds the row of an input, or of its failure.
    fn row(&mut self, id: &Id, result: Result<&Embedding, &str>) -> Result<(), SinkError>;

    /// Hands all rows to the operating system.
    fn flush(&mut self) -> io::Result<()>;

    /// Completes the output. Unless it is whole it takes no other file's place: then it says where the rows are.
    fn finish(self: Box<Self>, whole: bool) -> io::Result<Option<PathBuf>>;
}

/// Standard output or a file.
pub enum Out {
    /// Standard output.
    Stdout(io::Stdout),
    /// A file.
    File(Target),
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Out::Stdout(out) => out.write(bytes),
            Out::File(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Out::Stdout(out) => out.flush(),
            Out::File(out) => out.flush(),
        }
    }
}

/// JSON lines.
pub struct JsonlSink {
    out: BufWriter<Out>,
}

impl JsonlSink {
    /// Adds lines to `out`.
    pub fn new(out: Out) -> JsonlSink {
        JsonlSink {
            out: BufWriter::with_capacity(1 << 16, out),
        }
    }
}

impl Sink for JsonlSink {
    fn row(&mut self, id: &Id, result: Result<&Embedding, &str>) -> Result<(), SinkError> {
        match result {
            Ok(embedding) => Ok(jsonl::write_row(&mut self.out, id, embedding)?),
            Err(problem) => Ok(jsonl::write_error(&mut self.out, id, problem)?),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn finish(self: Box<Self>, whole: bool) -> io::Result<Option<PathBuf>> {
        match self.out.into_inner().map_err(io::IntoInnerError::into_error)? {
            Out::Stdout(mut out) => out.flush().map(|()| None),
            Out::File(out) => out.finish(whole),
        }
    }
}

/// The word for an encoding.
pub fn encoding_name(encoding: Encoding) -> &'static str {
    jsonl::ENCODINGS
        .iter()
        .find(|(_, known)| *known == encoding)
        .map_or("?", |(name, _)| name)
}
