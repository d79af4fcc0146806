//! arch: compute_90a
//! check: deadlock
//! launch: grid 2, block 32, cluster 2
//! args: out 128
// A block polls a flag in another block, which nobody raises.

#include "../ptx_hopper.cuh"

extern "C" __global__ void fault_cluster_flag_never_raised(uint32_t *out) {
    __shared__ uint32_t flag;
    if (threadIdx.x == 0) flag = 0;
    cluster_barrier();
    if (cluster_rank() == 0) {
        while (acquire_of_cluster(map_to_rank(&flag, 1)) == 0); // FAULT
        out[threadIdx.x] = 1;
    } else if (threadIdx.x == 0) {
        out[0] = 0;
    }
    __syncwarp();
    cluster_barrier();
}

extern "C" __global__ void ok_cluster_flag_never_raised(uint32_t *out) {
    __shared__ uint32_t flag;
    if (threadIdx.x == 0) flag = 0;
    cluster_barrier();
    if (cluster_rank() == 0) {
        while (acquire_of_cluster(map_to_rank(&flag, 1)) == 0);
        out[threadIdx.x] = 1;
    } else if (threadIdx.x == 0) {
        increment_of_cluster(map_to_rank(&flag, 1));
    }
    __syncwarp();
    cluster_barrier();
}
