//! check: out-of-bounds
//! launch: grid 1, block 32
//! args: freed 128, in 128, out 128
// The first argument was freed before the launch; the twin leaves it alone.

extern "C" __global__ void fault_use_after_free(const int *old, const int *in, int *out) {
    out[threadIdx.x] = old[threadIdx.x] + in[threadIdx.x]; // FAULT
}

extern "C" __global__ void ok_use_after_free(const int *old, const int *in, int *out) {
    out[threadIdx.x] = (old != in) + in[threadIdx.x];
}
