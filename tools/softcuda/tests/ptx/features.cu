// What nvcc has directives for: calls, tables of pointers, launch bounds, clusters, inline assembly.
#include <stdint.h>
#include <stdio.h>
struct __attribute__((packed)) Packed { char tag; int* pointer; };
__device__ int matrix[2][3] = {{1, 2, 3}, {4, 5, 6}};
__device__ int* inside = &matrix[1][1];
__device__ Packed packed = {1, &matrix[0][2]};
__constant__ float table[4] = {1.0f, 2.0f, -0.5f, 1e-30f};
__managed__ int managed;
extern __shared__ __align__(16) unsigned char smem[];
typedef int (*Function)(int);
__device__ __noinline__ int twice(int x) { return 2 * x + managed; }
__device__ __noinline__ int thrice(int x) { return 3 * x - managed; }
__device__ Function functions[2] = {twice, thrice};
struct Three { float a, b, c; };
__device__ __noinline__ Three shift(Three t, float by) { t.a += by; t.c -= by; return t; }

extern "C" __global__ void __launch_bounds__(128, 2) calls(int* out, int n) {
    __shared__ float tile[32];
    tile[threadIdx.x & 31] = table[n & 3];
    __syncthreads();
    out[0] = functions[n & 1](n) + *inside + *packed.pointer;
    Three t = shift(Three{tile[3], 1.0f, tile[4]}, 0.25f);
    if (t.a > t.c) printf("%d %f\n", n, t.b);
    unsigned s = (unsigned)__cvta_generic_to_shared(smem);
    asm volatile("{\n .reg .pred p;\n setp.ne.b32 p, %0, 0;\n @p bra DONE;\n bra.uni DONE;\nDONE:\n}" :: "r"(s));
    asm volatile("{\n .reg .pred p;\n setp.eq.b32 p, %0, 0;\n @p bra DONE;\nDONE:\n}" :: "r"(s));
}

struct alignas(64) Map { uint64_t words[16]; };
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(128) hopper(const __grid_constant__ Map map, float* out) {
    __shared__ alignas(128) unsigned char tile[8192];
    __shared__ alignas(8) uint64_t barrier;
    unsigned s = (unsigned)__cvta_generic_to_shared(tile), b = (unsigned)__cvta_generic_to_shared(&barrier);
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(b));
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(b), "r"(8192) : "memory");
        asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5;"
            :: "r"(s), "l"(&map), "r"(b), "r"(0), "r"(64), "l"(0x14F0000000000000ull) : "memory");
    }
    asm volatile("{\n.reg .pred P1;\nWAIT:\nmbarrier.try_wait.parity.shared::cta.b64 P1, [%0], %1;\n@P1 bra DONE;\nbra WAIT;\nDONE:\n}" :: "r"(b), "r"(0));
    float d[4] = {};
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %6, 0;\nwgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%0, %1, %2, %3}, %4, %5, p, 1, 1, 0, 0;\n}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"((uint64_t)s), "l"((uint64_t)s + 64), "r"(1));
    out[threadIdx.x] = d[0] + __shfl_xor_sync(~0u, d[1], 4);
}
