//! check: out-of-bounds
//! launch: grid 1, block 32
//! args: out 128
// Thread 0 writes to index -1; the twin shifts the other way.

extern "C" __global__ void fault_global_write_before_start(int *out) {
    out[(int)threadIdx.x - 1] = threadIdx.x; // FAULT
}

extern "C" __global__ void ok_global_write_before_start(int *out) {
    out[31 - threadIdx.x] = threadIdx.x;
}
