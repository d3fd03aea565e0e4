// CUDA's words for a compiler that does not know CUDA: with it a kernel's source is C++ that the simulator runs.
// Only what kernels here use is offered. What is PTX, not CUDA C++, is in cuda/arch/.
#pragma once

#include <math.h>  // not cmath: as in CUDA, the functions for float are in the global namespace too
#include <algorithm>
#include <bit>
#include <cstring>

#include "sim/async.h"
#include "sim/launch.h"
#include "sim/runtime.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __grid_constant__

#define SHARED(type, name, extents) auto& name = ::imgrec::sim::shared<type extents, decltype([] {})>(#name)
#define DYN_SHARED(type, name) type* const name = static_cast<type*>(::imgrec::sim::dynamic_shared())

using std::max;
using std::min;

constexpr int warpSize = imgrec::sim::warp_lanes;

// --- synchronisation
// --------------------------------------------------------------------------------------------------

inline void __syncthreads(imgrec::sim::Site site = imgrec::sim::Site::current()) {
  imgrec::sim::barrier_sync("__syncthreads", 0, 0, site);
}

inline void __syncwarp(unsigned mask = imgrec::sim::all_lanes, imgrec::sim::Site site = imgrec::sim::Site::current()) {
  imgrec::sim::warp_collective("__syncwarp", nullptr, mask, nullptr, false, site);
}

inline unsigned __activemask() { return imgrec::sim::running_lanes(); }

inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// --- warp shuffles and votes
// ------------------------------------------------------------------------------------------

namespace imgrec::sim {

template <class T>
struct Shuffle {
  T value, result;
  int from;  // the lane to read, or -1 for one's own value
};

template <class T>
T shuffle(const char* name, unsigned mask, T value, int from, Site site) {
  Shuffle<T> mine{value, value, from};
  warp_collective(
      name,
      [](void* const* lanes, std::uint32_t) {
        for (int i = 0; i < warp_lanes; ++i) {
          auto* to = static_cast<Shuffle<T>*>(lanes[i]);
          if (!to || to->from < 0) continue;
          const auto* from = static_cast<const Shuffle<T>*>(lanes[to->from]);
          if (from) to->result = from->value;  // a lane that does not take part: CUDA leaves the result open
        }
      },
      mask, &mine, false, site);
  return mine.result;
}

struct Vote {
  bool predicate;
  unsigned result;
};

inline unsigned ballot(const char* name, unsigned mask, bool predicate, Site site) {
  Vote mine{predicate, 0};
  warp_collective(
      name,
      [](void* const* lanes, std::uint32_t) {
        unsigned ballot = 0;
        for (int i = 0; i < warp_lanes; ++i)
          if (lanes[i] && static_cast<Vote*>(lanes[i])->predicate) ballot |= 1u << i;
        for (int i = 0; i < warp_lanes; ++i)
          if (lanes[i]) static_cast<Vote*>(lanes[i])->result = ballot;
      },
      mask, &mine, false, site);
  return mine.result;
}

}  // namespace imgrec::sim

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              imgrec::sim::Site site = imgrec::sim::Site::current()) {
  const int lane = imgrec::sim::lane();
  return imgrec::sim::shuffle("__shfl_sync", mask, value, (lane & ~(width - 1)) | (source & (width - 1)), site);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  imgrec::sim::Site site = imgrec::sim::Site::current()) {
  const int lane = imgrec::sim::lane(), from = lane ^ lane_mask;
  return imgrec::sim::shuffle("__shfl_xor_sync", mask, value, from < (lane | (width - 1)) + 1 ? from : -1, site);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 imgrec::sim::Site site = imgrec::sim::Site::current()) {
  const int lane = imgrec::sim::lane(), from = lane - static_cast<int>(delta);
  return imgrec::sim::shuffle("__shfl_up_sync", mask, value, from >= (lane & ~(width - 1)) ? from : -1, site);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   imgrec::sim::Site site = imgrec::sim::Site::current()) {
  const int lane = imgrec::sim::lane(), from = lane + static_cast<int>(delta);
  return imgrec::sim::shuffle("__shfl_down_sync", mask, value, from <= (lane | (width - 1)) ? from : -1, site);
}

inline unsigned __ballot_sync(unsigned mask, bool predicate, imgrec::sim::Site site = imgrec::sim::Site::current()) {
  return imgrec::sim::ballot("__ballot_sync", mask, predicate, site);
}

inline int __any_sync(unsigned mask, bool predicate, imgrec::sim::Site site = imgrec::sim::Site::current()) {
  return imgrec::sim::ballot("__any_sync", mask, predicate, site) != 0;
}

inline int __all_sync(unsigned mask, bool predicate, imgrec::sim::Site site = imgrec::sim::Site::current()) {
  return imgrec::sim::ballot("__all_sync", mask, !predicate, site) == 0;
}

// --- atomics: on integers only, since sums of floating-point numbers would depend on who comes first
// ------------------

namespace imgrec::sim {

/// Replaces the number at `address` by change(number), and returns what it was.
template <class T, class Change>
T atomic_update(T* address, Change&& change) {
  T before = __atomic_load_n(address, __ATOMIC_SEQ_CST);
  while (!__atomic_compare_exchange_n(address, &before, change(before), false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
  }
  if (change(before) != before) progress();
  return before;
}

}  // namespace imgrec::sim

template <class T>
T atomicAdd(T* address, T value) {
  return imgrec::sim::atomic_update(address, [&](T before) { return static_cast<T>(before + value); });
}

template <class T>
T atomicExch(T* address, T value) {
  return imgrec::sim::atomic_update(address, [&](T) { return value; });
}

template <class T>
T atomicCAS(T* address, T expected, T value) {
  return imgrec::sim::atomic_update(address, [&](T before) { return before == expected ? value : before; });
}

template <class T>
T atomicMin(T* address, T value) {
  return imgrec::sim::atomic_update(address, [&](T before) { return min(before, value); });
}

template <class T>
T atomicMax(T* address, T value) {
  return imgrec::sim::atomic_update(address, [&](T before) { return max(before, value); });
}

// --- small functions
// --------------------------------------------------------------------------------------------------

template <class T>
T __ldg(const T* address) {
  return *address;
}

inline unsigned __umulhi(unsigned x, unsigned y) { return static_cast<unsigned>(std::uint64_t{x} * y >> 32); }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(x) * y >> 64);
}
inline int __popc(unsigned value) { return std::popcount(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __clz(int value) { return std::countl_zero(static_cast<unsigned>(value)); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __uint_as_float(unsigned value) { return std::bit_cast<float>(value); }
inline int __float_as_int(float value) { return std::bit_cast<int>(value); }
inline float __int_as_float(int value) { return std::bit_cast<float>(value); }
inline float rsqrtf(float value) { return 1.0f / std::sqrt(value); }
inline double rsqrt(double value) { return 1.0 / std::sqrt(value); }

// glibc declares functions of these names, which are not CUDA's.
#define __expf(x) ::expf(x)
#define __logf(x) ::logf(x)
#define __fdividef(x, y) ((x) / (y))
