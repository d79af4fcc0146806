//! check: launch
//! launch: grid 1, block 128
//! ok-launch: grid 1, block 128
//! args: out 512
// __launch_bounds__ says 64, the launch 128.

extern "C" __global__ void __launch_bounds__(64) fault_more_threads_than_bounds(int *out) {
    out[threadIdx.x] = threadIdx.x;
}

extern "C" __global__ void __launch_bounds__(128) ok_more_threads_than_bounds(int *out) {
    out[threadIdx.x] = threadIdx.x;
}
