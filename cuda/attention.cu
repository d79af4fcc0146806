// computes: out[t, h] = softmax(q[t, h] k[s, h]ᵀ·scale) v[s, h] over the keys s of t's sequence, not causal.
//     qkv [tokens, 3·heads·head_dim], out [tokens, heads·head_dim]; all 16-bit, accumulated in float32.
// grid: any size; blocks take (tile, head) work items gridDim.x apart. A tile is BLOCK_M queries of one sequence: up to
//     128 (large) or 64 (small), against BLOCK_N keys at a time: 64, or 32 for head_dim 128.
// block and shared memory: four warps with the same role, 32 (large) or 16 (small) queries each. Shared memory holds
//     the queries, later the output, and two stages of keys and values: one is copied while the other is used.
// bound by: tensor cores, 4·head_dim·length FLOP per query and head. Bytes: 8·heads·head_dim per token, and keys and
//     values again from L2 for every tile of the sequence.
// requires: lengths ≥ 1 for sequences with tiles, tiles inside them, scale > 0, pointers aligned to 16 bytes, strides
//     multiples of 8. Only the tiles' rows are written, heads·head_dim columns each.
// gates: registers <= 248, stack = 0, static shared = 0, blocks >= 2, instructions per mma <= 6.2, mma per ldsm >= 2
// gates large: instructions per mma <= 5.1, mma per ldsm >= 2.6
// gates hd32: blocks >= 3, instructions per mma <= 9.8
// gates hd128 large sm_89: blocks >= 1
#include "params.h"
#include "rope.cuh"
#include "smem.cuh"
#include "softmax.cuh"

constexpr int kThreads = ATTENTION_THREADS;
constexpr int kWarps = kThreads / 32;

/// Rows of one head in shared memory: HEAD_DIM elements each, in vectors of 16 bytes. Vectors are swizzled within a row
/// so that vector v of any 8 consecutive rows lies in 8 different bank groups.
///
/// Each thread copies and rotates the same two vectors of its rows: a vector and its rotation partner in the other half
/// of the head. So no barrier is needed between copy and rotation, and no two warps rotate the same vector.
template <int HEAD_DIM> struct HeadTile {
    static constexpr int kRowBytes = 2 * HEAD_DIM;
    static constexpr int kRowVectors = HEAD_DIM / 8;
    static constexpr int kVectorPairs = kRowVectors / 2;
    /// Rows that all threads together copy in one pass: a multiple of 8, so that all rows of a thread have the same
    /// swizzle.
    static constexpr int kRowsPerPass = kThreads / kVectorPairs;

    /// Rows in a line of 128 bytes, which spans all 32 banks.
    static constexpr int kRowsPerLine = kRowBytes < 128 ? 128 / kRowBytes : 1;
    static constexpr int kSwizzleMask = kRowVectors < 8 ? kRowVectors - 1 : 7;

    /// The swizzled byte offset of a vector of a row.
    static __device__ __forceinline__ uint32_t smem_offset(uint32_t row, uint32_t vector) {
        return row * kRowBytes + (vector ^ (row / kRowsPerLine & kSwizzleMask)) * 16;
    }

    /// This thread's first row, the first of its two vectors there, and that vector's byte offset. In every second line
    /// the first vector is the one in the upper half: the 8 threads that access memory together then use 8 different
    /// bank groups.
    uint32_t row, vector, first_offset;

    __device__ __forceinline__ HeadTile() {
        row = threadIdx.x / kVectorPairs;
        vector = threadIdx.x % kVectorPairs + row / kRowsPerLine % 2 * kVectorPairs;
        first_offset = smem_offset(row, vector);
    }

    /// The byte offset of this thread's vector `j` (0 or 1) in its row of pass `i`: the partners differ in one bit.
    __device__ __forceinline__ uint32_t thread_offset(int i, int j) const {
        return (first_offset ^ j * kVectorPairs * 16) + i * kRowsPerPass * kRowBytes;
    }

    /// This thread's first vector of row 0 in global memory; `row0` is the head's first element there.
    __device__ __forceinline__ const uint8_t *source(const uint16_t *row0) const {
        return reinterpret_cast<const uint8_t *>(row0 + 8 * vector);
    }

    /// Starts the copies of ROWS rows from `first_row` on to smem + `to`, with zeros for rows at or past `length`.
    /// `from` is a source(). `stride` is in bytes, because a row's address is then one multiply-add.
    template <int ROWS>
    __device__ __forceinline__ void copy(uint32_t to, const uint8_t *from, uint32_t stride, uint32_t first_row,
                                         uint32_t length) const {
        const int32_t partner = (vector < kVectorPairs ? kVectorPairs : -kVectorPairs) * 16;
        static_assert(ROWS % kRowsPerPass == 0 && kRowsPerPass % 8 == 0, "every thread copies the same number of rows");
#pragma unroll
        for (int i = 0; i < ROWS / kRowsPerPass; i++) {
            const uint32_t at = first_row + row + i * kRowsPerPass;
            const bool inside = at < length;
            // Past the end other sequences begin, or the buffer ends: the address is row 0's, and nothing is read.
            const uint8_t *source_vector = from + static_cast<uint64_t>(inside ? at : 0) * stride;
#pragma unroll
            for (int j = 0; j < 2; j++) {
                cp_async_cg_shared_global_16(cvta_to_shared(smem + to + thread_offset(i, j)),
                                             source_vector + j * partner, inside ? 16 : 0);
            }
        }
    }

    /// Rotates the vectors that this thread has copied to smem + `tile` and waited for.
    template <class T, int ROWS>
    __device__ __forceinline__ void apply_rope(uint32_t tile, const float *table, uint32_t first_row,
                                               uint32_t length) const {
#pragma unroll
        for (int i = 0; i < ROWS / kRowsPerPass; i++) {
            const uint32_t position = first_row + row + i * kRowsPerPass;
            if (position < length) { // The table may end there.
                uint4 &a_smem = *reinterpret_cast<uint4 *>(smem + tile + thread_offset(i, 0));
                uint4 &b_smem = *reinterpret_cast<uint4 *>(smem + tile + thread_offset(i, 1));
                uint4 a = a_smem, b = b_smem;
                const float *cos_sin = table + static_cast<uint64_t>(position) * HEAD_DIM + vector % kVectorPairs * 16;
                rotate<T>(a, b, cos_sin, vector < kVectorPairs ? 1.0f : -1.0f);
                a_smem = a;
                b_smem = b;
            }
        }
    }
};

template <class T, int HEAD_DIM, int BLOCK_M> __device__ __forceinline__ void attention(const AttentionParams &p) {
    using Tile = HeadTile<HEAD_DIM>;
    constexpr int kKeysByElements = ATTENTION_TILE_NUMBERS / HEAD_DIM;
    constexpr int BLOCK_N = kKeysByElements < ATTENTION_MAX_KEYS ? kKeysByElements : ATTENTION_MAX_KEYS;
    /// 16-row MMA tiles per warp. Two tiles share each fragment of keys and values, which halves the reads of shared
    /// memory per MMA.
    constexpr int kWarpTiles = BLOCK_M / kWarps / 16;
    /// Whether the fragments of q stay in registers for all key tiles, where there are enough; else they are read again
    /// for each.
    constexpr bool kQInRegisters = HEAD_DIM * kWarpTiles <= 128;

    constexpr uint32_t kStageBytes = 2 * BLOCK_N * Tile::kRowBytes;
    constexpr uint32_t kSmemQ = 0, kSmemK = BLOCK_M * Tile::kRowBytes, kSmemV = kSmemK + BLOCK_N * Tile::kRowBytes;

    griddepcontrol_launch_dependents();
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t warp_row = warp * 16 * kWarpTiles;
    const Tile loader;
    const float scale_log2 = p.scale * 1.44269504f; // log2 e
    // The addresses that this lane passes to ldmatrix, in the order that each MMA operand takes its matrices.
    const uint32_t q_address = cvta_to_shared(smem + kSmemQ) + Tile::smem_offset(warp_row + lane % 16, lane / 16);
    const uint32_t k_address =
        cvta_to_shared(smem + kSmemK) + Tile::smem_offset(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    const uint32_t v_address = cvta_to_shared(smem + kSmemV) + Tile::smem_offset(lane % 16, lane / 16);

    // Work items are ordered by tile, longest sequences first, then by head. Blocks that take every gridDim.x-th item
    // therefore have balanced loads, and all heads of a row are read from DRAM at about the same time. The tiles of one
    // head need not be adjacent: those that run at the same time start with the same keys and proceed at the same pace,
    // so L2 holds the keys for all of them.
    const uint32_t items = *p.tile_count * p.heads;
    griddepcontrol_wait();
#pragma unroll 1
    for (uint32_t item = blockIdx.x; item < items; item += gridDim.x) {
        const AttentionTile tile = p.tiles[item / p.heads];
        const uint32_t column = item % p.heads * HEAD_DIM;
        const uint32_t start = p.cu_seqlens[tile.sequence];
        const uint32_t length = p.cu_seqlens[tile.sequence + 1] - start;
        const uint8_t *q = loader.source(p.qkv + static_cast<uint64_t>(start) * p.qkv_stride + column);
        const uint8_t *k = q + 2 * p.heads * HEAD_DIM, *v = k + 2 * p.heads * HEAD_DIM;
        const uint32_t stride = 2 * p.qkv_stride;

        __syncthreads(); // All warps have finished the previous item.
        loader.template copy<BLOCK_M>(kSmemQ, q, stride, tile.first, length);
        loader.template copy<BLOCK_N>(kSmemK, k, stride, 0, length);
        loader.template copy<BLOCK_N>(kSmemV, v, stride, 0, length);
        cp_async_commit_group();

        // A warp whose queries are all past the end only copies and rotates.
        const bool active = tile.first + warp_row < length;
        uint32_t q_fragments[kQInRegisters ? HEAD_DIM / 16 : 1][kWarpTiles][4];
        float acc[kWarpTiles][HEAD_DIM / 8][4] = {};
        OnlineSoftmax softmax[kWarpTiles];

#pragma unroll 1
        for (uint32_t first_key = 0, stage = 0; first_key < length; first_key += BLOCK_N, stage ^= kStageBytes) {
            cp_async_wait_group<0>();
            if (p.rope != nullptr) {
                if (first_key == 0) {
                    loader.template apply_rope<T, BLOCK_M>(kSmemQ, p.rope, tile.first, length);
                }
                loader.template apply_rope<T, BLOCK_N>(kSmemK + stage, p.rope, first_key, length);
            }
            __syncthreads(); // This stage is visible to all warps, and none reads the other one any longer.
            if (first_key + BLOCK_N < length) {
                loader.template copy<BLOCK_N>(kSmemK + (stage ^ kStageBytes), k, stride, first_key + BLOCK_N, length);
                loader.template copy<BLOCK_N>(kSmemV + (stage ^ kStageBytes), v, stride, first_key + BLOCK_N, length);
                cp_async_commit_group();
            }
            if (!active) {
                continue;
            }
            if (kQInRegisters && first_key == 0) {
#pragma unroll
                for (int step = 0; step < HEAD_DIM / 16; step++) {
#pragma unroll
                    for (int m = 0; m < kWarpTiles; m++) {
                        ldmatrix_x4(q_fragments[kQInRegisters ? step : 0][m],
                                    (q_address ^ step * 32) + m * 16 * Tile::kRowBytes);
                    }
                }
            }

            // S = Q Kᵀ, accumulated in ascending order of the head's elements.
            float scores[kWarpTiles][BLOCK_N / 8][4] = {};
#pragma unroll
            for (int step = 0; step < HEAD_DIM / 16; step++) {
                if (!kQInRegisters) {
#pragma unroll
                    for (int m = 0; m < kWarpTiles; m++) {
                        ldmatrix_x4(q_fragments[0][m], (q_address ^ step * 32) + m * 16 * Tile::kRowBytes);
                    }
                }
#pragma unroll
                for (int n = 0; n < BLOCK_N / 16; n++) {
                    uint32_t k_fragment[4];
                    ldmatrix_x4(k_fragment, ((k_address + stage) ^ step * 32) + n * 16 * Tile::kRowBytes);
#pragma unroll
                    for (int m = 0; m < kWarpTiles; m++) {
                        const uint32_t(&q_fragment)[4] = q_fragments[kQInRegisters ? step : 0][m];
                        T::mma(scores[m][2 * n], q_fragment, k_fragment[0], k_fragment[1]);
                        T::mma(scores[m][2 * n + 1], q_fragment, k_fragment[2], k_fragment[3]);
                    }
                }
            }
            if (length - first_key < BLOCK_N) { // Only the last key tile needs a mask.
#pragma unroll
                for (int n = 0; n < BLOCK_N / 8; n++) {
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        const bool inside = first_key + 8 * n + lane % 4 * 2 + i < length;
#pragma unroll
                        for (int m = 0; m < kWarpTiles; m++) {
                            scores[m][n][i] = inside ? scores[m][n][i] : -INFINITY;
                            scores[m][n][i + 2] = inside ? scores[m][n][i + 2] : -INFINITY;
                        }
                    }
                }
            }
#pragma unroll
            for (int m = 0; m < kWarpTiles; m++) {
                softmax[m].update(scores[m], acc[m], scale_log2);
            }

            // O += P V, in ascending order of the keys. The accumulators of two adjacent MMAs of S have the register
            // layout of one A operand of the next MMA.
#pragma unroll
            for (int step = 0; step < BLOCK_N / 16; step++) {
                uint32_t p_fragments[kWarpTiles][4];
#pragma unroll
                for (int m = 0; m < kWarpTiles; m++) {
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        const float(&weights)[4] = scores[m][2 * step + i / 2];
                        p_fragments[m][i] = T::pack(weights[i % 2 * 2], weights[i % 2 * 2 + 1]);
                    }
                }
#pragma unroll
                for (int n = 0; n < HEAD_DIM / 16; n++) {
                    uint32_t v_fragment[4];
                    ldmatrix_x4_trans(v_fragment, ((v_address + stage) ^ n * 32) + step * 16 * Tile::kRowBytes);
#pragma unroll
                    for (int m = 0; m < kWarpTiles; m++) {
                        T::mma(acc[m][2 * n], p_fragments[m], v_fragment[0], v_fragment[1]);
                        T::mma(acc[m][2 * n + 1], p_fragments[m], v_fragment[2], v_fragment[3]);
                    }
                }
            }
        }
        if (!active) {
            continue;
        }

        // The output passes through the shared memory of the warp's own queries, which are no longer needed, so that it
        // is stored in 16-byte vectors.
        __syncwarp();
#pragma unroll
        for (int m = 0; m < kWarpTiles; m++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float inverse = softmax[m].inverse_sum(half);
                const uint32_t row = warp_row + 16 * m + 8 * half + lane / 4;
#pragma unroll
                for (int n = 0; n < HEAD_DIM / 8; n++) {
                    const float(&d)[4] = acc[m][n];
                    uint32_t *pair = reinterpret_cast<uint32_t *>(smem + kSmemQ + Tile::smem_offset(row, n)) + lane % 4;
                    *pair = T::pack(d[2 * half] * inverse, d[2 * half + 1] * inverse);
                }
            }
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 16 * kWarpTiles * Tile::kRowVectors / 32; i++) {
            const uint32_t row = warp_row + (lane + 32 * i) / Tile::kRowVectors, vector = lane % Tile::kRowVectors;
            if (tile.first + row < length) {
                uint16_t *to = p.out + static_cast<uint64_t>(start + tile.first + row) * p.out_stride + column;
                const unsigned char *from = smem + kSmemQ + Tile::smem_offset(row, vector);
                st_global_v4_b32(to + 8 * vector, *reinterpret_cast<const uint4 *>(from));
            }
        }
    }
}

// Minimum blocks per multiprocessor, in the launch bounds: as many as 64 K registers allow without spills.

extern "C" __global__ void __launch_bounds__(kThreads, 3)
attention_bf16_hd32_large(const __grid_constant__ AttentionParams p) {
    attention<Bf16, 32, ATTENTION_LARGE_ROWS>(p);
}

extern "C" __global__ void __launch_bounds__(kThreads, 3)
attention_f16_hd32_large(const __grid_constant__ AttentionParams p) {
    attention<F16, 32, ATTENTION_LARGE_ROWS>(p);
}

extern "C" __global__ void __launch_bounds__(kThreads, 4)
attention_bf16_hd32_small(const __grid_constant__ AttentionParams p) {
    attention<Bf16, 32, ATTENTION_SMALL_ROWS>(p);
}

extern "C" __global__ void __launch_bounds__(kThreads, 4)
attention_f16_hd32_small(const __grid_constant__ AttentionParams p) {
    attention<F16, 32, ATTENTION_SMALL_ROWS>(p);
}

extern "C" __global__ void __launch_bounds__(kThreads, 2)
attention_bf16_hd64_large(const __grid_constant__ AttentionParams p) {
    attention<Bf16, 64, ATTENTION_LARGE_ROWS>(p);
}

extern "C" __global__ void __launch_bounds__(kThreads, 2)
attention_f16_hd64_large(const __grid_constant__ AttentionParams p) {
    attention<F16, 64, ATTENTION_LARGE_ROWS>(p);
}

extern "C" __global__ void __launch_bounds__(kThreads, 3)
attention_bf16_hd64_small(const __grid_constant__ AttentionParams p) {
    attention<Bf16, 64, ATTENTION_SMALL_ROWS>(p);
}

extern "C" __global__ void __launch_bounds__(kThreads, 3)
attention_f16_hd64_small(const __grid_constant__ AttentionParams p) {
    attention<F16, 64, ATTENTION_SMALL_ROWS>(p);
}

extern "C" __global__ void __launch_bounds__(kThreads, 2)
attention_bf16_hd128_large(const __grid_constant__ AttentionParams p) {
    attention<Bf16, 128, ATTENTION_LARGE_ROWS>(p);
}

extern "C" __global__ void __launch_bounds__(kThreads, 2)
attention_f16_hd128_large(const __grid_constant__ AttentionParams p) {
    attention<F16, 128, ATTENTION_LARGE_ROWS>(p);
}

extern "C" __global__ void __launch_bounds__(kThreads, 2)
attention_bf16_hd128_small(const __grid_constant__ AttentionParams p) {
    attention<Bf16, 128, ATTENTION_SMALL_ROWS>(p);
}

extern "C" __global__ void __launch_bounds__(kThreads, 2)
attention_f16_hd128_small(const __grid_constant__ AttentionParams p) {
    attention<F16, 128, ATTENTION_SMALL_ROWS>(p);
}
