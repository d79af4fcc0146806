//! What a launch did, counted.

use crate::exec::grid::Run;
use crate::memory::Allocation;

/// Counters of the blocks that one host thread ran; added up at the end of the launch.
pub struct Meter {
    /// Executions by instruction: warps, and lanes in all.
    pub executed: Vec<[u64; 2]>,
    /// Whether memory traffic is counted too, which costs time.
    pub detailed: bool,
}

impl Meter {
    pub fn new(run: &Run<'_>) -> Self {
        Self {
            executed: vec![[0; 2]; run.kernel.insts.len()],
            detailed: run.settings.counters,
        }
    }

    pub fn begin_block(&mut self) {}

    pub fn end_block(&mut self) {}

    #[inline(always)]
    pub fn count(&mut self, pc: u32, mask: u32) {
        let count = &mut self.executed[pc as usize];
        count[0] += u64::from(mask != 0);
        count[1] += u64::from(mask.count_ones());
    }

    /// One warp's request to global memory: `bytes` bytes per lane.
    #[inline]
    pub fn global(&mut self, _pc: u32, _mask: u32, _addresses: &[u64; 32], _bytes: usize, _read: bool) {}

    /// The part of it that lies in one allocation.
    #[inline]
    pub fn touched(
        &mut self,
        _allocation: &Allocation,
        _mask: u32,
        _offsets: &[u64; 32],
        _bytes: usize,
        _read: bool,
    ) {
    }

    /// One warp's request to shared memory.
    #[inline]
    pub fn shared(&mut self, _pc: u32, _mask: u32, _offsets: &[u64; 32], _bytes: usize) {}

    /// An ldmatrix or stmatrix of this many tiles, a row of 16 bytes per lane.
    #[inline]
    pub fn matrix(&mut self, _pc: u32, _tiles: usize, _rows: &[u64; 32]) {}

    /// A warp arrives at a barrier.
    #[inline]
    pub fn barrier_wait(&mut self, _pc: u32) {}

    pub fn add(&mut self, other: &Meter) {
        for (sum, more) in self.executed.iter_mut().zip(&other.executed) {
            sum[0] += more[0];
            sum[1] += more[1];
        }
    }
}
