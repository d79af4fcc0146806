//! arch: compute_90a
//! check: barrier-misuse
//! launch: grid 1, block 64
//! args: out 256
// An mbarrier is used after mbarrier.inval.

#include "../ptx_hopper.cuh"

extern "C" __global__ void __launch_bounds__(128) fault_mbarrier_after_inval(float *out) {
    __shared__ uint64_t barrier;
    if (threadIdx.x == 0) mbarrier_init(&barrier, 64);
    __syncthreads();
    if (threadIdx.x == 0) mbarrier_inval(&barrier);
    __syncthreads();
    mbarrier_arrive(&barrier); // FAULT
    mbarrier_sleep(&barrier, 0);
    out[threadIdx.x] = 1;
}

extern "C" __global__ void __launch_bounds__(128) ok_mbarrier_after_inval(float *out) {
    __shared__ uint64_t barrier;
    if (threadIdx.x == 0) mbarrier_init(&barrier, 64);
    __syncthreads();
    mbarrier_arrive(&barrier);
    mbarrier_sleep(&barrier, 0);
    __syncthreads();
    if (threadIdx.x == 0) mbarrier_inval(&barrier);
    out[threadIdx.x] = 1;
}
