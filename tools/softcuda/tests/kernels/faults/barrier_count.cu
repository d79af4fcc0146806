//! check: barrier-misuse
//! launch: grid 1, block 64
//! args: out 256
// A named barrier for 96 threads in a block of 64: nothing can ever complete it.

extern "C" __global__ void fault_barrier_count(int *out) {
    asm volatile("bar.sync 1, 96;" ::: "memory"); // FAULT
    out[threadIdx.x] = 1;
}

extern "C" __global__ void ok_barrier_count(int *out) {
    asm volatile("bar.sync 1, 64;" ::: "memory");
    out[threadIdx.x] = 1;
}
