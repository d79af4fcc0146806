//! check: out-of-bounds
//! launch: grid 1, block 32
//! args: in 128, out 128
// A local array of eight values, indexed with what is in memory: in[i] is up to 31 in the fault, masked in the twin.

extern "C" __global__ void fault_local_past_end(const unsigned char *in, int *out) {
    int values[8];
    for (int i = 0; i < 8; i++) values[i] = in[i] * 3;
    out[threadIdx.x] = values[in[threadIdx.x * 4 % 128]]; // FAULT
}

extern "C" __global__ void ok_local_past_end(const unsigned char *in, int *out) {
    int values[8];
    for (int i = 0; i < 8; i++) values[i] = in[i] * 3;
    out[threadIdx.x] = values[in[threadIdx.x * 4 % 128] & 7];
}
