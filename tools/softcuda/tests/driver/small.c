/* Small programs, one per argument, for what the environment changes. */
#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define OK(call)                                                                                             \
    do {                                                                                                     \
        CUresult got_ = (call);                                                                              \
        if (got_) {                                                                                          \
            printf("line %d: %s gave %d\n", __LINE__, #call, got_);                                          \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

static void start(void) {
    CUcontext context;
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&context, 0));
    OK(cuCtxSetCurrent(context));
}

/* A program that does not wait: prints what a pinned destination holds before and after the wait, and what a
   device got from a pinned source that was changed too early. */
static void race(void) {
    CUdeviceptr device;
    CUstream stream;
    int *pinned, value = 0, *source;
    start();
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    OK(cuMemAlloc(&device, 4));
    OK(cuMemAllocHost((void **)&pinned, 4));
    OK(cuMemAllocHost((void **)&source, 4));
    *pinned = 1;
    *source = 2;
    OK(cuMemcpyHtoDAsync(device, source, 4, stream));
    *source = 3;
    OK(cuMemcpyDtoHAsync(pinned, device, 4, stream));
    int before = *pinned;
    OK(cuStreamSynchronize(stream));
    printf("before %d after %d;", before, *pinned);
    /* Pageable memory is used before the calls return, whatever the mode. */
    value = 5;
    OK(cuMemcpyHtoDAsync(device, &value, 4, stream));
    value = 6;
    OK(cuMemcpyDtoHAsync(&value, device, 4, stream));
    printf(" pageable %d", value);
    OK(cuMemFreeHost(pinned));
    OK(cuMemFreeHost(source));
    OK(cuMemFree(device));
    OK(cuDevicePrimaryCtxRelease(0));
}

static void leak(void) {
    CUdeviceptr first, second;
    start();
    OK(cuMemAlloc(&first, 1000));
    OK(cuMemAlloc(&second, 24));
    OK(cuMemFree(first));
}

/* Prints every result. */
static void faults(void) {
    CUdeviceptr memory;
    CUcontext context;
    printf("%d ", cuInit(0));
    printf("%d ", cuDevicePrimaryCtxRetain(&context, 0));
    printf("%d ", cuCtxSetCurrent(context));
    for (int i = 0; i < 3; i++) printf("%d ", cuMemAlloc(&memory, 600 << 10));
    printf("%d ", cuMemsetD8(memory, 0, 10));
    printf("%d ", cuCtxSynchronize());
    printf("%d", cuStreamSynchronize(0));
}

static void devices(void) {
    int count, major, minor, shared;
    OK(cuInit(0));
    OK(cuDeviceGetCount(&count));
    for (int i = 0; i < count; i++) {
        OK(cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, i));
        OK(cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, i));
        OK(cuDeviceGetAttribute(&shared, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, i));
        printf("%d.%d %d;", major, minor, shared);
    }
}

/* Loads a file as a program with embedded code would, and prints the result and a kernel's registers. */
static void load(const char *path) {
    CUmodule module;
    CUfunction function;
    int registers = 0;
    start();
    FILE *file = fopen(path, "rb");
    if (!file) exit(1);
    char *image = calloc(1, 1 << 20);
    size_t size = fread(image, 1, (1 << 20) - 1, file);
    fclose(file);
    CUresult result = size ? cuModuleLoadData(&module, image) : CUDA_ERROR_UNKNOWN;
    printf("%d", result);
    if (result == CUDA_SUCCESS) {
        CUdeviceptr counter;
        int value = -1;
        OK(cuModuleGetFunction(&function, module, "add"));
        OK(cuFuncGetAttribute(&registers, CU_FUNC_ATTRIBUTE_NUM_REGS, function));
        OK(cuModuleGetGlobal(&counter, &size, module, "counter"));
        OK(cuMemcpyDtoH(&value, counter, sizeof value));
        printf(" %d %zu %d", registers, size, value);
        OK(cuModuleUnload(module));
    }
    free(image);
}

/* Destroys in the wrong order: a module before a graph with its kernel, a stream before its work is waited for. */
static void order(int wrong) {
    static const char ptx[] = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry idle()\n{ ret; }\n";
    CUmodule module;
    CUfunction function;
    CUstream stream;
    CUgraph graph;
    CUgraphExec exec;
    start();
    OK(cuModuleLoadData(&module, ptx));
    OK(cuModuleGetFunction(&function, module, "idle"));
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    OK(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL));
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuGraphInstantiate(&exec, graph, 0));
    OK(cuGraphDestroy(graph));
    OK(cuGraphLaunch(exec, stream));
    if (!wrong) OK(cuStreamSynchronize(stream));
    OK(cuStreamDestroy(stream));
    if (!wrong) OK(cuGraphExecDestroy(exec));
    OK(cuModuleUnload(module));
    if (wrong) OK(cuGraphExecDestroy(exec));
    OK(cuDevicePrimaryCtxRelease(0));
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    if (!strcmp(argv[1], "race")) race();
    if (!strcmp(argv[1], "leak")) leak();
    if (!strcmp(argv[1], "faults")) faults();
    if (!strcmp(argv[1], "devices")) devices();
    if (!strcmp(argv[1], "load")) load(argv[2]);
    if (!strcmp(argv[1], "order")) order(0);
    if (!strcmp(argv[1], "wrong-order")) order(1);
    return 0;
}
