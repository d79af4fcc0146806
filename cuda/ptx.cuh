// PTX, one instruction per function, its name in the function's name. No other file but ptx_sm90.cuh
// holds asm. Loads that name .nc are for memory that nobody writes while the kernel runs.
#pragma once

#include <stdint.h>

__device__ __forceinline__ uint64_t cvta_to_global(const void *p) { return __cvta_generic_to_global(p); }

// ---- Memory ----

/// Weights: read-only, through L1, where the next row's block may find them.
__device__ __forceinline__ uint4 ld_global_nc_v4_b32(const void *p) {
    uint4 v;
    asm("ld.global.nc.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(cvta_to_global(p)));
    return v;
}

__device__ __forceinline__ uint16_t ld_global_nc_b16(const void *p) {
    uint16_t v;
    asm("ld.global.nc.b16 %0, [%1];" : "=h"(v) : "l"(cvta_to_global(p)));
    return v;
}

/// Activations: read once, and perhaps written by the same thread later.
__device__ __forceinline__ uint4 ld_global_v4_b32(const void *p) {
    uint4 v;
    asm volatile("ld.global.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(cvta_to_global(p))
                 : "memory");
    return v;
}

__device__ __forceinline__ void st_global_v4_b32(void *p, uint4 v) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(cvta_to_global(p)), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
}

__device__ __forceinline__ void st_global_b16(void *p, uint16_t v) {
    asm volatile("st.global.b16 [%0], %1;" ::"l"(cvta_to_global(p)), "h"(v) : "memory");
}

// ---- Conversions, all to nearest, ties to even ----

/// Two float32 to two bfloat16; `low` goes to the lower half, which is the lower address.
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
