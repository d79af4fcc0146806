//! Address ranges of the host: the device's arena, mappings of their own, poison.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};

/// At least the system's page size, wherever this runs.
const PAGE: usize = 64 << 10;
/// What never-written memory holds: NaN in every floating-point format, and no valid address.
const POISON: u8 = 0xFF;

/// Reserves address space without memory behind it.
fn reserve(len: usize) -> Option<*mut u8> {
    // SAFETY: a new mapping, nothing is replaced.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    (start != libc::MAP_FAILED).then_some(start.cast())
}

/// One big range of host addresses, handed out in pieces.
pub(super) struct Arena {
    /// What was reserved; the first byte that is handed out is aligned.
    reserved: *mut u8,
    reserved_len: usize,
    start: *mut u8,
    len: usize,
    /// Bytes from the start that may be used: memory stands behind them as they are touched.
    committed: usize,
    /// Bytes from the start that were ever handed out.
    top: usize,
    /// Pieces given back: offset and length, never adjacent.
    free: BTreeMap<usize, usize>,
}

// SAFETY: the arena owns its range; who uses pieces of it answers for data races.
unsafe impl Send for Arena {}
// SAFETY: a shared arena only tells addresses; changing it needs `&mut`.
unsafe impl Sync for Arena {}

impl Arena {
    /// Memory is asked for in steps of this many bytes.
    const STEP: usize = 64 << 20;

    /// Reserves `len` bytes, or as many as the machine allows.
    pub fn reserve(len: usize) -> Self {
        let mut len = len.min(1 << 45).next_multiple_of(PAGE);
        loop {
            if let Some(reserved) = reserve(len + PAGE) {
                return Self {
                    reserved,
                    reserved_len: len + PAGE,
                    start: reserved.map_addr(|address| address.next_multiple_of(PAGE)),
                    len,
                    committed: 0,
                    top: 0,
                    free: BTreeMap::new(),
                };
            }
            len = (len / 2).next_multiple_of(PAGE);
            assert!(
                len > 1 << 20,
                "the machine has no address space for device memory"
            );
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn at(&self, offset: usize) -> *mut u8 {
        self.start.wrapping_add(offset)
    }

    /// A piece of `len` bytes (a multiple of 256) at a multiple of `align`; its offset.
    pub fn take(&mut self, len: usize, align: usize) -> Option<usize> {
        let fits = |(&offset, &room): (&usize, &usize)| {
            let start = offset.next_multiple_of(align);
            (start + len <= offset + room).then_some((offset, room, start))
        };
        if let Some((offset, room, start)) = self.free.iter().find_map(fits) {
            self.free.remove(&offset);
            if start > offset {
                self.free.insert(offset, start - offset);
            }
            if start + len < offset + room {
                self.free.insert(start + len, offset + room - start - len);
            }
            return Some(start);
        }
        let start = self.top.next_multiple_of(align);
        let end = start.checked_add(len).filter(|end| *end <= self.len)?;
        if end > self.committed {
            let committed = end.next_multiple_of(Self::STEP).min(self.len);
            // SAFETY: inside of the reserved range, of which nothing is in use here yet.
            let done = unsafe {
                libc::mprotect(
                    self.at(self.committed).cast(),
                    committed - self.committed,
                    libc::PROT_READ | libc::PROT_WRITE,
                )
            };
            if done != 0 {
                return None;
            }
            self.committed = committed;
        }
        if start > self.top {
            self.give_back(self.top, start - self.top);
        }
        self.top = end;
        Some(start)
    }

    /// A piece may be handed out again.
    pub fn give_back(&mut self, offset: usize, len: usize) {
        let (mut from, mut to) = (offset, offset + len);
        if let Some((&before, &room)) = self.free.range(..offset).next_back()
            && before + room == from
        {
            self.free.remove(&before);
            from = before;
        }
        if let Some(room) = self.free.remove(&to) {
            to += room;
        }
        self.free.insert(from, to - from);
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: reserved by this arena; allocations do not outlive it.
        unsafe { libc::munmap(self.reserved.cast(), self.reserved_len) };
    }
}

/// A mapping for one allocation that the host uses too, between two guards that fault.
pub(super) struct Mapping {
    start: *mut u8,
    len: usize,
}

// SAFETY: as for the arena.
unsafe impl Send for Mapping {}
// SAFETY: as for the arena.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub fn new(bytes: usize) -> Option<Self> {
        let data = bytes.next_multiple_of(PAGE);
        let len = data + 2 * PAGE;
        let mapping = Self {
            start: reserve(len)?,
            len,
        };
        // SAFETY: inside of the range just reserved.
        let done = unsafe { libc::mprotect(mapping.data().cast(), data, libc::PROT_READ | libc::PROT_WRITE) };
        (done == 0).then_some(mapping)
    }

    pub fn data(&self) -> *mut u8 {
        self.start.wrapping_add(PAGE)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Gives the memory back and makes every access fault; the addresses stay taken.
    pub fn close(&self) {
        // SAFETY: replaces this mapping's own pages, which nobody may use any more. If it fails they stay usable,
        // which costs memory only.
        unsafe {
            libc::mmap(
                self.start.cast(),
                self.len,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
                -1,
                0,
            );
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this mapping's own range.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

/// Fills memory with poison. Big pieces become private copies of one poisoned file, so that they cost memory only
/// where they are written.
#[derive(Default)]
pub(super) struct Poison {
    file: Option<File>,
}

impl Poison {
    const FILE: usize = 8 << 20;

    /// # Safety
    /// The bytes are mapped, anonymous or by `fill`, and nobody else uses them.
    pub unsafe fn fill(&mut self, start: *mut u8, bytes: usize) {
        let end = start as usize + bytes;
        let (first, last) = ((start as usize).next_multiple_of(PAGE), end / PAGE * PAGE);
        if bytes < Self::FILE || !self.map(start, first, last) {
            // SAFETY: by contract.
            unsafe { start.write_bytes(POISON, bytes) };
            return;
        }
        // SAFETY: by contract; the edges are inside of the range.
        unsafe {
            start.write_bytes(POISON, first - start as usize);
            start.with_addr(last).write_bytes(POISON, end - last);
        }
    }

    /// Maps the file over the pages from `first` to `last`; says whether all of it could be done.
    fn map(&mut self, start: *mut u8, first: usize, last: usize) -> bool {
        if self.file.is_none() {
            // SAFETY: plain system call with a valid name.
            let fd = unsafe { libc::memfd_create(c"softcuda-poison".as_ptr(), libc::MFD_CLOEXEC) };
            if fd < 0 {
                return false;
            }
            // SAFETY: just opened, owned by nobody else.
            let mut file = unsafe { File::from_raw_fd(fd) };
            if std::io::Write::write_all(&mut file, &vec![POISON; Self::FILE]).is_err() {
                return false;
            }
            self.file = Some(file);
        }
        let fd = self.file.as_ref().expect("opened above").as_raw_fd();
        (first..last).step_by(Self::FILE).all(|at| {
            // SAFETY: replaces whole pages of a range that belongs to the caller of `fill`.
            let mapped = unsafe {
                libc::mmap(
                    start.with_addr(at).cast(),
                    Self::FILE.min(last - at),
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
                    fd,
                    0,
                )
            };
            mapped != libc::MAP_FAILED
        })
    }

    /// The bytes will not be used before they are filled anew: poisons a few, gives the memory of many back.
    ///
    /// # Safety
    /// As for `fill`.
    pub unsafe fn discard(&mut self, start: *mut u8, bytes: usize) {
        let end = start as usize + bytes;
        let (first, last) = ((start as usize).next_multiple_of(PAGE), end / PAGE * PAGE);
        if bytes >= Self::FILE {
            // SAFETY: replaces whole pages inside of the range.
            let mapped = unsafe {
                libc::mmap(
                    start.with_addr(first).cast(),
                    last - first,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
                    -1,
                    0,
                )
            };
            if mapped != libc::MAP_FAILED {
                return;
            }
        }
        // SAFETY: by contract.
        unsafe { start.write_bytes(POISON, bytes) };
    }
}

/// Whether there is memory at a host address.
pub(super) fn is_mapped(address: u64) -> bool {
    // SAFETY: sysconf has no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(1) as u64;
    let mut resident = 0u8;
    // SAFETY: asks about an address and writes one byte of ours.
    let done = unsafe { libc::mincore((address / page * page) as *mut libc::c_void, 1, &mut resident) };
    done == 0
}
