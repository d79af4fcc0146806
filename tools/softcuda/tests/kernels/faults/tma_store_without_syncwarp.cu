//! arch: compute_90a
//! check: race
//! launch: grid 1, block 32
//! args: mapout 64
// One lane stores what its whole warp has written and fenced, and nothing orders the writes before the store.

#include "../ptx_hopper.cuh"

extern "C" __global__ void fault_tma_store_without_syncwarp(const __grid_constant__ TensorMap map) {
    __shared__ __align__(1024) uint32_t tile[2048];
    for (int i = threadIdx.x; i < 2048; i += 32) tile[i] = i; // OTHER
    fence_async();
    if (threadIdx.x == 0) {
        tma_store(&map, 0, 0, tile); // FAULT
        bulk_commit();
        bulk_wait<0>();
    }
}

extern "C" __global__ void ok_tma_store_without_syncwarp(const __grid_constant__ TensorMap map) {
    __shared__ __align__(1024) uint32_t tile[2048];
    for (int i = threadIdx.x; i < 2048; i += 32) tile[i] = i;
    fence_async();
    __syncwarp();
    if (threadIdx.x == 0) {
        tma_store(&map, 0, 0, tile);
        bulk_commit();
        bulk_wait<0>();
    }
}
