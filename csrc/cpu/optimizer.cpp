#include "ops/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "cpu/dtypes.h"
#include "cpu/parallel.h"

namespace imgrec {
namespace cpu {
namespace {

constexpr std::int64_t grain = 1 << 14;  // elements a task: what it touches stays within the second-level cache

std::int64_t chunk_count(const Array& array) { return (array.size() + grain - 1) / grain; }

std::int64_t chunk_count(Arrays arrays) {
  std::int64_t count = 0;
  for (const Array& array : arrays) count += chunk_count(array);
  return count;
}

/// Calls body(place, begin, end, chunk) for ranges that cover all arrays; `place` in the list, `chunk` of them all.
template <class Body>
void for_each_chunk(const Context& context, Arrays arrays, Body&& body) {
  std::vector<std::int64_t> ends(arrays.size());  // of each array's chunks
  std::int64_t chunks = 0;
  for (std::size_t place = 0; place < arrays.size(); ++place) ends[place] = chunks += chunk_count(arrays[place]);
  parallel_tasks(context, chunks, [&](std::int64_t chunk, int) {
    const auto place = static_cast<std::size_t>(std::upper_bound(ends.begin(), ends.end(), chunk) - ends.begin());
    const std::int64_t begin = (chunk - (place ? ends[place - 1] : 0)) * grain;
    body(place, begin, std::min(begin + grain, arrays[place].size()), chunk);
  });
}

bool is_set(const Array& flag) { return flag && *flag.as<const bool>(); }

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

/// adam_update's scalars, worked out in float64.
template <class T>
struct AdamScalars {
  T mean_weight, square_keep, square_weight;  // 1 - beta1, beta2, 1 - beta2
  T step_size, root_scale, eps;               // learning rate and 1 / sqrt, both corrected for the start from zero
  T shrink, weight_decay;                     // what decoupled and coupled decay multiply the parameter with

  AdamScalars(double learning_rate, double beta1, double step, const AdamOptions& options)
      : mean_weight(static_cast<T>(1 - beta1)),
        square_keep(static_cast<T>(options.beta2)),
        square_weight(static_cast<T>(1 - options.beta2)),
        step_size(static_cast<T>(learning_rate / (1 - std::pow(beta1, step)))),
        root_scale(static_cast<T>(1 / std::sqrt(1 - std::pow(options.beta2, step)))),
        eps(static_cast<T>(options.eps)),
        shrink(static_cast<T>(options.decoupled ? 1 - learning_rate * options.weight_decay : 1)),
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

void sgd_update(const Context& context, Arrays parameters, Arrays momentum_buffers, Arrays gradients, const Array& skip,
                const Array& learning_rate, const Array& momentum, const SgdOptions& options) {
  if (cpu::is_set(skip)) return;
  cpu::for_floating(parameters[0].dtype, [&](auto tag) {
    using S = decltype(tag);
    using T = cpu::Compute<S>;
    const auto rate = static_cast<T>(*learning_rate.as<const double>());
    const auto keep = static_cast<T>(*momentum.as<const double>()), weight_decay = static_cast<T>(options.weight_decay);
    cpu::for_each_chunk(context, parameters,
                        [&](std::size_t place, std::int64_t begin, std::int64_t end, std::int64_t) {
                          S* p = parameters[place].as<S>() + begin;
                          const S* g = gradients[place].as<const S>() + begin;
                          T* b = momentum_buffers.empty() ? nullptr : momentum_buffers[place].as<T>() + begin;
                          if (!b)
                            cpu::plain_step(p, g, end - begin, rate, weight_decay);
                          else if (options.nesterov)
                            cpu::momentum_step<true>(p, b, g, end - begin, rate, keep, weight_decay);
                          else
                            cpu::momentum_step<false>(p, b, g, end - begin, rate, keep, weight_decay);
                        });
  });
}

void adam_update(const Context& context, Arrays parameters, Arrays exp_avgs, Arrays exp_avg_sqs, Arrays steps,
                 Arrays gradients, const Array& skip, const Array& learning_rate, const Array& beta1,
                 const AdamOptions& options) {
  if (cpu::is_set(skip)) return;
  for (const Array& step : steps) ++*step.as<std::int64_t>();
  const double rate = *learning_rate.as<const double>(), mean_keep = *beta1.as<const double>();
  cpu::for_floating(parameters[0].dtype, [&](auto tag) {
    using S = decltype(tag);
    using T = cpu::Compute<S>;
    cpu::for_each_chunk(context, parameters,
                        [&](std::size_t place, std::int64_t begin, std::int64_t end, std::int64_t) {
                          const auto step = static_cast<double>(*steps[place].as<const std::int64_t>());
                          const cpu::AdamScalars<T> scalars(rate, mean_keep, step, options);
                          cpu::adam_step(parameters[place].as<S>() + begin, exp_avgs[place].as<T>() + begin,
                                         exp_avg_sqs[place].as<T>() + begin, gradients[place].as<const S>() + begin,
                                         end - begin, scalars);
                        });
  });
}

Plan squared_norm_plan(const Context&, Arrays arrays) {
  return {.algorithm = "chunked",
          .workspace_bytes = cpu::chunk_count(arrays) * static_cast<std::int64_t>(sizeof(double))};
}

void squared_norm(const Context& context, const Array& out, Arrays arrays, const Array& workspace) {
  auto* sums = workspace.as<double>();
  cpu::for_floating(arrays[0].dtype, [&](auto tag) {
    using S = decltype(tag);
    cpu::for_each_chunk(context, arrays,
                        [&](std::size_t place, std::int64_t begin, std::int64_t end, std::int64_t chunk) {
                          sums[chunk] = cpu::sum_of_squares(arrays[place].as<const S>() + begin, end - begin);
                        });
  });
  *out.as<double>() = std::accumulate(sums, sums + cpu::chunk_count(arrays), 0.0);
}

void scale_in_place(const Context& context, Arrays arrays, const Array& factor) {
  cpu::for_floating(arrays[0].dtype, [&](auto tag) {
    using S = decltype(tag);
    const auto scale = static_cast<cpu::Compute<S>>(*factor.as<const double>());
    cpu::for_each_chunk(context, arrays, [&](std::size_t place, std::int64_t begin, std::int64_t end, std::int64_t) {
      S* values = arrays[place].as<S>();
      for (std::int64_t i = begin; i < end; ++i) values[i] = cpu::narrow<S>(cpu::widen(values[i]) * scale);
    });
  });
}

}  // namespace imgrec
