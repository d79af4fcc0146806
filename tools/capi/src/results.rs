//! Results as C reads them: rows end to end, in memory that stays where it is until it is freed.

use std::ffi::{CString, c_void};

use ropeway::{Embedding, Output, Vector};

use crate::error::{Result, c_string};
use crate::types::ropeway_encoding::*;
use crate::types::ropeway_kind::*;
use crate::types::ropeway_status::*;
use crate::types::*;

/// The results of one call, one per request.
pub struct ropeway_results {
    entries: Vec<Entry>,
}

/// One result, and what its pointers point to.
struct Entry {
    view: ropeway_embedding,
    // Never read here, but through `view`; never changed, so that they stay in place.
    _message: CString,
    _rows: Rows,
    _spans: Vec<ropeway_span>,
}

/// Vectors of one encoding and size, end to end.
struct Rows {
    encoding: ropeway_encoding,
    dimensions: usize,
    row_bytes: usize,
    data: Data,
    scales: Vec<f32>,
}

/// The numbers, aligned for their type.
enum Data {
    F32(Vec<f32>),
    F16(Vec<u16>),
    Bytes(Vec<u8>),
}

impl ropeway_results {
    pub(crate) fn new(results: Vec<Result<Embedding>>) -> ropeway_results {
        let entries = results.into_iter().map(Entry::new).collect();
        ropeway_results { entries }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, index: usize) -> Option<&ropeway_embedding> {
        self.entries.get(index).map(|entry| &entry.view)
    }
}

impl Entry {
    fn new(result: Result<Embedding>) -> Entry {
        match result {
            Ok(embedding) => Entry::good(embedding),
            Err(failure) => Entry::build(
                failure.status,
                c_string(failure.message),
                ROPEWAY_KIND_VECTOR,
                Rows::new(Vec::new()),
                Vec::new(),
            ),
        }
    }

    fn good(embedding: Embedding) -> Entry {
        let (kind, vectors, spans) = match embedding.output {
            Output::Vector(vector) => (ROPEWAY_KIND_VECTOR, vec![vector], Vec::new()),
            Output::Tokens(vectors) => (ROPEWAY_KIND_TOKENS, vectors, Vec::new()),
            Output::Chunks(chunks) => {
                let span = |chunk: &ropeway::Chunk| ropeway_span {
                    start: chunk.start,
                    end: chunk.end,
                };
                let spans = chunks.iter().map(span).collect();
                let vectors = chunks.into_iter().map(|chunk| chunk.vector).collect();
                (ROPEWAY_KIND_CHUNKS, vectors, spans)
            }
            _ => unreachable!("requests of C ask for these forms alone"),
        };
        let mut entry = Entry::build(ROPEWAY_OK, CString::default(), kind, Rows::new(vectors), spans);
        entry.view.tokens = embedding.tokens;
        entry.view.truncated = i32::from(embedding.truncated);
        entry
    }

    fn build(
        status: ropeway_status,
        message: CString,
        kind: ropeway_kind,
        rows: Rows,
        spans: Vec<ropeway_span>,
    ) -> Entry {
        let (data, bytes) = match &rows.data {
            Data::F32(data) => (data.as_ptr().cast::<c_void>(), size_of_val(&data[..])),
            Data::F16(data) => (data.as_ptr().cast(), size_of_val(&data[..])),
            Data::Bytes(data) => (data.as_ptr().cast(), data.len()),
        };
        Entry {
            view: ropeway_embedding {
                status,
                kind,
                encoding: rows.encoding,
                truncated: 0,
                message: message.as_ptr(),
                data: if bytes == 0 { std::ptr::null() } else { data },
                count: bytes.checked_div(rows.row_bytes).unwrap_or(0),
                dimensions: rows.dimensions,
                row_bytes: rows.row_bytes,
                scales: pointer(&rows.scales),
                spans: pointer(&spans),
                tokens: 0,
            },
            _message: message,
            _rows: rows,
            _spans: spans,
        }
    }
}

/// NULL for none, as C expects it.
fn pointer<T>(values: &[T]) -> *const T {
    if values.is_empty() {
        std::ptr::null()
    } else {
        values.as_ptr()
    }
}

/// Encoding, dimensions and bytes of a row.
fn shape(vector: &Vector) -> (ropeway_encoding, usize, usize) {
    match vector {
        Vector::F32(values) => (ROPEWAY_ENCODING_F32, values.len(), size_of_val(&values[..])),
        Vector::F16(values) => (ROPEWAY_ENCODING_F16, values.len(), size_of_val(&values[..])),
        Vector::Int8 { values, .. } => (ROPEWAY_ENCODING_INT8, values.len(), values.len()),
        Vector::Binary(bits) => (ROPEWAY_ENCODING_BINARY, 8 * bits.len(), bits.len()),
        Vector::Base64(text) => {
            let padding = text.bytes().rev().take_while(|&c| c == b'=').count();
            let bytes = text.len() / 4 * 3 - padding;
            // And the NUL.
            (ROPEWAY_ENCODING_BASE64, bytes / size_of::<f32>(), text.len() + 1)
        }
        _ => unreachable!("requests of C ask for these encodings alone"),
    }
}

impl Rows {
    /// All vectors of an embedding have one encoding and size.
    fn new(vectors: Vec<Vector>) -> Rows {
        let none = (ROPEWAY_ENCODING_F32, 0, 0);
        let (encoding, dimensions, row_bytes) = vectors.first().map_or(none, shape);
        let values = vectors.len() * dimensions;
        let data = match encoding {
            ROPEWAY_ENCODING_F32 => Data::F32(Vec::with_capacity(values)),
            ROPEWAY_ENCODING_F16 => Data::F16(Vec::with_capacity(values)),
            _ => Data::Bytes(Vec::with_capacity(vectors.len() * row_bytes)),
        };
        let mut rows = Rows {
            encoding,
            dimensions,
            row_bytes,
            data,
            scales: Vec::new(),
        };
        for vector in vectors {
            rows.push(vector);
        }
        rows
    }

    fn push(&mut self, vector: Vector) {
        match (&mut self.data, vector) {
            (Data::F32(data), Vector::F32(values)) => data.extend(values),
            (Data::F16(data), Vector::F16(values)) => data.extend(values.iter().map(|x| x.to_bits())),
            (Data::Bytes(data), Vector::Int8 { values, scale }) => {
                data.extend(values.iter().map(|x| x.cast_unsigned()));
                self.scales.push(scale);
            }
            (Data::Bytes(data), Vector::Binary(bits)) => data.extend(bits),
            (Data::Bytes(data), Vector::Base64(text)) => {
                data.extend(text.bytes());
                data.push(0);
            }
            _ => unreachable!("the vectors of one embedding have one encoding"),
        }
    }
}
