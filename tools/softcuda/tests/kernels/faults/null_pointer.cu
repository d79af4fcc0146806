//! check: out-of-bounds
//! launch: grid 1, block 32
//! args: int 0, out 128
// An optional pointer that is not there.

extern "C" __global__ void fault_null_pointer(const int *in, int *out) {
    out[threadIdx.x] = in[threadIdx.x]; // FAULT
}

extern "C" __global__ void ok_null_pointer(const int *in, int *out) {
    out[threadIdx.x] = in ? in[threadIdx.x] : 1;
}
