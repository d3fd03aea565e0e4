// Blocks that work together: grid barriers, clusters, atomics; and blocks that do not.
#include "cuda/arch/cluster.h"
#include "cuda/arch/grid.h"
#include "tests/sim/program.h"

namespace imgrec {
namespace {

using namespace cuda;
using program::DeviceArray;

/// Each step replaces x[i] by x[i] + x[i + 1] around the whole grid's ring, in two buffers.
__global__ void ring_kernel(int* x, unsigned* state, int steps) {
  const unsigned size = gridDim.x * blockDim.x, i = blockIdx.x * blockDim.x + threadIdx.x;
  for (int step = 0; step < steps; ++step) {
    const int* from = x + (step % 2) * size;
    int* to = x + (1 - step % 2) * size;
    to[i] = from[i] + from[(i + 1) % size];
    grid_barrier(state);
  }
}

CASE(grid_barrier) {
  const int blocks = arguments.numbers.at(0), steps = arguments.numbers.at(1);
  const bool cooperative = arguments.numbers.at(2) != 0;
  DeviceArray<int> x(2 * blocks * 32);
  DeviceArray<unsigned> state(1);
  x.read();
  for (int launch = 0; launch < 2; ++launch)  // the second finds the state as the first left it
    LAUNCH(ring_kernel, arguments.context,
           {.blocks = static_cast<unsigned>(blocks), .threads = 32, .cooperative = cooperative}, x.data(), state.data(),
           steps);
  x.write();
}

/// One thread of each block passes a token on to the next, many times; nobody ever meets at a barrier.
__global__ void token_kernel(unsigned* token, int rounds) {
  for (int round = 0; round < rounds; ++round) {
    const unsigned turn = static_cast<unsigned>(round) * gridDim.x + blockIdx.x;
    while (load_acquire(token) != turn) spin_hint();
    store_release(token, turn + 1);
  }
  reduce_add_release(token + 1, blockIdx.x + 1);
}

CASE(token) {
  DeviceArray<unsigned> token(2);
  LAUNCH(token_kernel, arguments.context, {.blocks = 4, .threads = 1, .cooperative = true}, token.data(),
         arguments.numbers.at(0));
  token.write();
}

/// Each block of a cluster writes into its neighbour's shared memory and reads from its other neighbour's.
__global__ void cluster_kernel([[maybe_unused]] int* y) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  SHARED(int, mine, [32]);
  SHARED(int, inbox, [32]);
  const unsigned thread = threadIdx.x, rank = cluster_rank(), blocks = cluster_blocks();
  mine[thread] = static_cast<int>(1000 * blockIdx.x + thread);
  cluster_arrive();
  const unsigned next = (rank + 1) % blocks, previous = (rank + blocks - 1) % blocks;
  cluster_wait();
  map_shared_rank(&inbox[0], next)[thread] = static_cast<int>(100 * blockIdx.x + thread);
  const int read = *map_shared_rank(&mine[31 - thread], previous);
  cluster_sync();
  int* to = y + blockIdx.x * 64;
  to[thread] = inbox[thread];
  to[32 + thread] = read;
#endif
}

CASE(cluster) {
  const unsigned blocks = static_cast<unsigned>(arguments.numbers.at(0));
  DeviceArray<int> y(blocks * 64);
  LAUNCH(cluster_kernel, arguments.context,
         {.blocks = blocks, .threads = 32, .cluster = static_cast<unsigned>(arguments.numbers.at(1))}, y.data());
  y.write();
}

/// All atomics, from all blocks; the order shows in none of the results.
__global__ void atomics_kernel(int* y, unsigned* counts, const int* x) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(&counts[static_cast<unsigned>(x[i]) % 8], 1u);
  atomicMin(&y[0], x[i]);
  atomicMax(&y[1], x[i]);
  atomicCAS(&y[2], 0, 77);
  if (i == 5) atomicExch(&y[3], 55);
}

CASE(atomics) {
  const int blocks = arguments.numbers.at(0);
  DeviceArray<int> x(blocks * 64), y(4);
  DeviceArray<unsigned> counts(8);
  x.read();
  LAUNCH(atomics_kernel, arguments.context, {.blocks = static_cast<unsigned>(blocks), .threads = 64}, y.data(),
         counts.data(), x.data());
  y.write();
  counts.write();
}

/// Where am I, in three dimensions; each block also sees its shared memory as nobody has touched it before.
__global__ void indices_kernel(int* y) {
  SHARED(float, fresh, [8]);
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const bool untouched = thread != 0 || fresh[0] != fresh[0];
  __syncthreads();
  fresh[thread % 8] = 1;
  y[block * blockDim.x * blockDim.y * blockDim.z + thread] =
      static_cast<int>(block * 1000 + thread) * (untouched ? 1 : -1);
}

CASE(indices) {
  DeviceArray<int> y(2 * 3 * 4 * 24);
  LAUNCH(indices_kernel, arguments.context, {.blocks = {2, 3, 4}, .threads = {4, 3, 2}}, y.data());
  y.write();
}

}  // namespace
}  // namespace imgrec
