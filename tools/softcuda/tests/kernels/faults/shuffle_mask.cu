//! check: sync-mask
//! launch: grid 1, block 32
//! args: in 128, out 128
// Sixteen lanes shuffle with a mask that names all thirty-two; the others wait for them elsewhere.

extern "C" __global__ void fault_shuffle_mask(const int *in, int *out) {
    int value = in[threadIdx.x];
    if (threadIdx.x < 16) value += __shfl_xor_sync(0xffffffffu, value, 1); // FAULT
    __syncwarp();
    out[threadIdx.x] = value;
}

extern "C" __global__ void ok_shuffle_mask(const int *in, int *out) {
    int value = in[threadIdx.x];
    if (threadIdx.x < 16) value += __shfl_xor_sync(0x0000ffffu, value, 1);
    __syncwarp();
    out[threadIdx.x] = value;
}
