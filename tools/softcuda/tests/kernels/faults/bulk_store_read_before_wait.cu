//! arch: compute_90a
//! check: async-pending
//! launch: grid 1, block 32
//! args: zero 128, out 4
// What a bulk copy writes in global memory is read when only its source was waited for.

#include "../ptx_hopper.cuh"

extern "C" __global__ void __launch_bounds__(128) fault_bulk_store_read_before_wait(uint32_t *cells, uint32_t *out) {
    __shared__ __align__(128) uint32_t tile[32];
    tile[threadIdx.x] = threadIdx.x;
    fence_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        bulk_store(cells, tile, 128);
        bulk_commit();
        bulk_wait_read<0>();
        out[0] = cells[7]; // FAULT
    }
}

extern "C" __global__ void __launch_bounds__(128) ok_bulk_store_read_before_wait(uint32_t *cells, uint32_t *out) {
    __shared__ __align__(128) uint32_t tile[32];
    tile[threadIdx.x] = threadIdx.x;
    fence_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        bulk_store(cells, tile, 128);
        bulk_commit();
        bulk_wait<0>();
        out[0] = cells[7];
    }
}
