//! Embeddings as numpy arrays.

use numpy::ndarray::Array2;
use numpy::{Element, IntoPyArray};
use pyo3::prelude::*;
use ropeway::half::f16;
use ropeway::{Embedding, Output, Vector};

use crate::errors;

/// Vectors of one kind and width end to end, and the scales of int8.
struct Block {
    numbers: Numbers,
    rows: usize,
    width: usize,
    scales: Vec<f32>,
}

enum Numbers {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Int8(Vec<i8>),
    Bits(Vec<u8>),
}

fn width(vector: &Vector) -> usize {
    match vector {
        Vector::F32(values) => values.len(),
        Vector::F16(values) => values.len(),
        Vector::Int8 { values, .. } => values.len(),
        Vector::Binary(values) => values.len(),
        _ => 0,
    }
}

impl Block {
    /// An empty block for `rows` vectors such as this one.
    fn like(vector: &Vector, rows: usize) -> Block {
        let width = width(vector);
        let numbers = match vector {
            Vector::F32(_) => Numbers::F32(Vec::with_capacity(rows * width)),
            Vector::F16(_) => Numbers::F16(Vec::with_capacity(rows * width)),
            Vector::Int8 { .. } => Numbers::Int8(Vec::with_capacity(rows * width)),
            // `options` asks for no base64.
            _ => Numbers::Bits(Vec::with_capacity(rows * width)),
        };
        Block {
            numbers,
            rows: 0,
            width,
            scales: Vec::new(),
        }
    }

    /// Appends a vector; one that is not of the block's kind is given back.
    fn push(&mut self, vector: Vector) -> Result<(), Vector> {
        if width(&vector) != self.width {
            return Err(vector);
        }
        match (&mut self.numbers, vector) {
            (Numbers::F32(all), Vector::F32(values)) => all.extend(values),
            (Numbers::F16(all), Vector::F16(values)) => all.extend(values),
            (Numbers::Bits(all), Vector::Binary(values)) => all.extend(values),
            (Numbers::Int8(all), Vector::Int8 { values, scale, .. }) => {
                all.extend(values);
                self.scales.push(scale);
            }
            (_, other) => return Err(other),
        }
        self.rows += 1;
        Ok(())
    }

    /// `(array[rows, width], scales[rows] or None)`; the arrays take the memory over.
    fn into_py(self, py: Python<'_>) -> PyResult<(Py<PyAny>, Option<Py<PyAny>>)> {
        fn array<T: Element>(py: Python<'_>, numbers: Vec<T>, shape: [usize; 2]) -> PyResult<Py<PyAny>> {
            let rows = Array2::from_shape_vec(shape, numbers).map_err(|error| {
                errors::raise(py, "InternalError", format!("vectors of {shape:?}: {error}"))
            })?;
            Ok(rows.into_pyarray(py).into_any().unbind())
        }
        let shape = [self.rows, self.width];
        let scales = matches!(self.numbers, Numbers::Int8(_))
            .then(|| self.scales.into_pyarray(py).into_any().unbind());
        let numbers = match self.numbers {
            Numbers::F32(numbers) => array(py, numbers, shape),
            Numbers::F16(numbers) => array(py, numbers, shape),
            Numbers::Int8(numbers) => array(py, numbers, shape),
            Numbers::Bits(numbers) => array(py, numbers, shape),
        };
        Ok((numbers?, scales))
    }
}

/// `(array[vectors, width], scales or None)` of vectors of one kind, as those of one text are.
fn stacked(py: Python<'_>, vectors: Vec<Vector>) -> PyResult<(Py<PyAny>, Option<Py<PyAny>>)> {
    let none = Vector::F32(Vec::new());
    let mut block = Block::like(vectors.first().unwrap_or(&none), vectors.len());
    for vector in vectors {
        block
            .push(vector)
            .map_err(|_| errors::raise(py, "InternalError", "the vectors of one text differ in kind"))?;
    }
    block.into_py(py)
}

/// `(array, scales or None, spans or None)`: one vector `[1, width]`, or those of tokens or chunks.
pub fn single(py: Python<'_>, embedding: Embedding) -> PyResult<Py<PyAny>> {
    let (vectors, spans) = match embedding.output {
        Output::Vector(vector) => (vec![vector], None),
        Output::Tokens(vectors) => (vectors, None),
        Output::Chunks(chunks) => {
            let spans: Vec<(usize, usize)> = chunks.iter().map(|chunk| (chunk.start, chunk.end)).collect();
            (
                chunks.into_iter().map(|chunk| chunk.vector).collect(),
                Some(spans),
            )
        }
        _ => return Err(errors::raise(py, "InternalError", "an output of an unknown form")),
    };
    let (array, scales) = stacked(py, vectors)?;
    Ok((array, scales, spans).into_pyobject(py)?.into_any().unbind())
}

/// The results of a call as they come.
pub struct Results {
    /// What came until one came that does not fit.
    block: Option<Block>,
    rest: Vec<PyResult<Embedding>>,
    texts: usize,
}

impl Results {
    pub fn new(texts: usize) -> Results {
        Results {
            block: None,
            rest: Vec::new(),
            texts,
        }
    }

    pub fn push(&mut self, result: PyResult<Embedding>) {
        let vector = match result {
            Ok(Embedding {
                output: Output::Vector(vector),
                ..
            }) if self.rest.is_empty() => vector,
            other => return self.rest.push(other),
        };
        let texts = self.texts;
        let block = self.block.get_or_insert_with(|| Block::like(&vector, texts));
        if let Err(vector) = block.push(vector) {
            self.rest.push(Ok(Embedding::new(Output::Vector(vector))));
        }
    }

    /// `(array[texts, width], scales or None)` where each text has one vector of the same kind; else
    /// `(block or None, [single or exception, …])`: the texts up to one that differs, and the rest.
    pub fn into_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let block = self.block.map(|block| block.into_py(py)).transpose()?;
        if self.rest.is_empty() {
            return Ok((block, Vec::<Py<PyAny>>::new())
                .into_pyobject(py)?
                .into_any()
                .unbind());
        }
        let one = |result: PyResult<Embedding>| match result {
            Ok(embedding) => single(py, embedding),
            Err(error) => Ok(error.into_value(py).into_any()),
        };
        let rest: Vec<Py<PyAny>> = self.rest.into_iter().map(one).collect::<PyResult<_>>()?;
        Ok((block, rest).into_pyobject(py)?.into_any().unbind())
    }
}
