//! check: sync-mask
//! launch: grid 1, block 32
//! args: in 128, out 128
// Sixteen lanes shuffle with a mask that names all thirty-two; the others go around the shuffle and leave.

extern "C" __global__ void fault_shuffle_around(const int *in, int *out) {
    int value = in[threadIdx.x];
    if (threadIdx.x < 16) value += __shfl_xor_sync(0xffffffffu, value, 1); // FAULT
    out[threadIdx.x] = value;
}

extern "C" __global__ void ok_shuffle_around(const int *in, int *out) {
    int value = in[threadIdx.x];
    if (threadIdx.x < 16) value += __shfl_xor_sync(0x0000ffffu, value, 1);
    out[threadIdx.x] = value;
}
