//! check: deadlock
//! launch: grid 2, block 32
//! args: zero 4, out 4
// Block 1 waits for a flag that block 0 raises to 1, in the fault until it is 2.

__device__ int poll(int *flag) {
    int seen;
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
    return seen;
}

extern "C" __global__ void fault_deadlock_flag(int *flag, int *out) {
    if (threadIdx.x != 0) return;
    if (blockIdx.x == 0) atomicExch(flag, 1);
    else {
        while (poll(flag) != 2) { // FAULT
        }
        *out = 1;
    }
}

extern "C" __global__ void ok_deadlock_flag(int *flag, int *out) {
    if (threadIdx.x != 0) return;
    if (blockIdx.x == 0) atomicExch(flag, 1);
    else {
        while (poll(flag) != 1) {
        }
        *out = 1;
    }
}
