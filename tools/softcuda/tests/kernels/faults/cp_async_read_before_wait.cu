//! check: async-pending
//! launch: grid 1, block 32
//! args: in 512, out 512
// The copy is read before it is known to be complete.

#include "../ptx_async.cuh"

extern "C" __global__ void fault_cp_async_read_before_wait(const int4 *in, int4 *out) {
    __shared__ int4 cells[32];
    cp_async_16(&cells[threadIdx.x], &in[threadIdx.x]);
    cp_async_commit_group();
    out[threadIdx.x] = cells[threadIdx.x]; // FAULT
    cp_async_wait_group<0>();
}

extern "C" __global__ void ok_cp_async_read_before_wait(const int4 *in, int4 *out) {
    __shared__ int4 cells[32];
    cp_async_16(&cells[threadIdx.x], &in[threadIdx.x]);
    cp_async_commit_group();
    cp_async_wait_group<0>();
    out[threadIdx.x] = cells[threadIdx.x];
}
