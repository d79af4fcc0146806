//! check: out-of-bounds
//! launch: grid 2, block 64
//! args: in 400, out 512
// 128 threads read 100 ints: the second block leaves the array; the twin looks first.

extern "C" __global__ void fault_global_read_past_end(const int *in, int *out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = in[i]; // FAULT
}

extern "C" __global__ void ok_global_read_past_end(const int *in, int *out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < 100) out[i] = in[i];
}
