// computes: out[t, h] = softmax(q[t, h] k[s, h]ᵀ·scale) v[s, h] over the keys s of t's sequence, as ../attention.cu has
//     it for a head_dim of 64: the same types, sums and bits.
// grid: any size; blocks take (tile, head) work items gridDim.x apart. A tile is BLOCK_M queries of one sequence, 128
//     or 192, against 64 keys at a time.
// block and shared memory: one warpgroup copies (one thread of it, and one warp what is at the end of a sequence), the
//     others multiply, 64 queries each: two with 232 registers or three with 152. While the products of one step run,
//     the scores of the next become weights. Shared memory holds 16 stages of 8 KB, each 64 rows of q, k or v, 8 KB of
//     out per warpgroup that multiplies, and two barriers per stage.
// bound by: tensor cores, 4·64·length FLOP per query and head, and ex2, one per query, head and key: 64x64 scores take
//     a multiprocessor 256 clocks of each. Bytes: as ../attention.cu.
// requires: compute capability 9.0, rope null, a map of qkv with at least the rows of the sequences. Rows of neighbours
//     may be read, as queries and keys that do not count; never as values. Only the tiles' rows are written.
// gates: registers <= 168, stack = 0, static shared = 0, blocks >= 1
// gates hd64: instructions per mma <= 36, ex2 beside wgmma >= 33
// gates wgmma192: registers <= 128
#include "../dtype.cuh"
#include "../smem.cuh"
#include "../softmax.cuh"
#include "barrier.cuh"

constexpr uint32_t kHeadDim = 64;
/// Rows of a stage, of a warpgroup's queries and of a step over the keys.
constexpr uint32_t kRows = ATTENTION_SM90_BOX_ROWS;
constexpr uint32_t kRowBytes = 2 * kHeadDim;
constexpr uint32_t kBoxBytes = kRows * kRowBytes;
constexpr uint32_t kKSteps = kHeadDim / 16;
static_assert(kRows == ATTENTION_MAX_KEYS, "the key tile of the other kernels");

/// The byte offset of a vector of a row of 128 bytes, in the swizzle of TMA and wgmma.
__device__ __forceinline__ uint32_t smem_offset(uint32_t row, uint32_t vector) {
    return row * kRowBytes + (vector ^ row % 8) * 16;
}

/// wgmma by the type of its operands: of scores, q kᵀ, and of the output, p v.
template <class T> struct Wgmma;
template <> struct Wgmma<Bf16> {
    static __device__ __forceinline__ void scores(float (&d)[32], const uint32_t (&q)[4], uint64_t k, bool accumulate) {
        wgmma_m64n64k16_bf16_registers<false>(d, q, k, accumulate);
    }
    static __device__ __forceinline__ void output(float (&d)[32], const uint32_t (&p)[4], uint64_t v) {
        wgmma_m64n64k16_bf16_registers<true>(d, p, v, true);
    }
};
template <> struct Wgmma<F16> {
    static __device__ __forceinline__ void scores(float (&d)[32], const uint32_t (&q)[4], uint64_t k, bool accumulate) {
        wgmma_m64n64k16_f16_registers<false>(d, q, k, accumulate);
    }
    static __device__ __forceinline__ void output(float (&d)[32], const uint32_t (&p)[4], uint64_t v) {
        wgmma_m64n64k16_f16_registers<true>(d, p, v, true);
    }
};

/// A block's plan of shared memory, for so many warpgroups that multiply.
///
/// A stage holds 64 rows of one head's q, k or v. All go through one ring, in the order in which they are read: of each
/// item first q, 64 queries after 64, then k of the first 64 keys, k of the second, v of the first, k of the third, and
/// so on. A stage is `full` when it has been written and both roles that copy have passed it, and `empty` when every
/// warp that multiplies has: all roles go around the ring in step, stage by stage, whether or not they use it.
/// src/kernels/tests/ring.rs tries all orders in which they can.
template <int WARPGROUPS> struct Block {
    static constexpr uint32_t kWarpgroups = WARPGROUPS;
    static constexpr uint32_t kQueries = WARPGROUPS * kRows;
    static constexpr uint32_t kThreads = 128 * (WARPGROUPS + 1);
    static constexpr uint32_t kStages = 16;
    /// Where each warp stages its rows of out.
    static constexpr uint32_t kOut = kStages * kBoxBytes;
    static constexpr uint32_t kBarriers = kOut + WARPGROUPS * kBoxBytes;
    typedef StageRing<kStages, kBoxBytes, kBarriers> Ring;
    static constexpr uint32_t kSharedBytes = kBarriers + Ring::kBarrierBytes;

};

/// A tile of queries and a head. The order is that of ../attention.cu.
struct Item {
    /// The sequence's first row, and its rows.
    uint32_t start, length;
    /// The tile's first query in the sequence, and its queries.
    uint32_t first, queries;
    /// The head's first column in q, and in out.
    uint32_t column;

    template <class Block> static __device__ __forceinline__ Item at(const AttentionParams &p, uint32_t item) {
        const AttentionTile tile = p.tiles[item / p.heads];
        Item x;
        x.start = p.cu_seqlens[tile.sequence];
        x.length = p.cu_seqlens[tile.sequence + 1] - x.start;
        x.first = tile.first;
        x.queries = min(x.length - x.first, Block::kQueries);
        x.column = item % p.heads * kHeadDim;
        return x;
    }
};

/// Fills the stages. TAIL: one warp, which fills those with the values of the last keys, if these are fewer than 64;
/// the others are filled by one thread, by bulk copies of whole boxes. A box would bring in the rows of the next
/// sequence, or whatever lies behind the last one: as keys these are masked, but as values their NaN would remain NaN
/// under a weight of zero.
template <class Block, bool TAIL> struct Producer {
    const AttentionSm90Params &p;
    Watch watch;
    RingPosition<Block::kStages> at;

    __device__ __forceinline__ void run(uint32_t items) {
        const uint32_t width = p.attention.heads * kHeadDim;
#pragma unroll 1
        for (uint32_t i = blockIdx.x; i < items; i += gridDim.x) {
            const Item item = Item::at<Block>(p.attention, i);
            for (uint32_t row = 0; row < item.queries; row += kRows) {
                fill(item.column, item.start + item.first + row, kRows);
            }
            fill(item.column + width, item.start, kRows);
            for (uint32_t key = 0; key < item.length; key += kRows) {
                if (key + kRows < item.length) {
                    fill(item.column + width, item.start + key + kRows, kRows);
                }
                fill(item.column + 2 * width, item.start + key, min(item.length - key, kRows));
            }
        }
    }

    /// Fills the next stage with rows of qkv, if that is this role's, and with zeros where there are less than 64. Both
    /// roles arrive for every stage: one that only waited could do so too late, when the stage is at its next phase
    /// again.
    __device__ __forceinline__ void fill(uint32_t column, uint32_t row, uint32_t rows) {
        const uint32_t stage = Block::Ring::stage(at.stage), full = Block::Ring::full(at.stage);
        watch.wait(Block::Ring::empty(at.stage), at.parity ^ 1);
        if (TAIL) {
            if (rows < kRows) {
                copy(stage, p.attention.qkv + static_cast<uint64_t>(row) * p.attention.qkv_stride + column, rows);
            }
            __syncwarp(); // Every lane has waited, and fenced its part.
            if (threadIdx.x % 32 == 0) {
                mbarrier_arrive(full);
            }
        } else if (rows < kRows) {
            mbarrier_arrive(full);
        } else {
            mbarrier_arrive_expect_tx(full, kBoxBytes);
            cp_async_bulk_tensor_2d_shared_global(stage, p.qkv, column, row, full);
        }
        at.advance();
    }

    __device__ __forceinline__ void copy(uint32_t stage, const uint16_t *from, uint32_t rows) const {
        const uint32_t lane = threadIdx.x % 32, vector = lane % 8;
#pragma unroll 4
        for (uint32_t row = lane / 8; row < kRows; row += 4) {
            const bool inside = row < rows;
            const uint64_t offset = static_cast<uint64_t>(inside ? row : 0) * p.attention.qkv_stride;
            cp_async_cg_shared_global_16(stage + smem_offset(row, vector), from + offset + 8 * vector, inside ? 16 : 0);
        }
        cp_async_commit_group();
        cp_async_wait_group<0>();
        fence_proxy_async(); // wgmma reads them.
    }
};

/// Multiplies: the queries of one warpgroup.
template <class T, class Block> struct Consumer {
    const AttentionParams &p;
    Watch watch;
    RingPosition<Block::kStages> next, held;

    __device__ __forceinline__ void run(uint32_t items) {
        const uint32_t warpgroup = threadIdx.x / 128 - 1;
        const float scale_log2 = p.scale * 1.44269504f; // log2 e
#pragma unroll 1
        for (uint32_t i = blockIdx.x; i < items; i += gridDim.x) {
            const Item item = Item::at<Block>(p, i);
            uint32_t q[kKSteps][4];
            for (uint32_t row = 0; row < item.queries; row += kRows) {
                const uint32_t stage = await();
                if (row == warpgroup * kRows) {
                    load_queries(q, stage);
                }
                release();
            }
            if (warpgroup * kRows >= item.queries) {
                for (uint32_t key = 0; key < item.length; key += kRows) {
                    await(), release();
                    await(), release();
                }
                continue;
            }

            // The product of the weights with the values of one step runs while the scores of the next become weights.
            float acc[kHeadDim / 8][4] = {}, scores[kRows / 8][4], factors[2];
            uint32_t weights[kRows / 16][4];
            OnlineSoftmax softmax;
            multiply_keys(flat(scores), q, await());
            wgmma_wait_group<0>();
            release();
            mask(scores, item.length);
            softmax.weigh(scores, factors, scale_log2);
            softmax.rescale(acc, factors);
            pack(weights, scores);
            uint32_t stage = await();
#pragma unroll 1
            for (uint32_t key = kRows; key < item.length; key += kRows) {
                multiply_keys(flat(scores), q, stage);
                multiply_values(flat(acc), weights, await());
                wgmma_wait_group<1>();
                release();
                mask(scores, item.length - key);
                softmax.weigh(scores, factors, scale_log2);
                // Here, because the branches of this wait keep ptxas from moving the next one up, before the weights.
                stage = await();
                wgmma_wait_group<0>();
                release();
                softmax.rescale(acc, factors);
                pack(weights, scores);
            }
            multiply_values(flat(acc), weights, stage);
            wgmma_wait_group<0>();
            release();
            store(acc, softmax, item, warpgroup);
        }
    }

    /// Waits until the next stage is full, and gives its address.
    __device__ __forceinline__ uint32_t await() {
        watch.wait(Block::Ring::full(next.stage), next.parity);
        const uint32_t stage = Block::Ring::stage(next.stage);
        next.advance();
        return stage;
    }

    /// Gives back the first of the stages that were awaited and not given back.
    __device__ __forceinline__ void release() {
        __syncwarp(); // Every lane has waited, and read.
        if (threadIdx.x % 32 == 0) {
            mbarrier_arrive(Block::Ring::empty(held.stage));
        }
        held.advance();
    }

    /// The accumulators of wgmma are those of m16n8k16, one after the other.
    static __device__ __forceinline__ float (&flat(float (&d)[8][4]))[32] {
        return reinterpret_cast<float(&)[32]>(d);
    }

    /// The warp's queries stay in registers for all keys, so that wgmma reads only keys from shared memory.
    static __device__ __forceinline__ void load_queries(uint32_t (&q)[kKSteps][4], uint32_t stage) {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
#pragma unroll
        for (int step = 0; step < kKSteps; step++) {
            ldmatrix_x4(q[step], stage + (smem_offset(16 * warp + lane % 16, lane / 16) ^ step * 32));
        }
    }

    /// Begins S = Q Kᵀ, accumulated in ascending order of the head's elements.
    static __device__ __forceinline__ void multiply_keys(float (&scores)[32], const uint32_t (&q)[kKSteps][4],
                                                         uint32_t stage) {
        const uint64_t k = wgmma_descriptor(stage);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < kKSteps; step++) {
            Wgmma<T>::scores(scores, q[step], wgmma_descriptor_at(k, step * 32), step > 0);
        }
        wgmma_commit_group();
    }

    /// Rounds the weights. The accumulators of two adjacent blocks of eight columns of S have the layout of one A
    /// operand.
    static __device__ __forceinline__ void pack(uint32_t (&weights)[kRows / 16][4],
                                                const float (&scores)[kRows / 8][4]) {
#pragma unroll
        for (int step = 0; step < kRows / 16; step++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float(&of)[4] = scores[2 * step + i / 2];
                weights[step][i] = T::pack(of[i % 2 * 2], of[i % 2 * 2 + 1]);
            }
        }
    }

    /// Begins O += P V, in ascending order of the keys.
    static __device__ __forceinline__ void multiply_values(float (&acc)[32], const uint32_t (&weights)[kRows / 16][4],
                                                           uint32_t stage) {
        const uint64_t v = wgmma_descriptor(stage);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < kRows / 16; step++) {
            Wgmma<T>::output(acc, weights[step], wgmma_descriptor_at(v, step * 16 * kRowBytes));
        }
        wgmma_commit_group();
    }

    /// Takes the keys from `keys` on out: in the last tile only, if at all.
    static __device__ __forceinline__ void mask(float (&scores)[kRows / 8][4], uint32_t keys) {
        const uint32_t lane = threadIdx.x % 32;
        if (keys >= kRows) {
            return;
        }
#pragma unroll
        for (int n = 0; n < kRows / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                scores[n][i] = 8 * n + lane % 4 * 2 + i % 2 < keys ? scores[n][i] : -INFINITY;
            }
        }
    }

    /// Stores the warp's rows of out by way of shared memory, in 16-byte vectors.
    __device__ __forceinline__ void store(const float (&acc)[kHeadDim / 8][4], const OnlineSoftmax &softmax,
                                          const Item &item, uint32_t warpgroup) const {
        const uint32_t lane = threadIdx.x % 32, warp_row = warpgroup * kRows + threadIdx.x / 32 % 4 * 16;
        const uint32_t staging = cvta_to_shared(smem) + Block::kOut + warp_row * kRowBytes;
        const float inverse[2] = {softmax.inverse_sum(0), softmax.inverse_sum(1)};
        __syncwarp(); // The rows of the item before have been read.
#pragma unroll
        for (int n = 0; n < kHeadDim / 8; n += 2) {
            uint32_t m[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float(&of)[4] = acc[n + i / 2];
                m[i] = T::pack(of[i % 2 * 2] * inverse[i % 2], of[i % 2 * 2 + 1] * inverse[i % 2]);
            }
            stmatrix_x4(staging + (smem_offset(lane % 16, lane / 16) ^ n * 16), m[0], m[1], m[2], m[3]);
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t row = 4 * i + lane / 8, vector = lane % 8;
            if (warp_row + row < item.queries) {
                const uint64_t at_row = static_cast<uint64_t>(item.start + item.first + warp_row + row) * p.out_stride;
                st_global_v4_b32(p.out + at_row + item.column + 8 * vector,
                                 ld_shared_v4_b32(staging + smem_offset(row, vector)));
            }
        }
    }
};

/// PRODUCER, CONSUMER: registers of a thread that copies, and of one that multiplies.
template <class T, class Block, int PRODUCER, int CONSUMER>
__device__ __forceinline__ void attention(const AttentionSm90Params &p) {
    griddepcontrol_launch_dependents();
    const Watch watch{p.stall, STALL_ATTENTION};
    if (threadIdx.x == 0) {
        prefetch_tensormap(p.qkv);
        Block::Ring::init(2, 4 * Block::kWarpgroups);
    }
    __syncthreads();
    const uint32_t items = *p.attention.tile_count * p.attention.heads;
    griddepcontrol_wait();
    if (threadIdx.x < 128) {
        setmaxnreg_dec<PRODUCER>();
        if (threadIdx.x == 0) {
            Producer<Block, false>{p, watch}.run(items);
        } else if (threadIdx.x / 32 == 1) {
            Producer<Block, true>{p, watch}.run(items);
        }
    } else {
        setmaxnreg_inc<CONSUMER>();
        Consumer<T, Block>{p.attention, watch}.run(items);
    }
}

typedef Block<2> Two;
typedef Block<3> Three;
static_assert(Two::kQueries == ATTENTION_WGMMA128_ROWS && Two::kThreads == ATTENTION_WGMMA128_THREADS &&
                  Two::kSharedBytes == ATTENTION_WGMMA128_SHARED,
              "as params.h has it");
static_assert(Three::kQueries == ATTENTION_WGMMA192_ROWS && Three::kThreads == ATTENTION_WGMMA192_THREADS &&
                  Three::kSharedBytes == ATTENTION_WGMMA192_SHARED,
              "as params.h has it");

extern "C" __global__ void __launch_bounds__(Two::kThreads, 1)
attention_bf16_hd64_wgmma128(const __grid_constant__ AttentionSm90Params p) {
    attention<Bf16, Two, 40, 232>(p);
}

extern "C" __global__ void __launch_bounds__(Two::kThreads, 1)
attention_f16_hd64_wgmma128(const __grid_constant__ AttentionSm90Params p) {
    attention<F16, Two, 40, 232>(p);
}

extern "C" __global__ void __launch_bounds__(Three::kThreads, 1)
attention_bf16_hd64_wgmma192(const __grid_constant__ AttentionSm90Params p) {
    attention<Bf16, Three, 40, 152>(p);
}

extern "C" __global__ void __launch_bounds__(Three::kThreads, 1)
attention_f16_hd64_wgmma192(const __grid_constant__ AttentionSm90Params p) {
    attention<F16, Three, 40, 152>(p);
}
