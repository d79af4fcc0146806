//! Integer comparison: setp and set. Floating-point comparison is another family's.

use crate::ir::regs::Width;
use crate::ir::{Alu, Class, Code, Ref};
use crate::lower::builder::{Builder, Refused};
use crate::lower::isa::Covered;
use crate::lower::isa::form::Form;
use crate::lower::isa::form::by_type;
use crate::lower::isa::simd::map;
use crate::lower::isa::simd::{alu, alu_loop};
use crate::ptx::ast::{Instruction, Operand, Type};

pub const COVERED: &[Covered] = &[
    Covered {
        opcode: "setp",
        forms: "eq ne: b16 b32 b64 u16 s16 u32 s32 u64 s64; lt le gt ge: u16 s16 u32 s32 u64 s64; \
                lo ls hi hs: u16 u32 u64; .and .or .xor; p|q",
        notes: "",
    },
    Covered {
        opcode: "set",
        forms: "as setp; results u32 s32 f32 f16 bf16",
        notes: "",
    },
];

const COMPARISONS: &[&str] = &["eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"];

/// Lowers an integer comparison; `None` for another opcode and for floating-point sources.
pub fn lower(instruction: &Instruction, builder: &mut Builder<'_>) -> Result<Option<Code>, Refused> {
    let set = match &*instruction.opcode {
        "setp" => false,
        "set" => true,
        _ => return Ok(None),
    };
    if instruction.types().next_back().is_some_and(Type::is_float) {
        return Ok(None);
    }
    let mut form = Form::new(instruction);
    let comparison = form.take_any(COMPARISONS);
    let comparison = comparison.ok_or_else(|| form.refuse("not a comparison of integers"))?;
    let combine = form.take_any(&["and", "or", "xor"]);
    let result = if set { Some(form.ty()?) } else { None };
    let ty = form.ty()?;
    let (d, a, b, c) = if combine.is_some() {
        let [d, a, b, c] = form.operands()?;
        (d, a, b, Some(c))
    } else {
        let [d, a, b] = form.operands()?;
        (d, a, b, None)
    };
    let Some(result) = result else {
        return match d {
            Operand::Pair(p, q) => {
                let outputs = vec![builder.dst(p, Type::Pred)?, builder.dst(q, Type::Pred)?];
                compare(&form, builder, comparison, ty, outputs, a, b, combine.zip(c)).map(Some)
            }
            p => {
                let outputs = vec![builder.dst(p, Type::Pred)?];
                compare(&form, builder, comparison, ty, outputs, a, b, combine.zip(c)).map(Some)
            }
        };
    };
    // A comparison to a predicate, then a choice between the result's true and 0.
    let (truth, kept) = match result {
        Type::U32 | Type::S32 => (0xffff_ffff, result),
        Type::F32 => (0x3f80_0000, result),
        Type::F16 => (0x3c00, Type::B16),
        Type::BF16 => (0x3f80, Type::B16),
        _ => return Err(form.wrong_type(result)),
    };
    let p = builder.temporary(Type::Pred);
    let code = compare(&form, builder, comparison, ty, vec![p], a, b, combine.zip(c))?;
    builder.before.push((code, None));
    let src = vec![builder.constant(truth, Width::W32), p];
    let dst = vec![builder.dst(d, kept)?];
    let run = alu!(|truth: u32, p: bool| -> u32 { if p { truth } else { 0 } });
    Ok(Some(Code::alu(run, Class::Compare, dst, src)))
}

/// The comparison into one predicate, or into a predicate and its complement, each combined with a third.
#[allow(clippy::too_many_arguments)]
fn compare(
    form: &Form<'_>,
    builder: &mut Builder<'_>,
    comparison: &str,
    ty: Type,
    outputs: Vec<Ref>,
    a: &Operand,
    b: &Operand,
    combine: Option<(&str, &Operand)>,
) -> Result<Code, Refused> {
    use Type::*;
    let allowed = match comparison {
        "eq" | "ne" => matches!(ty, B16 | B32 | B64 | U16 | S16 | U32 | S32 | U64 | S64),
        "lo" | "ls" | "hi" | "hs" => matches!(ty, U16 | U32 | U64),
        _ => matches!(ty, U16 | S16 | U32 | S32 | U64 | S64),
    };
    if !allowed {
        return Err(form.refuse(&format!("no comparison .{comparison} for .{ty:?}")));
    }
    let plain = outputs.len() == 1 && combine.is_none();
    let run = match comparison {
        "eq" => equality(ty, plain, false),
        "ne" => equality(ty, plain, true),
        "lt" | "lo" => less(ty, plain, false),
        "ge" | "hs" => less(ty, plain, true),
        // a > b is b < a: the sources change places below.
        "gt" | "hi" => less(ty, plain, false),
        _ => less(ty, plain, true),
    };
    let run = run.ok_or_else(|| form.wrong_type(ty))?;
    let mut src = vec![builder.src(a, ty)?, builder.src(b, ty)?];
    if matches!(comparison, "gt" | "hi" | "le" | "ls") {
        src.swap(0, 1);
    }
    let mut dst = outputs;
    if !plain {
        if dst.len() == 1 {
            dst.push(builder.temporary(Type::Pred));
        }
        // With t the comparison: (t and c and A) xor ((t xor c) and X) is `and` for A = 1, X = 0, `or` for
        // A = X = 1 and `xor` for A = 0, X = 1.
        let (third, and, xor) = match combine {
            None => (builder.constant(FULL, Width::Pred), FULL, 0),
            Some((op, c)) => (
                builder.src(c, Type::Pred)?,
                if op == "xor" { 0 } else { FULL },
                if op == "and" { 0 } else { FULL },
            ),
        };
        src.push(third);
        src.push(builder.constant(and, Width::Pred));
        src.push(builder.constant(xor, Width::Pred));
    }
    Ok(Code::alu(run, Class::Compare, dst, src))
}

const FULL: u128 = u32::MAX as u128;

/// Combines the comparison's bits (`ops[0]`, as [`map`] left them in a predicate) with the third source.
macro_rules! combined {
    ($T:ty, |$a:ident, $b:ident| $test:expr) => {
        alu_loop!(|regs, ops, mask| {
            let (c, and, xor) = (regs.pred(ops[4]), regs.pred(ops[5]), regs.pred(ops[6]));
            // The second output is never a source that is still needed.
            map::<($T, $T), bool>(regs, &[ops[0], ops[2], ops[3]], mask, |($a, $b)| $test);
            let t = regs.pred(ops[0]);
            let with = |t: u32| (t & c & and) ^ ((t ^ c) & xor);
            regs.set_pred(ops[0], with(t), mask);
            regs.set_pred(ops[1], with(!t), mask);
        })
    };
}

/// a == b, or with `not` a != b.
fn equality(ty: Type, plain: bool, not: bool) -> Option<Alu> {
    match (plain, not) {
        (true, false) => by_type!(ty, T in {
            B16 | U16 | S16 = u16, B32 | U32 | S32 = u32, B64 | U64 | S64 = u64
        }, alu!(|a: T, b: T| -> bool { a == b })),
        (true, true) => by_type!(ty, T in {
            B16 | U16 | S16 = u16, B32 | U32 | S32 = u32, B64 | U64 | S64 = u64
        }, alu!(|a: T, b: T| -> bool { a != b })),
        (false, false) => by_type!(ty, T in {
            B16 | U16 | S16 = u16, B32 | U32 | S32 = u32, B64 | U64 | S64 = u64
        }, combined!(T, |a, b| a == b)),
        (false, true) => by_type!(ty, T in {
            B16 | U16 | S16 = u16, B32 | U32 | S32 = u32, B64 | U64 | S64 = u64
        }, combined!(T, |a, b| a != b)),
    }
}

/// a < b, or with `not` a >= b.
fn less(ty: Type, plain: bool, not: bool) -> Option<Alu> {
    match (plain, not) {
        (true, false) => by_type!(ty, T in {
            U16 = u16, S16 = i16, U32 = u32, S32 = i32, U64 = u64, S64 = i64
        }, alu!(|a: T, b: T| -> bool { a < b })),
        (true, true) => by_type!(ty, T in {
            U16 = u16, S16 = i16, U32 = u32, S32 = i32, U64 = u64, S64 = i64
        }, alu!(|a: T, b: T| -> bool { a >= b })),
        (false, false) => by_type!(ty, T in {
            U16 = u16, S16 = i16, U32 = u32, S32 = i32, U64 = u64, S64 = i64
        }, combined!(T, |a, b| a < b)),
        (false, true) => by_type!(ty, T in {
            U16 = u16, S16 = i16, U32 = u32, S32 = i32, U64 = u64, S64 = i64
        }, combined!(T, |a, b| a >= b)),
    }
}
