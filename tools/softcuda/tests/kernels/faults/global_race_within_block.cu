//! check: race
//! launch: grid 1, block 64
//! args: zero 256, out 256
// One warp's results are read by the other without a barrier.

extern "C" __global__ void fault_global_race_within_block(int *scratch, int *out) {
    scratch[threadIdx.x] = threadIdx.x; // OTHER
    out[threadIdx.x] = scratch[(threadIdx.x + 32) % 64]; // FAULT
}

extern "C" __global__ void ok_global_race_within_block(int *scratch, int *out) {
    scratch[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = scratch[(threadIdx.x + 32) % 64];
}
