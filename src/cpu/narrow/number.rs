//! The numbers of narrow products, and how float32 ones become them.

use std::fmt;

use super::super::isa::{Isa, isa_fn};
use super::ROW_BYTES;

/// What a narrow product multiplies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Number {
    /// bfloat16: summed in float32.
    #[default]
    Bf16,
    /// Whole numbers of -127..=127, with one scale for a row: summed in 32 bits.
    Int8,
}

impl Number {
    /// Bytes of one.
    pub const fn bytes(self) -> usize {
        match self {
            Number::Bf16 => 2,
            Number::Int8 => 1,
        }
    }

    /// How many make a row of a tile: k of one block.
    pub const fn per_row(self) -> usize {
        ROW_BYTES / self.bytes()
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Number::Bf16 => "bf16",
            Number::Int8 => "int8",
        })
    }
}

/// The most int8 numbers whose products' sum surely fits 32 bits.
pub const MAX_INT8_K: usize = (i32::MAX / (127 * 127)) as usize;

/// The nearest bf16 number, ties to even, as its bits. Numbers below 2^-126 become zero, and NaN a quiet NaN: what
/// `VCVTNEPS2BF16` does.
#[inline(always)]
pub fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let high = bits >> 16;
    let nearest = bits.wrapping_add(0x7fff + (high & 1)) >> 16;
    let kept = if magnitude < 0x0080_0000 {
        high & 0x8000
    } else {
        nearest
    };
    (if magnitude > 0x7f80_0000 {
        high | 0x40
    } else {
        kept
    }) as u16
}

/// A bf16 number as [`round`] would give it: zero below 2^-126.
#[inline(always)]
pub fn flush(bits: u16) -> u16 {
    if bits & 0x7f80 == 0 { bits & 0x8000 } else { bits }
}

/// A bf16 number from its bits.
#[inline(always)]
pub fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

isa_fn! {
    /// Rounds every number of `x` into `out`.
    pub fn round_row<S>(_s, x: &[f32], out: &mut [u16]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = round(x);
        }
    }
}

/// Rows whose largest number is below this become zeros: 127 divided by it is still finite.
const SMALLEST: f32 = f32::from_bits((127 - 120) << 23);

/// 1.5 · 2^23: the sum with a small number rounds that to a whole one, ties to even, which is in the sum's low bits then.
const TO_WHOLE: f32 = 12_582_912.0;

isa_fn! {
    /// The largest magnitude of a row, as its bits: those of NaN are above those of infinity, which are above all others.
    fn magnitude<S>(_s, x: &[f32]) -> u32 {
        x.iter().fold(0, |max, x| max.max(x.to_bits() & 0x7fff_ffff))
    }
}

/// The nearest whole number to `x · factor`, which is at most 127.
#[inline(always)]
pub fn to_whole(x: f32, factor: f32) -> i8 {
    (x * factor + TO_WHOLE).to_bits() as i8
}

isa_fn! {
    /// The same of a row.
    fn row_to_whole<S>(_s, x: &[f32], factor: f32, out: &mut [i8]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = to_whole(x, factor);
        }
    }
}

/// What a row is multiplied by to become whole numbers, and the scale that undoes it: 127/max and max/127 of its largest
/// magnitude. Zero and NaN for a row that holds NaN or an infinity: its products are NaN then, whatever the other operand.
pub fn factors(isa: Isa, x: &[f32]) -> (f32, f32) {
    let max = f32::from_bits(magnitude(isa, x));
    if !max.is_finite() {
        (0.0, f32::NAN)
    } else if max < SMALLEST {
        (0.0, 0.0)
    } else {
        (127.0 / max, max / 127.0)
    }
}

/// Quantises a row to int8, symmetrically: each number is the nearest whole one, ties to even, of x · (127 / the row's
/// largest magnitude), each step rounded in float32. Gives the row's scale.
pub fn quantise(isa: Isa, x: &[f32], out: &mut [i8]) -> f32 {
    let (factor, scale) = factors(isa, x);
    if factor == 0.0 {
        out.fill(0);
    } else {
        row_to_whole(isa, x, factor, out);
    }
    scale
}
