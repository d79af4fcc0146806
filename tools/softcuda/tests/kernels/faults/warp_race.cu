//! check: race
//! launch: grid 1, block 32
//! args: out 128
// Lanes of one warp exchange values through shared memory and rely on lock step; since Volta they need __syncwarp.

extern "C" __global__ void fault_warp_race(int *out) {
    __shared__ int cells[32];
    cells[threadIdx.x] = threadIdx.x * 2; // OTHER
    out[threadIdx.x] = cells[threadIdx.x ^ 1]; // FAULT
}

extern "C" __global__ void ok_warp_race(int *out) {
    __shared__ int cells[32];
    cells[threadIdx.x] = threadIdx.x * 2;
    __syncwarp();
    out[threadIdx.x] = cells[threadIdx.x ^ 1];
}
