//! check: async-pending
//! launch: grid 1, block 32
//! args: in 1024, out 512
// Two groups are in flight and one may stay so: the first is complete, but the second is read.

#include "../ptx_async.cuh"

template <int PENDING> __device__ void both(const int4 *in, int4 *out, int4 (*cells)[32]) {
    for (int stage = 0; stage < 2; stage++) {
        cp_async_16(&cells[stage][threadIdx.x], &in[stage * 32 + threadIdx.x]);
        cp_async_commit_group();
    }
    cp_async_wait_group<PENDING>();
}

extern "C" __global__ void fault_cp_async_wrong_group(const int4 *in, int4 *out) {
    __shared__ int4 cells[2][32];
    both<1>(in, out, cells);
    out[threadIdx.x] = cells[1][threadIdx.x]; // FAULT
    cp_async_wait_group<0>();
}

extern "C" __global__ void ok_cp_async_wrong_group(const int4 *in, int4 *out) {
    __shared__ int4 cells[2][32];
    both<0>(in, out, cells);
    out[threadIdx.x] = cells[1][threadIdx.x];
}
