//! A kernel ready to run: instructions with their operands' slots, the control flow's meeting points, the layout
//! of its memory. Made by [`crate::lower`], run by [`crate::run`].

use std::sync::Arc;

use crate::ir::regs::{Regs, Slot, Width};
use crate::ptx::ast::{Loc, Space, Type};

/// A pure register instruction: reads source slots, writes destination slots in the lanes of `mask`.
///
/// `ops` holds the destinations first, then the sources, as the lowering gave them in [`Code`]. A destination
/// may be one of the sources; slots are the same or disjoint. Lanes outside of `mask` may be computed (they hold
/// some old value) but not written, and must not panic.
pub type Alu = fn(regs: Regs, ops: &[Slot], mask: u32);

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
        matches!(&self.op, Op::Sync(sync) if **sync == crate::run::sync::Sync::GridDependencyWait)
    }

    /// The same, for an instruction that every lane of the warp must execute together (`.sync.aligned`).
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

/// What an instruction does.
pub enum Op {
    Alu(Alu),
    /// Does nothing (prefetches, `.pragma`-like hints, `pmevent`).
    Nop,
    /// Reads a special register into the first destination.
    Special(Special),
    /// `bra`: to the instruction's index; where the two ways meet again (`None`: only at the end).
    Branch {
        target: u32,
        meet: Option<u32>,
    },
    /// `brx.idx`: the first source is the index.
    BranchIndexed {
        targets: Box<[u32]>,
        meet: Option<u32>,
    },
    Call(Box<Call>),
    Return,
    Exit,
    Trap,
    Load(Box<Access>),
    Store(Box<Access>),
    Atomic(Box<Atomic>),
    /// Warp-level and synchronising instructions, each in its own module of `exec`.
    Sync(Box<crate::run::sync::Sync>),
    /// Copies and barriers of the asynchronous kind.
    Async(Box<crate::run::asynchronous::Async>),
    /// ldmatrix and stmatrix.
    Matrix(Box<crate::run::matrix::MatrixCopy>),
}

/// A special register, or what else depends on where the thread is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NumWarps,
    SmId,
    NumSms,
    GridId,
    LaneMask(LaneMask),
    Clock32,
    Clock64,
    ClockHi,
    GlobalTimer,
    GlobalTimerLo,
    GlobalTimerHi,
    DynamicSharedSize,
    TotalSharedSize,
    AggregateSharedSize,
    /// Offset in the shared memory that is the system's.
    ReservedShared(u32),
    ClusterId(u8),
    NumClusters(u8),
    ClusterCtaId(u8),
    ClusterNumCtas(u8),
    ClusterCtaRank,
    ClusterNumCtaRank,
    IsExplicitCluster,
    ActiveMask,
    /// Local address of this offset in the current function's frame.
    LocalFrame {
        offset: u32,
        wide: bool,
    },
    /// `%envreg1` and `%envreg2`: high and low half of the address of a cooperative launch's workspace.
    Workspace {
        high: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneMask {
    Eq,
    Le,
    Lt,
    Ge,
    Gt,
}

/// Bytes of shared memory that belong to the system, in kernels that ask where they are.
pub const RESERVED_SHARED: u32 = 1024;

/// Memory ordering of an access, as in the PTX memory model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Weak,
    /// `.relaxed`, and `.volatile` (which is relaxed at system scope).
    Relaxed,
    Acquire,
    Release,
    AcqRel,
}

impl Order {
    pub fn acquires(self) -> bool {
        matches!(self, Order::Acquire | Order::AcqRel)
    }
    pub fn releases(self) -> bool {
        matches!(self, Order::Release | Order::AcqRel)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    Cta,
    Cluster,
    Gpu,
    Sys,
}

/// A load or store. Operands: loads have one destination per element and the base address as the last source;
/// stores have the base first, then one source per element.
pub struct Access {
    /// `None`: a generic address.
    pub space: Option<Space>,
    /// A parameter area of the register window instead of memory: (offset, bytes per thread). The base is unused.
    pub area: Option<(u32, u32)>,
    /// Width of the base register; a constant base has `W64`.
    pub base: Width,
    pub offset: i64,
    /// Type of one element, as moved: its size is what memory sees.
    pub ty: Type,
    /// Elements per thread: 1, 2, 4, 8.
    pub elements: u8,
    /// Width of each element's register: a load extends to it (sign-extends signed types).
    pub register: Width,
    /// The bytes of a load that anybody wants: the first, and how many. Compilers widen loads and leave registers
    /// unread; what goes there is not checked to have been written.
    pub wanted: (u8, u8),
    /// Bytes of the registers as declared: a load extends to them.
    pub register_bytes: u8,
    pub order: Order,
    pub scope: Scope,
    /// `ld.global.nc`
    pub non_coherent: bool,
}

impl Access {
    /// Bytes that one thread moves.
    pub fn bytes(&self) -> usize {
        self.ty.size() * self.elements as usize
    }
}

/// `atom`, `red`. Operands: dst (none for red), then base address, then one or two values (two: cas).
pub struct Atomic {
    pub space: Option<Space>,
    pub base: Width,
    pub offset: i64,
    pub ty: Type,
    /// `.vec` forms: elements per thread.
    pub elements: u8,
    pub op: AtomicOp,
    pub order: Order,
    pub scope: Scope,
    pub returns: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtomicOp {
    And,
    Or,
    Xor,
    Exch,
    Add,
    Inc,
    Dec,
    Min,
    Max,
    Cas,
}

/// A call: the callee's frame gets the arguments' bytes, and the results come back the same way.
pub struct Call {
    pub target: Target,
    /// Argument areas in the caller's window, in the callee's order: (offset of the area, bytes per thread).
    pub arguments: Vec<(u32, u32)>,
    pub results: Vec<(u32, u32)>,
}

pub enum Target {
    /// Index in [`Kernel::functions`].
    Direct(u32),
    /// The address is the first source.
    Indirect,
    /// `vprintf`, `__assertfail` and others that the driver provides.
    Builtin(Builtin),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builtin {
    Printf,
    AssertFail,
    Malloc,
    Free,
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
    /// Constants' bytes, laid out as slots (aligned to 64 by whoever runs it).
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
    /// Bytes at the beginning of shared memory that are the system's: [`RESERVED_SHARED`] or none.
    pub reserved_shared: u32,
    /// Where static shared memory ends as laid out here.
    pub shared_end: u32,
    /// Declared alignment of the dynamic part (the greatest of its variables), 0 without one.
    pub dynamic_align: u32,
    /// Dynamic shared memory's first byte: no better aligned than declared.
    pub dynamic_base: u32,
    pub limits: crate::ptx::ast::Limits,
    /// Whether any instruction needs the async proxy, a cluster, …: set by the lowering for launch checks.
    pub uses_grid_dependency: bool,
}
