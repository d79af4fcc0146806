//! arch: compute_90a
//! check: async-pending
//! launch: grid 1, block 128
//! args: in 2048, out 2048
// The registers of A are computed anew while a product may still read them.

#include "../ptx_hopper.cuh"

extern "C" __global__ void __launch_bounds__(128) fault_wgmma_a_overwritten(const uint32_t *in, float *out) {
    __shared__ __align__(1024) uint8_t a[8192], b[1024];
    fill_with_ones(a);
    fill_with_ones(b);
    fence_async();
    __syncthreads();
    float d[4] = {};
    uint32_t x[4];
    for (int i = 0; i < 4; i++) x[i] = in[128 * i + threadIdx.x] & 0x3f803f80;
    wgmma_fence();
    wgmma_n8_registers(d, x, descriptor(b));
    wgmma_commit();
    // In place: the compiler would take another register.
    asm volatile("xor.b32 %0, %0, 1;" : "+r"(x[2])); // FAULT
    wgmma_wait<0>();
    out[512 - 1 - threadIdx.x] = x[2];
    for (int i = 0; i < 3; i++) out[128 * i + threadIdx.x] = d[i];
}

extern "C" __global__ void __launch_bounds__(128) ok_wgmma_a_overwritten(const uint32_t *in, float *out) {
    __shared__ __align__(1024) uint8_t a[8192], b[1024];
    fill_with_ones(a);
    fill_with_ones(b);
    fence_async();
    __syncthreads();
    float d[4] = {};
    uint32_t x[4];
    for (int i = 0; i < 4; i++) x[i] = in[128 * i + threadIdx.x] & 0x3f803f80;
    wgmma_fence();
    wgmma_n8_registers(d, x, descriptor(b));
    wgmma_commit();
    wgmma_wait<0>();
    // In place: the compiler would take another register.
    asm volatile("xor.b32 %0, %0, 1;" : "+r"(x[2]));
    wgmma_wait<0>();
    out[512 - 1 - threadIdx.x] = x[2];
    for (int i = 0; i < 3; i++) out[128 * i + threadIdx.x] = d[i];
}
