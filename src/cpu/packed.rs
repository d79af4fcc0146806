//! Weights packed for [`gemm`](super::gemm::gemm).
//!
//! W is stored in panels of [`NR`] output columns, each panel K rows of NR
//! values, so the inner loop reads it front to back:
//!
//! ```text
//! panel p, row k:  W[p*NR + 0, k], W[p*NR + 1, k], ..., W[p*NR + NR-1, k]
//! ```

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};

use super::team::{SendPtr, Team};

/// Columns of a panel: two AVX-512 registers, four of AVX2.
pub const NR: usize = 32;

/// W[N, K], packed for [`gemm`](super::gemm::gemm).
pub struct PackedMatrix {
    n: usize,
    k: usize,
    data: Buffer,
}

impl PackedMatrix {
    /// Packs an n × k matrix. `row(i, values)` fills in row i (of 0..n), as
    /// f32; it is called once per row, from any thread of the team.
    pub fn pack(team: &mut Team, n: usize, k: usize, row: &(dyn Fn(usize, &mut [f32]) + Sync)) -> Self {
        assert!(n > 0 && k > 0, "a matrix has at least one element");
        let panels = n.div_ceil(NR);
        let data = Buffer::new(panels * NR * k);
        let out = data.writer();
        team.run(panels, &|p| {
            // The odd stride keeps the 32 rows apart in the cache.
            let stride = k + 17;
            let mut rows = vec![0.0; NR * stride];
            for j in 0..NR.min(n - p * NR) {
                row(p * NR + j, &mut rows[j * stride..][..k]);
            }
            // SAFETY: panel p of the buffer, which is this task's alone and
            // lies inside the allocation.
            let panel = unsafe { out.get().add(p * NR * k) };
            for kk in 0..k {
                for j in 0..NR {
                    // SAFETY: kk < k and j < NR, inside the panel. A write
                    // through the pointer, as the memory is still raw.
                    unsafe { panel.add(kk * NR + j).write(rows[j * stride + kk]) }
                }
            }
        });
        PackedMatrix { n, k, data }
    }

    /// Rows of W: columns of y.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Columns of W and of x.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The values from row k of panel p on, up to the end of the panel.
    pub(super) fn panel(&self, p: usize, k: usize) -> *const f32 {
        self.data.ptr.wrapping_add((p * self.k + k) * NR)
    }

    /// Bytes of the packed form.
    pub fn bytes(&self) -> usize {
        self.data.bytes()
    }
}

/// Asks for huge pages for this memory, where they fit: rows that lie a page apart then need no address translation each.
/// Best before it is first written to.
pub(super) fn prefer_huge_pages(ptr: *const u8, bytes: usize) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        let skipped = ptr.align_offset(PAGE);
        if let Some(bytes) = bytes.checked_sub(skipped) {
            // SAFETY: whole pages of one allocation; the advice changes no contents. If refused, small pages serve.
            unsafe {
                libc::madvise(
                    ptr.add(skipped).cast_mut().cast(),
                    bytes / PAGE * PAGE,
                    libc::MADV_HUGEPAGE,
                )
            };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (ptr, bytes);
}

/// Memory for weights, aligned to cache lines; on Linux in huge pages where
/// that fits, as streaming through small ones costs an address translation
/// every 4 KB.
pub(super) struct Buffer {
    ptr: *mut f32,
    len: usize,
    layout: Layout,
}

// SAFETY: a `Buffer` owns its memory, which no thread is bound to.
unsafe impl Send for Buffer {}
// SAFETY: shared references to a `Buffer` only read its memory.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Raw memory for `len` > 0 values: the owner writes all before reading.
    pub fn new(len: usize) -> Buffer {
        const HUGE: usize = 2 << 20;
        let bytes = len * size_of::<f32>();
        let align = if bytes >= HUGE { HUGE } else { 64 };
        let layout = Layout::from_size_align(bytes, align).expect("a matrix fits in memory");
        // SAFETY: the layout's size is not zero.
        let ptr = unsafe { alloc(layout) };
        if ptr.is_null() {
            handle_alloc_error(layout);
        }
        if align == HUGE {
            prefer_huge_pages(ptr, bytes);
        }
        Buffer {
            ptr: ptr.cast(),
            len,
            layout,
        }
    }

    /// Where the values are.
    pub fn writer(&self) -> SendPtr {
        SendPtr(self.ptr)
    }

    /// Bytes in all.
    pub fn bytes(&self) -> usize {
        self.len * size_of::<f32>()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.ptr.cast(), self.layout) }
    }
}
