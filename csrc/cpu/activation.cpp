#include "ops/activation.h"

#include "cpu/parallel.h"
#include "cpu/vector_io.h"
#include "cpu/vector_math.h"

namespace imgrec {
namespace cpu {
namespace {

constexpr std::int64_t grain = 1 << 14;

/// Phi(x), the normal distribution function; by erfc, which keeps the digits of its lower tail.
template <class T>
Vector<T> normal_distribution(Vector<T> x) {
  return T(0.5) * erfc(x * T(-0.70710678118654752440));
}

template <class T>
Vector<T> forward(Vector<T> x, Activation activation) {
  switch (activation) {
    case Activation::relu:
      return x < T(0) ? Vector<T>{} : x;
    case Activation::gelu:
      return x * normal_distribution<T>(x);
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
Vector<T> backward(Vector<T> dy, Vector<T> saved, Activation activation) {
  switch (activation) {
    case Activation::relu:
      return saved > T(0) ? dy : Vector<T>{};
    case Activation::gelu: {
      const Vector<T> density = exp(T(-0.5) * saved * saved) * T(0.39894228040143267794);
      return dy * (normal_distribution<T>(saved) + saved * density);
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
    using T = cpu::Compute<S>;
    S* to = y.as<S>();
    const S* from = x.as<const S>();
    cpu::for_activation(activation, [&](auto kind) {
      cpu::parallel_range(context, x.size(), cpu::grain, [&](std::int64_t begin, std::int64_t end) {
        cpu::for_vectors<S>(begin, end, [&](std::int64_t i, int count) {
          cpu::store_narrow(to + i, cpu::forward<T>(cpu::load_wide(from + i, count), kind()), count);
        });
      });
    });
  });
}

void activation_backward(const Context& context, const Array& dx, const Array& dy, const Array& saved,
                         Activation activation) {
  cpu::for_floating(dx.dtype, [&](auto tag) {
    using S = decltype(tag);
    using T = cpu::Compute<S>;
    S* to = dx.as<S>();
    const S *from = dy.as<const S>(), *kept = saved.as<const S>();
    cpu::for_activation(activation, [&](auto kind) {
      cpu::parallel_range(context, dx.size(), cpu::grain, [&](std::int64_t begin, std::int64_t end) {
        cpu::for_vectors<S>(begin, end, [&](std::int64_t i, int count) {
          const auto dy_part = cpu::load_wide(from + i, count), saved_part = cpu::load_wide(kept + i, count);
          cpu::store_narrow(to + i, cpu::backward<T>(dy_part, saved_part, kind()), count);
        });
      });
    });
  });
}

}  // namespace imgrec
