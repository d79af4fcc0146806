//! check: race
//! launch: grid 2, block 32, cluster 2
//! args: out 256
//! arch: compute_90a
// An arrival at another block's mbarrier, for which that block does not wait.
#include "../ptx_hopper.cuh"

extern "C" __global__ void fault_cluster_arrive_at_exited(uint32_t *out) {
    __shared__ uint64_t barrier;
    mbarrier_begin(&barrier);
    cluster_barrier();
    if (cluster_rank() == 1 && threadIdx.x == 0) {
        mbarrier_arrive_of_cluster(map_to_rank(&barrier, 0)); // FAULT
    }
}

extern "C" __global__ void ok_cluster_arrive_at_exited(uint32_t *out) {
    __shared__ uint64_t barrier;
    mbarrier_begin(&barrier);
    cluster_barrier();
    if (cluster_rank() == 1 && threadIdx.x == 0) {
        mbarrier_arrive_of_cluster(map_to_rank(&barrier, 0));
    } else if (cluster_rank() == 0) {
        mbarrier_sleep_of_cluster(&barrier, 0);
    }
}
