// Inclusive prefix sums over blocks: in-block scan with shuffles, then decoupled look-back between blocks.
// Checks __shfl_up_sync with partial results, flags handed from block to block by release and acquire, and that
// blocks which wait for earlier ones make progress.

__device__ int warp_scan(int value) {
    int lane = threadIdx.x % 32;
    for (int offset = 1; offset < 32; offset *= 2) {
        int other = __shfl_up_sync(0xffffffffu, value, offset);
        if (lane >= offset) value += other;
    }
    return value;
}

// Scan of the block's values; every thread gets its own. `sums` is shared, a cell per warp.
__device__ int block_scan(int value, int *sums) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    value = warp_scan(value);
    if (lane == 31) sums[warp] = value;
    __syncthreads();
    if (warp == 0) {
        int sum = lane < blockDim.x / 32 ? sums[lane] : 0;
        sum = warp_scan(sum);
        if (lane < blockDim.x / 32) sums[lane] = sum;
    }
    __syncthreads();
    if (warp > 0) value += sums[warp - 1];
    return value;
}

// Launch: block of whole warps, one block, n <= block.
extern "C" __global__ void scan_block(const int *in, int *out, int n) {
    __shared__ int sums[32];
    int value = threadIdx.x < n ? in[threadIdx.x] : 0;
    value = block_scan(value, sums);
    if (threadIdx.x < n) out[threadIdx.x] = value;
}

// One tile's state, packed into 64 bits so that one load sees both: 0 nothing yet, 1 sum of the tile, 2 sum of
// everything up to it.
__device__ unsigned long long load_acquire(const unsigned long long *p) {
    unsigned long long value;
    asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(p) : "memory");
    return value;
}
__device__ void store_release(unsigned long long *p, unsigned long long value) {
    asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(p), "l"(value) : "memory");
}

// Launch: block of whole warps, ceil(n / block) blocks; states [blocks] and *ticket zeroed before.
extern "C" __global__ void scan_lookback(const int *in, int *out, int n, unsigned long long *states, int *ticket) {
    __shared__ int sums[32];
    __shared__ int tile, before;
    // Tiles in the order in which blocks start, so that an earlier tile's block always runs.
    if (threadIdx.x == 0) tile = atomicAdd(ticket, 1);
    __syncthreads();
    int i = tile * blockDim.x + threadIdx.x;
    int value = block_scan(i < n ? in[i] : 0, sums);
    if (threadIdx.x == blockDim.x - 1) {
        int sum = 0;
        if (tile > 0) {
            store_release(&states[tile], 1ull << 32 | (unsigned)value);
            for (int back = tile - 1;; back--) {
                unsigned long long state;
                do state = load_acquire(&states[back]);
                while (state >> 32 == 0);
                sum += (int)state;
                if (state >> 32 == 2) break;
            }
        }
        store_release(&states[tile], 2ull << 32 | (unsigned)(sum + value));
        before = sum;
    }
    __syncthreads();
    if (i < n) out[i] = before + value;
}
