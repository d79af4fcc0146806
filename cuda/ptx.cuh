// PTX wrappers: one instruction per function, named after the instruction. Inline asm appears only here, and for Hopper
// in sm90/ptx.cuh. Loads with .nc are for memory that is not written while the kernel runs.
//
// Every load is volatile: the compiler may move an asm that is not volatile in front of the condition that guards it, a
// null check for example. Arithmetic needs no volatile: it may run where its result is not used.
#pragma once

#include <stdint.h>

__device__ __forceinline__ uint64_t cvta_to_global(const void *p) { return __cvta_generic_to_global(p); }

// ---- Memory ----

/// For weights: read-only and cached in L1, where the block of the next row may hit.
__device__ __forceinline__ uint4 ld_global_nc_v4_b32(const void *p) {
    uint4 v;
    asm volatile("ld.global.nc.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(cvta_to_global(p)));
    return v;
}

__device__ __forceinline__ uint32_t ld_global_nc_b32(const void *p) {
    uint32_t v;
    asm volatile("ld.global.nc.b32 %0, [%1];" : "=r"(v) : "l"(cvta_to_global(p)));
    return v;
}

__device__ __forceinline__ uint16_t ld_global_nc_b16(const void *p) {
    uint16_t v;
    asm volatile("ld.global.nc.b16 %0, [%1];" : "=h"(v) : "l"(cvta_to_global(p)));
    return v;
}

/// For activations: the same thread may write the address later.
__device__ __forceinline__ uint4 ld_global_v4_b32(const void *p) {
    uint4 v;
    asm volatile("ld.global.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(cvta_to_global(p))
                 : "memory");
    return v;
}

__device__ __forceinline__ uint32_t ld_global_b32(const void *p) {
    uint32_t v;
    asm volatile("ld.global.b32 %0, [%1];" : "=r"(v) : "l"(cvta_to_global(p)) : "memory");
    return v;
}

/// For activations that are read once: bypasses L1, which keeps what is read again.
__device__ __forceinline__ uint4 ld_global_cg_v4_b32(const void *p) {
    uint4 v;
    asm volatile("ld.global.cg.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(cvta_to_global(p))
                 : "memory");
    return v;
}

__device__ __forceinline__ void st_global_v4_b32(void *p, uint4 v) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(cvta_to_global(p)),
                 "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
}

__device__ __forceinline__ void st_global_v2_b32(void *p, uint2 v) {
    asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(cvta_to_global(p)), "r"(v.x), "r"(v.y) : "memory");
}

__device__ __forceinline__ void st_global_b16(void *p, uint16_t v) {
    asm volatile("st.global.b16 [%0], %1;" ::"l"(cvta_to_global(p)), "h"(v) : "memory");
}

__device__ __forceinline__ void st_global_b8(void *p, uint8_t v) {
    asm volatile("st.global.b8 [%0], %1;" ::"l"(cvta_to_global(p)), "r"(static_cast<uint32_t>(v)) : "memory");
}

__device__ __forceinline__ uint32_t cvta_to_shared(const void *p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void st_shared_v2_f32(uint32_t to, float x, float y) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to), "f"(x), "f"(y) : "memory");
}

__device__ __forceinline__ void st_shared_b16(uint32_t to, uint16_t v) {
    asm volatile("st.shared.b16 [%0], %1;" ::"r"(to), "h"(v) : "memory");
}

__device__ __forceinline__ void st_shared_b32(uint32_t to, uint32_t v) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(v) : "memory");
}

__device__ __forceinline__ void st_shared_v2_b32(uint32_t to, uint2 v) {
    asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(to), "r"(v.x), "r"(v.y) : "memory");
}

__device__ __forceinline__ void st_shared_v4_b32(uint32_t to, uint4 v) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
}

__device__ __forceinline__ uint32_t ld_shared_b32(uint32_t from) {
    uint32_t v;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(v) : "r"(from) : "memory");
    return v;
}

__device__ __forceinline__ uint4 ld_shared_v4_b32(uint32_t from) {
    uint4 v;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(from)
                 : "memory");
    return v;
}

__device__ __forceinline__ float4 ld_shared_v4_f32(uint32_t from) {
    float4 v;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(from)
                 : "memory");
    return v;
}

// ---- Barriers ----

/// Waits for `threads` threads at named barrier `Id`, 1 to 15 (__syncthreads() is 0).
template <int Id> __device__ __forceinline__ void bar_sync(uint32_t threads) {
    asm volatile("bar.sync %0, %1;" ::"n"(Id), "r"(threads) : "memory");
}

/// The same at a barrier whose number is not known when this is compiled.
__device__ __forceinline__ void bar_sync(uint32_t id, uint32_t threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- Asynchronous copies to shared memory ----

/// Writes 16 bytes: the first `bytes` (0 to 16) are copied from `from`, bypassing L1, the rest are zeros. With 0 bytes
/// nothing is read, but `from` must be a valid address all the same.
__device__ __forceinline__ void cp_async_cg_shared_global_16(uint32_t to, const void *from, uint32_t bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(cvta_to_global(from)), "r"(bytes)
                 : "memory");
}

/// Closes a group: all copies of this thread since the last commit.
__device__ __forceinline__ void cp_async_commit_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until at most the last `Groups` groups of this thread are in flight. Copies of other threads are visible after
/// a barrier.
template <int Groups> __device__ __forceinline__ void cp_async_wait_group() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Groups) : "memory");
}

// ---- Matrix instructions ----

/// Loads four 8x8 matrices of 16-bit elements. Lane l passes the address of row l % 8 of matrix l / 8, and receives
/// elements 2·(l % 4) and 2·(l % 4) + 1 of row l / 4 of each matrix.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&m)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(address)
                 : "memory");
}

/// As ldmatrix_x4, with each matrix transposed.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&m)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(address)
                 : "memory");
}

/// Loads two 8x8 matrices; lanes 0 to 15 pass the addresses.
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&m)[2], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(m[0]), "=r"(m[1])
                 : "r"(address)
                 : "memory");
}

/// d += a b, 16x8x16, a row-major, b column-major. Lane l holds columns 2·(l % 4) and 2·(l % 4) + 1 of rows l / 4 and
/// l / 4 + 8 of d.
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- Programmatic dependent launch ----
//
// From compute capability 9.0 on, a kernel of a pass can start while the one before it runs: as soon as each of that one's
// blocks has called griddepcontrol_launch_dependents(), which all kernels do first. So it may well run beside several
// kernels before it, as none of them need have come further than its own wait. What holds for every kernel:
//
// - Before griddepcontrol_wait() it accesses nothing that any kernel of the pass writes, and writes nothing: weights,
//   adapters and tables are there before the pass, and so is its input (the number of tokens, ids, positions, tiles, pool
//   rows), which is copied before the first kernel, and next after the last.
// - Every thread of every block waits, before it ends. Then no kernel ends before the one before it has, and to wait for
//   the one before is to wait for all of them.
//
// Below compute capability 9.0 neither does anything, and each kernel starts when the one before it has ended.

#if __CUDA_ARCH__ >= 900
constexpr bool kDependentLaunch = true;
#else
constexpr bool kDependentLaunch = false;
#endif

/// Lets the next kernel start, once all blocks have called this.
__device__ __forceinline__ void griddepcontrol_launch_dependents() {
    if constexpr (kDependentLaunch) {
        asm volatile("griddepcontrol.launch_dependents;");
    }
}

/// Waits until the kernels before this have ended; what they wrote is then visible.
__device__ __forceinline__ void griddepcontrol_wait() {
    if constexpr (kDependentLaunch) {
        asm volatile("griddepcontrol.wait;" ::: "memory");
    }
}

// ---- Arithmetic ----

/// 2^x within 2 ulp; 2^-∞ is 0.
__device__ __forceinline__ float ex2_approx_ftz_f32(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// ---- Conversions: round to nearest, ties to even ----

/// Two float32 to two bfloat16; `low` becomes the lower half, which has the lower address in memory.
__device__ __forceinline__ uint32_t cvt_rn_bf16x2_f32(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

/// Two float32 to two float16.
__device__ __forceinline__ uint32_t cvt_rn_f16x2_f32(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

/// Float16 to float32, exact.
__device__ __forceinline__ float cvt_f32_f16(uint16_t x) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x));
    return wide;
}
