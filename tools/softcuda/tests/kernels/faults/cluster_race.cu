//! check: race
//! launch: grid 2, block 32, cluster 2
//! args: out 128
//! arch: compute_90a
// No barrier between a block's write and the other block's read of it.
#include "../ptx_hopper.cuh"

extern "C" __global__ void fault_cluster_race(uint32_t *out) {
    __shared__ uint32_t cells[32];
    cells[threadIdx.x] = 0;
    cluster_barrier();
    if (cluster_rank() == 0) {
        cells[threadIdx.x] = 1; // OTHER
    } else {
        out[threadIdx.x] = load_of_cluster(map_to_rank(&cells[threadIdx.x], 0)); // FAULT
    }
    cluster_barrier();
}

extern "C" __global__ void ok_cluster_race(uint32_t *out) {
    __shared__ uint32_t cells[32];
    cells[threadIdx.x] = 0;
    cluster_barrier();
    if (cluster_rank() == 0) cells[threadIdx.x] = 1;
    cluster_barrier();
    if (cluster_rank() == 1) out[threadIdx.x] = load_of_cluster(map_to_rank(&cells[threadIdx.x], 0));
    cluster_barrier();
}
