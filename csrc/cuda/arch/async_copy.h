// cp.async: copies from global to shared memory that go on while their thread computes.
//
//   copy_async<16>(to, from);       starts a copy of 4, 8 or 16 bytes, aligned to as much on both sides
//   copy_async_commit();            the copies since the last commit are a group
//   copy_async_wait<1>();           until at most one group of this thread is under way
//   __syncthreads();                what other threads copied
#pragma once

#include "cuda/arch/address.h"

namespace imgrec::cuda {

/// Copies Bytes, or writes as many zeros where not `valid`; then nothing is read. Only copies of 16 bytes leave the L1
/// cache alone.
template <int Bytes>
__device__ __forceinline__ void copy_async_or_zero(void* shared, const void* global, bool valid,
                                                   [[maybe_unused]] Site site = Site::current()) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16, "cp.async copies 4, 8 or 16 bytes");
#ifdef __CUDACC__
  const int read = valid ? Bytes : 0;
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(shared)), "l"(global_address(global)), "r"(read)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                 :
                 : "r"(shared_address(shared)), "l"(global_address(global)), "n"(Bytes), "r"(read)
                 : "memory");
#else
  sim::copy_async(shared, global, Bytes, valid, site);
#endif
}

template <int Bytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global,
                                           [[maybe_unused]] Site site = Site::current()) {
  copy_async_or_zero<Bytes>(shared, global, true, site);
}

__device__ __forceinline__ void copy_async_commit() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  sim::copy_async_commit();
#endif
}

template <int PendingGroups>
__device__ __forceinline__ void copy_async_wait() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" ::"n"(PendingGroups) : "memory");
#else
  sim::copy_async_wait(PendingGroups);
#endif
}

}  // namespace imgrec::cuda
