// Clusters: consecutive blocks that run at once and reach into each other's shared memory. From compute capability 9.0.
//
//   cluster_sync();                                     all have their shared memory
//   float* theirs = map_shared_rank(&tile[0], rank);    read and write it like one's own
//   cluster_sync();                                     nobody returns while others still read
#pragma once

#include "cuda/arch/cuda.h"

namespace imgrec::cuda {

/// This block's number in its cluster.
__device__ __forceinline__ unsigned cluster_rank() {
#ifdef __CUDACC__
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
#else
  return sim::cluster_rank();
#endif
}

__device__ __forceinline__ unsigned cluster_blocks() {
#ifdef __CUDACC__
  unsigned blocks;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
  return blocks;
#else
  return sim::cluster_blocks();
#endif
}

/// Says that this thread has come, and goes on: what it wrote before, others see after their cluster_wait. All threads
/// of a warp call it together, and cluster_wait before they arrive again.
__device__ __forceinline__ void cluster_arrive([[maybe_unused]] Site site = Site::current()) {
#ifdef __CUDACC__
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#else
  sim::cluster_arrive(site);
#endif
}

/// Waits until all threads of the cluster have arrived.
__device__ __forceinline__ void cluster_wait([[maybe_unused]] Site site = Site::current()) {
#ifdef __CUDACC__
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  sim::cluster_wait(site);
#endif
}

__device__ __forceinline__ void cluster_sync(Site site = Site::current()) {
  cluster_arrive(site);
  cluster_wait(site);
}

/// The same place in the shared memory of the cluster's block `rank`.
template <class T>
__device__ __forceinline__ T* map_shared_rank(T* pointer, unsigned rank, [[maybe_unused]] Site site = Site::current()) {
#ifdef __CUDACC__
  T* mapped;
  asm("mapa.u64 %0, %1, %2;" : "=l"(mapped) : "l"(pointer), "r"(rank));
  return mapped;
#else
  return static_cast<T*>(sim::map_shared_rank(const_cast<std::remove_const_t<T>*>(pointer), rank, site));
#endif
}

}  // namespace imgrec::cuda
