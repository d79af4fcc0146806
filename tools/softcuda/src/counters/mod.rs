//! Counters of a launch: instructions, matrix work, memory traffic, bank conflicts; and the report made of them.
//!
//! Everything here is counted on the PTX as it ran, so it is exact for the kernel's algorithm and a model of the
//! hardware: ptxas may merge, split, remove or move instructions; a cache holds nothing between requests (bytes asked
//! of L2) or everything (bytes of DRAM); bank conflicts follow the rules in [`traffic`]. The counters do not depend on the
//! number of host threads or their order, except where the kernel itself does: loops that spin, and sectors of 32 bytes
//! of which one block reads a part and another writes a part.

mod gpu;
mod occupancy;
mod ptxas;
mod report;
mod roofline;
mod summary;
mod table;

use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use crate::run::meter::{BulkCopies, Dram, Requests, Touch, Waves, traffic};
pub use gpu::{Ceiling, GPUS, Gpu};
pub use occupancy::{Limit, Occupancy, occupancy};
pub use ptxas::{Figures, Ptxas};
pub use report::report;
pub use roofline::{Bound, Roofline, roofline};

/// Counters of one launch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub kernel: String,
    /// The device's key: `sm_90`.
    pub device: String,
    /// The launch's number on its device, from 1.
    pub launch: u64,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Bytes of shared memory per block.
    pub static_shared: u32,
    pub dynamic_shared: u32,
    pub blocks: u64,
    pub warps: u64,
    /// All instructions.
    pub instructions: Executed,
    /// By class, those that ran.
    pub classes: Vec<ClassCount>,
    /// Matrix instructions by type of A.
    pub matrix: Vec<MatrixCount>,
    /// Around the matrix instructions; none without them.
    pub matrix_blocks: Option<MatrixBlocks>,
    pub barriers: Barriers,
    #[serde(default)]
    pub bulk: BulkCopies,
    pub local: Local,
    /// Memory traffic; only where it was asked for (`SOFTCUDA_COUNTERS`).
    pub memory: Option<Memory>,
}

/// Executions of instructions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executed {
    /// Warp instructions issued, those whose guard left no lane among them.
    pub warps: u64,
    /// Lanes that executed them, in all.
    pub lanes: u64,
    /// Of `warps` those whose guard left no lane.
    pub skipped: u64,
}

/// Executions of one class of instructions ([`Class`](crate::ir::Class)).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassCount {
    pub class: String,
    #[serde(flatten)]
    pub executed: Executed,
}

/// Matrix instructions of one type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatrixCount {
    /// Type of A: `bf16`.
    pub ty: String,
    pub instructions: u64,
    /// 2·m·n·k each.
    pub flops: u64,
}

/// Instructions issued in the basic blocks that have matrix instructions, against the matrix instructions there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatrixBlocks {
    pub warps: u64,
    pub matrix: u64,
    /// The same of the block that issued most: the inner loop.
    pub hottest_warps: u64,
    pub hottest_matrix: u64,
    /// PTX lines of that block's first and last instruction.
    pub hottest_lines: [u32; 2],
}

/// Waiting for other threads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Barriers {
    /// Warps that came to a barrier of their block.
    pub arrivals: u64,
    /// Warps that looked whether an mbarrier's phase is complete. How often depends on the schedule.
    pub mbarrier_polls: u64,
    /// By mbarrier and instruction, those where a phase was found incomplete.
    #[serde(default)]
    pub mbarriers: Vec<MbarrierWaits>,
}

/// Waits of one instruction at one mbarrier.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MbarrierWaits {
    /// Its offset in the block's shared memory.
    pub offset: u32,
    /// The instruction's line, and the kernel's own that led there.
    pub at: Position,
    pub kernel_at: Position,
    /// Times that a warp found the phase incomplete, in all blocks. How often depends on the schedule.
    pub in_vain: u64,
}

/// Local memory: arrays indexed at run time, frames of calls; ptxas' spills come on top. Not part of
/// [`Memory::global`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Local {
    pub read_bytes: u64,
    pub written_bytes: u64,
}

/// Memory traffic of a launch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pub global: Global,
    pub dram: Dram,
    pub shared: Shared,
    /// By source line, in the order of the kernel's instructions.
    pub lines: Vec<Line>,
    /// By instruction, those that access global, shared or local memory.
    pub sites: Vec<Site>,
}

/// Requests to global memory by what makes them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Global {
    pub loads: Requests,
    pub stores: Requests,
    pub atomics: Requests,
    /// `cp.async`
    pub copies: Requests,
}

impl Global {
    pub fn total(&self) -> Requests {
        let mut total = self.loads;
        [self.stores, self.atomics, self.copies]
            .iter()
            .for_each(|more| total.add(more));
        total
    }
}

/// Requests to shared memory by what makes them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    pub loads: Waves,
    pub stores: Waves,
    /// ldmatrix and stmatrix
    pub matrix: Waves,
    /// What `cp.async` writes.
    pub copies: Waves,
    pub atomics: Waves,
    /// Operands of wgmma: eight rows of 16 bytes each.
    #[serde(default)]
    pub wgmma: Waves,
}

impl Shared {
    pub fn total(&self) -> Waves {
        let mut total = self.loads;
        [self.stores, self.matrix, self.copies, self.atomics, self.wgmma]
            .iter()
            .for_each(|more| total.add(more));
        total
    }
}

/// A position in a source file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// `PTX` for the lines of a module without `.loc`.
    pub file: String,
    pub line: u32,
}

/// What the instructions of one source line did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The line itself.
    pub at: Position,
    /// The inlined function that it is in.
    pub function: Option<String>,
    /// The kernel's own line that led there; the same without inlining.
    pub kernel_at: Position,
    pub executed: Executed,
    pub global: Requests,
    pub shared: Waves,
    pub local_bytes: u64,
}

/// What one instruction did to memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    pub ptx_line: u32,
    pub class: String,
    /// Index in [`Memory::lines`].
    pub line: usize,
    pub executed: Executed,
    pub global: Requests,
    pub shared: Waves,
    pub local_bytes: u64,
}

impl Counters {
    /// One line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain data")
    }

    /// Appends a line of JSON to a file, in one piece: several processes may write to one.
    pub fn append(&self, path: &Path) -> std::io::Result<()> {
        let mut line = self.to_json();
        line.push('\n');
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path)?;
        file.write_all(line.as_bytes())
    }

    /// Reads what [`Counters::append`] wrote.
    pub fn read(path: &Path) -> Result<Vec<Counters>, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut launches = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let counters = serde_json::from_str(line).map_err(|error| {
                format!(
                    "{}, line {}: {error}; this wants the file that a program run with SOFTCUDA_COUNTERS=FILE wrote",
                    path.display(),
                    index + 1
                )
            })?;
            launches.push(counters);
        }
        Ok(launches)
    }

    /// Lanes that took part in an instruction, on average.
    pub fn mean_lanes(&self) -> f64 {
        self.instructions.lanes as f64 / self.instructions.warps.max(1) as f64
    }

    /// Matrix work of all types.
    pub fn flops(&self) -> u64 {
        self.matrix.iter().map(|m| m.flops).sum()
    }

    /// Warp instructions and lanes of a class: `special`.
    pub fn class(&self, name: &str) -> Executed {
        self.classes
            .iter()
            .find(|c| c.class == name)
            .map_or_else(Executed::default, |c| c.executed)
    }
}

impl Executed {
    fn add(&mut self, more: &Executed) {
        self.warps += more.warps;
        self.lanes += more.lanes;
        self.skipped += more.skipped;
    }
}
