//! check: misaligned
//! launch: grid 1, block 32
//! args: out 256
// A 64-bit value at an odd multiple of four in shared memory.

extern "C" __global__ void fault_shared_misaligned(long long *out) {
    __shared__ __align__(8) int cells[128];
    for (int i = threadIdx.x; i < 128; i += 32) cells[i] = i;
    __syncthreads();
    out[threadIdx.x] = *(volatile long long *)&cells[threadIdx.x * 2 + 1]; // FAULT
}

extern "C" __global__ void ok_shared_misaligned(long long *out) {
    __shared__ __align__(8) int cells[128];
    for (int i = threadIdx.x; i < 128; i += 32) cells[i] = i;
    __syncthreads();
    out[threadIdx.x] = *(volatile long long *)&cells[threadIdx.x * 2 + 2];
}
