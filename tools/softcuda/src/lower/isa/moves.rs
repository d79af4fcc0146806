//! Moves, packing and unpacking, selection, and conversion of addresses between state spaces.

use crate::ir::regs::LANES;
use crate::ir::windows::{self, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use crate::ir::{Alu, Class, Code, Op, Ref, Special};
use crate::lower::builder::{Builder, Refused};
use crate::lower::isa::Covered;
use crate::lower::isa::form::Form;
use crate::lower::isa::form::by_type;
use crate::lower::isa::simd::Element;
use crate::lower::isa::simd::{alu, alu_loop};
use crate::ptx::ast::{Instruction, Operand, Type};

pub const COVERED: &[Covered] = &[
    Covered {
        opcode: "mov",
        forms: "pred b16 u16 s16 b32 u32 s32 f32 b64 u64 s64 f64 b128; special registers; addresses of \
                variables and functions; packing and unpacking of b16 b32 b64 b128, with `_`",
        notes: "",
    },
    Covered {
        opcode: "selp",
        forms: "b16 u16 s16 b32 u32 s32 f32 b64 u64 s64 f64",
        notes: "",
    },
    Covered {
        opcode: "slct",
        forms: "b16 u16 s16 b32 u32 s32 f32 b64 u64 s64 f64, selector s32 or f32; .ftz",
        notes: "",
    },
    Covered {
        opcode: "cvta cvta.to",
        forms: ".global .const .shared .shared::cta .shared::cluster .local .param .param::entry: u64",
        notes: "an address of another space leads nowhere: an access through it is reported",
    },
    Covered {
        opcode: "isspacep",
        forms: ".global .shared .shared::cta .shared::cluster .local .param .param::entry",
        notes: "not .const: constants lie in global memory",
    },
    Covered {
        opcode: "mapa getctarank",
        forms: ".shared::cluster and generic: u32 u64",
        notes: "",
    },
];

/// Lowers a move; `None` for another opcode.
pub fn lower(instruction: &Instruction, builder: &mut Builder<'_>) -> Result<Option<Code>, Refused> {
    let form = Form::new(instruction);
    Ok(Some(match &*instruction.opcode {
        "mov" => mov(form, builder)?,
        "selp" => select(form, builder)?,
        "slct" => select_by_sign(form, builder)?,
        "cvta" => convert_address(form, builder)?,
        "isspacep" => is_space(form, builder)?,
        "mapa" => map_address(form, builder)?,
        "getctarank" => rank_of_address(form, builder)?,
        _ => return Ok(None),
    }))
}

fn mov(mut form: Form<'_>, builder: &mut Builder<'_>) -> Result<Code, Refused> {
    let ty = form.ty()?;
    let [d, a] = form.operands()?;
    match (d, a) {
        (Operand::Vector(_), Operand::Vector(_)) => Err(form.refuse("only one operand can be a vector")),
        (Operand::Vector(parts), _) => unpack(&form, builder, ty, parts, a),
        (_, Operand::Vector(parts)) => pack(&form, builder, ty, d, parts),
        (_, Operand::Special(name)) if &**name != "WARP_SZ" => read_special(&form, builder, ty, d, name),
        _ => {
            // A sub-word value is kept zero-extended, so the whole lane moves.
            let run = match ty {
                Type::Pred => Some((|regs, ops, mask| regs.set_pred(ops[0], regs.pred(ops[1]), mask)) as Alu),
                _ => by_type!(ty, T in {
                    B16 | U16 | S16 | B32 | U32 | S32 | F32 = u32, B64 | U64 | S64 | F64 = u64, B128 = u128
                }, alu!(|a: T| -> T { a })),
            };
            let run = run.ok_or_else(|| form.wrong_type(ty))?;
            let src = vec![builder.src(a, ty)?];
            let dst = vec![builder.dst(d, ty)?];
            Ok(Code::alu(run, Class::Move, dst, src))
        }
    }
}

/// The type that a special register has of itself; [`Op::Special`] writes that many bits.
pub fn special_type(special: Special) -> Type {
    match special {
        Special::Clock64 | Special::GlobalTimer | Special::GridId => Type::U64,
        Special::IsExplicitCluster => Type::Pred,
        _ => Type::U32,
    }
}

fn read_special(
    form: &Form<'_>,
    builder: &mut Builder<'_>,
    ty: Type,
    d: &Operand,
    name: &str,
) -> Result<Code, Refused> {
    let special = crate::ir::Special::named(name)
        .ok_or_else(|| form.refuse(&format!("special register %{name} is not supported")))?;
    let own = special_type(special);
    let dst = vec![builder.dst(d, ty)?];
    let fits = match own {
        Type::Pred => ty == Type::Pred,
        _ => {
            ty.size() == own.size()
                && matches!(
                    ty,
                    Type::B32 | Type::U32 | Type::S32 | Type::B64 | Type::U64 | Type::S64
                )
        }
    };
    if fits {
        return Ok(Code::new(Op::Special(special), Class::Move, dst, vec![]));
    }
    // Old code reads 32-bit registers as 16 bits and the grid's number as 32.
    let run = match (own, ty) {
        (Type::U32, Type::B16 | Type::U16 | Type::S16) => alu!(|a: u32| -> u16 { a as u16 }),
        (Type::U64, Type::B32 | Type::U32 | Type::S32) if special == Special::GridId => {
            alu!(|a: u64| -> u32 { a as u32 })
        }
        _ => return Err(form.refuse(&format!("%{name} is not .{ty:?}"))),
    };
    let whole = builder.temporary(own);
    let read = Code::new(Op::Special(special), Class::Move, vec![whole], vec![]);
    builder.before.push((read, None));
    Ok(Code::alu(run, Class::Move, dst, vec![whole]))
}

/// The type of one of `parts` elements that a value of type `ty` is made of.
fn element(form: &Form<'_>, ty: Type, parts: usize) -> Result<Type, Refused> {
    Ok(match (ty, parts) {
        (Type::B16, 2) => Type::B8,
        (Type::B32, 2) => Type::B16,
        (Type::B32, 4) => Type::B8,
        (Type::B64, 2) => Type::B32,
        (Type::B64, 4) => Type::B16,
        (Type::B128, 2) => Type::B64,
        (Type::B128, 4) => Type::B32,
        _ => return Err(form.refuse(&format!(".{ty:?} has no {parts} elements"))),
    })
}

fn pack(
    form: &Form<'_>,
    builder: &mut Builder<'_>,
    ty: Type,
    d: &Operand,
    parts: &[Operand],
) -> Result<Code, Refused> {
    let of = element(form, ty, parts.len())?;
    let run = match (of, parts.len()) {
        (Type::B8, 2) => alu!(|a: u8, b: u8| -> u16 { u16::from(a) | u16::from(b) << 8 }),
        (Type::B8, _) => alu!(|a: u8, b: u8, c: u8, d: u8| -> u32 { u32::from_le_bytes([a, b, c, d]) }),
        (Type::B16, 2) => alu!(|a: u16, b: u16| -> u32 { u32::from(a) | u32::from(b) << 16 }),
        (Type::B16, _) => alu!(|a: u16, b: u16, c: u16, d: u16| -> u64 {
            u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(d) << 48
        }),
        (Type::B32, 2) => alu!(|a: u32, b: u32| -> u64 { u64::from(a) | u64::from(b) << 32 }),
        (Type::B32, _) => alu!(|a: u32, b: u32, c: u32, d: u32| -> u128 {
            u128::from(a) | u128::from(b) << 32 | u128::from(c) << 64 | u128::from(d) << 96
        }),
        _ => alu!(|a: u64, b: u64| -> u128 { u128::from(a) | u128::from(b) << 64 }),
    };
    let mut src = Vec::with_capacity(parts.len());
    for part in parts {
        src.push(builder.src(part, of)?);
    }
    let dst = vec![builder.dst(d, ty)?];
    Ok(Code::alu(run, Class::Move, dst, src))
}

/// An unpacking [`Alu`]: `$count` results of type `$part` from a value of type `$whole`.
macro_rules! unpacked {
    ($whole:ty => $part:ty, $count:literal) => {
        alu_loop!(|regs, ops, mask| {
            // Read once: a result may take the slot of the source. One loop for each result, which vectorises
            // where a loop with several results does not.
            let whole = <$whole as Element>::load(regs, ops[$count]);
            for part in 0..$count {
                let mut lanes = <$part as Element>::empty();
                for lane in 0..LANES {
                    let value = <$whole as Element>::get(&whole, lane);
                    <$part as Element>::put(&mut lanes, lane, (value >> (part * <$part>::BITS)) as $part);
                }
                <$part as Element>::store(regs, ops[part as usize], &lanes, mask);
            }
        })
    };
}

fn unpack(
    form: &Form<'_>,
    builder: &mut Builder<'_>,
    ty: Type,
    parts: &[Operand],
    a: &Operand,
) -> Result<Code, Refused> {
    let of = element(form, ty, parts.len())?;
    let run = match (of, parts.len()) {
        (Type::B8, 2) => unpacked!(u16 => u8, 2),
        (Type::B8, _) => unpacked!(u32 => u8, 4),
        (Type::B16, 2) => unpacked!(u32 => u16, 2),
        (Type::B16, _) => unpacked!(u64 => u16, 4),
        (Type::B32, 2) => unpacked!(u64 => u32, 2),
        (Type::B32, _) => unpacked!(u128 => u32, 4),
        _ => unpacked!(u128 => u64, 2),
    };
    let src = vec![builder.src(a, ty)?];
    let mut dst = Vec::with_capacity(parts.len());
    for part in parts {
        dst.push(builder.dst(part, of)?);
    }
    Ok(Code::alu(run, Class::Move, dst, src))
}

fn select(mut form: Form<'_>, builder: &mut Builder<'_>) -> Result<Code, Refused> {
    let ty = form.ty()?;
    let [d, a, b, p] = form.operands()?;
    let run = by_type!(ty, T in {
        B16 | U16 | S16 | B32 | U32 | S32 | F32 = u32, B64 | U64 | S64 | F64 = u64
    }, alu!(|a: T, b: T, p: bool| -> T { if p { a } else { b } }));
    let run = run.ok_or_else(|| form.wrong_type(ty))?;
    let src = vec![
        builder.src(a, ty)?,
        builder.src(b, ty)?,
        builder.src(p, Type::Pred)?,
    ];
    let dst = vec![builder.dst(d, ty)?];
    Ok(Code::alu(run, Class::Move, dst, src))
}

fn select_by_sign(mut form: Form<'_>, builder: &mut Builder<'_>) -> Result<Code, Refused> {
    let flush = form.take("ftz");
    let ty = form.ty()?;
    let selector = form.ty()?;
    let [d, a, b, c] = form.operands()?;
    let run = match (selector, flush) {
        (Type::S32, false) => by_type!(ty, T in {
            B16 | U16 | S16 | B32 | U32 | S32 | F32 = u32, B64 | U64 | S64 | F64 = u64
        }, alu!(|a: T, b: T, c: i32| -> T { if c >= 0 { a } else { b } })),
        // -0 is not below 0; NaN chooses b.
        (Type::F32, false) => by_type!(ty, T in {
            B16 | U16 | S16 | B32 | U32 | S32 | F32 = u32, B64 | U64 | S64 | F64 = u64
        }, alu!(|a: T, b: T, c: f32| -> T { if c >= 0.0 { a } else { b } })),
        // A subnormal selector counts as zero of its sign, so only normal numbers are below.
        (Type::F32, true) => by_type!(ty, T in {
            B16 | U16 | S16 | B32 | U32 | S32 | F32 = u32, B64 | U64 | S64 | F64 = u64
        }, alu!(|a: T, b: T, c: f32| -> T { if c > -f32::MIN_POSITIVE { a } else { b } })),
        _ => return Err(form.wrong_type(selector)),
    };
    let run = run.ok_or_else(|| form.wrong_type(ty))?;
    let src = vec![
        builder.src(a, ty)?,
        builder.src(b, ty)?,
        builder.src(c, selector)?,
    ];
    let dst = vec![builder.dst(d, ty)?];
    Ok(Code::alu(run, Class::Move, dst, src))
}

const SPACES: &[&str] = &[
    "global",
    "const",
    "local",
    "shared",
    "shared::cta",
    "shared::cluster",
    "param",
    "param::entry",
];

/// The block's rank in its cluster.
fn own_rank(builder: &mut Builder<'_>) -> Ref {
    let rank = builder.temporary(Type::U32);
    let read = Code::new(
        Op::Special(Special::ClusterCtaRank),
        Class::Move,
        vec![rank],
        vec![],
    );
    builder.before.push((read, None));
    rank
}

fn convert_address(mut form: Form<'_>, builder: &mut Builder<'_>) -> Result<Code, Refused> {
    let to = form.take("to");
    let space = form.take_any(SPACES);
    let ty = form.ty()?;
    let [d, a] = form.operands()?;
    let space = space.ok_or_else(|| form.refuse("a state space is missing"))?;
    if ty != Type::U64 {
        return Err(form.refuse("generic addresses are 64 bits wide"));
    }
    let mut src = vec![builder.src(a, ty)?];
    let run = match (space, to) {
        ("global" | "const", _) => alu!(|a: u64| -> u64 { a }),
        ("local", false) => alu!(|a: u64| -> u64 { a.wrapping_add(LOCAL_WINDOW) }),
        ("local", true) => alu!(|a: u64| -> u64 { windows::generic_to_window(a, LOCAL_WINDOW) }),
        ("param" | "param::entry", false) => alu!(|a: u64| -> u64 { a.wrapping_add(PARAM_WINDOW) }),
        ("param" | "param::entry", true) => {
            alu!(|a: u64| -> u64 { windows::generic_to_window(a, PARAM_WINDOW) })
        }
        (_, to) => {
            src.push(own_rank(builder));
            if to {
                alu!(|a: u64, rank: u32| -> u64 { windows::generic_to_shared(a, rank) })
            } else {
                alu!(|a: u64, rank: u32| -> u64 { windows::shared_to_generic(a, rank) })
            }
        }
    };
    let dst = vec![builder.dst(d, ty)?];
    Ok(Code::alu(run, Class::Move, dst, src))
}

/// `mapa`: the address in another block's shared memory that corresponds to one in a block's own.
fn map_address(mut form: Form<'_>, builder: &mut Builder<'_>) -> Result<Code, Refused> {
    let shared = form.take("shared::cluster");
    let ty = form.ty()?;
    let [d, a, rank] = form.operands()?;
    let run = match (shared, ty) {
        (true, Type::U32) => {
            alu!(|a: u32, rank: u32| -> u32 { windows::shared_of_rank(a.into(), rank) as u32 })
        }
        (true, Type::U64) => alu!(|a: u64, rank: u32| -> u64 { windows::shared_of_rank(a, rank) }),
        (false, Type::U64) => alu!(|a: u64, rank: u32| -> u64 {
            windows::shared_to_generic(windows::shared_of_rank(a, rank), rank)
        }),
        _ => return Err(form.wrong_type(ty)),
    };
    let src = vec![builder.src(a, ty)?, builder.src(rank, Type::U32)?];
    let dst = vec![builder.dst(d, ty)?];
    Ok(Code::alu(run, Class::Move, dst, src))
}

/// `getctarank`: the rank of the block in whose shared memory an address lies.
fn rank_of_address(mut form: Form<'_>, builder: &mut Builder<'_>) -> Result<Code, Refused> {
    let shared = form.take("shared::cluster");
    let ty = form.ty()?;
    let [d, a] = form.operands()?;
    let mut src = vec![builder.src(a, ty)?];
    let run = match (shared, ty) {
        (true, Type::U32) => {
            src.push(own_rank(builder));
            alu!(|a: u32, rank: u32| -> u32 { windows::shared_place(a.into(), rank).0 as u32 })
        }
        (true, Type::U64) => {
            src.push(own_rank(builder));
            alu!(|a: u64, rank: u32| -> u32 { windows::shared_place(a, rank).0 as u32 })
        }
        (false, Type::U64) => alu!(|a: u64| -> u32 {
            if windows::in_window(a, SHARED_WINDOW) {
                windows::generic_place(a).0 as u32
            } else {
                u32::MAX
            }
        }),
        _ => return Err(form.wrong_type(ty)),
    };
    let dst = vec![builder.dst(d, Type::U32)?];
    Ok(Code::alu(run, Class::Move, dst, src))
}

fn is_space(mut form: Form<'_>, builder: &mut Builder<'_>) -> Result<Code, Refused> {
    let space = form.take_any(SPACES);
    let [p, a] = form.operands()?;
    let space = space.ok_or_else(|| form.refuse("a state space is missing"))?;
    let mut src = vec![builder.src(a, Type::U64)?];
    let run = match space {
        "global" => alu!(|a: u64| -> bool { windows::is_global(a) }),
        "local" => alu!(|a: u64| -> bool { windows::in_window(a, LOCAL_WINDOW) }),
        "param" | "param::entry" => alu!(|a: u64| -> bool { windows::in_window(a, PARAM_WINDOW) }),
        "shared::cluster" => alu!(|a: u64| -> bool { windows::in_window(a, SHARED_WINDOW) }),
        "shared" | "shared::cta" => {
            src.push(own_rank(builder));
            alu!(|a: u64, rank: u32| -> bool {
                windows::in_window(a, SHARED_WINDOW) && windows::generic_place(a).0 == u64::from(rank)
            })
        }
        _ => return Err(form.refuse("constants lie in global memory, so nothing tells them apart")),
    };
    let dst = vec![builder.dst(p, Type::Pred)?];
    Ok(Code::alu(run, Class::Compare, dst, src))
}
