//! The state beside memory: initialised bytes, last accesses.

use crate::memory::clocks::Who;
use crate::memory::launch::Launch;
use crate::program::Scope;

/// Whose memory a [`Shadow`] describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// Global memory: several blocks, many launches.
    Global,
    /// One block's shared memory.
    Shared,
}

/// How an access is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Weak,
    /// Volatile, relaxed, acquire, release, atomic: strong at this scope.
    Strong(Scope),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RaceKind {
    ReadAfterWrite,
    WriteAfterRead,
    WriteAfterWrite,
}

/// A thread, for messages. `warp` ≥ the block's number of warps: an asynchronous agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thread {
    /// Linear index of the block in the grid.
    pub block: u32,
    pub warp: u32,
    pub lane: u32,
}

impl Thread {
    /// Linear index of the thread in its block.
    pub fn in_block(&self) -> u32 {
        self.warp * 32 + self.lane
    }
}

/// An earlier access that the present one is not ordered after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Race {
    pub kind: RaceKind,
    /// First byte (offset in the shadow) of the present access that the other touched too, or of its word where
    /// only the word is known.
    pub offset: u64,
    pub other: Thread,
    /// Several lanes of the other's warp did it together; `other` is one of them.
    pub other_many: bool,
    /// Instruction index of the other's access; `None` in a kernel of more than a million instructions.
    pub other_pc: Option<u32>,
    pub other_how: How,
    /// The other is an asynchronous agent (a bulk copy, …).
    pub other_async: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hazard {
    /// The first byte that was never written.
    Uninitialised {
        offset: u64,
    },
    Race(Race),
    /// An asynchronous copy that was not waited for writes here.
    AsyncPending {
        offset: u64,
        issuer: Thread,
        issuer_pc: Option<u32>,
    },
}

/// What an earlier launch did to a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touch {
    pub offset: u64,
    pub wrote: bool,
    pub thread: Thread,
    pub pc: Option<u32>,
}

/// Initialised bits and access stamps of a piece of memory. Offsets are in bytes from its start.
///
/// May be used by several host threads at once (`&self`), each running blocks of its own.
pub struct Shadow {
    bytes: u64,
}

impl Shadow {
    /// For `bytes` bytes, nothing initialised, never touched. Costs memory as it is touched.
    pub fn new(bytes: u64, _domain: Domain) -> Self {
        Self { bytes }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A lane reads `bytes` (1 to 32) bytes.
    #[inline]
    pub fn read(
        &self,
        _offset: u64,
        _bytes: usize,
        _who: &Who<'_>,
        _lane: usize,
        _how: How,
        _pc: u32,
    ) -> Result<(), Hazard> {
        Ok(())
    }

    /// A lane writes. `same_value`: memory holds these very bytes already, so an unordered write of another
    /// thread is no race. Marks the bytes initialised.
    #[inline]
    #[allow(clippy::too_many_arguments)]
    pub fn write(
        &self,
        _offset: u64,
        _bytes: usize,
        _who: &Who<'_>,
        _lane: usize,
        _how: How,
        _same_value: bool,
        _pc: u32,
    ) -> Result<(), Hazard> {
        Ok(())
    }

    /// A lane reads and writes atomically (`atom`, `red`).
    #[inline]
    pub fn atomic(
        &self,
        _offset: u64,
        _bytes: usize,
        _who: &Who<'_>,
        _lane: usize,
        _scope: Scope,
        _pc: u32,
    ) -> Result<(), Hazard> {
        Ok(())
    }

    /// [`Shadow::read`] for the lanes of `mask`, each at its own offset; the first lane with a hazard.
    pub fn read_lanes(
        &self,
        offsets: &[u64; 32],
        mask: u32,
        bytes: usize,
        who: &Who<'_>,
        how: How,
        pc: u32,
    ) -> Result<(), (usize, Hazard)> {
        for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
            self.read(offsets[lane], bytes, who, lane, how, pc)
                .map_err(|hazard| (lane, hazard))?;
        }
        Ok(())
    }

    /// [`Shadow::write`] for the lanes of `mask`; `same_value` has a bit per lane.
    #[allow(clippy::too_many_arguments)]
    pub fn write_lanes(
        &self,
        offsets: &[u64; 32],
        mask: u32,
        bytes: usize,
        who: &Who<'_>,
        how: How,
        same_value: u32,
        pc: u32,
    ) -> Result<(), (usize, Hazard)> {
        for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
            self.write(
                offsets[lane],
                bytes,
                who,
                lane,
                how,
                same_value >> lane & 1 != 0,
                pc,
            )
            .map_err(|hazard| (lane, hazard))?;
        }
        Ok(())
    }

    /// `cp.async` was issued: these bytes are nobody's until [`Shadow::complete_pending`]. Checked as a write of
    /// the issuing thread.
    pub fn mark_pending(
        &self,
        _offset: u64,
        _bytes: usize,
        _who: &Who<'_>,
        _lane: usize,
        _pc: u32,
    ) -> Result<(), Hazard> {
        Ok(())
    }

    /// The issuing thread has waited: the bytes count as written by it now. `pc` is the copy's.
    pub fn complete_pending(&self, _offset: u64, _bytes: usize, _who: &Who<'_>, _lane: usize, _pc: u32) {}

    /// The first byte that was never written, without regard to races.
    pub fn first_uninitialised(&self, _offset: u64, _bytes: u64) -> Option<u64> {
        None
    }

    /// Marks bytes as initialised (a copy from the host, a memset).
    pub fn set_initialised(&self, _offset: u64, _bytes: u64) {}

    /// Marks bytes as never written.
    pub fn set_uninitialised(&self, _offset: u64, _bytes: u64) {}

    /// What launch number `number` last did to these bytes, if its stamps are still there.
    pub fn touched_by_launch(
        &self,
        _offset: u64,
        _bytes: usize,
        _launch: &Launch,
        _number: u64,
    ) -> Option<Touch> {
        None
    }
}
