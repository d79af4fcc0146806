// A lock that the lanes of one warp, and several blocks, fight for: the lane that holds it must be able to go on
// while its neighbours spin (independent thread scheduling).
// Checks progress of diverged lanes, and acquire / release through atomics.
// Launch: any; *lock and *counter zeroed.

extern "C" __global__ void spin_lock(int *lock, int *counter) {
    bool done = false;
    while (!done) {
        if (atomicCAS(lock, 0, 1) == 0) {
            __threadfence();
            *(volatile int *)counter = *(volatile int *)counter + 1;
            __threadfence();
            atomicExch(lock, 0);
            done = true;
        }
    }
}

// The same without a way out of the loop inside of it: the holder must leave the loop before the others do.
extern "C" __global__ void spin_lock_outside(int *lock, int *counter) {
    while (atomicCAS(lock, 0, 1) != 0) {
    }
    __threadfence();
    *(volatile int *)counter = *(volatile int *)counter + 1;
    __threadfence();
    atomicExch(lock, 0);
}

// Lanes hand a token on to the next lane of their own warp.
extern "C" __global__ void lane_relay(int *token, int *order) {
    int i = threadIdx.x;
    while (atomicAdd(token, 0) != i) {
    }
    order[i] = i * i;
    __threadfence();
    atomicExch(token, i + 1);
}
