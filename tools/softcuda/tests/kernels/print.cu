// printf and assert.
// Checks vprintf's argument buffer (integers, 64 bits, doubles, strings, widths) and __assertfail.

#include <cassert>
#include <cstdio>

extern "C" __global__ void print(int n) {
    if (threadIdx.x < n) printf("thread %d: %5.2f|%-4d|%08x|%s|%c|%lld%%\n", threadIdx.x, threadIdx.x * 1.5, threadIdx.x, 0xbeef0000u + threadIdx.x,
                                threadIdx.x % 2 ? "odd" : "even", 'a' + threadIdx.x, -(1ll << 40) - threadIdx.x);
}

extern "C" __global__ void check_value(const int *values, int limit) {
    assert(values[threadIdx.x] < limit && "value is too large"); // FAULT
}
