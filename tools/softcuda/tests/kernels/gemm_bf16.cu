// C [m, n] = A [m, k] · B [n, k]^T, bf16 in, f32 sums, f32 out: tiles of 128 x 128 x 32 through a three-stage
// cp.async pipeline, ldmatrix from swizzled shared memory, mma.m16n8k16, eight warps of 64 x 32 each.
// Checks all of these together, and rows past m: they are filled with zeros and never written.
// Launch: block 256, grid (n / 128, ceil(m / 128)), 49152 bytes of dynamic shared memory; n % 128 = k % 32 = 0.

#include "ptx_async.cuh"
#include <cuda_bf16.h>

constexpr int TILE = 128, TILE_K = 32, STAGES = 3;

struct Gemm {
    const __nv_bfloat16 *a; // [m, k]
    const __nv_bfloat16 *b; // [n, k]
    float *c;               // [m, n]
    int m, n, k;
};

// Chunk of 16 bytes (eight elements) in a tile of 32 columns: neighbouring rows' chunks in different banks.
__device__ int swizzled(int row, int chunk) { return row * TILE_K + ((chunk ^ (row >> 1 & 3)) << 3); }

__device__ void load_tile(const Gemm &p, __nv_bfloat16 *stage, int row0, int column0, int k0) {
    for (int i = threadIdx.x; i < TILE * 4; i += 256) {
        int row = i / 4, chunk = i % 4;
        bool inside = row0 + row < p.m;
        // The address must be a good one even where nothing is read.
        const __nv_bfloat16 *from = p.a + (size_t)(inside ? row0 + row : 0) * p.k + k0 + chunk * 8;
        cp_async_16_zfill(stage + swizzled(row, chunk), from, inside ? 16 : 0);
        cp_async_16(stage + TILE * TILE_K + swizzled(row, chunk), p.b + (size_t)(column0 + row) * p.k + k0 + chunk * 8);
    }
}

extern "C" __global__ void __launch_bounds__(256) gemm_bf16(const __grid_constant__ Gemm p) {
    extern __shared__ __align__(1024) unsigned char smem[];
    auto stage = [&](int i) { return reinterpret_cast<__nv_bfloat16 *>(smem) + i % STAGES * 2 * TILE * TILE_K; };
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int row0 = blockIdx.y * TILE, column0 = blockIdx.x * TILE;
    int warp_row = warp / 4 * 64, warp_column = warp % 4 * 32;
    int steps = p.k / TILE_K;

    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps) load_tile(p, stage(s), row0, column0, s * TILE_K);
        cp_async_commit_group();
    }
    float sums[4][4][4] = {};
    for (int s = 0; s < steps; s++) {
        cp_async_wait_group<STAGES - 2>();
        __syncthreads();
        if (s + STAGES - 1 < steps) load_tile(p, stage(s + STAGES - 1), row0, column0, (s + STAGES - 1) * TILE_K);
        cp_async_commit_group();
        const __nv_bfloat16 *a = stage(s), *b = a + TILE * TILE_K;
        for (int k = 0; k < 2; k++) {
            uint32_t left[4][4], right[2][4];
            for (int i = 0; i < 4; i++)
                ldmatrix_x4(left[i], a + swizzled(warp_row + i * 16 + lane % 16, k * 2 + lane / 16));
            for (int j = 0; j < 2; j++)
                ldmatrix_x4(right[j], b + swizzled(warp_column + j * 16 + lane % 8 + lane / 16 * 8, k * 2 + lane / 8 % 2));
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++) mma_m16n8k16_bf16(sums[i][j], left[i], right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]);
        }
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            for (int half = 0; half < 2; half++) {
                int row = row0 + warp_row + i * 16 + lane / 4 + half * 8;
                int column = column0 + warp_column + j * 8 + lane % 4 * 2;
                if (row < p.m) *(float2 *)&p.c[(size_t)row * p.n + column] = make_float2(sums[i][j][half * 2], sums[i][j][half * 2 + 1]);
            }
}
