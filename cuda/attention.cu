// out[t, h] = softmax(q[t, h] k[s, h]ᵀ·scale) v[s, h] over the keys of t's sequence s: [tokens, heads·head_dim] of [tokens, 3·heads·head_dim], 16-bit, sums in float32.
// Any grid: blocks take (tile, head) items in turn; a tile is up to 128 (large) or 64 (small) queries of one sequence, against 64 keys at a time (head_dim 128: 32).
// 4 warps of 32 (large) or 16 (small) queries each; shared memory: the queries, later the output, and two stages of keys and values: one is copied while the other is used.
// Bound by the matrix units: 4·head_dim·length FLOP per query and head; bytes: 8·heads·head_dim per token, keys and values again from L2 for every tile of the sequence.
// Needs lengths ≥ 1 for sequences with tiles, tiles within them, scale > 0, pointers aligned to 16 bytes, strides multiples of 8; only the tiles' rows, heads·head_dim columns each, are written.
// gate: registers <= 248, stack = 0, static shared = 0, blocks >= 2, instructions per mma <= 6.2, mma per ldsm >= 2
// gate large: instructions per mma <= 5.1, mma per ldsm >= 2.6
// gate hd32: blocks >= 3, instructions per mma <= 9.8
// gate hd128 large sm_89: blocks >= 1
#include "params.h"
#include "rope.cuh"
#include "softmax.cuh"
#include "tile.cuh"

constexpr int Threads = ATTENTION_THREADS;
constexpr int Warps = Threads / 32;

/// Rows of one head in shared memory: HeadDim numbers each, in chunks of 16 bytes. Chunks are exchanged within a row so
/// that any 8 rows have any one chunk in 8 different groups of banks.
///
/// A thread copies, and rotates, the same two chunks of a row: the chunk and its partner in the upper half of the head. So
/// it needs no barrier between the two, and no warp rotates what another one has rotated.
template <int HeadDim> struct Rows {
    static constexpr int RowBytes = 2 * HeadDim;
    static constexpr int Chunks = HeadDim / 8;
    static constexpr int Pairs = Chunks / 2;
    /// Rows between those of one thread: a multiple of 8, so that all have their chunks exchanged alike.
    static constexpr int Step = Threads / Pairs;

    /// Rows that share one line of all 32 banks.
    static constexpr int PerLine = RowBytes < 128 ? 128 / RowBytes : 1;
    static constexpr int Mask = Chunks < 8 ? Chunks - 1 : 7;

    static __device__ __forceinline__ uint32_t offset(uint32_t row, uint32_t chunk) {
        return row * RowBytes + (chunk ^ (row / PerLine & Mask)) * 16;
    }

    /// This thread's first row, the first of its two chunks there, and where that lies. In every other line of banks the
    /// upper chunk comes first: 8 threads, which access memory together, then meet no bank twice.
    uint32_t row, chunk, place;

    __device__ __forceinline__ Rows() {
        row = threadIdx.x / Pairs;
        chunk = threadIdx.x % Pairs + row / PerLine % 2 * Pairs;
        place = offset(row, chunk);
    }

    /// Where its chunk `j`, 0 or 1, of its row `i` lies: the partner's number differs in one bit.
    __device__ __forceinline__ uint32_t place_of(int i, int j) const { return (place ^ j * Pairs * 16) + i * Step * RowBytes; }

    /// Where this thread's first chunk of row 0 lies, in memory: `row0` is the head's first number there.
    __device__ __forceinline__ const uint8_t *source(const uint16_t *row0) const {
        return reinterpret_cast<const uint8_t *>(row0 + 8 * chunk);
    }

    /// Starts the copy of Count rows from `first` on to smem + to; zeros for those past `length`. `from`: source(); bytes
    /// between rows. In bytes, because a row's address is then one multiply-add.
    template <int Count>
    __device__ __forceinline__ void copy(uint32_t to, const uint8_t *from, uint32_t stride, uint32_t first, uint32_t length) const {
        const int32_t partner = (chunk < Pairs ? Pairs : -Pairs) * 16;
        static_assert(Count % Step == 0 && Step % 8 == 0, "every thread has as many rows");
#pragma unroll
        for (int i = 0; i < Count / Step; i++) {
            const uint32_t at = first + row + i * Step;
            const bool inside = at < length;
            // Past the end lie other sequences or nothing: the address is row 0's, and no byte of it is read.
            const uint8_t *eight = from + static_cast<uint64_t>(inside ? at : 0) * stride;
#pragma unroll
            for (int j = 0; j < 2; j++) {
                cp_async_cg_shared_global_16(cvta_to_shared(smem + to + place_of(i, j)), eight + j * partner, inside ? 16 : 0);
            }
        }
    }

    /// Rotates what this thread has copied and waited for.
    template <class T, int Count>
    __device__ __forceinline__ void turn(uint32_t at, const float *table, uint32_t first, uint32_t length) const {
#pragma unroll
        for (int i = 0; i < Count / Step; i++) {
            const uint32_t position = first + row + i * Step;
            if (position < length) { // The table may end there.
                uint4 &a = *reinterpret_cast<uint4 *>(smem + at + place_of(i, 0));
                uint4 &b = *reinterpret_cast<uint4 *>(smem + at + place_of(i, 1));
                uint4 first_chunk = a, second_chunk = b;
                const float *turns = table + static_cast<uint64_t>(position) * HeadDim + chunk % Pairs * 16;
                rotate<T>(first_chunk, second_chunk, turns, chunk < Pairs ? 1.0f : -1.0f);
                a = first_chunk;
                b = second_chunk;
            }
        }
    }
};

template <class T, int HeadDim, int Queries> __device__ __forceinline__ void attention(const AttentionParams &p) {
    using Head = Rows<HeadDim>;
    constexpr int ByNumbers = ATTENTION_TILE_NUMBERS / HeadDim;
    constexpr int Keys = ByNumbers < ATTENTION_MAX_KEYS ? ByNumbers : ATTENTION_MAX_KEYS;
    /// 16-row blocks of a warp. Two share each fragment of keys and values: half the reads of shared memory per product.
    constexpr int M = Queries / Warps / 16;
    /// Fragments of queries stay in registers where there is room for them; else each step reads them again.
    constexpr bool Resident = HeadDim * M <= 128;

    constexpr uint32_t StageBytes = 2 * Keys * Head::RowBytes;
    constexpr uint32_t Q = 0, K = Queries * Head::RowBytes, V = K + Keys * Head::RowBytes;

    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t warp_row = warp * 16 * M;
    const Head mine;
    const float factor = p.scale * 1.44269504f; // log2 e
    // Where this lane's rows of matrices begin, in the order that each instruction takes them.
    const uint32_t q_lane = cvta_to_shared(smem + Q) + Head::offset(warp_row + lane % 16, lane / 16);
    const uint32_t k_lane = cvta_to_shared(smem + K) + Head::offset(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    const uint32_t v_lane = cvta_to_shared(smem + V) + Head::offset(lane % 16, lane / 16);

    // Heads of one tile are neighbours: items keep the order of the tiles, longest first, so that blocks that take every
    // gridDim-th have equal loads, and a row of all heads is read from DRAM at about one time. Tiles of one
    // head need not be: those that run at once begin with the same keys and go on at one pace, and L2 holds those.
    const uint32_t items = *p.tile_count * p.heads;
#pragma unroll 1
    for (uint32_t item = blockIdx.x; item < items; item += gridDim.x) {
        const AttentionTile tile = p.tiles[item / p.heads];
        const uint32_t column = item % p.heads * HeadDim;
        const uint32_t start = p.cu_seqlens[tile.sequence];
        const uint32_t length = p.cu_seqlens[tile.sequence + 1] - start;
        const uint8_t *q = mine.source(p.qkv + static_cast<uint64_t>(start) * p.qkv_stride + column);
        const uint8_t *k = q + 2 * p.heads * HeadDim, *v = k + 2 * p.heads * HeadDim;
        const uint32_t stride = 2 * p.qkv_stride;

        __syncthreads(); // All have done with the item before.
        mine.template copy<Queries>(Q, q, stride, tile.first, length);
        mine.template copy<Keys>(K, k, stride, 0, length);
        mine.template copy<Keys>(V, v, stride, 0, length);
        cp_async_commit_group();

        // A warp whose queries are all past the end copies and rotates, no more.
        const bool active = tile.first + warp_row < length;
        uint32_t queries[Resident ? HeadDim / 16 : 1][M][4];
        float out[M][HeadDim / 8][4] = {};
        OnlineSoftmax softmax[M];

#pragma unroll 1
        for (uint32_t first = 0, stage = 0; first < length; first += Keys, stage ^= StageBytes) {
            cp_async_wait_group<0>();
            if (p.rope != nullptr) {
                if (first == 0) {
                    mine.template turn<T, Queries>(Q, p.rope, tile.first, length);
                }
                mine.template turn<T, Keys>(K + stage, p.rope, first, length);
            }
            __syncthreads(); // This stage is there for all, and all have done with the other one.
            if (first + Keys < length) {
                mine.template copy<Keys>(K + (stage ^ StageBytes), k, stride, first + Keys, length);
                mine.template copy<Keys>(V + (stage ^ StageBytes), v, stride, first + Keys, length);
                cp_async_commit_group();
            }
            if (!active) {
                continue;
            }
            if (Resident && first == 0) {
#pragma unroll
                for (int step = 0; step < HeadDim / 16; step++) {
#pragma unroll
                    for (int m = 0; m < M; m++) {
                        ldmatrix_x4(queries[Resident ? step : 0][m], (q_lane ^ step * 32) + m * 16 * Head::RowBytes);
                    }
                }
            }

            // Scores, in order of the head's numbers.
            float score[M][Keys / 8][4] = {};
#pragma unroll
            for (int step = 0; step < HeadDim / 16; step++) {
                if (!Resident) {
#pragma unroll
                    for (int m = 0; m < M; m++) {
                        ldmatrix_x4(queries[0][m], (q_lane ^ step * 32) + m * 16 * Head::RowBytes);
                    }
                }
#pragma unroll
                for (int n = 0; n < Keys / 16; n++) {
                    uint32_t keys[4];
                    ldmatrix_x4(keys, ((k_lane + stage) ^ step * 32) + n * 16 * Head::RowBytes);
#pragma unroll
                    for (int m = 0; m < M; m++) {
                        T::mma(score[m][2 * n], queries[Resident ? step : 0][m], keys[0], keys[1]);
                        T::mma(score[m][2 * n + 1], queries[Resident ? step : 0][m], keys[2], keys[3]);
                    }
                }
            }
            if (length - first < Keys) { // The last tile alone.
#pragma unroll
                for (int n = 0; n < Keys / 8; n++) {
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        const bool inside = first + 8 * n + lane % 4 * 2 + i < length;
#pragma unroll
                        for (int m = 0; m < M; m++) {
                            score[m][n][i] = inside ? score[m][n][i] : -INFINITY;
                            score[m][n][i + 2] = inside ? score[m][n][i + 2] : -INFINITY;
                        }
                    }
                }
            }
#pragma unroll
            for (int m = 0; m < M; m++) {
                softmax[m].step(score[m], out[m], factor);
            }

            // Weighted values, in order of the keys. Accumulators of two products lie as the next one's operand does.
#pragma unroll
            for (int step = 0; step < Keys / 16; step++) {
                uint32_t weights[M][4];
#pragma unroll
                for (int m = 0; m < M; m++) {
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        const float(&of)[4] = score[m][2 * step + i / 2];
                        weights[m][i] = T::pack(of[i % 2 * 2], of[i % 2 * 2 + 1]);
                    }
                }
#pragma unroll
                for (int n = 0; n < HeadDim / 16; n++) {
                    uint32_t values[4];
                    ldmatrix_x4_trans(values, ((v_lane + stage) ^ n * 32) + step * 16 * Head::RowBytes);
#pragma unroll
                    for (int m = 0; m < M; m++) {
                        T::mma(out[m][2 * n], weights[m], values[0], values[1]);
                        T::mma(out[m][2 * n + 1], weights[m], values[2], values[3]);
                    }
                }
            }
        }
        if (!active) {
            continue;
        }

        // Through the warp's own queries, which nobody reads any more, to whole chunks.
        __syncwarp();
#pragma unroll
        for (int m = 0; m < M; m++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float inverse = softmax[m].inverse(half);
                const uint32_t row = warp_row + 16 * m + 8 * half + lane / 4;
#pragma unroll
                for (int n = 0; n < HeadDim / 8; n++) {
                    const float(&of)[4] = out[m][n];
                    uint32_t *pair = reinterpret_cast<uint32_t *>(smem + Q + Head::offset(row, n)) + lane % 4;
                    *pair = T::pack(of[2 * half] * inverse, of[2 * half + 1] * inverse);
                }
            }
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 16 * M * Head::Chunks / 32; i++) {
            const uint32_t row = warp_row + (lane + 32 * i) / Head::Chunks, chunk = lane % Head::Chunks;
            if (tile.first + row < length) {
                uint16_t *to = p.out + static_cast<uint64_t>(start + tile.first + row) * p.out_stride + column;
                st_global_v4_b32(to + 8 * chunk, *reinterpret_cast<const uint4 *>(smem + Q + Head::offset(row, chunk)));
            }
        }
    }
}

// Blocks that a multiprocessor of 64 K registers is to hold: as many as there are registers for without spills.

extern "C" __global__ void __launch_bounds__(Threads, 3) attention_bf16_hd32_large(const __grid_constant__ AttentionParams p) {
    attention<Bf16, 32, ATTENTION_LARGE_ROWS>(p);
}

extern "C" __global__ void __launch_bounds__(Threads, 3) attention_f16_hd32_large(const __grid_constant__ AttentionParams p) {
    attention<F16, 32, ATTENTION_LARGE_ROWS>(p);
}

extern "C" __global__ void __launch_bounds__(Threads, 4) attention_bf16_hd32_small(const __grid_constant__ AttentionParams p) {
    attention<Bf16, 32, ATTENTION_SMALL_ROWS>(p);
}

extern "C" __global__ void __launch_bounds__(Threads, 4) attention_f16_hd32_small(const __grid_constant__ AttentionParams p) {
    attention<F16, 32, ATTENTION_SMALL_ROWS>(p);
}

extern "C" __global__ void __launch_bounds__(Threads, 2) attention_bf16_hd64_large(const __grid_constant__ AttentionParams p) {
    attention<Bf16, 64, ATTENTION_LARGE_ROWS>(p);
}

extern "C" __global__ void __launch_bounds__(Threads, 2) attention_f16_hd64_large(const __grid_constant__ AttentionParams p) {
    attention<F16, 64, ATTENTION_LARGE_ROWS>(p);
}

extern "C" __global__ void __launch_bounds__(Threads, 3) attention_bf16_hd64_small(const __grid_constant__ AttentionParams p) {
    attention<Bf16, 64, ATTENTION_SMALL_ROWS>(p);
}

extern "C" __global__ void __launch_bounds__(Threads, 3) attention_f16_hd64_small(const __grid_constant__ AttentionParams p) {
    attention<F16, 64, ATTENTION_SMALL_ROWS>(p);
}

extern "C" __global__ void __launch_bounds__(Threads, 2) attention_bf16_hd128_large(const __grid_constant__ AttentionParams p) {
    attention<Bf16, 128, ATTENTION_LARGE_ROWS>(p);
}

extern "C" __global__ void __launch_bounds__(Threads, 2) attention_f16_hd128_large(const __grid_constant__ AttentionParams p) {
    attention<F16, 128, ATTENTION_LARGE_ROWS>(p);
}

extern "C" __global__ void __launch_bounds__(Threads, 2) attention_bf16_hd128_small(const __grid_constant__ AttentionParams p) {
    attention<Bf16, 128, ATTENTION_SMALL_ROWS>(p);
}

extern "C" __global__ void __launch_bounds__(Threads, 2) attention_f16_hd128_small(const __grid_constant__ AttentionParams p) {
    attention<F16, 128, ATTENTION_SMALL_ROWS>(p);
}
