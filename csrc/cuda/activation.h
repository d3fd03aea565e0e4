// Activations as device functions: for the kernels of activation.cu and the epilogues of others.
#pragma once

#include "cuda/arch/cuda.h"
#include "ops/activation.h"

namespace imgrec::cuda {

/// Phi(x), the normal distribution function; by erfc, which keeps the digits of its lower tail.
__device__ __forceinline__ float normal_distribution(float x) { return 0.5f * erfcf(x * -0.70710678f); }
__device__ __forceinline__ double normal_distribution(double x) { return 0.5 * erfc(x * -0.70710678118654752440); }

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

template <class T>
__device__ __forceinline__ T activate(T x, Activation activation) {
  switch (activation) {
    case Activation::relu:
      return x < T(0) ? T(0) : x;
    case Activation::gelu:
      return x * normal_distribution(x);
    case Activation::silu:
      return x * sigmoid(x);
    case Activation::sigmoid:
      return sigmoid(x);
    case Activation::tanh:
      return tanh(x);
    default:
      return x;
  }
}

/// dy times the derivative, from y for relu, sigmoid and tanh and from x for gelu and silu.
template <class T>
__device__ __forceinline__ T activate_backward(T dy, T saved, Activation activation) {
  switch (activation) {
    case Activation::relu:
      return saved > T(0) ? dy : T(0);
    case Activation::gelu: {
      const T density = exp(T(-0.5) * saved * saved) * T(0.39894228040143267794);
      return dy * (normal_distribution(saved) + saved * density);
    }
    case Activation::silu: {
      const T s = sigmoid(saved);
      return dy * s * (T(1) + saved * (T(1) - s));
    }
    case Activation::sigmoid:
      return dy * saved * (T(1) - saved);
    case Activation::tanh:
      return dy * (T(1) - saved * saved);
    default:
      return dy;
  }
}

// For what ends with an activation in unrolled loops: all but the fastest are called.

template <class T>
NO_INLINE __device__ T called_activate(T x, Activation activation) {
  return activate(x, activation);
}

template <class T>
NO_INLINE __device__ T called_activate_backward(T dy, T x, Activation activation) {
  const bool from_input = activation == Activation::gelu || activation == Activation::silu;
  return activate_backward(dy, from_input ? x : activate(x, activation), activation);
}

template <class T>
__device__ __forceinline__ T activate_following(T x, Activation activation) {
  if (activation == Activation::none) return x;
  return activation == Activation::relu ? (x < T(0) ? T(0) : x) : called_activate(x, activation);
}

/// dy times the derivative at x, for all of them.
template <class T>
__device__ __forceinline__ T activate_backward_at(T dy, T x, Activation activation) {
  if (activation == Activation::none) return dy;
  return activation == Activation::relu ? (x > T(0) ? dy : T(0)) : called_activate_backward(dy, x, activation);
}

}  // namespace imgrec::cuda
