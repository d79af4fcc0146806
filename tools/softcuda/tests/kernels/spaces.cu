// Where values come from: large parameter structs, constants, device variables, dynamic shared memory, blocks of
// three dimensions, alignment and vectors.

struct Big {
    int first;
    double scale;
    short table[2000];
    int *out;
    unsigned char last;
};
static_assert(sizeof(Big) > 4000 && sizeof(Big) <= 4096, "just below the old limit");

extern "C" __global__ void big_params(const __grid_constant__ Big p) {
    int i = threadIdx.x;
    p.out[i] = p.first + (int)(p.table[i * 7 % 2000] * p.scale) + p.last;
}

// Past 4096 bytes: CUDA 12.1 and later.
struct Huge {
    int *out;
    int values[2000];
};
extern "C" __global__ void huge_params(const __grid_constant__ Huge p) { p.out[threadIdx.x] = p.values[1999 - threadIdx.x]; }

__constant__ int weights[64] = {3, 1, 4, 1, 5, 9, 2, 6};
__constant__ float factor;
__device__ int counter = 40;
__device__ int squares[8] = {0, 1, 4, 9, 16, 25, 36, 49};
__device__ int *alias = &squares[2];

// factor is set from outside.
extern "C" __global__ void variables(int *out) {
    int i = threadIdx.x;
    atomicAdd(&counter, 1);
    out[i] = weights[i % 64] + (int)(factor * 2) + squares[i % 8] + alias[i % 4];
}

// Launch: dynamic shared memory of block * 8 bytes.
extern "C" __global__ void dynamic_shared(long long *out) {
    extern __shared__ long long cells[];
    __shared__ int offset;
    int n = blockDim.x, i = threadIdx.x;
    if (i == 0) offset = 5;
    cells[i] = i * 1000ll;
    __syncthreads();
    out[i] = cells[(i + offset) % n];
}

// out [grid z, y, x, block z, y, x]: every index there is, once.
extern "C" __global__ void dimensions(int *out) {
    int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    out[block * blockDim.x * blockDim.y * blockDim.z + thread] =
        threadIdx.x + 10 * threadIdx.y + 100 * threadIdx.z + 1000 * blockIdx.x + 10000 * blockIdx.y + 100000 * blockIdx.z;
}

// Copies of 1, 2, 4, 8 and 16 bytes. Launch: block 16. in, out [31 * 16] bytes, the parts one after the other.
extern "C" __global__ void vectors(const unsigned char *in, unsigned char *out) {
    int i = threadIdx.x;
    ((uint4 *)out)[i] = ((const uint4 *)in)[i];
    ((uint2 *)(out + 256))[i] = ((const uint2 *)(in + 256))[i];
    ((unsigned *)(out + 384))[i] = ((const unsigned *)(in + 384))[i];
    ((unsigned short *)(out + 448))[i] = ((const unsigned short *)(in + 448))[i];
    out[480 + i] = in[480 + i];
}
