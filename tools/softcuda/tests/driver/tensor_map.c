/* cuTensorMapEncodeTiled: one argument after the other out of its limits. Prints a line for each that is not refused. */
#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>

static struct {
    CUtensorMapDataType type;
    cuuint32_t rank;
    void *address;
    cuuint64_t dimensions[5], strides[4];
    cuuint32_t box[5], element_strides[5];
    CUtensorMapInterleave interleave;
    CUtensorMapSwizzle swizzle;
    CUtensorMapL2promotion promotion;
    CUtensorMapFloatOOBfill fill;
} now;

static _Alignas(64) unsigned char place[256];
static CUdeviceptr memory;
static int wrong;

static void reset(void) {
    now.type = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    now.rank = 3;
    now.address = (void *)memory;
    for (int i = 0; i < 5; i++) {
        now.dimensions[i] = 100;
        now.box[i] = i ? 4 : 64;
        now.element_strides[i] = 1;
    }
    now.strides[0] = 208;
    now.strides[1] = now.strides[2] = now.strides[3] = 208 * 100;
    now.interleave = CU_TENSOR_MAP_INTERLEAVE_NONE;
    now.swizzle = CU_TENSOR_MAP_SWIZZLE_128B;
    now.promotion = CU_TENSOR_MAP_L2_PROMOTION_L2_128B;
    now.fill = CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
}

static CUresult encode(void *map) {
    return cuTensorMapEncodeTiled(map, now.type, now.rank, now.address, now.dimensions, now.strides, now.box,
                                  now.element_strides, now.interleave, now.swizzle, now.promotion, now.fill);
}

#define CASE(expected, change)                                                                                \
    do {                                                                                                     \
        reset();                                                                                             \
        change;                                                                                              \
        fprintf(stderr, "case: %s\n", #change);                                                              \
        CUresult got_ = encode(place);                                                                       \
        if (got_ != (expected)) {                                                                            \
            printf("%s gave %d\n", #change, got_);                                                           \
            wrong = 1;                                                                                       \
        }                                                                                                    \
    } while (0)
#define GOOD(change) CASE(CUDA_SUCCESS, change)
#define BAD(change) CASE(CUDA_ERROR_INVALID_VALUE, change)

int main(void) {
    CUcontext context;
    if (cuInit(0) || cuDevicePrimaryCtxRetain(&context, 0) || cuCtxSetCurrent(context) || cuMemAlloc(&memory, 1 << 22)) return 1;
    GOOD((void)0);
    GOOD(now.rank = 1);
    GOOD(now.rank = 2);
    GOOD(now.type = CU_TENSOR_MAP_DATA_TYPE_UINT8);
    GOOD((now.type = CU_TENSOR_MAP_DATA_TYPE_FLOAT32, now.box[0] = 32, now.strides[0] = 416));
    GOOD((now.swizzle = CU_TENSOR_MAP_SWIZZLE_64B, now.box[0] = 32));
    GOOD((now.swizzle = CU_TENSOR_MAP_SWIZZLE_32B, now.box[0] = 16));
    GOOD((now.swizzle = CU_TENSOR_MAP_SWIZZLE_NONE, now.box[0] = 256));
    GOOD(now.fill = CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA);
    GOOD(now.box[1] = 256);
    GOOD(now.element_strides[0] = 2);
    BAD(now.type = 99);
    BAD(now.rank = 0);
    BAD(now.rank = 4);
    BAD(now.rank = 6);
    BAD(now.address = 0);
    BAD(now.address = (char *)now.address + 8);
    BAD(now.dimensions[0] = 0);
    BAD(now.dimensions[2] = 0);
    BAD(now.dimensions[1] = (1ull << 32) + 1);
    BAD(now.strides[0] = 216);
    BAD(now.strides[0] = 192);
    BAD(now.strides[1] = 192);
    BAD(now.strides[1] = 1ull << 40);
    BAD(now.box[0] = 0);
    BAD(now.box[1] = 257);
    BAD(now.box[0] = 60);
    BAD(now.box[0] = 128);
    BAD((now.swizzle = CU_TENSOR_MAP_SWIZZLE_32B));
    BAD(now.element_strides[1] = 2);
    BAD(now.interleave = CU_TENSOR_MAP_INTERLEAVE_32B);
    BAD(now.swizzle = 77);
    BAD(now.promotion = 9);
    BAD(now.fill = 5);
    BAD((now.type = CU_TENSOR_MAP_DATA_TYPE_UINT16, now.fill = CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA));
    reset();
    if (encode(NULL) != CUDA_ERROR_INVALID_VALUE || encode(place + 16) != CUDA_ERROR_INVALID_VALUE) {
        puts("a map at a bad place is taken");
        wrong = 1;
    }
    cuMemFree(memory);
    cuDevicePrimaryCtxRelease(0);
    return wrong;
}
