//! Allocations: addresses, red zones, quarantine, and plain words for bad addresses.

use std::fmt;

use crate::memory::launch::Launch;
use crate::memory::shadow::{Domain, Shadow};

/// What kind of memory an allocation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `cuMemAlloc`
    Device,
    /// `cuMemAllocAsync`, from a pool
    Pool,
    /// A module's variables
    Module,
    /// `cuMemAllocManaged`: host and device use the same address
    Managed,
    /// `cuMemHostAlloc`: host memory, whose device address is the host address
    Pinned,
    /// `cuMemHostRegister`: the program's own memory
    Registered,
    /// Made by the driver for itself (parameters, heaps)
    Internal,
}

impl Kind {
    /// Host and device use one address, and the host may write at any time: every byte counts as initialised.
    pub fn is_host(self) -> bool {
        matches!(self, Kind::Managed | Kind::Pinned | Kind::Registered)
    }
}

/// A live allocation.
pub struct Allocation {
    address: u64,
    bytes: u64,
    host: *mut u8,
    kind: Kind,
    label: String,
    serial: u64,
    shadow: Shadow,
}

// SAFETY: the host range belongs to the allocation; who uses it through `host` answers for data races.
unsafe impl Send for Allocation {}
// SAFETY: as above; the shadow is made of atomics.
unsafe impl Sync for Allocation {}

impl Allocation {
    /// Device address of the first byte.
    #[inline]
    pub fn address(&self) -> u64 {
        self.address
    }
    /// Exact size as asked for.
    #[inline]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
    pub fn kind(&self) -> Kind {
        self.kind
    }
    /// Who asked for it, as given to `allocate`.
    pub fn label(&self) -> &str {
        &self.label
    }
    /// From 1, in order of allocation.
    pub fn serial(&self) -> u64 {
        self.serial
    }
    /// Whether all of `bytes` bytes from `address` lie inside.
    #[inline]
    pub fn contains(&self, address: u64, bytes: u64) -> bool {
        address >= self.address && bytes <= self.bytes && address - self.address <= self.bytes - bytes
    }
    /// Where the byte at a device address lies on the host; `address` must be inside.
    #[inline]
    pub fn host(&self, address: u64) -> *mut u8 {
        debug_assert!(self.contains(address, 0));
        self.host.wrapping_add((address - self.address) as usize)
    }
    /// Offset of a device address in [`Allocation::shadow`].
    #[inline]
    pub fn offset(&self, address: u64) -> u64 {
        address - self.address
    }
    #[inline]
    pub fn shadow(&self) -> &Shadow {
        &self.shadow
    }
}

/// An allocation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory {
    pub wanted: u64,
    pub free: u64,
    pub total: u64,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "out of memory: {} bytes wanted, {} of {} free",
            self.wanted, self.free, self.total
        )
    }
}

impl std::error::Error for OutOfMemory {}

/// An address that cannot be freed; `message` says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadFree {
    /// Freed before.
    Double { message: String },
    /// Inside of a live allocation, not its start.
    Interior { message: String },
    /// Never allocated.
    Unknown { message: String },
}

impl fmt::Display for BadFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadFree::Double { message } | BadFree::Interior { message } | BadFree::Unknown { message } => {
                f.write_str(message)
            }
        }
    }
}

impl std::error::Error for BadFree {}

/// A copy or memset that leaves its allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessError {
    pub address: u64,
    pub bytes: u64,
    /// [`DeviceMemory::explain`]'s words.
    pub message: String,
}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for AccessError {}

/// What `fill` repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    U8(u8),
    U16(u16),
    U32(u32),
}

/// All memory that a device can address.
pub struct DeviceMemory {
    total: u64,
    launches: u64,
}

impl DeviceMemory {
    /// A device with `total` bytes.
    pub fn new(total: u64) -> Self {
        Self { total, launches: 0 }
    }

    /// Allocates exactly `bytes` (at least 1) bytes. `label` names the call in messages: `cuMemAlloc`.
    pub fn allocate(
        &mut self,
        bytes: u64,
        _kind: Kind,
        label: impl Into<String>,
    ) -> Result<u64, OutOfMemory> {
        let _ = (Domain::Global, label.into());
        Err(OutOfMemory {
            wanted: bytes,
            free: 0,
            total: self.total,
        })
    }

    /// Makes host memory of the program known (`cuMemHostRegister`); its device address is its host address.
    ///
    /// # Safety
    /// The range stays mapped until `unregister_host`.
    pub unsafe fn register_host(
        &mut self,
        _host: *mut u8,
        _bytes: u64,
        _label: impl Into<String>,
    ) -> Result<u64, AccessError> {
        todo!()
    }

    pub fn unregister_host(&mut self, _host: *mut u8) -> Result<(), BadFree> {
        todo!()
    }

    /// Frees. The addresses are not used again for a while, so that later accesses are explained.
    pub fn free(&mut self, _address: u64) -> Result<(), BadFree> {
        todo!()
    }

    /// (free, total) bytes of device memory.
    pub fn usage(&self) -> (u64, u64) {
        (self.total, self.total)
    }

    /// Makes the device smaller, to see programs run out of memory.
    pub fn set_limit(&mut self, bytes: u64) {
        self.total = bytes;
    }

    /// Live allocations in order of address.
    pub fn live(&self) -> impl Iterator<Item = &Allocation> {
        std::iter::empty()
    }

    /// The live allocation that holds this byte.
    pub fn find(&self, address: u64) -> Option<&Allocation> {
        let mut hint = 0;
        self.find_cached(address, &mut hint)
    }

    /// As `find`, trying first what `hint` remembers from the last time (any value is fine).
    #[inline]
    pub fn find_cached(&self, _address: u64, _hint: &mut usize) -> Option<&Allocation> {
        None
    }

    /// What is at `bytes` bytes from `address`, in plain words: why an access there is wrong.
    pub fn explain(&self, address: u64, _bytes: u64) -> String {
        format!("{address:#x}")
    }

    /// Copies from the host.
    pub fn write(&self, _address: u64, _data: &[u8]) -> Result<(), AccessError> {
        todo!()
    }

    /// Copies to the host. Bytes that were never written are copied too (their poison).
    pub fn read(&self, _address: u64, _data: &mut [u8]) -> Result<(), AccessError> {
        todo!()
    }

    /// Copies inside the device, together with which bytes are initialised. Ranges may overlap (as memmove).
    pub fn copy(&self, _to: u64, _from: u64, _bytes: u64) -> Result<(), AccessError> {
        todo!()
    }

    /// Repeats a pattern `count` times.
    pub fn fill(&self, _address: u64, _pattern: Pattern, _count: u64) -> Result<(), AccessError> {
        todo!()
    }

    /// A kernel launch begins; what ran before is ordered before it.
    pub fn begin_launch(&mut self) -> Launch {
        self.launches += 1;
        Launch::new(self.launches)
    }
}
