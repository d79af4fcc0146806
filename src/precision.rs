//! What numbers an engine computes with, as the user chooses it.

use std::fmt;
use std::str::FromStr;

use crate::error::ParseError;

/// The type of weights and of the activations that products read; sums, statistics and, on a CPU, everything else are
/// float32 with each. Written `f32`, `bf16`, `f16` and `int8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Precision {
    /// float32: 24 bits of precision. On a CPU only, where it is the default.
    F32,
    /// bfloat16: float32's range, 8 bits of precision. What jina-embeddings-v3 is published in, and the default on a GPU.
    Bf16,
    /// float16: 11 bits of precision, numbers up to 65504. On a GPU only.
    F16,
    /// Whole numbers of -127..=127 with a float32 scale for each 64 in a row, of weights as of activations, found as they
    /// come (W8A8, symmetric, no calibration); each row's largest activation stays float32. On a CPU only. Attention is as
    /// in [`Precision::Bf16`].
    Int8,
}

impl Precision {
    /// Bytes of a weight.
    pub const fn bytes(self) -> usize {
        match self {
            Precision::F32 => 4,
            Precision::Bf16 | Precision::F16 => 2,
            Precision::Int8 => 1,
        }
    }

    /// Bits of the significand, the implicit one included: a rounding errs by up to `2^-bits` of a number; of int8, of the
    /// largest number of its block.
    pub const fn significand_bits(self) -> u32 {
        match self {
            Precision::F32 => 24,
            Precision::Bf16 => 8,
            Precision::F16 => 11,
            Precision::Int8 => 8,
        }
    }

    /// The type of 16 bits that it is, if it is one.
    pub(crate) fn half(self) -> Option<Half> {
        match self {
            Precision::F32 | Precision::Int8 => None,
            Precision::Bf16 => Some(Half::Bf16),
            Precision::F16 => Some(Half::F16),
        }
    }
}

impl FromStr for Precision {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Precision, ParseError> {
        match s {
            "f32" => Ok(Precision::F32),
            "bf16" => Ok(Precision::Bf16),
            "f16" => Ok(Precision::F16),
            "int8" => Ok(Precision::Int8),
            _ => Err(ParseError::new(s, "f32, bf16, f16, int8")),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::F16 => "f16",
            Precision::Int8 => "int8",
        })
    }
}

/// The types of 16 bits, which a GPU computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// bfloat16.
    Bf16,
    /// float16.
    F16,
}

impl Half {
    /// Bytes of a number.
    pub const fn bytes(self) -> usize {
        2
    }

    /// What ends the names of the kernels for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Half::Bf16 => "bf16",
            Half::F16 => "f16",
        }
    }

    /// Numbers of this type, as they lie in memory, as float32.
    #[cfg(feature = "inspect")]
    pub(crate) fn widen(self, bytes: &[u8]) -> Vec<f32> {
        let bits = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        match self {
            Half::Bf16 => bits.map(|b| half::bf16::from_bits(b).to_f32()).collect(),
            Half::F16 => bits.map(|b| half::f16::from_bits(b).to_f32()).collect(),
        }
    }
}

impl From<Half> for Precision {
    fn from(half: Half) -> Precision {
        match half {
            Half::Bf16 => Precision::Bf16,
            Half::F16 => Precision::F16,
        }
    }
}

impl fmt::Display for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a result may depend on beside its own input, on a GPU. Written `invariant` and `fastest`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Numerics {
    /// On nothing: a text gives the same bits alone and in any company.
    #[default]
    Invariant,
    /// On the rest of the batch as well, where that is faster: a batch of one task alone runs on weights
    /// that its adapter was merged into, and a pass of up to 16 tokens splits long sums into parts.
    Fastest,
}

impl FromStr for Numerics {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Numerics, ParseError> {
        match s {
            "invariant" => Ok(Numerics::Invariant),
            "fastest" => Ok(Numerics::Fastest),
            _ => Err(ParseError::new(s, "invariant, fastest")),
        }
    }
}

impl fmt::Display for Numerics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Numerics::Invariant => "invariant",
            Numerics::Fastest => "fastest",
        })
    }
}
