// computes: out[t, h] = softmax(q[t, h] k[s, h]ᵀ·scale) v[s, h] over the keys s of t's sequence, as ../attention.cu has
//     it for a head_dim of 64: the same types, sums and bits.
// grid: any size; blocks take (tile, head) work items gridDim.x apart. A tile is BLOCK_M queries of one sequence, 64 or
//     128, against 64 keys at a time.
// block and shared memory: one warpgroup copies (one warp of it), the others multiply, 64 queries each: one with 128
//     registers, of three blocks per multiprocessor, or two with 232. Shared memory holds a ring of 7 stages of 8 KB or
//     8 of 16 KB, each BLOCK_M rows of q, k or v, 8 KB of out per warpgroup that multiplies, and per stage two barriers
//     and 16 bytes of word about the item.
// bound by: tensor cores, 4·64·length FLOP per query and head, and ex2, one per query, head and key: 64x64 scores take
//     a multiprocessor 256 clocks of each. Bytes: as ../attention.cu.
// requires: compute capability 9.0, rope null, a map of qkv with at least the rows of the sequences. Rows of neighbours
//     may be read, but none counts: as queries they are not stored, as keys they are masked, as values they are zeroed
//     before they are multiplied. Only the tiles' rows are written.
// gates: registers <= 168, stack = 0, static shared = 0, blocks >= 1, boxes per turn = 2, instructions that copy <= 48
// gates wgmma128: instructions per mma <= 31, ex2 beside wgmma >= 33
// gates wgmma64: instructions per mma <= 34, registers <= 80, blocks >= 3
#include "../dtype.cuh"
#include "../smem.cuh"
#include "../softmax.cuh"
#include "barrier.cuh"

constexpr uint32_t kHeadDim = 64;
/// Queries of a warpgroup, and keys of a step.
constexpr uint32_t kRows = 64;
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
    static __device__ __forceinline__ void scores_first(float (&d)[32], const uint32_t (&q)[4], uint64_t k) {
        wgmma_m64n64k16_bf16_registers_first(d, q, k);
    }
    static __device__ __forceinline__ void scores(float (&d)[32], const uint32_t (&q)[4], uint64_t k) {
        wgmma_m64n64k16_bf16_registers<false>(d, q, k);
    }
    static __device__ __forceinline__ void output(float (&d)[32], const uint32_t (&p)[4], uint64_t v) {
        wgmma_m64n64k16_bf16_registers<true>(d, p, v);
    }
};
template <> struct Wgmma<F16> {
    static __device__ __forceinline__ void scores_first(float (&d)[32], const uint32_t (&q)[4], uint64_t k) {
        wgmma_m64n64k16_f16_registers_first(d, q, k);
    }
    static __device__ __forceinline__ void scores(float (&d)[32], const uint32_t (&q)[4], uint64_t k) {
        wgmma_m64n64k16_f16_registers<false>(d, q, k);
    }
    static __device__ __forceinline__ void output(float (&d)[32], const uint32_t (&p)[4], uint64_t v) {
        wgmma_m64n64k16_f16_registers<true>(d, p, v);
    }
};

/// A block's plan of shared memory, for so many warpgroups that multiply.
///
/// A stage holds as many rows of one head's q, k or v as a tile has queries. All go through one ring, in the order in
/// which they are read: of each item q, then k and v of its first keys, k and v of the next, and so on. A stage is
/// `full` when it has been written, and `empty` when every warp that multiplies has passed it, whether or not it has
/// queries in the tile. src/kernels/tests/ring.rs tries all orders in which they can.
template <int WARPGROUPS, int STAGES> struct Block {
    static constexpr uint32_t kWarpgroups = WARPGROUPS;
    static constexpr uint32_t kQueries = WARPGROUPS * kRows;
    static constexpr uint32_t kThreads = 128 * (WARPGROUPS + 1);
    static constexpr uint32_t kStages = STAGES;
    static constexpr uint32_t kStageBytes = WARPGROUPS * kBoxBytes;
    /// Where each warp stages its rows of out.
    static constexpr uint32_t kOut = kStages * kStageBytes;
    /// For each stage an Item, which counts if the stage holds queries.
    static constexpr uint32_t kItems = kOut + WARPGROUPS * kBoxBytes;
    static constexpr uint32_t kBarriers = kItems + kStages * 16;
    typedef StageRing<kStages, kStageBytes, kBarriers> Ring;
    static constexpr uint32_t kSharedBytes = kBarriers + Ring::kBarrierBytes;

    /// Of the stage of that number.
    static __device__ __forceinline__ uint32_t item(uint32_t number) {
        return cvta_to_shared(smem) + kItems + number * 16;
    }
};

/// A tile of queries and a head. The order is that of ../attention.cu.
struct Item {
    /// The sequence's first row, and its rows.
    uint32_t start, length;
    /// The tile's first query in the sequence.
    uint32_t first;
    /// The head's first column in q, and in out.
    uint32_t column;

    static __device__ __forceinline__ Item at(const AttentionParams &p, uint32_t item) {
        const AttentionTile tile = p.tiles[item / p.heads];
        const uint32_t start = p.cu_seqlens[tile.sequence];
        return {start, p.cu_seqlens[tile.sequence + 1] - start, tile.first, item % p.heads * kHeadDim};
    }

    /// From shared memory. Shuffled, so that ptxas knows what decides branches to be the same in all lanes.
    static __device__ __forceinline__ Item load(uint32_t address) {
        const uint4 v = ld_shared_v4_b32(address);
        return {v.x, __shfl_sync(0xffffffffu, v.y, 0), __shfl_sync(0xffffffffu, v.z, 0), v.w};
    }
};

/// Fills the stages by bulk copies of whole boxes: one warp, of which one lane copies, as in produce() of gemm.cuh. At
/// the end of a sequence a box brings in rows of the next one, or zeros behind the last row: see Consumer::clear.
template <class Block> struct Producer {
    const AttentionSm90Params &p;
    Watch watch;
    typename Block::Ring::Position at;

    __device__ __forceinline__ void run(uint32_t items) {
        const uint32_t width = p.attention.heads * kHeadDim;
#pragma unroll 1
        for (uint32_t i = blockIdx.x; i < items; i += gridDim.x) {
            const Item item = Item::at(p.attention, i);
            await();
            fill(item.column, item.start + item.first, [&] {
                // So that those who multiply need not wait for global memory. The stage's barrier shows it to them.
                st_shared_v4_b32(Block::item(at.number), make_uint4(item.start, item.length, item.first, item.column));
            });
            for (uint32_t key = 0; key < item.length; key += Block::kQueries) {
                await();
                fill(item.column + width, item.start + key, [] {});
                await();
                fill(item.column + 2 * width, item.start + key, [] {});
            }
        }
    }

    /// Waits until the next stage is empty.
    __device__ __forceinline__ void await() const { watch.wait(at.empty(), at.parity ^ 1); }

    /// Fills it; `first` is called by the thread that does.
    template <class First> __device__ __forceinline__ void fill(uint32_t column, uint32_t row, First first) {
        if (elect_sync()) {
            first();
            mbarrier_arrive_expect_tx(at.full, Block::kStageBytes);
            cp_async_bulk_tensor_2d_shared_global(at.stage, p.qkv, column, row, at.full);
        }
        at.advance();
    }
};

/// Multiplies: the queries of one warpgroup.
template <class T, class Block> struct Consumer {
    const AttentionParams &p;
    Watch watch;
    /// Of those that multiply.
    uint32_t warpgroup;
    float scale_log2;
    typename Block::Ring::Position next, held;
    uint32_t q[kKSteps][4];
    float acc[kHeadDim / 8][4];
    OnlineSoftmax softmax;

    __device__ __forceinline__ void run(uint32_t items) {
#pragma unroll 1
        for (uint32_t i = blockIdx.x; i < items; i += gridDim.x) {
            const uint32_t address = Block::item(next.number), stage = await();
            const Item item = Item::load(address);
            load_queries(stage + warpgroup * kBoxBytes);
            release();
            if (item.first + warpgroup * kRows >= item.length) {
                for (uint32_t key = 0; key < item.length; key += Block::kQueries) {
                    await(), release();
                    await(), release();
                }
                continue;
            }
            softmax = OnlineSoftmax();
#pragma unroll
            for (int n = 0; n < kHeadDim / 8; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    acc[n][i] = 0.0f;
                }
            }
            if constexpr (Block::kWarpgroups == 1) {
                attend(item);
            } else {
                attend_ahead(item);
            }
            store(item);
        }
    }

    /// One step after the other: the scores of 64 keys become weights, then the products with their values and those
    /// with the next keys run. Beside the ex2 of this block the tensor cores have the products of the multiprocessor's
    /// other blocks. Measured on an H200, 16 sequences of 512 tokens: 6 % less time than with the products of the
    /// values beside the next ex2.
    __device__ __forceinline__ void attend(const Item &item) {
        float scores[kRows / 8][4];
        uint32_t weights[kRows / 16][4];
        multiply_keys(scores, await());
        uint32_t keys = item.length;
#pragma unroll 1
        for (; keys > kRows; keys -= kRows) {
            step<false>(scores, weights, item, keys);
            multiply_keys(scores, await());
            wgmma_wait_group<1>();
            release(); // The values.
        }
        step<true>(scores, weights, item, keys);
        wgmma_wait_group<0>();
        release();
    }

    template <bool LAST>
    __device__ __forceinline__ void step(float (&scores)[kRows / 8][4], uint32_t (&weights)[kRows / 16][4],
                                         const Item &item, uint32_t keys) {
        wgmma_wait_group<0>();
        release(); // The keys.
        if (LAST) {
            mask(scores, keys);
        }
        float factors[2];
        softmax.weigh(scores, factors, scale_log2);
        const uint32_t stage = await();
        if (LAST) {
            clear(stage, keys, item);
        }
        softmax.rescale(acc, factors);
        pack(weights, scores);
        multiply_values(weights, stage);
    }

    /// Two steps for each stage of 128 keys. While the scores of 64 become weights, the products with the next 64 keys
    /// run, into other registers, behind those of the weights before with their values. Measured on an H200: of the
    /// orders tried, the fastest at 1024 tokens and more.
    __device__ __forceinline__ void attend_ahead(const Item &item) {
        float a[kRows / 8][4], b[kRows / 8][4];
        uint32_t stage = await();
        multiply_keys(a, stage);
        wgmma_wait_group<0>();
        uint32_t key = 0;
#pragma unroll 1
        for (; key + 2 * kRows < item.length; key += 2 * kRows) {
            stage = two_steps<false, true>(a, b, stage, item, key);
        }
        if (key + kRows < item.length) {
            two_steps<true, true>(a, b, stage, item, key);
        } else {
            two_steps<true, false>(a, b, stage, item, key);
        }
        wgmma_wait_group<0>();
        release();
    }

    /// The keys from `key` on, in `stage`: 64 whose scores are in `a`, and if SECOND others. Unless they are the LAST,
    /// `a` then has the scores of the first keys of the stage that it returns.
    template <bool LAST, bool SECOND>
    __device__ __forceinline__ uint32_t two_steps(float (&a)[kRows / 8][4], float (&b)[kRows / 8][4], uint32_t stage,
                                                  const Item &item, uint32_t key) {
        float factors[2];
        uint32_t weights[kRows / 16][4], next_stage = stage;
        if (SECOND) {
            multiply_keys(b, stage + kBoxBytes);
        } else {
            mask(a, item.length - key);
        }
        softmax.weigh(a, factors, scale_log2);
        const uint32_t values = await();
        if (LAST) {
            clear(values, item.length - key, item);
        }
        wgmma_wait_group<SECOND ? 1 : 0>();
        if (key > 0) {
            release(); // The values before.
        }
        softmax.rescale(acc, factors);
        pack(weights, a);
        multiply_values(weights, values);
        if (SECOND) {
            wgmma_wait_group<1>();
        }
        release(); // The keys.
        if (SECOND) {
            if (LAST) {
                mask(b, item.length - key - kRows);
            } else {
                next_stage = await();
                multiply_keys(a, next_stage);
            }
            softmax.weigh(b, factors, scale_log2);
            wgmma_wait_group<LAST ? 0 : 1>();
            softmax.rescale(acc, factors);
            pack(weights, b);
            multiply_values(weights, values + kBoxBytes);
            if (!LAST) {
                wgmma_wait_group<1>();
            }
        }
        return next_stage;
    }

    /// Waits until the next stage is full, and gives its address.
    __device__ __forceinline__ uint32_t await() {
        watch.wait(next.full, next.parity);
        const uint32_t stage = next.stage;
        next.advance();
        return stage;
    }

    /// Gives back the first of the stages that were awaited and not given back.
    __device__ __forceinline__ void release() {
        __syncwarp(); // Every lane has waited, and read.
        if (threadIdx.x % 32 == 0) {
            mbarrier_arrive(held.empty());
        }
        held.advance();
    }

    /// Zeros the values of a stage from `keys` on, as far as they are multiplied: their weights are zero, but under
    /// these NaN of another sequence would remain NaN. All warpgroups with queries in the tile do it together.
    __device__ __forceinline__ void clear(uint32_t stage, uint32_t keys, const Item &item) const {
        const uint32_t end = (keys + kRows - 1) / kRows * kRows;
        if (keys == end) {
            return;
        }
        const uint32_t warpgroups = min((item.length - item.first + kRows - 1) / kRows, Block::kWarpgroups);
#pragma unroll 1
        for (uint32_t at = keys * kRowBytes + (threadIdx.x - 128) * 16; at < end * kRowBytes;
             at += 128 * 16 * warpgroups) {
            st_shared_v4_b32(stage + at, make_uint4(0, 0, 0, 0));
        }
        fence_proxy_async(); // wgmma reads them.
        // A barrier for each number of threads: a warpgroup without queries here may wait at the next item already.
        if (Block::kWarpgroups > 1 && warpgroups == 1) {
            bar_sync<2>(128);
        } else {
            bar_sync<1>(128 * Block::kWarpgroups);
        }
    }

    /// The accumulators of wgmma are those of m16n8k16, one after the other.
    static __device__ __forceinline__ float (&flat(float (&d)[8][4]))[32] {
        return reinterpret_cast<float(&)[32]>(d);
    }

    /// The warp's queries stay in registers for all keys, so that wgmma reads only keys from shared memory.
    __device__ __forceinline__ void load_queries(uint32_t stage) {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
#pragma unroll
        for (int step = 0; step < kKSteps; step++) {
            ldmatrix_x4(q[step], stage + (smem_offset(16 * warp + lane % 16, lane / 16) ^ step * 32));
        }
    }

    /// Begins S = Q Kᵀ, accumulated in ascending order of the head's elements.
    __device__ __forceinline__ void multiply_keys(float (&scores)[kRows / 8][4], uint32_t stage) const {
        const uint64_t k = wgmma_descriptor(stage);
        wgmma_fence();
        Wgmma<T>::scores_first(flat(scores), q[0], k);
#pragma unroll
        for (int step = 1; step < kKSteps; step++) {
            Wgmma<T>::scores(flat(scores), q[step], wgmma_descriptor_at(k, step * 32));
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

    /// Keeps what writes the accumulators before the fence that follows: the compiler may move arithmetic past it.
    static __device__ __forceinline__ void pin(float (&d)[8][4]) {
#pragma unroll
        for (int n = 0; n < 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                asm volatile("" : "+f"(d[n][i]));
            }
        }
    }

    /// Begins O += P V, in ascending order of the keys.
    __device__ __forceinline__ void multiply_values(const uint32_t (&weights)[kRows / 16][4], uint32_t stage) {
        const uint64_t v = wgmma_descriptor(stage);
        pin(acc);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < kRows / 16; step++) {
            Wgmma<T>::output(flat(acc), weights[step], wgmma_descriptor_at(v, step * 16 * kRowBytes));
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
    __device__ __forceinline__ void store(const Item &item) const {
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
            if (item.first + warp_row + row < item.length) {
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
    // From one lane, so that the compiler knows that a warp does not diverge here.
    const uint32_t warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
    if (warp == 0 && elect_sync()) {
        prefetch_tensormap(p.qkv);
        Block::Ring::init(1, 4 * Block::kWarpgroups);
    }
    __syncthreads();
    const uint32_t items = *p.attention.tile_count * p.attention.heads;
    griddepcontrol_wait();
    if (warp < 4) {
        setmaxnreg_dec<PRODUCER>();
        if (warp == 0) {
            Producer<Block>{p, watch}.run(items);
        }
    } else {
        setmaxnreg_inc<CONSUMER>();
        const uint32_t warpgroup = warp / 4 - 1;
        const float scale_log2 = p.attention.scale * 1.44269504f; // log2 e
        Consumer<T, Block>{p.attention, watch, warpgroup, scale_log2}.run(items);
    }
}

typedef Block<1, 7> One;
typedef Block<2, 8> Two;
static_assert(One::kQueries == ATTENTION_WGMMA64_ROWS && One::kThreads == ATTENTION_WGMMA64_THREADS &&
                  One::kSharedBytes == ATTENTION_WGMMA64_SHARED,
              "as params.h has it");
static_assert(Two::kQueries == ATTENTION_WGMMA128_ROWS && Two::kThreads == ATTENTION_WGMMA128_THREADS &&
                  Two::kSharedBytes == ATTENTION_WGMMA128_SHARED,
              "as params.h has it");

extern "C" __global__ void __launch_bounds__(One::kThreads, ATTENTION_WGMMA64_BLOCKS)
attention_bf16_hd64_wgmma64(const __grid_constant__ AttentionSm90Params p) {
    attention<Bf16, One, 32, 128>(p);
}

extern "C" __global__ void __launch_bounds__(One::kThreads, ATTENTION_WGMMA64_BLOCKS)
attention_f16_hd64_wgmma64(const __grid_constant__ AttentionSm90Params p) {
    attention<F16, One, 32, 128>(p);
}

extern "C" __global__ void __launch_bounds__(Two::kThreads, ATTENTION_WGMMA128_BLOCKS)
attention_bf16_hd64_wgmma128(const __grid_constant__ AttentionSm90Params p) {
    attention<Bf16, Two, 40, 232>(p);
}

extern "C" __global__ void __launch_bounds__(Two::kThreads, ATTENTION_WGMMA128_BLOCKS)
attention_f16_hd64_wgmma128(const __grid_constant__ AttentionSm90Params p) {
    attention<F16, Two, 40, 232>(p);
}
