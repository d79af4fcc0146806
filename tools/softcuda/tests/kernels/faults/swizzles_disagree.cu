//! arch: compute_90a
//! check: swizzle
//! launch: grid 1, block 128
//! args: map 64, out 512
// A tile that a copy brings with the swizzle of 128 bytes, and a descriptor that says 64.

#include "../ptx_hopper.cuh"

extern "C" __global__ void __launch_bounds__(128) fault_swizzles_disagree(const __grid_constant__ TensorMap map, float *out) {
    __shared__ __align__(1024) uint8_t tile[8192];
    __shared__ uint64_t full;
    mbarrier_begin(&full);
    if (threadIdx.x == 0) {
        mbarrier_expect(&full, 8192);
        tma_load(tile, &map, 0, 0, &full);
    }
    mbarrier_sleep(&full, 0);
    float d[4] = {};
    wgmma_fence();
    wgmma_n8(d, descriptor(tile) ^ 3ull << 62, descriptor(tile)); // FAULT
    wgmma_commit();
    wgmma_wait<0>();
    out[threadIdx.x] = d[0];
}

extern "C" __global__ void __launch_bounds__(128) ok_swizzles_disagree(const __grid_constant__ TensorMap map, float *out) {
    __shared__ __align__(1024) uint8_t tile[8192];
    __shared__ uint64_t full;
    mbarrier_begin(&full);
    if (threadIdx.x == 0) {
        mbarrier_expect(&full, 8192);
        tma_load(tile, &map, 0, 0, &full);
    }
    mbarrier_sleep(&full, 0);
    float d[4] = {};
    wgmma_fence();
    wgmma_n8(d, descriptor(tile), descriptor(tile));
    wgmma_commit();
    wgmma_wait<0>();
    out[threadIdx.x] = d[0];
}
