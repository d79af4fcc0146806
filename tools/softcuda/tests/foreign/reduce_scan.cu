//! arch: compute_80
// CUB's collective reductions and scans: BlockReduce, BlockScan, WarpReduce and WarpScan with every algorithm.

#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>
#include <cub/warp/warp_reduce.cuh>
#include <cub/warp/warp_scan.cuh>

using u32 = unsigned int;
using u64 = unsigned long long;

// x → scale·x + shift over the integers mod 2^32: composition is associative but not commutative.
struct Affine {
  u32 scale, shift;
};

struct Compose {
  __device__ Affine operator()(Affine first, Affine second) const {
    return {first.scale * second.scale, first.shift * second.scale + second.shift};
  }
};

// One tile of THREADS·ITEMS a block. out[3·block ..]: the sum of the tile, its maximum, and the sum of what
// the first `valid` threads bring as their first item.
template <typename T, int THREADS, int ITEMS, cub::BlockReduceAlgorithm ALGORITHM>
__device__ void reduce(const T *in, T *out, int n) {
  using Reduce = cub::BlockReduce<T, THREADS, ALGORITHM>;
  __shared__ typename Reduce::TempStorage temp;
  int first = blockIdx.x * THREADS * ITEMS;
  T items[ITEMS];
  for (int i = 0; i < ITEMS; i++) {
    int at = first + threadIdx.x * ITEMS + i;
    items[i] = at < n ? in[at] : T(0);
  }
  T sum = Reduce(temp).Sum(items);
  __syncthreads();
  T most = Reduce(temp).Reduce(items, cuda::maximum<>{});
  __syncthreads();
  int valid = min(THREADS, (n - first + ITEMS - 1) / ITEMS);
  T some = Reduce(temp).Sum(items[0], valid);
  if (threadIdx.x == 0) {
    out[3 * blockIdx.x] = sum;
    out[3 * blockIdx.x + 1] = most;
    out[3 * blockIdx.x + 2] = some;
  }
}

#define REDUCE(NAME, T, THREADS, ITEMS, ALGORITHM)                                                               \
  extern "C" __global__ void __launch_bounds__(THREADS) NAME(const T *in, T *out, int n) {                      \
    reduce<T, THREADS, ITEMS, cub::ALGORITHM>(in, out, n);                                                      \
  }

REDUCE(reduce_commutative_u32_96x3, u32, 96, 3, BLOCK_REDUCE_RAKING_COMMUTATIVE_ONLY)
REDUCE(reduce_raking_u32_64x4, u32, 64, 4, BLOCK_REDUCE_RAKING)
REDUCE(reduce_raking_f64_100x2, double, 100, 2, BLOCK_REDUCE_RAKING)
REDUCE(reduce_warps_u32_256x1, u32, 256, 1, BLOCK_REDUCE_WARP_REDUCTIONS)
REDUCE(reduce_warps_f32_128x4, float, 128, 4, BLOCK_REDUCE_WARP_REDUCTIONS)
REDUCE(reduce_warps_u64_48x5, u64, 48, 5, BLOCK_REDUCE_WARP_REDUCTIONS)

template <int THREADS, cub::BlockReduceAlgorithm ALGORITHM>
__device__ void compose(const Affine *in, Affine *out, int n) {
  using Reduce = cub::BlockReduce<Affine, THREADS, ALGORITHM>;
  __shared__ typename Reduce::TempStorage temp;
  int at = blockIdx.x * THREADS + threadIdx.x;
  Affine item = at < n ? in[at] : Affine{1, 0};
  Affine all = Reduce(temp).Reduce(item, Compose{});
  if (threadIdx.x == 0) out[blockIdx.x] = all;
}

extern "C" __global__ void compose_raking_96(const Affine *in, Affine *out, int n) {
  compose<96, cub::BLOCK_REDUCE_RAKING>(in, out, n);
}
extern "C" __global__ void compose_warps_160(const Affine *in, Affine *out, int n) {
  compose<160, cub::BLOCK_REDUCE_WARP_REDUCTIONS>(in, out, n);
}

// A running prefix over the tiles of one block's share.
template <typename T>
struct Running {
  T total;
  __device__ T operator()(T aggregate) {
    T before = total;
    total = total + aggregate;
    return before;
  }
};

// One block scans all of the input, tile after tile: exclusive and inclusive sums and the inclusive maximum
// inside each tile.
template <typename T, int THREADS, int ITEMS, cub::BlockScanAlgorithm ALGORITHM>
__device__ void scan(const T *in, T *exclusive, T *inclusive, T *most, int n) {
  using Scan = cub::BlockScan<T, THREADS, ALGORITHM>;
  __shared__ typename Scan::TempStorage temp;
  Running<T> running{T(0)}, second{T(0)};
  for (int first = 0; first < n; first += THREADS * ITEMS) {
    T items[ITEMS], sums[ITEMS];
    for (int i = 0; i < ITEMS; i++) {
      int at = first + threadIdx.x * ITEMS + i;
      items[i] = at < n ? in[at] : T(0);
    }
    Scan(temp).ExclusiveSum(items, sums, running);
    __syncthreads();
    for (int i = 0; i < ITEMS; i++) {
      int at = first + threadIdx.x * ITEMS + i;
      if (at < n) exclusive[at] = sums[i];
    }
    Scan(temp).InclusiveSum(items, sums, second);
    __syncthreads();
    for (int i = 0; i < ITEMS; i++) {
      int at = first + threadIdx.x * ITEMS + i;
      if (at < n) inclusive[at] = sums[i];
    }
    T whole;
    Scan(temp).InclusiveScan(items, sums, cuda::maximum<>{}, whole);
    __syncthreads();
    for (int i = 0; i < ITEMS; i++) {
      int at = first + threadIdx.x * ITEMS + i;
      if (at < n) most[at] = sums[i];
    }
  }
}

#define SCAN(NAME, T, THREADS, ITEMS, ALGORITHM)                                                                 \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                          \
      NAME(const T *in, T *exclusive, T *inclusive, T *most, int n) {                                            \
    scan<T, THREADS, ITEMS, cub::ALGORITHM>(in, exclusive, inclusive, most, n);                                  \
  }

SCAN(scan_raking_u32_96x3, u32, 96, 3, BLOCK_SCAN_RAKING)
SCAN(scan_raking_u64_50x2, u64, 50, 2, BLOCK_SCAN_RAKING)
SCAN(scan_memoize_u32_128x4, u32, 128, 4, BLOCK_SCAN_RAKING_MEMOIZE)
SCAN(scan_warps_u32_256x1, u32, 256, 1, BLOCK_SCAN_WARP_SCANS)
SCAN(scan_warps_u64_64x5, u64, 64, 5, BLOCK_SCAN_WARP_SCANS)

template <int THREADS, cub::BlockScanAlgorithm ALGORITHM>
__device__ void compose_scan(const Affine *in, Affine *out, int n) {
  using Scan = cub::BlockScan<Affine, THREADS, ALGORITHM>;
  __shared__ typename Scan::TempStorage temp;
  int at = blockIdx.x * THREADS + threadIdx.x;
  Affine item = at < n ? in[at] : Affine{1, 0};
  Affine result;
  Scan(temp).ExclusiveScan(item, result, Affine{3, 5}, Compose{});
  if (at < n) out[at] = result;
}

extern "C" __global__ void compose_scan_raking_64(const Affine *in, Affine *out, int n) {
  compose_scan<64, cub::BLOCK_SCAN_RAKING>(in, out, n);
}
extern "C" __global__ void compose_scan_warps_128(const Affine *in, Affine *out, int n) {
  compose_scan<128, cub::BLOCK_SCAN_WARP_SCANS>(in, out, n);
}

// Logical warps of LANES lanes, or the first LANES of each warp where that is no power of two (CUB's mask of members
// is right for them only): sum and maximum at their first lane, inclusive and exclusive sums at each.
template <int LANES>
__device__ void warps(const u32 *in, u32 *sum, u32 *most, u32 *inclusive, u32 *exclusive) {
  constexpr int WARPS = 128 / 32;
  constexpr int LOGICAL = (LANES & (LANES - 1)) == 0 ? 32 / LANES : 1;
  using Reduce = cub::WarpReduce<u32, LANES>;
  using Scan = cub::WarpScan<u32, LANES>;
  __shared__ typename Reduce::TempStorage reduces[WARPS * LOGICAL];
  __shared__ typename Scan::TempStorage scans[WARPS * LOGICAL];
  int lane = threadIdx.x % 32, logical = lane / LANES;
  if (logical >= LOGICAL) return;
  int group = threadIdx.x / 32 * LOGICAL + logical;
  int at = blockIdx.x * 128 + threadIdx.x;
  u32 value = in[at];
  u32 all = Reduce(reduces[group]).Sum(value);
  u32 top = Reduce(reduces[group]).Reduce(value, cuda::maximum<>{}, LANES - 1);
  if (lane % LANES == 0) {
    sum[at] = all;
    most[at] = top;
  }
  u32 including, excluding;
  Scan(scans[group]).Scan(value, including, excluding, u32(7), cuda::std::plus<>{});
  inclusive[at] = including;
  exclusive[at] = excluding;
}

#define WARPS(NAME, LANES)                                                                                       \
  extern "C" __global__ void NAME(const u32 *in, u32 *sum, u32 *most, u32 *inclusive, u32 *exclusive) {          \
    warps<LANES>(in, sum, most, inclusive, exclusive);                                                           \
  }

WARPS(warps_of_32, 32)
WARPS(warps_of_16, 16)
WARPS(warps_of_4, 4)
WARPS(warps_of_5, 5)
