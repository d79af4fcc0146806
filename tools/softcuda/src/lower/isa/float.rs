//! Arithmetic and comparison of `.f32` and `.f64` (and `.f32x2`), and what the other floating-point families share
//! of reading modifiers.
//!
//! Every rounding is done once, whatever the direction: see [`ieee`](super::ieee). `.ftz` flushes subnormal
//! operands, and results after rounding, to zero with their sign. Where the ISA leaves a NaN open,
//! single-precision results are `0x7fffffff`, double-precision ones keep the first operand's payload.

use super::ieee::*;
use super::{Covered, half};
use crate::ir::regs::Width;
use crate::ir::{Alu, Class, Code, Ref};
use crate::lower::builder::{Builder, Refused};
use crate::lower::isa::simd::alu;
use crate::ptx::ast::{Instruction, Operand, Type};

/// What this family supports.
pub const COVERED: &[Covered] = &[
    Covered {
        opcode: "add sub mul",
        forms: "f32 .rn .rz .rm .rp .ftz .sat; f32x2 the same without .sat; f64 .rn .rz .rm .rp; f32.f16 f32.bf16 (add, sub)",
        notes: "correctly rounded; never contracted to fma",
    },
    Covered {
        opcode: "fma mad",
        forms: "f32 .rn .rz .rm .rp .ftz .sat; f32x2 (fma); f64 .rn .rz .rm .rp; f32.f16 f32.bf16 (fma)",
        notes: "correctly rounded; mad.f32 needs a rounding modifier (sm_20 and later)",
    },
    Covered {
        opcode: "neg abs copysign",
        forms: "f32 (.ftz for neg and abs), f64",
        notes: "NaN keeps its payload",
    },
    Covered {
        opcode: "min max",
        forms: "f32 .ftz .NaN .xorsign.abs, three inputs with .abs; f64",
        notes: "-0 < +0",
    },
    Covered {
        opcode: "testp",
        forms: "finite infinite number notanumber normal subnormal; f32 f64",
        notes: "",
    },
    Covered {
        opcode: "set setp",
        forms: "eq ne lt le gt ge equ neu ltu leu gtu geu num nan; .and .or .xor; .ftz; source f32 f64; set to u32 s32 f32 f16 bf16",
        notes: "",
    },
];

/// The modifiers of a floating-point instruction, read.
pub(super) struct Mods<'a> {
    pub instruction: &'a Instruction,
    /// Bits of [`word`](Self::WORDS) for each modifier that is there.
    bits: u32,
    /// Those that are neither types nor in the list: comparisons, boolean operators, unknown ones.
    pub rest: Vec<&'a str>,
    pub types: Vec<Type>,
}

pub(super) const RN: u32 = 1;
pub(super) const RZ: u32 = 1 << 1;
pub(super) const RM: u32 = 1 << 2;
pub(super) const RP: u32 = 1 << 3;
pub(super) const RNA: u32 = 1 << 4;
pub(super) const RNI: u32 = 1 << 5;
pub(super) const RZI: u32 = 1 << 6;
pub(super) const RMI: u32 = 1 << 7;
pub(super) const RPI: u32 = 1 << 8;
pub(super) const APPROX: u32 = 1 << 9;
pub(super) const FULL: u32 = 1 << 10;
pub(super) const M_FTZ: u32 = 1 << 11;
pub(super) const M_SAT: u32 = 1 << 12;
pub(super) const M_RELU: u32 = 1 << 13;
pub(super) const M_SATFINITE: u32 = 1 << 14;
pub(super) const M_NAN: u32 = 1 << 15;
pub(super) const XORSIGN: u32 = 1 << 16;
pub(super) const M_ABS: u32 = 1 << 17;
/// IEEE rounding.
pub(super) const RND: u32 = RN | RZ | RM | RP;
/// Rounding to integral values.
pub(super) const IRND: u32 = RNI | RZI | RMI | RPI;

impl<'a> Mods<'a> {
    const WORDS: [(&'static str, u32); 18] = [
        ("rn", RN),
        ("rz", RZ),
        ("rm", RM),
        ("rp", RP),
        ("rna", RNA),
        ("rni", RNI),
        ("rzi", RZI),
        ("rmi", RMI),
        ("rpi", RPI),
        ("approx", APPROX),
        ("full", FULL),
        ("ftz", M_FTZ),
        ("sat", M_SAT),
        ("relu", M_RELU),
        ("satfinite", M_SATFINITE),
        ("NaN", M_NAN),
        ("xorsign", XORSIGN),
        ("abs", M_ABS),
    ];

    pub fn read(instruction: &'a Instruction) -> Self {
        let mut mods = Mods {
            instruction,
            bits: 0,
            rest: Vec::new(),
            types: Vec::new(),
        };
        for modifier in &instruction.modifiers {
            if let Some((_, bit)) = Self::WORDS.iter().find(|(word, _)| **word == **modifier) {
                mods.bits |= bit;
            } else if let Some(ty) = Type::parse(modifier) {
                mods.types.push(ty);
            } else {
                mods.rest.push(modifier);
            }
        }
        mods
    }

    pub fn has(&self, bits: u32) -> bool {
        self.bits & bits != 0
    }

    pub fn refuse(&self, what: &str) -> Refused {
        Refused::unsupported(self.instruction, what)
    }

    /// Refuses what is not in `allowed`, and two roundings at once.
    pub fn only(&self, allowed: u32) -> Result<(), Refused> {
        if let Some(word) = self.rest.first() {
            return Err(self.refuse(&format!("modifier .{word} is not supported")));
        }
        if let Some((word, _)) = Self::WORDS
            .iter()
            .find(|(_, bit)| self.bits & !allowed & bit != 0)
        {
            return Err(self.refuse(&format!("modifier .{word} does not belong here")));
        }
        if (self.bits & (RND | RNA | IRND | APPROX | FULL)).count_ones() > 1 {
            return Err(self.refuse("more than one rounding modifier"));
        }
        Ok(())
    }

    /// Refuses an instruction that has none of these modifiers.
    pub fn needs(&self, bits: u32, what: &str) -> Result<(), Refused> {
        if self.has(bits) {
            Ok(())
        } else {
            Err(self.refuse(&format!("needs {what}")))
        }
    }

    /// The mode word: rounding, `.ftz`, `.sat`, `.relu`, `.satfinite`.
    pub fn mode(&self) -> u32 {
        let round = if self.has(RZ | RZI) {
            ZERO
        } else if self.has(RM | RMI) {
            DOWN
        } else if self.has(RP | RPI) {
            UP
        } else if self.has(RNA) {
            AWAY
        } else {
            NEAREST
        };
        let flag = |bit, flag| if self.has(bit) { flag } else { 0 };
        round | flag(M_FTZ, FTZ) | flag(M_SAT, SAT) | flag(M_RELU, RELU) | flag(M_SATFINITE, SATFINITE)
    }

    /// Refuses any other number of operands.
    pub fn operands(&self, count: usize) -> Result<&'a [Operand], Refused> {
        let operands = &self.instruction.operands;
        if operands.len() != count {
            return Err(self.refuse(&format!("has {} operands, not {count}", operands.len())));
        }
        Ok(operands)
    }
}

/// An instruction with one destination: `types` are those of the destination and of the sources; the words of
/// `constants` follow as sources with the same value in every lane.
pub(super) fn plain(
    mods: &Mods<'_>,
    b: &mut Builder<'_>,
    run: Alu,
    class: Class,
    types: &[Type],
    constants: &[u32],
) -> Result<Option<Code>, Refused> {
    let operands = mods.operands(types.len())?;
    let dst = b.dst(&operands[0], types[0])?;
    let mut src = Vec::new();
    for (operand, ty) in operands.iter().zip(types).skip(1) {
        src.push(b.src(operand, *ty)?);
    }
    for word in constants {
        src.push(b.constant((*word).into(), Width::W32));
    }
    Ok(Some(Code::alu(run, class, vec![dst], src)))
}

/// Lowers the instructions of this family.
pub fn lower(instruction: &Instruction, b: &mut Builder<'_>) -> Result<Option<Code>, Refused> {
    let opcode = &*instruction.opcode;
    let known = matches!(
        opcode,
        "add"
            | "sub"
            | "mul"
            | "fma"
            | "mad"
            | "neg"
            | "abs"
            | "copysign"
            | "min"
            | "max"
            | "testp"
            | "set"
            | "setp"
    );
    if !known {
        return Ok(None);
    }
    let mods = Mods::read(instruction);
    let Some(&ty) = mods.types.last() else {
        return Ok(None);
    };
    if matches!(opcode, "set" | "setp") {
        return match ty {
            Type::F32 | Type::F64 => compare(mods, b),
            _ => Ok(None),
        };
    }
    if mods.types.len() == 2
        && mods.types[0] == Type::F32
        && matches!(ty, Type::F16 | Type::BF16)
        && matches!(opcode, "add" | "sub" | "fma")
    {
        return mixed(&mods, b);
    }
    if !matches!(ty, Type::F32 | Type::F64 | Type::F32x2) {
        return Ok(None);
    }
    if mods.types.len() != 1 {
        return Err(mods.refuse("takes one type"));
    }
    match (opcode, ty) {
        ("add" | "sub" | "mul" | "fma" | "mad", Type::F32) => arithmetic32(&mods, b),
        ("add" | "sub" | "mul" | "fma" | "mad", Type::F64) => arithmetic64(&mods, b),
        ("add" | "sub" | "mul" | "fma", Type::F32x2) => arithmetic32x2(&mods, b),
        ("neg" | "abs", Type::F32) => {
            mods.only(M_FTZ)?;
            let run = match (opcode == "neg", mods.has(M_FTZ)) {
                (true, false) => alu!(|a: u32| -> u32 { a ^ 1 << 31 }),
                (true, true) => alu!(|a: f32| -> f32 { -flush(a) }),
                (false, false) => alu!(|a: u32| -> u32 { a & !(1 << 31) }),
                (false, true) => alu!(|a: f32| -> f32 { flush(a).abs() }),
            };
            plain(&mods, b, run, Class::Float32, &[ty, ty], &[])
        }
        ("neg" | "abs", Type::F64) => {
            mods.only(0)?;
            let run = if opcode == "neg" {
                alu!(|a: u64| -> u64 { a ^ 1 << 63 })
            } else {
                alu!(|a: u64| -> u64 { a & !(1 << 63) })
            };
            plain(&mods, b, run, Class::Float64, &[ty, ty], &[])
        }
        ("copysign", Type::F32) => {
            mods.only(0)?;
            let run = alu!(|a: u32, b: u32| -> u32 { a & 1 << 31 | b & !(1 << 31) });
            plain(&mods, b, run, Class::Float32, &[ty; 3], &[])
        }
        ("copysign", Type::F64) => {
            mods.only(0)?;
            let run = alu!(|a: u64, b: u64| -> u64 { a & 1 << 63 | b & !(1 << 63) });
            plain(&mods, b, run, Class::Float64, &[ty; 3], &[])
        }
        ("min" | "max", Type::F32) => minmax32(&mods, b),
        ("min" | "max", Type::F64) => {
            mods.only(0)?;
            let run = if opcode == "min" {
                alu!(|a: f64, b: f64| -> f64 { minmax64(a, b, false) })
            } else {
                alu!(|a: f64, b: f64| -> f64 { minmax64(a, b, true) })
            };
            plain(&mods, b, run, Class::Float64, &[ty; 3], &[])
        }
        ("testp", Type::F32 | Type::F64) => testp(mods, b, ty),
        _ => Err(mods.refuse("does not take this type")),
    }
}

/// a·b + c of single precision, rounded once.
#[inline(always)]
fn fma32(a: f32, b: f32, c: f32, mode: u32) -> f32 {
    let (a, b, c) = (flush_if(a, mode), flush_if(b, mode), flush_if(c, mode));
    // The product has 48 bits, so it is exact.
    let (p, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let (s, e) = two_sum(p, c);
    finish(narrow(signed_zero(s, p, c, mode), e, mode), mode)
}

#[inline(always)]
fn add32(a: f32, b: f32, mode: u32) -> f32 {
    let (a, b) = (f64::from(flush_if(a, mode)), f64::from(flush_if(b, mode)));
    let (s, e) = two_sum(a, b);
    finish(narrow(signed_zero(s, a, b, mode), e, mode), mode)
}

#[inline(always)]
fn mul32(a: f32, b: f32, mode: u32) -> f32 {
    let (a, b) = (f64::from(flush_if(a, mode)), f64::from(flush_if(b, mode)));
    finish(narrow(a * b, 0.0, mode), mode)
}

fn arithmetic32(mods: &Mods<'_>, b: &mut Builder<'_>) -> Result<Option<Code>, Refused> {
    mods.only(RND | M_FTZ | M_SAT)?;
    let opcode = &*mods.instruction.opcode;
    let fused = matches!(opcode, "fma" | "mad");
    if fused {
        mods.needs(RND, "a rounding modifier")?;
    }
    let mode = mods.mode();
    let types: &[Type] = if fused { &[Type::F32; 4] } else { &[Type::F32; 3] };
    // What kernels are full of has versions of its own; the rest looks at the mode word in each lane.
    let run = match (opcode, mode) {
        ("add", 0) => alu!(|a: f32, b: f32| -> f32 { canonical(a + b) }),
        ("add", FTZ) => alu!(|a: f32, b: f32| -> f32 { canonical(flush(flush(a) + flush(b))) }),
        ("sub", 0) => alu!(|a: f32, b: f32| -> f32 { canonical(a - b) }),
        ("sub", FTZ) => alu!(|a: f32, b: f32| -> f32 { canonical(flush(flush(a) - flush(b))) }),
        ("mul", 0) => alu!(|a: f32, b: f32| -> f32 { canonical(a * b) }),
        ("mul", FTZ) => alu!(|a: f32, b: f32| -> f32 { canonical(flush(flush(a) * flush(b))) }),
        ("fma" | "mad", 0) => fma_nearest(false),
        ("fma" | "mad", FTZ) => fma_nearest(true),
        _ => {
            let run = match opcode {
                "add" => alu!(|a: f32, b: f32, mode: u32| -> f32 { add32(a, b, mode) }),
                "sub" => alu!(|a: f32, b: f32, mode: u32| -> f32 { add32(a, -b, mode) }),
                "mul" => alu!(|a: f32, b: f32, mode: u32| -> f32 { mul32(a, b, mode) }),
                _ => alu!(|a: f32, b: f32, c: f32, mode: u32| -> f32 { fma32(a, b, c, mode) }),
            };
            return plain(mods, b, run, Class::Float32, types, &[mode]);
        }
    };
    plain(mods, b, run, Class::Float32, types, &[])
}

/// `fma.rn.f32`: the processor's instruction where it has one. Without it `mul_add` would be a call for every
/// lane, so the baseline goes by way of double precision.
fn fma_nearest(ftz: bool) -> Alu {
    #[cfg(target_arch = "x86_64")]
    if super::simd::has_wide() {
        return if ftz {
            alu!(|a: f32, b: f32, c: f32| -> f32 { canonical(flush(flush(a).mul_add(flush(b), flush(c)))) })
        } else {
            alu!(|a: f32, b: f32, c: f32| -> f32 { canonical(a.mul_add(b, c)) })
        };
    }
    if ftz {
        alu!(|a: f32, b: f32, c: f32| -> f32 { fma32(a, b, c, FTZ) })
    } else {
        alu!(|a: f32, b: f32, c: f32| -> f32 { fma32(a, b, c, 0) })
    }
}

#[inline(always)]
fn pair(x: u64, y: u64, z: u64, f: impl Fn(f32, f32, f32) -> f32) -> u64 {
    let one = |by: u32| {
        let part = |v: u64| f32::from_bits((v >> by) as u32);
        u64::from(f(part(x), part(y), part(z)).to_bits()) << by
    };
    one(0) | one(32)
}

fn arithmetic32x2(mods: &Mods<'_>, b: &mut Builder<'_>) -> Result<Option<Code>, Refused> {
    mods.only(RND | M_FTZ)?;
    let opcode = &*mods.instruction.opcode;
    let types: &[Type] = if opcode == "fma" {
        mods.needs(RND, "a rounding modifier")?;
        &[Type::F32x2; 4]
    } else {
        &[Type::F32x2; 3]
    };
    let run = match opcode {
        "add" => alu!(|a: u64, b: u64, m: u32| -> u64 { pair(a, b, 0, |a, b, _| add32(a, b, m)) }),
        "sub" => alu!(|a: u64, b: u64, m: u32| -> u64 { pair(a, b, 0, |a, b, _| add32(a, -b, m)) }),
        "mul" => alu!(|a: u64, b: u64, m: u32| -> u64 { pair(a, b, 0, |a, b, _| mul32(a, b, m)) }),
        _ => alu!(|a: u64, b: u64, c: u64, m: u32| -> u64 { pair(a, b, c, |a, b, c| fma32(a, b, c, m)) }),
    };
    plain(mods, b, run, Class::Float32, types, &[mods.mode()])
}

/// `add.f32.bf16` and its like: the narrow operands are widened first, which is exact.
fn mixed(mods: &Mods<'_>, b: &mut Builder<'_>) -> Result<Option<Code>, Refused> {
    mods.only(RND | M_SAT)?;
    let (opcode, ty) = (&*mods.instruction.opcode, mods.types[1]);
    let widen = |b: &mut Builder<'_>, operand: &Operand| -> Result<Ref, Refused> {
        let narrow = b.src(operand, ty)?;
        let wide = b.temporary(Type::F32);
        let run = half::widen(ty);
        b.before
            .push((Code::alu(run, Class::Convert, vec![wide], vec![narrow]), None));
        Ok(wide)
    };
    let fused = opcode == "fma";
    let operands = mods.operands(if fused { 4 } else { 3 })?;
    if fused {
        mods.needs(RND, "a rounding modifier")?;
    }
    let dst = b.dst(&operands[0], Type::F32)?;
    let mut src = vec![widen(b, &operands[1])?];
    if fused {
        src.push(widen(b, &operands[2])?);
    }
    src.push(b.src(&operands[operands.len() - 1], Type::F32)?);
    src.push(b.constant(mods.mode().into(), Width::W32));
    let run = match opcode {
        "add" => alu!(|a: f32, b: f32, mode: u32| -> f32 { add32(a, b, mode) }),
        "sub" => alu!(|a: f32, b: f32, mode: u32| -> f32 { add32(a, -b, mode) }),
        _ => alu!(|a: f32, b: f32, c: f32, mode: u32| -> f32 { fma32(a, b, c, mode) }),
    };
    Ok(Some(Code::alu(run, Class::Float32, vec![dst], src)))
}

/// The operation on exact values, rounded as the mode word says: for directed rounding of double precision.
#[inline(never)]
fn exact64<const N: usize>(operands: [f64; N], mode: u32, f: impl Fn([Value; N]) -> Value) -> f64 {
    let values = operands.map(|x| Value::unpack(x.to_bits(), Format::F64));
    let result = f(values).pack(Format::F64, mode & ROUND, false);
    payload(f64::from_bits(result), operands)
}

fn arithmetic64(mods: &Mods<'_>, b: &mut Builder<'_>) -> Result<Option<Code>, Refused> {
    mods.only(RND)?;
    let opcode = &*mods.instruction.opcode;
    let fused = matches!(opcode, "fma" | "mad");
    if fused {
        mods.needs(RND, "a rounding modifier")?;
    }
    let types: &[Type] = if fused { &[Type::F64; 4] } else { &[Type::F64; 3] };
    let mode = mods.mode();
    if mode == 0 {
        let run = match opcode {
            "add" => alu!(|a: f64, b: f64| -> f64 { payload(a + b, [a, b]) }),
            "sub" => alu!(|a: f64, b: f64| -> f64 { payload(a - b, [a, b]) }),
            "mul" => alu!(|a: f64, b: f64| -> f64 { payload(a * b, [a, b]) }),
            _ => alu!(|a: f64, b: f64, c: f64| -> f64 { payload(a.mul_add(b, c), [a, b, c]) }),
        };
        return plain(mods, b, run, Class::Float64, types, &[]);
    }
    let run = match opcode {
        "add" => alu!(|a: f64, b: f64, m: u32| -> f64 { exact64([a, b], m, |[a, b]| a.sum(b, m)) }),
        "sub" => alu!(|a: f64, b: f64, m: u32| -> f64 {
            // The NaN's payload and sign are those of the operand itself.
            payload(exact64([a, -b], m, |[a, b]| a.sum(b, m)), [a, b])
        }),
        "mul" => alu!(|a: f64, b: f64, m: u32| -> f64 { exact64([a, b], m, |[a, b]| a.product(b)) }),
        _ => alu!(|a: f64, b: f64, c: f64, m: u32| -> f64 {
            exact64([a, b, c], m, |[a, b, c]| a.product(b).sum(c, m))
        }),
    };
    plain(mods, b, run, Class::Float64, types, &[mode])
}

/// Division of single precision in any direction.
#[inline(always)]
pub(super) fn div32(a: f32, b: f32, mode: u32) -> f32 {
    let (a, b) = (flush_if(a, mode), flush_if(b, mode));
    let q = if mode & ROUND == NEAREST {
        a / b
    } else {
        let (x, y) = (f64::from(a), f64::from(b));
        let t = (x / y) as f32;
        // Exact: t·b has 48 bits, and it is near a. NaN (no step) where the quotient itself is 0/0, ∞ or by ∞.
        let rest = x - f64::from(t) * y;
        step(t, if b.is_sign_negative() { -rest } else { rest }, mode)
    };
    finish(q, mode)
}

#[inline(always)]
pub(super) fn sqrt32(a: f32, mode: u32) -> f32 {
    let a = flush_if(a, mode);
    let root = if mode & ROUND == NEAREST {
        a.sqrt()
    } else {
        let x = f64::from(a);
        let t = x.sqrt() as f32;
        step(t, x - f64::from(t) * f64::from(t), mode)
    };
    finish(root, mode)
}

pub(super) fn div64(a: f64, b: f64, mode: u32) -> f64 {
    exact64([a, b], mode, |[a, b]| a.quotient(b))
}

pub(super) fn sqrt64(a: f64, mode: u32) -> f64 {
    exact64([a], mode, |[a]| a.sqrt())
}

/// Mode bits of min and max, above those of [`ieee`](super::ieee).
pub(super) const MAX: u32 = 1 << 8;
pub(super) const PROPAGATE: u32 = 1 << 9;
pub(super) const ABSOLUTE: u32 = 1 << 10;
pub(super) const XOR: u32 = 1 << 11;

/// The mode word of min and max.
pub(super) fn minmax_mode(mods: &Mods<'_>) -> u32 {
    let flag = |on: bool, bit| if on { bit } else { 0 };
    mods.mode()
        | flag(&*mods.instruction.opcode == "max", MAX)
        | flag(mods.has(M_NAN), PROPAGATE)
        | flag(mods.has(M_ABS), ABSOLUTE)
        | flag(mods.has(XORSIGN), XOR)
}

/// min and max of any format that compares as f32 does. −0 < +0; a NaN gives way to a number but with
/// [`PROPAGATE`]. The result is one of the operands' bits, or a canonical NaN.
#[inline(always)]
pub(super) fn minmax(a: f32, b: f32, mode: u32) -> f32 {
    let (mut a, mut b) = (flush_if(a, mode), flush_if(b, mode));
    let sign = (a.to_bits() ^ b.to_bits()) & 1 << 31;
    if mode & ABSOLUTE != 0 {
        (a, b) = (a.abs(), b.abs());
    }
    let (x, y) = (a.to_bits(), b.to_bits());
    let max = mode & MAX != 0;
    // Equal operands differ at most in a zero's sign.
    let same = if max { x & y } else { x | y };
    let first = if max { a > b } else { a < b };
    let mut bits = if a == b {
        same
    } else if first {
        x
    } else {
        y
    };
    if a.is_nan() {
        bits = y;
    }
    if b.is_nan() {
        bits = x;
    }
    if mode & XOR != 0 {
        bits = bits & !(1 << 31) | sign;
    }
    let either = a.is_nan() || b.is_nan();
    let both = a.is_nan() && b.is_nan();
    if both || either && mode & PROPAGATE != 0 {
        bits = NAN32;
    }
    f32::from_bits(bits)
}

#[inline(always)]
fn minmax64(a: f64, b: f64, max: bool) -> f64 {
    let (x, y) = (a.to_bits(), b.to_bits());
    let first = if max { a > b } else { a < b };
    let bits = if a == b {
        if max { x & y } else { x | y }
    } else if first || b.is_nan() {
        x
    } else {
        y
    };
    payload(f64::from_bits(bits), [a, b])
}

fn minmax32(mods: &Mods<'_>, b: &mut Builder<'_>) -> Result<Option<Code>, Refused> {
    mods.only(M_FTZ | M_NAN | XORSIGN | M_ABS)?;
    let mode = minmax_mode(mods);
    if mods.instruction.operands.len() == 4 {
        if mods.has(XORSIGN) {
            return Err(mods.refuse(".xorsign takes two inputs"));
        }
        let run = alu!(|a: f32, b: f32, c: f32, mode: u32| -> f32 { minmax(minmax(a, b, mode), c, mode) });
        return plain(mods, b, run, Class::Float32, &[Type::F32; 4], &[mode]);
    }
    if mods.has(XORSIGN) && !mods.has(M_ABS) {
        return Err(mods.refuse(".xorsign needs .abs"));
    }
    let types = &[Type::F32; 3];
    let run = match mode {
        0 => alu!(|a: f32, b: f32| -> f32 { minmax(a, b, 0) }),
        MAX => alu!(|a: f32, b: f32| -> f32 { minmax(a, b, MAX) }),
        _ => {
            let run = alu!(|a: f32, b: f32, mode: u32| -> f32 { minmax(a, b, mode) });
            return plain(mods, b, run, Class::Float32, types, &[mode]);
        }
    };
    plain(mods, b, run, Class::Float32, types, &[])
}

fn testp(mut mods: Mods<'_>, b: &mut Builder<'_>, ty: Type) -> Result<Option<Code>, Refused> {
    let Some(test) = mods.rest.pop() else {
        return Err(mods.refuse("needs a property to test"));
    };
    mods.only(0)?;
    // Classes by magnitude: zero, subnormal, normal, infinite, NaN.
    let mask = match test {
        "finite" => 0b00111,
        "infinite" => 0b01000,
        "number" => 0b01111,
        "notanumber" => 0b10000,
        "normal" => 0b00101,
        "subnormal" => 0b00010,
        _ => return Err(mods.refuse(&format!("modifier .{test} is not supported"))),
    };
    let class = if ty == Type::F32 {
        Class::Float32
    } else {
        Class::Float64
    };
    let run = if ty == Type::F32 {
        alu!(|a: u32, mask: u32| -> bool {
            let a = a & 0x7fff_ffff;
            let class = u32::from(a > 0)
                + u32::from(a >= 0x0080_0000)
                + u32::from(a >= 0x7f80_0000)
                + u32::from(a > 0x7f80_0000);
            mask >> class & 1 != 0
        })
    } else {
        alu!(|a: u64, mask: u32| -> bool {
            let a = a & !(1 << 63);
            let class = u32::from(a > 0)
                + u32::from(a >= 1 << 52)
                + u32::from(a >= 0x7ff << 52)
                + u32::from(a > 0x7ff << 52);
            mask >> class & 1 != 0
        })
    };
    plain(&mods, b, run, class, &[Type::Pred, ty], &[mask])
}

/// Mode bits of comparisons: which of less, equal, greater, unordered are true (bits 0 to 3), then the boolean
/// operator. [`FTZ`] moves out of their way.
pub(super) const AND: u32 = 1 << 4;
pub(super) const OR: u32 = 2 << 4;
pub(super) const XOR_OP: u32 = 3 << 4;
pub(super) const COMPARE_FTZ: u32 = 1 << 6;

/// Reads `lt`, `geu`, … and the boolean operator; they leave [`Mods::rest`].
pub(super) fn comparison(mods: &mut Mods<'_>) -> Result<u32, Refused> {
    let mut words = std::mem::take(&mut mods.rest).into_iter();
    let relation = match words.next() {
        Some("lt") => 0b0001,
        Some("eq") => 0b0010,
        Some("le") => 0b0011,
        Some("gt") => 0b0100,
        Some("ne") => 0b0101,
        Some("ge") => 0b0110,
        Some("num") => 0b0111,
        Some("nan") => 0b1000,
        Some("ltu") => 0b1001,
        Some("equ") => 0b1010,
        Some("leu") => 0b1011,
        Some("gtu") => 0b1100,
        Some("neu") => 0b1101,
        Some("geu") => 0b1110,
        _ => return Err(mods.refuse("needs a floating-point comparison")),
    };
    let boolean = match words.next() {
        None => 0,
        Some("and") => AND,
        Some("or") => OR,
        Some("xor") => XOR_OP,
        Some(other) => return Err(mods.refuse(&format!("modifier .{other} is not supported"))),
    };
    mods.rest = words.collect();
    mods.only(M_FTZ)?;
    Ok(relation | boolean | if mods.has(M_FTZ) { COMPARE_FTZ } else { 0 })
}

/// One bit of `relation` by how a and b lie.
#[inline(always)]
pub(super) fn holds(less: bool, equal: bool, greater: bool, mode: u32) -> bool {
    let class = u32::from(less) | u32::from(equal) << 1 | u32::from(greater) << 2;
    let class = if class == 0 { 8 } else { class };
    class & mode != 0
}

#[inline(always)]
pub(super) fn holds32(a: f32, b: f32, mode: u32) -> bool {
    let (a, b) = if mode & COMPARE_FTZ != 0 {
        (flush(a), flush(b))
    } else {
        (a, b)
    };
    holds(a < b, a == b, a > b, mode)
}

#[inline(always)]
pub(super) fn boolean(t: bool, c: bool, mode: u32) -> bool {
    match mode & XOR_OP {
        AND => t & c,
        OR => t | c,
        XOR_OP => t ^ c,
        _ => t,
    }
}

/// Destinations and sources of a comparison. For `setp` two predicates; for `set` one value, and the value that
/// stands for true follows the mode word.
pub(super) fn comparison_code(
    mods: &Mods<'_>,
    b: &mut Builder<'_>,
    mode: u32,
    ty: Type,
    result: Option<(Type, u32)>,
    run: Alu,
) -> Result<Option<Code>, Refused> {
    let operands = mods.operands(if mode & XOR_OP == 0 { 3 } else { 4 })?;
    let dst = match (result, &operands[0]) {
        (Some((ty, _)), operand) => vec![b.dst(operand, ty)?],
        (None, Operand::Pair(p, q)) => vec![b.dst(p, Type::Pred)?, b.dst(q, Type::Pred)?],
        (None, operand) => vec![b.dst(operand, Type::Pred)?, b.temporary(Type::Pred)],
    };
    let mut src = vec![b.src(&operands[1], ty)?, b.src(&operands[2], ty)?];
    src.push(match operands.get(3) {
        Some(c) => b.src(c, Type::Pred)?,
        None => b.constant(0, Width::Pred),
    });
    src.push(b.constant(mode.into(), Width::W32));
    if let Some((_, truth)) = result {
        src.push(b.constant(truth.into(), Width::W32));
    }
    Ok(Some(Code::alu(run, Class::Compare, dst, src)))
}

/// The value that `set` writes for true.
pub(super) fn truth(mods: &Mods<'_>) -> Result<(Type, u32), Refused> {
    let [to, _] = mods.types[..] else {
        return Err(mods.refuse("takes two types"));
    };
    let value = match to {
        Type::U32 | Type::S32 => u32::MAX,
        Type::U16 | Type::S16 => 0xffff,
        Type::F32 => 1f32.to_bits(),
        Type::F16 => 0x3c00,
        Type::BF16 => 0x3f80,
        _ => return Err(mods.refuse("does not give this type")),
    };
    Ok((to, value))
}

fn compare(mut mods: Mods<'_>, b: &mut Builder<'_>) -> Result<Option<Code>, Refused> {
    let mode = comparison(&mut mods)?;
    let ty = mods.types[mods.types.len() - 1];
    if ty == Type::F64 && mods.has(M_FTZ) {
        return Err(mods.refuse("modifier .ftz does not belong here"));
    }
    if &*mods.instruction.opcode == "set" {
        let truth = truth(&mods)?;
        if matches!(truth.0, Type::U16 | Type::S16) {
            return Err(mods.refuse("does not give this type"));
        }
        let run = if ty == Type::F32 {
            alu!(|a: f32, b: f32, c: bool, mode: u32, truth: u32| -> u32 {
                if boolean(holds32(a, b, mode), c, mode) {
                    truth
                } else {
                    0
                }
            })
        } else {
            alu!(|a: f64, b: f64, c: bool, mode: u32, truth: u32| -> u32 {
                if boolean(holds(a < b, a == b, a > b, mode), c, mode) {
                    truth
                } else {
                    0
                }
            })
        };
        return comparison_code(&mods, b, mode, ty, Some(truth), run);
    }
    if mods.types.len() != 1 {
        return Err(mods.refuse("takes one type"));
    }
    let run = if ty == Type::F32 {
        alu!(|a: f32, b: f32, c: bool, mode: u32| -> (bool, bool) {
            let t = holds32(a, b, mode);
            (boolean(t, c, mode), boolean(!t, c, mode))
        })
    } else {
        alu!(|a: f64, b: f64, c: bool, mode: u32| -> (bool, bool) {
            let t = holds(a < b, a == b, a > b, mode);
            (boolean(t, c, mode), boolean(!t, c, mode))
        })
    };
    comparison_code(&mods, b, mode, ty, None, run)
}
