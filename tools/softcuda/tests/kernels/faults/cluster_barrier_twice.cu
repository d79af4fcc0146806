//! check: barrier-misuse
//! launch: grid 2, block 64, cluster 2
//! args: out 512
//! arch: compute_90a
// A second arrival in a phase that no thread has waited for.
#include "../ptx_hopper.cuh"

extern "C" __global__ void fault_cluster_barrier_twice(uint32_t *out) {
    cluster_arrive();
    cluster_arrive(); // FAULT
    cluster_wait();
    out[64 * blockIdx.x + threadIdx.x] = 1;
}

extern "C" __global__ void ok_cluster_barrier_twice(uint32_t *out) {
    cluster_arrive();
    cluster_wait();
    cluster_arrive();
    cluster_wait();
    out[64 * blockIdx.x + threadIdx.x] = 1;
}
