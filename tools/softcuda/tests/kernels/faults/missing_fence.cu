//! check: race
//! launch: grid 2, block 32
//! args: out 128, zero 4, out 128
// Block 0 fills data and raises a flag, block 1 waits for it. The flag alone does not order the data: without a
// release (here: a fence before it) block 1 may see the flag and old data.

extern "C" __global__ void fault_missing_fence(int *data, int *flag, int *out) {
    if (blockIdx.x == 0) {
        data[threadIdx.x] = threadIdx.x; // OTHER
        __syncthreads();
        if (threadIdx.x == 0) atomicExch(flag, 1);
    } else {
        if (threadIdx.x == 0)
            while (atomicAdd(flag, 0) == 0) {
            }
        __threadfence();
        __syncthreads();
        out[threadIdx.x] = data[threadIdx.x]; // FAULT
    }
}

extern "C" __global__ void ok_missing_fence(int *data, int *flag, int *out) {
    if (blockIdx.x == 0) {
        data[threadIdx.x] = threadIdx.x;
        __syncthreads();
        __threadfence();
        if (threadIdx.x == 0) atomicExch(flag, 1);
    } else {
        if (threadIdx.x == 0)
            while (atomicAdd(flag, 0) == 0) {
            }
        __threadfence();
        __syncthreads();
        out[threadIdx.x] = data[threadIdx.x];
    }
}
