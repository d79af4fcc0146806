//! arch: compute_80
// cooperative_groups: partitions of warps and blocks, collectives on them, grids that wait for each other.

#include <cooperative_groups.h>
#include <cooperative_groups/memcpy_async.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>

namespace cg = cooperative_groups;

using u32 = unsigned int;

// Tiles of SIZE threads: sum, maximum, sums up to each thread, the value of the tile's last thread, who is above
// its tile's first.
template <int SIZE>
__device__ void tiles(const u32 *in, u32 *out) {
  auto block = cg::this_thread_block();
  auto tile = cg::tiled_partition<SIZE>(block);
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  u32 value = in[i];
  u32 total = gridDim.x * blockDim.x;
  out[i] = cg::reduce(tile, value, cg::plus<u32>());
  out[total + i] = cg::reduce(tile, value, cg::greater<u32>());
  out[2 * total + i] = cg::inclusive_scan(tile, value);
  out[3 * total + i] = cg::exclusive_scan(tile, value, cg::plus<u32>());
  if constexpr (SIZE <= 32) {
    out[4 * total + i] = tile.shfl(value, SIZE - 1);
    out[5 * total + i] = tile.ballot(value > tile.shfl(value, 0));
  }
  tile.sync();
}

extern "C" __global__ void tiles_of_4(const u32 *in, u32 *out) { tiles<4>(in, out); }
extern "C" __global__ void tiles_of_16(const u32 *in, u32 *out) { tiles<16>(in, out); }
extern "C" __global__ void tiles_of_32(const u32 *in, u32 *out) { tiles<32>(in, out); }

// Tiles of more than a warp keep what they exchange in shared memory that the system reserves.
template <int SIZE>
__device__ void large_tiles(const u32 *in, u32 *out) {
  __shared__ cg::block_tile_memory<256> memory;
  auto block = cg::this_thread_block(memory);
  auto tile = cg::tiled_partition<SIZE>(block);
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  u32 value = in[i];
  u32 total = gridDim.x * blockDim.x;
  out[i] = cg::reduce(tile, value, cg::plus<u32>());
  out[total + i] = cg::reduce(tile, value, cg::greater<u32>());
  out[2 * total + i] = cg::inclusive_scan(tile, value);
  out[3 * total + i] = cg::exclusive_scan(tile, value, cg::plus<u32>());
  tile.sync();
}

extern "C" __global__ void tiles_of_64(const u32 *in, u32 *out) { large_tiles<64>(in, out); }
extern "C" __global__ void tiles_of_128(const u32 *in, u32 *out) { large_tiles<128>(in, out); }

// Odd values of a warp among themselves, in whatever groups they come; one atomic for each group.
extern "C" __global__ void coalesced(const u32 *in, u32 *counter, u32 *places, u32 *sums) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (in[i] % 2 == 1) {
    auto active = cg::coalesced_threads();
    u32 base;
    if (active.thread_rank() == 0) base = atomicAdd(counter, active.num_threads());
    places[i] = active.shfl(base, 0) + active.thread_rank();
    sums[i] = cg::reduce(active, in[i], cg::plus<u32>());
  } else {
    places[i] = ~0u;
    sums[i] = 0;
  }
  // Threads with the same value modulo five.
  auto warp = cg::tiled_partition<32>(cg::this_thread_block());
  auto same = cg::labeled_partition(warp, in[i] % 5);
  sums[i] += 1000 * same.num_threads();
  auto half = cg::binary_partition(warp, in[i] > 500);
  sums[i] += 100000 * half.num_threads();
}

// Block barrier in two halves, a reduction over the block, copies into shared memory.
extern "C" __global__ void copied(const u32 *in, u32 *out, int n) {
  extern __shared__ u32 staged[];
  auto block = cg::this_thread_block();
  for (int first = blockIdx.x * 300; first < n; first += gridDim.x * 300) {
    int count = min(300, n - first);
    cg::memcpy_async(block, staged, in + first, sizeof(u32) * count);
    cg::wait(block);
    for (int i = threadIdx.x; i < count; i += blockDim.x) out[first + i] = staged[count - 1 - i];
    auto token = block.barrier_arrive();
    block.barrier_wait(std::move(token));
  }
}

// Each round a thread adds what another block's thread wrote in the round before.
extern "C" __global__ void rounds(u32 *a, u32 *b, int count) {
  auto grid = cg::this_grid();
  u32 i = grid.thread_rank(), n = grid.num_threads();
  for (int round = 0; round < count; round++) {
    b[i] = a[i] + a[(i + blockDim.x + 1) % n];
    grid.sync();
    u32 *other = a;
    a = b;
    b = other;
  }
  if (i == 0 && !grid.is_valid()) __trap();
}

// The grid's barrier in two halves.
extern "C" __global__ void halves(u32 *a, u32 *b) {
  auto grid = cg::this_grid();
  u32 i = grid.thread_rank(), n = grid.num_threads();
  a[i] = 3 * i + 1;
  auto token = grid.barrier_arrive();
  u32 own = i * i;
  grid.barrier_wait(std::move(token));
  b[i] = own + a[n - 1 - i];
}
