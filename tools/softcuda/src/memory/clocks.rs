//! What the threads of a block know of each other's accesses.

use std::marker::PhantomData;

use crate::memory::launch::Launch;
use crate::memory::shadow::Shadow;
use crate::program::{Order, Scope};

/// A location that is used to synchronise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Var {
    /// Offset in the block's shared memory.
    Shared(u32),
    /// Device address.
    Global(u64),
}

/// What a releasing thread knew: to be joined into others' knowledge. Cheap to clone.
#[derive(Clone, Default)]
pub struct Published {}

impl Published {
    /// Both together (several arrivals at one barrier).
    pub fn join(&mut self, _other: &Published) {}
}

/// Who makes an access: one warp (or asynchronous agent) at its present clock. Made once per warp instruction.
#[derive(Clone, Copy)]
pub struct Who<'a> {
    _clocks: PhantomData<&'a BlockClocks>,
}

/// Clocks and knowledge of one block. One host thread owns it together with the block's shared [`Shadow`] and
/// reuses both for the blocks that it runs one after the other.
pub struct BlockClocks {
    warps: usize,
}

impl BlockClocks {
    /// Asynchronous agents that a block has room for, beyond its warps.
    pub const ASYNC_AGENTS: usize = 16;

    /// Call [`BlockClocks::begin_block`] before anything else.
    pub fn new(_launch: &Launch) -> Self {
        Self { warps: 0 }
    }

    /// A block begins: `threads` threads, `shared_bytes` bytes of shared memory, of which nothing is initialised
    /// and nothing touched. `shared` must be the same one every time, and long enough.
    pub fn begin_block(&mut self, _block: u32, threads: u32, _shared: &Shadow, _shared_bytes: u64) {
        self.warps = threads.div_ceil(32) as usize;
    }

    /// For the accesses of one warp instruction.
    #[inline]
    pub fn who(&self, _warp: usize) -> Who<'_> {
        Who { _clocks: PhantomData }
    }

    /// Lanes that have exited take no part in warp-wide knowledge any more.
    pub fn exit(&mut self, _warp: usize, _lanes: u32) {}

    /// A barrier of these warps' lanes completes at once: (warp, lanes). For `bar.sync` of a whole block or with
    /// subsets when all participants wait; with `bar.arrive` use `release` and `acquire`.
    pub fn barrier(&mut self, _participants: &[(usize, u32)]) {}

    /// `bar.warp.sync` by the lanes of `mask`, and other instructions that order memory among the lanes of a
    /// warp. `shfl`, `vote`, … do not.
    pub fn warp_sync(&mut self, _warp: usize, _mask: u32) {}

    /// `fence.acq_rel`, `fence.sc`, `membar` by the lanes of `mask`.
    pub fn fence(&mut self, _warp: usize, _mask: u32, _scope: Scope) {}

    /// The lanes of `mask` release (arrive at a barrier): what they know now. Their later accesses are not in it.
    pub fn release(&mut self, _warp: usize, _mask: u32) -> Published {
        Published::default()
    }

    /// The lanes of `mask` acquire (wait has ended).
    pub fn acquire(&mut self, _warp: usize, _mask: u32, _published: &Published) {}

    /// *Before* memory is written by a strong store or an atomic operation (`rmw`) of these lanes at `var`:
    /// publishes what they release there. Once per address (and element of a vector).
    pub fn before_strong_write(
        &mut self,
        _warp: usize,
        _mask: u32,
        _var: Var,
        _order: Order,
        _scope: Scope,
        _rmw: bool,
    ) {
    }

    /// *After* memory was read by a strong load or an atomic operation of these lanes at `var`: acquires what was
    /// published there, now or at the next fence.
    pub fn after_strong_read(&mut self, _warp: usize, _mask: u32, _var: Var, _order: Order, _scope: Scope) {}

    /// An asynchronous agent for operations that complete at `key` (an mbarrier's offset, a group's number): the
    /// same key gives the same agent, of [`BlockClocks::ASYNC_AGENTS`].
    pub fn async_agent(&mut self, _key: u64) -> usize {
        self.warps
    }

    /// The agent starts an operation for a thread: it knows what the thread knows. Nobody knows of the
    /// operation's accesses, the thread included, until they acquire what `async_end` returns.
    pub fn async_begin(&mut self, _agent: usize, _warp: usize, _lane: usize) {}

    /// For the accesses of the agent's operation.
    pub fn who_async(&self, _agent: usize) -> Who<'_> {
        Who { _clocks: PhantomData }
    }

    /// The agent's operation is complete: what is known to who waits for it.
    pub fn async_end(&mut self, _agent: usize) -> Published {
        Published::default()
    }
}
