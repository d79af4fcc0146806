//! arch: compute_90a
//! check: deadlock
//! launch: grid 1, block 64
//! args: map 64, out 256
// More bytes are expected than the copy brings.

#include "../ptx_hopper.cuh"

extern "C" __global__ void __launch_bounds__(128) fault_tma_too_many_bytes_expected(const __grid_constant__ TensorMap map, float *out) {
    __shared__ __align__(1024) uint8_t tile[8192];
    __shared__ uint64_t barrier;
    mbarrier_begin(&barrier);
    if (threadIdx.x == 0) {
        mbarrier_expect(&barrier, 8208);
        tma_load(tile, &map, 0, 0, &barrier);
    }
    mbarrier_sleep(&barrier, 0); // FAULT
    out[threadIdx.x] = *(float *)&tile[4 * threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(128) ok_tma_too_many_bytes_expected(const __grid_constant__ TensorMap map, float *out) {
    __shared__ __align__(1024) uint8_t tile[8192];
    __shared__ uint64_t barrier;
    mbarrier_begin(&barrier);
    if (threadIdx.x == 0) {
        mbarrier_expect(&barrier, 8192);
        tma_load(tile, &map, 0, 0, &barrier);
    }
    mbarrier_sleep(&barrier, 0);
    out[threadIdx.x] = *(float *)&tile[4 * threadIdx.x];
}
