// The storage types of kernels, and how they are read and written: 16-bit numbers are computed in float32.
//
//   widen(x)         float16, bfloat16 -> float; float and double as they are
//   narrow<T>(x)     back, to the nearest, ties to even
//   Compute<T>       the type that T is computed in
#pragma once

#include "cuda/arch/cuda.h"

#ifndef __CUDACC__
#include "cpu/dtypes.h"
#endif

namespace imgrec::cuda {

#ifdef __CUDACC__
using Float16 = __half;
using BFloat16 = __nv_bfloat16;

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ double widen(double value) { return value; }
__device__ __forceinline__ float widen(Float16 value) { return __half2float(value); }
__device__ __forceinline__ float widen(BFloat16 value) { return __bfloat162float(value); }

template <class T>
__device__ __forceinline__ T narrow(double value);
template <>
__device__ __forceinline__ double narrow<double>(double value) {
  return value;
}
template <class T>
__device__ __forceinline__ T narrow(float value);
template <>
__device__ __forceinline__ float narrow<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ Float16 narrow<Float16>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ BFloat16 narrow<BFloat16>(float value) {
  return __float2bfloat16_rn(value);
}
#else
using cpu::BFloat16;
using cpu::Float16;
using cpu::narrow;
using cpu::widen;
#endif

template <class T>
struct ComputeOf {
  using type = float;
};
template <>
struct ComputeOf<double> {
  using type = double;
};
template <class T>
using Compute = typename ComputeOf<T>::type;

/// On the host: calls body(T{}) with the storage type of a floating dtype; the bindings have refused all others.
template <class Body>
void for_floating(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::float64:
      return body(double{});
    case DType::float16:
      return body(Float16{});
    case DType::bfloat16:
      return body(BFloat16{});
    default:
      return body(float{});
  }
}

}  // namespace imgrec::cuda
