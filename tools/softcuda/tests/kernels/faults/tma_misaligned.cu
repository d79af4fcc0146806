//! arch: compute_90a
//! check: misaligned
//! launch: grid 1, block 64
//! args: map 64, out 256
// A box in shared memory is not aligned to 128 bytes.

#include "../ptx_hopper.cuh"

extern "C" __global__ void __launch_bounds__(128) fault_tma_misaligned(const __grid_constant__ TensorMap map, float *out) {
    __shared__ __align__(1024) uint8_t tile[8192 + 1024];
    __shared__ uint64_t barrier;
    if (threadIdx.x == 0) {
        mbarrier_init(&barrier, 1);
        fence_mbarrier_init();
        mbarrier_expect(&barrier, 8192);
        tma_load(tile + 64, &map, 0, 0, &barrier); // FAULT
        mbarrier_sleep(&barrier, 0);
    }
    out[threadIdx.x] = 1;
}

extern "C" __global__ void __launch_bounds__(128) ok_tma_misaligned(const __grid_constant__ TensorMap map, float *out) {
    __shared__ __align__(1024) uint8_t tile[8192 + 1024];
    __shared__ uint64_t barrier;
    if (threadIdx.x == 0) {
        mbarrier_init(&barrier, 1);
        fence_mbarrier_init();
        mbarrier_expect(&barrier, 8192);
        tma_load(tile + 128, &map, 0, 0, &barrier);
        mbarrier_sleep(&barrier, 0);
    }
    out[threadIdx.x] = 1;
}
