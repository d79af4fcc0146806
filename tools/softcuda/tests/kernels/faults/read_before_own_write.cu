//! check: race
//! launch: grid 1, block 64
//! args: out 4, out 12
// A value's owner reads it, as another thread has, and writes it again without waiting for that thread.

extern "C" __global__ void fault_read_before_own_write(int *value, int *out) {
    if (threadIdx.x == 0) *value = 1;
    __syncthreads();
    if (threadIdx.x == 32) out[0] = *value; // OTHER
    if (threadIdx.x == 0) {
        out[1] = 0;
        __threadfence();
        out[2] = *value;
        *value = 2; // FAULT
    }
}

extern "C" __global__ void ok_read_before_own_write(int *value, int *out) {
    if (threadIdx.x == 0) *value = 1;
    __syncthreads();
    if (threadIdx.x == 32) out[0] = *value;
    if (threadIdx.x == 0) {
        out[1] = 0;
        __threadfence();
        out[2] = *value;
    }
    __syncthreads();
    if (threadIdx.x == 0) *value = 2;
}
