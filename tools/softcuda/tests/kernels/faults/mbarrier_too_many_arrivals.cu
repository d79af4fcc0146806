//! arch: compute_90a
//! check: barrier-misuse
//! launch: grid 1, block 64
//! args: map 64, out 256
// An arrival more than the phase waits for: expect_tx was one.

#include "../ptx_hopper.cuh"

extern "C" __global__ void fault_mbarrier_too_many_arrivals(const __grid_constant__ TensorMap map, float *out) {
    __shared__ __align__(1024) uint8_t tile[8192];
    __shared__ uint64_t full;
    mbarrier_begin(&full);
    if (threadIdx.x == 0) {
        mbarrier_expect(&full, 8192);
        mbarrier_arrive(&full); // FAULT
        tma_load(tile, &map, 0, 0, &full);
    }
    mbarrier_sleep(&full, 0);
    out[threadIdx.x] = *(float *)&tile[4 * threadIdx.x];
}

extern "C" __global__ void ok_mbarrier_too_many_arrivals(const __grid_constant__ TensorMap map, float *out) {
    __shared__ __align__(1024) uint8_t tile[8192];
    __shared__ uint64_t full;
    mbarrier_begin(&full);
    if (threadIdx.x == 0) {
        mbarrier_expect(&full, 8192);
        tma_load(tile, &map, 0, 0, &full);
    }
    mbarrier_sleep(&full, 0);
    out[threadIdx.x] = *(float *)&tile[4 * threadIdx.x];
}
