//! check: async-pending
//! launch: grid 1, block 32
//! args: in 512, out 512
// As cp_async_read_before_wait, with something older to read in the buffer.

#include "../ptx_async.cuh"

extern "C" __global__ void fault_cp_async_read_initialised(const int4 *in, int4 *out) {
    __shared__ int4 cells[32];
    cells[threadIdx.x] = make_int4(1, 2, 3, 4);
    cp_async_16(&cells[threadIdx.x], &in[threadIdx.x]);
    cp_async_commit_group();
    out[threadIdx.x] = cells[threadIdx.x]; // FAULT
    cp_async_wait_group<0>();
}

extern "C" __global__ void ok_cp_async_read_initialised(const int4 *in, int4 *out) {
    __shared__ int4 cells[32];
    cells[threadIdx.x] = make_int4(1, 2, 3, 4);
    cp_async_16(&cells[threadIdx.x], &in[threadIdx.x]);
    cp_async_commit_group();
    cp_async_wait_group<0>();
    out[threadIdx.x] = cells[threadIdx.x];
}
