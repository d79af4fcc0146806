//! check: barrier-misuse
//! launch: grid 1, block 32
//! args: out 128
// An arrival on an mbarrier that nobody initialised.

#include "../ptx_async.cuh"

extern "C" __global__ void fault_mbarrier_uninitialised(int *out) {
    __shared__ uint64_t barrier;
    mbarrier_arrive(&barrier); // FAULT
    out[threadIdx.x] = 1;
}

extern "C" __global__ void ok_mbarrier_uninitialised(int *out) {
    __shared__ uint64_t barrier;
    if (threadIdx.x == 0) mbarrier_init(&barrier, 32);
    __syncthreads();
    mbarrier_arrive(&barrier);
    out[threadIdx.x] = 1;
}
