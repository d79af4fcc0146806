//! `--format safetensors`: all rows in one tensor, and tensors that say whose they are.
//!
//! | tensor | shape | |
//! |---|---|---|
//! | `embeddings` | `[rows, dimensions]` | F32, F16, I8 (int8) or U8 (binary, packed); of a failed input NaN or 0 |
//! | `scales` | `[rows]` F32 | int8 alone: `x ≈ embeddings · scales` |
//! | `rows` | `[inputs]` U32 | where inputs have other than one row: rows of each, in order |
//! | `spans` | `[rows, 2]` U32 | late chunks alone: start and end of each |
//! | `tokens` | `[inputs]` U32 | tokens that went through the model; 0: the input failed |
//! | `truncated` | `[inputs]` U8 | 1 where the text was cut |
//! | `ids` | `[bytes]` U8 | a JSON list, where any input has an id of its own |
//!
//! Columns are kept in scratch files beside the output until their lengths are known, so that
//! memory does not grow with the number of inputs.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::jsonl::Id;
use ropeway::{Embedding, Encoding, Output, Vector};

use super::npy::{Dtype, check_columns};
use super::sink::{Sink, SinkError, encoding_name};
use super::target::Target;

/// A column that grows in a file of its own. The file has no name that anybody could find or that a kill could leave.
struct Column {
    out: BufWriter<File>,
    bytes: u64,
}

impl Column {
    fn create(folder: &Path) -> io::Result<Column> {
        let file = tempfile::tempfile_in(folder)?;
        Ok(Column {
            out: BufWriter::new(file),
            bytes: 0,
        })
    }

    fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn copy_to(&mut self, target: &mut Target) -> io::Result<()> {
        self.out.flush()?;
        let mut file = self.out.get_ref();
        file.seek(SeekFrom::Start(0))?;
        io::copy(&mut file, target).map(|_| ())
    }
}

/// Collects rows and writes the file at the end.
pub struct SafetensorsSink {
    target: Target,
    dtype: Dtype,
    columns: usize,
    model: String,
    embeddings: Column,
    scales: Column,
    rows: Column,
    spans: Column,
    tokens: Column,
    truncated: Column,
    ids: Column,
    inputs: u64,
    /// Every input so far has exactly one row of its own, no list of them.
    plain: bool,
    chunked: bool,
    own_ids: bool,
}

impl SafetensorsSink {
    /// A new file for rows of this type and so many columns.
    pub fn new(mut target: Target, dtype: Dtype, columns: usize, model: &str) -> io::Result<Self> {
        target.begin(0)?;
        let folder = target.scratch_folder();
        let column = || Column::create(&folder);
        Ok(SafetensorsSink {
            embeddings: column()?,
            scales: column()?,
            rows: column()?,
            spans: column()?,
            tokens: column()?,
            truncated: column()?,
            ids: column()?,
            target,
            dtype,
            columns,
            model: model.to_owned(),
            inputs: 0,
            plain: true,
            chunked: false,
            own_ids: false,
        })
    }

    fn add(&mut self, embedding: &Embedding) -> Result<(), SinkError> {
        let chunks: Vec<(u32, u32)>;
        let vectors: Vec<&Vector> = match &embedding.output {
            Output::Vector(vector) => {
                chunks = Vec::new();
                vec![vector]
            }
            Output::Tokens(vectors) => {
                chunks = Vec::new();
                vectors.iter().collect()
            }
            Output::Chunks(list) => {
                let bound = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
                chunks = list
                    .iter()
                    .map(|chunk| (bound(chunk.start), bound(chunk.end)))
                    .collect();
                list.iter().map(|chunk| &chunk.vector).collect()
            }
            _ => {
                return Err(SinkError::Unfit(
                    "has a form that this file has no place for".into(),
                ));
            }
        };
        // All of an input is checked before any of it is written.
        let mut rows = Vec::with_capacity(vectors.len());
        for vector in &vectors {
            let Some(bytes) = self.dtype.bytes(vector) else {
                let name = encoding_name(self.dtype.encoding());
                let problem =
                    format!("has another encoding than the file ({name}); --format jsonl takes any");
                return Err(SinkError::Unfit(problem));
            };
            check_columns("file", bytes.len() / self.dtype.size(), self.columns).map_err(SinkError::Unfit)?;
            rows.push(bytes);
        }
        for (index, (row, vector)) in rows.iter().zip(&vectors).enumerate() {
            self.embeddings.add(row)?;
            if let Vector::Int8 { scale, .. } = vector {
                self.scales.add(&scale.to_le_bytes())?;
            }
            let (start, end) = chunks.get(index).copied().unwrap_or_default();
            self.spans.add(&start.to_le_bytes())?;
            self.spans.add(&end.to_le_bytes())?;
        }
        self.chunked |= matches!(embedding.output, Output::Chunks(_));
        self.plain &= matches!(embedding.output, Output::Vector(_));
        self.input(rows.len(), embedding.tokens, embedding.truncated)
    }

    /// A failed input has a row of NaNs, or of zeros where rows are integers (int8 with NaN as its scale): row n stays input n.
    fn add_failure(&mut self) -> Result<(), SinkError> {
        let number = self.dtype.missing().unwrap_or(&[0]);
        self.embeddings.add(&number.repeat(self.columns))?;
        if self.dtype.encoding() == Encoding::Int8 {
            self.scales.add(&f32::NAN.to_le_bytes())?;
        }
        self.spans.add(&[0; 8])?;
        self.input(1, 0, false)
    }

    fn input(&mut self, rows: usize, tokens: usize, truncated: bool) -> Result<(), SinkError> {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
        self.rows.add(&count(rows))?;
        self.tokens.add(&count(tokens))?;
        Ok(self.truncated.add(&[u8::from(truncated)])?)
    }
}

impl Sink for SafetensorsSink {
    fn row(&mut self, id: &Id, result: Result<&Embedding, &str>) -> Result<(), SinkError> {
        match result {
            Ok(embedding) => self.add(embedding)?,
            Err(_) => self.add_failure()?,
        }
        self.own_ids |= *id != Id::number(self.inputs);
        self.ids.add(if self.inputs == 0 { b"[" } else { b"," })?;
        self.ids.add(id.as_json().as_bytes())?;
        self.inputs += 1;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn finish(self: Box<Self>, whole: bool) -> io::Result<Option<PathBuf>> {
        let mut this = *self;
        let inputs = this.inputs;
        let rows = this.spans.bytes / 8;
        this.ids.add(b"]")?;
        let ids = this.ids.bytes;
        let dtype = match this.dtype.encoding() {
            Encoding::F16 => "F16",
            Encoding::Int8 => "I8",
            Encoding::Binary => "U8",
            _ => "F32",
        };
        // Widest numbers first, so that every tensor is aligned.
        let mut tensors: Vec<(&str, &str, Vec<u64>, &mut Column)> = vec![(
            "embeddings",
            dtype,
            vec![rows, this.columns as u64],
            &mut this.embeddings,
        )];
        let at = if this.dtype.size() == 4 { 1 } else { 0 };
        tensors.insert(at, ("tokens", "U32", vec![inputs], &mut this.tokens));
        if !this.plain {
            tensors.insert(at, ("rows", "U32", vec![inputs], &mut this.rows));
        }
        if this.chunked {
            tensors.insert(at, ("spans", "U32", vec![rows, 2], &mut this.spans));
        }
        if dtype == "I8" {
            tensors.insert(at, ("scales", "F32", vec![rows], &mut this.scales));
        }
        tensors.push(("truncated", "U8", vec![inputs], &mut this.truncated));
        if this.own_ids {
            tensors.push(("ids", "U8", vec![ids], &mut this.ids));
        }
        let mut header = serde_json::Map::new();
        let encoding = encoding_name(this.dtype.encoding());
        header.insert(
            "__metadata__".into(),
            serde_json::json!({"format": "ropeway", "model": this.model, "encoding": encoding}),
        );
        let mut end = 0;
        for (name, dtype, shape, column) in &tensors {
            let start = end;
            end += column.bytes;
            header.insert(
                (*name).into(),
                serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}),
            );
        }
        let mut header = serde_json::Value::Object(header).to_string();
        header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
        this.target.write_all(&(header.len() as u64).to_le_bytes())?;
        this.target.write_all(header.as_bytes())?;
        for (_, _, _, column) in &mut tensors {
            column.copy_to(&mut this.target)?;
        }
        drop(tensors);
        this.target.finish(whole)
    }
}
