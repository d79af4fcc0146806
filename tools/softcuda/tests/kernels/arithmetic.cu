// Arithmetic beyond float and int: packed half types, dp4a, doubles, saturation, high products, conversions.
// Each kernel: one thread per element.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

// out [n, 4]: dp4a signed, unsigned, dp2a low, sum of absolute differences
extern "C" __global__ void integer_dots(const int *a, const int *b, int *out) {
    int i = threadIdx.x;
    out[i * 4] = __dp4a(a[i], b[i], 7);
    out[i * 4 + 1] = (int)__dp4a((unsigned)a[i], (unsigned)b[i], 7u);
    out[i * 4 + 2] = __dp2a_lo(a[i], b[i], -3);
    out[i * 4 + 3] = (int)__sad(a[i], b[i], 11u);
}

// out [n, 6]: a+b, a*b, fma, a/b, sqrt |a|, rounded to float
extern "C" __global__ void doubles(const double *a, const double *b, double *out) {
    int i = threadIdx.x;
    out[i * 6] = a[i] + b[i];
    out[i * 6 + 1] = a[i] * b[i];
    out[i * 6 + 2] = fma(a[i], b[i], -a[i] * b[i]);
    out[i * 6 + 3] = a[i] / b[i];
    out[i * 6 + 4] = sqrt(fabs(a[i]));
    out[i * 6 + 5] = (float)a[i];
}

// out [n, 5]: a+b, a*b, fma(a, b, a), max, a < b as 1.0, two numbers at a time
extern "C" __global__ void half_pairs(const __half2 *a, const __half2 *b, __half2 *out) {
    int i = threadIdx.x;
    out[i * 5] = __hadd2(a[i], b[i]);
    out[i * 5 + 1] = __hmul2(a[i], b[i]);
    out[i * 5 + 2] = __hfma2(a[i], b[i], a[i]);
    out[i * 5 + 3] = __hmax2(a[i], b[i]);
    out[i * 5 + 4] = __hlt2(a[i], b[i]);
}

extern "C" __global__ void bfloat_pairs(const __nv_bfloat162 *a, const __nv_bfloat162 *b, __nv_bfloat162 *out) {
    int i = threadIdx.x;
    out[i * 5] = __hadd2(a[i], b[i]);
    out[i * 5 + 1] = __hmul2(a[i], b[i]);
    out[i * 5 + 2] = __hfma2(a[i], b[i], a[i]);
    out[i * 5 + 3] = __hmax2(a[i], b[i]);
    out[i * 5 + 4] = __hlt2(a[i], b[i]);
}

// out [n, 6]: float to int by four roundings, to f16 and to bf16 (bits)
extern "C" __global__ void conversions(const float *x, int *out) {
    int i = threadIdx.x;
    out[i * 6] = __float2int_rn(x[i]);
    out[i * 6 + 1] = __float2int_rz(x[i]);
    out[i * 6 + 2] = __float2int_ru(x[i]);
    out[i * 6 + 3] = __float2int_rd(x[i]);
    out[i * 6 + 4] = __half_as_ushort(__float2half_rn(x[i]));
    out[i * 6 + 5] = __bfloat16_as_ushort(__float2bfloat16_rn(x[i]));
}

// out [n, 7]: popc, clz, ffs, brev, byte_perm(x, y, 0x5362), funnel shift left by y % 32, umulhi
extern "C" __global__ void bit_tricks(const unsigned *x, const unsigned *y, unsigned *out) {
    int i = threadIdx.x;
    out[i * 7] = __popc(x[i]);
    out[i * 7 + 1] = __clz(x[i]);
    out[i * 7 + 2] = __ffs(x[i]);
    out[i * 7 + 3] = __brev(x[i]);
    out[i * 7 + 4] = __byte_perm(x[i], y[i], 0x5362);
    out[i * 7 + 5] = __funnelshift_l(x[i], y[i], y[i] % 32);
    out[i * 7 + 6] = __umulhi(x[i], y[i]);
}

// out [n, 4]: bfe (unsigned, signed), bfi, a three-input logic function
extern "C" __global__ void bit_fields(const unsigned *x, const unsigned *y, unsigned *out) {
    int i = threadIdx.x;
    unsigned r;
    asm("bfe.u32 %0, %1, 5, 9;" : "=r"(r) : "r"(x[i]));
    out[i * 4] = r;
    asm("bfe.s32 %0, %1, 5, 9;" : "=r"(r) : "r"(x[i]));
    out[i * 4 + 1] = r;
    asm("bfi.b32 %0, %1, %2, 8, 12;" : "=r"(r) : "r"(x[i]), "r"(y[i]));
    out[i * 4 + 2] = r;
    asm("lop3.b32 %0, %1, %2, %3, 0xe8;" : "=r"(r) : "r"(x[i]), "r"(y[i]), "r"(x[i] * 3));
    out[i * 4 + 3] = r;
}
