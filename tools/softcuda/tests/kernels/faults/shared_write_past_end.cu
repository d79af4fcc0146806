//! check: out-of-bounds
//! launch: grid 1, block 64
//! args: out 256
// A static array of 48 ints for 64 threads, alone in its block's shared memory.

extern "C" __global__ void fault_shared_write_past_end(int *out) {
    __shared__ int cells[48];
    cells[threadIdx.x] = threadIdx.x; // FAULT
    __syncthreads();
    if (threadIdx.x < 48) out[threadIdx.x] = cells[47 - threadIdx.x];
}

extern "C" __global__ void ok_shared_write_past_end(int *out) {
    __shared__ int cells[48];
    if (threadIdx.x < 48) cells[threadIdx.x] = threadIdx.x;
    __syncthreads();
    if (threadIdx.x < 48) out[threadIdx.x] = cells[47 - threadIdx.x];
}
