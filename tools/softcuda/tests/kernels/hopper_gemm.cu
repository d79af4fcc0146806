//! arch: compute_90a
// One tile: out = A·Bᵀ with 64 rows each and 64 in k, by tensor copies and wgmma.

#include "ptx_hopper.cuh"

extern "C" __global__ void __launch_bounds__(128) tile_product(const __grid_constant__ TensorMap left,
                                                               const __grid_constant__ TensorMap right, int row, float *out) {
    __shared__ __align__(1024) uint8_t a[8192], b[8192];
    __shared__ uint64_t barrier;
    if (threadIdx.x == 0) {
        mbarrier_init(&barrier, 1);
        fence_mbarrier_init();
        mbarrier_expect(&barrier, 16384);
        tma_load(a, &left, 0, row, &barrier);
        tma_load(b, &right, 0, 0, &barrier);
    }
    __syncthreads();
    mbarrier_sleep(&barrier, 0);
    float d[32];
    wgmma_fence();
    for (int k = 0; k < 4; k++) wgmma_n64(d, descriptor(a) + 2 * k, descriptor(b) + 2 * k, k);
    wgmma_commit();
    wgmma_wait<0>();
    int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16 + lane / 4;
    for (int i = 0; i < 32; i++) {
        out[(first + i / 2 % 2 * 8) * 64 + i / 4 * 8 + lane % 4 * 2 + i % 2] = d[i];
    }
}
