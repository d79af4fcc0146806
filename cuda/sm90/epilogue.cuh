// The epilogue of Hopper's GEMM: from a warpgroup's accumulators to 64 rows of out, with bias, residual, GELU, RoPE and
// one rounding, in the order of ../epilogue.cuh.
//
// All arithmetic is on the accumulators where they are: the rotation partner of a column is in the same thread, since a
// tile holds whole heads. Then 64 columns at a time go through shared memory, 16-bit and swizzled, to a bulk store,
// while the next are written to a second buffer; the rows of a warpgroup that has some past the last token are stored
// by its threads, 16 bytes each. Bias and positions are asked for before the products, so that nobody waits for them.
#pragma once

#include "../gelu.cuh"
#include "../rope.cuh"
#include "gemm.cuh"

template <class T, class Tile> struct FragmentEpilogue {
    static constexpr int kAccumulators = Tile::BLOCK_N / 2;
    typedef float Fragment[kAccumulators];

    const GemmSm90Params &map;
    const GemmParams &p;
    uint32_t tokens;
    /// The warpgroup, and the first row and column of its part of the tile.
    uint32_t warpgroup, first_row, first_column;
    uint32_t thread, lane, warp;
    /// Of this thread's rows, two in each fragment of 64.
    uint32_t positions[2 * Tile::kFragments];

    __device__ __forceinline__ FragmentEpilogue(const GemmSm90Params &p, uint32_t tokens, uint32_t warpgroup)
        : map(p), p(p.gemm), tokens(tokens), warpgroup(warpgroup) {
        thread = threadIdx.x % 128;
        lane = thread % 32;
        warp = thread / 32;
    }

    /// The row of acc[4·j + 2·half] and acc[4·j + 2·half + 1], for all j; of fragment m with half + 2·m for half.
    __device__ __forceinline__ uint32_t row(int half) const {
        return first_row + 64 * (half / 2) + 16 * warp + lane / 4 + half % 2 * 8;
    }
    /// The column of acc[4·j] and acc[4·j + 2]; the next is that of acc[4·j + 1] and acc[4·j + 3].
    __device__ __forceinline__ uint32_t column(int j) const { return first_column + 8 * j + lane % 4 * 2; }

    /// Asks for what the tile at (row, column) needs beside its products: before them, since it takes a while to come.
    __device__ __forceinline__ void begin(uint32_t tile_row, uint32_t tile_column) {
        first_row = tile_row + (Tile::kPingPong ? 0 : 64 * warpgroup);
        first_column = tile_column;
        // All have read the bias of the tile before, since they have stored it.
        const uint32_t at = 2 * thread;
        if (at < Tile::BLOCK_N) {
            const bool has = p.bias != nullptr && first_column + at < p.n;
            st_shared_b32(bias_address() + 2 * at, has ? ld_global_nc_b32(p.bias + first_column + at) : 0);
        }
        if (p.rope.table != nullptr) {
#pragma unroll
            for (int half = 0; half < 2 * Tile::kFragments; half++) {
                positions[half] = row(half) < tokens ? p.rope.position_of_row[row(half)] : 0;
            }
        }
    }

    /// Writes a fragment of the tile, the warpgroup's m-th 64 rows.
    __device__ __forceinline__ void finish(Fragment &acc, int m) const {
        if (first_row + 64 * m >= tokens) {
            return;
        }
        if (m == 0) {
            sync(); // The bias is there.
        }
        const bool rotates = p.rope.table != nullptr;
        if (rotates && p.residual != nullptr) {
            add_residual(acc, m);
        }
        add_bias(acc);
        if (rotates) {
            // Accumulators from a column to its partner.
            switch (p.rope.head_dim) {
            case 32:
                rotate_heads<8>(acc, m);
                break;
            case 64:
                rotate_heads<16>(acc, m);
                break;
            default:
                rotate_heads<32>(acc, m);
            }
        } else if (p.residual != nullptr) {
            add_residual(acc, m);
        }
        if (p.gelu != 0) {
#pragma unroll
            for (int i = 0; i < kAccumulators; i++) {
                acc[i] = gelu(acc[i]);
            }
        }
#pragma unroll
        for (int part = 0; part < Tile::BLOCK_N / 64; part++) {
            if (first_column + 64 * part < p.n) {
                store(acc, m, part);
            } else if (thread == 0) {
                cp_async_bulk_commit_group(); // Empty, so that groups alternate with buffers.
            }
        }
    }

    /// Where the bias of the tile's columns is: zero without one, so that a sum of -0 becomes 0 as it does in the small
    /// tiles, and past the last column.
    __device__ __forceinline__ uint32_t bias_address() const {
        return cvta_to_shared(smem) + Tile::kBias + warpgroup * 2 * Tile::BLOCK_N;
    }

    __device__ __forceinline__ void add_bias(Fragment &acc) const {
        const uint32_t from = bias_address() + lane % 4 * 4;
#pragma unroll
        for (int j = 0; j < kAccumulators / 4; j++) {
            const uint32_t pair = ld_shared_b32(from + 16 * j);
            add(acc, 4 * j, pair);
            add(acc, 4 * j + 2, pair);
        }
    }

    __device__ __forceinline__ void add_residual(Fragment &acc, int m) const {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint64_t last = min(row(2 * m + half), tokens - 1);
            const uint16_t *from = p.residual + last * p.residual_stride + column(0);
#pragma unroll
            for (int j = 0; j < kAccumulators / 4; j++) {
                add(acc, 4 * j + 2 * half, ld_global_b32(from + inside(j)));
            }
        }
    }

    /// 8·j where out has those columns, else 0.
    __device__ __forceinline__ uint32_t inside(int j) const { return first_column + 8 * j < p.n ? 8 * j : 0; }

    static __device__ __forceinline__ void add(Fragment &acc, int i, uint32_t pair) {
        acc[i] = __fadd_rn(acc[i], T::low(pair));
        acc[i + 1] = __fadd_rn(acc[i + 1], T::high(pair));
    }

    /// Rotates the heads of q and k, and scales those of q. A head has 2·DISTANCE accumulators.
    template <int DISTANCE> __device__ __forceinline__ void rotate_heads(Fragment &acc, int m) const {
        constexpr int kLoads = DISTANCE < 16 ? DISTANCE / 4 : 4;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float *table = p.rope.table + (uint64_t(positions[2 * m + half]) * (2 * DISTANCE) + lane % 4 * 2) * 2;
#pragma unroll
            for (int j = 0; j < DISTANCE / 4; j += kLoads) {
                // All loads before their first use; more of them would take more registers than there are.
                uint4 cos_sin[kLoads];
#pragma unroll
                for (int i = 0; i < kLoads; i++) {
                    cos_sin[i] = ld_global_nc_v4_b32(table + 16 * (j + i));
                }
#pragma unroll
                for (int head = 0; head < kAccumulators / (2 * DISTANCE); head++) {
                    const uint32_t head_column = first_column + head * 4 * DISTANCE;
                    if (head_column < p.n / 3 * 2) {
                        const float scale = head_column < p.n / 3 ? p.rope.q_scale : 1.0f;
#pragma unroll
                        for (int i = 0; i < kLoads; i++) {
                            rotate(acc, 2 * DISTANCE * head + 4 * (j + i) + 2 * half, DISTANCE, cos_sin[i], scale);
                        }
                    }
                }
            }
        }
    }

    /// Rotates and scales two pairs, whose sides are so many accumulators apart.
    static __device__ __forceinline__ void rotate(Fragment &acc, int at, int distance, const uint4 &cos_sin,
                                                  float scale) {
        ::rotate(acc[at], acc[at + distance], __uint_as_float(cos_sin.x), __uint_as_float(cos_sin.y));
        ::rotate(acc[at + 1], acc[at + 1 + distance], __uint_as_float(cos_sin.z), __uint_as_float(cos_sin.w));
#pragma unroll
        for (int i = 0; i < 2; i++) {
            acc[at + i] = __fmul_rn(acc[at + i], scale);
            acc[at + i + distance] = __fmul_rn(acc[at + i + distance], scale);
        }
    }

    /// Waits for the warpgroup. The barriers' numbers are immediate: with one in a register ptxas keeps all 16, and
    /// spills registers.
    __device__ __forceinline__ void sync() const {
        if (warpgroup == 0) {
            bar_sync<1>(128);
        } else {
            bar_sync<2>(128);
        }
    }

    /// Rounds and stores 64 columns, in the layout of the map's boxes.
    __device__ __forceinline__ void store(const Fragment &acc, int m, int part) const {
        const uint32_t buffer = cvta_to_shared(smem) + Tile::kStaging + warpgroup * Tile::kStagingBytes +
                                part % Tile::kBuffers * (64 * 128);
        // The store before the last, of the same buffer, has read it.
        if (thread == 0) {
            cp_async_bulk_wait_group_read<Tile::kBuffers - 1>();
        }
        sync();
        const uint32_t to = buffer + (16 * warp + lane % 16) * 128;
#pragma unroll
        for (int j = 0; j < 8; j += 2) {
            const float *x = acc + 32 * part + 4 * j;
            stmatrix_x4(to + ((j + lane / 16) ^ lane % 8) * 16, T::pack(x[0], x[1]), T::pack(x[2], x[3]),
                        T::pack(x[4], x[5]), T::pack(x[6], x[7]));
        }
        fence_proxy_async();
        sync();
        const uint32_t first = first_row + 64 * m, column = first_column + 64 * part;
        const bool whole = first + 64 <= tokens;
        if (thread == 0) {
            if (whole) {
                cp_async_bulk_tensor_2d_global_shared(map.out, column, first, buffer);
            }
            cp_async_bulk_commit_group(); // Empty too: see finish().
        }
        if (!whole) {
#pragma unroll 1
            for (uint32_t i = thread; i < 64 * 8; i += 128) {
                const uint32_t row = i / 8, vector = i % 8;
                if (first + row < tokens && column + 8 * vector < p.n) {
                    uint16_t *out = p.out + static_cast<uint64_t>(first + row) * p.out_stride + column;
                    st_global_v4_b32(out + 8 * vector,
                                     ld_shared_v4_b32(buffer + row * 128 + (vector ^ row % 8) * 16));
                }
            }
        }
    }
};
