/* The runtime's functions that a program of CUTLASS links with; describing calls none of them but the first. */
void **__cudaRegisterFatBinary(void *data) { return &data; }
#define STUB(name) int name(void) { return 0; }
STUB(__cudaRegisterFatBinaryEnd) STUB(__cudaUnregisterFatBinary) STUB(__cudaRegisterFunction) STUB(__cudaRegisterVar)
STUB(__cudaInitModule) STUB(__cudaLaunchKernel) STUB(__cudaGetKernel) STUB(__cudaPopCallConfiguration)
STUB(__cudaPushCallConfiguration) STUB(cudaMemsetAsync) STUB(cudaGetLastError) STUB(cudaPeekAtLastError) STUB(cudaGetDevice)
STUB(cudaDeviceGetAttribute) STUB(cudaGetErrorString) STUB(cudaFuncSetAttribute) STUB(cudaLaunchKernelExC)
STUB(cudaOccupancyMaxActiveClusters) STUB(cudaDriverGetVersion) STUB(cudaMalloc) STUB(cudaFree) STUB(cudaLaunchKernel)
