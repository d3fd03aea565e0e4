// Sums and maxima over a warp or a block, in an order that depends on nothing but the number of threads.
#pragma once

#include "cuda/arch/cuda.h"

namespace imgrec::cuda {

constexpr unsigned full_warp = 0xFFFFFFFFu;

struct Sum {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};

struct Maximum {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return b > a ? b : a;
  }
};

/// Combines `value` over runs of Width lanes; every lane gets the result. All 32 lanes call it.
template <int Width, class T, class Combine>
__device__ __forceinline__ T warp_reduce(T value, Combine combine) {
  static_assert(Width >= 1 && Width <= 32 && (Width & (Width - 1)) == 0, "a power of two of at most 32 lanes");
#pragma unroll
  for (int distance = Width / 2; distance > 0; distance /= 2)
    value = combine(value, __shfl_xor_sync(full_warp, value, distance));
  return value;
}

template <int Width = 32, class T>
__device__ __forceinline__ T warp_sum(T value) {
  return warp_reduce<Width>(value, Sum{});
}

template <int Width = 32, class T>
__device__ __forceinline__ T warp_max(T value) {
  return warp_reduce<Width>(value, Maximum{});
}

/// Combines `value` over the block, whose threads are whole warps along x; every thread gets the result. `neutral`
/// changes nothing when it is combined. All threads call it; it begins and ends with the block's threads together.
template <class T, class Combine>
__device__ __forceinline__ T block_reduce(T value, Combine combine, T neutral) {
  SHARED(T, partial, [32]);
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  value = warp_reduce<32>(value, combine);
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  value = warp_reduce<32>(lane < static_cast<int>(blockDim.x / 32) ? partial[lane] : neutral, combine);
  __syncthreads();  // the next reduction may write again
  return value;
}

template <class T>
__device__ __forceinline__ T block_sum(T value) {
  return block_reduce(value, Sum{}, T(0));
}

template <class T>
__device__ __forceinline__ T block_max(T value) {
  return block_reduce(value, Maximum{}, T(-INFINITY));
}

}  // namespace imgrec::cuda
