//! check: race
//! launch: grid 1, block 64
//! args: zero 4
// A counter is set and then counted up by its owner too. That the owner's own atomic operation comes after the plain
// write does not order the others' after it.

extern "C" __global__ void fault_atomic_hides_write(int *count) {
    if (threadIdx.x == 0) *count = 5; // OTHER
    if (threadIdx.x % 32 == 0) atomicAdd(count, 1); // FAULT
}

extern "C" __global__ void ok_atomic_hides_write(int *count) {
    if (threadIdx.x == 0) *count = 5;
    __syncthreads();
    if (threadIdx.x % 32 == 0) atomicAdd(count, 1);
}
