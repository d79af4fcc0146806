//! arch: compute_90a
//! check: race
//! launch: grid 1, block 64
//! args: mapout 64
// A warp fills a stage, and one lane says so: nothing orders the other lanes' writes before that.

#include "../ptx_hopper.cuh"

extern "C" __global__ void fault_mbarrier_full_without_syncwarp(const __grid_constant__ TensorMap map) {
    __shared__ __align__(1024) uint32_t stage[2048];
    __shared__ uint64_t full;
    mbarrier_begin(&full);
    if (threadIdx.x < 32) {
        for (int i = threadIdx.x; i < 2048; i += 32) stage[i] = i; // OTHER
        fence_async();
        if (threadIdx.x == 0) mbarrier_arrive(&full);
    } else if (threadIdx.x == 32) {
        mbarrier_sleep(&full, 0);
        tma_store(&map, 0, 0, stage); // FAULT
        bulk_commit();
        bulk_wait<0>();
    }
}

extern "C" __global__ void ok_mbarrier_full_without_syncwarp(const __grid_constant__ TensorMap map) {
    __shared__ __align__(1024) uint32_t stage[2048];
    __shared__ uint64_t full;
    mbarrier_begin(&full);
    if (threadIdx.x < 32) {
        for (int i = threadIdx.x; i < 2048; i += 32) stage[i] = i;
        fence_async();
        __syncwarp();
        if (threadIdx.x == 0) mbarrier_arrive(&full);
    } else if (threadIdx.x == 32) {
        mbarrier_sleep(&full, 0);
        tma_store(&map, 0, 0, stage);
        bulk_commit();
        bulk_wait<0>();
    }
}
