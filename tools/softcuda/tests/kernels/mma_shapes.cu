//! arch: compute_89
// Every shape and type of mma.sync that is supported, as inline PTX: D = A · B + C of one warp, the fragments loaded
// element by element after the PTX ISA's formulas (g = lane / 4, t = lane % 4).
// Launch: block 32. a [m, k] and b [8, k] hold encodings of `Bits` bits, c and d [m, 8].

#include <cstdint>

// A register's worth of elements of a row, from column k on.
template <int Bits> __device__ uint32_t word(const void *row, int k) { return *(const uint32_t *)((const char *)row + k * Bits / 8); }

// Registers of A for 16 rows and of B: Per elements each, the registers' columns 4 * Per apart.
template <int Bits, int K, int Rows> __device__ void load_a(uint32_t *a, const char *matrix) {
    int g = threadIdx.x / 4, t = threadIdx.x % 4;
    constexpr int PER = 32 / Bits, HALVES = Rows / 8;
    for (int i = 0; i < HALVES * K / (4 * PER); i++)
        a[i] = word<Bits>(matrix + (g + i % HALVES * 8) * K * Bits / 8, t * PER + i / HALVES * 4 * PER);
}
template <int Bits, int K> __device__ void load_b(uint32_t *b, const char *matrix) {
    int g = threadIdx.x / 4, t = threadIdx.x % 4;
    constexpr int PER = 32 / Bits;
    for (int i = 0; i < K / (4 * PER); i++) b[i] = word<Bits>(matrix + g * K * Bits / 8, t * PER + i * 4 * PER);
}
// Where C's and D's pair of columns 2t, 2t + 1 lies, rows 0-7 or 8-15.
__device__ int pair(int half) { return (threadIdx.x / 4 + 8 * half) * 8 + threadIdx.x % 4 * 2; }

#define WORDS4(x) "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3])
#define WORDS2(x) "r"(x[0]), "r"(x[1])

// f32 or s32 sums: four registers. The numbers of A's and B's registers make the operand lists.
#define KERNEL_4_2(name, instruction, bits, k, type, letter)                                                                     \
    extern "C" __global__ void name(const char *left, const char *right, const type *c, type *d) {                               \
        uint32_t a[4], b[2];                                                                                                     \
        load_a<bits, k, 16>(a, left), load_b<bits, k>(b, right);                                                                 \
        type s[4] = {c[pair(0)], c[pair(0) + 1], c[pair(1)], c[pair(1) + 1]};                                                    \
        asm volatile(instruction " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                              \
                     : "+" letter(s[0]), "+" letter(s[1]), "+" letter(s[2]), "+" letter(s[3])                                    \
                     : WORDS4(a), WORDS2(b));                                                                                    \
        d[pair(0)] = s[0], d[pair(0) + 1] = s[1], d[pair(1)] = s[2], d[pair(1) + 1] = s[3];                                      \
    }
#define KERNEL_2_1(name, instruction, bits, k, type, letter)                                                                     \
    extern "C" __global__ void name(const char *left, const char *right, const type *c, type *d) {                               \
        uint32_t a[2], b[1];                                                                                                     \
        load_a<bits, k, 16>(a, left), load_b<bits, k>(b, right);                                                                 \
        type s[4] = {c[pair(0)], c[pair(0) + 1], c[pair(1)], c[pair(1) + 1]};                                                    \
        asm volatile(instruction " {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"                                          \
                     : "+" letter(s[0]), "+" letter(s[1]), "+" letter(s[2]), "+" letter(s[3])                                    \
                     : WORDS2(a), "r"(b[0]));                                                                                    \
        d[pair(0)] = s[0], d[pair(0) + 1] = s[1], d[pair(1)] = s[2], d[pair(1) + 1] = s[3];                                      \
    }
#define MMA "mma.sync.aligned."

KERNEL_2_1(f16_k8, MMA "m16n8k8.row.col.f32.f16.f16.f32", 16, 8, float, "f")
KERNEL_4_2(f16_k16, MMA "m16n8k16.row.col.f32.f16.f16.f32", 16, 16, float, "f")
KERNEL_2_1(bf16_k8, MMA "m16n8k8.row.col.f32.bf16.bf16.f32", 16, 8, float, "f")
KERNEL_4_2(bf16_k16, MMA "m16n8k16.row.col.f32.bf16.bf16.f32", 16, 16, float, "f")
KERNEL_2_1(tf32_k4, MMA "m16n8k4.row.col.f32.tf32.tf32.f32", 32, 4, float, "f")
KERNEL_4_2(tf32_k8, MMA "m16n8k8.row.col.f32.tf32.tf32.f32", 32, 8, float, "f")
KERNEL_4_2(e4m3_k32, MMA "m16n8k32.row.col.f32.e4m3.e4m3.f32", 8, 32, float, "f")
KERNEL_4_2(e5m2_k32, MMA "m16n8k32.row.col.f32.e5m2.e5m2.f32", 8, 32, float, "f")
KERNEL_2_1(s8_k16, MMA "m16n8k16.row.col.s32.s8.s8.s32", 8, 16, int, "r")
KERNEL_4_2(s8_k32, MMA "m16n8k32.row.col.s32.s8.s8.s32", 8, 32, int, "r")
KERNEL_4_2(u8_k32_satfinite, MMA "m16n8k32.row.col.satfinite.s32.u8.u8.s32", 8, 32, int, "r")

// f16 sums: a pair of columns per register.
extern "C" __global__ void f16_to_f16_k16(const char *left, const char *right, const uint16_t *c, uint16_t *d) {
    uint32_t a[4], b[2];
    load_a<16, 16, 16>(a, left), load_b<16, 16>(b, right);
    uint32_t s[2] = {*(const uint32_t *)(c + pair(0)), *(const uint32_t *)(c + pair(1))};
    asm volatile(MMA "m16n8k16.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%0, %1};"
                 : "+r"(s[0]), "+r"(s[1])
                 : WORDS4(a), WORDS2(b));
    *(uint32_t *)(d + pair(0)) = s[0], *(uint32_t *)(d + pair(1)) = s[1];
}

// Eight rows.
extern "C" __global__ void s8_m8_k16(const char *left, const char *right, const int *c, int *d) {
    uint32_t a[1], b[1];
    load_a<8, 16, 8>(a, left), load_b<8, 16>(b, right);
    int s[2] = {c[pair(0)], c[pair(0) + 1]};
    asm volatile(MMA "m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};" : "+r"(s[0]), "+r"(s[1]) : "r"(a[0]), "r"(b[0]));
    d[pair(0)] = s[0], d[pair(0) + 1] = s[1];
}

// b [8, 4], as all of them: column n in a row.
extern "C" __global__ void f64_m8_k4(const double *a, const double *b, const double *c, double *d) {
    double s[2] = {c[pair(0)], c[pair(0) + 1]};
    asm volatile(MMA "m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};" : "+d"(s[0]), "+d"(s[1]) : "d"(a[threadIdx.x]), "d"(b[threadIdx.x]));
    d[pair(0)] = s[0], d[pair(0) + 1] = s[1];
}
