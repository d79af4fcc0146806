// computes: h[t, c] = (x[t]·A[c])·(weight·scale), 0 where row t does not use column c. x [tokens, k], A [columns, k],
//     h [tokens, columns]; all 16-bit, accumulated in float32.
// grid: ⌈tokens of the bucket / LORA_DOWN_ROWS⌉. A block takes whole rows, in column tiles of MMA_N = 8, and skips the
//     tiles that none of its rows uses.
// block and shared memory: LORA_DOWN_THREADS; each of 8 warps accumulates every 8th 128 columns of k by MMA, with
//     operands loaded from global memory straight to registers. The warps' accumulators are added in order in shared
//     memory, LORA_DOWN_SHARED_BYTES.
// bound by: bytes, 2·k + 2·columns per token (A from L1, where the blocks of a multiprocessor share it, or L2), with
//     32 KB of x in flight per block. 2·k FLOP per token and column used.
// requires: pointers and strides aligned to 16 bytes. Rows past tokens are neither read nor written.
// gates: registers <= 128, stack = 0, static shared = 0, blocks >= 2, instructions per mma <= 6.3
#include "row.cuh"

namespace {

constexpr uint32_t kWarps = LORA_DOWN_THREADS / 32;
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

struct SharedStorage {
    /// Each warp's accumulators: column tile, row, column.
    float acc[kWarps][kPassTiles][LORA_DOWN_ROWS][MMA_N];
    /// The tiles that each warp found in use: two buffers, for alternating panels.
    uint32_t used[2][kWarps];
};
static_assert(sizeof(SharedStorage) == LORA_DOWN_SHARED_BYTES, "the shared memory in params.h");
static_assert(kPassTiles <= kWarps, "each column tile has a warp that adds and writes it");

typedef float Accumulators[kPassTiles][4];

/// The lora_scale of a row of the batch.
__device__ __forceinline__ float row_lora_scale(const LoraDownParams &p, uint32_t row, uint32_t tokens,
                                                uint32_t column) {
    return row < tokens ? lora_scale(p, p.mixtures, p.mixtures.sequence_of_row[row], column) : 0.0f;
}

/// The mask of the tiles that any row of the block uses, in the panel that begins at column `base`.
__device__ __forceinline__ uint32_t used_tiles(const LoraDownParams &p, uint32_t tokens, uint32_t base,
                                               SharedStorage &shared) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint32_t mask = 0;
    for (uint32_t tile = warp; tile < kPanelTiles && base + tile * MMA_N < p.columns; tile += kWarps) {
        bool used = false;
#pragma unroll
        for (uint32_t row = lane / MMA_N; row < LORA_DOWN_ROWS; row += 32 / MMA_N) {
            const uint32_t column = base + tile * MMA_N + lane % MMA_N;
            used |= row_lora_scale(p, blockIdx.x * LORA_DOWN_ROWS + row, tokens, column) != 0.0f;
        }
        mask |= __any_sync(0xffffffffu, used) ? 1u << tile : 0;
    }
    uint32_t *buffer = shared.used[base / (kPanelTiles * MMA_N) & 1];
    buffer[warp] = mask;
    __syncthreads();
    return __reduce_or_sync(0xffffffffu, buffer[lane % kWarps]);
}

/// The vector of x from column `k` on, or zeros if `k` is past the last vector, which begins at `last`.
__device__ __forceinline__ uint4 load_x(const uint16_t *row, uint32_t k, uint32_t last) {
    const uint4 v = ld_global_cg_v4_b32(row + min(k, last));
    return make_uint4(k > last ? 0 : v.x, k > last ? 0 : v.y, k > last ? 0 : v.z, k > last ? 0 : v.w);
}

/// Adds this warp's part of x Aᵀ to `acc` for the first TILES tiles of the mask `tiles`; if there are fewer, the last
/// one is repeated.
template <class T, int TILES>
__device__ __forceinline__ void accumulate(const LoraDownParams &p, uint32_t tokens, uint32_t base, uint32_t tiles,
                                           Accumulators &acc) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    // Rows past the end are clamped to the last row, and columns past k to the last vector: results of those rows are
    // not written, and x is set to 0 in those columns.
    const uint32_t row = blockIdx.x * LORA_DOWN_ROWS + lane / 4, last = p.k - ROW_VECTOR;
    const uint16_t *x_low = p.x + static_cast<uint64_t>(min(row, tokens - 1)) * p.x_stride;
    const uint16_t *x_high = p.x + static_cast<uint64_t>(min(row + 8, tokens - 1)) * p.x_stride;
    const uint16_t *a[TILES];
    uint32_t tile = 0;
#pragma unroll
    for (int j = 0; j < TILES; j++) {
        tile = tiles == 0 ? tile : __ffs(tiles) - 1;
        tiles &= tiles - 1;
        a[j] = p.a + static_cast<uint64_t>(base + tile * MMA_N + lane / 4) * p.k;
    }
#pragma unroll 1
    for (uint32_t first = warp * kStepsInFlight * kStepColumns; first < p.k;
         first += kWarps * kStepsInFlight * kStepColumns) {
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

template <class T> __device__ __forceinline__ void lora_down(const LoraDownParams &p) {
    griddepcontrol_launch_dependents();
    SharedStorage &shared = *reinterpret_cast<SharedStorage *>(smem);
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t tokens = *p.tokens, first_row = blockIdx.x * LORA_DOWN_ROWS;
    griddepcontrol_wait();
    if (first_row >= tokens) {
        return;
    }
    for (uint32_t base = 0; base < p.columns; base += kPanelTiles * MMA_N) {
        uint32_t tiles = used_tiles(p, tokens, base, shared);
        // Unused tiles are zeros.
        for (uint32_t i = threadIdx.x; i < LORA_DOWN_ROWS * kPanelTiles; i += LORA_DOWN_THREADS) {
            const uint32_t row = first_row + i / kPanelTiles, tile = i % kPanelTiles, column = base + tile * MMA_N;
            if (row < tokens && column < p.columns && (tiles >> tile & 1) == 0) {
                st_global_v4_b32(p.h + static_cast<uint64_t>(row) * p.columns + column, make_uint4(0, 0, 0, 0));
            }
        }
        while (tiles != 0) {
            Accumulators acc = {};
            const int left = __popc(tiles);
            if (left == 1) {
                accumulate<T, 1>(p, tokens, base, tiles, acc);
            } else if (left == 2) {
                accumulate<T, 2>(p, tokens, base, tiles, acc);
            } else {
                accumulate<T, kPassTiles>(p, tokens, base, tiles, acc);
            }
#pragma unroll
            for (uint32_t j = 0; j < kPassTiles; j++) {
                float(&d)[LORA_DOWN_ROWS][MMA_N] = shared.acc[warp][j];
                *reinterpret_cast<float2 *>(&d[lane / 4][2 * (lane % 4)]) = make_float2(acc[j][0], acc[j][1]);
                *reinterpret_cast<float2 *>(&d[lane / 4 + 8][2 * (lane % 4)]) = make_float2(acc[j][2], acc[j][3]);
            }
            __syncthreads();
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
                for (uint32_t w = 0; w < kWarps; w++) {
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
                st_global_v2_b32(p.h + static_cast<uint64_t>(row) * p.columns + column,
                                 make_uint2(T::pack(h[0], h[1]), T::pack(h[2], h[3])));
            }
            __syncthreads(); // The accumulators are read before the next pass overwrites them.
        }
    }
}

} // namespace

extern "C" __global__ void __launch_bounds__(LORA_DOWN_THREADS, 2)
lora_down_bf16(const __grid_constant__ LoraDownParams p) {
    lora_down<Bf16>(p);
}

extern "C" __global__ void __launch_bounds__(LORA_DOWN_THREADS, 2)
lora_down_f16(const __grid_constant__ LoraDownParams p) {
    lora_down<F16>(p);
}
