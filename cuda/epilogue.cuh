// From a tile's sums in registers to rows of out: bias, residual, GELU, rotation, one rounding.
//
// The sums pass through shared memory as float32, because a thread then has what it needs in one piece: eight
// neighbouring columns of a row for accesses of 16 bytes, and the partners of a rotation, which another warp may
// have summed.
#pragma once

#include "gemm.cuh"

/// A tile of float32. Rows are padded by 32 bytes, and halves of an eight are exchanged every second time: so neither
/// the pairs that warps store (four rows at once) nor the halves that they load have conflicts.
template <class Tile> struct Staged {
    static constexpr uint32_t RowFloats = Tile::Columns + 8;
    static constexpr int Bytes = Tile::Rows * RowFloats * 4;

    static __device__ __forceinline__ uint32_t address(uint32_t row, uint32_t column) {
        const uint32_t flip = (column / 32 ^ row) % 2 * 4;
        return cvta_to_shared(smem) + (row * RowFloats + (column ^ flip)) * 4;
    }

    static __device__ __forceinline__ void store(const Sums<Tile> &sums) {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const uint32_t row = warp / Tile::ColumnWarps * Tile::WarpRows + lane / 4;
        const uint32_t column = warp % Tile::ColumnWarps * Tile::WarpColumns + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < Tile::WarpRows / 16; i++) {
#pragma unroll
            for (int j = 0; j < Tile::WarpColumns / 8; j++) {
                const float(&sum)[4] = sums[i][j];
                st_shared_v2_f32(address(row + 16 * i, column + 8 * j), sum[0], sum[1]);
                st_shared_v2_f32(address(row + 16 * i + 8, column + 8 * j), sum[2], sum[3]);
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

/// x·Φ(x), the exact form of GELU. Φ(-a) for a ≥ 0 is e^(-a²/2) times a polynomial in 1 / (1 + 0.31·a), fitted
/// to the least relative error: 1e-5 of Φ(-a) at most, for all a up to 13, where it leaves float32. As 1 + erf it
/// would lose its digits where x < -3. Of infinities it makes NaN.
__device__ __forceinline__ float gelu(float x) {
    const float a = fabsf(x);
    const float t = rcp_approx_ftz_f32(__fmaf_rn(a, 0.31f, 1.0f));
    float tail = -0.0739291534f;
    tail = __fmaf_rn(tail, t, 0.180450365f);
    tail = __fmaf_rn(tail, t, 0.0157446992f);
    tail = __fmaf_rn(tail, t, 0.133429781f);
    tail = __fmaf_rn(tail, t, 0.12044128f);
    tail = __fmaf_rn(tail, t, 0.123860702f);
    // (log2(e) / 2)^½, so that its square is what ex2 takes.
    const float y = __fmul_rn(a, 0.8493218f);
    tail = __fmul_rn(__fmul_rn(tail, t), ex2_approx_ftz_f32(-__fmul_rn(y, y)));
    // x - x·Φ(-x), or x·Φ(x).
    return __fmaf_rn(-a, tail, fmaxf(x, 0.0f));
}

/// What is added to eight sums, or multiplies them: all that the epilogue reads for them.
struct Addends {
    uint4 bias, partner_bias, residual;
    /// Four times (cos, sin, cos, sin), float32.
    uint4 turns[4];
};

/// Eight neighbouring columns of the block's tile: those of one thread, the same in all of its rows.
template <class T, class Tile> struct Eight {
    static constexpr uint32_t RowVectors = Tile::Columns / 8;
    /// Rows between those of a thread.
    static constexpr uint32_t PassRows = Tile::Threads / RowVectors;

    const GemmParams &p;
    /// Place in the tile, and its partner's.
    uint32_t at, partner;
    /// In out, likewise.
    uint32_t column, partner_column;
    bool rotated;

    __device__ __forceinline__ Eight(const GemmParams &p, const ColumnRuns<Tile> &columns) : p(p) {
        at = threadIdx.x % RowVectors * 8;
        partner = at ^ columns.partner;
        column = columns[at];
        partner_column = columns[partner];
        rotated = p.rope.table != nullptr && column < p.n / 3 * 2;
    }

    __device__ __forceinline__ uint4 residual(uint32_t row) const {
        return ld_global_v4_b32(p.residual + static_cast<uint64_t>(row) * p.residual_stride + column);
    }

    /// Adds the residual ahead of finish(). For rotations: they need their partner's too, and where it lies in the place
    /// of out, another thread may have written it by then.
    __device__ __forceinline__ void add_residual(uint32_t row, uint32_t tile_row) const {
        float x[8], added[8];
        Staged<Tile>::load(x, tile_row, at);
        unpack<T>(residual(row), added);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            x[i] = __fadd_rn(x[i], added[i]);
        }
        Staged<Tile>::store(x, tile_row, at);
    }

    /// Asks for what row `row` of out needs.
    __device__ __forceinline__ void load(Addends &more, uint32_t row) const {
        const uint4 zero = make_uint4(0, 0, 0, 0);
        more.bias = more.partner_bias = more.residual = zero;
        if (p.bias != nullptr) {
            more.bias = ld_global_nc_v4_b32(p.bias + column);
        }
        if (p.residual != nullptr && p.rope.table == nullptr) {
            more.residual = residual(row);
        }
        if (rotated) {
            const uint32_t half = p.rope.head_dim / 2;
            const uint64_t position = p.rope.position_of_row[row];
            const float *table = p.rope.table + (position * half + (column & (half - 1))) * 2;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                more.turns[i] = ld_global_nc_v4_b32(table + 4 * i);
            }
            if (p.bias != nullptr) {
                more.partner_bias = ld_global_nc_v4_b32(p.bias + partner_column);
            }
        }
    }

    /// Row `row` of out, which is row `tile_row` of the tile.
    __device__ __forceinline__ void finish(const Addends &more, uint32_t row, uint32_t tile_row) const {
        float x[8], added[8];
        Staged<Tile>::load(x, tile_row, at);
        unpack<T>(more.bias, added);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            x[i] = __fadd_rn(x[i], added[i]);
        }
        if (rotated) {
            rotate(x, more, tile_row);
        } else {
            unpack<T>(more.residual, added);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                x[i] = __fadd_rn(x[i], added[i]);
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

    /// (a, b) becomes (a·cos - b·sin, b·cos + a·sin); x is either of them.
    __device__ __forceinline__ void rotate(float (&x)[8], const Addends &more, uint32_t tile_row) const {
        float other[8], added[8];
        Staged<Tile>::load(other, tile_row, partner);
        unpack<T>(more.partner_bias, added);
        const float sign = partner > at ? -1.0f : 1.0f;
        const float scale = column < p.n / 3 ? p.rope.q_scale : 1.0f;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint4 &turn = more.turns[i / 2];
            const float cos = __uint_as_float(i % 2 == 0 ? turn.x : turn.z);
            const float sin = __uint_as_float(i % 2 == 0 ? turn.y : turn.w);
            const float crossed = __fmul_rn(__fadd_rn(other[i], added[i]), sin);
            x[i] = __fmul_rn(__fmaf_rn(x[i], cos, __fmul_rn(sign, crossed)), scale);
        }
    }
};
