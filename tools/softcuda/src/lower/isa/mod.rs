//! The instructions: each family's module says what its opcodes mean.
//!
//! A family has one function, `lower`, which turns an instruction into [`Code`] — usually a pure function over
//! the lanes ([`Alu`](crate::ir::Alu)) and its operands — or says `None` for an opcode that is not its own.
//! What no family knows is refused when the module is loaded, with the instruction and its line.

pub mod approx;
mod asynchronous;
pub mod compare;
pub mod convert;
pub mod float;
pub mod form;
pub mod half;
pub mod ieee;
pub mod integer;
pub mod logic;
mod matrix;
mod memory;
pub mod mma;
pub mod moves;
pub mod simd;
mod sync;

use crate::ir::Code;
use crate::lower::{Builder, Refused};
use crate::ptx::ast::Instruction;

/// A family's `lower`.
pub type Family = fn(&Instruction, &mut Builder<'_>) -> Result<Option<Code>, Refused>;

/// A line of the coverage table: what is supported of an opcode.
#[derive(Debug, Clone, Copy)]
pub struct Covered {
    pub opcode: &'static str,
    /// Types and modifiers in words: `u16 s16 u32 s32 u64 s64; .sat for s32`.
    pub forms: &'static str,
    pub notes: &'static str,
}

/// Every family with its part of the coverage table, in the order in which they are asked.
pub const FAMILIES: &[(&str, Family, &[Covered])] = &[
    ("memory", memory::lower, memory::COVERED),
    ("asynchronous", asynchronous::lower, asynchronous::COVERED),
    ("matrix copies", matrix::lower, matrix::COVERED),
    ("synchronisation", sync::lower, sync::COVERED),
    ("integer", integer::lower, integer::COVERED),
    ("logic", logic::lower, logic::COVERED),
    ("compare", compare::lower, compare::COVERED),
    ("moves", moves::lower, moves::COVERED),
    ("mma", mma::lower, mma::COVERED),
    ("float", float::lower, float::COVERED),
    ("half", half::lower, half::COVERED),
    ("approx", approx::lower, approx::COVERED),
    ("convert", convert::lower, convert::COVERED),
];

/// The special register of this name (without the percent sign).
pub fn special(name: &str) -> Option<crate::ir::Special> {
    use crate::ir::{LaneMask as Lanes, RESERVED_SHARED, Special::*};
    let (base, axis) = match name.rsplit_once('.') {
        Some((base, "x")) => (base, 0),
        Some((base, "y")) => (base, 1),
        Some((base, "z")) => (base, 2),
        Some(_) => return None,
        None => (name, 3),
    };
    Some(match (base, axis) {
        ("tid", 0..=2) => Tid(axis),
        ("ntid", 0..=2) => Ntid(axis),
        ("ctaid", 0..=2) => Ctaid(axis),
        ("nctaid", 0..=2) => Nctaid(axis),
        ("clusterid", 0..=2) => ClusterId(axis),
        ("nclusterid", 0..=2) => NumClusters(axis),
        ("cluster_ctaid", 0..=2) => ClusterCtaId(axis),
        ("cluster_nctaid", 0..=2) => ClusterNumCtas(axis),
        ("cluster_ctarank", 3) => ClusterCtaRank,
        ("cluster_nctarank", 3) => ClusterNumCtaRank,
        ("is_explicit_cluster", 3) => IsExplicitCluster,
        ("laneid", 3) => LaneId,
        ("warpid", 3) => WarpId,
        ("nwarpid", 3) => NumWarps,
        ("smid", 3) => SmId,
        ("nsmid", 3) => NumSms,
        ("gridid", 3) => GridId,
        ("lanemask_eq", 3) => LaneMask(Lanes::Eq),
        ("lanemask_le", 3) => LaneMask(Lanes::Le),
        ("lanemask_lt", 3) => LaneMask(Lanes::Lt),
        ("lanemask_ge", 3) => LaneMask(Lanes::Ge),
        ("lanemask_gt", 3) => LaneMask(Lanes::Gt),
        ("clock", 3) => Clock32,
        ("clock_hi", 3) => ClockHi,
        ("clock64", 3) => Clock64,
        ("globaltimer", 3) => GlobalTimer,
        ("globaltimer_lo", 3) => GlobalTimerLo,
        ("globaltimer_hi", 3) => GlobalTimerHi,
        ("dynamic_smem_size", 3) => DynamicSharedSize,
        ("total_smem_size", 3) => TotalSharedSize,
        ("aggr_smem_size", 3) => AggregateSharedSize,
        ("reserved_smem_offset_begin", 3) => ReservedShared(0),
        ("reserved_smem_offset_end", 3) => ReservedShared(RESERVED_SHARED),
        ("reserved_smem_offset_cap", 3) => ReservedShared(RESERVED_SHARED),
        ("reserved_smem_offset_0", 3) => ReservedShared(0),
        // Where cooperative groups keep the barriers of tiles larger than a warp.
        ("reserved_smem_offset_1", 3) => ReservedShared(RESERVED_SHARED / 2),
        ("envreg1", 3) => Workspace { high: true },
        ("envreg2", 3) => Workspace { high: false },
        _ => return None,
    })
}
