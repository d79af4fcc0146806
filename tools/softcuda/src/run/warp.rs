//! One warp: its registers, and the program counters of its lanes.

use std::alloc::Layout;
use std::collections::VecDeque;

use super::wgmma::Products;
use crate::ir::Kernel;
use crate::ir::regs::{LANES, Regs};

/// Lanes of a warp that are at the same place. A split runs until it branches apart, ends or waits.
#[derive(Debug, Clone)]
pub struct Split {
    pub pc: u32,
    pub mask: u32,
    /// Calls, the kernel's own frame first.
    pub frames: Vec<Frame>,
    /// Meeting points that lie ahead, innermost last: indices into [`Warp::meets`].
    pub meets: Vec<u32>,
    pub wait: Wait,
}

/// A function at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub function: u32,
    /// Byte offset of its register window.
    pub window: u32,
    /// Offset of its frame in each thread's local memory.
    pub local: u32,
    /// Where its caller goes on, and the call's instruction (for results).
    pub return_pc: u32,
    pub call_pc: u32,
}

/// Why a split does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Ready,
    /// For the lanes of `need`, to execute the instruction together. Those of `passed` were waiting at a meeting
    /// point behind it and have gone on.
    Lanes {
        need: u32,
        passed: u32,
    },
    /// At a barrier of the block, with this number.
    Barrier(u32),
    /// At the cluster's barrier.
    Cluster,
    /// Looked at something that others must change (an mbarrier that is not complete, a sleep): runs again after
    /// the others.
    Poll {
        /// The mbarrier's offset.
        mbarrier: Option<u32>,
    },
}

impl Wait {
    /// The lanes needed, and those of them that went around the instruction.
    pub fn lanes(self) -> (u32, u32) {
        match self {
            Wait::Lanes { need, passed } => (need, passed),
            _ => (0, 0),
        }
    }
}

/// A reconvergence point of lanes that diverged.
#[derive(Debug, Clone)]
pub struct Meet {
    pub pc: u32,
    /// Number of frames there.
    pub depth: usize,
    pub expected: u32,
    pub arrived: u32,
    /// One of the arrived splits, to go on with (its mask is `arrived`).
    pub waiting: Option<Split>,
    pub used: bool,
}

/// Bytes aligned to 128 that may grow, zeroed when new.
pub struct Aligned {
    at: *mut u8,
    bytes: usize,
}

// SAFETY: plain owned memory.
unsafe impl Send for Aligned {}

impl Aligned {
    pub fn new(bytes: usize) -> Self {
        let bytes = bytes.max(128);
        let layout = Layout::from_size_align(bytes, 128).expect("a sane size");
        // SAFETY: the size is not zero.
        let at = unsafe { std::alloc::alloc_zeroed(layout) };
        if at.is_null() {
            std::alloc::handle_alloc_error(layout);
        }
        Self { at, bytes }
    }

    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut new = Self::new(bytes.len());
        new.as_mut()[..bytes.len()].copy_from_slice(bytes);
        new
    }

    /// Makes room for `bytes` bytes; keeps the contents.
    pub fn grow(&mut self, bytes: usize) {
        if bytes > self.bytes {
            let mut new = Self::new(bytes.next_power_of_two());
            new.as_mut()[..self.bytes].copy_from_slice(self.as_ref());
            *self = new;
        }
    }

    pub fn ptr(&self) -> *mut u8 {
        self.at
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `at` owns `bytes` initialised bytes.
        unsafe { std::slice::from_raw_parts(self.at, self.bytes) }
    }
}

impl AsMut<[u8]> for Aligned {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: `at` owns `bytes` initialised bytes, and `self` is borrowed uniquely.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.bytes) }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { std::alloc::dealloc(self.at, Layout::from_size_align_unchecked(self.bytes, 128)) }
    }
}

/// The copies of a `cp.async` that were issued and not yet waited for.
pub struct PendingCopies {
    pub lanes: u32,
    /// The group that they belong to, counted per lane from 0; the lanes' open group until it is committed.
    pub group: u32,
    pub offsets: [u32; LANES],
    pub data: [[u8; 16]; LANES],
    pub bytes: u8,
    pub pc: u32,
}

impl PendingCopies {
    /// Writes a lane's bytes to where they go in shared memory.
    pub fn put(&self, lane: usize, shared: &mut [u8]) {
        let bytes = usize::from(self.bytes);
        shared[self.offsets[lane] as usize..][..bytes].copy_from_slice(&self.data[lane][..bytes]);
    }
}

/// One warp of a block.
pub struct Warp {
    pub index: usize,
    /// Lanes that exist and have not exited.
    pub live: u32,
    pub splits: Vec<Split>,
    pub meets: Vec<Meet>,
    pub registers: Aligned,
    /// Local memory, one stretch of `local_bytes` for each lane.
    pub local: Vec<u8>,
    pub local_bytes: u32,
    /// Thread indices by axis and lane.
    pub tid: [[u32; 32]; 3],
    /// Groups committed so far, by lane.
    pub committed: [u32; 32],
    /// The oldest first.
    pub copies: VecDeque<PendingCopies>,
    /// Products under way (`wgmma`).
    pub(super) products: Products,
    /// The last `setmaxnreg`: registers per thread, and the instruction.
    pub registers_set: Option<(u32, u32)>,
    /// Instructions since some split last waited at a meeting point while others ran on.
    pub apart: u32,
    /// Those of them since anything was changed.
    pub idle: u32,
}

/// Most bytes of local memory that a thread's frames may take together (CUDA's limit is 512 KiB).
pub const LOCAL_LIMIT: u32 = 512 << 10;

impl Warp {
    pub fn new() -> Self {
        Self {
            index: 0,
            live: 0,
            splits: Vec::new(),
            meets: Vec::new(),
            registers: Aligned::new(0),
            local: Vec::new(),
            local_bytes: 0,
            tid: [[0; 32]; 3],
            committed: [0; 32],
            copies: VecDeque::new(),
            products: Products::default(),
            registers_set: None,
            apart: 0,
            idle: 0,
        }
    }

    /// Threads `32·index…` of a block of this shape begin the kernel.
    pub fn begin(&mut self, index: usize, shape: [u32; 3], kernel: &Kernel) {
        let threads = shape[0] * shape[1] * shape[2];
        let first = 32 * index as u32;
        self.index = index;
        self.live = match threads - first {
            32.. => u32::MAX,
            n => (1 << n) - 1,
        };
        for lane in 0..32 {
            let t = first + lane;
            self.tid[0][lane as usize] = t % shape[0];
            self.tid[1][lane as usize] = t / shape[0] % shape[1];
            self.tid[2][lane as usize] = t / shape[0] / shape[1];
        }
        let entry = &kernel.functions[0];
        self.registers.grow(entry.window as usize);
        self.local_bytes = 0;
        self.ensure_local(entry.local);
        self.splits.clear();
        self.splits.push(Split {
            pc: entry.entry,
            mask: self.live,
            frames: vec![Frame {
                function: 0,
                window: 0,
                local: 0,
                return_pc: 0,
                call_pc: 0,
            }],
            meets: Vec::new(),
            wait: Wait::Ready,
        });
        self.meets.clear();
        self.committed = [0; 32];
        self.copies.clear();
        self.products.clear();
        self.registers_set = None;
        self.apart = 0;
        self.idle = 0;
    }

    /// Copies of no lane any more go, up to the first that some lane has to wait for.
    pub fn forget_done_copies(&mut self) {
        let done = self.copies.iter().take_while(|copies| copies.lanes == 0).count();
        self.copies.drain(..done);
    }

    /// Room for `bytes` bytes of local memory in each thread; what is there stays.
    pub fn ensure_local(&mut self, bytes: u32) {
        if bytes <= self.local_bytes {
            return;
        }
        let bytes = bytes.next_multiple_of(16);
        let mut new = vec![0xffu8; 32 * bytes as usize];
        let old = self.local_bytes as usize;
        for lane in 0..32 {
            new[lane * bytes as usize..][..old].copy_from_slice(&self.local[lane * old..][..old]);
        }
        self.local = new;
        self.local_bytes = bytes;
    }

    /// The registers of a frame.
    pub fn regs(&self, window: u32, constants: &Aligned) -> Regs {
        // SAFETY: `begin` and calls make room for each window; both areas are aligned to 128 bytes, and the warp
        // is run by one host thread at a time.
        unsafe { Regs::new(self.registers.ptr().add(window as usize), constants.ptr()) }
    }

    /// A place in the table of meeting points.
    pub fn new_meet(&mut self, meet: Meet) -> u32 {
        match self.meets.iter().position(|m| !m.used) {
            Some(free) => {
                self.meets[free] = meet;
                free as u32
            }
            None => {
                self.meets.push(meet);
                self.meets.len() as u32 - 1
            }
        }
    }

    /// Index of the split that can run and has waited longest: who runs goes to the end of the list.
    pub fn next_ready(&self) -> Option<usize> {
        self.splits.iter().position(|s| s.wait == Wait::Ready)
    }
}

impl Default for Warp {
    fn default() -> Self {
        Self::new()
    }
}
