//! Loads, stores and atomics.

use super::Covered;
use crate::ir::regs::Width;
use crate::ir::{Access, Atomic, AtomicOp, Class, Code, Op, Order, Ref, Scope};
use crate::lower::builder::{Builder, Refused};
use crate::ptx::ast::{Address, Base, Instruction, Operand, Space, Type};

pub const COVERED: &[Covered] = &[
    Covered {
        opcode: "ld",
        forms: "every space and generic; b8…b128 and all scalar types; v2, v4, v8; .weak .relaxed .acquire .volatile .nc",
        notes: "cache operators, eviction priorities, prefetch sizes and cache policies have no effect",
    },
    Covered {
        opcode: "ldu",
        forms: "as ld.global",
        notes: "",
    },
    Covered {
        opcode: "st",
        forms: "global, shared, local, param and generic; as ld; .weak .relaxed .release .volatile",
        notes: "",
    },
    Covered {
        opcode: "atom",
        forms: "and or xor exch add inc dec min max cas; b32 b64 u32 u64 s32 s64 f16 bf16 f16x2 bf16x2 f32 f64, b16 cas; all orders and scopes",
        notes: "float adds round to nearest; f16 and bf16 min/max as the instructions of the same name",
    },
    Covered {
        opcode: "red",
        forms: "as atom without a result; .v2 .v4 .v8 of f32, f16, bf16 and their x2 forms",
        notes: "",
    },
    Covered {
        opcode: "prefetch prefetchu applypriority discard createpolicy",
        forms: "all",
        notes: "no effect; a policy is an opaque zero",
    },
];

/// Where an address operand points: the base's reference and width, a constant offset, a parameter area.
pub struct Place {
    pub base: Ref,
    pub width: Width,
    pub offset: i64,
    pub area: Option<(u32, u32)>,
}

/// Resolves `[…]`.
pub fn place(address: &Address, builder: &mut Builder<'_>) -> Result<Place, Refused> {
    let constant = |builder: &mut Builder<'_>, value: u64| Place {
        base: builder.constant(value.into(), Width::W64),
        width: Width::W64,
        offset: address.offset,
        area: None,
    };
    Ok(match &address.base {
        Base::Reg(id) => {
            let (base, width) = builder.any_src(&Operand::Reg(*id), Type::B64)?;
            if !matches!(width, Width::W32 | Width::W64) {
                return Err(Refused::new("an address is a 32-bit or 64-bit register"));
            }
            Place {
                base,
                width,
                offset: address.offset,
                area: None,
            }
        }
        Base::Absolute => constant(builder, 0),
        Base::Global(index) => {
            let value = builder.addresses.module_variable(*index)?;
            constant(builder, value)
        }
        Base::Variable(id) if builder.areas.contains_key(&id.0) => {
            let area = builder.areas[&id.0];
            Place {
                area: Some(area),
                ..constant(builder, 0)
            }
        }
        Base::Variable(id) if builder.addresses.is_local(*id) => {
            let value = builder.addresses.variable(*id)?;
            Place {
                base: builder.local_address(value, Type::B64)?,
                width: Width::W64,
                offset: address.offset,
                area: None,
            }
        }
        Base::Variable(id) => {
            let value = builder.addresses.variable(*id)?;
            constant(builder, value)
        }
    })
}

/// The address operand at `index`.
pub fn address(instruction: &Instruction, index: usize) -> Result<&Address, Refused> {
    match instruction.operands.get(index) {
        Some(Operand::Address(address)) => Ok(address),
        _ => Err(Refused::new(format!("operand {} is not an address", index + 1))),
    }
}

/// What the modifiers of a memory instruction say.
#[derive(Default)]
pub struct Modifiers {
    pub space: Option<Space>,
    pub order: Option<Order>,
    pub scope: Option<Scope>,
    pub elements: Option<u8>,
    pub ty: Option<Type>,
    pub non_coherent: bool,
    pub cache_hint: bool,
}

/// Reads one modifier; `false` if it is none that memory instructions share.
pub fn modifier(m: &str, to: &mut Modifiers) -> bool {
    match m {
        "global" => to.space = Some(Space::Global),
        "const" => to.space = Some(Space::Const),
        "shared" | "shared::cta" | "shared::cluster" => to.space = Some(Space::Shared),
        "local" => to.space = Some(Space::Local),
        "param" | "param::entry" | "param::func" => to.space = Some(Space::Param),
        "weak" => to.order = Some(Order::Weak),
        "relaxed" => to.order = Some(Order::Relaxed),
        "acquire" => to.order = Some(Order::Acquire),
        "release" => to.order = Some(Order::Release),
        "acq_rel" => to.order = Some(Order::AcqRel),
        "volatile" | "mmio" => {
            to.order = Some(Order::Relaxed);
            to.scope = Some(Scope::Sys);
        }
        "cta" => to.scope = Some(Scope::Cta),
        "cluster" => to.scope = Some(Scope::Cluster),
        "gpu" => to.scope = Some(Scope::Gpu),
        "sys" => to.scope = Some(Scope::Sys),
        "v2" => to.elements = Some(2),
        "v4" => to.elements = Some(4),
        "v8" => to.elements = Some(8),
        "nc" => to.non_coherent = true,
        "L2::cache_hint" | "level::cache_hint" => to.cache_hint = true,
        // Where data is cached and for how long does not change what is read.
        "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt" => {}
        "L1::evict_normal"
        | "L1::evict_unchanged"
        | "L1::evict_first"
        | "L1::evict_last"
        | "L1::no_allocate" => {}
        "L2::evict_normal" | "L2::evict_first" | "L2::evict_last" | "L2::64B" | "L2::128B" | "L2::256B" => {}
        "unified" => {}
        other => match Type::parse(other) {
            Some(ty) => to.ty = Some(ty),
            None => return false,
        },
    }
    true
}

/// The elements of a `{…}` or single operand.
pub fn elements(operand: &Operand) -> &[Operand] {
    match operand {
        Operand::Vector(list) => list,
        other => std::slice::from_ref(other),
    }
}

pub fn lower(instruction: &Instruction, builder: &mut Builder<'_>) -> Result<Option<Code>, Refused> {
    Ok(Some(match &*instruction.opcode {
        "ld" | "ldu" => access(instruction, builder, true)?,
        "st" if !instruction.has("async") => access(instruction, builder, false)?,
        "atom" | "red" if !instruction.has("async") => atomic(instruction, builder)?,
        "prefetch" | "prefetchu" | "applypriority" | "discard" => {
            Code::new(Op::Nop, Class::Other, vec![], vec![])
        }
        "createpolicy" => {
            let dst = builder.dst(&instruction.operands[0], Type::B64)?;
            let zero = builder.constant(0, Width::W64);
            Code::alu(
                |regs, ops, mask| regs.set64(ops[0], &regs.get64(ops[1]), mask),
                Class::Other,
                vec![dst],
                vec![zero],
            )
        }
        _ => return Ok(None),
    }))
}

fn access(instruction: &Instruction, builder: &mut Builder<'_>, load: bool) -> Result<Code, Refused> {
    let mut m = Modifiers::default();
    for name in &instruction.modifiers {
        if !modifier(name, &mut m) {
            return Err(Refused::unsupported(
                instruction,
                &format!("modifier .{name} is not supported"),
            ));
        }
    }
    let ty = m.ty.ok_or_else(|| Refused::unsupported(instruction, "no type"))?;
    let count = m.elements.unwrap_or(1);
    let (data, at) = if load { (0, 1) } else { (1, 0) };
    let place = place(address(instruction, at)?, builder)?;
    let data = instruction
        .operands
        .get(data)
        .ok_or_else(|| Refused::unsupported(instruction, "too few operands"))?;
    let list = elements(data);
    if list.len() != usize::from(count) {
        return Err(Refused::unsupported(
            instruction,
            "the number of elements does not fit the vector",
        ));
    }
    let mut register = None;
    let mut register_bytes = ty.size();
    let mut refs = Vec::new();
    for element in list {
        let (r, width) = match element {
            Operand::Sink if load => {
                let width = register.unwrap_or(Width::of(ty));
                let ty = if width == Width::W64 { Type::B64 } else { ty };
                (builder.temporary(ty), width)
            }
            _ if load => builder.any_dst(element, ty)?,
            _ => builder.any_src(element, ty)?,
        };
        if width == Width::Pred || register.is_some_and(|w| w != width) {
            return Err(Refused::unsupported(
                instruction,
                "registers of one vector have the same width",
            ));
        }
        register = Some(width);
        if let Some(declared) = builder.register_type(element) {
            register_bytes = declared.size();
        }
        refs.push(r);
    }
    let space = match m.space {
        Some(Space::Param) if place.area.is_some() => None,
        other => other,
    };
    let class = match (load, m.space) {
        (true, Some(Space::Const | Space::Param)) => Class::LoadConst,
        (true, Some(Space::Shared)) => Class::LoadShared,
        (true, Some(Space::Local)) => Class::LoadLocal,
        (true, _) => Class::LoadGlobal,
        (false, Some(Space::Shared)) => Class::StoreShared,
        (false, Some(Space::Local | Space::Param)) => Class::StoreLocal,
        (false, _) => Class::StoreGlobal,
    };
    let access = Box::new(Access {
        space,
        area: place.area,
        base: place.width,
        offset: place.offset,
        ty,
        elements: count,
        register: register.expect("at least one element"),
        wanted: (0, (ty.size() * usize::from(count)) as u8),
        register_bytes: register_bytes as u8,
        order: m.order.unwrap_or(Order::Weak),
        scope: m.scope.unwrap_or(Scope::Sys),
        non_coherent: m.non_coherent,
    });
    Ok(if load {
        Code::new(Op::Load(access), class, refs, vec![place.base])
    } else {
        let mut src = vec![place.base];
        src.extend(refs);
        Code::new(Op::Store(access), class, vec![], src)
    })
}

fn atomic(instruction: &Instruction, builder: &mut Builder<'_>) -> Result<Code, Refused> {
    let returns = &*instruction.opcode == "atom";
    let mut m = Modifiers::default();
    let mut op = None;
    for name in &instruction.modifiers {
        let this = match &**name {
            "and" => Some(AtomicOp::And),
            "or" => Some(AtomicOp::Or),
            "xor" => Some(AtomicOp::Xor),
            "exch" => Some(AtomicOp::Exch),
            "add" => Some(AtomicOp::Add),
            "inc" => Some(AtomicOp::Inc),
            "dec" => Some(AtomicOp::Dec),
            "min" => Some(AtomicOp::Min),
            "max" => Some(AtomicOp::Max),
            "cas" => Some(AtomicOp::Cas),
            _ => None,
        };
        match this {
            Some(this) => op = Some(this),
            // Atomic float adds keep subnormals here, as the modifier asks.
            None if &**name == "noftz" => {}
            None if modifier(name, &mut m) => {}
            None => {
                return Err(Refused::unsupported(
                    instruction,
                    &format!("modifier .{name} is not supported"),
                ));
            }
        }
    }
    let op = op.ok_or_else(|| Refused::unsupported(instruction, "no operation"))?;
    let ty = m.ty.ok_or_else(|| Refused::unsupported(instruction, "no type"))?;
    use AtomicOp::*;
    let fits = match ty {
        Type::B32 | Type::B64 => matches!(op, And | Or | Xor | Exch | Cas),
        Type::B16 => op == Cas,
        Type::U32 => matches!(op, Add | Inc | Dec | Min | Max | Exch),
        Type::S32 | Type::U64 | Type::S64 => matches!(op, Add | Min | Max | Exch),
        Type::F32 => op == Add || (m.elements.is_some() && matches!(op, Min | Max)),
        Type::F64 => op == Add,
        Type::F16 | Type::BF16 | Type::F16x2 | Type::BF16x2 => matches!(op, Add | Min | Max),
        _ => false,
    };
    if !fits || (ty == Type::F32 && op != Add) {
        return Err(Refused::unsupported(
            instruction,
            "this operation does not exist for the type",
        ));
    }
    let first = usize::from(returns);
    let place = place(address(instruction, first)?, builder)?;
    if place.area.is_some() {
        return Err(Refused::unsupported(
            instruction,
            "parameters are not memory that atomics can reach",
        ));
    }
    let count = m.elements.unwrap_or(1);
    let operand = |i: usize| {
        instruction
            .operands
            .get(i)
            .ok_or_else(|| Refused::unsupported(instruction, "too few operands"))
    };
    let mut src = vec![place.base];
    let values = if op == Cas { 2 } else { 1 };
    for v in 0..values {
        let list = elements(operand(first + 1 + v)?);
        if list.len() != usize::from(count) {
            return Err(Refused::unsupported(
                instruction,
                "the number of elements does not fit the vector",
            ));
        }
        for element in list {
            src.push(builder.src(element, ty)?);
        }
    }
    let mut dst = Vec::new();
    if returns {
        for element in elements(operand(0)?) {
            dst.push(builder.dst(element, ty)?);
        }
    }
    let atomic = Atomic {
        space: m.space,
        base: place.width,
        offset: place.offset,
        ty,
        elements: count,
        op,
        order: m.order.unwrap_or(Order::Relaxed),
        scope: m.scope.unwrap_or(Scope::Gpu),
        returns,
    };
    Ok(Code::new(Op::Atomic(Box::new(atomic)), Class::Atomic, dst, src))
}
