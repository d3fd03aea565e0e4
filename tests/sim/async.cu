// Asynchronous copies and mbarriers, right and wrong.
#include "cuda/arch/async_copy.h"
#include "cuda/arch/mbarrier.h"
#include "tests/sim/program.h"

namespace imgrec {
namespace {

using namespace cuda;
using program::DeviceArray;

constexpr int threads = 64, stages = 3, tile = threads * 4;

/// y[i] = sum over tiles of x[tile, i], through `stages` buffers; without `waits` it reads what may not have landed.
template <bool waits>
__global__ void copy_pipeline_kernel(float* y, const float* x, int tiles) {
  SHARED(float, buffer, [stages][tile]);
  const int thread = static_cast<int>(threadIdx.x);
  const auto start = [&](int t) {
    if (t < tiles) copy_async<16>(&buffer[t % stages][thread * 4], x + t * tile + thread * 4);
    copy_async_commit();
  };
  float sum[4] = {};
  for (int t = 0; t < stages - 1; ++t) start(t);
  for (int t = 0; t < tiles; ++t) {
    if (waits) copy_async_wait<stages - 2>();
    __syncthreads();
    for (int i = 0; i < 4; ++i) sum[i] += buffer[t % stages][(thread * 4 + i + 8) % tile];
    start(t + stages - 1);
  }
  for (int i = 0; i < 4; ++i) y[(thread * 4 + i + 8) % tile] = sum[i];
}

template <bool waits>
void run_copy_pipeline(const program::Arguments& arguments) {
  const int tiles = arguments.numbers.at(0);
  DeviceArray<float> x(tiles * tile), y(tile);
  x.read();
  LAUNCH(copy_pipeline_kernel<waits>, arguments.context, {.blocks = 1, .threads = threads}, y.data(), x.data(), tiles);
  y.write();
}

CASE(copy_pipeline) { run_copy_pipeline<true>(arguments); }
CASE(copy_pipeline_without_wait) { run_copy_pipeline<false>(arguments); }

/// Copies of each size; every third one is zeros.
template <int bytes>
__device__ void copy_or_zero(float* y, float* buffer, const float* x) {
  constexpr int width = bytes / 4;
  const unsigned first = threadIdx.x * width;
  for (int i = 0; i < width; ++i) buffer[first + i] = -1;
  copy_async_or_zero<bytes>(&buffer[first], x + first, threadIdx.x % 3 != 0);
  copy_async_commit();
  copy_async_wait<0>();
  for (int i = 0; i < width; ++i) y[first + i] = buffer[first + i];
}

__global__ void copy_or_zero_kernel(float* y, const float* x) {
  SHARED(float, buffer, [tile]);
  copy_or_zero<4>(y, buffer, x);
  copy_or_zero<8>(y + tile, buffer, x);
  copy_or_zero<16>(y + 2 * tile, buffer, x);
}

CASE(copy_or_zero) {
  DeviceArray<float> x(tile), y(3 * tile);
  x.read();
  LAUNCH(copy_or_zero_kernel, arguments.context, {.blocks = 1, .threads = threads}, y.data(), x.data());
  y.write();
}

enum class Fault : int { none, no_wait_for_empty, no_arrival, uninitialised, arrivals_beyond };

/// One warp copies tiles, another adds them up; full and empty say whose turn each stage is.
template <bool bulk, Fault fault>
__global__ void mbarrier_pipeline_kernel(float* y, const float* x, int tiles) {
  SHARED(float, buffer, [stages][128]);
  SHARED(MBarrier, full, [stages]);
  SHARED(MBarrier, empty, [stages]);
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (threadIdx.x == 0 && fault != Fault::uninitialised)
    for (int stage = 0; stage < stages; ++stage) {
      mbarrier_init(&full[stage], bulk ? 1 : 32);
      mbarrier_init(&empty[stage], 32);
    }
  mbarrier_fence_init();
  __syncthreads();
  float sum[4] = {};
  for (int t = 0; t < tiles; ++t) {
    const int stage = t % stages;
    const unsigned parity = static_cast<unsigned>(t / stages % 2);
    if (threadIdx.x < 32) {
      if (fault != Fault::no_wait_for_empty) mbarrier_wait(&empty[stage], parity ^ 1);
      if constexpr (!bulk) {
        copy_async<16>(&buffer[stage][lane * 4], x + t * 128 + lane * 4);
        mbarrier_arrive_after_copies(&full[stage]);
      }
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
      if (bulk && lane == 0) {
        mbarrier_arrive_expect_tx(&full[stage], 512);
        if (fault == Fault::arrivals_beyond) mbarrier_arrive(&full[stage]);
        copy_bulk(buffer[stage], x + t * 128, 512, &full[stage]);
      }
#endif
    } else {
      mbarrier_wait(&full[stage], parity);
      for (int i = 0; i < 4; ++i) sum[i] += buffer[stage][127 - lane * 4 - i];
      fence_proxy_async();
      if (fault != Fault::no_arrival || lane != 7) mbarrier_arrive(&empty[stage]);
    }
  }
  if (threadIdx.x >= 32)
    for (int i = 0; i < 4; ++i) y[127 - lane * 4 - i] = sum[i];
}

template <bool bulk, Fault fault>
void run_mbarrier_pipeline(const program::Arguments& arguments) {
  const int tiles = arguments.numbers.at(0);
  DeviceArray<float> x(tiles * 128), y(128);
  x.read();
  LAUNCH((mbarrier_pipeline_kernel<bulk, fault>), arguments.context, {.blocks = 1, .threads = 64}, y.data(), x.data(),
         tiles);
  y.write();
}

CASE(mbarrier_pipeline) { run_mbarrier_pipeline<false, Fault::none>(arguments); }
CASE(mbarrier_bulk_pipeline) { run_mbarrier_pipeline<true, Fault::none>(arguments); }
CASE(mbarrier_no_wait_for_empty) { run_mbarrier_pipeline<false, Fault::no_wait_for_empty>(arguments); }
CASE(mbarrier_no_arrival) { run_mbarrier_pipeline<false, Fault::no_arrival>(arguments); }
CASE(mbarrier_uninitialised) { run_mbarrier_pipeline<false, Fault::uninitialised>(arguments); }
CASE(mbarrier_arrivals_beyond) { run_mbarrier_pipeline<true, Fault::arrivals_beyond>(arguments); }

/// One thread polls where the other 31 lanes are elsewhere.
__global__ void polling_kernel(int* y) {
  SHARED(MBarrier, done, [1]);
  SHARED(int, value, [1]);
  if (threadIdx.x == 0) mbarrier_init(done, 1);
  __syncthreads();
  if (threadIdx.x == 0) {
    while (!mbarrier_try_wait(done, 0)) spin_hint();
    y[0] = value[0];
    mbarrier_invalidate(done);
  } else if (threadIdx.x == 40) {
    value[0] = 123;
    mbarrier_arrive(done);
  }
}

CASE(mbarrier_polling) {
  DeviceArray<int> y(1);
  LAUNCH(polling_kernel, arguments.context, {.blocks = 1, .threads = 64}, y.data());
  y.write();
}

}  // namespace
}  // namespace imgrec
