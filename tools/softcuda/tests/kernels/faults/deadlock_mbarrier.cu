//! check: deadlock
//! launch: grid 1, block 64
//! args: out 256
// An mbarrier that expects 65 arrivals gets 64.

#include "../ptx_async.cuh"

extern "C" __global__ void fault_deadlock_mbarrier(int *out) {
    __shared__ uint64_t barrier;
    if (threadIdx.x == 0) mbarrier_init(&barrier, 65);
    __syncthreads();
    mbarrier_arrive(&barrier);
    mbarrier_wait(&barrier, 0); // FAULT
    out[threadIdx.x] = 1;
}

extern "C" __global__ void ok_deadlock_mbarrier(int *out) {
    __shared__ uint64_t barrier;
    if (threadIdx.x == 0) mbarrier_init(&barrier, 64);
    __syncthreads();
    mbarrier_arrive(&barrier);
    mbarrier_wait(&barrier, 0);
    out[threadIdx.x] = 1;
}
