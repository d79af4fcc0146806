//! arch: compute_90a
//! check: race
//! launch: grid 1, block 64
//! args: mapout 64
// The source of a copy is written again before it has been read.

#include "../ptx_hopper.cuh"

extern "C" __global__ void __launch_bounds__(128) fault_tma_store_overwritten(const __grid_constant__ TensorMap map) {
    __shared__ __align__(1024) uint32_t tile[2048];
    for (int i = threadIdx.x; i < 2048; i += 64) tile[i] = i;
    fence_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        tma_store(&map, 0, 0, tile); // OTHER
        bulk_commit();
        tile[5] = 1; // FAULT
        bulk_wait<0>();
    }
}

extern "C" __global__ void __launch_bounds__(128) ok_tma_store_overwritten(const __grid_constant__ TensorMap map) {
    __shared__ __align__(1024) uint32_t tile[2048];
    for (int i = threadIdx.x; i < 2048; i += 64) tile[i] = i;
    fence_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        tma_store(&map, 0, 0, tile);
        bulk_commit();
        bulk_wait_read<0>();
        tile[5] = 1;
        bulk_wait<0>();
    }
}
