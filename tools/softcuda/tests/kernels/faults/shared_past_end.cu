//! check: out-of-bounds
//! launch: grid 1, block 64, shared 256
//! args: out 256
// Dynamic shared memory of 64 ints, of which the last thread reads the 65th; the twin wraps around.

extern __shared__ int cells[];

extern "C" __global__ void fault_shared_past_end(int *out) {
    cells[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = cells[threadIdx.x + 1]; // FAULT
}

extern "C" __global__ void ok_shared_past_end(int *out) {
    cells[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = cells[(threadIdx.x + 1) % 64];
}
