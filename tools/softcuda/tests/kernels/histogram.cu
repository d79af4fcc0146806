// counts[b] += number of bytes of value b among n: atomics in shared memory, then in global memory.
// Checks shared and global atomics that meet at one address, and that atomics do not race with each other.
// Launch: any grid, any block; counts [256] zeroed before.

extern "C" __global__ void histogram(const unsigned char *bytes, int n, unsigned *counts) {
    __shared__ unsigned local[256];
    for (int i = threadIdx.x; i < 256; i += blockDim.x) local[i] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&local[bytes[i]], 1u);
    __syncthreads();
    for (int i = threadIdx.x; i < 256; i += blockDim.x)
        if (local[i] != 0) atomicAdd(&counts[i], local[i]);
}

// Every kind of atomic once per thread, on cells of its own kind. n = threads of the whole grid.
// cells: add, sub, min, max, and, or, xor, inc (wraps at 9), dec (wraps at 9), exchanges' sum, cas count; wide: add64, max64
extern "C" __global__ void atomics(int *cells, unsigned long long *wide, float *sum) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(&cells[0], i);
    atomicSub(&cells[1], i);
    atomicMin(&cells[2], 5 - i);
    atomicMax(&cells[3], 7 * i);
    atomicAnd(&cells[4], ~(1 << (i % 32)));
    atomicOr(&cells[5], 1 << (i % 31));
    atomicXor(&cells[6], i);
    atomicInc((unsigned *)&cells[7], 9u);
    atomicDec((unsigned *)&cells[8], 9u);
    // Whatever the order, every value but the last one stored comes back once.
    int old = atomicExch(&cells[9], i + 1);
    atomicAdd(&cells[10], old);
    // A compare-and-swap loop that counts threads.
    int seen = atomicAdd(&cells[11], 0), expected;
    do {
        expected = seen;
        seen = atomicCAS(&cells[11], expected, expected + 1);
    } while (seen != expected);
    atomicAdd(&wide[0], 1ull << 33);
    atomicMax(&wide[1], (unsigned long long)i << 32);
    atomicAdd(sum, 0.5f);
}
