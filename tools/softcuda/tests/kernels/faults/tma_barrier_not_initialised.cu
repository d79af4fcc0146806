//! arch: compute_90a
//! check: barrier-misuse
//! launch: grid 1, block 64
//! args: map 64, out 256
// A copy is to complete at an mbarrier that was never initialised.

#include "../ptx_hopper.cuh"

extern "C" __global__ void __launch_bounds__(128) fault_tma_barrier_not_initialised(const __grid_constant__ TensorMap map, float *out) {
    __shared__ __align__(1024) uint8_t tile[8192];
    __shared__ uint64_t barrier, other;
    mbarrier_begin(&barrier);
    if (threadIdx.x == 0) {
        tma_load(tile, &map, 0, 0, &other); // FAULT
    }
    out[threadIdx.x] = 1;
}

extern "C" __global__ void __launch_bounds__(128) ok_tma_barrier_not_initialised(const __grid_constant__ TensorMap map, float *out) {
    __shared__ __align__(1024) uint8_t tile[8192];
    __shared__ uint64_t barrier, other;
    if (threadIdx.x == 0) {
        mbarrier_init(&barrier, 1);
        mbarrier_init(&other, 1);
        fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_expect(&other, 8192);
        tma_load(tile, &map, 0, 0, &other);
    }
    mbarrier_sleep(&other, 0);
    out[threadIdx.x] = 1;
}
