// Sums over a row, in an order that follows from hidden_size alone: a row's sums have the same bits
// in any batch, block and place. No atomics.
#pragma once

#include "params.h"
#include "tile.cuh"

/// The sum over the warp's lanes, the same bits in every lane: a butterfly adds the same two
/// numbers on both sides, and a + b is b + a.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int lanes = 16; lanes >= 1; lanes /= 2) {
        x += __shfl_xor_sync(0xffffffffu, x, lanes);
    }
    return x;
}

/// The sums over the `warps` warps of a row, in every thread. With one warp no other thread takes
/// part; with more, the row has the block to itself and every thread calls this alike. `turn`
/// counts the calls: its parity chooses one of two sets in shared memory, so that one barrier per
/// call is enough (who is still reading one set holds up the barrier before that set's next use).
template <int N> __device__ __forceinline__ void row_sum(float (&x)[N], uint32_t warps, uint32_t &turn) {
    static_assert(N <= LORA_GROUP && 2 * ROW_MAX_WARPS * LORA_GROUP * sizeof(float) == ROW_SHARED_BYTES, "the plan of smem");
#pragma unroll
    for (int i = 0; i < N; i++) {
        x[i] = warp_sum(x[i]);
    }
    if (warps == 1) {
        return;
    }
    float *set = reinterpret_cast<float *>(smem) + (turn++ & 1) * ROW_MAX_WARPS * LORA_GROUP;
    if (threadIdx.x % 32 == 0) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            set[threadIdx.x / 32 * LORA_GROUP + i] = x[i];
        }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < N; i++) {
        x[i] = set[i];
#pragma unroll 1
        for (uint32_t warp = 1; warp < warps; warp++) {
            x[i] += set[warp * LORA_GROUP + i];
        }
    }
}
