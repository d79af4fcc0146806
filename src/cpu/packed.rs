//! Weights packed for [`gemm`](super::gemm::gemm).
//!
//! W is stored in panels of [`NR`] output columns, each panel K rows of NR
//! values, so the inner loop reads it front to back:
//!
//! ```text
//! panel p, row k:  W[p*NR + 0, k], W[p*NR + 1, k], ..., W[p*NR + NR-1, k]
//! ```
//!
//! Weights that are bf16 numbers stay so, in half the memory: column c and column c + NR/2 side by side in a dword, the
//! first one in its low half. A task widens them, which is exact, block by block.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};

use super::team::{SendPtr, Team};

/// Columns of a panel: two AVX-512 registers, four of AVX2.
pub const NR: usize = 32;

/// W[N, K], packed for [`gemm`](super::gemm::gemm).
pub struct PackedMatrix {
    n: usize,
    k: usize,
    is_bf16: bool,
    data: Buffer,
}

impl PackedMatrix {
    /// Packs an n × k matrix. `row(i, values)` fills in row i (of 0..n), as
    /// f32; it is called once per row, from any thread of the team.
    pub fn pack(team: &mut Team, n: usize, k: usize, row: &(dyn Fn(usize, &mut [f32]) + Sync)) -> Self {
        let word = |rows: &[f32], stride: usize, k: usize, j: usize| rows[j * stride + k].to_bits();
        let data = pack(team, (n, k), NR, row, word);
        PackedMatrix {
            n,
            k,
            is_bf16: false,
            data,
        }
    }

    /// The same of bf16 numbers, as their bits.
    pub fn pack_bf16(team: &mut Team, n: usize, k: usize, row: &(dyn Fn(usize, &mut [u16]) + Sync)) -> Self {
        let word = |rows: &[u16], stride: usize, k: usize, j: usize| {
            u32::from(rows[j * stride + k]) | u32::from(rows[(j + NR / 2) * stride + k]) << 16
        };
        let data = pack(team, (n, k), NR / 2, row, word);
        PackedMatrix {
            n,
            k,
            is_bf16: true,
            data,
        }
    }

    /// Rows of W: columns of y.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Columns of W and of x.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Whether the panels hold bf16 numbers.
    pub(super) fn is_bf16(&self) -> bool {
        self.is_bf16
    }

    /// The values from row k of panel p on, up to the end of the panel, if they are f32.
    pub(super) fn panel(&self, p: usize, k: usize) -> *const f32 {
        debug_assert!(!self.is_bf16);
        self.data.ptr.wrapping_add((p * self.k + k) * NR)
    }

    /// The pairs from row k of panel p on, up to the end of the panel, if they are bf16.
    pub(super) fn pairs(&self, p: usize, k: usize) -> *const u32 {
        debug_assert!(self.is_bf16);
        self.data
            .ptr
            .cast::<u32>()
            .wrapping_add((p * self.k + k) * (NR / 2))
    }

    /// Bytes of the packed form.
    pub fn bytes(&self) -> usize {
        self.data.bytes()
    }
}

/// Panels of an n × k matrix, each row of them of so many dwords; `word(rows, distance, k, j)` is dword j of row k, of a
/// panel's rows of W at that distance. `row` fills in a row of W.
fn pack<T: Copy + Default>(
    team: &mut Team,
    (n, k): (usize, usize),
    words: usize,
    row: &(dyn Fn(usize, &mut [T]) + Sync),
    word: impl Fn(&[T], usize, usize, usize) -> u32 + Sync,
) -> Buffer {
    assert!(n > 0 && k > 0, "a matrix has at least one element");
    let panels = n.div_ceil(NR);
    let data = Buffer::new(panels * words * k);
    let out = data.writer();
    team.run(panels, &|p| {
        // The odd stride keeps the 32 rows apart in the cache.
        let stride = k + 17;
        let mut rows = vec![T::default(); NR * stride];
        for j in 0..NR.min(n - p * NR) {
            row(p * NR + j, &mut rows[j * stride..][..k]);
        }
        // SAFETY: panel p of the buffer, which is this task's alone and
        // lies inside the allocation.
        let panel = unsafe { out.get().cast::<u32>().add(p * words * k) };
        for kk in 0..k {
            for j in 0..words {
                // SAFETY: kk < k and j < words, inside the panel. A write
                // through the pointer, as the memory is still raw.
                unsafe { panel.add(kk * words + j).write(word(&rows, stride, kk, j)) }
            }
        }
    });
    data
}

/// Bytes of a page: where memory that may ask for huge pages begins.
pub(super) const PAGE: usize = 4096;

/// Asks for huge pages for this memory, which begins on a page's boundary: rows that lie a page apart then need no address
/// translation each. Best before it is first written to.
pub(super) fn prefer_huge_pages(ptr: *const u8, bytes: usize) {
    debug_assert_eq!(ptr.addr() % PAGE, 0);
    // SAFETY: whole pages of one allocation; the advice changes no contents. If refused, small pages serve.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::madvise(ptr.cast_mut().cast(), bytes / PAGE * PAGE, libc::MADV_HUGEPAGE)
    };
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
