// Copies from global to shared memory that run by themselves: groups in flight, filling with zeros, completion
// told to an mbarrier, and a ring between a loading warp and computing ones.
// Checks cp.async of 4 and 16 bytes, commit_group / wait_group, mbarrier phases, test_wait.parity.

#include "ptx_async.cuh"

// out[i] = in[i] + 1 through a four-stage pipeline of 16-byte copies. Launch: one block of 64; n = tiles * 256 ints.
extern "C" __global__ void pipeline_groups(const int *in, int *out, int tiles) {
    __shared__ __align__(16) int stages[4][256];
    int i = threadIdx.x * 4;
    for (int tile = 0; tile < 3; tile++) {
        if (tile < tiles) cp_async_16(&stages[tile][i], in + tile * 256 + i);
        cp_async_commit_group();
    }
    for (int tile = 0; tile < tiles; tile++) {
        cp_async_wait_group<2>();
        __syncthreads();
        // Read what another thread's copy brought.
        int other = (i + 128) % 256;
        for (int k = 0; k < 4; k++) out[tile * 256 + other + k] = stages[tile % 4][other + k] + 1;
        if (tile + 3 < tiles) cp_async_16(&stages[(tile + 3) % 4][i], in + (tile + 3) * 256 + i);
        cp_async_commit_group();
    }
}

// Rows of 16 bytes, row r of which only r % 17 bytes exist. Launch: one block of n threads; out [n, 16] bytes.
extern "C" __global__ void zero_fill(const unsigned char *in, uint4 *out) {
    extern __shared__ __align__(16) unsigned char rows[];
    int row = threadIdx.x;
    cp_async_16_zfill(rows + row * 16, in + row * 16, row % 17);
    cp_async_wait_all();
    out[row] = *(uint4 *)(rows + row * 16);
}

// As pipeline_groups with 4-byte copies and an mbarrier per stage. Launch: one block of 128; n = tiles * 128.
extern "C" __global__ void pipeline_mbarrier(const int *in, int *out, int tiles) {
    __shared__ int stages[2][128];
    __shared__ uint64_t full[2];
    if (threadIdx.x == 0)
        for (int stage = 0; stage < 2; stage++) mbarrier_init(&full[stage], 128);
    __syncthreads();
    int i = threadIdx.x;
    for (int tile = 0; tile <= tiles; tile++) {
        if (tile < tiles) {
            cp_async_4(&stages[tile % 2][i], in + tile * 128 + i);
            cp_async_mbarrier_arrive_noinc(&full[tile % 2]);
        }
        if (tile > 0) {
            int last = tile - 1;
            mbarrier_wait(&full[last % 2], last / 2 % 2);
            out[last * 128 + i] = stages[last % 2][127 - i] * 2;
            // Everyone has read before anyone loads into this stage again.
            __syncthreads();
        }
    }
}

// One warp loads, three add up, a ring of `STAGES` between them. Launch: one block of 128; in [tiles, 96], out [96].
extern "C" __global__ void warp_specialised_ring(const int *in, int *out, int tiles) {
    constexpr int STAGES = 3;
    __shared__ int ring[STAGES][96];
    __shared__ uint64_t full[STAGES], empty[STAGES];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == 0)
        for (int stage = 0; stage < STAGES; stage++) mbarrier_init(&full[stage], 32), mbarrier_init(&empty[stage], 96);
    __syncthreads();
    if (warp == 0) {
        for (int tile = 0; tile < tiles; tile++) {
            int stage = tile % STAGES, turn = tile / STAGES;
            // A fresh barrier's phase before the first counts as complete: the first turn does not wait.
            mbarrier_wait(&empty[stage], (turn + 1) % 2);
            for (int i = lane; i < 96; i += 32) cp_async_4(&ring[stage][i], in + tile * 96 + i);
            cp_async_mbarrier_arrive_noinc(&full[stage]);
        }
    } else {
        int i = threadIdx.x - 32, sum = 0;
        for (int tile = 0; tile < tiles; tile++) {
            int stage = tile % STAGES;
            mbarrier_wait(&full[stage], tile / STAGES % 2);
            sum += (tile + 1) * ring[stage][i];
            mbarrier_arrive(&empty[stage]);
        }
        out[i] = sum;
    }
}
