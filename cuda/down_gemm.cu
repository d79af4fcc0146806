// computes: h = (x Aᵀ)·weight·scale, out = f(x Wᵀ + h Bᵀ + bias + residual): what lora_down.cu and then gemm.cu
//     compute, with the same bits. x [tokens, k], A [columns, k], h [tokens, columns], W [n, k], B [n, columns],
//     out [tokens, n]; all 16-bit, accumulated in float32.
// grid: ⌈n / BLOCK_N⌉, BLOCK_N = 16. Every block makes all of h; the first one writes it too.
// block and shared memory: DOWN_GEMM_THREADS. Warps 0 and 1 are a block of gemm's small16, but for h Bᵀ; the eight
//     others are one of lora_down, whose h stays in shared memory. When both are done, warps 0 and 1 add h Bᵀ. Shared
//     memory holds the stages of x and W (gemm.cuh), later the tile in float32 (epilogue.cuh); behind them h, the
//     tile's rows of B, and what lora_down has.
// bound by: bytes, 2·n·(k + columns) of weights; per block 2·k·(2·tokens + BLOCK_N + columns used) from L2, and the
//     latency of (k + columns) / 16 dependent MMAs.
// requires: 0 < columns ≤ 64, tokens ≤ 16; pointers and strides aligned to 16 bytes; h and out apart from x. Rows past
//     tokens and columns past n, k and columns are neither read nor written.
// gates: registers <= 168, stack = 0, static shared = 0, blocks >= 1, instructions per mma <= 6.3
#include "epilogue.cuh"
#include "lora_down.cuh"

namespace {

typedef GemmTile<DOWN_GEMM_ROWS, DOWN_GEMM_COLUMNS, 16, 8, 64, 16, Resident::H> Tile;
static_assert(DOWN_GEMM_ROWS == LORA_DOWN_ROWS, "a down-projection has all rows");
static_assert(DOWN_GEMM_MAX_LORA == Tile::BLOCK_K, "h and B are laid out as one k-block");
static_assert(DOWN_GEMM_THREADS == Tile::kThreads + LORA_DOWN_THREADS, "the threads in params.h");

/// Where shared memory has h, B and the down-projection's own.
constexpr uint32_t kH = Tile::kPipelineBytes;
constexpr uint32_t kB = kH + Tile::BLOCK_M * Tile::kRowBytes;
constexpr uint32_t kDown = kB + Tile::BLOCK_N * Tile::kRowBytes;
static_assert(DOWN_GEMM_SHARED == kDown + sizeof(DownStorage), "the shared memory in params.h");

/// The threads that make h.
struct DownThreads {
    static __device__ __forceinline__ uint32_t index() { return threadIdx.x - Tile::kThreads; }
    static __device__ __forceinline__ void sync() { bar_sync<2>(LORA_DOWN_THREADS); }
};

/// h in shared memory, as the products read it; the first block's in global memory as well.
struct ResidentH {
    const LoraDownParams &p;

    static __device__ __forceinline__ uint32_t address(uint32_t row, uint32_t column) {
        return cvta_to_shared(smem) + kH + Tile::smem_offset(row, column / ROW_VECTOR) + column % ROW_VECTOR * 2;
    }

    __device__ __forceinline__ void write(uint32_t row, uint32_t column, uint2 v) const {
        st_shared_v2_b32(address(row, column), v);
        if (blockIdx.x == 0) {
            GlobalH{p}.write(row, column, v);
        }
    }

    __device__ __forceinline__ void write_zeros(uint32_t row, uint32_t column) const {
        st_shared_v4_b32(address(row, column), make_uint4(0, 0, 0, 0));
        if (blockIdx.x == 0) {
            GlobalH{p}.write_zeros(row, column);
        }
    }
};

/// h, in shared memory: zeros in the rows past the last token, since what is multiplied must be numbers.
template <class T> __device__ __forceinline__ void make_h(const LoraDownParams &p, uint32_t tokens) {
    // Eight threads at a time have eight rows: no bank conflicts.
    for (uint32_t i = DownThreads::index(); i < Tile::BLOCK_M * (p.columns / ROW_VECTOR); i += LORA_DOWN_THREADS) {
        const uint32_t row = i % Tile::BLOCK_M, column = i / Tile::BLOCK_M * ROW_VECTOR;
        if (row >= tokens) {
            st_shared_v4_b32(ResidentH::address(row, column), make_uint4(0, 0, 0, 0));
        }
    }
    down_project<T, DownThreads>(p, tokens, 0, *reinterpret_cast<DownStorage *>(smem + kDown), ResidentH{p});
}

/// Starts the copies of the tile's rows of B, as a part of the next group.
__device__ __forceinline__ void copy_b(const GemmParams &p, const ColumnMap<Tile> &columns) {
    for (uint32_t i = threadIdx.x; i < Tile::BLOCK_N * (p.columns / ROW_VECTOR); i += Tile::kThreads) {
        const uint32_t row = i % Tile::BLOCK_N, vector = i / Tile::BLOCK_N;
        const uint64_t from = static_cast<uint64_t>(min(columns[row], p.n - 1)) * p.columns + vector * ROW_VECTOR;
        cp_async_cg_shared_global_16(cvta_to_shared(smem) + kB + Tile::smem_offset(row, vector), p.b + from, 16);
    }
}

/// acc += h Bᵀ, in steps of 16 columns as in the main loop.
template <class T>
__device__ __forceinline__ void multiply_h(const GemmParams &p, Accumulators<Tile> &acc) {
    const uint32_t start = cvta_to_shared(smem);
#pragma unroll 1
    for (uint32_t step = 0; step < p.columns / 16; step++) {
        Fragments<Tile> fragments;
        fragments.load(start + kH + Fragments<Tile>::x_offset(step), start + kB + Fragments<Tile>::w_offset(step));
        fragments.template multiply<T>(acc);
    }
}

template <class T> __device__ __forceinline__ void down_gemm(const DownGemmParams &p) {
    const uint32_t tokens = *p.gemm.tokens;
    if (!start<Tile>(p.gemm, tokens)) {
        return; // All threads: there are no tokens.
    }
    if (threadIdx.x >= Tile::kThreads) {
        make_h<T>(p.down, tokens);
        __syncthreads();
        return;
    }
    const ColumnMap<Tile> columns(p.gemm);
    rows_of_out<T, Tile>(p.gemm, columns, tokens, [&](Accumulators<Tile> &acc) {
        copy_b(p.gemm, columns);
        mainloop<T, Tile>(p.gemm, columns, tokens, acc);
        __syncthreads();
        multiply_h<T>(p.gemm, acc);
    });
}

} // namespace

extern "C" __global__ void __launch_bounds__(DOWN_GEMM_THREADS, 1)
down_gemm_bf16(const __grid_constant__ DownGemmParams p) {
    down_gemm<Bf16>(p);
}

extern "C" __global__ void __launch_bounds__(DOWN_GEMM_THREADS, 1)
down_gemm_f16(const __grid_constant__ DownGemmParams p) {
    down_gemm<F16>(p);
}
