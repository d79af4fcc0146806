// computes: out = f(x Wᵀ + h Bᵀ + bias + residual), as ../gemm.cu has it: the same types, sums and bits.
// grid: min(multiprocessors, tiles) blocks, each of which takes every gridDim.x-th tile of ⌈tokens / BLOCK_M⌉ by
//     ⌈n / BLOCK_N⌉; wide 128x256, pingpong and square 128x128, half 64x128, quarter 64x64. k is not split.
// block and shared memory: one warpgroup copies (one warp of it; 40 registers each), the others multiply: one has 64
//     rows of the tile, two have 64 each, but those of pingpong a whole tile each, and one stores while the other
//     multiplies. Shared memory holds the stages of x and W, as many as there is room for (192 KB), 8 or 16 KB of out
//     and the bias per warpgroup, and two barriers per stage.
// bound by: tensor cores, 2·n·(k + columns) FLOP per token; shared memory, of which a product of 64xNx16 reads
//     2048 + 32·N bytes in N/2 clocks. Half and quarter took 340 clocks per k-block where products take 256 and 128
//     (measured, when one thread copied: ../NOTES.md).
// requires: pointers and strides aligned to 16 bytes; compute capability 9.0; maps of all five matrices, with the rows
//     of the bucket. Rows past tokens may be read, and are not written; columns past n, k and columns neither. For a
//     table whole heads in a tile: quarter has none of 128 elements.
// gates: registers <= 168, stack = 0, static shared = 0, blocks >= 1
// gates gemm: instructions per mma <= 18, warpgroup products per turn = 4, between wgmma <= 7
// gates gemm: not uniform between wgmma <= 0, boxes per turn = 2, instructions that copy <= 52
// gates pingpong: warpgroup products per turn = 8
// gates half: registers <= 208
// gates quarter: registers <= 208
#include "epilogue.cuh"

// 196,608 bytes in flight per multiprocessor with each of them; the most that one has room for beside the staging of
// out.
typedef WgmmaTile<GEMM_WIDE_ROWS, GEMM_WIDE_COLUMNS, 4> Wide;
typedef WgmmaTile<GEMM_PINGPONG_ROWS, GEMM_PINGPONG_COLUMNS, 6, true> PingPong;
typedef WgmmaTile<GEMM_SQUARE_ROWS, GEMM_SQUARE_COLUMNS, 6> Square;
typedef WgmmaTile<GEMM_HALF_ROWS, GEMM_HALF_COLUMNS, 8> Half;
typedef WgmmaTile<GEMM_QUARTER_ROWS, GEMM_QUARTER_COLUMNS, 12> Quarter;

/// Registers of a thread that copies, and of one that multiplies.
constexpr int kProducerRegisters = 40;

template <class T, class Tile, int REGISTERS> __device__ __forceinline__ void gemm(const GemmSm90Params &p) {
    griddepcontrol_launch_dependents();
    const Watch watch{p.stall, STALL_GEMM};
    const uint32_t tokens = *p.gemm.tokens;
    // From one lane, so that the compiler knows that a warp does not diverge here.
    const uint32_t warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), role = warp / 4;
    if (warp == 0 && elect_sync()) {
        prefetch_tensormap(p.w);
        prefetch_tensormap(p.x);
        if (Tile::kPingPong) {
            mbarrier_init(Tile::turn(0), 4);
            mbarrier_init(Tile::turn(1), 4);
        }
        Tile::Ring::init(1, Tile::kReaders);
        produce_ahead<Tile>(p, tokens);
    }
    __syncthreads();
    griddepcontrol_wait();
    if (role == 0) {
        setmaxnreg_dec<kProducerRegisters>();
        if (warp == 0) {
            produce<Tile>(p, tokens, watch);
        }
    } else {
        setmaxnreg_inc<REGISTERS>();
        const uint32_t warpgroup = role - 1;
        const TileOrder<Tile> order(p.gemm, tokens);
        typename Tile::Ring::Position at;
        // In ping-pong the first takes the tiles of even numbers.
        const uint32_t all = tile_k_blocks(p.gemm);
        uint32_t turn_parity = warpgroup ^ 1;
        uint32_t tile = blockIdx.x;
        if (Tile::kPingPong && warpgroup == 1) {
            tile += gridDim.x;
            at.skip(all);
        }
#pragma unroll 1
        for (; tile < order.count(); tile += gridDim.x * (Tile::kPingPong ? 2 : 1)) {
            uint32_t row, column;
            order.at(tile, row, column);
            float acc[Tile::kFragments][Tile::BLOCK_N / 2];
            FragmentEpilogue<T, Tile> epilogue(p, tokens, warpgroup);
            epilogue.begin(row, column);
            if (Tile::kPingPong) {
                watch.wait(Tile::turn(warpgroup), turn_parity);
                turn_parity ^= 1;
            }
            multiply<T, Tile>(acc, p.gemm, Tile::kPingPong ? 0 : 64 * warpgroup, at, watch, [&] {
                if (Tile::kPingPong && threadIdx.x % 32 == 0) {
                    mbarrier_arrive(Tile::turn(warpgroup ^ 1));
                }
            });
            if (Tile::kPingPong) {
                at.skip(all);
            }
#pragma unroll
            for (int m = 0; m < Tile::kFragments; m++) {
                epilogue.finish(acc[m], m);
            }
        }
        // Bulk stores read shared memory, which goes with the block.
        cp_async_bulk_wait_group<0>();
    }
}

static_assert(Wide::kThreads == GEMM_WIDE_THREADS && Wide::kSharedBytes == GEMM_WIDE_SHARED, "as params.h has it");
static_assert(PingPong::kThreads == GEMM_PINGPONG_THREADS && PingPong::kSharedBytes == GEMM_PINGPONG_SHARED,
              "as params.h has it");
static_assert(Square::kThreads == GEMM_SQUARE_THREADS && Square::kSharedBytes == GEMM_SQUARE_SHARED,
              "as params.h has it");
static_assert(Half::kThreads == GEMM_HALF_THREADS && Half::kSharedBytes == GEMM_HALF_SHARED, "as params.h has it");
static_assert(Quarter::kThreads == GEMM_QUARTER_THREADS && Quarter::kSharedBytes == GEMM_QUARTER_SHARED,
              "as params.h has it");

extern "C" __global__ void __launch_bounds__(GEMM_WIDE_THREADS, 1)
gemm_bf16_wide(const __grid_constant__ GemmSm90Params p) {
    gemm<Bf16, Wide, 232>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_WIDE_THREADS, 1)
gemm_f16_wide(const __grid_constant__ GemmSm90Params p) {
    gemm<F16, Wide, 232>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_PINGPONG_THREADS, 1)
gemm_bf16_pingpong(const __grid_constant__ GemmSm90Params p) {
    gemm<Bf16, PingPong, 232>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_PINGPONG_THREADS, 1)
gemm_f16_pingpong(const __grid_constant__ GemmSm90Params p) {
    gemm<F16, PingPong, 232>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_SQUARE_THREADS, 1)
gemm_bf16_square(const __grid_constant__ GemmSm90Params p) {
    gemm<Bf16, Square, 232>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_SQUARE_THREADS, 1)
gemm_f16_square(const __grid_constant__ GemmSm90Params p) {
    gemm<F16, Square, 232>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_HALF_THREADS, 1)
gemm_bf16_half(const __grid_constant__ GemmSm90Params p) {
    gemm<Bf16, Half, 208>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_HALF_THREADS, 1)
gemm_f16_half(const __grid_constant__ GemmSm90Params p) {
    gemm<F16, Half, 208>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_QUARTER_THREADS, 1)
gemm_bf16_quarter(const __grid_constant__ GemmSm90Params p) {
    gemm<Bf16, Quarter, 208>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_QUARTER_THREADS, 1)
gemm_f16_quarter(const __grid_constant__ GemmSm90Params p) {
    gemm<F16, Quarter, 208>(p);
}
