// Rotary position embedding on half-split pairs (arXiv 2104.09864): elements i and i + head_dim / 2 of a head rotate by
// the angle of the row's position.
#pragma once

#include "dtype.cuh"

/// (a, b) becomes (a·cos - b·sin, b·cos + a·sin). The fused operations are explicit, so that every kernel that inlines
/// this rounds the same way. With -sin the pair may be passed in reverse order.
__device__ __forceinline__ void rotate(float &a, float &b, float cos, float sin) {
    const float rotated = __fmaf_rn(a, cos, -__fmul_rn(b, sin));
    b = __fmaf_rn(b, cos, __fmul_rn(a, sin));
    a = rotated;
}

/// Rotates eight pairs (a, b), each result rounded once. `table`: eight pairs of cosine and sine. `sign`: 1 if a is in
/// the lower half of the head and b in the upper, -1 in the other order.
template <class T> __device__ __forceinline__ void rotate(uint4 &a, uint4 &b, const float *table, float sign) {
    uint4 cos_sin[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        cos_sin[i] = ld_global_nc_v4_b32(table + 4 * i);
    }
    float a_f32[8], b_f32[8];
    unpack<T>(a, a_f32);
    unpack<T>(b, b_f32);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        rotate(a_f32[2 * i], b_f32[2 * i], __uint_as_float(cos_sin[i].x), sign * __uint_as_float(cos_sin[i].y));
        rotate(a_f32[2 * i + 1], b_f32[2 * i + 1], __uint_as_float(cos_sin[i].z), sign * __uint_as_float(cos_sin[i].w));
    }
    a = pack<T>(a_f32);
    b = pack<T>(b_f32);
}
