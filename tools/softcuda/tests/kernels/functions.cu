// Calls that cannot be inlined: recursion, function pointers, tables of them, parameters and results by value.
// Checks call and ret with a stack per thread, indirect calls whose target differs from lane to lane.

struct Pair {
    long long sum;
    int count;
};

__device__ __noinline__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

// Sums 1..n with local memory in every frame; counts the frames.
__device__ __noinline__ Pair triangle(int n, const int *above) {
    if (n == 0) return {0, *above};
    volatile int mine[2] = {n, *above + 1};
    int here = mine[1];
    Pair rest = triangle(n - 1, &here);
    return {rest.sum + mine[0], rest.count};
}

__device__ __noinline__ int add(int a, int b) { return a + b; }
__device__ __noinline__ int subtract(int a, int b) { return a - b; }
__device__ __noinline__ int multiply(int a, int b) { return a * b; }
__device__ __noinline__ int apply_twice(int (*f)(int, int), int a, int b) { return f(f(a, b), b); }

using Operation = int (*)(int, int);
__device__ Operation table[3] = {add, subtract, multiply};

extern "C" __global__ void recursion(int *out, long long *sums, int *depths) {
    out[threadIdx.x] = fibonacci(threadIdx.x % 12);
    int top = 0;
    Pair pair = triangle(threadIdx.x, &top);
    sums[threadIdx.x] = pair.sum;
    depths[threadIdx.x] = pair.count;
}

extern "C" __global__ void function_pointers(int *out) {
    int i = threadIdx.x;
    out[i] = apply_twice(table[i % 3], i, 5);
}
