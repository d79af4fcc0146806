//! arch: compute_90a
//! check: async-pending
//! launch: grid 1, block 32
//! args: map 64, out 128
// A wait on the parity of the phase before the first lets everybody through at once.

#include "../ptx_hopper.cuh"

extern "C" __global__ void __launch_bounds__(128) fault_tma_wrong_parity(const __grid_constant__ TensorMap map, float *out) {
    __shared__ __align__(1024) uint8_t tile[8192];
    __shared__ uint64_t barrier;
    mbarrier_begin(&barrier);
    if (threadIdx.x == 0) {
        mbarrier_expect(&barrier, 8192);
        tma_load(tile, &map, 0, 0, &barrier);
    }
    mbarrier_sleep(&barrier, 1);
    out[threadIdx.x] = *(float *)&tile[4 * threadIdx.x]; // FAULT
    mbarrier_sleep(&barrier, 0);
}

extern "C" __global__ void __launch_bounds__(128) ok_tma_wrong_parity(const __grid_constant__ TensorMap map, float *out) {
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
