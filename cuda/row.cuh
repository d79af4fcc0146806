// A row in registers: what embed and layernorm do alike once they have summed it.
//
// A row of hidden_size numbers belongs to `warps` = ⌈hidden_size / 1024⌉ warps, lane by lane in 16-byte
// vectors: thread t holds vectors t, t + threads, t + 2·threads, t + 3·threads, as far as the row
// reaches. One warp up to 1024 columns, because then statistics and down-projections need shuffles
// alone: no barrier, no shared memory, and rows of a block run apart. More columns per warp would take more
// registers than leave two blocks of eight warps on a multiprocessor, so wider rows take more warps, and a block
// to themselves. The order of every sum follows from hidden_size, never from blockDim.
#pragma once

#include "dtype.cuh"
#include "params.h"
#include "reduce.cuh"

static_assert(ROW_WARP_COLUMNS == 32 * ROW_LANE_VECTORS * ROW_VECTOR, "a warp's share of a row");
static_assert(ROW_MAX_HIDDEN == ROW_MAX_WARPS * ROW_WARP_COLUMNS, "a block's share of a row");

/// Where this thread is. The block holds blockDim.x / 32 rows of one warp, or one row of all its warps.
struct Place {
    uint32_t row;
    /// Warps per row.
    uint32_t warps;
    /// Threads per row, and this one's number among them.
    uint32_t threads, thread;
    /// Calls of row_sum so far.
    uint32_t turn;

    __device__ __forceinline__ explicit Place(uint32_t hidden_size) {
        warps = (hidden_size + ROW_WARP_COLUMNS - 1) / ROW_WARP_COLUMNS;
        const bool alone = warps == 1;
        threads = 32 * warps;
        thread = alone ? threadIdx.x % 32 : threadIdx.x;
        row = alone ? blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32 : blockIdx.x;
        turn = 0;
    }

    /// The first column of this thread's vector `i`.
    __device__ __forceinline__ uint32_t column(int i) const { return (thread + i * threads) * ROW_VECTOR; }
};

/// Numbers of a row that one thread holds.
typedef float Share[ROW_LANE_VECTORS][ROW_VECTOR];

/// The factor of column `column` for a sequence: weight · scale, 0 where the row does not use it. Lora is LoraDown, or
/// has the same fields.
template <class Lora>
__device__ __forceinline__ float lora_factor(const Lora &lora, const Mixtures &mixtures, uint32_t sequence, uint32_t column) {
    if (column >= lora.columns) {
        return 0.0f;
    }
    const LoraColumn of = lora.column[column];
    const float weight = of.slot == LORA_NO_SLOT ? 0.0f : mixtures.weights[sequence * mixtures.slots + of.slot];
    // A select, not a product: what an unused slot holds, a scale of NaN perhaps, must not matter.
    return weight == 0.0f ? 0.0f : weight * of.scale;
}

/// out[row] = LN(x), and h of it. `factor` is lora_factor for this lane's column, loaded ahead.
/// x past hidden_size must be 0.
template <class T, class Params>
__device__ __forceinline__ void norm_and_write(Place &place, Share &x, const Params &p, uint32_t sequence, float factor) {
    const uint32_t hidden_size = p.hidden_size;
    const float inverse = __frcp_rn(static_cast<float>(hidden_size));

    // Mean, then Σ (x - mean)²: two passes over registers cost little, and E[x²] - E[x]² cancels.
    float sum[1] = {0.0f};
#pragma unroll
    for (int i = 0; i < ROW_LANE_VECTORS; i++) {
#pragma unroll
        for (int j = 0; j < ROW_VECTOR; j++) {
            sum[0] += x[i][j];
        }
    }
    row_sum(sum, place.warps, place.turn);
    const float mean = sum[0] * inverse;

    float square[1] = {0.0f};
#pragma unroll
    for (int i = 0; i < ROW_LANE_VECTORS; i++) {
        if (place.column(i) < hidden_size) {
#pragma unroll
            for (int j = 0; j < ROW_VECTOR; j++) {
                x[i][j] -= mean;
                square[0] += x[i][j] * x[i][j];
            }
        }
    }
    row_sum(square, place.warps, place.turn);
    const float scale = __frcp_rn(__fsqrt_rn(square[0] * inverse + p.eps));

    uint16_t *out = p.out + static_cast<uint64_t>(place.row) * p.out_stride;
    // The rounded row: what the next product reads, and so what h is made of.
    uint4 rounded[ROW_LANE_VECTORS];
#pragma unroll
    for (int i = 0; i < ROW_LANE_VECTORS; i++) {
        rounded[i] = make_uint4(0, 0, 0, 0);
        const uint32_t column = place.column(i);
        if (column < hidden_size) {
            float gamma[ROW_VECTOR], beta[ROW_VECTOR];
            unpack<T>(ld_global_nc_v4_b32(p.gamma + column), gamma);
            unpack<T>(ld_global_nc_v4_b32(p.beta + column), beta);
#pragma unroll
            for (int j = 0; j < ROW_VECTOR; j++) {
                x[i][j] = x[i][j] * scale * gamma[j] + beta[j];
            }
            rounded[i] = pack<T>(x[i]);
            st_global_v4_b32(out + column, rounded[i]);
        }
    }

    // h, 32 columns at a time: lane l ends with column l. Groups that this row does not use are
    // skipped by the whole row alike, so an adapter costs the rows that use it.
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll 1
    for (uint32_t base = 0; base < p.lora.columns; base += 32) {
        if (base > 0) {
            factor = lora_factor(p.lora, p.mixtures, sequence, base + lane);
        }
        const uint32_t used = __ballot_sync(0xffffffffu, factor != 0.0f);
        float mine = 0.0f;
#pragma unroll 1
        for (uint32_t first = 0; first < 32; first += LORA_GROUP) {
            if ((used >> first & ((1u << LORA_GROUP) - 1)) == 0) {
                continue;
            }
            float dot[LORA_GROUP] = {};
#pragma unroll
            for (int i = 0; i < ROW_LANE_VECTORS; i++) {
                const uint32_t column = place.column(i);
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
            row_sum(dot, place.warps, place.turn);
#pragma unroll
            for (int g = 0; g < LORA_GROUP; g++) {
                mine = lane == first + g ? dot[g] : mine;
            }
        }
        // The mask is the select; the scale meets h in float32, before its one rounding.
        const float h = factor == 0.0f ? 0.0f : mine * factor;
        if (place.thread < 32 && base + lane < p.lora.columns) {
            const uint64_t start = static_cast<uint64_t>(place.row) * p.lora.columns;
            st_global_b16(p.lora.h + start + base + lane, static_cast<uint16_t>(T::pack(h, 0.0f)));
        }
    }
}
