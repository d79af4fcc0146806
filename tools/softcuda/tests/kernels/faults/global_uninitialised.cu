//! check: uninitialised
//! launch: grid 1, block 32
//! args: in 128, out 128
// Reads what nobody has written: out before it is written.

extern "C" __global__ void fault_global_uninitialised(const int *in, int *out) {
    out[threadIdx.x] += in[threadIdx.x]; // FAULT
}

extern "C" __global__ void ok_global_uninitialised(const int *in, int *out) {
    out[threadIdx.x] = in[threadIdx.x];
    out[threadIdx.x] += in[threadIdx.x];
}
