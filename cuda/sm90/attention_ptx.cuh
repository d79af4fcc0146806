// wgmma with both of attention's operands: A in registers, B in rows along k.
#pragma once

#include "ptx.cuh"

/// The descriptor of what begins so many bytes further on: 32-bit arithmetic, since addresses do not carry.
__device__ __forceinline__ uint64_t wgmma_descriptor_at(uint64_t descriptor, uint32_t bytes) {
    return (descriptor & 0xffffffff00000000ull) | static_cast<uint32_t>(descriptor + (bytes >> 4));
}

#define WGMMA_NAMES_32                                                                                                 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "            \
    "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define WGMMA_REGISTERS_32                                                                                             \
    "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),        \
        "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),         \
        "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]),        \
        "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])

/// A in registers, in the layout of mma_m16n8k16; B K-major.
__device__ __forceinline__ void wgmma_m64n64k16_bf16_registers(float (&d)[32], const uint32_t (&a)[4], uint64_t b,
                                                               bool accumulate) {
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.b32 p, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " WGMMA_NAMES_32
                 ", {%32, %33, %34, %35}, %36, p, 1, 1, 0;\n"
                 "}"
                 : WGMMA_REGISTERS_32
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<uint32_t>(accumulate)));
}

/// A in registers, in the layout of mma_m16n8k16; B K-major.
__device__ __forceinline__ void wgmma_m64n64k16_f16_registers(float (&d)[32], const uint32_t (&a)[4], uint64_t b,
                                                              bool accumulate) {
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.b32 p, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 " WGMMA_NAMES_32
                 ", {%32, %33, %34, %35}, %36, p, 1, 1, 0;\n"
                 "}"
                 : WGMMA_REGISTERS_32
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<uint32_t>(accumulate)));
}

#undef WGMMA_NAMES_32
#undef WGMMA_REGISTERS_32
