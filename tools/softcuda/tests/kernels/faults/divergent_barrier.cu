//! check: divergent-barrier
//! launch: grid 1, block 64
//! args: out 256
// Half of each warp meets at a barrier to which the other half comes only behind the branch, at another one.

extern "C" __global__ void fault_divergent_barrier(int *out) {
    __shared__ int cells[64];
    cells[threadIdx.x] = threadIdx.x;
    if (threadIdx.x % 32 < 16) {
        __syncthreads(); // FAULT
        out[threadIdx.x] = cells[63 - threadIdx.x];
    }
    __syncthreads();
    cells[threadIdx.x] = 0;
}

extern "C" __global__ void ok_divergent_barrier(int *out) {
    __shared__ int cells[64];
    cells[threadIdx.x] = threadIdx.x;
    __syncthreads();
    if (threadIdx.x % 32 < 16) out[threadIdx.x] = cells[63 - threadIdx.x];
    __syncthreads();
    cells[threadIdx.x] = 0;
}
