//! arch: compute_80
// libcu++: barriers, pipelines and copies, atomics of every width, semaphores, and what of the standard library
// compiles to long code.

#include <cuda/atomic>
#include <cuda/barrier>
#include <cuda/latch>
#include <cuda/pipeline>
#include <cuda/semaphore>
#include <cuda/std/bit>
#include <cuda/std/cmath>
#include <cuda/std/complex>
#include <cuda/std/span>

#include <cooperative_groups.h>

namespace cg = cooperative_groups;

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

// Reverses tiles of 128, copied through two buffers, each with its barrier.
extern "C" __global__ void barrier_copy(const u32 *in, u32 *out, int tiles) {
  using Barrier = cuda::barrier<cuda::thread_scope_block>;
#pragma nv_diag_suppress static_var_with_dynamic_init
  __shared__ Barrier barriers[2];
  __shared__ alignas(16) u32 buffers[2][128];
  auto block = cg::this_thread_block();
  if (threadIdx.x < 2) init(&barriers[threadIdx.x], blockDim.x);
  block.sync();
  auto fetch = [&](int tile) {
    cuda::memcpy_async(block, buffers[tile % 2], in + 128 * tile, cuda::aligned_size_t<16>(512), barriers[tile % 2]);
  };
  fetch(0);
  for (int tile = 0; tile < tiles; tile++) {
    if (tile + 1 < tiles) fetch(tile + 1);
    barriers[tile % 2].arrive_and_wait();
    for (int i = threadIdx.x; i < 128; i += blockDim.x) out[128 * tile + i] = buffers[tile % 2][127 - i];
    block.sync();
  }
}

// The same with a pipeline that the whole block shares, three stages deep; the size need not be whole.
extern "C" __global__ void pipeline_copy(const u32 *in, u32 *out, int n) {
  constexpr int STAGES = 3, TILE = 96;
  __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, STAGES> state;
  __shared__ alignas(16) u32 buffers[STAGES][TILE];
  auto block = cg::this_thread_block();
  auto pipe = cuda::make_pipeline(block, &state);
  int tiles = (n + TILE - 1) / TILE;
  for (int compute = 0, fetch = 0; compute < tiles; compute++) {
    for (; fetch < tiles && fetch < compute + STAGES; fetch++) {
      pipe.producer_acquire();
      cuda::memcpy_async(block, buffers[fetch % STAGES], in + TILE * fetch,
                         sizeof(u32) * min(TILE, n - TILE * fetch), pipe);
      pipe.producer_commit();
    }
    pipe.consumer_wait();
    int count = min(TILE, n - TILE * compute);
    for (int i = threadIdx.x; i < count; i += blockDim.x)
      out[TILE * compute + i] = buffers[compute % STAGES][count - 1 - i] + compute;
    pipe.consumer_release();
  }
}

// The first warp fetches, the others add up.
extern "C" __global__ void pipeline_roles(const u32 *in, u32 *out, int tiles) {
  constexpr int STAGES = 2, TILE = 64;
  __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, STAGES> state;
  __shared__ alignas(16) u32 buffers[STAGES][TILE];
  auto block = cg::this_thread_block();
  bool producer = threadIdx.x < 32;
  auto role = producer ? cuda::pipeline_role::producer : cuda::pipeline_role::consumer;
  auto pipe = cuda::make_pipeline(block, &state, role);
  if (producer) {
    for (int tile = 0; tile < tiles; tile++) {
      pipe.producer_acquire();
      u32 lane = threadIdx.x;
      cuda::memcpy_async(&buffers[tile % STAGES][2 * lane], in + TILE * tile + 2 * lane, cuda::aligned_size_t<8>(8),
                         pipe);
      pipe.producer_commit();
    }
  } else {
    u32 sum = 0, me = threadIdx.x - 32;
    for (int tile = 0; tile < tiles; tile++) {
      pipe.consumer_wait();
      sum = sum * 3 + buffers[tile % STAGES][(me + tile) % TILE];
      pipe.consumer_release();
    }
    out[me] = sum;
  }
}

// Each thread a pipeline of its own: two stages of 16 bytes.
extern "C" __global__ void pipeline_thread(const uint4 *in, u32 *out, int steps) {
  __shared__ uint4 buffers[2][64];
  auto pipe = cuda::make_pipeline();
  int stride = blockDim.x;
  pipe.producer_acquire();
  cuda::memcpy_async(&buffers[0][threadIdx.x], in + threadIdx.x, cuda::aligned_size_t<16>(16), pipe);
  pipe.producer_commit();
  u32 sum = 0;
  for (int step = 0; step < steps; step++) {
    pipe.producer_acquire();
    if (step + 1 < steps)
      cuda::memcpy_async(&buffers[(step + 1) % 2][threadIdx.x], in + (step + 1) * stride + threadIdx.x,
                         cuda::aligned_size_t<16>(16), pipe);
    pipe.producer_commit();
    cuda::pipeline_consumer_wait_prior<1>(pipe);
    uint4 v = buffers[step % 2][threadIdx.x];
    sum = sum * 5 + (v.x ^ v.y) + (v.z ^ v.w);
    pipe.consumer_release();
  }
  out[threadIdx.x] = sum;
}

// Threads leave a barrier for good, one in each phase.
extern "C" __global__ void drops(u32 *out) {
  using Barrier = cuda::barrier<cuda::thread_scope_block>;
  __shared__ Barrier barrier;
  __shared__ u32 count;
  if (threadIdx.x == 0) {
    init(&barrier, blockDim.x);
    count = 0;
  }
  __syncthreads();
  for (u32 phase = 0; phase < 8; phase++) {
    if (threadIdx.x == 5 * phase) {
      barrier.arrive_and_drop();
      return;
    }
    cuda::atomic_ref<u32, cuda::thread_scope_block>(count).fetch_add(1, cuda::memory_order_relaxed);
    barrier.arrive_and_wait();
    if (threadIdx.x == blockDim.x - 1) out[phase] = count;
    barrier.arrive_and_wait();
  }
}

// Atomics of all widths and kinds, at device scope; each has its own cell.
extern "C" __global__ void atomics(const u32 *in, u8 *bytes, u16 *halves, u32 *words, u64 *longs, float *f, double *d) {
  u32 value = in[blockIdx.x * blockDim.x + threadIdx.x];
  cuda::atomic_ref<u8, cuda::thread_scope_device>(bytes[value % 7]).fetch_add(1);
  cuda::atomic_ref<u8, cuda::thread_scope_device>(bytes[7]).fetch_xor(u8(value));
  cuda::atomic_ref<u16, cuda::thread_scope_device>(halves[0]).fetch_add(u16(value), cuda::memory_order_relaxed);
  cuda::atomic_ref<u16, cuda::thread_scope_device>(halves[1]).fetch_max(u16(value));
  cuda::atomic_ref<u32, cuda::thread_scope_device>(words[0]).fetch_add(value, cuda::memory_order_acq_rel);
  cuda::atomic_ref<u32, cuda::thread_scope_device>(words[1]).fetch_max(value);
  cuda::atomic_ref<u32, cuda::thread_scope_device>(words[2]).fetch_min(value);
  cuda::atomic_ref<u32, cuda::thread_scope_system>(words[3]).fetch_xor(value, cuda::memory_order_seq_cst);
  cuda::atomic_ref<u64, cuda::thread_scope_device>(longs[0]).fetch_add(u64(value) << 20);
  cuda::atomic_ref<u64, cuda::thread_scope_device>(longs[1]).fetch_or(1ull << value % 64);
  cuda::atomic_ref<float, cuda::thread_scope_device>(f[0]).fetch_add(float(value % 16));
  cuda::atomic_ref<float, cuda::thread_scope_device>(f[1]).fetch_max(float(value));
  cuda::atomic_ref<double, cuda::thread_scope_device>(d[0]).fetch_add(double(value % 16) * 0.5);
  // The sum of squares mod 2^64 by compare and exchange.
  cuda::atomic_ref<u64, cuda::thread_scope_device> cell(longs[2]);
  u64 seen = cell.load(cuda::memory_order_relaxed);
  while (!cell.compare_exchange_weak(seen, seen + u64(value) * value, cuda::memory_order_acq_rel)) {
  }
}

// A queue's tail in order: each block waits for its turn, adds to plain memory, hands on.
extern "C" __global__ void turns(u32 *ticket, u32 *sum, u32 *out) {
  __shared__ u32 before;
  if (threadIdx.x == 0) {
    cuda::atomic_ref<u32, cuda::thread_scope_device> turn(*ticket);
    while (turn.load(cuda::memory_order_acquire) != blockIdx.x) __nanosleep(20);
    before = *sum;
    *sum = before * 2 + blockIdx.x;
    turn.store(blockIdx.x + 1, cuda::memory_order_release);
  }
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = before + threadIdx.x;
}

// At most two threads of the block at once inside; a latch for the end.
extern "C" __global__ void semaphore(u32 *most, u32 *total) {
  __shared__ cuda::counting_semaphore<cuda::thread_scope_block, 2> semaphore;
  using Latch = cuda::latch<cuda::thread_scope_block>;
  __shared__ alignas(Latch) unsigned char latch_memory[sizeof(Latch)];
  Latch &latch = *reinterpret_cast<Latch *>(latch_memory);
  __shared__ u32 inside, peak, sum;
  if (threadIdx.x == 0) {
    new (&semaphore) cuda::counting_semaphore<cuda::thread_scope_block, 2>(2);
    new (&latch) Latch(blockDim.x);
    inside = peak = sum = 0;
  }
  __syncthreads();
  semaphore.acquire();
  u32 now = cuda::atomic_ref<u32, cuda::thread_scope_block>(inside).fetch_add(1) + 1;
  cuda::atomic_ref<u32, cuda::thread_scope_block>(peak).fetch_max(now);
  cuda::atomic_ref<u32, cuda::thread_scope_block>(sum).fetch_add(threadIdx.x);
  cuda::atomic_ref<u32, cuda::thread_scope_block>(inside).fetch_sub(1);
  semaphore.release();
  latch.arrive_and_wait();
  if (threadIdx.x == 0) {
    *most = peak;
    *total = sum;
  }
}

// A barrier between the blocks of a cooperative launch, in global memory.
extern "C" __global__ void device_barrier(cuda::barrier<cuda::thread_scope_device> *barrier, u32 *cells, u32 *out) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  cells[i] = i * 7;
  barrier->arrive_and_wait();
  out[i] = cells[(i + n / 2) % n];
}
extern "C" __global__ void device_barrier_init(cuda::barrier<cuda::thread_scope_device> *barrier, int count) {
  init(barrier, count);
}
extern "C" __global__ void device_barrier_size(u32 *out) { *out = sizeof(cuda::barrier<cuda::thread_scope_device>); }

// 128-bit products, quotients and remainders.
extern "C" __global__ void wide(const u64 *a, const u64 *b, u64 *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  unsigned __int128 x = (unsigned __int128)(a[2 * i + 1]) << 64 | a[2 * i];
  unsigned __int128 y = (unsigned __int128)(b[2 * i + 1]) << 64 | b[2 * i];
  unsigned __int128 product = x * y, quotient = x / y, remainder = x % y;
  __int128 signed_quotient = (__int128)x / (__int128)y;
  u64 *to = out + 8 * i;
  to[0] = u64(product), to[1] = u64(product >> 64);
  to[2] = u64(quotient), to[3] = u64(quotient >> 64);
  to[4] = u64(remainder), to[5] = u64(remainder >> 64);
  to[6] = u64(signed_quotient), to[7] = u64(signed_quotient >> 64);
}

// Elementary functions with their slow paths: `out` holds 12 values an input.
extern "C" __global__ void functions(const float *in, float *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float x = in[i];
  float *to = out + 12 * i;
  to[0] = cuda::std::sin(x);
  to[1] = cuda::std::cos(x);
  to[2] = cuda::std::exp(-cuda::std::fabs(x) * 1e-3f);
  to[3] = cuda::std::log(cuda::std::fabs(x));
  to[4] = cuda::std::pow(cuda::std::fabs(x), 0.37f);
  to[5] = cuda::std::tanh(x * 1e-3f);
  to[6] = erff(x * 1e-3f);
  to[7] = cuda::std::atan2(x, 2.5f);
  to[8] = cuda::std::cbrt(x);
  to[9] = cuda::std::fmod(x, 3.25f);
  to[10] = cuda::std::hypot(x, 1.5f);
  to[11] = cuda::std::log1p(cuda::std::fabs(x));
}

extern "C" __global__ void functions_f64(const double *in, double *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  double x = in[i];
  double *to = out + 8 * i;
  to[0] = cuda::std::sin(x);
  to[1] = cuda::std::exp(-cuda::std::fabs(x) * 1e-3);
  to[2] = cuda::std::log(cuda::std::fabs(x));
  to[3] = cuda::std::pow(cuda::std::fabs(x), 0.37);
  to[4] = cuda::std::tanh(x * 1e-3);
  to[5] = cuda::std::sqrt(cuda::std::fabs(x));
  to[6] = 1.0 / x;
  to[7] = cuda::std::atan(x);
}

// Complex arithmetic with its checks for infinities; bit tricks through a span.
extern "C" __global__ void standard(const float *in, float *complex_out, u32 *bits_out, int n) {
  using Complex = cuda::std::complex<float>;
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  Complex a(in[4 * i], in[4 * i + 1]), b(in[4 * i + 2], in[4 * i + 3]);
  Complex product = a * b, quotient = a / b;
  complex_out[5 * i] = product.real(), complex_out[5 * i + 1] = product.imag();
  complex_out[5 * i + 2] = quotient.real(), complex_out[5 * i + 3] = quotient.imag();
  complex_out[5 * i + 4] = cuda::std::abs(a);
  u32 x = cuda::std::bit_cast<u32>(in[4 * i]);
  cuda::std::span<u32> bits(bits_out + 6 * i, 6);
  bits[0] = cuda::std::popcount(x);
  bits[1] = cuda::std::countl_zero(x >> i % 32);
  bits[2] = cuda::std::countr_zero(x << i % 32);
  bits[3] = cuda::std::rotl(x, i % 32);
  bits[4] = cuda::std::bit_ceil(x >> 1 >> i % 31);
  bits[5] = cuda::std::bit_floor(x >> i % 32);
}
