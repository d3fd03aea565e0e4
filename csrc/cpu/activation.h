// Activations of whole vectors: for the kernels of activation.cpp and those that end with one.
#pragma once

#include "cpu/vector_math.h"
#include "ops/activation.h"

namespace imgrec::cpu {

/// Phi(x), the normal distribution function: by erfc, which keeps the digits of its lower tail.
template <class T>
Vector<T> normal_distribution(Vector<T> x, Vector<T> bell) {
  return T(0.5) * detail::erfc<T>(x * T(-0.70710678118654752440), bell);
}

/// exp(-x^2 / 2), which the normal distribution and its density have in common.
template <class T>
Vector<T> normal_bell(Vector<T> x) {
  return exp(T(-0.5) * x * x);
}

template <class T>
Vector<T> activate(Vector<T> x, Activation activation) {
  switch (activation) {
    case Activation::relu:
      return x < T(0) ? Vector<T>{} : x;
    case Activation::gelu:
      return x * normal_distribution<T>(x, normal_bell<T>(x));
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
Vector<T> activate_backward(Vector<T> dy, Vector<T> saved, Activation activation) {
  switch (activation) {
    case Activation::relu:
      return saved > T(0) ? dy : Vector<T>{};
    case Activation::gelu: {
      const Vector<T> bell = normal_bell<T>(saved);
      return dy * (normal_distribution<T>(saved, bell) + saved * (bell * T(0.39894228040143267794)));
    }
    case Activation::silu: {
      const Vector<T> s = sigmoid(saved);
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

/// The same from x alone, for all of them.
template <class T>
Vector<T> activate_backward_at(Vector<T> dy, Vector<T> x, Activation activation) {
  const bool from_input = activation == Activation::gelu || activation == Activation::silu;
  return activate_backward<T>(dy, from_input ? x : activate<T>(x, activation), activation);
}

/// Calls body with the activation as a compile-time constant, so that the loop inside holds one function and no branch.
template <class Body>
void for_activation(Activation activation, Body&& body) {
  switch (activation) {
    case Activation::relu:
      return body([] { return Activation::relu; });
    case Activation::gelu:
      return body([] { return Activation::gelu; });
    case Activation::silu:
      return body([] { return Activation::silu; });
    case Activation::sigmoid:
      return body([] { return Activation::sigmoid; });
    case Activation::tanh:
      return body([] { return Activation::tanh; });
    default:
      return body([] { return Activation::none; });
  }
}

/// The same for what ends with an activation: only no activation and relu are so fast that a branch in the loop would
/// cost anything, and the others share a loop.
template <class Body>
void for_following_activation(Activation activation, Body&& body) {
  switch (activation) {
    case Activation::none:
      return body([] { return Activation::none; });
    case Activation::relu:
      return body([] { return Activation::relu; });
    default:
      return body([activation] { return activation; });
  }
}

}  // namespace imgrec::cpu
