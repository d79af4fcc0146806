// Waiting at the barriers of a warp-specialised kernel, for a limited time.
#pragma once

#include "ptx.cuh"

/// Where a kernel's threads leave word of a barrier whose phase does not end.
struct Watch {
    /// In memory of the host, or null.
    Stall *stall;
    /// STALL_GEMM, ….
    uint32_t kernel;

    /// Waits until the phase of this parity has ended. After STALL_LIMIT the kernel ends by an error that the host can
    /// explain, where it would hang.
    __device__ __forceinline__ void wait(uint32_t barrier, uint32_t parity) const {
        if (mbarrier_try_wait_parity(barrier, parity)) {
            return;
        }
        const uint64_t start = mov_globaltimer();
        while (!mbarrier_try_wait_parity(barrier, parity)) {
            if (mov_globaltimer() - start > STALL_LIMIT) {
                give_up(barrier, parity);
            }
        }
    }

    __device__ __forceinline__ void give_up(uint32_t barrier, uint32_t parity) const {
        if (stall != nullptr) {
            st_global_b32(&stall->block, blockIdx.x);
            st_global_b32(&stall->thread, threadIdx.x);
            st_global_b32(&stall->barrier, barrier);
            st_global_b32(&stall->parity, parity);
            st_global_b32(&stall->kernel, kernel);
            fence_sys();
        }
        trap();
    }
};

/// A place in a ring of stages: which stage, and the parity of its phase there.
template <int STAGES> struct RingPosition {
    uint32_t stage = 0, parity = 0;

    __device__ __forceinline__ void advance() {
        stage++;
        if (stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};
