//! Bitwise logic, shifts and byte permutation.

use crate::ir::{Alu, Class, Code};
use crate::lower::builder::{Builder, Refused};
use crate::lower::isa::Covered;
use crate::lower::isa::form::Form;
use crate::lower::isa::form::by_type;
use crate::lower::isa::simd::map;
use crate::lower::isa::simd::{alu, alu_loop};
use crate::ptx::ast::{Instruction, Operand, Type};

pub const COVERED: &[Covered] = &[
    Covered {
        opcode: "and or xor not",
        forms: "pred b16 b32 b64",
        notes: "",
    },
    Covered {
        opcode: "cnot",
        forms: "b16 b32 b64",
        notes: "",
    },
    Covered {
        opcode: "lop3",
        forms: "b32, every table; .and .or with a predicate result",
        notes: "",
    },
    Covered {
        opcode: "shl",
        forms: "b16 b32 b64",
        notes: "",
    },
    Covered {
        opcode: "shr",
        forms: "b16 b32 b64 u16 s16 u32 s32 u64 s64",
        notes: "",
    },
    Covered {
        opcode: "shf",
        forms: ".l .r, .wrap .clamp: b32",
        notes: "",
    },
    Covered {
        opcode: "prmt",
        forms: "b32; .f4e .b4e .rc8 .ecl .ecr .rc16",
        notes: "",
    },
];

/// Lowers a logic instruction; `None` for another opcode.
pub fn lower(instruction: &Instruction, builder: &mut Builder<'_>) -> Result<Option<Code>, Refused> {
    let form = Form::new(instruction);
    Ok(Some(match &*instruction.opcode {
        "and" | "or" | "xor" => binary(form, builder, &instruction.opcode)?,
        "not" | "cnot" => unary(form, builder, &instruction.opcode)?,
        "lop3" => table(form, builder)?,
        "shl" | "shr" => shift(form, builder, &instruction.opcode)?,
        "shf" => funnel(form, builder)?,
        "prmt" => permute(form, builder)?,
        _ => return Ok(None),
    }))
}

fn binary(mut form: Form<'_>, builder: &mut Builder<'_>, opcode: &str) -> Result<Code, Refused> {
    let ty = form.ty()?;
    let [d, a, b] = form.operands()?;
    let run = match (ty, opcode) {
        (Type::Pred, "and") => Some(
            (|regs, ops, mask| regs.set_pred(ops[0], regs.pred(ops[1]) & regs.pred(ops[2]), mask)) as Alu,
        ),
        (Type::Pred, "or") => Some(
            (|regs, ops, mask| regs.set_pred(ops[0], regs.pred(ops[1]) | regs.pred(ops[2]), mask)) as Alu,
        ),
        (Type::Pred, _) => Some(
            (|regs, ops, mask| regs.set_pred(ops[0], regs.pred(ops[1]) ^ regs.pred(ops[2]), mask)) as Alu,
        ),
        (_, "and") => {
            by_type!(ty, T in { B16 = u16, B32 = u32, B64 = u64 }, alu!(|a: T, b: T| -> T { a & b }))
        }
        (_, "or") => {
            by_type!(ty, T in { B16 = u16, B32 = u32, B64 = u64 }, alu!(|a: T, b: T| -> T { a | b }))
        }
        _ => by_type!(ty, T in { B16 = u16, B32 = u32, B64 = u64 }, alu!(|a: T, b: T| -> T { a ^ b })),
    };
    let run = run.ok_or_else(|| form.wrong_type(ty))?;
    let src = vec![builder.src(a, ty)?, builder.src(b, ty)?];
    let dst = vec![builder.dst(d, ty)?];
    Ok(Code::alu(run, Class::Logic, dst, src))
}

fn unary(mut form: Form<'_>, builder: &mut Builder<'_>, opcode: &str) -> Result<Code, Refused> {
    let ty = form.ty()?;
    let [d, a] = form.operands()?;
    let run = match (ty, opcode) {
        (Type::Pred, "not") => {
            Some((|regs, ops, mask| regs.set_pred(ops[0], !regs.pred(ops[1]), mask)) as Alu)
        }
        (_, "not") => by_type!(ty, T in { B16 = u16, B32 = u32, B64 = u64 }, alu!(|a: T| -> T { !a })),
        _ => by_type!(ty, T in { B16 = u16, B32 = u32, B64 = u64 }, alu!(|a: T| -> T { T::from(a == 0) })),
    };
    let run = run.ok_or_else(|| form.wrong_type(ty))?;
    let src = vec![builder.src(a, ty)?];
    let dst = vec![builder.dst(d, ty)?];
    Ok(Code::alu(run, Class::Logic, dst, src))
}

/// The value that a table gives for three inputs, bit by bit. Bit 4·a + 2·b + c of the table is the result for
/// these bits, so `c` chooses between four pairs, `b` between the results of that, `a` last.
#[inline(always)]
fn look_up(rows: [u32; 8], a: u32, b: u32, c: u32) -> u32 {
    let choose = |bit: u32, zero: u32, one: u32| zero ^ ((zero ^ one) & bit);
    choose(
        a,
        choose(b, choose(c, rows[0], rows[1]), choose(c, rows[2], rows[3])),
        choose(b, choose(c, rows[4], rows[5]), choose(c, rows[6], rows[7])),
    )
}

/// Each row of a table as a mask.
#[inline(always)]
fn rows(table: u32) -> [u32; 8] {
    std::array::from_fn(|row| 0u32.wrapping_sub(table >> row & 1))
}

/// The immediate table of lop3.
fn immediate(form: &Form<'_>, operand: &Operand) -> Result<u32, Refused> {
    match operand {
        Operand::Int(table) => u8::try_from(*table)
            .map(u32::from)
            .map_err(|_| form.refuse("the table is not between 0 and 255")),
        _ => Err(form.refuse("the table is not a constant")),
    }
}

fn table(mut form: Form<'_>, builder: &mut Builder<'_>) -> Result<Code, Refused> {
    let combine = form.take_any(&["and", "or"]);
    let ty = form.ty()?;
    if ty != Type::B32 {
        return Err(form.wrong_type(ty));
    }
    let Some(combine) = combine else {
        let [d, a, b, c, lut] = form.operands()?;
        let table = immediate(&form, lut)?;
        let run = match table {
            // What compilers emit most: a ^ b ^ c, majority, and the two-input functions of a and b.
            0x96 => alu!(|a: u32, b: u32, c: u32| -> u32 { a ^ b ^ c }),
            0xe8 => alu!(|a: u32, b: u32, c: u32| -> u32 { (a & b) | (c & (a | b)) }),
            0x80 => alu!(|a: u32, b: u32, c: u32| -> u32 { a & b & c }),
            0xfe => alu!(|a: u32, b: u32, c: u32| -> u32 { a | b | c }),
            0xca => alu!(|a: u32, b: u32, c: u32| -> u32 { (a & b) | (!a & c) }),
            _ => alu_loop!(|regs, ops, mask| {
                let rows = rows(regs.lane32(ops[4], 0));
                map::<(u32, u32, u32), u32>(regs, ops, mask, |(a, b, c)| look_up(rows, a, b, c));
            }),
        };
        let table = builder.constant(table.into(), crate::ir::regs::Width::W32);
        let src = vec![
            builder.src(a, ty)?,
            builder.src(b, ty)?,
            builder.src(c, ty)?,
            table,
        ];
        let dst = vec![builder.dst(d, ty)?];
        return Ok(Code::alu(run, Class::Logic, dst, src));
    };
    let [results, a, b, c, lut, q] = form.operands()?;
    let Operand::Pair(d, p) = results else {
        return Err(form.refuse("`d|p` expected"));
    };
    let table = immediate(&form, lut)?;
    macro_rules! run {
        (|$nonzero:ident, $q:ident| $p:expr) => {
            alu_loop!(|regs, ops, mask| {
                let [d, p, a, b, c, q, table] = *ops else {
                    unreachable!("two results, four sources and the table")
                };
                // Read before `d` is written: one may have the slot of the other.
                let ($q, rows) = (regs.pred(q), rows(regs.lane32(table, 0)));
                map::<(u32, u32, u32), u32>(regs, &[d, a, b, c], mask, |(a, b, c)| {
                    look_up(rows, a, b, c)
                });
                let mut $nonzero = 0;
                for (lane, value) in regs.get32(d).into_iter().enumerate() {
                    $nonzero |= u32::from(value != 0) << lane;
                }
                regs.set_pred(p, $p, mask);
            })
        };
    }
    let run = if combine == "and" {
        run!(|nonzero, q| nonzero & q)
    } else {
        run!(|nonzero, q| nonzero | q)
    };
    let table = builder.constant(table.into(), crate::ir::regs::Width::W32);
    let src = vec![
        builder.src(a, ty)?,
        builder.src(b, ty)?,
        builder.src(c, ty)?,
        builder.src(q, Type::Pred)?,
        table,
    ];
    let dst = vec![builder.dst(d, ty)?, builder.dst(p, Type::Pred)?];
    Ok(Code::alu(run, Class::Logic, dst, src))
}

fn shift(mut form: Form<'_>, builder: &mut Builder<'_>, opcode: &str) -> Result<Code, Refused> {
    let ty = form.ty()?;
    let [d, a, count] = form.operands()?;
    // Counts beyond the width are the width: all bits shifted out, or copies of the sign.
    let run = if opcode == "shl" {
        by_type!(ty, T in { B16 = u16, B32 = u32, B64 = u64 }, alu!(|a: T, count: u32| -> T {
            if count < T::BITS { a << (count % T::BITS) } else { 0 }
        }))
    } else if ty.is_signed() {
        by_type!(ty, T in { S16 = i16, S32 = i32, S64 = i64 }, alu!(|a: T, count: u32| -> T {
            a >> count.min(T::BITS - 1)
        }))
    } else {
        by_type!(ty, T in { B16 | U16 = u16, B32 | U32 = u32, B64 | U64 = u64 }, alu!(|a: T, count: u32| -> T {
            if count < T::BITS { a >> (count % T::BITS) } else { 0 }
        }))
    };
    let run = run.ok_or_else(|| form.wrong_type(ty))?;
    let src = vec![builder.src(a, ty)?, builder.src(count, Type::U32)?];
    let dst = vec![builder.dst(d, ty)?];
    Ok(Code::alu(run, Class::Logic, dst, src))
}

fn funnel(mut form: Form<'_>, builder: &mut Builder<'_>) -> Result<Code, Refused> {
    let side = form.take_any(&["l", "r"]);
    let mode = form.take_any(&["wrap", "clamp"]);
    let ty = form.ty()?;
    let [d, a, b, c] = form.operands()?;
    if ty != Type::B32 {
        return Err(form.wrong_type(ty));
    }
    // `b` stands above `a`.
    let run = match (side, mode) {
        (Some("l"), Some("wrap")) => alu!(|a: u32, b: u32, c: u32| -> u32 {
            ((u64::from(b) << 32 | u64::from(a)) << (c & 31) >> 32) as u32
        }),
        (Some("l"), Some(_)) => alu!(|a: u32, b: u32, c: u32| -> u32 {
            ((u64::from(b) << 32 | u64::from(a)) << c.min(32) >> 32) as u32
        }),
        (Some(_), Some("wrap")) => {
            alu!(|a: u32, b: u32, c: u32| -> u32 { ((u64::from(b) << 32 | u64::from(a)) >> (c & 31)) as u32 })
        }
        (Some(_), Some(_)) => {
            alu!(|a: u32, b: u32, c: u32| -> u32 {
                ((u64::from(b) << 32 | u64::from(a)) >> c.min(32)) as u32
            })
        }
        _ => return Err(form.refuse("one of .l and .r and one of .wrap and .clamp must be given")),
    };
    let src = vec![
        builder.src(a, ty)?,
        builder.src(b, ty)?,
        builder.src(c, Type::U32)?,
    ];
    let dst = vec![builder.dst(d, ty)?];
    Ok(Code::alu(run, Class::Logic, dst, src))
}

/// Selector nibbles of prmt's special modes, for the control values 0 to 3.
const fn selectors(mode: &str) -> Option<[u32; 4]> {
    Some(match mode.as_bytes() {
        // Four bytes forward, or backward, from the control value on.
        b"f4e" => [0x3210, 0x4321, 0x5432, 0x6543],
        b"b4e" => [0x5670, 0x6701, 0x7012, 0x0123],
        // One byte everywhere.
        b"rc8" => [0x0000, 0x1111, 0x2222, 0x3333],
        // Bytes beyond an edge repeat the one at the edge.
        b"ecl" => [0x3210, 0x3211, 0x3222, 0x3333],
        b"ecr" => [0x0000, 0x1110, 0x2210, 0x3210],
        // One half twice.
        b"rc16" => [0x1010, 0x3232, 0x1010, 0x3232],
        _ => return None,
    })
}

#[inline(always)]
fn pick(a: u32, b: u32, selector: u32) -> u32 {
    // Written out byte by byte in 32 bits: that vectorises, a loop over 64-bit shifts does not as well.
    let byte = |i: u32| {
        let nibble = selector >> (4 * i);
        let source = if nibble & 4 != 0 { b } else { a };
        let byte = source >> (8 * (nibble & 3)) & 0xff;
        // The nibble's top bit asks for the byte's sign instead.
        let sign = if byte & 0x80 != 0 { 0xff } else { 0 };
        (if nibble & 8 != 0 { sign } else { byte }) << (8 * i)
    };
    byte(0) | byte(1) | byte(2) | byte(3)
}

fn permute(mut form: Form<'_>, builder: &mut Builder<'_>) -> Result<Code, Refused> {
    let mode = form.take_any(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]);
    let ty = form.ty()?;
    let [d, a, b, c] = form.operands()?;
    if ty != Type::B32 {
        return Err(form.wrong_type(ty));
    }
    let mut src = vec![builder.src(a, ty)?, builder.src(b, ty)?, builder.src(c, ty)?];
    let run = match mode.and_then(selectors) {
        None => alu!(|a: u32, b: u32, c: u32| -> u32 { pick(a, b, c) }),
        Some(selectors) => {
            // The four selectors, 16 bits each, in one constant.
            let packed = selectors
                .iter()
                .rev()
                .fold(0, |all, s| all << 16 | u128::from(*s));
            src.push(builder.constant(packed, crate::ir::regs::Width::W64));
            alu!(|a: u32, b: u32, c: u32, selectors: u64| -> u32 {
                pick(a, b, (selectors >> (16 * (c & 3))) as u32 & 0xffff)
            })
        }
    };
    let dst = vec![builder.dst(d, ty)?];
    Ok(Code::alu(run, Class::Logic, dst, src))
}
