// h[t, c] = (x[t]·A[c])·(weight·scale), 0 where row t does not use column c: x [tokens, k], A [columns, k], h [tokens, columns]; 16-bit, sums in float32.
// Grid ⌈tokens of the bucket / LORA_DOWN_ROWS⌉; a block of LORA_DOWN_THREADS takes whole rows: eight columns at a time, those that none of its rows uses not at all.
// Each warp sums every 8th 128 of k by MMA, its operands from global memory straight to registers; the warps' sums are added in order in shared memory, LORA_DOWN_SHARED_BYTES.
// Bound by bytes: 2·k + 2·columns per token (A from L1, where the blocks of a multiprocessor share it, or L2), 2·k FLOP per column used; 32 KB of x on their way per block.
// Needs pointers and strides aligned to 16 bytes; rows past tokens are never written, nor is x past them read.
// gate: registers <= 128, stack = 0, static shared = 0, blocks >= 2, instructions per mma <= 6.3
#include "row.cuh"

namespace {

constexpr uint32_t WARPS = LORA_DOWN_THREADS / 32;
/// Columns of one MMA, and how many of them a pass takes.
constexpr uint32_t OCTET = 8, OCTETS = LORA_DOWN_COLUMNS / OCTET;
/// Octets of which is known at a time whether they are in use: the bits of a word.
constexpr uint32_t PANEL = 32;
/// Numbers of k in one step of a warp: 16 bytes a lane, four lanes a row. So a lane has eight numbers in a row where
/// two MMAs want pairs eight apart; but both operands are read alike, and what of k an MMA adds first is its own affair.
constexpr uint32_t STEP = 32;
/// Steps whose loads are on their way together. The warps take as many in turn.
constexpr uint32_t DEPTH = 4;

struct Plan {
    /// Each warp's sums, as its MMAs have them: octet, row, column.
    float sums[WARPS][OCTETS][LORA_DOWN_ROWS][OCTET];
    /// The octets that each warp found in use; two sets, for panels in turn.
    uint32_t used[2][WARPS];
};
static_assert(sizeof(Plan) == LORA_DOWN_SHARED_BYTES, "the plan of smem");
static_assert(OCTETS <= WARPS, "a warp writes an octet");

typedef float Sums[OCTETS][4];

/// lora_factor of a row of the batch.
__device__ __forceinline__ float factor(const LoraDownParams &p, uint32_t row, uint32_t tokens, uint32_t column) {
    return row < tokens ? lora_factor(p, p.mixtures, p.mixtures.sequence_of_row[row], column) : 0.0f;
}

/// Which octets of the panel that begins at column `base` any row of the block uses.
__device__ __forceinline__ uint32_t used_octets(const LoraDownParams &p, uint32_t tokens, uint32_t base, Plan &plan) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint32_t bits = 0;
    for (uint32_t octet = warp; octet < PANEL && base + octet * OCTET < p.columns; octet += WARPS) {
        bool used = false;
#pragma unroll
        for (uint32_t row = lane / OCTET; row < LORA_DOWN_ROWS; row += 32 / OCTET) {
            used |= factor(p, blockIdx.x * LORA_DOWN_ROWS + row, tokens, base + octet * OCTET + lane % OCTET) != 0.0f;
        }
        bits |= __any_sync(0xffffffffu, used) ? 1u << octet : 0;
    }
    uint32_t *set = plan.used[base / (PANEL * OCTET) & 1];
    set[warp] = bits;
    __syncthreads();
    return __reduce_or_sync(0xffffffffu, set[lane % WARPS]);
}

/// Numbers from `k` on, or zeros past the last ones.
__device__ __forceinline__ uint4 load_x(const uint16_t *row, uint32_t k, uint32_t last) {
    const uint4 v = ld_global_cg_v4_b32(row + min(k, last));
    return make_uint4(k > last ? 0 : v.x, k > last ? 0 : v.y, k > last ? 0 : v.z, k > last ? 0 : v.w);
}

/// This warp's share of x Aᵀ for the first N octets of `octets`; if there are fewer, the last one again.
template <class T, int N>
__device__ __forceinline__ void accumulate(const LoraDownParams &p, uint32_t tokens, uint32_t base, uint32_t octets, Sums &sums) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    // The last row stands in for those past it, and the last numbers of k for those past them: what becomes of the former
    // is not written, and x is 0 for the latter.
    const uint32_t row = blockIdx.x * LORA_DOWN_ROWS + lane / 4, last = p.k - ROW_VECTOR;
    const uint16_t *low = p.x + static_cast<uint64_t>(min(row, tokens - 1)) * p.x_stride;
    const uint16_t *high = p.x + static_cast<uint64_t>(min(row + 8, tokens - 1)) * p.x_stride;
    const uint16_t *a[N];
    uint32_t octet = 0;
#pragma unroll
    for (int j = 0; j < N; j++) {
        octet = octets == 0 ? octet : __ffs(octets) - 1;
        octets &= octets - 1;
        a[j] = p.a + static_cast<uint64_t>(base + octet * OCTET + lane / 4) * p.k;
    }
#pragma unroll 1
    for (uint32_t first = warp * DEPTH * STEP; first < p.k; first += WARPS * DEPTH * STEP) {
        const uint32_t mine = first + lane % 4 * ROW_VECTOR;
        uint4 top[DEPTH], bottom[DEPTH];
#pragma unroll
        for (uint32_t i = 0; i < DEPTH; i++) {
            top[i] = load_x(low, mine + i * STEP, last);
            bottom[i] = load_x(high, mine + i * STEP, last);
        }
#pragma unroll
        for (uint32_t i = 0; i < DEPTH; i++) {
            const uint32_t front[4] = {top[i].x, bottom[i].x, top[i].y, bottom[i].y};
            const uint32_t back[4] = {top[i].z, bottom[i].z, top[i].w, bottom[i].w};
#pragma unroll
            for (int j = 0; j < N; j++) {
                const uint4 column = ld_global_nc_v4_b32(a[j] + min(mine + i * STEP, last));
                T::mma(sums[j], front, column.x, column.y);
                T::mma(sums[j], back, column.z, column.w);
            }
        }
    }
}

template <class T> __device__ __forceinline__ void lora_down(const LoraDownParams &p) {
    Plan &plan = *reinterpret_cast<Plan *>(smem);
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t tokens = *p.tokens, first_row = blockIdx.x * LORA_DOWN_ROWS;
    if (first_row >= tokens) {
        return;
    }
    for (uint32_t base = 0; base < p.columns; base += PANEL * OCTET) {
        uint32_t octets = used_octets(p, tokens, base, plan);
        for (uint32_t i = threadIdx.x; i < LORA_DOWN_ROWS * PANEL; i += LORA_DOWN_THREADS) {
            const uint32_t row = first_row + i / PANEL, octet = i % PANEL, column = base + octet * OCTET;
            if (row < tokens && column < p.columns && (octets >> octet & 1) == 0) {
                st_global_v4_b32(p.h + static_cast<uint64_t>(row) * p.columns + column, make_uint4(0, 0, 0, 0));
            }
        }
        while (octets != 0) {
            Sums sums = {};
            const int left = __popc(octets);
            if (left == 1) {
                accumulate<T, 1>(p, tokens, base, octets, sums);
            } else if (left == 2) {
                accumulate<T, 2>(p, tokens, base, octets, sums);
            } else {
                accumulate<T, OCTETS>(p, tokens, base, octets, sums);
            }
#pragma unroll
            for (uint32_t j = 0; j < OCTETS; j++) {
                float(&of)[LORA_DOWN_ROWS][OCTET] = plan.sums[warp][j];
                *reinterpret_cast<float2 *>(&of[lane / 4][2 * (lane % 4)]) = make_float2(sums[j][0], sums[j][1]);
                *reinterpret_cast<float2 *>(&of[lane / 4 + 8][2 * (lane % 4)]) = make_float2(sums[j][2], sums[j][3]);
            }
            __syncthreads();
            // Warp j now takes the octet that is number j of those in use: two lanes a row, four columns each.
            uint32_t mine = 0;
#pragma unroll
            for (uint32_t j = 0; j < OCTETS; j++) {
                mine = j == warp ? octets : mine;
                octets &= octets - 1;
            }
            const uint32_t row = first_row + lane / 2;
            if (mine != 0 && row < tokens) {
                const uint32_t column = base + (__ffs(mine) - 1) * OCTET + lane % 2 * 4;
                float h[4] = {};
#pragma unroll
                for (uint32_t w = 0; w < WARPS; w++) {
                    const float4 part = *reinterpret_cast<const float4 *>(&plan.sums[w][warp][lane / 2][lane % 2 * 4]);
                    h[0] += part.x;
                    h[1] += part.y;
                    h[2] += part.z;
                    h[3] += part.w;
                }
#pragma unroll
                for (uint32_t i = 0; i < 4; i++) {
                    const float by = factor(p, row, tokens, column + i);
                    h[i] = by == 0.0f ? 0.0f : h[i] * by; // The mask is the select: what h is there does not matter.
                }
                st_global_v2_b32(p.h + static_cast<uint64_t>(row) * p.columns + column,
                                 make_uint2(T::pack(h[0], h[1]), T::pack(h[2], h[3])));
            }
            __syncthreads(); // The sums are read before the next pass writes its own.
        }
    }
}

} // namespace

extern "C" __global__ void __launch_bounds__(LORA_DOWN_THREADS, 2) lora_down_bf16(const __grid_constant__ LoraDownParams p) {
    lora_down<Bf16>(p);
}

extern "C" __global__ void __launch_bounds__(LORA_DOWN_THREADS, 2) lora_down_f16(const __grid_constant__ LoraDownParams p) {
    lora_down<F16>(p);
}
