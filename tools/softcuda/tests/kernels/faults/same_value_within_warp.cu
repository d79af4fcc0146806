//! check: race
//! launch: grid 1, block 32
//! args: zero 4
// All lanes of a warp write one word in one instruction: fine as long as they write the same.

extern "C" __global__ void fault_same_value_within_warp(int *out) {
    *out = (int)threadIdx.x + 1; // FAULT
}

extern "C" __global__ void ok_same_value_within_warp(int *out) {
    *out = (int)blockDim.x;
}
