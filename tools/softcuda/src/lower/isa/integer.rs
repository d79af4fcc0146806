//! Integer arithmetic and the bit-field instructions.

use crate::ir::{Alu, Class, Code, Ref};
use crate::lower::builder::{Builder, Refused};
use crate::lower::isa::Covered;
use crate::lower::isa::form::Form;
use crate::lower::isa::form::by_type;
use crate::lower::isa::simd::alu;
use crate::ptx::ast::{Instruction, Operand, Type};

pub const COVERED: &[Covered] = &[
    Covered {
        opcode: "add",
        forms: "u16 s16 u32 s32 u64 s64 u16x2 s16x2; .sat for s32; .cc for u32 s32 u64 s64",
        notes: "",
    },
    Covered {
        opcode: "sub",
        forms: "u16 s16 u32 s32 u64 s64; .sat for s32; .cc for u32 s32 u64 s64",
        notes: "sub.cc and subc.cc set the flag where there is no borrow, as the hardware does: a - b is a + !b + 1",
    },
    Covered {
        opcode: "addc subc",
        forms: "u32 s32 u64 s64; .cc",
        notes: "",
    },
    Covered {
        opcode: "mul",
        forms: ".lo .hi: u16 s16 u32 s32 u64 s64; .wide: u16 s16 u32 s32",
        notes: "",
    },
    Covered {
        opcode: "mad",
        forms: ".lo .hi: u16 s16 u32 s32 u64 s64; .wide: u16 s16 u32 s32; .hi.sat.s32; \
                .lo.cc .hi.cc: u32 s32 u64 s64",
        notes: "",
    },
    Covered {
        opcode: "madc",
        forms: ".lo .hi: u32 s32 u64 s64; .cc",
        notes: "",
    },
    Covered {
        opcode: "mul24 mad24",
        forms: ".lo .hi: u32 s32; mad24.hi.sat.s32",
        notes: "",
    },
    Covered {
        opcode: "div rem",
        forms: "u16 s16 u32 s32 u64 s64",
        notes: "x / 0 and x rem 0 have all bits set; MIN / -1 is MIN",
    },
    Covered {
        opcode: "abs neg",
        forms: "s16 s32 s64",
        notes: "",
    },
    Covered {
        opcode: "min max",
        forms: "u16 s16 u32 s32 u64 s64 u16x2 s16x2; .relu for s32 s16x2",
        notes: "",
    },
    Covered {
        opcode: "sad",
        forms: "u16 s16 u32 s32 u64 s64",
        notes: "",
    },
    Covered {
        opcode: "popc clz brev",
        forms: "b32 b64",
        notes: "",
    },
    Covered {
        opcode: "bfind",
        forms: "u32 s32 u64 s64; .shiftamt",
        notes: "",
    },
    Covered {
        opcode: "fns",
        forms: "b32",
        notes: "a base above 31 finds nothing",
    },
    Covered {
        opcode: "bfe",
        forms: "u32 s32 u64 s64",
        notes: "",
    },
    Covered {
        opcode: "bfi",
        forms: "b32 b64",
        notes: "",
    },
    Covered {
        opcode: "bmsk",
        forms: ".clamp .wrap: b32",
        notes: "",
    },
    Covered {
        opcode: "szext",
        forms: ".clamp .wrap: u32 s32",
        notes: "",
    },
    Covered {
        opcode: "dp4a",
        forms: "u32 s32 for each source",
        notes: "",
    },
    Covered {
        opcode: "dp2a",
        forms: ".lo .hi: u32 s32 for each source",
        notes: "",
    },
];

/// Lowers an integer instruction; `None` for another opcode and for floating-point types.
pub fn lower(instruction: &Instruction, builder: &mut Builder<'_>) -> Result<Option<Code>, Refused> {
    // These opcodes exist for floating-point types too; those are another family's.
    let shared = matches!(
        &*instruction.opcode,
        "add" | "sub" | "mul" | "mad" | "div" | "abs" | "neg" | "min" | "max"
    );
    if shared && instruction.types().any(Type::is_float) {
        return Ok(None);
    }
    let form = Form::new(instruction);
    Ok(Some(match &*instruction.opcode {
        "add" | "sub" => add(form, builder, &instruction.opcode)?,
        "addc" | "subc" => carried(form, builder, &instruction.opcode)?,
        "mul" | "mul24" => multiply(form, builder, &instruction.opcode)?,
        "mad" | "madc" | "mad24" => multiply_add(form, builder, &instruction.opcode)?,
        "div" | "rem" => divide(form, builder, &instruction.opcode)?,
        "abs" | "neg" => unary(form, builder, &instruction.opcode)?,
        "min" | "max" => extremum(form, builder, &instruction.opcode)?,
        "sad" => sad(form, builder)?,
        "popc" | "clz" | "brev" => count(form, builder, &instruction.opcode)?,
        "bfind" => find(form, builder)?,
        "fns" => find_nth(form, builder)?,
        "bfe" => extract(form, builder)?,
        "bfi" => insert(form, builder)?,
        "bmsk" => mask(form, builder)?,
        "szext" => extend(form, builder)?,
        "dp4a" | "dp2a" => dot(form, builder, &instruction.opcode)?,
        _ => return Ok(None),
    }))
}

/// An instruction with one result and any number of sources, each with its type.
fn code(
    builder: &mut Builder<'_>,
    run: Alu,
    (d, result): (&Operand, Type),
    sources: &[(&Operand, Type)],
) -> Result<Code, Refused> {
    let mut src = Vec::with_capacity(sources.len());
    for (operand, ty) in sources {
        src.push(builder.src(operand, *ty)?);
    }
    let dst = builder.dst(d, result)?;
    Ok(Code::alu(run, Class::Integer, vec![dst], src))
}

/// Applies `f` to the two halves.
#[inline(always)]
fn halves(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    u32::from(f(a as u16, b as u16)) | u32::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16
}

fn add(mut form: Form<'_>, builder: &mut Builder<'_>, opcode: &str) -> Result<Code, Refused> {
    if form.take("cc") {
        return sum_with_carry(form, builder, opcode, false, true);
    }
    let saturate = form.take("sat");
    let ty = form.ty()?;
    let [d, a, b] = form.operands()?;
    let run = match (opcode, saturate) {
        ("add", false) => by_type!(ty, T in {
            U16 | S16 = u16, U32 | S32 = u32, U64 | S64 = u64
        }, alu!(|a: T, b: T| -> T { a.wrapping_add(b) })),
        (_, false) => by_type!(ty, T in {
            U16 | S16 = u16, U32 | S32 = u32, U64 | S64 = u64
        }, alu!(|a: T, b: T| -> T { a.wrapping_sub(b) })),
        ("add", true) => by_type!(ty, T in { S32 = i32 }, alu!(|a: T, b: T| -> T { a.saturating_add(b) })),
        (_, true) => by_type!(ty, T in { S32 = i32 }, alu!(|a: T, b: T| -> T { a.saturating_sub(b) })),
    };
    let run = match ty {
        Type::U16x2 | Type::S16x2 if opcode == "add" && !saturate => {
            Some(alu!(|a: u32, b: u32| -> u32 { halves(a, b, u16::wrapping_add) }))
        }
        _ => run,
    };
    let run = run.ok_or_else(|| form.wrong_type(ty))?;
    code(builder, run, (d, ty), &[(a, ty), (b, ty)])
}

fn carried(mut form: Form<'_>, builder: &mut Builder<'_>, opcode: &str) -> Result<Code, Refused> {
    let write = form.take("cc");
    sum_with_carry(form, builder, opcode, true, write)
}

/// Sum or difference with the carry flag read, written or both. The flag is a predicate of the function; one
/// that is not read is a constant, one that is not written a register that nobody reads.
///
/// The PTX ISA speaks of a borrow, but ptxas makes a - b from a + !b + 1 and hands the carry of that on, to `addc`
/// and `madc` as well as to `subc`; nvcc's division of 128-bit integers counts on `addc` after `subc.cc`.
fn sum_with_carry(
    mut form: Form<'_>,
    builder: &mut Builder<'_>,
    opcode: &str,
    read: bool,
    write: bool,
) -> Result<Code, Refused> {
    let ty = form.ty()?;
    let [d, a, b] = form.operands()?;
    let run = if opcode.starts_with("add") {
        by_type!(ty, T in { U32 | S32 = u32, U64 | S64 = u64 }, alu!(|a: T, b: T, c: bool| -> (T, bool) {
            let (sum, first) = a.overflowing_add(b);
            let (sum, second) = sum.overflowing_add(T::from(c));
            (sum, first | second)
        }))
    } else {
        by_type!(ty, T in { U32 | S32 = u32, U64 | S64 = u64 }, alu!(|a: T, b: T, c: bool| -> (T, bool) {
            let (difference, first) = a.overflowing_add(!b);
            let (difference, second) = difference.overflowing_add(T::from(c));
            (difference, first | second)
        }))
    };
    let run = run.ok_or_else(|| form.wrong_type(ty))?;
    let carry = if read || opcode.starts_with("add") {
        carry_in(builder, read)
    } else {
        builder.constant(u32::MAX.into(), crate::ir::regs::Width::Pred)
    };
    let src = vec![builder.src(a, ty)?, builder.src(b, ty)?, carry];
    let dst = vec![builder.dst(d, ty)?, carry_out(builder, write)];
    Ok(Code::alu(run, Class::Integer, dst, src))
}

fn carry_in(builder: &mut Builder<'_>, read: bool) -> Ref {
    if read {
        builder.carry()
    } else {
        builder.constant(0, crate::ir::regs::Width::Pred)
    }
}

fn carry_out(builder: &mut Builder<'_>, write: bool) -> Ref {
    if write {
        builder.carry()
    } else {
        builder.temporary(Type::Pred)
    }
}

/// The low 24 bits, extended as the type has it.
#[inline(always)]
fn low24_signed(a: i32) -> i64 {
    i64::from(a << 8 >> 8)
}
#[inline(always)]
fn low24_unsigned(a: u32) -> u64 {
    u64::from(a & 0xff_ffff)
}

/// The high half of a product.
trait High {
    fn high(self, other: Self) -> Self;
}
macro_rules! high {
    ($($ty:ty, $wide:ty);+) => {$(
        impl High for $ty {
            #[inline(always)]
            fn high(self, other: Self) -> Self {
                ((<$wide>::from(self) * <$wide>::from(other)) >> <$ty>::BITS) as $ty
            }
        }
    )+};
}
high!(u16, u32; i16, i32; u32, u64; i32, i64; u64, u128; i64, i128);

/// The type of twice the width, for `.wide`.
fn widened(ty: Type) -> Option<Type> {
    Some(match ty {
        Type::U16 => Type::U32,
        Type::S16 => Type::S32,
        Type::U32 => Type::U64,
        Type::S32 => Type::S64,
        _ => return None,
    })
}

fn multiply(mut form: Form<'_>, builder: &mut Builder<'_>, opcode: &str) -> Result<Code, Refused> {
    let part = form.take_any(&["lo", "hi", "wide"]);
    let ty = form.ty()?;
    let [d, a, b] = form.operands()?;
    let mut result = ty;
    let run = match (opcode, part) {
        (_, None) => return Err(form.refuse("one of .lo, .hi and .wide is missing")),
        ("mul", Some("lo")) => by_type!(ty, T in {
            U16 | S16 = u16, U32 | S32 = u32, U64 | S64 = u64
        }, alu!(|a: T, b: T| -> T { a.wrapping_mul(b) })),
        ("mul", Some("hi")) => by_type!(ty, T in {
            U16 = u16, S16 = i16, U32 = u32, S32 = i32, U64 = u64, S64 = i64
        }, alu!(|a: T, b: T| -> T { a.high(b) })),
        ("mul", _) => {
            result = widened(ty).ok_or_else(|| form.wrong_type(ty))?;
            match ty {
                Type::U16 => Some(alu!(|a: u16, b: u16| -> u32 { u32::from(a) * u32::from(b) })),
                Type::S16 => Some(alu!(|a: i16, b: i16| -> i32 { i32::from(a) * i32::from(b) })),
                Type::U32 => Some(alu!(|a: u32, b: u32| -> u64 { u64::from(a) * u64::from(b) })),
                _ => Some(alu!(|a: i32, b: i32| -> i64 { i64::from(a) * i64::from(b) })),
            }
        }
        (_, Some("lo")) => match ty {
            Type::U32 => Some(alu!(|a: u32, b: u32| -> u32 {
                (low24_unsigned(a) * low24_unsigned(b)) as u32
            })),
            Type::S32 => Some(alu!(|a: i32, b: i32| -> i32 {
                (low24_signed(a) * low24_signed(b)) as i32
            })),
            _ => None,
        },
        (_, Some("hi")) => match ty {
            Type::U32 => Some(alu!(|a: u32, b: u32| -> u32 {
                ((low24_unsigned(a) * low24_unsigned(b)) >> 16) as u32
            })),
            Type::S32 => Some(alu!(|a: i32, b: i32| -> i32 {
                ((low24_signed(a) * low24_signed(b)) >> 16) as i32
            })),
            _ => None,
        },
        _ => return Err(form.refuse("24-bit products are not widened")),
    };
    let run = run.ok_or_else(|| form.wrong_type(ty))?;
    code(builder, run, (d, result), &[(a, ty), (b, ty)])
}

fn multiply_add(mut form: Form<'_>, builder: &mut Builder<'_>, opcode: &str) -> Result<Code, Refused> {
    let part = form.take_any(&["lo", "hi", "wide"]);
    let write = opcode != "mad24" && form.take("cc");
    let saturate = opcode != "madc" && form.take("sat");
    let ty = form.ty()?;
    let [d, a, b, c] = form.operands()?;
    let part = part.ok_or_else(|| form.refuse("one of .lo, .hi and .wide is missing"))?;
    if saturate && (part != "hi" || ty != Type::S32 || write) {
        return Err(form.refuse(".sat goes with .hi and .s32 alone"));
    }
    let read = opcode == "madc";
    if read || write {
        let run = match part {
            "lo" => by_type!(ty, T in {
                U32 | S32 = u32, U64 | S64 = u64
            }, alu!(|a: T, b: T, c: T, carry: bool| -> (T, bool) {
                let (sum, first) = a.wrapping_mul(b).overflowing_add(c);
                let (sum, second) = sum.overflowing_add(T::from(carry));
                (sum, first | second)
            })),
            // The high half depends on the sign; the carry out of the sum does not.
            "hi" => match ty {
                Type::U32 => Some(alu!(|a: u32, b: u32, c: u32, carry: bool| -> (u32, bool) {
                    let (sum, first) = a.high(b).overflowing_add(c);
                    let (sum, second) = sum.overflowing_add(u32::from(carry));
                    (sum, first | second)
                })),
                Type::S32 => Some(alu!(|a: i32, b: i32, c: u32, carry: bool| -> (u32, bool) {
                    let (sum, first) = (a.high(b) as u32).overflowing_add(c);
                    let (sum, second) = sum.overflowing_add(u32::from(carry));
                    (sum, first | second)
                })),
                Type::U64 => Some(alu!(|a: u64, b: u64, c: u64, carry: bool| -> (u64, bool) {
                    let (sum, first) = a.high(b).overflowing_add(c);
                    let (sum, second) = sum.overflowing_add(u64::from(carry));
                    (sum, first | second)
                })),
                Type::S64 => Some(alu!(|a: i64, b: i64, c: u64, carry: bool| -> (u64, bool) {
                    let (sum, first) = (a.high(b) as u64).overflowing_add(c);
                    let (sum, second) = sum.overflowing_add(u64::from(carry));
                    (sum, first | second)
                })),
                _ => None,
            },
            _ => return Err(form.refuse("the carry flag goes with .lo and .hi alone")),
        };
        let run = run.ok_or_else(|| form.wrong_type(ty))?;
        let carry = carry_in(builder, read);
        let src = vec![
            builder.src(a, ty)?,
            builder.src(b, ty)?,
            builder.src(c, ty)?,
            carry,
        ];
        let dst = vec![builder.dst(d, ty)?, carry_out(builder, write)];
        return Ok(Code::alu(run, Class::Integer, dst, src));
    }
    let mut result = ty;
    let run = match (opcode, part) {
        ("mad", "lo") => by_type!(ty, T in {
            U16 | S16 = u16, U32 | S32 = u32, U64 | S64 = u64
        }, alu!(|a: T, b: T, c: T| -> T { a.wrapping_mul(b).wrapping_add(c) })),
        ("mad", "hi") if saturate => Some(alu!(|a: i32, b: i32, c: i32| -> i32 {
            a.high(b).saturating_add(c)
        })),
        ("mad", "hi") => by_type!(ty, T in {
            U16 = u16, S16 = i16, U32 = u32, S32 = i32, U64 = u64, S64 = i64
        }, alu!(|a: T, b: T, c: T| -> T { a.high(b).wrapping_add(c) })),
        ("mad", _) => {
            result = widened(ty).ok_or_else(|| form.wrong_type(ty))?;
            match ty {
                Type::U16 => Some(alu!(|a: u16, b: u16, c: u32| -> u32 {
                    (u32::from(a) * u32::from(b)).wrapping_add(c)
                })),
                Type::S16 => Some(alu!(|a: i16, b: i16, c: i32| -> i32 {
                    (i32::from(a) * i32::from(b)).wrapping_add(c)
                })),
                Type::U32 => Some(alu!(|a: u32, b: u32, c: u64| -> u64 {
                    (u64::from(a) * u64::from(b)).wrapping_add(c)
                })),
                _ => Some(alu!(|a: i32, b: i32, c: i64| -> i64 {
                    (i64::from(a) * i64::from(b)).wrapping_add(c)
                })),
            }
        }
        (_, "lo") => match ty {
            Type::U32 => Some(alu!(|a: u32, b: u32, c: u32| -> u32 {
                ((low24_unsigned(a) * low24_unsigned(b)) as u32).wrapping_add(c)
            })),
            Type::S32 => Some(alu!(|a: i32, b: i32, c: i32| -> i32 {
                ((low24_signed(a) * low24_signed(b)) as i32).wrapping_add(c)
            })),
            _ => None,
        },
        (_, "hi") if saturate => Some(alu!(|a: i32, b: i32, c: i32| -> i32 {
            (((low24_signed(a) * low24_signed(b)) >> 16) as i32).saturating_add(c)
        })),
        (_, "hi") => match ty {
            Type::U32 => Some(alu!(|a: u32, b: u32, c: u32| -> u32 {
                (((low24_unsigned(a) * low24_unsigned(b)) >> 16) as u32).wrapping_add(c)
            })),
            Type::S32 => Some(alu!(|a: i32, b: i32, c: i32| -> i32 {
                (((low24_signed(a) * low24_signed(b)) >> 16) as i32).wrapping_add(c)
            })),
            _ => None,
        },
        _ => return Err(form.refuse("24-bit products are not widened")),
    };
    let run = run.ok_or_else(|| form.wrong_type(ty))?;
    code(builder, run, (d, result), &[(a, ty), (b, ty), (c, result)])
}

fn divide(mut form: Form<'_>, builder: &mut Builder<'_>, opcode: &str) -> Result<Code, Refused> {
    let ty = form.ty()?;
    let [d, a, b] = form.operands()?;
    let run = if opcode == "div" {
        by_type!(ty, T in {
            U16 = u16, S16 = i16, U32 = u32, S32 = i32, U64 = u64, S64 = i64
        }, alu!(|a: T, b: T| -> T { if b == 0 { !0 } else { a.wrapping_div(b) } }))
    } else {
        by_type!(ty, T in {
            U16 = u16, S16 = i16, U32 = u32, S32 = i32, U64 = u64, S64 = i64
        }, alu!(|a: T, b: T| -> T { if b == 0 { !0 } else { a.wrapping_rem(b) } }))
    };
    let run = run.ok_or_else(|| form.wrong_type(ty))?;
    code(builder, run, (d, ty), &[(a, ty), (b, ty)])
}

fn unary(mut form: Form<'_>, builder: &mut Builder<'_>, opcode: &str) -> Result<Code, Refused> {
    let ty = form.ty()?;
    let [d, a] = form.operands()?;
    let run = if opcode == "abs" {
        by_type!(ty, T in { S16 = i16, S32 = i32, S64 = i64 }, alu!(|a: T| -> T { a.wrapping_abs() }))
    } else {
        by_type!(ty, T in { S16 = i16, S32 = i32, S64 = i64 }, alu!(|a: T| -> T { a.wrapping_neg() }))
    };
    let run = run.ok_or_else(|| form.wrong_type(ty))?;
    code(builder, run, (d, ty), &[(a, ty)])
}

fn extremum(mut form: Form<'_>, builder: &mut Builder<'_>, opcode: &str) -> Result<Code, Refused> {
    let relu = form.take("relu");
    let ty = form.ty()?;
    let [d, a, b] = form.operands()?;
    let run = match (opcode, relu) {
        ("min", false) => by_type!(ty, T in {
            U16 = u16, S16 = i16, U32 = u32, S32 = i32, U64 = u64, S64 = i64
        }, alu!(|a: T, b: T| -> T { a.min(b) })),
        ("max", false) => by_type!(ty, T in {
            U16 = u16, S16 = i16, U32 = u32, S32 = i32, U64 = u64, S64 = i64
        }, alu!(|a: T, b: T| -> T { a.max(b) })),
        ("min", true) => by_type!(ty, T in { S32 = i32 }, alu!(|a: T, b: T| -> T { a.min(b).max(0) })),
        _ => by_type!(ty, T in { S32 = i32 }, alu!(|a: T, b: T| -> T { a.max(b).max(0) })),
    };
    let run = match (ty, opcode, relu) {
        (Type::U16x2, "min", false) => Some(alu!(|a: u32, b: u32| -> u32 { halves(a, b, u16::min) })),
        (Type::U16x2, "max", false) => Some(alu!(|a: u32, b: u32| -> u32 { halves(a, b, u16::max) })),
        (Type::S16x2, "min", false) => Some(alu!(|a: u32, b: u32| -> u32 {
            halves(a, b, |a, b| (a as i16).min(b as i16) as u16)
        })),
        (Type::S16x2, "max", false) => Some(alu!(|a: u32, b: u32| -> u32 {
            halves(a, b, |a, b| (a as i16).max(b as i16) as u16)
        })),
        (Type::S16x2, "min", true) => Some(alu!(|a: u32, b: u32| -> u32 {
            halves(a, b, |a, b| (a as i16).min(b as i16).max(0) as u16)
        })),
        (Type::S16x2, "max", true) => Some(alu!(|a: u32, b: u32| -> u32 {
            halves(a, b, |a, b| (a as i16).max(b as i16).max(0) as u16)
        })),
        _ => run,
    };
    let run = run.ok_or_else(|| form.wrong_type(ty))?;
    code(builder, run, (d, ty), &[(a, ty), (b, ty)])
}

fn sad(mut form: Form<'_>, builder: &mut Builder<'_>) -> Result<Code, Refused> {
    let ty = form.ty()?;
    let [d, a, b, c] = form.operands()?;
    // The difference of the larger and the smaller, taken modulo the width.
    let run = by_type!(ty, T in {
        U16 = u16, S16 = i16, U32 = u32, S32 = i32, U64 = u64, S64 = i64
    }, alu!(|a: T, b: T, c: T| -> T { c.wrapping_add(a.max(b).wrapping_sub(a.min(b))) }));
    let run = run.ok_or_else(|| form.wrong_type(ty))?;
    code(builder, run, (d, ty), &[(a, ty), (b, ty), (c, ty)])
}

fn count(mut form: Form<'_>, builder: &mut Builder<'_>, opcode: &str) -> Result<Code, Refused> {
    let ty = form.ty()?;
    let [d, a] = form.operands()?;
    let run = match opcode {
        "popc" => by_type!(ty, T in { B32 = u32, B64 = u64 }, alu!(|a: T| -> u32 { a.count_ones() })),
        "clz" => by_type!(ty, T in { B32 = u32, B64 = u64 }, alu!(|a: T| -> u32 { a.leading_zeros() })),
        _ => by_type!(ty, T in { B32 = u32, B64 = u64 }, alu!(|a: T| -> T { a.reverse_bits() })),
    };
    let run = run.ok_or_else(|| form.wrong_type(ty))?;
    let result = if opcode == "brev" { ty } else { Type::U32 };
    code(builder, run, (d, result), &[(a, ty)])
}

fn find(mut form: Form<'_>, builder: &mut Builder<'_>) -> Result<Code, Refused> {
    let shift = form.take("shiftamt");
    let ty = form.ty()?;
    let [d, a] = form.operands()?;
    // Of a negative number, the first bit that is not a copy of the sign counts. `leading_zeros` of zero is the
    // width, so nothing found shows as a position of -1.
    let run = match (ty, shift) {
        (Type::U32, false) => Some(alu!(|a: u32| -> u32 { 31u32.wrapping_sub(a.leading_zeros()) })),
        (Type::S32, false) => Some(alu!(|a: i32| -> u32 {
            31u32.wrapping_sub((a ^ (a >> 31)).leading_zeros())
        })),
        (Type::U64, false) => Some(alu!(|a: u64| -> u32 { 63u32.wrapping_sub(a.leading_zeros()) })),
        (Type::S64, false) => Some(alu!(|a: i64| -> u32 {
            63u32.wrapping_sub((a ^ (a >> 63)).leading_zeros())
        })),
        (Type::U32, true) => Some(alu!(|a: u32| -> u32 { shift_amount(a.leading_zeros(), 32) })),
        (Type::S32, true) => Some(alu!(|a: i32| -> u32 {
            shift_amount((a ^ (a >> 31)).leading_zeros(), 32)
        })),
        (Type::U64, true) => Some(alu!(|a: u64| -> u32 { shift_amount(a.leading_zeros(), 64) })),
        (Type::S64, true) => Some(alu!(|a: i64| -> u32 {
            shift_amount((a ^ (a >> 63)).leading_zeros(), 64)
        })),
        _ => None,
    };
    let run = run.ok_or_else(|| form.wrong_type(ty))?;
    code(builder, run, (d, Type::U32), &[(a, ty)])
}

#[inline(always)]
fn shift_amount(zeros: u32, bits: u32) -> u32 {
    if zeros == bits { u32::MAX } else { zeros }
}

fn find_nth(mut form: Form<'_>, builder: &mut Builder<'_>) -> Result<Code, Refused> {
    let ty = form.ty()?;
    let [d, a, base, offset] = form.operands()?;
    if ty != Type::B32 {
        return Err(form.wrong_type(ty));
    }
    let run = alu!(|bits: u32, base: u32, offset: i32| -> u32 { nth_set(bits, base, offset) });
    let sources = [(a, Type::B32), (base, Type::U32), (offset, Type::S32)];
    code(builder, run, (d, Type::U32), &sources)
}

/// Position of the |offset|-th set bit, counted from `base` upwards (downwards for a negative offset), the base
/// itself among them; offset 0 asks for the base alone. All ones if there is none.
fn nth_set(bits: u32, base: u32, offset: i32) -> u32 {
    if base > 31 {
        return u32::MAX;
    }
    if offset == 0 {
        return if bits >> base & 1 != 0 { base } else { u32::MAX };
    }
    let mut left = offset.unsigned_abs();
    let mut position = base as i32;
    while (0..32).contains(&position) {
        if bits >> position & 1 != 0 {
            left -= 1;
            if left == 0 {
                return position as u32;
            }
        }
        position += offset.signum();
    }
    u32::MAX
}

fn extract(mut form: Form<'_>, builder: &mut Builder<'_>) -> Result<Code, Refused> {
    let ty = form.ty()?;
    let [d, a, position, length] = form.operands()?;
    // Shifted down, the field's upper end is cut or filled by a second pair of shifts. A field that begins above
    // the value has only copies of the sign, which a shift by the width less one gives.
    let run = match ty {
        Type::U32 => Some(alu!(|a: u32, b: u32, c: u32| -> u32 {
            let (position, length) = (b & 255, c & 255);
            let field = if position > 31 { 0 } else { a >> position };
            if length > 31 {
                field
            } else {
                field & !(!0 << length)
            }
        })),
        Type::U64 => Some(alu!(|a: u64, b: u32, c: u32| -> u64 {
            let (position, length) = (b & 255, c & 255);
            let field = if position > 63 { 0 } else { a >> position };
            if length > 63 {
                field
            } else {
                field & !(!0 << length)
            }
        })),
        Type::S32 => Some(alu!(|a: i32, b: u32, c: u32| -> i32 {
            let (position, length) = (b & 255, c & 255);
            let field = a >> position.min(31);
            let unused = 32 - length.min(32);
            if length == 0 { 0 } else { field << unused >> unused }
        })),
        Type::S64 => Some(alu!(|a: i64, b: u32, c: u32| -> i64 {
            let (position, length) = (b & 255, c & 255);
            let field = a >> position.min(63);
            let unused = 64 - length.min(64);
            if length == 0 {
                0
            } else {
                field << (unused & 63) >> (unused & 63)
            }
        })),
        _ => None,
    };
    let run = run.ok_or_else(|| form.wrong_type(ty))?;
    code(
        builder,
        run,
        (d, ty),
        &[(a, ty), (position, Type::U32), (length, Type::U32)],
    )
}

fn insert(mut form: Form<'_>, builder: &mut Builder<'_>) -> Result<Code, Refused> {
    let ty = form.ty()?;
    let [f, a, b, position, length] = form.operands()?;
    let run = match ty {
        Type::B32 => Some(alu!(|a: u32, b: u32, c: u32, d: u32| -> u32 {
            let (position, length) = (c & 255, d & 255);
            let field = if length > 31 { !0 } else { !(!0 << length) };
            if position > 31 {
                b
            } else {
                b & !(field << position) | (a & field) << position
            }
        })),
        Type::B64 => Some(alu!(|a: u64, b: u64, c: u32, d: u32| -> u64 {
            let (position, length) = (c & 255, d & 255);
            let field: u64 = if length > 63 { !0 } else { !(!0 << length) };
            if position > 63 {
                b
            } else {
                b & !(field << position) | (a & field) << position
            }
        })),
        _ => None,
    };
    let run = run.ok_or_else(|| form.wrong_type(ty))?;
    let sources = [(a, ty), (b, ty), (position, Type::U32), (length, Type::U32)];
    code(builder, run, (f, ty), &sources)
}

fn mask(mut form: Form<'_>, builder: &mut Builder<'_>) -> Result<Code, Refused> {
    let mode = form.take_any(&["clamp", "wrap"]);
    let ty = form.ty()?;
    let [d, a, b] = form.operands()?;
    if ty != Type::B32 {
        return Err(form.wrong_type(ty));
    }
    let run = match mode {
        Some("clamp") => alu!(|a: u32, b: u32| -> u32 {
            let from = if a > 31 { 0 } else { !0 << a };
            // A sum above 31 reaches past the top; no addition overflows with both cut to 32.
            let end = a.min(32) + b.min(32);
            let above = if end > 31 { 0 } else { !0 << end };
            from & !above
        }),
        Some(_) => alu!(|a: u32, b: u32| -> u32 {
            let end = (a & 31) + (b & 31);
            let above = if end > 31 { 0 } else { !0 << end };
            !0 << (a & 31) & !above
        }),
        None => return Err(form.refuse("one of .clamp and .wrap is missing")),
    };
    code(builder, run, (d, ty), &[(a, Type::U32), (b, Type::U32)])
}

fn extend(mut form: Form<'_>, builder: &mut Builder<'_>) -> Result<Code, Refused> {
    let mode = form.take_any(&["clamp", "wrap"]);
    let ty = form.ty()?;
    let [d, a, b] = form.operands()?;
    let run = match (mode, ty) {
        (None, _) => return Err(form.refuse("one of .clamp and .wrap is missing")),
        (Some("clamp"), Type::U32) => Some(alu!(|a: u32, b: u32| -> u32 {
            if b > 31 { a } else { a & !(!0 << b) }
        })),
        (Some("clamp"), Type::S32) => Some(alu!(|a: i32, b: u32| -> i32 {
            let unused = 32 - b.min(32);
            if b == 0 { 0 } else { a << unused >> unused }
        })),
        (_, Type::U32) => Some(alu!(|a: u32, b: u32| -> u32 { a & !(!0 << (b & 31)) })),
        (_, Type::S32) => Some(alu!(|a: i32, b: u32| -> i32 {
            let unused = (32 - (b & 31)) & 31;
            if b & 31 == 0 { 0 } else { a << unused >> unused }
        })),
        _ => None,
    };
    let run = run.ok_or_else(|| form.wrong_type(ty))?;
    code(builder, run, (d, ty), &[(a, ty), (b, Type::U32)])
}

/// Byte `index`, extended as `signed` says. Shifts of 32 bits alone, which vectorise.
#[inline(always)]
fn byte(value: u32, index: u32, signed: bool) -> u32 {
    let top = value << (24 - 8 * index);
    if signed {
        (top as i32 >> 24) as u32
    } else {
        top >> 24
    }
}
#[inline(always)]
fn half(value: u32, index: u32, signed: bool) -> u32 {
    let top = value << (16 - 16 * index);
    if signed {
        (top as i32 >> 16) as u32
    } else {
        top >> 16
    }
}
/// The products are taken modulo 2^32, as the sum is.
#[inline(always)]
fn dot4(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool) -> u32 {
    let product = |i| byte(a, i, a_signed).wrapping_mul(byte(b, i, b_signed));
    let (low, high) = (
        product(0).wrapping_add(product(1)),
        product(2).wrapping_add(product(3)),
    );
    c.wrapping_add(low).wrapping_add(high)
}
#[inline(always)]
fn dot2(a: u32, b: u32, c: u32, first: u32, a_signed: bool, b_signed: bool) -> u32 {
    let product = |i| half(a, i, a_signed).wrapping_mul(byte(b, first + i, b_signed));
    c.wrapping_add(product(0)).wrapping_add(product(1))
}

fn dot(mut form: Form<'_>, builder: &mut Builder<'_>, opcode: &str) -> Result<Code, Refused> {
    let part = if opcode == "dp2a" {
        form.take_any(&["lo", "hi"])
    } else {
        None
    };
    let a_type = form.ty()?;
    let b_type = form.ty()?;
    let [d, a, b, c] = form.operands()?;
    for ty in [a_type, b_type] {
        if !matches!(ty, Type::U32 | Type::S32) {
            return Err(form.wrong_type(ty));
        }
    }
    if opcode == "dp2a" && part.is_none() {
        return Err(form.refuse("one of .lo and .hi is missing"));
    }
    let signs = (a_type.is_signed(), b_type.is_signed());
    macro_rules! signed {
        ($f:ident $(, $more:expr)?) => {
            match signs {
                (false, false) => alu!(|a: u32, b: u32, c: u32| -> u32 { $f(a, b, c, $($more,)? false, false) }),
                (false, true) => alu!(|a: u32, b: u32, c: u32| -> u32 { $f(a, b, c, $($more,)? false, true) }),
                (true, false) => alu!(|a: u32, b: u32, c: u32| -> u32 { $f(a, b, c, $($more,)? true, false) }),
                (true, true) => alu!(|a: u32, b: u32, c: u32| -> u32 { $f(a, b, c, $($more,)? true, true) }),
            }
        };
    }
    let run = match part {
        None => signed!(dot4),
        Some("lo") => signed!(dot2, 0),
        Some(_) => signed!(dot2, 2),
    };
    // The sum is signed if either source is; its bits are the same.
    code(
        builder,
        run,
        (d, Type::B32),
        &[(a, a_type), (b, b_type), (c, Type::B32)],
    )
}
