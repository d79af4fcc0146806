// The GEMM epilogue of small tiles: from a tile's accumulators in registers to rows of out, with bias, residual, GELU,
// RoPE and one rounding.
//
// The accumulators pass through shared memory as float32, because a thread then has eight adjacent columns of a row,
// for accesses of 16 bytes, can load its operands before the main loop, and can read the rotation partners, which
// another warp may have computed. epilogue_fragment.cuh is the one for larger tiles; the bits are the same.
#pragma once

#include "gelu.cuh"
#include "gemm.cuh"

/// The tile of accumulators in shared memory, float32. Rows are padded by 32 bytes, and the halves of eight columns are
/// exchanged every second time, so that neither the pairs that a warp stores (four rows at once) nor the halves that it
/// loads have bank conflicts.
template <class Tile> struct SmemAccum {
    static constexpr uint32_t kRowFloats = Tile::BLOCK_N + 8;
    static constexpr int kBytes = Tile::BLOCK_M * kRowFloats * 4;

    static __device__ __forceinline__ uint32_t address(uint32_t row, uint32_t column) {
        const uint32_t swizzle = (column / 32 ^ row) % 2 * 4;
        return cvta_to_shared(smem) + (row * kRowFloats + (column ^ swizzle)) * 4;
    }

    static __device__ __forceinline__ void store(const Accumulators<Tile> &acc) {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const uint32_t row = warp / Tile::kWarpsN * Tile::WARP_M + lane / 4;
        const uint32_t column = warp % Tile::kWarpsN * Tile::WARP_N + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < Tile::WARP_M / 16; i++) {
#pragma unroll
            for (int j = 0; j < Tile::WARP_N / 8; j++) {
                const float(&d)[4] = acc[i][j];
                st_shared_v2_f32(address(row + 16 * i, column + 8 * j), d[0], d[1]);
                st_shared_v2_f32(address(row + 16 * i + 8, column + 8 * j), d[2], d[3]);
            }
        }
    }

    static __device__ __forceinline__ void store(const float (&x)[8], uint32_t row, uint32_t column) {
#pragma unroll
        for (int i = 0; i < 8; i += 2) {
            st_shared_v2_f32(address(row, column + i), x[i], x[i + 1]);
        }
    }

    static __device__ __forceinline__ void load(float (&x)[8], uint32_t row, uint32_t column) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float4 v = ld_shared_v4_f32(address(row, column + 4 * half));
            x[4 * half] = v.x;
            x[4 * half + 1] = v.y;
            x[4 * half + 2] = v.z;
            x[4 * half + 3] = v.w;
        }
    }
};

/// All that the epilogue reads from global memory for eight columns of a row.
struct EpilogueOperands {
    uint4 bias, partner_bias, residual;
    /// Eight pairs of cosine and sine, float32.
    uint4 cos_sin[4];
};

/// The epilogue of eight adjacent columns of a row.
template <class T, class Tile> struct EpilogueVec8 {
    static constexpr uint32_t kRowVectors = Tile::BLOCK_N / 8;
    /// Rows that all threads together take in one pass.
    static constexpr uint32_t kRowsPerPass = Tile::kThreads / kRowVectors;

    const GemmParams &p;
    /// The first of the columns in the tile, and that of their rotation partners.
    uint32_t tile_column, partner_tile_column;
    /// The same in out.
    uint32_t column, partner_column;
    bool rotated;

    __device__ __forceinline__ EpilogueVec8(const GemmParams &p, const ColumnMap<Tile> &columns) : p(p) {
        tile_column = threadIdx.x % kRowVectors * 8;
        partner_tile_column = tile_column ^ columns.kRun;
        column = columns[tile_column];
        partner_column = columns[partner_tile_column];
        rotated = p.rope.table != nullptr && column < p.n / 3 * 2;
    }

    __device__ __forceinline__ uint4 load_residual(uint32_t row) const {
        return ld_global_v4_b32(p.residual + static_cast<uint64_t>(row) * p.residual_stride + column);
    }

    /// Adds the residual to the accumulators in shared memory, ahead of finish(). For RoPE: a rotation needs the
    /// residual of its partner too, which another thread may have overwritten by then if out is the residual.
    __device__ __forceinline__ void add_residual(uint32_t row, uint32_t tile_row) const {
        float x[8], addend[8];
        SmemAccum<Tile>::load(x, tile_row, tile_column);
        unpack<T>(load_residual(row), addend);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            x[i] = __fadd_rn(x[i], addend[i]);
        }
        SmemAccum<Tile>::store(x, tile_row, tile_column);
    }

    /// Loads the operands for row `row` of out.
    __device__ __forceinline__ void load(EpilogueOperands &operands, uint32_t row) const {
        const uint4 zero = make_uint4(0, 0, 0, 0);
        operands.bias = operands.partner_bias = operands.residual = zero;
        if (p.bias != nullptr) {
            operands.bias = ld_global_nc_v4_b32(p.bias + column);
        }
        if (p.residual != nullptr && p.rope.table == nullptr) {
            operands.residual = load_residual(row);
        }
        if (rotated) {
            const uint32_t half = p.rope.head_dim / 2;
            const uint64_t position = p.rope.position_of_row[row];
            const float *table = p.rope.table + (position * half + (column & (half - 1))) * 2;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                operands.cos_sin[i] = ld_global_nc_v4_b32(table + 4 * i);
            }
            if (p.bias != nullptr) {
                operands.partner_bias = ld_global_nc_v4_b32(p.bias + partner_column);
            }
        }
    }

    /// Writes row `row` of out from row `tile_row` of the tile.
    __device__ __forceinline__ void finish(const EpilogueOperands &operands, uint32_t row, uint32_t tile_row) const {
        float x[8], addend[8];
        SmemAccum<Tile>::load(x, tile_row, tile_column);
        unpack<T>(operands.bias, addend);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            x[i] = __fadd_rn(x[i], addend[i]);
        }
        if (rotated) {
            apply_rope(x, operands, tile_row);
        } else {
            unpack<T>(operands.residual, addend);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                x[i] = __fadd_rn(x[i], addend[i]);
            }
            if (p.gelu != 0) {
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    x[i] = gelu(x[i]);
                }
            }
        }
        st_global_v4_b32(p.out + static_cast<uint64_t>(row) * p.out_stride + column, pack<T>(x));
    }

    /// (a, b) becomes (a·cos - b·sin, b·cos + a·sin); x holds either side of the pairs.
    __device__ __forceinline__ void apply_rope(float (&x)[8], const EpilogueOperands &operands,
                                               uint32_t tile_row) const {
        float partner[8], addend[8];
        SmemAccum<Tile>::load(partner, tile_row, partner_tile_column);
        unpack<T>(operands.partner_bias, addend);
        const float sign = partner_tile_column > tile_column ? -1.0f : 1.0f;
        const float scale = column < p.n / 3 ? p.rope.q_scale : 1.0f;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint4 &cos_sin = operands.cos_sin[i / 2];
            const float cos = __uint_as_float(i % 2 == 0 ? cos_sin.x : cos_sin.z);
            const float sin = __uint_as_float(i % 2 == 0 ? cos_sin.y : cos_sin.w);
            const float partner_sin = __fmul_rn(__fadd_rn(partner[i], addend[i]), sin);
            x[i] = __fmul_rn(__fmaf_rn(x[i], cos, __fmul_rn(sign, partner_sin)), scale);
        }
    }
};

/// A tile's rows of out from its products, which `products(acc)` adds. With at most one row per thread, and registers
/// to spare, the epilogue's operands are loaded before the products, so that their latency is hidden.
template <class T, class Tile, class Products>
__device__ __forceinline__ void rows_of_out(const GemmParams &p, const ColumnMap<Tile> &columns, uint32_t tokens,
                                            const Products &products) {
    const uint32_t first_row = blockIdx.y * Tile::BLOCK_M;
    const EpilogueVec8<T, Tile> epilogue(p, columns);
    static_assert(Tile::BLOCK_M <= epilogue.kRowsPerPass, "a thread has one row");
    const uint32_t row = threadIdx.x / epilogue.kRowVectors;
    const bool inside = epilogue.column < p.n && row < min(Tile::BLOCK_M, tokens - first_row);
    EpilogueOperands operands;
    if (inside) {
        epilogue.load(operands, first_row + row);
    }
    Accumulators<Tile> acc = {};
    products(acc);
    SmemAccum<Tile>::store(acc);
    Tile::sync();
    if (p.rope.table != nullptr && p.residual != nullptr) {
        if (inside) {
            epilogue.add_residual(first_row + row, row);
        }
        Tile::sync();
    }
    if (inside) {
        epilogue.finish(operands, first_row + row, row);
    }
}
