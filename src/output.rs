//! From pooled f32 rows to what the caller gets: the encodings.

use base64::Engine as _;
use half::f16;

use crate::error::{Error, RequestError, Result};
use crate::request::Encoding;

/// What one input became.
///
/// ```no_run
/// # use ropeway::{Embed, Engine};
/// # let engine = Engine::open("models/all-MiniLM-L6-v2")?;
/// for embedding in engine.embed(&["a warm coat", "a cold beer"], &Embed::default())? {
///     let vector: Vec<f32> = embedding.into_f32()?;
///     println!("{vector:?}");
/// }
/// # Ok::<(), ropeway::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Embedding {
    /// One vector, one per token, or one per chunk.
    pub output: Output,
    /// Tokens that went through the model, special tokens and prompt included.
    pub tokens: usize,
    /// Whether the text was cut at the model's limit.
    pub truncated: bool,
}

/// One vector, one per token, or one per chunk.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Output {
    /// The pooled vector.
    Vector(Vector),
    /// With pooling [`None`](crate::Pooling::None): one vector per token.
    Tokens(Vec<Vector>),
    /// With late chunking: one per chunk, in order.
    Chunks(Vec<Chunk>),
}

/// One chunk of a document.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Chunk {
    /// First code point (token, where ids were given) of the chunk.
    pub start: usize,
    /// One past its last.
    pub end: usize,
    /// Its vector.
    pub vector: Vector,
}

/// A vector in the encoding asked for.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Vector {
    /// 32-bit floats, `[dimensions]`.
    F32(Vec<f32>),
    /// 16-bit floats, `[dimensions]`.
    F16(Vec<f16>),
    /// `x ≈ values · scale`.
    Int8 {
        /// In −127 ..= 127, `[dimensions]`.
        values: Vec<i8>,
        /// `max|x| / 127`.
        scale: f32,
    },
    /// Packed bits, `[dimensions / 8]`, the first dimension in the highest bit.
    Binary(Vec<u8>),
    /// Base64 of the little-endian f32 bytes.
    Base64(String),
}

impl Embedding {
    /// An embedding that no engine made, e.g. for the tests of a program that uses one. `tokens` is 0 and `truncated`
    /// false.
    pub fn new(output: Output) -> Embedding {
        Embedding {
            output,
            tokens: 0,
            truncated: false,
        }
    }

    /// The pooled vector, if there is one and it is of 32-bit floats.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.output {
            Output::Vector(vector) => vector.as_f32(),
            _ => None,
        }
    }

    /// The chunks, if late chunking was asked for.
    pub fn chunks(&self) -> Option<&[Chunk]> {
        match &self.output {
            Output::Chunks(chunks) => Some(chunks),
            _ => None,
        }
    }

    /// The pooled vector in whatever encoding it has.
    ///
    /// # Errors
    /// [`RequestError::Form`] if there is one vector per token or per chunk.
    pub fn into_vector(self) -> Result<Vector> {
        match self.output {
            Output::Vector(vector) => Ok(vector),
            other => Err(other.is_not("one vector")),
        }
    }

    /// The pooled vector as 32-bit floats, `[dimensions]`.
    ///
    /// # Errors
    /// [`RequestError::Form`] if there is one vector per token or per chunk, or if another encoding was asked for.
    pub fn into_f32(self) -> Result<Vec<f32>> {
        self.into_vector()?.into_f32()
    }

    /// The vectors of the tokens.
    ///
    /// # Errors
    /// [`RequestError::Form`] unless pooling [`None`](crate::Pooling::None) was asked for.
    pub fn into_tokens(self) -> Result<Vec<Vector>> {
        match self.output {
            Output::Tokens(vectors) => Ok(vectors),
            other => Err(other.is_not("one vector per token")),
        }
    }

    /// The chunks, in order.
    ///
    /// # Errors
    /// [`RequestError::Form`] unless late chunking was asked for.
    pub fn into_chunks(self) -> Result<Vec<Chunk>> {
        match self.output {
            Output::Chunks(chunks) => Ok(chunks),
            other => Err(other.is_not("one vector per chunk")),
        }
    }
}

impl Output {
    fn is_not(&self, wanted: &'static str) -> Error {
        let found = match self {
            Output::Vector(_) => "one vector",
            Output::Tokens(_) => "one vector per token",
            Output::Chunks(_) => "one vector per chunk",
        };
        RequestError::Form { found, wanted }.into()
    }
}

impl Chunk {
    /// A chunk that no engine made; see [`Embedding::new`].
    pub fn new(start: usize, end: usize, vector: Vector) -> Chunk {
        Chunk { start, end, vector }
    }
}

impl Vector {
    /// The numbers, if they are 32-bit floats.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match self {
            Vector::F32(values) => Some(values),
            _ => None,
        }
    }

    /// The numbers, `[dimensions]`.
    ///
    /// # Errors
    /// [`RequestError::Form`] if another encoding than 32-bit floats was asked for.
    pub fn into_f32(self) -> Result<Vec<f32>> {
        let found = match self {
            Vector::F32(values) => return Ok(values),
            Vector::F16(_) => "f16",
            Vector::Int8 { .. } => "int8",
            Vector::Binary(_) => "binary",
            Vector::Base64(_) => "base64",
        };
        Err(RequestError::Form { found, wanted: "f32" }.into())
    }

    /// A vector from its encoded numbers as a device writes them (float32 for base64).
    pub(crate) fn from_record(encoding: Encoding, bytes: &[u8], dimensions: usize, scale: f32) -> Vector {
        let floats = || -> Vec<f32> {
            let numbers = bytes[..4 * dimensions].chunks_exact(4);
            numbers
                .map(|b| f32::from_le_bytes(b.try_into().expect("four bytes")))
                .collect()
        };
        match encoding {
            Encoding::F32 => Vector::F32(floats()),
            Encoding::Base64 => Vector::encode(&floats(), encoding),
            Encoding::F16 => {
                let numbers = bytes[..2 * dimensions].chunks_exact(2);
                Vector::F16(
                    numbers
                        .map(|b| f16::from_le_bytes(b.try_into().expect("two bytes")))
                        .collect(),
                )
            }
            Encoding::Int8 => Vector::Int8 {
                values: bytes[..dimensions].iter().map(|&b| b as i8).collect(),
                scale,
            },
            Encoding::Binary => Vector::Binary(bytes[..dimensions / 8].to_vec()),
        }
    }

    /// Checks that the numbers of a vector, which were finite before it was encoded, on the CPU or on a GPU, fit the
    /// encoding.
    pub(crate) fn check_fits(&self) -> Result<()> {
        // Above it 127·x is not finite.
        const LARGEST_SCALE: f32 = f32::MAX / 127.0 / 127.0;
        let encoding = match self {
            Vector::F16(values) if values.iter().any(|x| !x.is_finite()) => "float16",
            Vector::Int8 { scale, .. } if *scale > LARGEST_SCALE => "int8",
            _ => return Ok(()),
        };
        Err(RequestError::DoesNotFit { encoding }.into())
    }

    /// Encodes a vector, unless a number of it is not finite.
    pub(crate) fn encode_finite(values: &[f32], encoding: Encoding) -> Option<Vector> {
        let finite = values.iter().all(|x| x.is_finite());
        finite.then(|| Vector::encode(values, encoding))
    }

    /// Encodes a finished (truncated, normalised) vector. Formulas: see [`Encoding`].
    pub fn encode(values: &[f32], encoding: Encoding) -> Vector {
        match encoding {
            Encoding::F32 => Vector::F32(values.to_vec()),
            Encoding::F16 => Vector::F16(values.iter().map(|&x| f16::from_f32(x)).collect()),
            Encoding::Int8 => {
                let max = values.iter().fold(0f32, |max, x| max.max(x.abs()));
                // An all-zero vector has no scale; its values are zero with any.
                let quantise = |x: f32| {
                    if max > 0.0 {
                        (127.0 * x / max).round_ties_even() as i8
                    } else {
                        0
                    }
                };
                Vector::Int8 {
                    values: values.iter().map(|&x| quantise(x)).collect(),
                    scale: max / 127.0,
                }
            }
            Encoding::Binary => Vector::Binary(
                values
                    .chunks(8)
                    .map(|bits| {
                        bits.iter()
                            .enumerate()
                            .fold(0, |byte, (i, &x)| byte | (u8::from(x > 0.0) << (7 - i)))
                    })
                    .collect(),
            ),
            Encoding::Base64 => {
                let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                Vector::Base64(base64::engine::general_purpose::STANDARD.encode(bytes))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn int8_rounds_half_to_even_and_returns_its_scale() {
        // 127·x/max = 0.5, 1.5, −2.5, 127 with max = 254.
        let Vector::Int8 { values, scale } = Vector::encode(&[1.0, 3.0, -5.0, 254.0], Encoding::Int8) else {
            panic!("not int8")
        };
        assert_eq!(values, [0, 2, -2, 127]);
        assert_eq!(scale, 2.0);
        assert_eq!(
            Vector::encode(&[0.0; 3], Encoding::Int8),
            Vector::Int8 {
                values: vec![0; 3],
                scale: 0.0
            }
        );
    }

    #[test]
    fn binary_puts_the_first_dimension_in_the_highest_bit() {
        let x = [
            1.0, -1.0, 0.0, 2.0, -0.0, 1e-30, -3.0, 4.0, 5.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0, 1.0,
        ];
        assert_eq!(
            Vector::encode(&x, Encoding::Binary),
            Vector::Binary(vec![0b1001_0101, 0b1000_0001])
        );
    }

    #[test]
    fn base64_and_f16_keep_the_bytes() {
        assert_eq!(
            Vector::encode(&[1.0, -2.0], Encoding::Base64),
            Vector::Base64("AACAPwAAAMA=".into())
        );
        let rounded = Vector::encode(&[1.0 + 1.0 / 2048.0, 65504.0], Encoding::F16);
        assert_eq!(rounded, Vector::F16(vec![f16::from_f32(1.0), f16::MAX]));
    }

    #[test]
    fn numbers_that_an_encoding_cannot_hold_are_an_error() {
        let fits = |x: f32, encoding| Vector::encode(&[1.0, x], encoding).check_fits();
        // Those that round to 65504 do.
        for (x, good) in [(65504.0, true), (65519.0, true), (65520.0, false), (-1e5, false)] {
            assert_eq!(fits(x, Encoding::F16).is_ok(), good, "{x}");
        }
        let message = fits(1e5, Encoding::F16).unwrap_err().to_string();
        assert!(
            message.contains("float16") && message.contains("f32"),
            "{message}"
        );
        for (x, good) in [(1e36, true), (3e38, false)] {
            assert_eq!(fits(x, Encoding::Int8).is_ok(), good, "{x}");
        }
        for encoding in [Encoding::F32, Encoding::Base64, Encoding::Binary] {
            assert!(fits(3e38, encoding).is_ok());
        }
    }

    #[test]
    fn an_embedding_is_taken_for_what_it_is() {
        let vector = || Vector::F32(vec![1.0, 2.0]);
        let one = Embedding::new(Output::Vector(vector()));
        assert_eq!(one.as_f32(), Some(&[1.0, 2.0][..]));
        assert_eq!(one.clone().into_f32().unwrap(), [1.0, 2.0]);
        assert!(one.into_chunks().is_err());
        let tokens = Embedding::new(Output::Tokens(vec![vector(), vector()]));
        assert_eq!(tokens.as_f32(), None);
        assert_eq!(tokens.clone().into_tokens().unwrap().len(), 2);
        assert!(tokens.into_vector().is_err());
        let chunks = Embedding::new(Output::Chunks(vec![Chunk::new(0, 3, vector())]));
        assert_eq!(chunks.into_chunks().unwrap()[0].vector, vector());
        let int8 = Embedding::new(Output::Vector(Vector::encode(&[1.0], Encoding::Int8)));
        assert_eq!(
            int8.into_f32().unwrap_err().to_string(),
            "the embedding is int8, not f32; ask for that, or match on its output"
        );
    }
}
