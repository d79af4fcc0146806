// Several blocks that wait for each other, several times: a counter in global memory, as cooperative launches do it.
// Each round every thread adds its right neighbour's last value (cyclic over the grid) to its own.
// Checks that all blocks of a cooperative launch run at once, and that the barrier orders plain accesses.
// Launch: cooperative; values [2, grid * block]: row 0 filled; *arrived zeroed.

__device__ void grid_sync(unsigned *arrived, unsigned round) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(arrived, 1u);
        unsigned seen;
        do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(arrived) : "memory");
        while (seen < (round + 1) * gridDim.x);
    }
    __syncthreads();
}

extern "C" __global__ void grid_barrier(unsigned *values, unsigned *arrived, int rounds) {
    int total = gridDim.x * blockDim.x, i = blockIdx.x * blockDim.x + threadIdx.x;
    for (int round = 0; round < rounds; round++) {
        const unsigned *from = values + (round % 2) * total;
        values[(1 - round % 2) * total + i] = from[i] + from[(i + 1) % total];
        grid_sync(arrived, round);
    }
}
