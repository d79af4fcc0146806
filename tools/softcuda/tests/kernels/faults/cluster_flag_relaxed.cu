//! arch: compute_90a
//! check: race
//! launch: grid 2, block 32, cluster 2
//! args: out 128
// A flag in another block that is raised without a release: what was written before it is not ordered.

#include "../ptx_hopper.cuh"

extern "C" __global__ void fault_cluster_flag_relaxed(uint32_t *out) {
    __shared__ uint32_t cells[32], flag;
    if (threadIdx.x == 0) flag = 0;
    cluster_barrier();
    if (cluster_rank() == 1) {
        store_to_cluster(map_to_rank(&cells[threadIdx.x], 0), threadIdx.x); // OTHER
        increment_of_cluster_relaxed(map_to_rank(&flag, 0));
    } else {
        while (acquire_of_cluster(map_to_rank(&flag, 0)) != 32) {
        }
        out[threadIdx.x] = cells[threadIdx.x]; // FAULT
    }
    cluster_barrier();
}

extern "C" __global__ void ok_cluster_flag_relaxed(uint32_t *out) {
    __shared__ uint32_t cells[32], flag;
    if (threadIdx.x == 0) flag = 0;
    cluster_barrier();
    if (cluster_rank() == 1) {
        store_to_cluster(map_to_rank(&cells[threadIdx.x], 0), threadIdx.x);
        increment_of_cluster(map_to_rank(&flag, 0));
    } else {
        while (acquire_of_cluster(map_to_rank(&flag, 0)) != 32) {
        }
        out[threadIdx.x] = cells[threadIdx.x];
    }
    cluster_barrier();
}
