//! check: deadlock
//! launch: grid 1, block 96
//! args: out 384
// Two warps meet at barrier 1, which waits for three; the third waits for them at another.

extern "C" __global__ void fault_deadlock_barrier_count(int *out) {
    if (threadIdx.x < 64) asm volatile("bar.sync 1, 96;" ::: "memory"); // FAULT
    asm volatile("bar.sync 2, 96;" ::: "memory"); // OTHER
    out[threadIdx.x] = 1;
}

extern "C" __global__ void ok_deadlock_barrier_count(int *out) {
    if (threadIdx.x < 64) asm volatile("bar.sync 1, 64;" ::: "memory");
    asm volatile("bar.sync 2, 96;" ::: "memory");
    out[threadIdx.x] = 1;
}
