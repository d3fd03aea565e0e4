// What blocks of one launch say to each other through global memory. Waiting needs a cooperative launch.
#pragma once

#include "cuda/arch/cuda.h"

namespace imgrec::cuda {

/// Reads, and sees all that was written before the store_release (or the like) that wrote what it read.
__device__ __forceinline__ unsigned load_acquire(const unsigned* address) {
#ifdef __CUDACC__
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
#else
  return __atomic_load_n(address, __ATOMIC_ACQUIRE);
#endif
}

__device__ __forceinline__ void store_release(unsigned* address, unsigned value) {
#ifdef __CUDACC__
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
#else
  __atomic_store_n(address, value, __ATOMIC_RELEASE);
  sim::progress();
#endif
}

/// Adds to a counter that others read with load_acquire.
__device__ __forceinline__ void reduce_add_release(unsigned* address, unsigned value) {
#ifdef __CUDACC__
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
#else
  __atomic_fetch_add(address, value, __ATOMIC_RELEASE);
  sim::progress();
#endif
}

/// Adds to a counter and returns what it was.
__device__ __forceinline__ unsigned atomic_add_release(unsigned* address, unsigned value) {
#ifdef __CUDACC__
  unsigned before;
  asm volatile("atom.release.gpu.global.add.u32 %0, [%1], %2;" : "=r"(before) : "l"(address), "r"(value) : "memory");
  return before;
#else
  sim::progress();
  return __atomic_fetch_add(address, value, __ATOMIC_RELEASE);
#endif
}

/// Waits until all threads of the grid have come, and makes what they wrote to global memory visible. `state` is one
/// number in global memory, zeroed once before the first launch that uses it and left to this function after that.
///
/// Every block adds 1, but the first adds what makes the sum of all 2^31: the highest bit flips when the last block
/// comes, and nothing needs to be reset.
__device__ __forceinline__ void grid_barrier(unsigned* state, [[maybe_unused]] Site site = Site::current()) {
  __syncthreads();
  if (threadIdx.x == 0 && threadIdx.y == 0 && threadIdx.z == 0) {
    constexpr unsigned highest = 0x80000000u;
    const bool first = blockIdx.x == 0 && blockIdx.y == 0 && blockIdx.z == 0;
    const unsigned blocks = gridDim.x * gridDim.y * gridDim.z;
    const unsigned before = atomic_add_release(state, first ? highest - (blocks - 1) : 1);
    while (((before ^ load_acquire(state)) & highest) == 0) spin_hint("grid_barrier", site);
  }
  __syncthreads();
}

}  // namespace imgrec::cuda
