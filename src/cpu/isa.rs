//! Instruction sets: what this processor has, and one vocabulary of vector
//! operations over all of them.
//!
//! A kernel is written once, generic over [`Simd`], and compiled once for each
//! instruction set by [`isa_fn!`]. The value of type [`Isa`] is the proof that
//! the processor has the set: it comes from [`Isa::detect`] or
//! [`Isa::available`] only, so calling a kernel with it is safe.
//!
//! Whichever the set, a kernel does the same operations in the same order on
//! each lane; results differ between sets only by fused multiply-adds and by
//! how many lanes a horizontal sum has.

/// An instruction set this processor is known to have, for float32. ([`super::narrow`] has those for 16 bits.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Isa(Level);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Isa {
    /// Plain Rust, left to the compiler to vectorise; present everywhere.
    pub const PORTABLE: Isa = Isa(Level::Portable);

    /// The best set of this processor.
    pub fn detect() -> Isa {
        Isa::available()[0]
    }

    /// All sets of this processor, best first.
    pub fn available() -> Vec<Isa> {
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq");
            if avx512 {
                sets.push(Isa(Level::Avx512));
            }
            if avx2 {
                sets.push(Isa(Level::Avx2));
            }
        }
        sets.push(Isa::PORTABLE);
        sets
    }

    /// A short name for logs and settings.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            Level::Portable => "portable",
        }
    }

    pub(crate) fn level(self) -> Level {
        self.0
    }
}

/// Vector operations of one instruction set. A value of the implementing type
/// is a token: it can only be made where the set is enabled.
///
/// Every method is `#[inline(always)]` so that it becomes part of the
/// `#[target_feature]` function that [`isa_fn!`] builds around the kernel.
pub(crate) trait Simd: Copy {
    /// One register (or a few, for the portable one) of f32 lanes.
    type V: Copy;
    const LANES: usize;
    /// Rows of the matrix-multiply tile and registers across it: as many
    /// accumulators as leave room for the operands.
    const TILE_ROWS: usize;
    const TILE_VECS: usize;

    fn splat(self, x: f32) -> Self::V;
    /// # Safety
    /// `p` is valid for reads of `LANES` values.
    unsafe fn load_ptr(self, p: *const f32) -> Self::V;
    /// The bf16 numbers in the low and in the high halves of so many dwords.
    ///
    /// # Safety
    /// `p` is valid for reads of `LANES` dwords.
    unsafe fn load_pairs(self, p: *const u32) -> [Self::V; 2];
    /// # Safety
    /// `p` is valid for writes of `LANES` values.
    unsafe fn store_ptr(self, p: *mut f32, v: Self::V);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger; `b` where either is not a number.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where either is not a number.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the set has it.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// 2^n for t = 1.5 * 2^23 + n, -127 <= n <= 127; n = -127 gives zero.
    fn pow2_biased(self, t: Self::V) -> Self::V;

    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }

    /// Writes the columns of `LANES` rows of so many values as rows; both lie `from_row` and `to_row` values apart.
    ///
    /// # Safety
    /// `from` is readable and `to` writable for those rows.
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
        for i in 0..Self::LANES {
            for j in 0..Self::LANES {
                // SAFETY: inside of the rows.
                unsafe { *to.add(j * to_row + i) = *from.add(i * from_row + j) };
            }
        }
    }

    /// Hints that the line at `p` is read soon; `p` need not be valid.
    #[inline(always)]
    fn prefetch(self, _p: *const f32) {}

    /// Hints that the line at `p` is read later: into the second level cache.
    #[inline(always)]
    fn prefetch_far(self, _p: *const f32) {}

    /// The first lanes of `s`, which is at least `LANES` long.
    #[inline(always)]
    fn load(self, s: &[f32]) -> Self::V {
        assert!(s.len() >= Self::LANES);
        // SAFETY: the length was just checked.
        unsafe { self.load_ptr(s.as_ptr()) }
    }

    /// Writes all lanes to the front of `s`.
    #[inline(always)]
    fn store(self, s: &mut [f32], v: Self::V) {
        assert!(s.len() >= Self::LANES);
        // SAFETY: the length was just checked.
        unsafe { self.store_ptr(s.as_mut_ptr(), v) }
    }

    /// A slice shorter than `LANES`, the other lanes zero.
    #[inline(always)]
    fn load_tail(self, s: &[f32]) -> Self::V {
        let mut lanes = [0.0; MAX_LANES];
        lanes[..s.len()].copy_from_slice(s);
        self.load(&lanes)
    }

    /// Writes the first `s.len()` lanes.
    #[inline(always)]
    fn store_tail(self, s: &mut [f32], v: Self::V) {
        let mut lanes = [0.0; MAX_LANES];
        self.store(&mut lanes, v);
        s.copy_from_slice(&lanes[..s.len()]);
    }

    /// Sum of the lanes, by halves: always in the same order.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let mut lanes = [0.0; MAX_LANES];
        self.store(&mut lanes, v);
        let mut width = Self::LANES;
        while width > 1 {
            width /= 2;
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
        }
        lanes[0]
    }
}

/// The widest set's lanes.
pub(crate) const MAX_LANES: usize = 16;

/// Plain Rust on eight lanes.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Simd for Portable {
    type V = [f32; 8];
    const LANES: usize = 8;
    // SSE2 has 16 registers of 4 lanes; NEON has 32.
    const TILE_ROWS: usize = if cfg!(target_arch = "aarch64") { 8 } else { 4 };
    const TILE_VECS: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load_ptr(self, p: *const f32) -> Self::V {
        // SAFETY: the caller vouches for 8 readable values; an array of f32
        // needs no more alignment than one.
        unsafe { *p.cast() }
    }
    #[inline(always)]
    unsafe fn load_pairs(self, p: *const u32) -> [Self::V; 2] {
        // SAFETY: the caller vouches for 8 readable dwords.
        let pairs = unsafe { &*p.cast::<[u32; 8]>() };
        [
            pairs.map(|pair| f32::from_bits(pair << 16)),
            pairs.map(|pair| f32::from_bits(pair & 0xffff_0000)),
        ]
    }
    #[inline(always)]
    unsafe fn store_ptr(self, p: *mut f32, v: Self::V) {
        // SAFETY: as for `load_ptr`, writable.
        unsafe { *p.cast() = v }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not `mul_add`: without the instruction that is a library call.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn pow2_biased(self, t: Self::V) -> Self::V {
        std::array::from_fn(|i| f32::from_bits(t[i].to_bits().wrapping_add(127) << 23))
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512, transpose};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Simd;
    use std::arch::x86_64::*;

    /// AVX-512 (F, BW, VL, DQ): 32 registers of 16 lanes.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(());

    /// AVX2 and FMA: 16 registers of 8 lanes.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(());

    impl Avx512 {
        /// # Safety
        /// The processor has AVX-512 F, BW, VL and DQ, AVX2 and FMA.
        #[inline(always)]
        pub(crate) unsafe fn new() -> Self {
            Avx512(())
        }
    }

    impl Avx2 {
        /// # Safety
        /// The processor has AVX2 and FMA.
        #[inline(always)]
        pub(crate) unsafe fn new() -> Self {
            Avx2(())
        }
    }

    /// The columns of 16 rows of 16 dwords.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn transpose(rows: &[__m512i; 16]) -> [__m512i; 16] {
        let mut t = *rows;
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
        }
        let mut u = t;
        for i in (0..16).step_by(4) {
            u[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
            u[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
            u[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
            u[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
        }
        // Quarter l of u[4 i + c] holds column 4 l + c of rows 4 i..4 i + 4.
        let mut out = u;
        for c in 0..4 {
            let even = |a, b| _mm512_shuffle_i32x4::<0x88>(a, b);
            let odd = |a, b| _mm512_shuffle_i32x4::<0xdd>(a, b);
            let (a, b) = (even(u[c], u[4 + c]), even(u[8 + c], u[12 + c]));
            (out[c], out[8 + c]) = (even(a, b), odd(a, b));
            let (a, b) = (odd(u[c], u[4 + c]), odd(u[8 + c], u[12 + c]));
            (out[4 + c], out[12 + c]) = (even(a, b), odd(a, b));
        }
        out
    }

    /// Implements one arithmetic method by one intrinsic.
    macro_rules! lanewise {
        ($($method:ident($($arg:ident),+) = $intrinsic:ident;)+) => {
            $(#[inline(always)]
            fn $method(self, $($arg: Self::V),+) -> Self::V {
                // SAFETY: the token proves that the processor has the set.
                unsafe { $intrinsic($($arg),+) }
            })+
        };
    }

    impl Simd for Avx512 {
        type V = __m512;
        const LANES: usize = 16;
        const TILE_ROWS: usize = 12;
        const TILE_VECS: usize = 2;

        lanewise! {
            add(a, b) = _mm512_add_ps;
            sub(a, b) = _mm512_sub_ps;
            mul(a, b) = _mm512_mul_ps;
            div(a, b) = _mm512_div_ps;
            max(a, b) = _mm512_max_ps;
            min(a, b) = _mm512_min_ps;
            fma(a, b, c) = _mm512_fmadd_ps;
        }
        #[inline(always)]
        fn splat(self, x: f32) -> __m512 {
            // SAFETY: the token proves that the processor has the set.
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load_ptr(self, p: *const f32) -> __m512 {
            // SAFETY: the token, and the caller's word for `p`.
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn load_pairs(self, p: *const u32) -> [__m512; 2] {
            // SAFETY: the token, and the caller's word for `p`.
            unsafe {
                let pairs = _mm512_loadu_si512(p.cast());
                let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
                [_mm512_slli_epi32::<16>(pairs), _mm512_and_si512(pairs, high)]
                    .map(|x| _mm512_castsi512_ps(x))
            }
        }
        #[inline(always)]
        unsafe fn store_ptr(self, p: *mut f32, v: __m512) {
            // SAFETY: the token, and the caller's word for `p`.
            unsafe { _mm512_storeu_ps(p, v) }
        }
        #[inline(always)]
        fn pow2_biased(self, t: __m512) -> __m512 {
            // SAFETY: the token proves that the processor has the set.
            unsafe {
                let n = _mm512_add_epi32(_mm512_castps_si512(t), _mm512_set1_epi32(127));
                _mm512_castsi512_ps(_mm512_slli_epi32::<23>(n))
            }
        }
        #[inline(always)]
        unsafe fn transpose(self, from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
            // SAFETY: the token, and the caller's word for the rows.
            unsafe {
                let mut rows = [_mm512_setzero_si512(); 16];
                for (i, row) in rows.iter_mut().enumerate() {
                    *row = _mm512_loadu_si512(from.add(i * from_row).cast());
                }
                for (j, column) in transpose(&rows).into_iter().enumerate() {
                    _mm512_storeu_si512(to.add(j * to_row).cast(), column);
                }
            }
        }
        #[inline(always)]
        fn prefetch(self, p: *const f32) {
            // SAFETY: a prefetch never faults, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
        }
        #[inline(always)]
        fn prefetch_far(self, p: *const f32) {
            // SAFETY: a prefetch never faults, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
        }
        #[inline(always)]
        fn load_tail(self, s: &[f32]) -> __m512 {
            assert!(s.len() < 16);
            let mask = (1u16 << s.len()) - 1;
            // SAFETY: the token; only the lanes inside `s` are read.
            unsafe { _mm512_maskz_loadu_ps(mask, s.as_ptr()) }
        }
        #[inline(always)]
        fn store_tail(self, s: &mut [f32], v: __m512) {
            assert!(s.len() < 16);
            let mask = (1u16 << s.len()) - 1;
            // SAFETY: the token; only the lanes inside `s` are written.
            unsafe { _mm512_mask_storeu_ps(s.as_mut_ptr(), mask, v) }
        }
    }

    impl Simd for Avx2 {
        type V = __m256;
        const LANES: usize = 8;
        const TILE_ROWS: usize = 6;
        const TILE_VECS: usize = 2;

        lanewise! {
            add(a, b) = _mm256_add_ps;
            sub(a, b) = _mm256_sub_ps;
            mul(a, b) = _mm256_mul_ps;
            div(a, b) = _mm256_div_ps;
            max(a, b) = _mm256_max_ps;
            min(a, b) = _mm256_min_ps;
            fma(a, b, c) = _mm256_fmadd_ps;
        }
        #[inline(always)]
        fn splat(self, x: f32) -> __m256 {
            // SAFETY: the token proves that the processor has the set.
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load_ptr(self, p: *const f32) -> __m256 {
            // SAFETY: the token, and the caller's word for `p`.
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn load_pairs(self, p: *const u32) -> [__m256; 2] {
            // SAFETY: the token, and the caller's word for `p`.
            unsafe {
                let pairs = _mm256_loadu_si256(p.cast());
                let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
                [_mm256_slli_epi32::<16>(pairs), _mm256_and_si256(pairs, high)]
                    .map(|x| _mm256_castsi256_ps(x))
            }
        }
        #[inline(always)]
        unsafe fn store_ptr(self, p: *mut f32, v: __m256) {
            // SAFETY: the token, and the caller's word for `p`.
            unsafe { _mm256_storeu_ps(p, v) }
        }
        #[inline(always)]
        fn pow2_biased(self, t: __m256) -> __m256 {
            // SAFETY: the token proves that the processor has the set.
            unsafe {
                let n = _mm256_add_epi32(_mm256_castps_si256(t), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(n))
            }
        }
        #[inline(always)]
        unsafe fn transpose(self, from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
            // SAFETY: the token, and the caller's word for the rows.
            unsafe {
                let row = |i: usize| _mm256_loadu_ps(from.add(i * from_row));
                // Quarters of columns: four of each half of the rows.
                let halves = [0, 4].map(|i| {
                    let (a, b, c, d) = (row(i), row(i + 1), row(i + 2), row(i + 3));
                    let low = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
                    let high = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
                    [
                        _mm256_shuffle_ps::<0x44>(low.0, low.1),
                        _mm256_shuffle_ps::<0xee>(low.0, low.1),
                        _mm256_shuffle_ps::<0x44>(high.0, high.1),
                        _mm256_shuffle_ps::<0xee>(high.0, high.1),
                    ]
                });
                for (j, (&upper, &lower)) in halves[0].iter().zip(&halves[1]).enumerate() {
                    let (first, second) = (to.add(j * to_row), to.add((j + 4) * to_row));
                    _mm256_storeu_ps(first, _mm256_permute2f128_ps::<0x20>(upper, lower));
                    _mm256_storeu_ps(second, _mm256_permute2f128_ps::<0x31>(upper, lower));
                }
            }
        }
        #[inline(always)]
        fn prefetch(self, p: *const f32) {
            // SAFETY: a prefetch never faults, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
        }
        #[inline(always)]
        fn prefetch_far(self, p: *const f32) {
            // SAFETY: a prefetch never faults, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
        }
    }
}

/// Compiles one kernel for every instruction set.
///
/// `fn name<S>(s, args...) -> R { body }` becomes `fn name(isa: Isa, args...)
/// -> R`, which calls the body with `S` and `s` of that set, inlined into a
/// function that has the set's features enabled. Everything generic that the
/// body calls must be `#[inline(always)]`, closures in it included, or it is
/// compiled without them.
macro_rules! isa_fn {
    ($(#[$meta:meta])* $vis:vis fn $($rest:tt)*) => {
        $crate::cpu::isa::isa_fn!(@make [] $(#[$meta])* $vis fn $($rest)*);
    };
    ($(#[$meta:meta])* $vis:vis unsafe fn $($rest:tt)*) => {
        $crate::cpu::isa::isa_fn!(@make [unsafe] $(#[$meta])* $vis fn $($rest)*);
    };
    (@make [$($unsafe:ident)?]
        $(#[$meta:meta])* $vis:vis fn $name:ident<$S:ident>($s:ident $(, $arg:ident: $ty:ty)* $(,)?)
        $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis $($unsafe)? fn $name(isa: $crate::cpu::isa::Isa $(, $arg: $ty)*) $(-> $ret)? {
            #[allow(clippy::too_many_arguments)]
            #[inline(always)]
            $($unsafe)? fn body<$S: $crate::cpu::isa::Simd>($s: $S $(, $arg: $ty)*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[allow(clippy::too_many_arguments)]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
            $($unsafe)? fn avx512($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function has these features enabled; the rest is the caller's word.
                unsafe { body($crate::cpu::isa::Avx512::new() $(, $arg)*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[allow(clippy::too_many_arguments)]
            #[target_feature(enable = "avx2,fma")]
            $($unsafe)? fn avx2($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function has these features enabled; the rest is the caller's word.
                unsafe { body($crate::cpu::isa::Avx2::new() $(, $arg)*) }
            }

            match isa.level() {
                // SAFETY: an `Isa` of this level exists only where the
                // processor was found to have the features; the rest is the caller's word.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::isa::Level::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: an `Isa` of this level exists only where the
                // processor was found to have the features; the rest is the caller's word.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::isa::Level::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: the caller's word, where one is wanted.
                #[allow(unused_unsafe)]
                $crate::cpu::isa::Level::Portable => unsafe {
                    body($crate::cpu::isa::Portable $(, $arg)*)
                },
            }
        }
    };
}
pub(crate) use isa_fn;

#[cfg(test)]
mod tests {
    use super::*;

    isa_fn! {
        fn double_sum<S>(s, x: &mut [f32]) -> f32 {
            let mut total = s.zero();
            let mut chunks = x.chunks_exact_mut(S::LANES);
            for chunk in &mut chunks {
                let v = s.load(chunk);
                let v = s.add(v, v);
                s.store(chunk, v);
                total = s.add(total, v);
            }
            let tail = chunks.into_remainder();
            if !tail.is_empty() {
                let v = s.load_tail(tail);
                let v = s.add(v, v);
                s.store_tail(tail, v);
                total = s.add(total, v);
            }
            s.sum(total)
        }
    }

    #[test]
    fn every_set_runs() {
        assert_eq!(Isa::detect(), Isa::available()[0]);
        for isa in Isa::available() {
            for n in [0, 1, 7, 8, 15, 16, 17, 100] {
                let mut x: Vec<f32> = (0..n).map(|i| i as f32).collect();
                let total = double_sum(isa, &mut x);
                assert_eq!(total, (0..n).sum::<usize>() as f32 * 2.0, "{}", isa.name());
                assert!((0..n).all(|i| x[i] == 2.0 * i as f32));
            }
        }
    }

    isa_fn! {
        fn pow2_of<S>(s, n: f32) -> f32 {
            let t = s.add(s.splat(12582912.0), s.splat(n));
            let mut lanes = [0.0; MAX_LANES];
            s.store(&mut lanes, s.pow2_biased(t));
            lanes[0]
        }
    }

    #[test]
    fn powers_of_two() {
        for isa in Isa::available() {
            for n in -126..=127 {
                assert_eq!(pow2_of(isa, n as f32), 2f32.powi(n));
            }
            assert_eq!(pow2_of(isa, -127.0), 0.0);
        }
    }

    isa_fn! {
        fn transposed<S>(s, x: &[f32], from_row: usize, out: &mut [f32], to_row: usize) -> usize {
            assert!(x.len() >= S::LANES * from_row && out.len() >= S::LANES * to_row);
            // SAFETY: both have the rows.
            unsafe { s.transpose(x.as_ptr(), from_row, out.as_mut_ptr(), to_row) };
            S::LANES
        }
    }

    #[test]
    fn columns_become_rows() {
        let (from_row, to_row) = (17, 19);
        let x: Vec<f32> = (0..16 * from_row).map(|i| i as f32).collect();
        for isa in Isa::available() {
            let mut out = vec![-1.0; 16 * to_row];
            let lanes = transposed(isa, &x, from_row, &mut out, to_row);
            for (at, &value) in out.iter().enumerate() {
                let (j, i) = (at / to_row, at % to_row);
                let inside = i < lanes && j < lanes;
                assert_eq!(
                    value,
                    if inside { x[i * from_row + j] } else { -1.0 },
                    "{}",
                    isa.name()
                );
            }
        }
    }
}
