// computes: x = LN(x0 + y)·gamma + beta, h = (x Aᵀ)·weight·scale, out = f(x Wᵀ + h Bᵀ + bias): what layernorm.cu and
//     then gemm.cu compute, with the same bits. x0, y, x [tokens, k], W [n, k], A [columns, k], h [tokens, columns],
//     B [n, columns], out [tokens, n]; all 16-bit, accumulated in float32.
// grid: ⌈n / BLOCK_N⌉, BLOCK_N = 32. Every block normalises all rows; the first one writes x and h too.
// block and shared memory: NORM_GEMM_THREADS. Warps 0-3 ask for W; all eight then normalise two rows each, into
//     shared memory; then the first four multiply, 16x8 of the tile each, and the others end. Shared memory holds the
//     stages of W (gemm.cuh), later the tile in float32 (epilogue.cuh), and behind them x and h whole.
// bound by: bytes, 2·n·(k + columns) of weights; and the latency of one chain: x0 and y from L2, in every block
//     4·k·tokens bytes, two sums over a row, (k + columns) / 16 dependent MMAs.
// requires: tokens ≤ 16, k ≤ 1024, columns ≤ 64; pointers and strides aligned to 16 bytes; x and h apart from x0 and y.
//     Rows past tokens and columns past n, k and columns are neither read nor written.
// gates: registers <= 128, stack = 0, static shared = 0, blocks >= 2, instructions per mma <= 13.2, mma per ldsm >= 0.5
// gates sm_89: blocks >= 1
#include "epilogue.cuh"
#include "row.cuh"

namespace {

/// 36 KB of weights in flight per block while it normalises; 128 blocks for n = 4096.
typedef GemmTile<NORM_GEMM_ROWS, NORM_GEMM_COLUMNS, 16, 8, 64, 10, Resident::XAndH> Tile;
constexpr uint32_t kWarps = NORM_GEMM_THREADS / 32;
static_assert(Tile::kThreads <= NORM_GEMM_THREADS, "the block has the threads that multiply");
static_assert(NORM_GEMM_SHARED ==
                  Tile::kPipelineBytes + (ROW_WARP_COLUMNS + NORM_GEMM_MAX_LORA) / Tile::BLOCK_K * Tile::kXBytes,
              "the shared memory in params.h");

/// The columns of a row of x, or of h, with the rest of their last k-block.
__device__ __forceinline__ uint32_t whole_k_blocks(uint32_t columns) {
    return (columns + Tile::BLOCK_K - 1) / Tile::BLOCK_K * Tile::BLOCK_K;
}

/// A row of x and h in shared memory, as the products read them: h begins with a k-block of its own. The first block's
/// rows go to global memory as well.
struct ResidentRow {
    const LayerNormParams &p;
    uint32_t row;

    /// Of a column of x, or of the h behind it.
    __device__ __forceinline__ uint32_t address(uint32_t column) const {
        const uint32_t in_block = column % Tile::BLOCK_K;
        return cvta_to_shared(smem) + Tile::kPipelineBytes + column / Tile::BLOCK_K * Tile::kXBytes +
               Tile::smem_offset(row, in_block / ROW_VECTOR) + in_block % ROW_VECTOR * 2;
    }

    __device__ __forceinline__ void write(uint32_t column, uint4 v) const {
        st_shared_v4_b32(address(column), v);
        if (blockIdx.x == 0) {
            GlobalRow<LayerNormParams>(p, row).write(column, v);
        }
    }

    __device__ __forceinline__ void write_h(uint32_t column, uint16_t v) const {
        st_shared_b16(address(whole_k_blocks(p.hidden_size) + column), v);
        if (blockIdx.x == 0) {
            GlobalRow<LayerNormParams>(p, row).write_h(column, v);
        }
    }

    /// Zeros past the ends of x and h, or all over a row that is no token's: what is multiplied must be numbers.
    __device__ __forceinline__ void pad(uint32_t tokens) const {
        const uint32_t k = whole_k_blocks(p.hidden_size), end = k + whole_k_blocks(p.lora.columns);
#pragma unroll 1
        for (uint32_t column = threadIdx.x % 32 * ROW_VECTOR; column < end; column += 32 * ROW_VECTOR) {
            const bool written = column < k ? column < p.hidden_size : column - k < p.lora.columns;
            if (row >= tokens || !written) {
                st_shared_v4_b32(address(column), make_uint4(0, 0, 0, 0));
            }
        }
    }
};

/// This warp's rows of x and h.
template <class T> __device__ __forceinline__ void normalise(const LayerNormParams &p, uint32_t tokens) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll 1
    for (uint32_t row = warp; row < NORM_GEMM_ROWS; row += kWarps) {
        ResidentRow{p, row}.pad(tokens);
    }
    griddepcontrol_wait();
#pragma unroll 1
    for (uint32_t row = warp; row < tokens; row += kWarps) {
        RowThread thread(row, lane);
        RowAddends addends;
        addends.load(thread, p);
        const uint32_t sequence = p.lora.columns > 0 ? p.mixtures.sequence_of_row[row] : 0;
        const float column_scale = lora_scale(p.lora, p.mixtures, sequence, lane);
        RowFragment sum;
        addends.template add<T>(sum);
        norm_and_write<T>(thread, sum, p, sequence, column_scale, ResidentRow{p, row});
    }
}

template <class T> __device__ __forceinline__ void norm_gemm(const NormGemmParams &p) {
    griddepcontrol_launch_dependents();
    const uint32_t tokens = *p.norm.tokens;
    const ColumnMap<Tile> columns(p.gemm);
    const bool multiplies = threadIdx.x < Tile::kThreads;
    if (multiplies) {
        TileLoader<Tile>(p.gemm, columns, tokens).template fill<false, true>(p.gemm);
    }
    normalise<T>(p.norm, tokens);
    __syncthreads();
    if (multiplies) {
        rows_of_out<T, Tile>(p.gemm, columns, tokens, [&](Accumulators<Tile> &acc) {
            mainloop<T, Tile>(p.gemm, columns, tokens, acc);
        });
    }
}

} // namespace

extern "C" __global__ void __launch_bounds__(NORM_GEMM_THREADS, 2)
norm_gemm_bf16(const __grid_constant__ NormGemmParams p) {
    norm_gemm<Bf16>(p);
}

extern "C" __global__ void __launch_bounds__(NORM_GEMM_THREADS, 2)
norm_gemm_f16(const __grid_constant__ NormGemmParams p) {
    norm_gemm<F16>(p);
}
