/* Goes through the driver API; says OK at the end, or where it failed. */
#include <cuda.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef BY_DLOPEN
#include <dlfcn.h>
/* Every function is looked up by cuGetProcAddress, which comes from dlsym. */
static CUresult (*lookup)(const char *, void **, int, cuuint64_t, CUdriverProcAddressQueryResult *);
static void *find(const char *name) {
    void *address = NULL;
    CUdriverProcAddressQueryResult status;
    if (lookup(name, &address, 13000, 0, &status) != CUDA_SUCCESS || status != CU_GET_PROC_ADDRESS_SUCCESS) {
        printf("no %s\n", name);
        exit(1);
    }
    return address;
}
#define F(name) ((__typeof__(&name))find(#name))
#else
#define F(name) name
#endif

#define CHECK(wanted, call)                                                                                  \
    do {                                                                                                     \
        CUresult got_ = (call);                                                                              \
        if (got_ != (wanted)) {                                                                              \
            printf("line %d: %s gave %d, not %d\n", __LINE__, #call, got_, wanted);                          \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)
#define OK(call) CHECK(CUDA_SUCCESS, call)
#define EXPECT(condition)                                                                                    \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            printf("line %d: %s is not so\n", __LINE__, #condition);                                         \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

/* out[i] = in[i] + add, one thread each */
static const char ptx[] =
    ".version 8.0\n.target sm_80\n.address_size 64\n"
    ".visible .entry add(.param .u64 out, .param .u64 in, .param .u32 value, .param .u32 count)\n"
    "{ .reg .pred %p; .reg .b32 %r<7>; .reg .b64 %rd<6>;\n"
    "ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [in]; ld.param.u32 %r1, [value]; ld.param.u32 %r2, [count];\n"
    "cvta.to.global.u64 %rd1, %rd1; cvta.to.global.u64 %rd2, %rd2;\n"
    "mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ntid.x; mov.u32 %r5, %tid.x; mad.lo.s32 %r3, %r3, %r4, %r5;\n"
    "setp.ge.u32 %p, %r3, %r2; @%p bra DONE;\n"
    "mul.wide.u32 %rd3, %r3, 4; add.s64 %rd4, %rd2, %rd3; add.s64 %rd5, %rd1, %rd3;\n"
    "ld.global.u32 %r6, [%rd4]; add.s32 %r6, %r6, %r1; st.global.u32 [%rd5], %r6;\n"
    "DONE: ret; }\n";

static int calls;
static void CUDA_CB count_call(void *data) { calls += *(int *)data; }

int main(void) {
#ifdef BY_DLOPEN
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) {
        printf("%s\n", dlerror());
        return 1;
    }
    *(void **)&lookup = dlsym(library, "cuGetProcAddress_v2");
#endif
    int number;
    CHECK(CUDA_ERROR_NOT_INITIALIZED, F(cuDeviceGetCount)(&number));
    OK(F(cuInit)(0));
    OK(F(cuDriverGetVersion)(&number));
    EXPECT(number == CUDA_VERSION);
    OK(F(cuDeviceGetCount)(&number));
    EXPECT(number == 1);
    CUdevice device;
    CHECK(CUDA_ERROR_INVALID_DEVICE, F(cuDeviceGet)(&device, 1));
    CHECK(CUDA_ERROR_INVALID_DEVICE, F(cuDeviceGet)(&device, -1));
    OK(F(cuDeviceGet)(&device, 0));
    char name[100];
    OK(F(cuDeviceGetName)(name, sizeof name, device));
    EXPECT(strstr(name, "softcuda"));
    OK(F(cuDeviceGetAttribute)(&number, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device));
    EXPECT(number == 9);
    OK(F(cuDeviceGetAttribute)(&number, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device));
    EXPECT(number == 132);
    OK(F(cuDeviceGetAttribute)(&number, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, device));
    EXPECT(number == 227 * 1024);
    OK(F(cuDeviceGetAttribute)(&number, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, device));
    EXPECT(number == 60 * 1024 * 1024);
    CHECK(CUDA_ERROR_INVALID_VALUE, F(cuDeviceGetAttribute)(&number, CU_DEVICE_ATTRIBUTE_MAX, device));
    const char *text;
    OK(F(cuGetErrorName)(CUDA_ERROR_ILLEGAL_ADDRESS, &text));
    EXPECT(!strcmp(text, "CUDA_ERROR_ILLEGAL_ADDRESS"));
    CHECK(CUDA_ERROR_INVALID_VALUE, F(cuGetErrorString)((CUresult)12345, &text));

    CUdeviceptr in, out;
    CHECK(CUDA_ERROR_INVALID_CONTEXT, F(cuMemAlloc)(&in, 4));
    CUcontext context, current;
    OK(F(cuDevicePrimaryCtxRetain)(&context, device));
    OK(F(cuCtxSetCurrent)(context));
    OK(F(cuCtxGetCurrent)(&current));
    EXPECT(current == context);

    enum { N = 1000 };
    static uint32_t host[N], back[N];
    for (int i = 0; i < N; i++) host[i] = 7 * i;
    CHECK(CUDA_ERROR_INVALID_VALUE, F(cuMemAlloc)(&in, 0));
    OK(F(cuMemAlloc)(&in, sizeof host));
    OK(F(cuMemAlloc)(&out, sizeof host));
    CUdeviceptr base;
    size_t size, free_before, free_after, total;
    OK(F(cuMemGetAddressRange)(&base, &size, in + 100));
    EXPECT(base == in && size == sizeof host);
    OK(F(cuMemGetInfo)(&free_before, &total));
    CUdeviceptr extra;
    OK(F(cuMemAlloc)(&extra, 1 << 20));
    OK(F(cuMemGetInfo)(&free_after, &total));
    EXPECT(free_before - free_after >= 1 << 20);
    OK(F(cuMemFree)(extra));
    CHECK(CUDA_ERROR_INVALID_VALUE, F(cuMemFree)(extra));
    CHECK(CUDA_ERROR_INVALID_VALUE, F(cuMemFree)(in + 4));
    OK(F(cuMemcpyHtoD)(in, host, sizeof host));
    CHECK(CUDA_ERROR_INVALID_VALUE, F(cuMemcpyHtoD)(in + 4, host, sizeof host));
    OK(F(cuMemcpyDtoH)(back, in, sizeof back));
    EXPECT(!memcmp(host, back, sizeof host));

    CUmodule module;
    CUfunction add;
    CHECK(CUDA_ERROR_INVALID_PTX, F(cuModuleLoadData)(&module, ".version 8.0\n.target sm_80\nnonsense"));
    char log[300] = "";
    CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void *values[] = {log, (void *)sizeof log};
    CHECK(CUDA_ERROR_INVALID_PTX,
          F(cuModuleLoadDataEx)(&module, ".version 8.0\n.target sm_80\nnonsense", 2, options, values));
    EXPECT(strlen(log) > 0 && (size_t)values[1] == strlen(log) + 1);
    OK(F(cuModuleLoadData)(&module, ptx));
    CHECK(CUDA_ERROR_NOT_FOUND, F(cuModuleGetFunction)(&add, module, "subtract"));
    CHECK(CUDA_ERROR_INVALID_HANDLE, F(cuModuleGetFunction)(&add, (CUmodule)context, "add"));
    OK(F(cuModuleGetFunction)(&add, module, "add"));
    size_t offset;
    OK(F(cuFuncGetParamInfo)(add, 3, &offset, &size));
    EXPECT(offset == 20 && size == 4);
    CHECK(CUDA_ERROR_INVALID_VALUE, F(cuFuncGetParamInfo)(add, 4, &offset, &size));
    OK(F(cuFuncGetName)(&text, add));
    EXPECT(!strcmp(text, "add"));
    OK(F(cuOccupancyMaxActiveBlocksPerMultiprocessor)(&number, add, 256, 0));
    EXPECT(number > 0 && number <= 8);

    CUstream stream;
    CUevent begin, end;
    OK(F(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING));
    OK(F(cuEventCreate)(&begin, 0));
    OK(F(cuEventCreate)(&end, 0));
    uint32_t value = 5, count = N;
    void *params[] = {&out, &in, &value, &count};
    OK(F(cuEventRecord)(begin, stream));
    OK(F(cuLaunchKernel)(add, 4, 1, 1, 256, 1, 1, 0, stream, params, NULL));
    OK(F(cuEventRecord)(end, stream));
    OK(F(cuMemcpyDtoHAsync)(back, out, sizeof back, stream));
    OK(F(cuStreamSynchronize)(stream));
    for (int i = 0; i < N; i++) EXPECT(back[i] == 7u * i + 5);
    float milliseconds = -1;
    OK(F(cuEventElapsedTime)(&milliseconds, begin, end));
    EXPECT(milliseconds >= 0);
    /* The other form of parameters. */
    struct { CUdeviceptr out, in; uint32_t value, count; } block = {out, in, 9, N};
    size = sizeof block;
    void *extras[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &block, CU_LAUNCH_PARAM_BUFFER_SIZE, &size, CU_LAUNCH_PARAM_END};
    OK(F(cuLaunchKernel)(add, 4, 1, 1, 256, 1, 1, 0, NULL, NULL, extras));
    OK(F(cuMemcpyDtoH)(back, out, sizeof back));
    for (int i = 0; i < N; i++) EXPECT(back[i] == 7u * i + 9);
    /* What a device refuses. */
    CHECK(CUDA_ERROR_INVALID_VALUE, F(cuLaunchKernel)(add, 0, 1, 1, 256, 1, 1, 0, NULL, params, NULL));
    CHECK(CUDA_ERROR_INVALID_VALUE, F(cuLaunchKernel)(add, 1, 1, 1, 2048, 1, 1, 0, NULL, params, NULL));
    CHECK(CUDA_ERROR_INVALID_VALUE, F(cuLaunchKernel)(add, 1, 1, 1, 256, 1, 1, 50000, NULL, params, NULL));
    CHECK(CUDA_ERROR_INVALID_VALUE,
          F(cuFuncSetAttribute)(add, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 228 * 1024));
    OK(F(cuFuncSetAttribute)(add, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 227 * 1024));
    OK(F(cuLaunchKernel)(add, 1, 1, 1, 256, 1, 1, 50000, NULL, params, NULL));
    /* The stream below does not wait for the default one. */
    OK(F(cuStreamSynchronize)(NULL));
    CHECK(CUDA_ERROR_INVALID_VALUE, F(cuLaunchKernel)(add, 1, 1, 1, 256, 1, 1, 0, NULL, NULL, NULL));
    /* With attributes. */
    CUlaunchAttribute attributes[2];
    memset(attributes, 0, sizeof attributes);
    attributes[0].id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    attributes[0].value.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
    attributes[1].value.cooperative = 1;
    CUlaunchConfig config = {4, 1, 1, 256, 1, 1, 0, stream, attributes, 2};
    value = 11;
    OK(F(cuLaunchKernelEx)(&config, add, params, NULL));
    OK(F(cuStreamSynchronize)(stream));
    OK(F(cuMemcpyDtoH)(back, out, sizeof back));
    for (int i = 0; i < N; i++) EXPECT(back[i] == 7u * i + 11);
    config.gridDimX = 132 * 8 + 1;
    CHECK(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, F(cuLaunchKernelEx)(&config, add, params, NULL));

    /* Clusters: blocks in each dimension of the grid, as many as the device has room for. */
    CUlaunchAttribute blocks;
    memset(&blocks, 0, sizeof blocks);
    blocks.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    CUlaunchConfig clustered = {8, 1, 1, 128, 1, 1, 0, stream, &blocks, 1};
#define CLUSTER(wanted, grid, width, height, depth)                                                          \
    do {                                                                                                     \
        clustered.gridDimX = (grid);                                                                         \
        blocks.value.clusterDim.x = (width);                                                                 \
        blocks.value.clusterDim.y = (height);                                                                \
        blocks.value.clusterDim.z = (depth);                                                                 \
        CHECK(wanted, F(cuLaunchKernelEx)(&clustered, add, params, NULL));                                   \
    } while (0)
    value = 12;
    CLUSTER(CUDA_SUCCESS, 8, 8, 1, 1);
    OK(F(cuStreamSynchronize)(stream));
    OK(F(cuMemcpyDtoH)(back, out, sizeof back));
    for (int i = 0; i < N; i++) EXPECT(back[i] == 7u * i + 12);
    CLUSTER(CUDA_SUCCESS, 9, 3, 1, 1);
    /* A grid that is not made of clusters, no blocks, and more than eight without leave. */
    CLUSTER(CUDA_ERROR_INVALID_CLUSTER_SIZE, 9, 2, 1, 1);
    CLUSTER(CUDA_ERROR_INVALID_CLUSTER_SIZE, 8, 1, 2, 1);
    CLUSTER(CUDA_ERROR_INVALID_CLUSTER_SIZE, 8, 2, 0, 1);
    CLUSTER(CUDA_ERROR_INVALID_CLUSTER_SIZE, 32, 16, 1, 1);
    OK(F(cuOccupancyMaxPotentialClusterSize)(&number, add, &clustered));
    EXPECT(number == 8);
    OK(F(cuFuncSetAttribute)(add, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1));
    OK(F(cuOccupancyMaxPotentialClusterSize)(&number, add, &clustered));
    EXPECT(number == 16);
    CLUSTER(CUDA_SUCCESS, 32, 16, 1, 1);
    CLUSTER(CUDA_ERROR_INVALID_CLUSTER_SIZE, 32, 32, 1, 1);
    OK(F(cuFuncSetAttribute)(add, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 0));
    CLUSTER(CUDA_ERROR_INVALID_CLUSTER_SIZE, 32, 16, 1, 1);
    /* One block on each of 132 multiprocessors, but clusters of eight do not fill the parts they lie in. */
    clustered.sharedMemBytes = 200 << 10;
    CLUSTER(CUDA_SUCCESS, 8, 8, 1, 1);
    OK(F(cuOccupancyMaxActiveClusters)(&number, add, &clustered));
    EXPECT(number == 15);
    blocks.value.clusterDim.x = 2;
    OK(F(cuOccupancyMaxActiveClusters)(&number, add, &clustered));
    EXPECT(number == 66);
    OK(F(cuStreamSynchronize)(stream));

    /* Two dimensions: a corner of a pitched matrix and back. */
    CUdeviceptr matrix;
    size_t pitch;
    OK(F(cuMemAllocPitch)(&matrix, &pitch, 12, 5, 4));
    EXPECT(pitch >= 12 && pitch % 256 == 0);
    OK(F(cuMemsetD2D8)(matrix, pitch, 0xAB, 12, 5));
    CUDA_MEMCPY2D copy;
    memset(&copy, 0, sizeof copy);
    copy.srcMemoryType = CU_MEMORYTYPE_HOST;
    copy.srcHost = host;
    copy.srcPitch = 20;
    copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.dstDevice = matrix;
    copy.dstXInBytes = 4;
    copy.dstY = 1;
    copy.dstPitch = pitch;
    copy.WidthInBytes = 8;
    copy.Height = 3;
    OK(F(cuMemcpy2D)(&copy));
    uint8_t rows[5][12];
    memset(&copy, 0, sizeof copy);
    copy.srcMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.srcDevice = matrix;
    copy.srcPitch = pitch;
    copy.dstMemoryType = CU_MEMORYTYPE_HOST;
    copy.dstHost = rows;
    copy.dstPitch = 12;
    copy.WidthInBytes = 12;
    copy.Height = 5;
    OK(F(cuMemcpy2D)(&copy));
    for (int y = 0; y < 5; y++)
        for (int x = 0; x < 12; x++) {
            uint8_t wanted = 0xAB;
            if (x >= 4 && y >= 1 && y < 4) wanted = ((uint8_t *)host)[(y - 1) * 20 + x - 4];
            EXPECT(rows[y][x] == wanted);
        }
    OK(F(cuMemFree)(matrix));
    OK(F(cuMemsetD32)(in, 3, N));
    OK(F(cuMemsetD16)(in + 4, 0x0102, 2));
    OK(F(cuMemcpyDtoD)(out, in, sizeof back));
    OK(F(cuMemcpy)((CUdeviceptr)(uintptr_t)back, out, sizeof back));
    EXPECT(back[0] == 3 && back[1] == 0x01020102 && back[2] == 3 && back[N - 1] == 3);

    /* Pinned and registered memory, pools. */
    uint32_t *pinned;
    OK(F(cuMemHostAlloc)((void **)&pinned, sizeof host, CU_MEMHOSTALLOC_PORTABLE));
    memset(pinned, 0, sizeof host);
    CUdeviceptr mapped;
    OK(F(cuMemHostGetDevicePointer)(&mapped, pinned, 0));
    value = 2;
    void *mapped_params[] = {&mapped, &in, &value, &count};
    OK(F(cuLaunchKernel)(add, 4, 1, 1, 256, 1, 1, 0, stream, mapped_params, NULL));
    OK(F(cuStreamSynchronize)(stream));
    EXPECT(pinned[0] == 5 && pinned[N - 1] == 5);
    unsigned flags;
    OK(F(cuMemHostGetFlags)(&flags, pinned));
    EXPECT(flags & CU_MEMHOSTALLOC_PORTABLE);
    CUmemorytype kind;
    OK(F(cuPointerGetAttribute)(&kind, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)(uintptr_t)pinned));
    EXPECT(kind == CU_MEMORYTYPE_HOST);
    OK(F(cuPointerGetAttribute)(&kind, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, in));
    EXPECT(kind == CU_MEMORYTYPE_DEVICE);
    CHECK(CUDA_ERROR_INVALID_VALUE,
          F(cuPointerGetAttribute)(&kind, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)(uintptr_t)host));
    OK(F(cuMemFreeHost)(pinned));
    OK(F(cuMemHostRegister)(back, sizeof back, 0));
    CHECK(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, F(cuMemHostRegister)(back, sizeof back, 0));
    OK(F(cuMemHostUnregister)(back));
    CHECK(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, F(cuMemHostUnregister)(back));
    CUdeviceptr pooled;
    OK(F(cuMemAllocAsync)(&pooled, 4096, stream));
    OK(F(cuMemsetD8Async)(pooled, 1, 4096, stream));
    CUmemoryPool pool;
    OK(F(cuDeviceGetDefaultMemPool)(&pool, device));
    cuuint64_t used;
    OK(F(cuMemPoolGetAttribute)(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used));
    EXPECT(used >= 4096);
    OK(F(cuMemFreeAsync)(pooled, stream));
    CHECK(CUDA_ERROR_INVALID_VALUE, F(cuMemFreeAsync)(pooled, stream));

    /* Host functions run behind the work before them. */
    int one = 1;
    OK(F(cuLaunchHostFunc)(stream, count_call, &one));
    OK(F(cuStreamSynchronize)(stream));
    EXPECT(calls == 1);

    /* Capture: two streams joined by events, nothing happens before the launch. */
    CUstream second;
    CUgraph graph;
    CUgraphExec exec;
    CUstreamCaptureStatus status;
    OK(F(cuStreamCreate)(&second, CU_STREAM_NON_BLOCKING));
    OK(F(cuMemsetD32)(out, 0, N));
    OK(F(cuStreamSynchronize)(NULL));
    OK(F(cuStreamBeginCapture)(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    OK(F(cuStreamIsCapturing)(stream, &status));
    EXPECT(status == CU_STREAM_CAPTURE_STATUS_ACTIVE);
    OK(F(cuMemcpyHtoDAsync)(in, host, sizeof host, stream));
    OK(F(cuEventRecord)(begin, stream));
    OK(F(cuStreamWaitEvent)(second, begin, 0));
    value = 100;
    OK(F(cuLaunchKernel)(add, 4, 1, 1, 256, 1, 1, 0, second, params, NULL));
    OK(F(cuLaunchHostFunc)(stream, count_call, &one));
    OK(F(cuEventRecord)(end, second));
    OK(F(cuStreamWaitEvent)(stream, end, 0));
    OK(F(cuMemcpyDtoHAsync)(back, out, sizeof back, stream));
    value = 0;
    OK(F(cuStreamEndCapture)(stream, &graph));
    EXPECT(calls == 1);
    size_t nodes = 0;
    OK(F(cuGraphGetNodes)(graph, NULL, &nodes));
    EXPECT(nodes == 4);
    size_t edges = 0;
    OK(F(cuGraphGetEdges)(graph, NULL, NULL, NULL, &edges));
    EXPECT(edges == 4);
    OK(F(cuGraphInstantiate)(&exec, graph, 0));
    for (int round = 0; round < 3; round++) {
        memset(back, 0, sizeof back);
        host[0] = round;
        OK(F(cuGraphLaunch)(exec, stream));
        OK(F(cuStreamSynchronize)(stream));
        EXPECT(calls == 2 + round && back[0] == 100u + round && back[N - 1] == 7u * (N - 1) + 100);
    }
    host[0] = 0;
    /* Another value by way of the kernel's node. */
    CUgraphNode list[4], kernel = NULL;
    OK(F(cuGraphGetNodes)(graph, list, &nodes));
    for (size_t i = 0; i < nodes; i++) {
        CUgraphNodeType type;
        OK(F(cuGraphNodeGetType)(list[i], &type));
        if (type == CU_GRAPH_NODE_TYPE_KERNEL) kernel = list[i];
    }
    EXPECT(kernel);
    CUDA_KERNEL_NODE_PARAMS node;
    OK(F(cuGraphKernelNodeGetParams)(kernel, &node));
    EXPECT(node.func == add && node.gridDimX == 4 && *(uint32_t *)node.kernelParams[2] == 100);
    value = 200;
    node.kernelParams = params;
    OK(F(cuGraphExecKernelNodeSetParams)(exec, kernel, &node));
    OK(F(cuGraphLaunch)(exec, stream));
    OK(F(cuStreamSynchronize)(stream));
    EXPECT(back[1] == 207);
    /* The graph itself still has the old value, and gives it back. */
    CUgraphExecUpdateResultInfo info;
    OK(F(cuGraphExecUpdate)(exec, graph, &info));
    EXPECT(info.result == CU_GRAPH_EXEC_UPDATE_SUCCESS);
    OK(F(cuGraphLaunch)(exec, stream));
    OK(F(cuStreamSynchronize)(stream));
    EXPECT(back[1] == 107);
    /* A graph of another shape does not. */
    CUgraph other;
    CUgraphNode empty;
    OK(F(cuGraphCreate)(&other, 0));
    OK(F(cuGraphAddEmptyNode)(&empty, other, NULL, 0));
    CHECK(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, F(cuGraphExecUpdate)(exec, other, &info));
    EXPECT(info.result == CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);
    OK(F(cuGraphDestroy)(other));
    CHECK(CUDA_ERROR_INVALID_HANDLE, F(cuGraphNodeGetType)(empty, &(CUgraphNodeType){0}));
    OK(F(cuGraphExecDestroy)(exec));
    OK(F(cuGraphDestroy)(graph));
    /* Waiting for a capturing stream ends the capture in an error. */
    OK(F(cuStreamBeginCapture)(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, F(cuStreamSynchronize)(stream));
    CHECK(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, F(cuStreamEndCapture)(stream, &graph));
    /* So does an allocation in global mode, and a stream that was not joined. */
    OK(F(cuStreamBeginCapture)(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CHECK(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, F(cuMemAlloc)(&extra, 4));
    CHECK(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, F(cuStreamEndCapture)(stream, &graph));
    OK(F(cuStreamBeginCapture)(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(F(cuEventRecord)(begin, stream));
    OK(F(cuStreamWaitEvent)(second, begin, 0));
    OK(F(cuMemsetD8Async)(out, 0, 4, second));
    CHECK(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, F(cuStreamEndCapture)(stream, &graph));

    /* Missing functions and the runtime's tables. */
    CUarray array;
    CUDA_ARRAY_DESCRIPTOR descriptor = {16, 16, CU_AD_FORMAT_FLOAT, 1};
    CHECK(CUDA_ERROR_NOT_SUPPORTED, F(cuArrayCreate)(&array, &descriptor));
    const void *table;
    CUuuid uuid;
    memset(&uuid, 0, sizeof uuid);
    CHECK(CUDA_ERROR_NOT_SUPPORTED, F(cuGetExportTable)(&table, &uuid));

    OK(F(cuStreamDestroy)(second));
    OK(F(cuStreamDestroy)(stream));
    CHECK(CUDA_ERROR_INVALID_HANDLE, F(cuStreamSynchronize)(stream));
    OK(F(cuEventDestroy)(begin));
    OK(F(cuEventDestroy)(end));
    OK(F(cuModuleUnload)(module));
    CHECK(CUDA_ERROR_INVALID_HANDLE, F(cuLaunchKernel)(add, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
    OK(F(cuMemFree)(in));
    OK(F(cuMemFree)(out));
    OK(F(cuDevicePrimaryCtxRelease)(device));
    CHECK(CUDA_ERROR_INVALID_CONTEXT, F(cuDevicePrimaryCtxRelease)(device));
    printf("OK\n");
    return 0;
}
