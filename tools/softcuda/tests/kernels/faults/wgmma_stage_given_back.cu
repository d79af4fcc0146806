//! arch: compute_90a
//! check: race
//! launch: grid 1, block 160
//! args: out 2048
// One thread gives a stage back for its warpgroup, while the product that reads it is still under way. After the wait that is
// enough: a product is the warpgroup's, so that what is over for one warp is over for all four.

#include "../ptx_hopper.cuh"

extern "C" __global__ void __launch_bounds__(160) fault_wgmma_stage_given_back(float *out) {
    __shared__ __align__(1024) uint8_t a[8192], b[1024], next[1024];
    __shared__ uint64_t free;
    if (threadIdx.x < 128) {
        fill_with_ones(a);
        fill_with_ones(b);
        fill_with_ones(next);
    }
    fence_async();
    mbarrier_begin(&free);
    if (threadIdx.x >= 128) {
        mbarrier_sleep(&free, 0);
        if (threadIdx.x == 128) *(uint32_t *)next = 0; // FAULT
        return;
    }
    float d[4], e[4];
    wgmma_fence();
    wgmma_n8(d, descriptor(a), descriptor(b), 0);
    wgmma_commit();
    wgmma_n8(e, descriptor(a), descriptor(next), 0); // OTHER
    wgmma_commit();
    wgmma_wait<1>();
    if (threadIdx.x == 40) mbarrier_arrive(&free);
    wgmma_wait<0>();
    out[threadIdx.x] = d[1];
    out[128 + threadIdx.x] = e[0];
}

extern "C" __global__ void __launch_bounds__(160) ok_wgmma_stage_given_back(float *out) {
    __shared__ __align__(1024) uint8_t a[8192], b[1024], next[1024];
    __shared__ uint64_t free;
    if (threadIdx.x < 128) {
        fill_with_ones(a);
        fill_with_ones(b);
        fill_with_ones(next);
    }
    fence_async();
    mbarrier_begin(&free);
    if (threadIdx.x >= 128) {
        mbarrier_sleep(&free, 0);
        if (threadIdx.x == 128) *(uint32_t *)next = 0;
        return;
    }
    float d[4], e[4];
    wgmma_fence();
    wgmma_n8(d, descriptor(a), descriptor(b), 0);
    wgmma_commit();
    wgmma_n8(e, descriptor(a), descriptor(next), 0);
    wgmma_commit();
    wgmma_wait<0>();
    if (threadIdx.x == 40) mbarrier_arrive(&free);
    wgmma_wait<0>();
    out[threadIdx.x] = d[1];
    out[128 + threadIdx.x] = e[0];
}
