//! Zeroed memory that costs only what is touched.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Above this, pages come from the system one by one as they are touched.
const MAPPED: usize = 64 << 10;

/// A slice of atomics, zero at first.
pub(super) struct Region {
    start: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the region owns its memory, and all access goes through atomics.
unsafe impl Send for Region {}
// SAFETY: a shared region hands out atomics alone.
unsafe impl Sync for Region {}

impl Region {
    /// `None` if the machine has no room for it.
    pub fn new(len: usize) -> Option<Self> {
        let bytes = len.checked_mul(8)?;
        let start = if bytes == 0 {
            NonNull::dangling()
        } else if bytes < MAPPED {
            // SAFETY: the layout is not empty.
            NonNull::new(unsafe { alloc_zeroed(Layout::array::<AtomicU64>(len).ok()?) })?.cast()
        } else {
            // SAFETY: a new mapping, nothing is replaced.
            let mapped = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    bytes,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                    -1,
                    0,
                )
            };
            if mapped == libc::MAP_FAILED {
                return None;
            }
            NonNull::new(mapped)?.cast()
        };
        Some(Self { start, len })
    }

    /// Zeroes elements `from..to`; whole pages are given back to the system.
    pub fn clear(&self, from: usize, to: usize) {
        assert!(from <= to && to <= self.len);
        let mut from = from;
        if self.len * 8 >= MAPPED {
            // Pages of at most 64 KiB; where the system's are smaller this is aligned for them too.
            const PAGE: usize = (64 << 10) / 8;
            let skew = (self.start.as_ptr() as usize / 8) % PAGE;
            let first = (from + skew).next_multiple_of(PAGE) - skew;
            let last = ((to + skew) / PAGE * PAGE).saturating_sub(skew);
            if first < last {
                // SAFETY: whole pages inside of this region's own anonymous mapping, which read as zero afterwards.
                let done = unsafe {
                    libc::madvise(
                        self.start.as_ptr().add(first).cast(),
                        (last - first) * 8,
                        libc::MADV_DONTNEED,
                    )
                };
                if done == 0 {
                    for element in &self[from..first] {
                        element.store(0, Relaxed);
                    }
                    from = last;
                }
            }
        }
        for element in &self[from..to] {
            element.store(0, Relaxed);
        }
    }
}

impl Deref for Region {
    type Target = [AtomicU64];

    #[inline(always)]
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: `len` initialised (zeroed) elements that live as long as the region.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let bytes = self.len * 8;
        if bytes == 0 {
            return;
        }
        if bytes < MAPPED {
            let layout = Layout::array::<AtomicU64>(self.len).expect("as in new");
            // SAFETY: allocated in `new` with this layout.
            unsafe { dealloc(self.start.as_ptr().cast(), layout) };
        } else {
            // SAFETY: mapped in `new` with this length.
            unsafe { libc::munmap(self.start.as_ptr().cast(), bytes) };
        }
    }
}
