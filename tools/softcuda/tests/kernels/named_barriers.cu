// Producers and consumers in one block, in step through named barriers: bar.sync where a side waits, bar.arrive
// where it only reports. Two buffers, so that producing and consuming overlap.
// Launch: block 128 (warps 0-1 produce, 2-3 consume); out [rounds * 64].

__device__ void bar_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
__device__ void bar_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// Barriers 1, 2: buffer is full; 3, 4: buffer is empty.
extern "C" __global__ void producer_consumer(const int *in, int *out, int rounds) {
    __shared__ int buffer[2][64];
    int i = threadIdx.x % 64;
    if (threadIdx.x < 64) {
        for (int round = 0; round < rounds; round++) {
            int stage = round % 2;
            if (round >= 2) bar_sync(3 + stage, 128);
            buffer[stage][i] = in[round * 64 + i] * 3;
            bar_arrive(1 + stage, 128);
        }
    } else {
        for (int round = 0; round < rounds; round++) {
            int stage = round % 2;
            bar_sync(1 + stage, 128);
            out[round * 64 + i] = buffer[stage][63 - i] + round;
            if (round + 2 < rounds) bar_arrive(3 + stage, 128);
        }
    }
}

// __syncthreads_count, _and, _or: a barrier that adds up. results [3]
extern "C" __global__ void barrier_votes(const int *flags, int *results) {
    int count = __syncthreads_count(flags[threadIdx.x]);
    int all = __syncthreads_and(flags[threadIdx.x]);
    int any = __syncthreads_or(flags[threadIdx.x]);
    if (threadIdx.x == 0) results[0] = count, results[1] = all != 0, results[2] = any != 0;
}
