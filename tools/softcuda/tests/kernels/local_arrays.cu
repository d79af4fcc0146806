// Arrays per thread that must live in memory, for their indices are known at run time only.
// Checks local memory: per-thread addressing, generic pointers to it, byte and 64-bit accesses.

// out[i] = the i-th element in order of n values each, sorted by insertion. Launch: block <= 64, n <= 32.
extern "C" __global__ void insertion_sort(const int *in, int *out, int n) {
    int values[32];
    for (int i = 0; i < n; i++) values[i] = in[threadIdx.x * n + i];
    for (int i = 1; i < n; i++) {
        int value = values[i], at = i;
        while (at > 0 && values[at - 1] > value) values[at] = values[at - 1], at--;
        values[at] = value;
    }
    for (int i = 0; i < n; i++) out[threadIdx.x * n + i] = values[i];
}

__device__ __noinline__ void reverse(unsigned char *bytes, int n) {
    for (int i = 0; i < n / 2; i++) {
        unsigned char swap = bytes[i];
        bytes[i] = bytes[n - 1 - i];
        bytes[n - 1 - i] = swap;
    }
}

// Bytes of a 64-bit value in reverse, through generic pointers to local, shared and global memory. Launch: block 32.
extern "C" __global__ void generic_pointers(const unsigned long long *in, unsigned long long *out) {
    __shared__ unsigned long long shared[32];
    int i = threadIdx.x;
    unsigned long long local = in[i];
    shared[i] = in[i];
    out[2 * 32 + i] = in[i];
    reverse((unsigned char *)&local, 8);
    reverse((unsigned char *)&shared[i], 8);
    reverse((unsigned char *)&out[2 * 32 + i], 8);
    out[i] = local;
    out[32 + i] = shared[i];
}
