// Shuffles, votes and reductions: parts of a warp at once, diverged warps, lanes that return early.
#include "cuda/arch/barrier.h"
#include "cuda/arch/warp.h"
#include "tests/sim/program.h"

namespace imgrec {
namespace {

using namespace cuda;
using program::DeviceArray;

/// Three parts of the warp at once, each with its own operation, and a fourth that does nothing of the kind.
__global__ void partial_masks_kernel(int* y) {
  const int lane = static_cast<int>(threadIdx.x);
  if (lane < 8)
    y[lane] = __shfl_xor_sync(0xffu, lane * 10, 3);
  else if (lane < 24)
    y[lane] = static_cast<int>(__ballot_sync(0xffff00u, lane % 3 == 0));
  else
    y[lane] = __shfl_sync(0xff000000u, lane * 100, 31) + __any_sync(0xff000000u, lane == 25) * 10 +
              __all_sync(0xff000000u, lane > 24);
}

CASE(partial_masks) {
  DeviceArray<int> y(32);
  LAUNCH(partial_masks_kernel, arguments.context, {.blocks = 1, .threads = 32}, y.data());
  y.write();
}

/// Each kind of shuffle on runs of `width` lanes.
__global__ void shuffles_kernel(int* y, const int* x, int amount, int width) {
  const unsigned lane = threadIdx.x, all = 0xFFFFFFFFu;
  y[lane] = __shfl_sync(all, x[lane], amount, width);
  y[32 + lane] = __shfl_xor_sync(all, x[lane], amount, width);
  y[64 + lane] = __shfl_up_sync(all, x[lane], static_cast<unsigned>(amount), width);
  y[96 + lane] = __shfl_down_sync(all, x[lane], static_cast<unsigned>(amount), width);
}

CASE(shuffles) {
  DeviceArray<int> x(32), y(128);
  x.read();
  LAUNCH(shuffles_kernel, arguments.context, {.blocks = 1, .threads = 32}, y.data(), x.data(), arguments.numbers.at(0),
         arguments.numbers.at(1));
  y.write();
}

__global__ void reductions_kernel(float* y, const float* x) {
  const unsigned thread = threadIdx.x, threads = blockDim.x;
  y[thread] = warp_sum(x[thread]);
  y[threads + thread] = warp_max<8>(x[thread]);
  y[2 * threads + thread] = block_sum(x[thread]);
  y[3 * threads + thread] = block_max(x[thread]);
  y[4 * threads + thread] = block_sum(2 * x[thread]);
}

CASE(reductions) {
  const int threads = arguments.numbers.at(0);
  DeviceArray<float> x(threads), y(5 * threads);
  x.read();
  LAUNCH(reductions_kernel, arguments.context, {.blocks = 1, .threads = static_cast<unsigned>(threads)}, y.data(),
         x.data());
  y.write();
}

/// Lanes take different numbers of turns between warp operations, and some return before the block's barrier.
__global__ void diverged_kernel(int* y) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  SHARED(int, steps, [64]);
  int value = lane;
  while (value > 1) value = value % 2 ? 3 * value + 1 : value / 2;
  __syncwarp();
  steps[thread] = value;
  if (lane % 5 == 4) return;
  __syncthreads();
  unsigned mask = 0;
  for (int i = 0; i < 32; ++i) mask |= i % 5 == 4 ? 0u : 1u << i;
  y[thread] = steps[(thread + 32) % 64] + static_cast<int>(__ballot_sync(mask, lane % 2 == 0));
}

CASE(diverged) {
  DeviceArray<int> y(64);
  LAUNCH(diverged_kernel, arguments.context, {.blocks = 1, .threads = 64}, y.data());
  y.write();
}

/// Two warps hand numbers to the other two through named barriers; producers do not wait to be read.
__global__ void named_barriers_kernel(int* y, int rounds) {
  SHARED(int, box, [2][64]);
  const int thread = static_cast<int>(threadIdx.x) % 64;
  const bool producer = threadIdx.x < 64;
  int sum = 0;
  for (int round = 0; round < rounds; ++round) {
    const int stage = round % 2, full = 1 + stage, empty = 3 + stage;
    if (producer) {
      if (round >= 2) named_barrier_sync(empty, 128);
      box[stage][thread] = round * 1000 + thread;
      named_barrier_arrive(full, 128);
    } else {
      named_barrier_sync(full, 128);
      sum += box[stage][63 - thread];
      if (round + 2 < rounds) named_barrier_arrive(empty, 128);
    }
  }
  if (!producer) y[thread] = sum;
}

CASE(named_barriers) {
  DeviceArray<int> y(64);
  LAUNCH(named_barriers_kernel, arguments.context, {.blocks = 1, .threads = 128}, y.data(), arguments.numbers.at(0));
  y.write();
}

}  // namespace
}  // namespace imgrec
