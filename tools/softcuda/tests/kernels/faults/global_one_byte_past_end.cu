//! check: out-of-bounds
//! launch: grid 1, block 32
//! args: in 511, out 512
// An allocation of 511 bytes read as 32 vectors of 16: the last one's last byte is not there, though it would lie in
// the same page, the same sector and, on a device, in the same allocation unit. The twin reads that vector by bytes.

extern "C" __global__ void fault_global_one_byte_past_end(const unsigned char *in, uint4 *out) {
    out[threadIdx.x] = ((const uint4 *)in)[threadIdx.x]; // FAULT
}

extern "C" __global__ void ok_global_one_byte_past_end(const unsigned char *in, uint4 *out) {
    uint4 value = {};
    if (threadIdx.x < 31) value = ((const uint4 *)in)[threadIdx.x];
    else
        for (int i = 0; i < 15; i++) ((unsigned char *)&value)[i] = in[31 * 16 + i];
    out[threadIdx.x] = value;
}
