//! `--format npy`: one array of shape [inputs, dimensions], as numpy's format 1.0 has it.
//!
//! The run refuses int8 here: the array has no place for its scales.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use crate::jsonl::Id;
use half::f16;
use ropeway::{Embedding, Encoding, Output, Vector};

use super::sink::{Sink, SinkError};
use super::target::Target;

/// Length of the header: room for any shape, and a multiple of 64 so that rows are aligned.
pub const HEADER: usize = 128;

/// The types of numbers that an array can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dtype {
    encoding: Encoding,
}

impl Dtype {
    /// The type for an encoding; text has none.
    pub fn new(encoding: Encoding) -> Option<Dtype> {
        (encoding != Encoding::Base64).then_some(Dtype { encoding })
    }

    /// The encoding it holds.
    pub fn encoding(self) -> Encoding {
        self.encoding
    }

    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self.encoding {
            Encoding::F32 => 4,
            Encoding::F16 => 2,
            _ => 1,
        }
    }

    /// numpy's word for it.
    fn descr(self) -> &'static str {
        match self.encoding {
            Encoding::F16 => "<f2",
            Encoding::Int8 => "|i1",
            Encoding::Binary => "|u1",
            _ => "<f4",
        }
    }

    /// The bytes that stand for an input that failed; integers have none.
    pub fn missing(self) -> Option<&'static [u8]> {
        const F32: [u8; 4] = f32::NAN.to_le_bytes();
        const F16: [u8; 2] = f16::NAN.to_le_bytes();
        match self.encoding {
            Encoding::F32 => Some(&F32),
            Encoding::F16 => Some(&F16),
            _ => None,
        }
    }

    /// The bytes of a vector, if it is of this type.
    pub fn bytes(self, vector: &Vector) -> Option<Vec<u8>> {
        match (self.encoding, vector) {
            (Encoding::F32, Vector::F32(values)) => {
                Some(values.iter().flat_map(|x| x.to_le_bytes()).collect())
            }
            (Encoding::F16, Vector::F16(values)) => {
                Some(values.iter().flat_map(|x| x.to_le_bytes()).collect())
            }
            (Encoding::Int8, Vector::Int8 { values, .. }) => Some(values.iter().map(|&x| x as u8).collect()),
            (Encoding::Binary, Vector::Binary(bytes)) => Some(bytes.clone()),
            _ => None,
        }
    }

    /// The numbers in some bytes.
    pub fn numbers(self, bytes: &[u8]) -> Vec<f64> {
        match self.encoding {
            Encoding::F16 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|&pair| f16::from_le_bytes(pair).to_f64())
                .collect(),
            Encoding::Int8 => bytes.iter().map(|&byte| f64::from(byte as i8)).collect(),
            Encoding::Binary => bytes.iter().map(|&byte| f64::from(byte)).collect(),
            _ => bytes
                .as_chunks()
                .0
                .iter()
                .map(|&four| f64::from(f32::from_le_bytes(four)))
                .collect(),
        }
    }
}

/// The header of an array [rows, columns].
pub fn header(dtype: Dtype, rows: u64, columns: usize) -> Vec<u8> {
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((HEADER as u16 - 10).to_le_bytes());
    let descr = dtype.descr();
    let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    header.extend(dict.bytes());
    header.resize(HEADER - 1, b' ');
    header.push(b'\n');
    header
}

/// The columns of an array of this type that [`header`] began; `None` if it did not.
pub fn columns(start: &[u8], dtype: Dtype) -> Option<usize> {
    let text = std::str::from_utf8(start.get(10..HEADER)?).ok()?;
    let (_, shape) = text.split_once("'shape': (")?;
    let (rows, shape) = shape.split_once(", ")?;
    let (columns, _) = shape.split_once(')')?;
    let columns = columns.parse().ok()?;
    (header(dtype, rows.parse().ok()?, columns) == start[..HEADER]).then_some(columns)
}

/// Whether the header of some array of this type and so many columns begins with these bytes.
pub fn is_header_begin(start: &[u8], dtype: Dtype, columns: usize) -> bool {
    let text = String::from_utf8_lossy(start);
    let rows = text.split_once("'shape': (").map_or("", |(_, rows)| rows);
    let digits = rows.split(|c: char| !c.is_ascii_digit()).next();
    let rows = digits.and_then(|digits| digits.parse().ok()).unwrap_or(0);
    header(dtype, rows, columns).starts_with(start)
}

/// Writes rows behind a header whose count is filled in at the end.
pub struct NpySink {
    out: BufWriter<Target>,
    dtype: Dtype,
    columns: usize,
    rows: u64,
    /// The header is there.
    begun: bool,
}

impl NpySink {
    /// A new array of so many columns.
    pub fn new(out: Target, dtype: Dtype, columns: usize) -> NpySink {
        NpySink {
            out: BufWriter::with_capacity(1 << 16, out),
            dtype,
            columns,
            rows: 0,
            begun: false,
        }
    }

    /// Goes on behind so many rows of so many columns.
    pub fn resume(out: Target, dtype: Dtype, columns: usize, rows: u64) -> NpySink {
        NpySink {
            rows,
            begun: true,
            ..NpySink::new(out, dtype, columns)
        }
    }

    /// Writes the header unless it is there: late, so that a run without any row leaves none to continue.
    fn begin(&mut self) -> io::Result<()> {
        if !self.begun {
            self.out.write_all(&header(self.dtype, 0, self.columns))?;
            self.begun = true;
        }
        Ok(())
    }

    fn fit(&self, embedding: &Embedding) -> Result<Vec<u8>, String> {
        let bytes = vector_bytes(self.dtype, embedding)?;
        check_columns("array", bytes.len() / self.dtype.size(), self.columns)?;
        Ok(bytes)
    }
}

/// Whether a row has the columns of the output, or why it does not fit.
pub fn check_columns(output: &str, got: usize, wanted: usize) -> Result<(), String> {
    match got == wanted {
        true => Ok(()),
        false => Err(format!(
            "has {got} columns, the {output} has {wanted} (--dimensions sets that); --format jsonl takes any size"
        )),
    }
}

/// The bytes of an input's only vector, or why an array cannot hold it.
pub fn vector_bytes(dtype: Dtype, embedding: &Embedding) -> Result<Vec<u8>, String> {
    let Output::Vector(vector) = &embedding.output else {
        return Err("has many vectors, an array has one per input; use --format jsonl or safetensors".into());
    };
    dtype.bytes(vector).ok_or_else(|| {
        let name = super::sink::encoding_name(dtype.encoding);
        format!("has another encoding than the array ({name}); --format jsonl takes any")
    })
}

impl Sink for NpySink {
    fn row(&mut self, _: &Id, result: Result<&Embedding, &str>) -> Result<(), SinkError> {
        match result {
            Ok(embedding) => {
                let bytes = self.fit(embedding).map_err(SinkError::Unfit)?;
                self.begin()?;
                self.out.write_all(&bytes)?;
            }
            Err(problem) => {
                let Some(missing) = self.dtype.missing() else {
                    return Err(SinkError::Stop(format!(
                        "{problem} (an array of integers cannot leave a row out)"
                    )));
                };
                self.begin()?;
                self.out.write_all(&missing.repeat(self.columns))?;
            }
        }
        self.rows += 1;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn finish(mut self: Box<Self>, whole: bool) -> io::Result<Option<PathBuf>> {
        self.begin()?;
        let header = header(self.dtype, self.rows, self.columns);
        let mut out = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        out.patch(0, &header)?;
        out.finish(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_aligned_and_read_back() {
        for encoding in [Encoding::F32, Encoding::F16, Encoding::Int8, Encoding::Binary] {
            let dtype = Dtype::new(encoding).unwrap();
            for (rows, columns) in [(0, 1), (3, 384), (u64::MAX, usize::MAX)] {
                let start = header(dtype, rows, columns);
                assert_eq!(start.len(), HEADER);
                assert_eq!(super::columns(&start, dtype), Some(columns));
            }
        }
        let f32 = Dtype::new(Encoding::F32).unwrap();
        assert_eq!(&header(f32, 2, 3)[..10], b"\x93NUMPY\x01\x00\x76\x00");
        assert!(
            header(f32, 2, 3)[10..]
                .starts_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }")
        );
        assert_eq!(
            super::columns(&header(f32, 2, 3), Dtype::new(Encoding::F16).unwrap()),
            None
        );
        assert_eq!(super::columns(b"\x93NUMPY", f32), None);
        assert_eq!(super::columns(&[0; HEADER], f32), None);
    }
}
