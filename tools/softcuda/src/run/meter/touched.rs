//! Which sectors of global memory a launch touched.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::traffic::SECTOR;
use crate::ir::regs::LANES;
use crate::memory::{Allocation, Kind};

/// Device memory that the launch touched at all, in whole sectors of 32 bytes: what DRAM must move even if L2 keeps
/// everything. A sector is read if the kernel reads it before anything in the launch has written to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dram {
    /// Without the host's memory.
    pub read_bytes: u64,
    pub written_bytes: u64,
    /// By allocation, in the order in which they were made, the host's among them.
    pub allocations: Vec<Touch>,
}

/// What a launch touched of an allocation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touch {
    pub serial: u64,
    pub label: String,
    /// `device`, `pinned`, …
    pub kind: String,
    /// Size of the allocation.
    pub bytes: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
}

/// The allocations that a launch touched, for all of its host threads.
#[derive(Default)]
pub struct Touched {
    allocations: Mutex<BTreeMap<u64, Arc<Sectors>>>,
}

impl Touched {
    /// The sectors of an allocation, from its first touch on.
    pub fn of(&self, allocation: &Allocation) -> Arc<Sectors> {
        let mut allocations = self.allocations.lock().unwrap_or_else(|e| e.into_inner());
        allocations
            .entry(allocation.serial())
            .or_insert_with(|| Arc::new(Sectors::new(allocation)))
            .clone()
    }

    /// Adds up what was touched.
    pub fn total(&self) -> Dram {
        let mut dram = Dram::default();
        let allocations = self.allocations.lock().unwrap_or_else(|e| e.into_inner());
        for sectors in allocations.values() {
            let touch = sectors.total();
            if !sectors.host {
                dram.read_bytes += touch.read_bytes;
                dram.written_bytes += touch.written_bytes;
            }
            dram.allocations.push(touch);
        }
        dram
    }
}

/// A bit for each sector of an allocation: read before anybody wrote it, and written.
pub struct Sectors {
    serial: u64,
    label: String,
    kind: String,
    /// The memory is the host's.
    host: bool,
    bytes: u64,
    address: u64,
    read: Box<[AtomicU64]>,
    written: Box<[AtomicU64]>,
}

impl Sectors {
    fn new(allocation: &Allocation) -> Self {
        let address = allocation.address();
        let sectors = (address + allocation.bytes()).div_ceil(SECTOR) - address / SECTOR;
        let words = || (0..sectors.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self {
            serial: allocation.serial(),
            label: allocation.label().to_owned(),
            kind: format!("{:?}", allocation.kind()).to_lowercase(),
            host: matches!(allocation.kind(), Kind::Pinned | Kind::Registered),
            bytes: allocation.bytes(),
            address,
            read: words(),
            written: words(),
        }
    }

    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// The lanes of `mask` access `bytes` bytes at these offsets, each in one sector.
    pub fn touch(&self, mask: u32, offsets: &[u64; LANES], bytes: usize, read: bool) {
        let mut word = u64::MAX;
        let mut bits = 0;
        let mut rest = mask;
        let into = self.address % SECTOR;
        while rest != 0 {
            let lane = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            // Only accesses that were found to be inside and aligned get here.
            debug_assert!(offsets[lane] + bytes as u64 <= self.bytes);
            let sector = (into + offsets[lane]) / SECTOR;
            if sector / 64 != word {
                self.mark(word, bits, read);
                word = sector / 64;
                bits = 0;
            }
            bits |= 1 << (sector % 64);
        }
        self.mark(word, bits, read);
    }

    fn mark(&self, word: u64, mut bits: u64, read: bool) {
        if bits == 0 {
            return;
        }
        let word = word as usize;
        let map = if read {
            bits &= !self.written[word].load(Ordering::Relaxed);
            &self.read
        } else {
            &self.written
        };
        // Most sectors are touched many times: look before writing to a line that other threads share.
        if map[word].load(Ordering::Relaxed) & bits != bits {
            map[word].fetch_or(bits, Ordering::Relaxed);
        }
    }

    fn total(&self) -> Touch {
        let bytes = |map: &[AtomicU64]| {
            let sectors: u64 = map
                .iter()
                .map(|word| u64::from(word.load(Ordering::Relaxed).count_ones()))
                .sum();
            sectors * SECTOR
        };
        Touch {
            serial: self.serial,
            label: self.label.clone(),
            kind: self.kind.clone(),
            bytes: self.bytes,
            read_bytes: bytes(&self.read),
            written_bytes: bytes(&self.written),
        }
    }
}
