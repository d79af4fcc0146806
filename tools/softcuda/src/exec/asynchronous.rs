//! Copies that run beside the threads, and the barriers in shared memory that they can arrive at.

use crate::program::{Order, Scope};
use crate::regs::Width;

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
