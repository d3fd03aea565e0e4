#include "ops/activation.h"

#include <cmath>

#include "cpu/dtypes.h"
#include "cpu/parallel.h"

namespace imgrec {
namespace cpu {
namespace {

constexpr std::int64_t grain = 1 << 14;

template <class T>
T sigmoid(T x) {
  return T(1) / (T(1) + std::exp(-x));
}

template <class T>
T normal_distribution(T x) {
  return T(0.5) * std::erfc(-x * T(0.70710678118654752440));
}

template <class T>
T forward(T x, Activation activation) {
  switch (activation) {
    case Activation::relu:
      return x > T(0) || x != x ? x : T(0);
    case Activation::gelu:
      return x * normal_distribution(x);
    case Activation::silu:
      return x * sigmoid(x);
    case Activation::sigmoid:
      return sigmoid(x);
    case Activation::tanh:
      return std::tanh(x);
    default:
      return x;
  }
}

/// dy times the derivative, from y for relu, sigmoid and tanh and from x for gelu and silu.
template <class T>
T backward(T dy, T saved, Activation activation) {
  switch (activation) {
    case Activation::relu:
      return saved > T(0) ? dy : T(0);
    case Activation::gelu: {
      const T density = std::exp(T(-0.5) * saved * saved) * T(0.39894228040143267794);
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

}  // namespace
}  // namespace cpu

void activation_forward(const Context& context, const Array& y, const Array& x, Activation activation) {
  cpu::for_floating(x.dtype, [&](auto tag) {
    using S = decltype(tag);
    S* to = y.as<S>();
    const S* from = x.as<const S>();
    cpu::for_activation(activation, [&](auto kind) {
      cpu::parallel_range(context, x.size(), cpu::grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) to[i] = cpu::narrow<S>(cpu::forward(cpu::widen(from[i]), kind()));
      });
    });
  });
}

void activation_backward(const Context& context, const Array& dx, const Array& dy, const Array& saved,
                         Activation activation) {
  cpu::for_floating(dx.dtype, [&](auto tag) {
    using S = decltype(tag);
    S* to = dx.as<S>();
    const S *from = dy.as<const S>(), *kept = saved.as<const S>();
    cpu::for_activation(activation, [&](auto kind) {
      cpu::parallel_range(context, dx.size(), cpu::grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i)
          to[i] = cpu::narrow<S>(cpu::backward(cpu::widen(from[i]), cpu::widen(kept[i]), kind()));
      });
    });
  });
}

}  // namespace imgrec
