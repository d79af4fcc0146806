// Rotary position embedding, half-split pairs (arXiv 2104.09864): numbers i and i + head_dim / 2 of a head turn by
// the angle of the row's position. One functor for whoever rotates.
#pragma once

#include "dtype.cuh"

/// (a, b) becomes (a·cos - b·sin, b·cos + a·sin). The fused operations are written out, so that no two places that
/// inline this round differently. With -sin the pair may come the other way round.
__device__ __forceinline__ void rotate(float &a, float &b, float cos, float sin) {
    const float turned = __fmaf_rn(a, cos, -__fmul_rn(b, sin));
    b = __fmaf_rn(b, cos, __fmul_rn(a, sin));
    a = turned;
}

/// Eight pairs (a, b), each result rounded once. `table`: 8 pairs of cosine and sine; `sign`: 1, or -1 if
/// a is the upper half of the head and b the lower.
template <class T> __device__ __forceinline__ void rotate(uint4 &a, uint4 &b, const float *table, float sign) {
    uint4 turns[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        turns[i] = ld_global_nc_v4_b32(table + 4 * i);
    }
    float first[8], second[8];
    unpack<T>(a, first);
    unpack<T>(b, second);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        rotate(first[2 * i], second[2 * i], __uint_as_float(turns[i].x), sign * __uint_as_float(turns[i].y));
        rotate(first[2 * i + 1], second[2 * i + 1], __uint_as_float(turns[i].z), sign * __uint_as_float(turns[i].w));
    }
    a = pack<T>(first);
    b = pack<T>(second);
}
