//! check: race
//! launch: grid 1, block 64
//! args: out 256
// Two warps write each other's cells, with nothing in between that says which value is last.

extern "C" __global__ void fault_shared_race_write_after_write(int *out) {
    __shared__ int cells[64];
    cells[threadIdx.x] = threadIdx.x; // OTHER
    cells[threadIdx.x ^ 32] = 2 * threadIdx.x; // FAULT
    __syncthreads();
    out[threadIdx.x] = cells[threadIdx.x];
}

extern "C" __global__ void ok_shared_race_write_after_write(int *out) {
    __shared__ int cells[64];
    cells[threadIdx.x] = threadIdx.x;
    __syncthreads();
    cells[threadIdx.x ^ 32] = 2 * threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = cells[threadIdx.x];
}
