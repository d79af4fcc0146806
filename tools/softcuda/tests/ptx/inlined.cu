// Functions inlined into each other, for the test of `.loc`'s chains.
__device__ __forceinline__ float square(float x) {
    return x * x;
}
__device__ __forceinline__ float cube(float x) {
    return square(x) * x;
}
__device__ __forceinline__ float blend(float x, float y) {
    float a = cube(x);
    return a + cube(y);
}
extern "C" __global__ void inlined(const float* x, float* y) {
    float v = x[threadIdx.x];
    y[threadIdx.x] = blend(v, v + 1.0f);
}
