//! What instructions do: [`Op`] and the data that each kind carries.

use super::hopper::{Bulk, WarpGroup};
use super::regs::{Regs, Slot, Width};
use crate::ptx::ast::{Space, Type};

/// A pure register instruction: reads source slots, writes destination slots in the lanes of `mask`.
///
/// `ops` holds the destinations first, then the sources, as the lowering gave them in [`Code`](super::Code). A
/// destination may be one of the sources; slots are the same or disjoint. Lanes outside of `mask` may be computed (they
/// hold some old value) but not written, and must not panic.
pub type Alu = fn(regs: Regs, ops: &[Slot], mask: u32);

/// What an instruction does.
pub enum Op {
    Alu(Alu),
    /// Does nothing (prefetches, `.pragma`-like hints, `pmevent`).
    Nop,
    /// Reads a special register into the first destination.
    Special(Special),
    /// `bra`: to the instruction's index; where the two paths reconverge (`None`: only at the end).
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
    /// Barriers, fences and what the lanes of a warp do together.
    Sync(Box<Sync>),
    /// `cp.async` and mbarriers.
    Async(Box<Async>),
    /// ldmatrix and stmatrix.
    Matrix(Box<MatrixCopy>),
    /// `cp.async.bulk`
    Bulk(Box<Bulk>),
    /// `wgmma` and `setmaxnreg`.
    WarpGroup(Box<WarpGroup>),
}

/// A special register, or another value that depends on the thread's position.
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

impl Special {
    /// The special register of this name (without the percent sign).
    pub fn named(name: &str) -> Option<Self> {
        use self::LaneMask as Lanes;
        use Special::*;
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
    /// Index in [`Kernel::functions`](super::Kernel::functions).
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

/// Barriers, fences and warp-level instructions, with their operands (destinations first).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// `bar`, `barrier`: src id, then the thread count if `counted`, then the predicate of a reduction.
    Barrier {
        kind: BarrierKind,
        aligned: bool,
        counted: bool,
    },
    /// `bar.warp.sync`: src mask.
    Warp,
    /// `fence`, `membar`.
    Fence { scope: Scope, order: FenceOrder },
    /// `shfl.sync`: dst value (and predicate if `valid`), src a, b, c, mask.
    Shuffle { mode: Shuffle, valid: bool },
    /// `vote.sync`: dst, src predicate, mask.
    Vote(Vote),
    /// `match.sync`: dst mask (and predicate), src value, mask.
    Match { all: bool, wide: bool, valid: bool },
    /// `redux.sync`: dst, src value, mask.
    Redux(Redux),
    /// `elect.sync`: dst lane, predicate, src mask.
    Elect,
    /// `activemask`: dst.
    ActiveMask,
    /// `nanosleep`: lets others go on.
    Sleep,
    /// `griddepcontrol.wait`
    GridDependencyWait,
    /// `griddepcontrol.launch_dependents`
    GridDependencyLaunch,
    /// `barrier.cluster.arrive` (release unless relaxed).
    ClusterArrive { order: Order, aligned: bool },
    /// `barrier.cluster.wait`
    ClusterWait { aligned: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarrierKind {
    Sync,
    Arrive,
    Popc,
    And,
    Or,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceOrder {
    AcqRel,
    Sc,
    /// `fence.proxy.…`: between this thread's accesses of different kinds.
    Proxy,
    /// `fence.mbarrier_init`: the thread's initialised mbarriers are to be used by others.
    MbarrierInit,
    /// The same where the other kind is that of bulk copies and wgmma in shared memory: `fence.proxy.async`.
    AsyncProxy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redux {
    Add,
    MinU,
    MaxU,
    MinS,
    MaxS,
    And,
    Or,
    Xor,
}

/// One asynchronous instruction with its operands (destinations first).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Async {
    /// `cp.async`: src destination address, source address, then the number of bytes to read if `sized` (the rest
    /// is zero), or the predicate that says to read nothing if `ignore`.
    Copy {
        bytes: u8,
        destination: Place,
        source: Place,
        sized: bool,
        ignore: bool,
    },
    /// `cp.async.commit_group`
    Commit,
    /// `cp.async.wait_group n`
    Wait(u32),
    /// `cp.async.wait_all`
    WaitAll,
    /// `cp.async.mbarrier.arrive`: src address.
    ArriveOnCompletion { place: Place, counted: bool },
    /// `mbarrier.init`: src address, count.
    Init(Place),
    /// `mbarrier.inval`: src address.
    Invalidate(Place),
    /// `mbarrier.arrive`: dst state if `state`; src address, then the transaction bytes if `expect`, then the
    /// count if `counted`.
    Arrive {
        place: Place,
        state: bool,
        counted: bool,
        expect: bool,
        drop: bool,
        order: Order,
        scope: Scope,
    },
    /// `mbarrier.expect_tx`, `mbarrier.complete_tx`: src address, bytes.
    Transaction { place: Place, complete: bool },
    /// `mbarrier.test_wait`, `try_wait`: dst predicate; src address, then state or parity.
    TestWait {
        place: Place,
        parity: bool,
        /// `try_wait`: the thread may be put to sleep for a while.
        suspend: bool,
        order: Order,
        scope: Scope,
    },
    /// `mbarrier.pending_count`: dst count; src state.
    PendingCount,
}

/// How an address operand is written: the width of its base, a constant offset, whether it is in the shared window
/// or generic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub base: Width,
    pub offset: i64,
    pub generic: bool,
}

/// One `ldmatrix` (dst 1, 2 or 4 registers; src address) or `stmatrix` (src address, then the registers).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatrixCopy {
    pub load: bool,
    pub tiles: u8,
    pub transposed: bool,
    pub place: Place,
}
