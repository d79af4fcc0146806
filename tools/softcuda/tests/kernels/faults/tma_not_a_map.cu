//! arch: compute_90a
//! check: illegal
//! launch: grid 1, block 64
//! args: map 64, in 128, out 256
// The address of a tensor map leads to other bytes.

#include "../ptx_hopper.cuh"

extern "C" __global__ void __launch_bounds__(128) fault_tma_not_a_map(const __grid_constant__ TensorMap map, const TensorMap *bytes, float *out) {
    __shared__ __align__(1024) uint8_t tile[8192];
    __shared__ uint64_t barrier;
    mbarrier_begin(&barrier);
    if (threadIdx.x == 0) {
        mbarrier_expect(&barrier, 8192);
        tma_load(tile, bytes, 0, 0, &barrier); // FAULT
    }
    mbarrier_sleep(&barrier, 0);
    out[threadIdx.x] = bytes->bytes[0];
}

extern "C" __global__ void __launch_bounds__(128) ok_tma_not_a_map(const __grid_constant__ TensorMap map, const TensorMap *bytes, float *out) {
    __shared__ __align__(1024) uint8_t tile[8192];
    __shared__ uint64_t barrier;
    mbarrier_begin(&barrier);
    if (threadIdx.x == 0) {
        mbarrier_expect(&barrier, 8192);
        tma_load(tile, &map, 0, 0, &barrier);
    }
    mbarrier_sleep(&barrier, 0);
    out[threadIdx.x] = bytes->bytes[0];
}
