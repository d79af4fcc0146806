// The GEMM main loop: x Wᵀ, both operands contiguous along k, through a multi-stage pipeline in shared memory.
//
// A stage holds one k-block: BLOCK_K columns of the tile's rows of x, then of its rows of W. Copies of the next
// kStages - 1 stages are in flight while the tensor cores work on one. A row of a stage is kRowVectors vectors of 16
// bytes, swizzled so that the eight rows that one ldmatrix phase reads, and the eight vectors that a quarter of a warp
// writes, lie in eight different bank groups: vector v of row r is stored at v ^ (r / rows per 128 bytes), modulo
// kRowVectors.
//
// Where the block has made x and h itself, all of their k-blocks lie behind the ring, laid out as in a stage, and the
// stages hold W and B alone (Resident::XAndH). Where other warps of it make h meanwhile, the main loop is x Wᵀ alone, and
// whoever called it adds h Bᵀ (Resident::H).
//
// A tile of several parts has one such pipeline, with threads of its own, for each of as many parts of k, h and B
// behind the last; whoever called the main loop adds their sums.
#pragma once

#include "dtype.cuh"
#include "params.h"
#include "smem.cuh"

/// What a block makes itself of what it multiplies. Then it has more threads than those that multiply.
enum class Resident { Nothing, XAndH, H };

/// Sizes of a block's tile of out, of a warp's part of it, and of the pipeline.
template <int BLOCK_M_, int BLOCK_N_, int WARP_M_, int WARP_N_, int BLOCK_K_, int STAGES,
          Resident RESIDENT = Resident::Nothing, int PARTS = 1>
struct GemmTile {
    static constexpr int BLOCK_M = BLOCK_M_, BLOCK_N = BLOCK_N_, BLOCK_K = BLOCK_K_;
    static constexpr int WARP_M = WARP_M_, WARP_N = WARP_N_;
    static constexpr int kStages = STAGES;
    static constexpr int kWarpsN = BLOCK_N / WARP_N;
    /// Those of one part.
    static constexpr int kThreads = 32 * (BLOCK_M / WARP_M) * kWarpsN;
    static constexpr int kParts = PARTS;
    /// 16-byte vectors in a row of a stage.
    static constexpr int kRowVectors = BLOCK_K / 8;
    /// Rows that all threads together copy in one pass.
    static constexpr int kRowsPerPass = kThreads / kRowVectors;
    static constexpr int kRowBytes = 2 * BLOCK_K;
    static constexpr bool kResidentX = RESIDENT == Resident::XAndH, kResidentH = RESIDENT == Resident::H;
    /// Where a stage has W: behind its x.
    static constexpr int kWOffset = kResidentX ? 0 : BLOCK_M * kRowBytes;
    static constexpr int kStageBytes = kWOffset + BLOCK_N * kRowBytes;
    /// Of one part.
    static constexpr int kPipelineBytes = kStages * kStageBytes;
    /// Bytes of a k-block of a resident x.
    static constexpr int kXBytes = BLOCK_M * kRowBytes;
    /// Whether W of the first stages comes before x does: where x is yet to be made, and where there are many stages,
    /// as there are if weights are what takes the time.
    static constexpr bool kWeightsAhead = kResidentX || (kDependentLaunch && kStages > 3);

    static_assert(kRowVectors == 4 || kRowVectors == 8, "smem_offset() swizzles rows of 64 or 128 bytes");
    static_assert(BLOCK_M % kRowsPerPass == 0 && BLOCK_N % kRowsPerPass == 0 && kRowsPerPass % 8 == 0,
                  "every pass copies whole groups of eight rows");
    static_assert(WARP_M % 16 == 0 && (WARP_N == 8 || WARP_N % 16 == 0), "a warp's part is whole MMAs");
    static_assert(BLOCK_N % 16 == 0, "a tile has both sides of its pairs");
    static_assert(PARTS == 1 || RESIDENT == Resident::Nothing, "what is resident is not in parts");

    /// The swizzled byte offset of a vector of a row, from the beginning of the operand in its stage.
    static __device__ __forceinline__ uint32_t smem_offset(uint32_t row, uint32_t vector) {
        return row * kRowBytes + (vector ^ row / (8 / kRowVectors) % kRowVectors) * 16;
    }

    /// K-steps of 16 columns.
    static constexpr int kSteps = BLOCK_K / 16;
    /// K-blocks of h and B that the main loop has, of so many columns.
    static __device__ __forceinline__ uint32_t adapter_k_blocks(uint32_t columns) {
        return kResidentH ? 0 : (columns + BLOCK_K - 1) / BLOCK_K;
    }

    /// The part of k that this thread multiplies, and its number among the part's threads.
    static __device__ __forceinline__ uint32_t part() { return PARTS == 1 ? 0 : threadIdx.x / kThreads; }
    static __device__ __forceinline__ uint32_t thread() { return PARTS == 1 ? threadIdx.x : threadIdx.x % kThreads; }

    /// The part's pipeline, and where what is resident begins.
    static __device__ __forceinline__ uint32_t pipeline() { return cvta_to_shared(smem) + part() * kPipelineBytes; }

    /// Whether the part is the one that h and B are behind.
    static __device__ __forceinline__ bool is_last() { return part() == PARTS - 1; }

    /// K-blocks of x and W: in all, before a part, and of this thread's.
    static __device__ __forceinline__ uint32_t all_k_blocks(uint32_t k) { return (k + BLOCK_K - 1) / BLOCK_K; }
    static __device__ __forceinline__ uint32_t k_blocks_before(uint32_t part, uint32_t k) {
        return part * all_k_blocks(k) / PARTS;
    }
    static __device__ __forceinline__ uint32_t part_k_blocks(uint32_t k) {
        return PARTS == 1 ? all_k_blocks(k) : k_blocks_before(part() + 1, k) - k_blocks_before(part(), k);
    }

    /// A barrier of the threads that multiply, of one part of k.
    static __device__ __forceinline__ void sync() {
        if constexpr (PARTS > 1) {
            bar_sync(1 + part(), kThreads);
        } else if constexpr (RESIDENT != Resident::Nothing) {
            bar_sync<1>(kThreads);
        } else {
            __syncthreads();
        }
    }
};

/// Maps columns of the tile to columns of out. A tile is a row of groups of 2·kRun columns, of which the second half
/// holds the rotation partners of the first, so that a warp of 16 columns or more has both sides of its pairs, whatever
/// the size of the heads. Without RoPE the columns keep their order.
template <class Tile> struct ColumnMap {
    /// At least eight columns, which are adjacent in out too: one access of 16 bytes.
    static constexpr uint32_t kRun = Tile::WARP_N > 16 ? Tile::WARP_N / 2 : 8;

    /// The tile's first pair. Pairs are numbered through all heads.
    uint32_t first_pair;
    /// Columns between the sides of a pair.
    uint32_t half;

    __device__ __forceinline__ explicit ColumnMap(const GemmParams &p) {
        first_pair = blockIdx.x * (Tile::BLOCK_N / 2);
        half = p.rope.table != nullptr ? p.rope.head_dim / 2 : kRun;
    }

    /// The column of out that tile column `tile_column` holds; that of its rotation partner is in column
    /// `tile_column ^ kRun`.
    __device__ __forceinline__ uint32_t operator[](uint32_t tile_column) const {
        const uint32_t pair = first_pair + tile_column / (2 * kRun) * kRun + tile_column % kRun;
        // Behind the upper sides of all heads before.
        return pair + (pair & ~(half - 1)) + (tile_column % (2 * kRun) < kRun ? 0 : half);
    }
};

/// Copies k-blocks of the operands to shared memory, one stage per call: first those of x and W, then those of h and B,
/// then zeros without end.
template <class Tile> struct TileLoader {
    static constexpr int kXPasses = Tile::BLOCK_M / Tile::kRowsPerPass, kWPasses = Tile::BLOCK_N / Tile::kRowsPerPass;

    /// The operands, at this thread's next vector of their row 0, and bytes between their rows.
    const uint8_t *x, *w;
    uint32_t x_stride, w_stride;
    /// Columns from this thread's next vector to the end of the operands; zero or negative past it.
    int32_t k_left;
    /// K-blocks of the current operands, and of h and B after them, that are not copied yet.
    uint32_t k_blocks, adapter_k_blocks;
    /// This thread's rows of x and W.
    uint32_t x_row[kXPasses], w_row[kWPasses];
    /// Rows from this thread's first row to the last token.
    int32_t rows_left;
    /// Byte offset of this thread's first vector in a stage.
    uint32_t stage_offset;

    __device__ __forceinline__ TileLoader(const GemmParams &p, const ColumnMap<Tile> &columns, uint32_t tokens) {
        const uint32_t row = Tile::thread() / Tile::kRowVectors;
        const uint32_t first_row = blockIdx.y * Tile::BLOCK_M + row;
        rows_left = static_cast<int32_t>(tokens - first_row);
        // Rows past the end are clamped to the last one: an address must be valid even if nothing is read from it or
        // what is read is not used.
#pragma unroll
        for (int i = 0; i < kXPasses; i++) {
            x_row[i] = min(first_row + i * Tile::kRowsPerPass, tokens - 1);
        }
#pragma unroll
        for (int i = 0; i < kWPasses; i++) {
            w_row[i] = min(columns[row + i * Tile::kRowsPerPass], p.n - 1);
        }
        stage_offset = Tile::smem_offset(row, Tile::thread() % Tile::kRowVectors);
        k_blocks = Tile::part_k_blocks(p.k);
        adapter_k_blocks = Tile::is_last() ? Tile::adapter_k_blocks(p.columns) : 0;
        set_operands(p.x, p.x_stride, p.w, p.k);
        if constexpr (Tile::kParts > 1) {
            const uint32_t first = Tile::k_blocks_before(Tile::part(), p.k);
            k_left -= static_cast<int32_t>(first * Tile::BLOCK_K);
            if (k_left > 0) {
                x += first * Tile::kRowBytes;
                w += first * Tile::kRowBytes;
            }
        }
    }

    /// Switches to h and B, or to zeros, if all k-blocks of the current operands are copied. Must be called before
    /// copy() wherever `k_blocks` may be 0. It is not a part of copy(), so that the main loop has one pair of operands.
    __device__ __forceinline__ void next_operands(const GemmParams &p) {
        if (k_blocks == 0) {
            k_blocks = 0xffffffff;
            if (adapter_k_blocks != 0) {
                k_blocks = adapter_k_blocks;
                adapter_k_blocks = 0;
                set_operands(p.h, p.columns, p.b, p.columns);
            } else if constexpr (Tile::kParts > 1) {
                k_left = 0; // What is left belongs to the next part.
            }
        }
    }

    /// Selects a left operand [tokens, left_stride] and a right operand [n, width].
    __device__ __forceinline__ void set_operands(const uint16_t *left, uint32_t left_stride, const uint16_t *right,
                                                 uint32_t width) {
        const uint32_t column = Tile::thread() % Tile::kRowVectors * 8;
        k_left = static_cast<int32_t>(width - column);
        x = reinterpret_cast<const uint8_t *>(left + (k_left > 0 ? column : 0));
        w = reinterpret_cast<const uint8_t *>(right + (k_left > 0 ? column : 0));
        x_stride = left_stride * 2;
        w_stride = width * 2;
    }

    /// Starts the copies of the next k-block to the stage at shared address `stage`: of x, of W, of both, or of none, to
    /// go past those that are under way. Copies of W alone belong to the group of the next copies of x, if any come.
    template <bool X = true, bool W = true> __device__ __forceinline__ void copy(uint32_t stage) {
        const uint32_t to = stage + stage_offset;
        if constexpr (X) {
#pragma unroll
            for (int i = 0; i < kXPasses; i++) {
                const bool inside = k_left > 0 && i * Tile::kRowsPerPass < rows_left;
                const uint8_t *from = x + static_cast<uint64_t>(x_row[i]) * x_stride;
                cp_async_cg_shared_global_16(to + i * Tile::kRowsPerPass * Tile::kRowBytes, from, inside ? 16 : 0);
            }
        }
        if constexpr (W) {
#pragma unroll
            for (int i = 0; i < kWPasses; i++) {
                const uint32_t offset = Tile::kWOffset + i * Tile::kRowsPerPass * Tile::kRowBytes;
                const uint8_t *from = w + static_cast<uint64_t>(w_row[i]) * w_stride;
                cp_async_cg_shared_global_16(to + offset, from, k_left > 0 ? 16 : 0);
            }
        }
        if constexpr (X || (W && Tile::kResidentX)) {
            cp_async_commit_group();
        }
        k_left -= Tile::BLOCK_K;
        if (k_left > 0) {
            x += Tile::kRowBytes;
            w += Tile::kRowBytes;
        }
    }

    /// Starts the copies to all stages but the last.
    template <bool X, bool W> __device__ __forceinline__ void fill(const GemmParams &p) {
#pragma unroll 1
        for (int i = 0; i < Tile::kStages - 1; i++) {
            next_operands(p);
            k_blocks--;
            copy<X, W>(Tile::pipeline() + i * Tile::kStageBytes);
        }
    }
};

/// Waits for the kernels before this one; meanwhile W may come, for as many stages as x then does. Returns whether the
/// block's tile has rows.
template <class Tile> __device__ __forceinline__ bool start(const GemmParams &p, uint32_t tokens) {
    griddepcontrol_launch_dependents();
    const bool has_rows = blockIdx.y * Tile::BLOCK_M < tokens;
    if constexpr (Tile::kWeightsAhead) {
        if (has_rows && (!Tile::kResidentH || threadIdx.x < Tile::kThreads)) {
            TileLoader<Tile>(p, ColumnMap<Tile>(p), tokens).template fill<false, true>(p);
        }
    }
    griddepcontrol_wait();
    return has_rows;
}

/// A warp's accumulators: lane l holds columns 2·(l % 4) and 2·(l % 4) + 1 of rows l / 4 and l / 4 + 8 of each 16x8.
template <class Tile> using Accumulators = float[Tile::WARP_M / 16][Tile::WARP_N / 8][4];

/// The MMA operands of a warp for one k-step (16 columns of k).
template <class Tile> struct Fragments {
    /// By 16 rows of x.
    uint32_t x[Tile::WARP_M / 16][4];
    /// By eight rows of W, which are columns of out.
    uint32_t w[Tile::WARP_N / 8][2];

    // The offsets from an operand's beginning that this lane passes to ldmatrix for the first 16 rows. For x, lanes 0-15
    // pass rows 0-15 at columns 0-7 of the k-step, lanes 16-31 the same rows at columns 8-15. For W, lanes 0-7 and 8-15
    // pass rows 0-7 at columns 0-7 and 8-15, lanes 16-31 rows 8-15 likewise.
    static __device__ __forceinline__ uint32_t x_offset(uint32_t step) {
        const uint32_t lane = threadIdx.x % 32, warp_row = Tile::thread() / 32 / Tile::kWarpsN * Tile::WARP_M;
        return Tile::smem_offset(warp_row + lane % 16, 2 * step + lane / 16);
    }
    static __device__ __forceinline__ uint32_t w_offset(uint32_t step) {
        const uint32_t lane = threadIdx.x % 32, warp_column = Tile::thread() / 32 % Tile::kWarpsN * Tile::WARP_N;
        return Tile::smem_offset(warp_column + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2);
    }

    /// Reads one k-step from these addresses.
    __device__ __forceinline__ void load(uint32_t x_address, uint32_t w_address) {
#pragma unroll
        for (int i = 0; i < Tile::WARP_M / 16; i++) {
            ldmatrix_x4(x[i], x_address + i * 16 * Tile::kRowBytes);
        }
        if constexpr (Tile::WARP_N == 8) {
            ldmatrix_x2(w[0], w_address);
        } else {
#pragma unroll
            for (int j = 0; j < Tile::WARP_N / 16; j++) {
                uint32_t matrices[4];
                ldmatrix_x4(matrices, w_address + j * 16 * Tile::kRowBytes);
                w[2 * j][0] = matrices[0];
                w[2 * j][1] = matrices[1];
                w[2 * j + 1][0] = matrices[2];
                w[2 * j + 1][1] = matrices[3];
            }
        }
    }

    /// acc += x Wᵀ for the k-step.
    template <class T> __device__ __forceinline__ void multiply(Accumulators<Tile> &acc) const {
#pragma unroll
        for (int i = 0; i < Tile::WARP_M / 16; i++) {
#pragma unroll
            for (int j = 0; j < Tile::WARP_N / 8; j++) {
                T::mma(acc[i][j], x[i], w[j][0], w[j][1]);
            }
        }
    }
};


/// acc += x Wᵀ + h Bᵀ, or x Wᵀ alone with Resident::H, after start(); of a tile in parts, this thread's part of it.
/// Every accumulator is one chain of MMAs over k in steps of 16, then over the columns of h; zeros past their ends
/// change no bit. On return no thread of the part uses its shared memory any longer.
template <class T, class Tile>
__device__ __forceinline__ void mainloop(const GemmParams &p, const ColumnMap<Tile> &columns, uint32_t tokens,
                                         Accumulators<Tile> &acc) {
    const uint32_t pipeline = Tile::pipeline();
    TileLoader<Tile> loader(p, columns, tokens);
    loader.template fill<!Tile::kResidentX, !Tile::kWeightsAhead>(p);

    constexpr int kSteps = Tile::kSteps;
    uint32_t x_offset[kSteps], w_offset[kSteps];
#pragma unroll
    for (int step = 0; step < kSteps; step++) {
        x_offset[step] = Fragments<Tile>::x_offset(step);
        w_offset[step] = Tile::kWOffset + Fragments<Tile>::w_offset(step);
    }

    // The stage that the tensor cores read, and the one before it in the ring, which the copies write.
    uint32_t read_stage = pipeline, write_stage = pipeline + Tile::kPipelineBytes - Tile::kStageBytes;
    const uint32_t columns_of_h = Tile::is_last() ? p.columns : 0;
    uint32_t k_blocks = Tile::part_k_blocks(p.k) + Tile::adapter_k_blocks(columns_of_h);
    // The k-block of a resident x that they read, up to the last one, where the read ahead is of no use.
    uint32_t x_block = pipeline + Tile::kPipelineBytes;
    const uint32_t last_x_block = x_block + (k_blocks - 1) * Tile::kXBytes;
    // Of 64 columns the last k-block may have 32 of h and B at most: the products of the other half are left out.
    const bool half = kSteps == 4 && !Tile::kResidentH && columns_of_h % 64 - 1u < 32;
    k_blocks -= half;
    // Double buffering in registers: one set is loaded from shared memory while the tensor cores use the other.
    Fragments<Tile> fragments[2];
    cp_async_wait_group<Tile::kStages - 2>();
    Tile::sync();
    fragments[0].load((Tile::kResidentX ? x_block : read_stage) + x_offset[0], read_stage + w_offset[0]);
    while (k_blocks != 0) {
        loader.next_operands(p);
        // The k-blocks until the loader's operands end.
        const uint32_t run = min(k_blocks, loader.k_blocks);
        k_blocks -= run;
        loader.k_blocks -= run;
#pragma unroll 1
        for (uint32_t left = run; left != 0; left--) {
#pragma unroll
            for (int step = 0; step < kSteps; step++) {
                if (step == kSteps - 1) {
                    // After this the next stage has arrived for all threads, and none reads the current stage again.
                    cp_async_wait_group<Tile::kStages - 2>();
                    Tile::sync();
                    write_stage = read_stage;
                    read_stage += Tile::kStageBytes;
                    read_stage = read_stage == pipeline + Tile::kPipelineBytes ? pipeline : read_stage;
                    x_block = min(x_block + Tile::kXBytes, last_x_block);
                }
                const int next = (step + 1) % kSteps;
                const uint32_t x_address = (Tile::kResidentX ? x_block : read_stage) + x_offset[next];
                fragments[(step + 1) % 2].load(x_address, read_stage + w_offset[next]);
                if (step == 0) {
                    loader.template copy<!Tile::kResidentX>(write_stage);
                }
                fragments[step % 2].template multiply<T>(acc);
            }
        }
    }
    if (half) {
        fragments[1].load((Tile::kResidentX ? x_block : read_stage) + x_offset[1], read_stage + w_offset[1]);
        fragments[0].template multiply<T>(acc);
        fragments[1].template multiply<T>(acc);
    }
    cp_async_wait_group<0>();
    Tile::sync();
}
