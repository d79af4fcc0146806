// The 16-bit types of activations and weights, as pairs in 32-bit registers. All arithmetic is float32.
#pragma once

#include "ptx.cuh"

struct Bf16 {
    static __device__ __forceinline__ float low(uint32_t pair) { return __uint_as_float(pair << 16); }
    static __device__ __forceinline__ float high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
    static __device__ __forceinline__ uint32_t pack(float low, float high) { return cvt_rn_bf16x2_f32(low, high); }
    static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        mma_m16n8k16_bf16(d, a, b0, b1);
    }
};

struct F16 {
    static __device__ __forceinline__ float low(uint32_t pair) { return cvt_f32_f16(static_cast<uint16_t>(pair)); }
    static __device__ __forceinline__ float high(uint32_t pair) {
        return cvt_f32_f16(static_cast<uint16_t>(pair >> 16));
    }
    static __device__ __forceinline__ uint32_t pack(float low, float high) { return cvt_rn_f16x2_f32(low, high); }
    static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        mma_m16n8k16_f16(d, a, b0, b1);
    }
};

/// Converts a 16-byte vector to its eight elements in float32.
template <class T> __device__ __forceinline__ void unpack(uint4 v, float (&x)[8]) {
    const uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        x[2 * i] = T::low(pairs[i]);
        x[2 * i + 1] = T::high(pairs[i]);
    }
}

/// Converts eight float32 to a 16-byte vector, each rounded once.
template <class T> __device__ __forceinline__ uint4 pack(const float (&x)[8]) {
    return make_uint4(T::pack(x[0], x[1]), T::pack(x[2], x[3]), T::pack(x[4], x[5]), T::pack(x[6], x[7]));
}
