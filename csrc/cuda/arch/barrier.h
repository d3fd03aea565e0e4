// Named barriers: 16 for each block, so that some of its warps can wait for each other. __syncthreads is number 0.
#pragma once

#include "cuda/arch/cuda.h"

namespace imgrec::cuda {

/// Waits until `threads` threads, whole warps, have come to barrier `id`, by this function or by named_barrier_arrive.
__device__ __forceinline__ void named_barrier_sync(int id, int threads, [[maybe_unused]] Site site = Site::current()) {
#ifdef __CUDACC__
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
  sim::barrier_sync("named_barrier_sync", id, threads, site);
#endif
}

/// Comes to the barrier without waiting.
__device__ __forceinline__ void named_barrier_arrive(int id, int threads,
                                                     [[maybe_unused]] Site site = Site::current()) {
#ifdef __CUDACC__
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
  sim::barrier_arrive("named_barrier_arrive", id, threads, site);
#endif
}

}  // namespace imgrec::cuda
