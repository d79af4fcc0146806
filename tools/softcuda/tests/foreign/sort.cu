//! arch: compute_80
// CUB's collective sorts, histograms and exchanges of data: BlockRadixSort, BlockMergeSort, WarpMergeSort,
// BlockHistogram, BlockLoad and BlockStore, BlockExchange, BlockDiscontinuity, BlockAdjacentDifference.

#include <cub/block/block_adjacent_difference.cuh>
#include <cub/block/block_discontinuity.cuh>
#include <cub/block/block_exchange.cuh>
#include <cub/block/block_histogram.cuh>
#include <cub/block/block_load.cuh>
#include <cub/block/block_merge_sort.cuh>
#include <cub/block/block_radix_sort.cuh>
#include <cub/block/block_shuffle.cuh>
#include <cub/block/block_store.cuh>
#include <cub/warp/warp_merge_sort.cuh>

using u8 = unsigned char;
using u32 = unsigned int;
using u64 = unsigned long long;

// Sorts each tile by its key; the values are the places that the keys had. What is behind the end of the input
// sorts last (first, when descending).
template <typename K, int THREADS, int ITEMS, int BITS, bool MEMOIZE, bool DESCENDING>
__device__ void radix(const K *in, K *out, u32 *places, int n, K filler, int begin_bit, int end_bit) {
  using Load = cub::BlockLoad<K, THREADS, ITEMS, cub::BLOCK_LOAD_TRANSPOSE>;
  using Sort = cub::BlockRadixSort<K, THREADS, ITEMS, u32, BITS, MEMOIZE>;
  __shared__ union {
    typename Load::TempStorage load;
    typename Sort::TempStorage sort;
  } temp;
  int first = blockIdx.x * THREADS * ITEMS;
  int valid = min(THREADS * ITEMS, n - first);
  K keys[ITEMS];
  u32 values[ITEMS];
  Load(temp.load).Load(in + first, keys, valid, filler);
  __syncthreads();
  for (int i = 0; i < ITEMS; i++) values[i] = threadIdx.x * ITEMS + i;
  if (DESCENDING)
    Sort(temp.sort).SortDescending(keys, values, begin_bit, end_bit);
  else
    Sort(temp.sort).Sort(keys, values, begin_bit, end_bit);
  cub::StoreDirectBlocked(threadIdx.x, out + first, keys, valid);
  cub::StoreDirectBlocked(threadIdx.x, places + first, values, valid);
}

#define RADIX(NAME, K, THREADS, ITEMS, BITS, MEMOIZE, DESCENDING)                                                \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                          \
      NAME(const K *in, K *out, u32 *places, int n, K filler, int begin_bit, int end_bit) {                      \
    radix<K, THREADS, ITEMS, BITS, MEMOIZE, DESCENDING>(in, out, places, n, filler, begin_bit, end_bit);         \
  }

RADIX(radix_u32_64x4_4, u32, 64, 4, 4, true, false)
RADIX(radix_u32_128x7_6, u32, 128, 7, 6, true, false)
RADIX(radix_u32_32x5_1_descending, u32, 32, 5, 1, false, true)
RADIX(radix_u64_96x3_5, u64, 96, 3, 5, true, false)
RADIX(radix_f32_128x4_4, float, 128, 4, 4, false, false)
RADIX(radix_f64_64x3_4_descending, double, 64, 3, 4, true, true)
RADIX(radix_i16_256x2_4, short, 256, 2, 4, true, false)

// Keys alone, from blocked to striped.
extern "C" __global__ void radix_keys_striped_128x5(const u32 *in, u32 *out) {
  using Sort = cub::BlockRadixSort<u32, 128, 5>;
  __shared__ typename Sort::TempStorage temp;
  u32 keys[5];
  cub::LoadDirectBlocked(threadIdx.x, in + blockIdx.x * 640, keys);
  Sort(temp).SortBlockedToStriped(keys);
  cub::StoreDirectStriped<128>(threadIdx.x, out + blockIdx.x * 640, keys);
}

// By the low byte only, and stable.
struct LowByte {
  __device__ bool operator()(u32 a, u32 b) const { return (a & 255) < (b & 255); }
};

template <int THREADS, int ITEMS>
__device__ void merge(const u32 *in, u32 *out, u32 *places, int n) {
  using Sort = cub::BlockMergeSort<u32, THREADS, ITEMS, u32>;
  __shared__ typename Sort::TempStorage temp;
  int first = blockIdx.x * THREADS * ITEMS;
  int valid = min(THREADS * ITEMS, n - first);
  u32 keys[ITEMS], values[ITEMS];
  cub::LoadDirectBlocked(threadIdx.x, in + first, keys, valid, 0u);
  for (int i = 0; i < ITEMS; i++) values[i] = threadIdx.x * ITEMS + i;
  Sort(temp).StableSort(keys, values, LowByte{}, valid, 255u);
  cub::StoreDirectBlocked(threadIdx.x, out + first, keys, valid);
  cub::StoreDirectBlocked(threadIdx.x, places + first, values, valid);
}

extern "C" __global__ void merge_64x3(const u32 *in, u32 *out, u32 *places, int n) { merge<64, 3>(in, out, places, n); }
extern "C" __global__ void merge_256x5(const u32 *in, u32 *out, u32 *places, int n) {
  merge<256, 5>(in, out, places, n);
}

// Sixteen lanes, four items each: 64 keys sorted apart from all others.
extern "C" __global__ void warp_merge_16x4(const u32 *in, u32 *out) {
  using Sort = cub::WarpMergeSort<u32, 4, 16>;
  __shared__ typename Sort::TempStorage temp[4];
  u32 keys[4];
  cub::LoadDirectBlocked(threadIdx.x, in, keys);
  Sort(temp[threadIdx.x / 16]).Sort(keys, cuda::std::less<>{});
  cub::StoreDirectBlocked(threadIdx.x, out, keys);
}

template <int THREADS, int ITEMS, int BINS, cub::BlockHistogramAlgorithm ALGORITHM>
__device__ void histogram(const u8 *in, u32 *out) {
  using Histogram = cub::BlockHistogram<u8, THREADS, ITEMS, BINS, ALGORITHM>;
  __shared__ typename Histogram::TempStorage temp;
  __shared__ u32 counts[BINS];
  u8 items[ITEMS];
  Histogram(temp).InitHistogram(counts);
  // Two tiles into one histogram.
  for (int tile = 0; tile < 2; tile++) {
    cub::LoadDirectStriped<THREADS>(threadIdx.x, in + (2 * blockIdx.x + tile) * THREADS * ITEMS, items);
    __syncthreads();
    Histogram(temp).Composite(items, counts);
  }
  __syncthreads();
  for (int bin = threadIdx.x; bin < BINS; bin += THREADS) out[blockIdx.x * BINS + bin] = counts[bin];
}

extern "C" __global__ void histogram_sort_64x4(const u8 *in, u32 *out) {
  histogram<64, 4, 100, cub::BLOCK_HISTO_SORT>(in, out);
}
extern "C" __global__ void histogram_atomic_128x3(const u8 *in, u32 *out) {
  histogram<128, 3, 256, cub::BLOCK_HISTO_ATOMIC>(in, out);
}

// Each item comes out as 3·item + its place in the tile, so that the arrangement in threads shows.
template <typename T, int THREADS, int ITEMS, cub::BlockLoadAlgorithm LOAD, cub::BlockStoreAlgorithm STORE>
__device__ void copy(const T *in, T *out, int n) {
  using Load = cub::BlockLoad<T, THREADS, ITEMS, LOAD>;
  using Store = cub::BlockStore<T, THREADS, ITEMS, STORE>;
  __shared__ union {
    typename Load::TempStorage load;
    typename Store::TempStorage store;
  } temp;
  int first = blockIdx.x * THREADS * ITEMS;
  int valid = min(THREADS * ITEMS, n - first);
  T items[ITEMS];
  if (valid == THREADS * ITEMS)
    Load(temp.load).Load(in + first, items);
  else
    Load(temp.load).Load(in + first, items, valid);
  __syncthreads();
  for (int i = 0; i < ITEMS; i++) {
    int place = LOAD == cub::BLOCK_LOAD_STRIPED ? i * THREADS + threadIdx.x : threadIdx.x * ITEMS + i;
    if (place < valid) items[i] = T(3 * items[i] + place);
  }
  if (valid == THREADS * ITEMS)
    Store(temp.store).Store(out + first, items);
  else
    Store(temp.store).Store(out + first, items, valid);
}

#define COPY(NAME, T, THREADS, ITEMS, KIND)                                                                      \
  extern "C" __global__ void NAME(const T *in, T *out, int n) {                                                  \
    copy<T, THREADS, ITEMS, cub::BLOCK_LOAD_##KIND, cub::BLOCK_STORE_##KIND>(in, out, n);                        \
  }

COPY(copy_direct_u32_64x3, u32, 64, 3, DIRECT)
COPY(copy_striped_u32_96x4, u32, 96, 4, STRIPED)
COPY(copy_vectorize_u32_64x4, u32, 64, 4, VECTORIZE)
COPY(copy_transpose_u8_128x5, u8, 128, 5, TRANSPOSE)
COPY(copy_transpose_u64_64x3, u64, 64, 3, TRANSPOSE)
COPY(copy_warps_u32_96x6, u32, 96, 6, WARP_TRANSPOSE)
COPY(copy_timesliced_u32_128x4, u32, 128, 4, WARP_TRANSPOSE_TIMESLICED)

// Heads of runs, differences to the left neighbour, a rotation by one, and striped to blocked and back.
extern "C" __global__ void neighbours_96x3(const u32 *in, u32 *heads, u32 *differences, u32 *rotated, u32 *scattered) {
  constexpr int THREADS = 96, ITEMS = 3, TILE = THREADS * ITEMS;
  using Heads = cub::BlockDiscontinuity<u32, THREADS>;
  using Difference = cub::BlockAdjacentDifference<u32, THREADS>;
  using Shuffle = cub::BlockShuffle<u32, THREADS>;
  using Exchange = cub::BlockExchange<u32, THREADS, ITEMS>;
  __shared__ union {
    typename Heads::TempStorage heads;
    typename Difference::TempStorage difference;
    typename Shuffle::TempStorage shuffle;
    typename Exchange::TempStorage exchange;
  } temp;
  u32 items[ITEMS], out[ITEMS];
  int first = blockIdx.x * TILE;
  cub::LoadDirectStriped<THREADS>(threadIdx.x, in + first, items);
  Exchange(temp.exchange).StripedToBlocked(items, items);
  __syncthreads();
  Heads(temp.heads).FlagHeads(out, items, cuda::std::not_equal_to<>{});
  cub::StoreDirectBlocked(threadIdx.x, heads + first, out);
  __syncthreads();
  Difference(temp.difference).SubtractLeft(items, out, cuda::std::minus<>{});
  cub::StoreDirectBlocked(threadIdx.x, differences + first, out);
  __syncthreads();
  u32 next;
  Shuffle(temp.shuffle).Rotate(items[0], next, 1);
  rotated[blockIdx.x * THREADS + threadIdx.x] = next;
  __syncthreads();
  int ranks[ITEMS];
  for (int i = 0; i < ITEMS; i++) ranks[i] = TILE - 1 - (threadIdx.x * ITEMS + i);
  Exchange(temp.exchange).ScatterToStriped(items, out, ranks);
  cub::StoreDirectStriped<THREADS>(threadIdx.x, scattered + first, out);
}
