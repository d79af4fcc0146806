// Sum of n floats: shuffles inside a warp, shared memory between warps, one atomic per block.
// Checks __shfl_down_sync and __shfl_xor_sync, shared memory behind __syncthreads, red.global.add.f32.
// Launch: any grid, any block of whole warps up to 1024; *out must be 0 before.

__device__ float warp_sum(float value) {
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(0xffffffffu, value, offset);
    return value;
}

extern "C" __global__ void reduce_sum(const float *__restrict__ x, int n, float *out) {
    __shared__ float partial[32];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float sum = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += x[i];
    sum = warp_sum(sum);
    if (lane == 0) partial[warp] = sum;
    __syncthreads();
    if (warp == 0) {
        sum = lane < blockDim.x / 32 ? partial[lane] : 0.0f;
        sum = warp_sum(sum);
        if (lane == 0) atomicAdd(out, sum);
    }
}

// Greatest element of each row of x [rows, columns], and where it first stands: one warp per row, butterfly.
extern "C" __global__ void row_argmax(const float *__restrict__ x, int rows, int columns, int *where) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    float best = -INFINITY;
    int at = 0x7fffffff;
    for (int i = threadIdx.x % 32; i < columns; i += 32) {
        float value = x[(size_t)row * columns + i];
        if (value > best) best = value, at = i;
    }
    for (int mask = 1; mask < 32; mask *= 2) {
        float other = __shfl_xor_sync(0xffffffffu, best, mask);
        int place = __shfl_xor_sync(0xffffffffu, at, mask);
        if (other > best || (other == best && place < at)) best = other, at = place;
    }
    if (threadIdx.x % 32 == 0) where[row] = at;
}
