// Rows held in registers: LayerNorm and the adapters' down-projection, which embed, layernorm and norm_gemm share.
//
// A row of hidden_size elements is spread over ⌈hidden_size / 1024⌉ warps in 16-byte vectors: thread t holds vectors t,
// t + threads, t + 2·threads and t + 3·threads, as far as the row reaches. Up to 1024 columns a row has one warp,
// because statistics and down-projections then need only shuffles: no barrier, no shared memory, and the rows of a
// block are independent. With more columns per warp the registers would not allow two blocks of eight warps per
// multiprocessor, so a wider row takes more warps, and a block to itself. The order of every sum depends on
// hidden_size, never on blockDim.
#pragma once

#include "dtype.cuh"
#include "params.h"
#include "reduce.cuh"

static_assert(ROW_WARP_COLUMNS == 32 * ROW_LANE_VECTORS * ROW_VECTOR, "the columns of a warp");
static_assert(ROW_MAX_HIDDEN == ROW_MAX_WARPS * ROW_WARP_COLUMNS, "the columns of a block");

/// Which row this thread works on, and its position in it. A block holds blockDim.x / 32 rows of one warp each, or one
/// row of several warps.
struct RowThread {
    uint32_t row;
    /// Warps per row.
    uint32_t warps;
    /// Threads per row, and this thread's index among them.
    uint32_t threads, index;
    /// Calls of row_sum so far.
    uint32_t row_sums;

    __device__ __forceinline__ explicit RowThread(uint32_t hidden_size) {
        warps = (hidden_size + ROW_WARP_COLUMNS - 1) / ROW_WARP_COLUMNS;
        const bool one_warp = warps == 1;
        threads = 32 * warps;
        index = one_warp ? threadIdx.x % 32 : threadIdx.x;
        row = one_warp ? blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32 : blockIdx.x;
        row_sums = 0;
    }

    /// On row `row` as lane `lane` of its one warp, in a kernel whose grid has no rows.
    __device__ __forceinline__ RowThread(uint32_t row, uint32_t lane)
        : row(row), warps(1), threads(32), index(lane), row_sums(0) {}

    /// The first column of this thread's vector `i`.
    __device__ __forceinline__ uint32_t column(int i) const { return (index + i * threads) * ROW_VECTOR; }
};

/// The elements of a row that one thread holds.
typedef float RowFragment[ROW_LANE_VECTORS][ROW_VECTOR];

/// A row of x and of y as they are loaded, on their way to the sum.
struct RowAddends {
    uint4 x[ROW_LANE_VECTORS], y[ROW_LANE_VECTORS];

    /// Starts all loads; 0 past hidden_size.
    __device__ __forceinline__ void load(const RowThread &thread, const LayerNormParams &p) {
        const uint16_t *x_row = p.x + static_cast<uint64_t>(thread.row) * p.x_stride;
        const uint16_t *y_row = p.y + static_cast<uint64_t>(thread.row) * p.y_stride;
#pragma unroll
        for (int i = 0; i < ROW_LANE_VECTORS; i++) {
            const uint32_t column = thread.column(i);
            x[i] = y[i] = make_uint4(0, 0, 0, 0);
            if (column < p.hidden_size) {
                x[i] = ld_global_v4_b32(x_row + column);
                y[i] = ld_global_v4_b32(y_row + column);
            }
        }
    }

    template <class T> __device__ __forceinline__ void add(RowFragment &sum) const {
#pragma unroll
        for (int i = 0; i < ROW_LANE_VECTORS; i++) {
            float addend[ROW_VECTOR];
            unpack<T>(x[i], sum[i]);
            unpack<T>(y[i], addend);
#pragma unroll
            for (int j = 0; j < ROW_VECTOR; j++) {
                sum[i][j] += addend[j];
            }
        }
    }
};

/// The factor of column `column` of h for a sequence: weight · scale, or 0 if the sequence does not use the column.
/// Lora is LoraDown, or a struct with the same fields.
template <class Lora>
__device__ __forceinline__ float lora_scale(const Lora &lora, const Mixtures &mixtures, uint32_t sequence,
                                            uint32_t column) {
    if (column >= lora.columns) {
        return 0.0f;
    }
    const LoraColumn owner = lora.column[column];
    const bool padding = owner.slot == LORA_NO_SLOT;
    const float weight = padding ? 0.0f : mixtures.weights[sequence * mixtures.slots + owner.slot];
    // A select, not a product: the contents of an unused slot, a scale of NaN for example, must not matter.
    return weight == 0.0f ? 0.0f : weight * owner.scale;
}

/// Where a row and its h go: to out and h in global memory.
template <class Params> struct GlobalRow {
    const Params &p;
    uint32_t row;
    uint16_t *out;

    __device__ __forceinline__ GlobalRow(const Params &p, uint32_t row)
        : p(p), row(row), out(p.out + static_cast<uint64_t>(row) * p.out_stride) {}

    __device__ __forceinline__ void write(uint32_t column, uint4 v) const { st_global_v4_b32(out + column, v); }

    __device__ __forceinline__ void write_h(uint32_t column, uint16_t v) const {
        const uint64_t start = static_cast<uint64_t>(row) * p.lora.columns;
        st_global_b16(p.lora.h + start + column, v);
    }
};

/// LN(x), and the row's h, each element to `to`, as to GlobalRow. `column_scale` is the lora_scale of this lane's
/// column of h, loaded ahead. x must be 0 past hidden_size.
template <class T, class Params, class Row>
__device__ __forceinline__ void norm_and_write(RowThread &thread, RowFragment &x, const Params &p, uint32_t sequence,
                                               float column_scale, const Row &to) {
    const uint32_t hidden_size = p.hidden_size;
    const float inverse_size = __frcp_rn(static_cast<float>(hidden_size));

    // The mean, then Σ (x - mean)²: a second pass over registers costs little, and E[x²] - E[x]² cancels.
    float sum[1] = {0.0f};
#pragma unroll
    for (int i = 0; i < ROW_LANE_VECTORS; i++) {
#pragma unroll
        for (int j = 0; j < ROW_VECTOR; j++) {
            sum[0] += x[i][j];
        }
    }
    row_sum(sum, thread.warps, thread.row_sums);
    const float mean = sum[0] * inverse_size;

    float squares[1] = {0.0f};
#pragma unroll
    for (int i = 0; i < ROW_LANE_VECTORS; i++) {
        if (thread.column(i) < hidden_size) {
#pragma unroll
            for (int j = 0; j < ROW_VECTOR; j++) {
                x[i][j] -= mean;
                squares[0] += x[i][j] * x[i][j];
            }
        }
    }
    row_sum(squares, thread.warps, thread.row_sums);
    const float rstd = __frcp_rn(__fsqrt_rn(squares[0] * inverse_size + p.eps));

    // The rounded row: it is what the next GEMM reads, so h is computed from it too.
    uint4 rounded[ROW_LANE_VECTORS];
#pragma unroll
    for (int i = 0; i < ROW_LANE_VECTORS; i++) {
        rounded[i] = make_uint4(0, 0, 0, 0);
        const uint32_t column = thread.column(i);
        if (column < hidden_size) {
            float gamma[ROW_VECTOR], beta[ROW_VECTOR];
            unpack<T>(ld_global_nc_v4_b32(p.gamma + column), gamma);
            unpack<T>(ld_global_nc_v4_b32(p.beta + column), beta);
#pragma unroll
            for (int j = 0; j < ROW_VECTOR; j++) {
                x[i][j] = x[i][j] * rstd * gamma[j] + beta[j];
            }
            rounded[i] = pack<T>(x[i]);
            to.write(column, rounded[i]);
        }
    }

    // h, 32 columns at a time; lane l writes column l of them. All warps of the row skip the groups that the row does
    // not use, so an adapter costs only the rows that use it.
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll 1
    for (uint32_t base = 0; base < p.lora.columns; base += 32) {
        if (base > 0) {
            column_scale = lora_scale(p.lora, p.mixtures, sequence, base + lane);
        }
        const uint32_t used = __ballot_sync(0xffffffffu, column_scale != 0.0f);
        float lane_dot = 0.0f;
#pragma unroll 1
        for (uint32_t first = 0; first < 32; first += LORA_GROUP) {
            if ((used >> first & ((1u << LORA_GROUP) - 1)) == 0) {
                continue;
            }
            float dot[LORA_GROUP] = {};
#pragma unroll
            for (int i = 0; i < ROW_LANE_VECTORS; i++) {
                const uint32_t column = thread.column(i);
                if (column < hidden_size) {
                    float row[ROW_VECTOR];
                    unpack<T>(rounded[i], row);
#pragma unroll
                    for (int g = 0; g < LORA_GROUP; g++) {
                        float a[ROW_VECTOR];
                        const uint64_t start = static_cast<uint64_t>(base + first + g) * hidden_size;
                        unpack<T>(ld_global_nc_v4_b32(p.lora.a + start + column), a);
#pragma unroll
                        for (int j = 0; j < ROW_VECTOR; j++) {
                            dot[g] += row[j] * a[j];
                        }
                    }
                }
            }
            row_sum(dot, thread.warps, thread.row_sums);
#pragma unroll
            for (int g = 0; g < LORA_GROUP; g++) {
                lane_dot = lane == first + g ? dot[g] : lane_dot;
            }
        }
        // The select is the mask. The scale is applied in float32, before the one rounding of h.
        const float h = column_scale == 0.0f ? 0.0f : lane_dot * column_scale;
        if (thread.index < 32 && base + lane < p.lora.columns) {
            to.write_h(base + lane, static_cast<uint16_t>(T::pack(h, 0.0f)));
        }
    }
}
