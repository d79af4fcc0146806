//! check: sync-mask
//! launch: grid 1, block 32
//! args: in 128, out 128
// The mask names lanes that have left.

extern "C" __global__ void fault_shuffle_exited(const int *in, int *out) {
    if (threadIdx.x >= 16) return;
    out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, in[threadIdx.x], 1); // FAULT
}

extern "C" __global__ void ok_shuffle_exited(const int *in, int *out) {
    if (threadIdx.x >= 16) return;
    out[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, in[threadIdx.x], 1);
}
