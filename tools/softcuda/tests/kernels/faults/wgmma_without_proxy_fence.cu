//! arch: compute_90a
//! check: proxy-fence
//! launch: grid 1, block 128
//! args: out 2048
// wgmma reads what threads wrote without fence.proxy.async.

#include "../ptx_hopper.cuh"

extern "C" __global__ void __launch_bounds__(128) fault_wgmma_without_proxy_fence(float *out) {
    __shared__ __align__(1024) uint8_t a[8192], b[1024];
    fill_with_ones(a);
    fill_with_ones(b);
    __syncthreads();
    float d[4] = {};
    wgmma_fence();
    wgmma_n8(d, descriptor(a), descriptor(b)); // FAULT
    wgmma_commit();
    wgmma_wait<0>();
    for (int i = 0; i < 4; i++) out[128 * i + threadIdx.x] = d[i];
}

extern "C" __global__ void __launch_bounds__(128) ok_wgmma_without_proxy_fence(float *out) {
    __shared__ __align__(1024) uint8_t a[8192], b[1024];
    fill_with_ones(a);
    fill_with_ones(b);
    fence_async();
    __syncthreads();
    float d[4] = {};
    wgmma_fence();
    wgmma_n8(d, descriptor(a), descriptor(b));
    wgmma_commit();
    wgmma_wait<0>();
    for (int i = 0; i < 4; i++) out[128 * i + threadIdx.x] = d[i];
}
