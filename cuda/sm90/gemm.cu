// computes: out = f(x Wᵀ + h Bᵀ + bias + residual), as ../gemm.cu has it: the same types, sums and bits.
// grid: min(multiprocessors, tiles) blocks, each of which takes every gridDim.x-th tile of ⌈tokens / BLOCK_M⌉ by
//     ⌈n / BLOCK_N⌉; wide 128x256, narrow 64x128. k is not split.
// block and shared memory: one warpgroup copies (one thread of it; 40 registers each), the others multiply, 64 rows
//     each: wide two with 232 registers, narrow one. Shared memory holds the stages of x and W (wide 4 of 48 KB, narrow
//     3 of 24 KB), 16 KB of out per warpgroup, and two barriers per stage.
// bound by: wide: tensor cores, 2·n·(k + columns) FLOP per token. Narrow: the same, and shared memory, of which a
//     product of 64x128x16 reads 6 KB in 64 clocks.
// requires: pointers and strides aligned to 16 bytes; compute capability 9.0; maps of all five matrices, with the rows
//     of the bucket. Rows past tokens may be read, and are not written; columns past n, k and columns neither.
// gates: registers <= 168, stack = 0, static shared = 0, blocks >= 1
// gates gemm: instructions per mma <= 18, warpgroup products per turn = 4
// gates narrow: registers <= 128, blocks >= 2
#include "epilogue.cuh"

// 196,608 bytes in flight per multiprocessor; the most that one has room for beside the staging of out.
typedef WgmmaTile<GEMM_WIDE_ROWS, GEMM_WIDE_COLUMNS, 4> Wide;
// Two blocks per multiprocessor: one multiplies while the other stores.
typedef WgmmaTile<GEMM_NARROW_ROWS, GEMM_NARROW_COLUMNS, 3> Narrow;

/// Registers of a thread that copies, and of one that multiplies.
constexpr int kProducerRegisters = 40;

template <class T, class Tile, int REGISTERS> __device__ __forceinline__ void gemm(const GemmSm90Params &p) {
    griddepcontrol_launch_dependents();
    const Watch watch{p.stall, STALL_GEMM};
    const uint32_t tokens = *p.gemm.tokens;
    if (threadIdx.x == 0) {
        prefetch_tensormap(p.w);
        prefetch_tensormap(p.x);
        Tile::Ring::init(1, 4 * Tile::kWarpgroups);
        produce_ahead<Tile>(p, tokens);
    }
    __syncthreads();
    griddepcontrol_wait();
    // From one lane, so that the compiler knows that a warp does not diverge here.
    const uint32_t role = __shfl_sync(0xffffffff, threadIdx.x / 128, 0);
    if (role == 0) {
        setmaxnreg_dec<kProducerRegisters>();
        if (threadIdx.x == 0) {
            produce<Tile>(p, tokens, watch);
        }
    } else {
        setmaxnreg_inc<REGISTERS>();
        const uint32_t warpgroup = role - 1;
        const TileOrder<Tile> order(p.gemm, tokens);
        RingPosition<Tile::kStages> at;
#pragma unroll 1
        for (uint32_t tile = blockIdx.x; tile < order.count(); tile += gridDim.x) {
            uint32_t row, column;
            order.at(tile, row, column);
            float acc[Tile::BLOCK_N / 2];
            multiply<T, Tile>(acc, p.gemm, warpgroup, at, watch);
            FragmentEpilogue<T, Tile>(p, tokens, warpgroup)(acc, row, column);
        }
        // Bulk stores read shared memory, which goes with the block.
        cp_async_bulk_wait_group<0>();
    }
}

static_assert(Wide::kThreads == GEMM_WIDE_THREADS && Wide::kSharedBytes == GEMM_WIDE_SHARED, "as params.h has it");
static_assert(Narrow::kThreads == GEMM_NARROW_THREADS && Narrow::kSharedBytes == GEMM_NARROW_SHARED,
              "as params.h has it");

extern "C" __global__ void __launch_bounds__(GEMM_WIDE_THREADS, 1)
gemm_bf16_wide(const __grid_constant__ GemmSm90Params p) {
    gemm<Bf16, Wide, 232>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_WIDE_THREADS, 1)
gemm_f16_wide(const __grid_constant__ GemmSm90Params p) {
    gemm<F16, Wide, 232>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_NARROW_THREADS, 2)
gemm_bf16_narrow(const __grid_constant__ GemmSm90Params p) {
    gemm<Bf16, Narrow, 208>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_NARROW_THREADS, 2)
gemm_f16_narrow(const __grid_constant__ GemmSm90Params p) {
    gemm<F16, Narrow, 208>(p);
}
