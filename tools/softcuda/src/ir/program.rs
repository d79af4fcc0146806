//! A kernel ready to run: instructions with their operands' slots, reconvergence points, the layout of its memory.

use std::sync::Arc;

use super::hopper::WarpGroup;
use super::ops::{Alu, Op, Sync};
use super::regs::Slot;
use crate::ptx::ast::{Limits, Loc, Type};

/// What an instruction of one family lowers to; virtual registers, not slots yet.
pub struct Code {
    pub op: Op,
    /// Destinations, in the order in which the operation expects them.
    pub dst: Vec<Ref>,
    pub src: Vec<Ref>,
    pub class: Class,
    pub converge: Converge,
    /// Matrix work of one warp, for the counters.
    pub matrix: Option<MatrixWork>,
}

impl Code {
    /// A pure register instruction.
    pub fn alu(run: Alu, class: Class, dst: Vec<Ref>, src: Vec<Ref>) -> Self {
        Self::new(Op::Alu(run), class, dst, src)
    }

    pub fn new(op: Op, class: Class, dst: Vec<Ref>, src: Vec<Ref>) -> Self {
        Self {
            op,
            dst,
            src,
            class,
            converge: Converge::None,
            matrix: None,
        }
    }

    /// Whether this waits for the launch before it in the stream.
    pub fn needs_grid_dependency(&self) -> bool {
        matches!(&self.op, Op::Sync(sync) if **sync == Sync::GridDependencyWait)
    }

    /// Whether this is a `wgmma`, which goes on reading and writing registers after it was executed.
    pub fn is_wgmma(&self) -> bool {
        matches!(&self.op, Op::WarpGroup(what) if matches!(**what, WarpGroup::Multiply(_)))
    }

    /// For an instruction that every lane of the warp must execute together (`.sync.aligned`).
    pub fn aligned(mut self) -> Self {
        self.converge = Converge::Warp;
        self
    }
}

/// A value before slots are given: a virtual register or a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ref {
    /// Virtual register, index in the function's table.
    Reg(u32),
    /// Constant, index in the kernel's pool.
    Const(u32),
}

/// Which lanes must be there before the instruction runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Converge {
    None,
    /// All lanes of the warp that have not exited.
    Warp,
    /// The lanes of a mask: source operand with this index, which must be the same in all lanes.
    Members(usize),
}

/// Floating-point work of one warp-wide matrix instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatrixWork {
    /// Type of A (and B): what the table of counters groups by.
    pub ty: Type,
    /// 2·m·n·k
    pub flops: u32,
}

/// What an instruction is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    Integer,
    Logic,
    Compare,
    Move,
    Convert,
    Float16,
    Float32,
    Float64,
    /// ex2, lg2, rcp, rsqrt, sin, cos, tanh, sqrt, div
    Special,
    Matrix,
    /// ldmatrix, stmatrix
    MatrixCopy,
    Control,
    LoadGlobal,
    StoreGlobal,
    LoadShared,
    StoreShared,
    LoadLocal,
    StoreLocal,
    LoadConst,
    Atomic,
    AsyncCopy,
    Barrier,
    Fence,
    /// shfl, vote, match, redux, elect
    Warp,
    Other,
}

impl Class {
    pub const COUNT: usize = Class::Other as usize + 1;
}

/// One instruction.
pub struct Inst {
    pub op: Op,
    /// Guard predicate's slot, and whether it is negated.
    pub guard: Option<(Slot, bool)>,
    /// First operand in [`Kernel::operands`] and number.
    pub first: u32,
    pub count: u16,
    /// How many of them are destinations.
    pub dst: u16,
    pub class: Class,
    /// Other paths may be waiting here: a reconvergence point.
    pub joins: bool,
    pub converge: Converge,
    pub matrix: Option<MatrixWork>,
    pub loc: Option<Loc>,
    /// Line of the PTX text.
    pub line: u32,
}

/// A function as it lies in the kernel's instructions.
pub struct Function {
    pub name: Arc<str>,
    /// First instruction.
    pub entry: u32,
    /// Bytes of its register window.
    pub window: u32,
    /// Parameter areas in the window: (offset, bytes per thread); lane l's bytes begin at offset + l·bytes.
    pub params: Vec<(u32, u32)>,
    pub returns: Vec<(u32, u32)>,
    /// Bytes of local memory per thread for this function's own frame.
    pub local: u32,
}

/// A kernel parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param {
    pub offset: u32,
    pub size: u32,
}

/// One entry with everything that it can reach.
pub struct Kernel {
    pub name: Arc<str>,
    pub insts: Vec<Inst>,
    pub operands: Vec<Slot>,
    /// Constants' bytes, laid out as slots (the executor aligns them to 64).
    pub constants: Vec<u8>,
    /// `functions[0]` is the entry.
    pub functions: Vec<Function>,
    /// Index in `functions` by function address.
    pub function_index: std::collections::HashMap<u64, u32>,
    pub params: Vec<Param>,
    /// Bytes of the parameter block.
    pub param_bytes: u32,
    /// Bytes of static shared memory, and where dynamic shared memory may begin at the earliest.
    pub static_shared: u32,
    /// Bytes at the beginning of shared memory that are the system's: 0 or
    /// [`RESERVED_SHARED`](super::RESERVED_SHARED).
    pub reserved_shared: u32,
    /// Where static shared memory ends as laid out here.
    pub shared_end: u32,
    /// Declared alignment of the dynamic part (the greatest of its variables), 0 without one.
    pub dynamic_align: u32,
    /// Dynamic shared memory's first byte: no better aligned than declared.
    pub dynamic_base: u32,
    pub limits: Limits,
    /// Whether any instruction waits for the launch before it in the stream.
    pub uses_grid_dependency: bool,
    /// Whether any instruction is a `wgmma`, whose registers are watched.
    pub uses_wgmma: bool,
}
