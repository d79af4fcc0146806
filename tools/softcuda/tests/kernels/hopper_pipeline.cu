//! arch: compute_90a
// A persistent product: one warpgroup loads, the other multiplies and stores. out = A·Bᵀ in tiles of 64 × 64.
// Grid: any number of blocks, which take tiles in turn; 256 threads; dynamic shared memory: `stages` of 16 KB for A and B, and
// 16 KB for a tile of the result. Steps of 64 in k: none, fewer than there are stages, as many, or more.

#include "ptx_hopper.cuh"

__device__ inline void consumers_barrier() { asm volatile("bar.sync 1, 128;" ::: "memory"); }

extern "C" __global__ void __launch_bounds__(256, 2)
    persistent_product(const __grid_constant__ TensorMap left, const __grid_constant__ TensorMap right,
                       const __grid_constant__ TensorMap out, int rows, int columns, int steps, int stages) {
    extern __shared__ __align__(1024) uint8_t memory[];
    __shared__ uint64_t full[8], empty[8];
    uint8_t *result = memory + 16384 * stages;
    if (threadIdx.x == 0) {
#pragma unroll 1
        for (int i = 0; i < stages; i++) {
            mbarrier_init(full + i, 1);
            mbarrier_init(empty + i, 4);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    int stage = 0, phase = 0;
    if (threadIdx.x < 128) {
        registers_down<40>();
        if (threadIdx.x != 0) return;
        for (int tile = blockIdx.x; tile < rows * columns; tile += gridDim.x) {
            for (int step = 0; step < steps; step++) {
                mbarrier_sleep(empty + stage, phase ^ 1);
                mbarrier_expect(full + stage, 16384);
                tma_load(memory + 16384 * stage, &left, 64 * step, tile / columns * 64, full + stage);
                tma_load(memory + 16384 * stage + 8192, &right, 64 * step, tile % columns * 64, full + stage);
                if (++stage == stages) stage = 0, phase ^= 1;
            }
        }
        return;
    }
    registers_up<216>();
    int thread = threadIdx.x - 128, lane = thread % 32, first = thread / 32 * 16 + lane / 4;
    for (int tile = blockIdx.x; tile < rows * columns; tile += gridDim.x) {
        float d[32] = {};
        for (int step = 0; step < steps; step++) {
            mbarrier_sleep(full + stage, phase);
            uint64_t a = descriptor(memory + 16384 * stage), b = descriptor(memory + 16384 * stage + 8192);
            wgmma_fence();
            for (int k = 0; k < 4; k++) wgmma_n64(d, a + 2 * k, b + 2 * k, 1);
            wgmma_commit();
            wgmma_wait<0>();
            if (lane == 0) mbarrier_arrive(empty + stage);
            if (++stage == stages) stage = 0, phase ^= 1;
        }
        if (thread == 0) bulk_wait_read<0>();
        consumers_barrier();
        // Two boxes of 32 columns.
        for (int i = 0; i < 32; i++) {
            int row = first + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
            ((float *)result)[column / 32 * 2048 + row * 32 + column % 32] = d[i];
        }
        fence_async();
        consumers_barrier();
        if (thread == 0) {
            tma_store(&out, tile % columns * 64, tile / columns * 64, result);
            tma_store(&out, tile % columns * 64 + 32, tile / columns * 64, result + 8192);
            bulk_commit();
        }
    }
    if (thread == 0) bulk_wait<0>();
}
