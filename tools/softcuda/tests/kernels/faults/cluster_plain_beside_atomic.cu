//! arch: compute_90a
//! check: race
//! launch: grid 2, block 32, cluster 2
//! args: out 128
// A plain read of a number that another block adds to at the same time.

#include "../ptx_hopper.cuh"

extern "C" __global__ void fault_cluster_plain_beside_atomic(uint32_t *out) {
    __shared__ uint32_t count;
    if (threadIdx.x == 0) count = 0;
    cluster_barrier();
    if (cluster_rank() == 1) increment_of_cluster(map_to_rank(&count, 0)); // OTHER
    cluster_arrive_relaxed();
    cluster_wait();
    if (cluster_rank() == 0) out[threadIdx.x] = count; // FAULT
    cluster_barrier();
}

extern "C" __global__ void ok_cluster_plain_beside_atomic(uint32_t *out) {
    __shared__ uint32_t count;
    if (threadIdx.x == 0) count = 0;
    cluster_barrier();
    if (cluster_rank() == 1) increment_of_cluster(map_to_rank(&count, 0));
    cluster_arrive_relaxed();
    cluster_wait();
    if (cluster_rank() == 0) out[threadIdx.x] = acquire_of_cluster(map_to_rank(&count, 0));
    cluster_barrier();
}
