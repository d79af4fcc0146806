// out[i] = encode(normalise(Σ x[first .. first + rows][.. dimensions] (/ rows))), one record per PoolRow: a head of 8 bytes and float32, float16, int8 or bits; sums in float32.
// Any grid: blocks of POOL_THREADS take vectors in turn. A vector's rows go to groups of ⌊POOL_THREADS / (hidden_size / 8)⌋ in turn, each summed in order, the groups added in order.
// Every warp alike: eight columns of one group per thread, then eight columns of the sum. Shared memory POOL_SHARED_BYTES: the groups' sums, then the record.
// Bound by bytes: 2·dimensions per row in, 8 + up to 4·dimensions per vector out; one block per vector, 64 KB of loads on their way in it.
// Needs x and its stride aligned to 16 bytes, out and the records' offsets to 8, dimensions ≤ hidden_size (multiples of 8 for bits); bytes between records are never written.
// gate: registers <= 64, stack = 0, static shared = 0, blocks >= 2
#include "dtype.cuh"
#include "params.h"
#include "reduce.cuh"

namespace {

constexpr uint32_t WARPS = POOL_THREADS / 32;
/// Vectors of eight columns that one thread holds of the sum.
constexpr int OWN = ROW_MAX_HIDDEN / ROW_VECTOR / POOL_THREADS;
/// Rows on their way to one thread.
constexpr int DEPTH = 8;

struct Plan {
    /// Bits of the largest |x| of each warp, and its Σ x².
    uint32_t largest[WARPS];
    float squares[WARPS];
    /// So that the numbers behind the head lie at a multiple of 16.
    uint32_t unused[2];
    /// The record. Until it is made, its place holds the groups' sums: [groups][halves][vectors] of four columns.
    uint32_t head[2];
    float4 numbers[ROW_MAX_HIDDEN / 4];
};
static_assert(sizeof(Plan) == POOL_SHARED_BYTES && sizeof(Plan::head) == POOL_HEAD_BYTES, "the plan of smem");

/// The columns of the sum that a thread holds, as far as they are kept; 0 past them.
typedef float Sum[OWN][ROW_VECTOR];

/// Σ of the rows, group by group.
template <class T> __device__ __forceinline__ void sum_rows(const PoolParams &p, const PoolRow &row, Plan &plan, Sum &x) {
    const uint32_t vectors = p.hidden_size / ROW_VECTOR, kept = (row.dimensions + ROW_VECTOR - 1) / ROW_VECTOR;
    const uint32_t width = min(vectors, POOL_THREADS);
    const uint32_t groups = min(POOL_THREADS / width, POOL_MAX_GROUPS), group = threadIdx.x / width;
    // More than one turn only where one row takes more than the block.
    for (uint32_t vector = threadIdx.x % width; vector < kept && group < groups; vector += POOL_THREADS) {
        const uint16_t *column = p.x + static_cast<uint64_t>(row.first) * p.x_stride + vector * ROW_VECTOR;
        float sum[ROW_VECTOR] = {};
#pragma unroll 1
        for (uint32_t first = group; first < row.rows; first += DEPTH * groups) {
            uint4 loaded[DEPTH];
#pragma unroll
            for (int i = 0; i < DEPTH; i++) {
                const uint32_t r = first + i * groups;
                loaded[i] = make_uint4(0, 0, 0, 0);
                if (r < row.rows) {
                    loaded[i] = ld_global_v4_b32(column + static_cast<uint64_t>(r) * p.x_stride);
                }
            }
#pragma unroll
            for (int i = 0; i < DEPTH; i++) {
                float more[ROW_VECTOR];
                unpack<T>(loaded[i], more);
#pragma unroll
                for (int j = 0; j < ROW_VECTOR; j++) {
                    sum[j] += more[j]; // 0 past the rows, which changes no bit of a sum that began as +0.
                }
            }
        }
        float4 *mine = plan.numbers + 2 * group * vectors + vector;
        mine[0] = make_float4(sum[0], sum[1], sum[2], sum[3]);
        mine[vectors] = make_float4(sum[4], sum[5], sum[6], sum[7]);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        const uint32_t vector = threadIdx.x + i * POOL_THREADS;
        float4 low = make_float4(0, 0, 0, 0), high = low;
        if (vector < kept) {
            for (uint32_t g = 0; g < min(groups, row.rows); g++) {
                const float4 *of = plan.numbers + 2 * g * vectors + vector;
                const float4 a = of[0], b = of[vectors];
                low = make_float4(low.x + a.x, low.y + a.y, low.z + a.z, low.w + a.w);
                high = make_float4(high.x + b.x, high.y + b.y, high.z + b.z, high.w + b.w);
            }
        }
        const float sum[ROW_VECTOR] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
        for (int j = 0; j < ROW_VECTOR; j++) {
            x[i][j] = vector * ROW_VECTOR + j < row.dimensions ? sum[j] : 0.0f;
        }
    }
}

/// Bits of the largest |x| of the vector: they are ordered as the numbers are, with infinity and then NaN at the end.
__device__ __forceinline__ uint32_t largest(const Sum &x, Plan &plan) {
    uint32_t bits = 0;
#pragma unroll
    for (int i = 0; i < OWN; i++) {
#pragma unroll
        for (int j = 0; j < ROW_VECTOR; j++) {
            bits = max(bits, __float_as_uint(fabsf(x[i][j])));
        }
    }
    plan.largest[threadIdx.x / 32] = __reduce_max_sync(0xffffffffu, bits);
    __syncthreads();
    return __reduce_max_sync(0xffffffffu, plan.largest[threadIdx.x % WARPS]);
}

/// Σ x² of the vector.
__device__ __forceinline__ float squares(const Sum &x, Plan &plan) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < OWN; i++) {
#pragma unroll
        for (int j = 0; j < ROW_VECTOR; j++) {
            sum += x[i][j] * x[i][j];
        }
    }
    plan.squares[threadIdx.x / 32] = warp_sum(sum);
    __syncthreads();
    const uint32_t lane = threadIdx.x % 32;
    return warp_sum(lane < WARPS ? plan.squares[lane] : 0.0f);
}

/// round_half_even(127·x / max) as a byte; past the ends, where 127·x overflows, the nearest there is.
__device__ __forceinline__ uint32_t quantise(float x, float max_x) {
    const int whole = max_x == 0.0f ? 0 : __float2int_rn(__fdiv_rn(__fmul_rn(127.0f, x), max_x));
    return static_cast<uint32_t>(max(-128, min(127, whole))) & 0xff;
}

/// Eight numbers into the record.
__device__ __forceinline__ void encode(const float (&x)[ROW_VECTOR], uint32_t vector, uint32_t encoding, float max_x, Plan &plan) {
    if (encoding == POOL_F32) {
        plan.numbers[2 * vector] = make_float4(x[0], x[1], x[2], x[3]);
        plan.numbers[2 * vector + 1] = make_float4(x[4], x[5], x[6], x[7]);
    } else if (encoding == POOL_F16) {
        reinterpret_cast<uint4 *>(plan.numbers)[vector] = pack<F16>(x);
    } else if (encoding == POOL_INT8) {
        uint2 bytes = make_uint2(0, 0);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            bytes.x |= quantise(x[j], max_x) << 8 * j;
            bytes.y |= quantise(x[j + 4], max_x) << 8 * j;
        }
        reinterpret_cast<uint2 *>(plan.numbers)[vector] = bytes;
    } else {
        uint32_t byte = 0;
#pragma unroll
        for (int j = 0; j < ROW_VECTOR; j++) {
            byte |= (x[j] > 0.0f ? 0x80u : 0u) >> j;
        }
        reinterpret_cast<uint8_t *>(plan.numbers)[vector] = static_cast<uint8_t>(byte);
    }
}

/// Bytes of a record.
__device__ __forceinline__ uint32_t record_bytes(const PoolRow &row) {
    const uint32_t bits = row.encoding == POOL_F32 ? 32 : row.encoding == POOL_F16 ? 16 : row.encoding == POOL_INT8 ? 8 : 1;
    return POOL_HEAD_BYTES + (row.dimensions * bits + 7) / 8;
}

template <class T> __device__ __forceinline__ void pool(const PoolParams &p) {
    Plan &plan = *reinterpret_cast<Plan *>(smem);
    const uint32_t count = *p.count;
#pragma unroll 1
    for (uint32_t number = blockIdx.x; number < count; number += gridDim.x) {
        const PoolRow row = p.rows[number];
        Sum x;
        sum_rows<T>(p, row, plan, x);
        if (row.flags & POOL_MEAN) {
#pragma unroll
            for (int i = 0; i < OWN; i++) {
#pragma unroll
                for (int j = 0; j < ROW_VECTOR; j++) {
                    x[i][j] = __fdiv_rn(x[i][j], static_cast<float>(row.rows));
                }
            }
        }
        const uint32_t bits = largest(x, plan);
        float max_x = __uint_as_float(bits);
        if ((row.flags & POOL_NORMALIZE) && bits != 0) {
            // By a power of two to about 1, which is exact: squares of neither large nor small numbers get lost.
            const uint32_t exponent = bits >> 23;
            const float scale = __uint_as_float((exponent < 254 ? 254 - exponent : 1) << 23);
#pragma unroll
            for (int i = 0; i < OWN; i++) {
#pragma unroll
                for (int j = 0; j < ROW_VECTOR; j++) {
                    x[i][j] *= scale;
                }
            }
            const float norm = __fsqrt_rn(squares(x, plan));
#pragma unroll
            for (int i = 0; i < OWN; i++) {
#pragma unroll
                for (int j = 0; j < ROW_VECTOR; j++) {
                    x[i][j] = __fdiv_rn(x[i][j], norm);
                }
            }
            // Rounding keeps the order, so this is still the largest.
            max_x = __fdiv_rn(max_x * scale, norm);
        }

        // Who writes here has seen a barrier since the groups' sums were read: largest's.
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            const uint32_t vector = threadIdx.x + i * POOL_THREADS;
            if (vector * ROW_VECTOR < row.dimensions) {
                encode(x[i], vector, row.encoding, max_x, plan);
            }
        }
        if (threadIdx.x == 0) {
            plan.head[0] = bits < 0x7f800000u; // Dividing by the norm makes no finite number another.
            plan.head[1] = row.encoding == POOL_INT8 ? __float_as_uint(__fdiv_rn(max_x, 127.0f)) : 0;
        }
        __syncthreads();
        const uint32_t bytes = record_bytes(row);
        const unsigned char *record = smem + offsetof(Plan, head);
        uint8_t *out = p.out + row.out;
        for (uint32_t i = threadIdx.x; i < bytes / 8; i += POOL_THREADS) {
            st_global_v2_b32(out + 8 * i, reinterpret_cast<const uint2 *>(record)[i]);
        }
        if (threadIdx.x < bytes % 8) {
            const uint32_t last = bytes / 8 * 8 + threadIdx.x;
            st_global_b8(out + last, record[last]);
        }
        __syncthreads(); // The record is read before the next vector's sums are written over it.
    }
}

} // namespace

extern "C" __global__ void __launch_bounds__(POOL_THREADS, 2) pool_bf16(const __grid_constant__ PoolParams p) {
    pool<Bf16>(p);
}

extern "C" __global__ void __launch_bounds__(POOL_THREADS, 2) pool_f16(const __grid_constant__ PoolParams p) {
    pool<F16>(p);
}
