//! arch: compute_90a
//! check: async-pending
//! launch: grid 1, block 128
//! args: out 2048
// The result is read before wgmma.wait_group.

#include "../ptx_hopper.cuh"

extern "C" __global__ void __launch_bounds__(128) fault_wgmma_read_early(float *out) {
    __shared__ __align__(1024) uint8_t a[8192], b[1024];
    fill_with_ones(a);
    fill_with_ones(b);
    fence_async();
    __syncthreads();
    float d[4];
    wgmma_fence();
    wgmma_n8(d, descriptor(a), descriptor(b), 0);
    wgmma_commit();
    out[threadIdx.x] = d[1]; // FAULT
    wgmma_wait<0>();
    out[128 + threadIdx.x] = d[0];
}

extern "C" __global__ void __launch_bounds__(128) ok_wgmma_read_early(float *out) {
    __shared__ __align__(1024) uint8_t a[8192], b[1024];
    fill_with_ones(a);
    fill_with_ones(b);
    fence_async();
    __syncthreads();
    float d[4];
    wgmma_fence();
    wgmma_n8(d, descriptor(a), descriptor(b), 0);
    wgmma_commit();
    wgmma_wait<0>();
    out[threadIdx.x] = d[1];
    wgmma_wait<0>();
    out[128 + threadIdx.x] = d[0];
}
