//! Counts what a launch does while it runs: instructions always, memory traffic where the settings ask for it.
//! [`crate::counters`] makes a launch's counters of it.

mod touched;
pub mod traffic;

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::grid::Run;
use crate::ir::Class;
use crate::ir::regs::LANES;
use crate::memory::Allocation;

pub use touched::{Dram, Sectors, Touch, Touched};

/// Warps' requests to global memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    pub requests: u64,
    /// Distinct sectors of 32 bytes in each request, added up: 32 times this is asked of L2 (the L1 cache counts as
    /// empty).
    pub sectors: u64,
    /// The fewest sectors that each request's distinct bytes fit in, added up.
    pub ideal_sectors: u64,
    /// Distinct bytes of each request, added up.
    pub useful_bytes: u64,
}

impl Requests {
    /// Bytes asked of L2.
    pub fn bytes(&self) -> u64 {
        self.sectors * traffic::SECTOR
    }

    pub(crate) fn add(&mut self, more: &Requests) {
        self.requests += more.requests;
        self.sectors += more.sectors;
        self.ideal_sectors += more.ideal_sectors;
        self.useful_bytes += more.useful_bytes;
    }
}

/// Warps' requests to shared memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waves {
    pub requests: u64,
    /// Passes through the banks that they took.
    pub wavefronts: u64,
    /// The fewest that accesses of their width take.
    pub ideal: u64,
}

impl Waves {
    /// Wavefronts beyond the fewest: bank conflicts.
    pub fn conflicts(&self) -> u64 {
        self.wavefronts - self.ideal
    }

    pub(crate) fn add(&mut self, more: &Waves) {
        self.requests += more.requests;
        self.wavefronts += more.wavefronts;
        self.ideal += more.ideal;
    }
}

/// Bulk copies (`cp.async.bulk`), with tensor maps and without.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkCopies {
    /// Copies into shared memory, a multicast as one, and the bytes that arrive there: in every block.
    pub loads: u64,
    pub loaded_bytes: u64,
    /// Bytes of these that a multicast did not ask for again.
    pub saved_bytes: u64,
    /// Copies into global memory.
    pub stores: u64,
    pub stored_bytes: u64,
    /// Phases of mbarriers that copies were issued for: k-blocks of a pipeline.
    pub filled: u64,
    /// For how many phases, its own among them, copies had been issued that nobody had found complete yet: when the first
    /// copy for each phase was issued, added up; and the most.
    pub ahead: u64,
    pub most_ahead: u64,
}

impl BulkCopies {
    fn add(&mut self, more: &BulkCopies) {
        self.loads += more.loads;
        self.loaded_bytes += more.loaded_bytes;
        self.saved_bytes += more.saved_bytes;
        self.stores += more.stores;
        self.stored_bytes += more.stored_bytes;
        self.filled += more.filled;
        self.ahead += more.ahead;
        self.most_ahead = self.most_ahead.max(more.most_ahead);
    }

    /// Copies are issued for a phase, the last of `ahead` that nobody has found complete.
    pub(crate) fn fill(&mut self, ahead: usize) {
        self.filled += 1;
        self.ahead += ahead as u64;
        self.most_ahead = self.most_ahead.max(ahead as u64);
    }
}

/// Executions of one instruction.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Count {
    /// Times that a warp issued it.
    pub issued: u64,
    /// Lanes that executed it, over all of these times.
    pub lanes: u64,
    /// Times that its guard left no lane.
    pub skipped: u64,
}

/// What was counted of the blocks that one [`Block`](super::block::Block) ran, one after the other. The meters are summed
/// at the end of the launch.
pub struct Meter {
    pub(crate) counts: Vec<Count>,
    /// Warps that came to a barrier of their block.
    pub(crate) barriers: u64,
    /// Times that a warp found an mbarrier's phase incomplete: by the mbarrier's offset in shared memory and the instruction.
    pub(crate) waits: HashMap<(u32, u32), u64>,
    pub(crate) bulk: BulkCopies,
    /// Bytes of local memory read and written.
    pub(crate) local: [u64; 2],
    /// Memory traffic, which costs time to count.
    pub(crate) memory: Option<Box<Memory>>,
}

/// Memory traffic by instruction.
pub(crate) struct Memory {
    class: Vec<Class>,
    pub requests: Vec<Requests>,
    pub waves: Vec<Waves>,
    pub local: Vec<u64>,
    touched: Arc<Touched>,
    /// Allocations met so far, and which of them last.
    known: Vec<Arc<Sectors>>,
    last: usize,
    /// The request at hand goes through the constant cache.
    constant: bool,
}

impl Meter {
    pub fn new(run: &Run<'_>) -> Self {
        let insts = &run.kernel.insts;
        let memory = run.settings.counters.then(|| {
            Box::new(Memory {
                class: insts.iter().map(|inst| inst.class).collect(),
                requests: vec![Requests::default(); insts.len()],
                waves: vec![Waves::default(); insts.len()],
                local: vec![0; insts.len()],
                touched: run.touched.clone(),
                known: Vec::new(),
                last: 0,
                constant: false,
            })
        });
        Self {
            counts: vec![Count::default(); insts.len()],
            barriers: 0,
            waits: HashMap::new(),
            bulk: BulkCopies::default(),
            local: [0; 2],
            memory,
        }
    }

    /// A warp issues an instruction, which the lanes of `mask` execute.
    #[inline(always)]
    pub fn count(&mut self, pc: u32, mask: u32) {
        let count = &mut self.counts[pc as usize];
        count.issued += 1;
        count.lanes += u64::from(mask.count_ones());
        count.skipped += u64::from(mask == 0);
    }

    /// One warp's request to global memory: `bytes` bytes per lane.
    #[inline]
    pub fn global(&mut self, pc: u32, mask: u32, addresses: &[u64; LANES], bytes: usize) {
        if let Some(memory) = &mut self.memory {
            memory.global(pc, mask, addresses, bytes);
        }
    }

    /// The part of it that lies in one allocation.
    #[inline]
    pub fn touched(
        &mut self,
        allocation: &Allocation,
        mask: u32,
        offsets: &[u64; LANES],
        bytes: usize,
        read: bool,
    ) {
        if let Some(memory) = &mut self.memory {
            memory.touched(allocation, mask, offsets, bytes, read);
        }
    }

    /// One warp's request to shared memory: `bytes` bytes per lane.
    #[inline]
    pub fn shared(&mut self, pc: u32, mask: u32, offsets: &[u64; LANES], bytes: usize) {
        if let Some(memory) = &mut self.memory {
            memory.shared(pc, mask, offsets, bytes);
        }
    }

    /// An ldmatrix or stmatrix of this many tiles, a row of 16 bytes per lane.
    #[inline]
    pub fn matrix(&mut self, pc: u32, tiles: usize, rows: &[u64; LANES]) {
        if let Some(memory) = &mut self.memory {
            let mask = u32::MAX >> (32 - 8 * tiles);
            memory.shared(pc, mask, rows, 16);
        }
    }

    /// Eight rows of 16 bytes that wgmma reads.
    #[inline]
    pub fn core(&mut self, pc: u32, rows: &[u64; 8]) {
        if let Some(memory) = &mut self.memory {
            let mut offsets = [0; LANES];
            offsets[..8].copy_from_slice(rows);
            memory.shared(pc, 0xff, &offsets, 16);
        }
    }

    /// A warp finds an mbarrier's phase incomplete.
    pub fn mbarrier_wait(&mut self, offset: u32, pc: u32) {
        *self.waits.entry((offset, pc)).or_default() += 1;
    }

    /// One warp's access to local memory: `bytes` bytes per lane.
    #[inline]
    pub fn local(&mut self, pc: u32, mask: u32, bytes: usize, read: bool) {
        let bytes = u64::from(mask.count_ones()) * bytes as u64;
        self.local[usize::from(!read)] += bytes;
        if let Some(memory) = &mut self.memory {
            memory.local[pc as usize] += bytes;
        }
    }

    /// A warp arrives at a barrier of its block.
    #[inline]
    pub fn barrier_wait(&mut self) {
        self.barriers += 1;
    }

    /// Adds what another host thread counted.
    pub fn add(&mut self, other: &Meter) {
        for (sum, more) in self.counts.iter_mut().zip(&other.counts) {
            sum.issued += more.issued;
            sum.lanes += more.lanes;
            sum.skipped += more.skipped;
        }
        self.barriers += other.barriers;
        for (&at, times) in &other.waits {
            *self.waits.entry(at).or_default() += times;
        }
        self.bulk.add(&other.bulk);
        self.local[0] += other.local[0];
        self.local[1] += other.local[1];
        if let (Some(sum), Some(more)) = (&mut self.memory, &other.memory) {
            let add = |sum: &mut u64, more: &u64| *sum += more;
            sum.local.iter_mut().zip(&more.local).for_each(|(s, m)| add(s, m));
            sum.waves.iter_mut().zip(&more.waves).for_each(|(s, m)| s.add(m));
            sum.requests
                .iter_mut()
                .zip(&more.requests)
                .for_each(|(s, m)| s.add(m));
        }
    }
}

impl Memory {
    fn global(&mut self, pc: u32, mask: u32, addresses: &[u64; LANES], bytes: usize) {
        self.constant = self.class[pc as usize] == Class::LoadConst;
        if self.constant || mask == 0 {
            return;
        }
        let (sectors, distinct) = traffic::sectors(mask, addresses, bytes);
        self.requests[pc as usize].add(&Requests {
            requests: 1,
            sectors: sectors.into(),
            ideal_sectors: u64::from(distinct).div_ceil(traffic::SECTOR),
            useful_bytes: distinct.into(),
        });
    }

    fn touched(
        &mut self,
        allocation: &Allocation,
        mask: u32,
        offsets: &[u64; LANES],
        bytes: usize,
        read: bool,
    ) {
        if self.constant {
            return;
        }
        let serial = allocation.serial();
        if self.known.get(self.last).is_none_or(|s| s.serial() != serial) {
            self.last = match self.known.iter().position(|s| s.serial() == serial) {
                Some(index) => index,
                None => {
                    self.known.push(self.touched.of(allocation));
                    self.known.len() - 1
                }
            };
        }
        self.known[self.last].touch(mask, offsets, bytes, read);
    }

    fn shared(&mut self, pc: u32, mask: u32, offsets: &[u64; LANES], bytes: usize) {
        if mask == 0 {
            return;
        }
        let one_by_one = self.class[pc as usize] == Class::Atomic;
        let (wavefronts, ideal) = traffic::wavefronts(mask, offsets, bytes, one_by_one);
        self.waves[pc as usize].add(&Waves {
            requests: 1,
            wavefronts: wavefronts.into(),
            ideal: ideal.into(),
        });
    }
}
