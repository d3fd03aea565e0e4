// What must be refused or reported.
#include "cuda/arch/barrier.h"
#include "cuda/arch/mbarrier.h"
#include "cuda/arch/warp.h"
#include "tests/sim/program.h"

namespace imgrec {
namespace {

using namespace cuda;
using program::DeviceArray;

__global__ void nothing_kernel() {}

/// threads, dynamic shared KB, how many KB are asked permission for, cooperating blocks, cluster
CASE(configuration) {
  const auto number = [&](std::size_t i) { return static_cast<unsigned>(arguments.numbers.at(i)); };
  if (number(2) > 0) ALLOW_SHARED(nothing_kernel, static_cast<int>(number(2) << 10));
  LAUNCH(nothing_kernel, arguments.context,
         {.blocks = number(3),
          .threads = number(0),
          .shared_bytes = number(1) << 10,
          .cooperative = number(3) != 1,
          .cluster = number(4)});
}

#ifndef __CUDACC__  // ptxas refuses it
__global__ void static_shared_kernel(float* y) {
  SHARED(float, first, [10 << 10]);
  SHARED(float, second, [3 << 10]);
  y[0] = first[0] + second[0];
}

CASE(static_shared) {
  DeviceArray<float> y(1);
  LAUNCH(static_shared_kernel, arguments.context, {.blocks = 1, .threads = 1}, y.data());
}
#endif

/// Block 1 of 2: thread 0 waits at the block's barrier, which the others never reach.
__global__ void barrier_deadlock_kernel() {
  SHARED(MBarrier, never, [1]);
  if (threadIdx.x == 0) mbarrier_init(never, 5);
  __syncthreads();
  if (threadIdx.x < 3) mbarrier_arrive(never);
  if (blockIdx.x == 0 || threadIdx.x >= 96) return;
  if (threadIdx.x < 32)
    named_barrier_sync(3, 64);
  else if (threadIdx.x < 64)
    mbarrier_wait(never, 0);
  else if (threadIdx.x == 64)
    __syncwarp();
  else
    __syncthreads();
}

CASE(deadlock) { LAUNCH(barrier_deadlock_kernel, arguments.context, {.blocks = 2, .threads = 128}); }

__global__ void endless_kernel(unsigned* flag) {
  while (atomicCAS(flag, 1u, 0u) == 0) spin_hint("the lock");
}

CASE(endless_spin) {
  DeviceArray<unsigned> flag(1);
  LAUNCH(endless_kernel, arguments.context, {.blocks = 1, .threads = 32}, flag.data());
}

/// Needs more stack than a fiber has, and touches all of it, in its last frame; meanwhile others are in theirs.
template <int Kilobytes>
__global__ void deep_kernel(int* y, int depth) {
  constexpr int size = Kilobytes << 8;
  int rows[size];
  __syncthreads();
  for (int i = 0; i < size; ++i) rows[i] = y[i % 32] + depth;
  volatile int more[2 << 10];
  for (int i = 0; i < 2 << 10; ++i) more[i] = rows[i] + rows[size - 1 - i];
  __syncthreads();
  y[threadIdx.x] = more[y[0]] + rows[y[1]];
}

CASE(stack_overflow) {
  DeviceArray<int> y(32);
  const auto kernel = arguments.numbers.at(0) == 56 ? deep_kernel<56> : deep_kernel<230>;
  LAUNCH(kernel, arguments.context, {.blocks = 1, .threads = 4}, y.data(), 3);
}

__global__ void mismatched_kernel(int* y) {
  const int lane = static_cast<int>(threadIdx.x);
  y[lane] = lane < 16 ? __shfl_xor_sync(full_warp, lane, 1) : static_cast<int>(__ballot_sync(full_warp, lane == 20));
}

CASE(mismatched) {
  DeviceArray<int> y(32);
  LAUNCH(mismatched_kernel, arguments.context, {.blocks = 1, .threads = 32}, y.data());
}

__global__ void outside_mask_kernel(int* y) { y[threadIdx.x] = __shfl_sync(0xFFFFu, 1, 0); }

CASE(outside_mask) {
  DeviceArray<int> y(32);
  LAUNCH(outside_mask_kernel, arguments.context, {.blocks = 1, .threads = 32}, y.data());
}

/// The blocks from 3 on fail; the report is the first one's, whoever runs it.
__global__ void failing_kernel() {
  if (blockIdx.x >= 3) named_barrier_sync(static_cast<int>(blockIdx.x) + 20, 32);
}

CASE(first_failure) { LAUNCH(failing_kernel, arguments.context, {.blocks = 64, .threads = 32}); }

}  // namespace
}  // namespace imgrec
