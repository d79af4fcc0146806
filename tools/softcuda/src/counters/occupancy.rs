//! How many blocks a multiprocessor holds, and what limits them.

use serde::Serialize;

use crate::run::profile::{Profile, WARP};

/// Registers are given to warps in this many.
const REGISTER_UNIT: u32 = 256;
/// Shared memory is given to blocks in this many bytes.
const SHARED_UNIT: u32 = 128;
/// Each has a quarter of the registers, and warps of its own.
const PARTITIONS: u32 = 4;

/// Blocks that fit on one multiprocessor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Occupancy {
    /// By each limit; registers only where their number is known.
    pub limits: Vec<(Limit, u32)>,
    /// The least of them.
    pub blocks: u32,
    pub warps: u32,
    pub most_warps: u32,
    /// As given, per thread.
    pub registers: Option<u32>,
}

/// What limits the number of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    Threads,
    Blocks,
    Registers,
    SharedMemory,
}

impl Limit {
    pub const fn name(self) -> &'static str {
        match self {
            Limit::Threads => "threads",
            Limit::Blocks => "blocks",
            Limit::Registers => "registers",
            Limit::SharedMemory => "shared memory",
        }
    }
}

impl Occupancy {
    /// The limits that bind.
    pub fn binding(&self) -> impl Iterator<Item = Limit> {
        self.limits
            .iter()
            .filter(|(_, blocks)| *blocks == self.blocks)
            .map(|(limit, _)| *limit)
    }
}

/// Occupancy with blocks of `threads` threads, `registers` registers per thread (as `ptxas -v` says) and `shared`
/// bytes of shared memory, of which the multiprocessor gives as much as it can.
pub fn occupancy(profile: &Profile, threads: u32, registers: Option<u32>, shared: u32) -> Occupancy {
    let warps = threads.div_ceil(WARP).max(1);
    let most_warps = profile.threads_per_multiprocessor / WARP;
    let mut limits = vec![
        (Limit::Threads, most_warps / warps),
        (Limit::Blocks, profile.blocks_per_multiprocessor),
    ];
    if let Some(registers) = registers {
        let per_warp = (registers * WARP)
            .next_multiple_of(REGISTER_UNIT)
            .max(REGISTER_UNIT);
        // A block's warps are checked as if every partition had as many.
        let fits = per_warp * warps.next_multiple_of(PARTITIONS) <= profile.registers_per_block;
        let warps_at_once = profile.registers_per_multiprocessor / PARTITIONS / per_warp * PARTITIONS;
        limits.push((Limit::Registers, if fits { warps_at_once / warps } else { 0 }));
    }
    let taken = (shared + profile.shared_reserved).next_multiple_of(SHARED_UNIT);
    let by_shared = if shared > profile.shared_per_block_optin {
        0
    } else {
        profile.shared_per_multiprocessor / taken
    };
    limits.push((Limit::SharedMemory, by_shared));
    let blocks = limits.iter().map(|(_, blocks)| *blocks).min().unwrap_or(0);
    Occupancy {
        limits,
        blocks,
        warps: blocks * warps,
        most_warps,
        registers,
    }
}
