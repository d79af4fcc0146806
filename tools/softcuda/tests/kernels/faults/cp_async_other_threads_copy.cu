//! check: race
//! launch: grid 1, block 64
//! args: in 1024, out 1024
// wait_group is about a thread's own copies: another thread's need a barrier on top.

#include "../ptx_async.cuh"

extern "C" __global__ void fault_cp_async_other_threads_copy(const int4 *in, int4 *out) {
    __shared__ int4 cells[64];
    cells[threadIdx.x] = make_int4(0, 0, 0, 0);
    __syncthreads();
    cp_async_16(&cells[threadIdx.x], &in[threadIdx.x]); // OTHER
    cp_async_commit_group();
    cp_async_wait_group<0>();
    out[threadIdx.x] = cells[63 - threadIdx.x]; // FAULT
}

extern "C" __global__ void ok_cp_async_other_threads_copy(const int4 *in, int4 *out) {
    __shared__ int4 cells[64];
    cells[threadIdx.x] = make_int4(0, 0, 0, 0);
    __syncthreads();
    cp_async_16(&cells[threadIdx.x], &in[threadIdx.x]);
    cp_async_commit_group();
    cp_async_wait_group<0>();
    __syncthreads();
    out[threadIdx.x] = cells[63 - threadIdx.x];
}
