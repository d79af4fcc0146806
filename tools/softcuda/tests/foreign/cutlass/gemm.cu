// A product of CUTLASS for sm_90a: the kernel, and with DESCRIBE a program that says how it is launched and where its
// parameters have what. generate.py compiles both.
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "cute/tensor.hpp"
#include "cutlass/cutlass.h"
#include "cutlass/epilogue/collective/collective_builder.hpp"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/gemm/dispatch_policy.hpp"
#include "cutlass/gemm/kernel/gemm_universal.hpp"

using namespace cute;

// Written by generate.py: NAME, TILE, CLUSTER, LEFT, …; behind the headers, which have names of their own.
#include "config.h"

#define STRING_OF(x) #x
#define STRING(x) STRING_OF(x)

template <class Element> constexpr int alignment = 16 / sizeof(Element);

using Epilogue = cutlass::epilogue::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, TILE, CLUSTER, cutlass::epilogue::collective::EpilogueTileAuto,
    float, float, void, cutlass::layout::RowMajor, alignment<OUTPUT>, OUTPUT, cutlass::layout::RowMajor,
    alignment<OUTPUT>, EPILOGUE>::CollectiveOp;

using Mainloop = cutlass::gemm::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, LEFT, cutlass::layout::LEFT_LAYOUT, alignment<LEFT>, RIGHT,
    cutlass::layout::RIGHT_LAYOUT, alignment<RIGHT>, float, TILE, CLUSTER, cutlass::gemm::collective::StageCount<STAGES>,
    SCHEDULE>::CollectiveOp;

using Gemm = cutlass::gemm::kernel::GemmUniversal<Shape<int, int, int, int>, Mainloop, Epilogue>;

extern "C" __global__ void __launch_bounds__(Gemm::MaxThreadsPerBlock, Gemm::MinBlocksPerMultiprocessor)
NAME(CUTLASS_GRID_CONSTANT Gemm::Params const params) {
    extern __shared__ char smem[];
    Gemm gemm;
    gemm(params, smem);
}

#ifdef DESCRIBE
#include <cuda.h>

// In place of the driver's: says what it is asked for, and leaves a mark where the map goes.
extern "C" CUresult CUDAAPI cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address,
                                                   const cuuint64_t *size, const cuuint64_t *strides, const cuuint32_t *box,
                                                   const cuuint32_t *steps, CUtensorMapInterleave interleave,
                                                   CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                                                   CUtensorMapFloatOOBfill) {
    static unsigned char number = 0;
    number++;
    memset(map, 0xe0 + number, sizeof *map);
    printf("// map %d: type=%d swizzle=%d interleave=%d tensor=%d", number, type, swizzle, interleave,
           (int)((uintptr_t)address >> 40));
    const char *names[] = {"size", "box", "steps"};
    for (int what = 0; what < 3; what++) {
        for (cuuint32_t i = 0; i < rank; i++) {
            printf("%s%llu", i == 0 ? (printf(" %s=", names[what]), "") : "x",
                   what == 0 ? (unsigned long long)size[i] : what == 1 ? box[i] : steps[i]);
        }
    }
    for (cuuint32_t i = 0; i + 1 < rank; i++) printf("%s%llu", i == 0 ? " strides=" : "x", (unsigned long long)strides[i]);
    printf("\n");
    return CUDA_SUCCESS;
}

template <class Stride> Stride packed(int rows, int columns) {
    Stride stride{};
    if constexpr (cute::is_same_v<cute::remove_cvref_t<decltype(get<0>(stride))>, int64_t>) {
        get<0>(stride) = columns;
    } else {
        get<1>(stride) = rows;
    }
    return stride;
}

int main() {
    // Addresses by which the pointers are found again.
    auto at = [](uint64_t n) { return reinterpret_cast<void *>(n << 40); };
    Gemm::Arguments arguments{};
    arguments.mode = cutlass::gemm::GemmUniversalMode::kGemm;
    arguments.problem_shape = {ROWS, COLUMNS, DEPTH, 1};
    arguments.mainloop = {(LEFT *)at(1), packed<Gemm::StrideA>(ROWS, DEPTH), (RIGHT *)at(2),
                          packed<Gemm::StrideB>(COLUMNS, DEPTH)};
    arguments.epilogue = {{1.0f, 0.0f}, nullptr, {}, (OUTPUT *)at(3), packed<Gemm::StrideD>(ROWS, COLUMNS)};
    arguments.hw_info.sm_count = BLOCKS;
    arguments.hw_info.max_active_clusters = BLOCKS / size(CLUSTER{});
    static char workspace[1 << 20];
    const Gemm::Params params = Gemm::to_underlying_arguments(arguments, workspace);
    const dim3 grid = Gemm::get_grid_shape(params), block = Gemm::get_block_shape();
    printf("// launch: kernel=%s grid=%ux%ux%u block=%u shared=%d cluster=%dx%dx%d shape=%dx%dx%d\n", STRING(NAME), grid.x,
           grid.y, grid.z, block.x, Gemm::SharedStorageSize, (int)size<0>(CLUSTER{}), (int)size<1>(CLUSTER{}),
           (int)size<2>(CLUSTER{}), ROWS, COLUMNS, DEPTH);
    printf("// params:");
    const unsigned char *bytes = reinterpret_cast<const unsigned char *>(&params);
    for (size_t i = 0; i < sizeof params; i++) printf("%s%02x", i % 4 == 0 ? " " : "", bytes[i]);
    printf("\n");
}
#endif
