//! The numbers of narrow products, and how float32 ones become them.

use std::fmt;

use super::super::isa::isa_fn;
use super::ROW_BYTES;

/// What a narrow product multiplies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Number {
    /// bfloat16: summed in float32.
    #[default]
    Bf16,
    /// Whole numbers of -127..=127, with one scale for 64 of a row: summed in 32 bits.
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

/// Blocks whose largest number is below this become zeros: 127 divided by it is still finite.
const SMALLEST: f32 = f32::from_bits((127 - 120) << 23);

/// 1.5 · 2^23: the sum with a small number rounds that to a whole one, ties to even, which is in the sum's low bits then.
const TO_WHOLE: f32 = 12_582_912.0;

/// The largest magnitude, as its bits: those of NaN are above those of infinity, which are above all others.
#[inline(always)]
pub fn magnitude(x: &[f32]) -> u32 {
    x.iter().fold(0, |max, x| max.max(x.to_bits() & 0x7fff_ffff))
}

/// One block of a row, as its kernels read it.
pub type Group = [i8; ROW_BYTES];

/// Quantises a block of a row to int8, symmetrically: each number is the nearest whole one, ties to even, of
/// x · (127 / the block's largest magnitude), each step rounded in float32. Gives the block's scale, that magnitude / 127:
/// zero where the numbers are, NaN where one of them is NaN or infinite, so that its products are NaN.
#[inline(always)]
pub fn quantise(x: &[f32; ROW_BYTES], out: &mut Group) -> f32 {
    quantise_below(x, magnitude(x), out).0
}

/// The same of a block whose largest magnitude is known; gives the sum of its whole numbers as well.
#[inline(always)]
pub fn quantise_below(x: &[f32; ROW_BYTES], magnitude: u32, out: &mut Group) -> (f32, i32) {
    let max = f32::from_bits(magnitude);
    if !(SMALLEST..f32::INFINITY).contains(&max) {
        *out = [0; ROW_BYTES];
        return (if max < SMALLEST { 0.0 } else { f32::NAN }, 0);
    }
    let factor = 127.0 / max;
    // Each has the bits of `TO_WHOLE` above its own.
    let mut sum = (TO_WHOLE.to_bits() as i32).wrapping_mul(-(ROW_BYTES as i32));
    for (out, &x) in out.iter_mut().zip(x) {
        let whole = (x * factor + TO_WHOLE).to_bits() as i32;
        *out = whole as i8;
        sum = sum.wrapping_add(whole);
    }
    (max / 127.0, sum)
}

/// A block of a row, filled up with zeros.
#[inline(always)]
pub fn group(x: &[f32]) -> [f32; ROW_BYTES] {
    let mut group = [0.0; ROW_BYTES];
    group[..x.len()].copy_from_slice(x);
    group
}

/// The blocks of a row, filled up with zeros.
#[inline(always)]
pub fn groups(x: &[f32]) -> impl Iterator<Item = [f32; ROW_BYTES]> {
    x.chunks(ROW_BYTES).map(group)
}

/// The number of a row that the others do not share a step with: the first of the largest magnitude. A row that holds NaN or
/// an infinity has none.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
pub struct Outlier {
    /// Its place in the row.
    pub column: usize,
    /// Zero where there is none.
    pub value: f32,
}

isa_fn! {
    /// Quantises a row of weights, blocks of it one after the other. `scale(block, its scale)` takes the scales.
    pub fn quantise_row<S>(_s, x: &[f32], out: &mut [i8], scale: &mut dyn FnMut(usize, f32)) {
        for (block, (x, out)) in groups(x).zip(out.chunks_mut(ROW_BYTES)).enumerate() {
            let mut group = [0; ROW_BYTES];
            scale(block, quantise(&x, &mut group));
            out.copy_from_slice(&group[..out.len()]);
        }
    }
}
