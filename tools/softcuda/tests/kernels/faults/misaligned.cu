//! check: misaligned
//! launch: grid 1, block 31
//! args: in 512, out 512
// 16-byte loads from a pointer that is four bytes off; the twin loads four words.

extern "C" __global__ void fault_misaligned(const int *in, uint4 *out) {
    out[threadIdx.x] = *(const uint4 *)(in + 1 + threadIdx.x * 4); // FAULT
}

extern "C" __global__ void ok_misaligned(const int *in, uint4 *out) {
    const int *p = in + 1 + threadIdx.x * 4;
    out[threadIdx.x] = make_uint4(p[0], p[1], p[2], p[3]);
}
