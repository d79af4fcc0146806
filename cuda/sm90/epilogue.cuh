// The epilogue of Hopper's GEMM: from a warpgroup's accumulators to 64 rows of out, with bias, residual, GELU, RoPE and
// one rounding, in the order of ../epilogue.cuh.
//
// All arithmetic is on the accumulators where they are: the rotation partner of a column is in the same thread, since a
// tile holds whole heads. Then 128 columns at a time go through shared memory, 16-bit and swizzled, to a bulk store;
// the rows of a warpgroup that has some past the last token are stored by its threads, 16 bytes each.
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

    __device__ __forceinline__ FragmentEpilogue(const GemmSm90Params &p, uint32_t tokens, uint32_t warpgroup)
        : map(p), p(p.gemm), tokens(tokens), warpgroup(warpgroup) {
        thread = threadIdx.x % 128;
        lane = thread % 32;
        warp = thread / 32;
    }

    /// The row of acc[4·j + 2·half] and acc[4·j + 2·half + 1], for all j.
    __device__ __forceinline__ uint32_t row(int half) const { return first_row + 16 * warp + lane / 4 + 8 * half; }
    /// The column of acc[4·j] and acc[4·j + 2]; the next is that of acc[4·j + 1] and acc[4·j + 3].
    __device__ __forceinline__ uint32_t column(int j) const { return first_column + 8 * j + lane % 4 * 2; }

    /// Writes the warpgroup's part of the tile at (row, column).
    __device__ __forceinline__ void operator()(Fragment &acc, uint32_t tile_row, uint32_t tile_column) {
        first_row = tile_row + 64 * warpgroup;
        first_column = tile_column;
        if (first_row >= tokens) {
            return;
        }
        const bool rotates = p.rope.table != nullptr;
        if (rotates && p.residual != nullptr) {
            add_residual(acc);
        }
        add_bias(acc);
        if (rotates) {
            // Accumulators from a column to its partner.
            switch (p.rope.head_dim) {
            case 32:
                rotate_heads<8>(acc);
                break;
            case 64:
                rotate_heads<16>(acc);
                break;
            default:
                rotate_heads<32>(acc);
            }
        } else if (p.residual != nullptr) {
            add_residual(acc);
        }
        if (p.gelu != 0) {
#pragma unroll
            for (int i = 0; i < kAccumulators; i++) {
                acc[i] = gelu(acc[i]);
            }
        }
#pragma unroll
        for (int part = 0; part < Tile::BLOCK_N / 128; part++) {
            if (first_column + 128 * part < p.n) {
                store(acc, part);
            }
        }
    }

    /// Adds the bias, or zero without one, so that a sum of -0 becomes 0 as it does in the small tiles. Past the last
    /// column or token the reads are of the first column and the last token; nobody uses what comes of them.
    __device__ __forceinline__ void add_bias(Fragment &acc) const {
        const uint16_t *from = p.bias + column(0);
#pragma unroll
        for (int j = 0; j < kAccumulators / 4; j++) {
            const uint32_t pair = p.bias == nullptr ? 0 : ld_global_nc_b32(from + inside(j));
            add(acc, 4 * j, pair);
            add(acc, 4 * j + 2, pair);
        }
    }

    __device__ __forceinline__ void add_residual(Fragment &acc) const {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint64_t last = min(row(half), tokens - 1);
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
    template <int DISTANCE> __device__ __forceinline__ void rotate_heads(Fragment &acc) const {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint64_t position = row(half) < tokens ? p.rope.position_of_row[row(half)] : 0;
            const float *table = p.rope.table + (position * (2 * DISTANCE) + lane % 4 * 2) * 2;
#pragma unroll
            for (int j = 0; j < DISTANCE / 4; j++) {
                const uint4 cos_sin = ld_global_nc_v4_b32(table + 16 * j);
                const float cos[2] = {__uint_as_float(cos_sin.x), __uint_as_float(cos_sin.z)};
                const float sin[2] = {__uint_as_float(cos_sin.y), __uint_as_float(cos_sin.w)};
#pragma unroll
                for (int head = 0; head < kAccumulators / (2 * DISTANCE); head++) {
                    const uint32_t head_column = first_column + head * 4 * DISTANCE;
                    if (head_column < p.n / 3 * 2) {
                        const float scale = head_column < p.n / 3 ? p.rope.q_scale : 1.0f;
#pragma unroll
                        for (int i = 0; i < 2; i++) {
                            float &a = acc[2 * DISTANCE * head + 4 * j + 2 * half + i];
                            float &b = acc[2 * DISTANCE * head + 4 * j + 2 * half + i + DISTANCE];
                            rotate(a, b, cos[i], sin[i]);
                            a = __fmul_rn(a, scale);
                            b = __fmul_rn(b, scale);
                        }
                    }
                }
            }
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

    /// Rounds and stores 128 columns, two sub-tiles of 64 rows and 64 columns in the layout of the map's boxes.
    __device__ __forceinline__ void store(const Fragment &acc, int part) const {
        constexpr uint32_t kSubTile = 64 * 128;
        const uint32_t staging = cvta_to_shared(smem) + Tile::kStaging + warpgroup * Tile::kStagingBytes;
        // The stores of the part before have read it.
        if (thread == 0) {
            cp_async_bulk_wait_group_read<0>();
        }
        sync();
        const uint32_t to = staging + (16 * warp + lane % 16) * 128;
#pragma unroll
        for (int j = 0; j < 16; j += 2) {
            const float *x = acc + 64 * part + 4 * j;
            stmatrix_x4(to + j / 8 * kSubTile + ((j % 8 + lane / 16) ^ lane % 8) * 16, T::pack(x[0], x[1]),
                        T::pack(x[2], x[3]), T::pack(x[4], x[5]), T::pack(x[6], x[7]));
        }
        fence_proxy_async();
        sync();
        const uint32_t column = first_column + 128 * part;
        if (first_row + 64 <= tokens) {
            if (thread == 0) {
                cp_async_bulk_tensor_2d_global_shared(map.out, column, first_row, staging);
                if (column + 64 < p.n) {
                    cp_async_bulk_tensor_2d_global_shared(map.out, column + 64, first_row, staging + kSubTile);
                }
                cp_async_bulk_commit_group();
            }
        } else {
#pragma unroll 1
            for (uint32_t i = thread; i < 64 * 16; i += 128) {
                const uint32_t row = i / 16, vector = i % 16;
                if (first_row + row < tokens && column + 8 * vector < p.n) {
                    const uint32_t from = staging + vector / 8 * kSubTile + row * 128 + (vector % 8 ^ row % 8) * 16;
                    uint16_t *out = p.out + static_cast<uint64_t>(first_row + row) * p.out_stride + column;
                    st_global_v4_b32(out + 8 * vector, ld_shared_v4_b32(from));
                }
            }
        }
    }
};
