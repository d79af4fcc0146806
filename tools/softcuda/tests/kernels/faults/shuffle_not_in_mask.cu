//! check: sync-mask
//! launch: grid 1, block 32
//! args: in 128, out 128
// Every lane votes, with a mask in which the upper half is missing.

extern "C" __global__ void fault_shuffle_not_in_mask(const int *in, int *out) {
    out[threadIdx.x] = __ballot_sync(0x0000ffffu, in[threadIdx.x] & 1); // FAULT
}

extern "C" __global__ void ok_shuffle_not_in_mask(const int *in, int *out) {
    out[threadIdx.x] = __ballot_sync(0xffffffffu, in[threadIdx.x] & 1);
}
