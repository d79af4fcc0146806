// Transposes of a 32×32 tile of floats by three layouts of shared memory, for tests/counters.rs. Made into PTX by
//   nvcc -ptx -arch=compute_80 -lineinfo transpose.cu
// with the `.file` directive cut down to the file's name.

__device__ __forceinline__ float element(const float *tile, int at) {
    return tile[at];
}

// Block (32, 32); in, out: [32, 32]
extern "C" __global__ void transpose_plain(float *out, const float *in) {
    __shared__ float tile[32 * 32];
    int x = threadIdx.x, y = threadIdx.y;
    tile[32 * y + x] = in[32 * y + x];
    __syncthreads();
    out[32 * y + x] = element(tile, 32 * x + y);
}

extern "C" __global__ void transpose_padded(float *out, const float *in) {
    __shared__ float tile[32 * 33];
    int x = threadIdx.x, y = threadIdx.y;
    tile[33 * y + x] = in[32 * y + x];
    __syncthreads();
    out[32 * y + x] = element(tile, 33 * x + y);
}

extern "C" __global__ void transpose_swizzled(float *out, const float *in) {
    __shared__ float tile[32 * 32];
    int x = threadIdx.x, y = threadIdx.y;
    tile[32 * y + (x ^ y)] = in[32 * y + x];
    __syncthreads();
    out[32 * y + x] = element(tile, 32 * x + (x ^ y));
}
