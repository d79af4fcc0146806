//! check: assert
//! launch: grid 1, block 32
//! args: in 32, out 128
// in[i] is i: below 32 for every thread, but not below 31.

#include <cassert>

extern "C" __global__ void fault_assertion(const unsigned char *in, int *out) {
    assert(in[threadIdx.x] < 31); // FAULT
    out[threadIdx.x] = in[threadIdx.x];
}

extern "C" __global__ void ok_assertion(const unsigned char *in, int *out) {
    assert(in[threadIdx.x] < 32);
    out[threadIdx.x] = in[threadIdx.x];
}
