//! Barriers, fences, and what the lanes of a warp do together.

use super::Covered;
use crate::ir::regs::Width;
use crate::ir::{
    BarrierKind, Class, Code, Converge, FenceOrder, Op, Order, Redux, Ref, Scope, Shuffle, Sync, Vote,
};
use crate::lower::builder::{Builder, Refused};
use crate::ptx::ast::{Instruction, Operand, Type};

pub const COVERED: &[Covered] = &[
    Covered {
        opcode: "bar barrier",
        forms: ".sync .arrive .red.popc .red.and .red.or; .aligned and not; named barriers with counts; bar.warp.sync; barrier.cluster",
        notes: "",
    },
    Covered {
        opcode: "fence membar",
        forms: ".acq_rel .sc at every scope; .proxy.* and .mbarrier_init",
        notes: "all memory is coherent here; fences matter to the checks",
    },
    Covered {
        opcode: "shfl.sync",
        forms: ".up .down .bfly .idx, with and without predicate",
        notes: "a value from a lane outside of the mask is a poison pattern",
    },
    Covered {
        opcode: "vote.sync match.sync elect.sync activemask",
        forms: "all",
        notes: "",
    },
    Covered {
        opcode: "redux.sync",
        forms: ".add .min .max of u32 s32; .and .or .xor of b32",
        notes: "",
    },
    Covered {
        opcode: "griddepcontrol",
        forms: ".launch_dependents .wait",
        notes: "a dependent launch starts when the one before it has ended; what it touches before its wait is checked",
    },
    Covered {
        opcode: "nanosleep pmevent",
        forms: "all",
        notes: "lets other threads go on; takes no time",
    },
];

pub fn lower(i: &Instruction, b: &mut Builder<'_>) -> Result<Option<Code>, Refused> {
    Ok(Some(match &*i.opcode {
        "bar" | "barrier" => barrier(i, b)?,
        "fence" | "membar" => fence(i)?,
        "shfl" => shuffle(i, b)?,
        "vote" => vote(i, b)?,
        "match" => matching(i, b)?,
        "redux" => redux(i, b)?,
        "elect" => {
            only(i, &["sync"])?;
            let (lane, valid) = pair(&i.operands[0]);
            let dst = vec![
                b.dst(lane, Type::U32)?,
                b.dst(valid.unwrap_or(&Operand::Sink), Type::Pred)?,
            ];
            let mask = b.src(operand(i, 1)?, Type::B32)?;
            members(Sync::Elect, dst, vec![mask])
        }
        "activemask" => {
            only(i, &["b32"])?;
            let dst = b.dst(operand(i, 0)?, Type::B32)?;
            sync(Sync::ActiveMask, Class::Warp, vec![dst], vec![])
        }
        "nanosleep" => {
            only(i, &["u32"])?;
            sync(Sync::Sleep, Class::Other, vec![], vec![])
        }
        "pmevent" => Code::new(Op::Nop, Class::Other, vec![], vec![]),
        "griddepcontrol" => {
            only(i, &["launch_dependents", "wait"])?;
            let what = if i.has("wait") {
                Sync::GridDependencyWait
            } else {
                Sync::GridDependencyLaunch
            };
            sync(what, Class::Barrier, vec![], vec![])
        }
        _ => return Ok(None),
    }))
}

fn sync(what: Sync, class: Class, dst: Vec<Ref>, src: Vec<Ref>) -> Code {
    Code::new(Op::Sync(Box::new(what)), class, dst, src)
}

/// For an instruction whose last source is the mask of lanes that take part.
fn members(what: Sync, dst: Vec<Ref>, src: Vec<Ref>) -> Code {
    let last = src.len() - 1;
    let mut code = sync(what, Class::Warp, dst, src);
    code.converge = Converge::Members(last);
    code
}

fn operand(i: &Instruction, index: usize) -> Result<&Operand, Refused> {
    i.operands
        .get(index)
        .ok_or_else(|| Refused::unsupported(i, "too few operands"))
}

fn pair(operand: &Operand) -> (&Operand, Option<&Operand>) {
    match operand {
        Operand::Pair(a, b) => (a, Some(b)),
        other => (other, None),
    }
}

/// Refuses modifiers that are not in the list.
pub fn only(i: &Instruction, allowed: &[&str]) -> Result<(), Refused> {
    match i.modifiers.iter().find(|m| !allowed.contains(&&***m)) {
        Some(m) => Err(Refused::unsupported(
            i,
            &format!("modifier .{m} is not supported"),
        )),
        None => Ok(()),
    }
}

fn barrier(i: &Instruction, b: &mut Builder<'_>) -> Result<Code, Refused> {
    if i.has("cluster") {
        only(
            i,
            &[
                "cluster", "arrive", "wait", "release", "relaxed", "acquire", "aligned",
            ],
        )?;
        let aligned = i.has("aligned");
        let what = if i.has("arrive") {
            let order = if i.has("relaxed") {
                Order::Relaxed
            } else {
                Order::Release
            };
            Sync::ClusterArrive { order, aligned }
        } else {
            Sync::ClusterWait { aligned }
        };
        let code = sync(what, Class::Barrier, vec![], vec![]);
        return Ok(if aligned { code.aligned() } else { code });
    }
    if i.has("warp") {
        only(i, &["warp", "sync"])?;
        let mask = b.src(operand(i, 0)?, Type::B32)?;
        return Ok(members(Sync::Warp, vec![], vec![mask]));
    }
    only(
        i,
        &[
            "cta", "sync", "arrive", "red", "popc", "and", "or", "aligned", "u32", "pred",
        ],
    )?;
    // `bar` is `barrier.aligned` by definition.
    let aligned = &*i.opcode == "bar" || i.has("aligned");
    let kind = match (i.has("sync"), i.has("arrive"), i.has("red")) {
        (true, false, false) => BarrierKind::Sync,
        (false, true, false) => BarrierKind::Arrive,
        (false, false, true) if i.has("popc") => BarrierKind::Popc,
        (false, false, true) if i.has("and") => BarrierKind::And,
        (false, false, true) if i.has("or") => BarrierKind::Or,
        _ => return Err(Refused::unsupported(i, "neither .sync, .arrive nor .red")),
    };
    let mut dst = Vec::new();
    let mut rest = &i.operands[..];
    let mut predicate = None;
    if matches!(kind, BarrierKind::Popc | BarrierKind::And | BarrierKind::Or) {
        if rest.len() < 3 {
            return Err(Refused::unsupported(i, "too few operands"));
        }
        let ty = if kind == BarrierKind::Popc {
            Type::U32
        } else {
            Type::Pred
        };
        dst.push(b.dst(&rest[0], ty)?);
        predicate = Some(b.src(&rest[rest.len() - 1], Type::Pred)?);
        rest = &rest[1..rest.len() - 1];
    }
    let mut src = Vec::new();
    for operand in rest {
        src.push(b.src(operand, Type::U32)?);
    }
    let counted = src.len() == 2;
    if src.is_empty() || src.len() > 2 || (kind == BarrierKind::Arrive && !counted) {
        return Err(Refused::unsupported(
            i,
            "a barrier takes its number and a count of threads",
        ));
    }
    src.extend(predicate);
    let code = sync(
        Sync::Barrier {
            kind,
            aligned,
            counted,
        },
        Class::Barrier,
        dst,
        src,
    );
    Ok(if aligned { code.aligned() } else { code })
}

fn fence(i: &Instruction) -> Result<Code, Refused> {
    let proxy = i
        .modifiers
        .iter()
        .any(|m| m.starts_with("proxy") || &**m == "mbarrier_init");
    if !proxy {
        only(
            i,
            &[
                "cta", "cluster", "gpu", "gl", "sys", "sc", "acq_rel", "acquire", "release",
            ],
        )?;
    }
    let scope = i
        .modifiers
        .iter()
        .find_map(|m| match &**m {
            "cta" => Some(Scope::Cta),
            "cluster" => Some(Scope::Cluster),
            "gpu" | "gl" => Some(Scope::Gpu),
            "sys" => Some(Scope::Sys),
            _ => None,
        })
        .unwrap_or(Scope::Cta);
    // A fence for global memory alone says nothing of shared memory.
    let shared = i.has("proxy") && i.has("async") && !i.has("global");
    let order = match (proxy, &*i.opcode) {
        _ if shared => FenceOrder::AsyncProxy,
        (true, _) if i.has("mbarrier_init") => FenceOrder::MbarrierInit,
        (true, _) => FenceOrder::Proxy,
        (false, "membar") => FenceOrder::Sc,
        _ if i.has("sc") => FenceOrder::Sc,
        _ => FenceOrder::AcqRel,
    };
    Ok(sync(Sync::Fence { scope, order }, Class::Fence, vec![], vec![]))
}

fn needs_sync(i: &Instruction) -> Result<(), Refused> {
    if i.has("sync") {
        return Ok(());
    }
    Err(Refused::unsupported(
        i,
        "the form without .sync does not exist on sm_70 and later",
    ))
}

fn shuffle(i: &Instruction, b: &mut Builder<'_>) -> Result<Code, Refused> {
    needs_sync(i)?;
    only(i, &["sync", "up", "down", "bfly", "idx", "b32"])?;
    let mode = match i
        .modifiers
        .iter()
        .map(|m| &**m)
        .find(|m| !matches!(*m, "sync" | "b32"))
    {
        Some("up") => Shuffle::Up,
        Some("down") => Shuffle::Down,
        Some("bfly") => Shuffle::Butterfly,
        Some("idx") => Shuffle::Index,
        _ => return Err(Refused::unsupported(i, "no mode")),
    };
    let (value, valid) = pair(operand(i, 0)?);
    let mut dst = vec![b.dst(value, Type::B32)?];
    if let Some(valid) = valid {
        dst.push(b.dst(valid, Type::Pred)?);
    }
    let mut src = Vec::new();
    for at in 1..5 {
        src.push(b.src(operand(i, at)?, Type::B32)?);
    }
    let valid = valid.is_some();
    Ok(members(Sync::Shuffle { mode, valid }, dst, src))
}

fn vote(i: &Instruction, b: &mut Builder<'_>) -> Result<Code, Refused> {
    needs_sync(i)?;
    only(i, &["sync", "all", "any", "uni", "ballot", "pred", "b32"])?;
    // CUB writes `vote.ballot.sync`, which ptxas takes too.
    let vote = match i.modifiers.iter().map(|m| &**m).find(|m| *m != "sync") {
        Some("all") => Vote::All,
        Some("any") => Vote::Any,
        Some("uni") => Vote::Uniform,
        Some("ballot") => Vote::Ballot,
        _ => return Err(Refused::unsupported(i, "no mode")),
    };
    let ty = if vote == Vote::Ballot {
        Type::B32
    } else {
        Type::Pred
    };
    let dst = b.dst(operand(i, 0)?, ty)?;
    let value = b.src(operand(i, 1)?, Type::Pred)?;
    let mask = b.src(operand(i, 2)?, Type::B32)?;
    Ok(members(Sync::Vote(vote), vec![dst], vec![value, mask]))
}

fn matching(i: &Instruction, b: &mut Builder<'_>) -> Result<Code, Refused> {
    needs_sync(i)?;
    only(i, &["sync", "any", "all", "b32", "b64"])?;
    let wide = i.has("b64");
    let (mask, valid) = pair(operand(i, 0)?);
    let mut dst = vec![b.dst(mask, Type::B32)?];
    if let Some(valid) = valid {
        dst.push(b.dst(valid, Type::Pred)?);
    }
    let value = b.src(operand(i, 1)?, if wide { Type::B64 } else { Type::B32 })?;
    let lanes = b.src(operand(i, 2)?, Type::B32)?;
    let all = i.has("all");
    let valid = valid.is_some();
    Ok(members(Sync::Match { all, wide, valid }, dst, vec![value, lanes]))
}

fn redux(i: &Instruction, b: &mut Builder<'_>) -> Result<Code, Refused> {
    needs_sync(i)?;
    only(
        i,
        &[
            "sync", "add", "min", "max", "and", "or", "xor", "u32", "s32", "b32",
        ],
    )?;
    let signed = i.has("s32");
    let redux = match i.modifiers.get(1).map(|m| &**m) {
        Some("add") => Redux::Add,
        Some("min") if signed => Redux::MinS,
        Some("min") => Redux::MinU,
        Some("max") if signed => Redux::MaxS,
        Some("max") => Redux::MaxU,
        Some("and") => Redux::And,
        Some("or") => Redux::Or,
        Some("xor") => Redux::Xor,
        _ => return Err(Refused::unsupported(i, "no operation")),
    };
    let dst = b.dst(operand(i, 0)?, Type::B32)?;
    let value = b.src(operand(i, 1)?, Type::B32)?;
    let mask = b.src(operand(i, 2)?, Type::B32)?;
    Ok(members(Sync::Redux(redux), vec![dst], vec![value, mask]))
}

/// A predicate's or register's width, for the executor's benefit.
pub fn is_predicate(operand: &Operand, b: &Builder<'_>) -> bool {
    b.register_type(operand).map(Width::of) == Some(Width::Pred)
}
