//! The instructions: each family's module defines the semantics of its opcodes.
//!
//! A family has one function, `lower`, which turns an instruction into [`Code`], usually a pure function over the lanes
//! ([`Alu`](crate::ir::Alu)) with its operands. It returns `None` for an opcode of another family. An opcode that no
//! family knows is refused when the module is loaded, with the instruction and its line.

pub mod approx;
mod asynchronous;
pub mod compare;
pub mod convert;
pub mod float;
pub mod form;
mod fp8_sums;
pub mod half;
mod hopper;
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
use crate::lower::builder::{Builder, Refused};
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
    ("hopper", hopper::lower, hopper::COVERED),
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
