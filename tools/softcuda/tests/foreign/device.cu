//! arch: compute_80
// CUB's device-wide kernels, launched by hand: scans with decoupled look-back, the onesweep radix sort.

#include <cub/device/dispatch/kernels/radix_sort.cuh>
#include <cub/device/dispatch/kernels/reduce.cuh>
#include <cub/device/dispatch/kernels/scan.cuh>

using u32 = unsigned int;
using u64 = unsigned long long;

constexpr int THREADS = 128;
constexpr int ITEMS = 4;

// One after the other: x → scale·x + shift, mod 2^32. As CUB's tile state cannot pack it with its status into one
// word, values and status are written apart, with release and acquire between.
struct Affine {
  u64 scale, shift;
};

struct Compose {
  __host__ __device__ Affine operator()(const Affine &first, const Affine &second) const {
    return {first.scale * second.scale, first.shift * second.scale + second.shift};
  }
};

template <typename T>
struct ScanPolicy {
  struct ActivePolicy {
    using ScanPolicyT =
        cub::AgentScanPolicy<THREADS, ITEMS, T, cub::BLOCK_LOAD_WARP_TRANSPOSE, cub::LOAD_DEFAULT,
                             cub::BLOCK_STORE_WARP_TRANSPOSE, cub::BLOCK_SCAN_WARP_SCANS,
                             cub::detail::MemBoundScaling<THREADS, ITEMS, u32>>;
  };
};

// Tiles of THREADS·ITEMS (scaled by the type's size, as CUB does it); `state` is the memory of the tile states.
template <typename T, typename Op, typename Init>
__device__ void scan(const T *in, T *out, void *state, int bytes, int tiles, u32 n, Op op, Init init) {
  using State = cub::ScanTileState<T>;
  State tile_state;
  tile_state.Init(tiles, state, bytes);
  using Policy = typename ScanPolicy<T>::ActivePolicy::ScanPolicyT;
  using Agent = cub::detail::scan::AgentScan<Policy, const T *, T *, Op, Init, u32, T>;
  __shared__ typename Agent::TempStorage temp;
  Agent(temp, in, out, op, init).ConsumeRange(n, tile_state, 0);
}

template <typename T>
__device__ void init(void *state, int bytes, int tiles) {
  cub::ScanTileState<T> tile_state;
  tile_state.Init(tiles, state, bytes);
  tile_state.InitializeStatus(tiles);
}

extern "C" __global__ void scan_init_u32(void *state, int bytes, int tiles) { init<u32>(state, bytes, tiles); }
extern "C" __global__ void scan_init_u64(void *state, int bytes, int tiles) { init<u64>(state, bytes, tiles); }
extern "C" __global__ void scan_init_affine(void *state, int bytes, int tiles) { init<Affine>(state, bytes, tiles); }

extern "C" __global__ void __launch_bounds__(THREADS)
    scan_u32(const u32 *in, u32 *out, void *state, int bytes, int tiles, u32 n) {
  scan(in, out, state, bytes, tiles, n, cuda::std::plus<>{}, u32(11));
}
extern "C" __global__ void __launch_bounds__(THREADS)
    scan_u64(const u64 *in, u64 *out, void *state, int bytes, int tiles, u32 n) {
  scan(in, out, state, bytes, tiles, n, cuda::std::plus<>{}, cub::NullType{});
}
extern "C" __global__ void __launch_bounds__(THREADS)
    scan_affine(const Affine *in, Affine *out, void *state, int bytes, int tiles, u32 n) {
  scan(in, out, state, bytes, tiles, n, Compose{}, cub::NullType{});
}

// What the host would ask CUB: tile and temporary storage by type.
extern "C" __global__ void scan_sizes(int tiles, u64 *out) {
  size_t bytes = 0;
  cub::ScanTileState<u32>::AllocationSize(tiles, bytes);
  out[0] = bytes;
  out[1] = THREADS * ScanPolicy<u32>::ActivePolicy::ScanPolicyT::ITEMS_PER_THREAD;
  cub::ScanTileState<u64>::AllocationSize(tiles, bytes);
  out[2] = bytes;
  out[3] = THREADS * ScanPolicy<u64>::ActivePolicy::ScanPolicyT::ITEMS_PER_THREAD;
  cub::ScanTileState<Affine>::AllocationSize(tiles, bytes);
  out[4] = bytes;
  out[5] = THREADS * ScanPolicy<Affine>::ActivePolicy::ScanPolicyT::ITEMS_PER_THREAD;
}

// Radix sort in one sweep for each digit of 8 bits.
template <cub::RadixRankAlgorithm RANK>
struct Sweep {
  struct ActivePolicy {
    using HistogramPolicy = cub::AgentRadixSortHistogramPolicy<THREADS, 8, 1, u32, 8>;
    using ExclusiveSumPolicy = cub::AgentRadixSortExclusiveSumPolicy<256, 8>;
    using OnesweepPolicy = cub::AgentRadixSortOnesweepPolicy<256, 6, u32, 1, RANK, cub::BLOCK_SCAN_RAKING_MEMOIZE,
                                                             cub::RADIX_SORT_STORE_DIRECT, 8>;
  };
};

extern "C" __global__ void __launch_bounds__(THREADS)
    sweep_histogram(u32 *bins, const u32 *keys, u32 n, int begin_bit, int end_bit) {
  using Policy = typename Sweep<cub::RADIX_RANK_MATCH>::ActivePolicy::HistogramPolicy;
  using Agent = cub::detail::radix_sort::AgentRadixSortHistogram<Policy, false, u32, u32>;
  __shared__ typename Agent::TempStorage temp;
  Agent(temp, bins, keys, n, begin_bit, end_bit).Process();
}

extern "C" __global__ void __launch_bounds__(256) sweep_sum(u32 *bins) {
  using Scan = cub::BlockScan<u32, 256>;
  __shared__ typename Scan::TempStorage temp;
  u32 bin = bins[blockIdx.x * 256 + threadIdx.x], sum;
  Scan(temp).ExclusiveSum(bin, sum);
  bins[blockIdx.x * 256 + threadIdx.x] = sum;
}

template <cub::RadixRankAlgorithm RANK>
__device__ void sweep(int *lookback, int *counters, u32 *bins_out, const u32 *bins_in, u32 *keys_out, const u32 *keys_in,
                      u32 *values_out, const u32 *values_in, int n, int bit, int bits) {
  using Policy = typename Sweep<RANK>::ActivePolicy::OnesweepPolicy;
  using Agent = cub::detail::radix_sort::AgentRadixSortOnesweep<Policy, false, u32, u32, u32, int>;
  __shared__ typename Agent::TempStorage temp;
  Agent(temp, lookback, counters, bins_out, bins_in, keys_out, keys_in, values_out, values_in, n, bit, bits).Process();
}

#define SWEEP(NAME, RANK)                                                                                        \
  extern "C" __global__ void __launch_bounds__(256)                                                              \
      NAME(int *lookback, int *counters, u32 *bins_out, const u32 *bins_in, u32 *keys_out, const u32 *keys_in,   \
           u32 *values_out, const u32 *values_in, int n, int bit, int bits) {                                    \
    sweep<cub::RANK>(lookback, counters, bins_out, bins_in, keys_out, keys_in, values_out, values_in, n, bit,    \
                     bits);                                                                                      \
  }

SWEEP(sweep_match, RADIX_RANK_MATCH)
SWEEP(sweep_match_any, RADIX_RANK_MATCH_EARLY_COUNTS_ANY)
SWEEP(sweep_atomic_or, RADIX_RANK_MATCH_EARLY_COUNTS_ATOMIC_OR)

// The first of DeviceReduce's two kernels: each block reduces an even share of the tiles, in vectors where the
// input is aligned.
extern "C" __global__ void __launch_bounds__(THREADS) reduce_shares(const float *in, double *out, u32 n) {
  struct Policy
      : cub::AgentReducePolicy<THREADS, 16, float, 4, cub::BLOCK_REDUCE_WARP_REDUCTIONS, cub::LOAD_LDG> {};
  using Agent = cub::detail::reduce::AgentReduce<Policy, const float *, double *, u32, cuda::std::plus<double>, double,
                                                 cuda::std::identity>;
  __shared__ typename Agent::TempStorage temp;
  cub::GridEvenShare<u32> share;
  share.DispatchInit(n, gridDim.x, Agent::TILE_ITEMS);
  double sum = Agent(temp, in, cuda::std::plus<double>{}).ConsumeTiles(share);
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}
