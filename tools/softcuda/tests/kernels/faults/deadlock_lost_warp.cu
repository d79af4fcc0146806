//! check: deadlock
//! launch: grid 1, block 64
//! args: out 256
// One warp waits at a barrier with an explicit count, the other went home.

extern "C" __global__ void fault_deadlock_lost_warp(int *out) {
    if (threadIdx.x >= 32) return;
    asm volatile("bar.sync 2, 64;" ::: "memory"); // FAULT
    out[threadIdx.x] = 1;
}

extern "C" __global__ void ok_deadlock_lost_warp(int *out) {
    if (threadIdx.x >= 32) {
        asm volatile("bar.arrive 2, 64;" ::: "memory");
        return;
    }
    asm volatile("bar.sync 2, 64;" ::: "memory");
    out[threadIdx.x] = 1;
}
