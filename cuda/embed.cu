// computes: out[t] = LN(word[ids[t]] + token_type (+ position[position_of_row[t]])
//     + Σ_k w[s, k]·(scale_k·A_k[ids[t]] B_k + type_k)), for row t of sequence s and adapters k; [tokens, hidden_size].
//     h = (out Aᵀ)·weight·scale, [tokens, columns]. All 16-bit, accumulated in float32.
// grid: ⌈tokens of the bucket / rows per block⌉. A block has up to 8 rows of one warp (hidden_size ≤ 1024), or one row
//     of ⌈hidden_size / 1024⌉ warps.
// block and shared memory: all warps have the same role and hold their row in registers (row.cuh). No shared memory
//     with one warp per row, else ROW_SHARED_BYTES.
// bound by: bytes, 4·hidden_size + 2·columns per token (one gathered row read, one written; the tables of token types,
//     gamma, beta and B stay in L1 and L2). 2·hidden_size·rank FLOP per token and adapter used.
// requires: ids < vocab_size, pointers and strides aligned to 16 bytes. Rows past tokens and columns past hidden_size
//     are never written.
// gates: registers <= 96, stack = 0, static shared = 0, blocks >= 2
#include "row.cuh"

template <class T> __device__ __forceinline__ void embed(const EmbedParams &p) {
    griddepcontrol_launch_dependents();
    RowThread thread(p.hidden_size);
    const uint32_t tokens = *p.tokens;
    griddepcontrol_wait();
    if (thread.row >= tokens) {
        return; // Whole warps with one warp per row, else whole blocks: no barrier waits for them.
    }
    const bool needs_sequence = p.adapters != nullptr || p.lora.columns > 0;
    const uint32_t sequence = needs_sequence ? p.mixtures.sequence_of_row[thread.row] : 0;
    const uint32_t id = p.ids[thread.row];
    const float column_scale = lora_scale(p.lora, p.mixtures, sequence, threadIdx.x % 32);

    const uint16_t *word = p.word + static_cast<uint64_t>(id) * p.hidden_size;
    RowFragment x;
#pragma unroll
    for (int i = 0; i < ROW_LANE_VECTORS; i++) {
        const uint32_t column = thread.column(i);
        const bool inside = column < p.hidden_size;
        float addend[ROW_VECTOR];
        unpack<T>(inside ? ld_global_nc_v4_b32(word + column) : make_uint4(0, 0, 0, 0), x[i]);
        unpack<T>(inside ? ld_global_nc_v4_b32(p.token_type + column) : make_uint4(0, 0, 0, 0), addend);
#pragma unroll
        for (int j = 0; j < ROW_VECTOR; j++) {
            x[i][j] += addend[j];
        }
    }

    if (p.position != nullptr) {
        const uint64_t position = p.position_of_row[thread.row];
        const uint16_t *position_row = p.position + position * p.hidden_size;
#pragma unroll
        for (int i = 0; i < ROW_LANE_VECTORS; i++) {
            const uint32_t column = thread.column(i);
            if (column < p.hidden_size) {
                float addend[ROW_VECTOR];
                unpack<T>(ld_global_nc_v4_b32(position_row + column), addend);
#pragma unroll
                for (int j = 0; j < ROW_VECTOR; j++) {
                    x[i][j] += addend[j];
                }
            }
        }
    }

    if (p.adapters != nullptr) {
#pragma unroll 1
        for (uint32_t slot = 0; slot < p.mixtures.slots; slot++) {
            const float weight = p.mixtures.weights[sequence * p.mixtures.slots + slot];
            if (weight == 0.0f) {
                continue; // All warps of the row alike. An unused slot is not read.
            }
            const EmbedAdapter adapter = p.adapters[slot];
            if (adapter.a != nullptr) {
#pragma unroll 1
                for (uint32_t r = 0; r < adapter.rank; r++) {
                    const uint16_t *element = adapter.a + static_cast<uint64_t>(id) * adapter.rank + r;
                    const float a = T::low(ld_global_nc_b16(element)) * (weight * adapter.scale);
                    const uint16_t *b_row = adapter.b + static_cast<uint64_t>(r) * p.hidden_size;
#pragma unroll
                    for (int i = 0; i < ROW_LANE_VECTORS; i++) {
                        const uint32_t column = thread.column(i);
                        if (column < p.hidden_size) {
                            float b[ROW_VECTOR];
                            unpack<T>(ld_global_nc_v4_b32(b_row + column), b);
#pragma unroll
                            for (int j = 0; j < ROW_VECTOR; j++) {
                                x[i][j] += a * b[j];
                            }
                        }
                    }
                }
            }
            if (adapter.token_type != nullptr) {
#pragma unroll
                for (int i = 0; i < ROW_LANE_VECTORS; i++) {
                    const uint32_t column = thread.column(i);
                    if (column < p.hidden_size) {
#pragma unroll
                        for (int half = 0; half < 2; half++) {
                            const uint4 v = ld_global_nc_v4_b32(adapter.token_type + column + 4 * half);
                            x[i][4 * half] += weight * __uint_as_float(v.x);
                            x[i][4 * half + 1] += weight * __uint_as_float(v.y);
                            x[i][4 * half + 2] += weight * __uint_as_float(v.z);
                            x[i][4 * half + 3] += weight * __uint_as_float(v.w);
                        }
                    }
                }
            }
        }
    }
    norm_and_write<T>(thread, x, p, sequence, column_scale, GlobalRow<EmbedParams>(p, thread.row));
}

extern "C" __global__ void __launch_bounds__(32 * ROW_MAX_WARPS, 2) embed_bf16(const __grid_constant__ EmbedParams p) {
    embed<Bf16>(p);
}

extern "C" __global__ void __launch_bounds__(32 * ROW_MAX_WARPS, 2) embed_f16(const __grid_constant__ EmbedParams p) {
    embed<F16>(p);
}
