//! `cvt` between integers and floating-point formats of every size, and `cvt.pack`.
//!
//! Conversions that kernels are full of have versions of their own; all others go through
//! [`Value`], slowly and exactly. A register may be wider than the type: the source's low bits
//! count, and the result is extended to the register, with its sign for signed integers and with zeros otherwise.
//!
//! A NaN becomes the format's canonical one, but keeps sign and payload to and from `.f64`, from `.bf16` to `.f32` and
//! with `.rna.tf32`: what an H200 does, and the ISA leaves open.

use super::Covered;
use super::float::*;
use super::half::{Binary16, Brain16, Half};
use super::ieee::{self, *};
use crate::ir::regs::Width;
use crate::ir::{Alu, Class, Code};
use crate::lower::builder::{Builder, Refused};
use crate::lower::isa::simd::alu;
use crate::ptx::ast::{Instruction, Type};

/// What this family supports.
pub const COVERED: &[Covered] = &[
    Covered {
        opcode: "cvt",
        forms: "u8 u16 u32 u64 s8 s16 s32 s64 f16 bf16 f32 f64, any to any: .rni .rzi .rmi .rpi, .rn .rz .rm .rp, .ftz .sat .relu .satfinite; f16x2.f32 bf16x2.f32 .rn .rz; tf32.f32 .rna .rn .rz; e4m3x2 e5m2x2 from f32 and f16x2; f16x2 from e4m3x2 e5m2x2",
        notes: "stochastic rounding (.rs), 4- and 6-bit floats and ue8m0 are refused",
    },
    Covered {
        opcode: "cvt.pack",
        forms: ".sat u16 s16; u2 s2 u4 s4 u8 s8 with c; from s32",
        notes: "",
    },
];

/// The general conversion's code word: the mode word's low 7 bits, then these.
const INTEGRAL: u32 = 1 << 7;
const TO: u32 = 8;
const FROM: u32 = 12;
/// The destination's register: 0 to 3 for 8, 16, 32, 64 bits.
const REGISTER: u32 = 16;

/// Types by the number that the code word has for them.
const TYPES: [Type; 13] = [
    Type::U8,
    Type::U16,
    Type::U32,
    Type::U64,
    Type::S8,
    Type::S16,
    Type::S32,
    Type::S64,
    Type::F16,
    Type::BF16,
    Type::F32,
    Type::F64,
    Type::TF32,
];
const FORMATS: [Format; 5] = [Format::F16, Format::BF16, Format::F32, Format::F64, Format::TF32];
const FLOATS: u32 = 8;
const SINGLE: u32 = 10;
const DOUBLE: u32 = 11;
const TENSOR: u32 = 12;

/// A floating-point result: `.sat`, `.relu`, `.satfinite` and rounding.
fn pack_float(value: Value, format: Format, code: u32) -> u64 {
    let value = match value {
        Value::Nan if code & SAT != 0 => return 0,
        // −0 counts as negative; the ISA leaves that open.
        _ if value.is_negative() && code & (SAT | RELU) != 0 => return 0,
        _ => value,
    };
    let bits = value.pack(format, code & ROUND, code & SATFINITE != 0);
    if code & SAT != 0 {
        bits.min(Value::integer(1).pack(format, ieee::NEAREST, false))
    } else {
        bits
    }
}

/// A NaN in another format, with its sign and the upper bits of its payload, and `quiet` or as it was.
fn nan_in(to: Format, from: Format, bits: u64, quiet: bool) -> u64 {
    let sign = |format: Format| format.exponent + format.fraction;
    let exponent = ((1u64 << to.exponent) - 1) << to.fraction;
    let payload = bits << (64 - from.fraction) >> (64 - to.fraction);
    let quiet = u64::from(quiet) << (to.fraction - 1);
    (bits >> sign(from) & 1) << sign(to) | exponent | payload | quiet
}

/// A NaN as the type `to`, if it is one that keeps its sign and payload.
fn kept_nan(bits: u64, to: u32, from: u32, code: u32) -> Option<u64> {
    const BRAIN: u32 = FLOATS + 1;
    if from < FLOATS || code & (SAT | RELU) != 0 {
        return None;
    }
    let format = |number: u32| FORMATS[(number - FLOATS) as usize];
    let own = format(from);
    let magnitude = bits & ((1 << (own.exponent + own.fraction)) - 1);
    if magnitude <= ((1 << own.exponent) - 1) << own.fraction {
        return None;
    }
    match (to, from) {
        (DOUBLE, _) | (SINGLE, DOUBLE) => Some(nan_in(format(to), own, bits, true)),
        (SINGLE, BRAIN) => Some(nan_in(format(to), own, bits, false)),
        // Of 32 bits the lower 13 are not kept.
        (TENSOR, _) if code & ROUND == AWAY => Some(bits & !0x1fff),
        _ => None,
    }
}

/// Any conversion of one number.
#[inline(never)]
fn convert(bits: u64, code: u32) -> u64 {
    let (to, from) = (code >> TO & 15, code >> FROM & 15);
    if let Some(nan) = kept_nan(bits, to, from, code) {
        return nan;
    }
    let round = code & ROUND;
    let flush = |bits: u64| {
        if code & FTZ != 0 {
            ieee::flush(f32::from_bits(bits as u32)).to_bits().into()
        } else {
            bits
        }
    };
    let value = match from {
        0..=3 => {
            let size = 8 << from;
            Value::integer((bits & u64::MAX >> (64 - size)).into())
        }
        4..FLOATS => {
            let unused = 64 - (8 << (from - 4));
            Value::integer((((bits << unused) as i64) >> unused).into())
        }
        SINGLE => Value::unpack(flush(bits & 0xffff_ffff), Format::F32),
        DOUBLE => Value::unpack(bits, Format::F64),
        half => Value::unpack(bits & 0xffff, FORMATS[(half - FLOATS) as usize]),
    };
    if to >= FLOATS {
        let format = FORMATS[(to - FLOATS) as usize];
        let value = match value.round_to_integer(round) {
            Some(integer) if code & INTEGRAL != 0 => match value {
                // Large numbers are integral already; so is what became ±2^100.
                _ if integer.unsigned_abs() >= 1 << 64 => value,
                _ if integer == 0 => Value::zero(value.is_negative()),
                _ => Value::integer(integer),
            },
            _ => value,
        };
        let bits = pack_float(value, format, code);
        return match to {
            SINGLE => flush(bits),
            // 19 bits, at the top of a 32-bit register.
            TENSOR if bits == Format::TF32.nan => NAN32.into(),
            TENSOR => bits << 13,
            _ => bits,
        };
    }
    let signed = to >= 4;
    let size = 8 << (to & 3);
    let (low, high) = if signed {
        (-1i128 << (size - 1), (1i128 << (size - 1)) - 1)
    } else {
        (0, (1i128 << size) - 1)
    };
    let integer = match value.round_to_integer(round) {
        // Zero for what fits in 32 bits, otherwise the pattern with the highest bit alone.
        None if from != DOUBLE && size != 64 => 0,
        None if signed => low,
        None => 1i128 << (size - 1),
        Some(integer) if code & SAT != 0 || from >= FLOATS => integer.clamp(low, high),
        Some(integer) => integer,
    };
    let unused = 64 - size;
    let bits = integer as u64;
    let bits = if signed {
        (((bits << unused) as i64) >> unused) as u64
    } else {
        bits << unused >> unused
    };
    bits & u64::MAX >> (64 - (8 << (code >> REGISTER & 3)))
}

/// The versions of their own: those without flags, and with a destination register of the type's size where the
/// type is signed.
fn quick(to: Type, from: Type, mods: &Mods<'_>, exact_register: bool) -> Option<Alu> {
    use Type::*;
    let nearest = mods.has(RN);
    let plain = mods.mode() & !(ROUND | FTZ) == 0;
    // Rounding to nearest or to zero gives 0 for what .ftz would flush.
    let ftz = mods.has(M_FTZ);
    if !plain || ftz && !(mods.has(RNI | RZI) && matches!(to, S32 | U32)) {
        return None;
    }
    Some(match (to, from) {
        (S32, F32) if mods.has(RZI) => alu!(|a: f32| -> i32 { a as i32 }),
        (S32, F32) if mods.has(RNI) => alu!(|a: f32| -> i32 { a.round_ties_even() as i32 }),
        (S32, F32) if mods.has(RMI) => alu!(|a: f32| -> i32 { a.floor() as i32 }),
        (S32, F32) if mods.has(RPI) => alu!(|a: f32| -> i32 { a.ceil() as i32 }),
        (U32, F32) if mods.has(RZI) => alu!(|a: f32| -> u32 { a as u32 }),
        (U32, F32) if mods.has(RNI) => alu!(|a: f32| -> u32 { a.round_ties_even() as u32 }),
        (F32, F32) if mods.has(RZI) => alu!(|a: f32| -> f32 { canonical(a.trunc()) }),
        (F32, F32) if mods.has(RNI) => alu!(|a: f32| -> f32 { canonical(a.round_ties_even()) }),
        (F32, F32) if mods.has(RMI) => alu!(|a: f32| -> f32 { canonical(a.floor()) }),
        (F32, F32) if mods.has(RPI) => alu!(|a: f32| -> f32 { canonical(a.ceil()) }),
        (F32, S32) if nearest => alu!(|a: i32| -> f32 { a as f32 }),
        (F32, U32) if nearest => alu!(|a: u32| -> f32 { a as f32 }),
        (F32, S16) if nearest => alu!(|a: i16| -> f32 { a.into() }),
        (F32, U16) if nearest => alu!(|a: u16| -> f32 { a.into() }),
        (F32, S8) if nearest => alu!(|a: i8| -> f32 { a.into() }),
        (F32, U8) if nearest => alu!(|a: u8| -> f32 { a.into() }),
        (F32, S64) if nearest => alu!(|a: i64| -> f32 { a as f32 }),
        (F32, U64) if nearest => alu!(|a: u64| -> f32 { a as f32 }),
        (F64, S32) if nearest => alu!(|a: i32| -> f64 { a.into() }),
        (F64, U32) if nearest => alu!(|a: u32| -> f64 { a.into() }),
        (F64, F32) => alu!(|a: f32| -> f64 { payload(a.into(), [a.into()]) }),
        (F32, F64) if nearest => alu!(|a: u64| -> u32 {
            let number = f64::from_bits(a);
            match number.is_nan() {
                true => nan_in(Format::F32, Format::F64, a, true) as u32,
                false => (number as f32).to_bits(),
            }
        }),
        (F16, F32) if nearest => alu!(|a: f32| -> u16 { Binary16::narrow(a) as u16 }),
        (BF16, F32) if nearest => alu!(|a: f32| -> u16 { Brain16::narrow(a) as u16 }),
        (F32, F16) => alu!(|a: u16| -> f32 { Binary16::widen(a.into()) }),
        (F32, BF16) => alu!(|a: u16| -> u32 { u32::from(a) << 16 }),
        (S64, S32) => alu!(|a: i32| -> i64 { a.into() }),
        (U64 | S64, U32) => alu!(|a: u32| -> u64 { a.into() }),
        (U32 | S32, U16) => alu!(|a: u16| -> u32 { a.into() }),
        (U32 | S32, U8) => alu!(|a: u8| -> u32 { a.into() }),
        (S32, S16) => alu!(|a: i16| -> i32 { a.into() }),
        (S32, S8) => alu!(|a: i8| -> i32 { a.into() }),
        (U32 | S32, U64 | S64) if exact_register => alu!(|a: u64| -> u32 { a as u32 }),
        (U16, U32 | S32) => alu!(|a: u32| -> u32 { a & 0xffff }),
        (U8, U32 | S32 | U16 | S16) => alu!(|a: u32| -> u32 { a & 0xff }),
        (S16, S32 | U32) if exact_register => alu!(|a: u32| -> u32 { a & 0xffff }),
        (S8, S32 | U32 | S16 | U16) if exact_register => alu!(|a: u32| -> u32 { a & 0xff }),
        (U16, U64 | S64) => alu!(|a: u64| -> u32 { a as u32 & 0xffff }),
        (U16, U8) => alu!(|a: u8| -> u16 { a.into() }),
        _ => return None,
    })
}

/// Lowers the instructions of this family.
pub fn lower(instruction: &Instruction, b: &mut Builder<'_>) -> Result<Option<Code>, Refused> {
    if &*instruction.opcode != "cvt" {
        return Ok(None);
    }
    if instruction.modifiers.first().is_some_and(|m| &**m == "pack") {
        return pack(instruction, b).map(Some);
    }
    let mods = Mods::read(instruction);
    mods.only(RND | RNA | IRND | M_FTZ | M_SAT | M_RELU | M_SATFINITE)?;
    let [to, from] = mods.types[..] else {
        return Err(mods.refuse("takes two types"));
    };
    use Type::*;
    match (to, from) {
        (F16x2 | BF16x2, Type::F32) => return pairs(&mods, b, to),
        (E4M3x2 | E5M2x2, Type::F32 | F16x2) | (F16x2, E4M3x2 | E5M2x2) => {
            return bytes(&mods, b, to, from);
        }
        (Type::TF32, Type::F32) => {
            mods.only(RNA | RN | RZ | M_RELU | M_SATFINITE)?;
            mods.needs(RNA | RN | RZ, ".rna, .rn or .rz")?;
            if mods.has(RNA) && mods.has(M_RELU) {
                return Err(mods.refuse(".rna does not go with .relu"));
            }
            let code = mods.mode() | TENSOR << TO | SINGLE << FROM | 2 << REGISTER;
            let run = alu!(|a: u32, code: u32| -> u32 { convert(a.into(), code) as u32 });
            return plain(&mods, b, run, Class::Convert, &[B32, Type::F32], &[code]);
        }
        _ => {}
    }
    let number = |ty: Type| TYPES[..12].iter().position(|t| *t == ty);
    let (Some(to_number), Some(from_number)) = (number(to), number(from)) else {
        return Err(mods.refuse("conversion between these types is not supported"));
    };
    check(&mods, to, from)?;

    let operands = mods.operands(2)?;
    let (dst, dst_width) = b.any_dst(&operands[0], to)?;
    let (src, src_width) = b.any_src(&operands[1], from)?;
    let size = |operand, ty: Type| b.register_type(operand).map_or(ty.size(), Type::size);
    let (dst_size, src_size) = (size(&operands[0], to), size(&operands[1], from));
    let wide = |width| matches!(width, Width::W32 | Width::W64);
    if dst_size < to.size() || src_size < from.size() || !wide(dst_width) || !wide(src_width) {
        return Err(mods.refuse("a register does not fit its type"));
    }
    // Wide registers are not for these formats.
    if to == BF16 && dst_size != 2 || from == BF16 && src_size != 2 {
        return Err(mods.refuse("a register of another size than .bf16"));
    }
    let same_width = |width: Width, ty: Type| (width == Width::W64) == (ty.size() == 8);
    // A smaller type's source is cut to its bits by the element's type.
    if same_width(dst_width, to)
        && same_width(src_width, from)
        && (dst_size == to.size() || !to.is_signed())
        && let Some(run) = quick(to, from, &mods, dst_size == to.size())
    {
        return Ok(Some(Code::alu(run, Class::Convert, vec![dst], vec![src])));
    }
    let code = mods.mode()
        | if mods.has(IRND) { INTEGRAL } else { 0 }
        | (to_number as u32) << TO
        | (from_number as u32) << FROM
        | (dst_size as u32).trailing_zeros() << REGISTER;
    let run = match (src_width, dst_width) {
        (Width::W32, Width::W32) => alu!(|a: u32, code: u32| -> u32 { convert(a.into(), code) as u32 }),
        (Width::W32, _) => alu!(|a: u32, code: u32| -> u64 { convert(a.into(), code) }),
        (_, Width::W32) => alu!(|a: u64, code: u32| -> u32 { convert(a, code) as u32 }),
        _ => alu!(|a: u64, code: u32| -> u64 { convert(a, code) }),
    };
    let code = b.constant(code.into(), Width::W32);
    Ok(Some(Code::alu(run, Class::Convert, vec![dst], vec![src, code])))
}

/// Which modifiers a scalar conversion may and must have.
fn check(mods: &Mods<'_>, to: Type, from: Type) -> Result<(), Refused> {
    if mods.has(M_FTZ) && to != Type::F32 && from != Type::F32 {
        return Err(mods.refuse(".ftz needs .f32 on one side"));
    }
    match (to.is_float(), from.is_float()) {
        (false, false) => mods.only(M_SAT),
        (false, true) => {
            mods.only(IRND | M_FTZ | M_SAT)?;
            mods.needs(IRND, "an integer rounding modifier")
        }
        (true, false) => {
            mods.only(RND | M_FTZ | if to == Type::BF16 { 0 } else { M_SAT })?;
            mods.needs(RND, "a rounding modifier")
        }
        (true, true) => {
            let narrow = matches!(to, Type::F16 | Type::BF16) && from == Type::F32;
            let relu = if narrow { M_RELU | M_SATFINITE } else { 0 };
            let sat = if to == Type::BF16 { 0 } else { M_SAT };
            let integral = if to.size() == from.size() { IRND } else { 0 };
            mods.only(RND | integral | M_FTZ | sat | relu)?;
            if mods.has(M_SAT) && mods.has(M_RELU | M_SATFINITE) {
                return Err(mods.refuse(".sat excludes .relu and .satfinite"));
            }
            // f16 and bf16 have the same size, but neither holds all of the other.
            if to.size() < from.size() || to.size() == 2 && to != from {
                mods.needs(RND | IRND, "a rounding modifier")?;
            }
            Ok(())
        }
    }
}

/// `cvt.f16x2.f32` and `cvt.bf16x2.f32`: the first source goes to the upper half.
fn pairs(mods: &Mods<'_>, b: &mut Builder<'_>, to: Type) -> Result<Option<Code>, Refused> {
    mods.only(RN | RZ | M_RELU | M_SATFINITE)?;
    mods.needs(RN | RZ, ".rn or .rz")?;
    let types = &[to, Type::F32, Type::F32];
    let f16 = to == Type::F16x2;
    if mods.mode() == 0 {
        let run = if f16 {
            alu!(|a: f32, b: f32| -> u32 { Binary16::narrow(a) << 16 | Binary16::narrow(b) })
        } else {
            alu!(|a: f32, b: f32| -> u32 { Brain16::narrow(a) << 16 | Brain16::narrow(b) })
        };
        return plain(mods, b, run, Class::Convert, types, &[]);
    }
    let number = if f16 { FLOATS } else { FLOATS + 1 };
    let code = mods.mode() | number << TO | SINGLE << FROM | 1 << REGISTER;
    let run = alu!(|a: u32, b: u32, code: u32| -> u32 {
        (convert(a.into(), code) << 16 | convert(b.into(), code)) as u32
    });
    plain(mods, b, run, Class::Convert, types, &[code])
}

fn byte(bits: u32, format: Format, to: Format, mode: u32) -> u32 {
    let value = Value::unpack(bits.into(), format);
    pack_float(value, to, mode) as u32
}

/// The 8-bit formats, always in pairs.
fn bytes(mods: &Mods<'_>, b: &mut Builder<'_>, to: Type, from: Type) -> Result<Option<Code>, Refused> {
    mods.needs(RN, ".rn")?;
    if to == Type::F16x2 {
        mods.only(RN | M_RELU)?;
        let run = if from == Type::E4M3x2 {
            alu!(|a: u16, mode: u32| -> u32 {
                let half = |x: u16| byte(x.into(), Format::E4M3, Format::F16, mode);
                half(a >> 8) << 16 | half(a & 0xff)
            })
        } else {
            alu!(|a: u16, mode: u32| -> u32 {
                let half = |x: u16| byte(x.into(), Format::E5M2, Format::F16, mode);
                half(a >> 8) << 16 | half(a & 0xff)
            })
        };
        return plain(mods, b, run, Class::Convert, &[to, from], &[mods.mode()]);
    }
    mods.only(RN | M_SATFINITE | M_RELU)?;
    mods.needs(M_SATFINITE, ".satfinite")?;
    if from == Type::F16x2 {
        let run = if to == Type::E4M3x2 {
            alu!(|a: u32, mode: u32| -> u32 {
                let half = |x: u32| byte(x, Format::F16, Format::E4M3, mode);
                half(a >> 16) << 8 | half(a & 0xffff)
            })
        } else {
            alu!(|a: u32, mode: u32| -> u32 {
                let half = |x: u32| byte(x, Format::F16, Format::E5M2, mode);
                half(a >> 16) << 8 | half(a & 0xffff)
            })
        };
        return plain(mods, b, run, Class::Convert, &[to, from], &[mods.mode()]);
    }
    let run = if to == Type::E4M3x2 {
        alu!(|a: u32, b: u32, mode: u32| -> u32 {
            let half = |x: u32| byte(x, Format::F32, Format::E4M3, mode);
            half(a) << 8 | half(b)
        })
    } else {
        alu!(|a: u32, b: u32, mode: u32| -> u32 {
            let half = |x: u32| byte(x, Format::F32, Format::E5M2, mode);
            half(a) << 8 | half(b)
        })
    };
    plain(mods, b, run, Class::Convert, &[to, from, from], &[mods.mode()])
}

/// `cvt.pack.sat`: two integers, saturated, in the low bits of the result (the first one above the second), over
/// the third operand's low bits.
fn pack(instruction: &Instruction, b: &mut Builder<'_>) -> Result<Code, Refused> {
    let words: Vec<&str> = instruction.modifiers.iter().map(|m| &**m).collect();
    let ["pack", "sat", to, "s32", ref c @ ..] = words[..] else {
        return Err(Refused::unsupported(instruction, "this form is not supported"));
    };
    let (bits, third) = match to {
        "u16" | "s16" => (16, false),
        "u8" | "s8" => (8, true),
        "u4" | "s4" => (4, true),
        "u2" | "s2" => (2, true),
        _ => return Err(Refused::unsupported(instruction, "this form is not supported")),
    };
    if c != if third { &["b32"][..] } else { &[] } {
        return Err(Refused::unsupported(instruction, "this form is not supported"));
    }
    let operands = &instruction.operands;
    if operands.len() != if third { 4 } else { 3 } {
        return Err(Refused::unsupported(instruction, "another number of operands"));
    }
    let dst = b.dst(&operands[0], Type::U32)?;
    let mut src = vec![b.src(&operands[1], Type::S32)?, b.src(&operands[2], Type::S32)?];
    src.push(if third {
        b.src(&operands[3], Type::B32)?
    } else {
        b.constant(0, Width::W32)
    });
    let signed = to.starts_with('s');
    let (low, high) = if signed {
        (-1i32 << (bits - 1), (1i32 << (bits - 1)) - 1)
    } else {
        (0, (1i32 << bits) - 1)
    };
    for word in [low as u32, high as u32, bits] {
        src.push(b.constant(word.into(), Width::W32));
    }
    let run = alu!(|a: i32, b: i32, c: u32, low: i32, high: i32, bits: u32| -> u32 {
        let one = |x: i32| x.max(low).min(high) as u32 & ((1 << (bits & 31)) - 1);
        let above = if bits < 16 { c << ((2 * bits) & 31) } else { 0 };
        above | one(a) << (bits & 31) | one(b)
    });
    Ok(Code::alu(run, Class::Convert, vec![dst], src))
}
