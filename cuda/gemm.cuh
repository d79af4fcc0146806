// Products of two matrices that both lie along k: tiles of x Wᵀ through a pipeline of shared memory.
//
// A stage is Tile::Depth columns of k of the tile's rows of x, then of its rows of W. Copies of the next
// Stages - 1 stages run while the tensor cores work on one. A stage row is Vectors vectors of 16 bytes,
// each put where the eight rows that one ldmatrix phase reads (and the eight vectors that a quarter of a warp copies)
// lie in eight different groups of banks: vector v of row r at v ^ (r / rows in 128 bytes), modulo Vectors.
#pragma once

#include "dtype.cuh"
#include "params.h"
#include "tile.cuh"

/// A block's part of out, a warp's, and the pipeline.
template <int Rows_, int Columns_, int WarpRows_, int WarpColumns_, int Depth_, int Stages_> struct Tile {
    static constexpr int Rows = Rows_, Columns = Columns_, WarpRows = WarpRows_, WarpColumns = WarpColumns_;
    static constexpr int Depth = Depth_, Stages = Stages_;
    static constexpr int ColumnWarps = Columns / WarpColumns;
    static constexpr int Threads = 32 * (Rows / WarpRows) * ColumnWarps;
    /// 16-byte vectors in a row of a stage, and rows that all threads copy at a time.
    static constexpr int Vectors = Depth / 8;
    static constexpr int PassRows = Threads / Vectors;
    static constexpr int RowBytes = 2 * Depth;
    static constexpr int StageBytes = (Rows + Columns) * RowBytes;
    static constexpr int PipelineBytes = Stages * StageBytes;

    static_assert(Vectors == 4 || Vectors == 8, "place() is for rows of 64 and of 128 bytes");
    static_assert(Rows % PassRows == 0 && Columns % PassRows == 0 && PassRows % 8 == 0, "passes are whole");
    static_assert(WarpRows % 16 == 0 && (WarpColumns == 8 || WarpColumns % 16 == 0), "a warp's part is whole MMAs");

    /// Where a vector of a row lies, in bytes from the operand's beginning.
    static __device__ __forceinline__ uint32_t place(uint32_t row, uint32_t vector) {
        return row * RowBytes + (vector ^ row / (8 / Vectors) % Vectors) * 16;
    }
};

/// Which columns of out the block has: two runs of half a tile. They are neighbours, except where a head is
/// wider than the tile and rotates: then the second run holds the partners of the first.
template <class Tile> struct ColumnRuns {
    uint32_t first;
    /// Columns between the end of the first run and the second.
    uint32_t gap;
    /// What the place in the tile is xored with to find a rotation's partner.
    uint32_t partner;

    __device__ __forceinline__ explicit ColumnRuns(const GemmParams &p) {
        const uint32_t head_dim = p.rope.head_dim;
        first = blockIdx.x * Tile::Columns;
        gap = 0;
        partner = head_dim / 2;
        if (p.rope.table != nullptr && head_dim > Tile::Columns) {
            const uint32_t in_head = first & (head_dim - 1);
            first = first - in_head + in_head / 2;
            gap = (head_dim - Tile::Columns) / 2;
            partner = Tile::Columns / 2;
        }
    }

    /// The column of out at place `at` of the tile.
    __device__ __forceinline__ uint32_t operator[](uint32_t at) const {
        return first + at + (at < Tile::Columns / 2 ? 0 : gap);
    }
};

/// Copies stage after stage: k columns of x and W, then the columns of h and B, then zeros for ever.
template <class Tile> struct Feed {
    static constexpr int XPasses = Tile::Rows / Tile::PassRows, WPasses = Tile::Columns / Tile::PassRows;

    /// The operands, at this thread's next vector of their row 0, and bytes between their rows.
    const uint8_t *x, *w;
    uint32_t x_stride, w_stride;
    /// Columns from this thread's next vector to the operands' end; none, or fewer, past it.
    int32_t left;
    /// Stages of these operands still to copy, and of h and B behind them.
    uint32_t stages, adapter_stages;
    /// The thread's rows of x and W.
    uint32_t x_row[XPasses], w_row[WPasses];
    /// Rows from the thread's first to the end of the tokens.
    int32_t rows;
    /// Where the thread's first vector goes in a stage, in bytes from its beginning.
    uint32_t to;

    __device__ __forceinline__ Feed(const GemmParams &p, const ColumnRuns<Tile> &columns, uint32_t tokens) {
        const uint32_t row = threadIdx.x / Tile::Vectors;
        const uint32_t first = blockIdx.y * Tile::Rows + row;
        rows = static_cast<int32_t>(tokens - first);
        // Addresses stay good where nothing is read, or nothing of use: the last row again.
#pragma unroll
        for (int i = 0; i < XPasses; i++) {
            x_row[i] = min(first + i * Tile::PassRows, tokens - 1);
        }
#pragma unroll
        for (int i = 0; i < WPasses; i++) {
            w_row[i] = min(columns[row + i * Tile::PassRows], p.n - 1);
        }
        to = Tile::place(row, threadIdx.x % Tile::Vectors);
        stages = (p.k + Tile::Depth - 1) / Tile::Depth;
        adapter_stages = (p.columns + Tile::Depth - 1) / Tile::Depth;
        aim(p.x, p.x_stride, p.w, p.k);
    }

    /// To be called before copy() when `stages` may be 0. Not a part of it, because the main loop then has one set of
    /// operands at a time.
    __device__ __forceinline__ void turn(const GemmParams &p) {
        if (stages == 0) {
            stages = 0xffffffff;
            if (adapter_stages != 0) {
                stages = adapter_stages;
                adapter_stages = 0;
                aim(p.h, p.columns, p.b, p.columns);
            }
        }
    }

    /// Turns to an operand [tokens, left_stride] and one [n, width].
    __device__ __forceinline__ void aim(const uint16_t *left_operand, uint32_t left_stride, const uint16_t *right_operand,
                                        uint32_t width) {
        const uint32_t column = threadIdx.x % Tile::Vectors * 8;
        left = static_cast<int32_t>(width - column);
        x = reinterpret_cast<const uint8_t *>(left_operand + (left > 0 ? column : 0));
        w = reinterpret_cast<const uint8_t *>(right_operand + (left > 0 ? column : 0));
        x_stride = left_stride * 2;
        w_stride = width * 2;
    }

    /// Starts the copies of the next stage, to shared address `slot`; they are a group.
    __device__ __forceinline__ void copy(uint32_t slot) {
        slot += to;
#pragma unroll
        for (int i = 0; i < XPasses; i++) {
            const bool real = left > 0 && i * Tile::PassRows < rows;
            const uint8_t *from = x + static_cast<uint64_t>(x_row[i]) * x_stride;
            cp_async_cg_shared_global_16(slot + i * Tile::PassRows * Tile::RowBytes, from, real ? 16 : 0);
        }
#pragma unroll
        for (int i = 0; i < WPasses; i++) {
            const uint8_t *from = w + static_cast<uint64_t>(w_row[i]) * w_stride;
            cp_async_cg_shared_global_16(slot + (Tile::Rows + i * Tile::PassRows) * Tile::RowBytes, from, left > 0 ? 16 : 0);
        }
        cp_async_commit_group();
        left -= Tile::Depth;
        if (left > 0) {
            x += Tile::RowBytes;
            w += Tile::RowBytes;
        }
    }
};

/// What a warp multiplies at a time: its rows of x and of W, 16 columns of k deep.
template <class Tile> struct Fragments {
    uint32_t x[Tile::WarpRows / 16][4];
    /// By eight columns of out.
    uint32_t w[Tile::WarpColumns / 8][2];

    /// Reads one step; `x_at` and `w_at` are where the lane's row of the first 16 has its vector.
    __device__ __forceinline__ void load(uint32_t x_at, uint32_t w_at) {
#pragma unroll
        for (int i = 0; i < Tile::WarpRows / 16; i++) {
            ldmatrix_x4(x[i], x_at + i * 16 * Tile::RowBytes);
        }
        if constexpr (Tile::WarpColumns == 8) {
            ldmatrix_x2(w[0], w_at);
        } else {
#pragma unroll
            for (int j = 0; j < Tile::WarpColumns / 16; j++) {
                uint32_t four[4];
                ldmatrix_x4(four, w_at + j * 16 * Tile::RowBytes);
                w[2 * j][0] = four[0];
                w[2 * j][1] = four[1];
                w[2 * j + 1][0] = four[2];
                w[2 * j + 1][1] = four[3];
            }
        }
    }
};

/// A warp's sums: lane l holds columns 2·(l % 4) and the next of rows l / 4 and l / 4 + 8 of each 16x8.
template <class Tile> using Sums = float[Tile::WarpRows / 16][Tile::WarpColumns / 8][4];

/// sums += x Wᵀ + h Bᵀ. Every number is one chain over k, 16 columns at a time, and then over the columns of h; zeros past
/// their ends change no bit. All of shared memory is free again when it returns.
template <class T, class Tile>
__device__ __forceinline__ void multiply(const GemmParams &p, const ColumnRuns<Tile> &columns, uint32_t tokens,
                                         Sums<Tile> &sums) {
    const uint32_t pipeline = cvta_to_shared(smem);
    Feed<Tile> feed(p, columns, tokens);
#pragma unroll 1
    for (int i = 0; i < Tile::Stages - 1; i++) {
        feed.turn(p);
        feed.stages--;
        feed.copy(pipeline + i * Tile::StageBytes);
    }

    // Lanes 0-15 have the rows of x and columns 0-7 of k, the others columns 8-15. For W, eight lanes each: rows 0-7
    // with columns 0-7 and 8-15, then rows 8-15.
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t warp_row = warp / Tile::ColumnWarps * Tile::WarpRows;
    const uint32_t warp_column = warp % Tile::ColumnWarps * Tile::WarpColumns;
    constexpr int Steps = Tile::Depth / 16;
    uint32_t x_at[Steps], w_at[Steps];
#pragma unroll
    for (int step = 0; step < Steps; step++) {
        x_at[step] = Tile::place(warp_row + lane % 16, 2 * step + lane / 16);
        w_at[step] = Tile::Rows * Tile::RowBytes + Tile::place(warp_column + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2);
    }

    // The stage that is read, and the one before it, which is copied to.
    uint32_t slot = pipeline, behind = pipeline + Tile::PipelineBytes - Tile::StageBytes;
    uint32_t stages = (p.k + Tile::Depth - 1) / Tile::Depth + (p.columns + Tile::Depth - 1) / Tile::Depth;
    // Two sets: one is read from shared memory while the tensor cores have the other.
    Fragments<Tile> fragments[2];
    cp_async_wait_group<Tile::Stages - 2>();
    __syncthreads();
    fragments[0].load(slot + x_at[0], slot + w_at[0]);
    while (stages != 0) {
        feed.turn(p);
        const uint32_t run = min(stages, feed.stages);
        stages -= run;
        feed.stages -= run;
#pragma unroll 1
        for (uint32_t stage = run; stage != 0; stage--) {
#pragma unroll
            for (int step = 0; step < Steps; step++) {
                if (step == Steps - 1) {
                    // The next stage has arrived, for all threads; and all have read the last of this one.
                    cp_async_wait_group<Tile::Stages - 2>();
                    __syncthreads();
                    behind = slot;
                    slot = slot + Tile::StageBytes == pipeline + Tile::PipelineBytes ? pipeline : slot + Tile::StageBytes;
                }
                const int next = (step + 1) % Steps;
                fragments[(step + 1) % 2].load(slot + x_at[next], slot + w_at[next]);
                if (step == 0) {
                    feed.copy(behind);
                }
                const Fragments<Tile> &now = fragments[step % 2];
#pragma unroll
                for (int i = 0; i < Tile::WarpRows / 16; i++) {
#pragma unroll
                    for (int j = 0; j < Tile::WarpColumns / 8; j++) {
                        T::mma(sums[i][j], now.x[i], now.w[j][0], now.w[j][1]);
                    }
                }
            }
        }
    }
    cp_async_wait_group<0>();
    __syncthreads();
}
