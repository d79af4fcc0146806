// Online softmax (arXiv 1805.02867) over scores that arrive one key tile at a time, for rows held in the accumulators
// of m16n8k16: lane l holds columns 2·(l % 4) and 2·(l % 4) + 1 of rows l / 4 and l / 4 + 8.
#pragma once

#include "ptx.cuh"

/// The sum over the quad (the four lanes that share a row), the same bits in each lane.
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

/// The running state of rows l / 4 and l / 4 + 8 of a 16-row tile.
struct OnlineSoftmax {
    /// The running maximum of score·scale_log2. Weights are 2^(score·scale_log2 - row_max).
    float row_max[2];
    /// This lane's part of the running sum of the weights.
    float lane_sum[2];

    __device__ __forceinline__ OnlineSoftmax() : row_max{-INFINITY, -INFINITY}, lane_sum{0.0f, 0.0f} {}

    /// Turns the scores of one key tile into weights, and rescales `acc`, which was accumulated with the weights of the
    /// earlier tiles, to the new maximum. `scale_log2`: scale·log2 e, above 0. The maximum is updated at every tile, so
    /// that the largest weight is exactly 1 and survives the rounding to 16 bits. (A stale maximum would save the
    /// rescaling, and cost one-hot rows a rounding.)
    template <int ScoreTiles, int AccTiles>
    __device__ __forceinline__ void update(float (&scores)[ScoreTiles][4], float (&acc)[AccTiles][4],
                                           float scale_log2) {
        float factors[2];
        weigh(scores, factors, scale_log2);
        rescale(acc, factors);
    }

    /// The first half of `update`: `factors` are those by which the accumulators of the earlier tiles must be
    /// multiplied.
    template <int ScoreTiles>
    __device__ __forceinline__ void weigh(float (&scores)[ScoreTiles][4], float (&factors)[2], float scale_log2) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            // fmaxf ignores NaN; the weight of a NaN score is NaN all the same.
            float tile_max = fmaxf(scores[0][2 * half], scores[0][2 * half + 1]);
#pragma unroll
            for (int n = 1; n < ScoreTiles; n++) {
                tile_max = fmaxf(tile_max, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
            }
            const float previous_max = row_max[half];
            row_max[half] = fmaxf(previous_max, __fmul_rn(quad_max(tile_max), scale_log2));
            factors[half] = ex2_approx_ftz_f32(previous_max - row_max[half]);
            lane_sum[half] = __fmul_rn(lane_sum[half], factors[half]);
#pragma unroll
            for (int n = 0; n < ScoreTiles; n++) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) {
                    scores[n][i] = ex2_approx_ftz_f32(__fmaf_rn(scores[n][i], scale_log2, -row_max[half]));
                    lane_sum[half] = __fadd_rn(lane_sum[half], scores[n][i]);
                }
            }
        }
    }

    /// The second half of `update`.
    template <int AccTiles>
    static __device__ __forceinline__ void rescale(float (&acc)[AccTiles][4], const float (&factors)[2]) {
#pragma unroll
        for (int n = 0; n < AccTiles; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                acc[n][i] = __fmul_rn(acc[n][i], factors[i / 2]);
            }
        }
    }

    /// One over the sum of all weights of a row.
    __device__ __forceinline__ float inverse_sum(int half) const { return __frcp_rn(quad_sum(lane_sum[half])); }
};
