//! arch: compute_90a
//! check: race
//! launch: grid 1, block 64
//! args: map 64, out 256
// One lane says that its warp has read a stage, and nothing orders the other lanes' reads before that.

#include "../ptx_hopper.cuh"

extern "C" __global__ void fault_mbarrier_arrive_without_syncwarp(const __grid_constant__ TensorMap map, float *out) {
    __shared__ __align__(1024) uint8_t tile[8192];
    __shared__ uint64_t full, empty;
    if (threadIdx.x == 0) {
        mbarrier_init(&full, 1);
        mbarrier_init(&empty, 1);
        fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_expect(&full, 8192);
        tma_load(tile, &map, 0, 0, &full);
        mbarrier_sleep(&empty, 0);
        mbarrier_expect(&full, 8192);
        tma_load(tile, &map, 0, 0, &full); // FAULT
    } else if (threadIdx.x >= 32) {
        mbarrier_sleep(&full, 0);
        out[threadIdx.x] = *(float *)&tile[4 * threadIdx.x]; // OTHER
        if (threadIdx.x == 32) mbarrier_arrive(&empty);
        mbarrier_sleep(&full, 1);
    }
}

extern "C" __global__ void ok_mbarrier_arrive_without_syncwarp(const __grid_constant__ TensorMap map, float *out) {
    __shared__ __align__(1024) uint8_t tile[8192];
    __shared__ uint64_t full, empty;
    if (threadIdx.x == 0) {
        mbarrier_init(&full, 1);
        mbarrier_init(&empty, 1);
        fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_expect(&full, 8192);
        tma_load(tile, &map, 0, 0, &full);
        mbarrier_sleep(&empty, 0);
        mbarrier_expect(&full, 8192);
        tma_load(tile, &map, 0, 0, &full);
    } else if (threadIdx.x >= 32) {
        mbarrier_sleep(&full, 0);
        out[threadIdx.x] = *(float *)&tile[4 * threadIdx.x];
        __syncwarp();
        if (threadIdx.x == 32) mbarrier_arrive(&empty);
        mbarrier_sleep(&full, 1);
    }
}
