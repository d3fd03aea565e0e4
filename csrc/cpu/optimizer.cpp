#include "ops/optimizer.h"

#include <cmath>

#include "cpu/dtypes.h"
#include "cpu/parallel.h"

namespace imgrec {
namespace cpu {
namespace {

constexpr std::int64_t grain = 1 << 14;  // elements a task: what it touches stays within the second-level cache

template <class S, class T>
void plain_step(S* parameter, const S* gradient, std::int64_t count, T learning_rate, T weight_decay) {
  for (std::int64_t i = 0; i < count; ++i) {
    const T p = widen(parameter[i]);
    parameter[i] = narrow<S>(p - learning_rate * (widen(gradient[i]) + weight_decay * p));
  }
}

template <bool nesterov, class S, class T>
void momentum_step(S* parameter, T* buffer, const S* gradient, std::int64_t count, T learning_rate, T momentum,
                   T weight_decay) {
  for (std::int64_t i = 0; i < count; ++i) {
    const T p = widen(parameter[i]), g = widen(gradient[i]) + weight_decay * p;
    const T b = momentum * buffer[i] + g;
    buffer[i] = b;
    parameter[i] = narrow<S>(p - learning_rate * (nesterov ? g + momentum * b : b));
  }
}

/// adam_update's scalars, worked out in float64 once a call.
template <class T>
struct AdamScalars {
  T mean_weight, square_keep, square_weight;  // 1 - beta1, beta2, 1 - beta2
  T step_size, root_scale, eps;               // learning rate and 1 / sqrt, both corrected for the start from zero
  T shrink, weight_decay;                     // what decoupled and coupled decay multiply the parameter with

  AdamScalars(const double* state, const AdamOptions& options)
      : mean_weight(static_cast<T>(1 - options.beta1)),
        square_keep(static_cast<T>(options.beta2)),
        square_weight(static_cast<T>(1 - options.beta2)),
        step_size(static_cast<T>(state[0] / (1 - std::pow(options.beta1, state[1])))),
        root_scale(static_cast<T>(1 / std::sqrt(1 - std::pow(options.beta2, state[1])))),
        eps(static_cast<T>(options.eps)),
        shrink(static_cast<T>(options.decoupled ? 1 - state[0] * options.weight_decay : 1)),
        weight_decay(static_cast<T>(options.decoupled ? 0 : options.weight_decay)) {}
};

template <class S, class T>
void adam_step(S* parameter, T* exp_avg, T* exp_avg_sq, const S* gradient, std::int64_t count,
               const AdamScalars<T>& scalars) {
  const AdamScalars<T> s = scalars;  // a copy whose fields no store can change
  for (std::int64_t i = 0; i < count; ++i) {
    const T p = widen(parameter[i]), g = widen(gradient[i]) + s.weight_decay * p;
    const T m = exp_avg[i] + s.mean_weight * (g - exp_avg[i]);
    const T v = s.square_keep * exp_avg_sq[i] + s.square_weight * g * g;
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    parameter[i] = narrow<S>(s.shrink * p - s.step_size * m / (std::sqrt(v) * s.root_scale + s.eps));
  }
}

/// The sum of squares in a fixed order: element i goes to partial sum i modulo 16.
template <class S>
double sum_of_squares(const S* from, std::int64_t count) {
  constexpr int width = 16;
  double sums[width] = {};
  std::int64_t i = 0;
  for (; i + width <= count; i += width)
    for (int lane = 0; lane < width; ++lane) {
      const double value = widen(from[i + lane]);
      sums[lane] += value * value;
    }
  for (int lane = 0; i + lane < count; ++lane) {
    const double value = widen(from[i + lane]);
    sums[lane] += value * value;
  }
  double total = 0;
  for (double sum : sums) total += sum;
  return total;
}

}  // namespace
}  // namespace cpu

void sgd_update(const Context& context, const Array& parameter, const Array& momentum_buffer, const Array& gradient,
                const Array& state, const SgdOptions& options) {
  cpu::for_floating(parameter.dtype, [&](auto tag) {
    using S = decltype(tag);
    using T = cpu::Compute<S>;
    const auto learning_rate = static_cast<T>(state.as<const double>()[0]);
    const auto momentum = static_cast<T>(options.momentum), weight_decay = static_cast<T>(options.weight_decay);
    cpu::parallel_range(context, parameter.size(), cpu::grain, [&](std::int64_t begin, std::int64_t end) {
      S* p = parameter.as<S>() + begin;
      const S* g = gradient.as<const S>() + begin;
      T* b = momentum_buffer ? momentum_buffer.as<T>() + begin : nullptr;
      if (!b)
        cpu::plain_step(p, g, end - begin, learning_rate, weight_decay);
      else if (options.nesterov)
        cpu::momentum_step<true>(p, b, g, end - begin, learning_rate, momentum, weight_decay);
      else
        cpu::momentum_step<false>(p, b, g, end - begin, learning_rate, momentum, weight_decay);
    });
  });
}

void adam_update(const Context& context, const Array& parameter, const Array& exp_avg, const Array& exp_avg_sq,
                 const Array& gradient, const Array& state, const AdamOptions& options) {
  cpu::for_floating(parameter.dtype, [&](auto tag) {
    using S = decltype(tag);
    using T = cpu::Compute<S>;
    const cpu::AdamScalars<T> scalars(state.as<const double>(), options);
    cpu::parallel_range(context, parameter.size(), cpu::grain, [&](std::int64_t begin, std::int64_t end) {
      cpu::adam_step(parameter.as<S>() + begin, exp_avg.as<T>() + begin, exp_avg_sq.as<T>() + begin,
                     gradient.as<const S>() + begin, end - begin, scalars);
    });
  });
}

Plan squared_norm_plan(const Context&, std::int64_t size) {
  const std::int64_t chunks = (size + cpu::grain - 1) / cpu::grain;
  return {.algorithm = "chunked", .workspace_bytes = chunks * static_cast<std::int64_t>(sizeof(double))};
}

void squared_norm(const Context& context, const Array& out, const Array& array, const Array& workspace) {
  auto* sums = workspace.as<double>();
  cpu::for_floating(array.dtype, [&](auto tag) {
    using S = decltype(tag);
    cpu::parallel_range(context, array.size(), cpu::grain, [&](std::int64_t begin, std::int64_t end) {
      sums[begin / cpu::grain] = cpu::sum_of_squares(array.as<const S>() + begin, end - begin);
    });
  });
  double total = 0;
  for (std::int64_t chunk = 0; chunk * cpu::grain < array.size(); ++chunk) total += sums[chunk];
  out.as<double>()[0] = total;
}

void scale_in_place(const Context& context, const Array& array, const Array& factor) {
  cpu::for_floating(array.dtype, [&](auto tag) {
    using S = decltype(tag);
    const auto scale = static_cast<cpu::Compute<S>>(factor.as<const double>()[0]);
    cpu::parallel_range(context, array.size(), cpu::grain, [&](std::int64_t begin, std::int64_t end) {
      S* values = array.as<S>();
      for (std::int64_t i = begin; i < end; ++i) values[i] = cpu::narrow<S>(cpu::widen(values[i]) * scale);
    });
  });
}

}  // namespace imgrec
