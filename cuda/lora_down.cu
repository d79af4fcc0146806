// computes: h[t, c] = (x[t]·A[c])·(weight·scale), 0 where row t does not use column c. x [tokens, k], A [columns, k],
//     h [tokens, columns]; all 16-bit, accumulated in float32.
// grid: ⌈tokens of the bucket / LORA_DOWN_ROWS⌉. A block takes whole rows, in column tiles of MMA_N = 8, and skips the
//     tiles that none of its rows uses.
// block and shared memory: LORA_DOWN_THREADS, all with the same role (lora_down.cuh); LORA_DOWN_SHARED_BYTES.
// bound by: bytes, 2·k + 2·columns per token (A from L1, where the blocks of a multiprocessor share it, or L2), with
//     32 KB of x in flight per block. 2·k FLOP per token and column used.
// requires: pointers and strides aligned to 16 bytes. Rows past tokens are neither read nor written.
// gates: registers <= 128, stack = 0, static shared = 0, blocks >= 2, instructions per mma <= 6.3
#include "lora_down.cuh"
#include "smem.cuh"

namespace {

/// All threads of the block.
struct WholeBlock {
    static __device__ __forceinline__ uint32_t index() { return threadIdx.x; }
    static __device__ __forceinline__ void sync() { __syncthreads(); }
};

template <class T> __device__ __forceinline__ void lora_down(const LoraDownParams &p) {
    griddepcontrol_launch_dependents();
    const uint32_t tokens = *p.tokens, first_row = blockIdx.x * LORA_DOWN_ROWS;
    griddepcontrol_wait();
    if (first_row < tokens) {
        down_project<T, WholeBlock>(p, tokens, first_row, *reinterpret_cast<DownStorage *>(smem), GlobalH{p});
    }
}

} // namespace

extern "C" __global__ void __launch_bounds__(LORA_DOWN_THREADS, 2)
lora_down_bf16(const __grid_constant__ LoraDownParams p) {
    lora_down<Bf16>(p);
}

extern "C" __global__ void __launch_bounds__(LORA_DOWN_THREADS, 2)
lora_down_f16(const __grid_constant__ LoraDownParams p) {
    lora_down<F16>(p);
}
