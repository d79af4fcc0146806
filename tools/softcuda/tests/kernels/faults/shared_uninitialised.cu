//! check: uninitialised
//! launch: grid 1, block 64
//! args: out 256
// Half of the threads fill their cell, all read one.

extern "C" __global__ void fault_shared_uninitialised(int *out) {
    __shared__ int cells[64];
    if (threadIdx.x % 2 == 0) cells[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = cells[63 - threadIdx.x]; // FAULT
}

extern "C" __global__ void ok_shared_uninitialised(int *out) {
    __shared__ int cells[64];
    cells[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = cells[63 - threadIdx.x];
}
