//! Division, roots and the transcendental functions.
//!
//! Forms with a rounding modifier are correctly rounded. Approximate ones are more accurate here than on a GPU:
//! they are the exact result rounded once, or at most 0.51 units in the last place from it. The ISA lets hardware
//! differ from the exact value by 2 ulp (`div.approx`, `div.full`, `ex2`), 1 ulp (`rcp`), 2^-23 relative (`sqrt`),
//! 2^-22.9 relative (`rsqrt`), 2^-22 (`lg2`: absolute in (0.5, 2), relative elsewhere), 2^-11 relative (`tanh`),
//! 2^-20.5 absolute in [-2π, 2π] and 2^-14.7 in [-100π, 100π] (`sin`, `cos`; nothing is promised beyond), and for
//! 16-bit formats 2^-9.9 and 2^-7 relative (`ex2` of f16, bf16), 2^-10.987 and 2^-8 absolute (`tanh`). A test that
//! passes here by less than that may fail on a GPU. The documented special cases are those of the ISA.

use super::Covered;
use super::float::*;
use super::half::{Binary16, Brain16, Half, halves};
use super::ieee::*;
use crate::ir::{Class, Code};
use crate::lower::builder::{Builder, Refused};
use crate::lower::isa::simd::alu;
use crate::ptx::ast::{Instruction, Type};

/// What this family supports.
pub const COVERED: &[Covered] = &[
    Covered {
        opcode: "div",
        forms: "f32 .approx .full .rn .rz .rm .rp, .ftz; f64 .rn .rz .rm .rp",
        notes: "approximate forms are correctly rounded; .approx is 0 or NaN for |b| > 2^126 as documented",
    },
    Covered {
        opcode: "rcp sqrt",
        forms: "f32 .approx .rn .rz .rm .rp, .ftz; f64 .rn .rz .rm .rp; rcp.approx.ftz.f64",
        notes: "approximate f32 forms are correctly rounded",
    },
    Covered {
        opcode: "rsqrt",
        forms: "f32 .approx .ftz; f64 .approx; .approx.ftz.f64",
        notes: "f32 within 0.501 ulp",
    },
    Covered {
        opcode: "sin cos lg2",
        forms: "f32 .approx .ftz",
        notes: "within 0.51 ulp over the full range",
    },
    Covered {
        opcode: "ex2",
        forms: "f32 .approx .ftz; f16 f16x2 .approx; bf16 bf16x2 .approx.ftz",
        notes: "within 0.51 ulp",
    },
    Covered {
        opcode: "tanh",
        forms: "f32 f16 f16x2 bf16 bf16x2 .approx",
        notes: "within 0.51 ulp",
    },
];

/// 2^x for any x but NaN, to about 2^-37 (before scaling; the ends of the range are those of no f32 any more).
#[inline(always)]
fn exp2(x: f64) -> f64 {
    // Adding 1.5·2^52 leaves the nearest integer in the low bits.
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    let x = x.clamp(-200.0, 200.0);
    let shifted = x + SHIFT;
    let f = x - (shifted - SHIFT);
    // ln(2)^k / k!: on [-½, ½] what is left out is below 7e-12.
    const C: [f64; 10] = [
        1.0,
        std::f64::consts::LN_2,
        0.240_226_506_959_100_7,
        0.055_504_108_664_821_58,
        0.009_618_129_107_628_477,
        0.001_333_355_814_642_844_2,
        1.540_353_039_338_161e-4,
        1.525_273_380_405_984e-5,
        1.321_548_679_014_431e-6,
        1.017_808_600_923_969_9e-7,
    ];
    // No mul_add: the baseline would call a function for it, and both versions are to give the same bits.
    let f2 = f * f;
    let f4 = f2 * f2;
    let low = (C[0] + C[1] * f) + (C[2] + C[3] * f) * f2;
    let high = (C[4] + C[5] * f) + (C[6] + C[7] * f) * f2;
    let p = low + f4 * (high + f4 * (C[8] + C[9] * f));
    let scale = shifted.to_bits().wrapping_add(1023) << 52;
    p * f64::from_bits(scale)
}

#[inline(always)]
fn ex2(x: f32) -> f32 {
    // A NaN comes through.
    canonical(exp2(x.into()) as f32)
}

#[inline(always)]
fn tanh(x: f32) -> f32 {
    let x64 = f64::from(x);
    let e = exp2(x64 * (2.0 * std::f64::consts::LOG2_E));
    // Near 0 the difference cancels; there the series to x^9 is good to 2^-47.
    let q = x64 * x64;
    let series =
        x64 * (1.0 + q * (-1.0 / 3.0 + q * (2.0 / 15.0 + q * (-17.0 / 315.0 + q * (62.0 / 2835.0)))));
    let y = if x64.abs() < 0.0625 {
        series
    } else {
        (e - 1.0) / (e + 1.0)
    };
    canonical(y as f32)
}

#[inline(always)]
fn rsqrt(x: f32) -> f32 {
    canonical((1.0 / f64::from(x).sqrt()) as f32)
}

/// `div.approx`: a · (1/b) with a reciprocal that flushes, so beyond 2^126 the quotient is 0, or NaN for ∞ · 0.
#[inline(always)]
fn div_approx(a: f32, b: f32, mode: u32) -> f32 {
    let q = div32(a, b, mode);
    let (x, y) = (a.to_bits() & 0x7fff_ffff, b.to_bits() & 0x7fff_ffff);
    let large = y > (126 + 127) << 23 && y < 0x7f80_0000;
    if large && x == 0x7f80_0000 {
        f32::from_bits(NAN32)
    } else if large && x < 0x7f80_0000 {
        f32::from_bits((a.to_bits() ^ b.to_bits()) & 1 << 31)
    } else {
        q
    }
}

/// A double in 1.11.20 format: the upper word alone, subnormals as zero.
fn upper(x: f64) -> f64 {
    let bits = x.to_bits() & !0xffff_ffff;
    f64::from_bits(if bits & 0x7ff << 52 == 0 {
        bits & 1 << 63
    } else {
        bits
    })
}

/// The result of `rcp.approx.ftz.f64` and `rsqrt.approx.ftz.f64`: to nearest in that format.
fn gross(x: f64) -> f64 {
    if x.is_nan() {
        return f64::from_bits(0x7fff_ffff << 32);
    }
    let bits = x.to_bits();
    // A carry goes into the exponent as it should; infinity has no low bits.
    upper(f64::from_bits(bits + 0x7fff_ffff + (bits >> 32 & 1)))
}

#[inline(always)]
fn ex2_half<H: Half>(a: u32, mode: u32) -> u32 {
    let flush = |x| if mode & FTZ != 0 { H::flush(x) } else { x };
    flush(H::narrow(ex2(H::widen(flush(a)))))
}

#[inline(always)]
fn tanh_half<H: Half>(a: u32, _mode: u32) -> u32 {
    H::narrow(tanh(H::widen(a)))
}

/// Lowers the instructions of this family.
pub fn lower(instruction: &Instruction, b: &mut Builder<'_>) -> Result<Option<Code>, Refused> {
    let opcode = &*instruction.opcode;
    let known = matches!(
        opcode,
        "div" | "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh"
    );
    if !known {
        return Ok(None);
    }
    let mods = Mods::read(instruction);
    let Some(&ty) = mods.types.last() else {
        return Err(mods.refuse("needs a type"));
    };
    if opcode == "div" && !ty.is_float() {
        return Ok(None);
    }
    if mods.types.len() != 1 {
        return Err(mods.refuse("takes one type"));
    }
    let mode = mods.mode();
    match (opcode, ty) {
        ("div", Type::F32) => {
            mods.only(APPROX | FULL | RND | M_FTZ)?;
            mods.needs(APPROX | FULL | RND, ".approx, .full or a rounding modifier")?;
            let types = &[ty; 3];
            if mods.has(APPROX) {
                let run = alu!(|a: f32, b: f32, mode: u32| -> f32 { div_approx(a, b, mode) });
                return plain(&mods, b, run, Class::Special, types, &[mode]);
            }
            if mode == 0 {
                let run = alu!(|a: f32, b: f32| -> f32 { canonical(a / b) });
                return plain(&mods, b, run, Class::Special, types, &[]);
            }
            let run = alu!(|a: f32, b: f32, mode: u32| -> f32 { div32(a, b, mode) });
            plain(&mods, b, run, Class::Special, types, &[mode])
        }
        ("rcp", Type::F32) => {
            mods.only(APPROX | RND | M_FTZ)?;
            mods.needs(APPROX | RND, ".approx or a rounding modifier")?;
            let run = match mode {
                0 => alu!(|a: f32| -> f32 { canonical(1.0 / a) }),
                FTZ => alu!(|a: f32| -> f32 { canonical(flush(1.0 / flush(a))) }),
                _ => {
                    let run = alu!(|a: f32, mode: u32| -> f32 { div32(1.0, a, mode) });
                    return plain(&mods, b, run, Class::Special, &[ty; 2], &[mode]);
                }
            };
            plain(&mods, b, run, Class::Special, &[ty; 2], &[])
        }
        ("sqrt", Type::F32) => {
            mods.only(APPROX | RND | M_FTZ)?;
            mods.needs(APPROX | RND, ".approx or a rounding modifier")?;
            let run = match mode {
                0 => alu!(|a: f32| -> f32 { canonical(a.sqrt()) }),
                FTZ => alu!(|a: f32| -> f32 { canonical(flush(a).sqrt()) }),
                _ => {
                    let run = alu!(|a: f32, mode: u32| -> f32 { sqrt32(a, mode) });
                    return plain(&mods, b, run, Class::Special, &[ty; 2], &[mode]);
                }
            };
            plain(&mods, b, run, Class::Special, &[ty; 2], &[])
        }
        ("div" | "rcp" | "sqrt", Type::F64) if !mods.has(APPROX) => {
            mods.only(RND)?;
            mods.needs(RND, "a rounding modifier")?;
            let types = if opcode == "div" {
                &[ty; 3][..]
            } else {
                &[ty; 2][..]
            };
            let run = match (opcode, mode) {
                ("div", 0) => alu!(|a: f64, b: f64| -> f64 { payload(a / b, [a, b]) }),
                ("rcp", 0) => alu!(|a: f64| -> f64 { payload(1.0 / a, [a]) }),
                ("sqrt", 0) => alu!(|a: f64| -> f64 { payload(a.sqrt(), [a]) }),
                _ => {
                    let run = match opcode {
                        "div" => alu!(|a: f64, b: f64, mode: u32| -> f64 { div64(a, b, mode) }),
                        "rcp" => alu!(|a: f64, mode: u32| -> f64 { div64(1.0, a, mode) }),
                        _ => alu!(|a: f64, mode: u32| -> f64 { sqrt64(a, mode) }),
                    };
                    return plain(&mods, b, run, Class::Special, types, &[mode]);
                }
            };
            plain(&mods, b, run, Class::Special, types, &[])
        }
        ("rcp", Type::F64) => {
            mods.only(APPROX | M_FTZ)?;
            mods.needs(M_FTZ, ".ftz")?;
            let run = alu!(|a: f64| -> f64 { gross(1.0 / upper(a)) });
            plain(&mods, b, run, Class::Special, &[ty; 2], &[])
        }
        ("rsqrt", Type::F64) => {
            mods.only(APPROX | M_FTZ)?;
            mods.needs(APPROX, ".approx")?;
            let run = if mods.has(M_FTZ) {
                alu!(|a: f64| -> f64 { gross(1.0 / upper(a).sqrt()) })
            } else {
                alu!(|a: f64| -> f64 { payload(1.0 / a.sqrt(), [a]) })
            };
            plain(&mods, b, run, Class::Special, &[ty; 2], &[])
        }
        ("rsqrt" | "sin" | "cos" | "lg2" | "ex2", Type::F32) => {
            mods.only(APPROX | M_FTZ)?;
            mods.needs(APPROX, ".approx")?;
            let run = match (opcode, mods.has(M_FTZ)) {
                ("rsqrt", false) => alu!(|a: f32| -> f32 { rsqrt(a) }),
                // The result is never subnormal.
                ("rsqrt", true) => alu!(|a: f32| -> f32 { rsqrt(flush(a)) }),
                ("ex2", false) => alu!(|a: f32| -> f32 { ex2(a) }),
                ("ex2", true) => alu!(|a: f32| -> f32 { flush(ex2(flush(a))) }),
                // These three call the mathematical library for each lane.
                ("sin", false) => alu!(|a: f32| -> f32 { canonical(f64::from(a).sin() as f32) }),
                ("sin", true) => {
                    alu!(|a: f32| -> f32 { canonical(flush(f64::from(flush(a)).sin() as f32)) })
                }
                ("cos", false) => alu!(|a: f32| -> f32 { canonical(f64::from(a).cos() as f32) }),
                ("cos", true) => {
                    alu!(|a: f32| -> f32 { canonical(flush(f64::from(flush(a)).cos() as f32)) })
                }
                (_, false) => alu!(|a: f32| -> f32 { canonical(f64::from(a).log2() as f32) }),
                (_, true) => {
                    alu!(|a: f32| -> f32 { canonical(flush(f64::from(flush(a)).log2() as f32)) })
                }
            };
            plain(&mods, b, run, Class::Special, &[ty; 2], &[])
        }
        ("ex2", Type::F16 | Type::F16x2 | Type::BF16 | Type::BF16x2) => {
            let bf16 = matches!(ty, Type::BF16 | Type::BF16x2);
            mods.only(APPROX | if bf16 { M_FTZ } else { 0 })?;
            mods.needs(APPROX, ".approx")?;
            if bf16 {
                mods.needs(M_FTZ, ".ftz")?;
            }
            let run = halves!(ty, ex2_half, |a|, mode);
            plain(&mods, b, run, Class::Special, &[ty; 2], &[mode])
        }
        ("tanh", Type::F32) => {
            mods.only(APPROX)?;
            mods.needs(APPROX, ".approx")?;
            let run = alu!(|a: f32| -> f32 { tanh(a) });
            plain(&mods, b, run, Class::Special, &[ty; 2], &[])
        }
        ("tanh", Type::F16 | Type::F16x2 | Type::BF16 | Type::BF16x2) => {
            mods.only(APPROX)?;
            mods.needs(APPROX, ".approx")?;
            let run = halves!(ty, tanh_half, |a|, mode);
            plain(&mods, b, run, Class::Special, &[ty; 2], &[mode])
        }
        _ => Err(mods.refuse("does not take this type")),
    }
}
