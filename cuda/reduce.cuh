// Reductions over a row in a fixed order: the order depends on hidden_size alone, so a row's sums have the same bits in
// any batch, in any block and at any row of it. No atomics.
#pragma once

#include "params.h"
#include "smem.cuh"

/// The sum over the lanes of a warp, the same bits in every lane: each step of the butterfly adds the same two values
/// in both lanes, and a + b equals b + a.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int lane_mask = 16; lane_mask >= 1; lane_mask /= 2) {
        x += __shfl_xor_sync(0xffffffffu, x, lane_mask);
    }
    return x;
}

/// The sums over the `warps` warps of a row, in every thread. With one warp per row only that warp takes part. With
/// more, the row has the block to itself and every thread must make the same calls. `calls` counts them: its parity
/// selects one of two buffers in shared memory, so that one barrier per call is enough (a warp that still reads one
/// buffer has not reached the barrier that comes before the buffer is written again).
template <int N> __device__ __forceinline__ void row_sum(float (&x)[N], uint32_t warps, uint32_t &calls) {
    static_assert(N <= LORA_GROUP && 2 * ROW_MAX_WARPS * LORA_GROUP * sizeof(float) == ROW_SHARED_BYTES,
                  "two buffers of LORA_GROUP sums per warp fill shared memory");
#pragma unroll
    for (int i = 0; i < N; i++) {
        x[i] = warp_sum(x[i]);
    }
    if (warps == 1) {
        return;
    }
    float *buffer = reinterpret_cast<float *>(smem) + (calls++ & 1) * ROW_MAX_WARPS * LORA_GROUP;
    if (threadIdx.x % 32 == 0) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            buffer[threadIdx.x / 32 * LORA_GROUP + i] = x[i];
        }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < N; i++) {
        x[i] = buffer[i];
#pragma unroll 1
        for (uint32_t warp = 1; warp < warps; warp++) {
            x[i] += buffer[warp * LORA_GROUP + i];
        }
    }
}
