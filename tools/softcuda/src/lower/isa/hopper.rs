//! Bulk copies (`cp.async.bulk`), `wgmma` and `setmaxnreg`.

use super::Covered;
use super::asynchronous::at;
use super::memory::elements;
use super::mma;
use super::sync::only;
use crate::ir::{Bulk, Class, Code, MatrixWork, Multiply, Op, WarpGroup};
use crate::lower::builder::{Builder, Refused};
use crate::ptx::ast::{Address, Instruction, Operand, Type};

pub const COVERED: &[Covered] = &[
    Covered {
        opcode: "cp.async.bulk",
        forms: "global to shared with mbarrier, shared to global with bulk_group; .tensor.1d .2d .3d, tile mode; \
                .multicast::cluster; commit_group, wait_group(.read); L2 hints; prefetch has no effect",
        notes: "data arrives when somebody waits for it, as late as allowed; not: im2col, 4d, 5d, shared to shared, cp.reduce",
    },
    Covered {
        opcode: "setmaxnreg",
        forms: ".inc .dec",
        notes: "the sum over a block's warps is checked at its end; nobody waits",
    },
    Covered {
        opcode: "st.async",
        forms: ".weak, .shared::cluster, .mbarrier::complete_tx::bytes; 4 and 8 bytes, v2, v4",
        notes: "",
    },
    Covered {
        opcode: "wgmma",
        forms: "mma_async m64nNk16 f32 of bf16, f16; m64nNk32 f32 of e4m3, e5m2, mixed; every N; A in shared memory or \
                registers; both majors; every swizzle; fence, commit_group, wait_group",
        notes: "rounds as mma.sync of the same types, but sums of fp8 keep 13 bits of fraction; not: negated operands, base offsets, tf32, integers, b1, f16 results, \
                sparse matrices",
    },
];

pub fn lower(i: &Instruction, b: &mut Builder<'_>) -> Result<Option<Code>, Refused> {
    Ok(Some(match &*i.opcode {
        "cp" if i.has("async") && i.has("bulk") && !i.has("reduce") => bulk(i, b)?,
        "st" if i.has("async") => put(i, b)?,
        "wgmma" => warpgroup(i, b)?,
        "setmaxnreg" => registers(i)?,
        _ => return Ok(None),
    }))
}

fn operand(i: &Instruction, index: usize) -> Result<&Operand, Refused> {
    i.operands
        .get(index)
        .ok_or_else(|| Refused::unsupported(i, "too few operands"))
}

fn number(i: &Instruction, index: usize) -> Result<u32, Refused> {
    match operand(i, index)? {
        Operand::Int(value) => u32::try_from(*value).ok(),
        _ => None,
    }
    .ok_or_else(|| Refused::unsupported(i, "this operand is a constant that is not negative"))
}

/// A number of operands, without the cache policy, which comes last and changes nothing.
fn operands(i: &Instruction, wanted: usize) -> Result<(), Refused> {
    match i.operands.len() == wanted + usize::from(i.has("L2::cache_hint")) {
        true => Ok(()),
        false => Err(Refused::unsupported(i, &format!("{wanted} operands expected"))),
    }
}

fn bulk(i: &Instruction, b: &mut Builder<'_>) -> Result<Code, Refused> {
    let code = |what, src| Ok(Code::new(Op::Bulk(Box::new(what)), Class::AsyncCopy, vec![], src));
    if i.has("prefetch") {
        return Ok(Code::new(Op::Nop, Class::Other, vec![], vec![]));
    }
    if i.has("commit_group") {
        only(i, &["async", "bulk", "commit_group"])?;
        return code(Bulk::Commit, vec![]);
    }
    if i.has("wait_group") {
        only(i, &["async", "bulk", "wait_group", "read"])?;
        let wait = Bulk::Wait {
            groups: number(i, 0)?,
            read: i.has("read"),
        };
        return code(wait, vec![]);
    }
    // The destination's space comes first.
    let spaces: Vec<&str> = i
        .modifiers
        .iter()
        .map(|m| &**m)
        .filter(|m| matches!(*m, "global" | "shared::cta" | "shared::cluster"))
        .collect();
    let load = match spaces[..] {
        ["shared::cta" | "shared::cluster", "global"] => true,
        ["global", "shared::cta"] => false,
        _ => {
            return Err(Refused::unsupported(
                i,
                "copies between global and shared memory are supported",
            ));
        }
    };
    let tensor = i.has("tensor");
    only(
        i,
        &[
            "async",
            "bulk",
            "tensor",
            "1d",
            "2d",
            "3d",
            "tile",
            "global",
            "shared::cta",
            "shared::cluster",
            if load {
                "mbarrier::complete_tx::bytes"
            } else {
                "bulk_group"
            },
            if load {
                "multicast::cluster"
            } else {
                "L2::cache_hint"
            },
            "L2::cache_hint",
        ],
    )?;
    // [destination], [source], then the size or the mbarrier, then the blocks of a multicast.
    let (own, other) = if load { (0, 1) } else { (1, 0) };
    let multicast = i.has("multicast::cluster");
    let extra = usize::from(multicast);
    if !tensor {
        operands(i, if load { 4 + extra } else { 3 })?;
        let (shared, shared_place) = at(i, b, own, false)?;
        let (global, global_place) = at(i, b, other, false)?;
        let size = b.src(operand(i, 2)?, Type::U32)?;
        if !load {
            let store = Bulk::Store {
                from: shared_place,
                to: global_place,
            };
            return code(store, vec![shared, global, size]);
        }
        let (base, barrier) = at(i, b, 3, false)?;
        let load = Bulk::Load {
            to: shared_place,
            from: global_place,
            barrier,
            multicast,
        };
        let mut src = vec![shared, global, base, size];
        if multicast {
            src.push(b.src(operand(i, 4)?, Type::B16)?);
        }
        return code(load, src);
    }
    operands(i, if load { 3 + extra } else { 2 })?;
    let rank = match (i.has("1d"), i.has("2d"), i.has("3d")) {
        (true, false, false) => 1,
        (false, true, false) => 2,
        (false, false, true) => 3,
        _ => return Err(Refused::unsupported(i, "a number of dimensions from 1d to 3d")),
    };
    let (shared, shared_place) = at(i, b, own, false)?;
    let (base, map) = at(i, b, other, true)?;
    let mut src = vec![shared, base];
    let mut what = Bulk::TensorStore {
        from: shared_place,
        map,
        rank,
    };
    if load {
        let (base, barrier) = at(i, b, 2, false)?;
        src.push(base);
        what = Bulk::TensorLoad {
            to: shared_place,
            map,
            barrier,
            rank,
            multicast,
        };
    }
    let Operand::Address(Address { more, .. }) = operand(i, other)? else {
        return Err(Refused::unsupported(i, "the tensor map is an address"));
    };
    let coordinates = more.first().map_or(&[][..], elements);
    if coordinates.len() != usize::from(rank) || more.len() != 1 {
        return Err(Refused::unsupported(i, &format!("{rank} coordinates expected")));
    }
    for coordinate in coordinates {
        src.push(b.src(coordinate, Type::S32)?);
    }
    if multicast {
        src.push(b.src(operand(i, 3)?, Type::B16)?);
    }
    code(what, src)
}

/// `st.async`: a store that completes at an mbarrier of the block that it goes to.
fn put(i: &Instruction, b: &mut Builder<'_>) -> Result<Code, Refused> {
    const WORDS: &[&str] = &[
        "async",
        "weak",
        "shared::cluster",
        "mbarrier::complete_tx::bytes",
        "v2",
        "v4",
    ];
    let Some((ty, words)) = i.modifiers.split_last() else {
        return Err(Refused::unsupported(i, "a type is missing"));
    };
    let ty = Type::parse(ty).filter(|ty| matches!(ty.size(), 4 | 8) && !i.has("v4") || ty.size() == 4);
    let (Some(ty), true) = (ty, words.iter().all(|word| WORDS.contains(&&**word))) else {
        return Err(Refused::unsupported(i, "this form is not supported"));
    };
    let values = elements(operand(i, 1)?);
    let wanted = if i.has("v4") {
        4
    } else {
        1 + usize::from(i.has("v2"))
    };
    if values.len() != wanted || !i.has("shared::cluster") || !i.has("mbarrier::complete_tx::bytes") {
        return Err(Refused::unsupported(i, "this form is not supported"));
    }
    let (to_base, to) = at(i, b, 0, false)?;
    let (barrier_base, barrier) = at(i, b, 2, false)?;
    let mut src = vec![to_base, barrier_base];
    for value in values {
        src.push(b.src(value, ty)?);
    }
    let what = Bulk::Put {
        to,
        barrier,
        elements: wanted as u8,
        bytes: ty.size() as u8,
    };
    Ok(Code::new(Op::Bulk(Box::new(what)), Class::AsyncCopy, vec![], src))
}

fn registers(i: &Instruction) -> Result<Code, Refused> {
    only(i, &["inc", "dec", "sync", "aligned", "u32"])?;
    let count = number(i, 0)?;
    if !count.is_multiple_of(8) || !(24..=256).contains(&count) {
        return Err(Refused::unsupported(
            i,
            "the number of registers is a multiple of 8 from 24 to 256",
        ));
    }
    let increase = i.has("inc");
    Ok(group(WarpGroup::Registers { increase, count }, Class::Other))
}

fn group(what: WarpGroup, class: Class) -> Code {
    Code::new(Op::WarpGroup(Box::new(what)), class, vec![], vec![]).aligned()
}

fn warpgroup(i: &Instruction, b: &mut Builder<'_>) -> Result<Code, Refused> {
    if i.has("mma_async") {
        return multiply(i, b);
    }
    only(i, &["fence", "commit_group", "wait_group", "sync", "aligned"])?;
    let what = match (i.has("fence"), i.has("commit_group"), i.has("wait_group")) {
        (true, false, false) => WarpGroup::Fence,
        (false, true, false) => WarpGroup::Commit,
        (false, false, true) => WarpGroup::Wait(number(i, 0)?),
        _ => return Err(Refused::unsupported(i, "not an instruction of wgmma")),
    };
    Ok(group(what, Class::Barrier))
}

fn multiply(i: &Instruction, b: &mut Builder<'_>) -> Result<Code, Refused> {
    let refuse = |what: &str| Err(Refused::unsupported(i, what));
    let names: Vec<&str> = i.modifiers.iter().map(|m| &**m).collect();
    let ["mma_async", "sync", "aligned", shape, "f32", left, right] = names[..] else {
        return refuse("only dense products with f32 results are supported");
    };
    let (Some(left), Some(right)) = (Type::parse(left), Type::parse(right)) else {
        return refuse("these types are not supported");
    };
    let Some(tile) = mma::tile(left, right) else {
        return refuse("these types are not supported");
    };
    let k = 32 / left.size();
    let n = shape
        .strip_prefix("m64n")
        .and_then(|rest| rest.strip_suffix(&format!("k{k}")))
        .and_then(|n| n.parse::<u16>().ok())
        .filter(|n| n.is_multiple_of(8) && (8..=256).contains(n));
    let Some(n) = n else {
        return refuse(&format!(
            "the shape is m64nNk{k} with N a multiple of 8 up to 256"
        ));
    };
    let registers = usize::from(n) / 2;
    let d = elements(operand(i, 0)?);
    if d.len() != registers {
        return refuse(&format!("D has {} registers, not {registers}", d.len()));
    }
    let a_in_registers = matches!(operand(i, 1)?, Operand::Vector(_));
    let dst = d
        .iter()
        .map(|register| b.dst(register, Type::F32))
        .collect::<Result<Vec<_>, _>>()?;
    let mut src = dst.clone();
    if a_in_registers {
        let a = elements(operand(i, 1)?);
        if a.len() != 4 {
            return refuse("A has four registers");
        }
        for register in a {
            src.push(b.src(register, Type::B32)?);
        }
    } else {
        src.push(b.src(operand(i, 1)?, Type::B64)?);
    }
    src.push(b.src(operand(i, 2)?, Type::B64)?);
    // Without further operands D is added to.
    src.push(match i.operands.get(3) {
        Some(scale) => b.src(scale, Type::Pred)?,
        None => b.src(&Operand::Int(1), Type::Pred)?,
    });
    let further = i.operands.len().saturating_sub(4);
    let majors = if left.size() == 2 {
        2 - usize::from(a_in_registers)
    } else {
        0
    };
    if further != 0 && further != 2 + majors {
        return refuse(
            "the constants behind the operands are the two signs and, for 16-bit types, the majors",
        );
    }
    if further >= 2 && (operand(i, 4)? != &Operand::Int(1) || operand(i, 5)? != &Operand::Int(1)) {
        return refuse("negated operands are not supported");
    }
    let mut transposed = [false; 2];
    if further > 2 {
        for (major, index) in transposed[2 - majors..].iter_mut().zip(6..) {
            *major = match number(i, index)? {
                0 => false,
                1 => true,
                _ => return refuse("a major is 0 or 1"),
            };
        }
    }
    let what = WarpGroup::Multiply(Multiply {
        tile,
        n,
        a_in_registers,
        transposed,
    });
    let mut code = Code::new(Op::WarpGroup(Box::new(what)), Class::Matrix, dst, src).aligned();
    // Of one warp: a quarter of the rows.
    code.matrix = Some(MatrixWork {
        ty: left,
        flops: 2 * 16 * u32::from(n) * k as u32,
    });
    Ok(code)
}
