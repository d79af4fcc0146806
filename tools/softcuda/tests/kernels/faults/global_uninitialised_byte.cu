//! check: uninitialised
//! launch: grid 1, block 32
//! args: out 128, out 128
// Three bytes of each word are written and four read.

extern "C" __global__ void fault_global_uninitialised_byte(unsigned char *bytes, int *out) {
    for (int i = 0; i < 3; i++) bytes[threadIdx.x * 4 + i] = i;
    out[threadIdx.x] = ((volatile int *)bytes)[threadIdx.x]; // FAULT
}

extern "C" __global__ void ok_global_uninitialised_byte(unsigned char *bytes, int *out) {
    for (int i = 0; i < 4; i++) bytes[threadIdx.x * 4 + i] = i;
    out[threadIdx.x] = ((volatile int *)bytes)[threadIdx.x];
}
