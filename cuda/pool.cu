// computes: out[i] = encode(normalize(Σ w x[first .. first + rows][.. dimensions] (/ Σ w or √Σ w))), w 1 or 1, 2, …, or
//     the maximum in place of the sum; one record per PoolRow: a head of 8 bytes, then float32, float16, int8 or bits.
//     x [tokens, hidden_size], 16-bit; sums in float32.
// grid: any size; blocks take output vectors gridDim.x apart. The rows of a vector are dealt to
//     ⌊POOL_THREADS / (hidden_size / 8)⌋ groups, each reduced in order, then the groups' sums (or maxima) in order.
// block and shared memory: POOL_THREADS, all warps with the same role: a thread has eight columns of one group, then
//     eight columns of the sum. Shared memory, POOL_SHARED_BYTES, holds the groups' sums, then the record.
// bound by: bytes, 2·dimensions per row read, 8 + up to 4·dimensions per vector written. One block per vector, with
//     64 KB of loads in flight.
// requires: x and its stride aligned to 16 bytes, out and the records' offsets to 8, dimensions ≤ hidden_size (a
//     multiple of 8 for bits). Bytes between records are never written.
// gates: registers <= 64, stack = 0, static shared = 0, blocks >= 2
#include "dtype.cuh"
#include "params.h"
#include "reduce.cuh"

namespace {

constexpr uint32_t kWarps = POOL_THREADS / 32;
/// Vectors of eight columns of the sum that one thread holds.
constexpr int kThreadVectors = ROW_MAX_HIDDEN / ROW_VECTOR / POOL_THREADS;
/// Rows whose loads are in flight together, per thread.
constexpr int kRowsInFlight = 8;

struct SharedStorage {
    /// Each warp's part of the reductions: the bits of its maximum |x|, and its Σ x².
    uint32_t max_bits[kWarps];
    float squares[kWarps];
    /// Aligns `elements` to 16 bytes.
    uint32_t padding[2];
    /// The record: head, then elements. Before it is encoded, `elements` holds the groups' sums:
    /// [groups][halves][vectors] of four columns.
    uint32_t head[2];
    float4 elements[ROW_MAX_HIDDEN / 4];
};
static_assert(sizeof(SharedStorage) == POOL_SHARED_BYTES, "the shared memory in params.h");
static_assert(sizeof(SharedStorage::head) == POOL_HEAD_BYTES, "the record's head in params.h");

/// The columns of the sum that a thread holds; 0 from `dimensions` on.
typedef float SumFragment[kThreadVectors][ROW_VECTOR];

// How the rows become one: the value before the first row, what row r of `rows` is combined as (rows past the last are
// loaded as zeros), and how two values are combined.

struct Sum {
    static constexpr float kNone = 0.0f;
    // +0 past the rows, which changes no bit of a sum that began as +0.
    static __device__ __forceinline__ float value(float x, uint32_t, uint32_t) { return x; }
    static __device__ __forceinline__ float combine(float sum, float x) { return sum + x; }
};

struct WeightedSum {
    static constexpr float kNone = 0.0f;
    static __device__ __forceinline__ float value(float x, uint32_t r, uint32_t) {
        return static_cast<float>(r + 1) * x;
    }
    static __device__ __forceinline__ float combine(float sum, float x) { return sum + x; }
};

struct Max {
    static constexpr float kNone = -INFINITY;
    static __device__ __forceinline__ float value(float x, uint32_t r, uint32_t rows) { return r < rows ? x : kNone; }
    // NaN stays: it is larger than nothing, and nothing is larger than it.
    static __device__ __forceinline__ float combine(float max, float x) { return x > max || x != x ? x : max; }
};

/// The rows reduced to one, group by group.
template <class T, class Reduction>
__device__ __forceinline__ void reduce_rows(const PoolParams &p, const PoolRow &row, SharedStorage &shared,
                                            SumFragment &x) {
    const uint32_t vectors = p.hidden_size / ROW_VECTOR, kept = (row.dimensions + ROW_VECTOR - 1) / ROW_VECTOR;
    const uint32_t width = min(vectors, POOL_THREADS);
    const uint32_t groups = min(POOL_THREADS / width, POOL_MAX_GROUPS), group = threadIdx.x / width;
    // More than one iteration only if a row has more vectors than the block has threads.
    for (uint32_t vector = threadIdx.x % width; vector < kept && group < groups; vector += POOL_THREADS) {
        const uint16_t *column = p.x + static_cast<uint64_t>(row.first) * p.x_stride + vector * ROW_VECTOR;
        float sum[ROW_VECTOR];
#pragma unroll
        for (int j = 0; j < ROW_VECTOR; j++) {
            sum[j] = Reduction::kNone;
        }
#pragma unroll 1
        for (uint32_t first = group; first < row.rows; first += kRowsInFlight * groups) {
            uint4 loaded[kRowsInFlight];
#pragma unroll
            for (int i = 0; i < kRowsInFlight; i++) {
                const uint32_t r = first + i * groups;
                loaded[i] = make_uint4(0, 0, 0, 0);
                if (r < row.rows) {
                    loaded[i] = ld_global_v4_b32(column + static_cast<uint64_t>(r) * p.x_stride);
                }
            }
#pragma unroll
            for (int i = 0; i < kRowsInFlight; i++) {
                float addend[ROW_VECTOR];
                unpack<T>(loaded[i], addend);
#pragma unroll
                for (int j = 0; j < ROW_VECTOR; j++) {
                    const float value = Reduction::value(addend[j], first + i * groups, row.rows);
                    sum[j] = Reduction::combine(sum[j], value);
                }
            }
        }
        float4 *group_sum = shared.elements + 2 * group * vectors + vector;
        group_sum[0] = make_float4(sum[0], sum[1], sum[2], sum[3]);
        group_sum[vectors] = make_float4(sum[4], sum[5], sum[6], sum[7]);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kThreadVectors; i++) {
        const uint32_t vector = threadIdx.x + i * POOL_THREADS;
        float sum[ROW_VECTOR];
#pragma unroll
        for (int j = 0; j < ROW_VECTOR; j++) {
            sum[j] = Reduction::kNone;
        }
        if (vector < kept) {
            for (uint32_t g = 0; g < min(groups, row.rows); g++) {
                const float4 *group_sum = shared.elements + 2 * g * vectors + vector;
                const float4 a = group_sum[0], b = group_sum[vectors];
                const float part[ROW_VECTOR] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
                for (int j = 0; j < ROW_VECTOR; j++) {
                    sum[j] = Reduction::combine(sum[j], part[j]);
                }
            }
        }
#pragma unroll
        for (int j = 0; j < ROW_VECTOR; j++) {
            x[i][j] = vector * ROW_VECTOR + j < row.dimensions ? sum[j] : 0.0f;
        }
    }
}

/// What the sum of the rows is divided by: the sum of their weights, or its square root.
__device__ __forceinline__ float divisor(const PoolRow &row) {
    const uint64_t rows = row.rows;
    const float weights = static_cast<float>(row.flags & POOL_WEIGHTED ? rows * (rows + 1) / 2 : rows);
    return row.flags & POOL_SQRT_LEN ? __fsqrt_rn(weights) : weights;
}

/// The bits of the vector's maximum |x|. Bit patterns of non-negative floats are ordered as the floats are, with
/// infinity and then NaN at the end.
__device__ __forceinline__ uint32_t max_abs_bits(const SumFragment &x, SharedStorage &shared) {
    uint32_t bits = 0;
#pragma unroll
    for (int i = 0; i < kThreadVectors; i++) {
#pragma unroll
        for (int j = 0; j < ROW_VECTOR; j++) {
            bits = max(bits, __float_as_uint(fabsf(x[i][j])));
        }
    }
    shared.max_bits[threadIdx.x / 32] = __reduce_max_sync(0xffffffffu, bits);
    __syncthreads();
    return __reduce_max_sync(0xffffffffu, shared.max_bits[threadIdx.x % kWarps]);
}

/// Σ x² of the vector.
__device__ __forceinline__ float sum_of_squares(const SumFragment &x, SharedStorage &shared) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kThreadVectors; i++) {
#pragma unroll
        for (int j = 0; j < ROW_VECTOR; j++) {
            sum += x[i][j] * x[i][j];
        }
    }
    shared.squares[threadIdx.x / 32] = warp_sum(sum);
    __syncthreads();
    const uint32_t lane = threadIdx.x % 32;
    return warp_sum(lane < kWarps ? shared.squares[lane] : 0.0f);
}

/// round_half_even(127·x / max_abs) as a byte, clamped to -128 and 127 where 127·x overflows.
__device__ __forceinline__ uint32_t quantize(float x, float max_abs) {
    const int level = max_abs == 0.0f ? 0 : __float2int_rn(__fdiv_rn(__fmul_rn(127.0f, x), max_abs));
    return static_cast<uint32_t>(max(-128, min(127, level))) & 0xff;
}

/// Writes eight elements to the record.
__device__ __forceinline__ void encode(const float (&x)[ROW_VECTOR], uint32_t vector, uint32_t encoding, float max_abs,
                                       SharedStorage &shared) {
    if (encoding == POOL_F32) {
        shared.elements[2 * vector] = make_float4(x[0], x[1], x[2], x[3]);
        shared.elements[2 * vector + 1] = make_float4(x[4], x[5], x[6], x[7]);
    } else if (encoding == POOL_F16) {
        reinterpret_cast<uint4 *>(shared.elements)[vector] = pack<F16>(x);
    } else if (encoding == POOL_INT8) {
        uint2 bytes = make_uint2(0, 0);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            bytes.x |= quantize(x[j], max_abs) << 8 * j;
            bytes.y |= quantize(x[j + 4], max_abs) << 8 * j;
        }
        reinterpret_cast<uint2 *>(shared.elements)[vector] = bytes;
    } else {
        uint32_t byte = 0;
#pragma unroll
        for (int j = 0; j < ROW_VECTOR; j++) {
            byte |= (x[j] > 0.0f ? 0x80u : 0u) >> j;
        }
        reinterpret_cast<uint8_t *>(shared.elements)[vector] = static_cast<uint8_t>(byte);
    }
}

/// Bytes of a record.
__device__ __forceinline__ uint32_t record_bytes(const PoolRow &row) {
    const uint32_t bits =
        row.encoding == POOL_F32 ? 32 : row.encoding == POOL_F16 ? 16 : row.encoding == POOL_INT8 ? 8 : 1;
    return POOL_HEAD_BYTES + (row.dimensions * bits + 7) / 8;
}

template <class T> __device__ __forceinline__ void pool(const PoolParams &p) {
    griddepcontrol_launch_dependents();
    SharedStorage &shared = *reinterpret_cast<SharedStorage *>(smem);
    const uint32_t count = *p.count;
    griddepcontrol_wait();
#pragma unroll 1
    for (uint32_t index = blockIdx.x; index < count; index += gridDim.x) {
        const PoolRow row = p.rows[index];
        SumFragment x;
        if (row.flags & POOL_MAX) {
            reduce_rows<T, Max>(p, row, shared, x);
        } else if (row.flags & POOL_WEIGHTED) {
            reduce_rows<T, WeightedSum>(p, row, shared, x);
        } else {
            reduce_rows<T, Sum>(p, row, shared, x);
        }
        if (row.flags & POOL_MEAN) {
            const float by = divisor(row);
#pragma unroll
            for (int i = 0; i < kThreadVectors; i++) {
#pragma unroll
                for (int j = 0; j < ROW_VECTOR; j++) {
                    x[i][j] = __fdiv_rn(x[i][j], by);
                }
            }
        }
        const uint32_t bits = max_abs_bits(x, shared);
        float max_abs = __uint_as_float(bits);
        if ((row.flags & POOL_NORMALIZE) && bits != 0) {
            // Scaled by a power of two to a maximum of about 1, which is exact, so that squares neither overflow nor
            // underflow.
            const uint32_t exponent = bits >> 23;
            const float scale = __uint_as_float((exponent < 254 ? 254 - exponent : 1) << 23);
#pragma unroll
            for (int i = 0; i < kThreadVectors; i++) {
#pragma unroll
                for (int j = 0; j < ROW_VECTOR; j++) {
                    x[i][j] *= scale;
                }
            }
            const float norm = __fsqrt_rn(sum_of_squares(x, shared));
#pragma unroll
            for (int i = 0; i < kThreadVectors; i++) {
#pragma unroll
                for (int j = 0; j < ROW_VECTOR; j++) {
                    x[i][j] = __fdiv_rn(x[i][j], norm);
                }
            }
            // Rounding preserves order, so this is still the maximum.
            max_abs = __fdiv_rn(max_abs * scale, norm);
        }

        // The record overwrites the groups' sums: the barrier in max_abs_bits comes after their last read.
#pragma unroll
        for (int i = 0; i < kThreadVectors; i++) {
            const uint32_t vector = threadIdx.x + i * POOL_THREADS;
            if (vector * ROW_VECTOR < row.dimensions) {
                encode(x[i], vector, row.encoding, max_abs, shared);
            }
        }
        if (threadIdx.x == 0) {
            shared.head[0] = bits < 0x7f800000u; // Finite before the division by the norm is finite after it.
            shared.head[1] = row.encoding == POOL_INT8 ? __float_as_uint(__fdiv_rn(max_abs, 127.0f)) : 0;
        }
        __syncthreads();
        const uint32_t bytes = record_bytes(row);
        const unsigned char *record = smem + offsetof(SharedStorage, head);
        uint8_t *out = p.out + row.out;
        for (uint32_t i = threadIdx.x; i < bytes / 8; i += POOL_THREADS) {
            st_global_v2_b32(out + 8 * i, reinterpret_cast<const uint2 *>(record)[i]);
        }
        if (threadIdx.x < bytes % 8) {
            const uint32_t last = bytes / 8 * 8 + threadIdx.x;
            st_global_b8(out + last, record[last]);
        }
        __syncthreads(); // The record is read before the next vector's sums overwrite it.
    }
}

} // namespace

extern "C" __global__ void __launch_bounds__(POOL_THREADS, 2) pool_bf16(const __grid_constant__ PoolParams p) {
    pool<Bf16>(p);
}

extern "C" __global__ void __launch_bounds__(POOL_THREADS, 2) pool_f16(const __grid_constant__ PoolParams p) {
    pool<F16>(p);
}
