// The barriers of a warp-specialised kernel: a ring of stages with two each, and waiting at them for a limited time.
#pragma once

#include "../smem.cuh"
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

/// A ring of stages at the beginning of shared memory, and BARRIERS bytes from there two barriers for each: at `full`
/// arrive those who fill a stage, at `empty` those who have read it.
template <uint32_t STAGES, uint32_t STAGE_BYTES, uint32_t BARRIERS> struct StageRing {
    static constexpr uint32_t kBarrierBytes = 2 * STAGES * 8;

    /// A stage, as addresses that go on by additions alone, and the parity of its phase. The compiler would make the
    /// addresses of a numbered stage anew each time, from registers that are slow to read.
    struct Position {
        uint32_t number = 0, stage = cvta_to_shared(smem), full = stage + BARRIERS, parity = 0;

        __device__ __forceinline__ uint32_t empty() const { return full + STAGES * 8; }

        __device__ __forceinline__ void advance() { move(1, number + 1 == STAGES); }

        /// Past so many stages, which another warpgroup reads.
        __device__ __forceinline__ void skip(uint32_t stages) { move(stages, (number + stages) / STAGES); }

      private:
        /// So many stages on, which begin the ring anew `rounds` times.
        __device__ __forceinline__ void move(uint32_t stages, uint32_t rounds) {
            number += stages - rounds * STAGES;
            stage += stages * STAGE_BYTES - rounds * (STAGES * STAGE_BYTES);
            full += stages * 8 - rounds * (STAGES * 8);
            parity ^= rounds & 1;
        }
    };

    /// One thread, before a barrier of the block: phases take so many arrivals.
    static __device__ __forceinline__ void init(uint32_t fillers, uint32_t readers) {
        Position at;
        for (uint32_t i = 0; i < STAGES; i++) {
            mbarrier_init(at.full, fillers);
            mbarrier_init(at.empty(), readers);
            at.advance();
        }
        fence_mbarrier_init();
    }
};
