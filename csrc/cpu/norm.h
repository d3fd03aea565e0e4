// The activation at the end of a normalisation.
#pragma once

#include "cpu/activation.h"

namespace imgrec::cpu {

/// A call for each vector costs little beside an exponential, and so each of them is compiled once for all kernels.
template <class T>
[[gnu::noinline]] Vector<T> activate_curved(Vector<T> x, Activation activation) {
  return activate<T>(x, activation);
}

template <class T>
[[gnu::noinline]] Vector<T> activate_curved_backward(Vector<T> dy, Vector<T> x, Activation activation) {
  return activate_backward_at<T>(dy, x, activation);
}

template <class T>
Vector<T> activate_norm(Vector<T> x, Activation activation) {
  if (activation == Activation::none) return x;
  if (activation == Activation::relu) return activate<T>(x, Activation::relu);
  return activate_curved<T>(x, activation);
}

/// dy before the activation, from what it was applied to.
template <class T>
Vector<T> activate_norm_backward(Vector<T> dy, Vector<T> x, Activation activation) {
  if (activation == Activation::none) return dy;
  if (activation == Activation::relu) return activate_backward_at<T>(dy, x, Activation::relu);
  return activate_curved_backward<T>(dy, x, activation);
}

}  // namespace imgrec::cpu
