//! arch: compute_90a
//! check: async-pending
//! launch: grid 1, block 64
//! args: mapout 64
// A thread exits while its copy may still read shared memory.

#include "../ptx_hopper.cuh"

extern "C" __global__ void __launch_bounds__(128) fault_tma_store_exit(const __grid_constant__ TensorMap map) {
    __shared__ __align__(1024) uint32_t tile[2048];
    for (int i = threadIdx.x; i < 2048; i += 64) tile[i] = i;
    fence_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        tma_store(&map, 0, 0, tile); // FAULT
        bulk_commit();
    }
}

extern "C" __global__ void __launch_bounds__(128) ok_tma_store_exit(const __grid_constant__ TensorMap map) {
    __shared__ __align__(1024) uint32_t tile[2048];
    for (int i = threadIdx.x; i < 2048; i += 64) tile[i] = i;
    fence_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        tma_store(&map, 0, 0, tile);
        bulk_commit();
        bulk_wait_read<0>();
    }
}
