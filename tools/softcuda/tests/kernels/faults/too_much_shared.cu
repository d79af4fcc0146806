//! check: launch
//! launch: grid 1, block 32, shared 262144
//! ok-launch: grid 1, block 32, shared 49152
//! args: out 128
// 256 KiB of dynamic shared memory, more than any device has per block; the twin asks for 48 KiB.

extern __shared__ int cells[];

extern "C" __global__ void fault_too_much_shared(int *out) {
    cells[threadIdx.x] = 1;
    out[threadIdx.x] = cells[threadIdx.x];
}

extern "C" __global__ void ok_too_much_shared(int *out) {
    cells[threadIdx.x] = 1;
    out[threadIdx.x] = cells[threadIdx.x];
}
