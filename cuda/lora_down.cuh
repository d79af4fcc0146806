// The adapters' down-projection of some rows, by LORA_DOWN_THREADS threads: by itself in lora_down.cu, beside a product of
// the same rows in down_gemm.cu.
//
// Each of 8 warps accumulates every 8th 128 columns of k by MMA, with operands loaded from global memory straight to
// registers; the warps' accumulators are added in order in shared memory.
#pragma once

#include "row.cuh"

constexpr uint32_t kDownWarps = LORA_DOWN_THREADS / 32;
/// Columns of h in one MMA, which make a column tile.
constexpr uint32_t MMA_N = 8;
/// Column tiles that a block accumulates in one pass over k.
constexpr uint32_t kPassTiles = LORA_DOWN_COLUMNS / MMA_N;
/// Column tiles in a panel. Which of them are in use is a bit mask in one word.
constexpr uint32_t kPanelTiles = 32;
/// Columns of k that a warp loads in one step: 16 bytes per lane, four lanes per row. A lane then has eight adjacent
/// elements, where two MMAs expect pairs eight columns apart. Both operands are permuted alike, so the products are the
/// same, and the order of the sum within one MMA is unspecified anyway.
constexpr uint32_t kStepColumns = 32;
/// Steps whose loads are in flight together. Consecutive warps take consecutive runs of this many steps.
constexpr uint32_t kStepsInFlight = 4;

struct DownStorage {
    /// Each warp's accumulators: column tile, row, column.
    float acc[kDownWarps][kPassTiles][LORA_DOWN_ROWS][MMA_N];
    /// The tiles that each warp found in use: two buffers, for alternating panels.
    uint32_t used[2][kDownWarps];
    /// The columns that are used of each tile, likewise.
    uint8_t used_columns[2][kPanelTiles];
};
static_assert(sizeof(DownStorage) == LORA_DOWN_SHARED_BYTES, "the shared memory in params.h");
static_assert(kPassTiles <= kDownWarps, "each column tile has a warp that adds and writes it");

typedef float DownAccumulators[kPassTiles][4];

/// The lora_scale of a row of the batch.
__device__ __forceinline__ float row_lora_scale(const LoraDownParams &p, uint32_t row, uint32_t tokens,
                                                uint32_t column) {
    return row < tokens ? lora_scale(p, p.mixtures, p.mixtures.sequence_of_row[row], column) : 0.0f;
}

/// The buffer for the panel that begins at column `base`.
__device__ __forceinline__ uint32_t panel_buffer(uint32_t base) { return base / (kPanelTiles * MMA_N) & 1; }

/// The mask of the tiles that any of the rows uses, in the panel that begins at column `base`.
template <class Threads>
__device__ __forceinline__ uint32_t used_tiles(const LoraDownParams &p, uint32_t tokens, uint32_t first_row,
                                               uint32_t base, DownStorage &shared) {
    const uint32_t warp = Threads::index() / 32, lane = threadIdx.x % 32;
    const uint32_t buffer = panel_buffer(base);
    uint32_t mask = 0;
    for (uint32_t tile = warp; tile < kPanelTiles && base + tile * MMA_N < p.columns; tile += kDownWarps) {
        bool used = false;
#pragma unroll
        for (uint32_t row = lane / MMA_N; row < LORA_DOWN_ROWS; row += 32 / MMA_N) {
            const uint32_t column = base + tile * MMA_N + lane % MMA_N;
            used |= row_lora_scale(p, first_row + row, tokens, column) != 0.0f;
        }
        // Of each row group its columns, in a byte.
        const uint32_t lanes = __ballot_sync(0xffffffffu, used), halves = lanes | lanes >> 16;
        mask |= lanes != 0 ? 1u << tile : 0;
        shared.used_columns[buffer][tile] = static_cast<uint8_t>(halves | halves >> 8);
    }
    shared.used[buffer][warp] = mask;
    Threads::sync();
    return __reduce_or_sync(0xffffffffu, shared.used[buffer][lane % kDownWarps]);
}

/// The vector of x from column `k` on, or zeros if `k` is past the last vector, which begins at `last`.
__device__ __forceinline__ uint4 load_x(const uint16_t *row, uint32_t k, uint32_t last) {
    const uint4 v = ld_global_cg_v4_b32(row + min(k, last));
    return make_uint4(k > last ? 0 : v.x, k > last ? 0 : v.y, k > last ? 0 : v.z, k > last ? 0 : v.w);
}

/// Adds this warp's part of x Aᵀ to `acc` for the first TILES tiles of the mask `tiles`; if there are fewer, the last
/// one is repeated. Of A only rows that are used are read: others of a tile are replaced by its first one that is.
template <class T, class Threads, int TILES>
__device__ __forceinline__ void accumulate(const LoraDownParams &p, uint32_t tokens, uint32_t first_row, uint32_t base,
                                           uint32_t tiles, const DownStorage &shared, DownAccumulators &acc) {
    const uint32_t warp = Threads::index() / 32, lane = threadIdx.x % 32;
    // Rows past the end are clamped to the last row, and columns past k to the last vector: results of those rows are
    // not written, and x is set to 0 in those columns.
    const uint32_t row = first_row + lane / 4, last = p.k - ROW_VECTOR;
    const uint16_t *x_low = p.x + static_cast<uint64_t>(min(row, tokens - 1)) * p.x_stride;
    const uint16_t *x_high = p.x + static_cast<uint64_t>(min(row + 8, tokens - 1)) * p.x_stride;
    const uint16_t *a[TILES];
    uint32_t tile = 0;
#pragma unroll
    for (int j = 0; j < TILES; j++) {
        tile = tiles == 0 ? tile : __ffs(tiles) - 1;
        tiles &= tiles - 1;
        const uint32_t used = shared.used_columns[panel_buffer(base)][tile];
        const uint32_t column = (used >> lane / 4 & 1) != 0 ? lane / 4 : __ffs(used) - 1;
        a[j] = p.a + static_cast<uint64_t>(base + tile * MMA_N + column) * p.k;
    }
#pragma unroll 1
    for (uint32_t first = warp * kStepsInFlight * kStepColumns; first < p.k;
         first += kDownWarps * kStepsInFlight * kStepColumns) {
        const uint32_t k = first + lane % 4 * ROW_VECTOR;
        // Rows l / 4 and l / 4 + 8 of the MMA.
        uint4 low[kStepsInFlight], high[kStepsInFlight];
#pragma unroll
        for (uint32_t i = 0; i < kStepsInFlight; i++) {
            low[i] = load_x(x_low, k + i * kStepColumns, last);
            high[i] = load_x(x_high, k + i * kStepColumns, last);
        }
#pragma unroll
        for (uint32_t i = 0; i < kStepsInFlight; i++) {
            const uint32_t x0[4] = {low[i].x, high[i].x, low[i].y, high[i].y};
            const uint32_t x1[4] = {low[i].z, high[i].z, low[i].w, high[i].w};
#pragma unroll
            for (int j = 0; j < TILES; j++) {
                const uint4 a_vector = ld_global_nc_v4_b32(a[j] + min(k + i * kStepColumns, last));
                T::mma(acc[j], x0, a_vector.x, a_vector.y);
                T::mma(acc[j], x1, a_vector.z, a_vector.w);
            }
        }
    }
}

/// h in global memory.
struct GlobalH {
    const LoraDownParams &p;

    __device__ __forceinline__ uint16_t *at(uint32_t row, uint32_t column) const {
        return p.h + static_cast<uint64_t>(row) * p.columns + column;
    }
    __device__ __forceinline__ void write(uint32_t row, uint32_t column, uint2 v) const {
        st_global_v2_b32(at(row, column), v);
    }
    __device__ __forceinline__ void write_zeros(uint32_t row, uint32_t column) const {
        st_global_v4_b32(at(row, column), make_uint4(0, 0, 0, 0));
    }
};

/// h of the rows from `first_row` on, LORA_DOWN_ROWS of them, with this thread as one of Threads: their index(), and the
/// sync() of all of them. Where h goes is up to `h_rows`: write() has four columns of a row, write_zeros() the eight of a
/// tile that none of the rows uses. What was written can be read after another barrier.
template <class T, class Threads, class Rows>
__device__ __forceinline__ void down_project(const LoraDownParams &p, uint32_t tokens, uint32_t first_row,
                                             DownStorage &shared, const Rows &h_rows) {
    const uint32_t warp = Threads::index() / 32, lane = threadIdx.x % 32;
    for (uint32_t base = 0; base < p.columns; base += kPanelTiles * MMA_N) {
        uint32_t tiles = used_tiles<Threads>(p, tokens, first_row, base, shared);
        // Unused tiles are zeros.
        for (uint32_t i = Threads::index(); i < LORA_DOWN_ROWS * kPanelTiles; i += LORA_DOWN_THREADS) {
            const uint32_t row = first_row + i / kPanelTiles, tile = i % kPanelTiles, column = base + tile * MMA_N;
            if (row < tokens && column < p.columns && (tiles >> tile & 1) == 0) {
                h_rows.write_zeros(row, column);
            }
        }
        while (tiles != 0) {
            DownAccumulators acc = {};
            const int left = __popc(tiles);
            if (left == 1) {
                accumulate<T, Threads, 1>(p, tokens, first_row, base, tiles, shared, acc);
            } else if (left == 2) {
                accumulate<T, Threads, 2>(p, tokens, first_row, base, tiles, shared, acc);
            } else {
                accumulate<T, Threads, kPassTiles>(p, tokens, first_row, base, tiles, shared, acc);
            }
#pragma unroll
            for (uint32_t j = 0; j < kPassTiles; j++) {
                float(&d)[LORA_DOWN_ROWS][MMA_N] = shared.acc[warp][j];
                *reinterpret_cast<float2 *>(&d[lane / 4][2 * (lane % 4)]) = make_float2(acc[j][0], acc[j][1]);
                *reinterpret_cast<float2 *>(&d[lane / 4 + 8][2 * (lane % 4)]) = make_float2(acc[j][2], acc[j][3]);
            }
            Threads::sync();
            // Warp j adds and writes the j-th of the tiles in use: two lanes per row, four columns each. Tiles of this
            // pass leave the mask; `warp_tiles` keeps the mask from this warp's tile on.
            uint32_t warp_tiles = 0;
#pragma unroll
            for (uint32_t j = 0; j < kPassTiles; j++) {
                warp_tiles = j == warp ? tiles : warp_tiles;
                tiles &= tiles - 1;
            }
            const uint32_t row = first_row + lane / 2;
            if (warp_tiles != 0 && row < tokens) {
                const uint32_t column = base + (__ffs(warp_tiles) - 1) * MMA_N + lane % 2 * 4;
                float h[4] = {};
#pragma unroll
                for (uint32_t w = 0; w < kDownWarps; w++) {
                    const float4 part = *reinterpret_cast<const float4 *>(&shared.acc[w][warp][lane / 2][lane % 2 * 4]);
                    h[0] += part.x;
                    h[1] += part.y;
                    h[2] += part.z;
                    h[3] += part.w;
                }
#pragma unroll
                for (uint32_t i = 0; i < 4; i++) {
                    const float scale = row_lora_scale(p, row, tokens, column + i);
                    h[i] = scale == 0.0f ? 0.0f : h[i] * scale; // The select is the mask: a NaN in h does not pass it.
                }
                h_rows.write(row, column, make_uint2(T::pack(h[0], h[1]), T::pack(h[2], h[3])));
            }
            Threads::sync(); // The accumulators are read before the next pass overwrites them.
        }
    }
}
