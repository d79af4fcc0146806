// The GEMM main loop of Hopper: one warpgroup fills the stages by bulk tensor copies, the others multiply by wgmma.
//
// A stage holds one k-block, 64 columns: the tile's rows of x, then of W, each row 128 bytes with the swizzle of TMA.
// The copies fill what lies outside of the matrices with zeros, so that all k-blocks are loaded alike, the last of x and W
// too, and those of h and B, which follow. Of the very last, half of the products may be left out. A stage is `full` when
// its bytes have come, and `empty` when each warp that reads it has arrived; all go around the ring in step, tile after
// tile. Warpgroups that take tiles in turn pass by the stages of the other's: when their turn comes, the other has seen
// all of its stages full.
#pragma once

#include "../dtype.cuh"
#include "barrier.cuh"

/// Sizes of a block's tile of out, BLOCK_M x BLOCK_N, and of the pipeline. The warpgroups that multiply have 64 rows
/// each, or with PINGPONG take whole tiles in turn: two, one of which multiplies while the other stores.
template <int BLOCK_M_, int BLOCK_N_, int STAGES, bool PINGPONG = false> struct WgmmaTile {
    static constexpr int BLOCK_M = BLOCK_M_, BLOCK_N = BLOCK_N_, BLOCK_K = 64;
    static constexpr int kStages = STAGES;
    static constexpr bool kPingPong = PINGPONG;
    /// Those that multiply; one more copies.
    static constexpr int kWarpgroups = PINGPONG ? 2 : BLOCK_M / 64;
    /// Of 64 rows, that a warpgroup multiplies.
    static constexpr int kFragments = PINGPONG ? BLOCK_M / 64 : 1;
    /// Warps that read a stage.
    static constexpr int kReaders = 4 * (PINGPONG ? 1 : kWarpgroups);
    static constexpr int kThreads = 128 * (kWarpgroups + 1);
    static constexpr int kRowBytes = 2 * BLOCK_K;
    static constexpr int kStageBytes = (BLOCK_M + BLOCK_N) * kRowBytes;
    /// Where each warpgroup stages its rows on their way to out, 64 columns in each buffer, and has the tile's bias
    /// (epilogue.cuh); then the barriers.
    static constexpr int kBuffers = BLOCK_N > 64 ? 2 : 1;
    static constexpr int kStagingBytes = kBuffers * 64 * 64 * 2;
    static constexpr int kStaging = kStages * kStageBytes;
    static constexpr int kBias = kStaging + kWarpgroups * kStagingBytes;
    static constexpr int kBarriers = kBias + kWarpgroups * 2 * BLOCK_N;
    typedef StageRing<kStages, kStageBytes, kBarriers> Ring;
    static constexpr int kTurns = kBarriers + Ring::kBarrierBytes;
    static constexpr int kSharedBytes = kTurns + (PINGPONG ? 16 : 0);

    /// The barrier at which a warpgroup of ping-pong waits for its turn to multiply.
    static __device__ __forceinline__ uint32_t turn(uint32_t warpgroup) {
        return cvta_to_shared(smem) + kTurns + 8 * warpgroup;
    }
};

/// wgmma by the type of its operands and the number of accumulators.
template <class T> struct Wgmma;
template <> struct Wgmma<Bf16> {
    static __device__ __forceinline__ void mma(float (&d)[128], uint64_t a, uint64_t b, bool accumulate) {
        wgmma_m64n256k16_bf16(d, a, b, accumulate);
    }
    static __device__ __forceinline__ void mma(float (&d)[64], uint64_t a, uint64_t b, bool accumulate) {
        wgmma_m64n128k16_bf16(d, a, b, accumulate);
    }
    static __device__ __forceinline__ void mma(float (&d)[32], uint64_t a, uint64_t b, bool accumulate) {
        wgmma_m64n64k16_bf16(d, a, b, accumulate);
    }
};
template <> struct Wgmma<F16> {
    static __device__ __forceinline__ void mma(float (&d)[128], uint64_t a, uint64_t b, bool accumulate) {
        wgmma_m64n256k16_f16(d, a, b, accumulate);
    }
    static __device__ __forceinline__ void mma(float (&d)[64], uint64_t a, uint64_t b, bool accumulate) {
        wgmma_m64n128k16_f16(d, a, b, accumulate);
    }
    static __device__ __forceinline__ void mma(float (&d)[32], uint64_t a, uint64_t b, bool accumulate) {
        wgmma_m64n64k16_f16(d, a, b, accumulate);
    }
};

/// The tiles of out in the order in which blocks take them: eight rows of tiles, column after column, so that the tiles
/// at work share their rows of x and of W in L2.
template <class Tile> struct TileOrder {
    static constexpr uint32_t kGroup = 8;
    uint32_t rows, columns;

    __device__ __forceinline__ TileOrder(const GemmParams &p, uint32_t tokens) {
        rows = (tokens + Tile::BLOCK_M - 1) / Tile::BLOCK_M;
        columns = (p.n + Tile::BLOCK_N - 1) / Tile::BLOCK_N;
    }

    __device__ __forceinline__ uint32_t count() const { return rows * columns; }

    /// The first row and column of a tile.
    __device__ __forceinline__ void at(uint32_t tile, uint32_t &row, uint32_t &column) const {
        const uint32_t first = tile / (kGroup * columns) * kGroup, in_group = tile % (kGroup * columns);
        const uint32_t group = min(kGroup, rows - first);
        row = (first + in_group % group) * Tile::BLOCK_M;
        column = in_group / group * Tile::BLOCK_N;
    }
};

/// K-blocks of x and W.
__device__ __forceinline__ uint32_t k_blocks(const GemmParams &p) { return (p.k + 63) / 64; }

/// K-blocks of x and W, then of h and B.
__device__ __forceinline__ uint32_t tile_k_blocks(const GemmParams &p) {
    return k_blocks(p) + (p.columns + 63) / 64;
}

/// A k-block on its way to a stage: columns of x and W from `column` on, or of h and B.
template <class Tile> struct KBlock {
    const TensorMap &left, &right;
    uint32_t column;

    /// `own`: k-blocks of x and W.
    __device__ __forceinline__ KBlock(const GemmSm90Params &p, uint32_t own, uint32_t i)
        : left(i < own ? p.x : p.h), right(i < own ? p.w : p.b), column((i < own ? i : i - own) * Tile::BLOCK_K) {}

    /// Announces it at its stage, and copies what it has of W or B: rows from `row` on.
    __device__ __forceinline__ void copy_right(uint32_t row, typename Tile::Ring::Position at) const {
        mbarrier_arrive_expect_tx(at.full, Tile::kStageBytes);
        cp_async_bulk_tensor_2d_shared_global(at.stage + Tile::BLOCK_M * Tile::kRowBytes, right, column, row, at.full);
    }

    /// Copies what it has of x or h.
    __device__ __forceinline__ void copy_left(uint32_t row, typename Tile::Ring::Position at) const {
        cp_async_bulk_tensor_2d_shared_global(at.stage, left, column, row, at.full);
    }
};

/// The stages that are begun before x is there.
template <class Tile> __device__ __forceinline__ uint32_t stages_ahead(const GemmParams &p) {
    return min(tile_k_blocks(p), Tile::kStages);
}

/// Begins the first stages of the block's first tile, as far as they are weights; one thread.
template <class Tile> __device__ __forceinline__ void produce_ahead(const GemmSm90Params &p, uint32_t tokens) {
    const TileOrder<Tile> order(p.gemm, tokens);
    if (blockIdx.x < order.count()) {
        uint32_t row, column;
        order.at(blockIdx.x, row, column);
        typename Tile::Ring::Position at;
#pragma unroll 1
        for (uint32_t i = 0; i < stages_ahead<Tile>(p.gemm); i++) {
            KBlock<Tile>(p, k_blocks(p.gemm), i).copy_right(column, at);
            at.advance();
        }
    }
}

/// Copies all k-blocks of the block's tiles but for what produce_ahead() has. One warp, whose lanes all wait and of
/// which one copies: of one thread, ptxas repeats every copy in a loop over the threads that there might be.
template <class Tile> __device__ __forceinline__ void produce(const GemmSm90Params &p, uint32_t tokens, Watch watch) {
    const TileOrder<Tile> order(p.gemm, tokens);
    const uint32_t own = k_blocks(p.gemm), all = tile_k_blocks(p.gemm);
    uint32_t ahead = stages_ahead<Tile>(p.gemm);
    typename Tile::Ring::Position at;
    for (uint32_t tile = blockIdx.x; tile < order.count(); tile += gridDim.x) {
        uint32_t row, column;
        order.at(tile, row, column);
#pragma unroll 1
        for (uint32_t i = 0; i < all; i++) {
            const bool begun = ahead > 0;
            ahead -= begun;
            watch.wait(at.empty(), at.parity ^ 1); // No wait where it was begun: nobody has filled the stage before.
            if (elect_sync()) {
                const KBlock<Tile> block(p, own, i);
                if (!begun) {
                    block.copy_right(column, at);
                }
                block.copy_left(row, at);
            }
            at.advance();
        }
    }
}

/// acc += x Wᵀ for one k-block once it is there, STEPS of 16 columns; acc = x Wᵀ for the first. Then the products of the
/// one before have ended, and its stage, whose barrier is `previous`, is given back.
template <class T, class Tile, int STEPS>
__device__ __forceinline__ void multiply_block(float (&acc)[Tile::kFragments][Tile::BLOCK_N / 2], uint32_t first_row,
                                               typename Tile::Ring::Position &at, uint32_t &previous,
                                               Watch watch, bool first) {
    watch.wait(at.full, at.parity);
    const uint64_t x = wgmma_descriptor(at.stage + first_row * Tile::kRowBytes);
    const uint64_t w = wgmma_descriptor(at.stage + Tile::BLOCK_M * Tile::kRowBytes);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
#pragma unroll
        for (int m = 0; m < Tile::kFragments; m++) {
            Wgmma<T>::mma(acc[m], x + 2 * step + m * (64 * Tile::kRowBytes >> 4), w + 2 * step, step > 0 || !first);
        }
    }
    wgmma_commit_group();
    wgmma_wait_group<1>();
    if (threadIdx.x % 32 == 0 && !first) {
        mbarrier_arrive(previous);
    }
    previous = at.empty();
    at.advance();
}

/// acc = x Wᵀ + h Bᵀ for the rows of one tile from `first_row` on. Every accumulator is one chain over k in steps of 16,
/// then over the columns of h, as in the GEMM for all GPUs. One group of products is in flight while the next stage is
/// awaited; its stage is given back when it has ended. `issued` is called when all products are under way.
template <class T, class Tile, class Issued>
__device__ __forceinline__ void multiply(float (&acc)[Tile::kFragments][Tile::BLOCK_N / 2], const GemmParams &p,
                                         uint32_t first_row, typename Tile::Ring::Position &at, Watch watch,
                                         Issued issued) {
    // Columns of h and B are multiples of 16. Where the last k-block has at most 32, the other half of its products would be
    // of zeros. One branch to a block of their own: ptxas orders products one by one where their number varies in a loop.
    const bool half = p.columns % Tile::BLOCK_K - 1u < Tile::BLOCK_K / 2;
    const uint32_t whole = tile_k_blocks(p) - half;
    uint32_t previous = 0;
#pragma unroll 1
    for (uint32_t i = 0; i < whole; i++) {
        multiply_block<T, Tile, 4>(acc, first_row, at, previous, watch, i == 0);
    }
    if (half) {
        multiply_block<T, Tile, 2>(acc, first_row, at, previous, watch, false);
    }
    issued();
    wgmma_wait_group<0>();
    if (threadIdx.x % 32 == 0) {
        mbarrier_arrive(previous);
    }
}
