//! arch: compute_90
// stmatrix: four 8x8 matrices from registers to shared memory, plainly and transposed; and ldmatrix back.
// Launch: block 32. out [2, 4, 8, 8] 16-bit values: matrix, row, column.

#include "ptx_async.cuh"

extern "C" __global__ void stmatrix(unsigned short *out) {
    __shared__ __align__(16) unsigned short tiles[2][4][8][8];
    int lane = threadIdx.x;
    uint32_t r[4];
    // Element (row lane / 4, columns 2 * (lane % 4) and the next) of matrix i holds i * 100 + row * 8 + column.
    for (int i = 0; i < 4; i++) {
        uint32_t first = i * 100 + lane / 4 * 8 + lane % 4 * 2;
        r[i] = first | (first + 1) << 16;
    }
    uint32_t plain = shared_address(&tiles[0][lane / 8][lane % 8][0]), turned = shared_address(&tiles[1][lane / 8][lane % 8][0]);
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(plain), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(turned), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
    __syncwarp();
    for (int i = lane; i < 512; i += 32) out[i] = (&tiles[0][0][0][0])[i];
}
