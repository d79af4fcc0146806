// The GEMM epilogue of warps with 32 columns or more: bias, residual, GELU and RoPE in the accumulators' own layout,
// then one rounding.
//
// Only the rounded elements pass through shared memory, so that it holds no more than the pipeline did, and every
// access to out is of 16 bytes. A thread has both sides of its pairs (ColumnMap), so that rotation needs no other
// thread.
#pragma once

#include "gelu.cuh"
#include "gemm.cuh"
#include "rope.cuh"

template <class T, class Tile> struct FragmentEpilogue {
    /// Fragments of eight columns in a run: fragment j + kFragments holds the partners of fragment j.
    static constexpr int kFragments = ColumnMap<Tile>::kRun / 8;
    static_assert(2 * kFragments * 8 == Tile::WARP_N, "a warp has both sides of its pairs");
    /// A row of the tile in shared memory. The padding of 16 bytes keeps the eight rows that a warp writes at once in
    /// different banks.
    static constexpr uint32_t kRowBytes = 2 * Tile::BLOCK_N + 16;
    static constexpr int kBytes = Tile::BLOCK_M * kRowBytes;
    static constexpr uint32_t kRowVectors = Tile::BLOCK_N / 8;
    /// Rows that all threads together write in one pass.
    static constexpr uint32_t kRowsPerPass = Tile::kThreads / kRowVectors;

    const GemmParams &p;
    const ColumnMap<Tile> &columns;
    /// Rows of the tile that are tokens.
    uint32_t rows;
    /// In the tile: the row and column of this thread's first accumulator.
    uint32_t row, column;

    __device__ __forceinline__ FragmentEpilogue(const GemmParams &p, const ColumnMap<Tile> &columns, uint32_t tokens)
        : p(p), columns(columns) {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        rows = min(Tile::BLOCK_M, tokens - blockIdx.y * Tile::BLOCK_M);
        row = warp / Tile::kWarpsN * Tile::WARP_M + lane / 4;
        column = warp % Tile::kWarpsN * Tile::WARP_N + lane % 4 * 2;
    }

    __device__ __forceinline__ uint64_t out_row(uint32_t tile_row) const {
        return blockIdx.y * Tile::BLOCK_M + tile_row;
    }

    __device__ __forceinline__ void operator()(Accumulators<Tile> &acc) const {
        // With RoPE the residual belongs to the product, and is added first; else it is added last.
        const bool rope = p.rope.table != nullptr;
        if (rope && p.residual != nullptr) {
            add_residual(acc);
        }
        if (p.bias != nullptr) {
            add_bias(acc);
        }
        if (!rope && p.residual != nullptr) {
            add_residual(acc);
        }
        if (rope) {
            apply_rope(acc);
        } else if (p.gelu != 0) {
#pragma unroll
            for (int i = 0; i < Tile::WARP_M / 16; i++) {
#pragma unroll
                for (int j = 0; j < 2 * kFragments; j++) {
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        acc[i][j][e] = gelu(acc[i][j][e]);
                    }
                }
            }
        }
        store(acc);
        __syncthreads();
        write();
    }

    static __device__ __forceinline__ void add(float (&x)[4], int half, uint32_t pair) {
        x[2 * half] = __fadd_rn(x[2 * half], T::low(pair));
        x[2 * half + 1] = __fadd_rn(x[2 * half + 1], T::high(pair));
    }

    __device__ __forceinline__ void add_bias(Accumulators<Tile> &acc) const {
#pragma unroll
        for (int j = 0; j < 2 * kFragments; j++) {
            const uint32_t of = columns[column + 8 * j];
            const uint32_t bias = of < p.n ? ld_global_nc_b32(p.bias + of) : 0;
#pragma unroll
            for (int i = 0; i < Tile::WARP_M / 16; i++) {
                add(acc[i][j], 0, bias);
                add(acc[i][j], 1, bias);
            }
        }
    }

    /// All of the tile is read before any of it is written, since out may be the residual.
    __device__ __forceinline__ void add_residual(Accumulators<Tile> &acc) const {
#pragma unroll
        for (int i = 0; i < Tile::WARP_M / 16; i++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const uint32_t tile_row = row + 16 * i + 8 * half;
                if (tile_row < rows) {
                    const uint16_t *from = p.residual + out_row(tile_row) * p.residual_stride;
#pragma unroll
                    for (int j = 0; j < 2 * kFragments; j++) {
                        const uint32_t of = columns[column + 8 * j];
                        add(acc[i][j], half, of < p.n ? ld_global_b32(from + of) : 0);
                    }
                }
            }
        }
    }

    /// Rotates the columns of q and k, and scales those of q.
    __device__ __forceinline__ void apply_rope(Accumulators<Tile> &acc) const {
        const uint32_t end = p.n / 3 * 2;
        // A later fragment is in no earlier head.
        if (columns[column] >= end) {
            return;
        }
        const uint32_t half_dim = p.rope.head_dim / 2;
        uint32_t position[Tile::WARP_M / 16][2];
#pragma unroll
        for (int i = 0; i < Tile::WARP_M / 16; i++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                // The last token's, past the last token: what is computed there is not written.
                position[i][half] = p.rope.position_of_row[out_row(min(row + 16 * i + 8 * half, rows - 1))];
            }
        }
#pragma unroll
        for (int i = 0; i < Tile::WARP_M / 16; i++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float *table = p.rope.table + static_cast<uint64_t>(position[i][half]) * half_dim * 2;
                uint4 cos_sin[kFragments];
#pragma unroll
                for (int j = 0; j < kFragments; j++) {
                    cos_sin[j] = ld_global_nc_v4_b32(table + (columns[column + 8 * j] & (half_dim - 1)) * 2);
                }
#pragma unroll
                for (int j = 0; j < kFragments; j++) {
                    const uint32_t of = columns[column + 8 * j];
                    if (of < end) {
                        const float scale = of < p.n / 3 ? p.rope.q_scale : 1.0f;
                        rotate(&acc[i][j][2 * half], &acc[i][j + kFragments][2 * half], cos_sin[j], scale);
                    }
                }
            }
        }
    }

    /// Two pairs: a are the lower halves' sides, b the upper halves'.
    static __device__ __forceinline__ void rotate(float *a, float *b, const uint4 &cos_sin, float scale) {
        ::rotate(a[0], b[0], __uint_as_float(cos_sin.x), __uint_as_float(cos_sin.y));
        ::rotate(a[1], b[1], __uint_as_float(cos_sin.z), __uint_as_float(cos_sin.w));
#pragma unroll
        for (int e = 0; e < 2; e++) {
            a[e] = __fmul_rn(a[e], scale);
            b[e] = __fmul_rn(b[e], scale);
        }
    }

    /// Rounds the tile into shared memory.
    __device__ __forceinline__ void store(const Accumulators<Tile> &acc) const {
        const uint32_t to = cvta_to_shared(smem) + row * kRowBytes + column * 2;
#pragma unroll
        for (int i = 0; i < Tile::WARP_M / 16; i++) {
#pragma unroll
            for (int j = 0; j < 2 * kFragments; j++) {
                const float(&x)[4] = acc[i][j];
                st_shared_b32(to + 16 * i * kRowBytes + 16 * j, T::pack(x[0], x[1]));
                st_shared_b32(to + (16 * i + 8) * kRowBytes + 16 * j, T::pack(x[2], x[3]));
            }
        }
    }

    /// Writes the tile from shared memory: every thread the same eight columns of its rows.
    __device__ __forceinline__ void write() const {
        const uint32_t vector = threadIdx.x % kRowVectors;
        const uint32_t of = columns[vector * 8];
        const uint32_t end = of < p.n ? rows : 0;
        const uint32_t from = cvta_to_shared(smem) + vector * 16;
#pragma unroll 4
        for (uint32_t i = threadIdx.x / kRowVectors; i < end; i += kRowsPerPass) {
            st_global_v4_b32(p.out + out_row(i) * p.out_stride + of, ld_shared_v4_b32(from + i * kRowBytes));
        }
    }
};
