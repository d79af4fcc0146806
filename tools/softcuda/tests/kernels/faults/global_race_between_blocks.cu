//! check: race
//! launch: grid 2, block 32
//! args: zero 4
// Both blocks add to one counter with a plain load and store; the twin's add is atomic.

extern "C" __global__ void fault_global_race_between_blocks(int *counter) {
    if (threadIdx.x == 0) *counter += 1; // FAULT
}

extern "C" __global__ void ok_global_race_between_blocks(int *counter) {
    if (threadIdx.x == 0) atomicAdd(counter, 1);
}
