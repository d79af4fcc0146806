//! Floating-point formats, exact values and rounding: what the floating-point families share.
//!
//! Two ways to a correctly rounded result lie here. The fast one works in the next wider hardware format and keeps
//! the error of that computation beside it ([`two_sum`]); [`narrow`] then rounds in any direction, and [`odd`]
//! makes a value that may safely be rounded once more. The general one, [`Value`], holds a number as an integer
//! significand and an exponent and rounds it to any [`Format`]; it serves directed rounding of `.f64` and the
//! conversions that kernels seldom use.

/// The only NaN that single-precision instructions make. (The ISA leaves its bits open; every GPU so far has this.)
pub const NAN32: u32 = 0x7fff_ffff;
/// Canonical NaN of `.f16` and `.bf16`.
pub const NAN16: u32 = 0x7fff;
/// NaN of a double-precision operation without a NaN among its operands. The ISA leaves the bits open; this is
/// the default NaN of x86 and of GPUs.
pub const NAN64: u64 = 0xfff8_0000_0000_0000;

/// Rounding modes, as the low bits of a mode word.
pub const NEAREST: u32 = 0;
pub const ZERO: u32 = 1;
pub const DOWN: u32 = 2;
pub const UP: u32 = 3;
/// Nearest, ties away from zero (`.rna`); conversions only.
pub const AWAY: u32 = 4;
/// The part of a mode word that is the rounding mode.
pub const ROUND: u32 = 7;
/// `.ftz`
pub const FTZ: u32 = 1 << 3;
/// `.sat`
pub const SAT: u32 = 1 << 4;
/// `.relu`
pub const RELU: u32 = 1 << 5;
/// `.satfinite`
pub const SATFINITE: u32 = 1 << 6;

/// Subnormals to zero with their sign.
#[inline(always)]
pub fn flush(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7f80_0000 == 0 {
        bits & 0x8000_0000
    } else {
        bits
    })
}

/// [`flush`] if the mode word asks for it.
#[inline(always)]
pub fn flush_if(x: f32, mode: u32) -> f32 {
    if mode & FTZ != 0 { flush(x) } else { x }
}

/// Any NaN to the canonical one. (In integers: as a comparison of floats with a NaN chosen by it, the compiler may
/// leave it out, since to it one NaN is as good as another. It does so behind a square root.)
#[inline(always)]
pub fn canonical(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 {
        NAN32
    } else {
        bits
    })
}

/// To [0, 1]; NaN and −0 give +0. (The ISA says so for NaN and leaves the zero's sign open.)
#[inline(always)]
pub fn saturate(x: f32) -> f32 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

/// What every single-precision result goes through. Flushing looks at the rounded result.
#[inline(always)]
pub fn finish(x: f32, mode: u32) -> f32 {
    let x = flush_if(x, mode);
    if mode & SAT != 0 {
        saturate(x)
    } else {
        canonical(x)
    }
}

/// NaN results of double precision keep the payload of the first NaN among the operands, made quiet. (The ISA
/// promises payloads but not whose.)
#[inline(always)]
pub fn payload<const N: usize>(x: f64, operands: [f64; N]) -> f64 {
    let nan = |bits: u64| bits & !(1 << 63) > 0x7ff << 52;
    let mut bits = x.to_bits();
    if nan(bits) {
        bits = NAN64;
        for operand in operands.into_iter().rev() {
            let operand = operand.to_bits();
            if nan(operand) {
                bits = operand | 1 << 51;
            }
        }
    }
    f64::from_bits(bits)
}

/// a + b and the exact error of that sum (Knuth). The error is NaN where the sum is not finite.
#[inline(always)]
pub fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    let v = s - a;
    (s, (a - (s - v)) + (b - v))
}

/// `s + e` rounded to odd: of the two neighbours of an inexact value the one with an odd significand. A second
/// rounding, to at least two bits less, is then as good as a single one (Boldo and Melquiond).
#[inline(always)]
pub fn odd(s: f64, e: f64) -> f64 {
    let bits = s.to_bits();
    // False for NaN, which != 0 is not.
    let inexact = e.abs() > 0.0;
    let away = (e > 0.0) == (s > 0.0);
    f64::from_bits(if inexact && bits & 1 == 0 {
        if away { bits + 1 } else { bits - 1 }
    } else {
        bits
    })
}

/// `s + e`, where e is the error of s, rounded to single precision once, by the mode word's direction.
#[inline(always)]
pub fn narrow(s: f64, e: f64, mode: u32) -> f32 {
    if mode & ROUND == NEAREST {
        return odd(s, e) as f32;
    }
    let t = s as f32;
    // What t is short of the exact value by; only its sign matters. It is −∞ where t overflowed, and NaN where
    // s itself is not finite: then no step is taken.
    step(t, (s - f64::from(t)) + e, mode)
}

/// The neighbour of t, or t itself, that directed rounding chooses when the exact value lies between them and
/// differs from t by `rest`.
#[inline(always)]
pub fn step(t: f32, rest: f64, mode: u32) -> f32 {
    let bits = t.to_bits();
    let negative = bits >> 31 != 0;
    let moves = match mode & ROUND {
        ZERO if negative => rest > 0.0,
        ZERO => rest < 0.0,
        DOWN => rest < 0.0,
        UP => rest > 0.0,
        _ => false,
    };
    let outwards = (rest < 0.0) == negative;
    f32::from_bits(match (moves, outwards) {
        (false, _) => bits,
        (true, true) => bits.wrapping_add(1),
        (true, false) => bits.wrapping_sub(1),
    })
}

/// Sums that are exactly zero without being sums of like zeros are −0 when rounding down.
#[inline(always)]
pub fn signed_zero(s: f64, p: f64, c: f64, mode: u32) -> f64 {
    if mode & ROUND == DOWN && s == 0.0 && (p.is_sign_negative() || c.is_sign_negative()) {
        -0.0
    } else {
        s
    }
}

/// A binary interchange format, or one of the 8-bit ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Stored bits of the significand.
    pub fraction: u32,
    pub exponent: u32,
    /// All ones in the exponent is an ordinary exponent, and only the largest pattern is NaN (`e4m3`).
    pub finite: bool,
    /// Bits of the canonical NaN.
    pub nan: u64,
}

impl Format {
    pub const E4M3: Format = Format::of(3, 4, true, 0x7f);
    pub const E5M2: Format = Format::of(2, 5, false, 0x7f);
    pub const F16: Format = Format::of(10, 5, false, NAN16 as u64);
    pub const BF16: Format = Format::of(7, 8, false, NAN16 as u64);
    /// The upper 19 bits of an f32: see `cvt` for the shift.
    pub const TF32: Format = Format::of(10, 8, false, (NAN32 >> 13) as u64);
    pub const F32: Format = Format::of(23, 8, false, NAN32 as u64);
    pub const F64: Format = Format::of(52, 11, false, NAN64);

    const fn of(fraction: u32, exponent: u32, finite: bool, nan: u64) -> Format {
        Format {
            fraction,
            exponent,
            finite,
            nan,
        }
    }

    /// Exponent of the lowest bit of a subnormal.
    const fn lowest(self) -> i32 {
        2 - (1 << (self.exponent - 1)) - self.fraction as i32
    }

    const fn sign(self) -> u64 {
        1 << (self.fraction + self.exponent)
    }

    /// Bits of infinity, or of what would be infinity.
    const fn infinity(self) -> u64 {
        if self.finite {
            (1 << (self.fraction + self.exponent)) - 1
        } else {
            ((1 << self.exponent) - 1) << self.fraction
        }
    }
}

/// A number: exactly, but that the lowest bit of a long significand may stand for everything below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    Nan,
    Infinite {
        negative: bool,
    },
    /// ± significand · 2^exponent
    Finite {
        negative: bool,
        significand: u128,
        exponent: i32,
    },
}

use Value::{Finite, Infinite, Nan};

/// x / 2^by, any bit that falls out kept as the lowest one.
fn shift_sticky(x: u128, by: u32) -> u128 {
    match by {
        0 => x,
        1..=127 => x >> by | u128::from(x << (128 - by) != 0),
        _ => u128::from(x != 0),
    }
}

/// The highest bit of a nonzero significand to bit `at`.
fn normalise(significand: u128, exponent: i32, at: u32) -> (u128, i32) {
    let top = 127 - significand.leading_zeros();
    if top <= at {
        (significand << (at - top), exponent - (at - top) as i32)
    } else {
        (shift_sticky(significand, top - at), exponent + (top - at) as i32)
    }
}

impl Value {
    pub fn integer(value: i128) -> Value {
        Finite {
            negative: value < 0,
            significand: value.unsigned_abs(),
            exponent: 0,
        }
    }

    pub fn zero(negative: bool) -> Value {
        Finite {
            negative,
            significand: 0,
            exponent: 0,
        }
    }

    pub fn unpack(bits: u64, format: Format) -> Value {
        let negative = bits & format.sign() != 0;
        let magnitude = bits & (format.sign() - 1);
        if magnitude > format.infinity() || format.finite && magnitude == format.infinity() {
            return Nan;
        }
        if magnitude == format.infinity() {
            return Infinite { negative };
        }
        let field = (magnitude >> format.fraction) as i32;
        let fraction = magnitude & ((1 << format.fraction) - 1);
        let hidden = u64::from(field != 0) << format.fraction;
        Finite {
            negative,
            significand: (fraction | hidden).into(),
            exponent: format.lowest() + (field - 1).max(0),
        }
    }

    /// Rounds to the format. Too large a number becomes infinity or the largest finite number as the direction
    /// has it; with `satfinite`, and infinity too, always the latter.
    pub fn pack(self, format: Format, round: u32, satfinite: bool) -> u64 {
        let (negative, significand, exponent) = match self {
            Nan => return format.nan,
            Infinite { negative } => {
                let sign = if negative { format.sign() } else { 0 };
                return sign | (format.infinity() - u64::from(satfinite));
            }
            Finite {
                negative,
                significand,
                exponent,
            } => (negative, significand, exponent),
        };
        let sign = if negative { format.sign() } else { 0 };
        if significand == 0 {
            return sign;
        }
        let top = exponent + 127 - significand.leading_zeros() as i32;
        let lowest = (top - format.fraction as i32).max(format.lowest());
        let kept = round_at(significand, exponent, lowest, negative, round);
        // The hidden bit adds one to the exponent, and so does a carry out of the significand.
        let magnitude = u128::from((lowest - format.lowest()) as u64) << format.fraction;
        let magnitude = magnitude + kept;
        if magnitude < u128::from(format.infinity()) {
            return sign | magnitude as u64;
        }
        let finite = match round {
            ZERO => true,
            DOWN => !negative,
            UP => negative,
            _ => false,
        };
        sign | (format.infinity() - u64::from(satfinite || finite))
    }

    /// To an integral value, as an integer; `None` for NaN. Beyond ±2^100 the result is ±2^100.
    pub fn round_to_integer(self, round: u32) -> Option<i128> {
        let (negative, magnitude) = match self {
            Nan => return None,
            Infinite { negative } => (negative, 1 << 100),
            Finite {
                negative,
                significand,
                exponent,
            } => {
                let top = exponent + 128 - significand.leading_zeros() as i32;
                if significand != 0 && top > 100 {
                    (negative, 1 << 100)
                } else {
                    (negative, round_at(significand, exponent, 0, negative, round))
                }
            }
        };
        let magnitude = magnitude as i128;
        Some(if negative { -magnitude } else { magnitude })
    }

    pub fn is_negative(self) -> bool {
        match self {
            Nan => false,
            Infinite { negative } | Finite { negative, .. } => negative,
        }
    }

    fn is_zero(self) -> bool {
        matches!(self, Finite { significand: 0, .. })
    }

    /// Exact for significands of up to 64 bits.
    pub fn product(self, other: Value) -> Value {
        let negative = self.is_negative() != other.is_negative();
        match (self, other) {
            (Nan, _) | (_, Nan) => Nan,
            (Infinite { .. }, x) | (x, Infinite { .. }) if x.is_zero() => Nan,
            (Infinite { .. }, _) | (_, Infinite { .. }) => Infinite { negative },
            (
                Finite {
                    significand: a,
                    exponent: i,
                    ..
                },
                Finite {
                    significand: b,
                    exponent: j,
                    ..
                },
            ) => Finite {
                negative,
                significand: a * b,
                exponent: i + j,
            },
        }
    }

    /// Exact, or with a sticky lowest bit far below what any format keeps. Needs the rounding mode for the sign
    /// of a zero.
    pub fn sum(self, other: Value, round: u32) -> Value {
        let (a, b) = match (self, other) {
            (Nan, _) | (_, Nan) => return Nan,
            (Infinite { negative: x }, Infinite { negative: y }) if x != y => return Nan,
            (Infinite { .. }, _) => return self,
            (_, Infinite { .. }) => return other,
            (a, b) if a.is_zero() && b.is_zero() => {
                let (x, y) = (a.is_negative(), b.is_negative());
                return Value::zero(if round == DOWN { x || y } else { x && y });
            }
            (a, b) if b.is_zero() => return a,
            (a, b) if a.is_zero() => return b,
            pair => pair,
        };
        // Bits 126 and 127 stay free for the carry. A product of two doubles has 106 bits, so it loses none
        // unless it is the smaller by more than 20 binary places; and then nothing cancels.
        let part = |v: Value| match v {
            Finite {
                negative,
                significand,
                exponent,
            } => {
                let (significand, exponent) = normalise(significand, exponent, 125);
                (exponent, significand, negative)
            }
            _ => unreachable!(),
        };
        let (mut x, mut y) = (part(a), part(b));
        if (x.0, x.1) < (y.0, y.1) {
            std::mem::swap(&mut x, &mut y);
        }
        let small = shift_sticky(y.1, (x.0 - y.0).unsigned_abs());
        let significand = if x.2 == y.2 { x.1 + small } else { x.1 - small };
        if significand == 0 {
            return Value::zero(round == DOWN);
        }
        Finite {
            negative: x.2,
            significand,
            exponent: x.0,
        }
    }

    pub fn quotient(self, other: Value) -> Value {
        let negative = self.is_negative() != other.is_negative();
        match (self, other) {
            (Nan, _) | (_, Nan) | (Infinite { .. }, Infinite { .. }) => Nan,
            (a, b) if a.is_zero() && b.is_zero() => Nan,
            (Infinite { .. }, _) => Infinite { negative },
            (_, Infinite { .. }) => Value::zero(negative),
            (_, b) if b.is_zero() => Infinite { negative },
            (a, _) if a.is_zero() => Value::zero(negative),
            (
                Finite {
                    significand: a,
                    exponent: i,
                    ..
                },
                Finite {
                    significand: b,
                    exponent: j,
                    ..
                },
            ) => {
                // 127 bits by at most 64: a quotient of 63 or more, with the remainder as the sticky bit.
                let (a, i) = normalise(a, i, 126);
                Finite {
                    negative,
                    significand: (a / b) << 1 | u128::from(a % b != 0),
                    exponent: i - j - 1,
                }
            }
        }
    }

    pub fn sqrt(self) -> Value {
        match self {
            Nan => Nan,
            x if x.is_zero() => x,
            x if x.is_negative() => Nan,
            Infinite { .. } => self,
            Finite {
                significand,
                exponent,
                ..
            } => {
                let (mut x, mut e) = normalise(significand, exponent, 126);
                if e % 2 != 0 {
                    (x, e) = (x >> 1, e + 1);
                }
                let root = x.isqrt();
                Finite {
                    negative: false,
                    significand: root << 1 | u128::from(root * root != x),
                    exponent: e / 2 - 1,
                }
            }
        }
    }
}

/// The significand in units of 2^lowest, rounded to a whole number of them.
fn round_at(significand: u128, exponent: i32, lowest: i32, negative: bool, round: u32) -> u128 {
    let by = lowest - exponent;
    if by <= 0 {
        return significand << -by;
    }
    let (kept, half, rest) = match by {
        1..=127 => (
            significand >> by,
            significand >> (by - 1) & 1 != 0,
            significand & ((1 << (by - 1)) - 1) != 0,
        ),
        128 => (0, significand >> 127 != 0, significand << 1 != 0),
        _ => (0, false, significand != 0),
    };
    let up = match round {
        ZERO => false,
        DOWN => negative && (half || rest),
        UP => !negative && (half || rest),
        AWAY => half,
        _ => half && (rest || kept & 1 != 0),
    };
    kept + u128::from(up)
}
