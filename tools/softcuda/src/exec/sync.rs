//! Instructions by which threads meet: barriers, fences, and what lanes of a warp do together.

use crate::program::{Order, Scope};

/// What an instruction of this kind does, with its operands (destinations first).
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
    /// `fence.mbarrier_init`, `fence.proxy.…`: between this thread's accesses of different kinds.
    Proxy,
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
