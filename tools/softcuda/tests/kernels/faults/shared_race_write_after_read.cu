//! check: race
//! launch: grid 1, block 64
//! args: out 256
// The next round's values overwrite what the other warp may not have read yet.

extern "C" __global__ void fault_shared_race_write_after_read(int *out) {
    __shared__ int cells[64];
    cells[threadIdx.x] = threadIdx.x;
    __syncthreads();
    int value = cells[63 - threadIdx.x]; // OTHER
    cells[threadIdx.x] = value + 1; // FAULT
    out[threadIdx.x] = value;
}

extern "C" __global__ void ok_shared_race_write_after_read(int *out) {
    __shared__ int cells[64];
    cells[threadIdx.x] = threadIdx.x;
    __syncthreads();
    int value = cells[63 - threadIdx.x];
    __syncthreads();
    cells[threadIdx.x] = value + 1;
    out[threadIdx.x] = value;
}
