// Softmax over keys that come a tile at a time, for rows that lie in the accumulators of m16n8k16: lane l holds
// columns 2·(l % 4) and the next of rows l / 4 and l / 4 + 8.
#pragma once

#include "ptx.cuh"

/// Σ over the four lanes that share a row, the same bits in each.
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

/// Rows l / 4 and l / 4 + 8 of 16.
struct OnlineSoftmax {
    /// The greatest score so far times scale·log2 e: the weights so far are 2^(score·scale·log2 e - top).
    float top[2];
    /// This lane's share of the sum of the weights.
    float sum[2];

    __device__ __forceinline__ OnlineSoftmax() : top{-INFINITY, -INFINITY}, sum{0.0f, 0.0f} {}

    /// Scores become weights; what was summed with the weights so far, `out`, shrinks to the new maximum. `factor`:
    /// scale·log2 e, above 0. The maximum is kept for every tile: its weight is then exactly 1 and
    /// survives the rounding to 16 bits (a stale maximum would save the products, and cost the one-hot rows a rounding).
    template <int Scores, int Outs> __device__ __forceinline__ void step(float (&score)[Scores][4], float (&out)[Outs][4], float factor) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            // fmaxf passes NaN by; the weight of that score is NaN all the same.
            float most = fmaxf(score[0][2 * half], score[0][2 * half + 1]);
#pragma unroll
            for (int n = 1; n < Scores; n++) {
                most = fmaxf(most, fmaxf(score[n][2 * half], score[n][2 * half + 1]));
            }
            const float before = top[half];
            top[half] = fmaxf(before, __fmul_rn(quad_max(most), factor));
            const float shrink = ex2_approx_ftz_f32(before - top[half]);
            sum[half] = __fmul_rn(sum[half], shrink);
#pragma unroll
            for (int n = 0; n < Outs; n++) {
                out[n][2 * half] = __fmul_rn(out[n][2 * half], shrink);
                out[n][2 * half + 1] = __fmul_rn(out[n][2 * half + 1], shrink);
            }
#pragma unroll
            for (int n = 0; n < Scores; n++) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) {
                    score[n][i] = ex2_approx_ftz_f32(__fmaf_rn(score[n][i], factor, -top[half]));
                    sum[half] = __fadd_rn(sum[half], score[n][i]);
                }
            }
        }
    }

    /// One over the sum of all weights of a row.
    __device__ __forceinline__ float inverse(int half) const { return __frcp_rn(quad_sum(sum[half])); }
};
