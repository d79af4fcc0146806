// computes: out = f(x Wᵀ + h Bᵀ + bias + residual), f the identity, GELU, or RoPE of q and k. x [tokens, k], W [n, k],
//     h [tokens, columns], B [n, columns], out [tokens, n]; all 16-bit, accumulated in float32.
// grid: (⌈n / BLOCK_N⌉, ⌈rows of the bucket / BLOCK_M⌉) of the variant's tile: large 128x128, medium 64x64,
//     small64 32x32, small16 and split16 16x16. k is not split but in split16, so all others give the same bits.
// block and shared memory: four warps (small16: two) with the same role, each 64x64 (large) to 16x8 (small16) of the
//     tile. Shared memory holds the stages of x and W (gemm.cuh), then the tile: large and medium have it rounded
//     (epilogue_fragment.cuh), the others in float32 (epilogue.cuh). In split16 each of GEMM_SPLIT16_PARTS parts of k,
//     h and B behind the last, has two warps and stages of its own, where it leaves its sums; the first part's warps
//     add them in the order of the parts.
// bound by: tensor cores, 2·n·(k + columns) FLOP per token. Up to about 200 tokens bytes: 2·n·(k + columns) of
//     weights, and in every block the tile's rows of x.
// requires: pointers and strides aligned to 16 bytes. Rows past tokens and columns past n, k and columns are neither
//     read nor written.
// gates: registers <= 255, stack = 0, static shared = 0, blocks >= 2
// gates large: instructions per mma <= 1.95, mma per ldsm >= 4
// gates medium: instructions per mma <= 2.9, mma per ldsm >= 2
// gates small64: instructions per mma <= 6.5, mma per ldsm >= 1
// gates small16: instructions per mma <= 12.8, mma per ldsm >= 0.5
// gates split16: registers <= 128, blocks >= 1, instructions per mma <= 14, mma per ldsm >= 0.5
// gates small64 sm_89: blocks >= 1
// gates small16 sm_89: blocks >= 1
#include "epilogue.cuh"
#include "epilogue_fragment.cuh"

// Two blocks per multiprocessor of 100 KB: the epilogue of one overlaps the main loop of the other.
typedef GemmTile<GEMM_LARGE_ROWS, GEMM_LARGE_COLUMNS, GEMM_LARGE_WARP_ROWS, GEMM_LARGE_WARP_COLUMNS, 32, 3> Large;
// Two blocks per multiprocessor of 100 KB, three or four elsewhere.
typedef GemmTile<GEMM_MEDIUM_ROWS, GEMM_MEDIUM_COLUMNS, GEMM_MEDIUM_WARP_ROWS, GEMM_MEDIUM_WARP_COLUMNS, 64, 3> Medium;
// 28 KB of weights and 28 KB of x in flight per block; 32 by 2 blocks for n = 1024 and 64 tokens.
typedef GemmTile<GEMM_SMALL64_ROWS, GEMM_SMALL64_COLUMNS, GEMM_SMALL64_WARP_ROWS, GEMM_SMALL64_WARP_COLUMNS, 64,
                 8> Small64;
// 30 KB of weights in flight per block; 64 blocks for n = 1024 and 16 tokens.
typedef GemmTile<GEMM_SMALL16_ROWS, GEMM_SMALL16_COLUMNS, GEMM_SMALL16_WARP_ROWS, GEMM_SMALL16_WARP_COLUMNS, 64,
                 16> Small16;
// 10 KB of weights in flight per part; the chain of MMAs is a quarter as long.
typedef GemmTile<GEMM_SPLIT16_ROWS, GEMM_SPLIT16_COLUMNS, GEMM_SPLIT16_WARP_ROWS, GEMM_SPLIT16_WARP_COLUMNS, 64, 6,
                 Resident::Nothing, GEMM_SPLIT16_PARTS> Split16;

/// For warps of 32 columns or more.
template <class T, class Tile> __device__ __forceinline__ void gemm_fragments(const GemmParams &p) {
    const uint32_t tokens = *p.tokens;
    if (!start<Tile>(p, tokens)) {
        return;
    }
    const ColumnMap<Tile> columns(p);
    Accumulators<Tile> acc = {};
    mainloop<T, Tile>(p, columns, tokens, acc);
    FragmentEpilogue<T, Tile>(p, columns, tokens)(acc);
}

/// For narrower warps.
template <class T, class Tile> __device__ __forceinline__ void gemm_rows(const GemmParams &p) {
    const uint32_t tokens = *p.tokens;
    if (!start<Tile>(p, tokens)) {
        return;
    }
    const ColumnMap<Tile> columns(p);
    rows_of_out<T, Tile>(p, columns, tokens, [&](Accumulators<Tile> &acc) {
        mainloop<T, Tile>(p, columns, tokens, acc);
    });
}

/// The sums of the parts of k, in each part's pipeline when that is through: a thread's accumulators side by side.
template <class Tile> struct PartSums {
    static_assert(Tile::WARP_M == 16 && Tile::WARP_N == 8, "a thread has four sums");

    static __device__ __forceinline__ uint32_t address(uint32_t part) {
        return cvta_to_shared(smem) + part * Tile::kPipelineBytes + Tile::thread() * 16;
    }

    static __device__ __forceinline__ void store(const Accumulators<Tile> &acc) {
        const float(&sums)[4] = acc[0][0];
        st_shared_v4_b32(address(Tile::part()), make_uint4(__float_as_uint(sums[0]), __float_as_uint(sums[1]),
                                                           __float_as_uint(sums[2]), __float_as_uint(sums[3])));
    }

    /// Adds those of all parts but the first, in their order.
    static __device__ __forceinline__ void add_to(Accumulators<Tile> &acc) {
        float(&to)[4] = acc[0][0];
#pragma unroll
        for (uint32_t part = 1; part < Tile::kParts; part++) {
            const float4 sums = ld_shared_v4_f32(address(part));
            to[0] = __fadd_rn(to[0], sums.x);
            to[1] = __fadd_rn(to[1], sums.y);
            to[2] = __fadd_rn(to[2], sums.z);
            to[3] = __fadd_rn(to[3], sums.w);
        }
    }
};

/// For tiles in parts.
template <class T, class Tile> __device__ __forceinline__ void gemm_parts(const GemmParams &p) {
    const uint32_t tokens = *p.tokens;
    if (!start<Tile>(p, tokens)) {
        return;
    }
    const ColumnMap<Tile> columns(p);
    if (Tile::part() != 0) {
        Accumulators<Tile> acc = {};
        mainloop<T, Tile>(p, columns, tokens, acc);
        PartSums<Tile>::store(acc);
        __syncthreads();
        return;
    }
    rows_of_out<T, Tile>(p, columns, tokens, [&](Accumulators<Tile> &acc) {
        mainloop<T, Tile>(p, columns, tokens, acc);
        __syncthreads();
        PartSums<Tile>::add_to(acc);
    });
}

template <class Tile, int EPILOGUE, int THREADS, int SHARED> struct CheckLaunchConstants {
    static_assert(THREADS == Tile::kParts * Tile::kThreads, "the threads in params.h are those of the tile");
    static_assert(SHARED >= Tile::kParts * Tile::kPipelineBytes && SHARED >= EPILOGUE,
                  "the shared memory in params.h holds the pipelines, then the epilogue's tile");
};
template struct CheckLaunchConstants<Large, FragmentEpilogue<Bf16, Large>::kBytes, GEMM_LARGE_THREADS,
                                     GEMM_LARGE_SHARED>;
template struct CheckLaunchConstants<Medium, FragmentEpilogue<Bf16, Medium>::kBytes, GEMM_MEDIUM_THREADS,
                                     GEMM_MEDIUM_SHARED>;
template struct CheckLaunchConstants<Small64, SmemAccum<Small64>::kBytes, GEMM_SMALL64_THREADS, GEMM_SMALL64_SHARED>;
template struct CheckLaunchConstants<Small16, SmemAccum<Small16>::kBytes, GEMM_SMALL16_THREADS, GEMM_SMALL16_SHARED>;
template struct CheckLaunchConstants<Split16, SmemAccum<Split16>::kBytes, GEMM_SPLIT16_THREADS, GEMM_SPLIT16_SHARED>;

extern "C" __global__ void __launch_bounds__(GEMM_LARGE_THREADS, GEMM_LARGE_BLOCKS)
gemm_bf16_large(const __grid_constant__ GemmParams p) {
    gemm_fragments<Bf16, Large>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_LARGE_THREADS, GEMM_LARGE_BLOCKS)
gemm_f16_large(const __grid_constant__ GemmParams p) {
    gemm_fragments<F16, Large>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_MEDIUM_THREADS, GEMM_MEDIUM_BLOCKS)
gemm_bf16_medium(const __grid_constant__ GemmParams p) {
    gemm_fragments<Bf16, Medium>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_MEDIUM_THREADS, GEMM_MEDIUM_BLOCKS)
gemm_f16_medium(const __grid_constant__ GemmParams p) {
    gemm_fragments<F16, Medium>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_SMALL64_THREADS, GEMM_SMALL64_BLOCKS)
gemm_bf16_small64(const __grid_constant__ GemmParams p) {
    gemm_rows<Bf16, Small64>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_SMALL64_THREADS, GEMM_SMALL64_BLOCKS)
gemm_f16_small64(const __grid_constant__ GemmParams p) {
    gemm_rows<F16, Small64>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_SMALL16_THREADS, GEMM_SMALL16_BLOCKS)
gemm_bf16_small16(const __grid_constant__ GemmParams p) {
    gemm_rows<Bf16, Small16>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_SMALL16_THREADS, GEMM_SMALL16_BLOCKS)
gemm_f16_small16(const __grid_constant__ GemmParams p) {
    gemm_rows<F16, Small16>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_SPLIT16_THREADS, 1)
gemm_bf16_split16(const __grid_constant__ GemmParams p) {
    gemm_parts<Bf16, Split16>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_SPLIT16_THREADS, 1)
gemm_f16_split16(const __grid_constant__ GemmParams p) {
    gemm_parts<F16, Split16>(p);
}
