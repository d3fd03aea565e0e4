// mbarriers: barriers in shared memory that count threads and the bytes of asynchronous copies.
//
// A phase ends when as many threads have arrived as mbarrier_init said and all announced bytes have come; then the next
// begins. Phases have parity 0, 1, 0, ...: who waits for the n-th phase waits for parity n % 2, so that a fresh barrier
// lets waits for parity 1 pass.
//
//   SHARED(MBarrier, full, [stages]);
//   if (threadIdx.x == 0) mbarrier_init(&full[stage], producers);
//   mbarrier_fence_init(); __syncthreads();
//   producer: copy_async<16>(..); mbarrier_arrive_after_copies(&full[stage]);
//   consumer: mbarrier_wait(&full[stage], parity);
#pragma once

#include "cuda/arch/address.h"

namespace imgrec::cuda {

using MBarrier = std::uint64_t;  // opaque

/// Makes a barrier for `arrivals` arrivals a phase. One thread calls it, and others use the barrier after
/// __syncthreads.
__device__ __forceinline__ void mbarrier_init(MBarrier* barrier, unsigned arrivals,
                                              [[maybe_unused]] Site site = Site::current()) {
#ifdef __CUDACC__
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
#else
  sim::mbarrier_init(barrier, arrivals, site);
#endif
}

/// Ends the barrier's life, so that its memory can serve for something else.
__device__ __forceinline__ void mbarrier_invalidate(MBarrier* barrier, [[maybe_unused]] Site site = Site::current()) {
#ifdef __CUDACC__
  asm volatile("mbarrier.inval.shared.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
#else
  sim::mbarrier_invalidate(barrier, site);
#endif
}

__device__ __forceinline__ void mbarrier_arrive(MBarrier* barrier, [[maybe_unused]] Site site = Site::current()) {
#ifdef __CUDACC__
  asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(shared_address(barrier))
               : "memory");
#else
  sim::mbarrier_arrive(barrier, site);
#endif
}

/// Arrives when all earlier copy_async of this thread have landed. It counts as one of the barrier's arrivals.
__device__ __forceinline__ void mbarrier_arrive_after_copies(MBarrier* barrier,
                                                             [[maybe_unused]] Site site = Site::current()) {
#ifdef __CUDACC__
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
#else
  sim::mbarrier_arrive_after_copies(barrier, site);
#endif
}

/// Announces that this phase waits for `bytes` more bytes of bulk copies, and arrives. From compute capability 9.0.
__device__ __forceinline__ void mbarrier_arrive_expect_tx(MBarrier* barrier, unsigned bytes,
                                                          [[maybe_unused]] Site site = Site::current()) {
#ifdef __CUDACC__
  asm volatile(
      "{ .reg .b64 state; mbarrier.arrive.expect_tx.shared.b64 state, [%0], %1; }" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
#else
  sim::mbarrier_arrive_expect_tx(barrier, bytes, site);
#endif
}

/// Copies a run of bytes, a multiple of 16 at addresses that are multiples of 16, and tells the barrier how many have
/// landed. One thread copies for all. From compute capability 9.0.
__device__ __forceinline__ void copy_bulk(void* shared, const void* global, unsigned bytes, MBarrier* barrier,
                                          [[maybe_unused]] Site site = Site::current()) {
#ifdef __CUDACC__
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(shared)),
               "l"(global_address(global)), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
#else
  sim::copy_bulk(shared, global, bytes, barrier, site);
#endif
}

/// Whether the phase with this parity has ended: its arrivals' writes are then visible.
__device__ __forceinline__ bool mbarrier_try_wait(MBarrier* barrier, unsigned parity,
                                                  [[maybe_unused]] Site site = Site::current()) {
#ifdef __CUDACC__
  unsigned ended;
#if __CUDA_ARCH__ >= 900
  asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
#else
  asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
#endif
               : "=r"(ended)
               : "r"(shared_address(barrier)), "r"(parity)
               : "memory");
  return ended != 0;
#else
  return sim::mbarrier_try_wait(barrier, parity, site);
#endif
}

/// Waits until the phase with this parity has ended.
__device__ __forceinline__ void mbarrier_wait(MBarrier* barrier, unsigned parity,
                                              [[maybe_unused]] Site site = Site::current()) {
#ifdef __CUDACC__
  while (!mbarrier_try_wait(barrier, parity)) {
  }
#else
  sim::mbarrier_wait(barrier, parity, site);
#endif
}

/// Makes fresh barriers known to the copy engine and to other blocks of the cluster. From compute capability 9.0; below
/// there is neither, and __syncthreads is enough.
__device__ __forceinline__ void mbarrier_fence_init() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

/// Orders this thread's ordinary accesses to shared memory before later ones by the copy engine: needed where a bulk
/// copy overwrites or reads what threads have accessed. From compute capability 9.0.
__device__ __forceinline__ void fence_proxy_async() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

}  // namespace imgrec::cuda
