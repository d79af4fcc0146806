//! arch: compute_90a
//! check: illegal
//! launch: grid 1, block 384
//! args: out 4
// Warpgroups take more registers than others give back.

#include "../ptx_hopper.cuh"

extern "C" __global__ void __launch_bounds__(384) fault_registers_do_not_add_up(float *out) {
    if (threadIdx.x >= 128) {
        registers_up<240>(); // FAULT
    } else {
        registers_down<40>();
    }
    if (threadIdx.x == 0) out[0] = 1;
}

extern "C" __global__ void __launch_bounds__(384) ok_registers_do_not_add_up(float *out) {
    if (threadIdx.x >= 128) {
        registers_up<240>();
    } else {
        registers_down<24>();
    }
    if (threadIdx.x == 0) out[0] = 1;
}
