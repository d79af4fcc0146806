// out [columns, rows] = transpose of in [rows, columns], by 32x32 tiles in shared memory.
// Checks two-dimensional blocks and grids, bank padding and XOR swizzles as plain address arithmetic, ragged edges.
// Launch: block (32, 8), grid (ceil(columns / 32), ceil(rows / 32)).

template <bool SWIZZLED>
__device__ void transpose(const int *in, int *out, int rows, int columns, int *tile) {
    auto at = [&](int y, int x) -> int & { return SWIZZLED ? tile[y * 32 + (x ^ y)] : tile[y * 33 + x]; };
    int x = blockIdx.x * 32 + threadIdx.x;
    for (int dy = threadIdx.y; dy < 32; dy += 8) {
        int y = blockIdx.y * 32 + dy;
        if (x < columns && y < rows) at(dy, threadIdx.x) = in[y * columns + x];
    }
    __syncthreads();
    int to_x = blockIdx.y * 32 + threadIdx.x;
    for (int dy = threadIdx.y; dy < 32; dy += 8) {
        int to_y = blockIdx.x * 32 + dy;
        if (to_x < rows && to_y < columns) out[to_y * rows + to_x] = at(threadIdx.x, dy);
    }
}

extern "C" __global__ void transpose_padded(const int *in, int *out, int rows, int columns) {
    __shared__ int tile[32 * 33];
    transpose<false>(in, out, rows, columns, tile);
}

extern "C" __global__ void transpose_swizzled(const int *in, int *out, int rows, int columns) {
    __shared__ int tile[32 * 32];
    transpose<true>(in, out, rows, columns, tile);
}
