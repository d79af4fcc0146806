//! Allocations: addresses, red zones, quarantine, and plain words for bad addresses.

use std::collections::VecDeque;
use std::fmt;

use crate::memory::arena::{Arena, Mapping, Poison};
use crate::memory::launch::{Launch, Launches};
use crate::memory::shadow::{Domain, Shadow};

/// Device addresses are host addresses plus this: a host that dereferences one faults.
const OFFSET: u64 = 1 << 47;
/// Addresses below are called null pointers with an offset.
const NULL: u64 = 64 << 10;
/// Freed allocations that are kept apart, at most.
const QUARANTINED: usize = 1 << 16;

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
// SAFETY: a shared allocation only tells its host address, and its shadow is made of atomics.
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

/// Where an allocation's bytes lie, with the red zones on both sides.
enum Place {
    /// In the device's arena: offset and length.
    Arena(usize, usize),
    /// Mapped for it alone.
    Mapped(Mapping),
    /// The program's own memory.
    Foreign,
}

/// An allocation that was freed and whose addresses are not used again yet.
struct Freed {
    address: u64,
    bytes: u64,
    label: String,
    serial: u64,
    place: Place,
}

/// All memory that a device can address.
///
/// Device memory is one range of host addresses, reserved at once and committed as allocations come; a device
/// address is the host address plus 2^47. Pinned, managed and registered memory has its host address. Around
/// every allocation lie at least 256 bytes that are never handed out. What was freed stays unused as long as
/// there is room.
pub struct DeviceMemory {
    arena: Arena,
    poison: Poison,
    total: u64,
    used: u64,
    serial: u64,
    /// First address and end of each live allocation, ascending; `live` has the same order.
    spans: Vec<(u64, u64)>,
    live: Vec<(Box<Allocation>, Place)>,
    freed: VecDeque<Freed>,
    /// Bytes of `freed`, red zones included.
    quarantine: u64,
    launches: Launches,
}

impl DeviceMemory {
    /// A device with `total` bytes, or as many as the machine lets a process reserve.
    ///
    /// # Panics
    /// If not even a mebibyte can be reserved.
    pub fn new(total: u64) -> Self {
        // Twice the size: room for red zones, gaps and what is in quarantine.
        let arena = Arena::reserve((total as usize).saturating_mul(2).saturating_add(256 << 20));
        Self {
            total: total.min(arena.len() as u64),
            arena,
            poison: Poison::default(),
            used: 0,
            serial: 0,
            spans: Vec::new(),
            live: Vec::new(),
            freed: VecDeque::new(),
            quarantine: 0,
            launches: Launches::new(),
        }
    }

    /// Allocates exactly `bytes` (at least 1) bytes, at a multiple of 256 (of 512 from a mebibyte on), filled with
    /// 0xFF: NaN in every floating-point format. `label` names the call in messages: `cuMemAlloc`.
    ///
    /// # Panics
    /// If `bytes` is 0.
    pub fn allocate(&mut self, bytes: u64, kind: Kind, label: impl Into<String>) -> Result<u64, OutOfMemory> {
        assert_ne!(bytes, 0, "allocations have at least one byte");
        let (free, total) = self.usage();
        let refused = OutOfMemory {
            wanted: bytes,
            free,
            total,
        };
        let charge = charge(bytes, kind);
        if charge > free || bytes > 1 << 46 {
            return Err(refused);
        }
        let shadow = Shadow::try_new(bytes, Domain::Global, kind.is_host()).ok_or(refused)?;
        let (place, host) = if kind.is_host() {
            let mapping = Mapping::new(bytes as usize).ok_or(refused)?;
            let host = mapping.data();
            (Place::Mapped(mapping), host)
        } else {
            let zone = (bytes / 16).next_multiple_of(256).clamp(256, 64 << 10) as usize;
            let align = if bytes >= 1 << 20 { 512 } else { 256 };
            let data = (bytes as usize).next_multiple_of(256);
            // The zone in front is rounded up so that the data behind it is aligned.
            let (front, len) = (
                zone.next_multiple_of(align),
                zone.next_multiple_of(align) + data + zone,
            );
            let offset = loop {
                match self.arena.take(len, align) {
                    Some(offset) => break offset,
                    None if self.freed.is_empty() => return Err(refused),
                    None => self.recycle(),
                }
            };
            (Place::Arena(offset, len), self.arena.at(offset + front))
        };
        // SAFETY: freshly taken for this allocation, which has at least `bytes` bytes there.
        unsafe { self.poison.fill(host, bytes as usize) };
        let address = host as u64 + if kind.is_host() { 0 } else { OFFSET };
        self.used += charge;
        self.serial += 1;
        self.insert(
            Allocation {
                address,
                bytes,
                host,
                kind,
                label: label.into(),
                serial: self.serial,
                shadow,
            },
            place,
        );
        Ok(address)
    }

    /// Makes host memory of the program known (`cuMemHostRegister`); its device address is its host address.
    ///
    /// # Safety
    /// The range stays mapped until `unregister_host`.
    pub unsafe fn register_host(
        &mut self,
        host: *mut u8,
        bytes: u64,
        label: impl Into<String>,
    ) -> Result<u64, AccessError> {
        let address = host as u64;
        let error = |message: String| AccessError {
            address,
            bytes,
            message,
        };
        if bytes == 0 || address == 0 || address.checked_add(bytes).is_none() {
            return Err(error(format!(
                "{bytes} bytes at {address:#x} are no range of memory"
            )));
        }
        let at = self.spans.partition_point(|&(_, end)| end <= address);
        if self
            .spans
            .get(at)
            .is_some_and(|&(start, _)| start < address + bytes)
        {
            return Err(error(format!(
                "{bytes} bytes at {address:#x} overlap {}",
                describe(&self.live[at].0)
            )));
        }
        let Some(shadow) = Shadow::try_new(bytes, Domain::Global, true) else {
            return Err(error("no room for the checks' own memory".to_owned()));
        };
        // What was known of a former life of these addresses is void.
        self.freed
            .retain(|freed| !matches!(freed.place, Place::Foreign) || freed.address != address);
        self.serial += 1;
        self.insert(
            Allocation {
                address,
                bytes,
                host,
                kind: Kind::Registered,
                label: label.into(),
                serial: self.serial,
                shadow,
            },
            Place::Foreign,
        );
        Ok(address)
    }

    /// Takes back `register_host`.
    pub fn unregister_host(&mut self, host: *mut u8) -> Result<(), BadFree> {
        let at = self.to_free(host as u64)?;
        if self.live[at].0.kind != Kind::Registered {
            let message = format!("{} was not registered", describe(&self.live[at].0));
            return Err(BadFree::Unknown { message });
        }
        self.remove(at);
        Ok(())
    }

    /// Frees. The addresses are not used again for a while, so that later accesses are explained.
    pub fn free(&mut self, address: u64) -> Result<(), BadFree> {
        let at = self.to_free(address)?;
        if self.live[at].0.kind == Kind::Registered {
            let message = format!("{} is the program's own memory", describe(&self.live[at].0));
            return Err(BadFree::Unknown { message });
        }
        self.remove(at);
        Ok(())
    }

    /// Index of the live allocation that begins at `address`.
    fn to_free(&self, address: u64) -> Result<usize, BadFree> {
        if let Ok(at) = self.spans.binary_search_by_key(&address, |span| span.0) {
            return Ok(at);
        }
        if let Some(at) = self.index(address) {
            let allocation = &self.live[at].0;
            return Err(BadFree::Interior {
                message: format!(
                    "{address:#x} is {} into {}: only its first address can be freed",
                    count(address - allocation.address),
                    describe(allocation)
                ),
            });
        }
        if let Some(freed) = self.freed.iter().rev().find(|freed| freed.address == address) {
            return Err(BadFree::Double {
                message: format!("{address:#x} was freed before: {}", describe_freed(freed)),
            });
        }
        Err(BadFree::Unknown {
            message: format!("{address:#x} was never allocated: {}", self.explain(address, 1)),
        })
    }

    fn insert(&mut self, allocation: Allocation, place: Place) {
        let span = (allocation.address, allocation.address + allocation.bytes);
        let at = self.spans.partition_point(|other| other.0 < span.0);
        self.spans.insert(at, span);
        self.live.insert(at, (Box::new(allocation), place));
    }

    fn remove(&mut self, at: usize) {
        self.spans.remove(at);
        let (allocation, place) = self.live.remove(at);
        self.used -= charge(allocation.bytes, allocation.kind);
        match &place {
            // SAFETY: the allocation's own bytes, which nobody may use any more.
            Place::Arena(..) => unsafe { self.poison.discard(allocation.host, allocation.bytes as usize) },
            Place::Mapped(mapping) => mapping.close(),
            Place::Foreign => {}
        }
        self.quarantine += place.len();
        self.freed.push_back(Freed {
            address: allocation.address,
            bytes: allocation.bytes,
            label: allocation.label,
            serial: allocation.serial,
            place,
        });
        let room = (self.total / 2).max(256 << 20);
        while self.quarantine > room || self.freed.len() > QUARANTINED {
            self.recycle();
        }
    }

    /// Lets the addresses that were freed first be used again.
    fn recycle(&mut self) {
        let Some(freed) = self.freed.pop_front() else {
            return;
        };
        self.quarantine -= freed.place.len();
        if let Place::Arena(offset, len) = freed.place {
            self.arena.give_back(offset, len);
        }
    }

    /// (free, total) bytes of device memory.
    pub fn usage(&self) -> (u64, u64) {
        (self.total.saturating_sub(self.used), self.total)
    }

    /// Makes the device smaller, to see programs run out of memory.
    pub fn set_limit(&mut self, bytes: u64) {
        self.total = bytes.min(self.arena.len() as u64);
    }

    /// Takes memory off the device that no allocation stands for; false where there is not so much.
    pub fn reserve(&mut self, bytes: u64) -> bool {
        let fits = bytes <= self.usage().0;
        if fits {
            self.used += bytes;
        }
        fits
    }

    /// Gives back what [`reserve`](Self::reserve) took.
    pub fn unreserve(&mut self, bytes: u64) {
        self.used -= bytes;
    }

    /// Live allocations in order of address.
    pub fn live(&self) -> impl Iterator<Item = &Allocation> {
        self.live.iter().map(|(allocation, _)| &**allocation)
    }

    fn index(&self, address: u64) -> Option<usize> {
        let at = self
            .spans
            .partition_point(|span| span.0 <= address)
            .checked_sub(1)?;
        (address < self.spans[at].1).then_some(at)
    }

    /// The live allocation that holds this byte.
    pub fn find(&self, address: u64) -> Option<&Allocation> {
        self.index(address).map(|at| &*self.live[at].0)
    }

    /// As `find`, trying first what `hint` remembers from the last time (any value is fine).
    #[inline]
    pub fn find_cached(&self, address: u64, hint: &mut usize) -> Option<&Allocation> {
        match self.spans.get(*hint) {
            Some(&(start, end)) if start <= address && address < end => {}
            _ => *hint = self.index(address)?,
        }
        Some(&self.live[*hint].0)
    }

    /// What is at `bytes` bytes from `address`, in plain words: why an access there is wrong.
    pub fn explain(&self, address: u64, bytes: u64) -> String {
        if address < NULL {
            return match address {
                0 => "a null pointer".to_owned(),
                _ => format!("a null pointer plus {address}"),
            };
        }
        if let Some(at) = self.index(address) {
            let allocation = &self.live[at].0;
            let into = address - allocation.address;
            let over = (into.saturating_add(bytes)).saturating_sub(allocation.bytes);
            return match over {
                0 => format!("{} into {}", count(into), describe(allocation)),
                _ => format!(
                    "{} into {}, of which the last {over} {} past its end",
                    count(into),
                    describe(allocation),
                    if over == 1 { "lies" } else { "lie" }
                ),
            };
        }
        let holds = |freed: &&Freed| address >= freed.address && address - freed.address < freed.bytes;
        if let Some(freed) = self.freed.iter().rev().find(holds) {
            return format!(
                "{} into {}",
                count(address - freed.address),
                describe_freed(freed)
            );
        }
        let next = self.spans.partition_point(|span| span.0 <= address);
        let before = next.checked_sub(1).map(|at| {
            let allocation = &self.live[at].0;
            (address - self.spans[at].1, describe(allocation))
        });
        let after = self
            .spans
            .get(next)
            .map(|&(start, _)| (start - address, describe(&self.live[next].0)));
        // A freed neighbour may be nearer; at equal distance the living one is the likelier culprit.
        let freed_before = self
            .freed
            .iter()
            .filter(|freed| freed.address + freed.bytes <= address)
            .map(|freed| (address - freed.address - freed.bytes, describe_freed(freed)))
            .min_by_key(|found| found.0);
        let freed_after = self
            .freed
            .iter()
            .filter(|freed| freed.address > address)
            .map(|freed| (freed.address - address, describe_freed(freed)))
            .min_by_key(|found| found.0);
        let nearer = |a: Option<(u64, String)>, b: Option<(u64, String)>| match (a, b) {
            (Some(a), Some(b)) => Some(if b.0 < a.0 { b } else { a }),
            (a, b) => a.or(b),
        };
        const NEAR: u64 = 64 << 10;
        const FAR: u64 = 1 << 30;
        let before = nearer(before, freed_before).filter(|found| found.0 < FAR);
        let after = nearer(after, freed_after).filter(|found| found.0 < FAR);
        let past = |(distance, what): &(u64, String)| match distance {
            0 => format!("right past the end of {what}"),
            _ => format!("{} past the end of {what}", count(*distance)),
        };
        let ahead = |(distance, what): &(u64, String)| format!("{} before {what}", count(*distance));
        match (&before, &after) {
            (Some(b), Some(a)) if b.0 <= a.0 && b.0 < NEAR => return past(b),
            (Some(_), Some(a)) if a.0 < NEAR => return ahead(a),
            (Some(b), None) if b.0 < NEAR => return past(b),
            (None, Some(a)) if a.0 < NEAR => return ahead(a),
            _ => {}
        }
        if (OFFSET..2 * OFFSET).contains(&address) {
            return match (&before, &after) {
                (Some(b), Some(a)) => format!("between allocations: {}, {}", past(b), ahead(a)),
                (Some(b), None) => format!("in no allocation: {}", past(b)),
                (None, Some(a)) => format!("in no allocation: {}", ahead(a)),
                (None, None) => "no allocation is near".to_owned(),
            };
        }
        if address >= 0u64.wrapping_sub(1 << 32) {
            return "never-written memory (0xFF bytes) used as a pointer, perhaps: no allocation is near"
                .to_owned();
        }
        if address < OFFSET && crate::memory::arena::is_mapped(address) {
            return "a host pointer that was never registered".to_owned();
        }
        "no allocation is near: not an address of this device".to_owned()
    }

    /// The allocation that holds the whole range.
    fn range(&self, address: u64, bytes: u64, what: &str) -> Result<&Allocation, AccessError> {
        self.find(address)
            .filter(|allocation| allocation.contains(address, bytes))
            .ok_or_else(|| AccessError {
                address,
                bytes,
                message: format!(
                    "{what} of {} at {address:#x}: {}",
                    count(bytes),
                    self.explain(address, bytes)
                ),
            })
    }

    /// Copies from the host.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), AccessError> {
        if data.is_empty() {
            return Ok(());
        }
        let allocation = self.range(address, data.len() as u64, "write")?;
        // SAFETY: the range is inside of the allocation's memory. The caller's slice may be pinned memory, which
        // is an allocation too.
        unsafe { std::ptr::copy(data.as_ptr(), allocation.host(address), data.len()) };
        allocation
            .shadow
            .set_initialised(allocation.offset(address), data.len() as u64);
        Ok(())
    }

    /// Copies to the host. Bytes that were never written are copied too (their poison).
    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<(), AccessError> {
        if data.is_empty() {
            return Ok(());
        }
        let allocation = self.range(address, data.len() as u64, "read")?;
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy(allocation.host(address), data.as_mut_ptr(), data.len()) };
        Ok(())
    }

    /// Copies inside the device, together with which bytes are initialised. Ranges may overlap (as memmove).
    pub fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), AccessError> {
        if bytes == 0 {
            return Ok(());
        }
        let source = self.range(from, bytes, "copy from device memory")?;
        let target = self.range(to, bytes, "copy to device memory")?;
        // SAFETY: both ranges are inside of their allocations' memory.
        unsafe { std::ptr::copy(source.host(from), target.host(to), bytes as usize) };
        target
            .shadow
            .copy_initialised(target.offset(to), &source.shadow, source.offset(from), bytes);
        Ok(())
    }

    /// Repeats a pattern `count` times.
    pub fn fill(&self, address: u64, pattern: Pattern, count: u64) -> Result<(), AccessError> {
        let (width, value) = match pattern {
            Pattern::U8(value) => (1, u32::from(value) * 0x0101_0101),
            Pattern::U16(value) => (2, u32::from(value) * 0x0001_0001),
            Pattern::U32(value) => (4, value),
        };
        if count == 0 {
            return Ok(());
        }
        let bytes = count.saturating_mul(width);
        let allocation = self.range(address, bytes, "memset")?;
        let host = allocation.host(address);
        let pattern = value.to_le_bytes();
        if pattern.iter().all(|byte| *byte == pattern[0]) {
            // SAFETY: the range is inside of the allocation's memory.
            unsafe { host.write_bytes(pattern[0], bytes as usize) };
        } else {
            for (at, byte) in (0..bytes as usize).zip(pattern.iter().cycle()) {
                // SAFETY: `at` is below `bytes`, and the range is inside of the allocation's memory.
                unsafe { host.add(at).write(*byte) };
            }
        }
        allocation
            .shadow
            .set_initialised(allocation.offset(address), bytes);
        Ok(())
    }

    /// A kernel launch begins; what ran before is ordered before it. Not while blocks of another one run.
    pub fn begin_launch(&mut self) -> Launch {
        let live = &self.live;
        self.launches.begin(|| {
            for (allocation, _) in live {
                allocation.shadow.clear_stamps();
            }
        })
    }
}

impl Place {
    fn len(&self) -> u64 {
        match self {
            Place::Arena(_, len) => *len as u64,
            Place::Mapped(mapping) => mapping.len() as u64,
            Place::Foreign => 0,
        }
    }
}

/// Device memory that an allocation takes.
fn charge(bytes: u64, kind: Kind) -> u64 {
    match kind {
        Kind::Pinned | Kind::Registered => 0,
        _ => bytes.next_multiple_of(512),
    }
}

fn count(bytes: u64) -> String {
    match bytes {
        1 => "1 byte".to_owned(),
        _ => format!("{bytes} bytes"),
    }
}

fn describe(allocation: &Allocation) -> String {
    format!(
        "the {}-byte allocation #{} ({}) at {:#x}",
        allocation.bytes, allocation.serial, allocation.label, allocation.address
    )
}

fn describe_freed(freed: &Freed) -> String {
    format!(
        "freed allocation #{} ({}, {} at {:#x})",
        freed.serial,
        freed.label,
        count(freed.bytes),
        freed.address
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{BlockClocks, Hazard, How};

    /// A launch in which block 0 writes a word, and the hazard that block 1 then meets in the same launch.
    fn race_of(memory: &mut DeviceMemory, address: u64) -> (Launch, Result<(), Hazard>) {
        let launch = memory.begin_launch();
        let allocation = memory.find(address).unwrap();
        let shared = Shadow::new(16, Domain::Shared);
        let (mut first, mut second) = (BlockClocks::new(&launch), BlockClocks::new(&launch));
        first.begin_block(0, 32, &shared, 16);
        second.begin_block(1, 32, &shared, 16);
        let wrote = allocation
            .shadow()
            .write(0, 4, &first.who(0), 0, How::Weak, false, 1);
        assert_eq!(wrote, Ok(()), "earlier launches are ordered before this one");
        let read = allocation.shadow().read(0, 4, &second.who(0), 0, How::Weak, 2);
        (launch, read)
    }

    #[test]
    fn epochs_wrap_around_without_memory_of_the_time_before() {
        let mut memory = DeviceMemory::new(1 << 20);
        let address = memory.allocate(64, Kind::Device, "test").unwrap();
        let (old, read) = race_of(&mut memory, address);
        assert!(matches!(read, Err(Hazard::Race(_))));
        drop(old);
        // Close to the end, then over it: numbers start anew and must not look like those of before.
        memory.launches.skip(u32::MAX / 4 * 3 - 1);
        let (_, read) = race_of(&mut memory, address);
        assert!(matches!(read, Err(Hazard::Race(_))));
        memory.launches.skip(u32::MAX - 10_000);
        for _ in 0..3 {
            let (launch, read) = race_of(&mut memory, address);
            assert!(matches!(read, Err(Hazard::Race(_))));
            assert!(launch.shared.first < 100, "wrapped");
        }
    }

    #[test]
    fn nothing_is_checked_wrongly_when_epochs_run_out_inside_a_launch() {
        let mut memory = DeviceMemory::new(1 << 20);
        let address = memory.allocate(64, Kind::Device, "test").unwrap();
        race_of(&mut memory, address).1.unwrap_err();
        let launch = memory.begin_launch();
        memory.launches.skip(u32::MAX - 100);
        let allocation = memory.find(address).unwrap();
        let shared = Shadow::new(16, Domain::Shared);
        for block in 0..2 {
            let mut clocks = BlockClocks::new(&launch);
            clocks.begin_block(block, 32, &shared, 16);
            let who = clocks.who(0);
            assert_eq!(
                allocation.shadow().write(0, 4, &who, 0, How::Weak, false, 1),
                Ok(())
            );
            assert_eq!(allocation.shadow().read(0, 4, &who, 1, How::Weak, 1), Ok(()));
        }
    }
}
