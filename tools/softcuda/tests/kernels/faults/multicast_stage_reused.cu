//! arch: compute_90a
//! check: race
//! launch: grid 2, block 32, cluster 2
//! args: map 64, out 256
// A stage that a multicast fills again though one of the blocks that read it has not arrived at `empty`. The relaxed barrier is
// there so that each run has the reads first; it orders no memory.

#include "../ptx_hopper.cuh"

extern "C" __global__ void fault_multicast_stage_reused(const __grid_constant__ TensorMap map, float *out) {
    __shared__ __align__(1024) uint8_t tile[8192];
    __shared__ uint64_t full, empty;
    if (threadIdx.x == 0) {
        mbarrier_init(&full, 1);
        mbarrier_init(&empty, 1);
        fence_mbarrier_init();
        mbarrier_expect(&full, 8192);
    }
    cluster_barrier();
    bool first = cluster_rank() == 0;
    if (first && threadIdx.x == 0) tma_multicast(tile, &map, 0, 0, &full, 3);
    __syncwarp();
    mbarrier_sleep_of_cluster(&full, 0);
    out[32 * blockIdx.x + threadIdx.x] = *(float *)&tile[4 * threadIdx.x]; // OTHER
    if (threadIdx.x == 0) mbarrier_expect(&full, 8192);
    __syncwarp();
    if (threadIdx.x == 0 && first) mbarrier_arrive_of_cluster(map_to_rank(&empty, 0));
    cluster_arrive_relaxed();
    cluster_wait();
    if (first && threadIdx.x == 0) {
        mbarrier_sleep_of_cluster(&empty, 0);
        tma_multicast(tile, &map, 0, 0, &full, 3); // FAULT
    }
    __syncwarp();
    mbarrier_sleep_of_cluster(&full, 1);
}

extern "C" __global__ void ok_multicast_stage_reused(const __grid_constant__ TensorMap map, float *out) {
    __shared__ __align__(1024) uint8_t tile[8192];
    __shared__ uint64_t full, empty;
    if (threadIdx.x == 0) {
        mbarrier_init(&full, 1);
        mbarrier_init(&empty, 2);
        fence_mbarrier_init();
        mbarrier_expect(&full, 8192);
    }
    cluster_barrier();
    bool first = cluster_rank() == 0;
    if (first && threadIdx.x == 0) tma_multicast(tile, &map, 0, 0, &full, 3);
    __syncwarp();
    mbarrier_sleep_of_cluster(&full, 0);
    out[32 * blockIdx.x + threadIdx.x] = *(float *)&tile[4 * threadIdx.x];
    if (threadIdx.x == 0) mbarrier_expect(&full, 8192);
    __syncwarp();
    if (threadIdx.x == 0 && true) mbarrier_arrive_of_cluster(map_to_rank(&empty, 0));
    cluster_arrive_relaxed();
    cluster_wait();
    if (first && threadIdx.x == 0) {
        mbarrier_sleep_of_cluster(&empty, 0);
        tma_multicast(tile, &map, 0, 0, &full, 3);
    }
    __syncwarp();
    mbarrier_sleep_of_cluster(&full, 1);
}
