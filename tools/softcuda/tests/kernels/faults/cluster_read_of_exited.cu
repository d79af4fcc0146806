//! check: race
//! launch: grid 2, block 32, cluster 2
//! args: out 256
//! arch: compute_90a
// The other block may have exited when its shared memory is read.
#include "../ptx_hopper.cuh"

extern "C" __global__ void fault_cluster_read_of_exited(uint32_t *out) {
    __shared__ uint32_t cells[32];
    cells[threadIdx.x] = blockIdx.x;
    cluster_barrier();
    uint32_t from = map_to_rank(&cells[threadIdx.x], cluster_rank() ^ 1);
    out[32 * blockIdx.x + threadIdx.x] = load_of_cluster(from); // FAULT
}

extern "C" __global__ void ok_cluster_read_of_exited(uint32_t *out) {
    __shared__ uint32_t cells[32];
    cells[threadIdx.x] = blockIdx.x;
    cluster_barrier();
    uint32_t from = map_to_rank(&cells[threadIdx.x], cluster_rank() ^ 1);
    out[32 * blockIdx.x + threadIdx.x] = load_of_cluster(from);
    cluster_barrier();
}
