// out[t] = LN(x[t] + y[t])·gamma + beta, [tokens, hidden_size], and h = (out Aᵀ)·weight·scale, [tokens, columns]; 16-bit, sums in float32.
// Grid ⌈tokens of the bucket / rows per block⌉; a block is up to 8 rows of one warp (hidden_size ≤ 1024), or one row of ⌈hidden_size / 1024⌉ warps.
// Every warp alike: a row in registers (row.cuh). Shared memory: none for one warp per row, else ROW_SHARED_BYTES.
// Bound by bytes: 6·hidden_size + 2·columns per token (two rows in, one out; gains and A stay in L1 and L2), 2·hidden_size FLOP per column used.
// Needs pointers and strides aligned to 16 bytes; rows past tokens and columns past hidden_size are never written.
// gate: registers <= 80, stack = 0, static shared = 0, blocks >= 3
#include "row.cuh"

template <class T> __device__ __forceinline__ void layernorm(const LayerNormParams &p) {
    Place place(p.hidden_size);
    if (place.row >= *p.tokens) {
        return; // Whole warps of one-warp rows, whole blocks otherwise: no barrier waits for them.
    }
    const uint32_t sequence = p.lora.columns > 0 ? p.mixtures.sequence_of_row[place.row] : 0;
    const float factor = lora_factor(p.lora, p.mixtures, sequence, threadIdx.x % 32);

    const uint16_t *residual = p.x + static_cast<uint64_t>(place.row) * p.x_stride;
    const uint16_t *added = p.y + static_cast<uint64_t>(place.row) * p.y_stride;
    uint4 left[ROW_LANE_VECTORS], right[ROW_LANE_VECTORS];
    // All loads are on their way before the first is waited for.
#pragma unroll
    for (int i = 0; i < ROW_LANE_VECTORS; i++) {
        const uint32_t column = place.column(i);
        left[i] = right[i] = make_uint4(0, 0, 0, 0);
        if (column < p.hidden_size) {
            left[i] = ld_global_v4_b32(residual + column);
            right[i] = ld_global_v4_b32(added + column);
        }
    }
    Share x;
#pragma unroll
    for (int i = 0; i < ROW_LANE_VECTORS; i++) {
        float more[ROW_VECTOR];
        unpack<T>(left[i], x[i]);
        unpack<T>(right[i], more);
#pragma unroll
        for (int j = 0; j < ROW_VECTOR; j++) {
            x[i][j] += more[j];
        }
    }
    norm_and_write<T>(place, x, p, sequence, factor);
}

extern "C" __global__ void __launch_bounds__(32 * ROW_MAX_WARPS, 3) layernorm_bf16(const __grid_constant__ LayerNormParams p) {
    layernorm<Bf16>(p);
}

extern "C" __global__ void __launch_bounds__(32 * ROW_MAX_WARPS, 3) layernorm_f16(const __grid_constant__ LayerNormParams p) {
    layernorm<F16>(p);
}
