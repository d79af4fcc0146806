//! arch: compute_90a
//! check: proxy-fence
//! launch: grid 1, block 64
//! args: mapout 64
// Only the thread that issues the copy fences, not those that wrote.

#include "../ptx_hopper.cuh"

extern "C" __global__ void __launch_bounds__(128) fault_tma_store_fence_by_another(const __grid_constant__ TensorMap map) {
    __shared__ __align__(1024) uint32_t tile[2048];
    for (int i = threadIdx.x; i < 2048; i += 64) tile[i] = i;
    if (threadIdx.x == 0) fence_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        tma_store(&map, 0, 0, tile); // FAULT
        bulk_commit();
        bulk_wait<0>();
    }
}

extern "C" __global__ void __launch_bounds__(128) ok_tma_store_fence_by_another(const __grid_constant__ TensorMap map) {
    __shared__ __align__(1024) uint32_t tile[2048];
    for (int i = threadIdx.x; i < 2048; i += 64) tile[i] = i;
    fence_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        tma_store(&map, 0, 0, tile);
        bulk_commit();
        bulk_wait<0>();
    }
}
