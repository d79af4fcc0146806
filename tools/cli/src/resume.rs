//! What an earlier run left: its whole rows are read back, checked against the inputs and kept; a
//! torn last row is dropped.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use crate::jsonl::{self, Id};
use base64::Engine as _;
use ropeway::{Embedding, Encoding};
use serde_json::Value;

use super::npy::{self, Dtype};

/// The longest row of JSON lines that is compared with what this run makes of its input, in bytes: with 8192 token vectors of
/// 1024 dimensions it has 100 MB. Longer ones are known by their ids.
const LONGEST_ROW: u64 = 256 << 20;

/// The start of a row holds its id, which has 64 KiB at most.
const START: usize = 128 << 10;

/// The rows of an earlier run.
pub struct ExistingRows {
    input: BufReader<File>,
    form: Form,
    /// Bytes up to the end of the last whole row that was read.
    keep: u64,
    rows: u64,
    longest: u64,
}

enum Form {
    Jsonl,
    Npy { dtype: Dtype, columns: usize },
}

/// A row of an earlier run.
#[derive(Debug)]
pub struct ExistingRow {
    /// Its id, where rows have one.
    pub id: Option<Id>,
    /// Whether it stands for an input that failed.
    pub failed: bool,
    bytes: u64,
    /// None of a row that is too long to be compared.
    content: Option<Vec<u8>>,
}

impl ExistingRow {
    /// Whether [`ExistingRows::agrees`] can tell anything of it.
    pub fn is_comparable(&self) -> bool {
        self.content.is_some()
    }
}

impl ExistingRows {
    /// The rows of a JSONL file.
    pub fn jsonl(file: File) -> ExistingRows {
        ExistingRows {
            input: BufReader::with_capacity(1 << 20, file),
            form: Form::Jsonl,
            keep: 0,
            rows: 0,
            longest: LONGEST_ROW,
        }
    }

    /// The rows of an array of so many columns; `None` if not even its header is whole.
    pub fn npy(file: File, dtype: Dtype, columns: usize) -> Result<Option<ExistingRows>, String> {
        let mut input = BufReader::with_capacity(1 << 20, file);
        let mut header = Vec::new();
        input
            .by_ref()
            .take(npy::HEADER as u64)
            .read_to_end(&mut header)
            .map_err(|e| e.to_string())?;
        if header.len() < npy::HEADER {
            return match npy::is_header_begin(&header, dtype, columns) {
                true => Ok(None),
                false => Err("is not an array that ropeway wrote".into()),
            };
        }
        let existing = npy::columns(&header, dtype)
            .filter(|&columns| columns > 0)
            .ok_or_else(|| {
                let name = super::sink::encoding_name(dtype.encoding());
                format!("is not an array of this encoding ({name}) that ropeway wrote")
            })?;
        if existing != columns {
            return Err(format!("has {existing} columns, the rows of this run {columns}"));
        }
        let keep = npy::HEADER as u64;
        Ok(Some(ExistingRows {
            input,
            form: Form::Npy { dtype, columns },
            keep,
            rows: 0,
            longest: LONGEST_ROW,
        }))
    }

    /// The next whole row.
    pub fn next(&mut self) -> Result<Option<ExistingRow>, String> {
        let row = match self.form {
            Form::Jsonl => self.next_line()?,
            Form::Npy { dtype, columns } => self.next_array_row(dtype, columns).map_err(|e| e.to_string())?,
        };
        if let Some(row) = &row {
            self.keep += row.bytes;
            self.rows += 1;
        }
        Ok(row)
    }

    fn next_line(&mut self) -> Result<Option<ExistingRow>, String> {
        let mut content = Vec::new();
        self.input
            .by_ref()
            .take(self.longest)
            .read_until(b'\n', &mut content)
            .map_err(|e| e.to_string())?;
        let foreign = || format!("line {} is not a row that ropeway wrote", self.rows + 1);
        // What no row begins like is somebody's file, and not to be dropped. After a loss of power a file may end with zeros
        // where a row was to be.
        let torn = |content: &[u8]| {
            let zeros = content.iter().rev().take_while(|&&byte| byte == 0).count();
            let begin = &content[..content.len() - zeros];
            let zeros_alone = zeros > 0 && begin.is_empty() && self.rows == 0;
            match jsonl::is_row_begin(begin) && !zeros_alone {
                true => Ok(None),
                false => Err(foreign()),
            }
        };
        let mut bytes = content.len() as u64;
        let whole = content.last() == Some(&b'\n');
        let row = if whole {
            std::str::from_utf8(&content).ok().and_then(jsonl::read_row)
        } else if bytes < self.longest {
            return torn(&content);
        } else {
            let start = &content[..content.len().min(START)];
            let text = start.utf8_chunks().next();
            text.and_then(|text| jsonl::read_row_start(text.valid()))
        };
        let row = row.ok_or_else(foreign)?;
        if !whole {
            let (rest, has_end) = skip_line(&mut self.input).map_err(|e| e.to_string())?;
            if !has_end {
                return torn(&content);
            }
            bytes += rest;
        }
        Ok(Some(ExistingRow {
            id: Some(row.id),
            failed: row.failed,
            bytes,
            content: whole.then_some(content),
        }))
    }

    fn next_array_row(&mut self, dtype: Dtype, columns: usize) -> io::Result<Option<ExistingRow>> {
        let bytes = columns.saturating_mul(dtype.size());
        let mut content = Vec::new();
        self.input.by_ref().take(bytes as u64).read_to_end(&mut content)?;
        let failed = dtype
            .missing()
            .is_some_and(|missing| content.starts_with(missing));
        Ok((content.len() == bytes).then_some(ExistingRow {
            id: None,
            failed,
            bytes: bytes as u64,
            content: Some(content),
        }))
    }

    /// Bytes of the file that are worth keeping.
    pub fn keep(&self) -> u64 {
        self.keep
    }

    /// Rows that were read.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Whether a row is what this run would make of the same input: the same in form and size, and in value
    /// up to what another device may round differently.
    pub fn agrees(&self, row: &ExistingRow, embedding: &Embedding, encoding: Encoding) -> bool {
        let Some(content) = &row.content else { return true };
        let (existing, now) = match self.form {
            Form::Jsonl => {
                let mut line = Vec::new();
                let id = Id::number(0);
                if jsonl::write_row(&mut line, &id, embedding).is_err() {
                    return false;
                }
                let (existing, now) = (parsed(content), parsed(&line));
                if !same_form(&existing, &now, false) {
                    return false;
                }
                let (existing, now) = (numbers(&existing), numbers(&now));
                // f32 and f16 differ by less than devices do, and not in form.
                let is_f16 = |numbers: &[f64]| numbers.iter().all(|&number| jsonl::is_f16(number));
                let is_float = matches!(encoding, Encoding::F32 | Encoding::F16);
                if is_float && is_f16(&existing) != is_f16(&now) {
                    return false;
                }
                (existing, now)
            }
            Form::Npy { dtype, .. } => match npy::vector_bytes(dtype, embedding) {
                Ok(bytes) => (dtype.numbers(content), dtype.numbers(&bytes)),
                Err(_) => return false,
            },
        };
        match encoding {
            // One bit in fifty may flip: values near zero do.
            Encoding::Binary => distance(&bits(&existing), &bits(&now)) < 0.08,
            _ => distance(&existing, &now) < 0.01,
        }
    }
}

/// Reads to the end of a line; gives its bytes, and whether it has an end.
fn skip_line(input: &mut impl BufRead) -> io::Result<(u64, bool)> {
    let mut bytes = 0;
    loop {
        let buffer = input.fill_buf()?;
        let end = buffer.iter().position(|&byte| byte == b'\n');
        let (read, is_end) = (end.map_or(buffer.len(), |at| at + 1), end.is_some());
        input.consume(read);
        bytes += read as u64;
        if is_end || read == 0 {
            return Ok((bytes, is_end));
        }
    }
}

fn parsed(line: &[u8]) -> Value {
    serde_json::from_slice(line).unwrap_or_default()
}

/// Whether two rows say the same but for their ids and the values of vectors: other options make other lists, another type of
/// number, other chunks.
fn same_form(a: &Value, b: &Value, is_vector: bool) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let same = |(key, value): (&String, &Value)| match key.as_str() {
                "id" => true,
                key => {
                    let is_vector = matches!(key, "embedding" | "scale");
                    b.get(key).is_some_and(|other| same_form(value, other, is_vector))
                }
            };
            a.len() == b.len() && a.iter().all(same)
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_form(a, b, is_vector))
        }
        (Value::Number(_), Value::Number(_)) if is_vector => true,
        (Value::String(a), Value::String(b)) if is_vector => a.len() == b.len(),
        (a, b) => a == b,
    }
}

/// All numbers of a row's vectors.
fn numbers(row: &Value) -> Vec<f64> {
    fn collect(value: &Value, numbers: &mut Vec<f64>) {
        match value {
            Value::Number(number) => numbers.extend(number.as_f64()),
            Value::String(text) => {
                let bytes = base64::engine::general_purpose::STANDARD
                    .decode(text)
                    .unwrap_or_default();
                numbers.extend(
                    bytes
                        .as_chunks()
                        .0
                        .iter()
                        .map(|&four| f64::from(f32::from_le_bytes(four))),
                );
            }
            Value::Array(values) => values.iter().for_each(|value| collect(value, numbers)),
            Value::Object(entries) => {
                // Not the scale of int8: it is of another magnitude than the numbers.
                let vectors = entries
                    .iter()
                    .filter(|(key, _)| *key == "embedding" || *key == "chunks");
                vectors.for_each(|(_, value)| collect(value, numbers));
            }
            Value::Null | Value::Bool(_) => {}
        }
    }
    let mut numbers = Vec::new();
    collect(row, &mut numbers);
    numbers
}

fn bits(bytes: &[f64]) -> Vec<f64> {
    let bits = |byte: f64| (0..8).map(move |bit| if byte as u8 >> bit & 1 == 1 { 1.0 } else { -1.0 });
    bytes.iter().copied().flat_map(bits).collect()
}

/// |a − b|² / |b|²; infinite where the lengths differ.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let square = |sum: f64, x: f64| sum + x * x;
    let difference = a.iter().zip(b).map(|(a, b)| a - b).fold(0.0, square);
    if difference == 0.0 {
        0.0
    } else {
        difference / b.iter().copied().fold(0.0, square)
    }
}

#[cfg(test)]
mod tests;
