//! What sm_90 adds: bulk copies and the instructions of warpgroups.

use super::ops::{Alu, Place};

/// One `cp.async.bulk` with its operands. Coordinates are 32-bit registers, dimension 0 first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bulk {
    /// `.tensor`, global to shared: src destination, map, mbarrier, then `rank` coordinates, then the blocks of the
    /// cluster that a multicast goes to.
    TensorLoad {
        to: Place,
        map: Place,
        barrier: Place,
        rank: u8,
        multicast: bool,
    },
    /// `.tensor`, shared to global: src source, map, then `rank` coordinates.
    TensorStore { from: Place, map: Place, rank: u8 },
    /// Global to shared: src destination, source, mbarrier, bytes, blocks of a multicast.
    Load {
        to: Place,
        from: Place,
        barrier: Place,
        multicast: bool,
    },
    /// `st.async`: src destination, mbarrier, then `elements` values of `bytes` bytes.
    Put {
        to: Place,
        barrier: Place,
        elements: u8,
        bytes: u8,
    },
    /// Shared to global: src source, destination, bytes.
    Store { from: Place, to: Place },
    /// `.commit_group`
    Commit,
    /// `.wait_group n`; with `read` only for the sources to have been read.
    Wait { groups: u32, read: bool },
}

/// One instruction that the four warps of a warpgroup execute.
#[derive(Clone, Copy)]
pub enum WarpGroup {
    Multiply(Multiply),
    /// `wgmma.fence`
    Fence,
    /// `wgmma.commit_group`
    Commit,
    /// `wgmma.wait_group n`
    Wait(u32),
    /// `setmaxnreg`: registers per thread from here on.
    Registers {
        increase: bool,
        count: u32,
    },
}

/// One `wgmma.mma_async` of 64 rows and 32 bytes of k. Operands: dst D; src D, then A (four registers, or a descriptor),
/// then B's descriptor, then the predicate scale-d.
#[derive(Clone, Copy)]
pub struct Multiply {
    /// `mma.sync` of 16 rows and 8 columns with the same types and the same k: each warp's rows are a column of those.
    pub tile: Alu,
    /// Columns: 8 to 256.
    pub n: u16,
    pub a_in_registers: bool,
    /// Whether rows of 16 bytes in shared memory run along m (A), n (B) instead of along k.
    pub transposed: [bool; 2],
}
