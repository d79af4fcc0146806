//! Arithmetic and comparison of `.f16`, `.bf16` and their packed pairs.
//!
//! Sums and products are computed in single precision and rounded once more. That is exact rounding: 24 bits are
//! at least twice 11 plus two (Figueroa), and where a bf16 product is subnormal in single precision, what is lost
//! lies below half of the smallest bf16. A fused multiply-add needs more: its single-precision sum is rounded to
//! odd before.

use super::Covered;
use super::float::*;
use super::ieee::*;
use crate::ir::regs::LANES;
use crate::ir::{Alu, Class, Code};
use crate::lower::builder::{Builder, Refused};
use crate::lower::isa::simd::{alu, alu_loop};
use crate::ptx::ast::{Instruction, Type};

/// What this family supports.
pub const COVERED: &[Covered] = &[
    Covered {
        opcode: "add sub mul fma",
        forms: "f16 f16x2 bf16 bf16x2, .rn; f16 forms .ftz .sat; fma .relu",
        notes: "correctly rounded; fma.oob is refused",
    },
    Covered {
        opcode: "neg abs",
        forms: "f16 f16x2 (.ftz) bf16 bf16x2",
        notes: "NaN keeps its payload",
    },
    Covered {
        opcode: "min max",
        forms: "f16 f16x2 bf16 bf16x2; .NaN .xorsign.abs; f16 forms .ftz",
        notes: "-0 < +0",
    },
    Covered {
        opcode: "set setp",
        forms: "the comparisons of f32 with .and .or .xor; source f16 f16x2 (.ftz) bf16 bf16x2",
        notes: "",
    },
];

/// A 16-bit format: bits in the low half of a u32.
pub(super) trait Half {
    const INFINITY: u32;
    /// Exact; any NaN becomes the canonical one.
    fn widen(bits: u32) -> f32;
    /// To nearest, ties to even; any NaN becomes the canonical one.
    fn narrow(x: f32) -> u32;
    /// a·b + c, which rounds to the format as the exact value does.
    fn fma(a: f32, b: f32, c: f32) -> f32;
    fn flush(bits: u32) -> u32 {
        if bits & Self::INFINITY == 0 {
            bits & 0x8000
        } else {
            bits
        }
    }
}

pub(super) struct Binary16;
pub(super) struct Brain16;

impl Half for Binary16 {
    const INFINITY: u32 = 0x7c00;

    #[inline(always)]
    fn widen(bits: u32) -> f32 {
        let magnitude = bits & 0x7fff;
        // As an f32 the shifted bits are 2^112 too small, subnormals among them.
        let scaled = f32::from_bits(magnitude << 13) * f32::from_bits((112 + 127) << 23);
        let special = if magnitude == 0x7c00 { 0x7f80_0000 } else { NAN32 };
        let sign = (bits & 0x8000) << 16;
        f32::from_bits(if magnitude > 0x7c00 {
            NAN32
        } else if magnitude == 0x7c00 {
            special | sign
        } else {
            scaled.to_bits() | sign
        })
    }

    #[inline(always)]
    fn narrow(x: f32) -> u32 {
        let bits = x.to_bits();
        let sign = bits >> 16 & 0x8000;
        let magnitude = bits & 0x7fff_ffff;
        // Rounds in the addition, and may carry into the exponent, up to infinity.
        let normal = magnitude
            .wrapping_add(0xfff + (magnitude >> 13 & 1))
            .wrapping_sub(112 << 23)
            >> 13;
        // Adding ½ puts the lowest bit of an f16 subnormal at the lowest bit of the sum.
        let subnormal = (f32::from_bits(magnitude) + 0.5)
            .to_bits()
            .wrapping_sub(126 << 23);
        let finite = if magnitude < 113 << 23 { subnormal } else { normal };
        if magnitude > 0x7f80_0000 {
            NAN16
        } else if magnitude >= 143 << 23 {
            0x7c00 | sign
        } else {
            finite | sign
        }
    }

    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        // The product has 22 bits and nothing leaves the range of f32.
        let p = a * b;
        let s = p + c;
        let v = s - p;
        let e = (p - (s - v)) + (c - v);
        odd32(s, e)
    }
}

impl Half for Brain16 {
    const INFINITY: u32 = 0x7f80;

    #[inline(always)]
    fn widen(bits: u32) -> f32 {
        canonical(f32::from_bits(bits << 16))
    }

    #[inline(always)]
    fn narrow(x: f32) -> u32 {
        let bits = x.to_bits();
        if bits & 0x7fff_ffff > 0x7f80_0000 {
            NAN16
        } else {
            bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16
        }
    }

    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        // The product may leave the range of f32, at either end, so the sum is taken in f64; it has an error
        // there, and the step to f32 another.
        let (s, e) = two_sum(f64::from(a) * f64::from(b), c.into());
        let t = s as f32;
        // −∞ where t overflowed: one step back, to a finite value that rounds to infinity again.
        odd32(t, ((s - f64::from(t)) + e) as f32)
    }
}

/// `fma.rn.bf16x2`, the multiply-add of attention kernels: in single precision as long as every product of the
/// warp stays well inside its range, where it is exact.
fn fma_bf16x2() -> Alu {
    alu_loop!(|regs, ops, mask| {
        let [a, b, c] = [1, 2, 3].map(|i| regs.get32(ops[i]));
        let mut result = [0; LANES];
        let mut outside = 0;
        for lane in 0..LANES {
            let mut one = |a: u32, b: u32, c: u32| {
                let (a, b, c) = (Brain16::widen(a), Brain16::widen(b), Brain16::widen(c));
                let p = a * b;
                // 2^-100 to 2^126. A product with a zero is exact too.
                let inside = (p.to_bits() & 0x7fff_ffff).wrapping_sub(27 << 23) < 226 << 23;
                outside |= u32::from(!inside & (a != 0.0) & (b != 0.0));
                let s = p + c;
                let v = s - p;
                Brain16::narrow(odd32(s, (p - (s - v)) + (c - v)))
            };
            let (a, b, c) = (a[lane], b[lane], c[lane]);
            result[lane] = one(a & 0xffff, b & 0xffff, c & 0xffff) | one(a >> 16, b >> 16, c >> 16) << 16;
        }
        if outside != 0 {
            for lane in 0..LANES {
                let (a, b, c) = (a[lane], b[lane], c[lane]);
                result[lane] = fma::<Brain16>(a & 0xffff, b & 0xffff, c & 0xffff)
                    | fma::<Brain16>(a >> 16, b >> 16, c >> 16) << 16;
            }
        }
        regs.set32(ops[0], &result, mask);
    })
}

/// `s` to odd, given what it is short of the exact value by (only the sign matters; NaN changes nothing).
#[inline(always)]
fn odd32(s: f32, rest: f32) -> f32 {
    let bits = s.to_bits();
    let inexact = rest.abs() > 0.0;
    let away = (rest < 0.0) == (bits >> 31 != 0);
    f32::from_bits(if inexact && bits & 1 == 0 {
        if away {
            bits.wrapping_add(1)
        } else {
            bits.wrapping_sub(1)
        }
    } else {
        bits
    })
}

/// One instruction of either format, scalar or packed; the function is generic over the format and takes the
/// operands' bits. Upper halves of a scalar's slot are zero.
macro_rules! halves {
    ($ty:expr, $f:ident, |$($a:ident),+|, $($word:ident)?) => {
        match $ty {
            Type::F16 => alu!(|$($a: u16),+ $(, $word: u32)?| -> u16 {
                $f::<Binary16>($($a.into()),+ $(, $word)?) as u16
            }),
            Type::BF16 => alu!(|$($a: u16),+ $(, $word: u32)?| -> u16 {
                $f::<Brain16>($($a.into()),+ $(, $word)?) as u16
            }),
            Type::F16x2 => alu!(|$($a: u32),+ $(, $word: u32)?| -> u32 {
                $f::<Binary16>($($a & 0xffff),+ $(, $word)?) | $f::<Binary16>($($a >> 16),+ $(, $word)?) << 16
            }),
            _ => alu!(|$($a: u32),+ $(, $word: u32)?| -> u32 {
                $f::<Brain16>($($a & 0xffff),+ $(, $word)?) | $f::<Brain16>($($a >> 16),+ $(, $word)?) << 16
            }),
        }
    };
}
pub(super) use halves;

#[inline(always)]
fn add<H: Half>(a: u32, b: u32) -> u32 {
    H::narrow(H::widen(a) + H::widen(b))
}

#[inline(always)]
fn sub<H: Half>(a: u32, b: u32) -> u32 {
    H::narrow(H::widen(a) - H::widen(b))
}

#[inline(always)]
fn mul<H: Half>(a: u32, b: u32) -> u32 {
    H::narrow(H::widen(a) * H::widen(b))
}

#[inline(always)]
fn fma<H: Half>(a: u32, b: u32, c: u32) -> u32 {
    H::narrow(H::fma(H::widen(a), H::widen(b), H::widen(c)))
}

/// Operand and result of the forms with modifiers.
#[inline(always)]
fn operand<H: Half>(bits: u32, mode: u32) -> f32 {
    H::widen(if mode & FTZ != 0 { H::flush(bits) } else { bits })
}

#[inline(always)]
pub(super) fn result<H: Half>(x: f32, mode: u32) -> u32 {
    let bits = H::narrow(x);
    let bits = if mode & FTZ != 0 { H::flush(bits) } else { bits };
    let nan = bits & 0x7fff > H::INFINITY;
    if mode & SAT != 0 {
        let one = H::narrow(1.0);
        if nan || bits & 0x8000 != 0 {
            0
        } else {
            bits.min(one)
        }
    } else if mode & RELU != 0 {
        relu(bits)
    } else {
        bits
    }
}

/// Negative numbers, and −0 with them (the ISA leaves that open), to +0.
#[inline(always)]
pub(super) fn relu(bits: u32) -> u32 {
    if bits & 0x8000 != 0 { 0 } else { bits }
}

#[inline(always)]
fn add_mode<H: Half>(a: u32, b: u32, mode: u32) -> u32 {
    result::<H>(operand::<H>(a, mode) + operand::<H>(b, mode), mode)
}

#[inline(always)]
fn sub_mode<H: Half>(a: u32, b: u32, mode: u32) -> u32 {
    result::<H>(operand::<H>(a, mode) - operand::<H>(b, mode), mode)
}

#[inline(always)]
fn mul_mode<H: Half>(a: u32, b: u32, mode: u32) -> u32 {
    result::<H>(operand::<H>(a, mode) * operand::<H>(b, mode), mode)
}

#[inline(always)]
fn fma_mode<H: Half>(a: u32, b: u32, c: u32, mode: u32) -> u32 {
    let x = H::fma(
        operand::<H>(a, mode),
        operand::<H>(b, mode),
        operand::<H>(c, mode),
    );
    result::<H>(x, mode)
}

#[inline(always)]
fn neg<H: Half>(a: u32, mode: u32) -> u32 {
    (if mode & FTZ != 0 { H::flush(a) } else { a }) ^ 0x8000
}

#[inline(always)]
fn abs<H: Half>(a: u32, mode: u32) -> u32 {
    (if mode & FTZ != 0 { H::flush(a) } else { a }) & 0x7fff
}

/// As [`float::minmax`](super::float), on the bits.
#[inline(always)]
fn minmax<H: Half>(a: u32, b: u32, mode: u32) -> u32 {
    let (mut a, mut b) = if mode & FTZ != 0 {
        (H::flush(a), H::flush(b))
    } else {
        (a, b)
    };
    let sign = (a ^ b) & 0x8000;
    if mode & ABSOLUTE != 0 {
        (a, b) = (a & 0x7fff, b & 0x7fff);
    }
    // Sign and magnitude to an order without gaps, −0 before +0.
    let key = |x: u32| if x & 0x8000 != 0 { x ^ 0xffff } else { x | 0x8000 };
    let nan = |x: u32| x & 0x7fff > H::INFINITY;
    let mut bits = if (key(a) < key(b)) != (mode & MAX != 0) {
        a
    } else {
        b
    };
    if nan(a) {
        bits = b;
    }
    if nan(b) {
        bits = a;
    }
    if mode & XOR != 0 {
        bits = bits & 0x7fff | sign;
    }
    if nan(a) && nan(b) || mode & PROPAGATE != 0 && (nan(a) || nan(b)) {
        NAN16
    } else {
        bits
    }
}

#[inline(always)]
fn compare<H: Half>(a: u32, b: u32, mode: u32) -> bool {
    let (a, b) = if mode & COMPARE_FTZ != 0 {
        (H::flush(a), H::flush(b))
    } else {
        (a, b)
    };
    let (a, b) = (H::widen(a), H::widen(b));
    holds(a < b, a == b, a > b, mode)
}

/// The instruction that widens one value of this type to `.f32`.
pub(super) fn widen(ty: Type) -> Alu {
    if ty == Type::F16 {
        alu!(|a: u16| -> f32 { Binary16::widen(a.into()) })
    } else {
        alu!(|a: u16| -> f32 { Brain16::widen(a.into()) })
    }
}

/// Lowers the instructions of this family.
pub fn lower(instruction: &Instruction, b: &mut Builder<'_>) -> Result<Option<Code>, Refused> {
    let opcode = &*instruction.opcode;
    let known = matches!(
        opcode,
        "add" | "sub" | "mul" | "fma" | "neg" | "abs" | "min" | "max" | "set" | "setp"
    );
    if !known {
        return Ok(None);
    }
    let mods = Mods::read(instruction);
    let Some(&ty) = mods.types.last() else {
        return Ok(None);
    };
    if !matches!(ty, Type::F16 | Type::BF16 | Type::F16x2 | Type::BF16x2) {
        return Ok(None);
    }
    if matches!(opcode, "set" | "setp") {
        return comparisons(mods, b, ty);
    }
    if mods.types.len() != 1 {
        return Err(mods.refuse("takes one type"));
    }
    // .ftz and .sat are for f16 alone.
    let f16 = |bits| {
        if matches!(ty, Type::F16 | Type::F16x2) {
            bits
        } else {
            0
        }
    };
    let mode = mods.mode();
    let class = Class::Float16;
    match opcode {
        "add" | "sub" | "mul" => {
            mods.only(RN | f16(M_FTZ | M_SAT))?;
            if mode == 0 {
                let run = match opcode {
                    "add" => halves!(ty, add, |a, b|,),
                    "sub" => halves!(ty, sub, |a, b|,),
                    _ => halves!(ty, mul, |a, b|,),
                };
                return plain(&mods, b, run, class, &[ty; 3], &[]);
            }
            let run = match opcode {
                "add" => halves!(ty, add_mode, |a, b|, mode),
                "sub" => halves!(ty, sub_mode, |a, b|, mode),
                _ => halves!(ty, mul_mode, |a, b|, mode),
            };
            plain(&mods, b, run, class, &[ty; 3], &[mode])
        }
        "fma" => {
            mods.only(RN | M_RELU | f16(M_FTZ | M_SAT))?;
            if mods.has(M_RELU) && mods.has(M_SAT) {
                return Err(mods.refuse(".relu and .sat exclude each other"));
            }
            if mode == 0 {
                let run = if ty == Type::BF16x2 {
                    fma_bf16x2()
                } else {
                    halves!(ty, fma, |a, b, c|,)
                };
                return plain(&mods, b, run, class, &[ty; 4], &[]);
            }
            let run = halves!(ty, fma_mode, |a, b, c|, mode);
            plain(&mods, b, run, class, &[ty; 4], &[mode])
        }
        "neg" | "abs" => {
            // `.abs` as a modifier is not among these.
            mods.only(f16(M_FTZ))?;
            let run = if opcode == "neg" {
                halves!(ty, neg, |a|, mode)
            } else {
                halves!(ty, abs, |a|, mode)
            };
            plain(&mods, b, run, class, &[ty; 2], &[mode])
        }
        _ => {
            mods.only(M_NAN | XORSIGN | M_ABS | f16(M_FTZ))?;
            if mods.has(XORSIGN) != mods.has(M_ABS) {
                return Err(mods.refuse(".xorsign and .abs go together"));
            }
            let run = halves!(ty, minmax, |a, b|, mode);
            plain(&mods, b, run, class, &[ty; 3], &[minmax_mode(&mods)])
        }
    }
}

fn comparisons(mut mods: Mods<'_>, b: &mut Builder<'_>, ty: Type) -> Result<Option<Code>, Refused> {
    let mode = comparison(&mut mods)?;
    let f16 = matches!(ty, Type::F16 | Type::F16x2);
    if mods.has(M_FTZ) && !f16 {
        return Err(mods.refuse("modifier .ftz does not belong here"));
    }
    let packed = matches!(ty, Type::F16x2 | Type::BF16x2);
    if &*mods.instruction.opcode == "setp" {
        if mods.types.len() != 1 {
            return Err(mods.refuse("takes one type"));
        }
        let run = match (packed, f16) {
            (false, true) => alu!(|a: u16, b: u16, c: bool, mode: u32| -> (bool, bool) {
                let t = compare::<Binary16>(a.into(), b.into(), mode);
                (boolean(t, c, mode), boolean(!t, c, mode))
            }),
            (false, false) => alu!(|a: u16, b: u16, c: bool, mode: u32| -> (bool, bool) {
                let t = compare::<Brain16>(a.into(), b.into(), mode);
                (boolean(t, c, mode), boolean(!t, c, mode))
            }),
            (true, true) => alu!(|a: u32, b: u32, c: bool, mode: u32| -> (bool, bool) {
                let low = compare::<Binary16>(a & 0xffff, b & 0xffff, mode);
                let high = compare::<Binary16>(a >> 16, b >> 16, mode);
                (boolean(low, c, mode), boolean(high, c, mode))
            }),
            (true, false) => alu!(|a: u32, b: u32, c: bool, mode: u32| -> (bool, bool) {
                let low = compare::<Brain16>(a & 0xffff, b & 0xffff, mode);
                let high = compare::<Brain16>(a >> 16, b >> 16, mode);
                (boolean(low, c, mode), boolean(high, c, mode))
            }),
        };
        return comparison_code(&mods, b, mode, ty, None, run);
    }
    if !packed {
        let truth = truth(&mods)?;
        let run = if f16 {
            alu!(|a: u16, b: u16, c: bool, mode: u32, truth: u32| -> u32 {
                if boolean(compare::<Binary16>(a.into(), b.into(), mode), c, mode) {
                    truth
                } else {
                    0
                }
            })
        } else {
            alu!(|a: u16, b: u16, c: bool, mode: u32, truth: u32| -> u32 {
                if boolean(compare::<Brain16>(a.into(), b.into(), mode), c, mode) {
                    truth
                } else {
                    0
                }
            })
        };
        return comparison_code(&mods, b, mode, ty, Some(truth), run);
    }
    let [to, _] = mods.types[..] else {
        return Err(mods.refuse("takes two types"));
    };
    let truth = match to {
        Type::U32 | Type::S32 => u32::MAX,
        Type::F16x2 if f16 => 0x3c00_3c00,
        Type::BF16x2 if !f16 => 0x3f80_3f80,
        _ => return Err(mods.refuse("does not give this type")),
    };
    let run = if f16 {
        alu!(|a: u32, b: u32, c: bool, mode: u32, truth: u32| -> u32 {
            let low = boolean(compare::<Binary16>(a & 0xffff, b & 0xffff, mode), c, mode);
            let high = boolean(compare::<Binary16>(a >> 16, b >> 16, mode), c, mode);
            (if low { truth & 0xffff } else { 0 }) | (if high { truth & !0xffff } else { 0 })
        })
    } else {
        alu!(|a: u32, b: u32, c: bool, mode: u32, truth: u32| -> u32 {
            let low = boolean(compare::<Brain16>(a & 0xffff, b & 0xffff, mode), c, mode);
            let high = boolean(compare::<Brain16>(a >> 16, b >> 16, mode), c, mode);
            (if low { truth & 0xffff } else { 0 }) | (if high { truth & !0xffff } else { 0 })
        })
    };
    comparison_code(&mods, b, mode, ty, Some((to, truth)), run)
}
