// out = softmax(q · k^T / 8) · v for sequences of different lengths packed together (cu_seqlens), head_dim 64, bf16:
// blocks of 64 queries, keys and values 64 at a time through cp.async double buffers, online softmax in base 2.
// Checks ldmatrix and ldmatrix.trans, mma fragments used again as operands, shuffles in quads, ex2.approx.
// Launch: block 128, grid (ceil(longest / 64), heads, sequences).
// q, k, v, out: [tokens, heads, 64]; cu_seqlens: [sequences + 1]; rows past a sequence's end are not written.

#include "ptx_async.cuh"
#include <cuda_bf16.h>

constexpr int DIM = 64, BLOCK = 64;

// Eight chunks of 16 bytes per row.
__device__ int swizzled(int row, int chunk) { return row * DIM + ((chunk ^ (row & 7)) << 3); }

__device__ void load_rows(__nv_bfloat16 *to, const __nv_bfloat16 *from, int first, int end, int heads) {
    for (int i = threadIdx.x; i < BLOCK * 8; i += 128) {
        int row = i / 8, chunk = i % 8;
        bool inside = first + row < end;
        cp_async_16_zfill(to + swizzled(row, chunk), from + (size_t)(inside ? first + row : first) * heads * DIM + chunk * 8, inside ? 16 : 0);
    }
}

__device__ uint32_t pack(float low, float high) {
    __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&both);
}

__device__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

extern "C" __global__ void __launch_bounds__(128) flash_attention(const __nv_bfloat16 *q, const __nv_bfloat16 *k, const __nv_bfloat16 *v,
                                                                 __nv_bfloat16 *out, const int *cu_seqlens, int heads) {
    __shared__ __align__(128) __nv_bfloat16 queries[BLOCK * DIM], keys[2][BLOCK * DIM], values[2][BLOCK * DIM];
    int begin = cu_seqlens[blockIdx.z], end = cu_seqlens[blockIdx.z + 1];
    int first = begin + blockIdx.x * BLOCK;
    if (first >= end) return;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    size_t head = (size_t)blockIdx.y * DIM;

    load_rows(queries, q + head, first, end, heads);
    load_rows(keys[0], k + head, begin, end, heads);
    load_rows(values[0], v + head, begin, end, heads);
    cp_async_commit_group();

    float sums[8][4] = {}, top[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
    uint32_t query[4][4];
    // log2(e) / sqrt(64)
    const float scale = 1.44269504f / 8;
    int tiles = (end - begin + BLOCK - 1) / BLOCK;
    for (int tile = 0; tile < tiles; tile++) {
        cp_async_wait_group<0>();
        __syncthreads();
        if (tile + 1 < tiles) {
            load_rows(keys[(tile + 1) % 2], k + head, begin + (tile + 1) * BLOCK, end, heads);
            load_rows(values[(tile + 1) % 2], v + head, begin + (tile + 1) * BLOCK, end, heads);
        }
        cp_async_commit_group();
        if (tile == 0)
            for (int d = 0; d < 4; d++) ldmatrix_x4(query[d], queries + swizzled(warp * 16 + lane % 16, d * 2 + lane / 16));

        // Scores of 16 queries and 64 keys.
        float scores[8][4] = {};
        for (int d = 0; d < 4; d++)
            for (int n = 0; n < 4; n++) {
                uint32_t key[4];
                ldmatrix_x4(key, keys[tile % 2] + swizzled(n * 16 + lane % 8 + lane / 16 * 8, d * 2 + lane / 8 % 2));
                mma_m16n8k16_bf16(scores[2 * n], query[d], key[0], key[1]);
                mma_m16n8k16_bf16(scores[2 * n + 1], query[d], key[2], key[3]);
            }
        for (int n = 0; n < 8; n++)
            for (int i = 0; i < 4; i++)
                if (begin + tile * BLOCK + n * 8 + lane % 4 * 2 + i % 2 >= end) scores[n][i] = -INFINITY;

        // A row's scores are in four neighbouring lanes.
        for (int half = 0; half < 2; half++) {
            float most = top[half];
            for (int n = 0; n < 8; n++) most = fmaxf(most, fmaxf(scores[n][half * 2], scores[n][half * 2 + 1]));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
            float shrink = exp2_approx((top[half] - most) * scale);
            top[half] = most;
            float sum = 0;
            for (int n = 0; n < 8; n++)
                for (int i = half * 2; i < half * 2 + 2; i++) sum += scores[n][i] = exp2_approx((scores[n][i] - most) * scale);
            total[half] = total[half] * shrink + sum;
            for (int n = 0; n < 8; n++) sums[n][half * 2] *= shrink, sums[n][half * 2 + 1] *= shrink;
        }

        // The scores' fragments are the next product's left operand.
        for (int s = 0; s < 4; s++) {
            uint32_t weights[4] = {pack(scores[2 * s][0], scores[2 * s][1]), pack(scores[2 * s][2], scores[2 * s][3]),
                                   pack(scores[2 * s + 1][0], scores[2 * s + 1][1]), pack(scores[2 * s + 1][2], scores[2 * s + 1][3])};
            for (int d = 0; d < 4; d++) {
                uint32_t value[4];
                ldmatrix_x4_trans(value, values[tile % 2] + swizzled(s * 16 + lane % 16, d * 2 + lane / 16));
                mma_m16n8k16_bf16(sums[2 * d], weights, value[0], value[1]);
                mma_m16n8k16_bf16(sums[2 * d + 1], weights, value[2], value[3]);
            }
        }
    }
    for (int half = 0; half < 2; half++) {
        total[half] += __shfl_xor_sync(0xffffffffu, total[half], 1);
        total[half] += __shfl_xor_sync(0xffffffffu, total[half], 2);
        int row = first + warp * 16 + lane / 4 + half * 8;
        if (row >= end) continue;
        for (int n = 0; n < 8; n++)
            *(uint32_t *)&out[(size_t)row * heads * DIM + head + n * 8 + lane % 4 * 2] =
                pack(sums[n][half * 2] / total[half], sums[n][half * 2 + 1] / total[half]);
    }
}
