//! `cp.async` and `mbarrier`.

use super::Covered;
use super::memory::{address, place};
use super::sync::{is_predicate, only};
use crate::ir::{Async, Class, Code, Op, Order, Place, Ref, Scope};
use crate::lower::builder::{Builder, Refused};
use crate::ptx::ast::{Instruction, Operand, Type};

pub const COVERED: &[Covered] = &[
    Covered {
        opcode: "cp.async",
        forms: ".ca (4, 8, 16 bytes) and .cg (16); source size with zero-fill; ignore-src; commit_group, wait_group, wait_all; mbarrier.arrive(.noinc)",
        notes: "data arrives at the wait, as late as the architecture allows",
    },
    Covered {
        opcode: "mbarrier",
        forms: "init inval arrive arrive_drop expect_tx complete_tx test_wait try_wait pending_count; .parity; .noComplete; counts; transactions",
        notes: "one of another block of the cluster takes arrivals and transactions; a wait is for one of the own block",
    },
];

pub fn lower(i: &Instruction, b: &mut Builder<'_>) -> Result<Option<Code>, Refused> {
    Ok(Some(match &*i.opcode {
        "cp" if i.has("async") && !i.has("bulk") && !i.has("reduce") => copy(i, b)?,
        "mbarrier" => mbarrier(i, b)?,
        _ => return Ok(None),
    }))
}

fn code(what: Async, class: Class, dst: Vec<Ref>, src: Vec<Ref>) -> Code {
    Code::new(Op::Async(Box::new(what)), class, dst, src)
}

/// The address operand at `index`: its base and how it is written. `generic` unless the space is named.
pub fn at(
    i: &Instruction,
    b: &mut Builder<'_>,
    index: usize,
    generic: bool,
) -> Result<(Ref, Place), Refused> {
    let place = place(address(i, index)?, b)?;
    if place.area.is_some() {
        return Err(Refused::unsupported(
            i,
            "parameters are not memory that this instruction can reach",
        ));
    }
    Ok((
        place.base,
        Place {
            base: place.width,
            offset: place.offset,
            generic,
        },
    ))
}

fn operand(i: &Instruction, index: usize) -> Result<&Operand, Refused> {
    i.operands
        .get(index)
        .ok_or_else(|| Refused::unsupported(i, "too few operands"))
}

fn literal(i: &Instruction, index: usize) -> Result<i64, Refused> {
    match operand(i, index)? {
        Operand::Int(value) => Ok(*value),
        _ => Err(Refused::unsupported(i, "this operand is a constant")),
    }
}

fn copy(i: &Instruction, b: &mut Builder<'_>) -> Result<Code, Refused> {
    if i.has("commit_group") {
        return Ok(code(Async::Commit, Class::AsyncCopy, vec![], vec![]));
    }
    if i.has("wait_all") {
        return Ok(code(Async::WaitAll, Class::AsyncCopy, vec![], vec![]));
    }
    if i.has("wait_group") {
        let groups = u32::try_from(literal(i, 0)?)
            .map_err(|_| Refused::unsupported(i, "the number of groups is not negative"))?;
        return Ok(code(Async::Wait(groups), Class::AsyncCopy, vec![], vec![]));
    }
    if i.has("mbarrier") || i.has("mbarrier::arrive") {
        only(
            i,
            &[
                "async",
                "mbarrier",
                "arrive",
                "noinc",
                "shared",
                "shared::cta",
                "b64",
            ],
        )?;
        let generic = !i.modifiers.iter().any(|m| m.starts_with("shared"));
        let (base, place) = at(i, b, 0, generic)?;
        let counted = !i.has("noinc");
        return Ok(code(
            Async::ArriveOnCompletion { place, counted },
            Class::AsyncCopy,
            vec![],
            vec![base],
        ));
    }
    only(
        i,
        &[
            "async",
            "ca",
            "cg",
            "shared",
            "shared::cta",
            "global",
            "L2::cache_hint",
            "L2::64B",
            "L2::128B",
            "L2::256B",
        ],
    )?;
    let (destination_base, destination) = at(i, b, 0, false)?;
    let (source_base, source) = at(i, b, 1, false)?;
    let bytes = literal(i, 2)?;
    let good = if i.has("cg") {
        bytes == 16
    } else {
        matches!(bytes, 4 | 8 | 16)
    };
    if !good {
        return Err(Refused::unsupported(i, "copies 4, 8 or 16 bytes (.cg: 16)"));
    }
    let mut src = vec![destination_base, source_base];
    let (mut sized, mut ignore) = (false, false);
    let mut rest = i.operands.get(3..).unwrap_or(&[]);
    if i.has("L2::cache_hint") {
        // The policy comes last and changes nothing.
        rest = &rest[..rest.len().saturating_sub(1)];
    }
    match rest {
        [] => {}
        [one] if is_predicate(one, b) => {
            ignore = true;
            src.push(b.src(one, Type::Pred)?);
        }
        [one] => {
            sized = true;
            src.push(b.src(one, Type::U32)?);
        }
        _ => return Err(Refused::unsupported(i, "too many operands")),
    }
    Ok(code(
        Async::Copy {
            bytes: bytes as u8,
            destination,
            source,
            sized,
            ignore,
        },
        Class::AsyncCopy,
        vec![],
        src,
    ))
}

fn mbarrier(i: &Instruction, b: &mut Builder<'_>) -> Result<Code, Refused> {
    only(
        i,
        &[
            "init",
            "inval",
            "arrive",
            "arrive_drop",
            "expect_tx",
            "complete_tx",
            "test_wait",
            "try_wait",
            "pending_count",
            "noComplete",
            "parity",
            "shared",
            "shared::cta",
            "shared::cluster",
            "b64",
            "relaxed",
            "release",
            "acquire",
            "cta",
            "cluster",
        ],
    )?;
    let generic = !i.modifiers.iter().any(|m| m.starts_with("shared"));
    let scope = if i.has("cluster") {
        Scope::Cluster
    } else {
        Scope::Cta
    };
    let class = Class::Barrier;
    let what = &*i.modifiers[0];
    Ok(match what {
        "init" => {
            let (base, place) = at(i, b, 0, generic)?;
            let count = b.src(operand(i, 1)?, Type::U32)?;
            code(Async::Init(place), class, vec![], vec![base, count])
        }
        "inval" => {
            let (base, place) = at(i, b, 0, generic)?;
            code(Async::Invalidate(place), class, vec![], vec![base])
        }
        "arrive" | "arrive_drop" => {
            // `.expect_tx` is a form of arrive; the state may be missing or `_`.
            let first = usize::from(!matches!(operand(i, 0)?, Operand::Address(_)));
            let state = first == 1 && !matches!(operand(i, 0)?, Operand::Sink);
            let (base, place) = at(i, b, first, generic)?;
            let dst = if state {
                vec![b.dst(operand(i, 0)?, Type::B64)?]
            } else {
                vec![]
            };
            let mut src = vec![base];
            let expect = i.has("expect_tx");
            let counted = !expect && i.operands.len() > first + 1;
            if expect || counted {
                src.push(b.src(operand(i, first + 1)?, Type::U32)?);
            }
            let order = if i.has("relaxed") {
                Order::Relaxed
            } else {
                Order::Release
            };
            code(
                Async::Arrive {
                    place,
                    state,
                    counted,
                    expect,
                    drop: what == "arrive_drop",
                    order,
                    scope,
                },
                class,
                dst,
                src,
            )
        }
        "expect_tx" | "complete_tx" => {
            let (base, place) = at(i, b, 0, generic)?;
            let bytes = b.src(operand(i, 1)?, Type::U32)?;
            let complete = what == "complete_tx";
            code(
                Async::Transaction { place, complete },
                class,
                vec![],
                vec![base, bytes],
            )
        }
        "test_wait" | "try_wait" => {
            let dst = b.dst(operand(i, 0)?, Type::Pred)?;
            let (base, place) = at(i, b, 1, generic)?;
            let parity = i.has("parity");
            let phase = b.src(operand(i, 2)?, if parity { Type::U32 } else { Type::B64 })?;
            let order = if i.has("relaxed") {
                Order::Relaxed
            } else {
                Order::Acquire
            };
            code(
                Async::TestWait {
                    place,
                    parity,
                    suspend: what == "try_wait",
                    order,
                    scope,
                },
                class,
                vec![dst],
                vec![base, phase],
            )
        }
        "pending_count" => {
            let dst = b.dst(operand(i, 0)?, Type::U32)?;
            let state = b.src(operand(i, 1)?, Type::B64)?;
            code(Async::PendingCount, class, vec![dst], vec![state])
        }
        other => return Err(Refused::unsupported(i, &format!(".{other} is not supported"))),
    })
}
