//! check: launch
//! launch: grid 1, block 1056
//! ok-launch: grid 1, block 1024
//! args: out 4224
// 1056 threads, more than the 1024 of any device.

extern "C" __global__ void fault_too_many_threads(int *out) {
    out[threadIdx.x] = threadIdx.x;
}

extern "C" __global__ void ok_too_many_threads(int *out) {
    out[threadIdx.x] = threadIdx.x;
}
