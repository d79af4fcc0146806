//! check: race
//! launch: grid 1, block 64
//! args: out 256
// A neighbour's cell is read without a barrier after it was written.

extern "C" __global__ void fault_shared_race_read_after_write(int *out) {
    __shared__ int cells[64];
    cells[threadIdx.x] = 0;
    __syncthreads();
    cells[threadIdx.x] = threadIdx.x; // OTHER
    out[threadIdx.x] = cells[63 - threadIdx.x]; // FAULT
}

extern "C" __global__ void ok_shared_race_read_after_write(int *out) {
    __shared__ int cells[64];
    cells[threadIdx.x] = 0;
    __syncthreads();
    cells[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = cells[63 - threadIdx.x];
}
