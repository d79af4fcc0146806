// computes: out[t] = LN(x[t] + y[t])·gamma + beta, [tokens, hidden_size], and h = (out Aᵀ)·weight·scale,
//     [tokens, columns]. All 16-bit, accumulated in float32.
// grid: ⌈tokens of the bucket / rows per block⌉. A block has up to 8 rows of one warp (hidden_size ≤ 1024), or one row
//     of ⌈hidden_size / 1024⌉ warps.
// block and shared memory: all warps have the same role and hold their row in registers (row.cuh). No shared memory
//     with one warp per row, else ROW_SHARED_BYTES.
// bound by: bytes, 6·hidden_size + 2·columns per token (two rows read, one written; gamma, beta and A stay in L1 and
//     L2). 2·hidden_size FLOP per token and column used.
// requires: pointers and strides aligned to 16 bytes. Rows past tokens and columns past hidden_size are never written.
// gates: registers <= 80, stack = 0, static shared = 0, blocks >= 3
#include "row.cuh"

template <class T> __device__ __forceinline__ void layernorm(const LayerNormParams &p) {
    griddepcontrol_launch_dependents();
    RowThread thread(p.hidden_size);
    const uint32_t tokens = *p.tokens;
    griddepcontrol_wait();
    if (thread.row >= tokens) {
        return; // Whole warps with one warp per row, else whole blocks: no barrier waits for them.
    }
    const uint32_t sequence = p.lora.columns > 0 ? p.mixtures.sequence_of_row[thread.row] : 0;
    const float column_scale = lora_scale(p.lora, p.mixtures, sequence, threadIdx.x % 32);

    // All loads are in flight before the first result is used.
    RowAddends addends;
    addends.load(thread, p);
    RowFragment x;
    addends.template add<T>(x);
    norm_and_write<T>(thread, x, p, sequence, column_scale, GlobalRow<LayerNormParams>(p, thread.row));
}

extern "C" __global__ void __launch_bounds__(32 * ROW_MAX_WARPS, 3)
layernorm_bf16(const __grid_constant__ LayerNormParams p) {
    layernorm<Bf16>(p);
}

extern "C" __global__ void __launch_bounds__(32 * ROW_MAX_WARPS, 3)
layernorm_f16(const __grid_constant__ LayerNormParams p) {
    layernorm<F16>(p);
}
