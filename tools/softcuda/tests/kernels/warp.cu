// Warp-wide instructions: votes, matches, reductions, shuffles of every kind, by full and partial masks.
// Launch: block 32.

// out [32, 8]: ballot, any, all, active lanes in a branch, match_any, match_all's mask and predicate, elected
extern "C" __global__ void votes(const int *x, unsigned *out) {
    int lane = threadIdx.x;
    unsigned *mine = out + lane * 8;
    mine[0] = __ballot_sync(0xffffffffu, x[lane] > 0);
    mine[1] = __any_sync(0xffffffffu, x[lane] > 100);
    mine[2] = __all_sync(0xffffffffu, x[lane] > -100);
    mine[3] = 0;
    if (lane % 3 == 0) mine[3] = __ballot_sync(0x49249249u, lane > 10);
    mine[4] = __match_any_sync(0xffffffffu, x[lane] % 4);
    int same;
    mine[5] = __match_all_sync(0xffffffffu, x[lane], &same);
    mine[6] = same;
    mine[7] = __match_all_sync(0xffffffffu, lane / 32, &same) + same;
}

// out [32, 8]: add, min, max (signed), min (unsigned), and, or, xor, add of the odd lanes
extern "C" __global__ void reductions(const int *x, unsigned *out) {
    int lane = threadIdx.x;
    unsigned *mine = out + lane * 8;
    mine[0] = __reduce_add_sync(0xffffffffu, x[lane]);
    mine[1] = __reduce_min_sync(0xffffffffu, x[lane]);
    mine[2] = __reduce_max_sync(0xffffffffu, x[lane]);
    mine[3] = __reduce_min_sync(0xffffffffu, (unsigned)x[lane]);
    mine[4] = __reduce_and_sync(0xffffffffu, (unsigned)x[lane]);
    mine[5] = __reduce_or_sync(0xffffffffu, (unsigned)x[lane]);
    mine[6] = __reduce_xor_sync(0xffffffffu, (unsigned)x[lane]);
    mine[7] = 0;
    if (lane % 2) mine[7] = __reduce_add_sync(0xaaaaaaaau, x[lane]);
}

// out [32, 5]: idx, up, down, xor in segments of 8, a 64-bit value from lane 5
extern "C" __global__ void shuffles(const int *x, long long *out) {
    int lane = threadIdx.x;
    long long *mine = out + lane * 5;
    mine[0] = __shfl_sync(0xffffffffu, x[lane], lane * 7, 8);
    mine[1] = __shfl_up_sync(0xffffffffu, x[lane], 3, 8);
    mine[2] = __shfl_down_sync(0xffffffffu, x[lane], 3, 8);
    mine[3] = __shfl_xor_sync(0xffffffffu, x[lane], 5, 8);
    mine[4] = __shfl_sync(0xffffffffu, (long long)x[lane] << 20, 5);
}
