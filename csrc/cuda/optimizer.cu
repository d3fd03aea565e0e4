// Fused updates of many parameter arrays, and what gradient clipping needs; the formulas are in ops/optimizer.h.
//
//   parameters, gradients, buffers: lists of (size,), up to 64 arrays in a launch; tensor_table.h says how they travel
//   learning_rate, momentum, beta1 (1,) float64, steps () int64, skip (1,) boolean or none: read on the device
//
// A block takes a chunk of one array, 4096 elements (8192 where squares are summed), a thread packs of 16 bytes of
// parameters with what belongs to them, and writes them back: each array is read and written once, which is what these
// kernels' time is spent on. What depends on the step alone is worked out in float64 by one thread of each block. All
// steps of a launch are advanced by one launch before. Shared memory: those scalars, and the sums of a block.
//
// At most 56 registers on sm_80 (64 on sm_90a), no spills; measured share of the peer: not run on a GPU.
#include "ops/optimizer.h"

#include "cuda/chunk_sum.h"
#include "cuda/tensor_table.h"

namespace imgrec {
namespace cuda {
namespace {

constexpr int block_threads = 256;
constexpr std::int64_t update_elements = 4096;

/// Whether there is a flag and it is set: the same for all threads of a launch.
__device__ __forceinline__ bool is_set(const bool* flag) { return flag && *flag; }

/// The lists of sgd_kernel's table. Without momentum its buffers are null, and momentum is not looked at.
enum SgdList { sgd_parameter, sgd_buffer, sgd_gradient, sgd_lists };

template <class T>
__global__ void __launch_bounds__(block_threads)
    sgd_kernel(const __grid_constant__ TensorTable<sgd_lists> table, const bool* skip, const double* learning_rate,
               const double* momentum, Compute<T> weight_decay, bool nesterov) {
  if (is_set(skip)) return;
  using C = Compute<T>;
  const auto rate = static_cast<C>(*learning_rate), keep = static_cast<C>(*momentum);
  const TensorChunk chunk(table, update_elements);
  T* parameter = table.template at<T>(sgd_parameter, chunk.place) + chunk.begin;
  const T* gradient = table.template at<T>(sgd_gradient, chunk.place) + chunk.begin;
  C* buffer = table.template at<C>(sgd_buffer, chunk.place);
  if (buffer) buffer += chunk.begin;
  chunk.for_each_pack<T>(aligned_for_packs(parameter, buffer, gradient), [&](std::int64_t i, auto width) {
    auto parameters = load_pack<T, width>(parameter + i);
    const auto gradients = load_pack<T, width>(gradient + i);
    auto buffers = buffer ? load_pack<C, width>(buffer + i) : Pack<C, width>{};
#pragma unroll
    for (int k = 0; k < width; ++k) {
      const C p = widen(parameters.values[k]), g = widen(gradients.values[k]) + weight_decay * p;
      const C b = keep * buffers.values[k] + g;
      buffers.values[k] = b;
      parameters.values[k] = narrow<T>(p - rate * (!buffer ? g : nesterov ? g + keep * b : b));
    }
    store_pack(parameter + i, parameters);
    if (buffer) store_pack(buffer + i, buffers);
  });
}

template <class C>
struct AdamScalars {
  C mean_weight, square_keep, square_weight;  // 1 - beta1, beta2, 1 - beta2
  C step_size, root_scale, eps;               // learning rate and 1 / sqrt, both corrected for the start from zero
  C shrink, weight_decay;                     // what decoupled and coupled decay multiply the parameter with

  __device__ AdamScalars(double learning_rate, double beta1, double step, const AdamOptions& options)
      : mean_weight(static_cast<C>(1 - beta1)),
        square_keep(static_cast<C>(options.beta2)),
        square_weight(static_cast<C>(1 - options.beta2)),
        step_size(static_cast<C>(learning_rate / (1 - pow(beta1, step)))),
        root_scale(static_cast<C>(1 / sqrt(1 - pow(options.beta2, step)))),
        eps(static_cast<C>(options.eps)),
        shrink(static_cast<C>(options.decoupled ? 1 - learning_rate * options.weight_decay : 1)),
        weight_decay(static_cast<C>(options.decoupled ? 0 : options.weight_decay)) {}
  AdamScalars() = default;
};

/// The lists of adam_kernel's table.
enum AdamList { adam_parameter, adam_mean, adam_square, adam_step, adam_gradient, adam_lists };
using AdamTable = TensorTable<adam_lists>;

__global__ void __launch_bounds__(table_places)
    advance_steps_kernel(const __grid_constant__ AdamTable table, const bool* skip) {
  if (is_set(skip)) return;
  const int place = static_cast<int>(threadIdx.x);
  if (place < table.places) ++*table.template at<std::int64_t>(adam_step, place);
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    adam_kernel(const __grid_constant__ AdamTable table, const bool* skip, const double* learning_rate,
                const double* beta1, AdamOptions options) {
  if (is_set(skip)) return;
  using C = Compute<T>;
  SHARED(AdamScalars<C>, shared_scalars, [1]);
  const TensorChunk chunk(table, update_elements);
  if (threadIdx.x == 0) {
    const auto step = static_cast<double>(*table.template at<const std::int64_t>(adam_step, chunk.place));
    shared_scalars[0] = AdamScalars<C>(*learning_rate, *beta1, step, options);
  }
  __syncthreads();
  const AdamScalars<C> s = shared_scalars[0];
  T* parameter = table.template at<T>(adam_parameter, chunk.place) + chunk.begin;
  C* mean = table.template at<C>(adam_mean, chunk.place) + chunk.begin;
  C* square = table.template at<C>(adam_square, chunk.place) + chunk.begin;
  const T* gradient = table.template at<const T>(adam_gradient, chunk.place) + chunk.begin;
  chunk.for_each_pack<T>(aligned_for_packs(parameter, mean, square, gradient), [&](std::int64_t i, auto width) {
    auto parameters = load_pack<T, width>(parameter + i);
    const auto gradients = load_pack<T, width>(gradient + i);
    auto means = load_pack<C, width>(mean + i), squares = load_pack<C, width>(square + i);
#pragma unroll
    for (int k = 0; k < width; ++k) {
      const C p = widen(parameters.values[k]), g = widen(gradients.values[k]) + s.weight_decay * p;
      C &m = means.values[k], &v = squares.values[k];
      m += s.mean_weight * (g - m);
      v = s.square_keep * v + s.square_weight * g * g;
      parameters.values[k] = narrow<T>(s.shrink * p - s.step_size * m / (sqrt(v) * s.root_scale + s.eps));
    }
    store_pack(parameter + i, parameters);
    store_pack(mean + i, means);
    store_pack(square + i, squares);
  });
}

template <class T>
__global__ void __launch_bounds__(chunk_threads)
    squared_norm_kernel(double* sums, const __grid_constant__ TensorTable<1> table) {
  constexpr int width = pack_width<T>;
  const TensorChunk chunk(table, chunk_elements);
  const T* array = table.template at<const T>(0, chunk.place);
  const bool aligned = aligned_for_packs(array);
  double sum = 0;
  for_chunk_runs<width>(chunk.begin, table.sizes[chunk.place], [&](std::int64_t i, int count) {
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
__global__ void __launch_bounds__(block_threads)
    scale_kernel(const __grid_constant__ TensorTable<1> table, const double* factor) {
  const auto scale = static_cast<Compute<T>>(*factor);
  const TensorChunk chunk(table, update_elements);
  T* array = table.template at<T>(0, chunk.place) + chunk.begin;
  chunk.for_each_pack<T>(aligned_for_packs(array), [&](std::int64_t i, auto width) {
    auto pack = load_pack<T, width>(array + i);
    for (T& value : pack.values) value = narrow<T>(widen(value) * scale);
    store_pack(array + i, pack);
  });
}

std::int64_t total_chunks(Arrays arrays) {
  std::int64_t chunks = 0;
  for (const Array& array : arrays) chunks += chunk_count(array.size());
  return chunks;
}

}  // namespace
}  // namespace cuda

void sgd_update(const Context& context, Arrays parameters, Arrays momentum_buffers, Arrays gradients, const Array& skip,
                const Array& learning_rate, const Array& momentum, const SgdOptions& options) {
  const std::array<Arrays, cuda::sgd_lists> lists{parameters, momentum_buffers, gradients};
  cuda::for_each_table(lists, cuda::update_elements, [&](const auto& table, unsigned blocks, std::int64_t) {
    if (blocks == 0) return;
    cuda::for_floating(parameters[0].dtype, [&](auto type) {
      using T = decltype(type);
      LAUNCH((cuda::sgd_kernel<T>), context, {.blocks = blocks, .threads = cuda::block_threads}, table,
             skip.as<const bool>(), learning_rate.as<const double>(), momentum.as<const double>(), options.weight_decay,
             options.nesterov);
    });
  });
}

void adam_update(const Context& context, Arrays parameters, Arrays exp_avgs, Arrays exp_avg_sqs, Arrays steps,
                 Arrays gradients, const Array& skip, const Array& learning_rate, const Array& beta1,
                 const AdamOptions& options) {
  const std::array<Arrays, cuda::adam_lists> lists{parameters, exp_avgs, exp_avg_sqs, steps, gradients};
  cuda::for_each_table(lists, cuda::update_elements, [&](const auto& table, unsigned blocks, std::int64_t) {
    LAUNCH((cuda::advance_steps_kernel), context, {.blocks = 1, .threads = cuda::table_places}, table,
           skip.as<const bool>());
    if (blocks == 0) return;
    cuda::for_floating(parameters[0].dtype, [&](auto type) {
      using T = decltype(type);
      LAUNCH((cuda::adam_kernel<T>), context, {.blocks = blocks, .threads = cuda::block_threads}, table,
             skip.as<const bool>(), learning_rate.as<const double>(), beta1.as<const double>(), options);
    });
  });
}

Plan squared_norm_plan(const Context&, Arrays arrays) {
  return {.algorithm = "chunked",
          .workspace_bytes = cuda::total_chunks(arrays) * static_cast<std::int64_t>(sizeof(double))};
}

void squared_norm(const Context& context, const Array& out, Arrays arrays, const Array& workspace) {
  auto* sums = workspace.as<double>();
  const auto launch = [&](const auto& table, unsigned blocks, std::int64_t first_chunk) {
    if (blocks == 0) return;
    cuda::for_floating(arrays[0].dtype, [&](auto type) {
      using T = decltype(type);
      LAUNCH((cuda::squared_norm_kernel<T>), context, {.blocks = blocks, .threads = cuda::chunk_threads},
             sums + first_chunk, table);
    });
  };
  cuda::for_each_table(std::array{arrays}, cuda::chunk_elements, launch);
  cuda::join_chunks(context, out.as<double>(), sums, cuda::total_chunks(arrays), 1.0);
}

void scale_in_place(const Context& context, Arrays arrays, const Array& factor) {
  cuda::for_each_table(std::array{arrays}, cuda::update_elements,
                       [&](const auto& table, unsigned blocks, std::int64_t) {
                         if (blocks == 0) return;
                         cuda::for_floating(arrays[0].dtype, [&](auto type) {
                           using T = decltype(type);
                           LAUNCH((cuda::scale_kernel<T>), context, {.blocks = blocks, .threads = cuda::block_threads},
                                  table, factor.as<const double>());
                         });
                       });
}

}  // namespace imgrec
