//! arch: compute_90a
// What the blocks of a cluster do together.

#include "ptx_hopper.cuh"

// The rank of the block whose shared memory has this address.
__device__ inline uint32_t rank_of_address(uint32_t address) {
    uint32_t rank;
    asm volatile("getctarank.shared::cluster.u32 %0, %1;" : "=r"(rank) : "r"(address));
    return rank;
}

// Each block adds up what all blocks of its cluster have in shared memory; out[block] = sum, and its place in the cluster.
// An address that is said to be another block's spoils the sum.
extern "C" __global__ void sum_over_cluster(const uint32_t *in, uint32_t *out, uint32_t *places) {
    __shared__ uint32_t cells[64];
    cells[threadIdx.x] = in[64 * (blockIdx.x + gridDim.x * blockIdx.y) + threadIdx.x];
    cluster_barrier();
    uint32_t size, sum = 0;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    for (uint32_t rank = 0; rank < size; rank++) {
        uint32_t there = map_to_rank(&cells[threadIdx.x], rank);
        sum += load_of_cluster(there) + 0x10001 * (rank_of_address(there) - rank);
    }
    cluster_barrier();
    uint32_t block = blockIdx.x + gridDim.x * blockIdx.y;
    out[64 * block + threadIdx.x] = sum;
    uint32_t x, y, n;
    asm volatile("mov.u32 %0, %%clusterid.x;" : "=r"(x));
    asm volatile("mov.u32 %0, %%cluster_ctaid.x;" : "=r"(y));
    asm volatile("mov.u32 %0, %%nclusterid.y;" : "=r"(n));
    if (threadIdx.x == 0) places[block] = x | y << 8 | n << 16 | cluster_rank() << 24;
}

// Each block pushes 16 bytes a thread into the next block, by st.async and by a plain store, and gives out what it got.
extern "C" __global__ void pass_around_cluster(const uint4 *in, uint4 *out, uint32_t *plain) {
    __shared__ __align__(16) uint4 box[32];
    __shared__ uint32_t cells[32];
    __shared__ uint64_t barrier;
    mbarrier_begin(&barrier);
    uint32_t size, rank = cluster_rank();
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    if (threadIdx.x == 0) mbarrier_expect(&barrier, 512);
    cluster_barrier();
    uint32_t next = (rank + 1) % size;
    store_async(map_to_rank(&box[threadIdx.x], next), in[32 * blockIdx.x + threadIdx.x], map_to_rank(&barrier, next));
    store_to_cluster(map_to_rank(&cells[threadIdx.x], next), 100 * blockIdx.x + threadIdx.x);
    mbarrier_sleep(&barrier, 0);
    out[32 * blockIdx.x + threadIdx.x] = box[threadIdx.x];
    cluster_barrier();
    plain[32 * blockIdx.x + threadIdx.x] = cells[threadIdx.x];
}

// Block `rank` of each cluster fetches a share of the rows for all of them; all write out the whole.
extern "C" __global__ void share_rows(const __grid_constant__ TensorMap map, uint32_t *out) {
    extern __shared__ __align__(1024) uint8_t tile[];
    __shared__ uint64_t full;
    mbarrier_begin(&full);
    uint32_t size, rank = cluster_rank();
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    if (threadIdx.x == 0) mbarrier_expect(&full, 1024 * size);
    cluster_barrier();
    if (threadIdx.x == 0) tma_multicast(tile + 1024 * rank, &map, 0, 8 * rank, &full, (1 << size) - 1);
    __syncwarp();
    mbarrier_sleep_of_cluster(&full, 0);
    for (uint32_t i = threadIdx.x; i < 256 * size; i += 32) out[256 * size * blockIdx.x + i] = ((uint32_t *)tile)[i];
    cluster_barrier();
}
