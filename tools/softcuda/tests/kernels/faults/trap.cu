//! check: trap
//! launch: grid 1, block 32
//! args: in 32, out 128
// A check by the kernel itself: byte 5 of the input is 5, which the twin expects.

extern "C" __global__ void fault_trap(const unsigned char *in, int *out) {
    if (in[5] != 6) __trap(); // FAULT
    out[threadIdx.x] = in[threadIdx.x];
}

extern "C" __global__ void ok_trap(const unsigned char *in, int *out) {
    if (in[5] != 5) __trap();
    out[threadIdx.x] = in[threadIdx.x];
}
