// Fused updates of one parameter array, and what gradient clipping needs; the formulas are in ops/optimizer.h.
//
//   parameter, gradient, buffers (size,); state (2,) float64 = [learning rate, step], read on the device
//
// A thread takes a pack of parameters, 16 bytes, with what belongs to them, and writes it back: each array is read and
// written once, which is what these kernels' time is spent on. What depends on the step alone is worked out in float64
// by one thread of each block. Shared memory: those scalars, and the sums of a block.
//
// At most 60 registers on sm_80 (66 on sm_90a), no spills; measured share of the peer: not run on a GPU.
#include "ops/optimizer.h"

#include "cuda/chunk_sum.h"

namespace imgrec {
namespace cuda {
namespace {

constexpr int block_threads = 256;

/// Without a momentum_buffer it is null, and momentum is not looked at.
template <class T>
__global__ void __launch_bounds__(block_threads)
    sgd_kernel(T* parameter, Compute<T>* momentum_buffer, const T* gradient, const double* state, std::int64_t size,
               Compute<T> momentum, Compute<T> weight_decay, bool nesterov) {
  using C = Compute<T>;
  const auto learning_rate = static_cast<C>(state[0]);
  for_each_pack<T>(size, aligned_for_packs(parameter, momentum_buffer, gradient), [&](std::int64_t i, auto width) {
    auto parameters = load_pack<T, width>(parameter + i);
    const auto gradients = load_pack<T, width>(gradient + i);
    auto buffers = momentum_buffer ? load_pack<C, width>(momentum_buffer + i) : Pack<C, width>{};
#pragma unroll
    for (int k = 0; k < width; ++k) {
      const C p = widen(parameters.values[k]), g = widen(gradients.values[k]) + weight_decay * p;
      const C b = momentum * buffers.values[k] + g;
      buffers.values[k] = b;
      parameters.values[k] = narrow<T>(p - learning_rate * (!momentum_buffer ? g : nesterov ? g + momentum * b : b));
    }
    store_pack(parameter + i, parameters);
    if (momentum_buffer) store_pack(momentum_buffer + i, buffers);
  });
}

template <class C>
struct AdamScalars {
  C mean_weight, square_keep, square_weight;  // 1 - beta1, beta2, 1 - beta2
  C step_size, root_scale, eps;               // learning rate and 1 / sqrt, both corrected for the start from zero
  C shrink, weight_decay;                     // what decoupled and coupled decay multiply the parameter with

  __device__ AdamScalars(const double* state, const AdamOptions& options)
      : mean_weight(static_cast<C>(1 - options.beta1)),
        square_keep(static_cast<C>(options.beta2)),
        square_weight(static_cast<C>(1 - options.beta2)),
        step_size(static_cast<C>(state[0] / (1 - pow(options.beta1, state[1])))),
        root_scale(static_cast<C>(1 / sqrt(1 - pow(options.beta2, state[1])))),
        eps(static_cast<C>(options.eps)),
        shrink(static_cast<C>(options.decoupled ? 1 - state[0] * options.weight_decay : 1)),
        weight_decay(static_cast<C>(options.decoupled ? 0 : options.weight_decay)) {}
  AdamScalars() = default;
};

template <class T>
__global__ void __launch_bounds__(block_threads)
    adam_kernel(T* parameter, Compute<T>* exp_avg, Compute<T>* exp_avg_sq, const T* gradient, const double* state,
                std::int64_t size, AdamOptions options) {
  using C = Compute<T>;
  SHARED(AdamScalars<C>, shared_scalars, [1]);
  if (threadIdx.x == 0) shared_scalars[0] = AdamScalars<C>(state, options);
  __syncthreads();
  const AdamScalars<C> s = shared_scalars[0];
  const bool aligned = aligned_for_packs(parameter, exp_avg, exp_avg_sq, gradient);
  for_each_pack<T>(size, aligned, [&](std::int64_t i, auto width) {
    auto parameters = load_pack<T, width>(parameter + i);
    const auto gradients = load_pack<T, width>(gradient + i);
    auto means = load_pack<C, width>(exp_avg + i), squares = load_pack<C, width>(exp_avg_sq + i);
#pragma unroll
    for (int k = 0; k < width; ++k) {
      const C p = widen(parameters.values[k]), g = widen(gradients.values[k]) + s.weight_decay * p;
      C &m = means.values[k], &v = squares.values[k];
      m += s.mean_weight * (g - m);
      v = s.square_keep * v + s.square_weight * g * g;
      parameters.values[k] = narrow<T>(s.shrink * p - s.step_size * m / (sqrt(v) * s.root_scale + s.eps));
    }
    store_pack(parameter + i, parameters);
    store_pack(exp_avg + i, means);
    store_pack(exp_avg_sq + i, squares);
  });
}

template <class T>
__global__ void __launch_bounds__(chunk_threads)
    squared_norm_kernel(double* sums, const T* array, std::int64_t size, bool aligned) {
  constexpr int width = pack_width<T>;
  double sum = 0;
  for_chunk_runs<width>(size, [&](std::int64_t i, int count) {
    const auto run = load_run<T, width>(array + i, count, aligned);  // zeros beyond `count`
#pragma unroll
    for (int k = 0; k < width; ++k) {
      const double value = widen(run.values[k]);
      sum += value * value;
    }
  });
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

template <class T>
__global__ void __launch_bounds__(block_threads) scale_kernel(T* array, const double* factor, std::int64_t size) {
  const auto scale = static_cast<Compute<T>>(*factor);
  for_each_pack<T>(size, aligned_for_packs(array), [&](std::int64_t i, auto width) {
    auto pack = load_pack<T, width>(array + i);
    for (T& value : pack.values) value = narrow<T>(widen(value) * scale);
    store_pack(array + i, pack);
  });
}

}  // namespace
}  // namespace cuda

void sgd_update(const Context& context, const Array& parameter, const Array& momentum_buffer, const Array& gradient,
                const Array& state, const SgdOptions& options) {
  cuda::for_floating(parameter.dtype, [&](auto type) {
    using T = decltype(type);
    LAUNCH((cuda::sgd_kernel<T>), context, cuda::elementwise_config<T>(context, parameter.size(), cuda::block_threads),
           parameter.as<T>(), momentum_buffer.as<cuda::Compute<T>>(), gradient.as<const T>(), state.as<const double>(),
           parameter.size(), options.momentum, options.weight_decay, options.nesterov);
  });
}

void adam_update(const Context& context, const Array& parameter, const Array& exp_avg, const Array& exp_avg_sq,
                 const Array& gradient, const Array& state, const AdamOptions& options) {
  cuda::for_floating(parameter.dtype, [&](auto type) {
    using T = decltype(type);
    using C = cuda::Compute<T>;
    LAUNCH((cuda::adam_kernel<T>), context, cuda::elementwise_config<T>(context, parameter.size(), cuda::block_threads),
           parameter.as<T>(), exp_avg.as<C>(), exp_avg_sq.as<C>(), gradient.as<const T>(), state.as<const double>(),
           parameter.size(), options);
  });
}

Plan squared_norm_plan(const Context&, std::int64_t size) {
  return {.algorithm = "chunked",
          .workspace_bytes = cuda::chunk_count(size) * static_cast<std::int64_t>(sizeof(double))};
}

void squared_norm(const Context& context, const Array& out, const Array& array, const Array& workspace) {
  const std::int64_t size = array.size();
  if (size > 0)
    cuda::for_floating(array.dtype, [&](auto type) {
      using T = decltype(type);
      LAUNCH((cuda::squared_norm_kernel<T>), context, cuda::chunk_config(size), workspace.as<double>(),
             array.as<const T>(), size, cuda::aligned_for_packs(array.data));
    });
  cuda::join_chunks(context, out.as<double>(), workspace.as<const double>(), size, 1.0);
}

void scale_in_place(const Context& context, const Array& array, const Array& factor) {
  cuda::for_floating(array.dtype, [&](auto type) {
    using T = decltype(type);
    LAUNCH((cuda::scale_kernel<T>), context, cuda::elementwise_config<T>(context, array.size(), cuda::block_threads),
           array.as<T>(), factor.as<const double>(), array.size());
  });
}

}  // namespace imgrec
