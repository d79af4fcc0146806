//! check: race
//! launch: grid 1, block 64
//! args: out 4
// Two warps write one cell in turn, with nothing in between that says which one is last.

extern "C" __global__ void fault_shared_race_write_after_write(int *out) {
    __shared__ int cell;
    if (threadIdx.x == 0) cell = 1; // OTHER
    if (threadIdx.x == 32) cell = 2; // FAULT
    __syncthreads();
    if (threadIdx.x == 0) *out = cell;
}

extern "C" __global__ void ok_shared_race_write_after_write(int *out) {
    __shared__ int cell;
    if (threadIdx.x == 0) cell = 1;
    __syncthreads();
    if (threadIdx.x == 32) cell = 2;
    __syncthreads();
    if (threadIdx.x == 0) *out = cell;
}
