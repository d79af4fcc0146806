//! arch: compute_90a
//! check: async-pending
//! launch: grid 1, block 64
//! args: map 64, out 256
// The block ends while a copy into its shared memory is under way.

#include "../ptx_hopper.cuh"

extern "C" __global__ void __launch_bounds__(128) fault_tma_never_waited_for(const __grid_constant__ TensorMap map, float *out) {
    __shared__ __align__(1024) uint8_t tile[8192];
    __shared__ uint64_t barrier;
    mbarrier_begin(&barrier);
    if (threadIdx.x == 0) {
        mbarrier_expect(&barrier, 8192);
        tma_load(tile, &map, 0, 0, &barrier); // FAULT
    }
    out[threadIdx.x] = 1;
}

extern "C" __global__ void __launch_bounds__(128) ok_tma_never_waited_for(const __grid_constant__ TensorMap map, float *out) {
    __shared__ __align__(1024) uint8_t tile[8192];
    __shared__ uint64_t barrier;
    mbarrier_begin(&barrier);
    if (threadIdx.x == 0) {
        mbarrier_expect(&barrier, 8192);
        tma_load(tile, &map, 0, 0, &barrier);
    }
    mbarrier_sleep(&barrier, 0);
    out[threadIdx.x] = 1;
}
