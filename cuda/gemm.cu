// out = f(x Wᵀ + h Bᵀ + bias + residual): [tokens, n] of x [tokens, k], W [n, k], h [tokens, columns], B [n, columns], 16-bit, sums in float32; f is the identity, GELU, or RoPE of q and k.
// Grid (⌈n / columns⌉, ⌈rows of the bucket / rows⌉) of the variant's tile: large 128x128, medium 64x64, small64 32x32, small16 16x16; no split of k, so all give the same bits.
// Warps alike, four (small16: two), 64x64 to 16x8 of the tile each; shared memory is stages of x and W (gemm.cuh), then the tile in float32 (epilogue.cuh).
// Bound by the tensor cores, 2·n·(k + columns) FLOP per token; up to some 200 tokens by bytes, 2·n·(k + columns) of weights and, in every block, the tile's rows of x.
// Needs pointers and strides aligned to 16 bytes; rows past tokens and columns past n, k and columns are neither read nor written.
// gate: registers <= 255, stack = 0, static shared = 0, blocks >= 2
// gate large: instructions per mma <= 1.95, mma per ldsm >= 4
// gate medium: instructions per mma <= 2.9, mma per ldsm >= 2
// gate small64: instructions per mma <= 6.5, mma per ldsm >= 1
// gate small16: instructions per mma <= 12.3, mma per ldsm >= 0.5
// gate sm_89: blocks >= 1
#include "epilogue.cuh"

// Two blocks on a multiprocessor of 164 KB: one's epilogue beside the other's products.
typedef Tile<GEMM_LARGE_ROWS, GEMM_LARGE_COLUMNS, 64, 64, 32, 4> Large;
// Two blocks where there are 100 KB, three or four elsewhere.
typedef Tile<GEMM_MEDIUM_ROWS, GEMM_MEDIUM_COLUMNS, 32, 32, 64, 3> Medium;
// 28 KB of weights under way in each block, and as much of x; 64 blocks for n = 1024 and 64 tokens.
typedef Tile<GEMM_SMALL64_ROWS, GEMM_SMALL64_COLUMNS, 16, 16, 64, 8> Small64;
// 30 KB of weights under way in each block; 64 blocks for n = 1024.
typedef Tile<GEMM_SMALL16_ROWS, GEMM_SMALL16_COLUMNS, 16, 8, 64, 16> Small16;

template <class T, class Tile> __device__ __forceinline__ void gemm(const GemmParams &p) {
    const uint32_t tokens = *p.tokens;
    const uint32_t first = blockIdx.y * Tile::Rows;
    if (first >= tokens) {
        return;
    }
    const ColumnRuns<Tile> columns(p);
    const Eight<T, Tile> eight(p, columns);
    const uint32_t start = threadIdx.x / eight.RowVectors;
    const uint32_t end = eight.column < p.n ? min(Tile::Rows, tokens - first) : 0;

    // A thread of a small tile has one row at most, and registers to spare: what it adds is read beside the product, not
    // after it.
    constexpr bool Early = Tile::Rows <= eight.PassRows;
    Addends more;
    if (Early && start < end) {
        eight.load(more, first + start);
    }
    Sums<Tile> sums = {};
    multiply<T, Tile>(p, columns, tokens, sums);
    Staged<Tile>::store(sums);
    __syncthreads();
    if (p.rope.table != nullptr && p.residual != nullptr) {
#pragma unroll 1
        for (uint32_t row = start; row < end; row += eight.PassRows) {
            eight.add_residual(first + row, row);
        }
        __syncthreads();
    }
#pragma unroll 1
    for (uint32_t row = start; row < end; row += eight.PassRows) {
        if (!Early) {
            eight.load(more, first + row);
        }
        eight.finish(more, first + row, row);
    }
}

template <class Tile, int Threads, int Shared> struct Fits {
    static_assert(Threads == Tile::Threads, "threads of params.h");
    static_assert(Shared >= Tile::PipelineBytes && Shared >= Staged<Tile>::Bytes, "shared memory of params.h");
};
template struct Fits<Large, GEMM_LARGE_THREADS, GEMM_LARGE_SHARED>;
template struct Fits<Medium, GEMM_MEDIUM_THREADS, GEMM_MEDIUM_SHARED>;
template struct Fits<Small64, GEMM_SMALL64_THREADS, GEMM_SMALL64_SHARED>;
template struct Fits<Small16, GEMM_SMALL16_THREADS, GEMM_SMALL16_SHARED>;

extern "C" __global__ void __launch_bounds__(GEMM_LARGE_THREADS, 2)
gemm_bf16_large(const __grid_constant__ GemmParams p) {
    gemm<Bf16, Large>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_LARGE_THREADS, 2)
gemm_f16_large(const __grid_constant__ GemmParams p) {
    gemm<F16, Large>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_MEDIUM_THREADS, 3)
gemm_bf16_medium(const __grid_constant__ GemmParams p) {
    gemm<Bf16, Medium>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_MEDIUM_THREADS, 3)
gemm_f16_medium(const __grid_constant__ GemmParams p) {
    gemm<F16, Medium>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_SMALL64_THREADS, 2)
gemm_bf16_small64(const __grid_constant__ GemmParams p) {
    gemm<Bf16, Small64>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_SMALL64_THREADS, 2)
gemm_f16_small64(const __grid_constant__ GemmParams p) {
    gemm<F16, Small64>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_SMALL16_THREADS, 2)
gemm_bf16_small16(const __grid_constant__ GemmParams p) {
    gemm<Bf16, Small16>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_SMALL16_THREADS, 2)
gemm_f16_small16(const __grid_constant__ GemmParams p) {
    gemm<F16, Small16>(p);
}
