//! arch: compute_90a
//! check: race
//! launch: grid 2, block 32, cluster 2
//! args: out 256
// Another block arrives at an mbarrier whose initialisation nothing orders for it: the cluster's barrier is a relaxed one, which
// orders mbarriers only behind a fence.mbarrier_init.

#include "../ptx_hopper.cuh"

extern "C" __global__ void fault_cluster_mbarrier_init_without_fence(uint32_t *out) {
    __shared__ uint64_t barrier;
    if (cluster_rank() == 0 && threadIdx.x == 0) {
        mbarrier_init(&barrier, 1); // OTHER
    }
    __syncwarp();
    cluster_arrive_relaxed();
    cluster_wait();
    if (cluster_rank() == 1) {
        if (threadIdx.x == 0) mbarrier_arrive_of_cluster(map_to_rank(&barrier, 0)); // FAULT
    } else {
        mbarrier_sleep_of_cluster(&barrier, 0);
        out[threadIdx.x] = threadIdx.x;
    }
}

extern "C" __global__ void ok_cluster_mbarrier_init_without_fence(uint32_t *out) {
    __shared__ uint64_t barrier;
    if (cluster_rank() == 0 && threadIdx.x == 0) {
        mbarrier_init(&barrier, 1);
        fence_mbarrier_init();
    }
    __syncwarp();
    cluster_arrive_relaxed();
    cluster_wait();
    if (cluster_rank() == 1) {
        if (threadIdx.x == 0) mbarrier_arrive_of_cluster(map_to_rank(&barrier, 0));
    } else {
        mbarrier_sleep_of_cluster(&barrier, 0);
        out[threadIdx.x] = threadIdx.x;
    }
}
