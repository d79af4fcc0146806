//! From an embedding to a line, and back as far as a resumed run needs it.

use std::io::{self, Write};

use half::f16;
use serde_json::value::RawValue;

use super::{Id, LineEntries};
use ropeway::{Embedding, Output, Vector};

/// What every line out begins with.
pub(super) const ROW_BEGIN: &str = "{\"id\":";

/// Writes the line of an input that was embedded, with its line feed:
/// `{"id", "embedding" | "chunks", "tokens", "truncated"}`.
///
/// Floats are the shortest decimals that read back as the same number of their own width; a
/// number that is not finite is `null`. With int8 the factor that makes the numbers floats again
/// stands beside them as `scale`.
pub fn write_row(out: &mut impl Write, id: &Id, embedding: &Embedding) -> io::Result<()> {
    write!(out, "{ROW_BEGIN}{}", id.as_json())?;
    match &embedding.output {
        Output::Vector(vector) => write_vectors(out, vector)?,
        Output::Tokens(rows) => {
            out.write_all(b",\"embedding\":[")?;
            write_list(out, rows, |out, row| write_numbers(out, row))?;
            out.write_all(b"]")?;
            let scales: Vec<f32> = rows.iter().filter_map(scale).collect();
            if !scales.is_empty() {
                out.write_all(b",\"scale\":")?;
                serde_json::to_writer(&mut *out, &scales)?;
            }
        }
        Output::Chunks(chunks) => {
            out.write_all(b",\"chunks\":[")?;
            write_list(out, chunks, |out, chunk| {
                write!(out, "{{\"start\":{},\"end\":{}", chunk.start, chunk.end)?;
                write_vectors(out, &chunk.vector)?;
                out.write_all(b"}")
            })?;
            out.write_all(b"]")?;
        }
        _ => {
            return Err(io::Error::other(
                "an embedding of a form that this command does not write",
            ));
        }
    }
    writeln!(
        out,
        ",\"tokens\":{},\"truncated\":{}}}",
        embedding.tokens, embedding.truncated
    )
}

/// Writes the line of an input that could not be embedded, with its line feed: `{"id", "error"}`.
pub fn write_error(out: &mut impl Write, id: &Id, problem: &str) -> io::Result<()> {
    write!(out, "{{\"id\":{},\"error\":", id.as_json())?;
    serde_json::to_writer(&mut *out, problem)?;
    out.write_all(b"}\n")
}

fn write_vectors<W: Write>(out: &mut W, vector: &Vector) -> io::Result<()> {
    out.write_all(b",\"embedding\":")?;
    write_numbers(out, vector)?;
    if let Some(scale) = scale(vector) {
        out.write_all(b",\"scale\":")?;
        serde_json::to_writer(&mut *out, &scale)?;
    }
    Ok(())
}

fn scale(vector: &Vector) -> Option<f32> {
    match vector {
        Vector::Int8 { scale, .. } => Some(*scale),
        _ => None,
    }
}

/// Writes a vector as JSON: a list of numbers, for base64 a string.
pub fn write_numbers(out: &mut impl Write, vector: &Vector) -> io::Result<()> {
    match vector {
        Vector::F32(values) => Ok(serde_json::to_writer(out, values)?),
        Vector::F16(values) => {
            let decimals: Vec<f64> = values.iter().map(|&x| shortest_f16(x)).collect();
            Ok(serde_json::to_writer(out, &decimals)?)
        }
        Vector::Int8 { values, .. } => Ok(serde_json::to_writer(out, values)?),
        Vector::Binary(bytes) => Ok(serde_json::to_writer(out, bytes)?),
        Vector::Base64(text) => Ok(serde_json::to_writer(out, text)?),
        _ => Err(io::Error::other(
            "a vector of an encoding that this command does not write",
        )),
    }
}

fn write_list<W: Write, T>(
    out: &mut W,
    items: &[T],
    write: impl Fn(&mut W, &T) -> io::Result<()>,
) -> io::Result<()> {
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.write_all(b",")?;
        }
        write(out, item)?;
    }
    Ok(())
}

/// Whether a number is what is written of some f16.
pub fn is_f16(number: f64) -> bool {
    shortest_f16(f16::from_f64(number)) == number
}

/// The number of fewest decimal digits that rounds to this f16, whether by way of f32 or f64.
fn shortest_f16(x: f16) -> f64 {
    let exact = x.to_f64();
    let keeps = |decimal: f64| f16::from_f64(decimal) == x && f16::from_f32(decimal as f32) == x;
    let with_digits = |digits: usize| format!("{exact:.*e}", digits - 1).parse::<f64>().unwrap_or(exact);
    // 11 bits need at most five digits; most values need four, so that is where the search starts.
    let mut shortest = exact;
    if keeps(with_digits(4)) {
        for digits in (1..=4).rev() {
            let decimal = with_digits(digits);
            if !keeps(decimal) {
                break;
            }
            shortest = decimal;
        }
    } else if keeps(with_digits(5)) {
        shortest = with_digits(5);
    }
    shortest
}

/// What a finished output line says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The input's id.
    pub id: Id,
    /// Whether it is the line of an input that could not be embedded.
    pub failed: bool,
}

/// Reads an output line back, as far as a resumed run needs it; `None` if it is no such line.
pub fn read_row(line: &str) -> Option<Row> {
    let LineEntries { entries, .. } = serde_json::from_str(line).ok()?;
    let has = |name: &str| entries.iter().any(|(key, _)| key == name);
    let (first, raw) = entries.first()?;
    let failed = has("error");
    (first == "id" && (failed || has("embedding") || has("chunks")))
        .then(|| Id::read(raw))?
        .map(|id| Row { id, failed })
}

/// The same from the start of a line that is too long to be read: ropeway writes the id first, and no long line of a failure.
pub fn read_row_start(start: &str) -> Option<Row> {
    let rest = start.strip_prefix(ROW_BEGIN)?;
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<&RawValue>();
    let raw = values.next()?.ok()?;
    let rest = &rest[values.byte_offset()..];
    let has_vectors = [",\"embedding\":", ",\"chunks\":"]
        .iter()
        .any(|key| rest.starts_with(key));
    has_vectors
        .then(|| Id::read(raw))?
        .map(|id| Row { id, failed: false })
}
