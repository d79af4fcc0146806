//! arch: compute_90a
//! check: race
//! launch: grid 1, block 64
//! args: map 64, out 256
// A stage is filled again though its readers have not said that they are done.

#include "../ptx_hopper.cuh"

extern "C" __global__ void __launch_bounds__(128) fault_tma_stage_reused(const __grid_constant__ TensorMap map, float *out) {
    __shared__ __align__(1024) uint8_t tile[8192];
    __shared__ uint64_t barrier, again;
    if (threadIdx.x == 0) {
        mbarrier_init(&barrier, 1);
        mbarrier_init(&again, 1);
        fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_expect(&barrier, 8192);
        tma_load(tile, &map, 0, 0, &barrier);
    }
    mbarrier_sleep(&barrier, 0);
    out[threadIdx.x] = *(float *)&tile[4 * threadIdx.x]; // OTHER
    if (threadIdx.x == 0) {
        mbarrier_expect(&again, 8192);
        tma_load(tile, &map, 0, 0, &again); // FAULT
    }
    mbarrier_sleep(&again, 0);
}

extern "C" __global__ void __launch_bounds__(128) ok_tma_stage_reused(const __grid_constant__ TensorMap map, float *out) {
    __shared__ __align__(1024) uint8_t tile[8192];
    __shared__ uint64_t barrier, again;
    if (threadIdx.x == 0) {
        mbarrier_init(&barrier, 1);
        mbarrier_init(&again, 1);
        fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_expect(&barrier, 8192);
        tma_load(tile, &map, 0, 0, &barrier);
    }
    mbarrier_sleep(&barrier, 0);
    out[threadIdx.x] = *(float *)&tile[4 * threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_expect(&again, 8192);
        tma_load(tile, &map, 0, 0, &again);
    }
    mbarrier_sleep(&again, 0);
}
